"""Every command of the course, on any system, with or without `make`. Standard library only.

    python3 -m utils.course.run COMMAND [ARGUMENT ...]      (Windows: py -m utils.course.run COMMAND)

The first command sets up `.venv`; after that they start within seconds. `make COMMAND` calls this.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from utils.course import install
from utils.course.console import make_output_safe

# Keeps the versions that the file pins now and adds what is new; --upgrade, or --upgrade-package NAME, moves them.
CONSTRAINTS = [
    *"uv pip compile pyproject.toml --all-extras --universal --python-version 3.11.0 --fork-strategy fewest".split(),
    *("--no-annotate", "-o", "constraints.txt", "--custom-compile-command", "make constraints"),
]
NOTEBOOKS = "utils.course.notebooks"
CHECKED = [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["codespell_lib"], [NOTEBOOKS, "check"]]
MUTANTS = ["tests.mutants", "--changed"]
QUICK_TESTS = ["pytest", "-n2", "--dist=loadfile", "-m", "not real_model and not slow and not browser", "tests"]
ALL_TESTS = [  # notebooks first: they take longest, and one that came last would keep one process waiting
    *("pytest", "-n2", "--dist=loadfile", "--no-loadscope-reorder", "--nbval", "--nbval-current-env"),
    *("solutions", "tests"),
]
BROWSER_TESTS = ["pytest", "-rs", "-m", "browser", "tests/browser"]

# command → (what it does, the modules that it runs in turn; arguments of the command go to the last)
COMMANDS: dict[str, tuple[str, list[list[str]]]] = {
    "lab": ("open the chapters in JupyterLab", [["utils.course.lab"]]),
    "progress": ("what you have passed, tried and left open, and what comes next", [["utils.course.progress"]]),
    "run": ("execute the course, or the chapters named: run 03 --model gpt2-small", [[NOTEBOOKS, "run"]]),
    "setup": ("set up .venv and the embedded model, and stop there", []),
    "doctor": ("examine this machine: what is missing, and the command that fixes it", [["utils.course.doctor"]]),
    "check": ("lint, derived files, and the unit tests that are quick", [*CHECKED, QUICK_TESTS]),
    "test": ("what CI runs: check, all unit tests, and the solutions' outputs", [*CHECKED, MUTANTS, ALL_TESTS]),
    "test-browser": ("JupyterLab and each kind of output, tried in a browser", [BROWSER_TESTS]),
    "mutants": ("whether any wrong answer passes a check: mutants --chapter 03 --show", [["tests.mutants"]]),
    "test-matrix": ("the tests on other versions of Python and of the libraries", [["utils.course.matrix"]]),
    "sync": ("derive the notebooks from solutions/*.py: sync 03 --execute", [[NOTEBOOKS, "sync"]]),
    "address": ("write the repository's address everywhere: address owner/name", [["utils.course.address"]]),
    "constraints": ("pin what is new in the requirements; --upgrade moves every pin", [CONSTRAINTS]),
    "site": ("build the website from the executed solutions: build/site", [["utils.course.site.build"]]),
    "kit": ("write an nbgrader course for a class: kit ../class 00 01", [["utils.course.kit"]]),
    "bench": ("measure the patching engine", [["tests.bench"]]),
}


def usage() -> str:
    lines = [f"  {name:<12} {what}" for name, (what, _) in COMMANDS.items()]
    start = "py" if install.WINDOWS else "python3"
    return "\n".join([f"usage: {start} -m utils.course.run COMMAND [ARGUMENT ...]", "", *lines])


def run_modules(python: str, modules: Sequence[Sequence[str]], arguments: Sequence[str]) -> int:
    """Exit status of the first module that fails, or 0. Ctrl-C is left to the module: JupyterLab asks before it stops."""
    environment = {"PYTHONUTF8": "1", **os.environ}  # files are UTF-8, whatever Windows reads by default
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        for number, module in enumerate(modules, start=1):
            more = arguments if number == len(modules) else []
            status = subprocess.run([python, "-m", *module, *more], cwd=install.ROOT, env=environment).returncode
            if status != 0:
                return status
    finally:
        signal.signal(signal.SIGINT, before)
    return 0


def main(arguments: Sequence[str]) -> int:
    make_output_safe()
    name, *rest = arguments or ["help"]
    if name not in COMMANDS:
        if name in ("help", "-h", "--help"):
            print(usage())
            return 0
        print(f"there is no command {name!r}\n{usage()}", file=sys.stderr)
        return 2
    modules = COMMANDS[name][1]
    if name == "doctor":  # it says what is missing, so it cannot wait until nothing is
        python = install.venv_python()
        return run_modules(str(python) if python.exists() else sys.executable, modules, rest)
    status = install.main() if name == "setup" else install.ensure()
    return status or run_modules(str(install.venv_python()), modules, rest)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(install.interrupted())
