"""One patching sweep: which cells can change the logits, where each joins the resumed pass, and its metric.

What every cell of a sweep shares is found once: where clean and corrupted activations differ, the first such position of
every prompt, and the unpatched metric, which is the value of every cell that cannot change.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache
from transformer_lens.utilities import get_act_name

from utils.patching.last_logits import LastLogits
from utils.patching.resumable import Column, CorruptedRun, Join

Metric = Callable[[Float[Tensor, "batch pos d_vocab"]], Tensor]

# The first position to compute, the prompts, and the keys and values just before it where the clean run has them.
Group = tuple[int, Int[Tensor, " B"], Column | None]

HEAD_SITES = ("z", "q", "k", "v", "pattern")


class Sweep:
    """One sweep: which activation, over which axes, on which runs, and what becomes of the logits of every cell."""

    def __init__(self, run: CorruptedRun, site: str, axes: Sequence[str], clean_cache, metric, options: dict):
        self.run, self.site, self.metric, self.options = run, site, metric, options
        self.by_pos = any("pos" in axis for axis in axes)
        self.by_head = site in HEAD_SITES
        self.clean = [clean_activation(clean_cache, site, layer, run.real) for layer in range(run.n_layers)]
        changed = [self._changed(layer) for layer in range(run.n_layers)]
        self.changed = torch.stack([exactly for exactly, _ in changed])  # [L, B, T]
        differs = torch.stack([beyond_error for _, beyond_error in changed]).any(0)  # [B, T]
        if not differs.any():
            raise ValueError(
                f"clean and corrupted runs have the same {site} everywhere: nothing to patch. "
                "Is clean_cache from the clean tokens, and are corrupted_tokens the corrupted ones?"
            )
        n_pos = run.real.shape[1]
        self.first = torch.where(differs.any(1), differs.long().argmax(1), n_pos)  # [B]; n_pos where nothing differs
        self.baseline_logits = self._baseline_logits()
        self.baseline = self._evaluate(self.baseline_logits)

    def _changed(self, layer: int, tolerance: float = 1e-5) -> tuple[Tensor, Tensor]:
        """Real positions where the runs differ at all, and where by more than the error of another float pass. [B, T]

        Before a prompt's first difference the two runs are equal but for such error, since the model is causal.
        """
        run, clean, corrupted = self.run, self.clean[layer], self.run.activation(self.site, layer)
        if self.site == "pattern":
            clean, corrupted = clean.transpose(1, 2), corrupted.transpose(1, 2)
        off, scale = (x.flatten(2).norm(dim=-1) for x in (clean - corrupted, corrupted))
        if self.site in ("attn_out", "mlp_out"):  # a difference of two streams, and as exact as those are
            streams = (run.resid_pre[layer], run.resid_mid[layer], run.resid_pre[layer + 1])
            scale = sum(stream.norm(dim=-1) for stream in streams)
        return (off > 0) & run.real, (off > tolerance * scale) & run.real

    def _baseline_logits(self) -> Float[Tensor, "B n_logits V"]:
        final = self.run.resid_pre[-1]
        if self.options["logits"] == "last":
            final = final[torch.arange(len(final), device=final.device), self.run.last].unsqueeze(1)
        return self.run.unembed(final)

    def _evaluate(self, logits: Float[Tensor, "B n_logits V"]) -> Tensor:
        if self.options["logits"] == "last":
            logits = logits.as_subclass(LastLogits)
        return checked_metric(self.metric, logits, self.options["reduce"])

    def values(self) -> Tensor:
        """The metric in every cell, [L, P, H] and [B] if per prompt (P and H are 1 where they are not swept)."""
        positions = self.options["positions"] if self.by_pos else [None]
        n_heads = self.clean[0].shape[1 if self.site == "pattern" else 2] if self.by_head else 1
        shape = (self.run.n_layers, len(positions), n_heads)
        values = self.baseline.expand(*shape, *self.baseline.shape).clone()
        with tqdm(total=values[..., 0].numel() if self.baseline.ndim else values.numel(), desc=self.site, leave=False,
                  disable=not self.options["progress"]) as bar:  # fmt: skip
            for column, pos in enumerate(positions):
                groups = self._groups(pos)
                layers = [layer for layer in range(self.run.n_layers) if groups and self._can_change(layer, pos)]
                cells = list(itertools.product(layers, range(n_heads)))
                bar.update(shape[0] * n_heads - len(cells))
                for chunk in _chunks(cells, self._max_cells(groups)):
                    for (layer, head), logits in zip(chunk, self._logits(chunk, pos, groups), strict=True):
                        values[layer, column, head] = self._evaluate(logits)
                    bar.update(len(chunk))
        return values

    def _can_change(self, layer: int, pos: int | None) -> bool:
        return bool(self.changed[layer].any() if pos is None else self.changed[layer, :, pos].any())

    def _groups(self, pos: int | None) -> list[Group]:
        """The prompts whose logits a patch at `pos` (None: anywhere) can change, by the first position to compute."""
        if pos is None:
            starts = [s for s in self.first.unique().tolist() if s <= self.run.last.max()]
            return [(s, (self.first == s).nonzero()[:, 0], None) for s in starts]
        open_to_it = (self.first <= pos) & (pos <= self.run.last) & self.run.real[:, pos]
        known = torch.zeros_like(open_to_it)
        groups = []
        if self.site == "resid_pre" and self.options["logits"] == "last":
            # At its first difference a prompt's patched stream goes on as in the clean run: compute what follows only.
            known = open_to_it & (self.first == pos) & (pos < self.run.last)
            column = self.run.column(self.clean, known.nonzero()[:, 0], pos) if known.any() else None
            known &= column is not None
            groups = [(pos + 1, known.nonzero()[:, 0], column)]
        groups += [(pos, (open_to_it & ~known).nonzero()[:, 0], None)]
        return [group for group in groups if len(group[1])]

    def _max_cells(self, groups) -> int:
        return max(1, self._max_rows() // sum(len(prompts) for _, prompts, _ in groups)) if groups else 1

    def _max_rows(self) -> int:
        return self.options["max_batch"] or max(
            1, int(self.options["max_memory"] // bytes_per_row(self.run, self.options))
        )

    def _logits(self, chunk, pos: int | None, groups) -> Iterator[Float[Tensor, "B n_logits V"]]:
        """The logits of every cell of a chunk, one after the other: all prompts', of which `groups` are computed."""
        last_only, parts = self.options["logits"] == "last", []
        for start, prompts, column in groups:
            pre, mid = self._joins(chunk, pos)
            for part in prompts.split(max(1, self._max_rows() // len(chunk))):
                final = self.run.resume(pre, mid, part, start, last_only, column)
                parts.append((part, slice(None) if last_only else slice(start, None), self.run.unembed(final)))
        for cell in range(len(chunk)):
            if last_only and len(parts[0][0]) == len(self.first):
                yield parts[0][2][cell]  # everyone's
                continue
            logits = self.baseline_logits.clone()
            for part, where, found in parts:
                logits[part, where] = found[cell]
            yield logits

    # --- where a patch joins the residual stream ------------------------------------------------------------------------

    def _joins(self, chunk, pos: int | None) -> tuple[dict[int, Join], dict[int, Join]]:
        """The patched residual streams of a chunk of cells, by the layer before which, or within which, they join."""
        heads: dict[int, list[int]] = {}
        for layer, head in chunk:
            heads.setdefault(layer, []).append(head)
        joins = {layer: partial(self._head_join, layer, pos, chosen) for layer, chosen in heads.items()}
        if not self.by_head:
            joins = {layer: partial(self._residual_join, layer, pos) for layer in heads}
        if self.site == "resid_pre":
            return joins, {}
        if self.site == "mlp_out":
            return {layer + 1: join for layer, join in joins.items()}, {}
        return {}, joins

    def _residual_join(self, layer: int, pos: int, prompts, start: int) -> Float[Tensor, "1 B n D"]:
        """The residual stream just after the patched activation has been added to it."""
        run, clean = self.run, self.clean[layer][prompts, pos]
        unpatched, patched = {
            "resid_pre": lambda: (run.resid_pre[layer], clean),
            "resid_mid": lambda: (run.resid_mid[layer], clean),
            "attn_out": lambda: (run.resid_mid[layer], run.resid_pre[layer][prompts, pos] + clean),
            "mlp_out": lambda: (run.resid_pre[layer + 1], run.resid_mid[layer][prompts, pos] + clean),
        }[self.site]()
        x = unpatched[prompts, start:]  # a copy
        if start <= pos:
            x[:, pos - start] = patched
        return x.unsqueeze(0)

    def _head_join(self, layer: int, pos: int | None, heads, prompts, start: int) -> Float[Tensor, "heads B n D"]:
        """resid_mid with one head's (or one key/value group's) change of z sent through its rows of W_O, per head."""
        at = slice(None) if pos is None else slice(pos, pos + 1)
        patched = self.run.head_z(layer, prompts, start, self.site, self.clean[layer][prompts], at)
        delta = patched - self.run.head_z(layer, prompts, start)  # [B, n, H, d]
        n_groups = self.clean[layer].shape[1 if self.site == "pattern" else 2]
        delta = delta.unflatten(2, (n_groups, -1)).flatten(3)[:, :, heads]  # [B, n, heads, group * d]
        W_O = self.run.blocks[layer].attn.W_O.flatten(0, 1).unflatten(0, (n_groups, -1))[heads]  # [heads, group * d, D]
        return self.run.resid_mid[layer][prompts, start:] + torch.einsum("bngd,gdm->gbnm", delta, W_O)


def clean_activation(clean_cache: ActivationCache, site: str, layer: int, real: Bool[Tensor, "B T"]) -> Tensor:
    """The clean activation to patch in, checked against the corrupted run."""
    name = get_act_name(site, layer)
    aliases = {"resid_pre": f"blocks.{layer}.hook_in"}  # the name that a filtered cache can hold it under
    key = next((key for key in (name, aliases.get(site)) if key in clean_cache), None)
    if key is None:
        raise KeyError(
            f"clean_cache has no {name!r}: cache the whole clean run (model.run_with_cache(clean_tokens)) "
            f"or name it in names_filter; the cache holds {len(clean_cache)} activations"
        )
    n_prompts, n_pos = real.shape
    clean = clean_cache[key].detach().to(real.device)
    expected = (n_prompts, n_pos, n_pos) if site == "pattern" else (n_prompts, n_pos)
    found = (clean.shape[0], *clean.shape[2:]) if site == "pattern" else tuple(clean.shape[:2])
    if clean.ndim != (3 if site not in HEAD_SITES else 4) or found != expected:
        raise ValueError(
            f"clean_cache[{name!r}] is {tuple(clean.shape)}, but corrupted_tokens are {n_prompts} prompts of {n_pos} "
            "tokens: run clean and corrupted prompts with the same batch and the same padding"
        )
    return clean


def checked_metric(metric: Metric, logits: Tensor, reduce: str) -> Tensor:
    """The metric's value: 0-d for reduce="scalar", else [batch]."""
    value = metric(logits)
    if not isinstance(value, Tensor):
        raise TypeError(
            f"the metric returned {value!r} ({type(value).__name__}); return a tensor: drop .item() or float()"
        )
    if reduce == "scalar" and value.ndim != 0:
        raise ValueError(
            f"the metric returned shape {tuple(value.shape)}, and reduce='scalar' needs a 0-d tensor: take the mean, "
            'or pass reduce="none" for one value per prompt'
        )
    if reduce != "scalar" and tuple(value.shape) != (len(logits),):
        raise ValueError(
            f"the metric returned shape {tuple(value.shape)}, and reduce={reduce!r} needs one value per prompt: "
            f"({len(logits)},)"
        )
    return value.as_subclass(Tensor)


def bytes_per_row(run: CorruptedRun, options: dict) -> int:
    """Upper estimate of the working memory of one patched copy of one prompt, weights and caches not counted.

    The logits of one cell, for every prompt, are there whatever the bound: the metric reads them together.
    """
    cfg, n_pos = run.model.cfg, run.real.shape[1]
    n_logits = 1 if options["logits"] == "last" else n_pos
    kv_heads = cfg.n_key_value_heads or cfg.n_heads
    hidden = n_pos * (8 * cfg.d_model + 4 * cfg.d_mlp)
    heads = n_pos * cfg.d_head * (8 * cfg.n_heads + 9 * kv_heads)  # q, k, v, rotated, k and v again behind their prefix
    attention = heads + 3 * cfg.n_heads * n_pos**2  # scores, their softmax, and the mask
    return 4 * (hidden + attention + 3 * n_logits * cfg.d_vocab)


def _chunks(items: list, size: int):
    return (items[i : i + size] for i in range(0, len(items), size))
