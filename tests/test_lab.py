"""`make lab`: what a learner finds in JupyterLab, asked of a server that was started as the command starts it."""

import json
import os
import re
import subprocess
import urllib.error
from pathlib import Path

import pytest

from tests.lab_server import lab_server
from utils.course import lab, run

ROOT = Path(run.__file__).resolve().parents[2]
TOKEN = "only-for-this-test"


def test_make_lab_opens_the_map_and_passes_options_on(monkeypatch):
    assert run.COMMANDS["lab"][1] == [["utils.course.lab"]]
    assert lab.lab_arguments(["--no-browser"]) == [
        str(ROOT / "chapters"),
        "--LabApp.default_url=/lab/tree/start.ipynb",
        "--no-browser",
    ]
    assert lab.OPENED.is_file()
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/mine")
    assert lab.search_path().split(os.pathsep) == [str(lab.LAB_SETTINGS), "/mine"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """get(path) of a running server, whose user has a home folder with nothing in it; and that folder."""
    pytest.importorskip("jupyterlab")
    home = tmp_path_factory.mktemp("home")
    with lab_server(ROOT, home, TOKEN) as (get, _):
        yield get, home


def test_lab_served_list_shows_notebooks_only(served):
    get, _ = served
    listed = {entry["name"] for entry in json.loads(get("/api/contents")[1])["content"]}
    assert {path.name for path in (ROOT / "chapters").glob("*.ipynb")} <= listed
    hidden = {path.name for path in (ROOT / "chapters").iterdir() if path.suffix in (".py", ".toml")}
    assert hidden and not hidden & listed


def test_lab_served_chapter_opens_as_it_is_on_disk(served):
    get, _ = served
    content = json.loads(get("/api/contents/00_hooks_and_caches.ipynb")[1])["content"]
    on_disk = json.loads((ROOT / "chapters/00_hooks_and_caches.ipynb").read_text(encoding="utf-8"))
    assert [cell["source"] for cell in content["cells"]] == ["".join(cell["source"]) for cell in on_disk["cells"]]


def test_lab_served_first_page_is_the_map_without_instructors_panels(served):
    get, _ = served
    url, page = get("/")
    assert url.endswith("/lab/tree/start.ipynb")
    settings = json.loads(re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    installed = {extension["name"] for extension in settings["federated_extensions"]}
    off = {name.partition(":")[0] for name in settings["disabledExtensions"]}
    assert {"@jupyter/nbgrader", "jupyterlab-jupytext"} <= off
    assert "@jupyter-widgets/jupyterlab-manager" in installed - off, "the explorers need it"


def test_lab_served_settings_ask_for_no_news(served):
    get, _ = served
    plugin = json.loads(get("/lab/api/settings/@jupyterlab/apputils-extension:notification")[1])
    defaults = {name: value["default"] for name, value in plugin["schema"]["properties"].items() if "default" in value}
    assert defaults["fetchNews"] == "false" and defaults["checkForUpdates"] is False


def test_lab_served_has_no_page_of_nbgraders(served):
    get, _ = served
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get("/formgrader")


def test_lab_served_writes_nothing_into_the_users_settings(served):
    _, home = served
    written = [path for path in home.rglob("*") if path.is_file() and "lab_settings" not in path.parts]
    assert not [path for path in written if path.name in ("page_config.json", "jupyter_server_config.json")]
    assert not [path for path in written if path.suffix == ".jupyterlab-settings"]
    changed = subprocess.run(
        ["git", "status", "--short", "--", "utils/course/lab_settings"], cwd=ROOT, capture_output=True
    )
    assert b" M " not in changed.stdout
