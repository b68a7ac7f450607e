"""Activation patching sweeps with the names and numbers of `transformer_lens.patching`, in a fraction of the time.

A patch at layer l and position p changes nothing before layer l, nothing before position p, and nothing at all where the
clean and the corrupted activation are equal. So each sweep runs only the cells that can change, resumes at the patched layer
and position (`utils.patching.resumable`), and carries the patches of all layers through the model as one growing batch.

Every `get_act_patch_*` here takes what its namesake takes: model, corrupted tokens, clean cache, a metric or a mapping of
metrics by name, `reduce`, `baseline`, `index_df` and `return_index_df`. It takes more: see `SweepOptions`. Not here: the
sweep over pairs of positions (`get_act_patch_attn_head_pattern_dest_src_pos`), the direct path between two heads, and
`generic_activation_patch` with a setter of one's own.

Denoising: clean activations are patched into the corrupted run. For noising, exchange the two; `utils.experiment` does both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens import patching as built_in

from utils.assumptions import UnsupportedModel
from utils.patching.gradient import attribution_patching, require_ready
from utils.patching.options import Metric, Metrics, SweepOptions, sweep_options
from utils.patching.panels import SWEEPS, Panel, panels_of
from utils.patching.results import SweepResult, as_result, cells_in
from utils.patching.resumable import CorruptedRun, give_back_memory
from utils.patching.sweep import Cells, Sweep

__all__ = ["SWEEPS", "SweepOptions", "attribution_patching", "patch_sweep"]  # and every get_act_patch_*


def patch_sweep(
    model,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    patching_metric: Metric | Mapping[str, Metric],
    sweep: str,
    **options: Any,
) -> SweepResult:
    """Run the sweep of that name; every `get_act_patch_*` is this function with `sweep` filled in.

    corrupted_tokens: [batch, pos]. clean_cache: `model.run_with_cache(clean_tokens)[1]`, with the same mask if there is one.
    patching_metric: logits to a 0-d tensor; it gets [batch, 1, d_vocab], each prompt's true last position, to be read as
        `logits[:, -1]`, unless logits="all". Or several by name, evaluated on the same runs, for a PatchingResult.
    sweep: a name from SWEEPS; where it names several activations ("block_every"), they are stacked on a first axis.
    options: see SweepOptions.

    Returns the metric in every cell, with the axes in the order of the sweep. Equal to `transformer_lens.patching` to
    float error. A model that the resumable pass cannot reproduce goes to the built-in loops, with a warning.
    Raises ValueError, TypeError, KeyError or IndexError with the value at fault and the fix.
    """
    panels, chosen = panels_of(sweep), sweep_options(options)
    require_ready(model, corrupted_tokens)
    positions = _positions(panels, chosen, corrupted_tokens.shape[1])
    give_back_memory()
    with torch.no_grad():
        try:
            run = CorruptedRun(model, corrupted_tokens, chosen.attention_mask)
        except UnsupportedModel as reason:
            if chosen.positions is not None or chosen.attention_mask is not None:
                raise
            warnings.warn(f"{reason}: using the slow loops of transformer_lens.patching", stacklevel=2)
            return _by_the_built_in(model, corrupted_tokens, clean_cache, patching_metric, sweep, chosen)
        metrics = Metrics(patching_metric, chosen)
        sweeps = [Sweep(run, panel.site, clean_cache, metrics, chosen) for panel in panels]
        values = [
            each.values(_cells(each, panel, positions, chosen)) for each, panel in zip(sweeps, panels, strict=True)
        ]
        return as_result(panels, values, sweeps[0].unpatched, positions, metrics, chosen)


def _positions(panels: list[Panel], options: SweepOptions, n_pos: int) -> list[int]:
    """The positions asked for, counted from the front. Raises for those that there are not, and for cells that do not fit."""
    if options.positions is not None and not all(panel.by_pos for panel in panels):
        raise ValueError("positions= is for sweeps by position; this one patches all positions at once")
    if options.index_df is not None and len(panels) > 1:
        raise ValueError("index_df is for sweeps of one activation; this one patches several")
    chosen = list(range(n_pos)) if options.positions is None else [int(pos) for pos in options.positions]
    for pos in chosen:
        if not -n_pos <= pos < n_pos:
            raise IndexError(f"position {pos} is outside prompts of {n_pos} tokens")
    return [pos % n_pos for pos in chosen]


def _cells(sweep: Sweep, panel: Panel, positions: list[int], options: SweepOptions) -> Cells:
    """The cells to run: all of them, or the rows of index_df."""
    if options.index_df is None:
        return sweep.all_cells(positions if panel.by_pos else None)
    n_layers, n_pos, n_heads = sweep.run.n_layers, len(positions), sweep.patch.n_heads
    cells: Cells = {}
    for layer, pos, head in cells_in(panel, options.index_df):
        if not (0 <= layer < n_layers and 0 <= (pos or 0) < n_pos and 0 <= head < n_heads):
            raise IndexError(
                f"index_df has layer {layer}, position {pos}, head {head}: there are {n_layers} layers, {n_pos} positions, "
                f"{n_heads} heads"
            )
        cells.setdefault(pos, []).append((layer, head))
    return {pos: sorted(set(rows)) for pos, rows in cells.items()}


def _by_the_built_in(model, tokens, clean_cache, metric, sweep: str, options: SweepOptions) -> SweepResult:
    own = {"reduce": options.reduce, "baseline": options.baseline}
    if len(panels_of(sweep)) == 1:
        own["return_index_df"] = options.return_index_df
        own |= {} if options.index_df is None else {"index_df": options.index_df, "index_axis_names": None}
    return getattr(built_in, f"get_act_patch_{sweep}")(model, tokens, clean_cache, metric, **own)


def _named(sweep: str) -> Callable[..., SweepResult]:
    function, panels = partial(patch_sweep, sweep=sweep), SWEEPS[sweep]
    function.__doc__ = (
        f"Patch clean {', '.join(panel.name for panel in panels)} into the corrupted run, in every cell of "
        f"({', '.join(panels[0].axes)}). Arguments (model, corrupted_tokens, clean_cache, metric) and result: see "
        "`patch_sweep`; options: see `SweepOptions`."
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
