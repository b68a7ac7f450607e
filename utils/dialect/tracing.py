"""Where a gap between two guises comes from: aligned batches, decompositions that add up, patching, and mean ablation.

AAE is the clean run and SAE the corrupted one: `utils.experiment.run_experiment(model, batch, preference_of(U, F))` patches
them, and 1 restores the whole gap. A neutral swap is treated alike, its first word in the place of AAE.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

from utils import dialect
from utils.attribution import apply_final_norm, decompose_at, head_results
from utils.dialect import DialectError, Pair
from utils.inference import hooked_end_logits
from utils.prompts import PromptPairs, make_pairs, token_row, tokenize

Heads = Iterable[tuple[int, int]]


def guise_batch(model: TransformerBridge, pairs: Sequence[Pair], frame: str, n: int | None = None) -> PromptPairs:
    """The aligned pairs of the commonest length and differing position, at most `n` of them: clean is AAE, corrupted SAE.

    They are named by their clusters, and differ in one token, at `.position`. Raises DialectError if none is aligned.
    """
    found = dialect.aligned_pairs(model, pairs, frame)
    if not found:
        example = pairs[0] if pairs else None
        raise DialectError(
            f"none of {len(pairs)} pairs differs in exactly one token in {model.cfg.model_name}, such as {example}; "
            "see utils.dialect.aligned_pairs(..., strict=True)"
        )
    lengths = [len(token_row(model, dialect.fill(frame, pair.aae))) for pair, _ in found]
    shapes = [(length, at) for length, (_, at) in zip(lengths, found, strict=True)]
    common = Counter(shapes).most_common(1)[0][0]
    chosen = [pair for (pair, _), shape in zip(found, shapes, strict=True) if shape == common][:n]
    aae, sae = ([dialect.fill(frame, getattr(pair, side)) for pair in chosen] for side in ("aae", "sae"))
    return make_pairs(model, aae, sae, names=[pair.cluster for pair in chosen])


# --- decomposition ----------------------------------------------------------------------------------------------------


def gap_by_component(
    aae: ActivationCache,
    sae: ActivationCache,
    direction: Float[Tensor, " d_model"],
    aae_last: Int[Tensor, " batch"] | None = None,
    sae_last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "component batch"]:
    """Each component's part of each pair's gap: embedding, then attention and MLP of each layer. They add up to the gap.

    Each side is divided by the scale of its own final norm, as the model does. The unembedding's bias is the same on both
    sides and leaves no gap. Labels: `utils.attribution.component_labels`.
    """
    parts = [
        apply_final_norm(decompose_at(cache, last), cache, last) @ direction
        for cache, last in ((aae, aae_last), (sae, sae_last))
    ]  # component batch
    return parts[0] - parts[1]


def gap_by_head(
    model: TransformerBridge,
    aae: ActivationCache,
    sae: ActivationCache,
    direction: Float[Tensor, " d_model"],
    aae_last: Int[Tensor, " batch"] | None = None,
    sae_last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "layer head batch"]:
    """Each head's direct part of each pair's gap."""
    parts = [
        apply_final_norm(head_results(model, cache, last), cache, last) @ direction
        for cache, last in ((aae, aae_last), (sae, sae_last))
    ]
    return parts[0] - parts[1]


def gap_after_layers(
    aae: ActivationCache, sae: ActivationCache, direction: Float[Tensor, " d_model"]
) -> Float[Tensor, " layer"]:
    """The logit lens of the gap: what the final norm's scale and the direction make of the stream before each layer and
    at the end."""
    return torch.cat([torch.zeros(1, device=direction.device), gap_by_component(aae, sae, direction).mean(-1)]).cumsum(
        0
    )[1::2]


# --- the score of an experiment ---------------------------------------------------------------------------------------


def preference_of(
    unfavourable: Int[Tensor, " u"], favourable: Int[Tensor, " f"]
) -> Callable[[Float[Tensor, "batch pos d_vocab"]], Float[Tensor, " batch"]]:
    """A function from logits to each row's preference for unfavourable traits, read at the last position."""
    return lambda logits: logits[:, -1][:, unfavourable].mean(-1) - logits[:, -1][:, favourable].mean(-1)


# --- mean ablation ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def mean_z(
    model: TransformerBridge, prompts: Sequence[str], batch_size: int = 32
) -> Float[Tensor, "layer head d_head"]:
    """Each head's mean output z over all real positions of the prompts but the first (BOS)."""
    tokens, mask = tokenize(model, prompts)
    total, count = 0, 0
    for rows, real in zip(tokens.split(batch_size), mask.split(batch_size), strict=True):
        _, cache = model.run_with_cache(rows, names_filter=lambda name: name.endswith("hook_z"))
        z = torch.stack([cache["z", layer] for layer in range(model.cfg.n_layers)])[:, :, 1:]
        weights = real[:, 1:].to(z.dtype)
        total = total + torch.einsum("lbphd,bp->lhd", z, weights)
        count = count + weights.sum()
    return total / count


def ablation_hooks(heads: Heads, means: Float[Tensor, "layer head d_head"]) -> list[tuple[str, Callable]]:
    """Hooks that put each head's mean in the place of its z, at every position but the first."""
    by_layer = itertools.groupby(sorted(heads), key=lambda pair: pair[0])
    return [(get_act_name("z", layer), _setter([h for _, h in group], means[layer])) for layer, group in by_layer]


def _setter(heads: list[int], means: Float[Tensor, "head d_head"]) -> Callable:
    def set_mean(z, hook):
        z = z.clone()
        z[:, 1:, heads] = means[heads]
        return z

    return set_mean


def hooked_gaps(
    model: TransformerBridge,
    pairs: Sequence[Pair],
    frames: Sequence[str],
    hooks: list[tuple[str, Callable]],
    unfavourable: Int[Tensor, " u"],
    favourable: Int[Tensor, " f"],
) -> Float[Tensor, "pair frame"]:
    """`utils.dialect.trait_gaps` of a run that hooks change."""
    pairs, frames = dialect.check_pairs(pairs), dialect.check_frames(frames)
    sides = ("aae", "sae")
    prompts = [dialect.fill(frame, getattr(pair, side)) for side in sides for pair in pairs for frame in frames]
    logits = hooked_end_logits(model, prompts, hooks)
    preference = logits[:, unfavourable].mean(-1) - logits[:, favourable].mean(-1)
    aae, sae = preference.unflatten(0, (2, len(pairs), len(frames)))
    return aae - sae
