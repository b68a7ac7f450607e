"""Checks of chapter 07."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import require_equal
from tests.checks.core import CheckFailed, both_models, exercise, require
from tests.checks.sets import set_differences

PROMPTS = (
    "He says he is working with a computer. He is",
    "They say she has walked. They are",
    "He is",
    "A person who says she was singing at the park tends to be",
)
GUISES = (
    ("He says he done worked. He is", "He says he has worked. He is"),
    ("She says she be singing in the park. She is", "She says she is usually singing in the park. She is"),
    ("They say they was walking. They are", "They say they were walking. They are"),
    ("A person who says he been working tends to be", "A person who says he has been working tends to be"),
)
UNFAVORABLE, FAVORABLE = (" lazy", " rude", " loud"), (" kind", " honest")


def _right_padded(model: TransformerBridge, prompts=PROMPTS) -> tuple[Tensor, Tensor]:
    rows = [model.to_tokens(prompt)[0] for prompt in prompts]
    longest = max(map(len, rows))
    tokens = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row))) for row in rows])  # pad = BOS = 0 here
    mask = torch.stack([torch.arange(longest) < len(row) for row in rows]).long()
    return tokens, mask


def _flip(rows: Tensor, mask: Tensor) -> Tensor:
    """Right padding made left padding."""
    return torch.stack([row.roll(int((1 - m).sum())) for row, m in zip(rows, mask, strict=True)])


def _ids(model: TransformerBridge, words) -> Tensor:
    return torch.tensor([model.to_single_token(word) for word in words])


@functools.cache
def _alone(model: TransformerBridge, prompts: tuple[str, ...]) -> Tensor:
    """Last-token logits of each prompt, run by itself: no padding anywhere."""
    return torch.cat([model(model.to_tokens(prompt))[:, -1] for prompt in prompts])


@exercise(
    "07",
    look="section 3: a mask is 1 on real tokens; the last real token is the last 1, wherever the padding is",
    takes="attention_mask",
)
def check_last_token_index(learner: Callable) -> str:
    model = next(both_models())
    _, right = _right_padded(model)
    left = _flip(right, right)
    both_sides = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    masks = {"right-padded": right, "left-padded": left, "padded on both sides": both_sides}
    results = {what: call(learner, mask) for what, mask in masks.items()}
    mistakes = _last_token_mistakes()
    true = [  # a mistake is named only if it explains the results under all three masks
        name
        for name, wrong in mistakes.items()
        if all(_same_indices(results[what], wrong(mask)) for what, mask in masks.items())
    ]
    for what, mask in masks.items():
        n = mask.shape[1]
        held = require_equal(
            results[what],
            torch.tensor([max(i for i in range(n) if row[i]) for row in mask.tolist()]),
            f"the index of each prompt's last real token, {what}",
            axes="batch",
            mistakes={name: (lambda name=name, mask=mask: mistakes[name](mask)) for name in true},
        )
    return f"true last tokens under left, right and mixed padding ({held})"


def _last_token_mistakes() -> dict[str, Callable[[Tensor], Tensor]]:
    return {
        "-1 for every prompt: the last column is padding where prompts are shorter than the longest": lambda mask: (
            torch.full((len(mask),), -1)
        ),
        "the last column for every prompt: it is padding where prompts are shorter than the longest": lambda mask: (
            torch.full((len(mask),), mask.shape[1] - 1)
        ),
        "the length minus one is right only where the padding is on the right; look for the last 1": lambda mask: (
            mask.sum(-1) - 1
        ),
        "this is the first real token, not the last: is one of the flips missing?": lambda mask: mask.argmax(-1),
        "counted from the end: subtract from the number of columns": lambda mask: mask.flip(-1).argmax(-1),
        "this is the length, one past the last index": lambda mask: mask.sum(-1),
        "one past the last token: that column is padding, or does not exist": lambda mask: (
            mask.shape[1] - mask.flip(-1).argmax(-1)
        ),
        "one before the last token": lambda mask: mask.shape[1] - 2 - mask.flip(-1).argmax(-1),
        "the distance of the first real token from the end: flip the mask, so that argmax finds the last": lambda mask: (
            mask.shape[1] - 1 - mask.argmax(-1)
        ),
        "added, not subtracted: the distance from the right end is subtracted from the last index": lambda mask: (
            mask.shape[1] - 1 + mask.flip(-1).argmax(-1)
        ),
    }


def _same_indices(result: object, wrong: Tensor) -> bool:
    try:
        found = torch.as_tensor(result)
    except (TypeError, ValueError, RuntimeError):
        return False
    return found.shape == wrong.shape and bool((found == wrong).all())


@exercise(
    "07",
    look="section 3: utils.prompts.tokenize gives tokens and mask; log_softmax before you pick the attributes",
    takes="model prompts attribute_tokens",
)
def check_log_probs_at_end(learner: Callable) -> str:
    for model in both_models():
        ids = _ids(model, (*UNFAVORABLE, *FAVORABLE))
        alone = _alone(model, PROMPTS)
        tokens, mask = _right_padded(model)
        logits = model(tokens)
        rows = torch.arange(len(PROMPTS))
        no_bos = torch.cat([model(model.to_tokens(p, prepend_bos=False))[:, -1] for p in PROMPTS])
        held = require_equal(
            call(learner, model, list(PROMPTS), ids),
            alone.log_softmax(-1)[:, ids],
            f"log-probabilities of each prompt run by itself on {model.cfg.model_name}",
            axes="batch attribute",
            mistakes={
                "these are logits: take log_softmax over the vocabulary first": lambda: alone[:, ids],
                "these are probabilities: take log_softmax, not softmax": lambda: alone.softmax(-1)[:, ids],
                "softmax over the attributes alone: normalize over the whole vocabulary, then pick": lambda: alone[
                    :, ids
                ].log_softmax(-1),
                "you read the last column, which is padding for the shorter prompts: use the true last token": lambda: (
                    logits[:, -1].log_softmax(-1)[:, ids]
                ),
                "you read one position too early: that one predicts the last word, not what follows it": lambda: logits[
                    rows, mask.sum(-1) - 2
                ].log_softmax(-1)[:, ids],
                "you read position 0, which is BOS": lambda: logits[:, 0].log_softmax(-1)[:, ids],
                "you read position 1 of every prompt: use each one's true last token": lambda: logits[:, 1].log_softmax(
                    -1
                )[:, ids],
                "log_softmax over the prompts: the vocabulary is the last axis": lambda: alone.log_softmax(0)[:, ids],
                "BOS is missing: the course always puts it in front (model.to_tokens does)": lambda: no_bos.log_softmax(
                    -1
                )[:, ids],
            },
        )
    return f"batched equals one by one, on a GPT-2 and on a Llama ({held})"


def _fake_log_probs(seed: int = 0, n: int = 6, attributes: int = 5) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a few attributes among more words, so that a row does not add up to 1."""
    generator = torch.Generator().manual_seed(seed)
    aae, sae = torch.randn(2, n, 4 * attributes, generator=generator).mul(2).log_softmax(-1)[..., :attributes]
    return aae, sae


