"""An installed copy works without this folder, and what is imported is declared."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from utils.course import install
from utils.course.run import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
OWN = {"utils", "tests"}
OPTIONAL = {"google", "psutil"}  # Colab's own; and what the doctor uses where it is there
LEARNERS = ("utils/*.py", "utils/[!c]*/**/*.py", "utils/c[!o]*/**/*.py", "tests/checks/*.py", "solutions/*.py")
MAINTAINERS = ("utils/course/**/*.py", "tests/**/*.py")

# Run with the folder of the unpacked wheel in place of this one. Modules that begin a command are compiled only; the
# matrix, which installs other versions, needs the checkout and its list of Colab's packages.
TRY_OUT = """
import importlib, os, pkgutil, sys
installed, checkout = sys.argv[1:]
sys.path = [installed, *(p for p in sys.path if p and os.path.realpath(p) not in (installed, checkout))]
import utils
found = [module.name for module in pkgutil.walk_packages(utils.__path__, "utils.")]
for name in found:
    if not name.endswith(".__main__") and name != "utils.course.matrix":
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as missing:  # the press needs what only maintainers install
            if not name.startswith("utils.course.") or missing.name.partition(".")[0] in ("utils", "tests"):
                raise
from utils import dialect, reference
assert reference.figures("smollm2-135m") and reference.figures("gpt2-small")
assert dialect.grammar() and dialect.frames() and dialect.pairs_of("done") and dialect.traits()
from tests.checks import REGISTRY
assert len(REGISTRY) > 40
foreign = [m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] in ("utils", "tests")
           and not os.path.realpath(m.__file__).startswith(installed)]
assert foreign == [], foreign
print(*found)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what a wheel of the course holds. It is built from a copy: pip would leave a build/lib in this folder."""
    pytest.importorskip("setuptools", minversion="77", reason="pip install 'setuptools>=77', which builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    source, ignored = folder / "source", shutil.ignore_patterns("__pycache__", ".*")
    for name in ("utils", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "."]
    done = subprocess.run([*wheel, "-w", str(folder)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_an_installed_copy_has_every_file(installed):
    """Modules and data of utils, and the checks."""
    for name in ("utils", "tests/checks"):
        files = [path for path in (ROOT / name).rglob("*.*") if path.is_file() and "__pycache__" not in path.parts]
        missing = [path.relative_to(ROOT) for path in files if not (installed / path.relative_to(ROOT)).exists()]
        assert len(files) > 5 and missing == []


def test_an_installed_copy_works(installed):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", TRY_OUT, os.path.realpath(installed), str(ROOT)]
    done = subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    here = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "utils").rglob("[!_]*.py")}
    assert here <= set(done.stdout.split())


# --- what is imported is declared ---------------------------------------------------------------------------------------


def imported_by(patterns):
    """Top-level names that these files import, other than the standard library's and the course's own."""
    names = set()
    for path in {path for pattern in patterns for path in ROOT.glob(pattern)}:
        lines = path.read_text(encoding="utf-8").splitlines()
        plain = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)
        for node in ast.walk(ast.parse(plain)):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.split(".")[0])
    assert names, "no file was read"
    return names - set(sys.stdlib_module_names) - OWN - OPTIONAL


def declared(*extras):
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines += [line for extra in extras for line in settings["optional-dependencies"][extra]]
    return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize(
    ("patterns", "extras"), [(LEARNERS, []), (MAINTAINERS, ["lab", "dev"])], ids=["learners", "maintainers"]
)
def test_what_is_imported_is_declared(patterns, extras):
    provided_by = packages_distributions()
    wanted = {name: {canonicalize_name(one) for one in provided_by.get(name, [name])} for name in imported_by(patterns)}
    assert sorted(name for name, packages in wanted.items() if not packages & declared(*extras)) == []


def test_every_file_of_utils_is_a_learners_or_the_maintainers():
    """So that no room is forgotten by the patterns above."""
    sorted_out = {path for pattern in (*LEARNERS, *MAINTAINERS) for path in ROOT.glob(pattern)}
    assert set((ROOT / "utils").rglob("*.py")) <= sorted_out


def test_what_is_for_maintainers_only_is_not_asked_of_learners():
    """The chapters do not import it, and requirements.txt does not ask for it."""
    only = {
        "nbgrader",
        "nbconvert",
        "nbval",
        "nbclient",
        "jupytext",
        "rich",
        "playwright",
        "pytest",
        "beartype",
        "ruff",
    }
    assert not only & imported_by(LEARNERS) and not only & declared() and only <= declared("dev")


# --- the files beside the code --------------------------------------------------------------------------------------------


def yaml_files():
    return [*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]


def test_yaml_parses_and_workflows_call_make_targets_that_exist():
    files = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in yaml_files()}
    assert len(files) >= 4
    for path, settings in files.items():
        if path.parent.name == "workflows":
            steps = [step.get("run", "") for job in settings["jobs"].values() for step in job["steps"]]
            assert set(re.findall(r"make ([\w-]+)", " ".join(steps))) <= set(COMMANDS), path.name
    hooks = files[ROOT / ".pre-commit-config.yaml"]["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"], "nothing is fetched"
    citation = files[ROOT / "CITATION.cff"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (settings["version"], settings["license"])


def test_the_devcontainer_is_whole():
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert settings["postCreateCommand"].removeprefix("make ") in COMMANDS
    assert set(settings) == {
        *("name", "image", "hostRequirements", "containerEnv", "postCreateCommand", "customizations"),
    }, "a setting that is new here is looked up in https://containers.dev/implementors/json_reference first"
    assert settings["hostRequirements"] == {"cpus": 2, "memory": "4gb", "storage": "32gb"}
    assert re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:3\.1[123]", settings["image"])
    editor = settings["customizations"]["vscode"]
    assert all(re.fullmatch(r"[\w-]+\.[\w-]+", name) for name in editor["extensions"])
    chosen = editor["settings"]["python.defaultInterpreterPath"].removeprefix("${containerWorkspaceFolder}/")
    assert ROOT / chosen == install.VENV / "bin" / "python", "what the setup makes is what the editor runs"


def test_the_devcontainer_installs_the_cpu_build_of_torch():
    """Its index is asked beside the usual one, and what it offers for the pinned version counts as that version."""
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert settings["containerEnv"] == {"PIP_EXTRA_INDEX_URL": "https://download.pytorch.org/whl/cpu"}
    (pin,) = re.findall(r"^torch(==\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert SpecifierSet(pin).contains(f"{pin.removeprefix('==')}+cpu")
    asked = subprocess.run(
        [sys.executable, "-m", "pip", "config", "debug"],
        env={**os.environ, **settings["containerEnv"]},
        capture_output=True,
        text=True,
    )
    assert "PIP_EXTRA_INDEX_URL='https://download.pytorch.org/whl/cpu'" in asked.stdout, "pip reads the variable"


def test_the_issue_forms_are_whole():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.md"):
        head = path.read_text(encoding="utf-8").split("---\n")[1]
        assert re.search(r"^name: \S", head, re.MULTILINE) and re.search(r"^about: \S", head, re.MULTILINE), path.name
