"""Setting up: a step that fails says which, and what to do."""

import subprocess
import sys
from collections import namedtuple

import pytest

from utils import install


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """What would be run; the step whose command holds `fails` fails."""
    ran = []

    def run(command, cwd):
        ran.append(command)
        return subprocess.CompletedProcess(
            command, 1 if any(run.fails and run.fails in part for part in command) else 0
        )

    run.fails = None
    monkeypatch.setattr(install, "VENV", tmp_path)
    monkeypatch.setattr(install.subprocess, "run", run)
    return run, ran, tmp_path


def test_every_step_then_the_stamp(commands, capsys):
    _, ran, venv = commands
    assert install.main() == 0
    assert len(ran) == len(install.STEPS) == 4 and (venv / "ready").exists()
    assert any("--no-deps" in command and install.MODEL_WHEEL in command for command in ran)


@pytest.mark.parametrize(
    ("fails", "step", "fix"),
    [
        ("venv", 1, "python3-venv"),
        (".[lab,dev]", 2, "PIP_INDEX_URL"),
        ("--no-deps", 3, "PIP_INDEX_URL"),
        ("utils.models", 4, "COURSE_CACHE"),
    ],
)
def test_a_failing_step_is_named(fails, step, fix, commands, capsys):
    run, ran, venv = commands
    run.fails = fails
    assert install.main() == 1
    message = capsys.readouterr().err
    assert f"setup stopped at step {step}" in message and fix in message
    assert len(ran) == step and not (venv / "ready").exists()


def test_wrong_python(commands, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    assert install.main() == 1
    assert "this is 3.9.1, the course needs 3.11 to 3.13" in capsys.readouterr().err


def test_no_disk(commands, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(install, "PYTHON", tmp_path / "none")
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: namedtuple("u", "total used free")(9, 8, 1e9))
    assert install.main() == 1
    assert "1.0 GB free" in capsys.readouterr().err


def test_the_wheel_is_the_one_that_models_expects():
    from utils.models import DEFAULT_EMBEDDED, REGISTRY

    spec = REGISTRY[DEFAULT_EMBEDDED]
    assert f"{spec.package}=={spec.version}" == install.MODEL_WHEEL
    for name in ("binder/postBuild", "requirements.txt"):
        assert install.MODEL_WHEEL in (install.ROOT / name).read_text()
