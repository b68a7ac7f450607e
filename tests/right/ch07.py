"""Unusual right answers for chapter 07."""

import numpy as np
import torch


def last_by_weights(attention_mask):
    """The largest position among those that are real."""
    return (attention_mask * torch.arange(attention_mask.shape[1])).argmax(dim=1)


def last_by_loop(attention_mask):
    """A list of integers."""
    return [max(i for i, real in enumerate(row) if real) for row in attention_mask.tolist()]


def one_by_one(model, prompts, attribute_tokens):
    """Every prompt by itself, as a list of rows."""
    return [model(model.to_tokens(prompt))[0, -1].double().log_softmax(-1)[attribute_tokens] for prompt in prompts]


def left_padded(model, prompts, attribute_tokens):
    """Padded on the left, with a mask; logits minus their logsumexp."""
    rows = [model.to_tokens(prompt)[0] for prompt in prompts]
    longest = max(map(len, rows))
    tokens = torch.stack([torch.cat([row.new_zeros(longest - len(row)), row]) for row in rows])
    mask = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows]).long()
    end = model(tokens, attention_mask=mask)[:, -1]
    return end[:, attribute_tokens] - end.logsumexp(-1, keepdim=True)


def gap_pair_by_pair(model, pairs, unfavorable, favorable):
    """Log-probabilities in place of logits, pair by pair, as floats."""

    def preference(prompt):
        logp = model(model.to_tokens(prompt))[0, -1].log_softmax(-1)
        return (logp[unfavorable].mean() - logp[favorable].mean()).item()

    return [preference(aae) - preference(sae) for aae, sae in pairs]


def gap_by_direction(model, pairs, unfavorable, favorable):
    """A projection of the normed stream."""
    direction = model.W_U[:, unfavorable].mean(1) - model.W_U[:, favorable].mean(1)

    def read(prompt):
        _, cache = model.run_with_cache(model.to_tokens(prompt))
        return cache["ln_final.hook_normalized"][0, -1] @ direction

    return torch.stack([read(aae) - read(sae) for aae, sae in pairs])


def interval_by_hand(values, clusters):
    """numpy alone, 1,000 resamples, as an array."""
    names, rng = sorted(set(clusters)), np.random.default_rng(11)
    values, clusters = np.asarray(values), np.array(clusters)
    means = np.array([values[clusters == name].mean() for name in names])
    draws = means[rng.integers(0, len(means), (1000, len(means)))].mean(1)
    return np.quantile(draws, [0.025, 0.975])


def interval_of_many(values, clusters):
    """Whole clusters resampled, 3,000 times, as a list."""
    groups = {}
    for value, name in zip(values.tolist(), clusters, strict=True):
        groups.setdefault(name, []).append(value)
    rng, names = np.random.default_rng(2), list(groups)
    draws = [np.mean([np.mean(groups[n]) for n in rng.choice(names, len(names))]) for _ in range(3000)]
    return [float(np.percentile(draws, 2.5)), float(np.percentile(draws, 97.5))]


def circular_by_index(logp_aae, logp_sae):
    """argmax and argmin, row by row, as a tuple of floats."""
    gaps = []
    for first, second in ((logp_aae, logp_sae), (logp_sae, logp_aae)):
        ratio, rows = first - second, torch.arange(len(first))
        best, worst = ratio.argmax(1), ratio.argmin(1)
        gaps.append((ratio[rows, best] - ratio[rows, worst]).mean().item())
    return tuple(gaps)


def coverage_by_width(interval, tables, truth):
    """The distance from the interval's middle, as a tensor."""
    low, high = torch.tensor([interval(table) for table in tables], dtype=torch.float64).T
    return ((truth - (low + high) / 2).abs() <= (high - low) / 2 + 1e-12).double().mean()


def power_in_a_loop(effect, spread, error, n_swaps, n_tests):
    """One experiment after the other, 1,500 of them, spread and error drawn apart."""
    rng, found = np.random.default_rng(5), 0
    for _ in range(1500):
        swaps = rng.normal(0, spread, n_swaps) + rng.normal(0, error, n_swaps)
        gap = effect + rng.normal(0, spread) + rng.normal(0, error)
        p = np.mean(np.append(np.abs(swaps) >= abs(gap), True))
        found += min(1.0, p * n_tests) <= 0.05
    return found / 1500


