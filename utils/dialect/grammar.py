"""The grammar of matched guises: what is said in African American English (AAE) and in Standard American English (SAE),
the neutral swaps that serve as a null, the frames around them, and the traits a model can answer with.

Data: `utils/data/dialect.toml` (with the linguistic source of each feature) and `traits.toml` (favorability and frames
of Hofmann et al. 2024). All of it is public as `utils.dialect.*`.
"""

from __future__ import annotations

import functools
import itertools
import string
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

from transformer_lens.model_bridge import TransformerBridge

from utils.prompts import PromptError, token_row

DATA = files("utils.data")
UNFAVORABLE = tuple("aggressive cruel dirty ignorant lazy loud rude stubborn stupid suspicious".split())
FAVORABLE_FROM = 1.0  # F is every trait rated this high or higher


class DialectError(PromptError):
    """Guises, traits or files that cannot be used; the message names the line, the value and the fix."""


@dataclass(frozen=True)
class Pair:
    """One utterance in two guises. `cluster` is the word it is built on: pairs of one cluster are not independent."""

    aae: str
    sae: str
    cluster: str = ""
    name: str = ""


# --- the grammar ------------------------------------------------------------------------------------------------------


@functools.cache
def grammar() -> dict:
    """`data/dialect.toml` as it is: verbs, words, features, contrasts, swaps, frames, attributes."""
    return tomllib.loads((DATA / "dialect.toml").read_text(encoding="utf-8"))


@functools.cache
def _traits() -> dict:
    return tomllib.loads((DATA / "traits.toml").read_text(encoding="utf-8"))


def favorability() -> dict[str, float]:
    """Trait → mean human rating from -2 to +2 (Hofmann et al. 2024), 37 adjectives of the Princeton trilogy."""
    return dict(_traits()["favorability"])


def traits() -> tuple[list[str], list[str]]:
    """(U, F): the ten unfavorable traits, and the favorable ones, rated +1 or higher."""
    return list(UNFAVORABLE), [t for t, rating in favorability().items() if rating >= FAVORABLE_FROM]


def stereotypes() -> dict[str, dict[str, float]]:
    """Year → the five of these traits that were named most often for African Americans, with per cent of those asked: by
    Katz & Braly 1933, Gilbert 1951, Karlins et al. 1969 and Bergsieker et al. 2012, as collected by Hofmann et al. 2024."""
    return {year: dict(entry["named"]) for year, entry in _traits()["stereotypes"].items()}


def frames(kind: str = "paper") -> list[str]:
    """Prompts with {} for the guise. "paper": the nine of Hofmann et al. 2024; "overt": theirs for the name of a group;
    "own": nine in our own wording; also "occupation", "guilt" and "penalty"."""
    known = {"paper": _traits()["frames"]["trait"], "overt": _traits()["frames"]["overt"], **grammar()["frames"]}
    if kind not in known:
        raise DialectError(f"no frames {kind!r}; there are: {', '.join(known)}")
    return list(known[kind])


def allowed_verbs() -> set[str]:
    """Every form of every verb of the allow-list."""
    return {form for base, forms in grammar()["verbs"].items() for form in (base, *forms, f"{forms[3][:-1]}")}


def feature_names() -> list[str]:
    """The AAE features, in the order of the data file."""
    return list(grammar()["features"])


def pairs_of(name: str, n: int | None = None, all_pronouns: bool = False) -> list[Pair]:
    """The minimal pairs of a feature ("done") or of a contrast ("be_usually").

    n: this many verbs (or nouns), from the top of the list. Pronouns alternate, or all are used with each verb.
    """
    known = {**grammar()["features"], **grammar()["contrasts"]}
    if name not in known:
        raise DialectError(f"no feature {name!r}; there are: {', '.join(known)}")
    entry = known[name]
    templates = entry["aae"], entry["sae"]
    return filled(templates, entry.get("pronouns", ["he"]), n, name, entry.get("verbs"), all_pronouns)


def swap_names() -> list[str]:
    """The dialect-neutral swaps: car/truck, could/would, …"""
    return [words for group in grammar()["swaps"] for words in group["words"]]


