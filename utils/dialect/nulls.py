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

from utils.dialect.grammar import DialectError, Pair, filled, grammar, swap_names, swap_pairs

KINDS = ("any swap", "pre-verbal", "same place", "errors", "misspellings")
PLAIN_VERBS = "regular"  # for errors: "he could read" is none


def null_pairs(kind: str, n: int | None = None) -> dict[str, list[Pair]]:
    """The pairs of every null swap of a kind, by the swap's name. kind: one of `KINDS`. n: this many verbs each.

    "pre-verbal" holds every two words of a group, so a word is in many swaps: they are far from independent of each other.
    """
    known = {
        "any swap": lambda: {name: swap_pairs(name, n) for name in swap_names()},
        "pre-verbal": lambda: _preverbal(n),
        "same place": lambda: _same_place(n),
        "errors": lambda: _wrong("errors", n),
        "misspellings": lambda: _wrong("misspellings", n),
    }
    if kind not in known:
        raise DialectError(f"no null {kind!r}; there are: {', '.join(KINDS)}")
    return known[kind]()


def _preverbal(n: int | None) -> dict[str, list[Pair]]:
    found = {}
    for group in grammar()["preverbal"]:
        for words in itertools.combinations(group["words"], 2):
            name = f"{'/'.join(words)} in {group['sentence']}"
            templates = tuple(group["sentence"].replace("{x}", word) for word in words)
            found[name] = filled(templates, n=n, name=name, verbs=group.get("verbs"))
    return found


def _same_place(n: int | None) -> dict[str, list[Pair]]:
    entry = grammar()["same_place"]
    counterpart = entry["sentence"].replace("{x}", entry["counterpart"])
    return {
        word: filled((entry["sentence"].replace("{x}", word), counterpart), n=n, name=word, verbs=entry["verbs"])
        for word in entry["words"]
    }


def _wrong(kind: str, n: int | None) -> dict[str, list[Pair]]:
    return {
        wrong: filled((wrong, right), n=n, name=wrong, verbs=PLAIN_VERBS) for wrong, right in grammar()[kind].items()
    }
