"""Running circuits at a few positions, where the others are as in a run that is known already.

Where every head has its mean, a position reads no other position: what stands there depends on its own token alone. So the
positions at which a circuit keeps no head at all are those of the empty circuit, whose streams are computed once, and only
the others (END, S2 and S1+1, for instance) are computed again, with the keys and values of the rest taken from there.
In the whole model every position reads all earlier ones: there, the positions before the first one at which a head is taken
out are as they were.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from utils.parts import Parts, may_read, position_ids, rotate

WORTH_IT = 0.5  # of the positions: where a circuit keeps heads at more of them, an ordinary run is about as fast


class KeptPositions(Parts):
    """The empty circuit of some prompts, or the whole model, and what differs from it at a few positions.

    whole: start from the whole model. k (rotated where the model rotates), v: [batch, pos, kv_head, d_head] of the run that
    is known, for each layer.
    """

    @torch.no_grad()
    def __init__(
        self,
        model,
        tokens: Int[Tensor, "batch pos"],
        means: Float[Tensor, "layer batch pos head d_head"],
        real: Bool[Tensor, "batch pos"],
        whole: bool = False,
    ) -> None:
        super().__init__(model)
        self.means, self.whole, self.rows = means, whole, torch.arange(len(tokens), device=tokens.device)
        self.last = real.sum(1) - 1  # padding is on the right
        self.allowed = may_read(real)
        self.embedded = model(tokens, stop_at_layer=0, attention_mask=None if real.all() else real.long())
        self.rotary = self.rotations(self.embedded, position_ids(real))
        self.k, self.v, x = [], [], self.embedded
        everywhere = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        for layer in range(self.n_layers):
            q, k, v = self._turned(layer, x, everywhere)
            self.k.append(k)
            self.v.append(v)
            x = self.after(layer, x, self.attend(q, k, v, self.allowed) if whole else means[layer])

    def where(self, mask: Bool[Tensor, "layer batch pos head"]) -> Int[Tensor, "batch n"]:
        """The positions of each prompt that have to be computed: those that are not as in the known run, and the last one.

        In their order; prompts with fewer of them than others have some more, which changes nothing.
        """
        if self.whole:
            changed = (~mask).any(0).any(-1).to(self.last.device).long().cummax(1).values.bool()
        else:
            changed = mask.any(0).any(-1).to(self.last.device)
        changed &= torch.arange(changed.shape[1], device=changed.device) <= self.last[:, None]
        changed[self.rows, self.last] = True
        chosen = (~changed).long().argsort(dim=1, stable=True)[:, : int(changed.sum(1).max())]
        return chosen.sort(1).values

    def worth_it(self, mask: Bool[Tensor, "layer batch pos head"]) -> bool:
        """Whether so few positions are computed that it saves time."""
        return self.where(mask).shape[1] <= WORTH_IT * self.embedded.shape[1]

    @torch.no_grad()
    def logits(
        self,
        mask: Bool[Tensor, "layer batch pos head"],
        instead: Float[Tensor, "layer batch pos head d_head"] | None = None,
    ) -> Float[Tensor, "batch 1 d_vocab"]:
        """Logits at each prompt's last position, where every head that the mask does not keep has its mean z.

        instead: another z for these heads; where the known run is the empty circuit, it has to be the means.
        """
        places, mask = self.where(mask), mask.to(self.last.device)
        here, instead = (self.rows[:, None], places), self.means if instead is None else instead
        x = self.embedded[here]  # batch n d_model
        for layer in range(self.n_layers):
            z, kept = instead[layer][here], mask[layer][here]
            if kept.any():
                q, own_k, own_v = self._turned(layer, x, places)
                k, v = self.k[layer].clone(), self.v[layer].clone()
                k[here], v[here] = own_k, own_v
                z = torch.where(kept[..., None], self.attend(q, k, v, self.allowed[here]), z)
            x = self.after(layer, x, z)
        return self.unembed(x[(places == self.last[:, None]).nonzero(as_tuple=True)].unsqueeze(1))

    def _turned(self, layer: int, x: Float[Tensor, "batch n d_model"], places: Int[Tensor, "batch n"]):
        """Queries, keys and values [batch, n, heads, d_head], rotated for the positions at which they stand."""
        q, k, v = self.qkv(layer, x)
        if self.rotary is None:
            return q, k, v
        turns = [part.expand(len(x), -1, -1)[self.rows[:, None], places] for part in self.rotary]
        return rotate(q, *turns), rotate(k, *turns), v
