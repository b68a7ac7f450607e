"""Wrong solutions of chapter 02, each under a fragment of the message that must name its mistake."""

import torch

from utils.attribution import bias_term, logit_diff_directions


def _directions_flipped(model, answer_tokens):
    columns = model.W_U[:, answer_tokens]
    return (columns[..., 1] - columns[..., 0]).T


def _directions_from_embedding(model, answer_tokens):
    rows = model.W_E[answer_tokens]
    return rows[:, 0] - rows[:, 1]


def _directions_correct_only(model, answer_tokens):
    return model.W_U[:, answer_tokens[:, 0]].T


def _directions_unit(model, answer_tokens):
    return torch.nn.functional.normalize(logit_diff_directions(model, answer_tokens), dim=-1)


def _directions_untransposed(model, answer_tokens):
    columns = model.W_U[:, answer_tokens]
    return columns[..., 0] - columns[..., 1]


def _directions_squeezed(model, answer_tokens):
    columns = model.W_U[:, answer_tokens].squeeze()
    return (columns[..., 0] - columns[..., 1]).permute(*reversed(range(columns.ndim - 1)))


def _reduced(contributions, per_prompt):
    return contributions if per_prompt else contributions.mean(-1)


def _stack_without_norm(stack, cache, directions, per_prompt=False):
    return _reduced((stack * directions).sum(-1), per_prompt)


def _stack_last_block_scale(stack, cache, directions, per_prompt=False):
    scale = cache["scale", cache.model.cfg.n_layers - 1, "ln2"][:, -1]
    return _reduced((stack / scale * directions).sum(-1), per_prompt)


def _stack_first_position_scale(stack, cache, directions, per_prompt=False):
    return _reduced((stack / cache["ln_final.hook_scale"][:, 0] * directions).sum(-1), per_prompt)


def _stack_summed(stack, cache, directions, per_prompt=False):
    contributions = (stack / cache["ln_final.hook_scale"][:, -1] * directions).sum(-1)
    return contributions if per_prompt else contributions.sum(-1)


def _stack_own_norm(stack, cache, directions, per_prompt=False):
    contributions = (stack / stack.std(-1, unbiased=False, keepdim=True) * directions).sum(-1)
    return _reduced(contributions, per_prompt)


def _stack_per_prompt_ignored(stack, cache, directions, per_prompt=False):
    return (stack / cache["ln_final.hook_scale"][:, -1] * directions).sum(-1).mean(-1)


def _stack_first_prompts_scale(stack, cache, directions, per_prompt=False):
    return _reduced((stack / cache["ln_final.hook_scale"][:1, -1] * directions).sum(-1), per_prompt)


def _stack_averaged_over_axis_1(stack, cache, directions, per_prompt=False):
    contributions = (stack / cache["ln_final.hook_scale"][:, -1] * directions).sum(-1)
    return contributions if per_prompt else contributions.mean(min(1, contributions.ndim - 1))


def _stack_means_first(stack, cache, directions, per_prompt=False):
    scaled = stack / cache["ln_final.hook_scale"][:, -1]
    return (scaled * directions).sum(-1) if per_prompt else (scaled.mean(-2) * directions.mean(0)).sum(-1)


def _contributions(model, cache, answer_tokens, names, start=True):
    parts = [cache["resid_pre", 0]] if start else []
    parts += [cache[name, layer] for layer in range(model.cfg.n_layers) for name in names]
    total = torch.stack([part[:, -1] for part in parts]).sum(0)
    scaled = total / cache["ln_final.hook_scale"][:, -1]
    return (scaled * logit_diff_directions(model, answer_tokens)).sum(-1)


def _total_without_bias(model, cache, answer_tokens):
    return _contributions(model, cache, answer_tokens, ("attn_out", "mlp_out"))


def _total_bias_subtracted(model, cache, answer_tokens):
    return _total_without_bias(model, cache, answer_tokens) - bias_term(model, answer_tokens)


def _total_without_mlps(model, cache, answer_tokens):
    return _contributions(model, cache, answer_tokens, ("attn_out",)) + bias_term(model, answer_tokens)


def _total_without_embedding(model, cache, answer_tokens):
    parts = _contributions(model, cache, answer_tokens, ("attn_out", "mlp_out"), start=False)
    return parts + bias_term(model, answer_tokens)


def _total_mean(model, cache, answer_tokens):
    return (_total_without_bias(model, cache, answer_tokens) + bias_term(model, answer_tokens)).mean()


def _total_mean_bias(model, cache, answer_tokens):
    return _total_without_bias(model, cache, answer_tokens) + bias_term(model, answer_tokens).mean()


def _heads(model, cache, directions, at=-1, normed=True, bias=False):
    rows = []
    for layer in range(model.cfg.n_layers):
        written = torch.einsum("bphd,hdm->bphm", cache["z", layer], model.W_O[layer])
        written = written + model.b_O[layer] if bias else written
        written = written.sum(1) if at is None else written[:, at]  # batch head d_model
        written = written / cache["ln_final.hook_scale"][:, -1, None] if normed else written
        rows.append((written * directions[:, None]).sum(-1).mean(0))
    return torch.stack(rows)


