"""The parts of a model's blocks, called one by one: norms, projections, attention, MLPs, unembedding.

The bridge's own modules do the arithmetic; only attention is written out here, because a pass that resumes or that shares a
beginning must attend to keys and values of another run. Whoever uses the parts compares the result with the model: an
architecture that does more than this (sliding windows, soft caps, parallel blocks) is found out by its numbers.

Axes: pos is all positions, n those of them that are computed, head query heads, kv_head key/value heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def position_ids(attention_mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Positions counted from each prompt's first real token, as the bridge derives them from a mask."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def real_tokens(tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"] | None) -> Bool[Tensor, "batch pos"]:
    """Where there is no padding. mask: 1 at real tokens; None where all are."""
    return torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()


def may_read(real: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos pos"]:
    """Which keys each query may read. A padded query reads itself, so that its softmax is not empty."""
    causal = torch.ones(2 * [real.shape[1]], dtype=torch.bool, device=real.device).tril()
    return causal & real[:, None, :] | torch.eye(len(causal), dtype=torch.bool, device=real.device)


def rotate(x: Float[Tensor, "... n head d_head"], cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the half-split layout of Llama: `cos` and `sin` are [batch, n, d_head]."""
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-right, left], dim=-1) * sin


def repeat_kv(x: Float[Tensor, "... kv_head d_head"], n_heads: int) -> Float[Tensor, "... head d_head"]:
    """Keys or values for each of `n_heads` query heads: neighboring query heads share a key/value head."""
    return x.repeat_interleave(n_heads // x.shape[-2], dim=-2)


class Parts:
    """A model's blocks, taken apart. Hooks are bypassed where the bridge allows it."""

    def __init__(self, model) -> None:
        self.model, self.blocks, self.n_layers = model, model.blocks, model.cfg.n_layers
        self.d_head = model.cfg.d_head
        self.scale = model.cfg.d_head**-0.5

    def rotations(
        self, embedded: Float[Tensor, "batch pos d_model"], places: Int[Tensor, "batch pos"]
    ) -> tuple[Tensor, Tensor] | None:
        """cos and sin [batch, pos, d_head] from the model's own module: cfg.rotary_base can differ from what it uses."""
        module = getattr(self.model, "rotary_emb", None)
        return None if module is None else module.original_component(embedded, places)

    def qkv(self, layer: int, x: Float[Tensor, "... n d_model"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values [..., n, heads, d_head], before rotation (what hook_q and hook_k hold)."""
        attn = self.blocks[layer].attn
        h = self.blocks[layer].ln1.original_component(x)
        return tuple(part.original_component(h).unflatten(-1, (-1, self.d_head)) for part in (attn.q, attn.k, attn.v))

    def pattern(self, q, k, allowed: Bool[Tensor, "batch n pos"]) -> Float[Tensor, "batch head n pos"]:
        """Attention pattern from q [batch, n, head, d_head] and k [batch, pos, kv_head, d_head]."""
        scores = torch.einsum("bqhd,bkhd->bhqk", q, repeat_kv(k, q.shape[-2])) * self.scale
        return scores.masked_fill(~allowed[:, None], float("-inf")).softmax(-1)

    def read(
        self, pattern: Float[Tensor, "batch head n pos"], v: Float[Tensor, "batch pos kv_head d_head"]
    ) -> Float[Tensor, "batch n head d_head"]:
        """z: what each head reads with its pattern."""
        return torch.einsum("bhqk,bkhd->bqhd", pattern, repeat_kv(v, pattern.shape[1]))

    def attend(self, q, k, v, allowed: Bool[Tensor, "#batch n pos"]) -> Float[Tensor, "batch n head d_head"]:
        q, k, v = (part.transpose(-3, -2) for part in (q, k, v))  # [N, heads, n, d]
        z = F.scaled_dot_product_attention(q, k, v, allowed[:, None], scale=self.scale, enable_gqa=True)
        return z.transpose(-3, -2)

    def attn_out(self, layer: int, z: Float[Tensor, "... n head d_head"]) -> Float[Tensor, "... n d_model"]:
        return self.blocks[layer].attn.o.original_component(z.flatten(-2))

    def mlp_out(self, layer: int, mid: Float[Tensor, "... n d_model"]) -> Float[Tensor, "... n d_model"]:
        block = self.blocks[layer]
        return block.mlp(block.ln2.original_component(mid))

    def after(
        self, layer: int, x: Float[Tensor, "... n d_model"], z: Float[Tensor, "... n head d_head"]
    ) -> Float[Tensor, "... n d_model"]:
        """The stream x behind a block whose heads read z."""
        mid = x + self.attn_out(layer, z)
        return mid + self.mlp_out(layer, mid)

    def unembed(
        self, x: Float[Tensor, "... d_model"], tokens: Int[Tensor, " d_vocab"] | None = None
    ) -> Float[Tensor, "... d_vocab"]:
        """Logits of the whole vocabulary, or of these tokens only, which takes next to no time."""
        normed, unembedding = self.model.ln_final.original_component(x), self.model.unembed.original_component
        if tokens is None:
            return unembedding(normed)
        if type(unembedding) is not torch.nn.Linear:
            return unembedding(normed)[..., tokens]
        bias = None if unembedding.bias is None else unembedding.bias[tokens]
        return F.linear(normed, unembedding.weight[tokens], bias)
