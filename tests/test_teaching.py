"""docs/teaching.md: its minutes are the sources', its mistakes are those that the checks name, its commands exist."""

import os
import re
import time
from pathlib import Path

import pytest
from nbformat import v4

from tests.checks import REGISTRY
from tests.wrong import WRONG
from utils.course import run
from utils.course.deriving import ROOT, all_derived, sources
from utils.course.teaching import (
    OPENING,
    RUN_TIMES,
    chapter_minutes,
    cpu_seconds,
    minutes_table,
    read_run_times,
    record_run_times,
    seconds_by_section,
    section_times,
    with_minutes,
)

PAGE = ROOT / "docs/teaching.md"
TEXT = PAGE.read_text(encoding="utf-8")
CHAPTERS = {path.stem[:2]: path.read_text(encoding="utf-8") for path in sources() if path.stem != "start"}
STUCK = re.compile(r"^- `(\w+)`: (.+)$", re.MULTILINE)

SOURCE = """\
# %% [markdown]
# # 11 · Made up
#
# A hundred and ten minutes. It begins.
# ## 1 · First
# ### Exercise 11.1 · One
#
# > Difficulty: ●●○○○  Importance: ●●●○○  10 minutes
# ### Exercise 11.2 · Two
#
# > Difficulty: ●●○○○  Importance: ●●●○○  5 minutes
# ## 2 · Second
# forty minutes of bread
# ## Recap
"""


@pytest.mark.parametrize(
    ("words", "minutes"),
    [
        ("Forty-five minutes.", 45),
        ("One hour.", 60),
        ("Ninety minutes.", 90),
        ("Two and a half hours.", 150),
        ("A hundred and ten minutes, without", 110),
        ("Half an hour", None),
        ("Umpteen minutes.", None),
        ("Now for it.", None),
    ],
)
def test_times_in_words(words, minutes):
    if minutes is None:
        with pytest.raises(ValueError, match=r"is no number|begins the chapter"):
            chapter_minutes(f"# # 01 · X\n#\n# {words}\n")
    else:
        assert chapter_minutes(f"# # 01 · X\n#\n# {words} Then more.\n") == minutes


def test_sections_and_their_exercises():
    first, second = section_times(SOURCE)
    assert (first.heading, first.exercises, first.minutes) == ("1 · First", ("11.1", "11.2"), 15)
    assert (second.heading, second.exercises, second.minutes) == ("2 · Second", (), 0)
    table = minutes_table(SOURCE, {})
    assert "| 1 · First | 11.1, 11.2 | 15 |" in table and "experiments* | | 95 |" in table and "**110**" in table
    page = "a\n<!-- minutes 11 -->\nold\n<!-- /minutes -->\nb\n"
    filled = with_minutes(page, {"11": SOURCE}, {})
    assert filled == f"a\n<!-- minutes 11 -->\n{table}<!-- /minutes -->\nb\n"
    assert with_minutes(filled, {"11": SOURCE}, {}) == filled


def test_what_running_takes_stands_beside_the_sections():
    times = {OPENING: 12, "1 · First": 3, "2 · Second": 150}
    rows = minutes_table(SOURCE, times).splitlines()
    assert "| 1 · First | 11.1, 11.2 | 15 | < 5 s |" in rows and "| 2 · Second | – | – | 2.5 min |" in rows
    assert rows[2] == "| *opening: packages, model, prompts* | | | 10 s |" and rows[-1].endswith("| 2.8 min |")
    assert "| 2 · Second | – | – | – |" in minutes_table(SOURCE, {"1 · First": 3})


def test_seconds_are_counted_to_the_section_in_which_they_are_spent():
    cells = [v4.new_code_cell("load()"), v4.new_markdown_cell("text\n\n## 1 · First"), v4.new_code_cell("a")]
    cells += [v4.new_markdown_cell("## 2 · Second\n\n### 3 · no section"), v4.new_code_cell("b"), v4.new_code_cell("c")]
    used = [2.0, 2.0, 5.4, 5.4, 6.4, 9.5]
    assert seconds_by_section(v4.new_notebook(cells=cells), used) == {OPENING: 2, "1 · First": 3, "2 · Second": 4}


def test_times_are_kept_by_chapter(tmp_path):
    path = tmp_path / "times.json"
    assert read_run_times(path) == {}
    for chapter, seconds in (("02", 7), ("01", 5), ("02", 9)):
        record_run_times(path, chapter, {OPENING: seconds})
    assert read_run_times(path) == {"01": {OPENING: 5}, "02": {OPENING: 9}}


def test_a_process_tells_what_it_has_computed():
    before = cpu_seconds(os.getpid())
    if before is None:
        pytest.skip("this system has no /proc; a Linux would run this")
    while time.process_time() < before + 0.1:
        pass
    assert cpu_seconds(os.getpid()) > before and cpu_seconds(None) is None


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_section_of_the_page_was_timed(chapter):
    headings = [section.heading for section in section_times(CHAPTERS[chapter])]
    assert list(read_run_times(ROOT / RUN_TIMES)[chapter]) == [OPENING, *headings], "run make sync EXECUTE=1"


def test_every_exercise_states_its_minutes():
    for chapter, source in CHAPTERS.items():
        headed = re.findall(r"^# ### Exercise (\d+\.\d+) · ", source, re.MULTILINE)
        counted = [number for section in section_times(source) for number in section.exercises]
        assert headed == counted and counted, chapter


def test_exercises_fit_into_the_time_that_the_chapter_states():
    over = {
        chapter
        for chapter, source in CHAPTERS.items()
        if sum(section.minutes for section in section_times(source)) > chapter_minutes(source)
    }
    assert not over


def test_the_page_has_every_chapter_and_todays_minutes():
    assert re.findall(r"<!-- minutes (\d\d) -->", TEXT) == list(CHAPTERS)
    assert all_derived(["start"])[PAGE] == TEXT, "run make sync"
    titles = [re.search(r"^# # (.+)$", source, re.MULTILINE)[1] for source in CHAPTERS.values()]
    assert re.findall(r"^### (\d\d · .+)$", TEXT, re.MULTILINE) == titles


def test_the_map_states_the_chapters_times():
    start = (ROOT / "solutions/start.py").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^# \| \[(\d\d) · .*\| (\d+) min \|$", start, re.MULTILINE))
    assert {chapter: int(minutes) for chapter, minutes in rows.items()} == {
        chapter: chapter_minutes(source) for chapter, source in CHAPTERS.items()
    }


def test_mistakes_on_the_page_are_ones_that_the_checks_name():
    parts = re.split(r"^### (\d\d) · ", TEXT, flags=re.MULTILINE)[1:]
    for chapter, part in zip(parts[::2], parts[1::2], strict=True):
        listed = STUCK.findall(part)
        assert len(listed) >= 3, chapter
        for exercise, text in listed:
            quoted = re.findall("“(.+?)”", text)
            assert REGISTRY[exercise].chapter == chapter and quoted, exercise
            assert [mistake for mistake in quoted if mistake not in WRONG[exercise]] == [], exercise


def test_commands_on_the_page_exist():
    assert set(re.findall(r"`(?:\w+=\S+ )*make (\w+)", TEXT)) <= set(run.COMMANDS)
    for module in re.findall(r"python -m (utils[\w.]+)", TEXT):
        assert Path(ROOT, *module.split(".")).with_suffix(".py").exists(), module
