"""Damage to a submission is named before it is handed in: every kind of it, and nothing in a whole one."""

import copy
import json
import re
import runpy
import sys

import nbformat
import pytest

from tests.solutions import SOLUTIONS
from utils.course import submission
from utils.course.deriving import CHAPTERS, REGION, STUB
from utils.course.submission import PLACEHOLDER_LINE, chapter_of, damages, main

STEMS = sorted(path.stem for path in CHAPTERS.glob("[0-9][0-9]_*.ipynb"))


def solved(stem):
    """The chapter as somebody hands it in who wrote what the solution has."""
    chapter = nbformat.read(CHAPTERS / f"{stem}.ipynb", as_version=4)
    written = {
        cell.metadata.nbgrader.grade_id: REGION.sub(lambda region: region[1], cell.source)
        for cell in nbformat.read(SOLUTIONS / f"{stem}.ipynb", as_version=4).cells
        if "nbgrader" in cell.metadata
    }
    for cell in chapter.cells:
        if STUB in cell.source:
            cell.source = written[cell.metadata.nbgrader.grade_id]
    return chapter


@pytest.fixture
def work():
    return solved("00_hooks_and_caches")


def place(notebook, grade_id):
    return next(i for i, c in enumerate(notebook.cells) if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def cell(notebook, grade_id):
    return notebook.cells[place(notebook, grade_id)]


def damages_of(notebook, tmp_path, name="anything.ipynb"):
    path = tmp_path / name
    text = notebook if isinstance(notebook, str) else json.dumps(notebook)
    path.write_text(text, encoding="utf-8")
    return damages(path)


def only(notebook, tmp_path):
    """What the one damage says, and its fix."""
    (damage,) = damages_of(notebook, tmp_path)
    assert damage.fix
    return damage.what


@pytest.mark.parametrize("stem", STEMS)
def test_whole_work_has_no_damage(stem, tmp_path):
    whole = solved(stem)
    assert damages_of(whole, tmp_path) == []
    assert chapter_of(whole).stem == stem
    whole.cells.insert(3, nbformat.v4.new_code_cell("mine = 1"))
    whole.cells.append(nbformat.v4.new_markdown_cell("=======\n\n<details>my notes</details>"))
    assert damages_of(whole, tmp_path) == []


@pytest.mark.parametrize("stem", STEMS)
def test_every_exercise_of_a_fresh_chapter_is_unwritten(stem, tmp_path):
    fresh = nbformat.read(CHAPTERS / f"{stem}.ipynb", as_version=4)
    assert [damage.what for damage in damages_of(fresh, tmp_path)] == [
        f"{name} is not written yet" for name in chapter_of(fresh).exercises
    ]
    assert PLACEHOLDER_LINE in STUB


@pytest.mark.parametrize("grade_id", ["zero_head", "check_zero_head"])
def test_deleted(grade_id, work, tmp_path):
    del work.cells[place(work, grade_id)]
    kind = "check" if grade_id.startswith("check") else "exercise"
    assert only(work, tmp_path) == f"{grade_id}: its {kind} cell was deleted"


@pytest.mark.parametrize("grade_id", ["zero_head", "check_zero_head"])
def test_doubled(grade_id, work, tmp_path):
    at = place(work, grade_id)
    work.cells.insert(at, copy.deepcopy(work.cells[at]))
    assert re.search(
        rf"^{grade_id}: its \w+ cell is there 2 times \(cells {at + 1} and {at + 2}\)", only(work, tmp_path)
    )


@pytest.mark.parametrize("grade_id", ["zero_head", "check_zero_head"])
def test_pasted_into_a_new_cell(grade_id, work, tmp_path):
    at = place(work, grade_id)
    work.cells[at] = nbformat.v4.new_code_cell(work.cells[at].source)
    assert "has lost the grader's mark" in only(work, tmp_path)


def test_edited_where_locked(work, tmp_path):
    cell(work, "check_zero_head").source = "print('✓ zero_head')"
    assert "is locked and was edited" in only(work, tmp_path)
    cell(work, "check_zero_head").source = "check_zero_head(zero_head)\n"
    assert damages_of(work, tmp_path) == []
    cell(work, "check_zero_head").metadata.nbgrader.locked = False
    assert "settings of cell" in only(work, tmp_path)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"name": "ir", "language": "R", "display_name": "R"}, "'ir' (R)"),
        ({"name": "conda-env-x", "language": "python", "display_name": "x"}, "'conda-env-x'"),
        (None, "no kernel"),
    ],
)
def test_wrong_kernel(spec, said, work, tmp_path):
    work.metadata.kernelspec = spec
    if spec is None:
        del work.metadata["kernelspec"]
    assert said in only(work, tmp_path) and "Python 3" in damages_of(work, tmp_path)[0].fix


