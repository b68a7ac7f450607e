"""Checks of chapter 00."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import both_models, exercise

PROMPTS = (  # five prompts: as many as nothing else in the fixtures, so that no two axes can be exchanged
    "When John and Mary went to the store, John gave a drink to",
    "Then Tom and Amy went to the park, Amy gave a ring to",
    "After Dan and Sid went to the house, Dan gave a kiss to",
    "While Paul and Jane went to the school, Jane said a book to",
    "When Mark and Kate went to the garden, Mark had an apple to",
)
HEADS = ((1, 2), (0, 3), (2, 0))  # layer and head


@cache
def _tokens(model: TransformerBridge) -> Tensor:
    return model.to_tokens(PROMPTS)


@cache
def _run(model: TransformerBridge) -> ActivationCache:
    return model.run_with_cache(_tokens(model))[1]


@exercise("00", look="section 3: the axes of a pattern are [batch, head, query, key]", takes="cache")
def check_attention_to_first_token(learner: Callable) -> str:
    for model in both_models():
        run = _run(model)
        pattern = torch.stack([run["pattern", layer] for layer in range(model.cfg.n_layers)], dim=1)
        held = require_equal(
            call(learner, run),
            pattern[..., 1:, 0].mean((0, -1)),
            f"the mean of pattern[query ≥ 1, key 0] on {model.cfg.model_name}",
            axes="layer head",
            mistakes={
                "you averaged over query 0 too: BOS can attend only to itself, so its row is always 1; start at query 1":
                    lambda: pattern[..., 0].mean((0, -1)),
                "you left out query 1 as well: only query 0 has no choice": lambda: pattern[..., 2:, 0].mean((0, -1)),
                "you left out the last query: slice 1:, without an end": lambda: pattern[..., 1:-1, 0].mean((0, -1)),
                "you took query 0 and averaged over keys: the last axis is the key (source), the one before the query":
                    lambda: pattern[..., 0, :].mean((0, -1)),
                "you took query 0 and keys ≥ 1, which the causal mask sets to zero: query and key are swapped":
                    lambda: pattern[..., 0, 1:].mean((0, -1)),
                "you used the attention to position 1: positions count from 0":
                    lambda: pattern[..., 1:, 1].mean((0, -1)),
                "you used the attention to the last position: index 0, not -1":
                    lambda: pattern[..., 1:, -1].mean((0, -1)),
                "these are attention scores, before the softmax; the shares are in \"pattern\"":
                    lambda: torch.stack([run["attn_scores", layer][..., 1:, 0].mean((0, -1))
                                         for layer in range(model.cfg.n_layers)]),
                "you used the first prompt only: average over the batch too":
                    lambda: pattern[0, ..., 1:, 0].mean(-1),
                "you used the last query only: average over all queries from 1 on": lambda: pattern[..., -1, 0].mean(0),
                "the largest value in place of the mean": lambda: pattern[..., 1:, 0].amax((0, -1)),
                "a median over prompts in place of the mean": lambda: pattern[..., 1:, 0].mean(-1).median(0).values,
                "you divided by the number of all queries: query 0 is left out, so it does not count":
                    lambda: pattern[..., 1:, 0].sum((0, -1)) / (pattern.shape[0] * pattern.shape[-1]),
                "the batch is not averaged: the result has one [layer, head] table per prompt":
                    lambda: pattern[..., 1:, 0].mean(-1),
            },
        )  # fmt: skip
    return f"every head of a GPT-2 and of a Llama agrees, on five prompts ({held})"


@exercise("00", look="section 4: z has the axes [batch, pos, head, d_head]")
def check_zero_head(learner: Callable) -> str:
    for model in both_models():
        for layer, head in HEADS:
            z, hook = _run(model)["z", layer], model.hook_dict[f"blocks.{layer}.attn.hook_z"]
            want = _zeroed(z, (slice(None), slice(None), head))
            held = require_equal(
                call(learner, z, hook=hook, head_index=head),
                want,
                f"z with head {head} set to zero on {model.cfg.model_name}",
                axes="batch position head d_head",
                mistakes={
                    "you zeroed a position, not a head: the head is axis 2 of [batch, pos, head, d_head]":
                        lambda z=z, head=head: _zeroed(z, (slice(None), head)),
                    "you zeroed one coordinate of every head: the head is axis 2, d_head is axis 3":
                        lambda z=z, head=head: _zeroed(z, (..., head)),
                    "you zeroed a prompt, not a head: the batch is axis 0": lambda z=z, head=head: _zeroed(z, (head,)),
                    "you zeroed every head: use head_index": lambda z=z: torch.zeros_like(z),
                    "you kept one head and zeroed the others: it should be the other way round":
                        lambda z=z, want=want: z - want,
                    "nothing is zeroed": lambda z=z: z,
                    "only the last position is zeroed: a head is zero at every position":
                        lambda z=z, head=head: _zeroed(z, (slice(None), -1, head)),
                    "only the first prompt's head is zeroed": lambda z=z, head=head: _zeroed(z, (0, slice(None), head)),
                    "position 0 is left as it was: a head is zero at every position":
                        lambda z=z, head=head: _zeroed(z, (slice(None), slice(1, None), head)),
                    "the heads after it are zeroed too: index head_index, and no slice":
                        lambda z=z, head=head: _zeroed(z, (slice(None), slice(None), slice(head, None))),
                    "the head became 1, not 0": lambda z=z, head=head: _zeroed(z, (slice(None), slice(None), head), 1.0),
                    **{f"you zeroed head {other} and not head_index, which is {head} here":
                        (lambda z=z, other=other: _zeroed(z, (slice(None), slice(None), other)))
                        for other in range(z.shape[2]) if other != head},
                },
            )  # fmt: skip
    return f"heads 2, 3 and 0 of three layers become zero, everything else stays ({held})"


def _zeroed(z: Tensor, index: tuple, value: float = 0.0) -> Tensor:
    z = z.clone()
    z[index] = value
    return z


@exercise(
    "00",
    look="section 4: utilities.get_act_name('z', layer) names the point; run_with_hooks removes its hooks",
    takes="model tokens layer head_index",
)
def check_logits_without_head(learner: Callable) -> str:
    for model in both_models():
        for layer, head in HEADS:
            want, mistakes = _without_head(model, layer, head)
            held = require_equal(
                call(learner, model, _tokens(model), layer, head),
                want,
                f"the logits with L{layer}H{head}'s z set to zero on {model.cfg.model_name}",
                axes="batch position vocab",
                mistakes=mistakes,
            )
    return f"the same logits as an independent hook run for three heads, and no hook left behind ({held})"


@cache
def _without_head(model: TransformerBridge, layer: int, head: int) -> tuple[Tensor, Mistakes]:
    run = partial(_run_zeroing, model, _tokens(model))
    at_head, point = (slice(None), slice(None), head), f"blocks.{layer}.attn.hook_"
    return run(f"{point}z", at_head), once(
        {
            "these are the logits of the whole model: is your hook in fwd_hooks, and does it return z?": lambda: model(
                _tokens(model)
            ),
            "you zeroed attention scores: a score of 0 is not no attention, softmax makes it an equal share": lambda: (
                run(f"{point}attn_scores", (slice(None), head))
            ),
            "you zeroed the query: the head then attends evenly and still writes; zero z": lambda: run(
                f"{point}q", at_head
            ),
            "you zeroed a whole attention layer: zero one head's z": lambda: run(f"{point}z", (...,)),
            "you zeroed what the whole layer writes, with its bias: zero one head's z": lambda: run(
                f"blocks.{layer}.hook_attn_out", (...,)
            ),
            "position 0 is left as it was: the head is zero at every position": lambda: run(
                f"{point}z", (slice(None), slice(1, None), head)
            ),
            "another layer: layer counts from 0": lambda: run(
                f"blocks.{(layer or model.cfg.n_layers) - 1}.attn.hook_z", at_head
            ),
            "another head: head_index counts from 0": lambda: run(
                f"{point}z", (slice(None), slice(None), (head or model.cfg.n_heads) - 1)
            ),
            "you zeroed a position, not a head: the head is axis 2 of z": lambda: run(f"{point}z", (slice(None), head)),
            "layer and head_index are exchanged": lambda: run(
                f"blocks.{head % model.cfg.n_layers}.attn.hook_z", (slice(None), slice(None), layer)
            ),
        }
    )


def _run_zeroing(model: TransformerBridge, tokens: Tensor, name: str, index: tuple) -> Tensor:
    return model.run_with_hooks(tokens, fwd_hooks=[(name, lambda activation, hook: _zeroed(activation, index))])
