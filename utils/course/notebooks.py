"""Write the derived files, check that nothing has drifted, and run the notebooks.

    python -m utils.course.notebooks sync [--execute] [CHAPTER ...]   write every derived file; --execute: and the outputs
    python -m utils.course.notebooks check                            fail, naming the file, if a derived file differs
    python -m utils.course.notebooks run [CHAPTER ...]                execute the solutions into build/, and make pages

What follows from what is in `utils.course.deriving`.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from utils.course import deriving
from utils.course.deriving import NotebookError, all_derived, as_json, derived_from, sources, tidy_notebook
from utils.course.progress import title_of
from utils.course.teaching import RUN_TIMES, cpu_seconds, record_run_times, seconds_by_section
from utils.loading import DEFAULT_EMBEDDED

LARGEST_NOTEBOOK = 1_000_000  # bytes: GitHub shows a larger one slowly or not at all, and nobody can read its diffs

# --- checking ---------------------------------------------------------------------------------------------------------


def problems() -> list[str]:
    """Everything that is not as it would be derived now, one line each."""
    found, derived = [], all_derived()
    for path, text in derived.items():
        name = path.relative_to(deriving.ROOT)
        if not path.exists():
            found.append(f"{name}: missing; run make sync")
        elif path.read_text(encoding="utf-8") != text:
            found.append(f"{name}: differs from what its source in solutions/ gives; run make sync")
        if path.suffix == ".ipynb" and path.exists():
            found += [f"{name}: {problem}" for problem in _cell_problems(path)]
    there = [path for folder in (deriving.SOLUTIONS, deriving.CHAPTERS) for path in folder.iterdir()]
    strays = sorted(path for path in there if path.suffix in (".py", ".ipynb") and path not in derived)
    return found + [f"{path.relative_to(deriving.ROOT)}: has no source in solutions/" for path in strays]


def _cell_problems(path: Path) -> Iterator[str]:
    to_python = TransformerManager().transform_cell
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:
        yield f"cannot be read as a notebook ({error})"
        return
    if (size := path.stat().st_size) > LARGEST_NOTEBOOK:
        most, cell = max((len(json.dumps(cell)), number) for number, cell in enumerate(notebook.cells))
        yield f"{size / 1e6:.2f} MB, and the limit is {LARGEST_NOTEBOOK / 1e6:.0f}; cell {cell} alone takes {most / 1e6:.2f}"
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        try:
            ast.parse(to_python(cell.source))
        except SyntaxError as error:
            yield f"code cell {number} does not parse: {error}"
        if path.parent == deriving.SOLUTIONS and cell.source.strip() and cell.execution_count is None:
            yield f"code cell {number} has not been run since it was changed; run make sync EXECUTE=1"


# --- running ----------------------------------------------------------------------------------------------------------


def environment(model: str, **more: str) -> dict[str, str]:
    """What a kernel runs in: this environment, the model, no waiting for a hub where none is needed, no learner's record."""
    offline = {"HF_HUB_OFFLINE": "1"} if model == DEFAULT_EMBEDDED else {}
    return {**os.environ, "COURSE_MODEL": model, "COURSE_PROGRESS": "0", **offline, **more}


@dataclass
class Execution:
    """An executed solution notebook: the error that stopped it, if one did, and what it took."""

    notebook: NotebookNode
    error: str | None = None
    seconds: float = 0.0
    peak_gib: float | None = None  # of the kernel's memory; None where the system does not tell
    used: list[float] = field(default_factory=list)  # the kernel's CPU seconds after each cell; empty where not known


def execute(source: Path, env: dict[str, str], progress: Progress) -> Execution:
    """Run the solution notebook from top to bottom in a kernel of its own."""
    notebook = nbformat.reads(derived_from(source)[deriving.SOLUTIONS / f"{source.stem}.ipynb"], as_version=4)
    task = progress.add_task(source.stem, total=len(notebook.cells))
    done, started = Execution(notebook), time.monotonic()

    def advance(cell: NotebookNode, cell_index: int, **_: object) -> None:
        pid = client.km.provisioner.pid
        done.peak_gib = _peak_gib(pid)
        while len(done.used) <= cell_index:  # cells of text are passed over without a word
            done.used.append(cpu_seconds(pid) or 0.0)
        progress.update(task, completed=cell_index + 1)

    options = {"timeout": 3600, "kernel_name": "python3", "record_timing": False, "store_widget_state": False}
    folder = {"metadata": {"path": str(deriving.SOLUTIONS)}}
    client = NotebookClient(notebook, resources=folder, coalesce_streams=True, on_cell_complete=advance, **options)
    try:
        client.execute(env=env)
    except CellExecutionError as stopped:
        done.error = f"{stopped.ename}: {stopped.evalue}"
    done.seconds = time.monotonic() - started
    progress.update(task, completed=len(notebook.cells))
    return done


