"""docs/teaching.md: its minutes are the sources', its mistakes are those that the checks name, its commands exist."""

import re
from pathlib import Path

import pytest

from tests.checks import REGISTRY
from tests.wrong import WRONG
from utils.course import run
from utils.course.deriving import ROOT, all_derived, sources
from utils.course.teaching import chapter_minutes, minutes_table, section_times, with_minutes

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
    table = minutes_table(SOURCE)
    assert "| 1 · First | 11.1, 11.2 | 15 |" in table and "experiments* | | 95 |" in table and "**110**" in table
    page = "a\n<!-- minutes 11 -->\nold\n<!-- /minutes -->\nb\n"
    assert with_minutes(page, {"11": SOURCE}) == f"a\n<!-- minutes 11 -->\n{table}<!-- /minutes -->\nb\n"
    assert with_minutes(with_minutes(page, {"11": SOURCE}), {"11": SOURCE}) == with_minutes(page, {"11": SOURCE})


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
