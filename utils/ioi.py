"""Indirect object identification: the eight published prompts, a data set of any size, and the roles of their tokens.

Source of the prompts and of their order: the executed "Exploratory Analysis Demo" of TransformerLens, after Wang et al.
2022, "Interpretability in the Wild". The corrupted twin of a prompt is its neighbor, where only the subject's second mention
(S2) differs, or one with fresh names (`CORRUPTIONS`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils.prompts import PromptError, PromptPairs, make_pairs, single_token

TEMPLATES = (
    "When John and Mary went to the shops,{S} gave the bag to",
    "When Tom and James went to the park,{S} gave the ball to",
    "When Dan and Sid went to the shops,{S} gave an apple to",
    "After Martin and Amy went to the park,{S} gave a drink to",
)
NAMES = ((" Mary", " John"), (" Tom", " James"), (" Dan", " Sid"), (" Martin", " Amy"))
NAME_POOL = tuple(
    """Mary John Tom James Dan Sid Martin Amy Alice Bob Anna Paul Mark Jane Kate Luke Ruth Adam Emma Jack Sarah David
    Laura Peter Helen Simon Rachel Daniel Julia Kevin Maria Robert Susan Thomas Linda George Marianne Siobhan""".split()
)
CORRUPTIONS = {  # what stands for the indirect object, the subject's first and its second mention; x, y, z: fresh names
    "ABC": ("x", "y", "z"),
    "IO": ("x", "S", "S"),
    "S1": ("IO", "x", "S"),
    "S2": ("IO", "S", "x"),
    "flip": ("IO", "S", "IO"),
    "swap": ("S", "IO", "S"),
    "exchange": ("S", "IO", "IO"),
    "fresh": ("x", "y", "y"),
    "fresh flip": ("x", "y", "x"),
}
# The name that is repeated, and the place where it stood first, each kept or not: the corruption that does it (None: none).
SIGNALS = {
    ("kept", "kept"): None,
    ("kept", "inverted"): "swap",
    ("random", "kept"): "fresh",
    ("random", "inverted"): "fresh flip",
    ("inverted", "kept"): "exchange",
    ("inverted", "inverted"): "flip",
}
ROLES = ("BOS", "", "IO/S1", "", "S1/IO", "", "", "", "", "", "S2", "", "", "", "END")


def build_prompts(
    templates: Sequence[str] = TEMPLATES, names: Sequence[tuple[str, str]] = NAMES
) -> tuple[list[str], list[tuple[str, str]]]:
    """Two prompts per template, in the published order, and the (correct, incorrect) answers of each.

    Prompt 2i fills {S} with names[i][1], so its answer is names[i][0]; prompt 2i+1 the other way round.
    Raises PromptError for a template without its slot, or for another number of name pairs than of templates.
    """
    if not templates or len(templates) != len(names):
        raise PromptError(f"{len(templates)} templates and {len(names)} pairs of names; give one pair per template")
    prompts, answers = [], []
    for template, pair in zip(templates, names, strict=True):
        if template.count("{S}") != 1:
            raise PromptError(f"template {template!r} has no single slot {{S}}; put {{S}} where the subject returns")
        for correct, incorrect in (pair, pair[::-1]):
            prompts.append(template.replace("{S}", incorrect))
            answers.append((correct, incorrect))
    return prompts, answers


def ioi_pairs(
    model: TransformerBridge,
    templates: Sequence[str] = TEMPLATES,
    names: Sequence[tuple[str, str]] = NAMES,
    corruption: str = "flip",
) -> PromptPairs:
    """The eight prompts (or your own) as aligned `PromptPairs`, each beside its corrupted twin.

    corruption: a name from CORRUPTIONS. "flip" has the other name as the subject's second mention, so that the twin is the
    prompt's neighbor. Fresh names come from NAME_POOL, in its order, those that are one token and in none of the prompts.
    """
    who = _corruption(corruption)
    prompts, answers = build_prompts(templates, names)
    used = {name for pair in names for name in pair}
    fresh = [f" {name}" for name in single_token_names(model) if f" {name}" not in used]
    if len(fresh) < 3 and set(who) & set("xyz"):
        raise PromptError(f"{len(fresh)} names of NAME_POOL are one token and in no prompt; {corruption!r} needs three")
    corrupted = []
    for i, (io, subject) in enumerate(answers):
        drawn = {x: fresh[(i + k * (len(fresh) // 3)) % len(fresh)] for k, x in enumerate("xyz") if fresh}
        stands = {"IO": io, "S": subject, **drawn}
        twin = templates[i // 2].replace(io, "{IO}", 1).replace(subject, "{S1}", 1)
        for slot, name in zip(("{IO}", "{S1}", "{S}"), who, strict=True):
            twin = twin.replace(slot, stands[name])
        corrupted.append(twin)
    return make_pairs(model, prompts, corrupted, answers)


def _corruption(name: str) -> tuple[str, str, str]:
    if name not in CORRUPTIONS:
        raise PromptError(f"corruption {name!r} is not one of {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


def positions_by_role(
    tokens: Int[Tensor, "batch pos"], answer_tokens: Int[Tensor, "batch 2"], last: Int[Tensor, " batch"] | None = None
) -> dict[str, Int[Tensor, " batch"]]:
    """role → its position in each prompt: BOS, IO (where the answer stands), S1 and S1+1, S2, END.

    last: each prompt's last position; None means the last column.

    Raises PromptError for a prompt without its answer, or with the other name fewer than two times.
    """
    is_io, is_subject = (tokens == answer_tokens[:, :1]).int(), (tokens == answer_tokens[:, 1:]).int()
    column = torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
    for i, (n_io, n_subject) in enumerate(zip(is_io.sum(1).tolist(), is_subject.sum(1).tolist(), strict=True)):
        if not n_io or n_subject < 2:
            raise PromptError(
                f"prompt {i} has its answer (token {int(answer_tokens[i, 0])}) {n_io} times and the subject "
                f"(token {int(answer_tokens[i, 1])}) {n_subject} times; the roles need 1 and 2"
            )
    s1 = is_subject.argmax(1)
    s2, end = column - is_subject.flip(1).argmax(1), column if last is None else last
    return {"BOS": torch.zeros_like(column), "IO": is_io.argmax(1), "S1": s1, "S1+1": s1 + 1, "S2": s2, "END": end}


def single_token_names(model: TransformerBridge, names: Sequence[str] = NAME_POOL) -> list[str]:
    """The names that are one token behind a space in this model's tokenizer."""
    return [name for name in names if _is_single(model, f" {name}")]


