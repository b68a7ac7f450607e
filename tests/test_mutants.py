"""The mutation tester changes what it should, and its recorded scores are perfect."""

import ast
import json
import tomllib

import pytest

from tests.checks import REGISTRY
from tests.mutants import making, running, scoring

FUNCTION = """
def scaled(values, axis: int = 0):
    total = values[1:].sum(axis, keepdim=True)
    total = total.clone()
    if total.any():
        total += 1
    return values / total
"""


def test_every_kind_of_change_is_made():
    tree = ast.parse(FUNCTION).body[0]
    made = {name for name, _ in making.mutants_of(tree, tree.lineno, tree.end_lineno)}
    for part in (
        "values[1:] → values[:]",
        "sum(axis, keepdim=True) → values[1:].sum(axis)",
        "1 → 2",
        "True → False",
        "total.clone() → total",
        "total = total.clone() → ",
        "total += 1 → total = 1",
        "values / total → values * total",
        "values / total → values",
        "return values / total → return (values / total).half()",
    ):
        assert any(name.endswith(part) for name in made), part
    assert not any(": int" in name or "int →" in name for name in made)  # annotations stay


def test_only_the_lines_asked_for_are_changed():
    tree = ast.parse(FUNCTION).body[0]
    assert {name.split(":")[0] for name, _ in making.mutants_of(tree, tree.lineno + 2, tree.lineno + 2)} == {"2"}


def test_equivalent_mutants_exist_and_have_reasons():
    known = tomllib.loads(scoring.EQUIVALENT.read_text(encoding="utf-8"))
    assert set(known) <= set(REGISTRY)
    assert all(reason for of_exercise in known.values() for reason in of_exercise.values())
    scoring.collect(list(known))  # raises SystemExit for one that is no mutant


def test_a_survivor_a_crash_and_a_slow_mutant_are_told_apart(monkeypatch):
    jobs = [
        ("00", "zero_head", name, f"def zero_head(z, hook, head_index):\n    {body}")
        for name, body in (
            ("right", "z = z.clone(); z[:, :, head_index] = 0; return z"),
            ("wrong", "return z"),
            ("raises", "return z[99]"),
            ("endless", "\n    ".join(["while True:", "    pass"])),
        )
    ]
    monkeypatch.setattr(running, "SECONDS", 3)
    right, wrong, raises, endless = running.in_forks(jobs)
    assert not right.killed and wrong.killed and wrong.likely and not wrong.raised
    assert raises.killed and raises.raised and endless.killed and endless.raised
    assert not any(outcome.crashed for outcome in (right, wrong, raises, endless))


def test_the_longest_come_first_and_only_they_are_divided():
    counts = {"short": 5, "long": 60, "unknown": 8, "middle": 40}
    jobs = [("00", name, str(i), "") for name, n in counts.items() for i in range(n)]
    pieces = running.chunks_of(jobs, 2, {"short": 1.0, "long": 90.0, "middle": 9.0})
    assert [(piece[0][1], len(piece)) for piece in pieces] == [
        *(("long", 24), ("long", 24), ("long", 12), ("middle", 40), ("unknown", 8), ("short", 5)),
    ]
    assert sorted(job for piece in pieces for job in piece) == sorted(jobs)


def test_outcomes_come_in_the_order_of_their_jobs():
    """Whatever the order in which they are run: two exercises, two processes, the second one first."""
    bodies = {"wrong": "return z", "right": "z = z.clone(); z[:, :, head_index] = 0; return z"}
    jobs = [("00", "zero_head", what, f"def zero_head(z, hook, head_index): {body}") for what, body in bodies.items()]
    jobs.append(("01", "logit_diff", "no code", "def logit_diff(logits, answer_tokens, per_prompt=False): return 0"))
    found = running.outcomes_of(jobs, 2, {"zero_head": 1.0, "logit_diff": 9.0})
    assert [(outcome.mutant, outcome.killed) for outcome in found] == [
        ("wrong", True),
        ("right", False),
        ("no code", True),
    ]


@pytest.mark.parametrize("name", REGISTRY)
def test_recorded_scores_are_perfect(name):
    """No survivor, no crash, no false name. `python -m tests.mutants --changed --record` writes them; CI runs again what
    has changed since."""
    score = scoring.Score(**json.loads(scoring.SCORES.read_text(encoding="utf-8"))[name])
    assert score.perfect and score.mutants >= 2
    assert score.false == 0, "mutants that are told a mistake which does not explain them"
    assert score.named >= 0.75 * score.rejected
