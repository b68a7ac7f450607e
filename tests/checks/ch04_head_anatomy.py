"""Checks of chapter 04, first part: scores, ablations, and what they change."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.ch04_runs import (
    EVERY,
    MORE,
    PROMPTS,
    REFERENCE,
    clean_run,
    run_edited,
    run_without,
    setting_of,
    tokens_of,
)
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import both_models, exercise, require
from utils.inference import small_cache

SCORES = ("previous_token", "duplicate_token", "induction")


# --- three scores ----------------------------------------------------------------------------------------------------


@exercise(
    "04",
    look="section 1: a diagonal is the set of cells where query minus key is the offset",
    points=2,
    takes="model tokens seq_len",
)
def check_head_scores(learner: Callable) -> str:
    for model, (seq_len, with_bos) in itertools.product(both_models(), ((10, False), (7, True))):
        tokens, whole = _repeated(model, seq_len, with_bos)
        scores = call(learner, model, tokens, seq_len)
        require(
            isinstance(scores, Mapping) and set(scores) >= set(SCORES),
            f"what you return: {sorted(map(str, scores)) if isinstance(scores, Mapping) else type(scores).__name__}",
            f"return a dictionary with the keys {', '.join(SCORES)}",
        )
        for name, offset in zip(SCORES, (1, seq_len, seq_len - 1), strict=True):
            held = require_equal(
                scores[name],
                _along(whole, offset, int(with_bos)),
                f"the {name} score on {model.cfg.model_name}, tokens {'with' if with_bos else 'without'} BOS",
                axes="layer head",
                mistakes=_score_mistakes(whole, name, offset, seq_len, int(with_bos)),
                atol=2e-5,
            )
    return f"all three scores of five texts, on a GPT-2 and a Llama, with BOS and without ({held})"


@cache
def _repeated(model: TransformerBridge, seq_len: int, with_bos: bool) -> tuple[Tensor, Tensor]:
    """Five texts, each given twice, and their patterns [layer, batch, head, query, key]."""
    tokens = torch.randint(100, 150, (5, seq_len), generator=torch.Generator().manual_seed(4)).repeat(1, 2)
    if with_bos:
        tokens = torch.cat([torch.full((5, 1), model.tokenizer.bos_token_id), tokens], dim=1)
    _, run = model.run_with_cache(tokens)
    return tokens, torch.stack([run["pattern", layer] for layer in range(model.cfg.n_layers)])


def _along(whole: Tensor, offset: int, start: int) -> Tensor:
    """Mean of pattern[query, query - offset] over the queries whose key is not before `start`, cell by cell."""
    queries = range(start + offset, whole.shape[-1])
    return torch.stack([whole[..., query, query - offset] for query in queries]).mean((0, 2))


def _score_mistakes(whole: Tensor, name: str, offset: int, seq_len: int, start: int) -> dict[str, Callable]:
    right = {"previous_token": "1", "duplicate_token": "seq_len", "induction": "seq_len - 1"}
    why = {
        "induction": ": it looks one place *after* the equal token",
        "duplicate_token": ": it looks at the equal token",
    }
    inner = whole[..., start:, start:]

    def diagonal(patterns: Tensor, reduce: Callable = lambda cells: cells.mean(-1).mean(1)) -> Tensor:
        return reduce(patterns.diagonal(-offset, -2, -1))

    return {
        "BOS is still in: cut its row and its column off before you take the diagonal":
            lambda: _along(whole, offset, 0),
        "only the keys are cut, so that row and column no longer belong together: cut BOS off both":
            lambda: diagonal(whole[..., :, start:]),
        "only the queries are cut, so that row and column no longer belong together: cut BOS off both":
            lambda: diagonal(whole[..., start:, :]),
        "only the second half of the texts is left: keep the last 2 * seq_len positions of both":
            lambda: diagonal(whole[..., -seq_len:, -seq_len:]).nan_to_num(0),
        **{
            f"the {name} diagonal is off by {by:+}: query minus key is {right[name]}{why.get(name, '')}":
                lambda by=by: _along(whole, offset + by, start)
            for by in (-1, 1, 2, -2) if offset + by >= 0
        },
        f"the {name} score is read above the main diagonal, where the causal mask makes attention zero: the key comes before "
        "the query, so the offset is along the other axis (a negative one in diagonal(offset, dim1=query, dim2=key))":
            lambda: diagonal(inner.transpose(-1, -2)),
        "the batch is not averaged": lambda: diagonal(inner, lambda cells: cells.mean(-1)),
        "you used the first row of the batch only: average over the batch too":
            lambda: diagonal(inner, lambda cells: cells.mean(-1)[:, 0]),
        "a row and a column are cut off although there is no BOS: keep the last 2 * seq_len of both":
            lambda: _along(whole, offset, start + 1),
        "attention is shared out again without BOS: take it as it is":
            lambda: diagonal(inner / inner.sum(-1, keepdim=True)),
        "only the second half of the queries: every query that has its key": lambda: _along(
            whole, offset, whole.shape[-1] - seq_len - offset),
        "you summed over the diagonal: take its mean": lambda: diagonal(inner, lambda cells: cells.sum(-1).mean(1)),
        "you divided by the whole length: take the mean over the diagonal's own cells":
            lambda: diagonal(inner, lambda cells: cells.sum(-1).mean(1)) / (2 * seq_len),
    }  # fmt: skip


# --- ablation ---------------------------------------------------------------------------------------------------------


@exercise(
    "04",
    look="section 4: z has the axes [batch, pos, head, d_head]; END is position -1",
    takes="model tokens layer head",
)
def check_ablate_at_end(learner: Callable) -> str:
    for model, (layer, head) in itertools.product(both_models(), ((1, 2), (0, 3), (2, 0))):
        logits, cache = _logits_and_cache(call(learner, model, tokens_of(model), layer, head))
        want, want_cache = run_without(model, layer, head)
        held = require_equal(
            logits,
            want,
            f"the logits with L{layer}H{head}'s z set to zero at END on {model.cfg.model_name}",
            axes="batch position vocab",
            mistakes=_ablation_mistakes(model, layer, head),
        )
        for name in filter(small_cache, want_cache):
            require(
                name in cache,
                f"your cache: it has no {name!r}",
                "cache the whole run, or use names_filter=small_cache: later exercises read it",
            )
            require_equal(
                cache[name],
                want_cache[name],
                f"{name} in your cache with that of the ablated run",
                mistakes={
                    "this is the cache of the whole model: cache the run that has the hook": lambda name=name: (
                        clean_run(model)[name]
                    ),
                    "only the last position is cached: cache the whole run": lambda name=name: want_cache[name][:, -1:],
                },
            )
    return f"the logits and the cache of an independent hook run for three heads, and no hook left behind ({held})"


@cache
def _ablation_mistakes(model: TransformerBridge, layer: int, head: int) -> Mistakes:
    def run(*index: int | slice, layer: int = layer) -> Tensor:
        return run_edited(model, tokens_of(model), (layer, index, 0))[0]

    return once(
        {
            "you zeroed the head at every position: index position -1 only": lambda: run(EVERY, EVERY, head),
            "these are the logits of the whole model: is the hook in fwd_hooks, and does it return z?": lambda: model(
                tokens_of(model)
            ),
            "you zeroed every head at END: index the head too": lambda: run(EVERY, -1),
            "you zeroed the first position, not the last": lambda: run(EVERY, 0, head),
            "you swapped head and position: head is axis 2 of z": lambda: run(EVERY, head, -1),
            "another layer: layer counts from 0": lambda: run(EVERY, -1, head, layer=(layer or model.cfg.n_layers) - 1),
            "another head: head counts from 0": lambda: run(EVERY, -1, (head or model.cfg.n_heads) - 1),
            "you zeroed the position before the last: END is position -1": lambda: run(EVERY, -2, head),
        }
    )


def _logits_and_cache(result: object) -> tuple[object, ActivationCache]:
    ok = isinstance(result, (tuple, list)) and len(result) == 2 and isinstance(result[1], ActivationCache)
    require(
        ok,
        f"what you return: {type(result).__name__}",
        "return two things, the logits and the cache: that is what model.run_with_cache gives",
    )
    return result[0], result[1]


@cache
def _effects(
    cache: ActivationCache, directions: Tensor, scale_of: ActivationCache | None = None, position: int = -1
) -> Tensor:
    """[layer, head, batch] from TransformerLens' own per-head results, divided by the scale of the cache given."""
    model = cache.model
    stack = torch.stack(
        [
            torch.einsum("bhd,hdm->hbm", cache["z", layer][:, position], model.W_O[layer])
            for layer in range(model.cfg.n_layers)
        ]
    )
    if model.cfg.normalization_type.startswith("LN"):
        stack = stack - stack.mean(-1, keepdim=True)
    scale = (scale_of or cache)["ln_final.hook_scale"][:, position]
    return (stack / scale * directions).sum(-1)


