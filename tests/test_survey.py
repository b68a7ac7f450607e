"""The dialect survey: what its rows hold, what stands in front of a prompt, and a run that stops and resumes."""

import functools
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
import torch
from transformers import PreTrainedTokenizerFast

from utils import dialect, stats, tiny_models
from utils.atlas.lookup import AtlasError
from utils.atlas.runs import Hands
from utils.dialect import DialectError, Pair, measures, prefixes, survey
from utils.models import load_model
from utils.prompts import token_row
from utils.tiny_models import save_tiny_model, tiny_model

QUICK = survey.SurveySettings(prefixes=("nothing", "bos", "user"), kinds=("contrast",), n_verbs=2)
HERE = Hands(workers=0)
TEMPLATE = "<|endoftext|>{% for turn in messages %}({{ turn['role'] }}) {{ '{}' }}\n{{ turn['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three tiny models that know the 37 traits; the second has a chat template, which has braces in it."""
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tiny_models, "WORDS", f"{tiny_models.WORDS} {' '.join(dialect.favourability())} traits? says: is:"
        )
        made = [
            str(save_tiny_model(root / f"{family}-{seed}", family, seed=seed))
            for family, seed in (("gpt2", 0), ("llama", 0), ("llama", 1))
        ]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made[1])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(made[1])
    return made


@pytest.fixture(scope="module")
def alone(folders, once, tmp_path_factory):
    """The survey of the three, made in this process."""
    folder = tmp_path_factory.mktemp("alone")
    report = survey.make_survey(folders, folder, QUICK, HERE, measure=once)
    assert report.done == folders and not report.failed
    return survey.read_survey(folder)


@pytest.fixture(scope="module")
def once():
    """Measures every model once under each settings, for tests of what becomes of the rows in files."""
    return functools.cache(survey.survey_model)


@pytest.fixture(scope="module")
def chatty(folders):
    return load_model(folders[1], device="cpu")


def rows_of(table, **chosen):
    for column, value in chosen.items():
        table = table[table[column] == value]
    return table


# --- what stands in front -----------------------------------------------------------------------------------------------


def test_prefixes_are_what_they_are_called(chatty):
    plain, bos = token_row(chatty, "The person")[1:], chatty.tokenizer.bos_token_id
    turn = "<|endoftext|>(user) {}\n"
    in_front = {"nothing": [], "bos": [bos], "end-of-text": [chatty.tokenizer.eos_token_id]}
    in_front["user"] = chatty.to_tokens(turn, prepend_bos=False)[0].tolist()
    assert tuple(in_front) == prefixes.PREFIXES and prefixes.prefix_text(chatty, "user") == turn
    for prefix, ids in in_front.items():
        with prefixes.behind(chatty, prefix) as front:
            (frame,) = front(["{} person"])
            assert token_row(chatty, dialect.fill(frame, "The")).tolist() == [*ids, *plain.tolist()], prefix
        assert token_row(chatty, "The person").tolist() == [bos, *plain.tolist()], "the model's own BOS is back"


def test_a_gap_behind_a_prefix_is_read_behind_it(chatty):
    pairs, frames = dialect.pairs_of("be_usually", 2), dialect.frames()[:2]
    with prefixes.behind(chatty, "bos") as front:
        assert front(frames) == frames
        assert torch.equal(dialect.trait_gaps(chatty, pairs, front(frames)), dialect.trait_gaps(chatty, pairs, frames))
    with prefixes.behind(chatty, "end-of-text") as front:
        other = dialect.trait_gaps(chatty, pairs, front(frames))
    assert torch.allclose(
        other, dialect.trait_gaps(chatty, pairs, frames, bos=chatty.tokenizer.eos_token_id), atol=1e-5
    )
    with prefixes.behind(chatty, "user") as front:
        third = dialect.trait_gaps(chatty, pairs, front(frames))
    assert not torch.allclose(third, other, atol=1e-3)


