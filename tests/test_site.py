"""The website: what a chapter's page holds, where its links lead, and that it needs nothing from elsewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from tests.chromium import BROWSER, chromium
from utils import plots
from utils.course import deriving, pictures
from utils.course.notebooks import compared_note
from utils.course.outputs import WIDGET

pytest.importorskip("sphinx", reason="Sphinx is not installed here; make setup installs it")
from utils.course.site import build, chapters, checking, figures, pages

BUILT = ["01", "02"]  # with bars, heatmaps, tables, formulas and attention views


@pytest.fixture(scope="module")
def executed():
    return build.read_executed(BUILT)


@pytest.fixture(scope="module")
def site(executed, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "site"
    build.build_site(out, executed)
    return out


def page_of(site, name):
    return BeautifulSoup((site / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


# --- the built site -----------------------------------------------------------------------------------------------------


def test_nothing_comes_from_elsewhere_and_every_link_leads_somewhere(site):
    assert checking.loads_from_elsewhere(site) == []
    assert checking.dead_links(site) == []
    for name in ("plotly.min.js", "circuitsvis.js"):
        assert (site / "_static" / name).stat().st_size > 400_000


def test_the_same_notebooks_give_the_same_bytes_by_command(site, tmp_path):
    """In another process, in another folder, where sets come in another order."""
    command = [sys.executable, "-m", "utils.course.site.build", *BUILT, "--out", str(tmp_path / "again")]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(command, cwd=deriving.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "index.html" in done.stdout, done.stderr[-2000:]
    files = {path.relative_to(site): path.read_bytes() for path in site.rglob("*") if path.is_file()}
    again = tmp_path / "again"
    others = {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}
    assert len(files) > 30 and files.keys() == others.keys()
    assert [name for name in files if files[name] != others[name]] == []


def test_answers_and_hints_are_folded_and_nothing_of_a_solution_stands_outside(site):
    page = page_of(site, "01_ioi_task")
    folded = page.find_all("details", class_="folded")
    assert len(folded) > 10 and not any(part.has_attr("open") for part in folded)
    (answer,) = [part for part in page.find_all("details", class_="answer") if "prompts.append" in part.text]
    assert answer.find("div", class_="highlight"), "the answer is shown as code"
    answer.decompose()
    assert "prompts.append" not in page.text and "this exercise is not written yet" in page.text
    assert "BEGIN SOLUTION" not in page.text and "solution notebook" not in page.text


@pytest.mark.parametrize("chapter", ["01_ioi_task", "02_logit_attribution"])
def test_every_figure_has_its_description(site, executed, chapter):
    page = page_of(site, chapter)
    outputs = [output for cell in executed[chapter].cells for output in cell.get("outputs", []) if "data" in output]
    drawn = [output for output in outputs if figures.PLOTLY_FORMAT in output.data]
    views = [output for output in outputs if "data-attention" in output.data.get("text/html", "")]
    captions = [figure.figcaption.text for figure in page.find_all("figure", class_=["plot", "attention"])]
    assert len(captions) == len(drawn) + len(views) > 3 and all(len(caption) > 60 for caption in captions)
    assert len(set(captions)) == len(captions)
    for output in drawn:
        title = output.data[figures.PLOTLY_FORMAT]["layout"]["title"]["text"]
        assert any(title in caption for caption in captions)
    scripts = [script["src"] for script in page.find_all("script", src=True)]
    assert scripts.count("_static/plotly.min.js") == 1 and scripts.count("_static/circuitsvis.js") == bool(views)


def test_formulas_are_drawn_by_the_browser_itself(site):
    page = page_of(site, "02_logit_attribution")
    scripts = " ".join(script["src"] for script in page.find_all("script", src=True))
    assert len(page.find_all("math")) > 10 and "mathjax" not in scripts.lower() and "require" not in scripts


def test_glossary_and_library(site, executed):
    glossary = page_of(site, "glossary")
    terms = [term.get_text(strip=True) for term in glossary.find_all("dt")]
    assert "Clean, corrupted" in terms and "Bias term" in terms and terms == sorted(terms, key=str.lower)
    links = {link["href"].split("#")[0] for link in glossary.find("article").find_all("a", class_="reference")}
    assert links == {f"{stem}.html" for stem in executed}
    entries = (deriving.ROOT / "references.bib").read_text(encoding="utf-8").count("\n@")
    assert len(page_of(site, "library").select("div.citation")) == entries > 30


def test_the_coverage_page_leads_to_sections(site):
    links = [link["href"] for link in page_of(site, "coverage").find_all("a", class_="reference")]
    assert any(re.fullmatch(r"02_logit_attribution\.html#[\w-]{8,}", link) for link in links)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open the pages in")
def test_a_browser_opens_it_from_the_disk_and_asks_nobody(site):
    with chromium() as browser:
        page, asked, errors = browser.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto((site / "02_logit_attribution.html").as_uri())
        page.wait_for_function("document.querySelectorAll('figure.plot svg.main-svg').length > 3")
        page.wait_for_function("document.body.innerText.includes('Zoomed')", timeout=20_000)
        count = "document.querySelectorAll('details.folded[open]').length"
        total = page.evaluate("document.querySelectorAll('details.folded').length")
        found = [page.evaluate(count)]
        page.click("#unfold-all")
        found.append(page.evaluate(count))
        page.goto((site / "search.html").as_uri() + "?q=unembedding")
        page.wait_for_selector("#search-results li a")
    assert found == [0, total] and total > 10
    assert errors == [] and [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_the_pages_of_a_run_say_what_was_compared(executed):
    """`make run` makes its pages in the same way."""
    rows = [
        {"title": "01 · A & B", "stem": "01_ioi_task", "seconds": 3.2, "error": None, "known": 4, "agree": 3},
        {
            "title": "02 · C",
            "stem": "02_logit_attribution",
            "seconds": 1.0,
            "error": "ValueError: no\nmore",
            "known": 0,
            "agree": 0,
        },
    ]
    found = pages.other_pages(executed, compared_note(rows, "tiny"))["index.md"]
    assert found.startswith(
        "# Taking a language model apart, twice\n\nThese pages were made by running the course on tiny."
    )
    assert "| [01 · A & B](01_ioi_task.ipynb) | 3 s | 3 of 4 references within tolerance |" in found
    assert "0 of 0 references within tolerance; stopped: `ValueError: no` |" in found


# --- its parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/a.css">',
        '<img src="http://example.org/a.png">',
        "<style>@import 'https://example.org/a.css';</style>",
        '<div style="background: url(https://example.org/a.png)"></div>',
        '<script>import("https://example.org/x.js")</script>',
        '<link rel="preconnect" href="https://fonts.example">',
    ],
)
def test_loads_from_elsewhere_are_found(tmp_path, line):
    (tmp_path / "a.html").write_text(f'<a href="https://example.org">{line}</a>')
    (found,) = checking.loads_from_elsewhere(tmp_path)
    assert found.startswith("a.html: loads ") and "//" in found


def test_links_and_names_are_no_loads(tmp_path):
    (tmp_path / "a.html").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg"></svg><a href="https://example.org">x</a><link rel="license" href="https://x.org">'
    )
    (tmp_path / "a.js").write_text('// see https://example.org\nelement.setAttribute("xmlns", "http://www.w3.org/");')
    (tmp_path / "a.css").write_text("/* https://example.org */ p { background: url(data:image/png;base64,AA) }")
    assert checking.loads_from_elsewhere(tmp_path) == []
    (tmp_path / "a.js").write_text('fetch("https://example.org/x.json")')
    assert checking.loads_from_elsewhere(tmp_path) == ["a.js: loads https://example.org/x.json"]


def test_dead_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here">1</a><a href="b.html#there">2</a><a href="c.html">3</a></p>'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#here">1</a><a href="https://example.org/none">2</a>')
    assert checking.dead_links(tmp_path) == ["a.html: 'b.html#there' leads nowhere", "a.html: 'c.html' leads nowhere"]


def test_the_way_to_the_exercises_is_on_the_set_branch(monkeypatch):
    source = Path("03_activation_patching.py")
    monkeypatch.setattr(deriving, "course", lambda: {"repository": "OWNER/course", "branch": "main"})
    assert "make lab" in chapters.opening(source) and "href" not in chapters.opening(source), "no dead badge"
    monkeypatch.setattr(deriving, "course", lambda: {"repository": "jane/course", "branch": "spring"})
    links = re.findall(r'href="([^"]+)"', chapters.opening(source))
    assert links == [
        "https://colab.research.google.com/github/jane/course/blob/spring/chapters/03_activation_patching.ipynb",
        "https://mybinder.org/v2/gh/jane/course/spring?urlpath=lab/tree/chapters/03_activation_patching.ipynb",
        "https://github.com/jane/course/blob/spring/chapters/03_activation_patching.ipynb",
    ]


def test_links_between_files_become_links_between_pages(monkeypatch):
    text = (
        "[a](../solutions/01_ioi_task.ipynb#x) [b](../references.bib) [c](https://x.org/y) ![d](e.png) [f](02_b.ipynb)"
    )
    monkeypatch.setattr(deriving, "course", lambda: {"repository": "OWNER/course", "branch": "main"})
    linked = chapters.site_links(text, {"01_ioi_task.ipynb"})
    assert linked == "[a](01_ioi_task.ipynb#x) b [c](https://x.org/y) ![d](e.png) f"
    monkeypatch.setattr(deriving, "course", lambda: {"repository": "jane/course", "branch": "main"})
    assert "[b](https://github.com/jane/course/blob/main/references.bib)" in chapters.site_links(text, set())


def test_folded_parts_are_read_as_markdown():
    text = "<details><summary>Hint 1 · a question</summary>\nWhat does `x` do?\n</details>"
    assert chapters.with_folds(text).startswith(
        '<details class="folded hint"><summary>Hint 1 · a question</summary>\n\nWhat does `x` do?\n'
    )
    assert chapters.with_folds(text).rstrip().endswith("\n\n</details>")


def test_a_glossary_is_taken_apart_at_its_terms():
    text = (
        "**Recap.** *No term*: here.\n\n**Glossary.** *Direct path*, *edge*: from a sender. *Ablation*: replacing;\n"
        "*zero ablation*. *Score* q(x): how much.\n\n**Read next** *neither*: no."
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    assert pages.glossary_of(notebook) == [
        ("Direct path, edge", "from a sender."),
        ("Ablation", "replacing; *zero ablation*."),
        ("Score q(x)", "how much."),
    ]
    page = pages.glossary_page({"01_a": notebook, "02_b": notebook})
    assert "Ablation\n: Replacing; *zero ablation*. ([01](01_a.ipynb), [02](02_b.ipynb))" in page


@pytest.mark.parametrize("source", deriving.sources(), ids=lambda path: path.stem)
def test_every_chapter_s_glossary_is_read_whole(source):
    """No definition swallows the next term, which a colon after words in italics would show."""
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    entries = pages.glossary_of(notebook)
    assert len(entries) > 4 or source.stem == "start"
    assert [text for _, text in entries if re.search(r"\*[^*]+\*:", text)] == []


def test_outputs_that_need_a_kernel_or_a_library():
    def shown(**data):
        cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", data) for _ in range(2)])
        outputs = figures.with_static_outputs(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
        return [output.data["text/html"] for output in outputs]

    assert "an explorer stands here" in shown(**{WIDGET: {"model_id": "a"}, "text/plain": "VBox()"})[0]
    view = plots.attention([[[1.0]]], ["<b>"], "A & B", ["L0H0"])
    for text in (str(view), plots.circuitsvis_library() + str(view)):
        first, second = shown(**{"text/html": text})
        assert first.startswith('<script src="_static/circuitsvis.js"></script><figure class="attention">')
        assert "circuitsvis-library" not in first and not second.startswith("<script")
        assert (
            "Attention patterns: A &amp; B. Over 1 tokens; from the last one, L0H0 looks at &#x27;&lt;b&gt;&#x27; (1)."
            in first
        )
    figure = json.loads(plots.bar([1.0], "<b>", "x", "y").update_layout(meta={"alt": 'My "own" <words>'}).to_json())
    assert "My &quot;own&quot; &lt;words&gt;</figcaption>" in shown(**{figures.PLOTLY_FORMAT: figure})[0]
    drawing = plots.head_drawing()
    assert f'aria-label="{drawing.alt[:40]}' in shown(**{"image/svg+xml": drawing._repr_svg_()})[0]


@pytest.mark.parametrize("name", pictures.SHOWN)
def test_the_readmes_pictures_can_be_made_from_the_notebooks(name):
    assert pictures.output_titled(*pictures.SHOWN[name]) and f"solutions/pictures/{name}" in (
        deriving.ROOT / "README.md"
    ).read_text(encoding="utf-8")