def swap_pairs(words: str, n: int | None = None) -> list[Pair]:
    """Pairs that differ in one word and not in dialect. The field `aae` holds the first word: a label without meaning."""
    for group in grammar()["swaps"]:
        if words in group["words"]:
            templates = tuple(group["sentence"].replace("{x}", word) for word in words.split("/"))
            return filled(templates, n=n, name=words)
    raise DialectError(f"no swap {words!r}; there are: {', '.join(swap_names())}")


def filled(
    templates: tuple[str, str],
    pronouns: Sequence[str] = ("he", "she"),
    n: int | None = None,
    name: str = "",
    verbs: str | None = None,
    all_pronouns: bool = False,
) -> list[Pair]:
    """Pairs of two templates, such as ("{p} is {base}", "{p} is {ing}"): one per verb, or with every pronoun.

    Slots: {p} the pronoun; a verb's {base} {s} {past} {pp} {ing} {in} and {stem} (without -ing); or {noun}, {mass}, or
    {thing} {doing}. n: this many words, from the top of the list. verbs: the name of a list of verbs (None: all).
    """
    items = _items(templates[0], verbs)
    if n is not None and not 1 <= n <= len(items):
        raise DialectError(f"{n} words asked for {name!r}, which has 1 to {len(items)}")
    pairs = []
    for i, item in enumerate(items[:n]):
        for pronoun in pronouns if all_pronouns else [pronouns[i % len(pronouns)]]:
            aae, sae = (t.format(p=pronoun, **item) for t in templates)
            pairs.append(Pair(aae, sae, item["key"], name))
    return pairs


def _items(template: str, verbs: str | None) -> list[dict[str, str]]:
    """What can be put into a template, one entry per cluster: nouns, substances, things with what they do, or verbs."""
    words = grammar()["words"]
    for slot, listed in (("noun", "nouns"), ("mass", "masses")):
        if f"{{{slot}}}" in template:
            return [{slot: word, "key": word} for word in words[listed]]
    if "{thing}" in template:
        things = grammar()["things"].items()
        return [{"thing": thing, "doing": doing, "key": doing} for thing, actions in things for doing in actions]
    return [_forms(base) for base in grammar()["verbs"] if verbs is None or base in words[verbs]]


def _forms(base: str) -> dict[str, str]:
    s, past, pp, ing = grammar()["verbs"][base]
    return {"base": base, "s": s, "past": past, "pp": pp, "ing": ing, "in": ing[:-1], "stem": ing[:-3], "key": base}


# --- what cannot be measured with --------------------------------------------------------------------------------------


def check_frames(frames: Iterable[str]) -> list[str]:
    """The frames as a list. Raises DialectError, which names the frame, unless each is text with exactly one plain {}."""
    frames = _listed(frames, "frames", 'a frame is text with {} where the guise goes, such as "He says {}"')
    for frame in frames:
        _check_frame(frame)
    return frames


def _check_frame(frame: str) -> None:
    if not isinstance(frame, str):
        raise DialectError(f"the frame {frame!r} is {type(frame).__name__}, not text; write text with one {{}} in it")
    try:
        slots = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(frame) if name is not None]
    except ValueError as error:
        raise DialectError(
            f"the braces of the frame {frame!r} do not match ({error}); write {{}} once, where the guise goes, and {{{{ or "
            "}} for a brace that is part of the text"
        ) from error
    if len(slots) != 1:
        count = f"{len(slots)} slots" if slots else "no slot"
        raise DialectError(
            f"the frame {frame!r} has {count} for the guise; write {{}} exactly once, where the guise goes"
        )
    if slots[0] != ("", "", None):
        raise DialectError(f"the slot of the frame {frame!r} has a name, a number or a format; write plain {{}}")


def fill(frame: str, text: str) -> str:
    """The frame with the text in its slot, letter by letter: braces and spaces of the text stay. Errors: `check_frames`."""
    _check_frame(frame)
    if not isinstance(text, str):
        raise DialectError(f"{text!r} is {type(text).__name__}, not text, and cannot go into the frame {frame!r}")
    return frame.format(text)


