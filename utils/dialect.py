"""Matched guises: the same meaning in African American English (AAE) and in Standard American English (SAE), the prompts
around them, the traits a model can answer with, and the gap between the guises. Data: `utils/figures/dialect.toml`
(grammar, with the linguistic source of each feature) and `traits.toml` (favourability and frames of Hofmann et al. 2024).

`python -m utils.dialect --out dialect.csv` writes a dataset in the published column order.

Policy: the model's BOS is put in front of every prompt once, and every number is read at a prompt's true last token.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils.prompts import PromptError, end_logits, single_token

FIGURES = Path(__file__).parent / "figures"
UNFAVOURABLE = tuple("aggressive cruel dirty ignorant lazy loud rude stubborn stupid suspicious".split())
FAVOURABLE_FROM = 1.0  # F is every trait rated this high or higher
CURLY = {"‘": "'", "’": "'", "“": '"', "”": '"'}
COLUMNS = ("prompt_aae", "prompt_sae", "best_attr_aae", "best_attr_sae", "score_aae", "score_sae")
Frames = Sequence[str]


class DialectError(PromptError):
    """Guises, traits or files that cannot be used; the message names the line, the value and the fix."""


@dataclass(frozen=True)
class Pair:
    """One utterance in two guises. `cluster` is the word it is built on: pairs of one cluster are not independent."""

    aae: str
    sae: str
    cluster: str = ""
    name: str = ""


@dataclass(frozen=True)
class DatasetRow:
    """One row of a published-format CSV: two whole prompts, and what their author selected for them."""

    prompt_aae: str
    prompt_sae: str
    best_attr_aae: str
    best_attr_sae: str
    score_aae: float
    score_sae: float


# --- the grammar ------------------------------------------------------------------------------------------------------


@functools.cache
def grammar() -> dict:
    """`figures/dialect.toml` as it is: verbs, words, features, contrasts, swaps, frames, attributes."""
    return tomllib.loads((FIGURES / "dialect.toml").read_text(encoding="utf-8"))


@functools.cache
def _traits() -> dict:
    return tomllib.loads((FIGURES / "traits.toml").read_text(encoding="utf-8"))


def favourability() -> dict[str, float]:
    """Trait → mean human rating from -2 to +2 (Hofmann et al. 2024), 37 adjectives of the Princeton trilogy."""
    return dict(_traits()["favourability"])


def traits() -> tuple[list[str], list[str]]:
    """(U, F): the ten unfavourable traits, and the favourable ones, rated +1 or higher."""
    return list(UNFAVOURABLE), [t for t, rating in favourability().items() if rating >= FAVOURABLE_FROM]


def frames(kind: str = "paper") -> list[str]:
    """Prompts with {} for the guise. "paper": the nine of Hofmann et al. 2024; "own": nine in our own wording; also
    "occupation", "guilt" and "penalty"."""
    known = {"paper": _traits()["frames"]["trait"], **grammar()["frames"]}
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
    return _fill(templates, entry.get("pronouns", ["he"]), n, name, entry.get("verbs"), all_pronouns)


def swap_names() -> list[str]:
    """The dialect-neutral swaps: car/truck, could/would, …"""
    return [words for group in grammar()["swaps"] for words in group["words"]]


def swap_pairs(words: str, n: int | None = None) -> list[Pair]:
    """Pairs that differ in one word and not in dialect. The field `aae` holds the first word: a label without meaning."""
    for group in grammar()["swaps"]:
        if words in group["words"]:
            templates = tuple(group["sentence"].replace("{x}", word) for word in words.split("/"))
            return _fill(templates, ["he", "she"], n, words)
    raise DialectError(f"no swap {words!r}; there are: {', '.join(swap_names())}")


def _fill(templates, pronouns, n, name, verbs=None, all_pronouns=False) -> list[Pair]:
    words = grammar()["words"]
    if "{noun}" in templates[0]:
        items = [{"noun": noun, "key": noun} for noun in words["nouns"]]
    else:
        items = [_forms(base) for base in grammar()["verbs"] if verbs is None or base in words[verbs]]
    if n is not None and not 1 <= n <= len(items):
        raise DialectError(f"{n} words asked for {name!r}, which has 1 to {len(items)}")
    pairs = []
    for i, item in enumerate(items[:n]):
        for pronoun in pronouns if all_pronouns else [pronouns[i % len(pronouns)]]:
            aae, sae = (t.format(p=pronoun, **item) for t in templates)
            pairs.append(Pair(aae, sae, item["key"], name))
    return pairs


def _forms(base: str) -> dict[str, str]:
    s, past, pp, ing = grammar()["verbs"][base]
    return {"base": base, "s": s, "past": past, "pp": pp, "ing": ing, "in": ing[:-1], "key": base}


# --- aligned pairs ----------------------------------------------------------------------------------------------------


def differing_positions(model: TransformerBridge, one: str, other: str) -> list[int] | None:
    """Where two prompts' tokens differ, BOS counted as position 0; None if they are not equally long."""
    a, b = model.to_tokens(one)[0], model.to_tokens(other)[0]
    return None if len(a) != len(b) else (a != b).nonzero()[:, 0].tolist()