@exercise(
    "07",
    look="section 4: the mean over pairs of a difference of log-probabilities, trait by trait",
    takes="logp_aae logp_sae",
)
def check_association_scores(learner: Callable) -> str:
    aae, sae = _fake_log_probs()
    held = require_equal(
        call(learner, aae, sae),
        torch.stack([sum(a - s for a, s in zip(aae[:, x], sae[:, x], strict=True)) / len(aae) for x in range(5)]),
        "mean over pairs of log p(x | AAE) - log p(x | SAE)",
        axes="attribute",
        mistakes={
            "the sign is the other way round: it is AAE minus SAE": lambda: (sae - aae).mean(0),
            "you averaged probabilities and took the log of their ratio: average the log-ratios of single pairs":
                lambda: (aae.exp().mean(0) / sae.exp().mean(0)).log(),
            "a ratio of mean log-probabilities: subtract logs, do not divide them": lambda: aae.mean(0) / sae.mean(0),
            "a mean of ratios of log-probabilities: subtract logs, do not divide them": lambda: (aae / sae).mean(0),
            "differences of probabilities: stay with logs": lambda: (aae.exp() - sae.exp()).mean(0),
            "summed, not averaged, over pairs": lambda: (aae - sae).sum(0),
            "averaged over attributes: one score per attribute is wanted, so average over pairs":
                lambda: (aae - sae).mean(1),
            "the two guises are added: subtract SAE from AAE": lambda: (aae + sae).mean(0),
            "the AAE guise alone: subtract the SAE guise": lambda: aae.mean(0),
            "the SAE guise alone: subtract it from the AAE guise": lambda: sae.mean(0),
            "normalized over the attributes first: they are some words of many, so leave the log-probabilities as they are":
                lambda: (aae.log_softmax(-1) - sae.log_softmax(-1)).mean(0),
        },
    )  # fmt: skip
    return f"one score per trait ({held})"


