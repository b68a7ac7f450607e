"""The version matrix: what it says of an environment. The environments themselves are made by `make test-matrix`."""

import subprocess
import sys

import pytest

from utils.course import matrix


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "BUILD", tmp_path)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:tests.shapes")  # which would import torch for a test of one line
    return tmp_path


def test_a_missing_interpreter_is_said_and_is_no_failure(build, monkeypatch, capsys):
    monkeypatch.setattr(matrix, "interpreter", lambda version: None)
    page = build / "page.md"
    page.write_text("# Old\n\nAn old table.\n\n## On a GPU\n\nBy hand.\n", encoding="utf-8")
    assert matrix.main(["newest", "--write", str(page)]) == 0
    assert "there is no Python 3.13 here" in capsys.readouterr().out
    written = page.read_text(encoding="utf-8")
    assert "there is no Python 3.13 here" in written and "old table" not in written
    assert written.endswith("\n\n## On a GPU\n\nBy hand.\n")


def test_an_environment_that_cannot_be_made_has_its_own_status_and_reason(build, monkeypatch, capsys):
    monkeypatch.setattr(matrix, "interpreter", lambda version: sys.executable)
    monkeypatch.setitem(matrix.ENVIRONMENTS, "newest", ("3.13", "newest", ["no-such-package-of-the-course==9"]))
    monkeypatch.setattr(matrix, "_quietly", lambda command: matrix_stops(command))
    assert matrix.main(["newest", "--chapters"]) == matrix.NOT_MADE
    assert "no index" in capsys.readouterr().out


def matrix_stops(command):
    raise matrix.Stopped(f"{command[0]} failed: no index")


def test_the_interpreter_has_the_version_that_was_asked_for():
    here = ".".join(map(str, sys.version_info[:2]))
    found = matrix.interpreter(here)
    if found is None:
        pytest.skip(f"no python{here} on the path or among pyenv's; run the tests from one of these")
    said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    assert said.startswith(f"Python {here}.")
    assert matrix.interpreter("3.1") is None  # 3.11 is not 3.1


@pytest.mark.parametrize(
    ("content", "passed", "said"),
    [
        ("def test_a(): pass", True, "1 passed"),
        ("def test_a(): assert False", False, "1 failed"),
        ("import no_such_module", False, "1 error"),
        ("def test_a(:", False, "1 error"),
    ],
)
def test_tests_count_as_pytest_says(build, content, passed, said, capsys):
    (build / "test_it.py").write_text(content, encoding="utf-8")
    closing = matrix._run_tests(sys.executable, build / "log", [str(build / "test_it.py")])
    assert said in closing
    assert matrix.Row("newest", "", tests=closing).passed == passed
    assert ("test_it.py" in capsys.readouterr().out) != passed  # what failed is named where CI shows it


def test_no_tests_at_all_is_no_success(build):
    closing = matrix._run_tests(sys.executable, build / "log", [str(build)])
    assert not matrix.Row("newest", "", tests=closing).passed


def test_a_chapter_that_stops_is_a_failure_and_the_page_names_it():
    rows = [
        matrix.Row(
            "a", "pins", "3.11.7", dict.fromkeys(matrix.TRIED_PACKAGES, "1.0"), "3 passed", {"00": matrix.AGREES}
        ),
        matrix.Row(
            "b",
            "newest",
            "3.13.0",
            dict.fromkeys(matrix.TRIED_PACKAGES, "2.0"),
            "3 passed",
            {"00": "stops: ReferenceMismatch: a | b"},
        ),
    ]
    assert [row.passed for row in rows] == [True, False]
    page = matrix.as_markdown(rows)
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table if not line.startswith("|---")}) == 1  # no cell breaks the table
    assert "ReferenceMismatch" in page