def _heads_transposed(model, cache, directions):
    return _heads(model, cache, directions).T


def _heads_all_positions(model, cache, directions):
    return _heads(model, cache, directions, at=None)


def _heads_first_position(model, cache, directions):
    return _heads(model, cache, directions, at=0)


def _heads_without_norm(model, cache, directions):
    return _heads(model, cache, directions, normed=False)


def _heads_with_bias(model, cache, directions):
    return _heads(model, cache, directions, bias=True)


def _heads_sizes_averaged(model, cache, directions):
    rows = torch.stack([cache["z", layer][:, -1] for layer in range(model.cfg.n_layers)])
    written = torch.einsum("lbhd,lhdm->lhbm", rows, model.W_O) / cache["ln_final.hook_scale"][:, -1]
    return (written * directions).sum(-1).abs().mean(-1)


def _top_flat(attributions, k, sign=1):
    return (sign * attributions).flatten().topk(k).indices.tolist()


def _top_absolute(attributions, k, sign=1):
    flat = attributions.flatten().abs().topk(k).indices.tolist()
    return [divmod(i, attributions.shape[1]) for i in flat]


def _top_sign_ignored(attributions, k, sign=1):
    flat = attributions.flatten().topk(k).indices.tolist()
    return [divmod(i, attributions.shape[1]) for i in flat]


def _top_divided_by_layers(attributions, k, sign=1):
    flat = (sign * attributions).flatten().topk(k).indices.tolist()
    return [divmod(i, attributions.shape[0]) for i in flat]


def _top_head_first(attributions, k, sign=1):
    flat = (sign * attributions).flatten().topk(k).indices.tolist()
    return [divmod(i, attributions.shape[1])[::-1] for i in flat]


def _top_of_one_sign(attributions, k, sign=1):
    cells = [divmod(i, attributions.shape[1]) for i in range(attributions.numel())]
    pushing = [cell for cell in cells if sign * attributions[cell] > 0]
    return sorted(pushing, key=lambda cell: -sign * attributions[cell].item())[:k]


def _top_clamped(attributions, k, sign=1):
    return [
        divmod(i, attributions.shape[1]) for i in (sign * attributions).clamp(min=0).flatten().topk(k).indices.tolist()
    ]


def _top_by_value(attributions, k, sign=1):
    cells = {value: divmod(i, attributions.shape[1]) for i, value in enumerate(attributions.flatten().tolist())}
    return [cells[value] for value in sorted(cells, key=lambda value: -sign * value)[:k]]


def _top_found_again(attributions, k, sign=1):
    values = (sign * attributions).flatten().topk(k).values
    return [tuple((sign * attributions == value).nonzero()[0].tolist()) for value in values]


def _top_tensor(attributions, k, sign=1):
    return (sign * attributions).flatten().topk(k).indices


WRONG = {
    "logit_diff_directions": {
        "the other way round": _directions_flipped,
        "rows of the embedding W_E": _directions_from_embedding,
        "the correct answer's column alone": _directions_correct_only,
        "scaled to length 1": _directions_unit,
        "so transpose": _directions_untransposed,
        "squeeze() takes away the batch": _directions_squeezed,
    },
    "residual_stack_to_logit_diff": {
        "final norm is not applied": _stack_without_norm,
        "before the last MLP": _stack_last_block_scale,
        "that of position 0": _stack_first_position_scale,
        "summed over prompts": _stack_summed,
        "the first prompt's scale": _stack_first_prompts_scale,
        "averaged over axis 1": _stack_averaged_over_axis_1,
        "before they are multiplied": _stack_means_first,
        "divided by its own size": _stack_own_norm,
        "per_prompt is ignored": _stack_per_prompt_ignored,
    },
    "attribution_total": {
        "the bias is forgotten": _total_without_bias,
        "the bias is subtracted": _total_bias_subtracted,
        "the MLPs are left out": _total_without_mlps,
        "the embedding is left out": _total_without_embedding,
        "one value per prompt": _total_mean,
        "the bias is averaged over prompts": _total_mean_bias,
    },
    "head_attributions": {
        "transposed": _heads_transposed,
        "all positions are summed": _heads_all_positions,
        "that is position 0": _heads_first_position,
        "final norm is not applied": _heads_without_norm,
        "b_O is given to every head": _heads_with_bias,
        "absolute values before the mean": _heads_sizes_averaged,
    },
    "top_heads": {
        "not unravelled": _top_flat,
        "ranked by absolute value": _top_absolute,
        "sign is ignored": _top_sign_ignored,
        "divided by the number of layers": _top_divided_by_layers,
        "the layer comes first": _top_head_first,
        "not a tensor": _top_tensor,
        "exactly k": _top_of_one_sign,
        "count as zero": _top_clamped,
        "heads of equal value count once": _top_by_value,
        "a head is there twice": _top_found_again,
    },
}
