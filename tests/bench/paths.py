"""The bench's section on path patching: plain runs with hooks for each sender beside the course's one."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from functools import partial

import torch
from rich.console import Console
from torch import Tensor

from tests.bench.measuring import timed
from tests.plain_paths import by_hooks
from utils.attribution import logit_diff
from utils.circuits.paths import path_patch
from utils.inference import small_cache
from utils.ioi import ioi_pairs, positions_by_role
from utils.models import load_model
from utils.prompts import single_token

# what → receivers, component, the role at whose position senders are patched, how many times faster it is to be
PATHS = {
    "logits": ("logits", None, "END", None),
    "q@END of L23H0": ([(23, 0)], "q", "END", 20),
    "k@S1+1 of L17H4": ([(17, 4)], "k", "S1+1", None),
    "k@S2 of L23H3": ([(23, 3)], "k", "S2", 10),
    "v@S2 of L20H0, L19H2": ([(20, 0), (19, 2)], "v", "S2", 10),
}
NEW_NAME = " Robert"  # in the place of S1 and S2 of every prompt, so that the runs differ from S1 on


def bench_paths(name: str, quick: bool, console: Console) -> list[dict]:
    """Every head as a sender, eight prompts: the plain two-run loop on a sample of senders, and the engine on all of them."""
    model = load_model(name)
    pairs = ioi_pairs(model)
    roles, rows = positions_by_role(pairs.clean_tokens, pairs.answer_tokens), torch.arange(len(pairs))
    lent = pairs.clean_tokens.clone()
    for role in ("S1", "S2"):
        lent[rows, roles[role]] = single_token(model, NEW_NAME)
    kept = lambda name: name.endswith(("hook_z", "hook_mlp_out"))  # noqa: E731
    whole, receiving = (model.run_with_cache(tokens, names_filter=kept)[1] for tokens in (lent, pairs.clean_tokens))
    _, cache = model.run_with_cache(lent, names_filter=small_cache)
    heads = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    group = model.cfg.n_heads // (model.cfg.n_key_value_heads or model.cfg.n_heads)
    generator, found = torch.Generator().manual_seed(0), []

    def metric(logits):
        return logit_diff(logits, pairs.answer_tokens)

    for what, (receivers, component, role, target) in PATHS.items():
        given = {"receivers": receivers, "component": component, "at": roles[role]}
        ours = partial(path_patch, model, pairs.clean_tokens, cache, metric, **given, progress=False)
        # the plain runs name the shared key or value that a query head reads
        plain_receivers = receivers if component in (None, "q") else [(at, head // group) for at, head in receivers]
        plain = partial(by_hooks, model, pairs.clean_tokens, whole, metric, free=False, receiving=receiving)
        theirs = partial(_one_sender, plain, plain_receivers, component, roles[role])
        sample = [heads[i] for i in torch.randperm(len(heads), generator=generator)[: 4 if quick else 12]]
        row = _compared(ours, theirs, sample, quick)
        plain_s = row.pop("theirs_s") / len(sample) * len(heads)
        row |= {"paths into": what, "senders": len(heads), "plain_s": plain_s, "plain_sampled": len(sample)}
        found.append(row | {"ratio": plain_s / row["ours_s"], "target": target, "load_average": os.getloadavg()[0]})
        console.print(found[-1])
    return [*found, _paths_growth(model, console)]


def _one_sender(plain: Callable, receivers, component: str | None, at: Tensor, sender: tuple[int, int]) -> Tensor:
    return plain([sender], receivers, component, at)


def _compared(ours: Callable, theirs: Callable, sample: list[tuple[int, int]], quick: bool) -> dict:
    """The median of our runs, before and after theirs; seconds of all of theirs; the largest difference."""
    theirs_s, off, before = 0.0, 0.0, [timed(ours) for _ in range(1 if quick else 3)]
    for sender in sample:
        seconds, want = timed(partial(theirs, sender))
        theirs_s, off = theirs_s + seconds, max(off, (before[-1][1][sender] - want).abs().item())
    after = [timed(ours) for _ in range(1 if quick else 2)]
    ours_s = statistics.median(seconds for seconds, _ in [*before, *after])
    return {"ours_s": ours_s, "theirs_s": theirs_s, "max_difference": off}


def _paths_growth(model, console: Console) -> dict:
    """Seconds for q@END: more prompts, and more receivers in the same two layers."""
    texts = ioi_pairs(model)
    grown: dict[str, list] = {"prompts": [], "receivers": []}
    for times in (1, 2, 4, 8):
        clean, corrupted = texts.clean_tokens.repeat(times, 1), texts.corrupted_tokens.repeat(times, 1)
        _, cache = model.run_with_cache(corrupted, names_filter=small_cache)
        grown["prompts"].append((len(clean), _q_seconds(model, clean, cache, [(23, 0)])))
    _, cache = model.run_with_cache(texts.corrupted_tokens, names_filter=small_cache)
    for n in (1, 3, 9):
        heads = [(layer, head) for layer in (22, 23) for head in range(n)]
        grown["receivers"].append((len(heads), _q_seconds(model, texts.clean_tokens, cache, heads)))
    console.print(grown)
    return {"paths into": "q@END, growth", **grown}


def _q_seconds(model, tokens: Tensor, cache, receivers: list[tuple[int, int]]) -> float:
    def metric(logits):
        return logits[:, -1, :2].mean()

    return timed(partial(path_patch, model, tokens, cache, metric, receivers, "q", at=-1, progress=False))[0]
