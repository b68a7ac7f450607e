"""Scores that are kept: each prompt runs through the model once, and many questions are asked of the same numbers.

An analysis of guises asks for the same sentences again and again: *he is working* is a side of six features and of many
swaps. `GuiseBank` remembers what the model said of each prompt behind each prefix, and runs only what is new.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils.dialect import attribute_tokens
from utils.dialect.grammar import Pair, check_frames, check_pairs, check_words, favorability, fill
from utils.dialect.prefixes import behind
from utils.inference import end_logits


class GuiseBank:
    """Log-probabilities, in nats, of some attributes after prompts, for one model. Everything is on the CPU.

    attributes: words that are one token each with a space before them; None: the 37 traits, in the order of
    `favorability()`, which `utils.dialect.measures` expects. `len(bank)` is how many prompts it has run.
    """

    def __init__(self, model: TransformerBridge, attributes: Sequence[str] | None = None):
        self.model = model
        self.attributes = check_words(favorability() if attributes is None else attributes)
        self._tokens = attribute_tokens(model, self.attributes)
        self._kept: dict[tuple[str, str], Tensor] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def log_p(self, prompts: Sequence[str], prefix: str = "bos") -> Float[Tensor, "prompt attribute"]:
        """log p(attribute | prompt) at each prompt's true end. prefix: one of `utils.dialect.prefixes.PREFIXES`."""
        new = [prompt for prompt in dict.fromkeys(prompts) if (prefix, prompt) not in self._kept]
        if new:
            with behind(self.model, prefix) as front:
                # front() puts the prefix before frames; a prompt may hold braces, which are not slots
                start = front(["{}"])[0].format("")
                values = end_logits(self.model, [start + prompt for prompt in new], self._tokens, log_softmax=True)
            self._kept |= {(prefix, prompt): row for prompt, row in zip(new, values.cpu(), strict=True)}
        return torch.stack([self._kept[prefix, prompt] for prompt in prompts])

    def sides(
        self, pairs: Sequence[Pair], frames: Sequence[str], prefix: str = "bos"
    ) -> tuple[Float[Tensor, "pair frame attribute"], Float[Tensor, "pair frame attribute"]]:
        """What the model gives each attribute after each pair in each frame: AAE, SAE."""
        pairs, frames = check_pairs(pairs), check_frames(frames)
        prompts = [fill(frame, getattr(pair, side)) for side in ("aae", "sae") for pair in pairs for frame in frames]
        aae, sae = self.log_p(prompts, prefix).unflatten(0, (2, len(pairs), len(frames)))
        return aae, sae

    def log_ratios(
        self, pairs: Sequence[Pair], frames: Sequence[str], prefix: str = "bos"
    ) -> Float[Tensor, "pair frame attribute"]:
        """log p(attribute | AAE) - log p(attribute | SAE), whose mean over pairs is the paper's q."""
        aae, sae = self.sides(pairs, frames, prefix)
        return aae - sae

    def log_ratios_by_name(
        self, groups: Mapping[Hashable, Sequence[Pair]], frames: Sequence[str], prefix: str = "bos"
    ) -> dict[Hashable, Float[Tensor, "pair frame attribute"]]:
        """`log_ratios` of several groups of pairs in one go, which is several times as fast as one after another."""
        listed = {name: check_pairs(pairs) for name, pairs in groups.items()}
        ratios = self.log_ratios(list(itertools.chain.from_iterable(listed.values())), frames, prefix)
        return dict(zip(listed, ratios.split([len(pairs) for pairs in listed.values()]), strict=True))
