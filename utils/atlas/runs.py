"""Measuring many models into one table: a file per model, written whole or not at all; a run that resumes; one command line.

The head atlas and the dialect survey (`utils.dialect.survey`) are both made with this. `workers` hands the models out.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from utils.atlas.lookup import AtlasError
from utils.atlas.workers import HANDS, Hands, Result, in_parallel
from utils.models import load_model


@contextlib.contextmanager
def loaded(name: str, threads: int = 1) -> Iterator[TransformerBridge]:
    """A model, loaded without a word, on a fixed number of threads: so that its numbers are the same to the last bit however
    many workers there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = load_model(name)
        yield model
    finally:
        torch.set_num_threads(before)


# --- files ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """A folder with a file for each model and settings under `models/`, and all of them in NAME.parquet and NAME.csv.

    name: what the whole is called. command: what makes it, for messages. columns: what every file must have, in the order
    by which rows are sorted; other columns are settings, and sorted by as well. values: the columns that hold what was
    measured: numbers, the first of them in every file.
    """

    folder: Path
    name: str
    command: str
    columns: tuple[str, ...]
    values: tuple[str, ...] = ("value",)

    def file_of(self, model: str, made_with: str) -> Path:
        """Where one model's rows are kept. The name says which model and settings; a digest keeps look-alikes apart."""
        digest = hashlib.sha256(model.encode()).hexdigest()[:8]
        readable = re.sub(r"[^A-Za-z0-9.-]+", "_", model).strip("_")[-60:]
        return self.folder / "models" / f"{readable}-{digest}-{made_with}.parquet"

    def read(self, file: Path) -> pd.DataFrame:
        """The rows of one file. Raises AtlasError, with the file's name, for one that cannot be used."""
        try:
            table = pd.read_parquet(file, page_checksum_verification=True)
        except ImportError:
            raise
        except Exception as error:  # of a damaged file, pyarrow raises anything from OSError to NotImplementedError
            raise AtlasError(f"{file}: {' '.join(str(error).split())[:200]}") from None
        if missing := [column for column in (*self.columns, self.values[0]) if column not in table]:
            raise AtlasError(f"{file}: no column {missing[0]!r}")
        if table.empty or not pd.api.types.is_numeric_dtype(table[self.values[0]]):
            raise AtlasError(f"{file}: {len(table)} rows, values of type {table[self.values[0]].dtype}")
        return table

    def is_done(self, model: str, made_with: str) -> bool:
        """Whether the model has a whole file of these settings. A damaged file counts as none."""
        file = self.file_of(model, made_with)
        try:
            return file.exists() and set(self.read(file)["model"]) == {model}
        except AtlasError:
            return False

    def read_all(self) -> tuple[pd.DataFrame, list[str]]:
        """The rows of all files that can be read, sorted and each once, and what is wrong with the others."""
        tables, damaged = [], []
        for file in sorted((self.folder / "models").glob("*.parquet")):
            try:
                tables.append(self.read(file))
            except AtlasError as error:
                damaged.append(str(error))
        if not tables:
            missing = f"no {self.name} in {self.folder}: make one with {self.command} {self.folder}"
            raise AtlasError("\n".join([missing, *damaged]))
        table = pd.concat(tables, ignore_index=True).drop_duplicates()
        settings = [column for column in table if column not in (*self.columns, *self.values)]
        keys = [*self.columns, *settings]
        return table.sort_values(keys, kind="stable", ignore_index=True, key=_sortable), damaged

    def table(self) -> pd.DataFrame:
        """All rows. A damaged file is left out, with a warning that names it."""
        table, damaged = self.read_all()
        for problem in damaged:
            message = f"left out of the {self.name}: {problem}; score its model again to replace it"
            warnings.warn(message, stacklevel=3)
        return table

    def write_all(self) -> list[str]:
        """Write the whole table; returns what is wrong with files that were left out."""
        table, damaged = self.read_all()
        for ending in ("parquet", "csv"):
            write_whole(self.folder / f"{self.name}.{ending}", table)
        return damaged


def _sortable(column: pd.Series) -> pd.Series:
    """Text where a column is not of numbers: files of other versions may hold another type under the same name."""
    return column if pd.api.types.is_numeric_dtype(column) else column.astype(str)


def write_whole(path: Path, table: pd.DataFrame) -> None:
    """Whole or not at all: written beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if path.suffix == ".csv":
        table.to_csv(partial_path, index=False)
    else:
        table.to_parquet(partial_path, index=False, write_page_checksum=True)
    os.replace(partial_path, path)


# --- many models ------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What a run did: models scored now, models that were there already, why others failed, and the files left out."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.done)} scored, {len(self.skipped)} there already, {len(self.failed)} failed"]
        lines += [f"failed: {name}: {reason}" for name, reason in self.failed.items()]
        lines += [f"left out, a damaged file: {problem}; score its model again" for problem in self.damaged]
        return "\n".join(lines)


def score_missing(
    models: Sequence[str], store: Store, made_with: str, score: Callable[[str], pd.DataFrame], hands: Hands = HANDS
) -> Report:
    """Score every model that has no file of these settings in the store yet, and write the whole table.

    A model that fails is reported and does not stop the others; so is a damaged file of another model. Raises AtlasError for
    no models, and if the scheduler does not answer or no worker ever comes.
    """
    report, names = Report(), list(dict.fromkeys(models))
    if not names or hands.workers < 0 or hands.attempts < 1:
        given = f"{len(names)} models, workers={hands.workers}, attempts={hands.attempts}"
        raise AtlasError(f"{given}; give at least one model, 0 workers and 1 attempt")
    report.skipped = [name for name in names if store.is_done(name, made_with)]
    missing = [name for name in names if name not in report.skipped]
    results = (in_parallel if hands.workers or hands.scheduler else _one_by_one)(missing, score, hands)
    for name, table, reason in tqdm(results, total=len(missing), desc="models") if missing else ():
        if table is None:
            report.failed[name] = reason
        else:
            write_whole(store.file_of(name, made_with), table)
            report.done.append(name)
    if report.done or report.skipped:
        report.damaged = store.write_all()
    return report


def _one_by_one(models: Sequence[str], score: Callable[[str], pd.DataFrame], _: Hands) -> Iterator[Result]:
    for name in models:
        try:
            yield name, score(name), ""
        except Exception as error:
            yield name, None, f"{type(error).__name__}: {error}"


def add_hands(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Hands]:
    """Give a command the options of `Hands`; returns what reads them."""
    helps = {
        "--workers": (HANDS.workers, "processes on this machine; 0: this process"),
        "--attempts": (HANDS.attempts, "workers to try a model on whose worker dies"),
        "--wait": (HANDS.wait_s, "seconds to wait while there is no worker"),
    }
    for option, (default, what) in helps.items():
        parser.add_argument(option, type=type(default), default=default, help=f"{what} (default: {default:g})")
    parser.add_argument("--scheduler", help="address of a Dask scheduler to use instead of local workers")
    return lambda given: Hands(given.workers, given.scheduler, given.attempts, given.wait)