@exercise(
    "07",
    look="section 4: log p(x | guise) - log p(x | empty guise), with the frame's own empty guise",
    takes="logp logp_empty",
)
def check_calibrated(learner: Callable) -> str:
    aae, empty = _fake_log_probs(1)
    held = require_equal(
        call(learner, aae, empty),
        (aae.exp() / empty.exp()).log(),
        "log-probabilities minus those of the empty guise",
        axes="batch attribute",
        mistakes={
            "you divided log-probabilities: a ratio of probabilities is a difference of logs": lambda: aae / empty,
            "you subtracted probabilities: stay with logs": lambda: aae.exp() - empty.exp(),
            "the sign is the other way round": lambda: empty - aae,
            "every row has its own baseline: do not average the empty guise over rows": lambda: aae - empty.mean(0),
            "you renormalized afterwards: the difference of two logs is the result": lambda: (aae - empty).log_softmax(
                -1
            ),
            "a ratio of probabilities: take its log": lambda: (aae - empty).exp(),
            "the empty guise is added: subtract it": lambda: aae + empty,
            "the guise alone: subtract the empty one": lambda: aae,
            "the empty guise alone: subtract it from the guise": lambda: empty,
        },
    )
    return f"each row against its own empty guise ({held})"


@exercise(
    "07",
    look="section 4: one fixed set of traits, means over each set, AAE minus SAE",
    takes="model pairs unfavorable favorable",
)
def check_trait_gap(learner: Callable) -> str:
    for model in both_models():
        u, f = _ids(model, UNFAVORABLE), _ids(model, FAVORABLE)
        aae, sae = (_alone(model, tuple(pair[side] for pair in GUISES)) for side in (0, 1))
        direction = model.W_U[:, u].mean(1) - model.W_U[:, f].mean(1)
        want = torch.stack(
            [_end_projection(model, a, direction) - _end_projection(model, s, direction) for a, s in GUISES]
        )

        def gap(aae, sae, u=u, f=f):
            return (aae[:, u].mean(-1) - aae[:, f].mean(-1)) - (sae[:, u].mean(-1) - sae[:, f].mean(-1))

        def one_side(logits, u=u, f=f):
            return logits[:, u].mean(-1) - logits[:, f].mean(-1)

        def per_row(aae, sae, u=u, f=f):
            ratio = (aae.log_softmax(-1) - sae.log_softmax(-1))[:, torch.cat([u, f])]
            return ratio.amax(-1) - ratio.amin(-1)

        wrong = [set_differences(lambda ids, logits=logits: logits[:, ids], u, f) for logits in (aae, sae)]
        padded = [_right_padded(model, tuple(pair[side] for pair in GUISES)) for side in (0, 1)]
        last_column = [model(tokens)[:, -1] for tokens, _ in padded]
        held = require_equal(
            call(learner, model, list(GUISES), u, f),
            want,
            f"the gap read off a fixed direction of the residual stream on {model.cfg.model_name}",
            axes="pair",
            mistakes={
                "the sign: it is the AAE guise minus the SAE guise, unfavorable minus favorable":
                    lambda: -gap(aae, sae),
                "the unfavorable traits drop out, as their mean is taken over the pairs as well: average over the set alone":
                    lambda: -(aae[:, f].mean(-1) - sae[:, f].mean(-1)),
                "the traits are chosen row by row (argmax and argmin of the ratio): use the fixed sets":
                    lambda: per_row(aae, sae),
                **{message: (lambda m=message: wrong[0][m] - wrong[1][m]) for message in wrong[0]},
                "the two guises are added: AAE minus SAE": lambda: one_side(aae) + one_side(sae),
                "only the SAE guise: subtract it from the preference after the AAE guise": lambda: one_side(sae),
                "softmax before averaging: average logits (or log-probabilities)":
                    lambda: one_side(aae.softmax(-1)) - one_side(sae.softmax(-1)),
                "only the AAE guise: subtract the same preference after the SAE guise": lambda: one_side(aae),
                "unfavorable traits alone: subtract the favorable ones, or a shift of all traits looks like prejudice":
                    lambda: (aae.log_softmax(-1) - sae.log_softmax(-1))[:, u].mean(-1),
                "you read the last column, which is padding for the shorter prompts":
                    lambda: gap(*last_column),
                "averaged over pairs: return one gap per pair": lambda: gap(aae, sae).mean(),
            },
        )  # fmt: skip
    return f"one gap per pair, equal to a projection on one fixed direction ({held})"


