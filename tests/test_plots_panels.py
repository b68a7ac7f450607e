"""Panels of a wrapped heatmap carry their own names."""

import numpy as np

from utils import plots


def test_every_panel_has_its_own_title_in_every_row():
    names = [f"panel {i}" for i in range(7)]
    figure = plots.imshow(np.stack([np.full((2, 2), float(i)) for i in range(7)]), "t", "x", "y", panels=names)
    for i, trace in enumerate(figure.data):
        assert np.unique(np.asarray(trace.z)).tolist() == [float(i)]
        axis = figure.layout[trace.xaxis.replace("x", "xaxis")]
        above = figure.layout[trace.yaxis.replace("y", "yaxis")].domain[1]
        title = next(
            a.text
            for a in figure.layout.annotations
            if axis.domain[0] < a.x < axis.domain[1] and abs(a.y - above) < 0.05
        )
        assert title == names[i]