@exercise(
    "04",
    look="section 5: two attributions, each from one run's own cache",
    takes="model clean_cache ablated_cache directions",
)
def check_direct_effect_change(learner: Callable) -> str:
    for model in both_models():
        clean, without, directions = setting_of(model)
        effects = partial(_effects, directions=directions)
        after, before = effects(without), effects(clean)
        held = require_equal(
            call(learner, model, clean, without, directions),
            (after - before).mean(-1),
            f"direct effect after minus before on {model.cfg.model_name}",
            axes="layer head",
            mistakes={
                "you took before minus after: a head that writes more must come out positive":
                    lambda: (before - after).mean(-1),
                "you divided both runs by the clean run's scale: each run has its own":
                    lambda: (effects(without, scale_of=clean) - before).mean(-1),
                "you divided both runs by the ablated run's scale: each run has its own":
                    lambda: (after - effects(clean, scale_of=without)).mean(-1),
                "only the scale differs between your two attributions: the heads' outputs are the clean run's in both":
                    lambda: (effects(clean, scale_of=without) - before).mean(-1),
                "both attributions come from the same cache: one of them is stale": lambda: torch.zeros_like(after[..., 0]),
                "this is the effect after the ablation: subtract the effect before": lambda: after.mean(-1),
                "this is the effect before the ablation: subtract it from the effect after": lambda: before.mean(-1),
                "the two effects are added: after minus before": lambda: (after + before).mean(-1),
                "it is not averaged over prompts": lambda: after - before,
                "absolute values before the mean: a head may gain on one prompt and lose on another":
                    lambda: (after - before).abs().mean(-1),
                "absolute values: the sign says whether the head writes more or less":
                    lambda: (after - before).mean(-1).abs(),
                "divided by the effect before: the change itself, in logits":
                    lambda: (after.mean(-1) - before.mean(-1)) / before.mean(-1),
                "you read the first position, not the last":
                    lambda: (effects(without, position=0) - effects(clean, position=0)).mean(-1),
            },
        )  # fmt: skip
    return f"two independent attributions, each with its own scale, differ by just this ({held})"


