"""An atlas of attention heads: six scores for every head of any model that `load_model` loads, as a tidy table.

    python -m utils.atlas MODEL... [--folder atlas] [--workers 2 | --scheduler tcp://HOST:8786]

Each MODEL is a name, a folder or a hub repository. Models are scored in parallel by Dask: on worker processes of this
machine, or on the workers of a scheduler that already runs (SLURM, a gateway…), which need this course installed. A model is
kept in its own file as soon as it is done. So a worker that dies loses only the model it was on, and a second run does only
what is missing. The whole table is in `atlas.parquet` and `atlas.csv`, with the columns
model, layer, head, score, value, seed, seq_len, batch and bos.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from utils import heads
from utils.atlas.lookup import ORDER, SCORES, AtlasError, by_head, choose, grids, search, setting_columns
from utils.atlas.workers import Result, in_parallel
from utils.models import load_model

__all__ = [
    "ORDER", "SCORES", "AtlasError", "Report", "Settings", "by_head", "choose", "file_of", "grids", "head_table", "is_done",
    "make_atlas", "read_atlas", "score_model", "search", "setting_columns",
]  # fmt: skip

WAIT_S = 50.0


@dataclass(frozen=True)
class Settings:
    """What the scores are read on: `batch` rows of `seq_len` random tokens, given twice, after BOS."""

    seed: int = 0
    seq_len: int = 50
    batch: int = 4


# --- one model --------------------------------------------------------------------------------------------------------


def head_table(model: TransformerBridge, settings: Settings = Settings(), name: str | None = None) -> pd.DataFrame:
    """Six scores for every head of a loaded model, one row each.

    previous_token, duplicate_token, induction: as in chapter 04, BOS left out. copying: `heads.copying_scores` on the same
    tokens. first_token: attention to position 0. entropy: of the attention, as a share of the largest possible.
    """
    bos = model.tokenizer.bos_token_id if model.cfg.default_prepend_bos else None
    n = settings.seq_len
    needed = 2 * n + (bos is not None)
    if model.cfg.n_ctx and needed > model.cfg.n_ctx:
        raise AtlasError(
            f"{name or model.cfg.model_name} reads at most {model.cfg.n_ctx} tokens and seq_len={n} makes "
            f"{needed}; choose a seq_len of at most {(model.cfg.n_ctx - 1) // 2}"
        )
    high = min(heads.HIGHEST_ID, model.cfg.d_vocab, len(model.tokenizer))
    tokens = heads.repeated_tokens(n, settings.batch, settings.seed, bos, high).to(model.cfg.device)
    readers = {name: partial(heads.stripe, offset=offset, seq_len=n) for name, offset in heads.offsets(n).items()}
    readers |= {"first_token": heads.to_first, "entropy": heads.normalised_entropy}
    scores = heads.score_patterns(model, tokens, readers)
    scores["copying"] = heads.copying_scores(model, tokens[:, -n:].flatten(), bos)
    rows = [
        {"layer": layer, "head": head, "score": score, "value": scores[score][layer, head].item()}
        for layer in range(model.cfg.n_layers)
        for head in range(model.cfg.n_heads)
        for score in SCORES
    ]
    table = pd.DataFrame(rows).assign(**asdict(settings), bos=bos is not None)
    table.insert(0, "model", name or model.cfg.model_name)
    return table


def score_model(name: str, settings: Settings, threads: int = 1) -> pd.DataFrame:
    """Load a model and score its heads: what a worker does. The number of threads is fixed, so that the numbers are the same
    to the last bit however many workers there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = load_model(name)
        return head_table(model, settings, name)
    finally:
        torch.set_num_threads(before)


# --- files ------------------------------------------------------------------------------------------------------------


def file_of(folder: Path, name: str, settings: Settings) -> Path:
    """Where one model's rows are kept. The name says which model and settings; a digest keeps look-alikes apart."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")[-60:]
    made_with = "-".join(f"{key}{value}" for key, value in asdict(settings).items())
    return folder / "models" / f"{readable}-{digest}-{made_with}.parquet"


def _read(file: Path) -> pd.DataFrame:
    """The rows of one model's file. Raises AtlasError, with the file's name, for one that cannot be used."""
    try:
        table = pd.read_parquet(file, page_checksum_verification=True)
    except ImportError:
        raise
    except Exception as error:  # what pyarrow raises on a damaged file is anything from OSError to NotImplementedError
        raise AtlasError(f"{file}: {' '.join(str(error).split())[:200]}") from None
    if missing := [column for column in (*ORDER, "value") if column not in table]:
        raise AtlasError(f"{file}: no column {missing[0]!r}")
    if table.empty or not pd.api.types.is_numeric_dtype(table["value"]):
        raise AtlasError(f"{file}: {len(table)} rows, values of type {table['value'].dtype}")
    return table


def is_done(folder: Path, name: str, settings: Settings) -> bool:
    """Whether the model has a whole file of these settings. A damaged file counts as none."""
    file = file_of(folder, name, settings)
    try:
        return file.exists() and set(_read(file)["model"]) == {name}
    except AtlasError:
        return False


def _write(path: Path, table: pd.DataFrame) -> None:
    """Whole or not at all: written beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if path.suffix == ".csv":
        table.to_csv(partial_path, index=False)
    else:
        table.to_parquet(partial_path, index=False, write_page_checksum=True)
    os.replace(partial_path, path)


