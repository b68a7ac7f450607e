"""What the checks of chapter 04 run: five prompts, with and without a head at END, and prompts for its mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

EVERY = slice(None)
PROMPTS = (  # five, as many as no other axis of the fixtures has
    "When John and Mary went to the store, John gave a drink to",
    "Then Tom and Amy went to the park, Amy gave a ring to",
    "After Dan and Sid went to the house, Dan gave a kiss to",
    "When Mark and Kate went to the garden, Mark had an apple to",
    "While Paul and Jane went to the school, Jane said a book to",
)
REFERENCE = (
    "When Mary and John went to the store, Mary gave a drink to",
    "Then Dan and Sid went to the school, Dan gave a ball to",
    "After Kate and Bob went to the park, Kate had an apple to",
    "When Anna and Mark went to the office, Mark gave a letter to",
    "While Jack and Emma went to the school, Jack gave a book to",
)
MORE = (  # longer, and more than PROMPTS: neither their number nor their last position is that of the prompts that run
    "When Mary and John went to the store in the park, Mary gave a drink to",
    "Then Dan and Sid went to the school in the park, Dan gave a ball to",
    "After Kate and Bob went to the park in the school, Kate had an apple to",
    "While Anna and Mark went to the office in the park, Anna gave a letter to",
    "Then Jack and Emma went to the shops in the garden, Emma gave a book to",
    "When Paul and Ruth went to the house in the park, Ruth said a word to",
    "After Tom and Luke went to the garden in the park, Luke gave a kiss to",
)
ANSWERS = ((" Mary", " John"), (" Tom", " Amy"), (" Sid", " Dan"), (" Kate", " Mark"), (" Paul", " Jane"))


def run_edited(model: TransformerBridge, tokens: Tensor, *edits: tuple) -> tuple[Tensor, ActivationCache]:
    """A run in which z[index] of a layer is set: edits are (layer, index, value)."""

    def hook(layer: int, index: tuple, value) -> tuple[str, Callable]:
        def change(z: Tensor, hook) -> Tensor:
            z = z.clone()
            z[index] = value
            return z

        return f"blocks.{layer}.attn.hook_z", change

    with model.hooks(fwd_hooks=[hook(*edit) for edit in edits]):
        return model.run_with_cache(tokens)


@cache
def tokens_of(model: TransformerBridge, prompts: tuple[str, ...] = PROMPTS) -> Tensor:
    return model.to_tokens(prompts)


@cache
def clean_run(model: TransformerBridge, prompts: tuple[str, ...] = PROMPTS) -> ActivationCache:
    return model.run_with_cache(tokens_of(model, prompts))[1]


@cache
def run_without(model: TransformerBridge, layer: int, head: int) -> tuple[Tensor, ActivationCache]:
    """Logits and cache of the run without a head at END."""
    return run_edited(model, tokens_of(model), (layer, (EVERY, -1, head), 0))


@cache
def directions_of(model: TransformerBridge) -> Tensor:
    answers = torch.tensor([[model.to_single_token(word) for word in pair] for pair in ANSWERS])
    return model.W_U.T[answers[:, 0]] - model.W_U.T[answers[:, 1]]


def setting_of(model: TransformerBridge) -> tuple[ActivationCache, ActivationCache, Tensor]:
    """Clean cache, cache without a head at END, and the directions of the answers."""
    return clean_run(model), run_without(model, 0, 1)[1], directions_of(model)
