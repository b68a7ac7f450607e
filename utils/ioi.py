"""Indirect object identification: the eight published prompts, the roles of their tokens, and one-token names.

Source of the prompts and of their order: the executed "Exploratory Analysis Demo" of TransformerLens, after Wang et al.
2022, "Interpretability in the Wild". The corrupted twin of a prompt is its neighbour: only the subject's second mention
(S2) differs.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    model: TransformerBridge, templates: Sequence[str] = TEMPLATES, names: Sequence[tuple[str, str]] = NAMES
) -> PromptPairs:
    """The eight prompts (or your own) as aligned `PromptPairs`: each is corrupted into its neighbour by swapping S2."""
    prompts, answers = build_prompts(templates, names)
    corrupted = [prompts[i + 1 - 2 * (i % 2)] for i in range(len(prompts))]
    return make_pairs(model, prompts, corrupted, answers)


def positions_by_role(
    tokens: Int[Tensor, "batch pos"], answer_tokens: Int[Tensor, "batch 2"]
) -> dict[str, Int[Tensor, " batch"]]:
    """role → its position in each prompt: BOS, IO (where the answer stands), S1 and S1+1, S2, END (the last column).

    Raises PromptError for a prompt without its answer, or with the other name fewer than two times.
    """
    is_io, is_subject = (tokens == answer_tokens[:, :1]).int(), (tokens == answer_tokens[:, 1:]).int()
    last = torch.full((len(tokens),), tokens.shape[1] - 1, device=tokens.device)
    for i, (n_io, n_subject) in enumerate(zip(is_io.sum(1).tolist(), is_subject.sum(1).tolist(), strict=True)):
        if not n_io or n_subject < 2:
            raise PromptError(
                f"prompt {i} has its answer (token {int(answer_tokens[i, 0])}) {n_io} times and the subject "
                f"(token {int(answer_tokens[i, 1])}) {n_subject} times; the roles need 1 and 2"
            )
    s1 = is_subject.argmax(1)
    s2 = last - is_subject.flip(1).argmax(1)
    return {"BOS": torch.zeros_like(last), "IO": is_io.argmax(1), "S1": s1, "S1+1": s1 + 1, "S2": s2, "END": last}


def single_token_names(model: TransformerBridge, names: Sequence[str] = NAME_POOL) -> list[str]:
    """The names that are one token behind a space in this model's tokenizer."""
    return [name for name in names if _is_single(model, f" {name}")]


def _is_single(model: TransformerBridge, word: str) -> bool:
    try:
        single_token(model, word)
    except PromptError:
        return False
    return True
