"""Reading a CSV of prompt pairs: every row is used, or the file is refused with the line, the value and the fix.

The columns are found by name, in any order: clean, corrupted, answer, wrong answer, and, if there is one, template. What can
be read in more than one way is never guessed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from utils.dialect.grammar import DialectError
from utils.dialect.text import MISSING, clean_text, read_text, records, unseen
from utils.prompts import PromptError, single_token, token_row

NEEDED_COLUMNS = ("clean", "corrupted", "answer", "wrong answer")
TEMPLATE = "template"
MIN_PAIRS = 8
COMPLAINTS_SHOWN = 20  # complaints in one message
FILE_FORMAT = (
    "the first line names the columns clean,corrupted,answer,wrong_answer and each further line is one pair "
    "(utils/data/tasks/capitals.csv is an example)"
)


class PairsFileError(ValueError):
    """A CSV of pairs that cannot be used as it is. One line for each complaint: `file:line: what is wrong; what to do`."""


@dataclass(frozen=True)
class PairRow:
    """One row of the file. line: where it begins. template: "" where the file has no such column."""

    line: int
    clean: str
    corrupted: str
    answer: str
    wrong: str
    template: str = ""


def read_pair_rows(path: str | Path) -> list[PairRow]:
    """All rows of a CSV, without a model: what `check_answers` then compares with a model's tokens.

    Warns (UserWarning) of columns that are not used. Raises PairsFileError that lists what is wrong, line by line.
    """
    path = Path(path)
    table = _records(path)
    columns = _columns(path, table[0][1])
    rows, complaints = [], []
    for where, fields in table[1:]:
        try:
            rows.append(_row(where, fields, columns, len(table[0][1])))
        except PairsFileError as error:
            complaints.append(str(error))
    complaints += _repeated(path, rows)
    if not rows and not complaints:
        complaints.append(f"{path}:1: there is a header and no pair below it; {FILE_FORMAT}")
    elif len(rows) < MIN_PAIRS and not complaints:
        complaints.append(
            f"{path}: {len(rows)} pairs; at least {MIN_PAIRS} are needed, half to find a circuit and half to test it. "
            "Write more, with other words"
        )
    _complain(complaints)
    return rows


def check_answers(model: TransformerBridge, rows: Sequence[PairRow], path: str | Path) -> None:
    """Raises PairsFileError, line by line, for prompts that the model cannot read and answers that are not one token."""
    complaints = []
    for row in rows:
        for name, word in (("answer", row.answer), ("wrong answer", row.wrong)):
            try:
                single_token(model, word)
            except PromptError as error:
                said = str(error).replace(" (see utils.ioi.single_token_names)", "")
                complaints.append(f"{path}:{row.line}: the {name}: {said}")
        for name, prompt in (("clean", row.clean), ("corrupted", row.corrupted)):
            try:
                token_row(model, prompt)
            except PromptError as error:
                complaints.append(f"{path}:{row.line}: the {name} prompt: {error}")
    _complain(complaints)


def _complain(complaints: Sequence[str]) -> None:
    if complaints:
        more = [f"… and {len(complaints) - COMPLAINTS_SHOWN} more"] * (len(complaints) > COMPLAINTS_SHOWN)
        raise PairsFileError("\n".join([*complaints[:COMPLAINTS_SHOWN], *more]))


def _records(path: Path) -> list[tuple[str, list[str]]]:
    """Header and rows, each with its place."""
    if not path.exists():
        raise PairsFileError(f"{path}: there is no such file; give the path of a CSV. {FILE_FORMAT}")
    if path.is_dir():
        raise PairsFileError(f"{path}: this is a folder; give the path of a CSV file in it")
    if path.read_bytes().startswith(b"PK"):
        raise PairsFileError(f"{path}: this is a spreadsheet and not text; save it as 'CSV UTF-8' and give that file")
    try:
        table = list(records(path, read_text(path), ","))
    except DialectError as error:
        raise PairsFileError(str(error)) from None
    if not table:
        raise PairsFileError(f"{path}: the file is empty; {FILE_FORMAT}")
    return table


def _plain_name(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _columns(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Column name → its number. Raises PairsFileError for columns that are missing or there twice."""
    names = [_plain_name(name) for name in header]
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if any(separator in name for name in header):
            raise PairsFileError(
                f"{path}:1: the columns are separated by {called}: {separator.join(header)[:80]!r}; save the file with commas"
            )
    known = (*NEEDED_COLUMNS, TEMPLATE)
    if not set(names) & set(NEEDED_COLUMNS):
        raise PairsFileError(f"{path}:1: no column names in {list(header)}; {FILE_FORMAT}")
    if missing := [name for name in NEEDED_COLUMNS if name not in names]:
        raise PairsFileError(f"{path}:1: no column {missing[0]!r} among {list(header)}; {FILE_FORMAT}")
    if double := [name for name in known if names.count(name) > 1]:
        raise PairsFileError(f"{path}:1: the column {double[0]!r} is there twice; rename or delete one")
    if unused := [shown for shown, name in zip(header, names, strict=True) if name not in known]:
        warnings.warn(f"{path}: these columns are not used: {', '.join(map(repr, unused))}", stacklevel=3)
    return {name: names.index(name) for name in known if name in names}