def test_the_policy_is_restored_after_an_error(chatty):
    with pytest.raises(DialectError, match="exactly once"), prefixes.behind(chatty, "nothing") as front:
        front(["no slot"])
    assert chatty.cfg.default_prepend_bos


def test_a_prefix_that_a_model_lacks_is_refused_by_name(chatty, monkeypatch):
    with pytest.raises(DialectError, match="no prefix 'eos'; there are: nothing, bos"):
        prefixes.prefix_text(chatty, "eos")
    with pytest.raises(DialectError, match="tiny-gpt2 has no chat template"):
        prefixes.prefix_text(tiny_model("gpt2"), "user")
    monkeypatch.setattr(chatty.tokenizer, "chat_template", "{{ messages[0]['content'] }} {{ messages[0]['content'] }}")
    with pytest.raises(DialectError, match="writes a user's message 2 times"):
        prefixes.prefix_text(chatty, "user")
    monkeypatch.setattr(chatty.tokenizer, "chat_template", "{{ raise_exception('no user') }}")
    with pytest.raises(DialectError, match="cannot be filled in: no user"):
        prefixes.prefix_text(chatty, "user")
    monkeypatch.setattr(chatty.cfg, "default_prepend_bos", False)
    with pytest.raises(DialectError, match="has no BOS"), prefixes.behind(chatty, "bos"):
        pass


def test_the_separator_is_the_one_of_the_training_text_where_there_is_one(chatty, monkeypatch):
    assert prefixes.prefix_text(chatty, "end-of-text") == "<|endoftext|>"
    monkeypatch.setattr(prefixes, "SEPARATORS", ("<|nothing|>", " kind"))
    assert prefixes.prefix_text(chatty, "end-of-text") == " kind"
    monkeypatch.setattr(prefixes, "SEPARATORS", (" ",))
    refused = pytest.raises(DialectError, match="' ' is not one token or changes the next")
    with refused, prefixes.behind(chatty, "end-of-text"):
        pass
    assert chatty.cfg.default_prepend_bos
    pairs = (Pair("he be working", "he is working", "work", "mine"),)
    table = survey.survey_table(chatty, survey.SurveySettings(("bos", "end-of-text"), kinds=(), pairs=pairs))
    assert set(table["prefix"]) == {"bos"}


# --- rows ---------------------------------------------------------------------------------------------------------------


def test_table_is_tidy_and_whole(alone, folders):
    assert list(alone.columns) == [*survey.KEYS, *survey.VALUES, "n_pairs", "n_verbs", "prefix_text", "sentences"]
    assert not alone.duplicated(list(survey.KEYS)).any() and alone["value"].notna().sum() > 0.9 * len(alone)
    n_measures, n_items = len(measures.all_measures(torch.zeros(37))), len(dialect.grammar()["contrasts"])
    assert alone.groupby(["model", "prefix"]).size().eq(n_measures * n_items * (9 + 1)).all()
    there = {name: set(rows["prefix"]) for name, rows in alone.groupby("model")}
    assert there == {folders[0]: {"nothing", "bos"}, folders[1]: set(QUICK.prefixes), folders[2]: {"nothing", "bos"}}
    assert set(alone["frame"]) == {*dialect.frames(), "all"} and set(alone["n_verbs"]) == {2}
    assert survey.left_out(alone, [*folders, "unknown"], QUICK.prefixes) == [
        f"{folders[i]} has nothing to put in front as 'user': no rows" for i in (0, 2)
    ]


