"""What goes wrong in a mean over unfavorable traits minus a mean over favorable ones: for the checks of chapters 07, 08."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def set_differences(read: Callable[[Tensor], Tensor], u: Tensor, f: Tensor, axis: int = -1) -> dict[str, Tensor]:
    """mistake → what it gives. read(ids) has one entry per trait along `axis`; u, f: the ids of both sets."""
    at_u, at_f = read(u), read(f)
    return {
        "sums over the sets: they differ in size, so take a mean over each": at_u.sum(axis) - at_f.sum(axis),
        "the unfavorable set is summed: take the mean of each set": at_u.sum(axis) - at_f.mean(axis),
        "the favorable set is summed: take the mean of each set": at_u.mean(axis) - at_f.sum(axis),
        "divided by the size of both sets together: each set has its own mean": (at_u.sum(axis) - at_f.sum(axis))
        / (len(u) + len(f)),
        "the two sets are added: unfavorable minus favorable": at_u.mean(axis) + at_f.mean(axis),
        "the sign: unfavorable minus favorable": at_f.mean(axis) - at_u.mean(axis),
        "the unfavorable traits alone: subtract the favorable ones": at_u.mean(axis),
        "the favorable traits alone: subtract them from the unfavorable ones": at_f.mean(axis),
        "the unfavorable set is averaged over everything: only over its traits": at_u.mean() - at_f.mean(axis),
        "the favorable set is averaged over everything: only over its traits": at_u.mean(axis) - at_f.mean(),
    }
