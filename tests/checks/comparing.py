"""Comparing what a learner's function returns with what it should be, and naming the mistake that explains the difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.checks.core import CheckFailed

APPROXIMATE = 1e-4
FLOATS = (torch.float32, torch.float64)
Mistakes = Mapping[str, Callable[[], Any]]  # what a learner reads → what that mistake would give
BROKEN: dict[str, str] = {}  # named mistakes that could not be computed: the tests look whether there are any
FOLLOWED: dict[str, list[bool]] = {}  # see `followed`
COMPUTING: list[dict[str, bool]] = []  # see `all_mistakes`


def once(mistakes: Mistakes) -> dict[str, Callable[[], Any]]:
    """Named mistakes that depend on the fixtures alone: each is computed when it is first asked for, and kept.

    A function that returns them is itself under `functools.cache`, on the model's object: `tests.checks.side_effects`
    replaces a model that was spoilt by a new one, and what was computed with the old one is then asked for no more.
    """
    return {message: cache(compute) for message, compute in mistakes.items()}


def together(cases: Sequence[tuple[Tensor, Mistakes]]) -> tuple[Tensor, Mistakes]:
    """Several numbers beside one another, so that one mistake has to explain them all. Where a case does not know a mistake,
    it does no harm there."""

    def of_all(message: str) -> Tensor:
        return torch.stack([mistakes[message]() if message in mistakes else want for want, mistakes in cases])

    messages = dict.fromkeys(message for _, mistakes in cases for message in mistakes)
    return torch.stack([want for want, _ in cases]), once({message: partial(of_all, message) for message in messages})


@contextmanager
def all_mistakes() -> Iterator[dict[str, bool]]:
    """For tests: every comparison computes all the mistakes that it could name, so that those in `once` are there already.

    Yields message → whether the mistake gives a wrong result on any input: if it does on none, the check lets it pass.
    """
    COMPUTING.append({})
    try:
        yield COMPUTING[-1]
    finally:
        COMPUTING.pop()


@contextmanager
def followed(message: str) -> Iterator[list[bool]]:
    """For tests: the check goes on where it would name this mistake, and says of every input whether the mistake explains
    the result there. A named mistake is true only if it does on all of them."""
    FOLLOWED[message] = []
    try:
        yield FOLLOWED[message]
    finally:
        del FOLLOWED[message]


def require_equal(
    got: Any,
    want: Tensor | float,
    what: str,
    axes: str = "",
    mistakes: Mistakes | None = None,
    atol: float = APPROXIMATE,
    is_tensor: bool = False,
) -> str:
    """'exact' or 'to within 0.0001', in words that are the same on every machine; CheckFailed if `got` is not `want`.

    got: a tensor, an array, a number, or lists of them. what: what it should equal, in words. axes: names of the axes
    ("layer head"), used to say where the first difference is. mistakes: message → a function that computes what that
    mistake would give; the first that equals `got` is named. A mistake that happens to give the right answer on these
    inputs is never reported. is_tensor: the exercise asks for a tensor, and a plain number is refused.
    """
    want = torch.as_tensor(want)
    if is_tensor and isinstance(got, (int, float, np.ndarray, np.generic)):
        raise CheckFailed(
            f"your result with {what}: it is a {type(got).__name__}, not a tensor",
            "keep it a tensor: no .item(), no float(), no .numpy()",
        )
    names, mistakes = axes.split(), mistakes or {}
    got = as_tensor(got, want, what, names)
    for caught in COMPUTING:
        for message, compute in mistakes.items():
            caught[message] = caught.get(message, False) or not _same(_computed(message, compute), want, atol)
    for message in FOLLOWED.keys() & mistakes.keys():
        FOLLOWED[message].append(bool(_named_mistake(got, {message: mistakes[message]}, atol)))
        return "followed"
    _require_kind(got, want, what, names, mistakes)
    if got.dtype.is_floating_point and torch.isfinite(want).all() and not torch.isfinite(got).all():
        raise CheckFailed(
            f"your result with {what}: {_first(~torch.isfinite(got), names)} is nan or infinite",
            _named_mistake(got, mistakes, atol) or "a division by zero, or a softmax over nothing but -inf",
        )
    difference = (got.double() - want.double()).abs().nan_to_num(0.0)
    difference[torch.isnan(got.double()) != torch.isnan(want.double())] = torch.inf
    largest = difference.max().item() if difference.numel() else 0.0
    if largest <= atol:
        return f"to within {atol:g}" if want.dtype.is_floating_point and atol else "exact"
    wrong = difference > atol
    where = _first(wrong, names)
    raise CheckFailed(
        f"your result with {what}: off by {largest:.3g}"
        + (f"; {int(wrong.sum())} of {wrong.numel()} values differ, first at {where}" if want.ndim else ""),
        _named_mistake(got, mistakes, atol) or _generic_mistake(got, want, atol),
    )


def as_tensor(got: Any, want: Tensor, what: str, names: list[str]) -> Tensor:
    """The result as a tensor beside `want`. Numbers, arrays and lists of equal length are as good as a tensor."""
    if isinstance(got, Tensor):
        return got.detach().to(want.device)
    if got is None:
        raise CheckFailed(f"your result with {what}: it is None", "the function does not return anything")
    try:
        found = torch.as_tensor(np.array(_plain(got)))
    except (TypeError, ValueError, RuntimeError):
        shape = f"[{', '.join(names)}] = {list(want.shape)}" if want.ndim else "a single number"
        raise CheckFailed(
            f"your result with {what}: a {type(got).__name__} that is not a table of numbers",
            f"return one tensor, {shape}",
        ) from None
    if want.dtype.is_floating_point and not found.dtype.is_floating_point and found.dtype != torch.bool:
        found = found.to(want.dtype)  # a whole number among Python's numbers is as good as a fraction
    return found.to(want.device)


def _plain(value: Any) -> Any:
    """Tensors inside lists and tuples as numpy arrays."""
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _require_kind(got: Tensor, want: Tensor, what: str, names: list[str], mistakes: Mistakes) -> None:
    """Shape and dtype, each with its own message."""
    if got.shape != want.shape:
        shape = f"[{', '.join(names)}] = {list(want.shape)}" if want.ndim else "a single number, []"
        likely = _named_mistake(got, mistakes, APPROXIMATE) or _shape_mistake(got, want, names)
        raise CheckFailed(f"your result with {what}: shape {list(got.shape)}, expected {shape}", likely)
    if want.dtype.is_floating_point:
        allowed, likely = FLOATS, "values are floats of 32 or 64 bits: is something rounded, counted, or a mask?"
    elif want.dtype == torch.bool:
        allowed, likely = (torch.bool,), "0 and 1 as an index mean rows 0 and 1: a mask is True and False"
    else:
        allowed, likely = (
            (torch.int64,),
            "token ids and positions are whole numbers of 64 bits: not every version of torch takes others as an index",
        )
    if got.dtype not in allowed:
        raise CheckFailed(f"your result with {what}: dtype {got.dtype}, expected {want.dtype}", likely)


def _shape_mistake(got: Tensor, want: Tensor, names: list[str]) -> str:
    if got.ndim == want.ndim and sorted(got.shape) == sorted(want.shape):
        return f"the axes are in another order; the docstring asks for [{', '.join(names)}]"
    if got.ndim == want.ndim + 1:
        return "one axis too many: something is not averaged, summed or indexed yet"
    if got.ndim == want.ndim - 1:
        return "one axis too few: something is averaged or summed that should be kept"
    return "print the shape after every line, and write it at the end of the line as a comment"


def _named_mistake(got: Tensor, mistakes: Mistakes, atol: float) -> str:
    for message, compute in mistakes.items():
        if _same(_computed(message, compute), got, atol):
            return message
    return ""


def _same(one: Tensor | None, other: Tensor, atol: float) -> bool:
    if one is None or one.shape != other.shape:
        return False
    return torch.allclose(one.double(), other.double(), atol=atol, rtol=0, equal_nan=True)


def _computed(message: str, compute: Callable[[], Any]) -> Tensor | None:
    try:
        return torch.as_tensor(compute())
    except Exception as error:  # a mistake of ours is nothing that a learner should read
        BROKEN[message] = repr(error)
        return None


def _generic_mistake(got: Tensor, want: Tensor, atol: float) -> str:
    """What explains the difference on any exercise: a sign, a factor, a constant, exchanged or turned axes."""
    got, want = got.double(), want.double()

    def same(other: Tensor) -> bool:
        return other.shape == got.shape and torch.allclose(got, other, atol=atol, rtol=0)

    if not got.any():
        return "every value is zero: is anything written into the result?"
    if same(-want):
        return "the sign is the other way round"
    if same(want.abs()):
        return "the signs are lost: an absolute value is taken where the sign matters"
    if want.ndim and want.numel() > 1:
        if got.ndim == 2 and got.shape[0] == got.shape[1] and same(want.T):
            return "the two axes are swapped"
        for axis in range(want.ndim):
            if same(want.flip(axis)):
                return f"the order along axis {axis} is turned round"
            if same(want.roll(1, axis)) or same(want.roll(-1, axis)):
                return f"everything stands one place off along axis {axis}"
        offset = got - want
        if torch.allclose(offset, offset.flatten()[0].expand_as(offset), atol=atol):
            return f"every value is off by the same {offset.flatten()[0]:.3g}: something is added, or not subtracted"
    ratio = (got / want)[want.abs() > atol]
    same_ratio = ratio.numel() and torch.allclose(ratio, ratio[0].expand_as(ratio), rtol=1e-3, atol=1e-3)
    if same_ratio and same(want * ratio[0]) and (want.numel() > 1 or _is_count(ratio[0].item())):
        return f"every value is {ratio[0]:.3g} times what it should be: is a mean a sum, or is something divided twice?"
    if want.ndim and got.numel() > 1 and torch.allclose(got, got.flatten()[0].expand_as(got), atol=atol):
        return "every value is the same: does the result depend on what you loop over?"
    same_values = (got - want).abs() <= atol
    if want.ndim and same_values.double().mean() >= 0.25:
        return f"{int(same_values.sum())} of {want.numel()} values are right: look at what sets the others apart"
    return ""


def _is_count(ratio: float) -> bool:
    """Whether a single number may be off by a number of prompts: any two numbers have some ratio."""
    factor = max(abs(ratio), 1 / max(abs(ratio), 1e-9))
    return 1.5 < factor < 1000 and abs(factor - round(factor)) < 1e-3 * factor


def _first(where: Tensor, names: list[str]) -> str:
    """Where the first True is, by name: L1H2, layer 1, position 3."""
    if where.ndim == 0:
        return "the value"
    labels = names if len(names) == where.ndim else [f"axis {i}" for i in range(where.ndim)]
    index = dict(zip(labels, where.nonzero()[0].tolist(), strict=True))
    if {"layer", "head"} <= index.keys():
        index = {f"L{index['layer']}H{index['head']}": None, **index}
        del index["layer"], index["head"]
    return ", ".join(name if i is None else f"{name} {i}" for name, i in index.items())
