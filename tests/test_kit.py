"""The kit for a class: what it holds, that a release gives nothing away, and the points of whole and of damaged work."""

import copy
import csv
import os
import shutil
import subprocess
import sys
import textwrap

import nbformat
import pytest

from tests.checks import REGISTRY
from tests.test_submission import place, solved
from utils.course import deriving, kit
from utils.course.deriving import REGION, ROOT, SOLUTIONS, STUB
from utils.course.kit import KitError, main, source_of, write_kit
from utils.course.submission import damages
from utils.tiny_models import save_tiny_model

STEMS = ("00_hooks_and_caches", "01_ioi_task")
HERE = 'import utils\nprint("the grader has", utils.__file__)'


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A kit with two chapters, written once."""
    out = tmp_path_factory.mktemp("class") / "kit"
    assert write_kit(out, ["00", "01"]) == list(STEMS)
    return out


def nbgrader(course, *arguments, **more):
    """A command of nbgrader's, in the kit's folder, as an instructor types it. more: environment variables."""
    hidden = ("PYTHONPATH", "COURSE_MODEL", "HF_HUB_OFFLINE", "COURSE_PROGRESS", "COURSE_STRICT")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | more
    command = [sys.executable, "-m", "nbgrader", *arguments]
    done = subprocess.run(command, cwd=course, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def read(path):
    return nbformat.read(path, as_version=4)


def test_kit_has_what_nbgrader_wants(course):
    assert {path.name for path in course.iterdir()} == {"README.md", "nbgrader_config.py", "source", "tests", "utils"}
    for stem in STEMS:
        source = read(course / "source" / stem / f"{stem}.ipynb")
        solution = read(SOLUTIONS / f"{stem}.ipynb")
        marked = [cell for cell in source.cells if "nbgrader" in cell.metadata]
        assert marked and [cell.source for cell in marked] == [
            c.source for c in solution.cells if "nbgrader" in c.metadata
        ]
        assert not any(
            cell.get("outputs") or kit.WITHHELD & set(cell.metadata.get("tags", [])) for cell in source.cells
        )
        assert f"- `{stem}`" in (course / "README.md").read_text(encoding="utf-8")
    assert not list(course.rglob("__pycache__")) and not list(course.rglob("test_*.py"))
    assert not (course / "tests/wrong").exists()
    assert (course / "utils/data/reference/smollm2-135m.toml").is_file()


def test_kit_packages_hold_everything_that_the_notebooks_import(course):
    code = "import sys, utils, tests.checks, utils.models; print(utils.__file__, tests.checks.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(course)}
    done = subprocess.run([sys.executable, "-c", code], cwd=course, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(path.startswith(str(course)) for path in done.stdout.split())


def test_kit_source_withholds_answers_and_outputs():
    cells = [
        nbformat.v4.new_code_cell("1", outputs=[nbformat.v4.new_output("stream", text="1")], execution_count=3),
        nbformat.v4.new_markdown_cell("why", metadata={"tags": ["answer"]}),
        nbformat.v4.new_code_cell("2", metadata={"tags": ["solution"]}),
    ]
    (left,) = source_of(nbformat.v4.new_notebook(cells=cells)).cells
    assert (left.source, left.outputs, left.execution_count) == ("1", [], None)


def test_kit_update_keeps_what_is_the_instructors(course, tmp_path):
    out = tmp_path / "kit"
    shutil.copytree(course, out)
    (out / "nbgrader_config.py").write_text("mine = True\n")
    (out / "gradebook.db").write_text("points")
    (out / "source" / STEMS[0] / f"{STEMS[0]}.ipynb").write_text("old")
    (out / "utils" / "gone.py").write_text("old")
    with pytest.raises(KitError, match="holds a kit already: --update"):
        write_kit(out, ["00"])
    assert write_kit(out, ["00"], update=True) == [STEMS[0]]
    assert (out / "nbgrader_config.py").read_text() == "mine = True\n"
    assert (out / "gradebook.db").read_text() == "points" and not (out / "utils" / "gone.py").exists()
    assert read(out / "source" / STEMS[0] / f"{STEMS[0]}.ipynb").cells
    assert f"- `{STEMS[1]}`" in (out / "README.md").read_text(encoding="utf-8"), "a chapter that was there before"


@pytest.mark.parametrize("where", ["", "kit", "utils/kit"])
def test_kit_is_not_written_into_the_course(where, capsys):
    before = sorted(ROOT.iterdir())
    assert main([str(ROOT / where), "00"]) == 1
    assert "lies in the course itself" in capsys.readouterr().err and sorted(ROOT.iterdir()) == before


def test_kit_refuses_folders_with_something_else_and_unknown_chapters(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert main([str(tmp_path)]) == 1 and "holds other files (thesis.tex" in capsys.readouterr().err
    assert main([str(tmp_path / "thesis.tex")]) == 1 and "is a file" in capsys.readouterr().err
    assert main([str(tmp_path / "new"), "77"]) == 1 and "no chapter '77'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


# --- with nbgrader --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(course):
    """The kit after nbgrader has made the release of both chapters."""
    for stem in STEMS:
        nbgrader(course, "generate_assignment", stem)
    return course


@pytest.mark.parametrize("stem", STEMS)
def test_kit_release_gives_nothing_away(stem, released):
    release = read(released / "release" / stem / f"{stem}.ipynb")
    text = "\n".join(cell.source for cell in release.cells)
    source = (SOLUTIONS / f"{stem}.py").read_text(encoding="utf-8")
    solution = read(SOLUTIONS / f"{stem}.ipynb")
    regions = [region for cell in solution.cells for region in REGION.findall(cell.source)]
    elsewhere = REGION.sub("", source)
    told = {line.strip() for region in regions for line in region.splitlines() if len(line.strip()) > 20}
    told = {line for line in told if line not in elsewhere}
    assert len(told) >= len(regions) and not [line for line in told if line in text]
    assert not any(textwrap.dedent(region).strip() in text for region in regions)
    assert "SOLUTION" not in text and "<summary>Answer" not in text
    explained = [cell.source for cell in solution.cells if "answer" in cell.metadata.get("tags", [])]
    assert not any(explanation in text for explanation in explained)
    assert text.count(STUB) == sum(exercise.chapter == stem[:2] for exercise in REGISTRY.values())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a tiny model, with which a notebook's experiments take no time."""
    return str(save_tiny_model(tmp_path_factory.mktemp("tiny") / "model", "gpt2"))