def _end_projection(model: TransformerBridge, prompt: str, direction: Tensor) -> Tensor:
    _, cache = model.run_with_cache(model.to_tokens(prompt))
    resid = cache["resid_post", model.cfg.n_layers - 1][0, -1]
    if model.cfg.normalization_type.startswith("LN"):
        resid = resid - resid.mean()
    return resid / cache["ln_final.hook_scale"][0, -1, 0] @ direction


@exercise(
    "07",
    look="section 6: first one mean per verb, then scipy.stats.bootstrap over those means",
    takes="values clusters",
)
def check_bootstrap_interval(learner: Callable) -> str:
    """Several sets of data, since an interval by resampling has an error of its own, which differs from set to set."""
    data, found = [_clustered(n) for n in range(8, 14)], []
    for values, clusters in data:
        result = call(learner, torch.tensor(values), list(clusters))
        ok = isinstance(result, (tuple, list, np.ndarray, Tensor)) and len(result) == 2
        require(ok, f"what you return: {type(result).__name__}", "return two floats, (low, high)")
        found.append(_finite(result))
    got = np.array(found)  # [set, (low, high)]
    means = [_cluster_means(values, clusters) for values, clusters in data]
    want = np.array([_interval(each, n=19_999) for each in means])
    require(
        _near(got, want),
        f"your interval with the percentile interval of the mean of {len(means[0])} verbs' means: "
        f"{_show(got[0])} against {_show(want[0])}, and on five more sets of verbs",
        next((message for message, wrong in _interval_mistakes(data, means, want).items() if _near(got, wrong)), ""),
    )
    low, high = _finite(call(learner, torch.tensor([0.9, 0.2, 0.5, 0.3, -0.4]), ["c", "b", "c", "b", "a"]))
    require(
        abs(low + 0.4) < 1e-4 and abs(high - 0.7) < 1e-4,
        f"your interval of three verbs, whose means are 0.7, 0.25 and -0.4: {low:.3f} to {high:.3f}",
        "a verb is left out: with three verbs, more than 2.5 % of the resamples hold one verb three times, "
        "so the interval goes from the smallest mean to the largest",
    )
    return f"{_show(got[0])} and six more, within resampling error of the interval of verb means"


def _clustered(n_clusters: int) -> tuple[np.ndarray, list[str]]:
    """Rows of verbs in no order: few rows and many, a skewed spread between and within verbs, and large verbs with large
    values; each verb's first row is its largest, its last row its smallest."""
    rng = np.random.default_rng(n_clusters)
    levels = np.sort(rng.exponential(0.4, n_clusters)) - 0.2
    sizes = 2 + np.arange(n_clusters) % 9
    sizes[-2:] = 14
    clusters = np.repeat([f"verb {i}" for i in range(n_clusters)], sizes)
    values = np.repeat(levels, sizes) + rng.exponential(0.25, sizes.sum()) - 0.25
    order = rng.permutation(len(values))
    values, clusters = values[order], clusters[order]
    for name in set(clusters.tolist()):
        at = np.flatnonzero(clusters == name)
        middle = rng.permutation(np.sort(values[at])[1:-1])
        values[at] = [values[at].max(), *middle, values[at].min()]
    return values, clusters.tolist()


def _cluster_means(values: np.ndarray, clusters: list[str]) -> np.ndarray:
    return _per_cluster(values, clusters, np.mean)


def _per_cluster(values: np.ndarray, clusters: list[str], summary: Callable) -> np.ndarray:
    names = np.array(clusters)
    return np.array([summary(values[names == name]) for name in dict.fromkeys(clusters)])


def _interval(
    *values: np.ndarray, level: float = 0.95, statistic=np.mean, method: str = "percentile", n: int = 4999
) -> np.ndarray:
    """Several arrays are resampled together: (sums, sizes), for a mean over the rows of the clusters drawn."""
    options = {"confidence_level": level, "n_resamples": n, "method": method, "rng": 1, "paired": len(values) > 1}
    ends = stats.bootstrap(values, statistic, **options).confidence_interval
    return np.array([ends.low, ends.high])


