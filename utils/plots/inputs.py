"""What a figure is given, made fit to draw: numbers as numpy arrays, labels as plain text, and counts that must match."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence, Sized
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor

Numbers = ArrayLike | Sequence[Any]  # a tensor, an array, or nested lists of numbers
NOT_FINITE = "lightgray"  # the color of what a figure cannot show


def as_array(values: Any, digits: int = 5) -> np.ndarray:
    """Tensors of any dtype and device, arrays, nested lists: a numpy array of integers or of float64.

    Fractions are rounded to what a reader can see, so that saved notebooks are small and do not change in the last bit.
    What is masked or missing (None, pandas' NA) becomes NaN, and booleans become 0 and 1.
    """
    if isinstance(values, (list, tuple)):
        values = _from_list(values)
    elif isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.double() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16
    elif isinstance(values, np.ma.MaskedArray):
        values = values.astype(float).filled(np.nan)
    values = np.asarray(values)
    if values.dtype == object:
        values = np.where(pd.isna(values), np.nan, values).astype(float)
    if values.dtype == bool:
        return values.astype(int)
    if np.issubdtype(values.dtype, np.floating):
        return np.asarray(values.astype(float).round(digits) + 0.0)  # + 0.0: no negative zeros
    return values


def _from_list(values: Sequence[Any]) -> np.ndarray:
    """Element by element, because numpy refuses lists that hold bfloat16 tensors or tensors with gradients."""
    parts = [as_array(v) if isinstance(v, (list, tuple, Tensor, np.ma.MaskedArray)) else v for v in values]
    shapes = list(dict.fromkeys(np.shape(part) for part in parts))
    if len(shapes) > 1:
        raise ValueError(f"the rows have different shapes, {shapes[0]} and {shapes[1]}; give rows of one length")
    return np.asarray(parts)


def table(values: Any, what: str, n_axes: int) -> np.ndarray:
    """An array that has this number of axes, and at least one cell. Raises ValueError."""
    values = as_array(values)
    if values.ndim != n_axes or not values.size:
        raise ValueError(f"{what} has shape {values.shape}; a figure needs {n_axes} axes, none of them empty")
    return values


def as_text(label: Any) -> str:
    """A label that plotly shows as it is. plotly would read `<b>`, `&lt;`, `$x$` and `%{x}` in it as formatting."""
    return html.escape(str(label), quote=False).replace("$", "&#36;").replace("%{", "&#37;{")


def ticks(texts: list[str]) -> dict[str, Any]:
    """Options of an axis with these texts at 0, 1, 2, …"""
    return {"tickmode": "array", "tickvals": list(range(len(texts))), "ticktext": texts}


def require_count(what: str, things: Sized, count: int, counted: str) -> None:
    """Raise ValueError when there are not as many `things` as what they belong to."""
    if len(things) != count:
        raise ValueError(f"{len(things)} {what} for {count} {counted}; give one for each")


def require_known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError for a name of something that is not drawn."""
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{what} is {unknown[0]!r}; choose from: {', '.join(map(str, known))}")


def color_limit(values: np.ndarray) -> float:
    """The largest size of any finite value: where the colors end. 1 if there is none, or nothing but zeros."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0)) or 1.0


def along_axis(labels: Numbers | None, count: int, counted: str) -> tuple[list, list[str] | None]:
    """Where `count` items stand on an axis, and what the ticks say.

    Labels that are numbers, all different, stand at their value. Other labels may repeat (two tokens " the"): they stand
    side by side, because plotly puts items with the same label in the same place.
    """
    if labels is None:
        return list(range(count)), None
    labels = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    require_count("labels", labels, count, counted)
    are_numbers = all(isinstance(v, Real) and not isinstance(v, bool) and math.isfinite(v) for v in labels)
    if are_numbers and len(set(labels)) == len(labels):
        return labels, None
    return list(range(count)), [as_text(label) for label in labels]