def hand_in(course, student, stem, notebook):
    folder = course / "submitted" / student / stem
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{stem}.ipynb")
    return damages(folder / f"{stem}.ipynb")


def written(release, stem):
    """The release with every function written, as the solution has it."""
    work = copy.deepcopy(release)
    answers = {c.metadata.nbgrader.grade_id: c.source for c in solved(stem).cells if "nbgrader" in c.metadata}
    for cell in work.cells:
        if STUB in cell.source:
            cell.source = answers[cell.metadata.nbgrader.grade_id]
    work.cells.append(nbformat.v4.new_code_cell(HERE))
    return work


def points_of(stem):
    return {name: exercise.points for name, exercise in REGISTRY.items() if exercise.chapter == stem[:2]}


@pytest.mark.parametrize("stem", STEMS[:1])  # every chapter's points are given in the same way, and each takes a minute
def test_kit_grades_whole_and_damaged_work(stem, released, tiny):
    """The whole work with the model that the kit names, the damaged with a tiny one."""
    release, points = read(released / "release" / stem / f"{stem}.ipynb"), points_of(stem)
    first, last = min(points), max(points)
    perfect = written(release, stem)
    damaged = copy.deepcopy(perfect)  # the first exercise is there twice, the last check is gone
    for name in (first, f"check_{first}"):
        at = place(damaged, name)
        damaged.cells.insert(at, copy.deepcopy(damaged.cells[at]))
    del damaged.cells[place(damaged, f"check_{last}")]
    assert hand_in(released, "perfect", stem, perfect) == []
    assert len(hand_in(released, "blank", stem, release)) == len(points)
    *said, deleted = [damage.what for damage in hand_in(released, "damaged", stem, damaged)]
    assert all("is there 2 times" in what for what in said) and len(said) == 2
    assert deleted == f"check_{last}: its check cell was deleted"

    nbgrader(released, "autograde", stem, "--student", "perfect")
    nbgrader(released, "autograde", stem, COURSE_MODEL=tiny)  # whoever is left: the points do not depend on the model
    nbgrader(released, "export", "--to=grades.csv")
    with (released / "grades.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["assignment"] == stem]
    total = sum(points.values())
    expected = {"perfect": total, "blank": 0, "damaged": total - points[last]}
    assert {row["student_id"]: float(row["score"]) for row in rows} == expected
    assert {float(row["max_score"]) for row in rows} == {total}
    graded = read(released / "autograded" / "perfect" / stem / f"{stem}.ipynb")
    assert f"the grader has {released}" in str(graded.cells[-1].outputs), "the packages in the kit, not this checkout's"


def test_kit_takes_the_course_as_it_is_now(monkeypatch, tmp_path):
    """A source that was edited and not yet synced goes out as it is."""
    edited = tmp_path / "solutions"
    edited.mkdir()
    for name in ("solutions/00_hooks_and_caches.py", "pyproject.toml", "references.bib"):
        shutil.copy(ROOT / name, edited if name.startswith("solutions") else tmp_path)
    (edited / "00_hooks_and_caches.py").write_text(
        (ROOT / "solutions/00_hooks_and_caches.py").read_text(encoding="utf-8").replace("# # 00 ·", "# # 00 · Edited ·")
    )
    shutil.copytree(ROOT / "tests/checks", tmp_path / "tests/checks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests/__init__.py", tmp_path / "tests")
    (tmp_path / "utils").mkdir()
    monkeypatch.setattr(deriving, "ROOT", tmp_path)
    monkeypatch.setattr(deriving, "SOLUTIONS", edited)
    write_kit(tmp_path.parent / "kit-of-an-edit")
    source = read(tmp_path.parent / "kit-of-an-edit/source/00_hooks_and_caches/00_hooks_and_caches.ipynb")
    assert source.cells[0].source.startswith("# 00 · Edited ·")
