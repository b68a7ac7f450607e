"""What a chapter recommends to read next, made from the library, `references.bib`.

An entry that chapter 03 recommends has a field `read-03` with a sentence that says why (`read-start` for the first
notebook). The sentences are LaTeX, as all of the file is. Recommendations stand in the order of the file.
"""

from __future__ import annotations

import re
from pathlib import Path

from pybtex.database import Entry, parse_file
from pybtex.richtext import Text

HEADING = "**Read next**"
ADDRESSES = (("doi", "https://doi.org/{}"), ("eprint", "https://arxiv.org/abs/{}"), ("url", "{}"))


def read_next(library: Path, chapter: str) -> str:
    """The recommendations for a chapter ("03", "start") as a markdown list, or "" where no entry has any for it.

    Raises ValueError if an entry that is recommended lacks its author, title, year or address, which names the entry, or
    holds a LaTeX command such as \\emph, which names the text; PybtexError if the library is no BibTeX or repeats a key.
    """
    entries = parse_file(str(library), bib_format="bibtex").entries.items()
    lines = [_recommendation(key, entry, chapter) for key, entry in entries if f"read-{chapter}" in entry.fields]
    return "\n".join([HEADING, "", *lines]) if lines else ""


def _recommendation(key: str, entry: Entry, chapter: str) -> str:
    """One line of the list: who, when, the title linked to where it is, and why."""
    missing = [name for name in ("title", "year") if not entry.fields.get(name)]
    if missing or not entry.persons.get("author") or address(entry) is None:
        lacking = ", ".join(missing) or "author, or a doi, eprint or url"
        raise ValueError(f"{key} is recommended and lacks its {lacking}")
    title, why = _plain(entry.fields["title"]), _plain(entry.fields[f"read-{chapter}"])
    escaped = re.sub(r"([\\*_\[\]`])", r"\\\1", title)
    return f"- {short_authors(entry)} {entry.fields['year']}, [{escaped}]({address(entry)}). {why}"


def short_authors(entry: Entry) -> str:
    """Family names as in a citation: Lens; Heimersheim and Nanda; Wang et al."""
    names = [_plain(" ".join(person.prelast_names + person.last_names)) for person in entry.persons["author"]]
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


def address(entry: Entry) -> str | None:
    """Where the work is: its DOI, its page at arXiv, or else the address that the entry names; None without any."""
    found = (form.format(entry.fields[name]) for name, form in ADDRESSES if entry.fields.get(name))
    return next(found, None)


def _plain(latex: str) -> str:
    """LaTeX as plain text: accents and dashes as characters, no braces, one space between words."""
    text = " ".join(str(Text.from_latex(latex)).split())
    if "\\" in text:
        raise ValueError(f"{latex!r} holds a LaTeX command that has no plain form; write it without")
    return text
