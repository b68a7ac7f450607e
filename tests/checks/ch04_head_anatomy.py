"""Checks of chapter 04."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import require_equal
from tests.checks.core import both_models, exercise, require

PROMPTS = (  # five, as many as no other axis of the fixtures has
    "When John and Mary went to the store, John gave a drink to",
    "Then Tom and Amy went to the park, Amy gave a ring to",
    "After Dan and Sid went to the house, Dan gave a kiss to",
    "While Paul and Jane went to the school, Jane said a book to",
    "When Mark and Kate went to the garden, Mark had an apple to",
)
REFERENCE = (
    "When Mary and John went to the store, Mary gave a drink to",
    "Then Dan and Sid went to the school, Dan gave a ball to",
    "After Kate and Bob went to the park, Kate had an apple to",
    "When Anna and Mark went to the office, Mark gave a letter to",
    "While Jack and Emma went to the school, Jack gave a book to",
)
ANSWERS = ((" Mary", " John"), (" Tom", " Amy"), (" Sid", " Dan"), (" Paul", " Jane"), (" Kate", " Mark"))
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
        tokens = torch.randint(100, 150, (5, seq_len), generator=torch.Generator().manual_seed(4)).repeat(1, 2)
        if with_bos:
            tokens = torch.cat([torch.full((5, 1), model.tokenizer.bos_token_id), tokens], dim=1)
        _, cache = model.run_with_cache(tokens)
        whole = torch.stack([cache["pattern", layer] for layer in range(model.cfg.n_layers)])
        scores = call(learner, model, tokens, seq_len)
        require(
            isinstance(scores, dict) and set(scores) >= set(SCORES),
            f"what you return: {sorted(scores) if isinstance(scores, dict) else type(scores).__name__}",
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


def _along(whole: Tensor, offset: int, start: int) -> Tensor:
    """Mean of pattern[query, query - offset] over the queries whose key is not before `start`, cell by cell."""
    queries = range(start + offset, whole.shape[-1])
    return torch.stack([whole[..., query, query - offset] for query in queries]).mean((0, 2))


def _score_mistakes(whole: Tensor, name: str, offset: int, seq_len: int, start: int) -> dict[str, Callable]:
    other = {"duplicate_token": seq_len - 1, "induction": seq_len, "previous_token": 0}[name]
    return {
        "BOS is still in: cut its row and its column off before you take the diagonal":
            lambda: _along(whole, offset, 0),
        "the diagonal is off by one: induction looks one place *after* the equal token, so its offset is seq_len - 1 and "
        "the duplicate-token offset is seq_len; the token before has offset 1":
            lambda: _along(whole, other, start),
        "the diagonal is off by one, the other way: query minus key is 1, seq_len and seq_len - 1":
            lambda: _along(whole, offset + 1, start) if offset < 2 else _along(whole, 2 * offset - other, start),
        "these cells lie above the main diagonal, where the causal mask makes attention zero: the key comes before the "
        "query, so the offset is along the other axis (a negative one in diagonal(offset, dim1=query, dim2=key))":
            lambda: torch.zeros(whole.shape[0], whole.shape[2]),
        "the batch is not averaged": lambda: whole[..., start:, start:].diagonal(-offset, -2, -1).mean(-1),
        "you used the first row of the batch only: average over the batch too":
            lambda: whole[:, 0, :, start:, start:].diagonal(-offset, -2, -1).mean(-1),
        "you summed over the diagonal: take its mean":
            lambda: whole[..., start:, start:].diagonal(-offset, -2, -1).sum(-1).mean(1),
        "you divided by the whole length: take the mean over the diagonal's own cells":
            lambda: whole[..., start:, start:].diagonal(-offset, -2, -1).sum(-1).mean(1) / (2 * seq_len),
    }  # fmt: skip


# --- ablation ---------------------------------------------------------------------------------------------------------


def _run(model: TransformerBridge, tokens: Tensor, *edits: tuple) -> tuple[Tensor, ActivationCache]:
    """A run in which z[index] of a layer is set: edits are (layer, index, value)."""

    def hook(layer: int, index: tuple, value) -> tuple[str, Callable]:
        def change(z: Tensor, hook) -> Tensor:
            z = z.clone()
            z[index] = value
            return z

        return f"blocks.{layer}.attn.hook_z", change

    with model.hooks(fwd_hooks=[hook(*edit) for edit in edits]):
        return model.run_with_cache(tokens)


EVERY = slice(None)


@exercise(
    "04",
    look="section 4: z has the axes [batch, position, head, d_head]; END is position -1",
    takes="model tokens layer head",
)
def check_ablate_at_end(learner: Callable) -> str:
    for model, (layer, head) in itertools.product(both_models(), ((1, 2), (0, 3), (2, 0))):
        tokens = model.to_tokens(PROMPTS)
        run = partial(_run, model, tokens)
        logits, cache = _logits_and_cache(call(learner, model, tokens, layer, head))
        end = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
        require(end in cache, f"your cache: it has no {end!r}", "cache the whole run, or use names_filter=small_cache")
        want, want_cache = run((layer, (EVERY, -1, head), 0))
        held = require_equal(
            logits,
            want,
            f"the logits with L{layer}H{head}'s z set to zero at END on {model.cfg.model_name}",
            axes="batch position vocab",
            mistakes={
                "you zeroed the head at every position: index position -1 only":
                    lambda: run((layer, (EVERY, EVERY, head), 0))[0],
                "these are the logits of the whole model: is the hook in fwd_hooks, and does it return z?":
                    lambda: model(tokens),
                "you zeroed every head at END: index the head too": lambda: run((layer, (EVERY, -1), 0))[0],
                "you zeroed the first position, not the last": lambda: run((layer, (EVERY, 0, head), 0))[0],
                "you swapped head and position: head is axis 2 of z": lambda: run((layer, (EVERY, head, -1), 0))[0],
                "another layer: layer counts from 0":
                    lambda: run(((layer or model.cfg.n_layers) - 1, (EVERY, -1, head), 0))[0],
                "another head: head counts from 0": lambda: run((layer, (EVERY, -1, (head or model.cfg.n_heads) - 1), 0))[0],
                "you zeroed the position before the last: END is position -1": lambda: run((layer, (EVERY, -2, head), 0))[0],
            },
        )  # fmt: skip
        require_equal(
            cache["resid_post", model.cfg.n_layers - 1],
            want_cache["resid_post", model.cfg.n_layers - 1],
            "the final residual stream in your cache with that of the ablated run",
            axes="batch position d_model",
            mistakes={
                "this is the cache of the whole model: cache the run that has the hook":
                    lambda: model.run_with_cache(tokens)[1]["resid_post", model.cfg.n_layers - 1],
            },
        )  # fmt: skip
    return f"the logits and the cache of an independent hook run for three heads, and no hook left behind ({held})"


def _logits_and_cache(result: object) -> tuple[object, ActivationCache]:
    ok = isinstance(result, (tuple, list)) and len(result) == 2 and isinstance(result[1], ActivationCache)
    require(
        ok,
        f"what you return: {type(result).__name__}",
        "return two things, the logits and the cache: that is what model.run_with_cache gives",
    )
    return result[0], result[1]


def _setting(model: TransformerBridge, ablated: tuple[int, int] = (0, 1)):
    """Clean cache, cache without a head at END, and the directions of the answers."""
    tokens = model.to_tokens(PROMPTS)
    answers = torch.tensor([[model.to_single_token(word) for word in pair] for pair in ANSWERS])
    directions = model.W_U.T[answers[:, 0]] - model.W_U.T[answers[:, 1]]
    _, clean = model.run_with_cache(tokens)
    _, without = _run(model, tokens, (ablated[0], (EVERY, -1, ablated[1]), 0))
    return clean, without, directions


def _effects(
    cache: ActivationCache, directions: Tensor, scale_of: ActivationCache | None = None, position: int = -1
) -> Tensor:
    """[layer, head, batch] from TransformerLens' own per-head results, divided by the scale of the cache given."""
    model = cache.model
    stack = torch.stack([
        torch.einsum("bhd,hdm->hbm", cache["z", layer][:, position], model.W_O[layer])
        for layer in range(model.cfg.n_layers)
    ])  # fmt: skip
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
        clean, without, directions = _setting(model)
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
                "you read the first position, not the last":
                    lambda: (effects(without, position=0) - effects(clean, position=0)).mean(-1),
            },
        )  # fmt: skip
    return f"two independent attributions, each with its own scale, differ by just this ({held})"


