"""Part two's measures for many models, prefixes and frames, as one tidy table.

    python -m utils.dialect survey MODEL... --out FOLDER [--prefixes nothing bos end-of-text user] [--frames paper own]
        [--kinds feature contrast swap] [--verbs 12] [--pairs FILE] [--workers 2 | --scheduler tcp://HOST:8786]

Each MODEL is a name, a folder or a hub repository. As in the head atlas, models are measured in parallel by Dask, on
processes of this machine or on the workers of a scheduler, and each is kept in its own file as soon as it is done. So a
worker that dies loses only the model it was on, and a second run does only what is missing. The whole table is in
`survey.parquet` and `survey.csv`.

A row is one measure of one feature, contrast or neutral swap, behind one prefix, in one frame, or over all frames (frame
"all"). Its columns are

    model, prefix, frames, kind, item, measure, frame     what was measured; `frames` is the set that the frame is from
    value, low, high                                      over all frames, `strength` and `gap` have an interval of 95 %
    n_pairs, n_verbs, prefix_text, sentences              how many pairs and verbs; `sentences` is a digest of all sentences

The profile of q(x) in a frame is a mean over verbs; the measures (`utils.dialect.measures`) are read from it frame by frame,
and the row over all frames is the mean over frames, as in Hofmann et al. 2024. Values are in nats, except agreement and
favorability. A prefix that a model lacks (a chat template, a BOS) has no rows, and the command says so.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils import stats
from utils.atlas.lookup import AtlasError
from utils.atlas.runs import HANDS, Hands, Report, Store, add_hands, loaded, score_missing
from utils.dialect.bank import GuiseBank
from utils.dialect.grammar import DialectError, Pair, feature_names, frames, grammar, pairs_of, swap_names, swap_pairs
from utils.dialect.measures import all_measures, gap, strength
from utils.dialect.pair_files import read_pairs
from utils.dialect.prefixes import PREFIXES, prefix_text

TRAIT_FRAMES = ("paper", "own")  # the sets of frames that ask for a trait
SOURCES: dict[str, Callable[[], list[str]]] = {
    "feature": feature_names,
    "contrast": lambda: list(grammar()["contrasts"]),
    "swap": swap_names,
}
LINEAR = {"strength": strength, "gap": gap}  # a mean of values is the value of the mean: these have an interval
ALL_FRAMES = "all"
KEYS = ("model", "prefix", "frames", "kind", "item", "measure", "frame")
VALUES = ("value", "low", "high")


@dataclass(frozen=True)
class SurveySettings:
    """What is said, in which frames, and what stands in front. n_verbs: at most so many verbs (or nouns) of each item.

    pairs: pairs from elsewhere, such as `read_pairs` reads; their item is called by their name. Raises DialectError for a
    prefix, a set of frames or a kind that is not there, and for a survey of nothing.
    """

    prefixes: tuple[str, ...] = PREFIXES
    frames: tuple[str, ...] = ("paper",)
    kinds: tuple[str, ...] = tuple(SOURCES)
    n_verbs: int = 12
    pairs: tuple[Pair, ...] = ()

    def __post_init__(self):
        for what, given, known in (
            ("prefix", self.prefixes, PREFIXES),
            ("set of frames", self.frames, TRAIT_FRAMES),
            ("kind", self.kinds, tuple(SOURCES)),
        ):
            for name in given:
                if name not in known:
                    raise DialectError(f"no {what} {name!r} in a survey; there are: {', '.join(known)}")
        if not self.prefixes or not self.frames or not (self.kinds or self.pairs) or self.n_verbs < 1:
            raise DialectError(
                f"a survey of nothing: {self}; give a prefix, frames, a kind or pairs, and 1 verb or more"
            )


def sentences(settings: SurveySettings) -> dict[tuple[str, str], list[Pair]]:
    """(kind, item) → its pairs."""
    found = {}
    for kind in settings.kinds:
        pairs_called = swap_pairs if kind == "swap" else pairs_of
        found |= {(kind, item): pairs_called(item)[: settings.n_verbs] for item in SOURCES[kind]()}
    for pair in settings.pairs:
        found.setdefault(("file", pair.name), []).append(pair)
    return found


def digest_of(settings: SurveySettings) -> str:
    """Eight letters that change with any sentence or frame: rows of another version of the grammar are kept apart."""
    said = [(*key, pair.aae, pair.sae) for key, pairs in sentences(settings).items() for pair in pairs]
    return hashlib.sha256(repr((said, [frames(kind) for kind in settings.frames])).encode()).hexdigest()[:8]


# --- one model --------------------------------------------------------------------------------------------------------


def survey_table(
    model: TransformerBridge, settings: SurveySettings = SurveySettings(), name: str | None = None
) -> pd.DataFrame:
    """Every measure of every item for a loaded model, one row each (columns: see the module).

    Raises PromptError for a model in which one of the 37 traits is not one token, and DialectError for a model that has
    none of the prefixes.
    """
    bank, groups, rows = GuiseBank(model), sentences(settings), []
    for prefix in settings.prefixes:
        try:
            text = prefix_text(model, prefix)
        except DialectError as error:
            missing = error
            continue
        for kind_of_frames in settings.frames:
            where = {"prefix": prefix, "frames": kind_of_frames, "prefix_text": text}
            ratios = bank.log_ratios_by_name(groups, frames(kind_of_frames), prefix)
            for (kind, item), ratio in ratios.items():
                by_verb = _by_verb(ratio, [pair.cluster for pair in groups[kind, item]])
                counts = {"kind": kind, "item": item, "n_pairs": len(ratio), "n_verbs": len(by_verb)}
                rows += [where | counts | measured for measured in _rows_of(by_verb, frames(kind_of_frames))]
    if not rows:
        raise missing
    table = pd.DataFrame(rows).assign(model=name or model.cfg.model_name, sentences=digest_of(settings))
    return table[[*KEYS, *VALUES, "n_pairs", "n_verbs", "prefix_text", "sentences"]]


def _by_verb(ratio: Float[Tensor, "pair frame trait"], verbs: Sequence[str]) -> Float[Tensor, "verb frame trait"]:
    """The mean over the pairs of each verb: pairs that share a verb are not independent."""
    places = {verb: [i for i, other in enumerate(verbs) if other == verb] for verb in dict.fromkeys(verbs)}
    return torch.stack([ratio[rows].mean(0) for rows in places.values()])


def _rows_of(ratio: Float[Tensor, "verb frame trait"], texts: Sequence[str]) -> list[dict[str, str | float]]:
    """The measures of one item: in each frame, and over all frames with an interval where there is one."""
    rows = []
    for measure, values in all_measures(ratio.mean(0)).items():
        rows += [{"measure": measure, "frame": text, "value": float(v)} for text, v in zip(texts, values, strict=True)]
        several = measure in LINEAR and min(ratio.shape[:2]) > 1
        low, high = stats.anova_interval(LINEAR[measure](ratio)) if several else (np.nan, np.nan)
        rows.append({"measure": measure, "frame": ALL_FRAMES, "value": float(values.mean()), "low": low, "high": high})
    return rows


def survey_model(name: str, settings: SurveySettings) -> pd.DataFrame:
    """Load a model and measure it: what a worker does."""
    with loaded(name) as model:
        return survey_table(model, settings, name)


# --- many models ------------------------------------------------------------------------------------------------------


def read_survey(folder: str | Path) -> pd.DataFrame:
    """All rows of a survey's folder. A damaged file is left out, with a warning that names it."""
    return _store(folder).table()


