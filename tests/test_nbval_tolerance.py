"""What the notebooks' stored outputs are compared with, and what must not slip through."""

import base64

import numpy as np
import pytest

from tests.nbval_tolerance import TolerantData, TolerantText


def figure(values):
    array = np.asarray(values, dtype="<f8")
    return TolerantData(
        {"data": [{"z": {"dtype": "f8", "bdata": base64.b64encode(array.tobytes()).decode()}}], "name": "a"}
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gap 3.4996", "gap 3.50042", True),
        ("gap 3.49", "gap 3.50", False),
        ("L9H6 is first", "L9H7 is first", False),
        ("off by 1.2e-07", "off by 3e-08", True),
        ("0.1 0.2", "0.1", False),
        ("sign 0.5", "sign -0.5", False),
        ("Mary", "John", False),
    ],
)
def test_text(one, other, same):
    assert (TolerantText(one) == TolerantText(other)) is same
    assert (TolerantText(one) != TolerantText(other)) is not same


@pytest.mark.parametrize(("shift", "same"), [(1e-9, True), (1e-2, False)])
def test_plotly_arrays(shift, same):
    assert (figure([0.5, 0.25]) == figure([0.5 + shift, 0.25])) is same


def test_other_parts_of_a_figure_are_exact():
    assert figure([1.0]) != TolerantData({**figure([1.0]), "name": "b"})
    assert figure([1.0]) != figure([1.0, 1.0])
