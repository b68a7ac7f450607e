"""Wrong solutions of chapter 08's exercises, by the words of the message that each must get."""

import torch

from utils import patching


def _tokens(model, pair):
    return [model.to_tokens(text)[0].tolist() for text in pair]


def aligned_zip(model, pairs):
    found = []
    for i, pair in enumerate(pairs):
        a, b = _tokens(model, pair)
        at = [p for p, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
        found += [(i, at[0])] if len(at) == 1 else []
    return found


def aligned_any_number(model, pairs):
    found = []
    for i, pair in enumerate(pairs):
        a, b = _tokens(model, pair)
        if len(a) == len(b):
            found.append((i, next(p for p in range(len(a)) if a[p] != b[p])))
    return found


def aligned_without_bos(model, pairs):
    found = []
    for i, pair in enumerate(pairs):
        a, b = (model.to_tokens(text, prepend_bos=False)[0].tolist() for text in pair)
        at = [p for p in range(len(a)) if len(a) == len(b) and a[p] != b[p]]
        found += [(i, at[0])] if len(at) == 1 else []
    return found


def aligned_first_only(model, pairs):
    return [(0, int((model.to_tokens(pairs[0][0]) != model.to_tokens(pairs[0][1])).nonzero()[0, 1]))]


def direction_sum(model, unfavorable, favorable):
    return model.W_U[:, unfavorable].sum(-1) - model.W_U[:, favorable].sum(-1)


def direction_total(model, unfavorable, favorable):
    return direction_sum(model, unfavorable, favorable) / (len(unfavorable) + len(favorable))


def direction_sign(model, unfavorable, favorable):
    return model.W_U[:, favorable].mean(-1) - model.W_U[:, unfavorable].mean(-1)


def direction_embedding(model, unfavorable, favorable):
    return model.W_E[unfavorable].mean(0) - model.W_E[favorable].mean(0)


def direction_unit(model, unfavorable, favorable):
    direction = -direction_sign(model, unfavorable, favorable)
    return direction / direction.norm()


def _preference(logits, answers):
    return logits[:, -1][:, answers[0]].mean(-1) - logits[:, -1][:, answers[1]].mean(-1)


def _reconcile(model, logits, cache, answers, at=-1, norm=True, bias_sets=2, order=(0, 1), center=True):
    stream = cache["resid_post", model.cfg.n_layers - 1][:, at]
    if model.cfg.normalization_type.startswith("LN") and norm and center:
        stream = stream - stream.mean(-1, keepdim=True)
    stream = stream / cache["ln_final.hook_scale"][:, at] if norm else stream
    error = _preference(logits, answers) - stream @ -direction_sign(model, *answers)
    bias = 0.0
    if model.b_U is not None:
        bias = model.b_U[answers[0]].mean() - (model.b_U[answers[1]].mean() if bias_sets == 2 else 0)
    rows = [error, error - bias]
    return torch.stack([rows[i] for i in order])


def reconcile_order(model, logits, cache, answers):
    return _reconcile(model, logits, cache, answers, order=(1, 0))


def reconcile_norm(model, logits, cache, answers):
    return _reconcile(model, logits, cache, answers, norm=False)


def reconcile_position(model, logits, cache, answers):
    return _reconcile(model, logits, cache, answers, at=-2)


def reconcile_half_bias(model, logits, cache, answers):
    return _reconcile(model, logits, cache, answers, bias_sets=1)


def _stack(cache, at=-1):
    parts = [cache["resid_pre", 0]]
    for layer in range(cache.model.cfg.n_layers):
        parts += [cache["attn_out", layer], cache["mlp_out", layer]]
    return torch.stack(parts)[:, :, at]


def _normed(cache, scale_of, at=-1):
    stack = _stack(cache, at)
    if cache.model.cfg.normalization_type.startswith("LN"):
        stack = stack - stack.mean(-1, keepdim=True)
    return stack / scale_of["ln_final.hook_scale"][:, at]


def component_scale(aae, sae, direction):
    return ((_normed(aae, aae) - _normed(sae, aae)) @ direction).mean(-1)


def component_no_norm(aae, sae, direction):
    return ((_stack(aae) - _stack(sae)) @ direction).mean(-1)


def component_sign(aae, sae, direction):
    return ((_normed(sae, sae) - _normed(aae, aae)) @ direction).mean(-1)


def component_position(aae, sae, direction):
    return ((_normed(aae, aae, -2) - _normed(sae, sae, -2)) @ direction).mean(-1)


def component_one_side(aae, sae, direction):
    return (_normed(aae, aae) @ direction).mean(-1)


def _sweep(model, tokens, clean_tokens, metric):
    _, cache = model.run_with_cache(clean_tokens)
    return patching.get_act_patch_resid_pre(model, tokens, cache, metric)


def patch_raw(model, aae_tokens, sae_tokens, answers):
    return _sweep(model, sae_tokens, aae_tokens, lambda logits: _preference(logits, answers).mean())


def patch_swapped(model, aae_tokens, sae_tokens, answers):
    zero, one = (_preference(model(tokens), answers).mean() for tokens in (sae_tokens, aae_tokens))
    metric = lambda logits: (_preference(logits, answers).mean() - zero) / (one - zero)  # noqa: E731
    return _sweep(model, aae_tokens, sae_tokens, metric)


def patch_not_subtracted(model, aae_tokens, sae_tokens, answers):
    zero, one = (_preference(model(tokens), answers).mean() for tokens in (sae_tokens, aae_tokens))
    return _sweep(model, sae_tokens, aae_tokens, lambda logits: _preference(logits, answers).mean() / (one - zero))


def patch_not_divided(model, aae_tokens, sae_tokens, answers):
    zero = _preference(model(sae_tokens), answers).mean()
    return _sweep(model, sae_tokens, aae_tokens, lambda logits: _preference(logits, answers).mean() - zero)


def patch_upside_down(model, aae_tokens, sae_tokens, answers):
    zero, one = (_preference(model(tokens), answers).mean() for tokens in (sae_tokens, aae_tokens))
    metric = lambda logits: (_preference(logits, answers).mean() - one) / (zero - one)  # noqa: E731
    return _sweep(model, sae_tokens, aae_tokens, metric)


def null_one_sided(observed, null):
    return (1 + (null >= observed).sum(0)) / (1 + len(null))


def null_left_out(observed, null):
    return (null.abs() >= observed.abs()).float().mean(0)


def null_mean(observed, null):
    return (null.abs().mean(0) >= observed.abs()).float()


def null_pooled(observed, null):
    flat = null.abs().flatten()
    counts = torch.stack([(flat >= value.abs()).sum() for value in observed.flatten()])
    return (1 + counts.reshape(observed.shape)) / (1 + len(flat))


def _all_cosines(vectors):
    units = torch.nn.functional.normalize(vectors, dim=1)
    return units @ units.T


def cosine_with_itself(vectors):
    return _all_cosines(vectors).mean()


def cosine_not_scaled(vectors):
    products = vectors @ vectors.T
    off = ~torch.eye(len(vectors), dtype=torch.bool)
    return products[off].mean()


def cosine_with_the_mean(vectors):
    units = torch.nn.functional.normalize(vectors, dim=1)
    return (units @ torch.nn.functional.normalize(units.mean(0), dim=0)).mean()


def cosine_neighbors(vectors):
    return torch.nn.functional.cosine_similarity(vectors[:-1], vectors[1:]).mean()


def cosine_absolute(vectors):
    off = ~torch.eye(len(vectors), dtype=torch.bool)
    return _all_cosines(vectors)[off].abs().mean()


WRONG = {
    "aligned_pairs": {
        "zip stops": aligned_zip,
        "exactly one difference": aligned_any_number,
        "BOS is a token too": aligned_without_bos,
        "aligned pairs are missing": aligned_first_only,
    },
    "gap_direction": {
        "sums over the sets": direction_sum,
        "size of both sets together": direction_total,
        "unfavorable minus favorable": direction_sign,
        "rows of the embedding": direction_embedding,
        "scaled to length 1": direction_unit,
    },
    "reconcile": {
        "the logits are not looked at": lambda model, logits, cache, answers: torch.stack(
            [
                (model.b_U[answers[0]].mean() - model.b_U[answers[1]].mean()).expand(len(logits)),
                torch.zeros(len(logits)),
            ]
        ),
        "exchanged": reconcile_order,
        "not normalized": reconcile_norm,
        "the stream is read at position": reconcile_position,
        "of the unfavorable traits alone": reconcile_half_bias,
    },
    "gap_by_component": {
        "divided by the AAE run's scale": component_scale,
        "no final norm": component_no_norm,
        "AAE minus SAE": component_sign,
        "another position": component_position,
        "the AAE side alone": component_one_side,
    },
    "patch_guise": {
        "not rescaled": patch_raw,
        "the direction is swapped": patch_swapped,
        "is not subtracted": patch_not_subtracted,
        "1 should mean the whole": patch_not_divided,
        "upside down": patch_upside_down,
    },
    "compare_with_null": {
        "one-sided": null_one_sided,
        "left out": null_left_out,
        "null's mean only": null_mean,
        "pooled over all heads": null_pooled,
    },
    "mean_cosine": {
        "a vector is compared with itself": cosine_with_itself,
        "not scaled to length 1": cosine_not_scaled,
        "compared with the mean": cosine_with_the_mean,
        "neighbors only": cosine_neighbors,
        "absolute values": cosine_absolute,
    },
}