def test_merge_marks(work, tmp_path):
    lines = json.dumps(work, indent=1).split("\n")
    conflict = ["<<<<<<< HEAD", *lines[40:45], "=======", *lines[40:44], ">>>>>>> theirs"]
    assert "line 41 of the file is '<<<<<<< HEAD'" in only("\n".join([*lines[:40], *conflict, *lines[45:]]), tmp_path)
    cell(work, "zero_head").source += "\n<<<<<<< local\nx = 1\n=======\nx = 2\n>>>>>>> remote"
    said = [damage.what for damage in damages_of(work, tmp_path)]
    assert "has the line '<<<<<<< local'" in said[0] and "is not Python" in said[1] and len(said) == 2


@pytest.mark.parametrize("indent", [1, None])
def test_cut_off(indent, work, tmp_path):
    text = json.dumps(work, indent=indent)
    for end in (*range(1, len(text), 997), text.index('": true') + 5, text.rindex("}")):
        assert only(text[:end], tmp_path).startswith("the file is cut off at line"), text[:end][-40:]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty"),
        ("  \n", "the file is empty"),
        ("def zero_head(z): return z", "does not begin with {"),
        ("{}", "no notebook"),
        ('{"cells": [}, "metadata": {}}', "broken at line 1"),
        ('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}', "no notebook"),
        (json.dumps(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])), "no chapter of this course"),
    ],
)
def test_files_that_are_no_chapter(text, said, tmp_path):
    assert said in only(text, tmp_path)


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "x.ipynb").write_bytes(b"\xff\xd8\xff\xe0 a picture")
    (damage,) = damages(tmp_path / "x.ipynb")
    assert "no notebook" in damage.what


def test_other_notebooks_of_the_course(tmp_path):
    start = nbformat.read(CHAPTERS / "start.ipynb", as_version=4)
    assert "the map of the course" in only(start, tmp_path)
    found = damages(SOLUTIONS / "00_hooks_and_caches.ipynb")
    assert len(found) == 3 and all("solution notebook" in damage.what for damage in found)


def test_a_cell_of_another_chapter(work, tmp_path):
    work.cells.append(cell(solved("01_ioi_task"), "logit_diff"))
    assert only(work, tmp_path).startswith("logit_diff is no exercise of 00 · Hooks and caches")


def test_an_answer_under_another_name_or_below_its_check_or_no_python(work, tmp_path):
    renamed, moved, broken, prose = (copy.deepcopy(work) for _ in range(4))
    cell(renamed, "zero_head").source = cell(renamed, "zero_head").source.replace("def zero_head", "def mine")
    assert "does not define zero_head any more" in only(renamed, tmp_path)
    at = place(moved, "zero_head")
    moved.cells[at : at + 2] = moved.cells[at : at + 2][::-1]
    assert only(moved, tmp_path) == "zero_head stands below its check"
    cell(broken, "zero_head").source += "\n  return ("
    assert "is not Python (line" in only(broken, tmp_path)
    old = cell(prose, "zero_head")
    prose.cells[place(prose, "zero_head")] = nbformat.v4.new_markdown_cell(old.source, metadata=old.metadata)
    assert "has become markdown" in only(prose, tmp_path)


def test_magics_and_other_ways_to_define_are_python(work, tmp_path):
    cell(work, "zero_head").source = "%time x = 1\n!ls\nzero_head = lambda z, hook, head_index: z"
    assert damages_of(work, tmp_path) == []


def test_everything_at_once_is_a_line_each(work, tmp_path):
    del work.cells[place(work, "check_logits_without_head")]
    work.metadata.kernelspec.name = "julia"
    cell(work, "zero_head").source = cell(nbformat.read(CHAPTERS / "00_hooks_and_caches.ipynb", 4), "zero_head").source
    cell(work, "check_attention_to_first_token").source = "pass"
    assert len(damages_of(work, tmp_path)) == 4


def test_command_says_a_line_each_and_its_status(work, tmp_path, capsys, monkeypatch):
    good, bad = tmp_path / "good.ipynb", tmp_path / "bad.ipynb"
    good.write_text(json.dumps(work), encoding="utf-8")
    bad.write_text("", encoding="utf-8")
    assert main([str(good)]) == 0 and capsys.readouterr().out.startswith("✓ good.ipynb: ")
    assert main([str(good), str(bad)]) == 1
    assert "✗ bad.ipynb: the file is empty  →  save" in capsys.readouterr().out
    assert main([str(tmp_path / "absent.ipynb")]) == 2 and "No such file" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["submission", str(bad)])
    with pytest.raises(SystemExit, match=r"^1$"):
        runpy.run_path(
            submission.__file__, run_name="__main__"
        )  # as `python -m` does, with everything imported already