def _near(got: np.ndarray, want: np.ndarray) -> bool:
    """Within the error of 1,000 resamples, in every set (0.14 of the width) and in the mean over them (0.045)."""
    off = (got - want) / np.abs(want[:, 1] - want[:, 0])[:, None]
    return bool((np.abs(off) < 0.14).all() and (np.abs(off.mean(0)) < 0.045).all())


def _interval_mistakes(data: list, means: list, want: np.ndarray) -> dict[str, np.ndarray]:
    def of_means(**options) -> np.ndarray:
        return np.array([_interval(each, **options) for each in means])

    def of_clusters(summary: Callable) -> np.ndarray:
        return np.array([_interval(_per_cluster(*each, summary)) for each in data])

    def by_curve(ends: Callable[[int], float]) -> np.ndarray:
        return np.array([m.mean() + ends(len(m)) * np.array([-1, 1]) * stats.sem(m) for m in means])

    both = [(_per_cluster(*each, np.sum), _per_cluster(*each, len)) for each in data]  # sums and sizes
    curve = (
        "the ends lie as far from the mean as a standard error puts them: resample the verbs' means, with replacement"
    )
    return {
        "you resampled rows: the rows of a verb are not independent, and the interval is too narrow; resample verbs":
            np.array([_interval(values) for values, _ in data]),
        "each verb counts by its number of rows: take one mean per verb first, then resample those means":
            np.array([_interval(*each, statistic=_pooled) for each in both]),
        "only neighboring rows are taken together: the rows of a verb are not side by side, so look for all of them":
            np.array([_interval(_means_of_runs(*each)) for each in data]),
        "the two ends are in the wrong order: (low, high)": want[:, ::-1],
        "this is the range of the verbs' means, not an interval of their mean: scipy needs np.mean as its statistic":
            np.array([np.quantile(each, [0.025, 0.975]) for each in means]),
        "this is the range of the rows, not an interval of a mean":
            np.array([np.quantile(values, [0.025, 0.975]) for values, _ in data]),
        "a 90 % interval: confidence_level=0.95": of_means(level=0.9),
        "a 99 % interval: confidence_level=0.95": of_means(level=0.99),
        "another kind of interval (BCa): method=\"percentile\"": of_means(method="BCa"),
        "another kind of interval (basic): method=\"percentile\"": of_means(method="basic"),
        "the median's interval: the statistic is the mean": of_means(statistic=np.median),
        "the verbs are summed: take the mean of each verb's rows": of_clusters(np.sum),
        "the median of each verb: take the mean of its rows": of_clusters(np.median),
        "only the first row of each verb: take the mean of all its rows": of_clusters(lambda rows: rows[0]),
        "only the last row of each verb: take the mean of all its rows": of_clusters(lambda rows: rows[-1]),
        "each verb's mean is taken over the rows of all other verbs: compare with ==":
            np.array([_interval((sums.sum() - sums) / (sizes.sum() - sizes)) for sums, sizes in both]),
        curve: by_curve(lambda n: 1.96), f"{curve} (Student's t)": by_curve(lambda n: stats.t.ppf(0.975, n - 1)),
    }  # fmt: skip


def _pooled(sums: np.ndarray, sizes: np.ndarray, axis: int) -> np.ndarray:
    return sums.sum(axis) / sizes.sum(axis)


def _means_of_runs(values: np.ndarray, clusters: list[str]) -> np.ndarray:
    """One mean per run of equal neighbors, as itertools.groupby finds them."""
    starts = [i for i, name in enumerate(clusters) if i == 0 or name != clusters[i - 1]]
    return np.array([part.mean() for part in np.split(values, starts[1:])])


def _finite(ends: object) -> list[float]:
    try:
        found = [float(end) for end in ends]
    except (TypeError, ValueError):
        raise CheckFailed(f"what you return: {ends!r}"[:150], "return two floats, (low, high)") from None
    require(
        bool(np.isfinite(found).all()), f"what you return: {found}", "an end is nan or infinite: is a cluster empty?"
    )
    return found


def _show(interval: np.ndarray) -> str:
    return f"({interval[0]:.3f}, {interval[1]:.3f})"


