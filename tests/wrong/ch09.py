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
}
