"""The course's address: written in one place, and everywhere that follows from it."""

import shutil
import tomllib

import pytest

pytest.importorskip("nbgrader", reason="nbgrader is not installed; pip install -e .[dev] brings it")

from utils.course import address, deriving, notebooks
from utils.course.deriving import ROOT

CHAPTERS = ("00_hooks_and_caches", "01_ioi_task")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A course of two chapters, whose derived files are as they should be."""
    for name in ("solutions", "chapters"):
        (tmp_path / name).mkdir()
        for path in (path for chapter in CHAPTERS for path in (ROOT / name).glob(f"{chapter}.*")):
            shutil.copy(path, tmp_path / name)
    for name in ("pyproject.toml", "README.md", "CITATION.cff", "references.bib"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(deriving, "ROOT", tmp_path)
    monkeypatch.setattr(deriving, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(deriving, "CHAPTERS", tmp_path / "chapters")
    notebooks.sync([], execute_too=False)
    return tmp_path


def test_an_address_reaches_the_readme_every_first_cell_and_the_citation(copy):
    readme, problems = (copy / "README.md").read_text(encoding="utf-8"), notebooks.problems()
    if deriving.course()["repository"].startswith("OWNER/"):
        assert "badge.svg" not in readme, "no dead badge before there is an address"
    assert address.main(["jane-doe/course.2", "--branch", "spring/2027"]) == 0
    settings = tomllib.loads((copy / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]
    assert settings == {"repository": "jane-doe/course.2", "branch": "spring/2027"}
    readme = (copy / "README.md").read_text(encoding="utf-8")
    assert readme.count("jane-doe/course.2/blob/spring/2027/chapters/") == len(CHAPTERS)
    for path in [*copy.glob("solutions/*.*"), *copy.glob("chapters/*.*")]:
        text = path.read_text(encoding="utf-8")
        assert "jane-doe/course.2" in text and "spring/2027" in text and "OWNER" not in text
    assert notebooks.problems() == problems, "what was executed stays executed"
    assert address.main(["jane-doe/third"]) == 0
    citation = (copy / "CITATION.cff").read_text(encoding="utf-8")
    assert citation.count("repository-code") == 1 and '"https://github.com/jane-doe/third"\n' in citation


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("", "for example"),
        ("course", "for example"),
        ("https://example.org/jane/course.git", "jane/course"),
        ("git@example.org:jane/course.git", "jane/course"),
        ("jane/course.git", "for example"),
        ("jane/..", "for example"),
        ("jane/", "for example"),
        ("-jane/course", "for example"),
        ('a/b"c', "for example"),
        ("a b/c", "for example"),
        ("jane/course\n", "for example"),
        ("OWNER/mechinterp-course", "your own repository"),
    ],
)
def test_what_is_no_address_is_named_and_changes_nothing(wrong, meant, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(deriving, "ROOT", tmp_path)  # nothing is there: writing would raise
    assert address.main(["--", wrong]) == 1
    message = capsys.readouterr().err
    assert repr(wrong) in message and meant in message and not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", ["a branch", "", "-main", 'a"b'])
def test_what_is_no_branch_is_named(wrong, monkeypatch, tmp_path):
    monkeypatch.setattr(deriving, "ROOT", tmp_path)
    with pytest.raises(address.AddressError, match=repr(wrong)):
        address.write_address("jane/course", wrong)
