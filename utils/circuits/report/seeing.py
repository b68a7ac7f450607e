"""The first steps of a report, for pairs of any lengths: can the model do the task, who writes the answer, and when."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Int
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from utils.attribution import (
    apply_final_norm,
    bias_term,
    decompose_at,
    head_attributions,
    logit_diff,
    logit_diff_directions,
    residual_stack_to_logit_diff,
)
from utils.circuits.report.task import ReportTask
from utils.inference import end_logits, run_to_ends
from utils.prompts import at_last, tokenize
from utils.stats import bootstrap_interval

BEST_SHOWN = 3
LENIENT = 1e-3  # logits by which a sum may miss the logit difference, beside 1e-4 of its size


def behavior_step(task: ReportTask) -> dict[str, Any]:
    """Each pair's logit difference in both runs, their means with intervals, the share right, and what the model prefers.

    The interval is a bootstrap over pairs. stop: why the rest would mean nothing, or "".
    """
    pairs, logits = task.pairs_of(range(len(task.rows))), {}
    for side, prompts in (("clean", pairs.clean_text), ("corrupted", pairs.corrupted_text)):
        logits[side] = end_logits(task.model, prompts, batch_size=16)  # pair d_vocab
    scores = {side: logit_diff(value[:, None], pairs.answer_tokens, per_prompt=True) for side, value in logits.items()}
    difference = scores["clean"] - scores["corrupted"]
    right = int((scores["clean"] > 0).sum())
    share = stats.binomtest(right, len(pairs)).proportion_ci(method="wilson")
    probabilities = logits["clean"].softmax(-1)
    answers = pairs.answer_tokens
    favorites = torch.bincount(logits["clean"].argmax(-1), minlength=task.model.cfg.d_vocab).topk(BEST_SHOWN)
    result = {
        "clean": scores["clean"],
        "corrupted": scores["corrupted"],
        "n_right": right,
        "share_right": right / len(pairs),
        "share_interval": [share.low, share.high],
        "top_1": (logits["clean"].argmax(-1) == answers[:, 0]).float().mean(),
        "mass": probabilities.gather(1, answers).sum(1).mean(),
        "favorites": [
            [task.model.to_string([i]), n]
            for i, n in zip(favorites.indices.tolist(), favorites.values.tolist(), strict=True)
            if n
        ],
        "templates": [row.template for row in task.rows],
    }
    for name, values in (("clean", scores["clean"]), ("corrupted", scores["corrupted"]), ("difference", difference)):
        low, high = bootstrap_interval(values, seed=task.settings.seed)
        result |= {f"{name}_mean": values.mean(), f"{name}_interval": [low, high]}
    return result | {
        "stop": stopping_reason(result["clean_interval"], result["difference_interval"], result["share_right"])
    }


def stopping_reason(clean: list[float], difference: list[float], share_right: float) -> str:
    """Why a search for a circuit would mean nothing: a sentence, or "".

    clean, difference: 95 % intervals of the clean run's mean logit difference, and of clean minus corrupted.
    """
    if clean[0] <= 0:
        return (
            f"The interval of the mean logit difference, {clean[0]:.2f} to {clean[1]:.2f}, does not lie above zero: "
            "these pairs do not show that the model prefers the answer."
        )
    if share_right <= 0.5:
        return f"The model prefers the answer in only {share_right:.0%} of the pairs; a few large values make the mean."
    if difference[0] <= 0:
        return (
            f"The corruption hardly changes the answer: clean minus corrupted is {difference[0]:.2f} to {difference[1]:.2f}, "
            "so there is nothing for a patch to bring back."
        )
    return ""


# --- attribution and lens: one run of each side, batch by batch -----------------------------------------------------------


@torch.no_grad()
def attribution_step(task: ReportTask) -> dict[str, Any]:
    """What each layer and each head adds to the logit difference, and how it builds up, on both sides: means over pairs.

    largest_error: by how much components and bias together miss a pair's logit difference, at most. SIDE_parts: the
    components and the bias. SIDE_heads and SIDE_heads_spread: [layer, head], mean and standard deviation over pairs.
    SIDE_own: the logit difference read from the stream before and after every layer, each divided by its own size, which is
    the logit lens. SIDE_final: all divided by the last one's size, which is cumulative attribution.
    Raises ArithmeticError where the parts do not add up.
    """
    found: dict[str, list[Tensor]] = defaultdict(list)
    for rows in tqdm(task.batches(), desc="attribution", leave=False):
        pairs = task.pairs_of(rows)
        for side, prompts in (("clean", pairs.clean_text), ("corrupted", pairs.corrupted_text)):
            for name, values in _attributed(task, prompts, pairs.answer_tokens).items():
                found[name if name in ("error", "size") else f"{side}_{name}"].append(values)
    whole = {name: torch.cat(values, -1) for name, values in found.items()}
    error, size = whole.pop("error").max().item(), whole.pop("size").max().item()
    if error > LENIENT + 1e-4 * size:
        raise ArithmeticError(
            f"the parts miss the logit difference by {error:.3g} on {task.model.cfg.model_name}: the attribution is not to "
            "be trusted, so no report is made"
        )
    spreads = {f"{side}_heads_spread": whole[f"{side}_heads"].std(-1) for side in ("clean", "corrupted")}
    return {"largest_error": error} | {name: values.mean(-1) for name, values in whole.items()} | spreads


def _attributed(task: ReportTask, prompts: list[str], answers: Int[Tensor, "batch 2"]) -> dict[str, Tensor]:
    """The parts of each prompt's logit difference: the last axis is the batch."""
    model = task.model
    tokens, mask = tokenize(model, prompts)
    (logits, cache), last = run_to_ends(model, tokens, mask), mask.sum(-1) - 1
    directions, bias = logit_diff_directions(model, answers), bias_term(model, answers)
    added = residual_stack_to_logit_diff(decompose_at(cache, last), cache, directions, per_prompt=True, last=last)
    parts = torch.cat([added, bias[None]])  # component + 1, batch
    difference = logit_diff(logits, answers, per_prompt=True)
    streams = [cache["resid_pre", 0], *(cache["resid_post", layer] for layer in range(model.cfg.n_layers))]
    stack = torch.stack([at_last(stream, last) for stream in streams])  # stream batch d_model
    return {
        "error": (parts.sum(0) - difference).abs(),
        "size": difference.abs(),
        "parts": parts,
        "heads": head_attributions(model, cache, directions, per_prompt=True, last=last),
        "own": (model.ln_final(stack) * directions).sum(-1) + bias,
        "final": (apply_final_norm(stack, cache, last) * directions).sum(-1) + bias,
    }
