"""The sweeps by name: which activations each of them patches, and along which axes."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from transformer_lens.patching import make_df_from_ranges

HEAD_SITES = ("z", "q", "k", "v", "pattern")


class Panel(NamedTuple):
    """One activation, patched in every cell of some axes. axes: TransformerLens' names, the layer first."""

    site: str
    axes: tuple[str, ...]

    @property
    def by_pos(self) -> bool:
        return "pos" in self.axes or "dest_pos" in self.axes

    @property
    def by_head(self) -> bool:
        return self.site in HEAD_SITES

    @property
    def name(self) -> str:
        """TransformerLens calls the panel of z "out"."""
        return {"z": "out"}.get(self.site, self.site)

    def index(self, n_layers: int, positions: list[int], n_heads: int) -> pd.DataFrame:
        """A DataFrame of all cells, one row each, one column for each axis."""
        sizes = {"layer": n_layers, "pos": len(positions), "dest_pos": len(positions)}
        index = make_df_from_ranges([sizes.get(axis, n_heads) for axis in self.axes], self.axes)
        for axis in {"pos", "dest_pos"} & set(self.axes):
            index[axis] = [positions[i] for i in index[axis]]
        return index


RESIDUAL = ("layer", "pos")
ALL_POS = {site: ("layer", "head_index" if site == "pattern" else "head") for site in HEAD_SITES}
BY_POS = dict.fromkeys(HEAD_SITES, ("layer", "pos", "head")) | {"pattern": ("layer", "head_index", "dest_pos")}

SWEEPS = {
    **{site: [Panel(site, RESIDUAL)] for site in ("resid_pre", "resid_mid", "attn_out", "mlp_out")},
    **{f"attn_head_{Panel(site, axes).name}_all_pos": [Panel(site, axes)] for site, axes in ALL_POS.items()},
    **{f"attn_head_{Panel(site, axes).name}_by_pos": [Panel(site, axes)] for site, axes in BY_POS.items()},
    "block_every": [Panel(site, RESIDUAL) for site in ("resid_pre", "attn_out", "mlp_out")],
    "attn_head_all_pos_every": [Panel(site, ALL_POS["z"]) for site in HEAD_SITES],
    "attn_head_by_pos_every": [Panel(site, BY_POS["z"]) for site in HEAD_SITES],
}


def panels_of(sweep: str) -> list[Panel]:
    """The panels of a named sweep. Raises ValueError with the names that there are."""
    if sweep not in SWEEPS:
        raise ValueError(f"sweep {sweep!r} is not one of {', '.join(SWEEPS)}")
    return SWEEPS[sweep]
