"""Mutation testing of the checks: every solution is changed in one place at a time, and every check must notice.

    python -m tests.mutants                       all exercises: a table of killed, survived, crashed, named
    python -m tests.mutants --chapter 03          one chapter (also --exercise ioi_metric)
    python -m tests.mutants --show                list survivors, crashes and unnamed mutants
    python -m tests.mutants --changed             only exercises whose solution or check has changed since it was recorded
    python -m tests.mutants --record              write the scores to tests/mutation_scores.json

A mutant changes an operator, a constant, an index, an axis, a reduction, an argument, a condition or a dtype, or drops a
clone or a statement. Each runs in a process of its own. It is killed if the check raises `CheckFailed`; it crashes the
check if the check itself cannot cope; it is named if it was rejected without an exception and told a likely mistake. A
mutant that computes the same is equivalent: tests/equivalent_mutants.toml lists those, each with its reason.

Exit status: 0 if no mutant survives and none crashes a check, else 1.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.toml"
SCORES = ROOT / "tests" / "mutation_scores.json"
SECONDS = 30  # a mutant that runs for longer than this is killed: a loop without an end
SHARED = ("core.py", "calling.py", "comparing.py", "sets.py")

# --- the mutants of a function --------------------------------------------------------------------------------------

BINARY = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Div, ast.Mult],
    ast.Mod: [ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.MatMult: [],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
}
COMPARED = {
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.GtE],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
}
CALLS = {  # a method or function, and what a learner may confuse it with; "" leaves the call out
    "mean": ["sum"],
    "sum": ["mean"],
    "max": ["min"],
    "min": ["max"],
    "argmax": ["argmin"],
    "argmin": ["argmax"],
    "any": ["all"],
    "all": ["any"],
    "abs": [""],
    "clone": [""],
    "flip": [""],
    "unsqueeze": [""],
    "long": ["float"],
    "float": ["half"],
    "double": ["half"],
    "cumsum": ["cumprod"],
    "softmax": ["log_softmax", ""],
    "log_softmax": ["softmax", ""],
    "sorted": ["list", "reversed"],
    "argsort": [""],
    "repeat_interleave": ["repeat"],
    "unbind": [],
    "zeros": ["ones"],
    "zeros_like": ["ones_like"],
    "ones_like": ["zeros_like"],
    "fold": [""],
    "set": ["list"],
    "tril": ["triu"],
    "norm": ["sum"],
    "diagonal": [],
    "median": ["mean"],
}
NAMES = {
    "z": "q", "q": "k", "k": "q", "v": "k", "pattern": "attn_scores", "resid_pre": "resid_post", "resid_post": "resid_pre",
    "attn_out": "mlp_out", "mlp_out": "attn_out", "resid_mid": "resid_pre", "embed": "pos_embed",
}  # fmt: skip
WITHOUT_EFFECT = ("strict", "device")  # on inputs that fit, on one processor


@dataclass(frozen=True)
class Mutant:
    """One change: where it is in the function, what it says, and the function's source with it."""

    exercise: str
    name: str
    source: str = field(repr=False)


def mutants_of(function: ast.FunctionDef, first: int, last: int) -> Iterator[tuple[str, str]]:
    """(name, source) of every mutant whose change lies on the lines from `first` to `last`."""
    plain, seen = ast.unparse(function), set()
    count = sum(1 for _ in ast.walk(function))
    spared = {i for i, node in enumerate(ast.walk(function)) if node in _without_effect(function)}
    for index in range(count):
        for variant in range(12 if index not in spared else 0):
            tree = copy.deepcopy(function)
            node = list(ast.walk(tree))[index]
            if not first <= getattr(node, "lineno", 0) <= last:
                break
            before = ast.unparse(node)
            after = _change(tree, node, variant)
            if after is None:
                break
            source = ast.unparse(ast.fix_missing_locations(tree))
            if source not in (plain, *seen) and _compiles(source):
                seen.add(source)
                line = node.lineno - function.lineno
                yield f"{line}: {_short(before)} → {_short(after)}", source


def _without_effect(function: ast.FunctionDef) -> list[ast.AST]:
    """Everything inside annotations, and inside the values of keywords that change nothing on inputs that fit."""
    nodes = list(ast.walk(function))
    spared = [node for node in nodes if isinstance(node, ast.keyword) and node.arg in WITHOUT_EFFECT]
    spared += [node.annotation for node in nodes if isinstance(node, ast.arg) and node.annotation]
    spared += [node.returns for node in nodes if isinstance(node, ast.FunctionDef) and node.returns]
    return [inner for node in spared for inner in ast.walk(node)]


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _short(text: str) -> str:
    return " ".join(text.split())[:90]


