"""A forward pass that can resume: at any layer, from any position, for many patched copies of a batch at once.

It is made of `utils.parts`. `CorruptedRun` compares itself with the model when it is made, so that an architecture which does
more than the parts do (sliding windows, soft caps, parallel blocks) is found out by its numbers.

Axes: batch (prompts), pos, layer, head, kv_head, d_head, d_model; copy (cells of a sweep), n (the positions from `start` on).
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from utils.assumptions import UnsupportedModel, disagree, peculiarities, versions, weights
from utils.parts import Parts, may_read, position_ids, real_tokens, rotate
from utils.prompts import last_positions

KEPT_BYTES = 2**25  # a run that takes more than this (some ten prompts) is made anew for each sweep


@dataclass(frozen=True)
class Group:
    """Prompts that are computed together, from position `start` on. What stands before is the unpatched run's."""

    prompts: Int[Tensor, " rows"]
    start: int


# Patched residual streams that join the pass, for the prompts and the positions of a group.
Join = Callable[[Group], Float[Tensor, "copy batch n d_model"]]
# Where copies join the pass: before "attention" or before "mlp" of a layer; ("attention", n_layers) is after the last block.
Joins = dict[tuple[str, int], Join]


class CorruptedRun(Parts):
    """The unpatched pass on `tokens`, with what a patched pass needs in order to resume.

    resid_pre: a tensor [batch, pos, d_model] for each layer, and one more, the final residual stream. resid_mid: one for
    each layer. k (rotated where the model rotates), v: [batch, pos, kv_head, d_head] for each layer. real: [batch, pos],
    False at padding. last: [batch], each prompt's last real position. rows: [batch], the number of each prompt.
    Raises UnsupportedModel when its logits are not the model's.
    """

    def __init__(self, model, tokens: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"] | None = None):
        super().__init__(model)
        self.real = real_tokens(tokens, attention_mask)
        self.last = last_positions(self.real)
        self.rows, self.tokens = torch.arange(len(tokens), device=tokens.device), tokens.clone()
        self.allowed = may_read(self.real)
        embedded = model(tokens, stop_at_layer=0, attention_mask=attention_mask)
        try:
            self.rotary = self.rotations(embedded, position_ids(self.real))
            self._run(embedded)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, TypeError) as reason:  # blocks built in another way
            raise UnsupportedModel(f"the resumable pass cannot run {model.cfg.model_name} ({reason})") from reason
        require_the_models_logits(self, tokens, attention_mask)

    def _run(self, x: Float[Tensor, "batch pos d_model"]) -> None:
        self.resid_pre, self.resid_mid, self.k, self.v = [x], [], [], []
        for layer in range(self.n_layers):
            q, k, v = self.qkv(layer, x)
            q, k = self.rotated(q, self.rows, 0), self.rotated(k, self.rows, 0)
            mid = x + self.attn_out(layer, self.attend(q, k, v, self.allowed))
            x = mid + self.mlp_out(layer, mid)
            self.resid_pre.append(x)
            self.resid_mid.append(mid)
            self.k.append(k)
            self.v.append(v)

    def rotated(self, x: Float[Tensor, "... n head d_head"], prompts: Int[Tensor, " rows"], start: int) -> Tensor:
        """Queries or keys at the positions from `start` on, rotated where the model rotates."""
        if self.rotary is None:
            return x
        return rotate(x, *(part[prompts, start : start + x.shape[-3]] for part in self.rotary))

    # --- the unpatched run's activations ------------------------------------------------------------------------------

    def activation(self, site: str, layer: int) -> Tensor:
        """An activation of the unpatched run, under TransformerLens' short name, for all prompts and positions."""
        pre, mid, post = self.resid_pre[layer], self.resid_mid[layer], self.resid_pre[layer + 1]
        if site in ("resid_pre", "resid_mid", "attn_out", "mlp_out"):
            return {"resid_pre": pre, "resid_mid": mid, "attn_out": mid - pre, "mlp_out": post - mid}[site]
        if site == "z":
            return self._all_z[layer] if self.is_small else self.head_z(layer, Group(self.rows, 0))
        q, k, v = self.qkv(layer, pre)
        if site == "pattern":
            return self.pattern(self.rotated(q, self.rows, 0), self.k[layer], self.allowed)
        return {"q": q, "k": k, "v": v}[site]

    @cached_property
    def is_small(self) -> bool:
        """Whether it takes little enough memory to be kept, with its z, for the next sweep of the same prompts."""
        streams = [*self.resid_pre, *self.resid_mid, *self.k, *self.v]
        return sum(stream.nbytes for stream in streams) <= KEPT_BYTES

    @cached_property
    def _all_z(self) -> list[Float[Tensor, "batch pos head d_head"]]:
        return [self.head_z(layer, Group(self.rows, 0)) for layer in range(self.n_layers)]

    def head_z(self, layer: int, group: Group, site: str | None = None, clean=None, pos: int | None = None) -> Tensor:
        """z [batch, n, head, d_head] with every head's `site` replaced by `clean`, each head on its own.

        site: "q", "k", "v", "pattern", "z", or None for the unpatched z. Heads of one layer do not read each other, so one
        call gives the patched z of all of them. clean: the group's [batch, pos, heads, d_head], or [batch, head, pos, pos]
        for "pattern". pos: the position where it is put in; None: everywhere.
        """
        here = slice(None) if pos is None else slice(pos, pos + 1)
        acts = dict(zip("qkv", self.qkv(layer, self.resid_pre[layer][group.prompts]), strict=True))
        if site in acts:
            acts[site] = acts[site].clone()
            acts[site][:, here] = clean[:, here]
        q, k = (self.rotated(acts[name], group.prompts, 0) for name in "qk")
        pattern = self.pattern(q, k, self.allowed[group.prompts])
        if site == "pattern":
            pattern[:, :, here] = clean[:, :, here]
        z = self.read(pattern, acts["v"])
        if site == "z":
            z[:, here] = clean[:, here]
        return z[:, group.start :]

    # --- the resumed pass ---------------------------------------------------------------------------------------------

    def resume(self, joins: Joins, group: Group, last_only: bool = True) -> Float[Tensor, "copy batch n_or_1 d_model"]:
        """The final residual stream of every patched copy that joins, in the order in which they join.

        With `last_only`, only at each prompt's last position: then the last layer computes nothing else.
        """
        copies = None  # [copy, batch, n, d_model]: those that have joined so far
        for layer in range(min(layer for _, layer in joins), self.n_layers):
            ending = last_only and layer == self.n_layers - 1
            copies = _joined(copies, joins.get(("attention", layer)), group)
            if copies is not None:
                before = self.ends(copies, group) if ending else copies
                copies = before + self.resumed_attn_out(layer, copies, group, ending)
            copies = _joined(copies, joins.get(("mlp", layer)), group, self.ends if ending else None)
            if copies is not None:
                flat = copies.flatten(0, 1)
                copies = (flat + self.mlp_out(layer, flat)).unflatten(0, copies.shape[:2])
        return _joined(copies, joins.get(("attention", self.n_layers)), group, self.ends if last_only else None)

    def resumed_attn_out(
        self, layer: int, copies: Tensor, group: Group, ending: bool = False, qkv: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Attention output [copy, batch, n, d_model] of patched copies: their own keys and values from `start` on, and
        the unpatched run's before it. ending: at each prompt's last position only. qkv: the copies' queries, keys and
        values, where they are not simply what the copies' streams give."""
        return self.attn_out(
            layer, self.resumed_z(layer, self.qkv(layer, copies) if qkv is None else qkv, group, ending)
        )

    def resumed_z(
        self, layer: int, qkv: Sequence[Tensor], group: Group, ending: bool = False
    ) -> Float[Tensor, "copy batch n_or_1 head d_head"]:
        """What the heads of patched copies read, from the copies' queries, keys and values at the group's positions."""
        q, k, v = qkv
        n_copies, stop = len(q), group.start + q.shape[2]
        q, k = (self.rotated(part, group.prompts, group.start) for part in (q, k))
        before = (
            part[layer][group.prompts, : group.start].expand(n_copies, -1, -1, -1, -1) for part in (self.k, self.v)
        )
        k, v = (torch.cat(both, dim=2).flatten(0, 1) for both in zip(before, (k, v), strict=True))
        # k and v: [copy * batch, pos, kv_head, d_head]
        allowed = self.allowed[group.prompts, group.start : stop, :stop].unsqueeze(0)  # [1, batch, n, pos]
        if ending:
            q, allowed = self.ends(q, group), self.ends(allowed, group)
        allowed = allowed.expand(n_copies, -1, -1, -1).flatten(0, 1)
        return self.attend(q.flatten(0, 1), k, v, allowed).unflatten(0, (n_copies, len(group.prompts)))

    def ends(self, x: Shaped[Tensor, "copy batch n ..."], group: Group) -> Shaped[Tensor, "copy batch 1 ..."]:
        """What stands at each prompt's last position."""
        rows = torch.arange(len(group.prompts), device=x.device)
        return x[:, rows, self.last[group.prompts] - group.start].unsqueeze(2)


def _joined(copies: Tensor | None, join: Join | None, group: Group, ends: Callable | None = None) -> Tensor | None:
    """The patched copies, and behind them those that join here."""
    if join is None:
        return copies
    new = join(group) if ends is None else ends(join(group), group)
    return new if copies is None else torch.cat([copies, new])


def require_the_models_logits(run: CorruptedRun, tokens: Tensor, attention_mask: Tensor | None) -> None:
    """Compare the pass with the model on the longest prompt: the two agree to float error, or UnsupportedModel is raised."""
    row = run.real.sum(1).argmax().reshape(1)
    mask = None if attention_mask is None else attention_mask[row]
    expected = run.model(tokens[row], attention_mask=mask)[run.real[row]]
    if off := disagree(run.unembed(run.resid_pre[-1][row])[run.real[row]], expected):
        raise UnsupportedModel(
            f"the resumable pass and {run.model.cfg.model_name} differ by {off:.2g} in the logits"
            f"{peculiarities(run.model)} ({versions()})"
        )


# --- one run for several sweeps ---------------------------------------------------------------------------------------

_last: list[tuple[CorruptedRun, tuple, weakref.ref]] = []  # at most one


@torch.no_grad()
def receiving_run(
    model, tokens: Int[Tensor, "batch pos"], attention_mask: Int[Tensor, "batch pos"] | None = None
) -> CorruptedRun:
    """The unpatched pass on `tokens`: the last small one again, if model, weights, tokens and mask are those it was made of.

    It is forgotten with the tokens that it was made of. Raises UnsupportedModel as `CorruptedRun` does.
    """
    give_back_memory()
    now, real = _state(model), real_tokens(tokens, attention_mask)
    for run, then, _ in _last:
        same = run.model is model and then == now and tokens.device == run.tokens.device
        if same and torch.equal(tokens, run.tokens) and torch.equal(real, run.real):
            return run
    _last.clear()
    run = CorruptedRun(model, tokens, attention_mask)
    if run.is_small:
        _last.append((run, now, weakref.ref(tokens, lambda _: _last.clear())))
    return run


def give_back_memory() -> None:
    """What earlier sweeps have freed goes back to the system, where the C library (glibc) would keep it in pieces."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _state(model) -> tuple:
    """What a run depends on: every weight, its sum as well, since `.data` can be written to unseen; and torch's own hooks."""
    sums = tuple(weight.sum().item() for weight in model.parameters())
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    return weights(model), sums, hooks