@exercise(
    "04", look="section 6: cache['ln_final.hook_scale'] is [batch, position, 1]", takes="clean_cache ablated_cache"
)
def check_layernorm_ratio(learner: Callable) -> str:
    inner = "blocks.2.ln2.hook_scale"
    for model in both_models():
        clean_cache, ablated_cache, _ = _setting(model)
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
                "these are scales of a norm inside the layers: the final norm is ln_final":
                    lambda: (clean_cache[inner][:, -1] / ablated_cache[inner][:, -1]).mean(),
            },
            atol=1e-6,
        )  # fmt: skip
    return f"the ratio of the two scales ({held})"


@exercise(
    "04",
    look="section 7: reference_cache['z', layer][:, -1, head] is [prompt, d_head]; average over prompts",
    takes="model tokens heads reference_cache",
)
def check_mean_ablate(learner: Callable) -> str:
    heads = [(1, 3), (0, 1), (1, 0)]
    for model in both_models():
        tokens = model.to_tokens(PROMPTS)
        _, reference = model.run_with_cache(model.to_tokens(REFERENCE))
        _, own = model.run_with_cache(tokens)

        def run(value: Callable[[Tensor], Tensor], heads=heads, where=-1, cache=reference):
            return _run(model, tokens, *((la, (EVERY, where, h), value(cache["z", la][:, :, h])) for la, h in heads))[0]

        at_end: Callable[[Tensor], Tensor] = lambda z: z[:, -1].mean(0)  # noqa: E731
        held = require_equal(
            call(learner, model, tokens, heads, reference),
            run(at_end),
            f"the logits with the z of three heads set to their reference mean at END on {model.cfg.model_name}",
            axes="batch position vocab",
            mistakes={
                "you put in zero: put in the head's mean over the reference prompts": lambda: run(lambda z: 0),
                "you averaged over positions as well: take the mean of z at the last position only":
                    lambda: run(lambda z: z.mean((0, 1))),
                "you averaged over positions, prompt by prompt: average over prompts (axis 0), at the last position":
                    lambda: run(lambda z: z.mean(1)),
                "you averaged over d_head: the mean is over prompts, and is itself a vector":
                    lambda: run(lambda z: z[:, -1].mean(-1, keepdim=True)),
                "you put in each reference prompt's own z: average over the prompts": lambda: run(lambda z: z[:, -1]),
                "you put in the first reference prompt's z: average over the prompts": lambda: run(lambda z: z[0, -1]),
                "you summed over the reference prompts: take their mean": lambda: run(lambda z: z[:, -1].sum(0)),
                "you took the mean at the first position: END is position -1": lambda: run(lambda z: z[:, 0].mean(0)),
                "you took the mean at position 1: END is position -1": lambda: run(lambda z: z[:, 1].mean(0)),
                "you replaced the head at every position: index position -1 only": lambda: run(at_end, where=EVERY),
                "only the first head is replaced: make one hook for each, and pass them all":
                    lambda: run(at_end, heads=heads[:1]),
                "only the last head is replaced: a function made in a loop sees its last values; bind them with partial":
                    lambda: run(at_end, heads=heads[-1:]),
                "the mean is of the prompts you are running: take it from reference_cache": lambda: run(at_end, cache=own),
                "these are the logits of the whole model": lambda: model(tokens),
            },
        )  # fmt: skip
    return f"three heads in two layers, replaced by their reference means at END ({held})"


