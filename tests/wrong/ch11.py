"""Wrong implementations of chapter 11's exercises, by a fragment of the message that each must be given."""

from __future__ import annotations

import random

import numpy as np
import torch

from utils.circuits import discovery

# --- edge_mask --------------------------------------------------------------------------------------------------------


def _mask(cfg, mlp=0, attention=0, shared=None, logits=True):
    """Counts of writers before each reader, with something to get wrong in each argument."""
    kv = shared or cfg.n_key_value_heads or cfg.n_heads
    counts = []
    for layer in range(cfg.n_layers):
        written = 1 + layer * (cfg.n_heads + 1)
        counts += [written + attention] * (cfg.n_heads + 2 * kv) + [written + cfg.n_heads + mlp]
    n_writers = 1 + cfg.n_layers * (cfg.n_heads + 1)
    counts += [n_writers] * logits
    return torch.arange(n_writers) < torch.tensor(counts)[:, None]


def mask_mlp_hears_itself(cfg):
    return _mask(cfg, mlp=1)


def mask_mlp_deaf(cfg):
    return _mask(cfg, mlp=-cfg.n_heads)


def mask_heads_of_a_layer(cfg):
    return _mask(cfg, attention=cfg.n_heads)


def mask_without_logits(cfg):
    return _mask(cfg, logits=False)


def mask_by_query_head(cfg):
    return _mask(cfg, shared=cfg.n_heads)


def mask_transposed(cfg):
    return _mask(cfg).T


def mask_in_place(cfg):
    cfg.n_key_value_heads = cfg.n_key_value_heads or cfg.n_heads
    return _mask(cfg)


# --- exact_edges ------------------------------------------------------------------------------------------------------


def _exact(
    model, tokens, messages, metric, reader, base=True, own=True, sign=1, site=None, at=None, head=None, last=False
):
    site, layer, number = (site or reader[0]), reader[1], (reader[2] if head is None else head)
    unpatched, effects = (metric(model(tokens)) if base else 0), []
    for message in messages:
        if last:
            message = message * (torch.arange(message.shape[1]) == message.shape[1] - 1)[:, None]
        names = {"mlp": f"blocks.{layer}.ln2.hook_in", "logits": "ln_final.hook_in"}
        name = at or names.get(site, f"blocks.{layer}.ln1.hook_in")
        hooks = [(name, lambda stream, hook, message=message: stream + sign * message)]
        if site in "qkv" and own:
            component = f"blocks.{layer}.attn.hook_{site}"
            with model.hooks(fwd_hooks=hooks):
                _, told = model.run_with_cache(tokens, names_filter=component)

            def exchange(activation, hook, told=told):
                activation = activation.clone()
                chosen = slice(None) if number == "all" else number
                activation[:, :, chosen] = told[hook.name][:, :, chosen]
                return activation

            hooks = [(component, exchange)]
        effects.append(metric(model.run_with_hooks(tokens, fwd_hooks=hooks)) - unpatched)
    return torch.stack(effects)


def exact_metrics(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages, metric, reader, base=False)


def exact_all_react(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages, metric, reader, own=False)


def exact_all_heads(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages, metric, reader, head="all")


def exact_subtracted(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages, metric, reader, sign=-1)


def exact_queries(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages, metric, reader, site="q" if reader[0] in ("k", "v") else None)


def exact_at_the_end(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages, metric, reader, last=True)


def exact_late_binding(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages[-1:].expand(messages.shape), metric, reader)


def exact_piled_up(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages.cumsum(0), metric, reader)


def exact_in_layer_1(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages, metric, (reader[0], min(reader[1], 1), reader[2]))


def exact_of_the_last_logits(model, tokens, messages, metric, reader):
    return _exact(model, tokens, messages, lambda logits: metric(logits[:, -1:]), reader)


# --- eap, eap_ig ------------------------------------------------------------------------------------------------------


def eap_exchanged(new, orig, gradients, exists):
    return torch.einsum("rbpd,wbpd->rw", gradients, orig - new) * exists


