"""Derive the notebooks from `solutions/*.py`, check that nothing has drifted, and run them.

    python -m utils.course.notebooks sync [--execute] [CHAPTER ...]   write every derived file; --execute: and the outputs
    python -m utils.course.notebooks check                            fail, naming the file, if a derived file differs
    python -m utils.course.notebooks run [CHAPTER ...]                execute the solutions into build/, with an index

From `solutions/NN_name.py` come its twin `.ipynb` (which keeps its outputs) and both files in `chapters/`, where
solutions are cleared (nbgrader), cells tagged `solution` are gone (nbconvert), and check cells are locked and worth
points. The address of the repository comes from `[tool.course]` in pyproject.toml.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import os
import re
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode
from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from utils.course import pages
from utils.course.setup_cell import MODEL_NOTE, setup_cell
from utils.models import DEFAULT_EMBEDDED

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS, CHAPTERS, BUILD = (ROOT / name for name in ("solutions", "chapters", "build"))
STUB = 'raise NotImplementedError("this exercise is not written yet: put your code here")'
FORMAT = "py:percent"
BADGES = re.compile(r"(<!-- chapters -->\n).*?(<!-- /chapters -->)", re.DOTALL)


class NotebookError(RuntimeError):
    """A notebook that cannot be derived, has drifted, or did not run; the message names it."""


def sources(chapters: list[str] | None = None) -> list[Path]:
    """The solution sources, all or those whose names begin with one of `chapters` ("03", "03_activation_patching")."""
    found = sorted(SOLUTIONS.glob("[0-9][0-9]_*.py"))
    for wanted in chapters or []:
        if not any(path.stem.startswith(wanted) for path in found):
            raise NotebookError(f"no chapter {wanted!r}; there are: {', '.join(path.stem for path in found)}")
    return [p for p in found if not chapters or p.stem.startswith(tuple(chapters))]


# --- deriving ---------------------------------------------------------------------------------------------------------


def course() -> dict[str, str]:
    """`[tool.course]` of pyproject.toml: repository and branch."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]


def derive(source: Path) -> dict[Path, str]:
    """path → text of every file that follows from one source, the source itself included (its setup cell is derived)."""
    solution = jupytext.read(source, fmt=FORMAT)
    _fill_derived(solution, source)
    _mark(solution)
    chapter = _exercises(solution)
    for notebook in (solution, chapter):
        _clean(notebook)
    twin = SOLUTIONS / f"{source.stem}.ipynb"
    return {
        source: _as_script(solution),
        twin: _as_json(_with_outputs(solution, twin)),
        CHAPTERS / source.name: _as_script(chapter),
        CHAPTERS / f"{source.stem}.ipynb": _as_json(chapter),
    }


def _fill_derived(notebook: NotebookNode, source: Path) -> None:
    """Write what all notebooks share into the cells that are tagged for it."""
    texts = {"model": MODEL_NOTE, "setup": setup_cell(course()["repository"], course()["branch"])}
    for tag, text in texts.items():
        cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
        if len(cells) != 1:
            raise NotebookError(f"{source.name}: {len(cells)} cells are tagged {tag!r}; there must be one")
        cells[0].source = text


def _mark(notebook: NotebookNode) -> None:
    """nbgrader's metadata: solution cells, and locked check cells with points."""
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)
        is_solution = cell.cell_type == "code" and "### BEGIN SOLUTION" in cell.source
        is_check = cell.cell_type == "code" and re.match(r"check_\w+\(", cell.source)
        if not (is_solution or is_check):
            continue
        name = re.search(r"def (\w+)" if is_solution else r"(check_\w+)", cell.source)
        grade_id = name[1] if name else "solution"
        seen[grade_id] += 1
        cell.metadata["nbgrader"] = {
            "grade": bool(is_check),
            "grade_id": grade_id if seen[grade_id] == 1 else f"{grade_id}_{seen[grade_id]}",
            "locked": bool(is_check),
            "schema_version": 3,
            "solution": is_solution,
            "task": False,
            **({"points": _points(cell.source)} if is_check else {}),
        }


def _points(source: str) -> int:
    """Points of the check that is called here, from the registry, so that they are stated once."""
    from tests.checks import REGISTRY

    name = re.match(r"check_(\w+)\(", source)[1]
    if name not in REGISTRY:
        raise NotebookError(f"check_{name} is called in a notebook but is not in tests.checks.REGISTRY")
    return REGISTRY[name].points


