"""Running mutants under their checks, each in a fork of its own, and whether the mistake that is named explains them."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

SECONDS = 30  # a mutant that runs for longer than this is killed: a loop without an end
CHUNK = (
    24  # mutants of an exercise that takes a large share of the whole, which one process runs before it asks for more
)
Job = tuple[str, str, str, str]  # chapter, exercise, name of the mutant, its source


@dataclass
class Outcome:
    """What a check said of a mutant."""

    mutant: str
    killed: bool
    crashed: str = ""
    raised: bool = False
    likely: str = ""
    explained: tuple[
        bool, ...
    ] = ()  # for every input of the check: whether the mistake that is named gives this result
    seconds: float = 0.0


def _run(job: Job) -> Outcome:
    """One mutant under its check. In a process of its own, that a mutant may spoil as it likes."""
    chapter, exercise, name, source = job
    from tests.checks import REGISTRY, CheckFailed
    from tests.solutions import solution_functions

    started, space = time.perf_counter(), dict(solution_functions(chapter)[exercise].__globals__)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    outcome = Outcome(name, killed=False)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (the process ends here)
    try:
        exec(compile(source, "mutant", "exec"), space)
        REGISTRY[exercise].check(space[exercise])
    except CheckFailed as error:
        raised = "your function raised" in error.compared
        outcome = Outcome(name, True, repr(error.crashed) if error.crashed else "", raised, error.likely)
        outcome.explained = _explained(REGISTRY[exercise].check, space[exercise], error.likely)
    except TimeoutError:
        outcome = Outcome(name, True, raised=True)
    except BaseException as error:  # a check that ends in anything but CheckFailed has crashed
        outcome = Outcome(name, True, repr(error))
    finally:
        signal.alarm(0)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    outcome.seconds = time.perf_counter() - started
    return outcome


def _explained(check: Callable, mutant: Callable, likely: str) -> tuple[bool, ...]:
    """() where what is named is no mistake that the check computes: a sign, an axis, something that was changed."""
    from tests.checks import CheckFailed
    from tests.checks.comparing import followed

    with followed(likely) as found, contextlib.suppress(CheckFailed):
        check(mutant)
    return tuple(found[found.index(True) :]) if found else ()


def _too_long(*_) -> None:
    raise TimeoutError


@functools.cache
def _warm(chapter: str, exercise: str) -> None:
    """Let the check pass once and compute every mistake that it could name: forks inherit what it keeps."""
    from tests.checks import REGISTRY
    from tests.checks.comparing import all_mistakes
    from tests.solutions import solution_functions

    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (also for the solutions' progress bars)
    with nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), all_mistakes():
        REGISTRY[exercise].check(solution_functions(chapter)[exercise])
    gc.collect()
    gc.freeze()  # what is there now is there to stay: no fork searches it for garbage, which would copy all of its pages


def in_forks(jobs: list[Job]) -> list[Outcome]:
    """Each job in a fork of this process, one after the other: models are loaded and references are computed once, and no
    mutant sees another's work."""
    outcomes = []
    for job in jobs:
        _warm(*job[:2])
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
    """What every process needs, before it is forked: the checks, the solutions and both models."""
    torch.set_num_threads(1)
    from tests.checks import REGISTRY
    from tests.checks.core import both_models
    from tests.solutions import solution_functions

    list(both_models())
    for exercise in REGISTRY.values():
        solution_functions(exercise.chapter)


def chunks_of(jobs: Sequence[Job], workers: int, seconds: Mapping[str, float]) -> list[list[Job]]:
    """The jobs in pieces of one exercise each, the longest first, so that all processes are busy until the end.

    Whoever runs an exercise warms its check up, so it is one piece, unless it is a large share of the whole.
    seconds: what an exercise took when it was recorded, by name; one that is not there is judged by its mutants.
    """
    by_exercise = [list(of_one) for _, of_one in itertools.groupby(jobs, key=lambda job: job[1])]
    costs = [seconds.get(of_one[0][1]) or len(of_one) / 4 for of_one in by_exercise]
    pieces = []
    for cost, of_one in zip(costs, by_exercise, strict=True):
        size = CHUNK if cost > sum(costs) / (4 * workers) else len(of_one)
        parts = [of_one[i : i + size] for i in range(0, len(of_one), size)]
        pieces += [(cost * len(part) / len(of_one), part) for part in parts]
    return [part for _, part in sorted(pieces, key=lambda piece: -piece[0])]


def outcomes_of(jobs: list[Job], workers: int, seconds: Mapping[str, float]) -> list[Outcome]:
    """The outcome of each job, in their order. The processes are forks of this one: nothing is imported twice."""
    if not jobs:
        return []
    _prepare()
    gc.freeze()
    chunks = chunks_of(jobs, workers, seconds)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        found = list(tqdm(pool.map(in_forks, chunks), total=len(chunks), desc="mutants"))
    by_job = {
        job[1:3]: outcome
        for chunk, outcomes in zip(chunks, found, strict=True)
        for job, outcome in zip(chunk, outcomes, strict=True)
    }
    return [by_job[job[1:3]] for job in jobs]
