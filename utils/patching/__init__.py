"""Activation patching sweeps: the names, arguments and numbers of `transformer_lens.patching`, in a fraction of the time.

A patch at layer l and position p changes nothing before layer l, nothing before position p, and nothing at all where the
clean and the corrupted activation are equal. So each sweep runs only the cells that can change, resumes at the patched layer
and position (`utils.patching.resumable`), and carries the patches of all layers through the model as one growing batch.

Denoising: clean activations are patched into the corrupted run. For noising, exchange the two.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache, patching
from transformer_lens.patching import PatchingResult
from transformer_lens.utilities import get_act_name

from utils.assumptions import UnsupportedModel, hooks_on
from utils.patching.last_logits import LastLogits
from utils.patching.resumable import CorruptedRun, last_positions
from utils.patching.sweep import HEAD_SITES, Metric, Sweep, checked_metric, clean_activation

DEFAULT_MEMORY = 3 * 2**27  # bytes: with the model and two small caches, a sweep fits into the 2 GB of Binder

# --- public sweeps ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def generic_activation_patch(
    model,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    patching_metric: Metric,
    sweep: str,
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
    """Run the sweep of that name; every `get_act_patch_*` is this function with `sweep` filled in.

    corrupted_tokens: [batch, pos]. clean_cache: `model.run_with_cache(clean_tokens)[1]`, with the same mask if there is one.
    patching_metric: logits to a 0-d tensor; it gets [batch, 1, d_vocab], each prompt's true last position, to be read as
        `logits[:, -1]`. With logits="all" it gets [batch, pos, d_vocab], every position where it is in the tokens.
    sweep: a name from SWEEPS; where it names several activations ("block_every"), they are stacked on a first axis.
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
    sweeps = SWEEPS[sweep]
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
        if positions is not None or attention_mask is not None:
            raise
        warnings.warn(f"{reason}: using the slow loops of transformer_lens.patching", stacklevel=2)
        loops = getattr(patching, f"get_act_patch_{sweep}")
        return loops(model, corrupted_tokens, clean_cache, patching_metric, reduce=reduce, baseline=baseline)
    done = [Sweep(run, site, axes, clean_cache, patching_metric, options) for site, axes in sweeps]
    values = [each.values() for each in done]
    return _arranged(values, done[0].baseline, sweeps, options, baseline)


def _short(site: str) -> str:
    """The part of a sweep's name that says what it patches: TransformerLens calls the sweep of z "out"."""
    return {"z": "out"}.get(site, site)


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
    if left := hooks_on(model):
        raise ValueError(f"hooks are left on the model at {', '.join(left[:3])}: call model.reset_hooks()")
    if not isinstance(tokens, Tensor) or tokens.ndim != 2:
        raise ValueError(
            f"corrupted_tokens must be a [batch, pos] tensor, not {getattr(tokens, 'shape', type(tokens))}"
        )


def _arranged(
    values: list[Tensor], unpatched: Tensor, sweeps, options: dict, baseline: bool
) -> Tensor | PatchingResult:
    """Values [L, P, H, B?] of each sweep, with the axes in the order of its name; several are stacked."""
    site, names = sweeps[0][0], list(sweeps[0][1])
    if len(sweeps) > 1:
        most = max(v.shape[2] for v in values)  # key/value heads are padded with zero rows, as the built-in does
        values = [torch.cat([v, v.new_zeros(*v.shape[:2], most - v.shape[2], *v.shape[3:])], dim=2) for v in values]
        names = ["patch_type", *names]
    out = torch.stack(values)  # [S, L, P, H, B?]
    out = out.transpose(2, 3) if "dest_pos" in names else out
    keep = {"patch_type": len(sweeps) > 1, "layer": True, "pos": _by_pos(names), "head": site in HEAD_SITES}
    order = ["patch_type", "layer", "head", "pos"] if "dest_pos" in names else list(keep)
    out = out[tuple(slice(None) if keep[axis] else 0 for axis in order)]
    if options["reduce"] == "mean":
        out, unpatched = out.mean(-1), unpatched.mean(-1)
    if options["reduce"] != "none" and not baseline:
        return out
    index = patching.make_df_from_ranges(list(out.shape[: len(names)]), names)
    for axis in set(names) & {"pos", "dest_pos"}:
        index[axis] = [options["positions"][i] for i in index[axis]]
    types = None if len(sweeps) == 1 else [_short(site) for site, _ in sweeps]
    reduced = options["reduce"] != "none"
    return PatchingResult(out, names, index, ["metric"], reduced, unpatched, patch_type_names=types)


# --- the sweeps by name -------------------------------------------------------------------------------------------------

RESIDUAL = ("layer", "pos")
ALL_POS = {site: ("layer", "head_index" if site == "pattern" else "head") for site in HEAD_SITES}
BY_POS = dict.fromkeys(HEAD_SITES, ("layer", "pos", "head")) | {"pattern": ("layer", "head_index", "dest_pos")}

SWEEPS = {
    **{site: [(site, RESIDUAL)] for site in ("resid_pre", "resid_mid", "attn_out", "mlp_out")},
    **{f"attn_head_{_short(site)}_all_pos": [(site, axes)] for site, axes in ALL_POS.items()},
    **{f"attn_head_{_short(site)}_by_pos": [(site, axes)] for site, axes in BY_POS.items()},
    "block_every": [(site, RESIDUAL) for site in ("resid_pre", "attn_out", "mlp_out")],
    "attn_head_all_pos_every": [(site, ALL_POS["z"]) for site in HEAD_SITES],
    "attn_head_by_pos_every": [(site, BY_POS["z"]) for site in HEAD_SITES],
}


