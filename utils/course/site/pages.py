"""The pages beside the chapters: the first page, the glossary, the library, and what docs/ says to those who teach."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from mdit_py_plugins.anchors.index import slugify
from nbformat import NotebookNode

from utils.course.deriving import ROOT
from utils.course.site.chapters import site_links

DOCS = ROOT / "docs"
REFERENCE = ("teaching.md", "coverage.md", "data-statement.md", "compatibility.md", "colab.md")
GLOSSARY = re.compile(r"\*\*Glossary\.\*\*(.*?)(?:\n\s*\n|\Z)", re.DOTALL)
# "*Direct path*, *edge*: ", "*Association score* q(x): ", at the beginning or after a sentence.
TERM = re.compile(r"(?:^|(?<=[.;)] ))(\*[^*]+\*(?:(?:, | and | or )\*[^*]+\*)*(?: [^\s:*.]{1,8})?): ")
SECTION = re.compile(r"\[(\d\d|start) · ([^\]]+)\]\(([^)#\s]*?)((?:\d\d|start)\w*\.ipynb)\)")
PARTS = (("Part one", range(0, 7)), ("Part two", range(7, 10)), ("And further", range(10, 100)))


def other_pages(notebooks: Mapping[str, NotebookNode], note: str = "") -> dict[str, str]:
    """name → markdown of every page that is no chapter. notebooks: the chapters by stem, in their order. note: markdown
    that comes first."""
    pages = {f"{stem}.ipynb" for stem in notebooks} | set(REFERENCE)
    found = {name: (DOCS / name).read_text(encoding="utf-8") for name in REFERENCE}
    found = {name: site_links(with_sections(text, notebooks), pages) for name, text in found.items()}
    found["glossary.md"] = glossary_page(notebooks)
    found["library.md"] = (
        "# Works cited and works to read\n\nEvery work that the chapters cite or recommend stands here. At its end, each "
        "chapter says which of them to read next, and why.\n\n```{bibliography}\n:all:\n```\n"
    )
    index = site_links((DOCS / "site" / "index.md").read_text(encoding="utf-8"), pages)
    title, _, rest = index.partition("\n")
    found["index.md"] = f"{title}\n\n{note}\n{rest}".replace("@contents@", contents(list(notebooks)))
    return found


def contents(stems: Sequence[str]) -> str:
    """The table of contents, as Sphinx wants it: one list for each part of the course, and one for what is looked up."""
    chapters = [stem for stem in stems if stem != "start"]
    lists = [("", ["start"] if "start" in stems else [])]
    lists += [(name, [stem for stem in chapters if int(stem[:2]) in numbers]) for name, numbers in PARTS]
    lists.append(("To look up", ["glossary", "library", *(Path(name).stem for name in REFERENCE)]))
    trees = []
    for caption, entries in lists:
        head = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
        trees += [f"```{{toctree}}\n{head}\n" + "\n".join(entries) + "\n```"] if entries else []
    return "\n\n".join(trees)


# --- links to sections ----------------------------------------------------------------------------------------------------


def headings(notebook: NotebookNode) -> set[str]:
    """The texts of all headings in a notebook."""
    reader, found = MarkdownIt(), set()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            tokens = reader.parse(cell.source)
            found |= {tokens[i + 1].content for i, token in enumerate(tokens) if token.type == "heading_open"}
    return found


def with_sections(text: str, notebooks: Mapping[str, NotebookNode]) -> str:
    """Links such as [03 · 5 · Heads](../solutions/03_….ipynb), which name a section, made to lead to it."""
    known = {stem: headings(notebook) for stem, notebook in notebooks.items()}

    def with_fragment(found: re.Match[str]) -> str:
        chapter, section, folder, name = found.groups()
        there = section in known.get(Path(name).stem, ())
        return f"[{chapter} · {section}]({folder}{name}#{slugify(section)})" if there else found[0]

    return SECTION.sub(with_fragment, text)


# --- glossary -------------------------------------------------------------------------------------------------------------


def glossary_of(notebook: NotebookNode) -> list[tuple[str, str]]:
    """(term, definition) of every entry of a chapter's glossary, which is one paragraph: *Term*: definition. *Term*: …"""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := GLOSSARY.search(cell.source)):
            _, *parts = TERM.split(" ".join(found[1].split()))
            return [(term.replace("*", ""), text.strip()) for term, text in zip(parts[::2], parts[1::2], strict=True)]
    return []


def glossary_page(notebooks: Mapping[str, NotebookNode]) -> str:
    """All chapters' glossaries in one, by term: the definition of every chapter that has the term, with a link to it."""
    entries: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # term → definition → chapters
    for stem, notebook in notebooks.items():
        for term, text in glossary_of(notebook):
            entries[term][text].append(stem)
    told = "The words of all chapters. The numbers lead to the chapters that use a word in this sense."
    lines = ["# Glossary", "", told, ""]
    for term in sorted(entries, key=lambda term: (term.lower(), term)):
        lines.append(term)
        for text, stems in entries[term].items():
            links = ", ".join(f"[{stem.split('_')[0]}]({stem}.ipynb)" for stem in stems)
            lines.append(f": {text[:1].upper()}{text[1:]} ({links})\n")
    return "\n".join(lines) + "\n"
