"""The slides of a chapter: what stands on them, what only the speaker sees, and that they need nothing from elsewhere."""

import pytest

from tests.chromium import BROWSER, chromium
from utils.course.deriving import REGION, sources

pytest.importorskip("sphinx_revealjs", reason="sphinx-revealjs is not installed here; make setup installs it")
from utils.course.site import build, checking, slides


@pytest.fixture(scope="module")
def executed():
    return build.read_executed([])


@pytest.fixture(scope="module")
def folder(executed, tmp_path_factory):
    """The slides of two chapters, with what a site holds beside them."""
    out = tmp_path_factory.mktemp("slides")
    two = {stem: executed[stem] for stem in ("00_hooks_and_caches", "02_logit_attribution")}
    build.write_sources(out / "sources", two)
    (out / "sources" / "_static").rename(out / "_static")
    slides.write_slides(out, two)
    return out


def on_the_wall(deck):
    return [cell for cell in deck.cells if cell.metadata.slideshow.slide_type != "notes"]


@pytest.mark.parametrize("stem", [path.stem for path in sources() if path.stem != "start"])
def test_every_section_and_every_figure_has_its_slide(executed, stem):
    wall = on_the_wall(slides.deck(executed[stem]))
    titles = [cell.source.splitlines()[0] for cell in wall if cell.metadata.slideshow.slide_type == "slide"]
    text = "\n\n".join(cell.source for cell in executed[stem].cells if cell.cell_type == "markdown")
    assert titles == [found[0] for found in slides.ANY_HEADING.finditer(text) if found[1] in ("#", "##")]
    outputs = [output.get("data", {}) for cell in executed[stem].cells for output in cell.get("outputs", [])]
    drawn = [data for data in outputs if "application/vnd.plotly.v1+json" in data or "image/svg+xml" in data]
    views = [data for data in outputs if "data-attention=" in data.get("text/html", "")]
    assert len([cell for cell in wall if cell.cell_type == "code"]) == len(drawn) + len(views) > 0


@pytest.mark.parametrize("stem", [path.stem for path in sources() if path.stem != "start"])
def test_no_hint_and_no_answer_is_on_the_wall(executed, stem):
    wall = "\n".join(cell.source for cell in on_the_wall(slides.deck(executed[stem])))
    assert "<details>" not in wall and "Hint 1" not in wall
    regions = [region for cell in executed[stem].cells for region in REGION.findall(cell.source)]
    lines = [line.strip() for region in regions for line in region.splitlines() if len(line.strip()) > 30]
    assert len(lines) > 3 and [line for line in lines if line in wall] == []


def test_the_guess_is_in_the_notes_to_its_question(executed):
    cells = slides.deck(executed["02_logit_attribution"]).cells
    (place,) = [number for number, cell in enumerate(cells) if "do a few write most?" in cell.source]
    assert cells[place].source.startswith("### What do you expect?")
    assert cells[place + 1].metadata.slideshow.slide_type == "notes"
    assert cells[place + 1].source.startswith("**Our guess**\n\nWe guess that later layers write more.")


def test_what_follows_a_figure_is_in_its_notes_and_not_in_those_of_the_next_section(executed):
    cells = slides.deck(executed["02_logit_attribution"]).cells
    (place,) = [number for number, cell in enumerate(cells) if cell.source.startswith("## 2 · ")]
    before = cells[place - 2 : place]
    assert before[0].cell_type == "code" and before[1].source.startswith("**What you should find, on SmolLM2**")


def test_formulas_are_mathml_and_code_is_left_alone():
    text = slides.with_mathml("The sum $a_b * c$ of `$x_y$`, and\n\n$$\\sum_l x_l$$")
    assert text.count("<math") == 2 and 'display="block"' in text and "`$x_y$`" in text
    assert "_" not in text.replace("`$x_y$`", "") and "*" not in text, "markdown would read emphasis into the formula"


def test_slides_load_nothing_from_elsewhere(folder):
    assert checking.loads_from_elsewhere(folder) == []
    pages = sorted(folder.glob("slides_*.html"))
    assert [page.stem for page in pages] == ["slides_00_hooks_and_caches", "slides_02_logit_attribution"]
    for page in pages:
        for name in ("reveal/dist/reveal.js", "reveal/plugin/notes/notes.js", "plotly.min.js", "slides.css"):
            assert f'"_static/{name}"' in page.read_text(encoding="utf-8") and (folder / "_static" / name).exists()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here to open the slides in")
def test_a_browser_shows_them_from_the_disk(folder):
    with chromium() as browser:
        page, asked, errors = browser.new_page(viewport={"width": 1280, "height": 800}), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto((folder / "slides_02_logit_attribution.html").as_uri())
        page.wait_for_selector("section.present h1")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("section.present > section.present h2") == "1 · What is in the residual stream?"
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        figure = page.wait_for_selector("section.present > section.present .plotly-graph-div .main-svg")
        page.wait_for_function("() => document.querySelector('section.present section.present .xtick text')")
        assert figure.evaluate("element => [element.clientWidth, element.clientHeight]") == [1080, 600]
        assert all(address.startswith("file:") for address in asked) and errors == []
