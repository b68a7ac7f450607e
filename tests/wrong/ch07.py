"""Wrong solutions of chapter 07's exercises, by the words of the message that each must get."""

import itertools

import numpy as np
import scipy.stats
import torch

from utils.prompts import tokenize


def last_minus_one(attention_mask):
    return torch.full((attention_mask.shape[0],), -1)


def last_by_length(attention_mask):
    return attention_mask.sum(1) - 1


def last_column(attention_mask):
    return torch.tensor([attention_mask.shape[1] - 1 for _ in attention_mask])


def last_first(attention_mask):
    return attention_mask.argmax(1)


def logp_logits(model, prompts, attribute_tokens):
    return torch.cat([model(model.to_tokens(p))[:, -1][:, attribute_tokens] for p in prompts])


def logp_padding(model, prompts, attribute_tokens):
    tokens, _ = tokenize(model, prompts)
    return torch.log_softmax(model(tokens)[:, -1], dim=-1)[:, attribute_tokens]


def logp_subset(model, prompts, attribute_tokens):
    return logp_logits(model, prompts, attribute_tokens).log_softmax(-1)


def logp_without_bos(model, prompts, attribute_tokens):
    rows = [model(model.to_tokens(p, prepend_bos=False))[0, -1].log_softmax(-1) for p in prompts]
    return torch.stack(rows)[:, attribute_tokens]


def logp_off_by_one(model, prompts, attribute_tokens):
    tokens, mask = tokenize(model, prompts)
    logp = model(tokens).log_softmax(-1)
    return torch.stack([logp[i, m.sum() - 2] for i, m in enumerate(mask)])[:, attribute_tokens]


def scores_of_means(logp_aae, logp_sae):
    return torch.log(logp_aae.exp().mean(0)) - torch.log(logp_sae.exp().mean(0))


def scores_sign(logp_aae, logp_sae):
    return logp_sae.mean(0) - logp_aae.mean(0)


def scores_probabilities(logp_aae, logp_sae):
    return logp_aae.exp().mean(0) - logp_sae.exp().mean(0)


def scores_per_row(logp_aae, logp_sae):
    return (logp_aae - logp_sae).mean(-1)


def calibrated_divides(logp, logp_empty):
    return logp / logp_empty


def calibrated_probabilities(logp, logp_empty):
    return logp.exp() - logp_empty.exp()


def calibrated_sign(logp, logp_empty):
    return logp_empty - logp


def calibrated_mean(logp, logp_empty):
    return logp - logp_empty.mean(0, keepdim=True)


def _ends(model, prompts):
    return torch.stack([model(model.to_tokens(p))[0, -1] for p in prompts])


def gap_sign(model, pairs, unfavorable, favorable):
    aae, sae = (_ends(model, [pair[i] for pair in pairs]) for i in (0, 1))
    difference = sae - aae
    return difference[:, unfavorable].mean(1) - difference[:, favorable].mean(1)


def gap_per_row(model, pairs, unfavorable, favorable):
    ids = torch.cat([unfavorable, favorable])
    rows = []
    for aae, sae in pairs:
        ratio = _ends(model, [aae]).log_softmax(-1)[0, ids] - _ends(model, [sae]).log_softmax(-1)[0, ids]
        rows.append(ratio.max() - ratio.min())
    return torch.stack(rows)


def gap_sums(model, pairs, unfavorable, favorable):
    aae, sae = (_ends(model, [pair[i] for pair in pairs]) for i in (0, 1))
    difference = aae - sae
    return difference[:, unfavorable].sum(1) - difference[:, favorable].sum(1)


def gap_padding(model, pairs, unfavorable, favorable):
    sides = []
    for i in (0, 1):
        logits = model(tokenize(model, [pair[i] for pair in pairs])[0])[:, -1]
        sides.append(logits[:, unfavorable].mean(-1) - logits[:, favorable].mean(-1))
    return sides[0] - sides[1]


def gap_mean_over_everything(model, pairs, unfavorable, favorable):
    ends = _ends(model, [aae for aae, _ in pairs] + [sae for _, sae in pairs])
    aae, sae = (ends[:, unfavorable].mean() - ends[:, favorable].mean(-1)).chunk(2)
    return aae - sae


