"""How much faster the patching engine is than the built-in loops, and how its time and memory grow.

    python -m tests.bench                       every section, on SmolLM2 and on both fixtures
    python -m tests.bench --quick               a few minutes: samples instead of whole built-in sweeps
    python -m tests.bench --sections sweeps growth dialect --models smollm2-135m

Writes build/bench.json, build/bench.html and, where there is a browser to draw it, build/bench.png. A built-in sweep that
would take longer than `--limit` seconds is timed on a random sample of its cells and scaled up; its row then says so, and
the largest difference is over the cells that ran.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from plotly.subplots import make_subplots
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformer_lens import patching as builtin

from tests.bench_edges import bench_edges
from tests.plain_paths import by_hooks
from utils import patching, plots
from utils.attribution import logit_diff
from utils.circuits.paths import path_patch
from utils.experiment import run_experiment
from utils.inference import small_cache
from utils.ioi import ioi_pairs, positions_by_role
from utils.models import load_model
from utils.patching.options import DEFAULT_MEMORY
from utils.patching.panels import ALL_POS, BY_POS, HEAD_SITES
from utils.patching.resumable import give_back_memory
from utils.prompts import single_token
from utils.tiny_models import tiny_model

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
FIXTURES = ("tiny-gpt2", "tiny-llama")


class PeakMemory:
    """The most memory in use inside a `with`, above what was in use on entry. `bytes` after it."""

    def __enter__(self) -> PeakMemory:
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        gc.collect()
        give_back_memory()  # what was freed but kept by the allocator would be used first, and would hide a peak
        self.before = self.peak = self._now()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()
        self.bytes = (torch.cuda.max_memory_allocated() if self.cuda else self.peak) - self.before

    def _watch(self) -> None:
        while not self.done.wait(0.005):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        if self.cuda:
            return torch.cuda.memory_allocated()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def the_model(name: str):
    if name not in FIXTURES:
        return load_model(name)
    return tiny_model(name.removeprefix("tiny-"))


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
    row = {
        "model": task.name,
        "sweep": sweep,
        "cells": total,
        "builtin_s": statistics.median(theirs_s),
        "ours_s": statistics.median(ours_s),
        "max_difference": off,
        "builtin_runs": len(theirs_s),
        "our_runs": len(ours_s),
        "builtin_extrapolated_from_a_sample": not whole,
        "ours_all_s": ours_s,
        "builtin_all_s": theirs_s,
        "load_average": os.getloadavg()[0],
    }
    ratio, target = row["builtin_s"] / row["ours_s"], TARGETS[sweep] if task.name not in FIXTURES else None
    return row | {"ratio": ratio, "target": target}


def bench_sweeps(names: list[str], sweeps: list[str], repeats: int, limit: float, console: Console) -> list[dict]:
    builtin.tqdm = lambda items: items  # bars would be timed too
    rows = []
    for name in names:
        task = Task(name)
        for sweep in sweeps:
            rows.append(compare(task, sweep, repeats, limit))
            console.print({k: v for k, v in rows[-1].items() if not k.endswith("all_s")})
    return rows


# --- path patching ------------------------------------------------------------------------------------------------------

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
        at = roles[role]
        ours = partial(
            path_patch, model, pairs.clean_tokens, cache, metric, receivers, component, at=at, progress=False
        )
        plain_receivers = (
            receivers if component in (None, "q") else [(layer, head // group) for layer, head in receivers]
        )
        sample = [heads[i] for i in torch.randperm(len(heads), generator=generator)[: 4 if quick else 12]]
        theirs_s, off, before = 0.0, 0.0, [timed(ours) for _ in range(1 if quick else 3)]
        for sender in sample:
            given = (model, pairs.clean_tokens, whole, metric, [sender], plain_receivers, component, at)
            seconds, want = timed(partial(by_hooks, *given, free=False, receiving=receiving))
            theirs_s, off = theirs_s + seconds, max(off, (before[-1][1][sender] - want).abs().item())
        ours_s = statistics.median(
            [seconds for seconds, _ in [*before, *(timed(ours) for _ in range(1 if quick else 2))]]
        )
        plain_s = theirs_s / len(sample) * len(heads)
        found.append(
            {
                "paths into": what,
                "senders": len(heads),
                "plain_s": plain_s,
                "plain_sampled": len(sample),
                "ours_s": ours_s,
                "ratio": plain_s / ours_s,
                "target": target,
                "max_difference": off,
                "load_average": os.getloadavg()[0],
            }
        )
        console.print(found[-1])
    return [*found, _paths_growth(model, console)]


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


# --- how time and memory grow ---------------------------------------------------------------------------------------------


def synthetic(model, tokens: Tensor, lengths: list[int], differing: list[int], seed: int = 0):
    """Left-padded random prompts from the tokens of real ones, which differ in one position; with their mask."""
    g = torch.Generator().manual_seed(seed)
    n_pos = max(lengths)
    words = tokens[:, 1:].flatten().cpu()
    corrupted = words[torch.randint(len(words), (len(lengths), n_pos), generator=g)]
    mask = torch.zeros_like(corrupted)
    clean = corrupted.clone()
    for row, (length, at) in enumerate(zip(lengths, differing, strict=True)):
        mask[row, -length:] = 1
        corrupted[row, : n_pos - length + 1] = clean[row, : n_pos - length + 1] = tokens[0, 0]  # padding, then BOS
        clean[row, n_pos - length + at] = corrupted[row, n_pos - length + at] + 1
    device = tokens.device
    return clean.to(device), corrupted.to(device), mask.to(device)


def growth_point(model, tokens, lengths, differing, max_memory: float = DEFAULT_MEMORY) -> dict:
    clean, corrupted, mask = synthetic(model, tokens, lengths, differing)
    cache = {}
    for rows in torch.arange(len(clean)).split(32):  # the logits of every position are large: 32 prompts at a time
        part = model.run_with_cache(
            clean[rows], attention_mask=mask[rows], names_filter=lambda name: name.endswith("hook_resid_pre")
        )[1]
        for name, value in part.items():
            cache.setdefault(name, []).append(value)
    cache = {name: torch.cat(values) for name, values in cache.items()}
    with PeakMemory() as memory:
        seconds, _ = timed(
            lambda: patching.get_act_patch_resid_pre(
                model,
                corrupted,
                cache,
                lambda logits: logits[:, -1, :2].mean(),
                attention_mask=mask,
                max_memory=max_memory,
                progress=False,
            )
        )
    cached = len(clean) * clean.shape[1] * model.cfg.n_layers * 4 * (2 * model.cfg.d_model + 2 * _kv_width(model))
    return {
        "prompts": len(clean),
        "length": max(lengths),
        "layers": model.cfg.n_layers,
        "seconds": seconds,
        "peak_bytes": memory.bytes,
        "corrupted_run_bytes": cached,
        "asked_bytes": max_memory,
        "load_average": os.getloadavg()[0],
    }


def _kv_width(model) -> int:
    return (model.cfg.n_key_value_heads or model.cfg.n_heads) * model.cfg.d_head


def bench_growth(name: str, quick: bool, console: Console) -> dict[str, list[dict]]:
    """Residual sweeps; the differing token is five from the end, but for `length`, where it is the tenth."""
    model = the_model(name)
    tokens = ioi_pairs(model).clean_tokens
    grown: dict[str, list[dict]] = {"prompts": [], "length": [], "layers": []}
    for n in (8, 16, 32) if quick else (8, 16, 32, 64, 128, 256):
        grown["prompts"].append(growth_point(model, tokens, [15] * n, [10] * n))
    for n in (15, 20, 30) if quick else (15, 20, 30, 45, 60):
        grown["length"].append(growth_point(model, tokens, [n] * 8, [10] * 8))
    for n in (2, 4, 8, 16):
        tiny = tiny_model("llama", n)
        grown["layers"].append(growth_point(tiny, ioi_pairs(tiny).clean_tokens, [15] * 8, [10] * 8))
    for axis, points in grown.items():
        console.print(axis, [(p[axis], round(p["seconds"], 2), f"{p['peak_bytes'] / 1e6:.0f} MB") for p in points])
    return grown


def bench_dialect(name: str, quick: bool, console: Console) -> dict:
    """The dialect-sized sweep: 315 left-padded prompts of 14 to 22 tokens, one of which differs, 6 to 10 from the end."""
    model = the_model(name)
    n = 31 if quick else 315
    lengths = [14 + i % 9 for i in range(n)]
    point = growth_point(
        model, ioi_pairs(model).clean_tokens, lengths, [ln - 6 - i % 5 for i, ln in enumerate(lengths)]
    )
    console.print(point)
    return point


EXPLAINED = {
    "time against prompts": "A straight line: twice the prompts are twice the rows in the same matrix products.",
    "time against length": "Bent upwards: behind the first difference there are n positions to patch, and a patch at one "
    "computes all that follow, n (n + 1) / 2 in all. What lies before the difference costs only the corrupted run.",
    "time against layers": "A patch at one layer runs all the layers above it, so the arithmetic is L (L + 1) / 2. These "
    "random models of 32 dimensions have little of it: what is seen is mostly Python's one pass over the layers, a line.",
    "memory against": "Patched copies travel together until they fill the bound, and are split from there on. Not counted: "
    "the clean cache, the corrupted run, and the logits of one cell.",
}

# --- output ---------------------------------------------------------------------------------------------------------------


def table(rows: list[dict]) -> Table:
    out = Table(title="Activation patching: built-in loops and the engine (~ scaled up from a sample of cells)")
    for column in ("model", "sweep", "cells", "built-in s", "ours s", "ratio", "target", "max difference"):
        out.add_column(column, justify="left" if column in ("model", "sweep") else "right")
    for row in rows:
        about = "~" if row["builtin_extrapolated_from_a_sample"] else ""
        out.add_row(
            row["model"],
            row["sweep"],
            str(row["cells"]),
            f"{about}{row['builtin_s']:.3g}",
            f"{row['ours_s']:.3g}",
            f"{about}{row['ratio']:.1f}",
            str(row["target"] or ""),
            f"{row['max_difference']:.1e}",
        )
    return out


def figures(report: dict) -> list:
    found = []
    rows = report.get("sweeps", [])
    for name in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == name]
        figure = plots.bar(
            {"built-in": [r["builtin_s"] for r in mine], "ours": [r["ours_s"] for r in mine]},
            f"{name}: seconds per sweep",
            "sweep",
            "seconds (log)",
            [r["sweep"] for r in mine],
        )
        found.append(figure.update_yaxes(type="log"))
    for axis, points in report.get("growth", {}).items():
        at = [p[axis] for p in points]
        found.append(
            plots.line([p["seconds"] for p in points], f"Residual sweep: time against {axis}", axis, "seconds", at)
        )
        memory = {
            "working memory": [(p["peak_bytes"] - p["corrupted_run_bytes"]) / 1e6 for p in points],
            "bound": [p["asked_bytes"] / 1e6 for p in points],
        }
        found.append(
            plots.line(memory, f"Residual sweep: memory against {axis}", axis, "MB above the runs' caches", at)
        )
    return found


def write_picture(shown: list, path: Path, console: Console) -> None:
    """All figures, one below the other, as one PNG. Kaleido draws with a browser; without one there is none."""
    if not any(map(shutil.which, ("chromium", "google-chrome", "chrome"))):
        console.print(f"no {path.name}: kaleido needs a browser (chromium) to draw it; the figures are in bench.html")
        return
    whole = make_subplots(rows=len(shown), cols=1, subplot_titles=[figure.layout.title.text for figure in shown])
    for row, figure in enumerate(shown, 1):
        whole.add_traces(figure.data, rows=row, cols=1)
        whole.update_xaxes(title=figure.layout.xaxis.title.text, row=row, col=1)
        whole.update_yaxes(title=figure.layout.yaxis.title.text, type=figure.layout.yaxis.type, row=row, col=1)
    whole.update_layout(height=360 * len(shown), width=900, showlegend=False)
    try:
        whole.write_image(path)
    except Exception as reason:  # whatever a browser on this machine may object to
        console.print(f"no {path.name}: {type(reason).__name__}: {reason}")


def write_report(report: dict, folder: Path, console: Console) -> None:
    """bench.html, each figure with a sentence on its shape, and bench.png."""
    shown, parts = figures(report), ["<meta charset='utf-8'>"]
    for i, figure in enumerate(shown):
        parts.append(figure.to_html(include_plotlyjs=not i, full_html=False))
        parts += [f"<p>{text}</p>" for words, text in EXPLAINED.items() if words in figure.layout.title.text]
    (folder / "bench.html").write_text("\n".join(parts))
    if shown:
        write_picture(shown, folder / "bench.png", console)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--sections", nargs="+", default=["sweeps", "paths", "edges", "growth", "dialect"])
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", *FIXTURES])
    parser.add_argument("--sweeps", nargs="+", default=list(SWEEPS), choices=SWEEPS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=400, help="longest built-in sweep that is run whole, in seconds")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("build"))
    args = parser.parse_args()
    console, limit = Console(), 20 if args.quick else args.limit
    torch.set_grad_enabled(False)
    report = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    args.out.mkdir(exist_ok=True)
    if (earlier := args.out / "bench.json").exists():  # sections that are not run again are kept
        report = json.loads(earlier.read_text()) | report
    for section in args.sections:
        if section == "sweeps":
            report["sweeps"] = bench_sweeps(args.models, args.sweeps, args.repeats, limit, console)
        else:
            bench = {"growth": bench_growth, "dialect": bench_dialect, "paths": bench_paths, "edges": bench_edges}[
                section
            ]
            report[section] = bench(args.models[0], args.quick, console)
        (args.out / "bench.json").write_text(json.dumps(report, indent=1))
    write_report(report, args.out, console)
    if "sweeps" in report:
        console.print(table(report["sweeps"]))


if __name__ == "__main__":
    main()
