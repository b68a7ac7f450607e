"""Clean and corrupted prompts, their answers and their true last positions: what both analyses share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


class PromptError(ValueError):
    """Prompts or answers that cannot be used; the message names the value and the fix."""


@dataclass(frozen=True)
class PromptPairs:
    """A batch of clean prompts and their corrupted twins, with (correct, incorrect) answers or none. `make_pairs` builds it.

    Tokens are right-padded where lengths differ; a mask is 1 on real tokens. `clean_last`: the true last positions of the
    clean prompts, which for aligned pairs are all `seq - 1`. names: what to call each pair in a figure. A slice is some of
    the pairs.
    """

    clean_text: list[str]
    corrupted_text: list[str]
    clean_tokens: Int[Tensor, "batch pos"]
    corrupted_tokens: Int[Tensor, "batch pos"]
    clean_mask: Int[Tensor, "batch pos"]
    corrupted_mask: Int[Tensor, "batch pos"]
    names: list[str]
    answers: list[tuple[str, str]] | None = None
    answer_tokens: Int[Tensor, "batch 2"] | None = None

    @property
    def clean_last(self) -> Int[Tensor, " batch"]:
        return self.clean_mask.sum(-1) - 1

    @property
    def position(self) -> int:
        """The one position at which the two sides of every pair differ. Raises PromptError if they differ at others too."""
        differing = (self.clean_tokens != self.corrupted_tokens).any(0).nonzero()[:, 0].tolist()
        if len(differing) != 1:
            raise PromptError(f"the pairs differ at positions {differing}, not at a single one")
        return differing[0]

    def labels(self, model: TransformerBridge) -> list[str]:
        """The first pair's tokens with their positions, for the axis of a figure: '3 John', and '7 Mary / John' where its
        sides differ."""
        clean, corrupted = (
            [model.to_string([token]).strip() or "␣" for token in tokens[0].tolist()]
            for tokens in (self.clean_tokens, self.corrupted_tokens)
        )
        both = zip(clean, corrupted, strict=True)
        return [f"{i} {word}" if word == other else f"{i} {word} / {other}" for i, (word, other) in enumerate(both)]

    def __len__(self) -> int:
        return len(self.clean_text)

    def __getitem__(self, rows: slice) -> PromptPairs:
        if not isinstance(rows, slice):
            raise TypeError(f"pairs[{rows!r}]: take a slice, such as pairs[:4]")
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return PromptPairs(**{name: None if value is None else value[rows] for name, value in values.items()})


def make_pairs(
    model: TransformerBridge,
    clean: Sequence[str],
    corrupted: Sequence[str],
    answers: Sequence[tuple[str, str]] | None = None,
    aligned: bool = True,
    names: Sequence[str] | None = None,
) -> PromptPairs:
    """Tokenize matched prompts (BOS first) and their answers, if they have any.

    aligned: every prompt must have the same number of tokens, so that position p means the same in all of them. names: what
    to call the pairs in figures (None: their numbers).
    Raises PromptError: no prompts, different numbers of them, a pair with no difference, an answer that is not one
    token, and, where aligned, unequal lengths.
    """
    if not clean:
        raise PromptError("no prompts were given; give at least one clean prompt and its corrupted twin")
    given = {"clean prompts": clean, "corrupted prompts": corrupted, "answer pairs": answers, "names": names}
    counts = {what: len(values) for what, values in given.items() if values is not None}
    if len(set(counts.values())) != 1:
        raise PromptError(
            f"{', '.join(f'{count} {what}' for what, count in counts.items())}; give one of each for every prompt"
        )
    for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)):
        if a == b:
            raise PromptError(
                f"prompt {i} is the same in both batches: {a!r}; corrupt it, or there is nothing to patch"
            )
    both, mask = tokenize(model, [*clean, *corrupted])
    if aligned:
        _require_equal_lengths(model, [*clean, *corrupted], mask)
    n, pairs = len(clean), None if answers is None else [tuple(pair) for pair in answers]
    ids = pairs and torch.tensor([[single_token(model, word) for word in pair] for pair in pairs], device=both.device)
    shown = [str(i) for i in range(n)] if names is None else list(names)
    return PromptPairs(list(clean), list(corrupted), both[:n], both[n:], mask[:n], mask[n:], shown, pairs, ids)


def token_row(model: TransformerBridge, prompt: str) -> Int[Tensor, " pos"]:
    """One prompt's token ids, with the model's BOS in front exactly once, also if the prompt brings its own.

    A model that knows no BOS gets none (`load_model` says so). Raises PromptError for what is not a string, for a prompt
    longer than the model reads (TransformerLens would cut it off without a word), and for ids that the model has no
    embedding for.
    """
    if not isinstance(prompt, str):
        raise PromptError(f"prompt {prompt!r} is a {type(prompt).__name__}; prompts are strings")
    row, n_ctx = model.to_tokens(prompt, truncate=False)[0].long(), model.cfg.n_ctx
    if len(row) > 1 and model.cfg.default_prepend_bos and (row[:2] == model.tokenizer.bos_token_id).all():
        row = row[1:]
    if not len(row):
        raise PromptError(f"prompt {prompt!r} has no tokens in {model.cfg.model_name}; write at least one word")
    if n_ctx and len(row) > n_ctx:
        raise PromptError(
            f"a prompt of {len(row)} tokens is longer than {model.cfg.model_name} reads, which is {n_ctx}: "
            f"{prompt[:40]!r} … {prompt[-40:]!r}; shorten it"
        )
    if row.max() >= model.cfg.d_vocab:
        raise PromptError(
            f"prompt {prompt!r} has token id {int(row.max())} and {model.cfg.model_name} has only "
            f"{model.cfg.d_vocab} embeddings: its tokenizer belongs to another model"
        )
    return row


def tokenize(
    model: TransformerBridge, prompts: Sequence[str]
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch pos"]]:
    """Tokens with BOS, right-padded, and the mask that is 1 on real tokens.

    Each prompt is tokenized alone (`token_row`, which names the errors), so the mask does not depend on what the padding
    token is (in GPT-2 and SmolLM2 it is also an ordinary special token).
    """
    rows = [token_row(model, prompt) for prompt in prompt_list(prompts)]
    padding = model.tokenizer.pad_token_id
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0 if padding is None else padding)
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    return tokens, (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()


def prompt_list(prompts: Sequence[str]) -> Sequence[str]:
    """The prompts. Raises PromptError for one string in the place of a list, and for none at all."""
    if isinstance(prompts, str):
        raise PromptError(f"prompts are given as one string, {prompts[:60]!r}; give a list of strings")
    if not len(prompts):
        raise PromptError("no prompts were given; give at least one")
    return prompts


def _require_equal_lengths(model: TransformerBridge, prompts: Sequence[str], mask: Int[Tensor, "batch pos"]) -> None:
    lengths = mask.sum(-1).tolist()
    places = range(len(prompts))
    longest, shortest = max(places, key=lengths.__getitem__), min(places, key=lengths.__getitem__)
    if lengths[longest] != lengths[shortest]:
        raise PromptError(
            f"prompts of unequal length in {model.cfg.model_name}: {prompts[longest]!r} is {lengths[longest]} tokens and "
            f"{prompts[shortest]!r} is {lengths[shortest]}; use words of one token each (see model.to_str_tokens), "
            "or aligned=False where positions need not match"
        )


def at_last(
    activation: Float[Tensor, "batch pos *rest"], last: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, " batch *rest"]:
    """The activation at each prompt's last position."""
    rows = torch.arange(len(activation), device=activation.device)
    return activation[rows, -1 if last is None else last]


