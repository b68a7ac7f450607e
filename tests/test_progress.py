"""The learner's record of checks: who writes into it, what survives, and what the overview makes of it."""

import json
import os
import re
import stat
import threading
from html.parser import HTMLParser

import IPython
import pytest

from tests.checks import REGISTRY, CheckFailed
from tests.checks.core import STUB
from tests.solutions import solution_functions
from tests.wrong import WRONG
from utils.course import notebooks, recording
from utils.course.matrix import try_out
from utils.course.progress import exercises_by_chapter, main, progress, read_runs
from utils.course.recording import NOT_WRITTEN, record_path, record_run


@pytest.fixture
def record(tmp_path, monkeypatch):
    """A record of its own, written as if this were a notebook."""
    path = tmp_path / "data" / "progress.jsonl"
    monkeypatch.setenv("COURSE_PROGRESS", str(path))
    monkeypatch.setattr(IPython, "get_ipython", lambda: object())
    return path


def runs_in(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def wrong_zero_head(z, hook, head_index):
    return z


def run_check(name, function):
    try:
        REGISTRY[name].check(function)
    except CheckFailed as failed:
        return failed


def write(path, *runs):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [run if isinstance(run, str) else json.dumps({"time": "2026-01-01T00:00:00+00:00", **run}) for run in runs]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def ran(exercise, mistake=None):
    return {
        "chapter": REGISTRY[exercise].chapter,
        "exercise": exercise,
        "passed": mistake is None,
        "mistake": mistake or "",
    }


def of(chapter, overview):
    return next(found for found in overview.chapters if found.stem.startswith(chapter))


# --- writing --------------------------------------------------------------------------------------------------------------


def test_each_run_is_one_line(record, capsys):
    failed = run_check("zero_head", wrong_zero_head)
    assert run_check("zero_head", solution_functions("00")["zero_head"]) is None
    first, second = runs_in(record)
    assert set(first) == {"time", "chapter", "exercise", "passed", "mistake"}
    assert (first["chapter"], first["exercise"], first["passed"]) == ("00", "zero_head", False)
    assert first["mistake"] and first["mistake"] in failed.likely
    assert (second["passed"], second["mistake"]) == (True, "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first["time"])


def test_a_placeholder_is_no_mistake(record):
    def zero_head(z, hook, head_index):
        raise NotImplementedError(STUB)

    run_check("zero_head", zero_head)
    (run,) = runs_in(record)
    assert run["mistake"] == NOT_WRITTEN and NOT_WRITTEN in STUB
    assert of("00", progress()).open[:2] == ["attention_to_first_token", "zero_head"]


def test_showing_what_a_check_says_is_no_try(record):
    assert run_check("zero_head", lambda z, hook, head_index: z) is not None
    assert not record.exists()


def test_solutions_that_are_run_are_not_the_learners(record, monkeypatch):
    monkeypatch.chdir(recording.SOLVED)
    run_check("zero_head", wrong_zero_head)
    assert not record.exists()


def test_no_notebook_no_record(record, monkeypatch):
    """The mutants, the doctor and scripts run checks in a plain Python."""
    monkeypatch.undo()
    monkeypatch.setenv("COURSE_PROGRESS", str(record))
    run_check("zero_head", wrong_zero_head)
    assert not record.exists()


@pytest.mark.parametrize("off", ["0", "off", " 0 "])
def test_the_record_can_be_turned_off(off, record, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_PROGRESS", off)
    monkeypatch.chdir(tmp_path)
    run_check("zero_head", wrong_zero_head)
    assert record_path() is None and list(tmp_path.iterdir()) == []
    assert "COURSE_PROGRESS=0 turns the record off" in str(progress())


def test_the_tests_and_the_press_leave_no_trace(monkeypatch):
    assert os.environ["COURSE_PROGRESS"] == "0", "set for pytest, and for the kernels that nbval starts"
    monkeypatch.setenv("COURSE_PROGRESS", "/somewhere")
    assert notebooks.environment("smollm2-135m")["COURSE_PROGRESS"] == "0"
    assert try_out.__globals__["_environment"]()["COURSE_PROGRESS"] == "0"


def test_the_default_place_is_the_users_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_PROGRESS")
    assert record_path().name == "progress.jsonl" and "mechinterp-course" in record_path().parts
    assert recording.SOLVED.parent not in record_path().parents
    monkeypatch.setenv("COURSE_PROGRESS", "~/mine.jsonl")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert record_path() == tmp_path / "mine.jsonl"


@pytest.mark.parametrize("place", ["a folder", "under a file", "not a path", "nobody's home"])
def test_a_record_that_cannot_be_written_fails_no_check(place, record, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    places = {"a folder": tmp_path, "under a file": tmp_path / "file" / "x", "not a path": "\udcff" * 5000}
    monkeypatch.setenv("COURSE_PROGRESS", str(places.get(place, "~no-such-user-here/x")))
    REGISTRY["zero_head"].check(solution_functions("00")["zero_head"])
    assert capsys.readouterr().out.startswith("✓ zero_head")
    overview = str(progress())
    assert "0 of 3" in overview and ("cannot be read" in overview or "names no file" in overview)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_fails_no_check(record):
    record.parent.mkdir(mode=stat.S_IRUSR | stat.S_IXUSR)
    record_run("00", "zero_head", wrong_zero_head, None)
    assert not record.exists()


def test_a_line_that_was_cut_off_does_not_take_the_next_one_with_it(record):
    write(record, ran("zero_head"))
    with record.open("a") as file:
        file.write('{"time": "2026-')
    record_run("00", "attention_to_first_token", wrong_zero_head, None)
    runs, damaged, problem = read_runs(record)
    assert [run["exercise"] for run in runs] == ["zero_head", "attention_to_first_token"]
    assert (damaged, problem) == (1, "")


def test_two_notebooks_at_once_keep_their_lines_whole(record):
    def many():
        for _ in range(50):
            record_run("00", "zero_head", wrong_zero_head, CheckFailed("x", "a mistake " * 40))

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    runs, damaged, _ = read_runs(record)
    assert (len(runs), damaged) == (200, 0)


# --- reading --------------------------------------------------------------------------------------------------------------


def test_exercises_are_listed_as_the_chapters_have_them():
    listed = {name: chapter.stem[:2] for chapter in exercises_by_chapter() for name in chapter.exercises}
    assert len(listed) > 40 and listed.items() <= {name: one.chapter for name, one in REGISTRY.items()}.items()
    assert all(re.match(r"\d\d · \w", chapter.title) for chapter in exercises_by_chapter())


def test_overview_counts(record):
    write(
        record,
        ran("attention_to_first_token", "you averaged over keys"),
        ran("attention_to_first_token"),
        ran("zero_head", "an old mistake"),
        ran("zero_head", "you zeroed a position"),
        ran("build_prompts", NOT_WRITTEN),
    )
    chapter = of("00", progress())
    assert chapter.cells == ("00 · Hooks and caches", "1 of 3", "1", "1", "zero_head")
    assert chapter.last_mistake == "zero_head: you zeroed a position" and chapter.open == ["logits_without_head"]
    assert of("01", progress()).cells[1:4] == ("0 of 4", "0", "4")


def test_what_has_passed_stays_passed_and_its_mistakes_are_forgotten(record):
    write(record, ran("zero_head"), ran("zero_head", "broken again"))
    chapter = of("00", progress())
    assert chapter.passed == {"zero_head"} and not chapter.tried and not chapter.last_mistake


def test_next_is_where_the_learner_last_worked(record):
    write(record, ran("zero_head"), ran("ioi_metric"))
    assert "Next: noising_metric, in 03 · Activation patching." in str(progress())
    write(record, *(ran(name) for name, exercise in REGISTRY.items() if exercise.chapter == "01"))
    assert "Next: attention_to_first_token, in 00 · " in str(progress())
    write(record, *(ran(name) for name in REGISTRY))
    assert "You have passed every exercise of the course." in str(progress())
    assert {chapter.cells[-1] for chapter in progress().chapters} == {"all passed"}


def test_damaged_lines_are_skipped_and_counted(record):
    whole = ran("zero_head")
    damaged = ["{", "[]", "null", "\x00", '{"exercise": "zero_head"}', json.dumps({**whole, "time": "t", "passed": 1})]
    write(record, *damaged, whole, "", {**whole, "exercise": "an_exercise_of_an_older_course"})
    with record.open("ab") as file:
        file.write(b"\xff\xfe\n" + b"[" * 100_000 + b"\n")
    overview = progress()
    assert of("00", overview).passed == {"zero_head"}
    assert f"{len(damaged) + 2} damaged lines of the record left out." in str(overview)


class Cells(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.opened = [], []

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.found.append(data)


def test_overview_as_html_and_as_text(record, capsys):
    write(record, ran("zero_head", "you wrote <b>z</b> & more " + "word " * 40))
    parser = Cells()
    parser.feed(progress()._repr_html_())
    assert parser.opened == [] and any("you wrote <b>z</b> & more" in text for text in parser.found)
    assert {"00 · Hooks and caches", "0 of 3", "attention_to_first_token"} <= set(parser.found)
    assert main() == 0
    said = capsys.readouterr().out
    assert "last mistake · zero_head: you wrote <b>z</b> & more" in said
    assert max(map(len, said.splitlines()[:-2])) <= 120
    assert str(record) in said.replace("\n", " ") and "Next: attention_to_first_token" in said


def test_mistakes_are_recorded_in_the_words_of_the_check(record):
    for name, wrong in list(WRONG["zero_head"].items()):
        if getattr(wrong, "__name__", "") != "<lambda>":
            run_check("zero_head", wrong)
            assert name in runs_in(record)[-1]["mistake"]
    assert len(runs_in(record)) >= 3


def test_no_line_of_the_learners_code_is_kept(record):
    def zero_head(z, hook, head_index):
        my_secret = z[:, :, 99]
        return my_secret

    failed = run_check("zero_head", zero_head)
    assert "my_secret" in failed.compared
    record_run("00", "zero_head", zero_head, CheckFailed(failed.compared))
    assert "IndexError" in runs_in(record)[-1]["mistake"] and "my_secret" not in record.read_text(encoding="utf-8")
