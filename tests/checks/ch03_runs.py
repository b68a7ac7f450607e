"""What the checks of chapter 03 patch: both runs, both metrics, one hooked run for each cell, and the built-in sweeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from unittest import mock

import torch
from torch import Tensor
from transformer_lens import ActivationCache, patching
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.core import both_models
from utils.ioi import NAMES, TEMPLATES, ioi_pairs

SHORT = (  # for the sweeps, which run once for each position
    "Then John and Mary sing,{S} gave",
    "When Tom and James talk;{S} said",
    "While Dan and Sid work,{S} had",
    "Then Martin and Amy cook,{S} said",
)
KEEP = [0, 3, 4, 7]  # no prompt beside its mirror, so that clean and corrupted cannot stand in for each other
SITES = ("z", "q", "k", "v", "pattern")
BASE = 0.375  # the sweeps' metric on the corrupted run
Hooks = list[tuple[str, Callable]]


@dataclass(frozen=True, eq=False)
class Runs:
    """A model with its clean and corrupted runs on four prompts, and both metrics."""

    model: TransformerBridge
    clean_tokens: Tensor
    corrupted_tokens: Tensor
    answers: Tensor
    clean_cache: ActivationCache
    corrupted_cache: ActivationCache
    clean: Tensor
    corrupted: Tensor

    @property
    def s2(self) -> int:
        """The position where the two runs differ."""
        return int((self.clean_tokens != self.corrupted_tokens).any(0).nonzero().item())

    @property
    def shares_keys(self) -> bool:
        return self.clean_cache["k", 0].shape[2] < self.model.cfg.n_heads

    def metric(self, logits: Tensor) -> Tensor:
        return (logit_diff_at(logits, self.answers).mean() - self.corrupted) / (self.clean - self.corrupted)

    def noising_metric(self, logits: Tensor) -> Tensor:
        return self.metric(logits) - 1

    def sweep_metric(self, logits: Tensor) -> Tensor:
        """What the sweeps are given: BASE on the corrupted run, so that a cell that is left out shows."""
        return self.metric(logits) + BASE

    def given(self) -> tuple:
        return self.model, self.corrupted_tokens, self.clean_cache, self.sweep_metric

    def sweep(self, hooks: Iterable[Hooks], shape: tuple[int, ...], noising: bool = False) -> Tensor:
        """The metric of one hooked run per entry, in the given shape: what mistaken loops would compute."""
        tokens = self.clean_tokens if noising else self.corrupted_tokens
        metric = self.noising_metric if noising else self.sweep_metric
        return torch.stack([metric(self.model.run_with_hooks(tokens, fwd_hooks=h)) for h in hooks]).reshape(shape)


def logit_diff_at(logits: Tensor, answers: Tensor, pos: int = -1) -> Tensor:
    prompts = torch.arange(len(answers))
    return logits[prompts, pos, answers[:, 0]] - logits[prompts, pos, answers[:, 1]]


@cache
def runs_of(model: TransformerBridge, templates: tuple[str, ...] = TEMPLATES) -> Runs:
    pairs = ioi_pairs(model, templates, NAMES)
    clean_tokens, corrupted_tokens, answers = (
        t[KEEP] for t in (pairs.clean_tokens, pairs.corrupted_tokens, pairs.answer_tokens)
    )
    clean_logits, clean_cache = model.run_with_cache(clean_tokens)
    corrupted_logits, corrupted_cache = model.run_with_cache(corrupted_tokens)
    baselines = (logit_diff_at(logits, answers).mean() for logits in (clean_logits, corrupted_logits))
    return Runs(model, clean_tokens, corrupted_tokens, answers, clean_cache, corrupted_cache, *baselines)


def both_runs(templates: tuple[str, ...] = TEMPLATES) -> Iterable[Runs]:
    return (runs_of(model, templates) for model in both_models())


@cache
def built_in(runs: Runs, sweep: str) -> Tensor:
    """`transformer_lens.patching`'s result, without its progress bars."""
    with mock.patch.object(patching, "tqdm", lambda items, **_: items):
        return getattr(patching, f"get_act_patch_{sweep}")(*runs.given())


def patched(name: str, layer: int, index: tuple, lends: ActivationCache) -> tuple[str, Callable]:
    """The hook that writes `index` of the lending run's activation into the run's own."""

    def hook_function(activation: Tensor, hook) -> Tensor:
        activation = activation.clone()
        activation[index] = lends[hook.name][index]
        return activation

    part = "attn." if name in SITES else ""
    return f"blocks.{layer}.{part}hook_{name}", hook_function
