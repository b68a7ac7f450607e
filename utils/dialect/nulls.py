"""What a feature of a dialect can be compared with: five sets of pairs in which nothing about a dialect changes.

Each set answers another question, and none of them is "the" null:

    any swap       does the feature do more than one word in the place of another, anywhere in the sentence? (`swap_pairs`)
    pre-verbal     ... than one word in the place of another directly before the verb, where most features have theirs?
    same place     ... than any other word that can stand where *done* stands, against *has*?
    errors         ... than a slip that is a feature of no variety the authors know of?
    misspellings   ... than a wrong letter in -ing, where g-dropping has its letter?

Data: `utils/data/dialect.toml`. All of it is public as `utils.dialect.nulls.*`. The course's own word for the first side of a
pair, `aae`, is here a label without meaning for swaps, and the wrong side for errors and misspellings.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from utils.dialect.grammar import DialectError, Pair, filled, grammar, swap_names, swap_pairs

KINDS = ("any swap", "pre-verbal", "same place", "errors", "misspellings")
PLAIN_VERBS = "regular"  # for errors: "he could read" is none


def null_pairs(kind: str, n: int | None = None) -> dict[str, list[Pair]]:
    """The pairs of every null swap of a kind, by the swap's name. kind: one of `KINDS`. n: this many verbs each.

    "pre-verbal" holds every two words of a group, so a word is in many swaps: they are far from independent of each other.
    """
    if kind not in KINDS:
        raise DialectError(f"no null {kind!r}; there are: {', '.join(KINDS)}")
    if kind == "any swap":
        return {name: swap_pairs(name, n) for name in swap_names()}
    return {name: filled(templates, n=n, name=name, verbs=verbs) for name, templates, verbs in _swaps(kind)}


def _swaps(kind: str) -> Iterator[tuple[str, tuple[str, str], str | None]]:
    """Each swap's name, its two templates and its list of verbs."""
    data = grammar()
    if kind == "pre-verbal":
        for group in data["preverbal"]:
            for one, other in itertools.combinations(group["words"], 2):
                templates = group["sentence"].replace("{x}", one), group["sentence"].replace("{x}", other)
                yield f"{one}/{other} in {group['sentence']}", templates, group.get("verbs")
    elif kind == "same place":
        entry = data["same_place"]
        for word in entry["words"]:
            templates = entry["sentence"].replace("{x}", word), entry["sentence"].replace("{x}", entry["counterpart"])
            yield word, templates, entry["verbs"]
    else:
        for wrong, right in data[kind].items():
            yield wrong, (wrong, right), PLAIN_VERBS
