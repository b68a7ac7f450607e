"""Datasets in files: the published format, read with errors that name the line and the value, and written.

Nothing is guessed. Columns are found by name, a row has as many fields as the header, and what can be read in more than
one way is refused with `file:line` (the line on which the row begins) and the value. All of it is public as
`utils.dialect.*`.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from utils.dialect.grammar import DialectError, check_words, differing_positions, fill, words_of
from utils.dialect.text import MISSING, clean_text, read_text, records, require_curly, require_two_sides, unseen
from utils.prompts import PromptError, single_token, token_row

PROMPTS = ("prompt_aae", "prompt_sae")
TRAITS = ("best_attr_aae", "best_attr_sae")
SCORE_COLUMNS = ("score_aae", "score_sae")
FRAME = ("prompt", "variable_aae")
COLUMNS = (*PROMPTS, *TRAITS, *SCORE_COLUMNS)
ALL_COLUMNS = (*COLUMNS, *FRAME)


@dataclass(frozen=True)
class DatasetRow:
    """One row of a published-format CSV: two whole prompts, and what their author selected for them.

    Files also hold two scores, or the frame (`prompt`) and the AAE guise in it (`variable_aae`). What a file lacks is None.
    """

    prompt_aae: str
    prompt_sae: str
    best_attr_aae: str
    best_attr_sae: str
    score_aae: float | None = None
    score_sae: float | None = None
    prompt: str | None = None
    variable_aae: str | None = None


def read_dataset(
    path: str | Path,
    model: TransformerBridge | None = None,
    curly: str = "straighten",
    allow: Iterable[str] | None = None,
    aligned: bool = False,
) -> list[DatasetRow]:
    """Read a public dataset: a CSV with the columns prompt_aae, prompt_sae, best_attr_aae and best_attr_sae.

    Read where they are there: score_aae and score_sae; prompt (the frame) and variable_aae, which together must give
    prompt_aae. Columns may come in any order; others, such as an index, are left out. Fields are separated by commas,
    semicolons, tabs or |, whichever the header has. Prompts are kept with their white space.
    model: where given, every attribute must be one token in it, and, if `aligned`, both prompts of a row equally long.
    curly: "straighten" curly quotes, "keep" them, or "error". allow: keep only rows whose two guises differ in words of
    this set alone.
    Raises DialectError that names the file's line and the value. See also `read_pairs`.
    The row-wise choice of attributes is circular (chapter 07): the course reads these columns and never measures with them.
    """
    require_curly(curly)
    if aligned and model is None:
        raise DialectError("aligned=True compares numbers of tokens, and there is no model; give model= too")
    allowed = None if allow is None else set(check_words(allow, "allowed words"))
    rows = []
    for where, values in _table(path):
        row = _dataset_row(values, where, curly)
        if model is not None:
            _require_tokens(model, row, where, aligned)
        rows.append(row)
    if not rows:
        raise DialectError(f"{path}: no rows below the header")
    if allowed is not None:
        rows = [row for row in rows if set(_changed_words(row.prompt_aae, row.prompt_sae)) <= allowed]
    return rows


def _table(path: str | Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each row begins, and its fields by name: the columns that are known."""
    text = read_text(path)
    first = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
    delimiter = max(",;\t|", key=first.count)  # none of them is in a column's name
    found = records(path, text, delimiter)
    where, header = next(found, (f"{path}:1", []))
    names = [name.strip().casefold() for name in header]
    _require_columns(names, where)
    for where, fields in found:
        if len(fields) != len(names):
            raise DialectError(
                f"{where}: {len(fields)} fields in {fields}, and the header has {len(names)}; put a field that holds "
                f"{delimiter!r} in quotation marks"
            )
        if [field.strip().casefold() for field in fields] == names:
            raise DialectError(f"{where}: the header line {fields} is in the middle of the rows; take it out")
        _require_closed(names, fields, delimiter, where)
        values = dict(zip(names, fields, strict=True))
        yield where, {name: values[name] for name in ALL_COLUMNS if name in values}


def _require_columns(names: Sequence[str], where: str) -> None:
    missing = [name for name in (*PROMPTS, *TRAITS) if name not in names]
    if missing:
        needed = ", ".join((*PROMPTS, *TRAITS))
        raise DialectError(
            f"{where}: no column {', '.join(missing)}; a dataset has {needed}, and there are {list(names)}"
        )
    counts = Counter(re.sub(r"\.\d+$", "", name) for name in names)  # pandas calls a second x "x.1"
    for name in ALL_COLUMNS:
        if counts[name] > 1:
            raise DialectError(f"{where}: {counts[name]} columns {name} in {list(names)}; keep one")
    scores = [name for name in names if name.startswith("score")]
    if scores and not set(SCORE_COLUMNS) <= set(scores):
        raise DialectError(
            f"{where}: the score column(s) are {', '.join(scores)}; call them {' and '.join(SCORE_COLUMNS)}, "
            "or leave them out: scores are found by name"
        )


