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
from tests.checks.core import both_models, exercise, require

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
UNFAVOURABLE, FAVOURABLE = (" lazy", " rude", " loud"), (" kind", " honest")


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
    look="section 2: a mask is 1 on real tokens; the last real token is the last 1, wherever the padding is",
    takes="attention_mask",
)
def check_last_token_index(learner: Callable) -> str:
    model = next(both_models())
    _, right = _right_padded(model)
    left = _flip(right, right)
    both_sides = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    for mask, what in ((right, "right-padded"), (left, "left-padded"), (both_sides, "padded on both sides")):
        n = mask.shape[1]
        held = require_equal(
            call(learner, mask),
            torch.tensor([max(i for i in range(n) if row[i]) for row in mask.tolist()]),
            f"the index of each prompt's last real token, {what}",
            axes="batch",
            mistakes={
                "-1 for every prompt: the last column is padding where prompts are shorter than the longest":
                    lambda mask=mask: torch.full((len(mask),), -1),
                "the last column for every prompt: it is padding where prompts are shorter than the longest":
                    lambda mask=mask, n=n: torch.full((len(mask),), n - 1),
                "the length minus one is right only where the padding is on the right; look for the last 1":
                    lambda mask=mask: mask.sum(-1) - 1,
                "this is the first real token, not the last: is one of the flips missing?":
                    lambda mask=mask: mask.argmax(-1),
                "counted from the end: subtract from the number of columns":
                    lambda mask=mask: mask.flip(-1).argmax(-1),
                "this is the length, one past the last index": lambda mask=mask: mask.sum(-1),
                "one past the last token: that column is padding, or does not exist":
                    lambda mask=mask, n=n: n - mask.flip(-1).argmax(-1),
            },
        )  # fmt: skip
    return f"true last tokens under left, right and mixed padding ({held})"


@exercise(
    "07",
    look="section 2: utils.prompts.tokenize gives tokens and mask; log_softmax before you pick the attributes",
    takes="model prompts attribute_tokens",
)
def check_log_probs_at_end(learner: Callable) -> str:
    for model in both_models():
        ids = _ids(model, (*UNFAVOURABLE, *FAVOURABLE))
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
                "softmax over the attributes alone: normalise over the whole vocabulary, then pick":
                    lambda: alone[:, ids].log_softmax(-1),
                "you read the last column, which is padding for the shorter prompts: use the true last token":
                    lambda: logits[:, -1].log_softmax(-1)[:, ids],
                "you read one position too early: that one predicts the last word, not what follows it":
                    lambda: logits[rows, mask.sum(-1) - 2].log_softmax(-1)[:, ids],
                "you read position 0, which is BOS": lambda: logits[:, 0].log_softmax(-1)[:, ids],
                "BOS is missing: the course always puts it in front (model.to_tokens does)":
                    lambda: no_bos.log_softmax(-1)[:, ids],
            },
        )  # fmt: skip
    return f"batched equals one by one, on a GPT-2 and on a Llama ({held})"


def _fake_log_probs(seed: int = 0, n: int = 6, attributes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    aae, sae = torch.randn(2, n, attributes, generator=generator).mul(2).log_softmax(-1)
    return aae, sae


@exercise(
    "07",
    look="section 3: the mean over pairs of a difference of log-probabilities, trait by trait",
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
        },
    )  # fmt: skip
    return f"one score per trait ({held})"


@exercise(
    "07",
    look="section 3: log p(x | guise) - log p(x | empty guise), with the frame's own empty guise",
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
            "you renormalised afterwards: the difference of two logs is the result":
                lambda: (aae - empty).log_softmax(-1),
            "a ratio of probabilities: take its log": lambda: (aae - empty).exp(),
        },
    )  # fmt: skip
    return f"each row against its own empty guise ({held})"


