"""The values of a sweep in the order in which TransformerLens returns them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor
from transformer_lens.patching import PatchingResult

from utils.patching.options import Metrics, SweepOptions
from utils.patching.panels import Panel

SweepResult = Tensor | tuple[Tensor, pd.DataFrame] | PatchingResult


def as_result(
    panels: Sequence[Panel],
    values: Sequence[Tensor],
    unpatched: Tensor,
    positions: list[int],
    metrics: Metrics,
    options: SweepOptions,
) -> SweepResult:
    """What a sweep returns, of each panel's values [layer, pos, head, metric, batch?] and the unpatched [metric, batch?]."""
    if options.reduce == "mean":
        values, unpatched = [value.mean(-1) for value in values], unpatched.mean(-1)
    if options.index_df is None:
        out, names, index = _by_axes(panels, values, positions)  # [metric, *axes, batch?]
    else:
        out, names, index = _by_rows(panels[0], values[0], options.index_df), [], options.index_df
    if not (metrics.several or options.baseline or options.reduce == "none"):
        return (out[0], index) if options.return_index_df else out[0]
    return PatchingResult(
        values=out if metrics.several else out[0],
        axis_names=names,
        index_df=index,
        metric_names=metrics.names,
        reduced=options.reduce != "none",
        baseline=unpatched if metrics.several else unpatched[0],
        has_metric_axis=metrics.several,
        patch_type_names=[panel.name for panel in panels] if len(panels) > 1 else None,
    )


def _by_axes(
    panels: Sequence[Panel], values: Sequence[Tensor], positions: list[int]
) -> tuple[Tensor, list[str], pd.DataFrame]:
    """[metric, *axes, batch?], the names of the axes, and a row for each cell; several panels are stacked on a first axis."""
    panel, n_heads = panels[0], max(value.shape[2] for value in values)
    out = torch.stack([_with_zero_rows(value, n_heads) for value in values]).movedim(4, 0)
    axes = {"metric": True, "patch_type": len(panels) > 1, "layer": True, "pos": panel.by_pos, "head": panel.by_head}
    if panel.by_pos:
        out = out[:, :, :, positions]
    if "dest_pos" in panel.axes:  # patterns: the head comes before the position
        out, axes = out.transpose(3, 4), {name: axes[name] for name in ("metric", "patch_type", "layer", "head", "pos")}
    out = out[tuple(slice(None) if swept else 0 for swept in axes.values())]
    index = panel.index(values[0].shape[0], positions, n_heads)
    if len(panels) == 1:
        return out, list(panel.axes), index
    stacked = pd.concat([index] * len(panels), keys=range(len(panels)), names=["patch_type"])
    stacked = stacked.reset_index("patch_type").reset_index(drop=True)
    return out, ["patch_type", *panel.axes], stacked


def _with_zero_rows(value: Tensor, n_heads: int) -> Tensor:
    """Key/value heads are fewer than query heads; the built-in fills up with zeros, and so does this."""
    missing = value.new_zeros(*value.shape[:2], n_heads - value.shape[2], *value.shape[3:])
    return torch.cat([value, missing], dim=2)


def _by_rows(panel: Panel, value: Tensor, cells: pd.DataFrame) -> Tensor:
    """[metric, rows, batch?]: one element for each row of a DataFrame of cells."""
    picked = torch.stack([value[layer, pos or 0, head] for layer, pos, head in cells_in(panel, cells)])
    return picked.movedim(1, 0)


def cells_in(panel: Panel, cells: pd.DataFrame) -> list[tuple[int, int | None, int]]:
    """Layer, position (None where it is not swept) and head (0 where it is not) of every row of a DataFrame of cells."""
    if sorted(cells.columns) != sorted(panel.axes):
        raise ValueError(f"index_df has the columns {list(cells.columns)}; this sweep has the axes {list(panel.axes)}")
    if not len(cells):
        raise ValueError("index_df has no rows: there is no cell to run")
    columns = cells.rename(columns={"dest_pos": "pos", "head_index": "head"}).astype(int)
    return [(row.layer, getattr(row, "pos", None), getattr(row, "head", 0)) for row in columns.itertuples()]