def interval_rows(values, clusters):
    found = scipy.stats.bootstrap((np.asarray(values),), np.mean, method="percentile", rng=0).confidence_interval
    return found.low, found.high


def interval_of_values(values, clusters):
    names = sorted(set(clusters))
    means = [np.mean([v for v, c in zip(values.tolist(), clusters, strict=True) if c == name]) for name in names]
    return tuple(np.quantile(means, [0.025, 0.975]))


def interval_order(values, clusters):
    names = sorted(set(clusters))
    means = [np.mean([v for v, c in zip(values.tolist(), clusters, strict=True) if c == name]) for name in names]
    found = scipy.stats.bootstrap((means,), np.mean, method="percentile", rng=0).confidence_interval
    return found.high, found.low


def _percentiles(numbers):
    found = scipy.stats.bootstrap((list(numbers),), np.mean, method="percentile", rng=0).confidence_interval
    return found.low, found.high


def _by_name(values, clusters):
    groups = {}
    for value, name in zip(values.tolist(), clusters, strict=True):
        groups.setdefault(name, []).append(value)
    return list(groups.values())


def interval_of_medians(values, clusters):
    return _percentiles(np.median(rows) for rows in _by_name(values, clusters))


def interval_of_first_rows(values, clusters):
    return _percentiles(dict(zip(reversed(clusters), values.tolist()[::-1], strict=True)).values())


def interval_of_last_rows(values, clusters):
    return _percentiles(dict(zip(clusters, values.tolist(), strict=True)).values())


def interval_of_neighbors(values, clusters):
    runs = itertools.groupby(zip(clusters, values.tolist(), strict=True), key=lambda pair: pair[0])
    return _percentiles(np.mean([value for _, value in run]) for _, run in runs)


def interval_pooled(values, clusters):
    groups, rng = _by_name(values, clusters), np.random.default_rng(0)
    drawn = [rng.integers(0, len(groups), len(groups)) for _ in range(1000)]
    draws = [np.mean(np.concatenate([groups[i] for i in indices])) for indices in drawn]
    return np.quantile(draws, 0.025), np.quantile(draws, 0.975)


def interval_of_student(values, clusters):
    means = [np.mean(rows) for rows in _by_name(values, clusters)]
    return scipy.stats.t.interval(0.95, len(means) - 1, np.mean(means), scipy.stats.sem(means))


def rank_strict(observed, null):
    return (1 + (null.abs() > observed.abs()[:, None]).sum(1)) / (1 + len(null))


def rank_turned(observed, null):
    return (1 + (null.abs() <= observed.abs()[:, None]).sum(1)) / (1 + len(null))


def rank_one_sided(observed, null):
    return torch.stack([(1 + (null >= o).sum()) / (1 + len(null)) for o in observed])


def rank_left_out(observed, null):
    return torch.stack([(null.abs() >= o.abs()).float().mean() for o in observed])


def rank_smaller(observed, null):
    return torch.stack([(1 + (null.abs() < o.abs()).sum()) / (1 + len(null)) for o in observed])


def rank_zero(observed, null):
    return torch.stack([(null.abs() >= o.abs()).sum() / (1 + len(null)) for o in observed])


def circular_not_chosen_again(logp_aae, logp_sae):
    ratio = logp_aae - logp_sae
    best, worst = ratio.argmax(1, keepdim=True), ratio.argmin(1, keepdim=True)
    gap = (ratio.gather(1, best) - ratio.gather(1, worst)).mean()
    exchanged = ((-ratio).gather(1, best) - (-ratio).gather(1, worst)).mean()
    return torch.stack([gap, exchanged])


def circular_most_likely(logp_aae, logp_sae):
    out = []
    for a, s in ((logp_aae, logp_sae), (logp_sae, logp_aae)):
        best, worst = a.argmax(1, keepdim=True), s.argmax(1, keepdim=True)
        out.append(((a - s).gather(1, best) - (a - s).gather(1, worst)).mean())
    return torch.stack(out)


