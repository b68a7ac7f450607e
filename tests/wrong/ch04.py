"""Wrong implementations of chapter 04's exercises, by a fragment of the message that each must be given."""

from __future__ import annotations

from functools import partial

import torch

from utils.attribution import head_attributions, residual_stack_to_logit_diff

# --- head_scores ------------------------------------------------------------------------------------------------------


def _patterns(model, tokens):
    _, cache = model.run_with_cache(tokens)
    return torch.stack([cache["pattern", layer] for layer in range(model.cfg.n_layers)])


def _scores(model, tokens, seq_len, offsets=None, cut=True, sign=-1, reduce=lambda d: d.mean((1, -1))):
    patterns = _patterns(model, tokens)
    patterns = patterns[..., -2 * seq_len :, -2 * seq_len :] if cut else patterns
    offsets = offsets or (lambda n: (1, n, n - 1))
    names = ("previous_token", "duplicate_token", "induction")
    return {
        name: reduce(patterns.diagonal(sign * offset, dim1=-2, dim2=-1))
        for name, offset in zip(names, offsets(seq_len), strict=True)
    }


def scores_off_by_one(model, tokens, seq_len):
    return _scores(model, tokens, seq_len, offsets=lambda n: (1, n, n))


def scores_off_by_one_more(model, tokens, seq_len):
    return _scores(model, tokens, seq_len, offsets=lambda n: (1, n, n - 2))


def scores_wrong_axis(model, tokens, seq_len):
    return _scores(model, tokens, seq_len, sign=1)


def scores_with_bos(model, tokens, seq_len):
    return _scores(model, tokens, seq_len, cut=False)


def scores_of_first_row(model, tokens, seq_len):
    return _scores(model, tokens, seq_len, reduce=lambda d: d[:, 0].mean(-1))


def scores_with_keys_cut(model, tokens, seq_len):
    patterns = _patterns(model, tokens)[..., -2 * seq_len :]
    offsets = {"previous_token": 1, "duplicate_token": seq_len, "induction": seq_len - 1}
    return {name: patterns.diagonal(-n, dim1=-2, dim2=-1).mean((1, -1)) for name, n in offsets.items()}


def scores_always_cut(model, tokens, seq_len):
    patterns = _patterns(model, tokens)[..., 1:, 1:]
    offsets = {"previous_token": 1, "duplicate_token": seq_len, "induction": seq_len - 1}
    return {name: patterns.diagonal(-n, dim1=-2, dim2=-1).mean((1, -1)) for name, n in offsets.items()}


def scores_shared_out_again(model, tokens, seq_len):
    patterns = _patterns(model, tokens)[..., -2 * seq_len :, -2 * seq_len :]
    patterns = patterns / patterns.sum(-1, keepdim=True)
    offsets = {"previous_token": 1, "duplicate_token": seq_len, "induction": seq_len - 1}
    return {name: patterns.diagonal(-n, dim1=-2, dim2=-1).mean((1, -1)) for name, n in offsets.items()}


def scores_as_list(model, tokens, seq_len):
    return list(_scores(model, tokens, seq_len).values())


# --- ablation ---------------------------------------------------------------------------------------------------------


def _ablate(model, tokens, layer, index):
    def hook_function(z, hook):
        z = z.clone()
        z[index] = 0.0
        return z

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", hook_function)]):
        return model.run_with_cache(tokens)


def ablate_everywhere(model, tokens, layer, head):
    return _ablate(model, tokens, layer, (slice(None), slice(None), head))


def ablate_first_position(model, tokens, layer, head):
    return _ablate(model, tokens, layer, (slice(None), 0, head))


def ablate_but_cache_clean(model, tokens, layer, head):
    return _ablate(model, tokens, layer, (slice(None), -1, head))[0], model.run_with_cache(tokens)[1]


def ablate_logits_only(model, tokens, layer, head):
    return _ablate(model, tokens, layer, (slice(None), -1, head))[0]


def ablate_and_leave_hook(model, tokens, layer, head):
    def hook_function(z, hook):
        z = z.clone()
        z[:, -1, head] = 0.0
        return z

    model.hook_dict[f"blocks.{layer}.attn.hook_z"].add_hook(hook_function)
    return model(tokens), model.run_with_cache(tokens, reset_hooks_end=False)[1]


def ablate_with_a_small_cache(model, tokens, layer, head):
    logits, cache = _ablate(model, tokens, layer, (slice(None), -1, head))
    kept = [name for name in cache if not name.endswith("hook_resid_post")]
    for name in kept:
        del cache.cache_dict[name]
    return logits, cache


def ablate_with_a_mixed_cache(model, tokens, layer, head):
    logits, cache = _ablate(model, tokens, layer, (slice(None), -1, head))
    _, clean = model.run_with_cache(tokens)
    clean.cache_dict |= {name: cache[name] for name in cache if name.endswith(("hook_resid_post", "hook_scale"))}
    return logits, clean


def ablate_in_place_nothing(model, tokens, layer, head):
    return model.run_with_cache(tokens)


