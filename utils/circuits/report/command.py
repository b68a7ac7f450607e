"""The report as a command: one page for one CSV and one model, or a folder of pages for several, on Dask workers."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from html import escape
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from utils.assumptions import UnsupportedModel
from utils.atlas.lookup import AtlasError
from utils.atlas.runs import HANDS, Hands, Report, Store, add_hands, loaded, score_missing
from utils.circuits.report import SETTINGS, PairsFileError, ReportSettings, make_circuit_report, read_pair_rows
from utils.circuits.report.circuit_words import n_heads_of
from utils.circuits.report.stored import VERSION, write_text
from utils.loading.embedded import ModelError
from utils.patching.options import DEFAULT_MEMORY

PAGE_ENDING = ".html"
MEASURES = ("share_right", "clean_mean", "heads", "value", "low", "high", "mae", "correlation")


def job_name(csv: str, model: str) -> str:
    """What a report is called among several: its CSV, a digest of what is in it, and its model."""
    digest = hashlib.sha256(Path(csv).read_bytes()).hexdigest()[:8]
    return f"{csv} {digest} {model}"


def report_file(folder: str | Path, csv: str, model: str) -> Path:
    """Where the page of one CSV and one model is written, among several."""
    digest = hashlib.sha256(f"{Path(csv).resolve()}\n{model}".encode()).hexdigest()[:6]
    return Path(folder) / f"{Path(csv).stem}-{Path(model).name}-{digest}{PAGE_ENDING}"


def score_report(
    job: str, jobs: dict[str, tuple[str, str]], folder: str, settings: ReportSettings, max_memory: float
) -> pd.DataFrame:
    """Make one page: what a worker does. Returns its main numbers, one row each."""
    csv, name = jobs[job]
    with loaded(name) as model:
        results = make_circuit_report(csv, model, report_file(folder, csv, name), settings, max_memory)
    behavior, circuit = results["behavior"], results.get("circuit", {})
    found = {name: behavior[name] for name in MEASURES[:2]}
    if "judged" in circuit:
        found |= {"heads": n_heads_of(circuit["circuit"]), **circuit["judged"]["circuit"]}
    rows = [{"model": job, "measure": measure, "value": value} for measure, value in found.items() if value is not None]
    return pd.DataFrame(rows).assign(csv=csv, of_model=name, value=lambda table: table["value"].astype(float))


def make_reports(
    csvs: Sequence[str],
    models: Sequence[str],
    folder: str | Path,
    settings: ReportSettings = SETTINGS,
    max_memory: float = DEFAULT_MEMORY,
    hands: Hands = HANDS,
) -> Report:
    """A page for every CSV with every model, a table of their numbers (reports.csv), and an index page.

    Reports run in parallel on Dask workers (`runs.Hands`). One that fails is reported and does not stop the others; a second
    call makes only what is missing. Every CSV is read first: PairsFileError stops all before any model is loaded.
    """
    for csv in csvs:
        read_pair_rows(csv)
    jobs = {job_name(csv, model): (csv, model) for csv, model in product(csvs, models)}
    folder = Path(folder).resolve()
    store = Store(folder, "reports", "python -m utils.circuits.report CSV... --out", ("model", "measure"))
    made_with = hashlib.sha256(json.dumps([VERSION, vars(settings)]).encode()).hexdigest()[:12]
    for job, (csv, model) in jobs.items():  # a page that was deleted is made again, from its steps
        if not report_file(folder, csv, model).exists():
            store.file_of(job, made_with).unlink(missing_ok=True)
    score = partial(score_report, jobs=jobs, folder=str(folder), settings=settings, max_memory=max_memory)
    report = score_missing(list(jobs), store, made_with, score, hands)
    write_text(folder / "index.html", _index(folder, jobs, report))
    return report


def _index(folder: Path, jobs: dict[str, tuple[str, str]], report: Report) -> str:
    rows = []
    for job, (csv, model) in jobs.items():
        page = report_file(folder, csv, model)
        shown = (
            f"failed: {escape(report.failed[job])}"
            if job in report.failed
            else f'<a href="{escape(page.name)}">report</a>'
        )
        rows.append(f"<tr><td>{escape(Path(csv).name)}</td><td>{escape(model)}</td><td>{shown}</td></tr>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Circuit reports</title>'
        "<style>body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; } "
        "td, th { text-align: left; padding: .3rem 1rem .3rem 0; }</style></head><body><h1>Circuit reports</h1><table>"
        "<tr><th>pairs</th><th>model</th><th></th></tr>\n" + "\n".join(rows) + "\n</table></body></html>\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m utils.circuits.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "csvs", nargs="+", metavar="CSV", help="columns clean, corrupted, answer, wrong answer; perhaps template"
    )
    parser.add_argument("--model", nargs="+", required=True, help="a name, a folder, or a hub repository; or several")
    parser.add_argument(
        "--out", required=True, help="the page (report.html); a folder where there are several CSVs or models"
    )
    defaults = vars(SETTINGS)
    helps = {
        "pairs": "pairs that find the circuit",
        "test_pairs": "pairs that test it",
        "n_random": "random circuits of each kind",
        "threshold": "share of the difference that a path must carry",
        "most": "heads that one step may add",
        "seed": "of draws",
    }
    for name, what in helps.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(
            option, type=type(defaults[name]), default=defaults[name], help=f"{what} (default: {defaults[name]})"
        )
    parser.add_argument("--anyway", action="store_true", help="go on where the model cannot do the task")
    parser.add_argument(
        "--max-memory", type=float, default=DEFAULT_MEMORY / 2**20, help="MiB for one batch (default: 128)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for one report (default: all)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    hands_of = add_hands(parser)
    given = parser.parse_args(arguments)
    try:
        settings = ReportSettings(**{name: getattr(given, name) for name in vars(SETTINGS)})
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            return _several(given, settings, hands_of(given)) if _is_several(given) else _one(given, settings)
    except (AtlasError, ModelError, PairsFileError, UnsupportedModel, ArithmeticError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _is_several(given: argparse.Namespace) -> bool:
    several = len(given.csvs) > 1 or len(given.model) > 1
    if several and given.out.endswith(PAGE_ENDING):
        raise ValueError(
            f"--out {given.out}: several reports need a folder, such as --out {given.out.removesuffix(PAGE_ENDING)}"
        )
    if not several and not given.out.endswith(PAGE_ENDING):
        raise ValueError(f"--out {given.out}: a report is a page; give a name that ends in {PAGE_ENDING}")
    return several


def _one(given: argparse.Namespace, settings: ReportSettings) -> int:
    (csv,), (name,) = given.csvs, given.model
    read_pair_rows(csv)  # before the model is loaded
    with loaded(name, given.threads) as model:
        results = make_circuit_report(csv, model, given.out, settings, given.max_memory * 2**20)
    if stop := results["behavior"]["stop"]:
        print(stop)
    print(f"the report: {given.out}")
    return 0


def _several(given: argparse.Namespace, settings: ReportSettings, hands: Hands) -> int:
    report = make_reports(given.csvs, given.model, given.out, settings, given.max_memory * 2**20, hands)
    print(report)
    print(f"the reports: {Path(given.out) / 'index.html'}")
    return 1 if report.failed else 0