def aligned_pairs(
    model: TransformerBridge, pairs: Iterable[Pair], frame: str = "{}", strict: bool = False
) -> list[tuple[Pair, int]]:
    """The pairs that, inside `frame`, have as many tokens on both sides and differ in exactly one, with its position.

    strict: raise DialectError for the first pair that does not, in place of leaving it out.
    """
    found = []
    for pair in pairs:
        at = differing_positions(model, frame.format(pair.aae), frame.format(pair.sae))
        if at is not None and len(at) == 1:
            found.append((pair, at[0]))
        elif strict:
            what = "are not equally long" if at is None else f"differ in {len(at)} tokens"
            sides = [model.to_str_tokens(frame.format(side)) for side in (pair.aae, pair.sae)]
            raise DialectError(f"{pair.aae!r} and {pair.sae!r} {what} in {model.cfg.model_name}: {sides[0]} and {sides[1]}; "
                               "choose a pair that differs in one token, or leave strict=False")  # fmt: skip
    return found


# --- scores and gaps --------------------------------------------------------------------------------------------------


def attribute_tokens(model: TransformerBridge, attributes: Sequence[str]) -> Int[Tensor, "attribute"]:
    """The ids of words with a leading space, each of which must be one token."""
    return torch.tensor([single_token(model, f" {word}") for word in attributes], device=model.cfg.device)


def guise_logits(
    model: TransformerBridge, pairs: Sequence[Pair], frames: Frames, attributes: Sequence[str], **options
) -> tuple[Float[Tensor, "pair frame attribute"], Float[Tensor, "pair frame attribute"]]:
    """What the model gives each attribute after each pair in each frame: AAE, SAE. Options go to `end_logits`."""
    sides = [[frame.format(getattr(p, side)) for p in pairs for frame in frames] for side in ("aae", "sae")]
    values = end_logits(model, sides[0] + sides[1], attribute_tokens(model, attributes), **options)
    aae, sae = values.unflatten(0, (2, len(pairs), len(frames)))
    return aae, sae


def association_scores(
    logp_aae: Float[Tensor, "*pair attribute"], logp_sae: Float[Tensor, "*pair attribute"]
) -> Float[Tensor, "attribute"]:
    """q(x): mean over pairs (and frames) of log p(x | AAE) - log p(x | SAE). Above zero: x goes with the AAE guise."""
    return (logp_aae - logp_sae).flatten(0, -2).mean(0)


def preference(
    values: Float[Tensor, "... attribute"],
    attributes: Sequence[str],
    unfavourable: Sequence[str],
    favourable: Sequence[str],
) -> Float[Tensor, "..."]:
    """Mean over the unfavourable attributes minus mean over the favourable. The softmax's normaliser cancels, so that
    logits and log-probabilities give the same."""
    index = {word: i for i, word in enumerate(attributes)}
    groups = [values[..., [index[word] for word in group]].mean(-1) for group in (unfavourable, favourable)]
    return groups[0] - groups[1]


def trait_gaps(
    model: TransformerBridge,
    pairs: Sequence[Pair],
    frames: Frames,
    unfavourable: Sequence[str] | None = None,
    favourable: Sequence[str] | None = None,
    **options,
) -> Float[Tensor, "pair frame"]:
    """Preference for unfavourable traits after the AAE guise minus after the SAE guise; the traits are fixed sets."""
    default_u, default_f = traits()
    unfavourable, favourable = unfavourable or default_u, favourable or default_f
    attributes = [*unfavourable, *favourable]
    aae, sae = guise_logits(model, pairs, frames, attributes, **options)
    return preference(aae, attributes, unfavourable, favourable) - preference(sae, attributes, unfavourable, favourable)


def gaps_by_name(
    model: TransformerBridge, groups: Mapping[str, Sequence[Pair]], frames: Frames, **options
) -> dict[str, Float[Tensor, "pair frame"]]:
    """`trait_gaps` of several features or swaps in one go, which is several times as fast as one after another."""
    everything = list(itertools.chain.from_iterable(groups.values()))
    gaps = trait_gaps(model, everything, frames, **options)
    return dict(zip(groups, gaps.split([len(pairs) for pairs in groups.values()]), strict=True))


