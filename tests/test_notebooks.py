"""Deriving the notebooks: nothing drifts unnoticed, and exercise notebooks do what they promise."""

import os
import re
import runpy
import shutil
import sys
import textwrap
import time

import jupytext
import nbformat
import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbgrader import nbgraderformat

from tests.checks import REGISTRY
from utils.course import deriving, notebooks
from utils.course.deriving import CHAPTERS, ROOT, SOLUTIONS, STUB, derived_from, sources

SOURCES = pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)
DERIVED = (
    "solutions/00_hooks_and_caches.ipynb",
    "chapters/00_hooks_and_caches.py",
    "chapters/00_hooks_and_caches.ipynb",
)


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy of what the tool reads, with three of the notebooks, to harm; in this process, the tool reads the copy."""
    for name in ("utils", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("solutions", "chapters"):
        (tmp_path / folder).mkdir()
        for path in (ROOT / folder).iterdir():
            if path.name.startswith(("start", "00_", "01_")) or path.suffix == ".toml":
                shutil.copy(path, tmp_path / folder)
    for name in ("pyproject.toml", "README.md", "references.bib"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(deriving, "ROOT", tmp_path)
    monkeypatch.setattr(deriving, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(deriving, "CHAPTERS", tmp_path / "chapters")
    readme = tmp_path / "README.md"
    table = deriving.readme_table()  # of the three
    readme.write_text(
        deriving.TABLE.sub(lambda m: m[1] + table + m[2], readme.read_text(encoding="utf-8")), encoding="utf-8"
    )
    return tmp_path


def test_check_passes_on_a_copy_of_what_is_committed(copy):
    assert notebooks.problems() == []


def test_check_names_every_kind_of_drift(copy, monkeypatch, capsys):
    edited, broken, unparsable = (copy / name for name in DERIVED)
    edited.write_text(edited.read_text().replace("John", "Jon", 1))
    broken.write_text(broken.read_text() + "\n# %%\nprint('by hand')\n")
    unparsable.write_text(unparsable.read_text().replace("import torch", "import torch as", 1))
    (copy / "chapters" / "99_stray.ipynb").write_text("{}")
    (copy / "chapters" / "01_ioi_task.ipynb").unlink()
    monkeypatch.setattr(sys, "argv", ["notebooks", "check"])
    with pytest.raises(SystemExit, match=r"^1$"):
        runpy.run_path(notebooks.__file__, run_name="__main__")  # as `python -m` does, with everything imported already
    said = capsys.readouterr().out
    for name in (*DERIVED, "chapters/99_stray.ipynb", "chapters/01_ioi_task.ipynb"):
        assert name in said
    assert "does not parse" in said and "no source" in said and "missing" in said


def test_check_notices_a_source_that_was_not_synced(copy):
    source = copy / "solutions" / "01_ioi_task.py"
    text = source.read_text()
    assert "# One hour." in text
    source.write_text(text.replace("# One hour.", "# An hour."))
    found = " ".join(notebooks.problems())
    assert "chapters/01_ioi_task.ipynb: differs" in found and "solutions/01_ioi_task.ipynb: differs" in found


def test_check_notices_a_changed_cell_that_was_not_run(copy):
    source = copy / "solutions" / "01_ioi_task.py"
    source.write_text(source.read_text().replace("argsort(descending=True)", "argsort(descending=False)"))
    notebooks.sync(["01"], execute_too=False)
    (problem,) = notebooks.problems()
    assert (
        problem.startswith("solutions/01_ioi_task.ipynb: code cell") and "not been run since it was changed" in problem
    )


def test_check_notices_a_notebook_that_is_too_large(copy):
    path = copy / "solutions" / "01_ioi_task.ipynb"
    notebook = nbformat.read(path, as_version=4)
    shown = next(output for cell in notebook.cells for output in cell.get("outputs", []) if "data" in output)
    shown.data["text/html"] = "x" * notebooks.LARGEST_NOTEBOOK
    path.write_text(deriving.as_json(notebook), encoding="utf-8")
    (problem,) = notebooks.problems()
    assert re.match(
        r"solutions/01_ioi_task\.ipynb: 1\.\d\d MB, and the limit is 1; cell \d+ alone takes 1\.00", problem
    )


def test_unknown_chapter_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["notebooks", "sync", "77"])
    assert notebooks.main() == 1
    assert "no chapter '77'; there are: start, 00_hooks_and_caches" in capsys.readouterr().err


def test_outputs_are_kept_without_progress_bars():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "a1"}}
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="one line"),
        nbformat.v4.new_output("display_data", {**widget, "text/plain": "z:   0%|          | 0/3 [00:00<?, ?it/s]"}),
        nbformat.v4.new_output("display_data", {**widget, "text/plain": "IntSlider(value=3)"}),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])
    deriving.tidy_notebook(notebook)
    stream, slider = notebook.cells[0].outputs
    assert stream.text == "one line" and slider.data["text/plain"] == "IntSlider(value=3)"


@SOURCES
def test_deriving_twice_changes_nothing(source):
    once = derived_from(source)
    assert all(path.read_text(encoding="utf-8") == text for path, text in once.items())
    assert derived_from(source) == once


@SOURCES
def test_exercise_notebook_gives_nothing_away(source):
    chapter = nbformat.read(CHAPTERS / f"{source.stem}.ipynb", as_version=4)
    code = "\n".join(cell.source for cell in chapter.cells if cell.cell_type == "code")
    exercises = [name for name, exercise in REGISTRY.items() if exercise.chapter == source.stem[:2]]
    assert code.count(STUB) == len(exercises) and "SOLUTION" not in code
    assert not any(cell.get("outputs") for cell in chapter.cells)
    assert not any("solution" in cell.metadata.get("tags", []) for cell in chapter.cells)


@SOURCES
def test_exercises_with_their_solutions_are_the_solution_notebook(source):
    solution = nbformat.read(SOLUTIONS / f"{source.stem}.ipynb", as_version=4)
    chapter = nbformat.read(CHAPTERS / f"{source.stem}.ipynb", as_version=4)
    written = {cell.metadata.nbgrader.grade_id: cell for cell in solution.cells if "nbgrader" in cell.metadata}
    folded = {c.source for c in chapter.cells if tagged(c, "answer")}
    solved = [written[c.metadata.nbgrader.grade_id].source if STUB in c.source else c.source for c in chapter.cells]
    assert [source for source in solved if source not in folded] == [
        c.source for c in solution.cells if not {"solution", "answer"} & set(c.metadata.get("tags", []))
    ]


@SOURCES
def test_every_exercise_has_its_answer_folded_behind_its_check(source):
    """Made from the solution region, and typed nowhere: an answer that is followed runs as the solution does."""
    solution = nbformat.read(SOLUTIONS / f"{source.stem}.ipynb", as_version=4)
    chapter = nbformat.read(CHAPTERS / f"{source.stem}.ipynb", as_version=4)
    regions = [region for cell in solution.cells for region in deriving.REGION.findall(cell.source)]
    answers = [cell.source for cell in chapter.cells if tagged(cell, "answer")]
    assert len(answers) == len(regions) == sum(exercise.chapter == source.stem[:2] for exercise in REGISTRY.values())
    for region, answer in zip(regions, answers, strict=True):
        code = answer.split("```python\n")[1].split("\n```")[0]
        assert code == textwrap.dedent(region).strip("\n") and answer.endswith("</details>")
    explanations = [cell.source for cell in solution.cells if tagged(cell, "answer")]
    assert all(explanation in answer for explanation, answer in zip(explanations, answers, strict=True)), "each has one"
    assert all(
        chapter.cells[i - 1].source.startswith("check_") for i, c in enumerate(chapter.cells) if tagged(c, "answer")
    )
    assert "<summary>Answer" not in source.read_text(encoding="utf-8")


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


@SOURCES
def test_nbgrader_metadata(source):
    chapter = nbgraderformat.read(CHAPTERS / f"{source.stem}.ipynb", as_version=4)  # nbgrader's own validation
    marked = [cell for cell in chapter.cells if "nbgrader" in cell.metadata]
    ids = [cell.metadata.nbgrader.grade_id for cell in marked]
    assert len(set(ids)) == len(ids)
    for cell in marked:
        meta = cell.metadata.nbgrader
        assert meta.schema_version == 3 and meta.grade != meta.solution and meta.locked == meta.grade
        assert cell.source.startswith("check_") == meta.grade
        if meta.grade:
            assert meta.points == REGISTRY[meta.grade_id.removeprefix("check_")].points
    assert sum(cell.metadata.nbgrader.grade for cell in marked) == sum(
        exercise.chapter == source.stem[:2] for exercise in REGISTRY.values()
    )


@SOURCES
def test_pairs_hold_the_same_cells(source):
    for folder in (SOLUTIONS, CHAPTERS):
        script = jupytext.read(folder / f"{source.stem}.py")
        notebook = nbformat.read(folder / f"{source.stem}.ipynb", as_version=4)
        assert [(c.cell_type, c.source) for c in script.cells] == [(c.cell_type, c.source) for c in notebook.cells]
        assert (folder / f"{source.stem}.ipynb").stat().st_size < 2_000_000


@SOURCES
def test_first_lines(source):
    notebook = nbformat.read(SOLUTIONS / f"{source.stem}.ipynb", as_version=4)
    note = notebook.cells[1].source.replace("\n", " ")
    assert all(said in note for said in ("computed on SmolLM2-135M-Instruct", "4-bit", "BOS", "not been run on it yet"))
    first_code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "setup" in first_code.metadata.tags


def test_exercise_notebook_stops_at_the_first_exercise_and_says_so():
    """Run as a learner would who opens chapter 00 and runs everything."""
    notebook = nbformat.read(CHAPTERS / "00_hooks_and_caches.ipynb", as_version=4)
    env = notebooks.environment("smollm2-135m")
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(CHAPTERS)}}).execute(env=env)
    errors = [output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "error"]
    (error,) = errors
    assert error.ename == "CheckFailed"
    assert "this exercise is not written yet" in error.evalue
    assert "core.py" not in "\n".join(error.traceback), "no traceback of the checker's internals"


@pytest.fixture
def in_lab(tmp_path):
    """JupyterLab's view of a copy of chapters/ and solutions/: path → what it shows, and the manager that saves."""
    for folder in (CHAPTERS, SOLUTIONS):
        for path in [folder / "jupytext.toml", *folder.glob("00_*")]:
            (tmp_path / folder.name).mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / folder.name)
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)()
    manager.root_dir = str(tmp_path)
    return tmp_path, manager


