"""Is a chapter whole enough to hand in? Names whatever would cost points for no good reason, one line each, with its fix.

    python -m utils.course.submission FILE [FILE ...]

Exercises and checks that were deleted, doubled, moved or edited where they are locked; what is not written yet; another
kernel; marks of a merge that was not finished; a file that is cut off; a notebook that is not this course's. Whether an
answer is right is for its check to say: nothing of the notebook is run.

Exit status: 0 if nothing is wrong, 1 if something is, 2 if a file is not there.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from utils.course.console import make_output_safe
from utils.course.progress import ChapterProgress, exercises_by_chapter

PLACEHOLDER_LINE = "this exercise is not written yet"
MERGE_MARKS = re.compile(r"^(?:<<<<<<<|>>>>>>>|\|\|\|\|\|\|\|)(?: .*)?$", re.MULTILINE)
KERNEL_NAME = "python3"
COPY = (
    "open a fresh copy of the chapter beside yours, and copy the {what} over (copying keeps what the grader looks for)"
)
FRESH = "open a fresh copy of the chapter, and copy your functions into it"


@dataclass(frozen=True)
class Damage:
    """What is wrong with a submission, and what to do about it."""

    what: str
    fix: str


def damages(path: Path) -> list[Damage]:
    """Everything that is wrong with the notebook in `path`, in the order of the chapter. OSError if it cannot be opened."""
    notebook = read_submission(path.read_bytes())
    if isinstance(notebook, Damage):
        return [notebook]
    chapter = chapter_of(notebook)
    if chapter is None:
        return [_foreign(notebook)]
    found = [*_kernel(notebook), *_leftovers(notebook)]
    for name in chapter.exercises:
        found += _exercise(notebook, name)
    return found + list(_unknown_marks(notebook, chapter))


# --- reading ----------------------------------------------------------------------------------------------------------


def read_submission(content: bytes) -> NotebookNode | Damage:
    """The notebook in the bytes of a file, or why there is none."""
    text = content.decode("utf-8", errors="replace")
    if marks := MERGE_MARKS.findall(text):
        line = text[: text.index(marks[0])].count("\n") + 1
        fix = "git checkout --ours FILE (or --theirs) takes one version whole; or " + FRESH
        return Damage(f"a merge was not finished: line {line} of the file is {marks[0]!r}", fix)
    if not text.strip():
        return Damage("the file is empty", "save the notebook again, or take a copy from before")
    try:
        with warnings.catch_warnings(action="ignore"):  # a doubled cell is named below, in our own words
            notebook = nbformat.reads(text, as_version=4)
            nbformat.validate(notebook)
    except (nbformat.reader.NotJSONError, json.JSONDecodeError):
        return _broken(text)
    except Exception as error:  # no "cells", cells without sources, a format that nbformat does not know
        return Damage(f"the file is no notebook ({str(error).splitlines()[0][:120]})", FRESH)
    return notebook


def _broken(text: str) -> Damage:
    """JSON that ends too early, or JSON that is broken further up, or no JSON at all."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip()[:1] != "{":
            return Damage("the file is no notebook: it does not begin with {", "hand in the .ipynb file of the chapter")
        rest = text[error.pos :].strip()
        if not rest or not text.rstrip().endswith("}"):
            again = "save it again, and copy or upload it again"
            return Damage(f"the file is cut off at line {error.lineno}", f"{again}; if it stays so, {FRESH}")
        return Damage(f"the file is broken at line {error.lineno} ({error.msg})", FRESH)
    return Damage("the file is JSON, but no notebook", FRESH)


def chapter_of(notebook: NotebookNode) -> ChapterProgress | None:
    """The chapter that a notebook is, whatever its file is called: the one with most of whose exercises it has a trace.

    A trace is a mark of the grader's, a call of a check, or the chapter's heading. None if it has no trace of any.
    """
    marks = {name.removeprefix("check_") for name in map(_grade_id, notebook.cells) if name}
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    called = set(re.findall(r"^check_(\w+)\(", code, re.MULTILINE))
    headings = {line[2:] for cell in notebook.cells for line in cell.source.splitlines() if line.startswith("# ")}

    def traces(chapter: ChapterProgress) -> int:
        return len(set(chapter.exercises) & (marks | called)) + (chapter.title in headings)

    best = max(exercises_by_chapter(), key=traces, default=None)
    return best if best is not None and traces(best) else None


def _foreign(notebook: NotebookNode) -> Damage:
    if any(cell.source.startswith("# Start here") for cell in notebook.cells):
        return Damage("this is the map of the course, which has no exercises", "hand in a chapter")
    return Damage("this is no chapter of this course", "hand in the .ipynb file that you worked in, from chapters/")


# --- the whole notebook -------------------------------------------------------------------------------------------------


def _kernel(notebook: NotebookNode) -> Iterator[Damage]:
    spec = notebook.metadata.get("kernelspec", {})
    language = spec.get("language") or notebook.metadata.get("language_info", {}).get("name") or "python"
    if spec.get("name") != KERNEL_NAME or language.lower() != "python":
        has = repr(spec["name"]) if spec.get("name") else "no kernel"
        what = f"the notebook asks for {has} ({language}); the grader has {KERNEL_NAME!r}"
        yield Damage(what, "choose Kernel > Change Kernel > Python 3, and save")


def _leftovers(notebook: NotebookNode) -> Iterator[Damage]:
    """What belongs in no submission, wherever it stands."""
    for number, cell in enumerate(notebook.cells, start=1):
        if marks := MERGE_MARKS.findall(cell.source):
            what = f"a merge was not finished: cell {number} has the line {marks[0]!r}"
            yield Damage(what, "keep one of the two versions")
        if "### BEGIN SOLUTION" in cell.source:
            what = f"cell {number} is from the course's solution notebook"
            yield Damage(what, "hand in the chapter that you worked in")


def _unknown_marks(notebook: NotebookNode, chapter: ChapterProgress) -> Iterator[Damage]:
    known = {*chapter.exercises, *(f"check_{name}" for name in chapter.exercises)}
    for name in dict.fromkeys(filter(None, map(_grade_id, notebook.cells))):
        if name not in known:
            yield Damage(
                f"{name} is no exercise of {chapter.title}: the notebook is of another edition, or a cell was pasted in",
                f"delete the cell; if there are several, {FRESH}",
            )


# --- one exercise -------------------------------------------------------------------------------------------------------


def _grade_id(cell: NotebookNode) -> str:
    """The grader's name for a cell, or ""."""
    mark = cell.metadata.get("nbgrader", {})
    return str(mark.get("grade_id", "")) if isinstance(mark, dict) else ""


def _places(notebook: NotebookNode, grade_id: str) -> list[int]:
    return [place for place, cell in enumerate(notebook.cells) if _grade_id(cell) == grade_id]


def _exercise(notebook: NotebookNode, name: str) -> list[Damage]:
    """What is wrong with an exercise and with its check."""
    answers, checks = _places(notebook, name), _places(notebook, f"check_{name}")
    found = [*_presence(notebook, name, answers), *_answer(notebook, name, answers)]
    found += [*_presence(notebook, f"check_{name}", checks), *_check(notebook, name, checks)]
    if answers and checks and max(answers) > min(checks):
        found.append(Damage(f"{name} stands below its check", "move its cell up, above the check"))
    return found


def _presence(notebook: NotebookNode, grade_id: str, places: Sequence[int]) -> Iterator[Damage]:
    """There must be one code cell, with the grader's mark."""
    what = "check cell" if grade_id.startswith("check_") else "exercise cell"
    if len(places) > 1:
        times = f"{len(places)} times (cells {' and '.join(str(place + 1) for place in places)})"
        doubled = f"{grade_id}: its {what} is there {times}; the grader marks the last"
        yield Damage(doubled, "delete the copies, and keep one")
    for place in places:
        if notebook.cells[place].cell_type != "code":
            kind = notebook.cells[place].cell_type
            yield Damage(f"{grade_id}: its {what} has become {kind}", "click the cell, press Esc, then y")
    if not places:
        begins = f"{grade_id}(" if grade_id.startswith("check_") else f"def {grade_id}("
        if any(re.search(rf"^{re.escape(begins)}", cell.source, re.MULTILINE) for cell in notebook.cells):
            lost = f"{grade_id}: its {what} has lost the grader's mark, as when code is pasted into a new cell"
            yield Damage(lost, COPY.format(what=what) + "; then move your code into it")
        else:
            yield Damage(f"{grade_id}: its {what} was deleted", COPY.format(what=what))


def _answer(notebook: NotebookNode, name: str, places: Sequence[int]) -> Iterator[Damage]:
    """The function must be there, written, and Python."""
    sources = [notebook.cells[place].source for place in places]
    if any(PLACEHOLDER_LINE in source for source in sources):
        yield Damage(f"{name} is not written yet", "put your code where the line raises NotImplementedError")
    for place, source in zip(places, sources, strict=True):
        try:
            tree = ast.parse(TransformerManager().transform_cell(source))
        except SyntaxError as error:
            yield Damage(f"{name}: cell {place + 1} is not Python (line {error.lineno}: {error.msg})", "mend that line")
            return
        if name not in _defined(tree):
            yield Damage(f"{name}: its cell does not define {name} any more", f"call your function {name}")


def _defined(tree: ast.Module) -> set[str]:
    """Functions and names that a cell makes."""
    nodes = list(ast.walk(tree))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return stored | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def _check(notebook: NotebookNode, name: str, places: Sequence[int]) -> Iterator[Damage]:
    """The check cell is locked: it has one line, and the grader's settings."""
    call = f"check_{name}({name})"
    for place in places:
        cell = notebook.cells[place]
        if cell.source.strip() != call:
            yield Damage(f"check_{name}: cell {place + 1} is locked and was edited", f"its only line must be {call}")
        mark = cell.metadata.nbgrader
        if not mark.get("grade") or not mark.get("locked") or mark.get("solution"):
            changed = f"check_{name}: the grader's settings of cell {place + 1} were changed"
            yield Damage(changed, COPY.format(what="check cell"))


def main(arguments: Sequence[str] | None = None) -> int:
    make_output_safe()
    parser = argparse.ArgumentParser(prog="python -m utils.course.submission", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a chapter that you worked in")
    status = 0
    for path in parser.parse_args(arguments).files:
        try:
            found = damages(path)
        except OSError as error:
            print(f"{path}: {error.strerror or error}", file=sys.stderr)
            status = 2
            continue
        for damage in found:
            print(f"✗ {path.name}: {damage.what}  →  {damage.fix}")
        if not found:
            print(f"✓ {path.name}: every exercise is written and every check is in its place; it can be handed in")
        status = status or int(bool(found))
    return status


if __name__ == "__main__":
    sys.exit(main())