@exercise(
    "07",
    look="section 5: absolute values, and the observed gap is one of those that are counted",
    takes="observed null",
)
def check_null_swaps(learner: Callable) -> str:
    null = torch.tensor([-0.30, -0.21, -0.12, 0.27, 0.02, 0.08, 0.11, 0.19, 0.26, -0.02, 0.15])  # their mean is not 0
    observed = torch.tensor([0.4, 0.2, -0.2, 0.15, -0.35, 0.01])
    as_large = torch.tensor([0, 4, 4, 6, 0, 11])  # swaps with |gap| >= |observed|, counted by hand
    held = require_equal(
        call(learner, observed, null),
        (1 + as_large) / 12,
        "(1 + swaps at least as large) / (1 + swaps), two-sided",
        axes="feature",
        mistakes={
            "one-sided: a large negative gap is as surprising as a positive one; compare absolute values":
                lambda: (1 + (null >= observed[:, None]).sum(1)) / 12,
            "the observed gap is left out: it is one of the values it is ranked among, so add 1 above and below":
                lambda: as_large / 11,
            "1 is added above and not below: with all swaps as large, the p-value would be more than 1":
                lambda: (1 + as_large) / 11,
            "1 is added below and not above: a p-value can then be 0, which no finite null allows":
                lambda: as_large / 12,
            "this is the share of swaps that are smaller: a p-value counts those at least as large":
                lambda: (1 + (null.abs() < observed[:, None].abs()).sum(1)) / 12,
            "this counts the swaps that are as small or smaller: turn the comparison round, null at least as large":
                lambda: (1 + (null.abs() <= observed[:, None].abs()).sum(1)) / 12,
            "ties count as large: >=, not >": lambda: (1 + (null.abs() > observed[:, None].abs()).sum(1)) / 12,
            "the swaps' mean is subtracted first: which word of a swap comes first means nothing, and so does their mean":
                lambda: (1 + ((null - null.mean()).abs() >= (observed - null.mean())[:, None].abs()).sum(1)) / 12,
        },
        atol=1e-6,
    )  # fmt: skip
    return f"two-sided ranks with the observed gap counted in ({held})"


@exercise(
    "07",
    look="section 1: choose, measure; then exchange the guises, choose again, measure again",
    takes="logp_aae logp_sae",
)
def check_is_circular(learner: Callable) -> str:
    aae, sae = _fake_log_probs(5, n=7)
    ratio = aae - sae
    size = (ratio.amax(-1) - ratio.amin(-1)).mean()
    rows = torch.arange(len(aae))
    top_aae, top_sae = aae.argmax(-1), sae.argmax(-1)

    def chosen(first: Tensor, second: Tensor, best: Tensor, worst: Tensor) -> Tensor:
        difference = first - second
        return (difference[rows, best] - difference[rows, worst]).mean()

    fixed = ratio.mean(0)
    held = require_equal(
        call(learner, aae, sae),
        torch.stack([size, size]),
        "the two gaps, which are the same number",
        axes="order",
        mistakes={
            "the traits were not chosen again after the exchange: choose from what is there now, as the naive analysis would":
                lambda: torch.stack([size, -size]),
            "chosen by the largest log-probability, not by the largest log-ratio between the guises":
                lambda: torch.stack([chosen(aae, sae, top_aae, top_sae), chosen(sae, aae, top_sae, top_aae)]),
            "one pair of traits for all rows: the published choice is made row by row":
                lambda: torch.stack([fixed.max() - fixed.min()] * 2),
            "only the AAE trait's half of the gap: subtract the ratio of the SAE trait":
                lambda: torch.stack([ratio.amax(-1).mean(), (-ratio).amax(-1).mean()]),
            "argmax and argmin are exchanged: the AAE trait is the one whose ratio is largest":
                lambda: torch.stack([-size, -size]),
            "the row's largest and smallest ratio are added: the gap is their difference":
                lambda: torch.stack([(ratio.amax(-1) + ratio.amin(-1)).mean(), (-ratio.amin(-1) - ratio.amax(-1)).mean()]),
            "only the SAE trait's half of the gap: subtract its ratio from that of the AAE trait":
                lambda: torch.stack([ratio.amin(-1).mean(), (-ratio).amin(-1).mean()]),
            "the log-probabilities of the first guise alone: choose by the difference of both":
                lambda: torch.stack([(x.amax(-1) - x.amin(-1)).mean() for x in (aae, sae)]),
            "the log-probabilities of the second guise alone: choose by the difference of both":
                lambda: torch.stack([(x.amax(-1) - x.amin(-1)).mean() for x in (sae, aae)]),
            "not averaged: return one number per order of the guises, the mean over rows":
                lambda: torch.stack([ratio.amax(-1) - ratio.amin(-1)] * 2),
        },
    )  # fmt: skip
    return f"the choice makes a gap of {size:.2f} out of either order ({held})"
