"""Unusual right answers for chapter 10."""

import numpy as np
import torch
import torch.nn.functional as F

from utils.patching.blocks import run_block


def cells_by_distance(clean, corrupted):
    """The largest difference in each cell, as nested lists of booleans."""
    return ((clean - corrupted).abs().amax(dim=(1, 3)) > 0).tolist()


def cells_one_by_one(clean, corrupted):
    """A loop over cells."""
    table = torch.zeros(clean.shape[0], clean.shape[2], dtype=torch.bool)
    for layer in range(clean.shape[0]):
        for pos in range(clean.shape[2]):
            table[layer, pos] = not torch.equal(clean[layer, :, pos], corrupted[layer, :, pos])
    return table


def cells_by_bits(clean, corrupted):
    """Bits compared, as numpy's booleans."""
    return np.any(clean.numpy().view(np.int32) ^ corrupted.numpy().view(np.int32), axis=(1, 3))


def from_layer_by_recursion(model, resid, layer):
    """One block, and then the rest."""
    if layer == model.cfg.n_layers:
        return model.unembed(model.ln_final(resid))
    return from_layer_by_recursion(model, run_block(model, layer, resid), layer + 1)


def from_layer_prompt_by_prompt(model, resid, layer):
    """Every prompt on its own, joined at the end."""
    rows = []
    for row in resid.split(1):
        for later in list(range(model.cfg.n_layers))[layer:]:
            row = run_block(model, later, row)
        rows.append(model.unembed(model.ln_final(row)))
    return torch.cat(rows)


def attention_by_torch(q, k, v, k_prefix, v_prefix):
    """torch's own attention."""
    n, start = q.shape[1], k_prefix.shape[1]
    k, v = torch.cat([k_prefix, k], 1), torch.cat([v_prefix, v], 1)
    mask = torch.arange(start + n)[None] <= torch.arange(start, start + n)[:, None]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)


def attention_query_by_query(q, k, v, k_prefix, v_prefix):
    """Every query and every head on its own, over the keys that it may read."""
    k, v = torch.cat([k_prefix, k], 1), torch.cat([v_prefix, v], 1)
    group, start, z = q.shape[2] // k.shape[2], k_prefix.shape[1], torch.empty_like(q)
    for i in range(q.shape[1]):
        for head in range(q.shape[2]):
            keys, values = (x[:, : start + i + 1, head // group] for x in (k, v))
            scores = (keys @ q[:, i, head, :, None])[..., 0] / q.shape[-1] ** 0.5
            z[:, i, head] = (scores.softmax(-1)[..., None] * values).sum(1)
    return z


def grown_from_a_list(model, clean, corrupted, pos):
    """Copies in a list, joined before every block."""
    copies = []
    for layer in range(len(corrupted)):
        patched = torch.cat(
            [corrupted[layer][:, :pos], clean[layer][:, pos : pos + 1], corrupted[layer][:, pos + 1 :]], 1
        )
        copies = list(run_block(model, layer, torch.cat([*copies, patched])).split(corrupted.shape[1]))
    return [model.unembed(model.ln_final(copy))[:, -1] for copy in copies]


def grown_in_place(model, clean, corrupted, pos):
    """In-place work on a copy of one's own."""
    mine = corrupted.clone()
    mine[:, :, pos] = clean[:, :, pos]
    running = mine[0]
    for layer in range(model.cfg.n_layers):
        running = run_block(model, layer, running if layer == 0 else torch.cat((running, mine[layer])))
    return model.unembed(model.ln_final(running))[:, -1].reshape(model.cfg.n_layers, corrupted.shape[1], -1)


RIGHT = {
    "cells_that_can_change": {"nested lists": cells_by_distance, "a loop": cells_one_by_one, "bits": cells_by_bits},
    "run_from_layer": {"recursion": from_layer_by_recursion, "prompt by prompt": from_layer_prompt_by_prompt},
    "attention_from_position": {"torch's own": attention_by_torch, "query by query": attention_query_by_query},
    "patch_every_layer": {"a list of tensors": grown_from_a_list, "a patched copy": grown_in_place},
}