def _peak_gib(pid: int) -> float | None:
    """The largest memory that the kernel has taken so far, from /proc (Linux only)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 2**20
    except (OSError, TypeError):
        return None


def sync(chapters: Sequence[str], execute_too: bool) -> None:
    for path, text in all_derived(chapters).items():
        _write_if_changed(path, text)
    if not execute_too:
        return
    with _progress() as progress:
        for source in sources(chapters):
            done = execute(source, environment(DEFAULT_EMBEDDED), progress)
            if done.error:
                raise NotebookError(f"{source.name} did not run: {done.error}")
            tidy_notebook(done.notebook)
            _write_if_changed(deriving.SOLUTIONS / f"{source.stem}.ipynb", as_json(done.notebook))
            print(f"{source.stem} ran in {done.seconds:.0f} s; peak memory {_gib(done.peak_gib)}")
            _record_times(source.stem, done)
    for path, text in all_derived(chapters).items():
        if path.suffix == ".md":  # with the times just measured
            _write_if_changed(path, text)


def _record_times(stem: str, done: Execution) -> None:
    """Keep what each section took, where the system tells it."""
    used = done.used + done.used[-1:] * (len(done.notebook.cells) - len(done.used))  # text after the last code
    if stem != "start" and used and used[-1]:
        record_run_times(deriving.ROOT / RUN_TIMES, stem[:2], seconds_by_section(done.notebook, used))


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(deriving.ROOT)}")


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())


def run(chapters: Sequence[str], model: str) -> bool:
    """Execute the solutions into build/, make pages of them, print a table; True if everything held."""
    from utils.course.site.build import build_site  # here, because only this command needs Sphinx

    build = deriving.ROOT / "build"
    build.mkdir(exist_ok=True)
    with _progress() as progress:
        rows = [_run_one(source, model, build, progress) for source in sources(chapters)]
    console = Console()
    console.print(_table(rows, model))
    executed = {row["stem"]: row["notebook"] for row in rows}
    build_site(build / "run", executed, compared_note(rows, model), strict=False)
    console.print(f"pages: {build / 'run' / 'index.html'}")
    return all(row["error"] is None and row["known"] == row["agree"] for row in rows)


def compared_note(rows: Sequence[dict], model: str) -> str:
    """What was compared in each chapter, as markdown for the first of the pages."""
    lines = [f"These pages were made by running the course on {model}.", ""]
    lines += ["| chapter | time | compared |", "|---|---|---|"]
    for row in rows:
        found = f"{row['agree']} of {row['known']} references within tolerance"
        stopped = f"; stopped: `{row['error'].splitlines()[0]}`" if row["error"] else ""
        lines.append(f"| [{row['title']}]({row['stem']}.ipynb) | {row['seconds']:.0f} s | {found}{stopped} |")
    return "\n".join(lines)


def _run_one(source: Path, model: str, build: Path, progress: Progress) -> dict:
    """Execute one solution and write its notebook; what it compared, for the table."""
    log = build / f"{source.stem}.references.jsonl"
    log.unlink(missing_ok=True)
    done = execute(source, environment(model, COURSE_REFERENCE_LOG=str(log)), progress)
    tidy_notebook(done.notebook)
    (build / f"{source.stem}.ipynb").write_text(as_json(done.notebook), encoding="utf-8")
    compared = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = [row for row in compared if row["known"]]
    counts = {"compared": len(compared), "known": len(known), "agree": sum(row["agrees"] for row in known)}
    return {"title": title_of(source), "stem": source.stem, **vars(done), **counts}


def _table(rows: list[dict], model: str) -> Table:
    columns = ("chapter", "seconds", "peak memory", "references compared", "all within tolerance")
    table = Table(*columns, title=f"the course on {model}")
    for row in rows:
        none = "no figures for this model" if row["compared"] else "compares nothing"
        verdict = "NO" if row["known"] != row["agree"] else "yes" if row["known"] else none
        verdict = f"stopped: {row['error']}" if row["error"] else verdict
        table.add_row(row["title"], f"{row['seconds']:.0f}", _gib(row["peak_gib"]), str(row["known"]), verdict)
    return table


def _gib(amount: float | None) -> str:
    return "not known" if amount is None else f"{amount:.2f} GiB"


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
