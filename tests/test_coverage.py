"""docs/coverage.md and references.bib: links that lead somewhere, entries that say what and where a work is."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

pytest.importorskip("pybtex", reason="pybtex is not installed; pip install -e .[dev] brings it")

from pybtex.database import parse_file

from utils.course.reading import address

ROOT = Path(__file__).resolve().parents[1]
PAGE, LIBRARY = ROOT / "docs/coverage.md", ROOT / "references.bib"
CHAPTERS = {path.stem[:2]: path for path in sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py"))}
NOTEBOOKS = {"start": ROOT / "solutions/start.py", **CHAPTERS}
ENTRIES = parse_file(str(LIBRARY), bib_format="bibtex").entries
LINK = re.compile(r"\[([^\[\]]+)\]\(([^()\s]+)\)")
NOTHING_RECOMMENDED: set[str] = set()
IDENTIFIERS = (
    re.compile(r"arxiv\.org/(?:abs|pdf|html)/(\d{4}\.\d{4,5}|[a-z-]+/\d{7})", re.IGNORECASE),
    re.compile(r"doi\.org/(10\.\d{4,9}/(?:[^\s()\"'<>]|\([^\s()]*\))+)", re.IGNORECASE),
)


def headings(source: str) -> set[str]:
    """The text of every heading in a chapter's py:percent source."""
    return set(re.findall(r"^# #{1,5} (.+?)\s*$", source, re.MULTILINE))


def identifiers(text: str) -> set[str]:
    """arXiv ids and DOIs that stand as addresses in a text, in lower case."""
    return {unquote(found).rstrip(".,;*_`").lower() for pattern in IDENTIFIERS for found in pattern.findall(text)}


def test_links_of_the_coverage_page_lead_to_files_and_headings():
    known = {number: headings(path.read_text(encoding="utf-8")) for number, path in CHAPTERS.items()}
    lost = []
    for text, target in LINK.findall(PAGE.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path = (PAGE.parent / target).resolve()
        if not path.is_file():
            lost.append(f"{target}: no such file")
        elif path.parent.name == "solutions":
            number = path.stem[:2]
            name = text if text in known[number] else text.removeprefix(f"{number} · ")
            if name not in known[number] or not text.startswith(f"{number} · "):
                lost.append(f"{text!r}: no such heading in {CHAPTERS[number].name}")
    assert not lost, "mend these links in docs/coverage.md:\n" + "\n".join(dict.fromkeys(lost))


def test_coverage_page_has_a_table_for_each_document_and_no_empty_cell():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert len(rows) > 100 and all(len(row) == 3 and all(row) for row in cells)


@pytest.mark.parametrize("key", ENTRIES)
def test_entries_are_complete_and_name_chapters(key):
    entry, fields = ENTRIES[key], ENTRIES[key].fields
    missing = [field for field in ("title", "year") if not fields.get(field)]
    assert not missing and entry.persons.get("author"), f"{key} lacks {', '.join(missing) or 'author'}"
    assert re.fullmatch(rf"[a-z]+{fields['year']}[a-z0-9]+", key), f"{key}: a key is name, year, word: wang2022ioi"
    assert address(entry), f"{key} has no doi, eprint or url"
    assert ("eprint" in fields) == (fields.get("archivePrefix") == "arXiv"), (
        f"{key}: eprint and archivePrefix go together"
    )
    chapters = fields.get("keywords", "").removeprefix("chapters: ").split(", ")
    assert set(chapters) <= set(NOTEBOOKS), f"{key}: keywords = {{chapters: 02, 05}}, of {', '.join(NOTEBOOKS)}"
    recommending = {name.removeprefix("read-") for name in fields if name.startswith("read-")}
    assert recommending <= set(chapters), f"{key}: its keywords lack chapters that recommend it"


def test_no_work_stands_twice_in_the_library():
    places = [address(entry).lower() for entry in ENTRIES.values()]
    assert sorted(place for place in set(places) if places.count(place) > 1) == []


@pytest.mark.parametrize("chapter", sorted(NOTEBOOKS.keys() - NOTHING_RECOMMENDED))
def test_every_chapter_recommends_something_to_read_and_says_why(chapter):
    sentences = [entry.fields[f"read-{chapter}"] for entry in ENTRIES.values() if f"read-{chapter}" in entry.fields]
    assert sentences and all(re.fullmatch(r"[A-Z].{15,}[.]", sentence) for sentence in sentences)
    text = NOTEBOOKS[chapter].read_text(encoding="utf-8")
    assert text.count('tags=["read-next"]') == 1 and not re.search(r"\*\*(Read next|Sources)[.]", text), "typed by hand"


def test_chapters_without_a_recommendation_are_still_without_one():
    """The list of exceptions shrinks: strike out a chapter once it recommends something."""
    assert not {name for entry in ENTRIES.values() for name in entry.fields} & {
        f"read-{c}" for c in NOTHING_RECOMMENDED
    }


def test_every_linked_paper_is_in_the_library():
    known = {entry.fields[f].lower() for entry in ENTRIES.values() for f in ("eprint", "doi") if f in entry.fields}
    files = (*NOTEBOOKS.values(), ROOT / "README.md")
    unknown = {path.name: sorted(identifiers(path.read_text(encoding="utf-8")) - known) for path in files}
    missing = {name: found for name, found in unknown.items() if found}
    assert not missing, f"linked, and not in references.bib: {missing}"
