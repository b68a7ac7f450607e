"""Runs of a survey: its files, its workers, and the command."""

import json
import os
import re
import runpy
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

from tests.survey.cases import HERE, QUICK
from utils import dialect
from utils.atlas.lookup import AtlasError
from utils.atlas.runs import Hands
from utils.dialect import Pair, survey


def test_a_survey_that_is_stopped_loses_one_model_and_resumes(folders, alone, tmp_path, once):
    asked = []

    def stopped_at_the_second(name, settings):
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return once(name, settings)

    with pytest.raises(KeyboardInterrupt):
        survey.make_survey(folders, tmp_path, QUICK, HERE, measure=stopped_at_the_second)
    kept = survey.survey_file(tmp_path, folders[0], QUICK)
    assert [file.name for file in (tmp_path / "models").iterdir()] == [kept.name]
    written = kept.stat().st_mtime_ns
    report = survey.make_survey(folders, tmp_path, QUICK, HERE, measure=once)
    assert (report.skipped, report.done) == (folders[:1], folders[1:]) and kept.stat().st_mtime_ns == written
    pd.testing.assert_frame_equal(survey.read_survey(tmp_path), alone, check_exact=True)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "survey.parquet"), alone, check_exact=True)
    empty = {"value": [""], "low": [""], "high": [""]}  # nothing in front is text, too: the empty text
    from_csv = pd.read_csv(tmp_path / "survey.csv", keep_default_na=False, na_values=empty)
    pd.testing.assert_frame_equal(from_csv, alone, check_exact=False, check_dtype=False)


