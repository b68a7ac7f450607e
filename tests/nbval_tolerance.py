"""A pytest plugin: nbval compares numbers in outputs within a tolerance, and everything else exactly.

Loaded by `addopts` in pyproject.toml. It also sets what kernels need in order to give the recorded outputs: the embedded
model, no hub, strict references. Progress bars are left out, as they are from what is recorded.
"""

from __future__ import annotations

import base64
import math
import os
import re
from typing import Any

import nbval.plugin
import numpy as np

from utils.models import DEFAULT_EMBEDDED
from utils.notebooks import is_progress_bar

RELATIVE = ABSOLUTE = 2e-3
NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:e[-+]?\d+)?", re.IGNORECASE)

os.environ.update(COURSE_MODEL=DEFAULT_EMBEDDED, HF_HUB_OFFLINE="1", COURSE_STRICT="1")


def agree(one: Any, other: Any) -> bool:
    """Equal, but for numbers (also inside strings and plotly's base64 arrays) that are within the tolerance."""
    one, other = _decoded(one), _decoded(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(agree(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(agree, one, other))
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and np.allclose(one, other, RELATIVE, ABSOLUTE, equal_nan=True)
    if isinstance(one, str) and isinstance(other, str):
        return str.__eq__(one, other) or _texts_agree(one, other)
    if isinstance(one, float) or isinstance(other, float):
        return isinstance(one, (int, float)) and isinstance(other, (int, float)) and _close(one, other)
    return one == other


def _decoded(value: Any) -> Any:
    """A plotly array `{"dtype": …, "bdata": …}` as numpy's; anything else as it is."""
    if isinstance(value, dict) and {"dtype", "bdata"} <= value.keys():
        return np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
    return value


def _texts_agree(one: str, other: str) -> bool:
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    numbers = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(_close(float(a), float(b)) for a, b in numbers)


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


_compare_outputs = nbval.plugin.IPyNbCell.compare_outputs


def compare_outputs(self: nbval.plugin.IPyNbCell, test: list, ref: list, skip_compare: Any = None) -> bool:
    test, ref = ([output for output in outputs if not is_progress_bar(output)] for outputs in (test, ref))
    return _compare_outputs(self, test, ref, skip_compare)


nbval.plugin.IPyNbCell.compare_outputs = compare_outputs
_sanitize = nbval.plugin.IPyNbCell.sanitize


def sanitize(self: nbval.plugin.IPyNbCell, value: Any) -> Any:
    value = _sanitize(self, value)
    return TolerantText(value) if isinstance(value, str) else TolerantData(value) if isinstance(value, dict) else value


nbval.plugin.IPyNbCell.sanitize = sanitize
