"""Unusual right answers for chapter 08."""

import numpy as np
import torch
from scipy.spatial.distance import pdist

from utils import patching
from utils.attribution import apply_final_norm, decompose_at


def aligned_by_strings(model, pairs):
    """Token strings in place of ids, and lists in place of pairs."""
    found = []
    for i, pair in enumerate(pairs):
        a, b = (model.to_str_tokens(text) for text in pair)
        differing = [p for p, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
        if len(a) == len(b) and len(differing) == 1:
            found.append([i, differing[0]])
    return found


def aligned_as_tensors(model, pairs):
    """A tuple of pairs whose positions are 0-d tensors."""
    rows = [[model.to_tokens(text)[0] for text in pair] for pair in pairs]
    same_length = [(i, a != b) for i, (a, b) in enumerate(rows) if a.shape == b.shape]
    return tuple((i, differs.int().argmax()) for i, differs in same_length if differs.sum() == 1)


def direction_by_weights(model, unfavorable, favorable):
    """One product with a vector of weights over the vocabulary, in double precision."""
    weights = torch.zeros(model.cfg.d_vocab, dtype=torch.float64)
    weights[unfavorable] += 1 / len(unfavorable)
    weights[favorable] -= 1 / len(favorable)
    return model.W_U.double() @ weights


def direction_as_numpy(model, unfavorable, favorable):
    """A numpy array."""
    columns = model.W_U.detach().numpy()
    return np.mean(columns[:, unfavorable.numpy()], axis=1) - np.mean(columns[:, favorable.numpy()], axis=1)


def reconcile_by_components(model, logits, cache, answers):
    """Components in place of the final stream, as a list of two rows."""
    u, f = answers
    read = apply_final_norm(decompose_at(cache), cache).sum(0) @ (model.W_U[:, u].mean(1) - model.W_U[:, f].mean(1))
    preference = logits[:, -1, u].mean(1) - logits[:, -1, f].mean(1)
    without = preference - read
    return [without, without - (model.b_U[u].mean() - model.b_U[f].mean())]


def reconcile_by_the_norm(model, logits, cache, answers):
    """The model's own final norm and unembedding."""
    u, f = answers
    normed = model.ln_final(cache["resid_post", model.cfg.n_layers - 1])[:, -1]
    both = torch.stack([logits[:, -1] - normed @ model.W_U, logits[:, -1] - (normed @ model.W_U + model.b_U)])
    return both[..., u].mean(-1) - both[..., f].mean(-1)


def components_one_by_one(aae, sae, direction):
    """A list of floats, component by component."""
    model, values = aae.model, []
    names = [("resid_pre", 0)]
    names += [(name, layer) for layer in range(model.cfg.n_layers) for name in ("attn_out", "mlp_out")]
    for name, layer in names:
        one, other = (apply_final_norm(cache[name, layer][:, -1], cache) @ direction for cache in (aae, sae))
        values.append((one - other).mean().item())
    return values


def components_by_cache(aae, sae, direction):
    """decompose_resid and apply_ln_to_stack."""
    parts = []
    for cache in (aae, sae):
        stack = cache.decompose_resid(layer=-1, pos_slice=-1, mode="all")
        parts.append(cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1) @ direction)
    total = (parts[0] - parts[1]).mean(dim=1)
    n = 2 * aae.model.cfg.n_layers + 1
    return torch.cat([total[: len(total) - n + 1].sum(0, keepdim=True), total[len(total) - n + 1 :]])


def patched_by_hooks(model, aae_tokens, sae_tokens, answers):
    """A plain loop of hooked runs."""
    u, f = answers

    def preference(logits):
        return (logits[:, -1, u].mean(1) - logits[:, -1, f].mean(1)).mean()

    logits, cache = model.run_with_cache(aae_tokens)
    top, bottom = preference(logits), preference(model(sae_tokens))
    table = np.zeros((model.cfg.n_layers, sae_tokens.shape[1]))
    for layer, pos in np.ndindex(table.shape):

        def put(stream, hook, layer=layer, pos=pos):
            return torch.cat([stream[:, :pos], cache["resid_pre", layer][:, pos : pos + 1], stream[:, pos + 1 :]], 1)

        patched = model.run_with_hooks(sae_tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", put)])
        table[layer, pos] = (preference(patched) - bottom) / (top - bottom)
    return table


def patched_then_rescaled(model, aae_tokens, sae_tokens, answers):
    """The sweep in logits, rescaled afterwards."""
    u, f = answers

    def preference(logits):
        return logits[:, -1][:, u].mean() - logits[:, -1][:, f].mean()

    logits, cache = model.run_with_cache(aae_tokens)
    raw = patching.get_act_patch_resid_pre(model, sae_tokens, cache, preference, progress=False)
    start = preference(model(sae_tokens))
    return (raw - start) / (preference(logits) - start)


def cosine_by_the_mean_unit(vectors):
    """The squared length of the sum of unit vectors holds every cosine twice, and n ones."""
    units = torch.nn.functional.normalize(vectors.double(), dim=1)
    n = units.shape[0]
    return ((units.sum(0) @ units.sum(0)).item() - n) / (n * n - n)


RIGHT = {
    "aligned_pairs": {"token strings": aligned_by_strings, "tensors in a tuple": aligned_as_tensors},
    "gap_direction": {"weights": direction_by_weights, "numpy": direction_as_numpy},
    "reconcile": {"components": reconcile_by_components, "the model's norm": reconcile_by_the_norm},
    "gap_by_component": {"a list of floats": components_one_by_one, "decompose_resid": components_by_cache},
    "patch_guise": {"hooked runs": patched_by_hooks, "rescaled afterwards": patched_then_rescaled},
    "compare_with_null": {
        "a loop, as lists": lambda observed, null: [
            [
                (1 + sum(abs(swap[i, j]) >= abs(value) for swap in null).item()) / (1 + len(null))
                for j, value in enumerate(row)
            ]
            for i, row in enumerate(observed)
        ],
        "the observed map among the others": lambda observed, null: (
            (torch.cat([null, observed[None]]).abs() >= observed.abs()).double().mean(0)
        ),
    },
    "mean_cosine": {
        "scipy's distances": lambda vectors: 1 - pdist(vectors.numpy(), "cosine").mean(),
        "from the sum of unit vectors, as a float": cosine_by_the_mean_unit,
    },
}
