"""Every drawing is one SVG with words for those who do not see it, and nothing in it falls off its edge."""

import re
from html import escape

import pytest

from utils import plots

NAMES = [name for name in plots.__all__ if name.endswith("_drawing")]


def test_there_are_drawings_of_the_model_and_of_the_experiments():
    assert {"residual_stream_drawing", "head_drawing", "hooks_drawing", "patching_drawing", "gates_drawing"} < set(
        NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_says_what_it_shows(name):
    drawing = getattr(plots, name)()
    svg = drawing._repr_svg_()
    assert svg.startswith("<svg") and svg.endswith("</svg>") and 'role="img"' in svg
    assert f"<title>{escape(drawing.alt)}</title>" in svg and len(drawing.alt.split()) > 40


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_inside_the_drawing(name):
    drawing = getattr(plots, name)()
    for points in re.findall(r'points="([^"]+)"', drawing.body):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= drawing.width and 0 <= y <= drawing.height
    for x, y, size, anchor, words in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" font-size="(\d+)" text-anchor="(\w+)"[^>]*>([^<]*)<', drawing.body
    ):
        width = 0.5 * int(size) * len(words)  # letters of this typeface are narrower on average
        left = float(x) - {"start": 0, "middle": width / 2, "end": width}[anchor]
        assert left >= -1 and left + width <= drawing.width + 1 and 0 < float(y) < drawing.height, words
