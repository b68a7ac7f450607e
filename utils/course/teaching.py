"""The minutes in `docs/teaching.md`: for every chapter, a table of its sections, made from what the sources say.

A chapter states its time in its first sentence, in words, and an exercise in its quoted block, in digits. What is left of
a chapter's time is for reading, predictions and experiments. The tables stand between `<!-- minutes 03 -->` and
`<!-- /minutes -->`; `make sync` fills them in.

What running a section takes is measured whenever `make sync EXECUTE=1` runs the chapter, and kept in docs/run_times.json:
CPU seconds of the kernel, so that what else the machine does counts as little as possible, rounded, on the machine that ran
the chapter last.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from nbformat import NotebookNode

RUN_TIMES = "docs/run_times.json"
OPENING = "opening"  # what comes before the first section: packages, model, prompts
MARKED = re.compile(r"(<!-- minutes (\d\d) -->\n).*?(<!-- /minutes -->)", re.DOTALL)
CHAPTER_TIME = re.compile(r"^# ([A-Z][a-z]*(?:[ -][a-z]+)*?) (minutes|hours?)\b", re.MULTILINE)
SECTION_HEADING = re.compile(r"^# ## (.+)$", re.MULTILINE)
TIMED_EXERCISE = re.compile(
    r"^# ### Exercise (\d+\.\d+)\b.*\n(?:#(?! ##).*\n)*?# > Difficulty: .*?(\d+) minutes", re.MULTILINE
)
TIMED_SECTION = re.compile(r"^## (\d+ · .+)$", re.MULTILINE)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred".split()
NUMBER_WORDS = {
    **{"a": 0, "and": 0, "half": 0.5, "fifteen": 15},
    **{word: 1 + place for place, word in enumerate("one two three four five six seven eight nine ten".split())},
    **{word: 10 * place for place, word in enumerate(TENS, start=2)},
}


@dataclass(frozen=True)
class SectionTime:
    """A section: its heading, and the numbers and minutes of its exercises."""

    heading: str
    exercises: tuple[str, ...]
    minutes: int


def chapter_minutes(source: str) -> int:
    """The time that a chapter's first sentence states. Raises ValueError if there is none, or in words not known here."""
    found = CHAPTER_TIME.search(source)
    if found is None:
        raise ValueError("no sentence like 'Ninety minutes.' or 'Two and a half hours.' begins the chapter")
    words = re.split(r"[ -]", found[1].lower())
    if unknown := [word for word in words if word not in NUMBER_WORDS]:
        raise ValueError(f"{found[0][2:]!r}: {unknown[0]!r} is no number that utils.course.teaching knows")
    return round(sum(NUMBER_WORDS[word] for word in words) * (60 if found[2].startswith("hour") else 1))


def section_times(source: str) -> list[SectionTime]:
    """The numbered sections of a chapter, in order, each with what its exercises take."""
    _, *parts = SECTION_HEADING.split(source)
    found = []
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        if re.match(r"\d+ · ", heading):
            exercises = TIMED_EXERCISE.findall(text)
            minutes = sum(int(minutes) for _, minutes in exercises)
            found.append(SectionTime(heading, tuple(number for number, _ in exercises), minutes))
    return found


def minutes_table(source: str, times: Mapping[str, int]) -> str:
    """A chapter's sections as a markdown table, with a row for what is left of its time.

    times: heading → seconds that running the section took; what has not been measured gets a dash.
    """
    sections, whole = section_times(source), chapter_minutes(source)
    written = sum(section.minutes for section in sections)
    rows = [f"| *opening: packages, model, prompts* | | | {_runs_for(times.get(OPENING))} |"] if times else []
    for section in sections:
        numbers, runs_for = ", ".join(section.exercises) or "–", _runs_for(times.get(section.heading))
        rows.append(f"| {section.heading} | {numbers} | {section.minutes or '–'} | {runs_for} |")
    if written < whole:
        rows.append(f"| *reading, predictions, experiments* | | {whole - written} | |")
    running = _runs_for(sum(times.values()) if times else None)
    rows.append(f"| **in all, as the chapter states it** | | **{whole}** | {running} |")
    return "\n".join(["| section | exercises | minutes | runs for |", "|---|---|---|---|", *rows]) + "\n"


def _runs_for(seconds: int | None) -> str:
    """Rounded, because another machine takes another time: "< 5 s", "15 s", "2 min"."""
    if seconds is None:
        return "–"
    if seconds < 5:
        return "< 5 s"
    return f"{5 * round(seconds / 5)} s" if seconds < 90 else f"{seconds / 60:.1f} min".replace(".0 ", " ")


def with_minutes(page: str, chapters: Mapping[str, str], times: Mapping[str, Mapping[str, int]]) -> str:
    """The page with the table of every chapter that it marks.

    chapters: number → source. times: number → heading → seconds.
    """

    def table(found: re.Match[str]) -> str:
        return found[1] + minutes_table(chapters[found[2]], times.get(found[2], {})) + found[3]

    return MARKED.sub(table, page)


# --- what running takes ---------------------------------------------------------------------------------------------


def cpu_seconds(pid: int | None) -> float | None:
    """What a process has computed so far, in seconds, from /proc; None where the system does not tell (Linux tells)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def seconds_by_section(notebook: NotebookNode, used: Sequence[float]) -> dict[str, int]:
    """Heading → seconds, for the numbered sections and the opening. used: seconds used after each cell, growing."""
    found, section, before = {OPENING: 0.0}, OPENING, 0.0
    for cell, after in zip(notebook.cells, used, strict=True):
        if cell.cell_type == "markdown" and (headings := TIMED_SECTION.findall(cell.source)):
            section = headings[-1]
            found |= dict.fromkeys(headings, 0.0)
        found[section] += after - before
        before = after
    return {heading: round(seconds) for heading, seconds in found.items()}


def read_run_times(path: Path) -> dict[str, dict[str, int]]:
    """chapter number → heading → seconds; empty where nothing has been measured."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def record_run_times(path: Path, chapter: str, times: Mapping[str, int]) -> None:
    """Put a chapter's times into the file. Chapters that are executed side by side wait for one another."""
    with FileLock(path.with_suffix(".lock")):
        known = read_run_times(path) | {chapter: dict(times)}
        text = json.dumps(dict(sorted(known.items())), ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
