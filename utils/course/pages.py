"""Executed notebooks as web pages that work without the internet, and their index."""

from __future__ import annotations

import copy
import html
import importlib.resources
import re
from pathlib import Path

import plotly.io as pio
from latex2mathml.converter import convert as to_mathml
from nbconvert import HTMLExporter
from nbformat import NotebookNode

FORMULA = re.compile(
    r"(?P<code>```.*?```|`[^`\n]+`)|\$\$(?P<block>.+?)\$\$"
    r"|(?<![\\\w$])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$])?)\$(?!\d)",
    re.DOTALL,
)
CHAPTER_LINK = re.compile(r'href="(start|\d\d_\w+)\.ipynb"')
PLOTLY = "application/vnd.plotly.v1+json"
STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}td,th{text-align:left;padding:.3em 1em}"
)


def write_page(notebook: NotebookNode, title: str, path: Path) -> None:
    """Write one notebook as HTML. Plotly's JavaScript, from its wheel, is put once beside the pages."""
    library = path.parent / "plotly.min.js"
    if not library.exists():
        library.write_text(
            importlib.resources.files("plotly").joinpath("package_data/plotly.min.js").read_text("utf-8"), "utf-8"
        )
    page, _ = HTMLExporter().from_notebook_node(_with_plots(_with_formulas(notebook)), {"metadata": {"name": title}})
    page = CHAPTER_LINK.sub(r'href="\1.html"', page)  # another chapter's page, not its notebook
    page = page.replace("<head>", f'<head><script src="{library.name}"></script>', 1)
    path.write_text(page, encoding="utf-8")


def _with_formulas(notebook: NotebookNode) -> NotebookNode:
    """nbconvert leaves formulas to a script from the internet: give them as MathML, which browsers draw themselves."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = FORMULA.sub(_formula, cell.source)
    return notebook


def _formula(match: re.Match[str]) -> str:
    if match["code"]:
        return match["code"]
    latex = match["block"] or match["inline"]
    return to_mathml(latex.strip(), display="block" if match["block"] else "inline")


def _with_plots(notebook: NotebookNode) -> NotebookNode:
    """nbconvert drops plotly's own format: give each figure as HTML."""
    notebook = copy.deepcopy(notebook)
    for number, output in enumerate(o for cell in notebook.cells for o in cell.get("outputs", [])):
        if PLOTLY in output.get("data", {}):
            figure = pio.from_json(pio.json.to_json_plotly(output.data.pop(PLOTLY)), skip_invalid=True)
            output.data["text/html"] = pio.to_html(
                figure, include_plotlyjs=False, full_html=False, div_id=f"figure-{number}"
            )
    return notebook


def write_index(rows: list[dict], model: str, path: Path) -> None:
    """The list of pages, with what was compared in each."""
    lines = [
        f'<tr><td><a href="{row["stem"]}.html">{html.escape(row["title"])}</a></td><td>{row["seconds"]:.0f} s</td>'
        f"<td>{row['agree']} of {row['known']} references within tolerance</td>"
        f"<td>{html.escape(row['error'] or '')}</td></tr>"
        for row in rows
    ]
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>The course on {html.escape(model)}</title><style>{STYLE}</style>"
        f"<h1>The course, executed on {html.escape(model)}</h1><table>{''.join(lines)}</table>",
        encoding="utf-8",
    )
