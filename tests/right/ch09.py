"""Unusual right answers for chapter 09."""

from functools import partial
from math import comb

import numpy as np
import scipy.stats
import torch


def mean_by_weights(model, tokens, mask):
    """Weights in place of an index, and a cache of z alone."""
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_z"))
    weights = mask.double().clone()
    weights[:, 0] = 0
    rows = [torch.einsum("bphd,bp->hd", cache["z", layer].double(), weights) for layer in range(model.cfg.n_layers)]
    return torch.stack(rows) / weights.sum()


def mean_prompt_by_prompt(model, tokens, mask):
    """Every prompt on its own, unpadded, as a numpy array."""
    total, count = 0, 0
    for row, real in zip(tokens, mask, strict=True):
        _, cache = model.run_with_cache(row[: int(real.sum())][None])
        z = np.stack([cache["z", layer][0, 1:].numpy() for layer in range(model.cfg.n_layers)])
        total, count = total + z.sum(1), count + z.shape[1]
    return total / count


def ablate_by_layer(model, tokens, heads, means):
    """One hook per layer, in a context."""

    def hook_for(layer, chosen):
        def put(z, hook):
            out = z.clone()
            for head in chosen:
                out[:, 1:, head, :] = means[layer][head]
            return out

        return f"blocks.{layer}.attn.hook_z", put

    by_layer = {layer: [h for la, h in heads if la == layer] for layer, _ in heads}
    with model.hooks(fwd_hooks=[hook_for(layer, chosen) for layer, chosen in by_layer.items()]):
        return model(tokens)


def ablate_in_place(model, tokens, heads, means):
    """In place, in the run's own activation."""

    def put(z, hook, head, value):
        z[:, 1:, head] = value
        return z

    hooks = [
        (f"blocks.{layer}.attn.hook_z", partial(put, head=head, value=means[layer, head])) for layer, head in heads
    ]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


RIGHT = {
    "mean_z": {"weights in double precision": mean_by_weights, "prompt by prompt, in numpy": mean_prompt_by_prompt},
    "ablate_heads": {"a hook per layer": ablate_by_layer, "in place": ablate_in_place},
    "share_removed": {
        "a float": lambda before, after: 1 - float(after.sum() / before.sum()),
        "numpy": lambda before, after: np.float64(1.0) - np.mean(after.numpy()) / np.mean(before.numpy()),
    },
    "overlap_p": {
        "counted out by hand": lambda one, other, n_total: sum(
            comb(len(one), k) * comb(n_total - len(one), len(other) - k) / comb(n_total, len(other))
            for k in range(len({*one} & {*other}), min(len(one), len(other)) + 1)
        ),
        "the other distribution function, as an array": lambda one, other, n_total: np.asarray(
            1 - scipy.stats.hypergeom.cdf(len([h for h in one if h in other]) - 1, n_total, len(other), len(one))
        ),
    },
}
