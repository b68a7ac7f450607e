"""A chapter's page: its exercise notebook, with the outputs of the executed solution and the answers folded."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from utils.course.deriving import ROOT, exercises, links_to
from utils.course.site.figures import with_static_outputs

DETAILS = re.compile(r"<details>\s*<summary>(.*?)</summary>\n*", re.DOTALL)
PAGE_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
NOTEBOOK_LINK = re.compile(r'<a href="((?:start|\d\d)\w*)\.ipynb"[^>]*>(.*?)</a>', re.DOTALL)
WITH_SCHEME = re.compile(r"[a-z]+:")
OPENING_NOTE = (
    "Below are the outputs of our solution. What is folded can be unfolded all at once, with the switch at the top."
)
SLIDES_NOTE = (
    '\n<p>For teachers: <a href="slides_{stem}.html">this chapter as slides</a>, with notes for the speaker.</p>'
)


def chapter_page(source: Path, executed: NotebookNode, pages: Collection[str]) -> NotebookNode:
    """The notebook that Sphinx makes a page of.

    source: solutions/NN_name.py. executed: the solution with its outputs. pages: what else the site has, such as
    "03_activation_patching.ipynb"; links to other notebooks become plain text.
    """
    page = with_static_outputs(exercises(executed))
    slides = "" if source.stem == "start" else SLIDES_NOTE.format(stem=source.stem)
    page.cells.insert(1, nbformat.v4.new_markdown_cell(opening(source) + slides))
    for cell in page.cells:
        tags = cell.metadata.get("tags", [])
        cell.metadata = NotebookNode({"tags": ["hide-input"]} if "setup" in tags else {})
        if cell.cell_type == "markdown":
            cell.source = site_links(with_folds(cell.source), pages)
        for data in (output.data for output in cell.get("outputs", []) if "text/html" in output.get("data", {})):
            data["text/html"] = NOTEBOOK_LINK.sub(lambda found: _page_link(found, pages), data["text/html"])
    page.metadata.pop("widgets", None)
    return page


def _page_link(found: re.Match[str], pages: Collection[str]) -> str:
    """A link of an output to a notebook, such as those of the progress table: to its page, or as plain text without one."""
    return f'<a href="{found[1]}.html">{found[2]}</a>' if f"{found[1]}.ipynb" in pages else found[2]


def opening(source: Path) -> str:
    """How to get from the page to the exercises: on the set branch of the repository, once it has an address."""
    path = f"chapters/{source.stem}.ipynb"
    way = f"To write the code yourself, start <code>make lab</code> and open <code>{path}</code>."
    if links := links_to(path):
        buttons = " ".join(f'<a class="launch" href="{link}">{host}</a>' for host, link in links.items())
        way = f"To write the code yourself, open the exercises: {buttons}"
    return f'<div class="opening"><p>{way}</p><p>{OPENING_NOTE}</p></div>'


def with_folds(text: str) -> str:
    """Folded parts as the site's switch and style find them, and with what is in them read as markdown."""
    text = DETAILS.sub(lambda found: f'<details class="{_kind(found[1])}"><summary>{found[1]}</summary>\n\n', text)
    return text.replace("</details>", "\n\n</details>\n")


def _kind(summary: str) -> str:
    return "folded hint" if summary.startswith("Hint") else "folded answer" if summary == "Answer" else "folded reading"


def site_links(text: str, pages: Collection[str]) -> str:
    """Links between the repository's files as links between pages; what has no page is linked on GitHub or is plain text."""

    def rewritten(found: re.Match[str]) -> str:
        words, target, fragment = found[1], found[2], found[3] or ""
        if WITH_SCHEME.match(target):
            return found[0]
        name = Path(target).name
        if name in pages:
            return f"[{words}]({name}{fragment})"
        github = _on_github(target)
        return f"[{words}]({github})" if github else words

    return PAGE_LINK.sub(rewritten, text)


def _on_github(target: str) -> str | None:
    """The address of a file of the repository. target: its path, from docs/ or solutions/ (`../`) or from the root."""
    path = target.removeprefix("../")
    return links_to(path if (ROOT / path).exists() else f"docs/{path}").get("GitHub")