def _require_closed(names: Sequence[str], fields: Sequence[str], delimiter: str, where: str) -> None:
    """Refuse a field that begins like the end of one row and ends like the start of another: a mark was never closed."""
    for i, field in enumerate(fields):
        lines = re.split(r"\r\n|\r|\n", field)
        before, after = names[:i], names[i + 1 :]
        first, last = lines[0].split(delimiter), lines[-1].split(delimiter)
        if len(lines) == 1 or len(first) <= len(after) or len(last) <= len(before):
            continue
        cells = [*zip(before, last, strict=False), *zip(after, first[len(first) - len(after) :], strict=True)]
        words = [cell for name, cell in cells if name in TRAITS]
        if all(len(word.split()) == 1 and word == word.strip() for word in words):
            raise DialectError(
                f"{where}: the quotation mark that opens the field {names[i]} is closed in a later row, so that the field "
                f"holds {field!r}; close it where the field ends"
            )


def _dataset_row(values: Mapping[str, str], where: str, curly: str) -> DatasetRow:
    texts = {name: clean_text(text, where, curly) for name, text in values.items() if name not in SCORE_COLUMNS}
    require_two_sides([texts[name] for name in PROMPTS], where)
    for name in TRAITS:
        texts[name] = word = texts[name].strip()
        if not word or word in MISSING:
            raise DialectError(f"{where}: {name} is {repr(word) if word else 'empty'}; it should be one word")
        if len(word.split()) > 1 or unseen(word) or _number(word) is not None:
            raise DialectError(f"{where}: {name} is {word!a}; it should be one word")
    for name in FRAME:
        if name in texts and (not texts[name].strip() or texts[name] in MISSING):
            raise DialectError(f"{where}: {name} is {texts[name]!r}; write its text, or take the column out")
    if all(name in texts for name in FRAME):
        _require_frame(texts["prompt"], texts["variable_aae"], texts["prompt_aae"], where)
    scores = {name: _number(values[name]) for name in SCORE_COLUMNS if name in values}
    if None in scores.values():
        raise DialectError(
            f"{where}: the scores {[values[name] for name in scores]} are not two numbers; write finite "
            "numbers with a point, such as 1.5, or take the columns out"
        )
    return DatasetRow(**texts, **scores)


def _require_frame(frame: str, guise: str, prompt: str, where: str) -> None:
    try:
        filled = fill(frame, guise)
    except DialectError as error:
        raise DialectError(f"{where}: {error}") from error
    if filled.split() != prompt.split():
        raise DialectError(
            f"{where}: prompt and variable_aae give {filled!r}, and prompt_aae is {prompt!r}; correct "
            "one of the three, or take the columns prompt and variable_aae out"
        )


def _require_tokens(model: TransformerBridge, row: DatasetRow, where: str, aligned: bool) -> None:
    for name in TRAITS:
        word = getattr(row, name)
        try:
            single_token(model, f" {word}")
        except PromptError as error:
            raise DialectError(f"{where}: {name} {word!r} is not one token: {error}") from error
    if aligned and differing_positions(model, row.prompt_aae, row.prompt_sae) is None:
        lengths = [len(token_row(model, prompt)) for prompt in (row.prompt_aae, row.prompt_sae)]
        raise DialectError(
            f"{where}: the prompts are {lengths[0]} and {lengths[1]} tokens in {model.cfg.model_name}; "
            "patching compares position by position: leave this row out, or aligned=False"
        )


def _number(text: str) -> float | None:
    try:
        number = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _changed_words(one: str, other: str) -> list[str]:
    """Words of either text that the other lacks, quotation marks and punctuation stripped."""
    a, b = words_of(one), words_of(other)
    return [word for word in a if word not in b] + [word for word in b if word not in a]


def write_dataset(rows: Sequence[DatasetRow], path: str | Path) -> None:
    """Write rows as CSV in the published column order, with the columns that the rows have.

    Raises DialectError for rows that `read_dataset(path, curly="keep")` would not read back exactly as they are.
    """
    rows = list(rows)
    if not rows:
        raise DialectError(f"there are no rows to write to {path}; give at least one")
    columns = [name for name in ALL_COLUMNS if any(getattr(row, name) is not None for row in rows)]
    _require_columns(columns, str(path))
    read_back = [_as_read_back(row, columns, f"rows[{i}]") for i, row in enumerate(rows)]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        file.write(",".join(columns) + "\n")
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
        writer.writerows([getattr(row, name) for name in columns] for row in read_back)


def _as_read_back(row: DatasetRow, columns: Sequence[str], where: str) -> DatasetRow:
    missing = [name for name in columns if getattr(row, name) is None]
    if missing:
        raise DialectError(f"{where}: {missing[0]} is None, and other rows have it; give it to all rows or to none")
    values = {name: str(getattr(row, name)) for name in columns}
    _require_closed(columns, list(values.values()), ",", where)
    read_back = _dataset_row(values, where, "keep")
    if read_back != row:
        raise DialectError(
            f"{where}: {row} would be read back as {read_back}; write traits without white space around them, "
            "and text as text"
        )
    return read_back
