"""The head atlas: two workers give what one process gives, and a worker that is killed loses only its own model."""

import functools
import io
import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from dask.distributed import Client, LocalCluster
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from utils import atlas, heads, plots, widgets
from utils.atlas import workers as atlas_workers
from utils.models import DEFAULT_EMBEDDED
from utils.tiny_models import save_tiny_model, tiny_model

QUICK = atlas.Settings(seq_len=20, batch=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Four tiny models as folders, the first two of other families than the last two seeds."""
    root = tmp_path_factory.mktemp("models")
    made = [("gpt2", 0), ("llama", 0), ("gpt2", 1), ("llama", 1)]
    return [str(save_tiny_model(root / f"{family}-{seed}", family, seed=seed)) for family, seed in made]


@pytest.fixture(scope="module")
def alone(folders, once, tmp_path_factory):
    """The atlas of the four, made in this process."""
    folder = tmp_path_factory.mktemp("alone")
    report = atlas.make_atlas(folders, folder, QUICK, workers=0, score=once)
    assert report.done == folders and not report.failed
    return atlas.read_atlas(folder)


@pytest.fixture(scope="module")
def once():
    """Scores every model once, for tests of what becomes of the scores in files."""
    return functools.cache(atlas.score_model)


@pytest.fixture
def address(workers_by_fork):
    """A scheduler that runs already, with two worker processes."""
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
    ) as cluster:
        yield cluster.scheduler_address


# --- scores ---------------------------------------------------------------------------------------------------------


def test_table_is_tidy_and_whole(alone, folders):
    assert list(alone.columns) == ["model", "layer", "head", "score", "value", "seed", "seq_len", "batch", "bos"]
    assert len(alone) == 4 * 3 * 4 * len(atlas.SCORES) and not alone.duplicated(atlas.ORDER).any()
    assert set(alone["model"]) == set(folders) and alone["bos"].all()
    assert set(alone["seed"]) == {0} and set(alone["seq_len"]) == {20} and set(alone["batch"]) == {2}
    limits = alone.groupby("score")["value"].agg(["min", "max"])
    assert (limits["max"] <= 1).all() and (limits["min"] >= [-1 if s == "copying" else 0 for s in limits.index]).all()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_scores_by_their_definitions(family):
    model, n = tiny_model(family), QUICK.seq_len
    table = atlas.head_table(model, QUICK)
    bos = model.tokenizer.bos_token_id
    tokens = heads.repeated_tokens(n, 2, 0, bos, model.cfg.d_vocab)
    _, cache = model.run_with_cache(tokens)
    pattern = torch.stack([cache["pattern", layer] for layer in range(3)])  # layer batch head query key
    want = {
        "previous_token": torch.stack([pattern[..., q, q - 1] for q in range(2, 2 * n + 1)]).mean((0, 2)),
        "duplicate_token": torch.stack([pattern[..., q, q - n] for q in range(n + 1, 2 * n + 1)]).mean((0, 2)),
        "induction": torch.stack([pattern[..., q, q - n + 1] for q in range(n, 2 * n + 1)]).mean((0, 2)),
        "first_token": pattern[..., 1:, 0].mean((1, 3)),
        "entropy": torch.stack(
            [
                torch.distributions.Categorical(pattern[..., q, : q + 1]).entropy() / np.log(q + 1)
                for q in range(1, 2 * n + 1)
            ]
        ).mean((0, 2)),
    }
    for score, expected in want.items():
        assert np.allclose(atlas.grids(table, score)[model.cfg.model_name], expected, atol=1e-5), score


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_copying_score_by_its_definition(family):
    model, ids = tiny_model(family), torch.arange(100, 112)
    got = heads.copying_scores(model, ids, bos=0)
    _, cache = model.run_with_cache(torch.stack([torch.zeros_like(ids), ids], dim=1))
    for layer, head in ((0, 1), (1, 3), (2, 2)):
        value = cache["v", layer][:, 1, head // (4 // cache["v", layer].shape[2])]
        logits = value @ model.W_O[layer, head] @ model.W_U[:, ids]
        wins = [np.mean([bool(logits[j, j] > logits[i, j]) for i in range(12) if i != j]) for j in range(12)]
        assert got[layer, head].item() == pytest.approx(2 * np.mean(wins) - 1, abs=1e-6)


def test_a_head_that_copies_scores_one():
    """Value and output weights that carry the unembedding's own directions: every token writes itself."""
    model = tiny_model("gpt2")
    ids = torch.arange(100, 110)

    def as_written(v, hook):
        v = v.clone()
        through = model.W_O[0, 0] @ model.W_U[:, ids]  # d_head token
        v[:, -1, 0] = torch.linalg.pinv(through)  # token d_head: each row writes one token
        v[:, -1, 1] = -torch.linalg.pinv(model.W_O[0, 1] @ model.W_U[:, ids])
        return v

    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_v", as_written)]):
        scores = heads.copying_scores(model, ids, bos=0)
    assert scores[0, 0] > 0.9 and scores[0, 1] < -0.9


def test_a_sequence_that_does_not_fit_is_refused():
    with pytest.raises(atlas.AtlasError, match="at most 128 tokens and seq_len=64 makes 129"):
        atlas.head_table(tiny_model("gpt2"), atlas.Settings(seq_len=64))


# --- workers --------------------------------------------------------------------------------------------------------


def test_two_workers_give_what_one_process_gives(folders, tmp_path):
    models = [*folders[:2], DEFAULT_EMBEDDED]
    assert atlas.make_atlas(models, tmp_path / "one", QUICK, workers=0).done == models
    report = atlas.make_atlas(models, tmp_path / "two", QUICK, workers=2)
    assert sorted(report.done) == sorted(models) and not report.failed
    one, two = (atlas.read_atlas(tmp_path / name) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert len(one) == 6 * (2 * 3 * 4 + 30 * 9)
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
    report = atlas.make_atlas(["a", "b"], tmp_path, scheduler=no_workers, score=hanging(tmp_path / "runs"), wait_s=4)
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
    report = atlas.make_atlas(["a", "b"], tmp_path, scheduler=where, score=hanging(tmp_path / "runs"), wait_s=60)
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


# --- files and command ------------------------------------------------------------------------------------------------


def test_a_model_that_fails_does_not_stop_the_others(folders, tmp_path):
    report = atlas.make_atlas([str(tmp_path / "nothing"), folders[0]], tmp_path / "atlas", QUICK, workers=0)
    assert report.done == [folders[0]] and "unknown model" in report.failed[str(tmp_path / "nothing")]


def test_a_damaged_file_is_made_again(folders, tmp_path, once):
    atlas.make_atlas(folders[:1], tmp_path, QUICK, workers=0, score=once)
    file = atlas.file_of(tmp_path, folders[0], QUICK)
    file.write_bytes(file.read_bytes()[:100])
    assert atlas.make_atlas(folders[:1], tmp_path, QUICK, workers=0, score=once).done == folders[:1]
    assert len(atlas.read_atlas(tmp_path)) == 72


def with_a_flipped_bit(data):
    """In the last byte of the scores: the file stays parquet, and only a checksum tells."""
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(4)
    assert column.path_in_schema == "value"
    at = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "not parquet": lambda data: b"PAR1 but not really",
    "zeros": lambda data: data[:200] + bytes(len(data) - 200),
    "a flipped bit": with_a_flipped_bit,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_of_another_model_is_named_and_left_out(how, folders, alone, tmp_path, once):
    one, other, third = folders[:3]
    atlas.make_atlas([one, other], tmp_path, QUICK, workers=0, score=once)
    file = atlas.file_of(tmp_path, other, QUICK)
    file.write_bytes(DAMAGE[how](file.read_bytes()))
    with pytest.warns(UserWarning, match=file.name):
        assert set(atlas.read_atlas(tmp_path)["model"]) == {one}
    report = atlas.make_atlas([one, third], tmp_path, QUICK, workers=0, score=once)
    assert (report.done, report.skipped, len(report.damaged)) == ([third], [one], 1) and file.name in str(report)
    assert set(pd.read_parquet(tmp_path / "atlas.parquet")["model"]) == {one, third}
    report = atlas.make_atlas([other], tmp_path, QUICK, workers=0, score=once)
    assert report.done == [other] and not report.damaged
    pd.testing.assert_frame_equal(
        atlas.read_atlas(tmp_path), alone[alone["model"] != folders[3]].reset_index(drop=True)
    )


def test_a_file_with_other_columns_or_another_model_is_not_taken_for_done(folders, tmp_path):
    file = atlas.file_of(tmp_path, folders[0], QUICK)
    file.parent.mkdir(parents=True)
    pd.DataFrame({"a": [1]}).to_parquet(file)
    with pytest.raises(atlas.AtlasError, match=f"(?s)no atlas in.*{file.name}: no column 'model'"):
        atlas.read_atlas(tmp_path)
    assert not atlas.is_done(tmp_path, folders[0], QUICK)
    settings_table(batch=[2]).to_parquet(file)
    assert not atlas.is_done(tmp_path, folders[0], QUICK)


def test_files_of_another_version_are_read_beside_the_others(tmp_path):
    (tmp_path / "models").mkdir()
    for name, made_with in {"a": {"seed": [0]}, "b": {"seed": ["first"]}, "c": {"dtype": ["float32"]}}.items():
        settings_table([name], **made_with).to_parquet(tmp_path / "models" / f"{name}.parquet")
    table = atlas.read_atlas(tmp_path)
    assert table["model"].tolist() == ["a"] * 12 + ["b"] * 12 + ["c"] * 12
    assert len(atlas.by_head(table)) == 6


def test_other_settings_and_look_alike_names_have_other_files(tmp_path):
    names = {atlas.file_of(tmp_path, name, QUICK) for name in ("a/b", "a_b", "a b")}
    assert len(names | {atlas.file_of(tmp_path, "a/b", atlas.Settings(seed=1))}) == 4


def test_command(folders, tmp_path, monkeypatch, capsys):
    options = [folders[0], "--workers", "0", "--folder", str(tmp_path), "--seq-len", "20"]
    monkeypatch.setattr(sys, "argv", ["utils.atlas", *options])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("utils.atlas", run_name="__main__")  # as `python -m` does, with everything imported already
    assert "1 scored, 0 there already, 0 failed" in capsys.readouterr().out
    assert atlas.main(options) == 0
    assert atlas.main(["/no/such/model", "--workers", "0", "--folder", str(tmp_path)]) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"models", "atlas.parquet", "atlas.csv"}


@pytest.mark.parametrize("wrong", [{"models": []}, {"workers": -1}, {"attempts": 0}])
def test_settings_that_cannot_work_are_refused(wrong, tmp_path):
    with pytest.raises(atlas.AtlasError, match="at least one model"):
        atlas.make_atlas(**{"models": ["x"], "folder": tmp_path, **wrong})
    with pytest.raises(atlas.AtlasError, match="no atlas in"):
        atlas.read_atlas(tmp_path)


# --- looking things up --------------------------------------------------------------------------------------------------


def settings_table(models=("m",), **varying):
    """Two heads of each model, scored once for every value of one setting; the value is .1, .2, … by setting."""
    ((name, values),) = varying.items()
    standard = {"seed": 0, "seq_len": 50, "batch": 4, "bos": True}
    return pd.DataFrame(
        [
            {"model": model, "layer": 0, "head": head, "score": score, "value": 0.1 * (1 + i)}
            | standard
            | {name: value}
            for model in models
            for i, value in enumerate(values)
            for head in (0, 1)
            for score in atlas.SCORES
        ]
    )


SETTINGS = {
    "batch": [2, 4],
    "seed": [0, 1, 2],
    "seq_len": [20, 50],
    "bos": [True, False],
    "dtype": ["float32", "bfloat16"],
    "layers": [12, np.nan],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_stay_apart(name):
    values = SETTINGS[name]
    table = settings_table(**{name: values})
    wide = atlas.by_head(table)
    assert list(wide.columns) == ["model", "head", name, *atlas.SCORES] and len(wide) == 2 * len(values)
    assert set(wide["induction"].round(6)) == {round(0.1 * (1 + i), 6) for i in range(len(values))}
    with pytest.raises(
        atlas.AtlasError, match=rf"several settings \({name}: .*choose one: grids\(table, 'induction', {name}="
    ):
        atlas.grids(table, "induction")
    grid = atlas.grids(table, "induction", **{name: values[0]})["m"]
    assert grid.to_numpy().tolist() == [[0.1, 0.1]]
    one = atlas.by_head(table[table[name] == values[0]])
    assert list(one.columns) == ["model", "head", *atlas.SCORES] and len(one) == 2


def test_settings_that_differ_between_models():
    both = pd.concat([settings_table(["a"], batch=[2]), settings_table(["b"], batch=[4])])
    assert atlas.by_head(both)["batch"].tolist() == [2, 2, 4, 4]
    with pytest.raises(atlas.AtlasError, match="batch: 2, 4"):
        atlas.grids(both, "induction")
    assert set(atlas.grids(both, "induction", batch=4)) == {"b"}
    with_and_without = pd.concat([settings_table(["a"], bos=[True]), settings_table(["b"], bos=[False])])
    assert set(atlas.grids(with_and_without, "induction")) == {"a", "b"}, (
        "whether there is a BOS follows from the model"
    )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [({"luck": 1}, "no setting 'luck'; there are: seed"), ({"batch": 9}, "batch=9; there are: 2, 4")],
)
def test_a_choice_that_is_not_there(chosen, message):
    with pytest.raises(atlas.AtlasError, match=message):
        atlas.grids(settings_table(batch=[2, 4]), "induction", **chosen)


def test_two_values_under_the_same_settings_are_refused_and_repeated_rows_are_one():
    table = settings_table(batch=[4])
    twice = pd.concat([table, table])
    pd.testing.assert_frame_equal(atlas.by_head(twice), atlas.by_head(table))
    assert atlas.grids(twice, "induction")["m"].to_numpy().tolist() == [[0.1, 0.1]]
    contradiction = pd.concat([table, table.assign(value=0.7)])
    for read in (atlas.by_head, lambda table: atlas.grids(table, "induction")):
        with pytest.raises(atlas.AtlasError, match=r"L0H0 of m has the values \[0.1, 0.7\] of .* keep one"):
            read(contradiction)


def test_search(alone, folders):
    wide = atlas.by_head(alone)
    assert len(wide) == 48 and list(wide.columns) == ["model", "head", *atlas.SCORES]
    assert set(atlas.search(wide, "L1H2")["head"]) == {"L1H2"} and len(atlas.search(wide, "l1h2")) == 4
    assert len(atlas.search(wide, "L1")) == 16 and len(atlas.search(wide, f"L1 {folders[0]}")) == 4
    some = atlas.search(wide, "copying<-0.05 entropy>0.4")
    assert 0 < len(some) < 48 and (some["copying"] < -0.05).all() and (some["entropy"] > 0.4).all()
    assert len(atlas.search(wide, "")) == 48 and atlas.search(wide, "no-such-model").empty


HEADS = pd.DataFrame(
    {
        "model": ["org/one", "org/two", "org/one", "induction-1l"],
        "head": ["L0H0", "L1H0", "L1H12", "L10H1"],
        "batch": [2, 4, 4, 4],
        "bos": [True, True, False, True],
        "dtype": ["float32", "float32", "bfloat16", "float32"],
        "induction": [0.4, 0.001, np.nan, 0.5],
        "copying": [-0.5, 0.0, 0.25, 1.0],
    }
)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("induction>0.4", [3]),
        ("induction>=0.4", [0, 3]),
        ("induction<0.4", [1]),
        ("induction<=0.4", [0, 1]),
        ("induction=0.4", [0]),
        ("induction==0.4", [0]),
        ("induction > 0.4", [3]),
        ("induction >=.4", [0, 3]),
        ("  induction\t>= 4e-1 ", [0, 3]),
        ("induction=1e-3", [1]),
        ("induction<1E-2", [1]),
        ("induction>+0.4", [3]),
        ("copying >= -5e-1 copying<= 0.", [0, 1]),
        ("copying≥0.25", [2, 3]),
        ("copying ≤ −0.5", [0]),
        ("Induction>0.4", [3]),
        ("batch = 4", [1, 2, 3]),
        ("batch=4 L1", [1, 2]),
        ("bos=true", [0, 1, 3]),
        ("bos=0", [2]),
        ("dtype=bfloat16", [2]),
        ("model=org/one", [0, 2]),
        ("head=L1H0", [1]),
        ("L1", [1, 2]),
        ("L10", [3]),
        ("one induction>=0.4", [0]),
        ("copying>0, L10", [3]),
        ("ORG", [0, 1, 2]),
        ("induction", [3]),
        ("L1H1", []),
    ],
)
def test_what_a_search_finds(query, rows):
    assert atlas.search(HEADS, query).index.tolist() == rows


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("luck>1", "no score 'luck'; there are: batch, bos, dtype, induction, copying"),
        ("induction>abc", "'abc' is not a number"),
        ("induction>", "'' is not a number"),
        ("induction > L1", "'L1' is not"),
        ("induction>0,4", "'0,4' is not a number"),
        ("induction>nan", "'nan' is not"),
        ("induction>40%", "'40%' is not"),
        (">0.4", "a score comes before the sign"),
        ("<b>luck>1", "a score comes before the sign"),
        ("induction=>0.4", "'>0.4' is not"),
        ("0.2<induction<0.4", "no score '0.2'"),
        ("induction!=0.4", "no score 'induction!'"),
        ("induction>0.4.5", "'0.4.5' is not"),
        ("dtype>1", "dtype is text"),
        ("copying", "alone says nothing"),
    ],
)
def test_what_a_search_cannot_read(query, message):
    with pytest.raises(atlas.AtlasError, match=message):
        atlas.search(HEADS, query)


