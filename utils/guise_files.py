"""Pairs and datasets in files: the two public formats, read with errors that name the line and the value, and written.

All of it is public as `utils.dialect.*`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from utils.guises import DialectError, Pair, aligned_pairs, differing_positions, filtered, words_of
from utils.prompts import PromptError, single_token

CURLY = {"‘": "'", "’": "'", "“": '"', "”": '"'}
COLUMNS = ("prompt_aae", "prompt_sae", "best_attr_aae", "best_attr_sae", "score_aae", "score_sae")


@dataclass(frozen=True)
class DatasetRow:
    """One row of a published-format CSV: two whole prompts, and what their author selected for them."""

    prompt_aae: str
    prompt_sae: str
    best_attr_aae: str
    best_attr_sae: str
    score_aae: float
    score_sae: float


def straighten(text: str) -> str:
    """Curly quotes to straight ones: a tokenizer splits ’s otherwise than 's."""
    return text.translate(str.maketrans(CURLY))


def read_pairs(
    path: str | Path,
    curly: str = "straighten",
    allow: Iterable[str] | None = None,
    align: tuple[TransformerBridge, str] | None = None,
) -> list[Pair]:
    """Read a public pairs file: one pair a line, AAE, tab, SAE; the last line may lack its newline.

    curly: "straighten" curly quotes, "keep" them, or "error". allow: keep only pairs all of whose words are in this set
    (see `allow_list`). align: (model, frame): every pair must be one-token aligned inside the frame.
    Raises DialectError that names the file's line and the value: no tab, two tabs, an empty side, equal sides, not UTF-8.
    """
    pairs = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        sides = [_clean(side, where, curly) for side in line.split("\t")]
        if len(sides) != 2:
            raise DialectError(f"{where}: {len(sides) - 1} tabs in {line!r}; a line is AAE, one tab, SAE")
        _require_two_sides(sides, where)
        pairs.append((where, Pair(*sides, cluster=_last_word(sides[0]), name=Path(path).stem)))
    if not pairs:
        raise DialectError(f"{path}: no pairs in it; a line is AAE, one tab, SAE")
    if align is not None:
        _require_aligned(pairs, *align)
    return filtered([pair for _, pair in pairs], allow) if allow is not None else [pair for _, pair in pairs]


def read_dataset(
    path: str | Path,
    model: TransformerBridge | None = None,
    curly: str = "straighten",
    allow: Iterable[str] | None = None,
    aligned: bool = False,
) -> list[DatasetRow]:
    """Read a public dataset: CSV with the columns prompt_aae, prompt_sae, best_attr_aae, best_attr_sae and two scores.

    model: where given, every attribute must be one token in it, and, if `aligned`, both prompts of a row equally long.
    allow: keep only rows whose two guises differ in words of this set alone.
    The row-wise choice of attributes is circular (chapter 07): the course reads these columns and never measures with them.
    """
    reader = csv.DictReader(_text(path).splitlines())
    columns = reader.fieldnames or []
    missing = [name for name in COLUMNS[:4] if name not in columns]
    scores = [name for name in columns if name not in COLUMNS[:4]]
    if missing or len(scores) < 2:
        what = f"no column {', '.join(missing)}" if missing else f"{len(scores)} score column(s), not 2"
        raise DialectError(f"{path}:1: {what}; the columns are {', '.join(COLUMNS)}, and there are {columns}")
    rows = [_dataset_row(row, scores[:2], f"{path}:{reader.line_num}", model, curly, aligned) for row in reader]
    if not rows:
        raise DialectError(f"{path}: no rows below the header")
    if allow is not None:
        rows = [row for row in rows if set(_changed_words(row.prompt_aae, row.prompt_sae)) <= set(allow)]
    return rows


def _dataset_row(row, scores, where, model, curly, aligned) -> DatasetRow:
    values = {name: _clean(row[name] or "", where, curly) for name in COLUMNS[:4]}
    _require_two_sides([values["prompt_aae"], values["prompt_sae"]], where)
    for name in COLUMNS[2:4]:
        if not values[name]:
            raise DialectError(f"{where}: {name} is empty; it should be one word")
        if model is not None:
            try:
                single_token(model, f" {values[name]}")
            except PromptError as error:
                raise DialectError(f"{where}: {name} {values[name]!r} is not one token: {error}") from error
    try:
        numbers = [float(row[name]) for name in scores]
    except (TypeError, ValueError) as error:
        raise DialectError(f"{where}: the scores {[row[name] for name in scores]} are not two numbers") from error
    if aligned and model is not None:
        at = differing_positions(model, values["prompt_aae"], values["prompt_sae"])
        if at is None:
            lengths = [model.to_tokens(values[name]).shape[1] for name in COLUMNS[:2]]
            raise DialectError(f"{where}: the prompts are {lengths[0]} and {lengths[1]} tokens in {model.cfg.model_name}; "
                               "patching compares position by position: leave this row out, or aligned=False")  # fmt: skip
    return DatasetRow(*values.values(), *numbers)


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DialectError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


def _clean(text: str, where: str, curly: str) -> str:
    if curly not in ("straighten", "keep", "error"):
        raise DialectError(f"curly={curly!r} is not one of 'straighten', 'keep', 'error'")
    if curly == "error" and any(quote in text for quote in CURLY):
        raise DialectError(f"{where}: curly quote in {text!r}; write ' and \", or read with curly='straighten'")
    return (straighten(text) if curly == "straighten" else text).strip()


def _require_two_sides(sides: Sequence[str], where: str) -> None:
    for name, side in zip(("AAE", "SAE"), sides, strict=True):
        if not side:
            raise DialectError(f"{where}: the {name} side is empty; both sides need text")
    if sides[0] == sides[1]:
        raise DialectError(f"{where}: both sides are {sides[0]!r}; a pair differs, or there is nothing to compare")


def _require_aligned(pairs: list[tuple[str, Pair]], model: TransformerBridge, frame: str) -> None:
    for where, pair in pairs:
        try:
            aligned_pairs(model, [pair], frame, strict=True)
        except DialectError as error:
            raise DialectError(f"{where}: {error}") from error


def _last_word(text: str) -> str:
    return words_of(text)[-1]


def _changed_words(one: str, other: str) -> list[str]:
    """Words of either text that the other lacks, quotation marks and punctuation stripped."""
    a, b = words_of(one), words_of(other)
    return [word for word in a if word and word not in b] + [word for word in b if word and word not in a]


def write_dataset(rows: Sequence[DatasetRow], path: str | Path) -> None:
    """Write rows as CSV in the published column order."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
