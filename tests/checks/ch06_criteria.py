"""Checks of chapter 06, third part: random circuits, completeness, and minimality."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.checks.calling import call
from tests.checks.ch06_results import one_number
from tests.checks.comparing import require_equal
from tests.checks.core import exercise, require

# --- controls and criteria ----------------------------------------------------------------------------------------------


@exercise(
    "06",
    look="section 4: begin with the kept heads; then one draw for each other head from those near enough and not taken",
    points=3,
    takes="circuit n n_layers n_heads within keep never seed",
)
def check_random_circuits(learner: Callable) -> str:
    circuit = {"END": [(7, 1), (7, 2), (4, 0), (1, 3)], "S2": [(4, 0), (5, 2)], "S1+1": [(2, 2)]}
    layers, heads, n = 9, 4, 60
    for within, keep, never, seed in ((2, (), ((7, 3), (6, 0)), 0), (1, ((7, 1),), (), 1)):
        given = (circuit, n, layers, heads, within, list(keep), list(never), seed)
        found = _circuits(call(learner, *given), n, circuit)
        for drawn in found:
            for role, members in circuit.items():
                _require_draw(role, drawn[role], members, layers, heads, within, keep, never)
        varied = {role: len({tuple(sorted(drawn[role])) for drawn in found}) for role in circuit}
        require(
            min(varied.values()) > 3,
            f"{n} draws: at some role only {min(varied.values())} of them differ",
            "draw anew for every circuit: make the generator once, before the loop",
        )
        _require_reach(found, circuit, layers, heads, within, keep, never)
        again = _circuits(call(learner, *given), n, circuit)
        require(
            again == found,
            "two calls with the same seed: the draws differ",
            "use random.Random(seed), not the global generator",
        )
        other = _circuits(call(learner, *given[:-1], seed + 5), n, circuit)
        require(other != found, "two seeds: the draws are the same", "use the seed")
    return "size, roles, layers, kept and forbidden heads of 120 circuits, and that every allowed head can be drawn"


def _circuits(result: Any, n: int, circuit: Mapping) -> list[dict[str, list]]:
    require(
        isinstance(result, (list, tuple)) and len(result) == n and all(isinstance(drawn, Mapping) for drawn in result),
        f"what you return: {type(result).__name__} of {len(result) if hasattr(result, '__len__') else '?'}",
        f"return a list of n = {n} circuits, each a dictionary from role to heads",
    )
    for drawn in result:
        require(
            set(drawn) == set(circuit),
            f"the roles of a draw: {sorted(map(str, drawn))}",
            f"the roles are {sorted(circuit)}",
        )
        for role, members in drawn.items():
            pairs = isinstance(members, (list, tuple)) and all(
                isinstance(head, (list, tuple))
                and len(head) == 2
                and all(isinstance(x, (int, np.integer)) for x in head)
                for head in members
            )
            require(pairs, f"the heads at {role}: {members!r}", "each head is (layer, head)")
    return [{role: [tuple(head) for head in members] for role, members in drawn.items()} for drawn in result]


def _require_draw(role, drawn, members, layers, heads, within, keep, never) -> None:
    what = f"a draw at {role}: {drawn} for {members}"
    kept = [head for head in members if head in keep]
    rest = [head for head in drawn if head not in kept]
    require(len(drawn) == len(members), what, "as many heads at each role as the circuit has")
    require(len(set(drawn)) == len(drawn), what, "a head is there twice: take what is chosen out of what can be drawn")
    require(
        all(head in drawn for head in kept), what, f"{kept} must stay: heads in `keep` are in every draw, at their role"
    )
    require(
        not set(rest) & set(members), what, "it holds a head of the circuit itself: draw among the others at this role"
    )
    require(
        not set(rest) & set(never), what, f"it holds one of `never`, {list(never)}: the dominant head must stay out"
    )
    require(
        all(0 <= layer < layers and 0 <= head < heads for layer, head in rest),
        what,
        "a head that the model does not have",
    )
    away = [head for head in members if head not in kept]
    require(
        any(
            all(abs(a[0] - b[0]) <= within for a, b in zip(order, away, strict=True))
            for order in itertools.permutations(rest)
        ),
        what,
        f"layers are not matched: each head is at most within = {within} layers from the one it stands for",
    )


def _require_reach(found, circuit, layers, heads, within, keep, never) -> None:
    """With one head at S1+1, sixty draws should meet most of what is allowed there, in every layer."""
    role, (layer, _) = "S1+1", circuit["S1+1"][0]
    near = range(max(0, layer - within), min(layers, layer + within + 1))
    allowed = {(i, h) for i in near for h in range(heads)} - set(circuit[role]) - set(never)
    met = {drawn[role][0] for drawn in found}
    require(
        all({head[axis] for head in met} == {head[axis] for head in allowed} for axis in (0, 1))
        and len(met) > 0.6 * len(allowed),
        f"sixty draws at {role}: {len(met)} of {len(allowed)} allowed heads, in layers {sorted({i for i, _ in met})}",
        f"every head of the layers from {min(near)} to {max(near)} should have a chance, both ends included",
    )


class _Toy:
    """Scores of removed heads that interact, counting how often they are asked."""

    def __init__(self, members: Sequence, seed: int, offset: float, rising: bool = False) -> None:
        generator = np.random.default_rng(seed)
        self.members, self.asked, self.rising = list(members), 0, rising
        self.single = dict(zip(self.members, generator.normal(0, 1, len(members)), strict=True))
        self.double = {frozenset(p): generator.normal(0, 1) for p in itertools.combinations(self.members, 2)}
        self.offset = offset

    def __call__(self, removed: Sequence) -> float:
        self.asked += 1
        gone = list(dict.fromkeys(removed))  # a head that is named twice is removed once
        if self.rising:  # towards a larger score with every head that is removed
            return float(self.offset + sum(0.2 * abs(self.single[head]) for head in gone))
        pairs = itertools.combinations(gone, 2)
        value = (
            self.offset + sum(self.single[head] for head in gone) + sum(self.double[frozenset(pair)] for pair in pairs)
        )
        return float(value)


MEMBERS = [
    ("END", (7, 1)),
    ("END", (7, 2)),
    ("END", (4, 0)),
    ("S2", (4, 0)),
    ("S2", (5, 2)),
    ("S1+1", (2, 2)),
    ("S1", (0, 1)),
]


@exercise(
    "06",
    look="section 5: the distance decides, not F(C without K) alone; remember the best set on the way",
    points=3,
    takes="members in_circuit in_model k n seed",
)
def check_greedy_incompleteness(learner: Callable) -> str:
    for seed, n, offset in ((104, 5, 4.4), (40, 5, -0.4), (179, 6, 0.8), (9, 9, 0.8)):  # every mistake leads elsewhere
        circuit, model = _Toy(MEMBERS, seed, 2.0), _Toy(MEMBERS, seed + 50, offset)
        removed, distance = _found(call(learner, list(MEMBERS), circuit, model, 20, n, seed))
        asked = circuit.asked + model.asked
        best, way = _greedy(circuit, model, n)
        _require_set(removed, distance, best, _greedy_mistakes(circuit, model, n, way))
        require(
            asked <= 4 * (1 + sum(range(1, len(MEMBERS) + 1))),
            f"calls of in_circuit and in_model: {asked}",
            "ask for each set once, in each step for the heads that are not removed yet",
        )
    for seed in range(5):
        circuit, model = _Toy(MEMBERS, seed + 9, 1.0), _Toy(MEMBERS, seed + 70, 1.2)
        removed, distance = _found(call(learner, list(MEMBERS), circuit, model, 2, 3, seed))
        _require_possible(circuit, model, removed, distance, 3)
        again, _ = _found(call(learner, list(MEMBERS), circuit, model, 2, 3, seed))
        require(
            set(again) == set(removed),
            "two calls with the same seed: K differs",
            "use random.Random(seed), not the global generator; and do not loop over a set",
        )
    circuit, model = _Toy(MEMBERS, 3, 1.0, rising=True), _Toy(MEMBERS, 3, 6.0, rising=True)
    model.single = dict.fromkeys(MEMBERS, 0.0)
    removed, distance = _found(call(learner, list(MEMBERS), circuit, model, 20, 2, 0))
    require(
        not removed and abs(distance - 5) < 1e-6,
        f"a circuit that comes nearer to the model with every head removed: K = {removed}, distance {distance:.3f}",
        "the empty set, with its distance of 5, is the best: begin with |F(C) - F(M)| as the distance to beat",
    )
    circuit, model = _Toy(MEMBERS, 3, 1.0, rising=True), _Toy(MEMBERS, 3, 1.0, rising=True)
    model.single = dict.fromkeys(MEMBERS, 0.0)
    for seed in range(3):
        removed, _ = _found(call(learner, list(MEMBERS), circuit, model, 2, 5, seed))
        require(
            len(removed) == 5,
            f"a circuit that goes further away with every head removed, k = 2, n = 5: K has {len(removed)} heads",
            "draw anew in every step, k of the heads that are left, and take n steps",
        )
    ways = {
        frozenset(_found(call(learner, list(MEMBERS), _Toy(MEMBERS, 9, 1.0), _Toy(MEMBERS, 70, 1.2), 2, 3, seed))[0])
        for seed in range(8)
    }
    require(
        len(ways) > 1,
        "eight seeds with k = 2: always the same K",
        "draw k of the remaining heads with random.Random(seed)",
    )
    return "the greedy set of four circuits, and draws of two heads that depend on the seed, with few questions"


def _found(result: Any) -> tuple[list, float]:
    ok = isinstance(result, (tuple, list)) and len(result) == 2 and isinstance(result[0], (list, tuple, set, frozenset))
    require(ok, f"what you return: {type(result).__name__}", "return two things: the list K, and its distance")
    return list(result[0]), one_number(result[1], "the distance")


def _distance(circuit: _Toy, model: _Toy, removed: Sequence) -> float:
    return abs(circuit(removed) - model(removed))


def _greedy(circuit: _Toy, model: _Toy, n: int, value: Callable | None = None) -> tuple[list, list[list]]:
    """The best set on the way, and the way, with every head tried in each step."""
    value = value or (lambda removed: _distance(circuit, model, removed))
    way: list[list] = [[]]
    for _ in range(min(n, len(MEMBERS))):
        left = [head for head in MEMBERS if head not in way[-1]]
        way.append([*way[-1], max(left, key=lambda head: value([*way[-1], head]))])
    return max(way, key=value), way


def _until_worse(circuit: _Toy, model: _Toy, n: int) -> list:
    _, way = _greedy(circuit, model, n)
    steps = [
        (here, _distance(circuit, model, here), _distance(circuit, model, then))
        for here, then in itertools.pairwise(way)
    ]
    return next((here for here, before, after in steps if after <= before), way[-1])


def _greedy_mistakes(circuit: _Toy, model: _Toy, n: int, way: list[list]) -> dict[str, list]:
    return {
        "this is the last set of the way: a step may make the distance smaller, so remember the best one": way[-1],
        "you stop at the first step that is no better: go on to n, a later one may be": _until_worse(circuit, model, n),
        "F(C without K) alone is made as small as possible: that is no incompleteness, the model may fall as well": _greedy(
            circuit, model, n, lambda removed: -circuit(removed)
        )[0],
        "F(C without K) alone is made as large as possible": _greedy(circuit, model, n, circuit)[0],
        "the sign is kept: the circuit may fall below the model, or stay above it; take the absolute distance": _greedy(
            circuit, model, n, lambda removed: circuit(removed) - model(removed)
        )[0],
        "the sign is kept, the other way: take the absolute distance": _greedy(
            circuit, model, n, lambda removed: model(removed) - circuit(removed)
        )[0],
        "the distance is made as small as possible": _greedy(
            circuit, model, n, lambda removed: -_distance(circuit, model, removed)
        )[0],
        "k and n are exchanged: k heads are tried in each of n steps": _greedy(circuit, model, 20)[0],
        "only one head is ever removed: add to what is removed already": [
            max(MEMBERS, key=lambda head: _distance(circuit, model, [head]))
        ],
    }


def _require_set(removed: list, distance: float, best: list, mistakes: Mapping[str, list]) -> None:
    named = [word for word, wrong in mistakes.items() if set(wrong) == set(removed) and set(wrong) != set(best)]
    require(
        set(removed) == set(best) and len(removed) == len(best),
        f"the set K, {removed}, with that of a greedy search that tries every head, {best}",
        named[0] if named else "in each step add the head that makes |F(C without K) - F(M without K)| largest",
    )
    require(np.isfinite(distance), f"the distance: {distance}", "return the distance of the best set")


def _require_possible(circuit: _Toy, model: _Toy, removed: list, distance: float, n: int) -> None:
    require(
        set(removed) <= set(MEMBERS) and len(set(removed)) == len(removed) <= n,
        f"the set K with n = {n}: {removed}",
        "K has at most n heads of the circuit, each once",
    )
    require(
        abs(distance - _distance(circuit, model, removed)) < 1e-6,
        f"the distance {distance:.4f} with that of the K you return, {_distance(circuit, model, removed):.4f}",
        "the set and the distance must belong together, and it is an absolute value",
    )
    require(
        distance >= _distance(circuit, model, []) - 1e-9,
        "the distance with that of the empty set: it is smaller",
        "the empty set is on the way, too: begin with it as the best",
    )


@exercise(
    "06",
    look="section 5: F(C without K and v) - F(C without K), K = together[v] without v",
    points=2,
    takes="in_circuit members together",
)
def check_minimality(learner: Callable) -> str:
    classes = {head: [other for other in MEMBERS if other[0] == head[0]] for head in MEMBERS[:5]}
    together = {
        head: [other for other in listed if other != head or head[0] == "END"] for head, listed in classes.items()
    }
    for seed, given in ((0, None), (1, together), (2, {MEMBERS[0]: MEMBERS[1:3]})):
        score = _Toy(MEMBERS, seed, 1.7)

        def table(value: Callable, score=score, given=given) -> Tensor:
            return torch.tensor([value(score, head, _others(given, head)) for head in MEMBERS])

        found = call(learner, score, list(MEMBERS), given)
        require(
            isinstance(found, Mapping) and set(found) >= set(MEMBERS),
            f"what you return: {type(found).__name__}",
            "return a dictionary with one entry for each head",
        )
        held = require_equal(
            [found[head] for head in MEMBERS],
            table(lambda score, head, others: score([*others, head]) - score(others)),
            "the change for each head",
            axes="head",
            mistakes={
                "absolute values: the sign says whether removing the head helps": lambda: table(
                    lambda score, head, others: abs(score([*others, head]) - score(others))
                ),
                "the sign is turned: with v removed, minus without": lambda: table(
                    lambda score, head, others: score(others) - score([*others, head])
                ),
                "only v itself is left of together[v]: leave v out, and keep the others": lambda: table(
                    lambda score, head, others: (
                        0.0 if head in (given or {}).get(head, []) else score([head]) - score([])
                    )
                ),
                "K is not removed: remove together[v] in both": lambda: table(
                    lambda score, head, others: score([head]) - score([])
                ),
                "K is removed on one side only: F(C without K) is what you compare with": lambda: table(
                    lambda score, head, others: score([*others, head]) - score([])
                ),
                "v itself is in K, so that both sides are the same where it is listed": lambda: table(
                    lambda score, head, others: (
                        0.0 if head in (given or {}).get(head, []) else score([*others, head]) - score(others)
                    )
                ),
                "this is the score without v, not its change": lambda: table(
                    lambda score, head, others: score([*others, head])
                ),
                "divided by the score of the circuit: return the change in logits": lambda: table(
                    lambda score, head, others: (score([*others, head]) - score(others)) / score([])
                ),
            },
        )
    return f"the signed change of seven heads, without K, with their class as K, and with K for one head only ({held})"


def _others(together: Mapping | None, head) -> list:
    return [other for other in (together or {}).get(head, []) if other != head]
