"""Unusual right answers for chapter 00."""

import numpy as np
import pandas as pd
import torch


def counted_by_hand(cache):
    """A loop over everything, as a numpy array of float64."""
    n_layers, n_heads = cache.model.cfg.n_layers, cache.model.cfg.n_heads
    table = np.zeros((n_layers, n_heads))
    for layer in range(n_layers):
        for head in range(n_heads):
            table[layer, head] = cache["pattern", layer][:, head, 1:, 0].double().mean().item()
    return table


def as_lists(cache):
    """Rows of 0-d tensors."""
    rows = []
    for layer in range(cache.model.cfg.n_layers):
        pattern = cache["pattern", layer]
        rows.append([pattern[:, head, 1:, 0].mean() for head in range(pattern.shape[1])])
    return rows


def by_mask(z, hook, head_index):
    """Times a mask of ones with one zero."""
    mask = torch.ones(z.shape[2])
    mask[head_index] = 0
    return z * mask[:, None]


def in_numpy(z, hook, **named):
    """A numpy copy, and named arguments in a dictionary."""
    z = z.numpy().copy()
    z[:, :, named["head_index"]] = 0
    return z


def by_where(z, hook=None, *, head_index):
    """Keyword-only, with where."""
    return torch.where(torch.arange(z.shape[2])[:, None] == head_index, torch.zeros(()), z)


def in_a_context(model, tokens, layer, head_index):
    """`with model.hooks`, and an ordinary call."""

    def zero(z, hook):
        out = z.clone()
        out[..., head_index, :] = 0
        return out

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)]):
        return model(tokens)


def by_attn_out(model, tokens, layer, head_index):
    """What the head writes is taken off the layer's output."""

    def less(attn_out, hook):
        return attn_out - kept["z"][:, :, head_index] @ model.W_O[layer, head_index]

    kept = {}
    hooks = [
        (f"blocks.{layer}.attn.hook_z", lambda z, hook: kept.update(z=z)),
        (f"blocks.{layer}.hook_attn_out", less),
    ]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


class InAnObject:
    """A callable object, and a pandas table."""

    def __call__(self, cache):
        return pd.DataFrame(counted_by_hand(cache))


def by_a_hook_of_ones_own(model, tokens, layer, head_index):
    """A hook added to the point, and taken away again, and no other."""

    def zero(z, hook):
        return z.index_fill(2, torch.tensor([head_index]), 0.0)

    point = model.hook_dict[f"blocks.{layer}.attn.hook_z"]
    before = list(point.fwd_hooks)
    point.add_hook(zero)
    logits = model(tokens)
    for mine in [hook for hook in point.fwd_hooks if hook not in before]:
        mine.hook.remove()
        point.fwd_hooks.remove(mine)
    return logits


RIGHT = {
    "attention_to_first_token": {
        "a numpy array from loops": counted_by_hand,
        "lists of tensors": as_lists,
        "an object": InAnObject(),
    },
    "zero_head": {"a mask": by_mask, "where, with a keyword": by_where, "numpy": in_numpy},
    "logits_without_head": {
        "a context of hooks": in_a_context,
        "the head's output taken off": by_attn_out,
        "own hook": by_a_hook_of_ones_own,
    },
}
