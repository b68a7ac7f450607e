"""Mutation testing of the checks: every solution is changed in one place at a time, and every check must notice.

    python -m tests.mutants                       all exercises: a table of killed, survived, crashed, named
    python -m tests.mutants --chapter 03          one chapter (also --exercise ioi_metric)
    python -m tests.mutants --show                list survivors, crashes and unnamed mutants
    python -m tests.mutants --changed             only exercises whose solution or check has changed since it was recorded
    python -m tests.mutants --record              write the scores to tests/mutation_scores.json

A mutant changes an operator, a constant, an index, an axis, a reduction, an argument, a condition or a dtype, or drops a
clone or a statement. Each runs in a process of its own. It is killed if the check raises `CheckFailed`; it crashes the
check if the check itself cannot cope; it is named if it was rejected without an exception and told a likely mistake, and
falsely so if that mistake does not give what the mutant gives on the inputs that follow. A mutant that computes the same is
equivalent: tests/equivalent_mutants.toml lists those, each with its reason.

Exit status: 0 if no mutant survives, none crashes a check and none is falsely named, else 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from rich.console import Console
from rich.table import Table

from tests.mutants.running import Outcome, outcomes_of
from tests.mutants.scoring import ROOT, SCORES, Score, collect, fingerprint, scores

COLUMNS = ("chapter", "exercise", "mutants", "killed", "survived", "crashed", "named", "falsely", "seconds")


def show(found: dict[str, Score]) -> None:
    from tests.checks import REGISTRY

    table = Table(*COLUMNS, title="mutants")
    total = Score("")
    for name, score in found.items():
        for part in ("mutants", "killed", "crashed", "rejected", "named", "false", "seconds"):
            setattr(total, part, getattr(total, part) + getattr(score, part))
        table.add_row(REGISTRY[name].chapter, name, *_cells(score))
    table.add_row("", "all", *_cells(total))
    Console(width=110).print(table)


def _cells(score: Score) -> list[str]:
    survived, share = score.mutants - score.killed, f"{score.named} of {score.rejected}"
    numbers = (score.mutants, score.killed, survived, score.crashed, share, score.false, round(score.seconds))
    return [str(number) for number in numbers]


def roughly(seconds: float) -> float:
    """To the next power of two: enough to start the longest first, and seldom another figure when it is recorded again."""
    return 2.0 ** round(math.log2(max(seconds, 1)))


def told(outcome: Outcome) -> str:
    """What --show says of a mutant that is not as it should be; "" if it is killed, named, and named truly."""
    if not outcome.killed:
        return "SURVIVED"
    if outcome.crashed:
        return f"CRASHED {outcome.crashed}"
    if not all(outcome.explained):
        return f"FALSELY NAMED ({outcome.likely}; input by input: {outcome.explained})"
    return "" if outcome.raised or outcome.likely else "unnamed"


def main(arguments: Sequence[str] | None = None) -> int:
    from tests.checks import REGISTRY

    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--chapter", nargs="*", default=[])
    parser.add_argument("--exercise", nargs="*", default=[])
    parser.add_argument("--show", action="store_true", help="list survivors, crashes and unnamed mutants")
    parser.add_argument("--changed", action="store_true", help="only what has changed since the scores were recorded")
    parser.add_argument("--record", action="store_true", help=f"write the scores to {SCORES.relative_to(ROOT)}")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args(arguments)
    recorded = json.loads(SCORES.read_text(encoding="utf-8")) if SCORES.exists() else {}
    names = [
        name
        for name, exercise in REGISTRY.items()
        if (not given.chapter or exercise.chapter in given.chapter)
        and (not given.exercise or name in given.exercise)
        and not (given.changed and recorded.get(name, {}).get("fingerprint") == fingerprint(name))
    ]
    jobs = collect(names)
    outcomes = outcomes_of(jobs, given.workers, {name: score["seconds"] for name, score in recorded.items()})
    found = scores(jobs, outcomes)
    if given.show:
        for (_, exercise, name, _), outcome in zip(jobs, outcomes, strict=True):
            if kind := told(outcome):
                print(f"{kind:9} {exercise}  {name}")
    show(found)
    if given.record:
        recorded |= {name: asdict(replace(score, seconds=roughly(score.seconds))) for name, score in found.items()}
        kept = {name: recorded[name] for name in REGISTRY if name in recorded}
        SCORES.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0 if all(score.perfect for score in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
