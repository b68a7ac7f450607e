"""Which mutants there are, what became of them, and the recorded scores."""

from __future__ import annotations

import ast
import hashlib
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.making import mutants_of
from tests.mutants.running import Job, Outcome

ROOT = Path(__file__).resolve().parents[2]
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.toml"
SCORES = ROOT / "tests" / "mutation_scores.json"
SHARED = ("core.py", "calling.py", "side_effects.py", "comparing.py", "sets.py")


def collect(exercises: Sequence[str]) -> list[Job]:
    """(chapter, exercise, name of the mutant, source) of all mutants that are not known to be equivalent."""
    from tests.checks import REGISTRY

    equivalent = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")) if EQUIVALENT.exists() else {}
    jobs = []
    for name in exercises:
        chapter = REGISTRY[name].chapter
        function, first, last = solution_region(chapter, name)
        known = equivalent.get(name, {})
        found = dict(mutants_of(function, first, last))
        for gone in set(known) - set(found):
            raise SystemExit(f"tests/equivalent_mutants.toml: {name} has no mutant {gone!r} any more; take it out")
        jobs += [(chapter, name, mutant, source) for mutant, source in found.items() if mutant not in known]
    return jobs


def solution_region(chapter: str, name: str) -> tuple[ast.FunctionDef, int, int]:
    """The function of an exercise, and the first and last line of what a learner writes in it."""
    (path,) = (ROOT / "solutions").glob(f"{chapter}_*.py")
    text = path.read_text(encoding="utf-8")
    (function,) = (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == name)
    lines = text.splitlines()
    inside = range(function.lineno, function.end_lineno + 1)
    first = next((n for n in inside if "### BEGIN SOLUTION" in lines[n - 1]), function.lineno)
    last = next((n for n in inside if "### END SOLUTION" in lines[n - 1]), function.end_lineno)
    function.decorator_list = []
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    return function, first, last


def fingerprint(name: str) -> str:
    """Of the solution, its chapter's check modules and what all checks share: a score holds as long as it stays."""
    from tests.checks import REGISTRY

    chapter = REGISTRY[name].chapter
    (path,) = (ROOT / "solutions").glob(f"{chapter}_*.py")
    function, _, _ = solution_region(chapter, name)
    solution = "\n".join(path.read_text(encoding="utf-8").splitlines()[function.lineno - 1 : function.end_lineno])
    checks = ROOT / "tests" / "checks"
    files = [*sorted(checks.glob(f"ch{chapter}_*.py")), *(checks / name for name in SHARED)]
    parts = [solution, *(path.read_text(encoding="utf-8") for path in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass
class Score:
    """What became of an exercise's mutants.

    named: of those that were rejected without an exception. false: told a mistake that does not explain what they return
    on another input of the check.
    """

    fingerprint: str
    mutants: int = 0
    killed: int = 0
    crashed: int = 0
    rejected: int = 0
    named: int = 0
    false: int = 0
    seconds: float = 0.0

    @property
    def perfect(self) -> bool:
        return self.mutants == self.killed and not self.crashed and not self.false


def scores(jobs: Sequence[Job], outcomes: Sequence[Outcome]) -> dict[str, Score]:
    found: dict[str, Score] = {}
    for (_, exercise, _, _), outcome in zip(jobs, outcomes, strict=True):
        if exercise not in found:
            found[exercise] = Score(fingerprint(exercise))
        score = found[exercise]
        score.mutants += 1
        score.killed += outcome.killed
        score.crashed += bool(outcome.crashed)
        score.rejected += outcome.killed and not outcome.raised
        score.named += outcome.killed and not outcome.raised and bool(outcome.likely)
        score.false += not all(outcome.explained)
        score.seconds += outcome.seconds
    return found
