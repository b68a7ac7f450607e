"""Looking things up in an atlas: a row per head, a search in words, and the grids that `plots.mosaic` draws.

Scores that were read under different settings (seed, seq_len, batch, bos) are different measurements: they are kept apart,
and never averaged.
"""

from __future__ import annotations

import operator
import re
from typing import Any

import pandas as pd

from utils.attribution import head_name

SCORES = ("previous_token", "duplicate_token", "induction", "copying", "first_token", "entropy")
ORDER = ["model", "layer", "head", "score"]
SIGNS = {">=": operator.ge, "<=": operator.le, "==": operator.eq, "=": operator.eq, ">": operator.gt, "<": operator.lt}
SIGN = "|".join(SIGNS)  # the longer ones come first
SAME_SIGN = {"≥": ">=", "≤": "<=", "−": "-"}
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


class AtlasError(ValueError):
    """A model, a setting or a query that the atlas cannot use; the message names it and the fix."""


def setting_columns(table: pd.DataFrame) -> list[str]:
    """What the scores were read on: every column that is neither a head's name nor a score."""
    return [column for column in table.columns if column not in (*ORDER, "value")]


def varying_settings(table: pd.DataFrame) -> list[str]:
    """The settings that have more than one value in the table."""
    return [column for column in setting_columns(table) if table[column].nunique(dropna=False) > 1]


def choose(table: pd.DataFrame, **settings: Any) -> pd.DataFrame:
    """The rows that were scored with these settings, such as batch=4. Raises AtlasError if there are none."""
    for name, value in settings.items():
        if name not in setting_columns(table):
            raise AtlasError(f"no setting {name!r}; there are: {', '.join(setting_columns(table))}")
        rows = table[table[name] == value]
        if rows.empty:
            raise AtlasError(f"nothing was scored with {name}={value!r}; there are: {_values(table, name)}")
        table = rows
    return table


def _values(table: pd.DataFrame, column: str, at_most: int = 6) -> str:
    values = sorted(map(str, table[column].unique()))
    return ", ".join(values[:at_most]) + (", …" if len(values) > at_most else "")


def _distinct(table: pd.DataFrame) -> pd.DataFrame:
    """The table without repeated rows. Raises AtlasError if a score of a head has two values under the same settings."""
    table = table.drop_duplicates()
    keys = [*ORDER, *setting_columns(table)]
    twice = table[table.duplicated(keys, keep=False)]
    if not twice.empty:
        first = twice.iloc[0]
        values = twice.loc[(twice[keys] == first[keys]).all(axis=1), "value"].tolist() or twice["value"].tolist()[:2]
        raise AtlasError(
            f"{head_name(int(first['layer']), int(first['head']))} of {first['model']} has the values "
            f"{values} of {first['score']} under the same settings; keep one of them"
        )
    return table


def by_head(table: pd.DataFrame) -> pd.DataFrame:
    """One row per head and setting: model, head ("L5H1"), the settings that vary in the table, and the scores."""
    table = _distinct(table)
    varying = varying_settings(table)
    keys = ["model", "layer", "head", *setting_columns(table)]
    scores = [score for score in SCORES if (table["score"] == score).any()]
    wide = table[keys].drop_duplicates()
    for score in scores:
        values = table.loc[table["score"] == score, [*keys, "value"]].rename(columns={"value": score})
        wide = wide.merge(values, on=keys, how="left")
    wide["head"] = [head_name(int(layer), int(head)) for layer, head in zip(wide["layer"], wide["head"], strict=True)]
    return wide[["model", "head", *varying, *scores]].reset_index(drop=True)


def grids(table: pd.DataFrame, score: str, **settings: Any) -> dict[str, pd.DataFrame]:
    """model → [layer, head] table of one score: what `plots.mosaic` draws.

    settings: which rows, such as batch=4. Raises AtlasError if the rows still have several settings. (`bos` follows from
    the model, so models may differ in it.)
    """
    chosen = table[table["score"] == score]
    if chosen.empty:
        raise AtlasError(f"no score {score!r}; there are: {', '.join(table['score'].unique())}")
    chosen = _distinct(choose(chosen, **settings))
    varying = varying_settings(chosen)
    if "bos" in varying and chosen.groupby("model")["bos"].nunique(dropna=False).max() == 1:
        varying.remove("bos")
    if varying:
        found = "; ".join(f"{name}: {_values(chosen, name)}" for name in varying)
        example = ", ".join(f"{name}={chosen[name].iloc[0]!s}" for name in varying)
        raise AtlasError(f"the table holds several settings ({found}); choose one: grids(table, {score!r}, {example})")
    return {name: rows.pivot(index="layer", columns="head", values="value") for name, rows in chosen.groupby("model")}


def search(wide: pd.DataFrame, query: str) -> pd.DataFrame:
    """The rows of `by_head` that fit every word of the query.

    A word is a bound on a score or a setting ("induction>0.4", "copying <= -5e-1", "batch=4"), a head ("L5H1"), a layer
    ("L5"), or part of a model's name. Raises AtlasError for a word that cannot be read, or a score that is not there.
    """
    for variant, sign in SAME_SIGN.items():
        query = query.replace(variant, sign)
    keep = pd.Series(True, index=wide.index)
    for word in re.sub(rf"\s*({SIGN})\s*", r"\1", query).split():
        word = word.rstrip(",;")
        if re.search(SIGN, word):
            keep &= _within(wide, word)
        elif re.fullmatch(r"[Ll]\d+([Hh]\d+)?", word):
            keep &= wide["head"].str.fullmatch(word.upper() if "H" in word.upper() else rf"{word.upper()}H\d+")
        else:
            named = wide["model"].str.contains(word, case=False, regex=False)
            if word.lower() in wide.columns and not named.any():
                raise AtlasError(f"{word!r} alone says nothing; add a sign and a number, such as {word.lower()}>0.4")
            keep &= named
    return wide[keep]


def _within(wide: pd.DataFrame, word: str) -> pd.Series:
    """Which rows are within a bound such as "induction>0.4"."""
    name, sign, bound = re.fullmatch(rf"(.*?)({SIGN})(.*)", word).groups()
    number = {"true": "1", "false": "0"}.get(bound.lower(), bound)
    if not name:
        raise AtlasError(f"cannot read {word!r}: a score comes before the sign, as in induction>0.4")
    column = next((column for column in wide.columns if column.lower() == name.lower()), None)
    if column is None:
        raise AtlasError(f"no score {name!r}; there are: {', '.join(wide.columns[2:])}")
    if not pd.api.types.is_numeric_dtype(wide[column]):
        if sign not in ("=", "==") or not bound:
            raise AtlasError(f"cannot read {word!r}: {column} is text; write the whole of it after {column}=")
        return wide[column].astype(str).str.lower() == bound.lower()
    if not NUMBER.fullmatch(number):
        raise AtlasError(f"cannot read {word!r}: {bound!r} is not a number; write it as in {name}{sign}0.4")
    return SIGNS[sign](wide[column].astype(float), float(number))
