"""Logits of which only the last position exists, and which say so when another one is read."""

from __future__ import annotations

import torch
from torch import Tensor

MESSAGE = (
    "the metric read {what}, but it is given each prompt's last position only: read logits[:, -1], "
    'or pass logits="all" to patch with the logits of every position (slower)'
)
NOT_TENSOR_VALUED = {"item", "tolist", "numpy", "__array__", "__iter__", "unbind"}
AXIS_SECOND = set(  # functions whose second argument is the axis, or axes, along which they work
    "mean sum prod std var max min amax amin argmax argmin median logsumexp softmax log_softmax cumsum cumprod sort argsort "
    "flip gather index_select select narrow".split()
)


class LastLogits(Tensor):
    """[batch, 1, d_vocab]: each prompt's last position. `logits[:, -1]` is an ordinary tensor [batch, d_vocab].

    Operations that keep the first two axes (log_softmax, argmax or gather on the last one, arithmetic) pass. One that reads
    another position, or joins positions, raises IndexError: with a single position its answer would be silently wrong.
    """

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", str(func))
        if name == "__getitem__":
            return _index(args[0], args[1] if isinstance(args[1], tuple) else (args[1],))
        if name in NOT_TENSOR_VALUED:
            raise IndexError(MESSAGE.format(what=f"every position ({name})"))
        if 1 in _axes(name, args, kwargs or {}):
            raise IndexError(MESSAGE.format(what=f"along the positions ({name})"))
        out = super().__torch_function__(func, types, args, kwargs or {})
        for part in out if isinstance(out, tuple) else (out,):
            if isinstance(part, LastLogits) and part.shape[1:2] != (1,):
                raise IndexError(MESSAGE.format(what=f"several positions ({name})"))
        return out


def _axes(name: str, args: tuple, kwargs: dict) -> list[int]:
    """The axes along which a function is asked to work, counted from the front."""
    asked = kwargs.get("dim", kwargs.get("axis", args[1] if name in AXIS_SECOND and len(args) > 1 else None))
    axes = asked if isinstance(asked, tuple | list) else (asked,)
    return [axis % args[0].ndim for axis in axes if isinstance(axis, int) and isinstance(args[0], LastLogits)]


def _index(logits: LastLogits, index: tuple):
    position = _position_item(index, logits.ndim)
    plain = logits.as_subclass(Tensor)
    if isinstance(position, slice):
        whole = position.start in (None, -1) and position.stop is None and isinstance(index[0], slice | type(Ellipsis))
        if not whole:
            raise IndexError(MESSAGE.format(what=f"the positions of logits[{_show(index)}]"))
        return plain[index].as_subclass(LastLogits)
    if position is None or not bool((torch.as_tensor(position) == -1).all()):
        raise IndexError(MESSAGE.format(what=f"the position of logits[{_show(index)}]"))
    return plain[index]


def _position_item(index: tuple, ndim: int):
    """The item of an index that addresses axis 1; slice(None) where none does."""
    named = [item for item in index if item is not None and item is not Ellipsis]
    axis = 0
    for item in index:
        if item is Ellipsis:
            axis += ndim - sum(map(_n_axes, named))
        elif item is not None:
            if axis == 1:
                return item
            axis += _n_axes(item)
    return slice(None)


def _n_axes(item) -> int:
    return item.ndim if isinstance(item, Tensor) and item.dtype == torch.bool else 1


def _show(index: tuple) -> str:
    def show(item) -> str:
        if isinstance(item, slice):
            return ":".join("" if bound is None else str(bound) for bound in (item.start, item.stop))
        return "..." if item is Ellipsis else "<tensor>" if isinstance(item, Tensor) else str(item)

    return ", ".join(show(item) for item in index)
