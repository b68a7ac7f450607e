"""A folder from which a class is taught and graded with nbgrader: sources, settings, and the packages that checks need.

    make kit OUT=../class [CHAPTER=03], or python -m utils.course.kit ../class [CHAPTER ...] [--update]

A source has the solutions, which nbgrader takes out for the release, and none of the folded answers and explanations,
which it would leave in. With --update, sources and packages are replaced; settings, gradebook, release and submissions
stay as they are. The folder's README says what to type then, and `docs/teaching.md` says more.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from utils.course import deriving
from utils.course.console import make_output_safe
from utils.course.deriving import NotebookError, as_json, derived_from, sources
from utils.loading import DEFAULT_EMBEDDED

WITHHELD = {"answer", "solution"}  # tags of the cells that a class does not get
# What the kit holds of the two packages: no tests, and none of the lists of right and wrong answers.
COMPILED = ("__pycache__", "*.pyc")
LEFT_OUT = (*COMPILED, "test_*.py", "conftest.py", "nbval_tolerance.py", "right", "wrong", "mutants", "*.json")

CONFIG = '''\
"""nbgrader's settings for this class. `make kit` wrote them once, and does not touch them again: they are yours."""

import os
import sys
from pathlib import Path

from nbgrader import preprocessors

HERE = Path(__file__).resolve().parent
c = get_config()  # noqa: F821 (nbgrader provides it)
c.CourseDirectory.root = str(HERE)
c.CourseDirectory.course_id = "mechinterp"
c.ClearSolutions.code_stub = {{"python": {stub!r}}}
c.Execute.timeout = 1800  # seconds for one cell; the slowest are the experiments, not the checks


class DoubledCells(preprocessors.DeduplicateIds):
    """nbgrader leaves an empty mark on a copy of a cell, and then stops grading everybody because of it: take it off."""

    def preprocess_cell(self, cell, resources, cell_index):
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if cell.metadata.get("nbgrader") == {{}}:
            del cell.metadata["nbgrader"]
        return cell, resources


c.Autograde.sanitize_preprocessors = [
    preprocessors.ClearOutput,
    DoubledCells,
    preprocessors.OverwriteKernelspec,
    preprocessors.OverwriteCells,
    preprocessors.CheckCellMetadata,
]

# nbgrader starts `alembic` by its bare name: it is beside the Python that runs this, also where .venv is not activated.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

# What the kernels of the grader get: the course's packages, which lie beside this file, the model that needs no hub, and
# no line in anybody's record of progress.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
os.environ.setdefault("COURSE_MODEL", {model!r})
if os.environ["COURSE_MODEL"] == {model!r}:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["COURSE_PROGRESS"] = "0"
'''

README = """\
# A class on mechanistic interpretability

`make kit` of the course wrote this folder. Run the commands below in it, with the Python of the course's `.venv`
(`source .../.venv/bin/activate`, on Windows `...\\.venv\\Scripts\\activate`). CHAPTER is one of:

{chapters}

| step | command |
|---|---|
| make what students get, in `release/` | `nbgrader generate_assignment CHAPTER` |
| hand it out | `release/CHAPTER/CHAPTER.ipynb`, which students put into `chapters/` of their own copy of the course |
| collect, one folder a student | `submitted/NAME/CHAPTER/CHAPTER.ipynb` |
| name damage first | in the course's folder: `python -m utils.course.submission .../submitted/*/CHAPTER/CHAPTER.ipynb` |
| grade | `nbgrader autograde CHAPTER` |
| look at it, and comment | `nbgrader generate_feedback CHAPTER`, or `jupyter lab` in this folder for the form grader |
| the points as a table | `nbgrader export` writes `grades.csv` |

Each exercise is worth the points of its check, all or nothing. A check that a student deleted counts as not passed. The
packages `utils` and `tests` in this folder are a copy: `make kit OUT=... ARGS=--update` renews them and the sources.
"""


class KitError(RuntimeError):
    """The kit cannot be written into this folder; the message says why."""


def source_of(notebook: NotebookNode) -> NotebookNode:
    """A solution notebook as nbgrader's source: without outputs, and without the cells that a class does not get."""
    source = nbformat.from_dict(notebook)
    source.cells = [cell for cell in source.cells if not WITHHELD & set(cell.metadata.get("tags", []))]
    for cell in source.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return source


def write_kit(out: Path, chapters: Sequence[str] = (), update: bool = False) -> list[str]:
    """Write the kit into the folder `out`, for all chapters with exercises or some, and return their names.

    Raises KitError where `out` lies in the course, holds something else, or holds a kit and `update` is False;
    NotebookError for a chapter that there is not.
    """
    out = out.expanduser().resolve()
    _require_place(out, update)
    chosen = [source for source in sources(chapters) if source.stem != "start"]
    notebooks = {path.stem: derived_from(path)[deriving.SOLUTIONS / f"{path.stem}.ipynb"] for path in chosen}
    for stem, text in notebooks.items():
        target = out / "source" / stem / f"{stem}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(as_json(source_of(nbformat.reads(text, as_version=4))), encoding="utf-8")
    _copy_packages(out)
    if not (out / "nbgrader_config.py").exists():
        config = CONFIG.format(stub=deriving.STUB, model=DEFAULT_EMBEDDED)
        (out / "nbgrader_config.py").write_text(config, encoding="utf-8")
    stems = sorted(path.name for path in (out / "source").iterdir() if path.is_dir())
    listed = "\n".join(f"- `{stem}`" for stem in stems)
    (out / "README.md").write_text(README.format(chapters=listed), encoding="utf-8")
    return list(notebooks)


def _require_place(out: Path, update: bool) -> None:
    root = deriving.ROOT.resolve()
    if out == root or (root in out.parents and root / "build" not in [out, *out.parents]):
        raise KitError(f"{out} lies in the course itself: choose a folder outside it, such as OUT=../class")
    if out.exists() and not out.is_dir():
        raise KitError(f"{out} is a file: choose a folder")
    there = {path.name for path in out.iterdir()} if out.exists() else set()
    if "nbgrader_config.py" in there and not update:
        raise KitError(f"{out} holds a kit already: --update replaces its sources and packages, and leaves the rest")
    if there and "nbgrader_config.py" not in there:
        raise KitError(f"{out} holds other files ({sorted(there)[0]}, …): choose a new folder")


def _copy_packages(out: Path) -> None:
    """The packages that the first cell of a notebook looks for in the folders above it."""
    for name in ("utils", "tests"):
        shutil.rmtree(out / name, ignore_errors=True)
        left_out = LEFT_OUT if name == "tests" else COMPILED
        shutil.copytree(deriving.ROOT / name, out / name, ignore=shutil.ignore_patterns(*left_out))


def main(arguments: Sequence[str] | None = None) -> int:
    make_output_safe()
    parser = argparse.ArgumentParser(prog="python -m utils.course.kit", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write, outside the course")
    parser.add_argument("chapters", nargs="*", help="numbers or names; none means all")
    parser.add_argument("--update", action="store_true", help="replace the sources and packages of a kit that is there")
    given = parser.parse_intermixed_args(arguments)
    try:
        written = write_kit(given.out, given.chapters, given.update)
    except (KitError, NotebookError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(written)} chapters written to {given.out}; its README.md says how to release and grade them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
