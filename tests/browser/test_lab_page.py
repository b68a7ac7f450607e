"""JupyterLab in a browser, as a learner has it: what opens, what a check says, and what the explorers do with a keyboard.

The tests of this module share one page and go on where the last one stopped. COURSE_SCREENSHOTS=FOLDER keeps pictures;
docs/pictures has two of them, wrong-light.png and head-light.png.
"""

import os
import re
from pathlib import Path

import pytest

from tests.browser.conftest import CELLS

WAIT = 180_000  # milliseconds: other work may share the machine
PICTURES = os.environ.get("COURSE_SCREENSHOTS")
SERIOUS = ("serious", "critical")
OUTPUTS = ".jp-Notebook .jp-OutputArea-output"


@pytest.fixture(scope="module")
def started(lab):
    """The page after the address that `make lab` opens."""
    one, address = lab
    one.page.goto(address)
    one.page.wait_for_selector(".jp-Notebook .jp-MarkdownOutput h1", timeout=WAIT)
    return one, address


@pytest.fixture(scope="module")
def ran(started):
    """The page with every.ipynb, of which all cells have run."""
    one, address = started
    one.page.goto(f"{address}/lab/tree/every.ipynb?reset")  # reset: without what was open before
    one.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=WAIT)
    one.page.wait_for_selector(".jp-StatusBar-TextItem:has-text('| Idle')", timeout=WAIT)  # before, nothing would run
    one.page.click(".lm-MenuBar-item:has-text('Run')")
    one.page.click(".lm-Menu-item[data-command='runmenu:run-all']")
    one.page.wait_for_selector(".jp-OutputArea-output:has-text('all cells have run')", timeout=WAIT, state="attached")
    return one


def cell(one, name):
    """The cell of CELLS, on the screen."""
    found = one.page.locator(".jp-Notebook .jp-Cell").nth(list(CELLS).index(name))
    found.scroll_into_view_if_needed()
    return found


def keep(one, name, where=None):
    """A picture of the page, or of one element, if somebody asked for pictures."""
    if PICTURES:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        (where or one.page).screenshot(path=Path(PICTURES) / f"{name}.png")


# --- what opens ----------------------------------------------------------------------------------------------------


def test_lab_opens_the_map_and_lists_notebooks_only(started):
    one, _ = started
    assert one.page.url.endswith("/lab/tree/start.ipynb")
    one.page.wait_for_selector(".jp-DirListing-item", timeout=WAIT)
    listed = one.page.locator(".jp-DirListing-itemText").all_inner_texts()
    assert "start.ipynb" in listed and "00_hooks_and_caches.ipynb" in listed
    assert [name for name in listed if not name.endswith(".ipynb")] == []
    keep(one, "lab-start")


def test_lab_asks_nothing(started):
    one, _ = started
    one.page.wait_for_timeout(2000)
    assert one.page.locator(".jp-Dialog, .jp-toast-message, .Toastify__toast").all_inner_texts() == []


# --- checks ----------------------------------------------------------------------------------------------------


def test_a_wrong_answer_shows_its_message_and_the_right_one_its_line(ran):
    wrong = cell(ran, "wrong")
    said = wrong.locator(".jp-OutputArea-output").first.inner_text()
    assert "✗ zero_head" in said and "likely" in said and "axis 2" in said
    assert "Traceback" not in said
    keep(ran, "check-failed")
    right = cell(ran, "right")
    said = right.locator(".jp-OutputArea-output").first.inner_text()
    assert said.startswith("✓") and len(said.strip().splitlines()) == 1
    keep(ran, "check-passed")


# --- figures ----------------------------------------------------------------------------------------------------


def test_a_heatmap_and_an_attention_view_are_drawn(ran):
    heatmap = cell(ran, "heatmap")
    heatmap.locator(".js-plotly-plot .heatmaplayer image, .js-plotly-plot .heatmaplayer path").first.wait_for(
        timeout=WAIT
    )
    assert "A heatmap of heads" in heatmap.inner_text()
    attention = cell(ran, "attention")
    attention.get_by_text("Zoomed").first.wait_for(timeout=WAIT)
    assert attention.locator("canvas, img").count() and "Run the notebook" not in attention.inner_text()
    keep(ran, "attention", attention)


# --- explorers ----------------------------------------------------------------------------------------------------


def line_of(where):
    """The line of text between an explorer's controls and its figure."""
    return where.locator("[role=status], [role=alert]").inner_text()


