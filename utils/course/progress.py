"""How far you are: what was passed, tried and left open in each chapter, the last mistake, and what to do next.

    progress()                               in a notebook: a table
    make progress                            in a terminal; or python -m utils.course.progress

It reads the record that the checks keep on this machine (`utils.course.recording`) and the list of exercises in `chapters/`.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from utils.course.console import make_output_safe
from utils.course.recording import NOT_WRITTEN, record_path

CHAPTER_FOLDER = Path(__file__).resolve().parents[2] / "chapters"
HEADS = ("chapter", "passed", "tried", "open", "next exercise")


@dataclass
class ChapterProgress:
    """One chapter: its exercises in the order of the notebook, and how each stands.

    `tried`: run with code in it, and never passed. An exercise that has passed once stays passed.
    """

    stem: str
    title: str
    exercises: tuple[str, ...]
    passed: set[str] = field(default_factory=set)
    tried: set[str] = field(default_factory=set)
    last_mistake: str = ""  # of the last failed run of an exercise that has not passed yet: "zero_head: you zeroed …"

    @property
    def open(self) -> list[str]:
        """Neither passed nor tried."""
        return [name for name in self.exercises if name not in self.passed | self.tried]

    @property
    def next_exercise(self) -> str:
        """The first that has not passed; "" where all have."""
        return next((name for name in self.exercises if name not in self.passed), "")

    @property
    def cells(self) -> tuple[str, ...]:
        """What a row of the table says, under `HEADS`."""
        numbers = (f"{len(self.passed)} of {len(self.exercises)}", str(len(self.tried)), str(len(self.open)))
        return (self.title, *numbers, self.next_exercise or "all passed")


@dataclass
class Overview:
    """What `progress()` returns: a notebook shows it as a table, `print` as text."""

    chapters: list[ChapterProgress]
    notes: list[str]

    def __repr__(self) -> str:
        rows = [HEADS, *(chapter.cells for chapter in self.chapters)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        for number, chapter in reversed(list(enumerate(self.chapters, start=2))):
            if chapter.last_mistake:
                lines.insert(number, _wrapped(f"last mistake · {chapter.last_mistake}", "     "))
        return "\n".join([*lines, "", *(_wrapped(note) for note in self.notes)])

    def _repr_html_(self) -> str:
        heads = "".join(f'<th scope="col">{name}</th>' for name in (*HEADS, "last mistake"))
        rows = "".join(_html_row(chapter) for chapter in self.chapters)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        style = 'style="text-align: left"'
        return f"<table {style}><thead><tr {style}>{heads}</tr></thead><tbody>{rows}</tbody></table>{notes}"


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 110, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _html_row(chapter: ChapterProgress) -> str:
    title, *cells = (escape(cell) for cell in (*chapter.cells, chapter.last_mistake))
    link = f'<th scope="row" style="text-align: left"><a href="{chapter.stem}.ipynb">{title}</a></th>'
    return "<tr>" + link + "".join(f'<td style="text-align: left">{cell}</td>' for cell in cells) + "</tr>"


def progress() -> Overview:
    """Where you stand in every chapter, from the record of the checks that you ran on this machine."""
    chapters = exercises_by_chapter()
    try:
        path = record_path()
    except RuntimeError as error:
        return Overview(chapters, [f"Your runs are not recorded: COURSE_PROGRESS names no file here ({error})."])
    if path is None:
        return Overview(chapters, ["Your runs are not recorded: COURSE_PROGRESS=0 turns the record off."])
    runs, damaged, problem = read_runs(path)
    notes = [_what_next(chapters, _enter(runs, chapters))]
    if problem:
        notes.append(f"The record {path} cannot be read ({problem}), so this table begins at zero.")
    if damaged:
        notes.append(f"{damaged} damaged line{'s' * (damaged > 1)} of the record left out.")
    notes.append(f"The record is {path}, on this machine only; delete the file to start over.")
    return Overview(chapters, notes)


def exercises_by_chapter() -> list[ChapterProgress]:
    """Every chapter with exercises, from the scripts in `chapters/`: its title, and its checks in the order of the text."""
    found = []
    for path in sorted(CHAPTER_FOLDER.glob("[0-9][0-9]_*.py")):
        names = tuple(re.findall(r"^check_(\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))
        found.append(ChapterProgress(path.stem, title_of(path), names))
    return found


def title_of(source: Path) -> str:
    """The first heading of a notebook's script, with the chapter's number."""
    heading = re.search(r"^# # (.+)$", source.read_text(encoding="utf-8"), re.MULTILINE)
    return heading[1] if heading else source.stem


def read_runs(path: Path) -> tuple[list[dict], int, str]:
    """The runs in a record, oldest first; how many lines are damaged; and why the file cannot be read, or ""."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0, ""
    except OSError as error:
        return [], 0, error.strerror or type(error).__name__
    runs = [_run_of(line) for line in lines if line.strip()]
    return [run for run in runs if run is not None], runs.count(None), ""


def _run_of(line: bytes) -> dict | None:
    try:
        run = json.loads(line)
    except (ValueError, RecursionError):  # cut off, mixed with another line, or not UTF-8
        return None
    texts = ("time", "chapter", "exercise", "mistake")
    whole = isinstance(run, dict) and all(isinstance(run.get(name), str) for name in texts)
    return run if whole and isinstance(run.get("passed"), bool) else None


def _enter(runs: Sequence[dict], chapters: Sequence[ChapterProgress]) -> ChapterProgress | None:
    """Enter every run in its chapter, and return the chapter of the last. Exercises that the course no longer has are
    passed over."""
    home = {name: chapter for chapter in chapters for name in chapter.exercises}
    known = [(run, home[run["exercise"]], run["exercise"]) for run in runs if run["exercise"] in home]
    for run, chapter, name in known:
        if run["passed"]:
            chapter.passed.add(name)
    for run, chapter, name in known:
        if name not in chapter.passed and run["mistake"] != NOT_WRITTEN:
            chapter.tried.add(name)
            chapter.last_mistake = f"{name}: {run['mistake']}"
    return known[-1][1] if known else None


def _what_next(chapters: Sequence[ChapterProgress], last: ChapterProgress | None) -> str:
    """The next exercise where the learner last worked, else in the first chapter that is not done."""
    for chapter in [last, *chapters]:
        if chapter and chapter.next_exercise:
            return f"Next: {chapter.next_exercise}, in {chapter.title}."
    if not chapters:
        return f"There are no chapters in {CHAPTER_FOLDER}, so nothing can be counted."
    return "You have passed every exercise of the course."


def main() -> int:
    make_output_safe()
    print(progress())
    return 0


if __name__ == "__main__":
    sys.exit(main())