def last_positions(real: Bool[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    """Each prompt's last real position, whichever side it is padded on."""
    return real.shape[1] - 1 - real.flip(1).long().argmax(1)


# What a word is read behind, in order to see which token it is inside a text. The first that leaves the word apart counts.
ANCHORS = {True: ("The", "the", "("), False: ("(", "\n", '"')}


def single_token(model: TransformerBridge, word: str) -> int:
    """The id of `word` inside a text, which must be exactly one token. Raises PromptError if it is not.

    Inside a text and not alone, because some tokenizers (Llama 2) put a space in front of whatever stands alone: there,
    " Mary" alone is two tokens, and "Mary" alone is what " Mary" is in a sentence.
    """
    ids = _ids_in_text(model, word)
    if len(ids) != 1:
        pieces = [model.to_string([i]) for i in ids]
        raise PromptError(
            f"answer {word!r} is {len(ids)} tokens in {model.cfg.model_name}: {pieces}; "
            "choose a one-token answer (see utils.ioi.single_token_names)"
        )
    if ids[0] == model.tokenizer.unk_token_id and word != model.tokenizer.unk_token:
        raise PromptError(
            f"answer {word!r} is unknown to the tokenizer of {model.cfg.model_name}; choose a word that it has"
        )
    return ids[0]


def _ids_in_text(model: TransformerBridge, word: str) -> list[int]:
    def ids_of(text: str) -> list[int]:
        return model.to_tokens(text, prepend_bos=False, truncate=False)[0].tolist()

    for anchor in ANCHORS[word.startswith(" ")]:
        before, both = ids_of(anchor), ids_of(anchor + word)
        if len(both) > len(before) and both[: len(before)] == before:
            return both[len(before) :]
    return ids_of(word)
