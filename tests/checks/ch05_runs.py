"""What the checks of chapter 05 patch: a receiving and a lending run. The oracle, `tests.plain_paths`, is two hooked runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.core import both_models
from tests.plain_paths import by_hooks

CLEAN = (  # five, as many as no other axis of the fixtures has
    "When John and Mary went to the store, John gave a drink to",
    "Then Tom and Amy went to the park, Amy gave a ring to",
    "After Dan and Sid went to the house, Dan gave a kiss to",
    "While Paul and Jane went to the school, Jane said a book to",
    "When Mark and Kate went to the garden, Mark had an apple to",
)
OTHER = (
    "When Anna and Mary went to the park, Mary gave a bag to",
    "Then Tom and Bob went to the store, Luke had a ring to",
    "While Dan and Emma went to the house, Sid gave a drink to",
    "While Jack and Ruth went to the office, Jane gave the book to",
    "Then Mark and Kate went to the garden, Adam had an apple to",
)
ANSWERS = ((" Mary", " John"), (" Tom", " Amy"), (" Sid", " Dan"), (" Paul", " Jane"), (" Kate", " Mark"))
AT = torch.tensor([2, 4, 10, 10, 14])  # a position in each prompt, the last one among them


@dataclass(eq=False)
class Runs:
    """The receiving run (orig) and the lending run (new) of one model, and a metric that is 0 on neither."""

    model: TransformerBridge

    @cached_property
    def tokens(self) -> Tensor:
        return self.model.to_tokens(CLEAN)

    @cached_property
    def orig(self) -> ActivationCache:
        return self.model.run_with_cache(self.tokens)[1]

    @cached_property
    def new(self) -> ActivationCache:
        return self.model.run_with_cache(self.model.to_tokens(OTHER))[1]

    @cached_property
    def answers(self) -> Tensor:
        return torch.tensor([[self.model.to_single_token(word) for word in pair] for pair in ANSWERS])

    @cached_property
    def base(self) -> Tensor:
        """The metric of the receiving run."""
        return self.metric(self.model(self.tokens))

    def metric(self, logits: Tensor) -> Tensor:
        correct, incorrect = logits[:, -1].gather(-1, self.answers).unbind(-1)
        return 0.7 + 1.3 * (correct - incorrect).mean()

    def heads(self, layers: Sequence[int] | None = None) -> list[list[tuple[int, int]]]:
        layers = range(self.model.cfg.n_layers) if layers is None else layers
        return [[(layer, head) for head in range(self.model.cfg.n_heads)] for layer in layers]

    def table(self, value: Callable[[tuple[int, int]], Tensor], layers: Sequence[int] | None = None) -> Tensor:
        """[layer, head] of a function of the sender."""
        return torch.stack([torch.stack([value(head) for head in row]) for row in self.heads(layers)])

    def message(self, layer: int, head: int) -> Tensor:
        return (self.new["z", layer][:, :, head] - self.orig["z", layer][:, :, head]) @ self.model.W_O[layer, head]

    def path(
        self, senders, receivers="logits", component=None, at=None, free=False, swapped=False, held=None
    ) -> Tensor:
        """The metric of one path. held: the cache that everything else is frozen at."""
        lending = self.orig if swapped else self.new
        held = (self.new if swapped else self.orig) if held is None else held
        if component in ("k", "v"):
            group = self.model.cfg.n_heads // self.orig[component, 0].shape[2]
            receivers = [(layer, head // group) for layer, head in receivers]
        senders = [senders] if isinstance(senders, tuple) else senders
        return by_hooks(
            self.model, self.tokens, lending, self.metric, senders, receivers, component, at, free, receiving=held
        )

    def run(self, *hooks: tuple[str, Callable]) -> Tensor:
        return self.metric(self.model.run_with_hooks(self.tokens, fwd_hooks=list(hooks)))

    def patched(self, layer: int, head: int, at=None) -> Tensor:
        """Activation patching of one head."""
        return self.run(self.send(layer, head, at))

    def send(self, layer: int, head: int, at=None) -> tuple[str, Callable]:
        where = slice(None) if at is None else (torch.arange(len(self.tokens)), at)

        def change(z: Tensor, hook) -> Tensor:
            z = z.clone()
            z[:, :, head][where] = self.new[hook.name][:, :, head][where]
            return z

        return f"blocks.{layer}.attn.hook_z", change


@cache
def runs_of(model: TransformerBridge) -> Runs:
    return Runs(model)


def both_runs() -> Iterable[Runs]:
    return map(runs_of, both_models())


def both_runs_shared_first() -> Iterable[Runs]:
    """The Llama first: on the GPT-2, with keys and values of its own for every head, more mistakes look the same."""
    return map(runs_of, reversed(list(both_models())))


def added(name: str, delta: Tensor, alone: bool = False) -> tuple[str, Callable]:
    """The hook that adds delta to a stream. alone: that puts delta in its place."""
    return name, lambda stream, hook: delta.expand_as(stream) if alone else stream + delta
