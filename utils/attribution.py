"""Logit differences, the directions that read them off the residual stream, and attributions that add up to them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import require_heads, require_readout
from utils.prompts import at_last


def logit_diff(
    logits: Float[Tensor, "batch pos d_vocab"],
    answer_tokens: Int[Tensor, "batch 2"],
    per_prompt: bool = False,
    last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """Logit of the correct answer minus that of the incorrect one, at the last position.

    last: the true last position of each prompt; None means the last column. Returns [batch] if per_prompt, else a 0-d
    mean over prompts.
    """
    correct, incorrect = at_last(logits, last).gather(-1, answer_tokens).unbind(-1)
    return correct - incorrect if per_prompt else (correct - incorrect).mean()


def logit_diff_directions(
    model: TransformerBridge, answer_tokens: Int[Tensor, "batch 2"]
) -> Float[Tensor, "batch d_model"]:
    """Per prompt, the unembedding column of the correct answer minus that of the incorrect one."""
    require_readout(model)
    correct, incorrect = model.W_U.T[answer_tokens].unbind(1)  # each: batch d_model
    return correct - incorrect


def bias_term(model: TransformerBridge, answer_tokens: Int[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
    """What the unembedding bias adds to each prompt's logit difference. Zero where the model has no bias there; where
    LayerNorm is folded (GPT-2) it is not, and it cancels in a mean only if every prompt comes with its mirror."""
    if model.b_U is None:
        return torch.zeros(len(answer_tokens), device=answer_tokens.device)
    correct, incorrect = model.b_U[answer_tokens].unbind(-1)
    return correct - incorrect


def centered(vectors: Float[Tensor, "... d_model"], model: TransformerBridge) -> Float[Tensor, "... d_model"]:
    """The vectors as the model's final norm sees them: a LayerNorm takes their mean off, an RMSNorm leaves them.

    To center a direction is the same as to center what is read along it.
    """
    return vectors - vectors.mean(-1, keepdim=True) if model.cfg.normalization_type.startswith("LN") else vectors


def apply_final_norm(
    stack: Float[Tensor, "... batch d_model"], cache: ActivationCache, last: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "... batch d_model"]:
    """Center (LayerNorm only) and divide by the final norm's scale of each prompt's last position, as the model did.

    The scale is that of the whole residual stream, so parts keep adding up after it. Raises UnsupportedModel for a model
    whose logits are not read off in this way (see `utils.assumptions`).
    """
    require_readout(cache.model)
    return centered(stack, cache.model) / at_last(cache["ln_final.hook_scale"], last)


def residual_stack_to_logit_diff(
    stack: Float[Tensor, "... batch d_model"],
    cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
    per_prompt: bool = False,
    last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "..."]:
    """Each component's direct contribution to the logit difference, mean over prompts or [..., batch] if per_prompt."""
    contributions = (apply_final_norm(stack, cache, last) * directions).sum(-1)  # ... batch
    return contributions if per_prompt else contributions.mean(-1)


def attribution_total(
    model: TransformerBridge,
    cache: ActivationCache,
    answer_tokens: Int[Tensor, "batch 2"],
    last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """All components' contributions and the bias term, summed: equals each prompt's logit difference."""
    stack = decompose_at(cache, last)  # component batch d_model
    directions = logit_diff_directions(model, answer_tokens)
    parts = residual_stack_to_logit_diff(stack, cache, directions, per_prompt=True, last=last)
    return parts.sum(0) + bias_term(model, answer_tokens)


def decompose_at(
    cache: ActivationCache, last: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "component batch d_model"]:
    """Embedding, then each layer's attention and MLP output, at the last position; they sum to the final residual."""
    n_layers = cache.model.cfg.n_layers
    parts = [cache["resid_pre", 0]]
    parts += [cache[name, layer] for layer in range(n_layers) for name in ("attn_out", "mlp_out")]
    return torch.stack([at_last(part, last) for part in parts])


def component_labels(model: TransformerBridge) -> list[str]:
    """Names of what `decompose_at` stacks: embed, L0 attn, L0 mlp, …"""
    return ["embed", *(f"L{layer} {name}" for layer in range(model.cfg.n_layers) for name in ("attn", "mlp"))]


def head_results(
    model: TransformerBridge, cache: ActivationCache, last: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "layer head batch d_model"]:
    """What each head writes at the last position: z @ W_O. The attention output bias belongs to no head.

    Raises UnsupportedModel where a norm or a factor follows W_O, so that this is not what reaches the residual stream.
    """
    require_heads(model)
    layers = range(model.cfg.n_layers)
    z = torch.stack([at_last(cache["z", layer], last) for layer in layers])  # layer batch head d_head
    return torch.einsum("lbhd,lhdm->lhbm", z, model.W_O)


def head_attributions(
    model: TransformerBridge,
    cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
    per_prompt: bool = False,
    last: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "layer head"] | Float[Tensor, "layer head batch"]:
    """Each head's direct contribution to the logit difference."""
    return residual_stack_to_logit_diff(head_results(model, cache, last), cache, directions, per_prompt, last)


def top_heads(attributions: Float[Tensor, "layer head"], k: int, sign: int = 1) -> list[tuple[int, int]]:
    """The k heads with the largest (sign=1) or the most negative (sign=-1) values, as (layer, head)."""
    if sign not in (1, -1):
        raise ValueError(f"sign {sign!r} is not 1 (most positive) or -1 (most negative)")
    order = (attributions * sign).flatten().topk(k).indices.tolist()
    return [divmod(i, attributions.shape[1]) for i in order]


def head_name(layer: int, head: int) -> str:
    """L9H9 for layer 9, head 9."""
    return f"L{layer}H{head}"