def _change(tree: ast.AST, node: ast.AST, variant: int) -> str | None:
    """Make the variant-th change of a node in its tree; what stands there now, or None if there is no such change."""
    changes = list(_changes(node))
    if variant >= len(changes):
        return None
    new = changes[variant]
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is node:
                setattr(parent, name, new)
            elif isinstance(value, list) and any(item is node for item in value):
                setattr(parent, name, [new if item is node else item for item in value])
    return "" if isinstance(new, ast.Pass) else ast.unparse(new)


def _with(node: ast.AST, **values) -> ast.AST:
    new = copy.copy(node)
    for name, value in values.items():
        setattr(new, name, value)
    return new


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be replaced by."""
    if isinstance(node, ast.BinOp):
        yield from (_with(node, op=op()) for op in BINARY.get(type(node.op), []))
        yield from (node.left, node.right)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield from (_with(node, ops=[op()]) for op in COMPARED[type(node.ops[0])])
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        yield from node.values
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.operand, ast.Constant) and isinstance(node.op, ast.USub):
            yield from (ast.Constant(0), ast.Constant(node.operand.value))
        else:
            yield node.operand
    elif isinstance(node, ast.Constant):
        yield from map(ast.Constant, _other_constants(node.value))
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)
    elif isinstance(node, ast.Subscript):
        yield from _other_subscripts(node)
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
        for i, loop in enumerate(node.generators):
            if loop.ifs:
                loops = list(node.generators)
                loops[i] = _with(loop, ifs=[])
                yield _with(node, generators=loops)
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.ctx, ast.Load):
        yield _with(node, elts=node.elts[::-1])
    elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr)):
        yield ast.Pass()
        if isinstance(node, ast.AugAssign):
            yield ast.Assign([node.target], node.value, lineno=node.lineno)
    elif isinstance(node, ast.If):
        yield from (_with(node, test=ast.Constant(value)) for value in (True, False))
    elif isinstance(node, ast.Raise):
        yield ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None:
        yield _with(node, value=ast.Constant(None))
        yield _with(node, value=_method(node.value, "half"))
        yield _with(node, value=_method(node.value, "int"))


def _method(value: ast.expr, name: str) -> ast.expr:
    return ast.Call(ast.Attribute(value, name, ast.Load()), [], [])


def _other_constants(value: object) -> list:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value * 2, 0.0 if value else 1.0]
    if isinstance(value, str) and value in NAMES:
        return [NAMES[value]]
    return []


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    attribute = isinstance(node.func, ast.Attribute)
    name = node.func.attr if attribute else getattr(node.func, "id", "")
    for other in CALLS.get(name, []):
        if other:
            yield _with(node, func=_with(node.func, attr=other) if attribute else ast.Name(other, ast.Load()))
        elif attribute and not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("torch", "F", "np")):
            yield node.func.value
        elif node.args:
            yield node.args[0]
    for i, keyword in enumerate(node.keywords):
        if keyword.arg not in WITHOUT_EFFECT:
            yield _with(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])
    if len(node.args) > 1:
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    if node.args and attribute and name in ("mean", "sum", "any", "all", "argmax", "max", "min"):
        yield _with(node, args=node.args[1:])
    if name == "range" and len(node.args) == 1:
        yield _with(node, args=[ast.Constant(1), node.args[0]])
        yield _with(node, args=[ast.BinOp(node.args[0], ast.Sub(), ast.Constant(1))])


def _other_subscripts(node: ast.Subscript) -> Iterator[ast.AST]:
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]

    def rebuilt(new: Sequence[ast.expr]) -> ast.AST:
        return _with(node, slice=ast.Tuple(list(new), ast.Load()) if len(new) > 1 else new[0])

    for i, part in enumerate(parts):
        if isinstance(part, ast.Slice) and (part.lower or part.upper or part.step):
            yield rebuilt([*parts[:i], ast.Slice(), *parts[i + 1 :]])
    for i in range(len(parts) - 1):
        yield rebuilt([*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]])
    if isinstance(node.ctx, ast.Store):
        yield rebuilt([*parts[:-1], ast.Slice()])


# --- running them ---------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a check said of a mutant."""

    mutant: str
    killed: bool
    crashed: str = ""
    raised: bool = False
    likely: str = ""
    seconds: float = 0.0


def _run(job: tuple[str, str, str, str]) -> Outcome:
    """One mutant under its check. In a process of its own, that a mutant may spoil as it likes."""
    chapter, exercise, name, source = job
    from tests.checks import REGISTRY, CheckFailed
    from tests.solutions import solution_functions

    started, space = time.perf_counter(), dict(solution_functions(chapter)[exercise].__globals__)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    outcome = Outcome(name, killed=False)
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (the process ends here)
    try:
        exec(compile(source, "mutant", "exec"), space)
        REGISTRY[exercise].check(space[exercise])
    except CheckFailed as error:
        raised = "your function raised" in error.compared
        outcome = Outcome(name, True, repr(error.crashed) if error.crashed else "", raised, error.likely)
    except TimeoutError:
        outcome = Outcome(name, True, raised=True)
    except BaseException as error:  # a check that ends in anything but CheckFailed has crashed
        outcome = Outcome(name, True, repr(error))
    finally:
        signal.alarm(0)
        sys.stdout = sys.__stdout__
    outcome.seconds = time.perf_counter() - started
    return outcome


