"""The bench's section on sweeps: TransformerLens' built-in loops beside the course's engine."""

from __future__ import annotations

import os
import statistics

from rich.console import Console
from torch import Tensor
from transformer_lens import patching as builtin

from tests.bench.measuring import FIXTURES, the_model, timed
from utils import patching
from utils.experiment import run_experiment
from utils.ioi import ioi_pairs
from utils.patching.panels import ALL_POS, BY_POS, HEAD_SITES

SWEEPS = (
    "resid_pre",
    "block_every",
    "attn_head_out_all_pos",
    "attn_head_all_pos_every",
    "attn_head_out_by_pos",
    "attn_head_by_pos_every",
)
TARGETS = {
    "resid_pre": 40,
    "block_every": 30,
    "attn_head_out_all_pos": 8,
    "attn_head_all_pos_every": 8,
    "attn_head_out_by_pos": 20,
    "attn_head_by_pos_every": 20,
}


class Task:
    """A model, the two runs, and a metric: what both sides of a comparison get."""

    def __init__(self, name: str):
        self.name = name
        self.model = the_model(name)
        experiment = run_experiment(self.model, ioi_pairs(self.model))
        self.clean, self.corrupted = experiment.pairs.clean_tokens, experiment.pairs.corrupted_tokens
        self.cache, self.metric = experiment.clean_cache, experiment.denoising_metric

    def ours(self, sweep: str) -> Tensor:
        function = getattr(patching, f"get_act_patch_{sweep}")
        return function(self.model, self.corrupted, self.cache, self.metric, progress=False)

    def theirs(self, site: str, axes, cells) -> Tensor:
        """The built-in loop over some cells of one sweep: cells is a DataFrame of indices."""
        setter = {
            ("layer", "pos"): builtin.layer_pos_patch_setter,
            ("layer", "head"): builtin.layer_head_vector_patch_setter,
            ("layer", "pos", "head"): builtin.layer_pos_head_vector_patch_setter,
            ("layer", "head_index"): builtin.layer_head_pattern_patch_setter,
            ("layer", "head_index", "dest_pos"): builtin.layer_head_pos_pattern_patch_setter,
        }
        args = (self.model, self.corrupted, self.cache, self.metric, setter[axes], site)
        return builtin.generic_activation_patch(*args, index_df=cells)

    def cells(self, site: str, axes):
        heads = self.cache[f"blocks.0.attn.hook_{site}"] if site in HEAD_SITES else None
        n_heads = None if heads is None else heads.shape[1 if site == "pattern" else 2]
        n_pos = self.corrupted.shape[1]
        sizes = {"layer": self.model.cfg.n_layers, "pos": n_pos, "dest_pos": n_pos}
        return builtin.make_df_from_ranges([sizes.get(axis, n_heads) for axis in axes], axes)


def builtin_axes(sweep: str) -> list[tuple[str, tuple[str, ...]]]:
    """The built-in's own axes of every activation of a sweep: pattern has the head before the position."""
    by_pos = BY_POS if "by_pos" in sweep else ALL_POS
    return [(site, by_pos.get(site, axes)) for site, axes in patching.SWEEPS[sweep]]


def compare(task: Task, sweep: str, repeats: int, limit: float) -> dict:
    """One row: medians of interleaved runs, and the largest difference over the cells that the built-in ran.

    The built-in runs one activation's loop after another, and ours once before each of them and twice after the last (only
    once if it takes long). A built-in sweep of over two minutes runs once; one of over `limit` seconds is sampled.
    """
    warm_s, found = timed(lambda: task.ours(sweep))  # the first call of each side warms up
    tables = [(site, axes, task.cells(site, axes)) for site, axes in builtin_axes(sweep)]
    total = sum(len(cells) for *_, cells in tables)
    expected_s = sum(timed(lambda t=t: task.theirs(t[0], t[1], t[2].head(3)))[0] / 3 * len(t[2]) for t in tables)
    whole, n_sampled = expected_s <= limit, max(8, 48 // len(tables))
    ours_s, theirs_s, off = [], [], 0.0
    for repeat in range(1 if whole and expected_s > 120 else repeats):
        theirs_s.append(0.0)
        for kind, (site, axes, cells) in enumerate(tables):
            if kind == 0 or warm_s < 30:
                ours_s.append(timed(lambda: task.ours(sweep))[0])
            some = cells if whole else cells.sample(min(len(cells), n_sampled), random_state=repeat)
            seconds, expected = timed(lambda site=site, axes=axes, some=some: task.theirs(site, axes, some))
            theirs_s[-1] += seconds * len(cells) / len(some)
            mine = found[kind] if len(tables) > 1 else found
            mine = mine.transpose(1, 2) if len(tables) > 1 and "dest_pos" in axes else mine
            off = max(off, (mine[tuple(some.T.values.tolist())] - expected).abs().max().item())
        if warm_s < 30:
            ours_s += [timed(lambda: task.ours(sweep))[0] for _ in range(2)]
    found = {"model": task.name, "sweep": sweep, "cells": total, "max_difference": off}
    return found | _summary(ours_s, theirs_s, None if task.name in FIXTURES else TARGETS[sweep], whole)


def _summary(ours_s: list[float], theirs_s: list[float], target: int | None, whole: bool) -> dict:
    theirs, ours = statistics.median(theirs_s), statistics.median(ours_s)
    return {
        "builtin_s": theirs,
        "ours_s": ours,
        "builtin_runs": len(theirs_s),
        "our_runs": len(ours_s),
        "builtin_extrapolated_from_a_sample": not whole,
        "ours_all_s": ours_s,
        "builtin_all_s": theirs_s,
        "load_average": os.getloadavg()[0],
        "ratio": theirs / ours,
        "target": target,
    }


def bench_sweeps(names: list[str], sweeps: list[str], repeats: int, limit: float, console: Console) -> list[dict]:
    builtin.tqdm = lambda items: items  # bars would be timed too
    rows = []
    for name in names:
        task = Task(name)
        for sweep in sweeps:
            rows.append(compare(task, sweep, repeats, limit))
            console.print({k: v for k, v in rows[-1].items() if not k.endswith("all_s")})
    return rows