def test_a_damaged_file_is_made_again_and_another_models_is_named(folders, alone, tmp_path, once):
    survey.make_survey(folders[:2], tmp_path, QUICK, HERE, measure=once)
    mine, others = (survey.survey_file(tmp_path, name, QUICK) for name in folders[:2])
    mine.write_bytes(mine.read_bytes()[: mine.stat().st_size // 2])
    others.write_bytes(b"PAR1 but not really")
    report = survey.make_survey(folders[:1], tmp_path, QUICK, HERE, measure=once)
    assert report.done == folders[:1] and len(report.damaged) == 1 and others.name in str(report)
    with pytest.warns(UserWarning, match=rf"left out of the survey: .*{re.escape(others.name)}"):
        assert set(survey.read_survey(tmp_path)["model"]) == set(folders[:1])
    assert survey.make_survey(folders[:2], tmp_path, QUICK, HERE, measure=once).done == folders[1:2]
    expected = alone[alone["model"] != folders[2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(survey.read_survey(tmp_path), expected, check_exact=True)


def test_an_unknown_model_among_good_ones_is_reported(folders, tmp_path, capsys):
    options = f"--prefixes bos user --kinds contrast --verbs 2 --workers 0 --out {tmp_path}".split()
    assert survey.main_survey([folders[0], "/no/such/model", *options]) == 1
    said = capsys.readouterr().out
    assert "1 scored, 0 there already, 1 failed" in said and "failed: /no/such/model: ModelError" in said
    assert f"{folders[0]} has nothing to put in front as 'user'" in said and "be_usually gap" in said
    assert set(pd.read_parquet(tmp_path / "survey.parquet")["model"]) == {folders[0]}
    assert {path.name for path in tmp_path.iterdir()} == {"models", "survey.parquet", "survey.csv"}
    assert survey.main_survey([folders[0], *options]) == 0 and "1 there already" in capsys.readouterr().out
    assert survey.main_survey(["/no/such/model", "--workers", "0", "--out", str(tmp_path / "none")]) == 1
    assert "no survey in" in capsys.readouterr().err


def test_the_same_rows_under_wider_settings_are_one(folders, tmp_path):
    narrow = survey.SurveySettings(("bos",), kinds=("contrast",), n_verbs=1)
    wide = survey.SurveySettings(("bos", "nothing"), kinds=("contrast",), n_verbs=1)
    more_verbs = survey.SurveySettings(("bos",), kinds=("contrast",), n_verbs=2)
    assert len({survey.survey_file(tmp_path, "m", settings).name for settings in (narrow, wide, more_verbs)}) == 3
    for settings in (narrow, wide):
        assert survey.make_survey(folders[:1], tmp_path, settings, HERE).done == folders[:1]
    table = survey.read_survey(tmp_path)
    assert not table.duplicated(list(survey.KEYS)).any() and set(table["prefix"]) == {"bos", "nothing"}
    survey.make_survey(folders[:1], tmp_path, more_verbs, HERE)
    table = survey.read_survey(tmp_path)
    assert table["sentences"].nunique() == 2 and not table.duplicated([*survey.KEYS, "sentences"]).any()


def test_other_sentences_have_another_file(tmp_path, monkeypatch):
    before = survey.survey_file(tmp_path, "m", QUICK)
    monkeypatch.setattr(survey, "pairs_of", lambda name: [Pair("he be here", "he is here", "be", name)])
    assert survey.survey_file(tmp_path, "m", QUICK) != before


def measure_but_hang(name, settings, doomed, signals):
    """Measure, but for the doomed model say which process this is, and wait there to be killed."""
    if name == doomed:
        said = Path(signals) / "hanging"
        said.with_suffix(".new").write_text(json.dumps({"pid": os.getpid()}))
        said.with_suffix(".new").rename(said)
        time.sleep(600)
    return survey.survey_model(name, settings)


def test_a_killed_worker_of_two_workers_loses_its_model_and_a_second_run_resumes(
    folders, alone, tmp_path, once, workers_by_fork
):
    """What two workers measured is to the bit what one process measures; a model that does not exist fails in a worker."""
    said, killed = tmp_path / "hanging", []

    def wait_and_kill():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not said.exists():
            time.sleep(0.05)
        killed.append(json.loads(said.read_text())["pid"])
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill, daemon=True)
    thread.start()
    measure = partial(measure_but_hang, doomed=folders[2], signals=str(tmp_path))
    folder = tmp_path / "survey"
    report = survey.make_survey(
        [*folders, "/no/such/model"], folder, QUICK, Hands(workers=2, attempts=1), measure=measure
    )
    thread.join(5)
    assert killed and killed[0] != os.getpid()
    assert sorted(report.done) == sorted(folders[:2]) and "worker died" in report.failed[folders[2]]
    assert set(report.failed) == {folders[2], "/no/such/model"}
    of_workers = alone[alone["model"] != folders[2]].reset_index(drop=True)
    pd.testing.assert_frame_equal(survey.read_survey(folder), of_workers, check_exact=True)
    again = survey.make_survey(folders, folder, QUICK, HERE, measure=once)
    assert again.done == folders[2:] and again.skipped == folders[:2]
    pd.testing.assert_frame_equal(survey.read_survey(folder), alone, check_exact=True)


def test_the_command_with_a_worker_and_the_old_command_beside_it(folders, tmp_path, monkeypatch, capsys):
    out = tmp_path / "survey"
    options = ["--prefixes", "bos", "--kinds", "contrast", "--verbs", "1", "--out", str(out), "--workers", "1"]
    command = [sys.executable, "-m", "utils.dialect", "survey", *folders[:2], *options]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=300
    )  # its worker imports the main module again
    assert ran.returncode == 0 and "2 scored, 0 there already, 0 failed" in ran.stdout, ran.stderr
    assert set(pd.read_csv(out / "survey.csv")["model"]) == set(folders[:2])

    def status(*options):
        """As `python -m utils.dialect` does, with everything imported already."""
        monkeypatch.setattr(sys, "argv", ["utils.dialect", *options])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("utils.dialect", run_name="__main__")
        return ended.value.code

    assert status("survey", folders[0], "--prefixes", "eos", "--out", str(out)) == 2
    assert "invalid choice: 'eos'" in capsys.readouterr().err
    written = str(tmp_path / "x.csv")
    assert not status("--out", written, "--rows", "3", "--features", "done", "--model", folders[0])
    assert len(dialect.read_dataset(written)) == 3


def test_a_run_without_models_or_hands_is_refused(tmp_path):
    for models, hands in (([], HERE), (["x"], Hands(workers=-1)), (["x"], Hands(attempts=0))):
        with pytest.raises(AtlasError, match="at least one model"):
            survey.make_survey(models, tmp_path, QUICK, hands)
    with pytest.raises(AtlasError, match=r"no survey in .*python -m utils\.dialect survey MODEL\.\.\. --out"):
        survey.read_survey(tmp_path)


def test_numbers_are_numbers(alone):
    assert all(np.issubdtype(alone[column].dtype, np.floating) for column in survey.VALUES)
    assert all(np.issubdtype(alone[column].dtype, np.integer) for column in ("n_pairs", "n_verbs"))
