"""The head atlas on workers: two give what one process gives, and one that is killed loses only its own model."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from dask.distributed import Client, LocalCluster

from tests.atlas.cases import QUICK
from utils import atlas
from utils.atlas import workers as atlas_workers


@pytest.fixture
def address(workers_by_fork):
    """A scheduler that runs already, with two worker processes."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster.scheduler_address


def test_two_workers_give_what_one_process_gives(folders, tmp_path):
    models = folders[:3]
    assert atlas.make_atlas(models, tmp_path / "one", QUICK, workers=0).done == models
    report = atlas.make_atlas(models, tmp_path / "two", QUICK, workers=2)
    assert sorted(report.done) == sorted(models) and not report.failed
    one, two = (atlas.read_atlas(tmp_path / name) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert len(one) == 6 * 3 * (3 * 4)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "two" / "atlas.parquet"), two, check_exact=True)
    from_csv = pd.read_csv(tmp_path / "two" / "atlas.csv")
    pd.testing.assert_frame_equal(from_csv, two, check_exact=False, check_dtype=False)


def score_but_hang_once(name: str, settings: atlas.Settings, doomed: tuple[str, ...], signals: str):
    """Score, but on the first try of a doomed model say which process this is, and wait there to be killed."""
    said = Path(signals) / str(doomed.index(name)) if name in doomed else None
    if said is not None and not said.exists():
        said.with_suffix(".new").write_text(str(os.getpid()))
        said.with_suffix(".new").rename(said)
        time.sleep(600)
    return atlas.score_model(name, settings)


def kill_when_running(doomed, signals: Path, killed: list[int]) -> threading.Thread:
    """A thread that waits until all doomed models are being scored, and kills their workers, hard."""

    def wait_and_kill() -> None:
        files = [signals / str(i) for i in range(len(doomed))]
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not all(file.exists() for file in files):
            time.sleep(0.05)
        for file in files:
            os.kill(int(file.read_text()), signal.SIGKILL)
            killed.append(int(file.read_text()))

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


def test_killed_workers_lose_only_their_models_and_a_second_run_resumes(folders, alone, address, tmp_path):
    doomed, killed, folder = tuple(folders[:2]), [], tmp_path / "atlas"
    thread = kill_when_running(doomed, tmp_path, killed)
    score = partial(score_but_hang_once, doomed=doomed, signals=str(tmp_path))
    report = atlas.make_atlas(folders, folder, QUICK, scheduler=address, attempts=1, score=score)
    thread.join(5)
    assert len(set(killed)) == 2 and os.getpid() not in killed
    assert set(report.failed) == set(doomed) and sorted(report.done) == sorted(folders[2:])
    assert all("worker died" in reason for reason in report.failed.values())
    assert set(atlas.read_atlas(folder)["model"]) == set(folders[2:])

    kept = {name: atlas.file_of(folder, name, QUICK).stat().st_mtime_ns for name in folders[2:]}
    again = atlas.make_atlas(folders, folder, QUICK, workers=0)
    assert again.done == list(doomed) and again.skipped == folders[2:] and not again.failed
    assert kept == {name: atlas.file_of(folder, name, QUICK).stat().st_mtime_ns for name in folders[2:]}
    pd.testing.assert_frame_equal(atlas.read_atlas(folder), alone, check_exact=True)


def test_a_model_whose_worker_is_killed_is_tried_on_another(folders, alone, address, tmp_path):
    killed = []
    thread = kill_when_running(folders[1:2], tmp_path, killed)
    score = partial(score_but_hang_once, doomed=(folders[1],), signals=str(tmp_path))
    report = atlas.make_atlas(folders, tmp_path / "atlas", QUICK, scheduler=address, attempts=2, score=score)
    thread.join(5)
    assert len(killed) == 1 and not report.failed and sorted(report.done) == sorted(folders)
    pd.testing.assert_frame_equal(atlas.read_atlas(tmp_path / "atlas"), alone, check_exact=True)


