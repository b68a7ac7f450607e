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


def slope_by_least_squares(before, after):
    """numpy's least squares, with one column and no constant."""
    return 1 - np.linalg.lstsq(before.numpy()[:, None], after.numpy(), rcond=None)[0][0]


def matched_by_shuffling(heads, n_heads, rng):
    """Each layer's heads shuffled, and taken from the top as they are needed; lists in place of pairs."""
    stacks, found = {}, []
    for layer, _ in heads:
        if layer not in stacks:
            stacks[layer] = list(range(n_heads))
            rng.shuffle(stacks[layer])
        found.append([layer, stacks[layer].pop()])
    return found


def matched_by_numbers(heads, n_heads, rng):
    """Every head of a layer gets a random number; the smallest are taken. A tensor."""
    layers = [layer for layer, _ in heads]
    rows = []
    for layer in sorted(set(layers)):
        order = sorted(range(n_heads), key=lambda head: rng.random())
        rows += [(layer, head) for head in order[: layers.count(layer)]]
    return torch.tensor(rows)


def projected_by_a_matrix(model, tokens, direction, layer, positions):
    """One matrix, for the stream at the chosen positions."""
    keep = torch.eye(len(direction)) - torch.outer(direction, direction) / (direction @ direction)
    chosen = torch.zeros(tokens.shape, dtype=torch.bool)
    chosen[torch.arange(len(tokens)), positions] = True

    def edit(stream, hook):
        return torch.where(chosen[..., None], stream @ keep, stream)

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", edit)])


def projected_row_by_row(model, tokens, direction, layer, positions):
    """A run for every row, edited in place, in a context."""
    rows = []
    for row, position in zip(tokens, positions.tolist(), strict=True):

        def edit(stream, hook, at=position):
            x = stream[0, at]
            stream[0, at] = x - (x @ direction) / (direction @ direction) * direction
            return stream

        with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", edit)]):
            rows.append(model(row[None])[0])
    return torch.stack(rows)


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
    "slope_removed": {
        "numpy's least squares": slope_by_least_squares,
        "a float": lambda before, after: float((before * (before - after)).mean() / (before @ before) * len(before)),
    },
    "matched_heads": {"shuffled": matched_by_shuffling, "sorted by random numbers": matched_by_numbers},
    "run_projected": {"a matrix": projected_by_a_matrix, "row by row": projected_row_by_row},
}
