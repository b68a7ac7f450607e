"""Dialect prejudice: what a model expects of a person who says something in African American English (AAE), against the
same in Standard American English (SAE). Scores and gaps are here, what is said is in `grammar`, files are in `files`, and
`python -m utils.dialect --out dialect.csv` writes a dataset in the published column order. `python -m utils.dialect survey`
measures many models (`survey`).

Policy: the model's BOS is put in front of every prompt once, and every number is read at a prompt's true last token.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import require_readout
from utils.dialect.files import COLUMNS, DatasetRow, read_dataset, write_dataset
from utils.dialect.grammar import (
    DialectError,
    Pair,
    aligned_pairs,
    allow_list,
    check_frames,
    check_pairs,
    check_traits,
    check_words,
    favorability,
    feature_names,
    fill,
    filled,
    filtered,
    frames,
    grammar,
    pairs_of,
    stereotypes,
    swap_names,
    swap_pairs,
    traits,
)
from utils.dialect.pair_files import read_pairs
from utils.inference import end_logits
from utils.prompts import PromptError, single_token

__all__ = [
    "COLUMNS",
    "DatasetRow",
    "DialectError",
    "Pair",
    "aligned_pairs",
    "allow_list",
    "association_scores",
    "attribute_tokens",
    "dataset_rows",
    "favorability",
    "feature_names",
    "fill",
    "filled",
    "filtered",
    "frames",
    "gap_direction",
    "grammar",
    "guise_logits",
    "pairs_of",
    "preference",
    "read_dataset",
    "read_pairs",
    "stereotypes",
    "swap_names",
    "swap_pairs",
    "trait_gaps",
    "traits",
    "write_dataset",
]

Frames = Sequence[str]


def attribute_tokens(model: TransformerBridge, attributes: Sequence[str]) -> Int[Tensor, " attribute"]:
    """The ids of words with a leading space, each of which must be one token."""
    words = check_words(attributes)
    return torch.tensor([single_token(model, f" {word}") for word in words], device=model.cfg.device)


def guise_logits(
    model: TransformerBridge, pairs: Sequence[Pair], frames: Frames, attributes: Sequence[str], **options
) -> tuple[Float[Tensor, "pair frame attribute"], Float[Tensor, "pair frame attribute"]]:
    """What the model gives each attribute after each pair in each frame: AAE, SAE. Options go to `end_logits`.

    Raises DialectError for pairs and frames that cannot be used: see `check_pairs` and `check_frames`.
    """
    pairs, frames = check_pairs(pairs), check_frames(frames)
    prompts = [fill(frame, getattr(pair, side)) for side in ("aae", "sae") for pair in pairs for frame in frames]
    values = end_logits(model, prompts, attribute_tokens(model, attributes), **options)
    aae, sae = values.unflatten(0, (2, len(pairs), len(frames)))
    return aae, sae


def association_scores(
    logp_aae: Float[Tensor, "*pair attribute"], logp_sae: Float[Tensor, "*pair attribute"]
) -> Float[Tensor, " attribute"]:
    """q(x): mean over pairs (and frames) of log p(x | AAE) - log p(x | SAE). Above zero: x goes with the AAE guise."""
    return (logp_aae - logp_sae).flatten(0, -2).mean(0)


def preference(
    values: Float[Tensor, "... attribute"],
    attributes: Sequence[str],
    unfavorable: Sequence[str],
    favorable: Sequence[str],
) -> Float[Tensor, "..."]:
    """Mean over the unfavorable attributes minus mean over the favorable. The softmax's normalizer cancels, so that
    logits and log-probabilities give the same.

    Raises DialectError for traits that are not among the attributes, and for sets that cannot be used: see `check_traits`.
    """
    sets = check_traits(unfavorable, favorable)
    index = {word: i for i, word in enumerate(attributes)}
    if values.shape[-1] != len(attributes):
        raise DialectError(f"{values.shape[-1]} values and {len(attributes)} attributes; give one name to each value")
    for word in itertools.chain(*sets):
        if word not in index:
            raise DialectError(
                f"the trait {word!r} is not among the attributes {list(index)}; score it too, or leave it out"
            )
    groups = [values[..., [index[word] for word in group]].mean(-1) for group in sets]
    return groups[0] - groups[1]


def trait_gaps(
    model: TransformerBridge,
    pairs: Sequence[Pair],
    frames: Frames,
    unfavorable: Sequence[str] | None = None,
    favorable: Sequence[str] | None = None,
    **options,
) -> Float[Tensor, "pair frame"]:
    """Preference for unfavorable traits after the AAE guise minus after the SAE guise; the traits are fixed sets.

    Raises DialectError for traits, pairs and frames that cannot be used (`check_traits`, `check_pairs`, `check_frames`).
    """
    given = zip((unfavorable, favorable), traits(), strict=True)
    unfavorable, favorable = check_traits(*(default if words is None else words for words, default in given))
    attributes = [*unfavorable, *favorable]
    both = guise_logits(model, pairs, frames, attributes, **options)
    aae, sae = (preference(values, attributes, unfavorable, favorable) for values in both)
    return aae - sae


def gap_direction(
    model: TransformerBridge, unfavorable: Sequence[str], favorable: Sequence[str]
) -> Float[Tensor, " d_model"]:
    """Mean unembedding column of the unfavorable traits minus mean column of the favorable ones.

    Raises UnsupportedModel for a model whose logits are not these columns times the normed residual stream.
    """
    require_readout(model)
    sets = check_traits(unfavorable, favorable)
    columns = [model.W_U[:, attribute_tokens(model, group)].mean(1) for group in sets]
    return columns[0] - columns[1]


# --- writing a dataset ------------------------------------------------------------------------------------------------


def dataset_cells(names: Sequence[str], frames: Frames, n_rows: int | None = None) -> list[tuple[Pair, str]]:
    """(pair, frame) of each row: 20 verbs of each feature, the features in turn, one frame after the other.

    n_rows: the first so many; None: all. Raises DialectError for a number of rows that is not there.
    """
    names, frames = check_words(names, "features"), check_frames(frames)
    pairs = list(itertools.chain.from_iterable(zip(*(pairs_of(name, 20) for name in names), strict=True)))
    cells = [(pair, frame) for frame in frames for pair in pairs]
    if n_rows is not None and not 1 <= n_rows <= len(cells):
        raise DialectError(
            f"{n_rows} rows asked for, and there are {len(cells)} ({len(pairs)} pairs in {len(frames)} frames); ask for 1 to "
            f"{len(cells)}, or add features or frames"
        )
    return cells[:n_rows]


def dataset_rows(
    model: TransformerBridge, names: Sequence[str], frames: Frames, n_rows: int | None = None, progress: bool = True
) -> list[DatasetRow]:
    """The first `n_rows` prompts of the named features in the published form. Errors: `dataset_cells`.

    best_attr_* is the trait whose log-probability rises most on that side, against the other: chosen row by row, as the
    published notebook does, for comparison only.
    """
    cells = dataset_cells(names, frames, n_rows)
    words = list(favorability())
    prompts = [fill(frame, side) for pair, frame in cells for side in (pair.aae, pair.sae)]
    values = end_logits(model, prompts, attribute_tokens(model, words), log_softmax=True, progress=progress)
    aae, sae = values.unflatten(0, (-1, 2)).unbind(1)  # each: row attribute
    ratio = aae - sae
    best_aae, best_sae = ratio.argmax(-1), ratio.argmin(-1)
    return [
        DatasetRow(
            prompts[2 * i],
            prompts[2 * i + 1],
            words[best_aae[i]],
            words[best_sae[i]],
            round(ratio[i].max().item(), 4),
            round(-ratio[i].min().item(), 4),
        )
        for i in range(len(cells))
    ]


DEFAULT_ROWS = 315  # as many as the published short dataset has


def main(arguments: Sequence[str] | None = None) -> int:
    from utils.models import ModelError, load_model

    parser = argparse.ArgumentParser(
        prog="python -m utils.dialect",
        description="Write a dialect dataset as CSV.",
        epilog="python -m utils.dialect survey --help: the measures of part two for many models, as one table.",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, help=f"default: {DEFAULT_ROWS}, or all if there are fewer")
    parser.add_argument(
        "--features", nargs="+", default=feature_names(), choices=[*feature_names(), *grammar()["contrasts"]]
    )
    parser.add_argument("--frames", default="paper", choices=["paper", "own"])
    parser.add_argument("--model", help="what load_model takes; chooses the best_attr columns")
    given = parser.parse_args(arguments)
    try:
        cells = dataset_cells(given.features, frames(given.frames), given.rows)  # before a model is loaded for nothing
        n_rows = given.rows or min(DEFAULT_ROWS, len(cells))
        rows = dataset_rows(load_model(given.model), given.features, frames(given.frames), n_rows)
        write_dataset(rows, given.out)
    except (PromptError, ModelError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(rows)} rows in {given.out}")
    return 0