def eap_of_new(new, orig, gradients, exists):
    return torch.einsum("rbpd,wbpd->rw", gradients, new) * exists


def eap_everywhere(new, orig, gradients, exists):
    return torch.einsum("rbpd,wbpd->rw", gradients, new - orig)


def eap_averaged(new, orig, gradients, exists):
    return torch.einsum("rbpd,wbpd->rw", gradients, new - orig) * exists / new.shape[1]


def eap_at_the_end(new, orig, gradients, exists):
    return torch.einsum("rbd,wbd->rw", gradients[:, :, -1], (new - orig)[:, :, -1]) * exists


def eap_summed_first(new, orig, gradients, exists):
    return torch.einsum("rpd,wpd->rw", gradients.sum(1), (new - orig).sum(1)) * exists


def eap_transposed(new, orig, gradients, exists):
    return (torch.einsum("rbpd,wbpd->rw", gradients, new - orig) * exists).T


def _by_number(exists):
    return torch.arange(exists.shape[1]) < exists.sum(1)[:, None]


def eap_own_table(new, orig, gradients, exists):
    return torch.einsum("rbpd,wbpd->rw", gradients, new - orig) * _by_number(exists)


def _ig(messages, gradients_at, exists, points, divisor=None):
    gradients = sum(gradients_at(share) for share in points) / (divisor or len(points))
    return torch.einsum("rbpd,wbpd->rw", gradients, messages) * exists


def ig_left(messages, gradients_at, exists, steps):
    return _ig(messages, gradients_at, exists, [i / steps for i in range(steps)])


def ig_right(messages, gradients_at, exists, steps):
    return _ig(messages, gradients_at, exists, [(i + 1) / steps for i in range(steps)])


def ig_summed(messages, gradients_at, exists, steps):
    return _ig(messages, gradients_at, exists, [(i + 0.5) / steps for i in range(steps)], divisor=1)


def ig_at_orig(messages, gradients_at, exists, steps):
    return _ig(messages, gradients_at, exists, [0.0])


def ig_ends(messages, gradients_at, exists, steps):
    return _ig(messages, gradients_at, exists, np.linspace(0, 1, steps).tolist())


def ig_everywhere(messages, gradients_at, exists, steps):
    return _ig(messages, gradients_at, torch.ones_like(exists), [(i + 0.5) / steps for i in range(steps)])


def ig_own_table(messages, gradients_at, exists, steps):
    return _ig(messages, gradients_at, _by_number(exists), [(i + 0.5) / steps for i in range(steps)])


# --- run_edges --------------------------------------------------------------------------------------------------------


def _run(run, keep, embedded=1, late=False, first_reader=False, final=None, mlps=True, heads=True):
    graph = run.graph
    changed = torch.zeros(len(graph.writers), *run.gained_embedding.shape)
    changed[0] = embedded * run.gained_embedding

    def heard(readers):
        return torch.einsum("rw,wbpd->rbpd", keep[readers].float(), changed)

    for layer in range(graph.n_layers):
        attention, of_layer = graph.attention_readers(layer), graph.heads_of(layer)
        early = heard([attention.stop])[0]
        told = heard(attention)
        told = told[:1].expand(told.shape) if first_reader else told
        if heads:
            changed[of_layer] = run.heads_tell(layer, told)
        if mlps:
            changed[of_layer.stop] = run.mlp_tells(layer, early if late else heard([attention.stop])[0])
    return run.logits_of(changed.sum(0) if final == "all" else heard([-2 if final == "mlp" else -1])[0])


def run_without_embedding(run, keep):
    return _run(run, keep, embedded=0)


def run_mlps_before_heads(run, keep):
    return _run(run, keep, late=True)


def run_one_stream(run, keep):
    return _run(run, keep, first_reader=True)


def run_all_into_logits(run, keep):
    return _run(run, keep, final="all")


def run_without_mlps(run, keep):
    return _run(run, keep, mlps=False)