def _row(where: str, fields: Sequence[str], columns: Mapping[str, int], n_columns: int) -> PairRow:
    if len(fields) != n_columns:
        raise PairsFileError(
            f"{where}: {len(fields)} fields and {n_columns} columns in {fields}; a text that holds a comma stands in "
            'quotation marks: "Yes, he"'
        )
    try:
        values = {name: clean_text(fields[at], where, "keep") for name, at in columns.items()}
    except DialectError as error:
        raise PairsFileError(str(error)) from None
    if [_plain_name(value) for value in values.values()] == list(columns):
        raise PairsFileError(f"{where}: the header is there a second time; delete this line")
    for complaint in _complaints(values):
        raise PairsFileError(f"{where}: {complaint}")
    line = int(where.rsplit(":", 1)[1])
    return PairRow(line, *(values[name] for name in NEEDED_COLUMNS), values.get(TEMPLATE, "").strip())


def _complaints(values: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a row, most basic first."""
    for name in NEEDED_COLUMNS:
        if not values[name].strip():
            yield f"{name!r} is empty; fill it in, or delete the line"
        if values[name].strip() in MISSING:
            yield f"{name!r} is {values[name]!r}, which programs write for an empty cell; fill it in, or delete the line"
    clean, corrupted, answer, wrong = (values[name] for name in NEEDED_COLUMNS)
    if clean == corrupted:
        yield f"clean and corrupted are both {clean!r}; corrupt one word, or there is nothing to compare"
    if answer == wrong:
        yield f"answer and wrong answer are both {answer!r}; a wrong answer differs"
    if answer.strip() == wrong.strip():
        yield f"answer {answer!r} and wrong answer {wrong!r} differ in a space only; write another wrong answer"
    for name, prompt in (("clean", clean), ("corrupted", corrupted)):
        if prompt != prompt.rstrip():
            yield (
                f"the {name} prompt {prompt!r} ends in white space; end it with its last word, and begin the answers with "
                "a space"
            )
        if hidden := [what for what in unseen(prompt) if what.startswith("U+")]:
            yield f"the {name} prompt {prompt!a} holds something that nobody sees: {hidden[0]}; take it out"
    for name, word in (("answer", answer), ("wrong answer", wrong)):
        if word != word.rstrip():
            yield f"the {name} {word!r} ends in white space; take it away"
        if word.startswith("  ") or "\n" in word:
            yield f"the {name} {word!r} begins with more than one space, or holds a line break; leave one space"
        if clean[-1:].isalpha() and word[:1].isalpha():
            yield (
                f"the {name} {word!r} would be glued to the prompt, {(clean[-8:] + word)!r}; write "
                f"{' ' + word!r}, with a space in front"
            )
    if answer.startswith(" ") != wrong.startswith(" "):
        yield f"answer {answer!r} and wrong answer {wrong!r}: one begins with a space and one does not; write both alike"


def _repeated(path: Path, rows: Sequence[PairRow]) -> Iterator[str]:
    """Pairs that stand in the file twice, and pairs that contradict each other."""
    seen: dict[tuple[str, ...], PairRow] = {}
    for row in rows:
        pair = (row.clean, row.corrupted, row.answer, row.wrong)
        if pair in seen:
            yield (
                f"{path}:{row.line}: the same pair stands on line {seen[pair].line}: {row.clean!r}; delete one, since "
                "counting it twice makes intervals too narrow"
            )
        turned = seen.get((row.clean, row.corrupted, row.wrong, row.answer))
        if turned is not None:
            yield (
                f"{path}:{row.line}: {row.answer!r} is right for {row.clean!r} here and wrong on line {turned.line}; keep one"
            )
        seen.setdefault(pair, row)