def _exercises(solution: NotebookNode) -> NotebookNode:
    notebook, resources = copy.deepcopy(solution), {}
    for preprocessor in (
        TagRemovePreprocessor(remove_cell_tags={"solution"}, enabled=True),
        ClearSolutions(enforce_metadata=False, code_stub={"python": STUB}),
        ClearHiddenTests(enforce_metadata=False),
    ):
        notebook, resources = preprocessor.preprocess(notebook, resources)
    return notebook


def _clean(notebook: NotebookNode) -> None:
    """Ids from content, tidy outputs, and no metadata that differs between machines: a diff shows only what changed."""
    seen: Counter[str] = Counter()
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    })  # fmt: skip
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in sorted(cell.metadata.items()) if k in ("nbgrader", "tags")}
        )
        if cell.cell_type == "code":
            cell.outputs = _tidy(cell.outputs)


def _with_outputs(notebook: NotebookNode, twin: Path) -> NotebookNode:
    """The notebook with the outputs of those cells of `twin` whose source is still the same (ids are hashes of it)."""
    notebook = copy.deepcopy(notebook)
    old = {cell.id: cell for cell in nbformat.read(twin, as_version=4).cells} if twin.exists() else {}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id in old:
            cell.outputs, cell.execution_count = _tidy(old[cell.id].outputs), old[cell.id].execution_count
    return notebook


def is_progress_bar(output: NotebookNode) -> bool:
    """Whether an output is tqdm's widget, of which a saved notebook could only show the empty beginning."""
    bar = re.search(r"\d+%\|", output.get("data", {}).get("text/plain", ""))
    return bool(bar) and "application/vnd.jupyter.widget-view+json" in output.data


def _tidy(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Without progress bars, and with streams in one piece: the pieces in which they arrive differ from run to run."""
    tidy: list[NotebookNode] = []
    for output in outputs:
        if tidy and output.output_type == "stream" == tidy[-1].output_type and output.name == tidy[-1].name:
            tidy[-1].text += output.text
        elif not is_progress_bar(output):
            tidy.append(copy.deepcopy(output))
    return tidy


def _as_script(notebook: NotebookNode) -> str:
    plain = copy.deepcopy(notebook)
    for cell in plain.cells:
        cell.metadata.pop("nbgrader", None)
    plain.metadata = nbformat.from_dict({"jupytext": {"notebook_metadata_filter": "-all"}})
    return jupytext.writes(plain, fmt=FORMAT)


def _as_json(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook) + "\n"


def readme_table() -> str:
    """The README's chapter table, with links that open each chapter on Colab and Binder."""
    repository, branch = course()["repository"], course()["branch"]
    rows = ["| chapter | | |", "|---|---|---|"]
    for source in sources():
        path = f"chapters/{source.stem}.ipynb"
        colab = f"https://colab.research.google.com/github/{repository}/blob/{branch}/{path}"
        binder = f"https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/{path}"
        rows.append(f"| [{title_of(source)}]({path}) | [![Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
                    f"({colab}) | [![Binder](https://mybinder.org/badge_logo.svg)]({binder}) |")  # fmt: skip
    return "\n".join(rows) + "\n"


def title_of(source: Path) -> str:
    """The first heading of a notebook source, with the chapter's number."""
    heading = re.search(r"^# # (.+)$", source.read_text(encoding="utf-8"), re.MULTILINE)
    return heading[1] if heading else source.stem


def all_derived(chapters: list[str] | None = None) -> Iterator[tuple[Path, str]]:
    """path → text of every derived file, and of the README with its table."""
    for source in sources(chapters):
        yield from derive(source).items()
    readme = ROOT / "README.md"
    yield readme, BADGES.sub(lambda m: m[1] + readme_table() + m[2], readme.read_text(encoding="utf-8"))


# --- checking ---------------------------------------------------------------------------------------------------------


def problems() -> list[str]:
    """Everything that is not as it would be derived now, one line each."""
    found = []
    for path, text in all_derived():
        name = path.relative_to(ROOT)
        if not path.exists():
            found.append(f"{name}: missing; run make sync")
        elif path.read_text(encoding="utf-8") != text:
            found.append(f"{name}: differs from what its source in solutions/ gives; run make sync")
        if path.suffix == ".ipynb" and path.exists():
            found += [f"{name}: {problem}" for problem in _cell_problems(path)]
    expected = {path for source in sources() for path in derive(source)}
    strays = {p for folder in (SOLUTIONS, CHAPTERS) for p in folder.glob("[0-9][0-9]_*")} - expected
    return found + [f"{path.relative_to(ROOT)}: has no source in solutions/" for path in sorted(strays)]


def _cell_problems(path: Path) -> Iterator[str]:
    to_python = TransformerManager().transform_cell
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:
        yield f"cannot be read as a notebook ({error})"
        return
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        try:
            ast.parse(to_python(cell.source))
        except SyntaxError as error:
            yield f"code cell {number} does not parse: {error}"
        if path.parent == SOLUTIONS and cell.source.strip() and cell.execution_count is None:
            yield f"code cell {number} has not been run since it was changed; run make sync EXECUTE=1"


# --- running ----------------------------------------------------------------------------------------------------------


def environment(model: str) -> None:
    """What a run sets for its kernels: the model, and no waiting for a hub where none is needed."""
    os.environ["COURSE_MODEL"] = model
    if model == DEFAULT_EMBEDDED:
        os.environ["HF_HUB_OFFLINE"] = "1"


def execute(source: Path, progress: Progress | None = None) -> tuple[NotebookNode, str | None]:
    """The solution notebook, executed, and the error that stopped it, if one did."""
    notebook = nbformat.reads(derive(source)[SOLUTIONS / f"{source.stem}.ipynb"], as_version=4)
    task = progress.add_task(source.stem, total=len(notebook.cells)) if progress else None

    def advance(cell: NotebookNode, cell_index: int, **_: object) -> None:
        if progress:
            progress.update(task, completed=cell_index + 1)

    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", record_timing=False, on_cell_complete=advance,
        store_widget_state=False, resources={"metadata": {"path": str(SOLUTIONS)}},
    )  # fmt: skip
    error = None
    try:
        client.execute()
    except CellExecutionError as stopped:
        error = f"{stopped.ename}: {stopped.evalue}"
    if progress:
        progress.update(task, completed=len(notebook.cells))
    return notebook, error