def gap_direction(
    model: TransformerBridge, unfavourable: Sequence[str], favourable: Sequence[str]
) -> Float[Tensor, "d_model"]:
    """Mean unembedding column of the unfavourable traits minus mean column of the favourable ones."""
    columns = [model.W_U[:, attribute_tokens(model, group)].mean(1) for group in (unfavourable, favourable)]
    return columns[0] - columns[1]


def gap_bias(model: TransformerBridge, unfavourable: Sequence[str], favourable: Sequence[str]) -> Float[Tensor, ""]:
    """What the unembedding bias adds to every preference. The same on both sides, so gone from a gap; not from a row."""
    if model.b_U is None:
        return torch.zeros((), device=model.cfg.device)
    groups = [model.b_U[attribute_tokens(model, group)].mean() for group in (unfavourable, favourable)]
    return groups[0] - groups[1]


# --- files in the two public formats ----------------------------------------------------------------------------------


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


def _words(text: str) -> list[str]:
    return [word.strip('.,;:!?"()').lower() for word in text.split()]


def _last_word(text: str) -> str:
    return _words(text)[-1]


def _changed_words(one: str, other: str) -> list[str]:
    """Words of either text that the other lacks, quotation marks and punctuation stripped."""
    a, b = _words(one), _words(other)
    return [word for word in a if word and word not in b] + [word for word in b if word and word not in a]


def allow_list() -> set[str]:
    """Every word that the grammar can put into a guise: for filtering files from elsewhere."""
    everything = itertools.chain.from_iterable(
        pairs_of(name, all_pronouns=True) for name in (*feature_names(), *grammar()["contrasts"])
    )
    guises = {word for pair in everything for side in (pair.aae, pair.sae) for word in _words(side)}
    return guises | allowed_verbs() | {"i", "you", "he", "she", "we", "they", "it"}


def filtered(pairs: Iterable[Pair], allow: Iterable[str]) -> list[Pair]:
    """The pairs made only of words in `allow`."""
    allow = set(allow)
    return [pair for pair in pairs if set(_words(pair.aae)) | set(_words(pair.sae)) <= allow]


# --- writing a dataset ------------------------------------------------------------------------------------------------


def dataset_rows(
    model: TransformerBridge, names: Sequence[str], frames: Frames, n_rows: int, progress: bool = True
) -> list[DatasetRow]:
    """`n_rows` prompts of the named features in the published form.

    best_attr_* is the trait whose log-probability rises most on that side, against the other: chosen row by row, as the
    published notebook does, for comparison only.
    """
    pairs = list(itertools.chain.from_iterable(zip(*(pairs_of(name, 20) for name in names), strict=True)))
    cells = [(pair, frame) for frame in frames for pair in pairs][:n_rows]
    words = list(favourability())
    prompts = [frame.format(side) for pair, frame in cells for side in (pair.aae, pair.sae)]
    values = end_logits(model, prompts, attribute_tokens(model, words), log_softmax=True, progress=progress)
    aae, sae = values.unflatten(0, (-1, 2)).unbind(1)  # each: row attribute
    ratio = aae - sae
    best_aae, best_sae = ratio.argmax(-1), ratio.argmin(-1)
    return [
        DatasetRow(prompts[2 * i], prompts[2 * i + 1], words[best_aae[i]], words[best_sae[i]],
                   round(ratio[i].max().item(), 4), round(-ratio[i].min().item(), 4))
        for i in range(len(cells))
    ]  # fmt: skip


def write_dataset(rows: Sequence[DatasetRow], path: str | Path) -> None:
    """Write rows as CSV in the published column order."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    from utils.models import ModelError, load_model

    parser = argparse.ArgumentParser(prog="python -m utils.dialect", description="Write a dialect dataset as CSV.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=315)
    parser.add_argument(
        "--features", nargs="+", default=feature_names(), choices=[*feature_names(), *grammar()["contrasts"]]
    )
    parser.add_argument("--frames", default="paper", choices=["paper", "own"])
    parser.add_argument("--model", help="what load_model takes; chooses the best_attr columns")
    given = parser.parse_args(arguments)
    try:
        model = load_model(given.model)
        rows = dataset_rows(model, given.features, frames(given.frames), given.rows)
        write_dataset(rows, given.out)
    except (DialectError, ModelError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(rows)} rows in {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
