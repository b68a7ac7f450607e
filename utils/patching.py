"""Activation patching sweeps: the names, arguments and numbers of `transformer_lens.patching`, in a fraction of the time.

A patch at layer l and position p changes nothing before layer l, nothing before position p, and nothing at all where the
clean and the corrupted activation are equal. So each sweep runs only the cells that can change, resumes at the patched layer
and position (`utils.forward`), and carries the patches of all layers through the model as one growing batch.

Denoising: clean activations are patched into the corrupted run. For noising, exchange the two.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache, patching
from transformer_lens.patching import PatchingResult
from transformer_lens.utilities import get_act_name

from utils.forward import CorruptedRun, Join, UnsupportedModel
from utils.last_logits import LastLogits

Metric = Callable[[Float[Tensor, "batch pos d_vocab"]], Tensor]

HEAD_SITES = ("z", "q", "k", "v", "pattern")
DEFAULT_MEMORY = 2**30


class _Sweep:
    """One sweep: which activation, over which axes, on which runs, and what becomes of the logits of every cell."""

    def __init__(self, run: CorruptedRun, site: str, axes: Sequence[str], clean_cache, metric, options: dict):
        self.run, self.site, self.metric, self.options = run, site, metric, options
        self.by_pos = any("pos" in axis for axis in axes)
        self.by_head = site in HEAD_SITES
        self.clean = [_clean(clean_cache, site, layer, run) for layer in range(run.n_layers)]
        self.differs = torch.stack([self._differs(layer) for layer in range(run.n_layers)])  # [L, B, T]
        if not self.differs.any():
            raise ValueError(
                f"clean and corrupted runs have the same {site} everywhere: nothing to patch. "
                "Is clean_cache from the clean tokens, and are corrupted_tokens the corrupted ones?"
            )
        first = self.differs.any(0).long().argmax(1)
        self.first = torch.where(self.differs.any(0).any(1), first, run.real.shape[1])  # [B], T where nothing differs
        self.baseline_logits = self._baseline_logits()
        self.baseline = self._evaluate(self.baseline_logits)

    def _differs(self, layer: int, tolerance: float = 1e-5) -> Tensor:
        """Where the two runs differ by more than float error, at real positions. [B, T]"""
        clean, corrupted = self.clean[layer], self.run.activation(self.site, layer)
        if self.site == "pattern":
            clean, corrupted = clean.transpose(1, 2), corrupted.transpose(1, 2)
        clean, corrupted = clean.flatten(2), corrupted.flatten(2)
        return ((clean - corrupted).norm(dim=-1) > tolerance * corrupted.norm(dim=-1)) & self.run.real

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
        return bool(self.differs[layer].any() if pos is None else self.differs[layer, :, pos].any())

    def _groups(self, pos: int | None) -> list[tuple[int, Int[Tensor, "B"]]]:
        """(first changed position, prompts) pairs: the prompts whose logits a patch at `pos` (None: anywhere) can change."""
        if pos is None:
            return [
                (s, (self.first == s).nonzero()[:, 0]) for s in self.first.unique().tolist() if s <= self.run.last.max()
            ]
        prompts = ((self.first <= pos) & (pos <= self.run.last) & self.run.real[:, pos]).nonzero()[:, 0]
        return [(pos, prompts)] if len(prompts) else []

    def _max_cells(self, groups) -> int:
        return max(1, self._max_rows() // sum(len(prompts) for _, prompts in groups)) if groups else 1

    def _max_rows(self) -> int:
        return self.options["max_batch"] or max(
            1, int(self.options["max_memory"] // bytes_per_row(self.run, self.options))
        )

    def _logits(self, chunk, pos: int | None, groups) -> Float[Tensor, "C B n_logits V"]:
        logits = self.baseline_logits.repeat(len(chunk), 1, 1, 1)
        last_only = self.options["logits"] == "last"
        for start, prompts in groups:
            pre, mid = self._joins(chunk, pos)
            for part in prompts.split(max(1, self._max_rows() // len(chunk))):
                final = self.run.resume(pre, mid, part, start, last_only)
                logits[:, part, 0 if last_only else start :] = self.run.unembed(final)
        return logits

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
        x = unpatched[prompts, start:].clone()
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


def _clean(clean_cache: ActivationCache, site: str, layer: int, run: CorruptedRun) -> Tensor:
    """The clean activation to patch in, checked against the corrupted run."""
    name = get_act_name(site, layer)
    aliases = {"resid_pre": f"blocks.{layer}.hook_in"}  # the name that a filtered cache can hold it under
    key = next((key for key in (name, aliases.get(site)) if key in clean_cache), None)
    if key is None:
        raise KeyError(
            f"clean_cache has no {name!r}: cache the whole clean run (model.run_with_cache(clean_tokens)) "
            f"or name it in names_filter; the cache holds {len(clean_cache)} activations"
        )
    n_prompts, n_pos = run.real.shape
    clean = clean_cache[key].detach().to(run.real.device)
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
    return value.detach().as_subclass(Tensor)


def bytes_per_row(run: CorruptedRun, options: dict) -> int:
    """Upper estimate of the working memory of one patched copy of one prompt, weights and caches not counted."""
    cfg, n_pos = run.model.cfg, run.real.shape[1]
    n_logits = 1 if options["logits"] == "last" else n_pos
    hidden = n_pos * (8 * cfg.d_model + 4 * cfg.d_mlp)
    attention = 4 * n_pos * cfg.n_heads * cfg.d_head
    return 4 * (hidden + attention + 3 * n_logits * cfg.d_vocab)


def _chunks(items: list, size: int):
    return (items[i : i + size] for i in range(0, len(items), size))


# --- public sweeps ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def generic_activation_patch(
    model,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    patching_metric: Metric,
    sweeps: Sequence[tuple[str, Sequence[str]]],
    *,
    positions: Sequence[int] | None = None,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    logits: str = "last",
    reduce: str = "scalar",
    baseline: bool = False,
    max_batch: int | None = None,
    max_memory: float = DEFAULT_MEMORY,
    progress: bool = True,
) -> Tensor | PatchingResult:
    """Run one or several sweeps on the same two runs; `get_act_patch_*` are this function with `sweeps` filled in.

    corrupted_tokens: [batch, pos]. clean_cache: `model.run_with_cache(clean_tokens)[1]`, with the same mask if there is one.
    patching_metric: logits to a 0-d tensor; it gets [batch, 1, d_vocab], each prompt's true last position, to be read as
        `logits[:, -1]`. With logits="all" it gets [batch, pos, d_vocab], every position where it is in the tokens.
    sweeps: (activation, axes) pairs, such as [("resid_pre", ("layer", "pos"))]; two or more are stacked on a first axis.
    positions: sweep these only, and return one column for each (sweeps by position).
    attention_mask: 1 at real tokens; needed as soon as prompts are padded, on either side. Padding is never patched.
    reduce: "scalar"; or, with a metric that returns [batch], "mean", or "none" for a PatchingResult (as the built-in
        returns: per-prompt `.values` with the prompt last, `.baseline`, `.effect()`, `.bootstrap_ci()`).
    baseline: return a PatchingResult that holds the unpatched metric too, whatever `reduce` is.
    max_batch: at most this many patched copies of a prompt at a time; by default, as many as fit in `max_memory` bytes
        of working memory, not counting weights, the clean cache and the corrupted run.

    Returns the metric in every cell, with the axes in the order of the sweep. Equal to `transformer_lens.patching` to
    float error. A model that the resumable pass cannot reproduce goes to the built-in loops, with a warning.
    Raises ValueError, TypeError, KeyError or IndexError with the value at fault and the fix.
    """
    _check_model(model, corrupted_tokens)
    positions_swept = _positions(positions, corrupted_tokens.shape[1])
    options = {"positions": positions_swept, "logits": logits, "reduce": reduce}
    options |= {"max_batch": max_batch, "max_memory": max_memory, "progress": progress}
    for name, allowed in (("logits", ("last", "all")), ("reduce", ("scalar", "mean", "none"))):
        if options[name] not in allowed:
            raise ValueError(f"{name}={options[name]!r} is not one of {allowed}")
    if positions is not None and any(not _by_pos(axes) for _, axes in sweeps):
        raise ValueError("positions= is for sweeps by position; this one patches all positions at once")
    try:
        run = CorruptedRun(model, corrupted_tokens, attention_mask)
    except UnsupportedModel as reason:
        if positions is not None or attention_mask is not None or len(sweeps) > 1:
            raise
        warnings.warn(f"{reason}: using the slow loops of transformer_lens.patching", stacklevel=2)
        ((site, axes),) = sweeps
        return patching.generic_activation_patch(
            model, corrupted_tokens, clean_cache, patching_metric, BUILTIN_SETTERS[axes], site, axes,
            reduce=reduce, baseline=baseline)  # fmt: skip
    done = [_Sweep(run, site, axes, clean_cache, patching_metric, options) for site, axes in sweeps]
    return _result(done, [axes for _, axes in sweeps], baseline)


# one builtin setter for each kind of axes
BUILTIN_SETTERS = {
    ("layer", "pos"): patching.layer_pos_patch_setter,
    ("layer", "head"): patching.layer_head_vector_patch_setter,
    ("layer", "pos", "head"): patching.layer_pos_head_vector_patch_setter,
    ("layer", "head_index"): patching.layer_head_pattern_patch_setter,
    ("layer", "head_index", "dest_pos"): patching.layer_head_pos_pattern_patch_setter,
}


def _by_pos(axes: Sequence[str]) -> bool:
    return "pos" in axes or "dest_pos" in axes


def _positions(positions: Sequence[int] | None, n_pos: int) -> list[int]:
    chosen = list(range(n_pos)) if positions is None else [int(pos) for pos in positions]
    for pos in chosen:
        if not -n_pos <= pos < n_pos:
            raise IndexError(f"position {pos} is outside prompts of {n_pos} tokens")
    return [pos % n_pos for pos in chosen]


def _check_model(model, tokens) -> None:
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode, where dropout makes every run differ: call model.eval()")
    left = sorted({point.name for point in model.hook_dict.values() if point.fwd_hooks or point.bwd_hooks})
    if left:
        raise ValueError(f"hooks are left on the model at {', '.join(left[:3])}: call model.reset_hooks()")
    if not isinstance(tokens, Tensor) or tokens.ndim != 2:
        raise ValueError(
            f"corrupted_tokens must be a [batch, pos] tensor, not {getattr(tokens, 'shape', type(tokens))}"
        )


def _result(sweeps: list[_Sweep], axes: list[Sequence[str]], baseline: bool) -> Tensor | PatchingResult:
    """Values [L, P, H, B?] of each sweep, arranged in the order of its axes; several are stacked."""
    first, names = sweeps[0], list(axes[0])
    values = [sweep.values() for sweep in sweeps]
    if len(sweeps) > 1:
        most = max(v.shape[2] for v in values)  # key/value heads are padded with zero rows, as the built-in does
        values = [torch.cat([v, v.new_zeros(*v.shape[:2], most - v.shape[2], *v.shape[3:])], dim=2) for v in values]
        names = ["patch_type", *names]
    out = torch.stack(values)  # [S, L, P, H, B?]
    out = out.transpose(2, 3) if "dest_pos" in names else out
    keep = {"patch_type": len(sweeps) > 1, "layer": True, "pos": _by_pos(names), "head": first.by_head}
    order = ["patch_type", "layer", "head", "pos"] if "dest_pos" in names else list(keep)
    out = out[tuple(slice(None) if keep[axis] else 0 for axis in order)]
    unpatched = first.baseline
    if first.options["reduce"] == "mean":
        out, unpatched = out.mean(-1), unpatched.mean(-1)
    if first.options["reduce"] != "none" and not baseline:
        return out
    index = patching.make_df_from_ranges(list(out.shape[: len(names)]), names)
    for axis in set(names) & {"pos", "dest_pos"}:
        index[axis] = [first.options["positions"][i] for i in index[axis]]
    types = None if len(sweeps) == 1 else [{"z": "out"}.get(sweep.site, sweep.site) for sweep in sweeps]
    return PatchingResult(out, names, index, ["metric"], first.options["reduce"] != "none", unpatched,
                          patch_type_names=types)  # fmt: skip


RESIDUAL = ("layer", "pos")
ALL_POS = {site: ("layer", "head_index" if site == "pattern" else "head") for site in HEAD_SITES}
BY_POS = dict.fromkeys(HEAD_SITES, ("layer", "pos", "head")) | {"pattern": ("layer", "head_index", "dest_pos")}


def _named(*sweeps: tuple[str, Sequence[str]]) -> Callable[..., Tensor | PatchingResult]:
    return partial(generic_activation_patch, sweeps=sweeps)


get_act_patch_resid_pre = _named(("resid_pre", RESIDUAL))
get_act_patch_resid_mid = _named(("resid_mid", RESIDUAL))
get_act_patch_attn_out = _named(("attn_out", RESIDUAL))
get_act_patch_mlp_out = _named(("mlp_out", RESIDUAL))
get_act_patch_attn_head_out_all_pos = _named(("z", ALL_POS["z"]))
get_act_patch_attn_head_q_all_pos = _named(("q", ALL_POS["q"]))
get_act_patch_attn_head_k_all_pos = _named(("k", ALL_POS["k"]))
get_act_patch_attn_head_v_all_pos = _named(("v", ALL_POS["v"]))
get_act_patch_attn_head_pattern_all_pos = _named(("pattern", ALL_POS["pattern"]))
get_act_patch_attn_head_out_by_pos = _named(("z", BY_POS["z"]))
get_act_patch_attn_head_q_by_pos = _named(("q", BY_POS["q"]))
get_act_patch_attn_head_k_by_pos = _named(("k", BY_POS["k"]))
get_act_patch_attn_head_v_by_pos = _named(("v", BY_POS["v"]))
get_act_patch_attn_head_pattern_by_pos = _named(("pattern", BY_POS["pattern"]))
get_act_patch_block_every = _named(("resid_pre", RESIDUAL), ("attn_out", RESIDUAL), ("mlp_out", RESIDUAL))
get_act_patch_attn_head_all_pos_every = _named(*ALL_POS.items())
get_act_patch_attn_head_by_pos_every = _named(*((site, BY_POS["z"]) for site in HEAD_SITES))
