"""What a model says of prompts: logits at their true ends, whole, with hooks, or behind a shared beginning; and the loss."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from utils.prompts import at_last, prompt_list, token_row, tokenize
from utils.shared_prefix import last_logits

READ_BY_METHODS = re.compile(
    r"blocks\.\d+\.(hook_(in|resid_pre|resid_mid|resid_post|attn_out|mlp_out)|attn\.hook_(z|q|k|v|pattern))"
    r"|hook_(pos_)?embed|ln_final\.hook_scale"
)


def small_cache(name: str) -> bool:
    """A `names_filter` that keeps the activations that the course's methods read, in about a third of a whole cache's memory.

    `model.run_with_cache(tokens, names_filter=small_cache)` holds the embedding and the residual stream, what attention and
    MLPs write to it, the heads' z, q, k, v and patterns, and the final norm's scale.
    """
    return READ_BY_METHODS.fullmatch(name) is not None


def ends_only(last: Int[Tensor, " batch"]) -> tuple[str, Callable]:
    """A hook that makes a run's logits [batch, 1, d_vocab]: those of each prompt's last position, and no others."""

    def keep_ends(resid, hook):
        return at_last(resid, last).unsqueeze(1)

    return "unembed.hook_in", keep_ends


@torch.no_grad()
def run_to_ends(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch pos"],
    names_filter: Callable[[str], bool] | list[str] = small_cache,
) -> tuple[Float[Tensor, "batch 1 d_vocab"], ActivationCache]:
    """Logits at each prompt's true last position, and a cache: those of every position would take more memory than all z.

    mask: 1 on real tokens, which stand before the padding.
    """
    with model.hooks(fwd_hooks=[ends_only(mask.sum(-1) - 1)]):
        return model.run_with_cache(tokens, names_filter=names_filter, attention_mask=None if mask.all() else mask)


@torch.no_grad()
def end_logits(
    model: TransformerBridge,
    prompts: Sequence[str],
    tokens: Int[Tensor, " attribute"] | None = None,
    log_softmax: bool = False,
    bos: int | None = None,
    batch_size: int = 64,
    progress: bool = True,
    share_prefix: bool = True,
) -> Float[Tensor, "batch attribute"]:
    """Logits (or log-probabilities) of `tokens` (None: the whole vocabulary) at each prompt's true last token.

    Prompts may have any lengths and may repeat: each is run once. They are sorted, so that those which begin alike are run
    together and their common beginning only once; equal to running them one by one to float error. The first batch of each
    model is compared with runs one by one, and WrongLogits is raised, with the versions of the libraries, if they disagree.
    bos: another token in the place of the model's BOS. share_prefix: False runs every prompt whole, which is slower.
    """
    rows = {prompt: token_row(model, prompt) for prompt in dict.fromkeys(prompt_list(prompts))}
    if bos is not None:
        start = int(model.cfg.default_prepend_bos)  # where the prompt's own first token stands
        rows = {prompt: torch.cat([row.new_tensor([bos]), row[start:]]) for prompt, row in rows.items()}
    ordered = sorted(rows, key=lambda prompt: rows[prompt].tolist())
    results: dict[str, Tensor] = {}
    starts = range(0, len(ordered), batch_size)
    for start in tqdm(starts, desc="prompts", leave=False, disable=not progress or len(starts) < 3):
        chunk = ordered[start : start + batch_size]
        logits = last_logits(model, [rows[prompt] for prompt in chunk], share_prefix)
        logits = logits.log_softmax(-1) if log_softmax else logits
        results.update(zip(chunk, logits if tokens is None else logits[:, tokens], strict=True))
    return torch.stack([results[prompt] for prompt in prompts])


@torch.no_grad()
def hooked_end_logits(
    model: TransformerBridge,
    prompts: Sequence[str],
    hooks: list[tuple[str, Callable]],
    tokens: Int[Tensor, " attribute"] | None = None,
    batch_size: int = 64,
) -> Float[Tensor, "batch attribute"]:
    """`end_logits` of a run that hooks change: no shared beginnings, since a hook may touch every position."""
    order = sorted(range(len(prompts)), key=lambda i: len(token_row(model, prompts[i])))
    results: list[Tensor | None] = [None] * len(prompts)
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        rows, mask = tokenize(model, [prompts[i] for i in chunk])
        logits = model.run_with_hooks(rows, fwd_hooks=[*hooks, ends_only(mask.sum(-1) - 1)])[:, 0]
        for i, row in zip(chunk, logits if tokens is None else logits[:, tokens], strict=True):
            results[i] = row
    return torch.stack(results)


@torch.no_grad()
def next_token_loss(
    model: TransformerBridge, texts: Sequence[str], hooks: list[tuple[str, Callable]] = ()
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats per token) on texts, padding and the prediction of BOS left out."""
    tokens, mask = tokenize(model, texts)
    logits, real = model.run_with_hooks(tokens, fwd_hooks=list(hooks)), mask[:, 1:].bool()
    return F.cross_entropy(logits[:, :-1][real], tokens[:, 1:][real])
