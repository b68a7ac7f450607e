"""Checks of chapter 07 that need no model: planning an experiment, and judging many gaps at once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from math import factorial, prod

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from tests.checks.calling import call
from tests.checks.comparing import as_tensor, require_equal
from tests.checks.core import CheckFailed, exercise, require


def _number(result: object, what: str) -> float:
    value = as_tensor(result, torch.tensor(0.0), what, []).double()
    require(value.numel() == 1, f"{what}: {value.numel()} numbers", "return one number")
    require(bool(torch.isfinite(value).all()), f"{what}: {value.item()}", "a division by zero?")
    return value.item()


# --- coverage -----------------------------------------------------------------------------------------------------------

TRUTH = 0.25  # exact in 32 bits, too: some tables hit it exactly


def _intervals() -> dict[str, Callable]:
    """Functions from a table to an interval, each of which misses in its own way."""
    return {
        "mean ± 0.2": lambda table: (float(table.mean()) - 0.2, float(table.mean()) + 0.2),
        "an interval of width zero": lambda table: (float(table.mean()), float(table.mean())),
        "too high": lambda table: (float(table.mean()) + 0.1, float(table.mean()) + 0.6),
        "the range of the rows' means": lambda table: (float(table.mean(1).min()), float(table.mean(1).max())),
        "the range of the columns' means": lambda table: (float(table.mean(0).min()), float(table.mean(0).max())),
    }


def _tables() -> Tensor:
    """Made with mean TRUTH; rows and columns differ in number and in spread, and some tables hit the truth exactly."""
    generator = torch.Generator().manual_seed(3)
    rows, columns, noise = (torch.randn(60, *shape, generator=generator) for shape in ((5, 1), (1, 3), (5, 3)))
    tables = TRUTH + 0.3 * rows + 0.1 * columns + 0.05 * noise
    tables[1:5] = TRUTH
    return tables.double()


@exercise(
    "07",
    look="section 6: one interval per table; does it hold the value that the tables were made with?",
    takes="interval tables truth",
)
def check_coverage(learner: Callable) -> str:
    tables = _tables()
    found = [_number(call(learner, interval, tables, TRUTH), "your coverage") for interval in _intervals().values()]
    bounds = torch.stack([_bounds(interval, tables) for interval in _intervals().values()])  # interval table end
    low, high = bounds.unbind(-1)
    inside = (low <= TRUTH) & (high >= TRUTH)

    def share(hits: Tensor) -> Tensor:
        return hits.double().mean(1)

    def of(changed: Tensor) -> Tensor:
        ends = torch.stack([_bounds(interval, changed) for interval in _intervals().values()])
        return share((ends[..., 0] <= TRUTH) & (ends[..., 1] >= TRUTH))

    held = require_equal(
        torch.tensor(found, dtype=torch.float64),
        share(inside),
        f"the share of 60 tables whose interval holds {TRUTH}, for {len(bounds)} kinds of interval",
        axes="interval",
        mistakes={
            "this is the share that misses: coverage is the share that holds": lambda: share(~inside),
            "this asks whether the interval holds zero: ask for `truth`": lambda: share((low <= 0) & (high >= 0)),
            "this is the share that leaves zero out: ask whether the interval holds `truth`": lambda: share(
                (low > 0) | (high < 0)
            ),
            "only the lower end is compared: the truth must also be at or below the upper": lambda: share(low <= TRUTH),
            "only the upper end is compared: the truth must also be at or above the lower": lambda: share(
                high >= TRUTH
            ),
            "either end is enough here: both must hold": lambda: share((low <= TRUTH) | (high >= TRUTH)),
            "an interval that ends at the truth holds it: use <= and >=": lambda: share((low < TRUTH) & (high > TRUTH)),
            "an interval that ends at the truth holds it, at its lower end too: use <=": lambda: share(
                (low < TRUTH) & (high >= TRUTH)
            ),
            "an interval that ends at the truth holds it, at its upper end too: use >=": lambda: share(
                (low <= TRUTH) & (high > TRUTH)
            ),
            "a number of tables, not a share: divide by how many there are": lambda: inside.double().sum(1),
            "in per cent: return a share between 0 and 1": lambda: 100 * share(inside),
            "the ends are compared the wrong way round: low <= truth <= high": lambda: share(
                (low >= TRUTH) & (high <= TRUTH)
            ),
            "rows and columns of each table are exchanged before the interval is made: hand it the table as it is": lambda: (
                of(tables.transpose(1, 2))
            ),
            "the tables are averaged into one first: ask the interval of each table": lambda: of(
                tables.mean(0, keepdim=True)
            ),
            "only the first table is looked at: take the mean over all": lambda: share(inside[:, :1]),
            "only the last table is looked at: take the mean over all": lambda: share(inside[:, -1:]),
            "one table is left out: take the mean over all": lambda: inside[:, 1:].double().sum(1) / inside.shape[1],
            "divided by something other than the number of tables": lambda: inside.double().sum(1) / tables[0].numel(),
            "a mean width is not what is asked: count the tables whose interval holds the truth": lambda: (
                high - low
            ).mean(1),
        },
        atol=1e-6,
    )
    return f"{len(bounds)} kinds of interval on 60 tables ({held})"


def _bounds(interval: Callable, tables: Tensor) -> Tensor:
    return torch.tensor([interval(table) for table in tables], dtype=torch.float64)


# --- power --------------------------------------------------------------------------------------------------------------

ALPHA = 0.05


def _found(
    effect: float, sd: float, null_sd: float, n: int, most: float, kind: str = "two-sided", shift: float = 0.0
) -> float:
    """How often at most `most` of n normal swaps around `shift` are as large as a normal gap around `effect`: a sum over a
    fine grid of gaps. kind: what "as large" compares."""
    if most < 0:
        return 0.0
    gaps = effect + sd * np.linspace(-7, 7, 4001)

    def above(limit: np.ndarray) -> np.ndarray:
        return stats.norm.sf(limit, shift, null_sd)

    size = abs(gaps)
    both = above(size) + stats.norm.cdf(-size, shift, null_sd)
    positive = np.maximum(gaps, 0)
    larger = {
        "two-sided": both,
        "one-sided": above(gaps),
        "swaps with their signs": above(size),
        "feature with its sign": above(positive) + stats.norm.cdf(-positive, shift, null_sd),
        "smaller": 1 - both,
    }[kind]
    weights = stats.norm.pdf(gaps, effect, sd)
    return float((weights * stats.binom.cdf(int(most), n, np.clip(larger, 0, 1))).sum() / weights.sum())


def _most(n_swaps: int, n_tests: float, alpha: float = ALPHA) -> float:
    """How many swaps may be as large: (1 + how many) / (1 + n) times the number of tests is then at most alpha."""
    return np.floor(alpha / n_tests * (1 + n_swaps) + 1e-9) - 1


def _power_mistakes(effect: float, spread: float, error: float, n: int, tests: int) -> dict[str, float]:
    sd, most = float(np.hypot(spread, error)), _most(n, tests)
    unsquared = "spread and error are both squared: √(spread² + error²); here something else stands in the place of "
    return {
        "the number of tests has no effect: multiply the p-value by it": _found(effect, sd, sd, n, _most(n, 1)),
        "the p-value is divided by the number of tests: multiply, since many tests find something by luck":
            _found(effect, sd, sd, n, _most(n, 1 / tests)),
        "one-sided: compare absolute values, since a swap's sign means nothing": _found(effect, sd, sd, n, most, "one-sided"),
        "the swaps keep their signs: compare absolute values on both sides":
            _found(effect, sd, sd, n, most, "swaps with their signs"),
        "the feature keeps its sign: compare absolute values on both sides":
            _found(effect, sd, sd, n, most, "feature with its sign"),
        "turn the comparison round: count the swaps that are at least as large as the feature":
            _found(effect, sd, sd, n, most, "smaller"),
        "the feature's gap has no spread of its own: a word of the dialect is a word too, so give it the same spread":
            _found(effect, error, sd, n, most),
        "the feature's gap has no error of measurement: it is measured like the swaps": _found(effect, spread, sd, n, most),
        "the feature's gap is fixed at `effect`: it varies as a swap's does": _found(effect, 1e-4, sd, n, most),
        "the swaps have no spread: they differ from each other by more than the error of measurement":
            _found(effect, sd, error, n, most),
        "the swaps are known without error: add the error of measurement to their spread":
            _found(effect, sd, spread, n, most),
        "the error of measurement is left out: add error² for the swaps and for the feature":
            _found(effect, spread, spread, n, most),
        "the spread is left out: add spread² for the swaps and for the feature": _found(effect, error, error, n, most),
        "standard deviations add as squares: √(spread² + error²), not spread + error":
            _found(effect, spread + error, spread + error, n, most),
        "this is a variance where a standard deviation is needed: take the root of spread² + error²":
            _found(effect, sd**2, sd**2, n, most),
        unsquared + "spread²": _found_with(effect, spread + error**2, n, most),
        unsquared + "spread², twice the spread": _found_with(effect, 2 * spread + error**2, n, most),
        unsquared + "error²": _found_with(effect, spread**2 + error, n, most),
        unsquared + "error², twice the error": _found_with(effect, spread**2 + 2 * error, n, most),
        unsquared + "spread², and is the same for all": _found_with(effect, 2 + error**2, n, most),
        unsquared + "error², and is the same for all": _found_with(effect, spread**2 + 2, n, most),
        "the standard deviation is 1 whatever spread and error are: it is √(spread² + error²)": _found(effect, 1, 1, n, most),
        "the standard deviation is the same whatever spread and error are: it is √(spread² + error²)":
            _found(effect, 0.5, 0.5, n, most),
        "the swaps have a standard deviation of 1: multiply them by √(spread² + error²)": _found(effect, sd, 1, n, most),
        "the feature has a standard deviation of 1: multiply its noise by √(spread² + error²)":
            _found(effect, 1, sd, n, most),
        "the observed gap is left out of the ranking: it is one of the values, so add 1 above and below":
            _found(effect, sd, sd, n, np.floor(ALPHA / tests * n)),
        "1 is added below and not above": _found(effect, sd, sd, n, np.floor(ALPHA / tests * (1 + n) + 1e-9)),
        "the effect plays no part: it is the mean of the feature's gap": _found(0.0, sd, sd, n, most),
        "the swaps have the effect as well: their mean is zero": _found(effect, sd, sd, n, most, shift=effect),
        "another limit than .05": _found(effect, sd, sd, n, _most(n, tests, 0.1)),
    }  # fmt: skip


def _found_with(effect: float, variance: float, n: int, most: float) -> float:
    return _found(effect, variance**0.5, variance**0.5, n, most)


POWER_INPUTS = ((0.5, 0.2, 0.15, 120, 1), (0.45, 0.06, 0.16, 400, 3), (0.9, 0.25, 0.1, 300, 5), (-0.6, 0.2, 0.1, 60, 2))


@exercise(
    "07",
    look="section 7: draw the swaps and the feature many times; how often is p · n_tests at most .05?",
    takes="effect spread error n_swaps n_tests",
)
def check_power(learner: Callable) -> str:
    """Compared with sums over a fine grid, within the error of 1,000 simulated experiments."""
    found = [_number(call(learner, *inputs), "your power") for inputs in POWER_INPUTS]
    require(
        max(found) <= 1 + 1e-9,
        f"your power: {max(found):g}",
        "return a share between 0 and 1, not a count or a percentage",
    )
    want = [
        _found(effect, np.hypot(spread, error), np.hypot(spread, error), n, _most(n, tests))
        for effect, spread, error, n, tests in POWER_INPUTS
    ]
    if not _same_shares(found, want):
        raise CheckFailed(
            f"your power with numerical integration, on {len(want)} designs: {_shares(found)} against {_shares(want)}",
            _likely_in_power(found, want),
        )
    few, exact = (_number(call(learner, 5.0, 0.1, 0.1, n, 1), f"your power with {n} swaps") for n in (18, 19))
    require(
        few == 0,
        f"your power with 18 swaps: {few:g} against 0",
        "with 18 swaps no p-value is below 1/19, which is .053",
    )
    require(
        exact > 0.99,
        f"your power with 19 swaps and a very large effect: {exact:g} against 1",
        "the p-value is then 1/20: *at most* .05, so compare with <=",
    )
    return f"{len(want)} designs, within the error of simulation of numerical integration; 18 swaps can find nothing"


def _likely_in_power(found: list[float], want: list[float]) -> str:
    mistakes = [_power_mistakes(*inputs) for inputs in POWER_INPUTS]
    named = [name for name in mistakes[0] if _same_shares(found, [each[name] for each in mistakes])]
    if named:
        return named[0]
    if max(found) == 0:
        return "nothing is ever found: is the p-value a share, (1 + swaps as large) / (1 + n_swaps), and the limit .05?"
    if min(found) == 1:
        return (
            "everything is always found: is the p-value (1 + swaps as large) / (1 + n_swaps), experiment by experiment?"
        )
    turned = _same_shares(found, [1 - share for share in want])
    return "this is the share that misses: return the share that finds the feature" if turned else ""


def _same_shares(found: list[float], want: list[float]) -> bool:
    """Within 3.5 standard errors of 1,000 draws for each, and 2 for their mean."""
    got, right = np.array(found), np.array(want)
    error = np.sqrt(np.maximum(right * (1 - right), 0.004) / 1000)
    return bool((abs(got - right) < 3.5 * error).all() and abs((got - right) / error).mean() < 2)


def _shares(values: list[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


# --- all features together ----------------------------------------------------------------------------------------------

GAPS = (0.30, 0.22, -0.14, 0.41, 0.05, 0.19, -0.02)
UNITS = ("is", "has", "is", "is", "isn't", "has", "were")  # in no order, and of different sizes
NULL = (0.31, 0.22, 0.05, 0.41, -0.12, 0.02, 0.18, 0.26, 0.08)  # unlike a random one: mostly of one sign


def _exact_p(
    observed: float, null: np.ndarray, k: int, signs: tuple = (-1, 1), summed: bool = False, again: bool = False
) -> float:
    """Every choice of k swaps (of all, if there are fewer) with every set of signs. again: a swap may be drawn again."""
    k = min(k, len(null))
    choices = itertools.combinations_with_replacement if again else itertools.combinations
    signs = np.array(list(itertools.product(signs, repeat=k)))
    draws, weights = [], []
    for chosen in choices(range(len(null)), k):
        draws.append((signs * null[list(chosen)]).sum(1))
        weights.append(
            factorial(k) / prod(factorial(n) for n in Counter(chosen).values())
        )  # orders in which it is drawn
    as_large = (np.abs(np.array(draws) / (1 if summed else k)) >= abs(observed) - 1e-12).mean(1)
    return float(np.average(as_large, weights=weights))


def _unit_means(gaps: np.ndarray, units: tuple) -> np.ndarray:
    return np.array([gaps[[u == unit for u in units]].mean() for unit in dict.fromkeys(units)])


def _pooled_mistakes(gaps: np.ndarray, units: tuple, null: np.ndarray) -> dict[str, tuple[float, float]]:
    by_unit, k = _unit_means(gaps, units), len(set(units))
    sums = np.array([gaps[[u == unit for u in units]].sum() for unit in dict.fromkeys(units)])
    first = np.array([gaps[units.index(unit)] for unit in dict.fromkeys(units)])
    mean = by_unit.mean()
    others = np.array([gaps[[u != unit for u in units]].mean() for unit in dict.fromkeys(units)]).mean()
    p = _exact_p(mean, null, k)
    sign = "a sign is −1 or +1, each as often as the other; here the signs are "
    return {
        "averaged over features: those that share an SAE side are one unit, so average them first":
            (gaps.mean(), _exact_p(gaps.mean(), null, k)),
        "averaged over features, and as many swaps drawn: one value per unit":
            (gaps.mean(), _exact_p(gaps.mean(), null, len(gaps))),
        "the sizes of the gaps are averaged: keep their signs": (abs(by_unit).mean(), _exact_p(abs(by_unit).mean(), null, k)),
        "the sizes of the gaps are averaged, before the units are: keep their signs":
            (_unit_means(abs(gaps), units).mean(), _exact_p(_unit_means(abs(gaps), units).mean(), null, k)),
        "the swaps keep their own signs: which of its words comes first means nothing, so draw a sign for each":
            (mean, _exact_p(mean, null, k, (1,))),
        "a mean of as many swaps as there are features: as many as there are units": (mean, _exact_p(mean, null, len(gaps))),
        "a mean of all swaps: draw as many as there are units": (mean, _exact_p(mean, null, len(null))),
        "single swaps, not means of as many as there are units": (mean, _exact_p(mean, null, 1)),
        "one-sided: compare absolute values": (mean, _exact_p(mean, null, k) / 2),
        "a swap is drawn more than once: draw without replacement": (mean, _exact_p(mean, null, k, again=True)),
        "a unit's gaps are summed: take their mean": (sums.mean(), _exact_p(sums.mean(), null, k)),
        "only the first feature of each unit counts: take their mean": (first.mean(), _exact_p(first.mean(), null, k)),
        "the units are summed: take their mean": (by_unit.sum(), _exact_p(mean, null, k)),
        "the units are summed, and compared with means: take their mean":
            (by_unit.sum(), _exact_p(by_unit.sum(), null, k)),
        "this is the share of draws that are smaller: count those at least as large": (mean, 1 - p),
        "the draws are summed: take the mean of each": (mean, _exact_p(mean, null, k, summed=True)),
        "the draws are compared with the sum over units: with their mean": (mean, _exact_p(by_unit.sum(), null, k)),
        "the gaps of all *other* units are averaged: those with the unit": (others, _exact_p(others, null, k)),
        "the observed mean keeps its sign: compare absolute values": (mean, 1.0 if mean < 0 else p),
        sign + "0 and 1": (mean, _exact_p(mean, null, k, (0, 1))),
        sign + "0 and 2": (mean, _exact_p(mean, null, k, (0, 2))),
        sign + "1 and 3": (mean, _exact_p(mean, null, k, (1, 3))),
        sign + "0 and a half": (mean, _exact_p(mean, null, k, (0, 0.5))),
        sign + "0 and −1": (mean, _exact_p(mean, null, k, (0, -1))),
        sign + "−2 and 0": (mean, _exact_p(mean, null, k, (-2, 0))),
        sign + "−1, 1 and 3": (mean, _exact_p(mean, null, k, (-1, 1, 3))),
    }  # fmt: skip


@exercise(
    "07",
    look="section 10: one mean per SAE side; then means of as many swaps, with random signs",
    takes="gaps units null",
)
def check_pooled_test(learner: Callable) -> str:
    """Compared with every possible draw, within the error of 1,000 random ones."""
    cases = []
    # the last: as many swaps as units, so that no draw without repetition is as large, and p is as small as draws allow
    for scale, n_swaps in ((1.0, 9), (0.45, 9), (-1.6, 9), (2.4, 4)):
        gaps, null = scale * np.array(GAPS), np.array(NULL[:n_swaps])
        result = call(learner, torch.tensor(gaps), list(UNITS), torch.tensor(null))
        ok = isinstance(result, (tuple, list, np.ndarray, Tensor)) and len(result) == 2
        require(
            ok, f"what you return: {type(result).__name__}", "return two numbers: the mean over units, and the p-value"
        )
        found = _number(result[0], "your mean over units"), _number(result[1], "your p-value")
        swapped = abs(found[1] - _unit_means(gaps, UNITS).mean()) < 1e-4
        require(
            0 <= found[1] <= 1 or swapped,
            f"your p-value: {found[1]:.3g}, which is not between 0 and 1",
            "it is (1 + draws at least as large) / (1 + draws)",
        )
        mean = float(_unit_means(gaps, UNITS).mean())
        cases.append((found, (mean, _exact_p(mean, null, len(set(UNITS)))), _pooled_mistakes(gaps, UNITS, null)))
    if all(_same_test(found, want) for found, want, _ in cases):
        (mean, p), _, _ = cases[0]
        beyond = call(learner, torch.tensor(GAPS) + 30, list(UNITS), torch.tensor(NULL))
        require(
            _number(beyond[1], "your p-value") > 0,
            "your p-value of gaps that no draw reaches: 0",
            "the observed mean is one of the values it is ranked among: add 1 above and below",
        )
        return f"mean over units {mean:.2f}, and p-values within the error of simulation of all possible draws"
    named = [name for name in cases[0][2] if all(_same_test(found, wrong[name]) for found, _, wrong in cases)]
    if all(_same_test(found[::-1], want) for found, want, _ in cases):
        named = ["the mean over units comes first, then the p-value"]
    beyond = call(learner, torch.tensor(GAPS) + 30, list(UNITS), torch.tensor(NULL))  # p = 1 / (1 + draws)
    if _number(beyond[1], "your p-value") > 0.005 and all(_same_test(found, want) for found, want, _ in cases[:-1]):
        named = ["there are too few draws: p is at least 1 / (1 + draws), so draw some thousand times"]
    at = [_same_test(found, want) for found, want, _ in cases].index(False)
    (mean, p), (right_mean, right_p), _ = cases[at]
    raise CheckFailed(
        f"your mean and p-value with all possible draws: {mean:.3f}, {p:.3f} against {right_mean:.3f}, {right_p:.3f}, "
        f"on set {at + 1} of {len(cases)} sets of gaps",
        named[0] if named else "",
    )


def _same_test(found: tuple[float, float], want: tuple[float, float]) -> bool:
    error = np.sqrt(max(want[1] * (1 - want[1]), 0.004) / 1000)
    return abs(found[0] - want[0]) < 1e-4 and abs(found[1] - want[1]) < 4 * error + 0.002
