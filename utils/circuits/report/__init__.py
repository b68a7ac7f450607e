"""A report on pairs of prompts: can a model do the task, which parts do it, and how much of it do they do on their own?

    python -m utils.circuits.report pairs.csv --model MODEL --out report.html

Reads a CSV with the columns clean, corrupted, answer and wrong answer (and template, if there is one), and runs part one of
the course on it, step by step. The page is one file that asks nobody for anything. Each step's result is kept in a folder
beside the page, so that a run which was cut goes on. Several CSVs or models make a folder of reports (`--out FOLDER`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from utils.circuits.report.page import report_page
from utils.circuits.report.pairs_csv import PairRow, PairsFileError, check_answers, read_pair_rows
from utils.circuits.report.searching import circuit_step, patching_step, paths_step
from utils.circuits.report.seeing import attribution_step, behavior_step
from utils.circuits.report.stored import ReportSettings, settings_digest, steps_folder, stored_step, write_text
from utils.circuits.report.task import ReportTask
from utils.patching.options import DEFAULT_MEMORY

__all__ = ["PairRow", "PairsFileError", "ReportSettings", "ReportTask", "make_circuit_report", "read_report_task"]

Results = dict[str, dict[str, Any]]
SETTINGS = ReportSettings()


def read_report_task(
    path: str | Path, model: TransformerBridge, settings: ReportSettings = SETTINGS, max_memory: float = DEFAULT_MEMORY
) -> ReportTask:
    """The pairs of a CSV for one model. Raises PairsFileError that lists what is wrong, line by line."""
    rows = read_pair_rows(path)
    check_answers(model, rows, path)
    return ReportTask(model, rows, settings, max_memory)


def run_steps(task: ReportTask, folder: Path) -> Results:
    """Each step's result by its name, stored; the first alone where the model cannot do the task (see
    `ReportSettings.anyway`)."""
    results: Results = {}
    steps = {
        "behavior": lambda: behavior_step(task),
        "attribution": lambda: attribution_step(task),
        "patching": lambda: patching_step(task),
        "paths": lambda: paths_step(task),
        "circuit": lambda: circuit_step(task, results["paths"]),
    }
    with tqdm(total=len(steps), desc="report") as bar:
        for name, compute in steps.items():
            bar.set_postfix_str(name)
            results[name] = stored_step(folder, name, compute)
            bar.update()
            if results["behavior"]["stop"] and not task.settings.anyway:
                break
    return results


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
    digest = settings_digest(Path(path).read_bytes(), model, settings)
    results = run_steps(task, steps_folder(out) / digest)
    write_text(Path(out), report_page(Path(path).name, task, results))
    return results