def started(module, *options):
    """A part of a Dask cluster as a process of its own, which the test can kill."""
    command = [sys.executable, "-m", f"distributed.cli.{module}", *options, "--no-dashboard"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def hanging(signal_file: Path):
    """A scorer that says that it runs, and hangs. It is defined in here, so that it travels to workers by value."""

    def score(name, settings, file=str(signal_file)):
        open(file, "w").close()
        time.sleep(600)

    return score


def kill_when(file: Path, *processes: subprocess.Popen) -> threading.Thread:
    def wait_and_kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not file.exists():
            time.sleep(0.05)
        for process in processes:
            process.kill()

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def no_workers():
    """The address of a scheduler that has no workers yet."""
    options = {"protocol": "tcp", "dashboard_address": ":0"}
    with LocalCluster(n_workers=0, processes=False, **options) as cluster:
        yield cluster.scheduler_address


def test_a_scheduler_without_workers_is_waited_for_and_given_up(no_workers, tmp_path, capsys):
    began = time.monotonic()
    with pytest.raises(atlas.AtlasError, match=f"no worker came to the scheduler at {no_workers} within 3 s.*--wait"):
        atlas.make_atlas(["a", "b"], tmp_path, scheduler=no_workers, wait_s=3)
    assert time.monotonic() - began < 20
    assert capsys.readouterr().out.count(f"waiting for a worker at {no_workers} (for 3 s)") == 1


def test_a_worker_that_comes_late_is_used(no_workers, alone, folders, tmp_path, capsys):
    processes = []
    late = threading.Timer(3, lambda: processes.append(started("dask_worker", no_workers, "--nthreads", "1")))
    late.start()
    try:
        report = atlas.make_atlas(folders[:1], tmp_path, QUICK, scheduler=no_workers, wait_s=120)
    finally:
        late.join()
        processes[0].terminate()
    assert report.done == folders[:1] and "waiting for a worker" in capsys.readouterr().out


def test_all_workers_vanish_and_their_models_are_reported(no_workers, tmp_path, capsys):
    worker = started("dask_worker", no_workers, "--nthreads", "1", "--no-nanny")
    with Client(no_workers, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    thread = kill_when(tmp_path / "runs", worker)
    report = atlas.make_atlas(["a", "b"], tmp_path, scheduler=no_workers, wait_s=4, score=hanging(tmp_path / "runs"))
    thread.join(5)
    assert set(report.failed) == {"a", "b"} and not report.done
    assert all(f"no worker was left at {no_workers}" in reason for reason in report.failed.values())
    assert "all workers are gone; waiting for a worker" in capsys.readouterr().out


def test_a_scheduler_that_dies_midway(tmp_path, monkeypatch, free_port):
    monkeypatch.setattr(atlas_workers, "CONNECT_S", 10)  # a scheduler whose port is open may take a while to answer
    where = f"tcp://127.0.0.1:{free_port}"
    scheduler = started("dask_scheduler", "--host", "127.0.0.1", "--port", str(free_port))
    worker = started("dask_worker", where, "--nthreads", "1", "--no-nanny")
    thread = kill_when(tmp_path / "runs", scheduler, worker)
    deadline = time.monotonic() + 60
    while not answers(free_port) and time.monotonic() < deadline:
        time.sleep(0.1)
    report = atlas.make_atlas(["a", "b"], tmp_path, scheduler=where, wait_s=60, score=hanging(tmp_path / "runs"))
    thread.join(5)
    assert set(report.failed) == {"a", "b"}
    assert all(f"the scheduler at {where} no longer answers" in reason for reason in report.failed.values())


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_scheduler_that_does_not_answer(tmp_path, monkeypatch, free_port):
    monkeypatch.setattr(atlas_workers, "CONNECT_S", 1)
    for wrong in (f"tcp://127.0.0.1:{free_port}", f"127.0.0.1:{free_port}", "nonsense", "abc://x:1"):
        with pytest.raises(atlas.AtlasError, match=f"no Dask scheduler answers at '{wrong}'"):
            atlas.make_atlas(["a"], tmp_path, scheduler=wrong)
