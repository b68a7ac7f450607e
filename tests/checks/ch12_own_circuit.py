"""Checks of chapter 12: pairs, a stopping rule, a p-value among random circuits, and claims."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import both_models, exercise, require

# --- pairs ------------------------------------------------------------------------------------------------------------

PROBLEMS = ("length", "difference", "answer", "wrong answer")
SHOP = "When Mary went to the shops"
PAIRS = [  # clean, corrupted, answer, wrong answer
    (SHOP, "When John went to the shops", " Mary", " John"),
    (SHOP, "When Tom went to the shops", " Mary", " Tom"),
    (SHOP, "When Sebastian went to the shops", " Mary", " John"),
    (SHOP, "When John went to the park", " Mary", " John"),
    (SHOP, SHOP, " Mary", " John"),
    ("When Mary and went", "When xy went", " Mary", " John"),
    (SHOP, "When John went to the shops", " Sebastian", " John"),
    (SHOP, "When John went to the shops", " Mary", " Sebastian"),
    (SHOP, "When John went to the office and", " Sebastian", " Oliver"),
    (SHOP, "When Tom went to the garden", " Mary", " Oliver"),
    ("When Mary went to Mary", "When John went to John", " Mary", " John"),  # one name for another, in two places
    ("When Mary went to John", "When Mary went to Mary", " Mary", " John"),  # one difference, and no token that is new
    (SHOP, "Then Mary went to the shops", " park", " school"),  # it is the first word that differs
    (SHOP, "Then John said in the shops", " Mary", " John"),
    (SHOP, "Then Tom said that Bob sing", " Mary", " Mary"),
    ("When Sebastian went to the shops", SHOP, "x", " John"),
    (SHOP, "When John went to the shops", " x", "Mary"),
]


@exercise(
    "12",
    look="section 1: count tokens and not words; BOS is no part of an answer",
    points=2,
    takes="model clean corrupted answer wrong",
)
def check_pair_problems(learner: Callable) -> str:
    for model in both_models():
        found = torch.stack([_as_flags(call(learner, model, *pair), pair) for pair in PAIRS])
        held = require_equal(
            found,
            _flags(model),
            f"the problems of {len(PAIRS)} pairs on {model.cfg.model_name}",
            axes="pair problem",
            mistakes=_pair_mistakes(model),
        )
    return f"the problems of {len(PAIRS)} pairs on two models, from none to three at once ({held})"


def _as_flags(result: Any, pair: Sequence[str]) -> Tensor:
    require(
        isinstance(result, set | frozenset | list | tuple) and all(isinstance(name, str) for name in result),
        f"what you return: {type(result).__name__}",
        "return a set of strings, set() for a valid pair",
    )
    unknown = sorted(set(result) - set(PROBLEMS))
    require(
        not unknown,
        f"the problems of {pair[0]!r} and {pair[1]!r}: {unknown}",
        f"the names are {', '.join(PROBLEMS)}",
    )
    return torch.tensor([name in result for name in PROBLEMS])


def _count(model: TransformerBridge, text: str, bos: bool = False) -> int:
    return model.to_tokens(text, prepend_bos=bos).shape[1]


def _flags(
    model: TransformerBridge,
    length: Callable[[str], int] | None = None,
    counted: Callable[[int], bool] = lambda n: n != 1,
    answer: Callable[[str, str], bool] | None = None,
    wrong: Callable[[str, str], bool] | None = None,
) -> Tensor:
    """[pair, problem], as the exercise asks, or with one part replaced."""
    length = length or partial(_count, model)
    single = partial(_count, model)
    rows = []
    for clean, corrupted, right, other in PAIRS:
        unequal = length(clean) != length(corrupted)
        differences = 0
        if single(clean) == single(corrupted):
            a, b = model.to_tokens(clean), model.to_tokens(corrupted)
            differences = int((a != b).sum())
        flags = [unequal, not unequal and counted(differences)]
        flags.append(answer(right, other) if answer else single(right) != 1)
        flags.append(wrong(right, other) if wrong else single(other) != 1)
        rows.append(flags)
    return torch.tensor(rows)


@cache
def _pair_mistakes(model: TransformerBridge) -> Mistakes:
    single = partial(_count, model)
    with_bos = partial(_count, model, bos=True)
    columns = torch.eye(4, dtype=torch.bool)

    def first_only() -> Tensor:
        flags = _flags(model)
        return flags & (flags.int().cumsum(1) == 1)

    known = {
        "words are counted: count tokens, since a name can be several": lambda: _by_words(model),
        "the lengths are counted in words: count tokens, since a name can be several":
            lambda: _flags(model, lambda text: len(text.split())),
        "characters are counted: count tokens": lambda: _flags(model, len),
        "a pair without any difference is let through: exactly one token differs":
            lambda: _flags(model, counted=lambda n: n > 1),
        "several differences are let through: exactly one token differs": lambda: _flags(model, counted=lambda n: n < 1),
        "one difference is what a valid pair has": lambda: _flags(model, counted=lambda n: n == 1),
        "pairs that differ in one token are refused: they are valid": lambda: _flags(model, counted=lambda n: n != 0),
        "two differences are asked for: one is needed": lambda: _flags(model, counted=lambda n: n != 2),
        "BOS is counted as a part of the answers: prepend_bos=False": lambda: _flags(
            model, answer=lambda a, b: with_bos(a) != 1, wrong=lambda a, b: with_bos(b) != 1),
        "answers of one token are refused, and others let through": lambda: _flags(
            model, answer=lambda a, b: single(a) == 1, wrong=lambda a, b: single(b) == 1),
        "an answer of two tokens is asked for: without BOS, an answer of one token has length 1": lambda: _flags(
            model, answer=lambda a, b: single(a) != 2, wrong=lambda a, b: single(b) != 2),
        "answers of one token are refused: only no token at all is let through": lambda: _flags(
            model, answer=lambda a, b: single(a) != 0, wrong=lambda a, b: single(b) != 0),
        "the blank in front of an answer is taken away: it is a part of the token": lambda: _flags(
            model, answer=lambda a, b: single(a.strip()) != 1, wrong=lambda a, b: single(b.strip()) != 1),
        "a blank is put in front of every answer: count the tokens of the answer as it is": lambda: _flags(
            model, answer=lambda a, b: single(f" {a.strip()}") != 1, wrong=lambda a, b: single(f" {b.strip()}") != 1),
        "the tokens are compared as sets: compare them place by place": lambda: _flags_of_sets(model),
        "answers are looked at only where the prompts are equally long": lambda: _flags(model) & ~(
            _flags(model)[:, :1] & (columns[2] | columns[3])),
        "the wrong answer is not looked at": lambda: _flags(model, wrong=lambda a, b: False),
        "the answer is not looked at": lambda: _flags(model, answer=lambda a, b: False),
        "neither answer is looked at": lambda: _flags(model, answer=lambda a, b: False, wrong=lambda a, b: False),
        "answer and wrong answer are exchanged": lambda: _flags(
            model, answer=lambda a, b: single(b) != 1, wrong=lambda a, b: single(a) != 1),
        "it stops at the first problem: a pair may have several": first_only,
        "unequal lengths are not noticed": lambda: _flags(model) & ~columns[0],
        "pairs of equal length are said to be unequal, and the other way round": lambda: _turned(model),
        "the number of differences is not looked at": lambda: _flags(model) & ~columns[1],
        "a valid pair has no problem: it is told one": lambda: ~_flags(model),
        "no problem is ever found": lambda: torch.zeros(len(PAIRS), 4, dtype=torch.bool),
        "the prompts are not looked at": lambda: _flags(model) & ~columns[0] & ~columns[1],
        "where lengths differ there is no difference to count: only one of the two can be wrong":
            lambda: _flags(model) | (_flags(model)[:, :1] & columns[1]),
    }  # fmt: skip
    return once(known)


def _flags_of_sets(model: TransformerBridge) -> Tensor:
    flags = _flags(model)
    for row, (clean, corrupted, *_) in enumerate(PAIRS):
        one, other = (set(model.to_tokens(text)[0].tolist()) for text in (clean, corrupted))
        flags[row, 1] = not flags[row, 0] and len(other - one) != 1
    return flags


def _by_words(model: TransformerBridge) -> Tensor:
    """Lengths and differences in words, where one token can be a part of a word."""
    flags = _flags(model)
    for row, (clean, corrupted, *_) in enumerate(PAIRS):
        one, other = clean.split(), corrupted.split()
        flags[row, 0] = len(one) != len(other)
        flags[row, 1] = len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) != 1
    return flags


def _turned(model: TransformerBridge) -> Tensor:
    flags = _flags(model)
    flags[:, 0] = ~flags[:, 0]
    flags[:, 1] = False
    return flags


# --- a stopping rule ----------------------------------------------------------------------------------------------------

SCORES: list[tuple[int, int, float, float, float]] = [  # seed, pairs, mean of clean, mean of the difference, its spread
    (0, 12, 2.0, 3.0, 1.0),
    (1, 9, 0.3, 3.0, 1.0),
    (2, 15, 2.5, 0.2, 1.0),
    (3, 7, 0.2, 0.1, 1.5),
    (4, 11, -2.0, -1.5, 0.6),
    (5, 8, -2.0, 3.0, 0.6),
    (6, 10, 2.0, -2.0, 0.6),
    (7, 14, 1.0, 0.8, 0.4),
    (8, 5, 3.0, 1.5, 0.6),  # few pairs are enough where they agree
    (9, 40, 0.7, 0.6, 2.5),  # many are, where some pairs speak against it
    (4, 3, 0.9, 2.5, 0.6),  # all clean scores above zero, and the interval not
    (7, 4, 3.0, 0.5, 0.9),
]


@cache
def _pair_scores(case: int) -> tuple[np.ndarray, np.ndarray]:
    seed, n, mean, difference, spread = SCORES[case]
    generator = np.random.default_rng(seed)
    clean = mean + generator.normal(0, 1, n)
    return clean, clean - difference - spread * generator.normal(0, 0.5, n)


def _t_interval(
    values: np.ndarray, level: float = 0.95, ddof: int = 1, root: bool = True, normal: bool = False
) -> Tensor:
    n = len(values)
    scale = values.std(ddof=ddof) / (np.sqrt(n) if root else 1)
    point = stats.norm.ppf((1 + level) / 2) if normal else stats.t.ppf((1 + level) / 2, n - 1)
    return torch.tensor([values.mean() - point * scale, values.mean() + point * scale])


def _interval_mistakes(name: str, clean: np.ndarray, corrupted: np.ndarray) -> Mistakes:
    values = clean if name == "clean" else clean - corrupted
    n = len(values)
    pooled = np.sqrt(clean.var(ddof=1) / n + corrupted.var(ddof=1) / n)
    middle, t = values.mean(), stats.t.ppf(0.975, n - 1)

    def around(low: float, high: float) -> Tensor:
        return torch.tensor([low, high])

    known = {
        "a normal interval: with so few pairs take Student's t": lambda: _t_interval(values, normal=True),
        "the standard deviation has n in its denominator: take n - 1 (ddof=1)": lambda: _t_interval(values, ddof=0),
        "this holds single values and not their mean: divide by the root of n": lambda: _t_interval(values, root=False),
        "the level is not 95 %: 2.5 % on each side": lambda: _t_interval(values, 0.9),
        "the level is 99 %": lambda: _t_interval(values, 0.99),
        "n degrees of freedom: n - 1": lambda: torch.tensor(stats.t.interval(0.95, n, middle, stats.sem(values))),
        "n + 1 degrees of freedom: n - 1": lambda: torch.tensor(
            stats.t.interval(0.95, n + 1, middle, stats.sem(values))
        ),
        "n - 2 degrees of freedom: n - 1": lambda: torch.tensor(
            stats.t.interval(0.95, n - 2, middle, stats.sem(values))
        ),
        "the sum is in the middle: take the mean": lambda: torch.tensor(
            stats.t.interval(0.95, n - 1, values.sum(), stats.sem(values))
        ),
        "low and high are exchanged": lambda: _t_interval(values).flip(0),
        "the mean is not in the middle": lambda: _t_interval(values) - middle,
        "the scale is left out: give the standard error": lambda: around(middle - t, middle + t),
    }
    if name == "difference":
        known |= {
            "the pairs are torn apart: take clean minus corrupted of each pair, then its interval": lambda: around(
                middle - t * pooled, middle + t * pooled
            ),
            "the sign: clean minus corrupted": lambda: _t_interval(-values),
            "clean plus corrupted: the difference": lambda: _t_interval(clean + corrupted),
            "the interval of the clean scores: that of clean minus corrupted": lambda: _t_interval(clean),
            "the interval of the corrupted scores: that of clean minus corrupted": lambda: _t_interval(corrupted),
            "the difference of two intervals: take the interval of the differences": lambda: (
                _t_interval(clean) - _t_interval(corrupted)
            ),
        }
    else:
        known |= {
            "the interval of the corrupted scores: that of the clean ones": lambda: _t_interval(corrupted),
            "the interval of the difference: that of the clean scores": lambda: _t_interval(clean - corrupted),
        }
    return known


RULES: dict[str, Callable[[Tensor, Tensor], bool]] = {  # what a wrong rule asks for
    "one of the two is enough for you: both intervals must lie above zero": lambda a, b: bool(a[0] > 0 or b[0] > 0),
    "the means are compared with zero: compare the lower ends": lambda a, b: bool(a.mean() > 0 and b.mean() > 0),
    "the upper ends are compared with zero: compare the lower ends": lambda a, b: bool(a[1] > 0 and b[1] > 0),
    "the upper end of the clean interval is compared: its lower end": lambda a, b: bool(a[1] > 0 and b[0] > 0),
    "the upper end of the difference is compared: its lower end": lambda a, b: bool(a[0] > 0 and b[1] > 0),
    "the difference is not looked at": lambda a, b: bool(a[0] > 0),
    "the clean scores are not looked at": lambda a, b: bool(b[0] > 0),
    "this is the wrong way round: go on where both lie above zero": lambda a, b: not (a[0] > 0 and b[0] > 0),
    "an interval below zero is no reason to go on": lambda a, b: bool(a[0] * a[1] > 0 and b[0] > 0),
    "a difference below zero is no reason to go on": lambda a, b: bool(a[0] > 0 and b[0] * b[1] > 0),
    "you ask whether the clean interval lies below zero: it must lie above": lambda a, b: bool(a[0] < 0 and b[0] > 0),
    "you ask whether the difference lies below zero: it must lie above": lambda a, b: bool(a[0] > 0 and b[0] < 0),
    "the bound is 1 logit for the clean scores: zero": lambda a, b: bool(a[0] > 1 and b[0] > 0),
    "the bound is 1 logit for the difference: zero": lambda a, b: bool(a[0] > 0 and b[0] > 1),
    "it always goes on": lambda a, b: True,
    "it never goes on": lambda a, b: False,
}


@exercise(
    "12",
    look="section 2: two t intervals, one of the clean scores, one of each pair's difference; both lower ends decide",
    points=2,
    takes="clean corrupted",
)
def check_may_go_on(learner: Callable) -> str:
    decisions, held = [], ""
    for case in range(len(SCORES)):
        clean, corrupted = _pair_scores(case)
        found = call(learner, clean.tolist(), corrupted.tolist())
        keys = ("clean", "difference", "go")
        require(
            isinstance(found, Mapping) and set(found) >= set(keys),
            f"what you return: {sorted(found) if isinstance(found, Mapping) else type(found).__name__}",
            f"return a dictionary with the keys {', '.join(keys)}",
        )
        for name, values in (("clean", clean), ("difference", clean - corrupted)):
            held = require_equal(
                found[name],
                _t_interval(values),
                f"{name!r} of {len(clean)} pairs",
                axes="end",
                mistakes=_interval_mistakes(name, clean, corrupted),
            )
        require(
            isinstance(found["go"], bool | np.bool_) or (isinstance(found["go"], Tensor) and found["go"].ndim == 0),
            f"'go': {type(found['go']).__name__}",
            "True or False",
        )
        decisions.append(bool(found["go"]))
    ends = [
        (_t_interval(clean), _t_interval(clean - corrupted))
        for clean, corrupted in map(_pair_scores, range(len(SCORES)))
    ]
    require_equal(
        decisions,
        torch.tensor([bool(a[0] > 0 and b[0] > 0) for a, b in ends]),
        "the decisions on all sets",
        axes="set",
        mistakes={what: partial(_decisions, rule, ends) for what, rule in RULES.items()},
    )
    return f"both intervals and the decision on {len(SCORES)} sets of pairs ({held})"


def _decisions(rule: Callable, ends: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.tensor([rule(*pair) for pair in ends])


# --- a p-value ------------------------------------------------------------------------------------------------------------

DRAWS = [  # found, random, smaller is better
    (1.0, [0.5, 1.0, 1.5, 2.0, 1.0, 3.0, 0.25], True),
    (1.0, [0.5, 1.0, 1.5, 2.0, 1.0, 3.0, 0.25], False),
    (0.5, [0.75, 0.875, 0.5, 2.0], True),
    (-0.25, [0.125, -0.25, -0.5, 0.75, -2.0, 0.5, 1.0, 1.25, 2.0], False),
    (0.25, [1.0, 1.5, 2.0, 2.5, 1.25], True),
    (4.0, [1.0, 1.5, 2.0, 2.5, 1.25, 3.0], False),
]


def _p(
    found: float, random: Sequence[float], smaller: bool, strict: bool = False, extra: int = 1, below: int = 1
) -> float:
    values = np.asarray(random)
    better = (
        (values < found if strict else values <= found) if smaller else (values > found if strict else values >= found)
    )
    return (extra + better.sum()) / (below + len(values))


def _sizes(found: float, random: Sequence[float]) -> float:
    return (1 + (np.abs(random) >= abs(found)).sum()) / (1 + len(random))


P_MISTAKES: dict[str, Callable] = {
    "ties do not count: a random circuit that does exactly as well counts against you": lambda *c: _p(*c, strict=True),
    "the found circuit is not one of the draws: add 1 above and below": lambda *c: _p(*c, extra=0, below=0),
    "1 is added below only: the found circuit is at least as good as itself": lambda *c: _p(*c, extra=0),
    "1 is added above only: the found circuit is one of the draws": lambda *c: _p(*c, below=0),
    "1 is added to the numerator and subtracted from the denominator: add it to both": lambda *c: _p(*c, below=-1),
    "1 is subtracted from the numerator: add it": lambda *c: _p(*c, extra=-1),
    "2 is added above: add 1": lambda *c: _p(*c, extra=2),
    "2 is added below: add 1": lambda *c: _p(*c, below=2),
    "the directions are exchanged: for an error smaller is better, for a share larger": lambda f, r, s: _p(f, r, not s),
    "the directions are exchanged, and ties do not count": lambda f, r, s: _p(f, r, not s, strict=True),
    "smaller counts as better in both cases: look at smaller_is_better": lambda f, r, s: _p(f, r, True),
    "larger counts as better in both cases: look at smaller_is_better": lambda f, r, s: _p(f, r, False),
    "both tails are counted: only values at least as good count": lambda f, r, s: min(1.0, 2 * _p(f, r, s)),
    "sizes are compared, as in a two-sided test: compare the values": lambda f, r, s: _sizes(f, r),
    "this is the share that is worse: the share that is as good": lambda f, r, s: 1 - _p(f, r, s),
    "it counts and does not divide: divide by the number of draws and 1": lambda f, r, s: _p(f, r, s) * (1 + len(r)),
    "a mean of the comparisons: take their number": lambda f, r, s: (1 + _p(f, r, s, extra=0, below=0)) / (1 + len(r)),
    "multiplied: divide by the number of draws and 1": lambda f, r, s: _p(f, r, s) * (1 + len(r)) ** 2,
    "for an error, ties do not count": lambda f, r, s: _p(f, r, s, strict=s),
    "for a share, ties do not count": lambda f, r, s: _p(f, r, s, strict=not s),
}


@exercise(
    "12",
    look="section 5: count what is at least as good, add 1 to it and to the number of draws",
    points=1,
    takes="found random smaller_is_better",
)
def check_matched_p(learner: Callable) -> str:
    found = []
    for case in DRAWS:
        for given in (list(case[1]), np.array(case[1])):
            value = call(learner, case[0], given, case[2])
            try:
                found.append(float(value))
            except (TypeError, ValueError):
                require(False, f"what you return: {type(value).__name__}", "return one number")
    want = torch.tensor([_p(*case) for case in DRAWS for _ in range(2)])
    mistakes = {what: partial(_p_values, wrong) for what, wrong in P_MISTAKES.items()}
    held = require_equal(found, want, f"the p-values of {len(DRAWS)} sets of draws", axes="set", mistakes=mistakes)
    return f"errors and shares, with ties, with all draws worse, from lists and arrays ({held})"


def _p_values(wrong: Callable) -> Tensor:
    return torch.tensor([float(wrong(*case)) for case in DRAWS for _ in range(2)])


# --- claims ---------------------------------------------------------------------------------------------------------------

CLAIMS = ("does the task", "faithful", "special", "more than one head", "new words")
GOOD = {
    "clean_low": 1.5,
    "value": 1.0,
    "low": 0.875,
    "high": 1.125,
    "mae": 0.5,
    "empty_mae": 2.0,
    "random_p": 0.03125,
    "value_without_strongest": 0.75,
    "shared_answers": 0.0,
}
REPORTS = [
    GOOD | change
    for change in (
        {}, {"clean_low": -0.5}, {"clean_low": 0.0}, {"clean_low": 0.25}, {"low": 0.5}, {"low": 0.8}, {"low": 0.75},
        {"high": 1.5}, {"high": 1.2}, {"high": 1.25}, {"low": 0.25, "high": 1.75}, {"mae": 1.0}, {"mae": 1.5}, {"mae": 2.5},
        {"mae": 0.9375}, {"random_p": 0.05}, {"random_p": 0.5}, {"random_p": 0.0625}, {"value_without_strongest": 0.5},
        {"value_without_strongest": 0.25}, {"value_without_strongest": 0.4375},
        {"value": 0.5, "value_without_strongest": 0.375},
        {"value": 2.0, "value_without_strongest": 0.75}, {"shared_answers": 0.5}, {"shared_answers": 1.0},
        {"shared_answers": 0.0625}, {"empty_mae": 0.75}, {"empty_mae": 0.25}, {"low": 1.25, "high": 1.5},
        {"low": 0.5, "high": 0.625}, {"value": 2.0, "value_without_strongest": 1.25}, {"shared_answers": 0.0078125},
        {"mae": 0.375, "empty_mae": 0.625}, {"mae": 0.0625, "empty_mae": 0.25},
    )
]  # fmt: skip
RIGHT_CLAIMS: dict[str, Callable[[Mapping], bool]] = {
    "does the task": lambda n: n["clean_low"] > 0,
    "faithful": lambda n: n["low"] >= 0.8 and n["high"] <= 1.2 and n["mae"] < n["empty_mae"] / 2,
    "special": lambda n: n["random_p"] <= 0.05,
    "more than one head": lambda n: n["value_without_strongest"] >= n["value"] / 2,
    "new words": lambda n: n["shared_answers"] == 0,
}
WRONG_CLAIMS: dict[str, tuple[str, Callable[[Mapping], bool]]] = {
    "an interval that begins at zero does not lie above it": ("does the task", lambda n: n["clean_low"] >= 0),
    "below zero: the model does the task where the interval lies above it": ("does the task", lambda n: n["clean_low"] < 0),
    "the bound of the logit difference is 0, and not 1": ("does the task", lambda n: n["clean_low"] > 1),
    "the bound of the logit difference is 0, and not -1": ("does the task", lambda n: n["clean_low"] > -1),
    "the value alone decides on faithful: both ends of its interval, and the error":
        ("faithful", lambda n: 0.8 <= n["value"] <= 1.2),
    "the error per pair is not looked at": ("faithful", lambda n: n["low"] >= 0.8 and n["high"] <= 1.2),
    "the upper end is not looked at: a value far above 1 is not faithful":
        ("faithful", lambda n: n["low"] >= 0.8 and n["mae"] < n["empty_mae"] / 2),
    "the lower end is not looked at": ("faithful", lambda n: n["high"] <= 1.2 and n["mae"] < n["empty_mae"] / 2),
    "the interval is not looked at": ("faithful", lambda n: n["mae"] < n["empty_mae"] / 2),
    "the value must lie between the bounds, and so must both ends of its interval":
        ("faithful", lambda n: 0.8 <= n["value"] <= 1.2 and n["mae"] < n["empty_mae"] / 2),
    "0.8 itself is allowed as the lower end":
        ("faithful", lambda n: n["low"] > 0.8 and n["high"] <= 1.2 and n["mae"] < n["empty_mae"] / 2),
    "1.2 itself is allowed as the upper end":
        ("faithful", lambda n: n["low"] >= 0.8 and n["high"] < 1.2 and n["mae"] < n["empty_mae"] / 2),
    "the lower end must be at least 0.8, not at most":
        ("faithful", lambda n: n["low"] < 0.8 and n["high"] <= 1.2 and n["mae"] < n["empty_mae"] / 2),
    "the lower end must be at least 0.8, not at most 0.8":
        ("faithful", lambda n: n["low"] <= 0.8 and n["high"] <= 1.2 and n["mae"] < n["empty_mae"] / 2),
    "the upper end must be at most 1.2, not at least":
        ("faithful", lambda n: n["low"] >= 0.8 and n["high"] > 1.2 and n["mae"] < n["empty_mae"] / 2),
    "the upper end must be at most 1.2, not at least 1.2":
        ("faithful", lambda n: n["low"] >= 0.8 and n["high"] >= 1.2 and n["mae"] < n["empty_mae"] / 2),
    "one end within the bounds is not enough: both":
        ("faithful", lambda n: (n["low"] >= 0.8 or n["high"] <= 1.2) and n["mae"] < n["empty_mae"] / 2),
    "a good interval or a small error is not enough: both":
        ("faithful", lambda n: (n["low"] >= 0.8 and n["high"] <= 1.2) or n["mae"] < n["empty_mae"] / 2),
    "half of the empty circuit's error is too much already: less than half":
        ("faithful", lambda n: n["low"] >= 0.8 and n["high"] <= 1.2 and n["mae"] <= n["empty_mae"] / 2),
    "the error must be less than half of the empty circuit's, not less than all of it":
        ("faithful", lambda n: n["low"] >= 0.8 and n["high"] <= 1.2 and n["mae"] < n["empty_mae"]),
    "the error must be less than half of the empty circuit's, not less than twice":
        ("faithful", lambda n: n["low"] >= 0.8 and n["high"] <= 1.2 and n["mae"] < n["empty_mae"] * 2),
    "the error must be less than half of the empty circuit's, not more":
        ("faithful", lambda n: n["low"] >= 0.8 and n["high"] <= 1.2 and n["mae"] > n["empty_mae"] / 2),
    "a third of the empty circuit's error: half of it":
        ("faithful", lambda n: n["low"] >= 0.8 and n["high"] <= 1.2 and n["mae"] < n["empty_mae"] / 3),
    "a p-value of 0.05 itself is enough": ("special", lambda n: n["random_p"] < 0.05),
    "a small p-value is what makes a circuit special": ("special", lambda n: n["random_p"] > 0.05),
    "a small p-value is what makes a circuit special, at most 0.05": ("special", lambda n: n["random_p"] >= 0.05),
    "exactly half of the value is enough":
        ("more than one head", lambda n: n["value_without_strongest"] > n["value"] / 2),
    "the value without the strongest head must be large":
        ("more than one head", lambda n: n["value_without_strongest"] < n["value"] / 2),
    "the value without the strongest head must be large, at least half":
        ("more than one head", lambda n: n["value_without_strongest"] <= n["value"] / 2),
    "half of the circuit's own value, and not 0.5": ("more than one head", lambda n: n["value_without_strongest"] >= 0.5),
    "half of the value, and not all of it": ("more than one head", lambda n: n["value_without_strongest"] >= n["value"]),
    "half of the value, and not twice it": ("more than one head", lambda n: n["value_without_strongest"] >= n["value"] * 2),
    "half of the value, and not a third": ("more than one head", lambda n: n["value_without_strongest"] >= n["value"] / 3),
    "words are new where no answer is shared": ("new words", lambda n: n["shared_answers"] != 0),
    "no answer may be shared; that not all are is too little": ("new words", lambda n: n["shared_answers"] < 1),
    "no answer may be shared; a few are too many": ("new words", lambda n: n["shared_answers"] < 0.05),
    "half of the value: the strongest head may add more than 0.5 where the value is large":
        ("more than one head", lambda n: n["value"] - n["value_without_strongest"] <= 0.5),
    "no answer may be shared: 0, and not 1": ("new words", lambda n: n["shared_answers"] == 1),
    "no answer may be shared; less than half is too many": ("new words", lambda n: n["shared_answers"] < 0.5),
}  # fmt: skip


@exercise(
    "12", look="section 6: read each rule again, and ask which side of the bound is meant", points=2, takes="numbers"
)
def check_supported(learner: Callable) -> str:
    rows = []
    for report in REPORTS:
        found = call(learner, dict(report))
        require(
            isinstance(found, Mapping) and set(found) >= set(CLAIMS),
            f"what you return: {sorted(map(str, found)) if isinstance(found, Mapping) else type(found).__name__}",
            f"return a dictionary with the keys {', '.join(CLAIMS)}",
        )
        kinds = {type(found[claim]).__name__ for claim in CLAIMS if not isinstance(found[claim], bool | np.bool_)}
        require(not kinds, f"the values that you return: {', '.join(sorted(kinds))}", "each claim is True or False")
        rows.append([bool(found[claim]) for claim in CLAIMS])
    mistakes = {what: partial(_claims, claim, rule) for what, (claim, rule) in WRONG_CLAIMS.items()}
    held = require_equal(
        rows, _claims(), f"five claims on {len(REPORTS)} reports", axes="report claim", mistakes=mistakes
    )
    return f"five claims on {len(REPORTS)} reports, with numbers exactly at the bounds ({held})"


def _claims(changed: str = "", rule: Callable[[Mapping], bool] | None = None) -> Tensor:
    """[report, claim], with the rule of one claim replaced."""
    rules = RIGHT_CLAIMS | ({changed: rule} if rule else {})
    return torch.tensor([[bool(rules[claim](report)) for claim in CLAIMS] for report in REPORTS])
