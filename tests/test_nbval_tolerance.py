"""What the notebooks' stored outputs are compared with, and what must not slip through."""

import base64
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nbval_tolerance import TolerantData, TolerantText, agree, sanitize, without_descriptions
from utils import plots


def array(values, dtype="<f8", shape=None):
    values = np.asarray(values, dtype=dtype)
    encoded = {"dtype": dtype.strip("<"), "bdata": base64.b64encode(values.tobytes()).decode()}
    return encoded if shape is None else {**encoded, "shape": shape}


def figure(values, *args):
    return TolerantData({"data": [{"z": array(values, *args)}], "name": "a"})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gap 3.4996", "gap 3.50042", True),
        ("gap 3.49", "gap 3.50", True),  # 3.49499 and 3.49501
        ("gap 3.49", "gap 3.51", False),
        ("gap 3.490", "gap 3.500", False),
        ("share 0.0288", "share 0.0306", False),
        ("share 0.0004", "share 0.0012", False),
        ("share 0.03058", "share 0.0306", True),  # the same with more digits
        ("share 0.5", "share 0.42", False),
        ("off by 1.2e-07", "off by 3e-08", True),
        ("off by 6e-05 at most", "off by 2e-05 at most", True),
        ("below 1e-3", "below 2e-3", False),
        ("1.25e-3", "1.27e-3", True),
        ("1.25e+3", "1.27e+3", False),
        ("0.1 0.2", "0.1", False),
        ("sign 0.5", "sign -0.5", False),
        ("zero -0.00", "zero 0.00", True),
        ("zero -0.00|", "zero  0.00|", True),  # aligned by a space where the sign was
        ("90.5%", "90.6%", True),
        ("[0.1,-0.2]", "[0.1,0.2]", False),
        ("tensor([1., 0.])", "tensor([2., 0.])", False),
        ("1 000 pairs", "1 001 pairs", False),
        ("999 of 1000", "1000 of 1000", False),
        ("tensor([[10537, 284]])", "tensor([[10540, 284]])", False),
        ("torch.Size([2, 3])", "torch.Size([3, 2])", False),
        ("rank 3", "rank 3.0", False),
        ("L9H6 is first", "L9H7 is first", False),
        ("smollm2-135m", "smollm2-136m", False),
        ("smollm2-1.7b", "smollm2-1.8b", False),
        ("v2.13.0", "v2.13.1", False),
        ("torch 2.13.0", "torch 2.13.1", False),
        ("torch 2.13.0", "torch 2.14.0", False),
        ("ids 1e5a", "ids 1e6a", False),
        ("nan", "0.0", False),
        ("Mary", "John", False),
    ],
)
def test_text(one, other, same):
    for a, b in ((one, other), (other, one)):
        assert (TolerantText(a) == TolerantText(b)) is same
        assert (TolerantText(a) != TolerantText(b)) is not same


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.floats(-1000, 1000), st.integers(1, 6), st.floats(-1e-6, 1e-6))
def test_the_same_value_printed_twice_agrees_wherever_it_is_rounded(value, digits, noise):
    assert agree(f"x = {value:.{digits}f}", f"x = {value + noise:.{digits}f}")


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_whole_numbers_are_exact_everywhere(one, other):
    assert agree(f"{one} heads", f"{other} heads") is (one == other)
    assert agree({"n": one}, {"n": other}) is (one == other)
    assert agree(array([one], "<i8"), array([other], "<i8")) is (one == other)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (figure([0.5, 0.25]), figure([0.5 + 1e-9, 0.25]), True),
        (figure([0.5, 0.25]), figure([0.51, 0.25]), False),
        (figure([0.0004]), figure([0.0012]), False),
        (figure([np.nan, 1.0]), figure([np.nan, 1.0]), True),
        (figure([np.nan, 1.0]), figure([0.0, 1.0]), False),
        (figure([1.0]), figure([1.0, 1.0]), False),
        (figure([1.0]), figure([1.0], "<f4"), False),
        (figure([1, 2], "<i4"), figure([1, 2], "<u4"), False),
        (figure([10000], "<i4"), figure([10001], "<i4"), False),
        (figure(np.arange(6.0), "<f8", "2, 3"), figure(np.arange(6.0), "<f8", "3, 2"), False),
        (figure(np.arange(6.0), "<f8", "2, 3"), figure(np.arange(6.0) + 1e-9, "<f8", "2, 3"), True),
        (figure([1.0]), TolerantData({**figure([1.0]), "name": "b"}), False),
        (TolerantData({"height": 0.5}), TolerantData({"height": 0.50001}), True),
        (TolerantData({"height": 400}), TolerantData({"height": 401}), False),
        (TolerantData({"shown": True}), TolerantData({"shown": 1}), False),
        (TolerantData({"dtype": "f8", "bdata": None}), TolerantData({"dtype": "f8", "bdata": None}), True),
    ],
)
def test_figures(one, other, same):
    assert (one == other) is same and (other == one) is same
    assert (one != other) is not same


class Plain:
    """As much of nbval's cell as `sanitize` reads: one without expressions to replace."""

    class parent:
        sanitize_patterns = types.MappingProxyType({})


def test_how_the_library_is_packed_and_a_figures_style_are_not_compared():
    view = '<b>t</b><script id="circuitsvis-library">{}</script><script>draw({})</script>'
    old, new, other = (
        sanitize(Plain(), view.format(*parts)) for parts in (("one", 0.25), ("two", 0.25), ("two", 0.75))
    )
    assert old == new and old != other
    styled = {"data": [1.5], "layout": {"title": "a", "template": {"data": 1}}}
    plain, renamed = {"data": [1.5], "layout": {"title": "a"}}, {"data": [1.5], "layout": {"title": "b"}}
    assert sanitize(Plain(), styled) == sanitize(Plain(), plain) != sanitize(Plain(), renamed)


def test_descriptions_of_figures_are_left_out_and_nothing_else():
    shown = plots.bar([1.0, 2.0], "Title", "x", "y").to_plotly_json()
    assert shown["layout"]["meta"]["alt"].startswith("Bar chart: Title.")
    before = {**shown, "layout": {key: part for key, part in shown["layout"].items() if key != "meta"}}
    assert without_descriptions(shown)["layout"] == before["layout"] == without_descriptions(before)["layout"]
    assert "title" in before["layout"] and without_descriptions({"meta": 1}) == {"meta": 1}
    view = str(plots.attention([[[1.0]]], ["a"], "Title"))
    assert 'aria-label="Attention patterns: Title.' in view and "aria-label" not in without_descriptions(view)
    assert view.replace(' role="group"', "").count("div") == without_descriptions(view).count("div")