def _too_long(*_) -> None:
    raise TimeoutError


def _forked(jobs: list[tuple[str, str, str, str]]) -> list[Outcome]:
    """Each job in a fork of this process, one after the other: models are loaded once, and no mutant sees another's work."""
    outcomes = []
    for job in jobs:
        receive, send = multiprocessing.Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                send.send(_run(job))
                code = 0
            finally:
                os._exit(code)
        send.close()
        try:
            outcomes.append(receive.recv() if receive.poll(2 * SECONDS) else Outcome(job[2], True, raised=True))
        except EOFError:
            outcomes.append(Outcome(job[2], True, crashed="the process ended"))
        if receive.poll(0) is False:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        receive.close()
    return outcomes


def _prepare() -> None:
    torch.set_num_threads(1)
    from tests.checks import REGISTRY
    from tests.checks.core import both_models
    from tests.solutions import solution_functions

    list(both_models())
    for exercise in REGISTRY.values():
        solution_functions(exercise.chapter)


def collect(exercises: Sequence[str]) -> list[tuple[str, str, str, str]]:
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
    """Of the solution, its chapter's check module and what all checks share: a score holds as long as it stays."""
    from tests.checks import REGISTRY

    chapter = REGISTRY[name].chapter
    (path,) = (ROOT / "solutions").glob(f"{chapter}_*.py")
    function, _, _ = solution_region(chapter, name)
    solution = "\n".join(path.read_text(encoding="utf-8").splitlines()[function.lineno - 1 : function.end_lineno])
    (check,) = (ROOT / "tests" / "checks").glob(f"ch{chapter}_*.py")
    parts = [
        solution,
        *(path.read_text(encoding="utf-8") for path in [check, *map(check.with_name, SHARED)]),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass
class Score:
    """What became of an exercise's mutants. named: of those that were rejected without an exception."""

    fingerprint: str
    mutants: int = 0
    killed: int = 0
    crashed: int = 0
    rejected: int = 0
    named: int = 0

    @property
    def perfect(self) -> bool:
        return self.mutants == self.killed and not self.crashed


def scores(jobs: Sequence[tuple], outcomes: Sequence[Outcome]) -> dict[str, Score]:
    found: dict[str, Score] = {}
    for (_, exercise, _, _), outcome in zip(jobs, outcomes, strict=True):
        score = found.setdefault(exercise, Score(fingerprint(exercise)))
        score.mutants += 1
        score.killed += outcome.killed
        score.crashed += bool(outcome.crashed)
        score.rejected += outcome.killed and not outcome.raised
        score.named += outcome.killed and not outcome.raised and bool(outcome.likely)
    return found


def show(found: dict[str, Score]) -> None:
    from tests.checks import REGISTRY

    table = Table("chapter", "exercise", "mutants", "killed", "survived", "crashed", "named", title="mutants")
    total = Score("")
    for name, score in found.items():
        for part in ("mutants", "killed", "crashed", "rejected", "named"):
            setattr(total, part, getattr(total, part) + getattr(score, part))
        table.add_row(REGISTRY[name].chapter, name, *_cells(score))
    table.add_row("", "all", *_cells(total))
    Console(width=110).print(table)


def _cells(score: Score) -> list[str]:
    share = f"{score.named} of {score.rejected}"
    return [str(score.mutants), str(score.killed), str(score.mutants - score.killed), str(score.crashed), share]


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
    outcomes = _all_outcomes(jobs, given.workers)
    found = scores(jobs, outcomes)
    if given.show:
        for (_, exercise, name, _), outcome in zip(jobs, outcomes, strict=True):
            if not outcome.killed or outcome.crashed or not (outcome.raised or outcome.likely):
                kind = (
                    "SURVIVED" if not outcome.killed else f"CRASHED {outcome.crashed}" if outcome.crashed else "unnamed"
                )
                print(f"{kind:9} {exercise}  {name}")
    show(found)
    if given.record:
        recorded |= {name: asdict(score) for name, score in found.items()}
        kept = {name: recorded[name] for name in REGISTRY if name in recorded}
        SCORES.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0 if all(score.perfect for score in found.values()) else 1


def _all_outcomes(jobs: list[tuple], workers: int) -> list[Outcome]:
    """In chunks, so that two processes are busy until the end."""
    if not jobs:
        return []
    chunks = [jobs[i : i + 12] for i in range(0, len(jobs), 12)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare) as pool:
        return [
            outcome for chunk in tqdm(pool.map(_forked, chunks), total=len(chunks), desc="mutants") for outcome in chunk
        ]


if __name__ == "__main__":
    sys.exit(main())