@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(-1, 1), st.sampled_from([">", ">=", "<", "<=", "=", "=="]), st.sampled_from(["", " "]))
def test_bounds_mean_what_they_say(number, sign, space):
    wide = pd.DataFrame({"model": "m", "head": "L0H0", "copying": [-1.0, -0.25, number, 0.0, 0.25, 1.0]})
    compare = {">": "gt", ">=": "ge", "<": "lt", "<=": "le", "=": "eq", "==": "eq"}[sign]
    found = atlas.search(wide, f"copying{space}{sign}{space}{number!r}")
    assert found.index.tolist() == wide.index[getattr(wide["copying"], compare)(number)].tolist()


def test_browser_keeps_settings_apart_and_takes_a_table_with_few_scores():
    shown = widgets.atlas_browser(settings_table(seed=[0, 1]))
    query, _ = shown.controls
    assert "4 of 4 heads" in shown.message.value and "<th>seed</th>" in shown.figure.body
    query.value = "seed = 1 induction>=0.2"
    assert "2 of 4 heads" in shown.message.value
    query.value = "induction>abc"
    assert "is not a number" in shown.message.value
    table = settings_table(batch=[4])
    shown = widgets.atlas_browser(table[table["score"] == "copying"])
    assert shown.controls[1].value == "copying" and "2 of 2 heads" in shown.message.value


def test_browser(alone):
    shown = widgets.atlas_browser(alone)
    query, order = shown.controls
    assert "48 of 48 heads" in shown.message.value and "L0H" in shown.figure.body
    query.value = "L2H1"
    assert "4 of 48 heads" in shown.message.value and shown.figure.body.count("L2H1") == 4
    order.value = "copying"
    assert "by copying" in shown.message.value
    query.value = "<b>luck>1"
    assert "✗" in shown.message.value and "<b>luck" not in shown.message.value
    query.value = "luck>1"
    assert "no score" in shown.message.value and "L2H1" in shown.figure.body, "the last figure stays"


def test_mosaic_has_a_panel_per_model(alone, folders):
    tables = atlas.grids(alone, "induction")
    figure = plots.mosaic(
        {Path(name).name: grid.to_numpy() for name, grid in tables.items()}, "title", unit="attention"
    )
    assert [annotation.text for annotation in figure.layout.annotations] == [
        Path(name).name for name in sorted(folders)
    ]
    assert len(figure.data) == 4 and figure.data[0].z.shape == (3, 4) and figure.layout.coloraxis.cmin == 0
    with pytest.raises(atlas.AtlasError, match="no score"):
        atlas.grids(alone, "luck")
