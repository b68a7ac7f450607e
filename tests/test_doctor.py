"""The doctor: a line per thing, with state, cause and command; never a traceback."""

import importlib.metadata as metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.course import doctor, versions
from utils.course.doctor import examine
from utils.course.probes import Finding

ROOT = Path(doctor.__file__).resolve().parents[2]
RAISED = [
    RuntimeError("the cable\nis out"),
    OSError(28, "No space left"),
    KeyError("x"),
    SystemExit("stopped"),
    RecursionError(),
    AssertionError(),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "odd"),
    ImportError("DLL load failed"),
]


@pytest.fixture
def healthy(monkeypatch):
    """Every probe says ok; returns the table, in which a test replaces what it is about."""
    probes = {name: lambda: Finding("ok", "as it should be") for name in doctor.PROBES}
    monkeypatch.setattr(doctor, "PROBES", probes)
    monkeypatch.setattr(sys, "argv", ["doctor"])
    return probes


# --- the examination ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", ["ok", "warn", "fail", "ok warn fail"])
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_status_and_lines(states, as_json, healthy, monkeypatch, capsys):
    for name, state in zip(healthy, states.split(), strict=False):
        healthy[name] = lambda state=state: Finding(state, "a cause\nin two lines", "a command")
    monkeypatch.setattr(sys, "argv", ["doctor", *(["--json"] if as_json else [])])
    assert doctor.main() == int("fail" in states)
    said = capsys.readouterr().out
    if as_json:
        report = json.loads(said)
        assert report["ok"] == ("fail" not in states) and [f["name"] for f in report["findings"]] == list(healthy)
        assert all(set(finding) == {"name", "state", "cause", "fix"} for finding in report["findings"])
        assert sum(report["counts"].values()) == len(healthy)
    else:
        assert len(said.splitlines()) == len(healthy) + 1, "one line a thing, and the verdict"
        assert said.startswith(states.split()[0]) and "a cause in two lines" in said


@pytest.mark.parametrize("name", doctor.PROBES)
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_what_a_probe_raises_is_a_finding(name, error, healthy, capsys):
    def broken():
        print("noise on the way")
        raise error

    healthy[name] = broken
    assert doctor.main() == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fail")]
    assert name in line and type(error).__name__ in line and "make setup" in line


def test_a_missing_package_is_named(healthy):
    healthy["device"] = lambda: __import__("a_package_that_is_nowhere")
    found = examine("device")
    assert found.state == "fail" and "a_package_that_is_nowhere is not installed" in found.cause and found.fix


@pytest.mark.parametrize(
    "text", ["index https://me:hunter22@pypi.example/simple", "token hf_abcdef is refused", "key=s3cretvalue"]
)
def test_no_secret_is_printed(text, healthy, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef")
    monkeypatch.setenv("MY_API_KEY", "s3cretvalue")
    healthy["model hub"] = lambda: (_ for _ in ()).throw(ValueError(text))
    healthy["disk"] = lambda: Finding("warn", text, text)
    doctor.main()
    said = capsys.readouterr().out
    assert not any(secret in said for secret in ("hunter22", "hf_abcdef", "s3cretvalue")) and "***" in said


def test_without_packages_and_on_any_console():
    """A bare Python, and a console that knows ASCII only: every line is there, and says how to go on."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "utils.course.doctor"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr and done.stderr == ""
    assert len(lines) == len(doctor.PROBES) + 1
    assert all("make setup" in line for line in lines if "is not installed in this Python" in line)


# --- versions -------------------------------------------------------------------------------------------------------------


EINOPS, LENS = metadata.version("einops"), metadata.version("transformer-lens")


@pytest.fixture
def course_of(monkeypatch, tmp_path):
    def write(requirements, constraints="", extra="einops"):
        (tmp_path / "requirements.txt").write_text(requirements, encoding="utf-8")
        (tmp_path / "constraints.txt").write_text(constraints, encoding="utf-8")
        text = f'[project]\nname = "x"\n[project.optional-dependencies]\nlab = ["{extra}"]\n'
        (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")

    monkeypatch.setattr(versions, "ROOT", tmp_path)
    return write


@pytest.mark.parametrize(
    ("line", "phrases"),
    [
        ("einops", []),
        ("# einops>=99", []),
        ("einops>=0.1,<99 # why", []),
        ("einops>=99", [f"einops is {EINOPS}, the course needs >=99"]),
        ("einops<0.1", [f"einops is {EINOPS}, the course needs <0.1"]),
        ("no-such-package>=1", ["no-such-package is not installed"]),
        ("no-such-package; python_version < '3'", []),
        ("einops[extra]>=0.1", []),
    ],
)
def test_bounds(line, phrases, course_of):
    course_of(f"# a comment\n\n{line}\n")
    assert versions.outside_bounds(extras=False) == phrases


def test_bounds_of_the_extras(course_of):
    course_of("einops", extra="no-such-package")
    assert versions.outside_bounds(extras=False) == [] and len(versions.outside_bounds(extras=True)) == 1


@pytest.mark.parametrize(
    ("pins", "names", "phrases"),
    [
        (f"einops=={EINOPS}", None, []),
        ("einops==0.0.1", None, [f"einops is {EINOPS}, tested with 0.0.1"]),
        ("einops==0.0.1; python_version < '3'", None, []),
        ("no-such-package==1", None, []),
        ("jaxtyping==0.0.1", {"einops"}, []),
        ("Transformer_Lens==0.0.1", {"transformer-lens"}, [f"Transformer_Lens is {LENS}, tested with 0.0.1"]),
        ("# how to regenerate it\n-c other.txt\neinops==0.0.1", {"einops"}, [f"einops is {EINOPS}, tested with 0.0.1"]),
    ],
)
def test_pins(pins, names, phrases, course_of):
    course_of("einops", pins)
    assert versions.not_pinned(names) == phrases


def test_versions_as_a_command(course_of, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["versions"])
    course_of("einops", "einops==0.0.1")
    assert versions.main() == 1 and "tested with 0.0.1" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["versions", "--bounds"])
    assert versions.main() == 0
