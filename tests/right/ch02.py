"""Unusual right answers for chapter 02."""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from utils import attribution


def by_built_in(model, answer_tokens):
    """The built-in's columns, and their difference."""
    columns = model.tokens_to_residual_directions(answer_tokens)
    return columns[:, 0] - columns[:, 1]


def row_by_row(model, answer_tokens):
    """A list of vectors."""
    return [model.W_U.T[correct] - model.W_U.T[incorrect] for correct, incorrect in answer_tokens.tolist()]


def by_einsum(stack, cache, directions, per_prompt=False):
    """One einsum, in double precision."""
    scale = cache["ln_final.hook_scale"][:, -1, 0].double()
    each = torch.einsum("...bd,bd,b->...b", stack.double(), directions.double(), 1 / scale)
    return each if per_prompt else each.mean(-1)


def by_the_cache(stack, cache, directions, per_prompt=False):
    """The cache's own norm, whatever the number of axes."""
    flat = stack.reshape(-1, *stack.shape[-2:])
    each = (cache.apply_ln_to_stack(flat, layer=-1, pos_slice=-1) * directions).sum(-1).reshape(stack.shape[:-1])
    return each if per_prompt else each.mean(-1)


def total_by_hand(model, cache, answer_tokens):
    """The parts named one by one."""
    parts = [cache["resid_pre", 0][:, -1]]
    for layer in range(model.cfg.n_layers):
        parts += [cache["attn_out", layer][:, -1], cache["mlp_out", layer][:, -1]]
    read = sum(parts) / cache["ln_final.hook_scale"][:, -1]
    logits = torch.einsum("bd,dba->ba", read, model.W_U[:, answer_tokens]) + model.b_U[answer_tokens]
    return logits[:, 0] - logits[:, 1]


def heads_one_by_one(model, cache, directions):
    """A numpy table, head by head."""
    table = np.empty((model.cfg.n_layers, model.cfg.n_heads))
    scale = cache["ln_final.hook_scale"][:, -1]
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            written = cache["z", layer][:, -1, head] @ model.W_O[layer, head]
            table[layer, head] = (written / scale * directions).sum(-1).mean()
    return table


def heads_by_stack(model, cache, directions):
    """stack_head_results."""
    results = cache.stack_head_results(layer=-1, pos_slice=-1)
    each = (results / cache["ln_final.hook_scale"][:, -1] * directions).sum(-1).mean(-1)
    return each.reshape(model.cfg.n_layers, -1)


def by_sorting(attributions, k, sign=1):
    """A tuple of tuples, sorted."""
    n_layers, n_heads = attributions.shape
    cells = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    return tuple(sorted(cells, key=lambda cell: -sign * attributions[cell].item())[:k])


RIGHT = {
    "logit_diff_directions": {
        "the built-in": by_built_in,
        "a list of vectors": row_by_row,
        "one-hot vectors": lambda model, answer_tokens: (
            F.one_hot(answer_tokens, model.cfg.d_vocab).double().diff(dim=1)[:, 0] @ -model.W_U.T.double()
        ),
    },
    "residual_stack_to_logit_diff": {"one einsum in double precision": by_einsum, "the cache's norm": by_the_cache},
    "attribution_total": {
        "parts by name": total_by_hand,
        "the course's own": lambda model, cache, answer_tokens: attribution.attribution_total(
            model, cache, answer_tokens
        ),
    },
    "head_attributions": {"numpy, head by head": heads_one_by_one, "stack_head_results": heads_by_stack},
    "top_heads": {
        "a tuple of tuples": by_sorting,
        "pandas": lambda attributions, k, sign=1: list(
            (sign * pd.DataFrame(attributions.numpy()).stack()).nlargest(k).index
        ),
        "numpy's integers, the last of equals first": lambda attributions, k, sign=1: [
            np.unravel_index(attributions.numel() - 1 - flat, attributions.shape)
            for flat in np.argsort(-sign * attributions.numpy().ravel()[::-1], kind="stable")[:k]
        ],
        "numpy's argsort": lambda attributions, k, sign=1: [
            [int(i) for i in np.unravel_index(flat, attributions.shape)]
            for flat in np.argsort(-sign * attributions.numpy(), axis=None)[:k]
        ],
    },
}
