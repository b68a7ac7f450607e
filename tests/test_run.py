"""The commands of the course: the same with make and without, on every system."""

import ast
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import conftest
from utils.course import install, run

ROOT = Path(run.__file__).resolve().parents[2]


@pytest.fixture
def ran(monkeypatch, tmp_path):
    """The commands that would be run in an environment that is ready; `ran.status` is their exit status."""

    class Commands(list):
        status = 0

    commands = Commands()

    def record(command, **options):
        commands.append((command, options))
        return subprocess.CompletedProcess(command, commands.status)

    monkeypatch.setattr(install, "VENV", tmp_path / "ready")
    install.venv_python().parent.mkdir(parents=True)
    install.venv_python().touch()
    monkeypatch.setattr(install, "is_ready", lambda: True)
    monkeypatch.setattr(subprocess, "run", record)
    return commands


def test_every_command_has_a_make_target_and_the_other_way_round():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = [line for line in makefile.splitlines() if line.startswith(".PHONY:")]
    assert set(phony.split()[1:]) == set(run.COMMANDS)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed here")
@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (["lab"], "-m utils.course.run lab"),
        (["run"], "-m utils.course.run run"),
        (["run", "CHAPTER=03"], "-m utils.course.run run 03"),
        (["sync", "CHAPTER=03", "EXECUTE=1"], "-m utils.course.run sync --execute 03"),
        (["doctor", "ARGS=--json"], "-m utils.course.run doctor --json"),
        (["test-matrix"], "-m utils.course.run test-matrix"),
        (["test-browser"], "-m utils.course.run test-browser"),
        (["check", "ARGS=-x"], "-m utils.course.run check -x"),
        (["constraints"], "-m utils.course.run constraints"),
        (["progress"], "-m utils.course.run progress"),
        (["site"], "-m utils.course.run site"),
        (["kit", "OUT=../class"], "-m utils.course.run kit ../class"),
        (["kit", "OUT=../class", "CHAPTER=00 01", "ARGS=--update"], "-m utils.course.run kit ../class 00 01 --update"),
        (["address", "REPOSITORY=jane/course"], "-m utils.course.run address jane/course"),
        (["address", "REPOSITORY=jane/course", "BRANCH=x"], "-m utils.course.run address jane/course --branch x"),
    ],
)
def test_make_only_passes_on(target, expected):
    # these tests may themselves run in make, with arguments
    of_make = ("MAKE", "ARGS", "CHAPTER", "OUT", "EXECUTE", "REPOSITORY", "BRANCH")
    outer = {name: value for name, value in os.environ.items() if not name.startswith(of_make)}
    command = ["make", "-n", *target, "PYTHON=py"]
    done = subprocess.run(command, cwd=ROOT, env=outer, capture_output=True, text=True)
    assert done.stdout.split() == f"py {expected}".split()


@pytest.mark.parametrize("name", [name for name, (_, modules) in run.COMMANDS.items() if modules])
def test_every_command_runs_its_modules_in_the_environment(name, ran):
    assert run.main([name, "03", "--more"]) == 0
    assert [command[2 : 2 + len(module)] for (command, _), module in zip(ran, run.COMMANDS[name][1], strict=True)] == (
        run.COMMANDS[name][1]
    )
    for number, (command, options) in enumerate(ran, start=1):
        assert command[:2] == [str(install.venv_python()), "-m"] and options["cwd"] == install.ROOT
        assert (command[-2:] == ["03", "--more"]) == (number == len(ran)), "arguments go to the last module"
        assert options["env"]["PYTHONUTF8"] in ("0", "1")


def test_check_leaves_out_marked_tests_and_is_part_of_test():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    left_out = run.QUICK_TESTS[run.QUICK_TESTS.index("-m") + 1]
    declared = [line.split(":")[0] for line in settings["markers"]]
    assert left_out == " and ".join(f"not {name}" for name in declared)
    check, everything = (run.COMMANDS[name][1] for name in ("check", "test"))
    assert [*check[:-1], run.MUTANTS] == everything[:-1] and check[-1][-1] == "tests" and "tests" in everything[-1]


