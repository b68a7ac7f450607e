"""Unusual right answers for chapter 11."""

from __future__ import annotations

import numpy as np
import torch

from tests.plain_paths import edge_by_hooks
from utils.circuits import discovery
from utils.circuits.graph import edge_graph


def mask_by_the_course(cfg):
    return edge_graph(cfg).exists


def mask_as_lists(cfg):
    """Nested lists, by comparing times of writing and reading."""
    shared = cfg.n_heads if cfg.n_key_value_heads is None else cfg.n_key_value_heads
    written, read = [-1], []
    for layer in range(cfg.n_layers):
        written += [4 * layer + 1] * cfg.n_heads + [4 * layer + 3]
        read += [4 * layer] * (cfg.n_heads + shared * 2) + [4 * layer + 2]
    return [[before < at for before in written] for at in [*read, 4 * cfg.n_layers]]


def exact_by_plain_runs(model, tokens, messages, metric, reader):
    base = metric(model(tokens)).item()
    return [edge_by_hooks(model, tokens, message, metric, reader).item() - base for message in messages]


def exact_by_the_modules(model, tokens, messages, metric, reader):
    """A head's input from the block's own norm and projection, in one run."""
    site, layer, head = reader
    base, found = metric(model(tokens)), np.zeros(len(messages))
    _, cache = model.run_with_cache(tokens)
    for i, message in enumerate(messages):
        if site in ("mlp", "logits"):
            name = "ln_final.hook_in" if site == "logits" else f"blocks.{layer}.ln2.hook_in"
            hook = (name, lambda x, hook, m=message: x.add(m))
        else:
            block = model.blocks[layer]
            told = getattr(block.attn, site)(block.ln1(cache["resid_pre", layer] + message)).unflatten(
                -1, (-1, model.cfg.d_head)
            )

            def put(x, hook, told=told):
                x[:, :, head] = told[:, :, head]
                return x

            hook = (f"blocks.{layer}.attn.hook_{site}", put)
        found[i] = (metric(model.run_with_hooks(tokens, fwd_hooks=[hook])) - base).item()
    return found


def eap_by_matrices(new, orig, gradients, exists):
    return torch.where(exists, gradients.flatten(1).double() @ (new - orig).flatten(1).double().T, 0.0)


def eap_in_numpy(new, orig, gradients, exists):
    return np.tensordot(gradients.numpy(), (new - orig).numpy(), axes=((1, 2, 3), (1, 2, 3))) * exists.numpy()


def ig_step_by_step(messages, gradients_at, exists, steps):
    """Scores at each point, then their mean."""
    width = 1.0 / steps
    found = [eap_by_matrices(messages, 0 * messages, gradients_at(width / 2 + i * width), exists) for i in range(steps)]
    return torch.stack(found).mean(0)


def ig_by_linspace(messages, gradients_at, exists, steps):
    total = torch.zeros(exists.shape)
    for share in torch.linspace(0.5 / steps, 1 - 0.5 / steps, steps):
        total = total + torch.einsum("rbpd,wbpd->rw", gradients_at(share), messages) / steps
    return total.masked_fill(~exists, 0.0)


def run_by_the_course(run, keep):
    return run.logits(keep[None])[0]


def run_with_a_growing_list(run, keep):
    """Lists of what has been written so far, reader by reader."""
    graph, written = run.graph, [run.gained_embedding]

    def heard(reader):
        chosen = [told for told, kept in zip(written, keep[reader].tolist(), strict=False) if kept]
        return sum(chosen, torch.zeros_like(written[0]))

    for layer in range(graph.n_layers):
        readers = graph.attention_readers(layer)
        written += list(run.heads_tell(layer, torch.stack([heard(r) for r in range(readers.start, readers.stop)])))
        written.append(run.mlp_tells(layer, heard(readers.stop)))
    return run.logits_of(heard(len(graph.readers) - 1))


def top_by_the_course(scores, exists, n, signed=False):
    return discovery.top_edges(scores, exists, n, signed)


def top_by_sorting(scores, exists, n, signed=False):
    """Python's sort, lists of booleans."""
    value = (lambda e: scores[e].item()) if signed else (lambda e: abs(scores[e].item()))
    best = sorted(map(tuple, exists.nonzero().tolist()), key=value, reverse=True)[:n]
    return [[(r, w) in best for w in range(exists.shape[1])] for r in range(exists.shape[0])]


def areas_by_the_course(shares, faithfulness):
    heights = torch.tensor(faithfulness)
    return [discovery.cpr(heights, shares), discovery.cmd(heights, shares)]


def areas_by_hand(shares, faithfulness):
    places, heights = torch.tensor(shares).double(), torch.tensor(faithfulness).double()
    widths = places.diff()
    both = torch.stack([heights, (heights - 1).abs()])
    return ((both[:, 1:] + both[:, :-1]) / 2 * widths).sum(1)


def overlaps_by_the_course(per_prompt, exists, n, draws, seed=0):
    return discovery.bootstrap_overlap(per_prompt, exists, n, draws, seed=seed)


def overlaps_by_weights(per_prompt, exists, n, draws, seed=0):
    """Prompts drawn as counts, sets of Python; an array."""
    rng, n_prompts = np.random.default_rng([seed, 1]), per_prompt.shape[-1]

    def best(weights):
        means = (per_prompt.double() @ torch.as_tensor(weights, dtype=torch.double)).abs()[exists]
        return set(means.argsort(descending=True)[:n].tolist())

    whole = best(np.full(n_prompts, 1 / n_prompts))
    drawn = [best(rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts)) / n_prompts) for _ in range(draws)]
    return np.array([len(whole & other) / len(whole | other) for other in drawn])


def acdc_by_the_course(edges, distance, threshold):
    return discovery.acdc(edges, distance, threshold)[0]


def acdc_with_a_list(edges, distance, threshold):
    """A list that shrinks, and a tuple."""
    kept, now = list(edges), distance(frozenset(edges))
    for edge in list(edges):
        trial = [other for other in kept if other != edge]
        if not (after := distance(frozenset(trial))) - now >= threshold:
            kept, now = trial, after
    return tuple(kept)


RIGHT = {
    "edge_mask": {"the course's": mask_by_the_course, "lists": mask_as_lists},
    "exact_edges": {"plain runs, numbers": exact_by_plain_runs, "the block's own modules": exact_by_the_modules},
    "eap": {"one matrix product": eap_by_matrices, "numpy": eap_in_numpy},
    "eap_ig": {"scores averaged": ig_step_by_step, "linspace": ig_by_linspace},
    "run_edges": {"the course's": run_by_the_course, "a growing list": run_with_a_growing_list},
    "top_edges": {"the course's": top_by_the_course, "lists": top_by_sorting},
    "curve_areas": {"the course's": areas_by_the_course, "by hand": areas_by_hand},
    "bootstrap_overlap": {"the course's": overlaps_by_the_course, "weights": overlaps_by_weights},
    "acdc": {"the course's": acdc_by_the_course, "a list": acdc_with_a_list},
}
