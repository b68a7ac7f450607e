"""Exercises whose arguments are plain tables and lists, on inputs that hypothesis draws.

Each solution agrees with an implementation written another way on all of them, and each listed wrong answer is told apart
from it by one of them at least, so that no listed mistake is the right answer in disguise. Numbers are quarters: sums are
exact, and ties come up often. The checks that learners run use fixed inputs and need no hypothesis.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample
from scipy import stats

from tests.checks import REGISTRY
from tests.drawn_inputs import (
    QUARTERS,
    curves,
    edge_scores,
    gradients,
    masks,
    reports,
    scores_of_pairs,
    settings_of_models,
    tables,
    templates,
    trials,
    two_lists_of_heads,
    varied,
    ways,
)
from tests.solutions import solution_functions
from tests.wrong import WRONG

DRAWS = settings(max_examples=20, derandomize=True, deadline=None, database=None)
SEARCH = settings(max_examples=300, derandomize=True, deadline=None, database=None, phases=[Phase.generate])
BY_RUNS = {
    ("acdc", "remember the distance")
}  # right edges by more runs than are needed: tests/test_checks.py counts them


# --- the same, written another way --------------------------------------------------------------------------------------


def _last(mask):
    return [max(i for i, real in enumerate(row) if real) for row in mask.tolist()]


def _columns(one, other):
    rows = list(zip(one.tolist(), other.tolist(), strict=True))
    return [sum(a[x] - b[x] for a, b in rows) / len(rows) for x in range(one.shape[1])]


def _ranks(observed, null):
    return [(1 + sum(abs(n) >= abs(x) for n in null.tolist())) / (1 + len(null)) for x in observed.tolist()]


def _circular(one, other):
    gaps = [max(row) - min(row) for row in (one - other).tolist()]
    return [sum(gaps) / len(gaps)] * 2  # what is chosen by the gap is as large the other way round


def _hypergeometric(one, other, n_total):
    n, m, shared = len(one), len(other), sum(head in other for head in one)
    ways = sum(math.comb(m, k) * math.comb(n_total - m, n - k) for k in range(shared, min(n, m) + 1))
    return ways / math.comb(n_total, n)


def _slope(before, after):
    return 1 - np.linalg.lstsq(before.double().numpy()[:, None], after.double().numpy(), rcond=None)[0][0]


def _template_means(z, template):
    out = z.clone()
    for i, number in enumerate(template.tolist()):
        same = [j for j, other in enumerate(template.tolist()) if other == number]
        out[:, i] = sum(z[:, j] for j in same) / len(same)
    return out


def _writers_before(cfg):
    shared = cfg.n_heads if cfg.n_key_value_heads is None else cfg.n_key_value_heads
    wrote, reads = [-1], []
    for layer in range(cfg.n_layers):
        wrote += [2 * layer] * cfg.n_heads + [2 * layer + 1]
        reads += [2 * layer - 0.5] * (cfg.n_heads + 2 * shared) + [2 * layer + 0.5]
    return [[before < at for before in wrote] for at in [*reads, math.inf]]


def _products(messages, gradient, exists):
    return [
        [
            float((messages[w].double() * gradient[r].double()).sum()) if exists[r, w] else 0.0
            for w in range(len(messages))
        ]
        for r in range(len(gradient))
    ]


def _along(messages, gradients_at, exists, steps):
    parts = [_products(messages, gradients_at((2 * i + 1) / (2 * steps)), exists) for i in range(steps)]
    return np.mean(parts, axis=0)


def _areas(shares, heights):
    def area(values: Sequence[float]) -> float:
        return sum((shares[i] - shares[i - 1]) * (values[i] + values[i - 1]) / 2 for i in range(1, len(shares)))

    return area(heights), area([abs(height - 1) for height in heights])


def _stays(edges, distance, threshold):
    kept = list(edges)
    for edge in edges:
        without = [other for other in kept if other != edge]
        if distance(frozenset(without)) < distance(frozenset(kept)) + threshold:
            kept = without
    return kept


def _decision(clean, corrupted):
    def interval(values):
        test = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        return [test.low, test.high]

    found = [interval(clean), interval([a - b for a, b in zip(clean, corrupted, strict=True)])]
    return [*found[0], *found[1], float(min(found[0][0], found[1][0]) > 0)]


def _rank(found, random, smaller):
    sign = 1 if smaller else -1
    return sum(sign * value <= sign * found for value in [*random, found]) / (len(random) + 1)


def _claims(n):
    return [
        not n["clean_low"] <= 0,
        n["low"] >= 0.8 and n["high"] <= 1.2 and 2 * n["mae"] < n["empty_mae"],
        not n["random_p"] > 0.05,
        2 * n["value_without_strongest"] >= n["value"],
        not n["shared_answers"],
    ]


def _is_choice(result, scores, exists, n, signed):
    """n edges that exist, none of them below one that is left out."""
    chosen, ranked = torch.as_tensor(result), scores if signed else scores.abs()
    left = ranked[exists & ~chosen]
    fits = chosen.dtype == torch.bool and int(chosen.sum()) == n and not (chosen & ~exists).any()
    return bool(fits and (not n or not len(left) or ranked[chosen].min() >= left.max()))


def _flat(result: Any) -> Any:
    """What a dictionary of chapter 12 holds, in the order of its exercise; claims and decisions are True or False."""
    if "go" in result:
        return [float(x) for x in (*result["clean"], *result["difference"], result["go"])]
    claims = ("does the task", "faithful", "special", "more than one head", "new words")
    return [float(result[claim]) if isinstance(result[claim], bool) else math.nan for claim in claims]


@dataclass(frozen=True)
class Drawn:
    """The arguments of an exercise, and the same computed another way, or what must hold of a result."""

    arguments: st.SearchStrategy
    other: Callable | None = None
    holds: Callable | None = None

    def accepts(self, function: Callable, arguments: tuple) -> bool:
        """Whether the function gives what it should, and leaves its arguments alone."""
        given = copy.deepcopy(arguments)
        try:
            result = function(*given)
            result = _flat(result) if isinstance(result, dict) else result
            if self.holds:
                return self.holds(result, *arguments)
            return _same(result, self.other(*arguments)) and all(map(_same_argument, given, arguments))
        except Exception:  # a wrong answer may raise anything
            return False


def _same(one: Any, other: Any) -> bool:
    if isinstance(other, list) and (not other or isinstance(other[0], int)) and isinstance(one, list):
        return one == other
    one, other = (np.array(x.tolist() if isinstance(x, torch.Tensor) else x) for x in (one, other))
    return one.shape == other.shape and np.allclose(one.astype(float), other.astype(float), atol=1e-5)


def _same_argument(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return callable(one) or one == other


ROWS = tables((1, 4), (2, 4), n=2)
EXERCISES = {
    "means_by_template": Drawn(templates(), _template_means),
    "last_token_index": Drawn(masks(), _last),
    "association_scores": Drawn(ROWS, _columns),
    "calibrated": Drawn(
        ROWS,
        lambda logp, empty: [
            [a - b for a, b in zip(*rows, strict=True)] for rows in zip(logp.tolist(), empty.tolist(), strict=True)
        ],
    ),
    "null_swaps": Drawn(st.tuples(tables((1, 3)), tables((2, 9))).map(lambda both: (both[0][0], both[1][0])), _ranks),
    "is_circular": Drawn(ROWS, _circular),
    "share_removed": Drawn(
        tables((2, 5), n=2).filter(lambda both: both[0].mean() != 0),
        lambda before, after: (sum(before.tolist()) - sum(after.tolist())) / sum(before.tolist()),
    ),
    "overlap_p": Drawn(two_lists_of_heads(), _hypergeometric),
    "slope_removed": Drawn(tables((2, 5), n=2).filter(lambda both: both[0].any()), _slope),
    "edge_mask": Drawn(settings_of_models(), _writers_before),
    "eap": Drawn(gradients(), lambda new, orig, gradient, exists: _products(new - orig, gradient, exists)),
    "eap_ig": Drawn(ways(), _along),
    "top_edges": Drawn(edge_scores(), holds=_is_choice),
    "curve_areas": Drawn(curves(), _areas),
    "acdc": Drawn(trials(), _stays),
    "may_go_on": Drawn(scores_of_pairs().filter(varied), _decision),
    "matched_p": Drawn(st.tuples(QUARTERS, st.lists(QUARTERS, min_size=1, max_size=9), st.booleans()), _rank),
    "supported": Drawn(reports.map(lambda report: (report,)), _claims),
}


@pytest.mark.parametrize("name", EXERCISES)
def test_solution_agrees_with_another_implementation(name):
    solution, drawn = solution_functions(REGISTRY[name].chapter)[name], EXERCISES[name]

    @DRAWS
    @given(drawn.arguments)
    def agrees(arguments):
        assert drawn.accepts(solution, arguments), arguments

    agrees()


@pytest.mark.parametrize(
    ("name", "fragment"),
    [(name, what) for name in EXERCISES for what in WRONG[name] if (name, what) not in BY_RUNS],
)
def test_wrong_answer_is_another_function(name, fragment):
    """Some drawn input tells it apart from the right one."""
    drawn, wrong = EXERCISES[name], WRONG[name][fragment]
    try:
        find(drawn.arguments, lambda arguments: not drawn.accepts(wrong, arguments), settings=SEARCH)
    except NoSuchExample:
        pytest.fail(f"{name}: the mistake {fragment!r} gives what is right on all drawn inputs")