# --- by route ---------------------------------------------------------------------------------------------------------

ROUTES = ("pattern", "values", "scale")
ORDERS = tuple(itertools.permutations(range(3)))


def _factors(
    cache: ActivationCache, directions: Tensor, layer: int, head: int, kv_head: int | None = None
) -> list[Tensor]:
    model = cache.model
    shared = cache["v", layer].shape[2]
    kv_head = head // (model.cfg.n_heads // shared) if kv_head is None else kv_head
    result = cache["v", layer][:, :, kv_head] @ model.W_O[layer, head]  # batch key d_model
    if model.cfg.normalization_type.startswith("LN"):
        result = result - result.mean(-1, keepdim=True)
    written = (result * directions[:, None]).sum(-1)
    return [cache["pattern", layer][:, head, -1], written, cache["ln_final.hook_scale"][:, -1, 0]]


def _effect(factors: list[Tensor]) -> Tensor:
    return ((factors[0] * factors[1]).sum(-1) / factors[2]).mean()


WRONG_EFFECTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "multiplied by the scale: divide": lambda p, w, s: ((p * w).sum(-1) * s).mean(),
    "not divided by the scale": lambda p, w, s: (p * w).sum(-1).mean(),
    "the scale alone: the pattern times the values, over the scale": lambda p, w, s: s.mean(),
    "averaged over keys: sum over them": lambda p, w, s: ((p * w).mean(-1) / s).mean(),
    "summed over prompts before it is divided: each prompt has its own scale": lambda p, w, s: ((p * w).sum() / s).mean(),
    "summed over prompts: take their mean": lambda p, w, s: ((p * w).sum(-1) / s).sum(),
    "the pattern over the values: multiply them": lambda p, w, s: ((p / w).sum(-1) / s).mean(),
    "without the values": lambda p, w, s: (p.sum(-1) / s).mean(),
    "without the pattern": lambda p, w, s: (w.sum(-1) / s).mean(),
    "the pattern times itself: times the values": lambda p, w, s: ((p * p).sum(-1) / s).mean(),
    "the values times themselves: times the pattern": lambda p, w, s: ((w * w).sum(-1) / s).mean(),
    "left out: the effect after an exchange minus the effect before it": lambda p, w, s: torch.zeros(()),
}  # fmt: skip


