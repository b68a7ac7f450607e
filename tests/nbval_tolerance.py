"""A pytest plugin: nbval compares measurements in outputs within a tolerance, and everything else exactly.

A measurement is a number that is printed with digits after the point or with an exponent, a float in JSON, or a cell of an
array of floats. Whole numbers (token ids, counts, shapes), names and versions with digits in them (L23H3, smollm2-1.7b,
5.23.0) and the types of arrays are exact.

Descriptions of figures for screen readers are left out: they follow from the figure, and round its numbers.

Loaded by `addopts` in pyproject.toml. It also sets what kernels need in order to give the recorded outputs: the embedded
model, no hub, strict references, no line in a learner's own record. Progress bars are left out, as they are from what is
recorded.
"""

from __future__ import annotations

import base64
import math
import os
import re
from decimal import Decimal
from typing import Any

import nbval.plugin
import numpy as np

from utils.course.outputs import without_progress_bars
from utils.loading import DEFAULT_EMBEDDED

DESCRIPTION = re.compile(r' role="group" aria-label="[^"]*"')  # of an attention view
RELATIVE = 2e-3
ABSOLUTE = 1e-4  # what float error comes to on this model between threads, versions and machines: 6e-05 against 2e-05
NUMBER = re.compile(
    r"""
    [A-Za-z_]\w*(?:[-.]\w+)*      # a name, with its digits: L9H6, gpt2-small, smollm2-1.7b, v5.23.0
    | [ ]*(?<![\w.])(?P<value>[-+]?(?:\d*\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+))(?!\w|\.\d)
    """,
    re.VERBOSE | re.IGNORECASE,
)

os.environ.update(COURSE_MODEL=DEFAULT_EMBEDDED, HF_HUB_OFFLINE="1", COURSE_STRICT="1", COURSE_PROGRESS="0")
if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, on one thread each: two threads each would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def agree(one: Any, other: Any) -> bool:
    """Equal, but for measurements (also inside strings and plotly's base64 arrays) that are within the tolerance."""
    one, other = _decoded(one), _decoded(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(agree(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(agree, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return _arrays_agree(one, other)
    if isinstance(one, str) and isinstance(other, str):
        return str.__eq__(one, other) or _texts_agree(one, other)
    if isinstance(one, float) and isinstance(other, float):
        return _close(one, other)
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _decoded(value: Any) -> Any:
    """plotly's `{"dtype": …, "bdata": …, "shape": …}` with its data as numpy's array; anything else as it is."""
    if isinstance(value, dict) and {"dtype", "bdata"} <= value.keys() and isinstance(value["bdata"], str):
        data = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
        return {key: data if key == "bdata" else part for key, part in value.items()}
    return value


def _arrays_agree(one: np.ndarray, other: np.ndarray) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    return np.allclose(one, other, RELATIVE, ABSOLUTE, equal_nan=True)


def _texts_agree(one: str, other: str) -> bool:
    """The same text around the same number of measurements, each close to its counterpart."""
    (text, values), (other_text, other_values) = _split(one), _split(other)
    return text == other_text and all(map(_prints_agree, values, other_values))


def _split(text: str) -> tuple[str, list[str]]:
    """The text with a mark in place of each measurement (and of the spaces that align it), and the measurements."""
    values = [found["value"] for found in NUMBER.finditer(text) if found["value"]]
    return NUMBER.sub(lambda found: "\0" if found["value"] else found[0], text), values


def _prints_agree(one: str, other: str) -> bool:
    """Two printed numbers that may stem from nearly the same value. Each is rounded by up to half a unit of its last
    digit, so they may be one unit apart: 3.49 and 3.50."""
    a, b = Decimal(one), Decimal(other)
    unit = min(_unit(one), _unit(other))
    return abs(a - b) <= max(unit, Decimal(str(ABSOLUTE))) + Decimal(str(RELATIVE)) * max(abs(a), abs(b))


def _unit(printed: str) -> Decimal:
    """One unit in the last digit after the point; 0 for a number without a point (1e-3), which may be typed as it is."""
    return Decimal(1).scaleb(int(Decimal(printed).as_tuple().exponent)) if "." in printed else Decimal(0)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE) or (math.isnan(one) and math.isnan(other))


class TolerantText(str):
    """Text that equals text with nearly the same numbers."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return agree(str(self), str(other))

    def __ne__(self, other: object) -> bool:
        return not self == other


class TolerantData(dict):
    """A JSON bundle (a plotly figure) that equals one with nearly the same numbers."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        return agree(dict(self), dict(other))

    def __ne__(self, other: object) -> bool:
        return not self == other


# circuitsvis' JavaScript in the output of an attention view: other bytes from another zlib, and not a measurement.
LIBRARY = re.compile(r'(<script id="circuitsvis-library">).*?(?=</script>)', re.DOTALL)


def without_style(figure: dict[str, Any]) -> dict[str, Any]:
    """A plotly figure without its template: colors and fonts, which say nothing about what was measured."""
    layout = figure.get("layout")
    if not isinstance(layout, dict):
        return figure
    return {**figure, "layout": {name: part for name, part in layout.items() if name != "template"}}


_compare_outputs = nbval.plugin.IPyNbCell.compare_outputs


def compare_outputs(self: nbval.plugin.IPyNbCell, test: list, ref: list, skip_compare: Any = None) -> bool:
    return _compare_outputs(self, without_progress_bars(test), without_progress_bars(ref), skip_compare)


nbval.plugin.IPyNbCell.compare_outputs = compare_outputs


def without_descriptions(value: Any) -> Any:
    """The HTML of an attention view, or a plotly figure, without what a screen reader reads out in its place."""
    if isinstance(value, str):
        return DESCRIPTION.sub("", value)
    if isinstance(value, dict) and isinstance(value.get("layout"), dict):
        return {**value, "layout": {key: part for key, part in value["layout"].items() if key != "meta"}}
    return value


_sanitize = nbval.plugin.IPyNbCell.sanitize


def sanitize(self: nbval.plugin.IPyNbCell, value: Any) -> Any:
    value = without_descriptions(_sanitize(self, value))
    if isinstance(value, str):
        return TolerantText(LIBRARY.sub(r"\1", value))
    return TolerantData(without_style(value)) if isinstance(value, dict) else value


nbval.plugin.IPyNbCell.sanitize = sanitize
