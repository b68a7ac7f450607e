"""A deck of slides for each chapter, for the room: what is asked, what is to be written, and every figure on a slide.

The slides follow from the executed solution: its headings, the first paragraph below each, the predictions and exercises
(without hints and answers), and the figures. What is folded in the chapter ("Our guess", "What you should find") becomes
the speaker's notes. nbconvert lays the slides out with reveal.js, whose files the package sphinx-revealjs brings along,
so that nothing is fetched.
"""

from __future__ import annotations

import importlib.resources
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert import SlidesExporter
from nbformat import NotebookNode, v4

from utils.course.deriving import ROOT
from utils.course.site.figures import with_static_outputs

DECK_TEMPLATE = ROOT / "docs" / "site" / "slides.html.j2"
REVEAL = importlib.resources.files("sphinx_revealjs") / "_static" / "revealjs"
FONT = "dist/theme/fonts/source-sans-pro"
REVEAL_FILES = (
    *("LICENSE", "dist/reset.css", "dist/reveal.css", "dist/reveal.js", "dist/theme/white.css"),
    "plugin/notes/notes.js",
    *(f"{FONT}/{name}" for name in ("LICENSE", "source-sans-pro.css")),
    *(f"{FONT}/source-sans-pro-{kind}.woff" for kind in ("regular", "italic", "semibold", "semibolditalic")),
)
WITHOUT_CODE = {
    **{"reveal_url_prefix": "_static/reveal", "reveal_theme": "white"},
    **dict.fromkeys(("exclude_input", "exclude_input_prompt", "exclude_output_prompt", "exclude_anchor_links"), True),
}
FOLDED = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.DOTALL)
ANY_HEADING = re.compile(r"^(#{1,3}) (.+)$", re.MULTILINE)
QUESTION = re.compile(r"^\*(What do you expect\?|Before you go on[^*]*)\*(.*?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
WORDED_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\([^)\s]+\)")
FORMULA = re.compile(r"`[^`\n]*`|\$\$(.+?)\$\$|\$([^$\n]+)\$", re.DOTALL)
SKIPPED = {"setup", "model", "solution", "answer", "read-next"}  # tags of cells that no class needs on a wall
DRAWN = ("<figure", "data-attention=")


def deck(executed: NotebookNode) -> NotebookNode:
    """The chapter's slides as a notebook in nbconvert's sense: every cell says whether it begins a slide, goes below the
    last one, or holds the speaker's notes."""
    slides: list[NotebookNode] = []
    for cell in with_static_outputs(executed).cells:
        if SKIPPED & set(cell.metadata.get("tags", [])):
            continue
        slides += _from_text(cell.source) if cell.cell_type == "markdown" else _from_outputs(cell)
    for number, slide in enumerate(slides):
        slide.id = f"slide-{number}"  # not a random one: the same chapter gives the same bytes
    return v4.new_notebook(cells=slides, metadata={"language_info": {"name": "python"}})


def _from_text(text: str) -> Iterator[NotebookNode]:
    """The slides of a markdown cell, in its order: up to its first heading, and from heading to heading."""
    starts = [heading.start() for heading in ANY_HEADING.finditer(text)]
    for start, end in zip([0, *starts], [*starts, len(text)], strict=True):
        yield from _from_part(text[start:end])


def _from_part(text: str) -> Iterator[NotebookNode]:
    """What stands on the wall of a heading and the text below it: the beginning, and the question. Then the notes to it."""
    folded = [(title, inner.strip()) for title, inner in FOLDED.findall(text) if not title.startswith("Hint")]
    text = FOLDED.sub("", text)
    if heading := ANY_HEADING.match(text):
        level, title = heading.groups()
        blocks = [block.strip() for block in QUESTION.sub("", text[heading.end() :]).split("\n\n") if block.strip()]
        blocks = [block for block in blocks if not block.startswith("**Glossary.**")]
        shown, rest = (blocks[:2], []) if level == "###" else _opening(blocks)
        yield _slide("subslide" if level == "###" else "slide", "\n\n".join([f"{level} {title}", *shown]))
        if level == "#" and rest:
            yield _slide("subslide", "\n\n".join(rest))
    if question := QUESTION.search(text):
        yield _slide("subslide", f"### {question[1]}\n\n{question[2].strip()}")
    if folded:
        yield _slide("notes", "\n\n".join(f"**{title}**\n\n{inner}" for title, inner in folded))


def _opening(blocks: list[str]) -> tuple[list[str], list[str]]:
    """The first paragraph, with the formula or the example that ends its sentence, and the rest."""
    many = 1 if not blocks or blocks[0].endswith((".", "?", "!", ".*", ")")) else 2
    return blocks[:many], blocks[many:]


def _from_outputs(cell: NotebookNode) -> Iterator[NotebookNode]:
    """A slide for each drawn output of a code cell. Tables and printed lines stay in the chapter."""
    for output in cell.outputs:
        drawn = output.get("data", {}).get("text/html", "")
        if any(mark in drawn for mark in DRAWN):
            yield v4.new_code_cell(outputs=[output], metadata={"slideshow": {"slide_type": "subslide"}})


def _slide(kind: str, text: str) -> NotebookNode:
    return v4.new_markdown_cell(with_mathml(WORDED_LINK.sub(r"\1", text)), metadata={"slideshow": {"slide_type": kind}})


def with_mathml(text: str) -> str:
    """Markdown whose formulas are MathML, which a browser draws itself. Code is left as it is."""

    def drawn(found: re.Match[str]) -> str:
        if found[1] is None and found[2] is None:
            return found[0]
        formula = convert((found[1] or found[2]).strip(), display="block" if found[1] else "inline")
        return formula.replace("_", "&#95;").replace("*", "&#42;")  # they would be read as emphasis

    return FORMULA.sub(drawn, text)


def write_slides(out: Path, executed: Mapping[str, NotebookNode]) -> None:
    """Write slides_NN_name.html beside the pages of a built site, and reveal.js into its _static folder.

    executed: the solutions with their outputs, by stem; `start` gets no slides.
    """
    exporter = SlidesExporter(raw_template=DECK_TEMPLATE.read_text(encoding="utf-8"), **WITHOUT_CODE)
    for stem, notebook in executed.items():
        if stem != "start":
            page, _ = exporter.from_notebook_node(deck(notebook), resources={"metadata": {"name": stem}})
            (out / f"slides_{stem}.html").write_text(page, encoding="utf-8")
    for name in REVEAL_FILES:
        target = out / "_static" / "reveal" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((REVEAL / name).read_bytes())
    shutil.copy(DECK_TEMPLATE.with_name("slides.css"), out / "_static")