@exercise("04", look="section 6: cache['ln_final.hook_scale'] is [batch, pos, 1]", takes="clean_cache ablated_cache")
def check_layernorm_ratio(learner: Callable) -> str:
    inner = "blocks.2.ln2.hook_scale"
    for model in both_models():
        clean_cache, ablated_cache, _ = setting_of(model)
        clean, ablated = (cache["ln_final.hook_scale"] for cache in (clean_cache, ablated_cache))
        held = require_equal(
            call(learner, clean_cache, ablated_cache),
            (clean[:, -1] / ablated[:, -1]).mean(),
            f"clean scale over ablated scale at END on {model.cfg.model_name}",
            mistakes={
                "this is the inverse: dividing by a smaller scale makes effects larger, so put the clean scale on top":
                    lambda: (ablated[:, -1] / clean[:, -1]).mean(),
                "you averaged over all positions: only END was ablated, and only END predicts the name":
                    lambda: (clean / ablated).mean(),
                "you took the first position: END is position -1": lambda: (clean[:, 0] / ablated[:, 0]).mean(),
                "this is a ratio of means: divide prompt by prompt, then average":
                    lambda: clean[:, -1].mean() / ablated[:, -1].mean(),
                "it is not averaged over prompts": lambda: (clean[:, -1] / ablated[:, -1]),
                "this is the clean scale alone: divide it by the ablated one": lambda: clean[:, -1].mean(),
                "this is the ablated scale alone: divide the clean one by it": lambda: ablated[:, -1].mean(),
                "this is a product: divide": lambda: (clean[:, -1] * ablated[:, -1]).mean(),
                **{f"the two scales are of different positions, {one} and {other}: END is -1 in both":
                    lambda one=one, other=other: (clean[:, one] / ablated[:, other]).mean()
                    for one, other in itertools.permutations((-1, 0, 1, -2), 2) if -1 in (one, other)},
                "this is a difference: divide": lambda: (clean[:, -1] - ablated[:, -1]).mean(),
                "this is the first prompt's: average over prompts": lambda: (clean / ablated)[0, -1, 0],
                "this is the last prompt's: average over prompts": lambda: (clean / ablated)[-1, -1, 0],
                "this is the median prompt's: take the mean": lambda: (clean[:, -1] / ablated[:, -1]).median(),
                "these are scales of a norm inside the layers: the final norm is ln_final":
                    lambda: (clean_cache[inner][:, -1] / ablated_cache[inner][:, -1]).mean(),
            },
            atol=1e-6,
        )  # fmt: skip
    return f"the ratio of the two scales ({held})"


