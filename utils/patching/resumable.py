"""A forward pass that can resume: at any layer, from any position, for many patched copies of a batch at once.

It is made of `utils.parts`. `CorruptedRun` checks itself against the model when it is made, so an architecture that does more
than the parts do (sliding windows, soft caps, parallel blocks) is found out by its numbers.

Shapes: B prompts, T positions, L layers, D d_model, H query heads, K key/value heads, C patches (cells of a sweep),
n = T - start positions that are computed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from utils.assumptions import UnsupportedModel, disagree, hooks_on, peculiarities, probe_tokens, versions
from utils.parts import Parts, position_ids, rotate

# A patched residual stream that joins the pass: given (prompts, start), C patched copies [C, B, n, D].
Join = Callable[[Int[Tensor, " B"], int], Float[Tensor, "C B n D"]]
# Keys (rotated) and values [B, K, d_head] at one position, layer by layer.
Column = list[tuple[Tensor, Tensor]]


def last_positions(attention_mask: Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
    """Each prompt's last real position, whichever side it is padded on."""
    return attention_mask.shape[1] - 1 - attention_mask.flip(1).long().argmax(1)


def run_block(model, layer: int, resid: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """The residual stream after one block of the bridge, hooks included: unpadded prompts, whole from position 0.

    A block called by itself is not told where its tokens stand, and then a rotary model rotates nothing. The first call for
    a model (and for each greater length) compares every block with the model's own run, and raises UnsupportedModel where
    a block needs to be told more than that, such as how far it may look.
    """
    if resid.shape[1] > _longest_tried.get(model, 0):
        _try_blocks(model, resid.shape[1])
    return _run_block(model, layer, resid)


_longest_tried: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model → the length at which its blocks agreed


def _run_block(model, layer: int, resid: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    rotary = getattr(model, "rotary_emb", None)
    places = torch.arange(resid.shape[1], device=resid.device).unsqueeze(0)
    rotation = {} if rotary is None else {"position_embeddings": rotary.original_component(resid, places)}
    out = model.blocks[layer](resid, **rotation)  # a tensor, or a tuple that begins with it
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def _try_blocks(model, length: int) -> None:
    """Compare every block with the model's own run, unless hooks are on the model: then the next call without any does."""
    if hooks_on(model):
        return
    tokens = probe_tokens(model, length)
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith(("hook_in", "hook_out")))
    for layer in range(model.cfg.n_layers):
        before, after = (cache[f"blocks.{layer}.{end}"] for end in ("hook_in", "hook_out"))
        try:
            found = _run_block(model, layer, before)
        except (AttributeError, RuntimeError, TypeError, UnboundLocalError) as reason:
            raise UnsupportedModel(f"a block of {model.cfg.model_name} cannot be run by itself ({reason}); run the whole "
                                   f"model with hooks instead{peculiarities(model)}") from reason  # fmt: skip
        if off := disagree(found[:, 1:], after[:, 1:]):
            raise UnsupportedModel(
                f"block {layer} of {model.cfg.model_name}, run by itself on {length} tokens, is off by {off:.2g}; run the "
                f"whole model with hooks instead{peculiarities(model)} ({versions()})"
            )
    _longest_tried[model] = length


class CorruptedRun(Parts):
    """The unpatched pass on `tokens`, with what a patched pass needs in order to resume.

    resid_pre: L + 1 tensors [B, T, D] (the last one is the final residual stream). resid_mid: L tensors [B, T, D].
    k (rotated where the model rotates), v: L tensors [B, T, K, d_head]. last: [B], each prompt's last real position.
    Raises UnsupportedModel when its logits are not the model's.
    """

    def __init__(self, model, tokens: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"] | None = None):
        super().__init__(model)
        self.real = torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        self.last = last_positions(self.real)
        embedded = model(tokens, stop_at_layer=0, attention_mask=attention_mask)
        self.allowed = self._allowed()
        try:
            self.rotary = self.rotations(embedded, position_ids(self.real))
            self._run(embedded)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, TypeError) as reason:  # blocks built in another way
            raise UnsupportedModel(f"the resumable pass cannot run {model.cfg.model_name} ({reason})") from reason
        self._verify(tokens, attention_mask)

    def _allowed(self) -> Bool[Tensor, "B T T"]:
        """Which keys each query may read. A padded query reads itself, so that its softmax is not empty."""
        n_pos = self.real.shape[1]
        causal = torch.ones(n_pos, n_pos, dtype=torch.bool, device=self.real.device).tril()
        return causal & self.real[:, None, :] | torch.eye(n_pos, dtype=torch.bool, device=self.real.device)

    def _run(self, x: Float[Tensor, "B T D"]) -> None:
        everyone = torch.arange(len(x), device=x.device)
        self.resid_pre, self.resid_mid, self.k, self.v = [x], [], [], []
        for layer in range(self.n_layers):
            q, k, v = self.qkv(layer, x)
            q, k = self.rotated(q, everyone, 0), self.rotated(k, everyone, 0)
            mid = x + self.attn_out(layer, self.attend(q, k, v, self.allowed))
            x = mid + self.mlp_out(layer, mid)
            self.resid_pre.append(x)
            self.resid_mid.append(mid)
            self.k.append(k)
            self.v.append(v)

    def _verify(self, tokens, attention_mask) -> None:
        """Compare with the model on the longest prompt: the two passes agree to float error, or not at all."""
        row = self.real.sum(1).argmax().reshape(1)
        mask = None if attention_mask is None else attention_mask[row]
        expected = self.model(tokens[row], attention_mask=mask)[self.real[row]]
        if off := disagree(self.unembed(self.resid_pre[-1][row])[self.real[row]], expected):
            raise UnsupportedModel(
                f"the resumable pass and {self.model.cfg.model_name} differ by {off:.2g} in the logits"
                f"{peculiarities(self.model)} ({versions()})"
            )

    def rotated(self, x: Float[Tensor, "... B n heads d"], prompts: Int[Tensor, " B"], start: int) -> Tensor:
        if self.rotary is None:
            return x
        return rotate(x, *(part[prompts, start : start + x.shape[-3]] for part in self.rotary))

    # --- the resumed pass ---------------------------------------------------------------------------------------------

    def resume(
        self,
        pre: dict[int, Join],
        mid: dict[int, Join],
        prompts: Int[Tensor, " B"],
        start: int,
        last_only: bool = True,
        column: Column | None = None,
    ) -> Float[Tensor, "C B n_or_1 D"]:
        """The final residual stream of every patched copy that joins, in the order in which they join.

        pre[l] joins before block l (l = L: after the last block), mid[l] between its attention and its MLP. Positions
        before `start` are the unpatched run's, but that `column` holds the keys and values of the one just before it.
        With `last_only`, the last layer computes only each prompt's last position.
        """
        at_end = self.last[prompts] - start  # [B]

        def end(x):
            return x[:, torch.arange(len(prompts), device=x.device), at_end].unsqueeze(2) if last_only else x

        x = None  # [C so far, B, n, D]
        for layer in range(min([*pre, *mid]), self.n_layers):
            ends_here = end if layer == self.n_layers - 1 else _same
            x = _grow(x, pre.get(layer), prompts, start)
            if x is not None:
                x = ends_here(x) + self.resumed_attn_out(layer, x, prompts, start, ends_here, column)
            x = _grow(x, mid.get(layer), prompts, start, ends_here)
            if x is not None:
                flat = x.flatten(0, 1)
                x = (flat + self.mlp_out(layer, flat)).unflatten(0, x.shape[:2])
        return _grow(x, pre.get(self.n_layers), prompts, start, end)

    def resumed_attn_out(
        self, layer: int, x: Float[Tensor, "C B n D"], prompts, start: int, end, column: Column | None = None
    ) -> Float[Tensor, "C B n_or_1 D"]:
        """Attention output for patched copies: their own keys and values from `start`, the unpatched run's before it."""
        q, k, v = self.qkv(layer, x)
        q, k = self.rotated(q, prompts, start), self.rotated(k, prompts, start)
        before = [run[layer][prompts, :start] for run in (self.k, self.v)]  # copies
        if column is not None:
            for part, at_column in zip(before, column[layer], strict=True):
                part[:, -1] = at_column[prompts]
        k, v = (
            torch.cat([part.expand(len(x), -1, -1, -1, -1), own], dim=2).flatten(0, 1)
            for part, own in zip(before, (k, v), strict=True)
        )  # [C * B, T, K, d]
        stop = start + x.shape[2]
        allowed = self.allowed[prompts, start:stop, :stop].unsqueeze(0)  # [1, B, n, T]
        q, allowed = end(q), end(allowed)
        z = self.attend(q.flatten(0, 1), k, v, allowed.expand(len(x), -1, -1, -1).flatten(0, 1))
        return self.attn_out(layer, z).unflatten(0, x.shape[:2])

    def column(
        self, stream: Sequence[Float[Tensor, "B T D"]], prompts: Int[Tensor, " b"], pos: int, tolerance: float = 1e-5
    ) -> Column | None:
        """Keys and values at `pos` of another run, from its residual stream before every block.

        None unless, in those prompts, the stream is what this model makes of its first layer behind this run's earlier
        positions, to float error: then a patched residual stream at `pos` goes on as that run does, and needs no computing.
        """
        found = []
        for layer in range(self.n_layers):
            x = stream[layer][prompts, pos][None, :, None]  # [1, b, 1, D]
            _, k, v = self.qkv(layer, x)
            keys, values = self.k[layer][:, pos].clone(), self.v[layer][:, pos].clone()
            keys[prompts], values[prompts] = self.rotated(k, prompts, pos)[0, :, 0], v[0, :, 0]
            found.append((keys, values))
            if layer + 1 < self.n_layers:
                mid = (x + self.resumed_attn_out(layer, x, prompts, pos, _same)).flatten(0, 1)
                after, expected = (mid + self.mlp_out(layer, mid))[:, 0], stream[layer + 1][prompts, pos]
                if not ((after - expected).norm(dim=-1) <= tolerance * expected.norm(dim=-1)).all():
                    return None
        return found

    def head_z(self, layer: int, prompts, start: int, site: str | None = None, clean=None, at=slice(None)) -> Tensor:
        """z [B, n, H, d] with every head's `site` replaced by `clean` at positions `at` (absolute), each head on its own.

        site: "q", "k", "v", "pattern", "z", or None for the unpatched z. Heads of one layer do not read each other, so one
        call gives the patched z of all of them. clean: [B, T, heads, d], or [B, H, T, T] for "pattern".
        """
        acts = dict(zip("qkv", self.qkv(layer, self.resid_pre[layer][prompts]), strict=True))
        if site in acts:
            acts[site] = acts[site].clone()
            acts[site][:, at] = clean[:, at]
        q, k = self.rotated(acts["q"], prompts, 0), self.rotated(acts["k"], prompts, 0)
        pattern = self.pattern(q, k, self.allowed[prompts])
        if site == "pattern":
            pattern[:, :, at] = clean[:, :, at]
        v = acts["v"].repeat_interleave(q.shape[2] // acts["v"].shape[2], dim=2)
        z = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
        if site == "z":
            z[:, at] = clean[:, at]
        return z[:, start:]

    def activation(self, name: str, layer: int) -> Tensor:
        """An activation of the unpatched run, under TransformerLens' short name, for all prompts and positions."""
        pre, mid, post = self.resid_pre[layer], self.resid_mid[layer], self.resid_pre[layer + 1]
        if name in ("resid_pre", "resid_mid", "attn_out", "mlp_out"):
            return {"resid_pre": pre, "resid_mid": mid, "attn_out": mid - pre, "mlp_out": post - mid}[name]
        everyone = torch.arange(len(pre), device=pre.device)
        q, k, v = self.qkv(layer, pre)
        if name == "pattern":
            return self.pattern(self.rotated(q, everyone, 0), self.k[layer], self.allowed)
        return self.head_z(layer, everyone, 0) if name == "z" else {"q": q, "k": k, "v": v}[name]


def _same(x: Tensor) -> Tensor:
    return x


def _grow(x: Tensor | None, join: Join | None, prompts, start: int, end=_same) -> Tensor | None:
    """The batch of patched copies, plus those that join here."""
    if join is None:
        return x
    new = end(join(prompts, start))
    return new if x is None else torch.cat([x, new])
