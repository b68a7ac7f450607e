"""The minutes in `docs/teaching.md`: for every chapter, a table of its sections, made from what the sources say.

A chapter states its time in its first sentence, in words, and an exercise in its quoted block, in digits. What is left of
a chapter's time is for reading, predictions and experiments. What running a section takes was measured when the chapter was
last executed (`utils.course.timing`). The tables stand between `<!-- minutes 03 -->` and
`<!-- /minutes -->`; `make sync` fills them in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from utils.course.timing import OPENING

MARKED = re.compile(r"(<!-- minutes (\d\d) -->\n).*?(<!-- /minutes -->)", re.DOTALL)
CHAPTER_TIME = re.compile(r"^# ([A-Z][a-z]*(?:[ -][a-z]+)*?) (minutes|hours?)\b", re.MULTILINE)
SECTION_HEADING = re.compile(r"^# (#{2,3}) (.+)$", re.MULTILINE)
EXERCISE_TIME = re.compile(r"^# > Difficulty: .*?(\d+) minutes", re.MULTILINE)
NUMBER_WORDS = {
    **{"a": 0, "and": 0, "half": 0.5, "fifteen": 15},
    **{word: 1 + place for place, word in enumerate("one two three four five six seven eight nine ten".split())},
    **{
        word: 10 * place
        for place, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety hundred".split(), 2)
    },
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
    found: list[SectionTime] = []
    headings = list(SECTION_HEADING.finditer(source))
    ends = [heading.start() for heading in headings[1:]] + [len(source)]
    for heading, end in zip(headings, ends, strict=True):
        level, text = heading.groups()
        if level == "##":
            found.append(SectionTime(text, (), 0))
        minutes = [int(number) for number in EXERCISE_TIME.findall(source[heading.end() : end])]
        if minutes:
            last = found[-1]
            numbers = re.findall(r"^Exercise (\d+\.\d+)", text)
            found[-1] = SectionTime(last.heading, (*last.exercises, *numbers), last.minutes + sum(minutes))
    return [section for section in found if re.match(r"\d+ · ", section.heading)]


def minutes_table(source: str, times: Mapping[str, int] = MappingProxyType({})) -> str:
    """A chapter's sections as a markdown table, with a row for what is left of its time.

    times: heading → seconds that running the section took; what has not been measured gets a dash.
    """
    sections, whole = section_times(source), chapter_minutes(source)
    written = sum(section.minutes for section in sections)
    rows = [f"| *opening: packages, model, prompts* | | | {_runs_for(times.get(OPENING))} |"] if times else []
    rows += [
        f"| {section.heading} | {', '.join(section.exercises) or '–'} | {section.minutes or '–'} | "
        f"{_runs_for(times.get(section.heading))} |"
        for section in sections
    ]
    if written < whole:
        rows.append(f"| *reading, predictions, experiments* | | {whole - written} | |")
    rows.append(
        f"| **in all, as the chapter states it** | | **{whole}** | {_runs_for(sum(times.values()) if times else None)} |"
    )
    return "\n".join(["| section | exercises | minutes | runs for |", "|---|---|---|---|", *rows]) + "\n"


def _runs_for(seconds: int | None) -> str:
    """Rounded, because another machine takes another time: "< 5 s", "15 s", "2 min"."""
    if seconds is None:
        return "–"
    if seconds < 5:
        return "< 5 s"
    return f"{5 * round(seconds / 5)} s" if seconds < 90 else f"{seconds / 60:.1f} min".replace(".0 ", " ")


def with_minutes(
    page: str, chapters: Mapping[str, str], times: Mapping[str, Mapping[str, int]] = MappingProxyType({})
) -> str:
    """The page with the table of every chapter that it marks.

    chapters: number → source. times: number → heading → seconds.
    """

    def table(found: re.Match[str]) -> str:
        return found[1] + minutes_table(chapters[found[2]], times.get(found[2], {})) + found[3]

    return MARKED.sub(table, page)
