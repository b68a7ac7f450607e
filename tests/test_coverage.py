"""docs/coverage.md and references.bib: links that lead somewhere, entries that say what and where a work is."""

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE, LIBRARY = ROOT / "docs/coverage.md", ROOT / "references.bib"
CHAPTERS = {path.stem[:2]: path for path in sorted((ROOT / "solutions").glob("[0-9][0-9]_*.py"))}
LINK = re.compile(r"\[([^\[\]]+)\]\(([^()\s]+)\)")
ENTRY = re.compile(r"^@\w+\{([^,\s]+),\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)  # one field a line
IDENTIFIERS = (
    re.compile(r"arxiv\.org/(?:abs|pdf|html)/(\d{4}\.\d{4,5}|[a-z-]+/\d{7})", re.IGNORECASE),
    re.compile(r"doi\.org/(10\.\d{4,9}/(?:[^\s()\"'<>]|\([^\s()]*\))+)", re.IGNORECASE),
)


def headings(source: str) -> set[str]:
    """The text of every heading in a chapter's py:percent source."""
    return set(re.findall(r"^# #{1,5} (.+?)\s*$", source, re.MULTILINE))


def entries() -> dict[str, dict[str, str]]:
    """key → field → value. Keys that stand twice, and lines that are no field, fail here instead of being left out."""
    text = LIBRARY.read_text(encoding="utf-8")
    found = ENTRY.findall(text)
    twice = [key for key, count in Counter(key for key, _ in found).items() if count > 1]
    assert not twice, f"keys that stand twice: {twice}"
    assert len(found) == len(re.findall(r"^\s*@", text, re.MULTILINE)), "an entry has another form than those beside it"
    for key, body in found:
        assert len(FIELD.findall(body)) == len(body.strip().splitlines()), f"{key}: not one `name = {{value}},` a line"
    return {key: dict(FIELD.findall(body)) for key, body in found}


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


@pytest.mark.parametrize("key", entries())
def test_entries_are_complete_and_name_chapters(key):
    entry = entries()[key]
    missing = [field for field in ("author", "title", "year") if not entry.get(field)]
    assert not missing, f"{key} lacks {', '.join(missing)}"
    assert re.fullmatch(rf"[a-z]+{entry['year']}[a-z0-9]+", key), f"{key}: a key is name, year, word: wang2022ioi"
    assert any(entry.get(field) for field in ("doi", "eprint", "url")), f"{key} has no doi, eprint or url"
    assert ("eprint" in entry) == (entry.get("archivePrefix") == "arXiv"), (
        f"{key}: eprint and archivePrefix go together"
    )
    chapters = entry.get("keywords", "").removeprefix("chapters: ").split(", ")
    assert set(chapters) <= set(CHAPTERS), f"{key}: keywords = {{chapters: 02, 05}}, of {', '.join(CHAPTERS)}"


def test_every_linked_paper_is_in_the_library():
    known = {entry[field].lower() for entry in entries().values() for field in ("eprint", "doi") if field in entry}
    files = (*CHAPTERS.values(), ROOT / "README.md")
    unknown = {path.name: sorted(identifiers(path.read_text(encoding="utf-8")) - known) for path in files}
    missing = {name: found for name, found in unknown.items() if found}
    assert not missing, f"linked, and not in references.bib: {missing}"
