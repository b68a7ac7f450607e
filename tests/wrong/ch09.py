"""Wrong solutions of chapter 09's exercises, by the words of the message that each must get."""

import scipy.stats
import torch


def _z(model, tokens):
    _, cache = model.run_with_cache(tokens)
    return torch.stack([cache["z", layer] for layer in range(model.cfg.n_layers)])


def mean_with_padding(model, tokens, mask):
    return _z(model, tokens)[:, :, 1:].mean(dim=(1, 2))


def mean_with_bos(model, tokens, mask):
    return _z(model, tokens)[:, mask.bool()].mean(1)


def mean_of_means(model, tokens, mask):
    z = _z(model, tokens)[:, :, 1:]
    weights = mask[:, 1:, None, None].float()
    return ((z * weights).sum(2) / weights.sum(1)).mean(1)


def mean_at_end(model, tokens, mask):
    z = _z(model, tokens)
    return torch.stack([z[:, i, m.sum() - 1] for i, m in enumerate(mask)]).mean(0)


def _ablate(model, tokens, heads, means, at=slice(1, None)):
    def hook(layer, head):
        def put(z, hook):
            z = z.clone()
            z[:, at, head] = means[layer, head]
            return z

        return f"blocks.{layer}.attn.hook_z", put

    return model.run_with_hooks(tokens, fwd_hooks=[hook(*pair) for pair in heads])


def ablate_bos(model, tokens, heads, means):
    return _ablate(model, tokens, heads, means, slice(None))


def ablate_end(model, tokens, heads, means):
    return _ablate(model, tokens, heads, means, slice(-1, None))


def ablate_zero(model, tokens, heads, means):
    return _ablate(model, tokens, heads, means * 0)


def ablate_late_binding(model, tokens, heads, means):
    hooks = []
    for layer, head in heads:

        def put(z, hook):
            z = z.clone()
            z[:, 1:, head] = means[layer, head]  # noqa: B023
            return z

        hooks.append((f"blocks.{layer}.attn.hook_z", put))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


def ablate_left(model, tokens, heads, means):
    for layer, head in heads:

        def put(z, hook, layer=layer, head=head):
            z = z.clone()
            z[:, 1:, head] = means[layer, head]
            return z

        model.add_hook(f"blocks.{layer}.attn.hook_z", put)
    return model(tokens)


def share_left(before, after):
    return after.mean() / before.mean()


def share_of_ratios(before, after):
    return ((before - after) / before).mean()


def share_absolute(before, after):
    return 1 - after.abs().mean() / before.abs().mean()


def share_difference(before, after):
    return (before - after).mean()


def overlap_more_than(one, other, n_total):
    return float(scipy.stats.hypergeom.sf(len(set(one) & set(other)), n_total, len(one), len(other)))


def overlap_exactly(one, other, n_total):
    return float(scipy.stats.hypergeom.pmf(len(set(one) & set(other)), n_total, len(one), len(other)))


def overlap_in_order(one, other, n_total):
    shared = sum(a == b for a, b in zip(one, other, strict=False))
    return float(scipy.stats.hypergeom.sf(shared - 1, n_total, len(one), len(other)))


def overlap_share(one, other, n_total):
    return len(set(one) & set(other)) / min(len(one), len(other))


def slope_left(before, after):
    return (before * after).sum() / (before**2).sum()


def slope_of_sizes(before, after):
    return 1 - after.abs().sum() / before.abs().sum()


def slope_of_means(before, after):
    return 1 - after.mean() / before.mean()


def slope_with_constant(before, after):
    return 1 - scipy.stats.linregress(before.numpy(), after.numpy()).slope


def slope_turned(before, after):
    return 1 - (before @ after) / (after @ after)


def draw_any_layer(heads, n_heads, rng):
    layers = 1 + max(layer for layer, _ in heads)
    return [divmod(i, n_heads) for i in rng.sample(range(layers * n_heads), len(heads))]


def draw_with_putting_back(heads, n_heads, rng):
    return [(layer, rng.randrange(n_heads)) for layer, _ in heads]


def draw_others(heads, n_heads, rng):
    found = []
    for layer, _ in heads:
        free = [(layer, h) for h in range(n_heads) if (layer, h) not in heads and (layer, h) not in found]
        found.append(rng.choice(free))
    return found


def draw_without_rng(heads, n_heads, rng):
    layers = [layer for layer, _ in heads]
    return [(la, int(h)) for la in set(layers) for h in torch.randperm(n_heads)[: layers.count(la)]]


def draw_one_per_layer(heads, n_heads, rng):
    return [(layer, rng.randrange(n_heads)) for layer in {layer for layer, _ in heads}]


def _project(model, tokens, vector, layer, rows, at, sign=-1):
    def edit(stream, hook):
        stream = stream.clone()
        x = stream[rows, at]
        stream[rows, at] = x + sign * (x @ vector)[..., None] * vector
        return stream

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", edit)])


def project_not_scaled(model, tokens, direction, layer, positions):
    return _project(model, tokens, direction, layer, torch.arange(len(tokens)), positions)


def project_everywhere(model, tokens, direction, layer, positions):
    return _project(model, tokens, direction / direction.norm(), layer, slice(None), slice(None))


def project_all_at_all(model, tokens, direction, layer, positions):
    return _project(model, tokens, direction / direction.norm(), layer, slice(None), positions)


def project_added(model, tokens, direction, layer, positions):
    unit = direction / direction.norm()
    return _project(model, tokens, unit, layer, torch.arange(len(tokens)), positions, sign=1)


def project_later(model, tokens, direction, layer, positions):
    return _project(model, tokens, direction / direction.norm(), layer + 1, torch.arange(len(tokens)), positions)


WRONG = {
    "mean_z": {
        "padding is in the mean": mean_with_padding,
        "BOS is in the mean": mean_with_bos,
        "a mean of the prompts' means": mean_of_means,
        "the last tokens only": mean_at_end,
    },
    "ablate_heads": {
        "BOS is replaced too": ablate_bos,
        "only the last position": ablate_end,
        "zeros are put in": ablate_zero,
        "must remember its own head": ablate_late_binding,
        "it leaves a hook": ablate_left,
    },
    "share_removed": {
        "the share that is left": share_left,
        "a mean of ratios": share_of_ratios,
        "absolute values of rows": share_absolute,
        "a difference, not a share": share_difference,
    },
    "overlap_p": {
        "P(more than that many)": overlap_more_than,
        "P(exactly that many)": overlap_exactly,
        "place by place": overlap_in_order,
        "the share of heads in common": overlap_share,
    },
    "slope_removed": {
        "the share that is left": slope_left,
        "a share of sizes": slope_of_sizes,
        "a ratio of means": slope_of_means,
        "does not go through zero": slope_with_constant,
        "the slope of before on after": slope_turned,
    },
    "matched_heads": {
        "the layers are not kept": draw_any_layer,
        "a head is drawn twice": draw_with_putting_back,
        "heads of the list are never drawn": draw_others,
        "does not come from rng": draw_without_rng,
        "heads are drawn in place of": draw_one_per_layer,
    },
    "run_projected": {
        "not scaled to length 1": project_not_scaled,
        "at every position": project_everywhere,
        "all of the positions": project_all_at_all,
        "added, not taken out": project_added,
        "that is the stream after the layer": project_later,
    },
}