REPLACED = ((1, 3), (0, 1), (1, 0))


@exercise(
    "04",
    look="section 7: reference_cache['z', layer][:, -1, head] is [prompt, d_head]; average over prompts",
    takes="model tokens heads reference_cache",
)
def check_mean_ablate(learner: Callable) -> str:
    for model, reference in itertools.product(both_models(), (REFERENCE, MORE)):
        want, mistakes = _mean_ablated(model, reference)
        held = require_equal(
            call(learner, model, tokens_of(model), list(REPLACED), clean_run(model, reference)),
            want,
            f"the logits with the z of three heads set to their mean over {len(reference)} reference prompts at END "
            f"on {model.cfg.model_name}",
            axes="batch position vocab",
            mistakes=mistakes,
        )
    return f"three heads in two layers, replaced by their reference means at END ({held})"


@cache
def _mean_ablated(model: TransformerBridge, reference: tuple[str, ...]) -> tuple[Tensor, Mistakes]:
    n, last = len(PROMPTS), tokens_of(model).shape[1] - 1

    def run(value: Callable[[Tensor], Tensor], heads=REPLACED, where=-1, cache=clean_run(model, reference)):  # noqa: B008
        edits = ((layer, (EVERY, where, head), value(cache["z", layer][:, :, head])) for layer, head in heads)
        return run_edited(model, tokens_of(model), *edits)[0]

    def at_end(z: Tensor) -> Tensor:
        return z[:, -1].mean(0)

    return run(at_end), once({
        "you put in zero: put in the head's mean over the reference prompts": lambda: run(lambda z: 0),
        "you averaged over positions as well: take the mean of z at the last position only":
            lambda: run(lambda z: z.mean((0, 1))),
        "you averaged over positions, prompt by prompt: average over prompts (axis 0), at the last position":
            lambda: run(lambda z: z.mean(1)),
        "you averaged over d_head: the mean is over prompts, and is itself a vector":
            lambda: run(lambda z: z[:, -1].mean(-1, keepdim=True)),
        **({"you put in each reference prompt's own z: average over the prompts": lambda: run(lambda z: z[:, -1])}
           if len(reference) == n else {}),
        **({"you took as many reference prompts as there are prompts that run: average over all of them":
            lambda: run(lambda z: z[:n, -1].mean(0))} if len(reference) > n else {}),
        "you divided by the number of prompts that run: take the mean over the reference prompts":
            lambda: run(lambda z: z[:, -1].sum(0) / n),
        "you took the last position of the prompts that run: the reference prompts have their own, -1":
            lambda: run(lambda z: z[:, last].mean(0)),
        "you put in the first reference prompt's z: average over the prompts": lambda: run(lambda z: z[0, -1]),
        "you summed over the reference prompts: take their mean": lambda: run(lambda z: z[:, -1].sum(0)),
        "you took the mean at the first position: END is position -1": lambda: run(lambda z: z[:, 0].mean(0)),
        "you took the mean at position 1: END is position -1": lambda: run(lambda z: z[:, 1].mean(0)),
        "you replaced the head at every position: index position -1 only": lambda: run(at_end, where=EVERY),
        "only the first head is replaced: make one hook for each, and pass them all":
            lambda: run(at_end, heads=REPLACED[:1]),
        "only the last head is replaced: a function made in a loop sees its last values; bind them with partial":
            lambda: run(at_end, heads=REPLACED[-1:]),
        "the mean is of the prompts you are running: take it from reference_cache":
            lambda: run(at_end, cache=clean_run(model)),
        "these are the logits of the whole model": lambda: model(tokens_of(model)),
    })  # fmt: skip