@exercise(
    "07",
    look="section 4: one fixed set of traits, means over each set, AAE minus SAE",
    takes="model pairs unfavourable favourable",
)
def check_trait_gap(learner: Callable) -> str:
    for model in both_models():
        u, f = _ids(model, UNFAVOURABLE), _ids(model, FAVOURABLE)
        aae, sae = (_alone(model, tuple(pair[side] for pair in GUISES)) for side in (0, 1))
        direction = model.W_U[:, u].mean(1) - model.W_U[:, f].mean(1)
        want = torch.stack(
            [_end_projection(model, a, direction) - _end_projection(model, s, direction) for a, s in GUISES]
        )

        def gap(aae, sae, u=u, f=f):
            return (aae[:, u].mean(-1) - aae[:, f].mean(-1)) - (sae[:, u].mean(-1) - sae[:, f].mean(-1))

        def summed(logits, u=u, f=f):
            return logits[:, u].sum(-1) - logits[:, f].sum(-1)

        def one_side(logits, u=u, f=f):
            return logits[:, u].mean(-1) - logits[:, f].mean(-1)

        def per_row(aae, sae, u=u, f=f):
            ratio = (aae.log_softmax(-1) - sae.log_softmax(-1))[:, torch.cat([u, f])]
            return ratio.amax(-1) - ratio.amin(-1)

        padded = [_right_padded(model, tuple(pair[side] for pair in GUISES)) for side in (0, 1)]
        last_column = [model(tokens)[:, -1] for tokens, _ in padded]
        held = require_equal(
            call(learner, model, list(GUISES), u, f),
            want,
            f"the gap read off a fixed direction of the residual stream on {model.cfg.model_name}",
            axes="pair",
            mistakes={
                "the sign: it is the AAE guise minus the SAE guise, unfavourable minus favourable":
                    lambda: -gap(aae, sae),
                "the traits are chosen row by row (argmax and argmin of the ratio): use the fixed sets":
                    lambda: per_row(aae, sae),
                "sums over the sets: they differ in size, so take means": lambda: summed(aae) - summed(sae),
                "softmax before averaging: average logits (or log-probabilities)":
                    lambda: one_side(aae.softmax(-1)) - one_side(sae.softmax(-1)),
                "only the AAE guise: subtract the same preference after the SAE guise": lambda: one_side(aae),
                "unfavourable traits alone: subtract the favourable ones, or a shift of all traits looks like prejudice":
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
    look="section 5: first one mean per verb, then scipy.stats.bootstrap over those means",
    takes="values clusters",
)
def check_bootstrap_interval(learner: Callable) -> str:
    rng = np.random.default_rng(3)
    clusters = [verb for verb in "abcdefgh" for _ in range(9)]
    values = torch.tensor(np.repeat(rng.normal(0.4, 0.3, 8), 9) + rng.normal(0, 0.2, 72))
    result = call(learner, values, clusters)
    require(isinstance(result, (tuple, list)) and len(result) == 2, f"what you return: {type(result).__name__}",
            "return two floats, (low, high)")  # fmt: skip
    got = torch.tensor([float(end) for end in result])
    means = values.reshape(8, 9).mean(1).numpy()
    want = _interval(means)

    def near(values, **options):
        return (got - _interval(values, **options)).abs().max().item() < 0.02

    named = {
        "you resampled rows: the nine rows of a verb are not independent, and the interval is too narrow; resample verbs":
            near(values.numpy()),
        "the two ends are in the wrong order: (low, high)": (got.flip(0) - want).abs().max() < 0.02,
        "this is the interval of single values, not of their mean: scipy needs np.mean as its statistic":
            (got - torch.tensor(np.quantile(means, [0.025, 0.975]))).abs().max() < 0.02
            or (got - torch.tensor(np.quantile(values.numpy(), [0.025, 0.975]))).abs().max() < 0.05,
        "a 90 % interval: confidence_level=0.95": near(means, level=0.9),
        "the median's interval: the statistic is the mean": near(means, statistic=np.median),
    }  # fmt: skip
    off = (got - want).abs().max().item()
    likely = next((message for message, is_it in named.items() if is_it), "")
    require(off < 0.02, f"your interval with scipy's on the means of 8 verbs: {_show(got)} against {_show(want)}",
            likely)  # fmt: skip
    return f"{_show(got)}, within resampling error of scipy's interval on verb means"


def _interval(values, level: float = 0.95, statistic=np.mean) -> Tensor:
    found = stats.bootstrap((values,), statistic, confidence_level=level, n_resamples=4999, method="percentile", rng=1)
    return torch.tensor([found.confidence_interval.low, found.confidence_interval.high])


def _show(interval: Tensor) -> str:
    return f"({interval[0]:.3f}, {interval[1]:.3f})"


@exercise(
    "07",
    look="section 6: (1 + swaps at least as large in absolute value) / (1 + number of swaps)",
    takes="observed null",
)
def check_null_swaps(learner: Callable) -> str:
    null = torch.tensor([-0.30, -0.21, -0.12, -0.05, 0.02, 0.08, 0.11, 0.19, 0.26, -0.02, 0.15])
    observed = torch.tensor([0.4, 0.2, -0.2, 0.15, -0.35, 0.01])
    as_large = torch.tensor([0, 3, 3, 5, 0, 11])  # swaps with |gap| >= |observed|, counted by hand
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
            "ties count as large: >=, not >": lambda: (1 + (null.abs() > observed[:, None].abs()).sum(1)) / 12,
        },
        atol=1e-6,
    )  # fmt: skip
    return f"two-sided ranks with the observed gap counted in ({held})"


@exercise(
    "07",
    look="section 7: choose, measure; then exchange the guises, choose again, measure again",
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
            "averaged over nothing: one number per order of the guises, the mean over rows":
                lambda: torch.stack([ratio.amax(-1) - ratio.amin(-1)] * 2),
        },
    )  # fmt: skip
    return f"the choice makes a gap of {size:.2f} out of either order ({held})"
