"""The bench's section on edges: exact sweeps beside one-by-one patching, EAP beside plain passes, sets beside a forward pass.

python -m tests.bench --sections edges [--quick]
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from torch import Tensor

from tests.plain_paths import edges_by_hooks
from utils.circuits import discovery, edges
from utils.circuits.graph import EdgeGraph, edge_graph
from utils.experiment import Experiment, run_experiment
from utils.ioi import ioi_pairs
from utils.models import load_model
from utils.patching import get_act_patch_attn_head_out_all_pos
from utils.tiny_models import tiny_model

TARGET = 20  # how many times faster than one by one an exact sweep is to be
HEADS, QUICK_HEADS = 20, 2


def bench_edges(name: str, quick: bool, console: Console) -> list[dict]:
    """All edges of the tiny models; estimates, sets and chosen receivers on one model."""
    found = [_one_by_one(family) for family in ("gpt2", "llama")]
    experiment = run_experiment(model := load_model(name), ioi_pairs(model))
    found += [_estimates(experiment), _sets(experiment), _receivers(experiment, QUICK_HEADS if quick else HEADS)]
    for row in found:
        console.print(row)
    return found


def _seconds(function: Callable[[], Tensor], repeats: int = 3) -> tuple[float, Tensor]:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = function()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken), result


def _one_by_one(family: str) -> dict:
    """Every edge of a tiny model, twice: by the engine, and with two plain runs (or one) for each edge."""
    experiment = run_experiment(model := tiny_model(family), ioi_pairs(model))
    pairs, graph = experiment.pairs, edge_graph(model.cfg)
    lending, receiving = (model.run_with_cache(tokens)[1] for tokens in (pairs.clean_tokens, pairs.corrupted_tokens))
    given = (model, pairs.corrupted_tokens, lending, receiving, experiment.denoising_metric, graph)
    ours_s, ours = _seconds(lambda: experiment.denoise(edges.exact_edges, progress=False))
    plain_s, plain = _seconds(lambda: edges_by_hooks(*given), repeats=1)
    return {
        "edges of": model.cfg.model_name,
        "edges": graph.n_edges,
        "one_by_one_s": plain_s,
        "ours_s": ours_s,
        "ratio": plain_s / ours_s,
        "target": TARGET,
        "max_difference": (ours - plain).abs().max().item(),
        "load_average": os.getloadavg()[0],
    }


def _estimates(experiment: Experiment) -> dict:
    """EAP beside what it is made of: two plain forward passes and a backward pass."""
    model, pairs = experiment.model, experiment.pairs
    embedded = model.run_with_cache(pairs.corrupted_tokens, names_filter="hook_embed")[1]["hook_embed"]

    def plain() -> Tensor:
        model(pairs.clean_tokens)
        with torch.enable_grad():
            embedding = embedded.detach().requires_grad_()
            hooks = [("hook_embed", lambda activation, hook: embedding)]
            value = experiment.score(model.run_with_hooks(pairs.corrupted_tokens, fwd_hooks=hooks)[:, -1:])
            return torch.autograd.grad(value.sum(), embedding)[0]

    plain_s, _ = _seconds(plain)
    eap_s, _ = _seconds(lambda: experiment.denoise(edges.eap))
    ig_s, _ = _seconds(lambda: experiment.denoise(edges.eap_ig, steps=5), repeats=1)
    return {
        "estimates": "all edges",
        "edges": edge_graph(model.cfg).n_edges,
        "two_forward_one_backward_s": plain_s,
        "eap_s": eap_s,
        "eap_ig_of_5_s": ig_s,
        "ratio": eap_s / plain_s,
        "load_average": os.getloadavg()[0],
    }


def _sets(experiment: Experiment) -> dict:
    """A set of edges beside a plain forward pass of as many prompts."""
    run = discovery.RunEdges(experiment)
    keep = discovery.random_edges(run.graph.exists, run.graph, 1, matched=False)[0]
    keep &= torch.rand(keep.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    run.scores(keep)  # the first call takes the weights apart
    plain_s, _ = _seconds(lambda: experiment.model(experiment.pairs.corrupted_tokens), 5)
    set_s, _ = _seconds(lambda: run.scores(keep), 5)
    return {
        "a set of": int(keep.sum()),
        "plain_forward_s": plain_s,
        "set_s": set_s,
        "ratio": set_s / plain_s,
        "target": 3,
        "load_average": os.getloadavg()[0],
    }


def _receivers(experiment: Experiment, n: int) -> dict:
    """All edges into q, k and v of the heads that matter most, and into the logits, with the arithmetic that they take."""
    model, graph = experiment.model, edge_graph(experiment.model.cfg)
    effects = experiment.denoise(get_act_patch_attn_head_out_all_pos, progress=False)
    heads = [divmod(i, graph.n_heads) for i in effects.abs().flatten().topk(n).indices.tolist()]
    share = graph.n_heads // graph.n_kv_heads
    readers = [("q", *head) for head in heads]
    readers += list(dict.fromkeys((site, layer, head // share) for layer, head in heads for site in "kv"))
    readers.append(("logits", graph.n_layers, 0))
    seconds, exact = _seconds(lambda: experiment.denoise(edges.exact_edges, readers=readers, progress=False), 1)
    rows = [graph.readers.index(reader) for reader in readers]
    found = {
        "edges into": f"q, k, v of {n} heads, and the logits",
        "readers": len(readers),
        "edges": int(graph.exists[rows].sum()),
        "seconds": seconds,
        "largest": exact.abs().max().item(),
    }
    flop = _flop(model, experiment.pairs, graph, readers)
    rate = _rate(model)
    return found | {
        "gflop": flop / 1e9,
        "gflop_per_s": rate / 1e9,
        "arithmetic_floor_s": flop / rate,
        "load_average": os.getloadavg()[0],
    }


def _flop(model, pairs, graph: EdgeGraph, readers: list) -> float:
    """What must be computed: for each edge, all layers from the reader's on, from the first token that differs on."""
    per_layer = sum(p.numel() for name, p in model.original_model.named_parameters() if ".layers.0." in name)
    differs = (pairs.clean_tokens != pairs.corrupted_tokens).long().argmax(1)
    tokens = int((pairs.clean_tokens.shape[1] - differs).sum())
    total = 0.0
    for site, layer, _ in readers:
        edges_in = graph.n_before(site, layer)
        total += edges_in * 2.0 * per_layer * (graph.n_layers - layer) * tokens
        total += (
            edges_in * 2.0 * model.cfg.d_model * model.cfg.d_vocab * len(pairs)
        )  # the logits, at each last position
    return total


def _rate(model) -> float:
    """FLOP a second of a large matrix product: the best of five."""
    x, w = torch.randn(1024, model.cfg.d_model), torch.randn(model.cfg.d_model, model.cfg.d_mlp)
    best = min(_seconds(lambda: x @ w, 1)[0] for _ in range(5))
    return 2.0 * 1024 * w.numel() / best