def _store(folder: str | Path) -> Store:
    return Store(Path(folder), "survey", "python -m utils.dialect survey MODEL... --out", KEYS, VALUES)


def survey_file(folder: str | Path, name: str, settings: SurveySettings) -> Path:
    """Where one model's rows are kept."""
    return _store(folder).file_of(name, _made_with(settings))


def _made_with(settings: SurveySettings) -> str:
    chosen = ("+".join(names) for names in (settings.prefixes, settings.frames, settings.kinds))
    return "-".join([*chosen, f"verbs{settings.n_verbs}", digest_of(settings)])


def make_survey(
    models: Sequence[str],
    folder: str | Path,
    settings: SurveySettings = SurveySettings(),
    hands: Hands = HANDS,
    measure: Callable[[str, SurveySettings], pd.DataFrame] = survey_model,
) -> Report:
    """Measure every model that has no file of these settings in `folder` yet, and write the whole table.

    A model that fails is reported and does not stop the others. Raises AtlasError for no models, and if a scheduler does not
    answer or no worker ever comes.
    """
    score = partial(measure, settings=settings)
    return score_missing(models, _store(folder), _made_with(settings), score, hands)


def left_out(table: pd.DataFrame, models: Sequence[str], prefixes: Sequence[str]) -> list[str]:
    """A line for each prefix that was asked for and that a model in the table lacks."""
    there = set(zip(table["model"], table["prefix"], strict=True))
    measured = [name for name in dict.fromkeys(models) if name in set(table["model"])]
    return [
        f"{name} has nothing to put in front as {prefix!r}: no rows"
        for name, prefix in itertools.product(measured, prefixes)
        if (name, prefix) not in there
    ]