def read_atlas(folder: str | Path) -> pd.DataFrame:
    """All rows of an atlas folder, in order of model, layer, head, score and settings. A damaged file is left out, with a
    warning that names it."""
    table, damaged = _read_all(folder)
    for problem in damaged:
        warnings.warn(f"left out of the atlas: {problem}; score its model again to replace it", stacklevel=2)
    return table


def _read_all(folder: str | Path) -> tuple[pd.DataFrame, list[str]]:
    """The rows of all files that can be read, and what is wrong with the others."""
    tables, damaged = [], []
    for file in sorted((Path(folder) / "models").glob("*.parquet")):
        try:
            tables.append(_read(file))
        except AtlasError as error:
            damaged.append(str(error))
    if not tables:
        raise AtlasError(
            "\n".join(
                [f"no atlas in {folder}: make one with python -m utils.atlas MODEL... --folder {folder}", *damaged]
            )
        )
    table = pd.concat(tables, ignore_index=True)
    keys = [*ORDER, *setting_columns(table)]
    return table.sort_values(keys, kind="stable", ignore_index=True, key=_sortable), damaged


def _sortable(column: pd.Series) -> pd.Series:
    """Text where a column is not of numbers: files of other versions may hold another type under the same name."""
    return column if pd.api.types.is_numeric_dtype(column) else column.astype(str)


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


def make_atlas(
    models: Sequence[str],
    folder: str | Path = "atlas",
    settings: Settings = Settings(),
    workers: int = 2,
    scheduler: str | None = None,
    attempts: int = 2,
    score: Callable[[str, Settings], pd.DataFrame] = score_model,
    wait_s: float = WAIT_S,
) -> Report:
    """Score every model that has no file in `folder` yet, and write the whole table.

    workers: processes on this machine; 0 means in this process. scheduler: the address of a Dask scheduler to use instead.
    attempts: how often a model is tried whose worker dies. wait_s: how long to wait while there is no worker.
    A model that fails is reported and does not stop the others; so is a damaged file of another model. Raises AtlasError if
    the scheduler does not answer or no worker ever comes.
    """
    folder, report = Path(folder), Report()
    names = list(dict.fromkeys(models))
    if not names or workers < 0 or attempts < 1:
        raise AtlasError(
            f"{len(names)} models, workers={workers}, attempts={attempts}; give at least one model, 0 workers and 1 attempt"
        )
    report.skipped = [name for name in names if is_done(folder, name, settings)]
    missing = [name for name in names if name not in report.skipped]
    results = _one_by_one(missing, settings, score)
    if missing and (workers or scheduler):
        scorer, n_workers = partial(score, settings=settings), min(workers, len(missing))
        results = in_parallel(missing, scorer, n_workers, scheduler, attempts, wait_s)
    for name, table, reason in tqdm(results, total=len(missing), desc="models") if missing else ():
        if table is None:
            report.failed[name] = reason
        else:
            _write(file_of(folder, name, settings), table)
            report.done.append(name)
    if report.done or report.skipped:
        whole, report.damaged = _read_all(folder)
        _write(folder / "atlas.parquet", whole)
        _write(folder / "atlas.csv", whole)
    return report


def _one_by_one(models: Sequence[str], settings: Settings, score: Callable) -> Iterator[Result]:
    for name in models:
        try:
            yield name, score(name, settings), ""
        except Exception as error:
            yield name, None, f"{type(error).__name__}: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.atlas", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name, a folder, or a hub repository")
    parser.add_argument("--folder", default="atlas", help="where the atlas is kept (default: atlas)")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes on this machine; 0: this process (default: 2)"
    )
    parser.add_argument("--scheduler", help="address of a Dask scheduler to use instead of local workers")
    parser.add_argument(
        "--attempts", type=int, default=2, help="workers to try a model on whose worker dies (default: 2)"
    )
    parser.add_argument(
        "--wait", type=float, default=WAIT_S, help=f"seconds to wait while there is no worker (default: {WAIT_S:g})"
    )
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")
    given = parser.parse_args(arguments)
    settings = Settings(given.seed, given.seq_len, given.batch)
    try:
        report = make_atlas(
            given.models, given.folder, settings, given.workers, given.scheduler, given.attempts, wait_s=given.wait
        )
    except (AtlasError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    print(f"the atlas: {Path(given.folder) / 'atlas.parquet'} and .csv")
    return 1 if report.failed else 0