def changed(ran, where, before):
    """The new line, once it differs."""
    for _ in range(150):
        if (now := line_of(where)) != before:
            return now
        ran.page.wait_for_timeout(100)
    pytest.fail(f"nothing changed: {before}")


def figure_of(where):
    return where.locator(".jp-OutputArea-output").last.inner_html()


def type_into(ran, where, number, text):
    """Reach a text box with Tab and write into it, with the keyboard alone."""
    first = where.locator("input").first
    first.focus()
    for _ in range(number):
        ran.page.keyboard.press("Tab")
    ran.page.keyboard.press("ControlOrMeta+A")
    ran.page.keyboard.type(text)
    ran.page.keyboard.press("Enter")


def test_prompt_explorer_by_keyboard(ran):
    where = cell(ran, "prompt")
    before, figure = line_of(where), figure_of(where)
    assert "logit difference, Mary minus John" in before
    type_into(ran, where, 1, "Tom")
    assert "logit difference, Tom minus John" in changed(ran, where, before)
    type_into(ran, where, 1, "Marianne")
    assert "✗" in (said := changed(ran, where, "logit difference, Tom minus John")) or "✗" in changed(ran, where, said)
    keep(ran, "explorer-message", where)
    type_into(ran, where, 1, "Mary")
    ran.page.wait_for_timeout(1000)
    type_into(ran, where, 0, "Mary and John went to the shops and")
    ran.page.wait_for_timeout(1500)
    assert "␣shops" in figure_of(where) and figure_of(where) != figure
    keep(ran, "explorer-prompt", where)


@pytest.mark.parametrize(("name", "tabs", "key"), [("head", 1, "ArrowRight"), ("threshold", 0, "ArrowLeft")])
def test_sliders_by_keyboard(ran, name, tabs, key):
    where = cell(ran, name)
    before, figure = line_of(where), figure_of(where)
    if tabs:
        where.locator("input").first.focus()
        for _ in range(tabs):
            ran.page.keyboard.press("Tab")
    else:
        where.locator("[role=slider], .noUi-handle").first.focus()
    ran.page.keyboard.press(key)
    assert changed(ran, where, before)
    ran.page.wait_for_timeout(1000)
    assert figure_of(where) != figure, "the figure is drawn again"
    assert where.locator(".jp-OutputArea-output").count() == 2, "in its place, and not below"
    keep(ran, f"explorer-{name}", where)


def test_guise_explorer_by_keyboard(ran):
    where = cell(ran, "guise")
    before = line_of(where)
    assert "trait gap" in before
    type_into(ran, where, 0, "he done working")
    changed(ran, where, before)
    ran.page.wait_for_timeout(1000)
    assert "he done working" in figure_of(where)
    keep(ran, "explorer-guise", where)


def test_specification_browser_by_keyboard(ran):
    where = cell(ran, "specification")
    before = line_of(where)
    assert "3 of 3 specifications" in before
    where.locator("[role=slider], .noUi-handle").first.focus()
    ran.page.keyboard.press("ArrowRight")
    assert "2 of 3 specifications, 2 above zero" in changed(ran, where, before)
    keep(ran, "explorer-specification", where)


# --- for everybody ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_axe_finds_no_serious_fault_in_our_outputs(ran, theme):
    Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe
    choose_theme(ran, theme)
    for name in ("head", "prompt", "wrong"):
        keep(ran, f"{name}-{theme.split()[-1].lower()}", cell(ran, name))
    assert ran.page.locator(OUTPUTS).count() >= len(CELLS)
    found = Axe().run(ran.page, OUTPUTS).response["violations"]
    faults = {
        fault["id"]: [node["html"][:200] for node in fault["nodes"]] for fault in found if fault["impact"] in SERIOUS
    }
    assert not faults, "\n".join(f"{fault}: {nodes}" for fault, nodes in faults.items())


def choose_theme(ran, theme):
    light = "true" if theme.endswith("Light") else "false"
    if ran.page.get_attribute("body", "data-jp-theme-light") == light:
        return
    ran.page.click(".lm-MenuBar-item:has-text('Settings')")
    ran.page.hover(".lm-Menu-item:has-text('Theme')")
    ran.page.click(f".lm-Menu-item:has-text('{theme}') >> nth=0")
    ran.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", timeout=WAIT, state="attached")


def test_no_error_was_written_and_no_request_left_the_machine(ran):
    assert ran.outside == []
    assert [said for said in ran.errors if not re.search("favicon", said)] == []
