"""Unusual right answers for chapter 04."""

import itertools
from functools import partial
from statistics import fmean
from types import MappingProxyType

import numpy as np
import torch

from utils import ablation
from utils.attribution import head_results


def scores_by_matmul(model, tokens, seq_len):
    """A table of cells for each score, with one entry more than was asked for."""
    _, cache = model.run_with_cache(tokens)
    n, start = tokens.shape[1], tokens.shape[1] - 2 * seq_len
    distance = torch.arange(n)[:, None] - torch.arange(n)[None]
    scores = {}
    for name, offset in {"previous_token": 1, "duplicate_token": seq_len, "induction": seq_len - 1, "self": 0}.items():
        cells = (distance == offset) & (torch.arange(n) >= start)[None] & (torch.arange(n) >= start)[:, None]
        rows = [(cache["pattern", i] * cells).sum((-1, -2)).mean(0) / cells.sum() for i in range(model.cfg.n_layers)]
        scores[name] = torch.stack(rows)
    return scores


def scores_in_numpy(model, tokens, seq_len):
    """numpy arrays, cell by cell."""
    _, cache = model.run_with_cache(tokens)
    first = tokens.shape[1] - 2 * seq_len
    found = {}
    for name, offset in (("induction", seq_len - 1), ("duplicate_token", seq_len), ("previous_token", 1)):
        table = np.zeros((model.cfg.n_layers, model.cfg.n_heads))
        for layer in range(model.cfg.n_layers):
            pattern = cache["pattern", layer].numpy()
            queries = range(first + offset, tokens.shape[1])
            table[layer] = np.mean([pattern[:, :, q, q - offset].mean(0) for q in queries], axis=0)
        found[name] = table
    return found


def ablate_by_run_with_hooks(model, tokens, layer, head):
    """Two hooked runs, one for the logits, and a list."""

    def zero(z, hook):
        mask = torch.ones_like(z)
        mask[:, -1, head] = 0
        return z * mask

    hook = (f"blocks.{layer}.attn.hook_z", zero)
    logits = model.run_with_hooks(tokens, fwd_hooks=[hook])
    with model.hooks(fwd_hooks=[hook]):
        return [logits, model.run_with_cache(tokens)[1]]


def ablate_by_the_course(model, tokens, layer, head):
    """The course's own functions."""
    return ablation.run_with_cache_and_hooks(
        model, tokens, ablation.set_heads([(layer, head)], [torch.zeros(model.cfg.d_head)])
    )


def change_head_by_head(model, clean_cache, ablated_cache, directions):
    """Lists of floats, head by head, in double precision."""

    def effect(cache, layer, head):
        written = (cache["z", layer][:, -1, head] @ model.W_O[layer, head]).double()
        if model.cfg.normalization_type.startswith("LN"):
            written = written - written.mean(-1, keepdim=True)
        return (written / cache["ln_final.hook_scale"][:, -1] * directions).sum(-1).mean().item()

    cells = [[(layer, head) for head in range(model.cfg.n_heads)] for layer in range(model.cfg.n_layers)]
    return [[effect(ablated_cache, *cell) - effect(clean_cache, *cell) for cell in row] for row in cells]


def change_by_results(model, clean_cache, ablated_cache, directions):
    """What heads write, normalized by the cache."""
    n = model.cfg.n_layers, model.cfg.n_heads

    def effects(cache):
        stack = head_results(model, cache).flatten(0, 1)
        return (cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1) * directions).sum(-1).mean(-1).unflatten(0, n)

    return effects(ablated_cache) - effects(clean_cache)


def mean_ablate_by_layer(model, tokens, heads, reference_cache):
    """One hook per layer, in a context, on a copy."""

    def put(z, hook, layer):
        z = z.clone()
        for chosen, head in heads:
            if chosen == layer:
                z[:, -1, head] = reference_cache["z", layer][:, -1].mean(0)[head]
        return z

    hooks = [(f"blocks.{layer}.attn.hook_z", partial(put, layer=layer)) for layer in {layer for layer, _ in heads}]
    with model.hooks(fwd_hooks=hooks):
        return model(tokens)


def mean_ablate_by_the_course(model, tokens, heads, reference_cache):
    """The course's own functions."""
    hooks = ablation.set_heads(heads, ablation.mean_z_at_end(reference_cache, heads))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def routes_by_formula(model, clean_cache, ablated_cache, directions, layer, head):
    """Shapley's weights in place of all orders, as a list."""
    factors = []
    for cache in (clean_cache, ablated_cache):
        pattern, written, scale = ablation.direct_effect_factors(model, cache, directions)
        factors.append((pattern[layer, :, head], written[layer, :, head], scale))

    def effect(changed):
        p, w, s = (factors[i in changed][i] for i in range(3))
        return ((p * w).sum(-1) / s).mean().item()

    routes = []
    for i in range(3):
        others = [j for j in range(3) if j != i]
        subsets = [set(c) for n in range(3) for c in itertools.combinations(others, n)]
        weights = [1 / 3 if len(subset) != 1 else 1 / 6 for subset in subsets]
        routes.append(sum(w * (effect(s | {i}) - effect(s)) for w, s in zip(weights, subsets, strict=True)))
    return routes


def routes_of_the_course(model, clean_cache, ablated_cache, directions, layer, head):
    """The course's own function for every head, of which one is taken."""
    return ablation.change_by_route(model, clean_cache, ablated_cache, directions)[:, layer, head]


def mean_ablate_in_one_hook(model, tokens, heads, reference_cache):
    """One hook function for all layers, found by name."""

    def put(z, hook):
        layer = int(hook.name.split(".")[1])
        for head in [head for of, head in heads if of == layer]:
            z[:, -1, head] = reference_cache[hook.name][:, -1, head].sum(0) / len(reference_cache[hook.name])

    return model.run_with_hooks(tokens, fwd_hooks=[(lambda name: name.endswith("attn.hook_z"), put)])


RIGHT = {
    "head_scores": {
        "a table of cells, and an extra key": scores_by_matmul,
        "numpy, in another order": scores_in_numpy,
        "read only": lambda *given, **named: MappingProxyType(scores_in_numpy(*given, **named)),
    },
    "ablate_at_end": {"two runs, as a list": ablate_by_run_with_hooks, "the course's own": ablate_by_the_course},
    "direct_effect_change": {"lists of floats": change_head_by_head, "the cache's norm": change_by_results},
    "layernorm_ratio": {
        "a float": lambda clean_cache, ablated_cache: (
            (clean_cache["ln_final.hook_scale"] / ablated_cache["ln_final.hook_scale"])[:, -1].mean().item()
        ),
        "a number of numpy's, from floats": lambda clean_cache, ablated_cache: np.array(
            fmean((clean_cache["ln_final.hook_scale"] / ablated_cache["ln_final.hook_scale"])[:, -1, 0].tolist())
        ),
        "numpy": lambda clean_cache, ablated_cache: np.mean(
            clean_cache["ln_final.hook_scale"].numpy()[:, -1, 0]
            / ablated_cache["ln_final.hook_scale"].numpy()[:, -1, 0]
        ),
    },
    "mean_ablate": {
        "a hook per layer": mean_ablate_by_layer,
        "the course's own": mean_ablate_by_the_course,
        "one hook": mean_ablate_in_one_hook,
    },
    "backup_by_route": {"Shapley's weights": routes_by_formula, "the course's own": routes_of_the_course},
}