# --- change of direct effect ------------------------------------------------------------------------------------------


def _stack(model, cache):
    return torch.einsum(
        "lbhd,lhdm->lhbm",
        torch.stack([cache["z", layer][:, -1] for layer in range(model.cfg.n_layers)]),
        model.W_O,
    )


def change_clean_scale(model, clean_cache, ablated_cache, directions):
    difference = _stack(model, ablated_cache) - _stack(model, clean_cache)
    return residual_stack_to_logit_diff(difference, clean_cache, directions)


def change_ablated_scale(model, clean_cache, ablated_cache, directions):
    difference = _stack(model, ablated_cache) - _stack(model, clean_cache)
    return residual_stack_to_logit_diff(difference, ablated_cache, directions)


def change_stale(model, clean_cache, ablated_cache, directions):
    return head_attributions(model, clean_cache, directions) - head_attributions(model, clean_cache, directions)


def change_reversed(model, clean_cache, ablated_cache, directions):
    return head_attributions(model, clean_cache, directions) - head_attributions(model, ablated_cache, directions)


def change_per_prompt(model, clean_cache, ablated_cache, directions):
    after, before = (head_attributions(model, c, directions, per_prompt=True) for c in (ablated_cache, clean_cache))
    return after - before


def change_of_sizes(model, clean_cache, ablated_cache, directions):
    return change_per_prompt(model, clean_cache, ablated_cache, directions).abs().mean(-1)


def change_relative(model, clean_cache, ablated_cache, directions):
    before = head_attributions(model, clean_cache, directions)
    return (head_attributions(model, ablated_cache, directions) - before) / before


# --- ratio of scales --------------------------------------------------------------------------------------------------


def ratio_inverse(clean_cache, ablated_cache):
    return (ablated_cache["ln_final.hook_scale"] / clean_cache["ln_final.hook_scale"])[:, -1].mean()


def ratio_everywhere(clean_cache, ablated_cache):
    return (clean_cache["ln_final.hook_scale"] / ablated_cache["ln_final.hook_scale"]).mean()


def ratio_first_position(clean_cache, ablated_cache):
    return (clean_cache["ln_final.hook_scale"] / ablated_cache["ln_final.hook_scale"])[:, 0].mean()


def ratio_of_prompts(choose):
    return lambda clean_cache, ablated_cache: choose(
        (clean_cache["ln_final.hook_scale"] / ablated_cache["ln_final.hook_scale"])[:, -1, 0]
    )


# --- mean ablation ----------------------------------------------------------------------------------------------------


def _put(model, tokens, heads, reference_cache, value, position=-1):
    def hook_function(z, hook, head, layer):
        z = z.clone()
        z[:, position, head] = value(reference_cache["z", layer], head)
        return z

    hooks = [(f"blocks.{layer}.attn.hook_z", partial(hook_function, head=head, layer=layer)) for layer, head in heads]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def mean_ablate_zero(model, tokens, heads, reference_cache):
    return _put(model, tokens, heads, reference_cache, lambda z, head: 0.0)


def mean_ablate_over_positions(model, tokens, heads, reference_cache):
    return _put(model, tokens, heads, reference_cache, lambda z, head: z[:, :, head].mean((0, 1)))


def mean_ablate_over_d_head(model, tokens, heads, reference_cache):
    return _put(model, tokens, heads, reference_cache, lambda z, head: z[:, -1, head].mean(-1, keepdim=True))


def mean_ablate_everywhere(model, tokens, heads, reference_cache):
    return _put(model, tokens, heads, reference_cache, lambda z, head: z[:, -1, head].mean(0), position=slice(None))


def mean_ablate_last_head_only(model, tokens, heads, reference_cache):
    return _put(model, tokens, heads[-1:], reference_cache, lambda z, head: z[:, -1, head].mean(0))


def mean_ablate_divided_by_own(model, tokens, heads, reference_cache):
    return _put(model, tokens, heads, reference_cache, lambda z, head: z[:, -1, head].sum(0) / len(tokens))


def mean_ablate_at_own_end(model, tokens, heads, reference_cache):
    return _put(model, tokens, heads, reference_cache, lambda z, head: z[:, tokens.shape[1] - 1, head].mean(0))


def mean_ablate_as_many(model, tokens, heads, reference_cache):
    return _put(model, tokens, heads, reference_cache, lambda z, head: z[: len(tokens), -1, head].mean(0))


# --- by route ---------------------------------------------------------------------------------------------------------


def _factors(model, cache, directions, layer, head, grouped=True):
    values = cache["v", layer]
    entry = head * values.shape[2] // model.cfg.n_heads if grouped else head % values.shape[2]
    if model.cfg.normalization_type.startswith("LN"):
        directions = directions - directions.mean(-1, keepdim=True)
    written = torch.einsum("bkd,dm,bm->bk", values[:, :, entry], model.W_O[layer, head], directions)
    return cache["pattern", layer][:, head, -1], written, cache["ln_final.hook_scale"][:, -1, 0]


