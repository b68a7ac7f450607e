"""The activations that a sweep patches: where clean and corrupted ones differ, and where a patch joins the stream."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities import get_act_name

from utils.patching.panels import HEAD_SITES
from utils.patching.resumable import CorruptedRun, Group, Joins

FLOAT_ERROR = 1e-5  # relative, of an activation that two float32 passes compute

Cell = tuple[int, int]  # layer and head; head 0 where heads are not swept


class Patch:
    """The clean activations of one site, to be put into the corrupted run."""

    def __init__(self, run: CorruptedRun, site: str, clean_cache: ActivationCache) -> None:
        self.run, self.site = run, site
        self.clean = [clean_activation(clean_cache, site, layer, run.real) for layer in range(run.n_layers)]
        self.n_heads = self.clean[0].shape[1 if site == "pattern" else 2] if site in HEAD_SITES else 1
        self.changed, self.first = where_runs_differ(run, site, self.clean)
        if (self.first == run.real.shape[1]).all():
            raise ValueError(
                f"clean and corrupted runs have the same {site} everywhere: nothing to patch. "
                "Is clean_cache from the clean tokens, and are corrupted_tokens the corrupted ones?"
            )

    def can_change(self, layer: int, pos: int | None) -> bool:
        """Whether a patch in that layer, at `pos` or at every position (None), changes anything at all."""
        changed = self.changed[layer]
        return bool((changed if pos is None else changed[:, pos]).any())

    def joins(self, cells: list[Cell], pos: int | None) -> Joins:
        """The patched residual streams of these cells, by where they join the pass."""
        heads: dict[int, list[int]] = {}
        for layer, head in cells:
            heads.setdefault(layer, []).append(head)
        if self.site in HEAD_SITES:
            return {("mlp", layer): partial(self._with_heads, layer, pos, chosen) for layer, chosen in heads.items()}
        before, later = {"resid_pre": ("attention", 0), "mlp_out": ("attention", 1)}.get(self.site, ("mlp", 0))
        return {(before, layer + later): partial(self._with_output, layer, pos) for layer in heads}

    def _with_output(self, layer: int, pos: int, group: Group) -> Float[Tensor, "1 batch n d_model"]:
        """The residual stream just after the patched activation has been added to it, or has taken its place."""
        run, clean = self.run, self.clean[layer][group.prompts, pos]
        if self.site == "resid_pre":
            unpatched, patched = run.resid_pre[layer], clean
        elif self.site == "resid_mid":
            unpatched, patched = run.resid_mid[layer], clean
        elif self.site == "attn_out":
            unpatched, patched = run.resid_mid[layer], run.resid_pre[layer][group.prompts, pos] + clean
        else:
            unpatched, patched = run.resid_pre[layer + 1], run.resid_mid[layer][group.prompts, pos] + clean
        x = unpatched[group.prompts, group.start :]  # a copy
        if group.start <= pos:
            x[:, pos - group.start] = patched
        return x.unsqueeze(0)

    def _with_heads(
        self, layer: int, pos: int | None, heads: list[int], group: Group
    ) -> Float[Tensor, "head batch n d_model"]:
        """resid_mid with one head's (or one key/value head's) change of z sent through its rows of W_O, for each head."""
        patched = self.run.head_z(layer, group, self.site, self.clean[layer][group.prompts], pos)
        change = patched - self.run.head_z(layer, group)  # [batch, n, query head, d_head]
        change = change.unflatten(2, (self.n_heads, -1)).flatten(3)[:, :, heads]  # [batch, n, head, queries * d_head]
        W_O = self.run.blocks[layer].attn.W_O.flatten(0, 1).unflatten(0, (self.n_heads, -1))[heads]
        return self.run.resid_mid[layer][group.prompts, group.start :] + torch.einsum("bnhd,hdm->hbnm", change, W_O)


def where_runs_differ(
    run: CorruptedRun, site: str, other: Sequence[Tensor]
) -> tuple[Bool[Tensor, "layer batch pos"], Int[Tensor, " batch"]]:
    """Real positions at which another run's activations, one tensor for each layer, are not this run's; and the first
    position of each prompt at which they differ by more than the error of another float pass, or pos where none does.

    Before a prompt's first difference the two runs are equal but for such error, since the model is causal.
    """
    changed, beyond_error = [], torch.zeros_like(run.real)
    for layer in range(run.n_layers):
        theirs, ours = other[layer], run.activation(site, layer)
        if site == "pattern":
            theirs, ours = theirs.transpose(1, 2), ours.transpose(1, 2)
        off, scale = (x.flatten(2).norm(dim=-1) for x in (theirs - ours, ours))
        if site in ("attn_out", "mlp_out"):  # a difference of two streams, and as exact as those are
            streams = (run.resid_pre[layer], run.resid_mid[layer], run.resid_pre[layer + 1])
            scale = sum(stream.norm(dim=-1) for stream in streams)
        changed.append((off > 0) & run.real)
        beyond_error |= (off > FLOAT_ERROR * scale) & run.real
    n_pos = run.real.shape[1]
    return torch.stack(changed), torch.where(beyond_error.any(1), beyond_error.long().argmax(1), n_pos)


def clean_activation(clean_cache: ActivationCache, site: str, layer: int, real: Bool[Tensor, "batch pos"]) -> Tensor:
    """The clean activation to patch in. Raises KeyError or ValueError where it does not fit the corrupted tokens."""
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
    by_query = clean.transpose(1, 2) if site == "pattern" and clean.ndim == 4 else clean
    expected = (n_prompts, n_pos, clean.shape[1], n_pos) if site == "pattern" else (n_prompts, n_pos)
    if clean.ndim != (4 if site in HEAD_SITES else 3) or by_query.shape[: len(expected)] != expected:
        raise ValueError(
            f"clean_cache[{name!r}] is {tuple(clean.shape)}, but corrupted_tokens are {n_prompts} prompts of {n_pos} "
            "tokens: run clean and corrupted prompts with the same batch and the same padding"
        )
    return clean