def overview(table: pd.DataFrame, item: str = "be_usually") -> pd.DataFrame:
    """A line for each model, prefix and set of frames: strength and gap of one item, and how many features' gaps lie outside
    what 95 % of the neutral swaps have (columns of NaN where there are no swaps, or no features)."""
    keys = ["model", "prefix", "frames", "sentences"]
    whole = table[(table["frame"] == ALL_FRAMES) & table["measure"].isin(LINEAR)]
    of_item = whole[whole["item"] == item].pivot(index=keys, columns="measure", values="value").add_prefix(f"{item} ")
    gaps = whole[whole["measure"] == "gap"].assign(size=lambda rows: rows["value"].abs())
    band = gaps[gaps["kind"] == "swap"].groupby(keys)["size"].quantile(0.95).rename("95 % of swaps")
    features = gaps[gaps["kind"] == "feature"].join(band, on=keys)
    outside = features.assign(outside=features["size"] > features["95 % of swaps"]).groupby(keys)["outside"].sum()
    lines = of_item.join(band, how="outer").join(outside.rename("features outside"), how="outer")
    lines["features outside"] = lines["features outside"].where(lines["95 % of swaps"].notna())
    return lines.reset_index().rename_axis(columns=None)


def main_survey(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.dialect survey", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a name, a folder, or a hub repository")
    parser.add_argument("--out", type=Path, required=True, help="the folder where the survey is kept")
    normal = SurveySettings()
    for option, known, default in (
        ("--prefixes", PREFIXES, normal.prefixes),
        ("--frames", TRAIT_FRAMES, normal.frames),
        ("--kinds", tuple(SOURCES), normal.kinds),
    ):
        # none after --kinds: the pairs of a file alone
        parser.add_argument(option, nargs="*", choices=known, default=default, help=f"default: {' '.join(default)}")
    parser.add_argument("--verbs", type=int, default=normal.n_verbs, help=f"of each item (default: {normal.n_verbs})")
    parser.add_argument("--pairs", type=Path, help="a file of pairs to measure as well: AAE, tab, SAE")
    hands_of = add_hands(parser)
    given = parser.parse_args(arguments)
    try:
        pairs = tuple(read_pairs(given.pairs)) if given.pairs else ()
        settings = SurveySettings(*map(tuple, (given.prefixes, given.frames, given.kinds)), given.verbs, pairs)
        report = make_survey(given.models, given.out, settings, hands_of(given))
        print(report)
        table = read_survey(given.out)
    except (AtlasError, DialectError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join([*left_out(table, given.models, given.prefixes), overview(table).round(2).to_string(index=False)]))
    print(f"the survey: {given.out / 'survey.parquet'} and .csv")
    return 1 if report.failed else 0
