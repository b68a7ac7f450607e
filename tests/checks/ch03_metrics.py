"""Checks of chapter 03, first part: two metrics, and one patch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call, with_a_gradient
from tests.checks.ch03_runs import both_runs, logit_diff_at
from tests.checks.comparing import require_equal
from tests.checks.core import exercise, require

# --- metrics ----------------------------------------------------------------------------------------------------------


@exercise(
    "03",
    look="section 2: subtract what should become 0, divide by the distance between the baselines",
    takes="logits answer_tokens clean corrupted",
)
def check_ioi_metric(learner: Callable) -> str:
    return _check_metric(learner, noising=False)


@exercise(
    "03", look="section 2: the clean run is 0 and the corrupted run is −1", takes="logits answer_tokens clean corrupted"
)
def check_noising_metric(learner: Callable) -> str:
    return _check_metric(learner, noising=True)


def _check_metric(learner: Callable, noising: bool) -> str:
    answers = torch.tensor([[3, 5], [5, 3], [1, 7], [8, 0], [2, 6]])
    for seed, (clean, corrupted) in enumerate(
        (map(torch.tensor, (2.5, -1.5)), (-0.7, 1.1), map(torch.tensor, (3.0, 0.5)))
    ):
        logits = torch.randn(5, 4, 9, generator=torch.Generator().manual_seed(seed)) * 3
        per_prompt = logit_diff_at(logits, answers)
        mean, distance = per_prompt.mean(), clean - corrupted
        denoised, noised = (mean - corrupted) / distance, (mean - clean) / distance
        right, other = (noised, denoised) if noising else (denoised, noised)
        own = clean if noising else corrupted
        mistakes = {
            "the metric of denoising: for noising, 0 should mean the clean run, so subtract clean"
            if noising
            else "the metric of noising: for denoising, 0 should mean the corrupted run, so subtract corrupted": lambda: (
                other
            ),
            "inverted: this is 0 where it should be at its other end, and runs the other way": lambda: -other,
            "divides by the wrong sign: the distance is clean − corrupted": lambda: -right,
            "not divided by the distance between the baselines": lambda: right * distance,
            "only divided, nothing is subtracted": lambda: mean / distance,
            "not rescaled: this is the logit difference itself": lambda: mean,
            "this is the distance between the baselines alone": lambda: torch.as_tensor(distance),
            "this is a baseline over the distance: subtract it from the mean": lambda: torch.as_tensor(own / distance),
            "the baseline is added: subtract it": lambda: (mean + own) / distance,
            "divided by the clean baseline: divide by the distance, clean − corrupted": lambda: (mean - own) / clean,
            "divided by the corrupted baseline: divide by the distance, clean − corrupted": lambda: (
                (mean - own) / corrupted
            ),
            "read at the first position: the answer is predicted at the last one": lambda: (
                (logit_diff_at(logits, answers, 0).mean() - own) / distance
            ),
            "clamped between the two ends: a patch may go beyond them": lambda: right.clamp(
                *((-1, 0) if noising else (0, 1))
            ),
            "one value per prompt: a metric is one number, so take the mean": lambda: (per_prompt - own) / distance,
        }
        held = require_equal(
            call(learner, logits, answers, clean, corrupted),
            right,
            "the mean logit difference, rescaled to 0 (clean) and −1 (corrupted)"
            if noising
            else "the mean logit difference, rescaled to 0 (corrupted) and 1 (clean)",
            mistakes=mistakes,
            is_tensor=True,
        )
        _require_gradient(learner, logits, answers, clean, corrupted)
    clean, corrupted = 2.0, 0.5
    require_equal(
        call(learner, logits[:1], answers[:1], clean, corrupted),
        (per_prompt[0] - (clean if noising else corrupted)) / (clean - corrupted),
        "the metric of a batch of one prompt",
    )
    ends = (
        "0 on the clean run and −1 on the corrupted run" if noising else "0 on the corrupted run and 1 on the clean run"
    )
    for runs in both_runs():
        logits = runs.model(runs.clean_tokens), runs.model(runs.corrupted_tokens)
        values = [call(learner, each, runs.answers, runs.clean, runs.corrupted) for each in logits]
        want = torch.tensor([0.0, -1.0]) if noising else torch.tensor([1.0, 0.0])
        require_equal(values, want, f"the metric of the clean and the corrupted run of {runs.model.cfg.model_name}")
    return f"{ends}, with a gradient, whether the baselines are tensors or floats ({held})"


def _require_gradient(learner: Callable, logits: Tensor, answers: Tensor, clean, corrupted) -> None:
    """The metric's gradient with respect to the logits: it is linear in them."""
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        value = with_a_gradient(learner, leaf, answers, clean, corrupted)
        ok = isinstance(value, Tensor) and value.requires_grad
        require(
            ok, "the gradient of the metric: it has none", "keep it a tensor, without .item(), .detach() or no_grad()"
        )
        (gradient,) = torch.autograd.grad(value, leaf)
    want, rows = torch.zeros_like(logits), torch.arange(len(answers))
    share = float(1 / (clean - corrupted)) / len(answers)
    want[rows, -1, answers[:, 0]], want[rows, -1, answers[:, 1]] = share, -share
    require_equal(gradient, want, "the gradient of the metric", axes="prompt position token")


