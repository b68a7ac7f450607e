"""Scoring models on Dask workers: each idle worker gets the next model, and a worker that dies loses only its own."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from dask.distributed import Client, KilledWorker, LocalCluster

from utils.atlas.lookup import AtlasError

Result = tuple[str, pd.DataFrame | None, str]
POLL_S = 0.2
CONNECT_S = 10.0
SAY_AFTER_S = 2.0
DIED = "its worker died while it was scored (killed, or out of memory); run again to retry"


@dataclass(frozen=True)
class Hands:
    """Who does the work. workers: processes on this machine; 0 means in this process. scheduler: the address of a Dask
    scheduler to use instead. attempts: how often a model is tried whose worker dies. wait_s: how long to wait while there is
    no worker."""

    workers: int = 2
    scheduler: str | None = None
    attempts: int = 2
    wait_s: float = 50.0


HANDS = Hands()


@dataclass
class Waiting:
    """How long a scheduler has been without a worker, and whether that has been said."""

    address: str
    wait_s: float
    since: float | None = None
    said: bool = False
    had_workers: bool = False

    def too_long(self, alive: bool) -> bool:
        """To be asked at every turn: whether the last worker has been gone for `wait_s` seconds."""
        if alive:
            self.had_workers, self.since, self.said = True, None, False
            return False
        self.since = time.monotonic() if self.since is None else self.since
        waited = time.monotonic() - self.since
        if waited >= SAY_AFTER_S and not self.said:
            gone = "all workers are gone; " if self.had_workers else ""
            print(f"{gone}waiting for a worker at {self.address} (for {self.wait_s:g} s)", flush=True)
            self.said = True
        return waited >= self.wait_s


def in_parallel(models: Sequence[str], score: Callable[[str], pd.DataFrame], hands: Hands) -> Iterator[Result]:
    """(name, table, "") or (name, None, reason) of every model, as they finish. Raises AtlasError if the scheduler does not
    answer, or if no worker comes within `hands.wait_s` seconds."""
    own = {"threads_per_worker": 1, "processes": True, "dashboard_address": None, "silence_logs": logging.CRITICAL}
    with contextlib.ExitStack() as stack:
        scheduler = hands.scheduler
        if scheduler is None:
            cluster = stack.enter_context(LocalCluster(n_workers=min(hands.workers, len(models)), **own))
            scheduler = cluster.scheduler_address
        client = stack.enter_context(_connect(scheduler))
        yield from _as_they_finish(client, models, score, hands.attempts, Waiting(scheduler, hands.wait_s))


def _connect(scheduler: str) -> Client:
    try:
        return Client(scheduler, set_as_default=False, timeout=CONNECT_S)
    except (OSError, ValueError, AssertionError) as error:  # AssertionError: http:// and the like
        silent = f"no answer within {CONNECT_S} s" if isinstance(error, TimeoutError) else "it speaks another language"
        reason = str(error) or silent
    # The client that did not connect closes itself when it is collected. Collect it now: if that happened while another
    # client starts, the two would wait for each other for ever.
    gc.collect()
    raise AtlasError(
        f"no Dask scheduler answers at {scheduler!r} ({reason}); start one with `dask scheduler`, and give the address that "
        "it prints (tcp://HOST:8786)"
    )


def _as_they_finish(
    client: Client, models: Sequence[str], score: Callable, attempts: int, watch: Waiting
) -> Iterator[Result]:
    """Hand a model to each idle worker, and again when one is done. Nothing waits behind a model that runs, so a worker that
    dies takes down its own model only; that model goes to another worker until it has been tried `attempts` times."""
    waiting, tries, running = deque(models), Counter(), {}
    while waiting or running:
        alive = _alive(client)
        for future, (name, worker) in list(running.items()):
            if not future.done() and worker in alive:
                continue
            del running[future]
            result = _result(future, name)
            if result is not None:
                yield result
            elif tries[name] < attempts:
                waiting.append(name)
            else:
                yield name, None, DIED
            if client.status != "closed":
                future.cancel()
        if waiting and (watch.too_long(bool(alive)) or client.status == "closed"):
            yield from _give_up(client, waiting, watch)
            return
        for worker in set(alive) - {worker for _, worker in running.values()}:
            if waiting:
                name = waiting.popleft()
                tries[name] += 1
                running[client.submit(score, name, workers=[worker], pure=False)] = name, worker
        time.sleep(POLL_S)


def _alive(client: Client) -> dict[str, int]:
    """The scheduler's workers; none while the connection to it is lost."""
    if client.status == "closed":
        return {}
    try:
        return client.nthreads()
    except OSError:
        return {}


def _result(future: object, name: str) -> Result | None:
    """What became of a model, or None if it was lost with its worker or with the scheduler."""
    if not future.done() or future.cancelled():
        return None
    error = future.exception()
    if isinstance(error, KilledWorker):
        return None
    return (name, future.result(), "") if error is None else (name, None, f"{type(error).__name__}: {error}")


def _give_up(client: Client, waiting: Sequence[str], watch: Waiting) -> Iterator[Result]:
    if client.status == "closed":
        reason = f"the scheduler at {watch.address} no longer answers"
    elif watch.had_workers:
        reason = f"no worker was left at {watch.address}, and none came within {watch.wait_s:g} s"
    else:
        raise AtlasError(
            f"no worker came to the scheduler at {watch.address} within {watch.wait_s:g} s; start one with "
            f"`dask worker {watch.address}`, or wait longer (--wait 600, wait_s=600)"
        )
    for name in waiting:
        yield name, None, f"{reason}; run again to retry"
