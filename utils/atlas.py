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
import logging
import os
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from utils import heads
from utils.models import load_model

SCORES = ("previous_token", "duplicate_token", "induction", "copying", "first_token", "entropy")
ORDER = ["model", "layer", "head", "score"]
POLL_S = 0.2


@dataclass(frozen=True)
class Settings:
    """What the scores are read on: `batch` rows of `seq_len` random tokens, given twice, after BOS."""

    seed: int = 0
    seq_len: int = 50
    batch: int = 4


class AtlasError(ValueError):
    """A model, a setting or a query that the atlas cannot use; the message names it and the fix."""


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
        raise AtlasError(f"{name or model.cfg.model_name} reads at most {model.cfg.n_ctx} tokens and seq_len={n} makes "
                         f"{needed}; choose a seq_len of at most {(model.cfg.n_ctx - 1) // 2}")  # fmt: skip
    high = min(heads.HIGHEST_ID, model.cfg.d_vocab, len(model.tokenizer))
    tokens = heads.repeated_tokens(n, settings.batch, settings.seed, bos, high).to(model.cfg.device)
    readers = {name: partial(heads.stripe, offset=offset, seq_len=n) for name, offset in heads.offsets(n).items()}
    readers |= {"first_token": heads.to_first, "entropy": heads.evenness}
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


def is_done(folder: Path, name: str, settings: Settings) -> bool:
    """Whether the model has a whole file of these settings. A damaged file counts as none."""
    try:
        return len(pd.read_parquet(file_of(folder, name, settings))) > 0
    except (OSError, ValueError):  # missing, or not parquet (pyarrow's errors are among these)
        return False


def _write(path: Path, table: pd.DataFrame) -> None:
    """Whole or not at all: written beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if path.suffix == ".csv":
        table.to_csv(partial_path, index=False)
    else:
        table.to_parquet(partial_path, index=False)
    os.replace(partial_path, path)


def read_atlas(folder: str | Path) -> pd.DataFrame:
    """All rows of an atlas folder, in order of model, layer, head and score."""
    files = sorted((Path(folder) / "models").glob("*.parquet"))
    if not files:
        raise AtlasError(f"no atlas in {folder}: make one with python -m utils.atlas MODEL... --folder {folder}")
    table = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    return table.sort_values([*ORDER, "seed", "seq_len", "batch"], kind="stable", ignore_index=True)


# --- many models ------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What a run did: models scored now, models that were there already, and why others failed."""

    done: list[str] = field(default_factory=list)
    there: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.done)} scored, {len(self.there)} there already, {len(self.failed)} failed"]
        return "\n".join(lines + [f"failed: {name}: {reason}" for name, reason in self.failed.items()])


def make_atlas(
    models: Sequence[str],
    folder: str | Path = "atlas",
    settings: Settings = Settings(),
    workers: int = 2,
    scheduler: str | None = None,
    attempts: int = 2,
    score: Callable[[str, Settings], pd.DataFrame] = score_model,
) -> Report:
    """Score every model that has no file in `folder` yet, and write the whole table.

    workers: processes on this machine; 0 means in this process. scheduler: the address of a Dask scheduler to use instead.
    attempts: how often a model is tried whose worker dies.
    A model that fails is reported and does not stop the others.
    """
    folder, report = Path(folder), Report()
    wanted = list(dict.fromkeys(models))
    if not wanted or workers < 0 or attempts < 1:
        raise AtlasError(
            f"{len(wanted)} models, workers={workers}, attempts={attempts}; give at least one model, 0 workers and 1 attempt"
        )
    report.there = [name for name in wanted if is_done(folder, name, settings)]
    missing = [name for name in wanted if name not in report.there]
    results = _one_by_one(missing, settings, score)
    if missing and (workers or scheduler):
        results = _in_parallel(missing, settings, score, min(workers, len(missing)), scheduler, attempts)
    for name, table, reason in tqdm(results, total=len(missing), desc="models") if missing else ():
        if table is None:
            report.failed[name] = reason
        else:
            _write(file_of(folder, name, settings), table)
            report.done.append(name)
    if report.done or report.there:
        whole = read_atlas(folder)
        _write(folder / "atlas.parquet", whole)
        _write(folder / "atlas.csv", whole)
    return report


Result = tuple[str, pd.DataFrame | None, str]


