"""The text of a file: how it is decoded and cut into records, and which characters are changed or refused.

What nobody sees must not tell the two sides of a pair apart: a model reads a no-break space, a zero-width character or an
accent apart from its letter as other tokens. Errors are DialectError and begin with `file:line`.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.dialect.grammar import DialectError

# What keyboards, word processors and web pages put in place of ' and ": typographic quotation marks, primes, modifier
# letters, the two accents that stand alone, and full-width forms.
CURLY = {**dict.fromkeys("‘’‚‛′‵ʹʻʼʽ´`＇", "'"), **dict.fromkeys("“”„‟″‶ʺ＂", '"')}
MISSING = set("nan NaN NAN <NA> NaT n/a N/A #N/A None null NULL".split())  # what programs write for an empty cell
JOINERS = "\u200c\u200d"  # parts of signs that are seen, such as the emoji of a family
INVISIBLE = "\u034f\u115f\u1160\u3164\u2800\uffa0"  # fillers that Unicode counts as letters, marks and symbols
VARIATION_SELECTORS = range(0xFE00, 0xFE10)


def straighten(text: str) -> str:
    """Straight quotes in place of curly ones and of what stands for them (`CURLY`): a tokenizer splits ’s and 's apart."""
    return text.translate(str.maketrans(CURLY))


def read_text(path: str | Path) -> str:
    """The file as text. Raises DialectError, with the line and how to save the file, if it is not UTF-8."""
    data = Path(path).read_bytes()
    how = "save it as UTF-8 (Excel: 'CSV UTF-8'; in Python, read it with its own encoding and write with encoding='utf-8')"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DialectError(f"{path}:1: the file is UTF-16, not UTF-8; {how}")
    data = data.removeprefix(codecs.BOM_UTF8)
    ends = re.compile(rb"\r\n|\r|\n")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = len(ends.findall(data[: error.start]))
        value = ends.split(data)[line].decode("utf-8", "backslashreplace")
        raise DialectError(
            f"{path}:{line + 1}: byte {data[error.start]:#x} in '{value}' is not UTF-8 (Windows-1252, perhaps); {how}"
        ) from error
    if "\0" in text:
        line = len(ends.findall(data[: data.index(0)])) + 1
        raise DialectError(
            f"{path}:{line}: a NUL character: the file is not text, or not UTF-8 (UTF-16, perhaps); {how}"
        )
    return text


def records(path: str | Path, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Where each record begins, and its fields; blank lines are left out."""
    lines = list(io.StringIO(text, newline=""))  # ends only at \n, \r and \r\n, and keeps them
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while reader.line_num < len(lines):
        begin = reader.line_num
        where = f"{path}:{begin + 1}"
        try:
            fields = next(reader)
        except csv.Error as error:
            line = lines[begin].rstrip("\r\n")[:200]
            raise DialectError(
                f"{where}: the quotation marks of {line!r} do not match ({error}); a field that begins with "
                'one ends with one, and any inside it are doubled ("")'
            ) from error
        if len(fields) > 1 or any(field.strip() for field in fields):
            yield where, fields


def require_curly(curly: str) -> None:
    """Raises DialectError for an option that `clean` does not know."""
    if curly not in ("straighten", "keep", "error"):
        raise DialectError(f"curly={curly!r} is not one of 'straighten', 'keep', 'error'")


def clean_text(text: str, where: str, curly: str) -> str:
    """The text, straightened if asked. Raises DialectError for what no file of text holds on purpose."""
    if curly == "error" and any(quote in text for quote in CURLY):
        raise DialectError(f"{where}: curly quote in {text!r}; write ' and \", or read with curly='straighten'")
    text = straighten(text) if curly == "straighten" else text
    if text.isascii() and text.isprintable():
        return text
    for character in text:
        damaged = character in "\ufeff\ufffd" or unicodedata.category(character) in ("Cc", "Cs")
        if damaged and not character.isspace():
            raise DialectError(f"{where}: {_name(character)} in {text!a}; take it out, and save the file as UTF-8")
    for word in text.split():
        alphabets = {unicodedata.name(letter, "").split(" ")[0] for letter in word if letter.isalpha()}
        if "LATIN" in alphabets and alphabets & {"CYRILLIC", "GREEK"}:
            raise DialectError(f"{where}: {word!a} mixes Latin letters with others that look like them; type it again")
    return text


def require_two_sides(sides: Sequence[str], where: str) -> None:
    """Raises DialectError unless both sides are text and differ in what a reader sees, and in nothing else.

    What nobody sees but both sides hold equally often is no difference between them, and stays.
    """
    for name, side in zip(("AAE", "SAE"), sides, strict=True):
        if not side.strip():
            raise DialectError(f"{where}: the {name} side is empty; both sides need text")
        if side.strip() in MISSING:
            raise DialectError(
                f"{where}: the {name} side is {side!r}, which programs write for an empty cell; both sides need text"
            )
    if sides[0] == sides[1]:
        raise DialectError(f"{where}: both sides are {sides[0]!r}; a pair differs, or there is nothing to compare")
    if _as_seen(sides[0]) == _as_seen(sides[1]):
        raise DialectError(
            f"{where}: {sides[0]!a} and {sides[1]!a} look the same: the model would be "
            "asked about a difference nobody sees; type one of them again"
        )
    aae, sae = map(unseen, sides)
    for what in aae | sae:
        if aae[what] != sae[what]:
            raise DialectError(
                f"{where}: {what}: {aae[what]} in {sides[0]!a} and {sae[what]} in {sides[1]!a}; "
                "nobody sees this difference, and a model does: take it out"
            )


def _as_seen(text: str) -> str:
    """The text as a reader sees it: compatible characters alike, nothing invisible, single spaces."""
    kept = (c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf" and c not in INVISIBLE)
    return " ".join("".join(kept).translate(dict.fromkeys(VARIATION_SELECTORS)).replace("\u2010", "-").split())


def unseen(text: str) -> Counter[str]:
    """How often a text holds what nobody sees, by name."""
    found = Counter(
        {
            "white space at the start": len(text) - len(text.lstrip()),
            "white space at the end": len(text) - len(text.rstrip()),
            "accents apart from their letters (not NFC)": int(not unicodedata.is_normalized("NFC", text)),
        }
    )
    found.update(f"{len(run)} spaces in a row" for run in re.findall(" {2,}", text))
    found.update(
        _name(c)
        for c in text
        if c in f"{INVISIBLE}\r" or (unicodedata.category(c) in ("Cf", "Zs") and c not in f" {JOINERS}")
    )
    return +found


def _name(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, 'control character')}"
