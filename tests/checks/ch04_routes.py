"""Checks of chapter 04, second part: a change of direct effect, by route."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.ch04_runs import setting_of
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import both_models, exercise

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
    "summed over prompts before it is divided: each prompt has its own scale": lambda p, w, s: (
        (p * w).sum() / s
    ).mean(),
    "summed over prompts: take their mean": lambda p, w, s: ((p * w).sum(-1) / s).sum(),
    "the pattern over the values: multiply them": lambda p, w, s: ((p / w).sum(-1) / s).mean(),
    "without the values": lambda p, w, s: (p.sum(-1) / s).mean(),
    "without the pattern": lambda p, w, s: (w.sum(-1) / s).mean(),
    "the pattern times itself: times the values": lambda p, w, s: ((p * p).sum(-1) / s).mean(),
    "the values times themselves: times the pattern": lambda p, w, s: ((w * w).sum(-1) / s).mean(),
    "left out: the effect after an exchange minus the effect before it": lambda p, w, s: torch.zeros(()),
}


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
    return torch.stack(
        [_effect([(ablated if j == i else clean)[j] for j in range(3)]) - _effect(clean) for i in range(3)]
    )


@exercise(
    "04",
    look="section 8: each order exchanges all three factors; each step is credited to the factor exchanged",
    points=3,
    takes="model clean_cache ablated_cache directions layer head",
)
def check_backup_by_route(learner: Callable) -> str:
    for model, (layer, head) in itertools.product(both_models(), ((1, 2), (2, 1))):
        want, mistakes = _by_route(model, layer, head)
        held = require_equal(
            call(learner, model, *setting_of(model), layer, head),
            want,
            f"the change of L{layer}H{head}'s effect by route (pattern, values, scale) on {model.cfg.model_name}",
            axes="route",
            mistakes=mistakes,
            atol=1e-5,
        )
    return f"three parts that add up to the change, for two heads of a GPT-2 and of a Llama ({held})"


@cache
def _by_route(model: TransformerBridge, layer: int, head: int) -> tuple[Tensor, Mistakes]:
    cache, without, directions = setting_of(model)
    clean, ablated = (_factors(c, directions, layer, head) for c in (cache, without))
    other = partial(_factors, directions=directions, layer=layer, head=head, kv_head=head % cache["v", layer].shape[2])
    return _average(clean, ablated), once({
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
    })  # fmt: skip


def _mean_first(factors: list[Tensor]) -> list[Tensor]:
    return [factor.mean(0, keepdim=True) for factor in factors]