@pytest.mark.parametrize("minutes", [-60, -1, 0, 1, 60])
@pytest.mark.parametrize("edited", ["answer = 42", ""])
def test_a_chapter_edited_elsewhere_opens_with_the_edit(minutes, edited, in_lab):
    """In VS Code or on Colab, whichever of the two files is newer: a chapter's .py is never read back, nor written."""
    root, manager = in_lab
    path = root / "chapters" / "00_hooks_and_caches.ipynb"
    notebook = nbformat.read(path, as_version=4)
    exercise = next(cell for cell in notebook.cells if STUB in cell.source)
    exercise.source = edited
    nbformat.write(notebook, path)
    script = path.with_suffix(".py")
    text = script.read_text(encoding="utf-8")
    os.utime(script, (time.time() + 60 * minutes,) * 2)
    model = manager.get("chapters/00_hooks_and_caches.ipynb")
    assert [cell["source"] for cell in model["content"]["cells"]] == [cell.source for cell in notebook.cells]
    manager.save(model, "chapters/00_hooks_and_caches.ipynb")
    assert script.read_text(encoding="utf-8") == text
    assert "jupytext" not in nbformat.read(path, as_version=4).metadata


def test_a_solutions_text_comes_from_its_script(in_lab):
    root, manager = in_lab
    script = root / "solutions" / "00_hooks_and_caches.py"
    script.write_text(script.read_text(encoding="utf-8") + "\n# %%\nanswer = 42\n", encoding="utf-8")
    os.utime(script, (time.time() + 60,) * 2)
    cells = manager.get("solutions/00_hooks_and_caches.ipynb")["content"]["cells"]
    assert cells[-1]["source"] == "answer = 42" and any(cell.get("outputs") for cell in cells)