def run_complement(run, keep):
    return _run(run, run.graph.exists & ~keep)


def run_with_clean_outputs(run, keep):
    return run.logits_of(torch.einsum("w,wbpd->bpd", keep[-1].float(), run.gained_by_all()))


def run_embedding_into_mlps(run, keep):
    """The embedding is heard by every MLP, whatever is kept."""
    keep = keep.clone()
    keep[[i for i, (site, *_) in enumerate(run.graph.readers) if site == "mlp"], 0] = True
    return _run(run, keep)


# --- choosing, areas --------------------------------------------------------------------------------------------------


def top_by_size(scores, exists, n, signed=False):
    return discovery.top_edges(scores, exists, n)


def top_by_sign(scores, exists, n, signed=False):
    return discovery.top_edges(scores, exists, n, True)


def top_of_all(scores, exists, n, signed=False):
    return discovery.top_edges(scores, torch.ones_like(exists), n, signed)


def top_of_zeros(scores, exists, n, signed=False):
    return discovery.top_edges(scores * exists, torch.ones_like(exists), n, signed)


def top_by_threshold(scores, exists, n, signed=False):
    ranked = (scores if signed else scores.abs()).masked_fill(~exists, -torch.inf)
    return (ranked >= ranked.flatten().topk(n).values[-1]) & exists


def top_weakest(scores, exists, n, signed=False):
    return discovery.top_edges(-scores if signed else 1 / scores.abs(), exists, n, signed)


def top_own_table(scores, exists, n, signed=False):
    return discovery.top_edges(scores, _by_number(exists), n, signed)


def top_at_least_one(scores, exists, n, signed=False):
    return discovery.top_edges(scores, exists, max(n, 1), signed)


def top_helpful(scores, exists, n, signed=False):
    chosen = discovery.top_edges(scores, exists, n, signed)
    return chosen & (scores > 0) if signed and (scores > 0).sum() < n else chosen


def top_signed_threshold(scores, exists, n, signed=False):
    return top_by_threshold(scores, exists, n, True) if signed else discovery.top_edges(scores, exists, n)


def areas_cancelling(shares, faithfulness):
    heights = np.array(faithfulness)
    return np.trapezoid(heights, shares), abs(np.trapezoid(1 - heights, shares))


def areas_exchanged(shares, faithfulness):
    return discovery.cmd(torch.tensor(faithfulness), shares), discovery.cpr(torch.tensor(faithfulness), shares)


def areas_even(shares, faithfulness):
    return np.trapezoid(faithfulness), np.trapezoid(np.abs(1 - np.array(faithfulness)))


def areas_as_means(shares, faithfulness):
    return np.mean(faithfulness), np.mean(np.abs(1 - np.array(faithfulness)))


def areas_complementary(shares, faithfulness):
    cpr = np.trapezoid(faithfulness, shares)
    return cpr, 1 - cpr


def areas_clipped(shares, faithfulness):
    return np.trapezoid(np.minimum(faithfulness, 1), shares), discovery.cmd(torch.tensor(faithfulness), shares)


def areas_led_on(shares, faithfulness):
    """To all edges, where the curve is 1."""
    shares, faithfulness = [*shares, 1.0], np.array([*faithfulness, 1.0])
    return np.trapezoid(faithfulness, shares), np.trapezoid(np.abs(1 - faithfulness), shares)


def areas_from_the_end(shares, faithfulness):
    heights = np.array(faithfulness)
    return np.trapezoid(heights, shares), np.trapezoid(np.abs(heights[-1] - heights), shares)


# --- overlap ----------------------------------------------------------------------------------------------------------


def _overlaps(per_prompt, exists, n, draws, seed, replace=True, signed=False, share=False, first=False, size=None):
    rng, n_prompts = np.random.default_rng(seed), per_prompt.shape[-1]
    whole = discovery.top_edges(per_prompt[..., 0] if first else per_prompt.mean(-1), exists, n, signed)
    found = []
    for _ in range(draws):
        rows = torch.tensor(rng.choice(n_prompts, size or n_prompts, replace=replace))
        again = discovery.top_edges(per_prompt[..., rows].mean(-1), exists, n, signed)
        found.append(int((whole & again).sum()) / (n if share else int((whole | again).sum())))
    return found


