"""Pages of executed notebooks: plots and formulas survive without the internet."""

import json

import nbformat
import plotly.express as px

from utils.course.pages import write_index, write_page


def test_page_has_plots_formulas_and_nothing_from_elsewhere(tmp_path):
    bundle = {"application/vnd.plotly.v1+json": json.loads(px.line(y=[1, 2], title="A title").to_json())}
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(
                "Inline $x_1$, and `$code$`.\n\n$$\\sum_i x_i$$\n\n[next](01_ioi_task.ipynb)"
            ),
            nbformat.v4.new_code_cell("figure", outputs=[nbformat.v4.new_output("display_data", bundle)]),
        ]
    )
    write_page(notebook, "Title", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<math ") == 2 and "<code>$code$</code>" in page
    assert 'href="01_ioi_task.html"' in page and ".ipynb" not in page
    assert "Plotly.newPlot(" in page and "A title" in page
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000 and 'src="plotly.min.js"' in page


def test_index_says_what_was_compared(tmp_path):
    rows = [{"title": "00 · A & B", "stem": "00_a", "seconds": 3.2, "error": None, "known": 4, "agree": 3}]
    write_index(rows, "m", tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    assert '<a href="00_a.html">00 · A &amp; B</a>' in page and "3 of 4 references within tolerance" in page
