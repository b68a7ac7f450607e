"""Taking heads away at the end of a prompt, and taking apart what the other heads do about it.

A head's direct effect on the logit difference is Σ over keys of pattern × (values · W_O · direction) / final norm's scale.
Two caches hold everything in it, so a change of direct effect can be split exactly by what changed: the attention pattern,
the values, or the scale.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import require_heads
from utils.attribution import centered, decompose_at, head_attributions, head_results
from utils.inference import small_cache
from utils.parts import repeat_kv
from utils.prompts import at_last

Hook = tuple[str, Callable]
ROUTES = ("attention pattern", "values", "final norm's scale")


def at_end(name: str, change: Callable[[Tensor], Tensor], last: Int[Tensor, " batch"] | None = None) -> Hook:
    """A hook that applies `change` to an activation [batch, seq, …] at each prompt's last position."""

    def hook_function(activation: Tensor, hook) -> Tensor:
        activation = activation.clone()
        where = (torch.arange(len(activation), device=activation.device), -1 if last is None else last)
        activation[where] = change(activation[where])
        return activation

    return name, hook_function


def set_heads(
    heads: Sequence[tuple[int, int]],
    values: Sequence[Float[Tensor, " d_head"]] | None = None,
    last: Int[Tensor, " batch"] | None = None,
) -> list[Hook]:
    """Hooks that put `values` (zeros if None) in place of the heads' z at the last position."""

    def put(z: Float[Tensor, "batch head d_head"], head: int, value: Tensor | float) -> Tensor:
        z[:, head] = value
        return z

    return [
        at_end(f"blocks.{layer}.attn.hook_z", partial(put, head=head, value=value), last)
        for (layer, head), value in zip(heads, [0.0] * len(heads) if values is None else values, strict=True)
    ]


def run_with_cache_and_hooks(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], hooks: Sequence[Hook]
) -> tuple[Float[Tensor, "batch pos d_vocab"], ActivationCache]:
    """Logits and cache (see `utils.inference.small_cache`) of a run that the hooks change. The hooks are gone afterwards."""
    with model.hooks(fwd_hooks=list(hooks)):
        return model.run_with_cache(tokens, names_filter=small_cache)


def ablate_at_end(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    layer: int,
    head: int,
    last: Int[Tensor, " batch"] | None = None,
) -> tuple[Float[Tensor, "batch pos d_vocab"], ActivationCache]:
    """Logits and cache of a run in which one head's z is zero at the last position."""
    return run_with_cache_and_hooks(model, tokens, set_heads([(layer, head)], last=last))


def mean_z_at_end(
    reference_cache: ActivationCache, heads: Sequence[tuple[int, int]], last: Int[Tensor, " batch"] | None = None
) -> list[Float[Tensor, " d_head"]]:
    """Each head's z at the last position, averaged over the reference prompts."""
    return [at_last(reference_cache["z", layer], last)[:, head].mean(0) for layer, head in heads]


