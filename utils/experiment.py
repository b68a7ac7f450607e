"""One patching experiment: two runs, their scores, the scale from 0 to 1 between them, and sweeps on that scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from utils.attribution import logit_diff
from utils.inference import run_to_ends
from utils.patching.last_logits import LastLogits
from utils.patching.options import TokenMetric
from utils.prompts import PromptError, PromptPairs

# One number per prompt, read from the logits at its last position, `logits[:, -1]`.
Score = Callable[[Float[Tensor, "batch pos d_vocab"]], Float[Tensor, " batch"]]


@dataclass(frozen=True, eq=False)
class Experiment:
    """A clean and a corrupted run of the same pairs, and a score that tells them apart. `run_experiment` makes it.

    clean_scores, corrupted_scores: [batch], the score of each prompt in each run. clean_cache: the clean run's activations
    (see `utils.inference.small_cache`).
    """

    model: TransformerBridge
    pairs: PromptPairs
    score: Score
    clean_scores: Float[Tensor, " batch"]
    corrupted_scores: Float[Tensor, " batch"]
    clean_cache: ActivationCache

    @cached_property
    def corrupted_cache(self) -> ActivationCache:
        """The corrupted run's activations, cached when they are first asked for."""
        return run_to_ends(self.model, self.pairs.corrupted_tokens, self.pairs.corrupted_mask)[1]

    @property
    def clean(self) -> Float[Tensor, ""]:
        """The clean run's mean score."""
        return self.clean_scores.mean()

    @property
    def corrupted(self) -> Float[Tensor, ""]:
        """The corrupted run's mean score."""
        return self.corrupted_scores.mean()

    def denoising_metric(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, ""]:
        """The mean score, rescaled: 0 is the corrupted run, 1 the clean run."""
        return self._rescaled(self.corrupted, logits)

    def noising_metric(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, ""]:
        """The mean score, rescaled: 0 is the clean run, -1 the corrupted run."""
        return self._rescaled(self.clean, logits)

    def _rescaled(self, zero: Tensor, logits: Tensor, per_prompt: bool = False) -> Float[Tensor, "*batch"]:
        scores = self.score(logits)
        return ((scores if per_prompt else scores.mean()) - zero) / (self.clean - self.corrupted)

    def denoise(self, sweep: Callable, **options: Any) -> Any:
        """A sweep of clean activations patched into the corrupted run: 1 where a patch brings the clean score back.

        sweep: any `get_act_patch_*` of utils.patching or of transformer_lens.patching, or a loop of your own, called as
        sweep(model, corrupted_tokens, clean_cache, metric, **options). With reduce="mean" or "none" the metric has one
        value per prompt, all on the same scale: a prompt's own score against the two means.
        """
        tokens, mask = self.pairs.corrupted_tokens, self.pairs.corrupted_mask
        return self._sweep(sweep, tokens, mask, self.clean_cache, self.corrupted, options)

    def noise(self, sweep: Callable, **options: Any) -> Any:
        """A sweep of corrupted activations patched into the clean run: -1 where a patch takes the whole difference away."""
        tokens, mask = self.pairs.clean_tokens, self.pairs.clean_mask
        return self._sweep(sweep, tokens, mask, self.corrupted_cache, self.clean, options)

    def _sweep(self, sweep: Callable, tokens, mask, cache, zero: Tensor, options: dict[str, Any]) -> Any:
        metric = partial(self._rescaled, zero, per_prompt=options.get("reduce", "scalar") != "scalar")
        if not mask.all():
            options = {"attention_mask": mask, **options}
        if isinstance(self.score, TokenMetric):
            metric = TokenMetric(metric, self.score.tokens)
        return sweep(self.model, tokens, cache, metric, **options)


def run_experiment(model: TransformerBridge, pairs: PromptPairs, score: Score | None = None) -> Experiment:
    """Run both sides of the pairs and score them: two forward passes.

    score: logits to one number per prompt, read at `logits[:, -1]`, which holds each prompt's true last position. None: the
    logit of the correct answer minus that of the incorrect one. A score that reads a few tokens only can say which, as
    `utils.patching.options.TokenMetric(score, tokens)`: then sweeps compute no other logits. Raises PromptError for pairs
    whose sides have different lengths, and for pairs without answers where no score is given; ValueError for a score that is
    not one number per prompt, or that does not tell the runs apart.
    """
    if score is None:
        if pairs.answer_tokens is None:
            raise PromptError("these pairs have no answers: give them to make_pairs, or give run_experiment a score")
        score = partial(logit_diff, answer_tokens=pairs.answer_tokens, per_prompt=True)
        score = TokenMetric(score, pairs.answer_tokens.unique())
    if not torch.equal(pairs.clean_mask, pairs.corrupted_mask):
        row = int((pairs.clean_mask != pairs.corrupted_mask).any(1).nonzero()[0])
        raise PromptError(
            f"pair {row} has {int(pairs.clean_mask[row].sum())} clean and {int(pairs.corrupted_mask[row].sum())} corrupted "
            "tokens; a patch needs the same position on both sides: use words of one token each"
        )
    logits, clean_cache = run_to_ends(model, pairs.clean_tokens, pairs.clean_mask)
    clean = _scores(score, logits)
    corrupted = _scores(score, run_to_ends(model, pairs.corrupted_tokens, pairs.corrupted_mask, [])[0])
    if not (clean.mean() - corrupted.mean()).abs() > 1e-6 * max(1.0, float(clean.abs().max())):
        raise ValueError(
            f"the mean score is {clean.mean():.6g} in the clean and {corrupted.mean():.6g} in the corrupted run: there is no "
            "difference to bring back. Choose a corruption that changes the score"
        )
    return Experiment(model, pairs, score, clean, corrupted, clean_cache)


def _scores(score: Score, logits: Float[Tensor, "batch 1 d_vocab"]) -> Float[Tensor, " batch"]:
    scores = score(logits.as_subclass(LastLogits))
    if not isinstance(scores, Tensor) or scores.shape != (len(logits),):
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"the score returned {found}; it must return one number per prompt, a tensor ({len(logits)},)")
    return scores