def test_the_longest_files_of_tests_start_first_and_notebooks_before_them():
    names = ["tests/test_alt.py", "tests/test_kit.py", "tests/test_address.py", "tests/test_checks.py"]
    found = [SimpleNamespace(path=ROOT / name, name="") for name in (*names, "solutions/01_ioi_task.ipynb")]
    conftest.pytest_collection_modifyitems(found)
    order = [item.path.stem for item in found]
    assert order == ["01_ioi_task", "test_checks", "test_kit", "test_alt", "test_address"]
    assert all(
        any((ROOT / "tests" / f"{name}{end}").exists() for end in (".py", "/__init__.py")) for name in conftest.LONGEST
    )
    assert "--no-loadscope-reorder" in run.ALL_TESTS, "or the distribution puts them into another order"


def test_constraints_are_chosen_for_every_extra_and_keep_their_pins():
    """uv keeps what the output file pins unless it is told otherwise; the header says which command wrote the file."""
    assert {"--all-extras", "constraints.txt"} <= set(run.CONSTRAINTS) and "--upgrade" not in run.CONSTRAINTS
    assert "make constraints" in (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n", 2)[1]


def test_modules_of_the_commands_exist():
    from importlib.util import find_spec

    missing = [module[0] for _, modules in run.COMMANDS.values() for module in modules if find_spec(module[0]) is None]
    assert set(missing) <= {"utils.course.matrix"}


def test_the_first_module_that_fails_stops_the_command(ran):
    ran.status = 3
    assert run.main(["test"]) == 3 and len(ran) == 1


def test_a_setup_that_fails_stops_the_command(ran, monkeypatch):
    monkeypatch.setattr(install, "is_ready", lambda: False)
    monkeypatch.setattr(install, "set_up", lambda: 1)
    assert run.main(["lab"]) == 1 and ran == []


def test_setup_alone(ran, capsys):
    assert run.main(["setup"]) == 0 and ran == []
    assert "everything is installed" in capsys.readouterr().out


def test_doctor_does_not_wait_for_an_environment(ran, monkeypatch, tmp_path):
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(install, "is_ready", lambda: pytest.fail("doctor must not set up"))
    assert run.main(["doctor", "--json"]) == 0
    assert ran[0][0] == [sys.executable, "-m", "utils.course.doctor", "--json"]


@pytest.mark.parametrize("arguments", [[], ["help"], ["--help"]])
def test_help_names_every_command(arguments, ran, capsys):
    assert run.main(arguments) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in run.COMMANDS) and ran == []


def test_an_unknown_command(ran, capsys):
    assert run.main(["labs"]) == 2 and ran == []
    message = capsys.readouterr().err
    assert "there is no command 'labs'" in message and all(name in message for name in run.COMMANDS)


@pytest.mark.parametrize(("windows", "python"), [(True, ("Scripts", "python.exe")), (False, ("bin", "python"))])
def test_the_interpreter_of_each_system(windows, python):
    """As a fresh import on that system would have it."""
    code = (
        f"import pathlib, shutil, subprocess, sys; sys.platform = {'win32' if windows else 'linux'!r}\n"
        if windows == (os.name != "nt")
        else ""
    )
    code += (
        "from utils.course import install; print(*install.venv_python().parts[-2:], install.command('lab'), sep='|')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    command = "py -m utils.course.run lab" if windows else "make lab"
    assert done.stdout.strip().split("|") == [*python, command]


def test_the_commands_need_the_standard_library_only():
    """Also everything that they import before there is an environment."""
    for path in (
        "utils/course/run.py",
        "utils/course/install.py",
        "utils/course/console.py",
        "utils/__init__.py",
        "utils/course/__init__.py",
    ):
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.split(".")[0] for name in names} - sys.stdlib_module_names <= {"utils"}, path
    done = subprocess.run(
        [sys.executable, "-S", "-m", "utils.course.run", "help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "open the chapters in JupyterLab" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="signals are sent differently on Windows")
def test_ctrl_c_is_left_to_the_module(tmp_path):
    """JupyterLab asks whether it should stop; the command must not kill it meanwhile."""
    (tmp_path / "slow.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.6), print('asked', flush=True), sys.exit(0)))\n"
        "print('up', flush=True); time.sleep(20)\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from utils.course import run; from utils.course import install\n"
        f"install.ROOT = {str(tmp_path)!r}; sys.exit(run.run_modules(sys.executable, [['slow']], []))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "up\n"
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=10)
    assert out == "asked\n" and process.returncode == 0