def test_values_by_their_definitions(alone, folders, chatty):
    """One contrast behind a chat template, run prompt by prompt, with nothing of the survey's own machinery."""
    words, frames = list(dialect.favourability()), dialect.frames()
    ids = dialect.attribute_tokens(chatty, words)
    front = prefixes.prefix_text(chatty, "user")

    def log_p(text):
        tokens = chatty.tokenizer(front + text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        return chatty(tokens)[0, -1].log_softmax(-1)[ids]

    pairs = dialect.pairs_of("is_usually", 2)
    ratio = torch.stack(
        [torch.stack([log_p(frame.format(p.aae)) - log_p(frame.format(p.sae)) for frame in frames]) for p in pairs]
    )  # pair frame trait
    named = torch.tensor([word in "lazy ignorant musical religious stupid".split() for word in words])
    strengths = ratio[..., named].mean(-1) - ratio[..., ~named].mean(-1)
    rows = rows_of(alone, model=folders[1], prefix="user", item="is_usually", kind="contrast")
    found = rows_of(rows, measure="strength").set_index("frame")
    assert found.loc[frames, "value"].to_numpy() == pytest.approx(strengths.mean(0).numpy(), abs=1e-4)
    whole = found.loc["all"]
    assert whole["value"] == pytest.approx(strengths.mean().item(), abs=1e-4) and whole["prefix_text"] == front
    assert (whole["low"], whole["high"]) == pytest.approx(stats.anova_interval(strengths), abs=1e-3)
    for measure, values in measures.all_measures(ratio.mean(0)).items():
        of_measure = rows_of(rows, measure=measure).set_index("frame")["value"]
        assert of_measure[frames].to_numpy() == pytest.approx(values.numpy(), abs=2e-3, nan_ok=True), measure
        assert of_measure["all"] == pytest.approx(values.mean().item(), abs=2e-3, nan_ok=True)


def test_only_what_is_linear_has_an_interval_and_only_over_all_frames(alone):
    has = alone["low"].notna() & alone["high"].notna()
    assert (has == ((alone["frame"] == "all") & alone["measure"].isin(["strength", "gap"]))).all()
    inside = alone[has]
    assert ((inside["low"] <= inside["value"]) & (inside["value"] <= inside["high"])).all()


def test_pairs_of_one_verb_count_once_and_a_file_is_an_item(chatty, tmp_path):
    verbs = ["working", "working", "working", "singing"]
    path = tmp_path / "mine.txt"
    path.write_text(
        "".join(f"{p} be {v}\t{p} is {v}\n" for p, v in zip(("he", "she", "they", "he"), verbs, strict=True))
    )
    pairs = tuple(dialect.read_pairs(path))
    table = survey.survey_table(chatty, survey.SurveySettings(("bos",), kinds=(), pairs=pairs))
    whole = rows_of(table, frame="all", measure="gap")
    assert whole[["kind", "item", "n_pairs", "n_verbs"]].values.tolist() == [["file", "mine", 4, 2]]
    gaps = dialect.trait_gaps(chatty, pairs, dialect.frames())
    by_verb = torch.stack([gaps[:3].mean(0), gaps[3]])
    assert whole["value"].item() == pytest.approx(by_verb.mean().item(), abs=1e-4)
    assert whole[["low", "high"]].values[0] == pytest.approx(stats.anova_interval(by_verb), abs=1e-3)
    one = survey.survey_table(chatty, survey.SurveySettings(("bos",), kinds=(), pairs=pairs[:1]))
    assert one["low"].isna().all(), "one verb has no interval"


def test_a_file_of_pairs_alone(folders, tmp_path, capsys):
    path = tmp_path / "mine.txt"
    path.write_text("he be working\the is working\nhe be singing\the is singing\n")
    options = f"--kinds --pairs {path} --prefixes bos --frames paper own --workers 0 --out {tmp_path}".split()
    assert survey.main_survey([folders[0], *options]) == 0
    table = survey.read_survey(tmp_path)
    assert set(table["item"]) == {"mine"} and set(table["frames"]) == {"paper", "own"}
    assert set(table["frame"]) == {"all", *dialect.frames("paper"), *dialect.frames("own")}
    path.write_text("he be working\n")
    assert survey.main_survey([folders[0], *options]) == 1 and "mine.txt:1" in capsys.readouterr().err


def test_every_kind_of_item_is_there_and_no_more_verbs_than_asked():
    found = survey.sentences(survey.SurveySettings(n_verbs=15))
    assert {item for kind, item in found if kind == "feature"} == set(dialect.feature_names())
    assert {item for kind, item in found if kind == "swap"} == set(dialect.swap_names())
    assert {item for kind, item in found if kind == "contrast"} == set(dialect.grammar()["contrasts"])
    assert all(1 < len(pairs) <= 15 for pairs in found.values())
    assert found["feature", "done"] == dialect.pairs_of("done", 15)
    assert found["swap", "car/truck"] == dialect.swap_pairs("car/truck", 15)


def test_a_model_that_cannot_say_a_trait_is_refused_by_name():
    with pytest.raises(ValueError, match=r"' cruel' is \d+ tokens in tiny-gpt2"):
        survey.survey_table(tiny_model("gpt2"), QUICK)


def test_a_model_with_none_of_the_prefixes_is_refused(folders, tmp_path):
    only_user = survey.SurveySettings(("user",), kinds=("contrast",), n_verbs=1)
    report = survey.make_survey(folders[:2], tmp_path, only_user, HERE)
    assert report.done == folders[1:2] and "has no chat template" in report.failed[folders[0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prefixes": ("bos", "eos")}, "no prefix 'eos' in a survey; there are: nothing, bos"),
        ({"frames": ("guilt",)}, "no set of frames 'guilt' in a survey; there are: paper, own"),
        ({"kinds": ("error",)}, "no kind 'error' in a survey; there are: feature, contrast, swap"),
        ({"prefixes": ()}, "a survey of nothing"),
        ({"frames": ()}, "a survey of nothing"),
        ({"kinds": ()}, "a survey of nothing"),
        ({"n_verbs": 0}, "a survey of nothing"),
    ],
)
def test_settings_of_nothing_are_refused(wrong, message):
    with pytest.raises(DialectError, match=message):
        survey.SurveySettings(**wrong)


def test_overview_counts_features_outside_the_swaps():
    def row(kind, item, gap, measure="gap", prefix="bos"):
        keys = {"model": "m", "prefix": prefix, "frames": "paper", "sentences": "x", "frame": "all"}
        return keys | {"kind": kind, "item": item, "measure": measure, "value": gap}

    swaps = [row("swap", f"a/{i}", i / 100 * (-1) ** i) for i in range(101)]
    features = [row("feature", "one", 0.96), row("feature", "two", -0.99), row("feature", "three", 0.94)]
    ours = [row("contrast", "be_usually", 0.2), row("contrast", "be_usually", 0.4, "strength")]
    other = [row("contrast", "be_usually", 0.3, prefix="user"), row("feature", "one", 2.0, prefix="user")]
    each_frame = [row("feature", "one", 5.0) | {"frame": "{} is"}]
    lines = survey.overview(pd.DataFrame([*swaps, *features, *ours, *other, *each_frame])).set_index("prefix")
    assert lines.loc["bos", ["be_usually gap", "be_usually strength"]].tolist() == [0.2, 0.4]
    assert lines.loc["bos", ["95 % of swaps", "features outside"]].tolist() == pytest.approx([0.95, 2])
    assert lines.loc["user", "be_usually gap"] == 0.3
    assert lines.loc["user", ["95 % of swaps", "features outside"]].isna().all(), "without swaps there is no band"


# --- files, workers and the command -------------------------------------------------------------------------------------


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


def test_the_command_with_two_workers_and_the_old_command_beside_it(folders, tmp_path, monkeypatch, capsys):
    out = tmp_path / "survey"
    options = ["--prefixes", "bos", "--kinds", "contrast", "--verbs", "1", "--out", str(out), "--workers", "2"]
    command = [sys.executable, "-m", "utils.dialect", "survey", *folders[:2], *options]
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=300
    )  # its workers import the main module again
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
