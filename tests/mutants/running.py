"""Running mutants under their checks, each in a fork of its own, and whether the mistake that is named explains them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

SECONDS = 30  # a mutant that runs for longer than this is killed: a loop without an end
CHUNK = 24  # mutants that one process runs before it asks for more
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
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (the process ends here)
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
        sys.stdout = sys.__stdout__
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

    with all_mistakes(), open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        REGISTRY[exercise].check(solution_functions(chapter)[exercise])


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
    torch.set_num_threads(1)
    from tests.checks import REGISTRY
    from tests.checks.core import both_models
    from tests.solutions import solution_functions

    list(both_models())
    for exercise in REGISTRY.values():
        solution_functions(exercise.chapter)


def outcomes_of(jobs: list[Job], workers: int) -> list[Outcome]:
    """In chunks of one exercise each, so that all processes are busy until the end."""
    if not jobs:
        return []
    by_exercise = [list(of_one) for _, of_one in itertools.groupby(jobs, key=lambda job: job[1])]
    chunks = [of_one[i : i + CHUNK] for of_one in by_exercise for i in range(0, len(of_one), CHUNK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare) as pool:
        return [
            outcome
            for chunk in tqdm(pool.map(in_forks, chunks), total=len(chunks), desc="mutants")
            for outcome in chunk
        ]
