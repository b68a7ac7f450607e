"""The head atlas: two workers give what one process gives, and a worker that is killed loses only its own model."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from distributed import LocalCluster

from tests.checks.fixtures import save_tiny_model, tiny_model
from utils import atlas, heads, plots, widgets
from utils.models import DEFAULT_EMBEDDED

QUICK = atlas.Settings(seq_len=20, batch=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Four tiny models as folders, the first two of other families than the last two seeds."""
    root = tmp_path_factory.mktemp("models")
    made = [("gpt2", 0), ("llama", 0), ("gpt2", 1), ("llama", 1)]
    return [str(save_tiny_model(root / f"{family}-{seed}", family, seed=seed)) for family, seed in made]


@pytest.fixture(scope="module")
def alone(folders, tmp_path_factory):
    """The atlas of the four, made in this process."""
    folder = tmp_path_factory.mktemp("alone")
    report = atlas.make_atlas(folders, folder, QUICK, workers=0)
    assert report.done == folders and not report.failed
    return atlas.read_atlas(folder)


@pytest.fixture(scope="module")
def address():
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
        "entropy": torch.stack([
            torch.distributions.Categorical(pattern[..., q, : q + 1]).entropy() / np.log(q + 1) for q in range(1, 2 * n + 1)
        ]).mean((0, 2)),
    }  # fmt: skip
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
    assert again.done == list(doomed) and again.there == folders[2:] and not again.failed
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


# --- files and command ------------------------------------------------------------------------------------------------


def test_a_model_that_fails_does_not_stop_the_others(folders, tmp_path):
    report = atlas.make_atlas([str(tmp_path / "nothing"), folders[0]], tmp_path / "atlas", QUICK, workers=0)
    assert report.done == [folders[0]] and "unknown model" in report.failed[str(tmp_path / "nothing")]


def test_a_damaged_file_is_made_again(folders, tmp_path):
    atlas.make_atlas(folders[:1], tmp_path, QUICK, workers=0)
    file = atlas.file_of(tmp_path, folders[0], QUICK)
    file.write_bytes(file.read_bytes()[:100])
    assert atlas.make_atlas(folders[:1], tmp_path, QUICK, workers=0).done == folders[:1]
    assert len(atlas.read_atlas(tmp_path)) == 72


def test_other_settings_and_look_alike_names_have_other_files(tmp_path):
    names = {atlas.file_of(tmp_path, name, QUICK) for name in ("a/b", "a_b", "a b")}
    assert len(names | {atlas.file_of(tmp_path, "a/b", atlas.Settings(seed=1))}) == 4


def test_command(folders, tmp_path):
    options = [folders[0], "--workers", "0", "--folder", str(tmp_path), "--seq-len", "20"]
    command = [sys.executable, "-m", "utils.atlas", *options]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0 and "1 scored, 0 there already, 0 failed" in ran.stdout, ran.stderr
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


def test_search(alone, folders):
    wide = atlas.by_head(alone)
    assert len(wide) == 48 and list(wide.columns) == ["model", "head", *atlas.SCORES]
    assert set(atlas.search(wide, "L1H2")["head"]) == {"L1H2"} and len(atlas.search(wide, "l1h2")) == 4
    assert len(atlas.search(wide, "L1")) == 16 and len(atlas.search(wide, f"L1 {folders[0]}")) == 4
    some = atlas.search(wide, "copying<-0.05 entropy>0.4")
    assert 0 < len(some) < 48 and (some["copying"] < -0.05).all() and (some["entropy"] > 0.4).all()
    assert len(atlas.search(wide, "")) == 48 and atlas.search(wide, "no-such-model").empty
    with pytest.raises(atlas.AtlasError, match="no score 'luck'"):
        atlas.search(wide, "luck>1")


def test_browser(alone):
    query, order, shown = widgets.atlas_browser(alone).children
    assert "48 of 48 heads" in shown.value and "L0H" in shown.value
    query.value = "L2H1"
    assert "4 of 48 heads" in shown.value
    order.value = "copying"
    assert "by copying" in shown.value
    query.value = "<b>luck>1"
    assert "0 of 48" in shown.value and "<b>luck" not in shown.value
    query.value = "luck>1"
    assert "no score" in shown.value


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