def _is_single(model: TransformerBridge, word: str) -> bool:
    try:
        single_token(model, word)
    except PromptError:
        return False
    return True


# --- a data set -----------------------------------------------------------------------------------------------------------

# {A} and {B} are the two names, of which {S} returns; ABBA has the indirect object first, BABA the subject.
STRUCTURES = (
    "When{A} and{B} met at the{place},{S} handed the{object} to",
    "Yesterday{A} and{B} sat in the{place}, and{S} passed the{object} to",
    "The{place} was nearly empty. After{A} and{B} came in,{S} showed the{object} to",
    "While{A} was with{B} in the{place},{S} lent the{object} to",
    "At first{A} knew{B} from the{place} only. One day{S} sent the{object} to",
    "As soon as{A} and{B} had left the{place},{S} offered the{object} to",
)
PLACES = (" store", " park", " school", " office", " house", " garden")
OBJECTS = (" bag", " ball", " book", " letter", " ring", " bottle")
ORDERS = ("ABBA", "BABA")
SMALLEST, LARGEST = 8, 1000


@dataclass(frozen=True)
class IOIPrompt:
    """One prompt of a data set: its structure's number, its order, its words, and three names that are not in it."""

    structure: int
    order: str
    names: dict[str, str]  # IO, S, x, y, z
    place: str
    object: str