def overlaps_without_replacement(per_prompt, exists, n, draws, seed=0):
    return _overlaps(per_prompt, exists, n, draws, seed, replace=False)


def overlaps_of_one_prompt(per_prompt, exists, n, draws, seed=0):
    return _overlaps(per_prompt, exists, n, draws, seed, size=1)


def overlaps_signed(per_prompt, exists, n, draws, seed=0):
    return _overlaps(per_prompt, exists, n, draws, seed, signed=True)


def overlaps_by_n(per_prompt, exists, n, draws, seed=0):
    return _overlaps(per_prompt, exists, n, draws, seed, share=True)


def overlaps_with_the_first(per_prompt, exists, n, draws, seed=0):
    return _overlaps(per_prompt, exists, n, draws, seed, first=True)


def overlaps_unseeded(per_prompt, exists, n, draws, seed=0):
    return _overlaps(per_prompt, exists, n, draws, random.randrange(2**32))


def overlaps_one_seed(per_prompt, exists, n, draws, seed=0):
    return _overlaps(per_prompt, exists, n, draws, 0)


def overlaps_of_fewer(per_prompt, exists, n, draws, seed=0):
    return _overlaps(per_prompt, exists, n, draws, seed, size=per_prompt.shape[-1] - 1)


def overlaps_own_table(per_prompt, exists, n, draws, seed=0):
    return _overlaps(per_prompt, _by_number(exists), n, draws, seed)


# --- acdc -------------------------------------------------------------------------------------------------------------


def _trial(edges, distance, threshold, from_start=False, alone=False, strict=False, absolute=False, order=1):
    kept = frozenset(edges)
    start = now = distance(kept)
    stay = []
    for edge in edges[::order]:
        without = distance(kept - {edge})
        growth = without - (start if from_start else now)
        growth = abs(growth) if absolute else growth
        if growth <= threshold if strict else growth < threshold:
            kept, now = (kept, now) if alone else (kept - {edge}, without)
        else:
            stay.append(edge)
    return [edge for edge in edges if edge in stay]


def acdc_alone(edges, distance, threshold):
    return _trial(edges, distance, threshold, alone=True)


def acdc_from_start(edges, distance, threshold):
    return _trial(edges, distance, threshold, from_start=True)


def acdc_strict(edges, distance, threshold):
    return _trial(edges, distance, threshold, strict=True)


def acdc_absolute(edges, distance, threshold):
    return _trial(edges, distance, threshold, absolute=True)


def acdc_backward(edges, distance, threshold):
    return _trial(edges, distance, threshold, order=-1)


def acdc_removed(edges, distance, threshold):
    stay = _trial(edges, distance, threshold)
    return [edge for edge in edges if edge not in stay]


def acdc_any_order(edges, distance, threshold):
    return list(reversed(_trial(edges, distance, threshold)))


def acdc_wasteful(edges, distance, threshold):
    kept = frozenset(edges)
    for edge in edges:
        if distance(kept - {edge}) - distance(kept) < threshold:
            kept = kept - {edge}
        distance(kept)
    return [edge for edge in edges if edge in kept]


def acdc_again_and_again(edges, distance, threshold):
    stay = _trial(edges, distance, threshold)
    return stay if len(stay) == len(edges) else acdc_again_and_again(stay, distance, threshold)


def acdc_names_as_truth(edges, distance, threshold):
    return [edge for edge in _trial(edges, distance, threshold) if edge]


def acdc_equal_goes_at_zero(edges, distance, threshold):
    return _trial(edges, distance, threshold, strict=threshold == 0)


