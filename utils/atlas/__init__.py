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
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from utils import heads
from utils.atlas.lookup import ORDER, SCORES, AtlasError, by_head, grids, search
from utils.atlas.runs import Hands, Report, Store, add_hands, loaded, score_missing

__all__ = [
    "ORDER",
    "SCORES",
    "AtlasError",
    "Settings",
    "by_head",
    "file_of",
    "grids",
    "head_table",
    "make_atlas",
    "read_atlas",
    "score_model",
    "search",
]


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
    readers |= {"first_token": heads.to_first, "entropy": heads.normalized_entropy}
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


def score_model(name: str, settings: Settings) -> pd.DataFrame:
    """Load a model and score its heads: what a worker does."""
    with loaded(name) as model:
        return head_table(model, settings, name)


# --- files ------------------------------------------------------------------------------------------------------------


def _store(folder: str | Path) -> Store:
    return Store(Path(folder), "atlas", "python -m utils.atlas MODEL... --folder", tuple(ORDER))


def _made_with(settings: Settings) -> str:
    return "-".join(f"{key}{value}" for key, value in asdict(settings).items())


def file_of(folder: str | Path, name: str, settings: Settings) -> Path:
    """Where one model's rows are kept."""
    return _store(folder).file_of(name, _made_with(settings))


def read_atlas(folder: str | Path) -> pd.DataFrame:
    """All rows of an atlas folder, in order of model, layer, head, score and settings. A damaged file is left out, with a
    warning that names it."""
    return _store(folder).table()


# --- many models ------------------------------------------------------------------------------------------------------


def make_atlas(
    models: Sequence[str],
    folder: str | Path = "atlas",
    settings: Settings = Settings(),
    score: Callable[[str, Settings], pd.DataFrame] = score_model,
    **hands: Any,
) -> Report:
    """Score every model that has no file of these settings in `folder` yet, and write the whole table.

    hands: who does the work, by the fields of `Hands`: workers, scheduler, attempts, wait_s. A model that fails is reported
    and does not stop the others; so is a damaged file of another model. Raises AtlasError for no models, and if the scheduler
    does not answer or no worker ever comes.
    """
    return score_missing(
        models, _store(folder), _made_with(settings), partial(score, settings=settings), Hands(**hands)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.atlas", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name, a folder, or a hub repository")
    parser.add_argument("--folder", default="atlas", help="where the atlas is kept (default: atlas)")
    hands_of = add_hands(parser)
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")
    given = parser.parse_args(arguments)
    settings = Settings(given.seed, given.seq_len, given.batch)
    try:
        report = make_atlas(given.models, given.folder, settings, **vars(hands_of(given)))
    except (AtlasError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    print(f"the atlas: {Path(given.folder) / 'atlas.parquet'} and .csv")
    return 1 if report.failed else 0