# --- one patch --------------------------------------------------------------------------------------------------------


@exercise(
    "03",
    look="section 3: the axes are [batch, pos, …], and hook.name is the key of the clean cache",
)
def check_patch_position(learner: Callable) -> str:
    for runs in both_runs():
        for name, layer, pos in (("resid_pre", 1, 3), ("mlp_out", 2, 0), ("attn_out", 0, 11)):
            hook = _hook(runs.model, f"blocks.{layer}.hook_{name}")
            activation = runs.corrupted_cache[hook.name] + 1  # differs from the clean run at every position
            clean = runs.clean_cache[hook.name]
            held = require_equal(
                call(learner, activation, hook=hook, pos=pos, clean_cache=runs.clean_cache),
                _replaced(activation, clean, (slice(None), pos)),
                f"{name} of layer {layer} of {runs.model.cfg.model_name}, with position {pos} from the clean run",
                axes="batch position d_model",
                mistakes={
                    "you patched every position: index position `pos` only": lambda: clean,
                    "you patched a prompt, not a position: the batch is axis 0, positions are axis 1": lambda: (
                        _replaced(activation, clean, (pos % len(activation),))
                    ),
                    "you patched from `pos` on: index position `pos` only": lambda: _replaced(
                        activation, clean, (slice(None), slice(pos, None))
                    ),
                    "you patched up to `pos`: index position `pos` only": lambda: _replaced(
                        activation, clean, (slice(None), slice(0, pos + 1))
                    ),
                    "you patched the last position: use `pos`": lambda: _replaced(activation, clean, (slice(None), -1)),
                    "you patched one coordinate at every position: positions are axis 1": lambda: _replaced(
                        activation, clean, (..., pos)
                    ),
                    "you patched every position but `pos`: the other way round": lambda: _replaced(
                        clean, activation, (slice(None), pos)
                    ),
                    "nothing is patched: the activation comes back as it was": lambda: activation,
                    "the clean values are added: put them in place of its own": lambda: _replaced(
                        activation, activation + clean, (slice(None), pos)
                    ),
                    "every prompt gets the first prompt's clean values: each has its own": lambda: _replaced(
                        activation, clean[:1].expand_as(clean), (slice(None), pos)
                    ),
                },
            )
    return f"positions 3, 0 and 11 of three activations are clean in every prompt, everything else untouched ({held})"


@cache
def _hook(model: TransformerBridge, name: str):
    """A hook point, found as a run finds it: the name that a hook function sees may be an alias."""
    seen = []
    model.run_with_hooks(torch.zeros(1, 2, dtype=torch.long), fwd_hooks=[(name, lambda _, hook: seen.append(hook))])
    return seen[0]


def _replaced(activation: Tensor, clean: Tensor, index: tuple) -> Tensor:
    activation = activation.clone()
    activation[index] = clean[index]
    return activation