def _along_order(
    clean: list[Tensor], ablated: list[Tensor], order: tuple[int, ...], before=_effect, after=_effect, sign: int = -1
) -> Tensor:
    """What exchanging each factor does when they are exchanged in this order."""
    routes, now = torch.zeros(3), list(clean)
    for i in order:
        start = before(now)
        now[i] = ablated[i]
        routes[i] = after(now) + sign * start
    return routes


def _average(clean: list[Tensor], ablated: list[Tensor], orders=ORDERS, **effects) -> Tensor:
    return torch.stack([_along_order(clean, ablated, order, **effects) for order in orders]).mean(0)


def _wrong_arithmetic(clean: list[Tensor], ablated: list[Tensor]) -> dict[str, Callable[[], Tensor]]:
    """The sum over orders with something wrong in the effect, before an exchange, after it, or both times."""
    named: dict[str, Callable[[], Tensor]] = {
        "the effects before and after an exchange are added: subtract": lambda: _average(clean, ablated, sign=1),
        "the effect before an exchange alone: subtract it from the effect after": lambda: _average(
            clean, ablated, before=lambda now: -_effect(now), after=lambda now: torch.zeros(())
        ),
        "only the last order is kept: add the six up (+=)": lambda: _along_order(clean, ablated, ORDERS[-1]) / 6,
        "only two of the three factors are exchanged": lambda: _average(clean, ablated, [(0, 1), (1, 0)]),
        "only two of the three factors are exchanged, values and scale": lambda: _average(
            clean, ablated, [(1, 2), (2, 1)]
        ),
    }
    for message, wrong in WRONG_EFFECTS.items():
        of_factors = partial(lambda now, wrong: wrong(*now), wrong=wrong)
        for when, effects in (
            ("both effects are", {"before": of_factors, "after": of_factors}),
            ("the effect before an exchange is", {"before": of_factors}),
            ("the effect after an exchange is", {"after": of_factors}),
        ):
            named[f"{when} {message}"] = partial(_average, clean, ablated, **effects)
    return named


def _only(clean: list[Tensor], ablated: list[Tensor]) -> Tensor:
    """Each factor exchanged alone."""
    return torch.stack([
        _effect([(ablated if j == i else clean)[j] for j in range(3)]) - _effect(clean) for i in range(3)
    ])  # fmt: skip


@exercise(
    "04",
    look="section 8: each order exchanges all three factors; each step is credited to the factor exchanged",
    points=3,
    takes="model clean_cache ablated_cache directions layer head",
)
def check_backup_by_route(learner: Callable) -> str:
    for model, (layer, head) in itertools.product(both_models(), ((1, 2), (2, 1))):
        cache, without, directions = _setting(model)
        clean, ablated = (_factors(c, directions, layer, head) for c in (cache, without))
        other = lambda c: _factors(c, directions, layer, head, kv_head=head % cache["v", layer].shape[2])  # noqa: E731
        held = require_equal(
            call(learner, model, cache, without, directions, layer, head),
            _average(clean, ablated),
            f"the change of L{layer}H{head}'s effect by route (pattern, values, scale) on {model.cfg.model_name}",
            axes="route",
            mistakes={
                "you exchanged each factor alone, beginning from the clean run: these three do not add up to the change":
                    lambda: _only(clean, ablated),
                "you put each factor back alone, beginning from the ablated run: these three do not add up to the change":
                    lambda: -_only(ablated, clean),
                **{
                    f"you used one order only ({' → '.join(ROUTES[i] for i in order)}): it adds up, but another order gives "
                    "other numbers; average over all six": partial(_along_order, clean, ablated, order)
                    for order in ORDERS
                },
                "you summed over the six orders: divide by six": lambda: 6 * _average(clean, ablated),
                "before minus after: the change is ablated minus clean": lambda: _average(ablated, clean),
                "the values are another head's: heads share values in groups; head h reads entry h // (n_heads / n_kv_heads)":
                    lambda: _average(other(cache), other(without)),
                "you averaged the factors over prompts before multiplying: multiply prompt by prompt, then average":
                    lambda: _average(_mean_first(clean), _mean_first(ablated)),
                "the scale is left out: divide by it, and let it change too":
                    lambda: _average([*clean[:2], torch.ones_like(clean[2])], [*ablated[:2], torch.ones_like(clean[2])]),
                "the factors are in another order: pattern, values, scale": lambda: _average(clean, ablated)[[1, 0, 2]],
                **_wrong_arithmetic(clean, ablated),
            },
            atol=1e-5,
        )  # fmt: skip
    return f"three parts that add up to the change, for two heads of a GPT-2 and of a Llama ({held})"


def _mean_first(factors: list[Tensor]) -> list[Tensor]:
    return [factor.mean(0, keepdim=True) for factor in factors]