def _effect(pattern, written, scale):
    return ((pattern * written).sum(-1) / scale).mean()


def _both(model, clean_cache, ablated_cache, directions, layer, head, grouped=True):
    return (_factors(model, c, directions, layer, head, grouped) for c in (clean_cache, ablated_cache))


def route_one_at_a_time(model, clean_cache, ablated_cache, directions, layer, head):
    (p, w, s), (p2, w2, s2) = _both(model, clean_cache, ablated_cache, directions, layer, head)
    start = _effect(p, w, s)
    return torch.stack([_effect(p2, w, s), _effect(p, w2, s), _effect(p, w, s2)]) - start


def route_put_back(model, clean_cache, ablated_cache, directions, layer, head):
    (p, w, s), (p2, w2, s2) = _both(model, clean_cache, ablated_cache, directions, layer, head)
    end = _effect(p2, w2, s2)
    return end - torch.stack([_effect(p, w2, s2), _effect(p2, w, s2), _effect(p2, w2, s)])


def route_one_order(model, clean_cache, ablated_cache, directions, layer, head):
    (p, w, s), (p2, w2, s2) = _both(model, clean_cache, ablated_cache, directions, layer, head)
    steps = [_effect(p, w, s), _effect(p2, w, s), _effect(p2, w2, s), _effect(p2, w2, s2)]
    return torch.stack([steps[i + 1] - steps[i] for i in range(3)])


def _shapley(clean, ablated):
    f = lambda *which: _effect(*((ablated if w else clean)[i] for i, w in enumerate(which)))  # noqa: E731
    parts = []
    for i in range(3):
        total = 0.0
        for others, weight in (((0, 0), 1 / 3), ((1, 0), 1 / 6), ((0, 1), 1 / 6), ((1, 1), 1 / 3)):
            off, on = list(others), list(others)
            off.insert(i, 0)
            on.insert(i, 1)
            total = total + weight * (f(*on) - f(*off))
        parts.append(total)
    return torch.stack(parts)


def route_wrong_value_head(model, clean_cache, ablated_cache, directions, layer, head):
    return _shapley(*_both(model, clean_cache, ablated_cache, directions, layer, head, grouped=False))


def route_reversed(model, clean_cache, ablated_cache, directions, layer, head):
    clean, ablated = _both(model, clean_cache, ablated_cache, directions, layer, head)
    return _shapley(ablated, clean)


def route_not_divided(model, clean_cache, ablated_cache, directions, layer, head):
    return 6 * _shapley(*_both(model, clean_cache, ablated_cache, directions, layer, head))


WRONG = {
    "head_scores": {
        "the induction diagonal is off by +1": scores_off_by_one,
        "the induction diagonal is off by -1": scores_off_by_one_more,
        "only the keys are cut": scores_with_keys_cut,
        "above the main diagonal": scores_wrong_axis,
        "BOS is still in": scores_with_bos,
        "first row of the batch only": scores_of_first_row,
        "return a dictionary with the keys": scores_as_list,
        "although there is no BOS": scores_always_cut,
        "shared out again": scores_shared_out_again,
    },
    "ablate_at_end": {
        "at every position": ablate_everywhere,
        "first position, not the last": ablate_first_position,
        "cache of the whole model": ablate_but_cache_clean,
        "return two things": ablate_logits_only,
        "later exercises read it": ablate_with_a_small_cache,
        "hook_z in your cache": ablate_with_a_mixed_cache,
        "run_with_hooks": ablate_and_leave_hook,
        "logits of the whole model": ablate_in_place_nothing,
    },
    "direct_effect_change": {
        "clean run's scale": change_clean_scale,
        "ablated run's scale": change_ablated_scale,
        "one of them is stale": change_stale,
        "absolute values before the mean": change_of_sizes,
        "divided by the effect before": change_relative,
        "before minus after": change_reversed,
        "not averaged over prompts": change_per_prompt,
    },
    "layernorm_ratio": {
        "this is the inverse": ratio_inverse,
        "over all positions": ratio_everywhere,
        "first position": ratio_first_position,
        "this is the last prompt's": ratio_of_prompts(lambda ratios: ratios[-1]),
        "this is the median prompt's": ratio_of_prompts(torch.median),
    },
    "mean_ablate": {
        "you put in zero": mean_ablate_zero,
        "averaged over positions as well": mean_ablate_over_positions,
        "averaged over d_head": mean_ablate_over_d_head,
        "at every position": mean_ablate_everywhere,
        "only the last head": mean_ablate_last_head_only,
        "you divided by the number of prompts that run": mean_ablate_divided_by_own,
        "the last position of the prompts that run": mean_ablate_at_own_end,
        "as many reference prompts as": mean_ablate_as_many,
    },
    "backup_by_route": {
        "each factor alone, beginning from the clean run": route_one_at_a_time,
        "put each factor back alone": route_put_back,
        "one order only (pattern → values → scale)": route_one_order,
        "another head's": route_wrong_value_head,
        "before minus after": route_reversed,
        "divide by six": route_not_divided,
    },
}