def power_by_order(effect, spread, error, n_swaps, n_tests, n=3000):
    """Without p-values: the gap must exceed all but the few largest swaps."""
    few = int(0.05 / n_tests * (n_swaps + 1) + 1e-9)
    if few == 0:
        return torch.tensor(0.0)
    generator, sd = torch.Generator().manual_seed(1), (spread**2 + error**2) ** 0.5
    limit = (sd * torch.randn(n, n_swaps, generator=generator)).abs().topk(few, 1).values[:, -1]
    return ((effect + sd * torch.randn(n, generator=generator)).abs() > limit).double().mean()


def pooled_in_a_loop(gaps, units, null):
    """1,500 draws one after the other; the mean over units through a dictionary."""
    by_unit = {}
    for gap, unit in zip(gaps.tolist(), units, strict=True):
        by_unit.setdefault(unit, []).append(gap)
    mean, rng = float(np.mean([np.mean(group) for group in by_unit.values()])), np.random.default_rng(3)
    hits = 0
    for _ in range(1500):
        drawn = rng.choice(null.numpy(), len(by_unit), replace=False)
        hits += abs(np.mean(drawn * rng.choice([-1, 1], len(drawn)))) >= abs(mean)
    return [mean, (1 + hits) / 1501]


def pooled_by_matrix(gaps, units, null):
    """A matrix of weights in place of groups; signs from a normal distribution; an array is returned."""
    names = sorted(set(units))
    member = torch.tensor([[unit == name for unit in units] for name in names]).to(gaps.dtype)
    mean = ((member @ gaps) / member.sum(1)).mean()
    generator = torch.Generator().manual_seed(9)
    order = torch.stack([torch.randperm(len(null), generator=generator)[: len(names)] for _ in range(3000)])
    draws = (null[order] * torch.randn(order.shape, generator=generator).sign()).mean(1)
    return np.array([mean, (1 + (draws.abs() >= mean.abs()).sum()) / 3001])


RIGHT = {
    "last_token_index": {"weights": last_by_weights, "a list": last_by_loop},
    "log_probs_at_end": {"one by one": one_by_one, "padded on the left": left_padded},
    "association_scores": {
        "a difference of means": lambda logp_aae, logp_sae: logp_aae.mean(0) - logp_sae.mean(0),
        "a list of floats": lambda logp_aae, logp_sae: [
            (a - s).mean().item() for a, s in zip(logp_aae.T, logp_sae.T, strict=True)
        ],
    },
    "calibrated": {
        "the logarithm of a ratio": lambda logp, logp_empty: (logp.exp() / logp_empty.exp()).log(),
        "in place, on a copy": lambda logp, logp_empty: logp.clone().sub_(logp_empty).numpy(),
    },
    "trait_gap": {"pair by pair": gap_pair_by_pair, "a projection": gap_by_direction},
    "bootstrap_interval": {"1,000 resamples in numpy": interval_by_hand, "whole clusters": interval_of_many},
    "null_swaps": {
        "a loop": lambda observed, null: [
            (1 + sum(abs(n) >= abs(o) for n in null.tolist())) / (1 + len(null)) for o in observed.tolist()
        ],
        "the observed gap among the others": lambda observed, null: torch.stack(
            [(torch.cat([null, o[None]]).abs() >= o.abs()).double().mean() for o in observed]
        ),
    },
    "is_circular": {
        "by index": circular_by_index,
        "by the identity that it shows": lambda logp_aae, logp_sae: torch.stack(
            [(d.max(-1).values - d.min(-1).values).mean() for d in (logp_aae - logp_sae, logp_sae - logp_aae)]
        ),
    },
    "coverage": {
        "by distance from the middle": coverage_by_width,
        "one minus a share of misses": lambda interval, tables, truth: (
            1 - np.mean([low > truth or high < truth for low, high in (interval(table) for table in tables)])
        ),
    },
    "power": {"one experiment after the other": power_in_a_loop, "by order": power_by_order},
    "pooled_test": {"draw by draw": pooled_in_a_loop, "by matrix": pooled_by_matrix},
}