def sync(chapters: list[str], execute_too: bool) -> None:
    for path, text in all_derived(chapters):
        _write_if_changed(path, text)
    if execute_too:
        environment(DEFAULT_EMBEDDED)
        with _progress() as progress:
            for source in sources(chapters):
                notebook, error = execute(source, progress)
                if error:
                    raise NotebookError(f"{source.name} did not run: {error}")
                _clean(notebook)
                _write_if_changed(SOLUTIONS / f"{source.stem}.ipynb", _as_json(notebook))


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def run(chapters: list[str], model: str) -> bool:
    """Execute the solutions into build/, write pages and an index, print a table; True if everything held."""
    BUILD.mkdir(exist_ok=True)
    environment(model)
    console, rows = Console(), []
    with _progress() as progress:
        for source in sources(chapters):
            log = BUILD / f"{source.stem}.references.jsonl"
            log.unlink(missing_ok=True)
            os.environ["COURSE_REFERENCE_LOG"] = str(log)
            started = time.monotonic()
            notebook, error = execute(source, progress)
            seconds = time.monotonic() - started
            _clean(notebook)
            (BUILD / f"{source.stem}.ipynb").write_text(_as_json(notebook), encoding="utf-8")
            pages.write_page(notebook, title_of(source), BUILD / f"{source.stem}.html")
            compared = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            known = [row for row in compared if row["known"]]
            rows.append({
                "title": title_of(source), "stem": source.stem, "seconds": seconds, "error": error,
                "known": len(known), "agree": sum(row["agrees"] for row in known),
            })  # fmt: skip
    pages.write_index(rows, model, BUILD / "index.html")
    console.print(_table(rows, model))
    console.print(f"pages: {BUILD / 'index.html'}")
    return all(row["error"] is None and row["known"] == row["agree"] for row in rows)


def _table(rows: list[dict], model: str) -> Table:
    table = Table("chapter", "seconds", "references compared", "all within tolerance", title=f"the course on {model}")
    for row in rows:
        verdict = "NO" if row["known"] != row["agree"] else "yes" if row["known"] else "no figures for this model"
        verdict = f"stopped: {row['error']}" if row["error"] else verdict
        table.add_row(row["title"], f"{row['seconds']:.0f}", str(row["known"]), verdict)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.course.notebooks", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["sync", "check", "run"])
    parser.add_argument("chapters", nargs="*", help="numbers or names; none means all")
    parser.add_argument("--execute", action="store_true", help="with sync: run the solutions and keep their outputs")
    parser.add_argument("--model", default=os.environ.get("MODEL") or DEFAULT_EMBEDDED, help="with run")
    arguments = parser.parse_intermixed_args()
    try:
        if arguments.command == "sync":
            sync(arguments.chapters, arguments.execute)
        elif arguments.command == "run":
            return 0 if run(arguments.chapters, arguments.model) else 1
        else:
            found = problems()
            print("\n".join(found) or f"{len(sources())} chapters: every derived file is as its source gives it")
            return 1 if found else 0
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