def _named(sweep: str) -> Callable[..., Tensor | PatchingResult]:
    function = partial(generic_activation_patch, sweep=sweep)
    function.__doc__ = (
        f"Patch clean {', '.join(_short(site) for site, _ in SWEEPS[sweep])} into the corrupted run, in every cell of "
        f"({', '.join(SWEEPS[sweep][0][1])}). Arguments (model, corrupted_tokens, clean_cache, metric) and result: see "
        "`generic_activation_patch`."
    )
    return function


get_act_patch_resid_pre = _named("resid_pre")
get_act_patch_resid_mid = _named("resid_mid")
get_act_patch_attn_out = _named("attn_out")
get_act_patch_mlp_out = _named("mlp_out")
get_act_patch_attn_head_out_all_pos = _named("attn_head_out_all_pos")
get_act_patch_attn_head_q_all_pos = _named("attn_head_q_all_pos")
get_act_patch_attn_head_k_all_pos = _named("attn_head_k_all_pos")
get_act_patch_attn_head_v_all_pos = _named("attn_head_v_all_pos")
get_act_patch_attn_head_pattern_all_pos = _named("attn_head_pattern_all_pos")
get_act_patch_attn_head_out_by_pos = _named("attn_head_out_by_pos")
get_act_patch_attn_head_q_by_pos = _named("attn_head_q_by_pos")
get_act_patch_attn_head_k_by_pos = _named("attn_head_k_by_pos")
get_act_patch_attn_head_v_by_pos = _named("attn_head_v_by_pos")
get_act_patch_attn_head_pattern_by_pos = _named("attn_head_pattern_by_pos")
get_act_patch_block_every = _named("block_every")
get_act_patch_attn_head_all_pos_every = _named("attn_head_all_pos_every")
get_act_patch_attn_head_by_pos_every = _named("attn_head_by_pos_every")


# --- the gradient approximation -----------------------------------------------------------------------------------------


def attribution_patching(
    model,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    patching_metric: Metric,
    sweep: str = "resid_pre",
    *,
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    logits: str = "last",
    reduce: str = "scalar",
    baseline: bool = False,
) -> Tensor | PatchingResult:
    """First-order estimate of a sweep: metric(corrupted) + (clean - corrupted activation) . gradient of the metric.

    One forward pass and one backward pass on the corrupted tokens, whatever the number of cells (with the clean run: two
    forward, one backward). sweep: a name from SWEEPS, such as "attn_head_out_by_pos". The other arguments, the shape and
    the units are those of `get_act_patch_<sweep>`, so the two can be compared cell by cell. Source: Nanda 2023,
    "Attribution patching"; it fails where the metric is far from linear in the patch, such as resid_pre in early layers.
    """
    if sweep not in SWEEPS:
        raise ValueError(f"sweep {sweep!r} is not one of {', '.join(SWEEPS)}")
    _check_model(model, corrupted_tokens)
    real = torch.ones_like(corrupted_tokens) if attention_mask is None else attention_mask
    names = [get_act_name(site, layer) for site, _ in SWEEPS[sweep] for layer in range(model.cfg.n_layers)]
    with torch.enable_grad():
        output, activations = _differentiable_run(model, corrupted_tokens, attention_mask, names)
        if logits == "last":
            rows = torch.arange(len(output), device=output.device)
            output = output[rows, last_positions(real)].unsqueeze(1).as_subclass(LastLogits)
        unpatched = checked_metric(patching_metric, output, reduce)
        gradients = dict(zip(names, torch.autograd.grad(unpatched.sum(), [activations[n] for n in names]), strict=True))
    unpatched, values = unpatched.detach(), []
    for site, axes in SWEEPS[sweep]:
        effects = []
        for layer in range(model.cfg.n_layers):
            name = get_act_name(site, layer)
            change = clean_activation(clean_cache, site, layer, real) - activations[name].detach()
            effects.append(_effect(change * gradients[name], site, _by_pos(axes), real))
        effect = torch.stack(effects)  # [L, P, H, B]
        values.append(unpatched + (effect.sum(-1) if reduce == "scalar" else effect))
    options = {"positions": list(range(corrupted_tokens.shape[1])), "reduce": reduce}
    return _arranged(values, unpatched, SWEEPS[sweep], options, baseline)


def _differentiable_run(model, tokens, attention_mask, names: list[str]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and the named activations, all in one graph, with or without trainable weights."""
    activations = {}

    def start_graph(embedding, hook):
        return embedding if embedding.requires_grad else embedding.detach().requires_grad_()

    def keep(activation, hook, name):
        activations[name] = activation
        return activation

    hooks = [("hook_embed", start_graph), *((name, partial(keep, name=name)) for name in names)]
    with model.hooks(fwd_hooks=hooks):
        output = model(tokens, attention_mask=attention_mask)
    return output, activations


def _effect(product: Tensor, site: str, by_pos: bool, real: Tensor) -> Tensor:
    """Change times gradient, summed over what one cell patches, padding excluded: [P, H, B]."""
    if site not in HEAD_SITES:
        product = product.unsqueeze(2)  # [B, T, 1, D]
    elif site == "pattern":
        product = product.transpose(1, 2)  # [B, query, H, key]
    effect = (product.sum(-1) * real[..., None]).permute(1, 2, 0)  # [T, H, B]
    return effect if by_pos else effect.sum(0, keepdim=True)