@dataclass(frozen=True)
class IOIDataset:
    """Prompts by template, with their twins. `ioi_dataset` makes it.

    template: [batch], one number for each structure in each order, so that prompts of one number differ in their words
    alone and have every role at the same position.
    """

    model: TransformerBridge
    structures: tuple[str, ...]
    prompts: list[IOIPrompt]

    @property
    def template(self) -> Int[Tensor, " batch"]:
        return torch.tensor([len(ORDERS) * p.structure + ORDERS.index(p.order) for p in self.prompts])

    def pairs(self, corruption: str = "ABC") -> PromptPairs:
        """Every prompt beside its twin, with its answers, right-padded. corruption: a name from CORRUPTIONS."""
        who = _corruption(corruption)
        clean = [self._text(prompt, ("IO", "S", "S")) for prompt in self.prompts]
        corrupted = [self._text(prompt, who) for prompt in self.prompts]
        answers = [(prompt.names["IO"], prompt.names["S"]) for prompt in self.prompts]
        return make_pairs(self.model, clean, corrupted, answers, aligned=False)

    def roles(self) -> dict[str, Int[Tensor, " batch"]]:
        """role → its position in each prompt (see `positions_by_role`); twins have theirs at the same positions."""
        pairs = self.pairs()
        return positions_by_role(pairs.clean_tokens, pairs.answer_tokens, pairs.clean_last)

    def _text(self, prompt: IOIPrompt, who: tuple[str, str, str]) -> str:
        io, s1, s2 = (prompt.names[name] for name in who)
        first, second = (io, s1) if prompt.order == "ABBA" else (s1, io)
        slots = {"A": first, "B": second, "S": s2, "place": prompt.place, "object": prompt.object}
        return self.structures[prompt.structure].format(**slots)

    def __len__(self) -> int:
        return len(self.prompts)


def ioi_dataset(
    model: TransformerBridge,
    n: int = 96,
    structures: Sequence[str] = STRUCTURES,
    names: Sequence[str] = NAME_POOL,
    places: Sequence[str] = PLACES,
    objects: Sequence[str] = OBJECTS,
    seed: int = 0,
) -> IOIDataset:
    """n prompts, both orders and all structures equally often (to within one), words drawn at random, none twice.

    Names, places and objects that are not one token in this model are left out. Raises PromptError for an n that is odd or
    not from 8 to 1000, for a structure without one of its slots, and where too few words are left.
    """
    if not SMALLEST <= n <= LARGEST or n % 2:
        raise PromptError(f"n={n}: ask for an even number of prompts from {SMALLEST} to {LARGEST}, half in each order")
    _require_slots(structures)
    pool = _one_token(model, "names", [f" {name.strip()}" for name in names], least=6)
    where, what = _one_token(model, "places", places), _one_token(model, "objects", objects)
    possible = len(pool) * (len(pool) - 1) * len(where) * len(what) * len(structures) * len(ORDERS)
    if n > possible / 2:
        raise PromptError(
            f"n={n}: {len(pool)} names, {len(where)} places, {len(what)} objects and {len(structures)} structures make "
            f"{possible} prompts, of which half can be drawn; give more words, or ask for fewer"
        )
    generator, seen, prompts = random.Random(seed), set(), []
    while len(prompts) < n:
        structure, order = len(prompts) // len(ORDERS) % len(structures), ORDERS[len(prompts) % len(ORDERS)]
        drawn = dict(zip(("IO", "S", "x", "y", "z"), generator.sample(pool, 5), strict=True))
        prompt = IOIPrompt(structure, order, drawn, generator.choice(where), generator.choice(what))
        key = (structure, order, drawn["IO"], drawn["S"], prompt.place, prompt.object)
        if key not in seen:
            seen.add(key)
            prompts.append(prompt)
    return IOIDataset(model, tuple(structures), prompts)


def _require_slots(structures: Sequence[str]) -> None:
    for structure in structures:
        for slot in ("{A}", "{B}", "{S}", "{place}", "{object}"):
            if structure.count(slot) != 1:
                raise PromptError(f"structure {structure!r} has {slot} {structure.count(slot)} times; it needs it once")
        if structure.startswith(("{A}", "{B}")):
            raise PromptError(
                f"structure {structure!r} begins with a name, which is then another token than inside a text"
            )
    if not structures:
        raise PromptError("no structures were given; give at least one")


def _one_token(model: TransformerBridge, what: str, words: Sequence[str], least: int = 1) -> list[str]:
    """The words that are one token, each once. Raises PromptError where fewer than `least` are."""
    found = [word for word in dict.fromkeys(words) if _is_single(model, word)]
    if len(found) < least:
        raise PromptError(
            f"{len(found)} of the {what} {list(words)} are one token in {model.cfg.model_name}; at least {least} are needed "
            "(each is read as it stands, a space in front)"
        )
    return found
