"""What a sweep is asked for: its options, checked when they are given, and its metrics, checked when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from utils.patching.last_logits import LastLogits

Metric = Callable[[Float[Tensor, "batch pos d_vocab"]], Tensor]

DEFAULT_MEMORY = 2**27  # bytes: with the model and two small caches, a sweep fits into the 2 GB of Binder
CHOICES = {"logits": ("last", "all"), "reduce": ("scalar", "mean", "none")}


@dataclass(frozen=True, eq=False)
class SweepOptions:
    """The options of every sweep, all of them keywords. Those with a star are TransformerLens' own.

    reduce *: "scalar", for a metric that returns a 0-d tensor; "mean", for one that returns [batch], which is averaged; or
        "none", for one that returns [batch], in a PatchingResult.
    baseline *: return a PatchingResult that holds the unpatched metric too.
    index_df *: a DataFrame of the cells to run, one column for each axis of the sweep, with index_axis_names=None or
        without. The result has one element for each row. For sweeps of one activation.
    return_index_df *: return the DataFrame of the cells beside the tensor.
    positions: sweep these positions only, and return one column for each (sweeps by position).
    attention_mask: [batch, pos], 1 at real tokens; needed as soon as prompts are padded, on either side. Padding is never
        patched.
    logits: "last", where the metric gets [batch, 1, d_vocab], each prompt's true last position, to be read as
        `logits[:, -1]`; or "all", where it gets [batch, pos, d_vocab].
    max_batch: at most this many patched copies of a prompt at a time; by default, as many as fit in `max_memory` bytes of
        working memory, not counting weights, the clean cache and the corrupted run.
    progress: show a bar.
    """

    reduce: str = "scalar"
    baseline: bool = False
    index_df: pd.DataFrame | None = None
    index_axis_names: Sequence[str] | None = None
    return_index_df: bool = False
    positions: Sequence[int] | None = None
    attention_mask: Int[Tensor, "batch pos"] | None = None
    logits: str = "last"
    max_batch: int | None = None
    max_memory: float = DEFAULT_MEMORY
    progress: bool = True

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not one of {allowed}")
        if self.max_batch is not None and self.max_batch < 1:
            raise ValueError(f"max_batch={self.max_batch} leaves no patched copy to run; give 1 or more, or None")
        if self.index_axis_names is not None:
            raise ValueError(
                f"index_axis_names={self.index_axis_names!r}: a sweep by name has its own axes; leave it out, or use "
                "transformer_lens.patching.generic_activation_patch"
            )
        if self.index_df is not None and self.positions is not None:
            raise ValueError("give index_df or positions, not both: index_df says which positions already")

    @property
    def last_only(self) -> bool:
        return self.logits == "last"

    @property
    def per_prompt(self) -> bool:
        return self.reduce != "scalar"


@dataclass(frozen=True, eq=False)
class TokenMetric:
    """A metric that reads the logits of a few tokens only, and says which, so that a sweep computes no others.

    metric: logits to a tensor, like any other. tokens: the ids that it reads, [token]. Where it gets the logits of these
    tokens alone, the others are nan, so that a metric which reads more than it says cannot pass unnoticed.
    """

    metric: Metric
    tokens: Int[Tensor, " token"]

    def __call__(self, logits: Tensor) -> Tensor:
        return self.metric(logits)


def sweep_options(given: Mapping[str, Any]) -> SweepOptions:
    """The options as one object. Raises TypeError for a name that is no option, with the names that are."""
    require_options(SweepOptions, given, "sweep")
    return SweepOptions(**given)


def require_options(kind: type, given: Mapping[str, Any], of: str) -> None:
    """Raises TypeError for a name that is no option of this kind, with the names that are."""
    names = [option.name for option in fields(kind)]
    for name in given:
        if name not in names:
            raise TypeError(f"{name!r} is not an option of a {of}; the options are {', '.join(names)}")


class Metrics:
    """One metric, or several by name, as one function of logits. Their values stand on a first axis, `metric`."""

    def __init__(self, metric: Metric | Mapping[str, Metric], options: SweepOptions) -> None:
        self.several = isinstance(metric, Mapping)
        self.by_name = dict(metric) if self.several else {"metric": metric}
        if not self.by_name:
            raise ValueError("the mapping of metrics is empty; give at least one metric by its name")
        self.options = options

    @property
    def tokens(self) -> Int[Tensor, " token"] | None:
        """The ids of the tokens whose logits are read, each once; None: all of them, or at every position."""
        known = [metric.tokens for metric in self.by_name.values() if isinstance(metric, TokenMetric)]
        return torch.cat(known).unique() if self.options.last_only and len(known) == len(self.by_name) else None

    @property
    def names(self) -> list[str]:
        return list(self.by_name)

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Tensor:
        """[metric], or [metric, batch] where the metrics return one value per prompt."""
        if self.options.last_only:
            logits = logits.as_subclass(LastLogits)
        return torch.stack([self._value(name, metric, logits) for name, metric in self.by_name.items()])

    def _value(self, name: str, metric: Metric, logits: Tensor) -> Tensor:
        said = f"the metric {name!r}" if self.several else "the metric"
        value, reduce = metric(logits), self.options.reduce
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{said} returned {value!r} ({type(value).__name__}); return a tensor: drop .item() or float()"
            )
        if not self.options.per_prompt and value.ndim != 0:
            raise ValueError(
                f"{said} returned shape {tuple(value.shape)}, and reduce='scalar' needs a 0-d tensor: take the mean, "
                'or pass reduce="none" for one value per prompt'
            )
        if self.options.per_prompt and tuple(value.shape) != (len(logits),):
            raise ValueError(
                f"{said} returned shape {tuple(value.shape)}, and reduce={reduce!r} needs one value per prompt: "
                f"({len(logits)},)"
            )
        return value.as_subclass(Tensor)
