"""Pairs in files: one pair a line, read with errors that name the line and the value.

What can be read in more than one way is refused with `file:line` and the value, and never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from utils.dialect.grammar import DialectError, Pair, aligned_pairs, filtered, words_of
from utils.dialect.text import clean_text, read_text, records, require_curly, require_two_sides

HEADER_WORDS = set(
    "aae aave african american vernacular sae standard mainstream english prompt variable text guise side sentence "
    "utterance variant version form dialect".split()
)
SIDE_NAMES = (  # of a column with the AAE side, and of one with the SAE side: all words of one of these are in its name
    ({"aae"}, {"aave"}, {"african", "american"}),
    ({"sae"}, {"standard", "english"}, {"standard", "american"}),
)


def read_pairs(
    path: str | Path,
    curly: str = "straighten",
    allow: Iterable[str] | None = None,
    align: tuple[TransformerBridge, str] | None = None,
) -> list[Pair]:
    """Read a public pairs file: one pair a line, AAE, tab, SAE; the last line may lack its newline.

    A first line such as "AAE, tab, SAE" names the columns and is not a pair; below it they may come in any order, among
    others. A field that begins with a quotation mark is read as spreadsheets write it: the marks around the field are not
    part of the text, and a doubled mark inside is one mark. Any other quotation mark is text. White space at the ends of
    a side is left out.
    curly: "straighten" curly quotes, "keep" them, or "error". allow: keep only pairs all of whose words are in this set
    (see `allow_list`). align: (model, frame): every pair must be one-token aligned inside the frame.
    Raises DialectError that names the file's line and the value: no tab, two tabs, an empty side, sides that are equal or
    differ in something nobody sees, quotation marks that do not match, a header among the pairs, not UTF-8.
    """
    require_curly(curly)
    pairs, columns, n_fields = [], (0, 1), 2
    for i, (where, fields) in enumerate(records(path, read_text(path), "\t")):
        if header := _header_of_pairs(fields, where):
            if i:
                raise DialectError(f"{where}: the header line {fields} is in the middle of the pairs; take it out")
            columns, n_fields = header, len(fields)
            continue
        if len(fields) != n_fields:
            raise DialectError(f"{where}: {len(fields) - 1} tabs in {fields}; a line is AAE, one tab, SAE")
        sides = [clean_text(fields[at], where, curly).strip() for at in columns]
        if any("\t" in field for field in fields):
            raise DialectError(
                f"{where}: a quotation mark that opens here takes in a tab: {fields}; close it before the tab"
            )
        require_two_sides(sides, where)
        pairs.append((where, Pair(*sides, cluster=(words_of(sides[0]) or [sides[0]])[-1], name=Path(path).stem)))
    if not pairs:
        raise DialectError(f"{path}: no pairs in it; a line is AAE, one tab, SAE")
    for where, pair in pairs if align else ():
        try:
            aligned_pairs(align[0], [pair], align[1], strict=True)
        except DialectError as error:
            raise DialectError(f"{where}: {error}") from error
    found = [pair for _, pair in pairs]
    return found if allow is None else filtered(found, allow)


def _header_of_pairs(fields: Sequence[str], where: str) -> tuple[int, int] | None:
    """The columns of AAE and SAE if the fields are their names; None if the fields are a pair."""
    names = [set(re.findall(r"[^\W\d_]+", field.casefold())) for field in fields]
    aae, sae = (
        [i for i, words in enumerate(names) if words <= HEADER_WORDS and any(way <= words for way in ways)]
        for ways in SIDE_NAMES
    )
    if not aae and not sae:
        return None
    if len(aae) != 1 or len(sae) != 1 or aae == sae:
        raise DialectError(
            f"{where}: the header {list(fields)} does not name one column AAE and one column SAE, with a tab between them"
        )
    return aae[0], sae[0]
