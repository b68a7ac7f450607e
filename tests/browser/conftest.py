"""A browser, and a JupyterLab on a copy of the course with one small notebook that shows each kind of output."""

import shutil
import urllib.parse
from pathlib import Path

import nbformat
import pytest

from tests.chromium import BROWSER, chromium
from tests.lab_server import lab_server
from utils.course.setup_cell import setup_cell

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("127.0.0.1", "localhost")

# A cell's name → its source. One wrong answer, as people write it: the head is axis 2, and this zeroes a position.
CELLS = {
    "setup": setup_cell("OWNER/course", "main")  # as in every chapter: it finds the copy
    + """
import pandas as pd, torch
from utils import plots, widgets
from utils.tiny_models import tiny_model
from tests.checks import check_zero_head
model = tiny_model()
prompt = "When John and Mary went to the store John gave the bag to"
_, cache = model.run_with_cache(prompt)
print("ready")""",
    "wrong": """
def zero_head(z, hook, head_index):
    z = z.clone()
    z[:, head_index] = 0
    return z

check_zero_head(zero_head)""",
    "right": """
def zero_head(z, hook, head_index):
    z = z.clone()
    z[:, :, head_index] = 0
    return z

check_zero_head(zero_head)""",
    "heatmap": 'plots.heads(torch.tensor([[0.5, -0.2], [0.1, 0.9]]), "A heatmap of heads")',
    "attention": """
tokens = model.to_str_tokens(prompt)
plots.attention_of_heads(cache, [(0, 1), (2, 3)], tokens, "Two heads")""",
    "prompt": "widgets.prompt_explorer(model, prompt)",
    "head": "widgets.head_explorer(model, prompt)",
    "threshold": """
effects = torch.tensor([[0.0, 0.5, -0.02], [-0.3, 0.1, 0.04]])
widgets.threshold_explorer(effects, ["S1", "S2", "END"], lambda layer, head: ("S2", "END"), first=2)""",
    "guise": "widgets.guise_explorer(model)",
    "specification": """
table = pd.DataFrame({"prefix": ["bos", "bos", "none"], "measure": ["gap", "strength", "gap"], "result": [0.3, 0.1, -0.4]})
widgets.specification_browser(table, "result", ["prefix", "measure"])""",
    "end": 'print("all cells have run")',
}


@pytest.fixture(scope="package")
def browser():
    if BROWSER is None:
        pytest.skip("there is no Chromium or Chrome here; install one, or set CHROME to it, then make test-browser")
    with chromium("--disable-features=IsolateSandboxedIframes") as browser:  # so that requests of lone frames are seen
        yield browser


class Watched:
    """A page, the errors that it wrote or threw, and its requests to anywhere but this machine, which are refused."""

    def __init__(self, browser, answered: dict[str, str] | None = None):
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.errors, self.outside, self.answered = [], [], answered or {}
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.route("**/*", self._answer)

    def _answer(self, route):
        url = route.request.url
        host = urllib.parse.urlsplit(url).hostname
        if host is None or host in HOSTS:  # blob: and data: have no host
            route.continue_()
        elif found := next((body for part, body in self.answered.items() if part in url), None):
            route.fulfill(body=found, content_type="text/javascript", headers={"Access-Control-Allow-Origin": "*"})
        else:
            self.outside.append(url)
            route.abort()


@pytest.fixture
def watched(browser):
    """A `Watched` page, as a function of what stands in for addresses: part of a URL → JavaScript."""
    pages = []

    def opened(answered=None):
        pages.append(Watched(browser, answered))
        return pages[-1]

    yield opened
    for one in pages:
        one.page.close()


@pytest.fixture(scope="package")
def lab(browser, tmp_path_factory):
    """A `Watched` page of a JupyterLab that `make lab`'s command started, and its address. The notebook is every.ipynb."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is in the extra `lab`")
    copy, home = tmp_path_factory.mktemp("course"), tmp_path_factory.mktemp("home")
    for folder in ("utils", "tests", "chapters"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS.values()]
    cells[list(CELLS).index("wrong")].metadata["tags"] = ["raises-exception"]  # "Run All Cells" goes on after it
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), copy / "chapters" / "every.ipynb")
    chosen = home / ".jupyter/lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
    chosen.parent.mkdir(parents=True)  # all cells are drawn, and not only those near the screen
    chosen.write_text('{"windowingMode": "none"}', encoding="utf-8")
    offline = {"HF_HUB_OFFLINE": "1", "COURSE_PROGRESS": "0", "OMP_NUM_THREADS": "1"}
    with lab_server(copy, home, **offline) as (_, port):
        one = Watched(browser)
        yield one, f"http://127.0.0.1:{port}"
        one.page.close()
