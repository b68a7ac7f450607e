"""Output that every console can show: Windows redirects to cp1252, which has neither ✓ nor →. Standard library only."""

from __future__ import annotations

import codecs
import sys
import unicodedata

SPELLED = dict(
    pair.split()
    for pair in (
        *("✓ ok", "✗ x", "→ ->", "← <-", "↔ <->", "⇒ =>", "· -", "• *", "… ...", "× x", "± +/-", "− -", "– -", "— -"),
        *("‑ -", "≥ >=", "≤ <=", "≈ ~", "≠ !=", "‘ '", "’ '", '“ "', '” "'),
    )
)
SAMPLE = "".join(SPELLED) + "─│█━"  # what the course prints beyond ASCII


def make_output_safe() -> None:
    """Have stdout and stderr spell out what their encoding lacks (✓ as ok), where they would raise UnicodeEncodeError."""
    codecs.register_error("spell_out", _spell_out)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and not _shows(stream.encoding):
            stream.reconfigure(errors="spell_out")


def say(*values: object) -> None:
    """`print`, on whatever stdout is now, without ever failing on a character."""
    make_output_safe()
    print(*values)


def _shows(encoding: str) -> bool:
    try:
        SAMPLE.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spelled, error.object[error.start : error.end])), error.end


def _spelled(character: str) -> str:
    """ASCII for one character: from the table, by its kind, without its accent, or as its code."""
    name = unicodedata.name(character, "")
    if character in SPELLED:
        return SPELLED[character]
    if name.startswith("BOX DRAWINGS"):
        kind = name.split()[-1]
        return "-" if kind == "HORIZONTAL" else "|" if kind == "VERTICAL" else "+"
    if "BLOCK" in name:
        return "#"
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or character.encode("ascii", "backslashreplace").decode()