def circular_one_choice(logp_aae, logp_sae):
    mean = (logp_aae - logp_sae).mean(0)
    return torch.stack([mean.max() - mean.min(), (-mean).max() - (-mean).min()])


def coverage_misses(interval, tables, truth):
    return np.mean([not low <= truth <= high for low, high in map(interval, tables)])


def coverage_of_zero(interval, tables, truth):
    return np.mean([low <= 0 <= high for low, high in map(interval, tables)])


def coverage_excluding_zero(interval, tables, truth):
    return np.mean([low * high > 0 for low, high in map(interval, tables)])


def coverage_one_end(interval, tables, truth):
    return sum(interval(table)[0] <= truth for table in tables) / len(tables)


def coverage_open_ends(interval, tables, truth):
    bounds = torch.tensor([interval(table) for table in tables], dtype=torch.float64)
    return ((bounds[:, 0] < truth) & (bounds[:, 1] > truth)).double().mean()


def coverage_counts(interval, tables, truth):
    return len([table for table in tables if interval(table)[0] <= truth <= interval(table)[1]])


def coverage_of_the_mean(interval, tables, truth):
    low, high = interval(tables.mean(0))
    return float(low <= truth <= high)


def _power(effect, swap_sd, feature_sd, n_swaps, n_tests, n=4000, sided=np.abs, add=1):
    rng = np.random.default_rng(0)
    swaps, feature = swap_sd * rng.standard_normal((n, n_swaps)), effect + feature_sd * rng.standard_normal((n, 1))
    p = (add + (sided(swaps) >= sided(feature)).sum(1)) / (add + n_swaps)
    return float((p * n_tests <= 0.05).mean())


def power_uncorrected(effect, spread, error, n_swaps, n_tests):
    return _power(effect, np.hypot(spread, error), np.hypot(spread, error), n_swaps, 1)


def power_divided(effect, spread, error, n_swaps, n_tests):
    return _power(effect, np.hypot(spread, error), np.hypot(spread, error), n_swaps, 1 / n_tests)


def power_one_sided(effect, spread, error, n_swaps, n_tests):
    sd = np.hypot(spread, error)
    return _power(effect, sd, sd, n_swaps, n_tests, sided=np.asarray)


def power_fixed_feature(effect, spread, error, n_swaps, n_tests):
    return _power(effect, np.hypot(spread, error), 0, n_swaps, n_tests)


def power_feature_with_error_only(effect, spread, error, n_swaps, n_tests):
    return _power(effect, np.hypot(spread, error), error, n_swaps, n_tests)


def power_swaps_with_error_only(effect, spread, error, n_swaps, n_tests):
    return _power(effect, error, np.hypot(spread, error), n_swaps, n_tests)


def power_of_sums(effect, spread, error, n_swaps, n_tests):
    return _power(effect, spread + error, spread + error, n_swaps, n_tests)


def power_of_variances(effect, spread, error, n_swaps, n_tests):
    return _power(effect, spread**2 + error**2, spread**2 + error**2, n_swaps, n_tests)


def power_left_out(effect, spread, error, n_swaps, n_tests):
    return _power(effect, np.hypot(spread, error), np.hypot(spread, error), n_swaps, n_tests, add=0)


def power_missed(effect, spread, error, n_swaps, n_tests):
    sd = np.hypot(spread, error)
    return 1 - _power(effect, sd, sd, n_swaps, n_tests)


def _pooled(gaps, units, null, signed=True, size=None, by_unit=True, over=torch.mean):
    groups = [gaps[[unit == name for unit in units]] for name in dict.fromkeys(units)] if by_unit else gaps[:, None]
    mean = torch.stack([over(group) for group in groups]).mean()
    rng, size = np.random.default_rng(0), size or len(set(units))
    draws = np.array([rng.permutation(null.numpy())[:size] for _ in range(4000)])
    draws = (draws * rng.choice([-1, 1], draws.shape) if signed else draws).mean(1)
    return mean.item(), (1 + (np.abs(draws) >= abs(mean.item())).sum()) / 4001


def pooled_features(gaps, units, null):
    return _pooled(gaps, units, null, by_unit=False)


