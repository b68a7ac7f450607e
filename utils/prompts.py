"""Clean and corrupted prompts, their answers and their true last positions: what both analyses share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge


class PromptError(ValueError):
    """Prompts or answers that cannot be used; the message names the value and the fix."""


@dataclass(frozen=True)
class PromptPairs:
    """A batch of clean prompts, their corrupted twins, and (correct, incorrect) answers. `make_pairs` builds it.

    Tokens are right-padded where lengths differ; `mask` is 1 on real tokens. `clean_last` and `corrupted_last` are the
    true last positions, which for aligned pairs are all `seq - 1`.
    """

    clean_text: list[str]
    corrupted_text: list[str]
    answers: list[tuple[str, str]]
    clean_tokens: Int[Tensor, "batch seq"]
    corrupted_tokens: Int[Tensor, "batch seq"]
    clean_mask: Int[Tensor, "batch seq"]
    corrupted_mask: Int[Tensor, "batch seq"]
    answer_tokens: Int[Tensor, "batch 2"]

    @property
    def clean_last(self) -> Int[Tensor, "batch"]:
        return self.clean_mask.sum(-1) - 1

    @property
    def corrupted_last(self) -> Int[Tensor, "batch"]:
        return self.corrupted_mask.sum(-1) - 1

    def __len__(self) -> int:
        return len(self.clean_text)


def make_pairs(
    model: TransformerBridge,
    clean: Sequence[str],
    corrupted: Sequence[str],
    answers: Sequence[tuple[str, str]],
    aligned: bool = True,
) -> PromptPairs:
    """Tokenise matched prompts (BOS first) and their answers.

    aligned: every prompt must have the same number of tokens, so that position p means the same in all of them.
    Raises PromptError: no prompts, different numbers of them, a pair with no difference, an answer that is not one
    token, and, where aligned, unequal lengths.
    """
    if not clean:
        raise PromptError("no prompts were given; give at least one clean prompt and its corrupted twin")
    if not len(clean) == len(corrupted) == len(answers):
        raise PromptError(
            f"{len(clean)} clean prompts, {len(corrupted)} corrupted prompts and {len(answers)} answer pairs; "
            "give one of each for every prompt"
        )
    for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)):
        if a == b:
            raise PromptError(
                f"prompt {i} is the same in both batches: {a!r}; corrupt it, or there is nothing to patch"
            )
    both, mask = tokenize(model, [*clean, *corrupted])
    if aligned:
        _require_equal_lengths(model, [*clean, *corrupted], mask)
    ids = [[single_token(model, word) for word in pair] for pair in answers]
    n = len(clean)
    return PromptPairs(
        list(clean), list(corrupted), [tuple(pair) for pair in answers],
        both[:n], both[n:], mask[:n], mask[n:], torch.tensor(ids, device=both.device),
    )  # fmt: skip


def tokenize(
    model: TransformerBridge, prompts: Sequence[str]
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Tokens with BOS, right-padded, and the mask that is 1 on real tokens.

    Each prompt is tokenised alone, so the mask does not depend on what the padding token is (in GPT-2 and SmolLM2 it is
    also an ordinary special token).
    """
    rows = [model.to_tokens(prompt)[0] for prompt in prompts]
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.tokenizer.pad_token_id)
    lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
    return tokens, (torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]).long()


def _require_equal_lengths(model: TransformerBridge, prompts: Sequence[str], mask: Int[Tensor, "batch seq"]) -> None:
    lengths = mask.sum(-1).tolist()
    longest, shortest = (
        max(range(len(prompts)), key=lengths.__getitem__),
        min(range(len(prompts)), key=lengths.__getitem__),
    )
    if lengths[longest] != lengths[shortest]:
        raise PromptError(
            f"prompts of unequal length in {model.cfg.model_name}: {prompts[longest]!r} is {lengths[longest]} tokens and "
            f"{prompts[shortest]!r} is {lengths[shortest]}; use words of one token each (see model.to_str_tokens), "
            "or aligned=False where positions need not match"
        )


def single_token(model: TransformerBridge, word: str) -> int:
    """The id of `word`, which must be exactly one token (BOS not counted). Raises PromptError if it is not."""
    ids = model.to_tokens(word, prepend_bos=False)[0].tolist()
    if len(ids) != 1:
        pieces = model.to_str_tokens(word, prepend_bos=False)
        raise PromptError(
            f"answer {word!r} is {len(ids)} tokens in {model.cfg.model_name}: {pieces}; "
            "choose a one-token answer (see utils.ioi.single_token_names)"
        )
    return ids[0]


# --- the logits that predict the next token ----------------------------------------------------------------------------


@torch.no_grad()
def end_logits(
    model: TransformerBridge,
    prompts: Sequence[str],
    tokens: Int[Tensor, "attribute"] | None = None,
    log_softmax: bool = False,
    bos: int | None = None,
    batch_size: int = 64,
    progress: bool = True,
) -> Float[Tensor, "batch attribute"]:
    """Logits (or log-probabilities) of `tokens` (None: the whole vocabulary) at each prompt's true last token.

    Prompts may have any lengths and may repeat: each is run once. They are sorted, so that those which begin alike are run
    together and their common beginning only once; equal to running them one by one to float error.
    bos: another token in the place of the model's BOS.
    """
    rows = {prompt: model.to_tokens(prompt)[0] for prompt in dict.fromkeys(prompts)}
    if bos is not None:
        rows = {prompt: torch.cat([row.new_tensor([bos]), row[1:]]) for prompt, row in rows.items()}
    ordered = sorted(rows, key=lambda prompt: rows[prompt].tolist())
    results: dict[str, Tensor] = {}
    starts = range(0, len(ordered), batch_size)
    for start in tqdm(starts, desc="prompts", leave=False, disable=not progress or len(starts) < 3):
        chunk = ordered[start : start + batch_size]
        logits = _run_with_shared_prefix(model, [rows[prompt] for prompt in chunk])
        logits = logits.log_softmax(-1) if log_softmax else logits
        results.update(zip(chunk, logits if tokens is None else logits[:, tokens], strict=True))
    return torch.stack([results[prompt] for prompt in prompts])


def _run_with_shared_prefix(model: TransformerBridge, rows: list[Int[Tensor, "seq"]]) -> Float[Tensor, "batch d_vocab"]:
    """Last-token logits of sequences; what all of them begin with is run once and its keys and values are shared."""
    shortest = min(map(len, rows))
    same = torch.stack([row[:shortest] == rows[0][:shortest] for row in rows]).all(0)  # seq
    shared = min(int(same.long().cumprod(0).sum()), shortest - 1)  # one token of each must be left to run
    device = rows[0].device
    padded = torch.nn.utils.rnn.pad_sequence(
        [row[shared:] for row in rows], batch_first=True
    )  # on the right: never read
    everyone = torch.arange(len(rows), device=device)
    last = torch.tensor([len(row) - shared - 1 for row in rows], device=device)
    at_end = [("unembed.hook_in", lambda resid, hook: resid[everyone, last].unsqueeze(1))]  # unembed one position only
    if shared == 0:
        return model.run_with_hooks(padded, fwd_hooks=at_end)[:, 0]
    _, keys_and_values = model(rows[0][None, :shared], return_type="logits_and_cache", use_cache=True)
    keys_and_values.batch_repeat_interleave(len(rows))
    return model.run_with_hooks(padded, past_key_values=keys_and_values, fwd_hooks=at_end)[:, 0]
