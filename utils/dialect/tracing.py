"""Where a gap between two guises comes from: aligned batches, decompositions that add up, patching, and means of heads.

AAE is the clean run and SAE the corrupted one: `utils.experiment.run_experiment(model, batch, preference_of(U, F))` patches
them, and 1 restores the whole gap. A neutral swap is treated alike, its first word in the place of AAE. What is left of a gap
without some heads, or without a direction, is in `utils.dialect.removing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from utils import dialect
from utils.attribution import apply_final_norm, decompose_at, head_results
from utils.dialect import DialectError, Pair
from utils.inference import run_to_ends
from utils.prompts import PromptPairs, at_last, make_pairs, token_row, tokenize


def guise_batch(model: TransformerBridge, pairs: Sequence[Pair], frame: str, n: int | None = None) -> PromptPairs:
    """The aligned pairs of the commonest length and differing position, at most `n` of them: clean is AAE, corrupted SAE.

    They are named by their clusters, and differ in one token, at `.position`. Raises DialectError if none is aligned.
    """
    found = dialect.aligned_pairs(model, pairs, frame)
    if not found:
        raise DialectError(
            f"none of {len(pairs)} pairs differs in exactly one token in {model.cfg.model_name}, such as {pairs[0]}; "
            "see utils.dialect.aligned_pairs(..., strict=True)"
        )
    shapes = [(len(token_row(model, dialect.fill(frame, pair.aae))), at) for pair, at in found]
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
    return _read_with(direction, decompose_at, aae, aae_last) - _read_with(direction, decompose_at, sae, sae_last)


def gap_by_head(
    model: TransformerBridge,
    aae: ActivationCache,
    sae: ActivationCache,
    direction: Float[Tensor, " d_model"],
    aae_last: Int[Tensor, " batch"] | None = None,
    sae_last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "layer head batch"]:
    """Each head's direct part of each pair's gap."""
    written = partial(head_results, model)
    return _read_with(direction, written, aae, aae_last) - _read_with(direction, written, sae, sae_last)


def _read_with(
    direction: Float[Tensor, " d_model"],
    decompose: Callable[[ActivationCache, Tensor | None], Float[Tensor, "*part batch d_model"]],
    cache: ActivationCache,
    last: Int[Tensor, " batch"] | None,
) -> Float[Tensor, "*part batch"]:
    """What each part of the last stream says along the direction: parts divided by the scale of the run's final norm."""
    return apply_final_norm(decompose(cache, last), cache, last) @ direction


@torch.no_grad()
def head_gaps(
    model: TransformerBridge,
    pairs: Sequence[Pair],
    frame: str,
    direction: Float[Tensor, " d_model"],
    batch_size: int = 32,
) -> Float[Tensor, "pair layer head"]:
    """`gap_by_head` of pairs of any lengths, aligned or not: each different prompt is run once, and only its end is kept."""
    sides = [
        [dialect.fill(frame, getattr(pair, side)) for pair in dialect.check_pairs(pairs)] for side in ("aae", "sae")
    ]
    prompts = sorted(dict.fromkeys(sides[0] + sides[1]), key=len)
    parts, read = {}, lambda name: name.endswith(("attn.hook_z", "ln_final.hook_scale"))
    for some in (prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)):
        tokens, mask = tokenize(model, some)
        _, cache = run_to_ends(model, tokens, mask, read)
        written = _read_with(direction, partial(head_results, model), cache, mask.sum(-1) - 1)  # layer head batch
        parts |= dict(zip(some, written.unbind(-1), strict=True))
    return torch.stack([parts[one] - parts[other] for one, other in zip(*sides, strict=True)])


def gap_by_stream(
    model: TransformerBridge,
    aae: ActivationCache,
    sae: ActivationCache,
    direction: Float[Tensor, " d_model"],
    aae_last: Int[Tensor, " batch"] | None = None,
    sae_last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "2 stream batch"]:
    """The gap that each pair's unfinished streams show, read in two ways: by the logit lens, and as cumulative attribution.

    The lens puts every stream through the final norm, which divides it by its own size: what if the model stopped here?
    Cumulative attribution divides every stream by the size of the last one: how much of the gap is written so far? At the
    end the two are the same. Labels: `stream_labels`.
    """
    lens, written = [], []
    for cache, last in ((aae, aae_last), (sae, sae_last)):
        streams = decompose_at(cache, last).cumsum(0)  # stream batch d_model
        written.append(apply_final_norm(streams, cache, last) @ direction)
        lens.append(model.ln_final(streams) @ direction)
    return torch.stack([lens[0] - lens[1], written[0] - written[1]])


def stream_labels(model: TransformerBridge) -> list[str]:
    """Names of the streams of `gap_by_stream`: 0_pre, 0_mid, 1_pre, ... and end."""
    return [*(f"{layer}_{at}" for layer in range(model.cfg.n_layers) for at in ("pre", "mid")), "end"]


def attention_from_end(
    cache: ActivationCache, position: int, last: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "layer head"]:
    """How much each head attends from each prompt's last position to `position`, averaged over the prompts."""
    layers = range(cache.model.cfg.n_layers)
    return torch.stack(
        [at_last(cache["pattern", layer].transpose(1, 2), last)[..., position].mean(0) for layer in layers]
    )


def mean_cosine(
    vectors: Float[Tensor, "n d_model"], others: Float[Tensor, "m d_model"] | None = None
) -> Float[Tensor, ""]:
    """The mean cosine of every two different vectors; or, if `others` are given, of every vector with every other one.

    Raises ValueError for fewer than two vectors, which are no pair.
    """
    units = torch.nn.functional.normalize(vectors, dim=-1)
    if others is not None:
        return (units @ torch.nn.functional.normalize(others, dim=-1).T).mean()
    n = len(units)
    if n < 2:
        raise ValueError(f"{n} vector(s): a cosine needs two")
    return (units.sum(0).pow(2).sum() - n) / (n * (n - 1))


# --- the score of an experiment ---------------------------------------------------------------------------------------


def preference_of(
    unfavorable: Int[Tensor, " u"], favorable: Int[Tensor, " f"]
) -> Callable[[Float[Tensor, "batch pos d_vocab"]], Float[Tensor, " batch"]]:
    """A function from logits to each row's preference for unfavorable traits, read at the last position."""
    return lambda logits: logits[:, -1][:, unfavorable].mean(-1) - logits[:, -1][:, favorable].mean(-1)


# --- means --------------------------------------------------------------------------------------------------------------


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