def pooled_sizes(gaps, units, null):
    return _pooled(gaps, units, null, over=lambda group: group.mean().abs())


def pooled_unsigned(gaps, units, null):
    return _pooled(gaps, units, null, signed=False)


def pooled_by_features(gaps, units, null):
    return _pooled(gaps, units, null, size=len(gaps))


def pooled_single_swaps(gaps, units, null):
    return _pooled(gaps, units, null, size=1)


def pooled_first(gaps, units, null):
    return _pooled(gaps, units, null, over=lambda group: group[0])


def pooled_sums(gaps, units, null):
    return _pooled(gaps, units, null, over=torch.sum)


def pooled_one_sided(gaps, units, null):
    mean, p = _pooled(gaps, units, null)
    return mean, p / 2


def pooled_turned(gaps, units, null):
    mean, p = _pooled(gaps, units, null)
    return mean, 1 - p


WRONG = {
    "last_token_index": {
        "-1 for every prompt": last_minus_one,
        "only where the padding is on the right": last_by_length,
        "the last column for every prompt": last_column,
        "the first real token": last_first,
    },
    "log_probs_at_end": {
        "these are logits": logp_logits,
        "padding for the shorter prompts": logp_padding,
        "over the attributes alone": logp_subset,
        "BOS is missing": logp_without_bos,
        "one position too early": logp_off_by_one,
    },
    "association_scores": {
        "averaged probabilities": scores_of_means,
        "AAE minus SAE": scores_sign,
        "differences of probabilities": scores_probabilities,
        "averaged over attributes": scores_per_row,
    },
    "calibrated": {
        "you divided": calibrated_divides,
        "subtracted probabilities": calibrated_probabilities,
        "the other way round": calibrated_sign,
        "its own baseline": calibrated_mean,
    },
    "trait_gap": {
        "the sign": gap_sign,
        "row by row": gap_per_row,
        "sums over the sets": gap_sums,
        "the last column": gap_padding,
        "the unfavorable traits drop out": gap_mean_over_everything,
    },
    "bootstrap_interval": {
        "you resampled rows": interval_rows,
        "not an interval of their mean": interval_of_values,
        "wrong order": interval_order,
        "the median of each verb": interval_of_medians,
        "only the first row": interval_of_first_rows,
        "only the last row": interval_of_last_rows,
        "only neighboring rows": interval_of_neighbors,
        "by its number of rows": interval_pooled,
        "as a standard error puts them": interval_of_student,
    },
    "null_swaps": {
        "one-sided": rank_one_sided,
        "left out": rank_left_out,
        "share of swaps that are smaller": rank_smaller,
        "can then be 0": rank_zero,
        "ties count as large": rank_strict,
        "turn the comparison round": rank_turned,
    },
    "is_circular": {
        "not chosen again": circular_not_chosen_again,
        "largest log-probability": circular_most_likely,
        "one pair of traits for all rows": circular_one_choice,
    },
    "coverage": {
        "the share that misses": coverage_misses,
        "the interval holds zero": coverage_of_zero,
        "leaves zero out": coverage_excluding_zero,
        "only the lower end": coverage_one_end,
        "use <= and >=": coverage_open_ends,
        "a number of tables": coverage_counts,
        "averaged into one first": coverage_of_the_mean,
    },
    "power": {
        "multiply the p-value by it": power_uncorrected,
        "divided by the number of tests": power_divided,
        "one-sided": power_one_sided,
        "fixed at `effect`": power_fixed_feature,
        "no spread of its own": power_feature_with_error_only,
        "the swaps have no spread": power_swaps_with_error_only,
        "add as squares": power_of_sums,
        "take the root": power_of_variances,
        "left out of the ranking": power_left_out,
        "the share that misses": power_missed,
    },
    "pooled_test": {
        "are one unit": pooled_features,
        "keep their signs": pooled_sizes,
        "draw a sign for each": pooled_unsigned,
        "as many as there are units": pooled_by_features,
        "single swaps": pooled_single_swaps,
        "only the first feature": pooled_first,
        "are summed": pooled_sums,
        "one-sided": pooled_one_sided,
        "share of draws that are smaller": pooled_turned,
    },
}