def mean_ablate(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    heads: Sequence[tuple[int, int]],
    reference_cache: ActivationCache,
    last: Int[Tensor, " batch"] | None = None,
    reference_last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of a run in which the heads' z at the last position is its mean over the reference prompts' last positions."""
    means = mean_z_at_end(reference_cache, heads, reference_last)
    return model.run_with_hooks(tokens, fwd_hooks=set_heads(heads, means, last))


def direct_effect_change(
    model: TransformerBridge,
    clean_cache: ActivationCache,
    ablated_cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
    last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "layer head"]:
    """Each head's direct effect in the ablated run minus that in the clean run, each with its own run's scale."""
    after, before = (head_attributions(model, cache, directions, last=last) for cache in (ablated_cache, clean_cache))
    return after - before


# --- why a head's direct effect changed --------------------------------------------------------------------------------

Factors = tuple[Float[Tensor, "layer batch head key"], Float[Tensor, "layer batch head key"], Float[Tensor, " batch"]]


def direct_effect_factors(
    model: TransformerBridge,
    cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
    last: Int[Tensor, " batch"] | None = None,
) -> Factors:
    """The three factors of every head's direct effect at the last position: its attention to each key, what the value at
    that key would add to the logit difference before the final norm, and the final norm's scale.

    Raises UnsupportedModel where these are not all there is to it (see `utils.assumptions`).
    """
    require_heads(model)
    layers = range(model.cfg.n_layers)
    directions = centered(directions, model)
    pattern = torch.stack([at_last(cache["pattern", layer].transpose(1, 2), last) for layer in layers])
    values = torch.stack([repeat_kv(cache["v", layer], model.cfg.n_heads) for layer in layers])
    # values: layer batch key head d_head
    readers = torch.einsum("lhdm,bm->lbhd", model.W_O, directions)
    written = torch.einsum("lbkhd,lbhd->lbhk", values, readers)
    return pattern, written, at_last(cache["ln_final.hook_scale"], last)[:, 0]


def direct_effect(
    pattern: Float[Tensor, "... batch head key"],
    written: Float[Tensor, "... batch head key"],
    scale: Float[Tensor, " batch"],
) -> Float[Tensor, "... head"]:
    """Mean over prompts of Σ_key pattern × written / scale. Equals `head_attributions` when all come from one run."""
    return ((pattern * written).sum(-1) / scale[:, None]).mean(-2)


def shapley(value: Callable[..., Tensor], before: Sequence, after: Sequence) -> list[Tensor]:
    """What each argument's change from `before` to `after` contributes to the change of `value(*arguments)`.

    The average, over every order in which the arguments can be exchanged one by one, of what exchanging this one does
    (Shapley 1953). The contributions add up to value(*after) - value(*before), and no argument is privileged by coming first.
    """
    n = len(before)
    totals: list[Tensor | float] = [0.0] * n
    cached = {
        chosen: value(*(after[i] if i in chosen else before[i] for i in range(n)))
        for size in range(n + 1)
        for chosen in map(frozenset, itertools.combinations(range(n), size))
    }
    for order in itertools.permutations(range(n)):
        for place, i in enumerate(order):
            earlier = frozenset(order[:place])
            totals[i] = totals[i] + (cached[earlier | {i}] - cached[earlier])
    return [total / math.factorial(n) for total in totals]


def change_by_route(
    model: TransformerBridge,
    clean_cache: ActivationCache,
    ablated_cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
    last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "route layer head"]:
    """Every head's change of direct effect, split by `ROUTES`: the three add up to `direct_effect_change`.

    For heads that were not themselves ablated: an ablated head's z is not its pattern times its values.
    """
    clean, ablated = (direct_effect_factors(model, cache, directions, last) for cache in (clean_cache, ablated_cache))
    return torch.stack(shapley(direct_effect, clean, ablated))


def change_by_source(
    model: TransformerBridge,
    clean_cache: ActivationCache,
    ablated_cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
    ablated_heads: Sequence[tuple[int, int]],
    last: Int[Tensor, " batch"] | None = None,
) -> dict[str, float]:
    """The whole change of the mean logit difference, by where it comes from; the parts add up to it.

    The ablated heads' own effect, as it was; the other heads' by attention pattern and by values; the MLPs'; and the final
    norm's scale, for whatever is written.
    """
    gone = tuple(torch.tensor(heads) for heads in zip(*ablated_heads, strict=True))
    routes = change_by_route(model, clean_cache, ablated_cache, directions, last)
    lost = direct_effect_change(model, clean_cache, ablated_cache, directions, last)[gone].sum()
    routes[(slice(None), *gone)] = 0.0
    clean, ablated = (_written_by_others(model, cache, directions, last) for cache in (clean_cache, ablated_cache))
    written, scale = shapley(lambda w, s: (w / s).mean(-1), clean, ablated)  # each: component
    parts = {
        "ablated head itself": lost,
        "other heads: attention pattern": routes[0].sum(),
        "other heads: values": routes[1].sum(),
        "MLPs": written.sum(),
        "final norm's scale": routes[2].sum() + scale.sum(),
    }
    return {name: part.item() for name, part in parts.items()}


def _written_by_others(
    model: TransformerBridge, cache: ActivationCache, directions: Tensor, last: Tensor | None
) -> tuple[Float[Tensor, "component batch"], Float[Tensor, " batch"]]:
    """What the embedding, the attention biases and the MLPs write along the directions at the last position, before the
    final norm, and the norm's scale. Only the MLPs' part can change when a head is ablated there."""
    directions = centered(directions, model)
    parts = (decompose_at(cache, last) * directions).sum(-1)  # embed, then attention and MLP of each layer
    by_heads = (head_results(model, cache, last) * directions).sum((1, -1))  # layer batch
    others = torch.cat([parts[:1], parts[1::2] - by_heads, parts[2::2]])
    return others, at_last(cache["ln_final.hook_scale"], last)[:, 0]


def freeze(
    cache: ActivationCache, names: Sequence[str], last: Int[Tensor, " batch"] | None = None, head: int | None = None
) -> list[Hook]:
    """Hooks that put the cached activation of each name back at the last position (for a pattern: in its row), for all
    heads or for one."""

    def put_back(name: str) -> Hook:
        is_pattern = name.endswith("hook_pattern")

        def hook_function(activation: Tensor, hook) -> Tensor:
            activation = activation.clone()
            view, source = (x.transpose(1, 2) if is_pattern else x for x in (activation, cache[name]))
            where = (torch.arange(len(view), device=view.device), -1 if last is None else last)
            where += () if head is None else (head,)
            view[where] = source[where]
            return activation

        return name, hook_function

    return [put_back(name) for name in names]