def check_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs as a list. Raises DialectError, which names the pair, unless both sides of each are text."""
    if hasattr(pairs, "aae"):
        raise DialectError(f"the pairs are one {pairs}; put it into a list: [Pair(...)]")
    pairs = _listed(pairs, "pairs", 'a pair is Pair("he be working", "he is working")')
    for pair in pairs:
        if not (hasattr(pair, "aae") and hasattr(pair, "sae")):
            raise DialectError(f'{pair!r} is not a pair; write Pair("he be working", "he is working")')
        for name, side in (("AAE", pair.aae), ("SAE", pair.sae)):
            if not isinstance(side, str) or not side.strip():
                what = "empty" if isinstance(side, str) else f"{side!r}, not text"
                raise DialectError(f"the {name} side of {pair} is {what}; both sides need text")
    return pairs


def check_words(words: Iterable[str], what: str = "attributes") -> list[str]:
    """The words as a list. Raises DialectError if there are none, if they are one string, and if one is not text."""
    words = _listed(words, what, 'write a list of words, such as ["lazy", "rude"]')
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise DialectError(f"{word!r} among the {what} is not a word; leave it out")
    return words


def check_traits(unfavorable: Iterable[str], favorable: Iterable[str]) -> tuple[list[str], list[str]]:
    """Both sets of traits as lists. Raises DialectError for a set that is empty or one string, and for a repeated word."""
    unfavorable = check_words(unfavorable, "unfavorable traits")
    favorable = check_words(favorable, "favorable traits")
    if shared := [word for word in unfavorable if word in favorable]:
        raise DialectError(f"{shared[0]!r} is in both sets, unfavorable and favorable; keep it in one of them")
    for word, count in Counter(unfavorable + favorable).items():
        if count > 1:
            raise DialectError(
                f"the trait {word!r} is listed {count} times and would count more than the others; list it once"
            )
    return unfavorable, favorable


def _listed(values: Iterable, what: str, example: str) -> list:
    if isinstance(values, str):
        raise DialectError(f"the {what} are one string, {values!r}; put it into a list: [{values!r}]")
    try:
        values = list(values)
    except TypeError as error:
        raise DialectError(f"the {what} are {values!r}, not a list; {example}") from error
    if not values:
        raise DialectError(f"there are no {what}; {example}")
    return values


# --- the allow-list ---------------------------------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """The words in lower case, without the punctuation around them; a word of punctuation alone is left out."""
    words = (word.strip('.,;:!?"()').lower() for word in text.split())
    return [word for word in words if word]


def allow_list() -> set[str]:
    """Every word that the grammar can put into a guise: for filtering files from elsewhere."""
    everything = itertools.chain.from_iterable(
        pairs_of(name, all_pronouns=True) for name in (*feature_names(), *grammar()["contrasts"])
    )
    guises = {word for pair in everything for side in (pair.aae, pair.sae) for word in words_of(side)}
    return guises | allowed_verbs() | {"i", "you", "he", "she", "we", "they", "it"}


def filtered(pairs: Iterable[Pair], allow: Iterable[str]) -> list[Pair]:
    """The pairs made only of words in `allow`."""
    allow = set(check_words(allow, "allowed words"))
    return [pair for pair in pairs if set(words_of(pair.aae)) | set(words_of(pair.sae)) <= allow]


# --- aligned pairs ----------------------------------------------------------------------------------------------------


def differing_positions(model: TransformerBridge, one: str, other: str) -> list[int] | None:
    """Where two prompts' tokens differ, BOS counted as position 0; None if they are not equally long."""
    a, b = token_row(model, one), token_row(model, other)
    return None if len(a) != len(b) else (a != b).nonzero()[:, 0].tolist()


def aligned_pairs(
    model: TransformerBridge, pairs: Iterable[Pair], frame: str = "{}", strict: bool = False
) -> list[tuple[Pair, int]]:
    """The pairs that, inside `frame`, have as many tokens on both sides and differ in exactly one, with its position.

    strict: raise DialectError for the first pair that does not, in place of leaving it out.
    """
    found = []
    for pair in check_pairs(pairs):
        aae, sae = fill(frame, pair.aae), fill(frame, pair.sae)
        at = differing_positions(model, aae, sae)
        if at is not None and len(at) == 1:
            found.append((pair, at[0]))
        elif strict:
            what = "are not equally long" if at is None else f"differ in {len(at)} tokens"
            sides = [model.to_str_tokens(text) for text in (aae, sae)]
            raise DialectError(
                f"{pair.aae!r} and {pair.sae!r} {what} in {model.cfg.model_name}: {sides[0]} and {sides[1]}; "
                "choose a pair that differs in one token, or leave strict=False"
            )
    return found