WRONG = {
    "edge_mask": {
        "an MLP hears itself": mask_mlp_hears_itself,
        "does not hear the heads of its own layer": mask_mlp_deaf,
        "they work side by side": mask_heads_of_a_layer,
        "the logits are missing": mask_without_logits,
        "every head has a key and a value of its own": mask_by_query_head,
        "rows are writers": mask_transposed,
        "leave cfg as it is": mask_in_place,
    },
    "exact_edges": {
        "the metric itself is returned": exact_metrics,
        "all heads of the layer react": exact_all_react,
        "all heads of the layer are exchanged": exact_all_heads,
        "the message is subtracted": exact_subtracted,
        "the q is exchanged, whatever": exact_queries,
        "only the last position": exact_at_the_end,
        "a function made in a loop": exact_late_binding,
        "messages pile up": exact_piled_up,
        "values are right: look at what": exact_in_layer_1,
        "your function raised IndexError": exact_of_the_last_logits,
    },
    "eap": {
        "two runs are exchanged": eap_exchanged,
        "subtract what is written in orig": eap_of_new,
        "edges that do not exist have a score": eap_everywhere,
        "averaged over prompts": eap_averaged,
        "only the last position": eap_at_the_end,
        "prompts are summed before": eap_summed_first,
        "rows are writers": eap_transposed,
        "which edges exist is worked out anew": eap_own_table,
    },
    "eap_ig": {
        "beginnings of the parts": ig_left,
        "ends of the parts": ig_right,
        "added up and not divided": ig_summed,
        "all gradients are those of orig": ig_at_orig,
        "from one end to the other": ig_ends,
        "edges that do not exist have a score": ig_everywhere,
        "which edges exist is worked out anew": ig_own_table,
    },
    "run_edges": {
        "the embedding tells nothing": run_without_embedding,
        "MLPs hear nothing of the heads": run_mlps_before_heads,
        "first reader hears": run_one_stream,
        "logits hear every writer": run_all_into_logits,
        "MLPs are never written": run_without_mlps,
        "kept edges are cut": run_complement,
        "keeps what it writes in the clean run": run_with_clean_outputs,
        "third": run_embedding_into_mlps,
    },
    "top_edges": {
        "by size where the sign": top_by_size,
        "by sign where the size": top_by_sign,
        "put them last": top_of_all,
        "as if they had a score of 0": top_of_zeros,
        "exactly n edges": top_by_threshold,
        "weakest edges": top_weakest,
        "which edges exist is worked out anew": top_own_table,
        "the best 0 edges": top_at_least_one,
        "score below zero are never chosen": top_helpful,
        "of equal scores at the border": top_signed_threshold,
    },
    "curve_areas": {
        "absolute value of CMD is taken after": areas_cancelling,
        "two are exchanged": areas_exchanged,
        "evenly spaced": areas_even,
        "means over points": areas_as_means,
        "CMD is 1 minus CPR": areas_complementary,
        "clipped to 1": areas_clipped,
        "led on to (1, 1)": areas_led_on,
        "distance from the last height": areas_from_the_end,
    },
    "bootstrap_overlap": {
        "without replacement": overlaps_without_replacement,
        "one prompt a draw": overlaps_of_one_prompt,
        "ranked by sign": overlaps_signed,
        "divided by n": overlaps_by_n,
        "of the first prompt": overlaps_with_the_first,
        "make a generator from the seed": overlaps_unseeded,
        "must use `seed`": overlaps_one_seed,
        "one prompt too few": overlaps_of_fewer,
        "which edges exist is worked out anew": overlaps_own_table,
    },
    "acdc": {
        "what goes must stay away": acdc_alone,
        "counted from the beginning": acdc_from_start,
        "exactly the threshold is let go": acdc_strict,
        "makes the distance smaller stays": acdc_absolute,
        "in another order than given": acdc_backward,
        "these are the edges that go": acdc_removed,
        "in the order of `edges`": acdc_any_order,
        "remember the distance": acdc_wasteful,
        "each is tried once": acdc_again_and_again,
        "whose name counts as false": acdc_names_as_truth,
        "exactly the threshold is let": acdc_equal_goes_at_zero,
    },
}
