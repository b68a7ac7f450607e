"""One sweep of one activation: which cells can change the logits, how many run at a time, and the metric of each.

What all cells share is found once: where clean and corrupted activations differ, the first such position of every prompt,
and the unpatched metric, which is the value of every cell that cannot change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache

from utils.patching.options import Metrics, SweepOptions
from utils.patching.resumable import CorruptedRun, Group
from utils.patching.sites import Cell, Patch

Cells = dict[int | None, list[Cell]]  # by position; None: patched at every position at once


class Sweep:
    """A patch, the corrupted run that it is put into, and what becomes of the logits of every cell."""

    def __init__(
        self, run: CorruptedRun, site: str, clean_cache: ActivationCache, metrics: Metrics, options: SweepOptions
    ) -> None:
        self.run, self.metrics, self.options = run, metrics, options
        self.patch = Patch(run, site, clean_cache)
        final = run.resid_pre[-1]
        ends = final[run.rows, run.last].unsqueeze(1) if options.last_only else final
        self.unpatched_logits = logits_for(run, ends, metrics.tokens)
        self.unpatched = metrics(self.unpatched_logits)  # [metric] or [metric, batch]

    def all_cells(self, positions: list[int] | None) -> Cells:
        """Every layer and every head, at each of these positions, or at every position at once (None)."""
        cells = [(layer, head) for layer in range(self.run.n_layers) for head in range(self.patch.n_heads)]
        return {None: cells} if positions is None else dict.fromkeys(positions, cells)

    def values(self, cells: Cells) -> Tensor:
        """The metrics in these cells, [layer, pos, head, metric] and [batch] if per prompt; elsewhere, the unpatched ones.

        pos has one place where all positions are patched at once, and head where heads are not swept.
        """
        shape = (self.run.n_layers, 1 if None in cells else self.run.real.shape[1], self.patch.n_heads)
        values = self.unpatched.expand(*shape, *self.unpatched.shape).clone()
        total = sum(map(len, cells.values()))
        with tqdm(total=total, desc=self.patch.site, leave=False, disable=not self.options.progress) as bar:
            for pos, asked in cells.items():
                groups = self._groups(pos)
                changing = [cell for cell in asked if groups and self.patch.can_change(cell[0], pos)]
                bar.update(len(asked) - len(changing))
                size = max(1, self._rows_at_a_time() // max(1, sum(len(group.prompts) for group in groups)))
                for some in (changing[i : i + size] for i in range(0, len(changing), size)):
                    for (layer, head), logits in zip(some, self._logits(some, pos, groups), strict=True):
                        values[layer, pos or 0, head] = self.metrics(logits)
                    bar.update(len(some))
        return values

    def _groups(self, pos: int | None) -> list[Group]:
        """The prompts that a patch at `pos`, or at every position (None), can change: those that start together, together."""
        first, n_pos = self.patch.first, self.run.real.shape[1]
        if pos is None:
            starts = [start for start in first.unique().tolist() if start < n_pos]
            return [Group(_where(first == start), start) for start in starts]
        affected = _where((first <= pos) & (pos <= self.run.last) & self.run.real[:, pos])
        return [Group(affected, pos)] if len(affected) else []

    def _rows_at_a_time(self) -> int:
        """How many patched copies of one prompt fit into the memory that the sweep may take."""
        each = bytes_per_row(self.run, self.options, tokens=self.metrics.tokens)
        return self.options.max_batch or max(1, int(self.options.max_memory // each))

    def _logits(
        self, cells: list[Cell], pos: int | None, groups: list[Group]
    ) -> Iterator[Float[Tensor, "batch n_logits d_vocab"]]:
        """The logits of every cell, one after the other."""
        joins, rows = self.patch.joins(cells, pos), max(1, self._rows_at_a_time() // len(cells))

        def final(group: Group) -> Tensor:
            return self.run.resume(joins, group, self.options.last_only)

        yield from logits_of_cells(
            self.run, final, groups, len(cells), rows, self.unpatched_logits, self.metrics.tokens
        )


def logits_for(
    run: CorruptedRun, final: Float[Tensor, "batch n d_model"], tokens: Int[Tensor, " token"] | None
) -> Float[Tensor, "batch n d_vocab"]:
    """The logits that final streams give: all of them, or those of some tokens, and nan for the others."""
    if tokens is None:
        return run.unembed(final)
    logits = final.new_full((*final.shape[:2], run.model.cfg.d_vocab), float("nan"))
    logits[..., tokens] = run.unembed(final, tokens)
    return logits


def logits_of_cells(
    run: CorruptedRun,
    final: Callable[[Group], Float[Tensor, "cell rows n d_model"]],
    groups: list[Group],
    n_cells: int,
    rows_at_a_time: int,
    unpatched: Float[Tensor, "batch n_logits d_vocab"],
    tokens: Int[Tensor, " token"] | None = None,
) -> Iterator[Float[Tensor, "batch n_logits d_vocab"]]:
    """The logits of every cell, one after the other, for all prompts: computed in the groups, unpatched elsewhere.

    final: the final residual streams of all cells, for some prompts of a group. unpatched: the unpatched run's logits, at
    each prompt's last position or at all of them; `final` gives the same positions, or those from the group's start on.
    tokens: those whose logits are read (at last positions), where the others stay as they are in `unpatched`; None: all.
    """
    last_only, computed = unpatched.shape[1] == 1, []
    for group in groups:
        for prompts in group.prompts.split(rows_at_a_time):
            where = slice(None) if last_only else slice(group.start, None)
            computed.append((prompts, where, run.unembed(final(Group(prompts, group.start)), tokens)))
    if tokens is None and last_only and len(computed) == 1 and len(computed[0][0]) == len(run.rows):
        yield from computed[0][2]  # all prompts', in one piece
        return
    for cell in range(n_cells):
        logits = unpatched.clone()
        for prompts, where, found in computed:
            if tokens is None:
                logits[prompts, where] = found[cell]
            else:
                logits[prompts[:, None], 0, tokens] = found[cell, :, 0]
        yield logits


def _where(chosen: Bool[Tensor, " batch"]) -> Int[Tensor, " rows"]:
    return chosen.nonzero()[:, 0]


def bytes_per_row(
    run: CorruptedRun, options: SweepOptions, n: int | None = None, tokens: Int[Tensor, " token"] | None = None
) -> int:
    """Upper estimate of the working memory of one patched copy of one prompt, weights and caches not counted.

    n: how many of its positions are computed (None: all). tokens: those that have logits (None: all). The logits of one
    cell, for every prompt, are there whatever the bound: the metric reads them together.
    """
    cfg, n_pos = run.model.cfg, run.real.shape[1]
    n = n_pos if n is None else n
    n_logits = 1 if options.last_only else n_pos
    kv_heads = cfg.n_key_value_heads or cfg.n_heads
    hidden = n * (8 * cfg.d_model + 4 * cfg.d_mlp)
    key_values = (5 * n + 4 * n_pos) * kv_heads  # k, v, rotated, and k and v again behind their prefix
    heads = cfg.d_head * (8 * n * cfg.n_heads + key_values)
    attention = heads + 3 * cfg.n_heads * n * n_pos  # scores, their softmax, and the mask
    return 4 * (hidden + attention + 3 * n_logits * (cfg.d_vocab if tokens is None else len(tokens)))