def _one_by_one(models: Sequence[str], settings: Settings, score: Callable) -> Iterator[Result]:
    for name in models:
        try:
            yield name, score(name, settings), ""
        except Exception as error:
            yield name, None, f"{type(error).__name__}: {error}"


def _in_parallel(
    models: Sequence[str], settings: Settings, score: Callable, workers: int, scheduler: str | None, attempts: int
) -> Iterator[Result]:
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            scheduler = stack.enter_context(LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=logging.CRITICAL
            ))  # fmt: skip
        client = stack.enter_context(Client(scheduler, set_as_default=False))
        yield from _as_they_finish(client, models, partial(score, settings=settings), attempts)


def _as_they_finish(client: Client, models: Sequence[str], score: Callable, attempts: int) -> Iterator[Result]:
    """Hand a model to each idle worker, and again when one is done. Nothing waits behind a model that runs, so a worker that
    dies takes down its own model only; that model goes to another worker until it has been tried `attempts` times."""
    waiting, tries, running = deque(models), Counter(), {}
    while waiting or running:
        alive = client.nthreads()
        for future, (name, worker) in list(running.items()):
            if not future.done() and worker in alive:
                continue
            del running[future]
            error = future.exception() if future.done() else None
            if future.done() and not isinstance(error, KilledWorker):
                yield (name, future.result(), "") if error is None else (name, None, f"{type(error).__name__}: {error}")
            elif tries[name] < attempts:
                waiting.append(name)
            else:
                yield name, None, "its worker died while it was scored (killed, or out of memory); run again to retry"
            future.cancel()
        for worker in set(alive) - {worker for _, worker in running.values()}:
            if waiting:
                name = waiting.popleft()
                tries[name] += 1
                running[client.submit(score, name, workers=[worker], pure=False)] = name, worker
        time.sleep(POLL_S)


# --- looking things up ------------------------------------------------------------------------------------------------


def by_head(table: pd.DataFrame) -> pd.DataFrame:
    """One row per head, one column per score: model, head ("L5H1"), and the six scores."""
    keys = ["model", "layer", "head", "seed", "seq_len"]
    wide = table.pivot_table(index=keys, columns="score", values="value", sort=False).reset_index()
    wide["head"] = [heads.head_name(layer, head) for layer, head in zip(wide["layer"], wide["head"], strict=True)]
    return wide[["model", "head", *[score for score in SCORES if score in wide]]].rename_axis(columns=None)


def search(wide: pd.DataFrame, query: str) -> pd.DataFrame:
    """The rows of `by_head` that fit every word of the query: a bound on a score ("induction>0.4", "copying<-0.5"), a head
    ("L5H1"), a layer ("L5"), or part of a model's name. Raises AtlasError for a score that is not there."""
    keep = pd.Series(True, index=wide.index)
    for word in query.split():
        if bound := re.fullmatch(r"(\w+)([<>])(-?\d*\.?\d+)", word):
            score, sign, number = bound[1], bound[2], float(bound[3])
            if score not in wide:
                raise AtlasError(f"no score {score!r}; there are: {', '.join(wide.columns[2:])}")
            keep &= wide[score] > number if sign == ">" else wide[score] < number
        elif re.fullmatch(r"[Ll]\d+([Hh]\d+)?", word):
            pattern = word.upper() if "H" in word.upper() else rf"{word.upper()}H\d+"
            keep &= wide["head"].str.fullmatch(pattern)
        else:
            keep &= wide["model"].str.contains(word, case=False, regex=False)
    return wide[keep]


def grids(table: pd.DataFrame, score: str) -> dict[str, pd.DataFrame]:
    """model → [layer, head] table of one score: what `plots.mosaic` draws."""
    chosen = table[table["score"] == score]
    if chosen.empty:
        raise AtlasError(f"no score {score!r}; there are: {', '.join(table['score'].unique())}")
    return {
        name: rows.pivot_table(index="layer", columns="head", values="value") for name, rows in chosen.groupby("model")
    }


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
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")
    given = parser.parse_args(arguments)
    settings = Settings(given.seed, given.seq_len, given.batch)
    try:
        report = make_atlas(given.models, given.folder, settings, given.workers, given.scheduler, given.attempts)
    except (AtlasError, OSError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    print(f"the atlas: {Path(given.folder) / 'atlas.parquet'} and .csv")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
