"""A report on pairs of prompts: can a model do the task, which parts do it, and how much of it do they do on their own?

    python -m utils.circuits.report pairs.csv --model MODEL --out report.html

Reads a CSV with the columns clean, corrupted, answer and wrong answer (and template, if there is one), and runs part one of
the course on it, step by step. The page is one file that asks nobody for anything. Each step's result is kept in a folder
beside the page, so that a run which was cut goes on. Several CSVs or models make a folder of reports (`--out FOLDER`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from utils.circuits.report.page import report_page
from utils.circuits.report.pairs_csv import PairRow, PairsFileError, check_answers, read_pair_rows
from utils.circuits.report.searching import circuit_step, patching_step, paths_step
from utils.circuits.report.seeing import attribution_step, behavior_step
from utils.circuits.report.stored import ReportSettings, StepStore, settings_digest, steps_folder, write_text
from utils.circuits.report.task import ReportTask
from utils.patching.options import DEFAULT_MEMORY

__all__ = [
    "PairRow",
    "PairsFileError",
    "ReportSettings",
    "ReportTask",
    "make_circuit_report",
    "read_report_task",
    "report_steps",
]

Results = dict[str, dict[str, Any]]
SETTINGS = ReportSettings()


def read_report_task(
    path: str | Path, model: TransformerBridge, settings: ReportSettings = SETTINGS, max_memory: float = DEFAULT_MEMORY
) -> ReportTask:
    """The pairs of a CSV for one model. Raises PairsFileError that lists what is wrong, line by line."""
    rows = read_pair_rows(path)
    check_answers(model, rows, path)
    return ReportTask(model, rows, settings, max_memory)


def report_steps(task: ReportTask) -> dict[str, Callable[[Results], dict[str, Any]]]:
    """name → what computes the step from the results of the earlier ones, in order."""
    return {
        "behavior": lambda _: behavior_step(task),
        "attribution": lambda _: attribution_step(task),
        "patching": lambda _: patching_step(task),
        "paths": lambda _: paths_step(task),
        "circuit": lambda done: circuit_step(task, done["paths"]),
    }


def run_steps(task: ReportTask, store: StepStore) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each step's name and result, stored; the first alone where the model cannot do the task (see "
    "`ReportSettings.anyway`)."""
    results: Results = {}
    steps = report_steps(task)
    with tqdm(total=len(steps), desc="report") as bar:
        for name, compute in steps.items():
            bar.set_postfix_str(name)
            results[name] = store.get(name, lambda compute=compute: compute(results))
            yield name, results[name]
            bar.update()
            if results["behavior"]["stop"] and not task.settings.anyway:
                return


def make_circuit_report(
    path: str | Path,
    model: TransformerBridge,
    out: str | Path,
    settings: ReportSettings = SETTINGS,
    max_memory: float = DEFAULT_MEMORY,
) -> Results:
    """Write the report of one CSV and one model to `out` (a page), and return the results of its steps.

    The steps' results are kept in a folder beside the page, under a digest of the CSV's bytes, the model's weights and the
    settings: a second call does only what is missing, and takes nothing of another CSV, model or setting. max_memory: bytes
    of working memory for a batch, beside weights. Raises PairsFileError; UnsupportedModel for a model that attribution does
    not fit; ArithmeticError where the parts of a logit difference do not add up to it.
    """
    task = read_report_task(path, model, settings, max_memory)
    data = Path(path).read_bytes()
    store = StepStore(steps_folder(out) / settings_digest(data, model, settings))
    results = dict(run_steps(task, store))
    write_text(Path(out), report_page(Path(path).name, task, results))
    return results
