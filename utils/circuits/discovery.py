"""From scores of edges to a circuit: choosing edges, pruning them, how faithful they are, how stable, and compared with what.

A set of edges is a mask [reader, writer]. `RunEdges` runs it between two runs and rescales the score: 0 is the corrupted run,
which is what no edge gives, and 1 the clean run, which is what all edges give.

Sources: Conmy et al. 2023 (ACDC); Hanna et al. 2024 (EAP-IG); Mueller et al. 2025 (MIB), for the sizes and both areas.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from utils.circuits.edge_run import EdgeRun
from utils.circuits.graph import EdgeGraph
from utils.experiment import Experiment
from utils.patching.last_logits import LastLogits

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class RunEdges:
    """Runs sets of edges between the corrupted and the clean run of an experiment.

    `scores` and `faithfulness` take one set or several: [set, reader, writer] gives a first axis `set`.
    """

    experiment: Experiment
    options: dict = field(default_factory=dict)  # max_memory

    @cached_property
    def run(self) -> EdgeRun:
        pairs = self.experiment.pairs
        mask = None if pairs.corrupted_mask.all() else pairs.corrupted_mask
        return EdgeRun(self.experiment.model, pairs.corrupted_tokens, self.experiment.clean_cache, mask, **self.options)

    @property
    def graph(self) -> EdgeGraph:
        return self.run.graph

    def scores(self, keep: Bool[Tensor, "*set reader writer"]) -> Float[Tensor, "*set batch"]:
        """Each prompt's score when only these edges tell what they tell in the clean run."""
        logits = self.run.logits(keep.reshape(-1, *keep.shape[-2:]))
        found = torch.stack([self.experiment.score(of_set.as_subclass(LastLogits)) for of_set in logits])
        return found.reshape(*keep.shape[:-2], -1)

    def faithfulness(self, keep: Bool[Tensor, "*set reader writer"]) -> Float[Tensor, "*set"]:
        """The mean score between that of the corrupted run, 0, and that of the clean run, 1. It may lie outside."""
        corrupted, clean = self.experiment.corrupted, self.experiment.clean
        return (self.scores(keep).mean(-1) - corrupted) / (clean - corrupted)


# --- choosing edges -------------------------------------------------------------------------------------------------------


def top_edges(
    scores: Float[Tensor, "reader writer"], exists: Bool[Tensor, "reader writer"], n: int, signed: bool = False
) -> Bool[Tensor, "reader writer"]:
    """Exactly n edges: those with the largest scores (signed), or with the largest absolute ones. Of ties the first count.

    Raises ValueError for an n that is not from 0 to the number of edges.
    """
    if not 0 <= n <= int(exists.sum()):
        raise ValueError(f"n={n}: the graph has {int(exists.sum())} edges")
    ranked = (scores if signed else scores.abs()).masked_fill(~exists, -torch.inf).flatten()
    keep = torch.zeros_like(exists).flatten()
    keep[ranked.argsort(descending=True, stable=True)[:n]] = True
    return keep.view_as(exists)


def prune(keep: Bool[Tensor, "reader writer"], graph: EdgeGraph) -> Bool[Tensor, "reader writer"]:
    """The edges that lie on a way from the embedding to the logits within the set; the others change nothing.

    A writer that nothing in the set informs writes what it wrote before, and a reader whose writer nobody reads is in vain.
    """
    informed = torch.zeros(len(graph.writers), dtype=torch.bool)
    informed[0] = True  # the embedding writes what the clean run's does
    heard = torch.zeros(len(graph.writers), dtype=torch.bool)  # whether a writer's words reach the logits
    owners = [_owners(graph, reader) for reader in range(len(graph.readers))]
    for reader, owned in enumerate(owners):
        informed[owned] |= (keep[reader] & informed).any()
    for reader in reversed(range(len(graph.readers))):
        reaches = reader == len(graph.readers) - 1 or heard[owners[reader]].any()
        heard |= keep[reader] & reaches
    useful = torch.tensor([not owned or bool(heard[owned].any()) for owned in owners])  # the logits own no writer
    return keep & informed & useful[:, None]


def _owners(graph: EdgeGraph, reader: int) -> list[int]:
    """The writers whose output depends on a reader directly: of a shared key, all heads that share it."""
    site, layer, head = graph.readers[reader]
    if site == "logits":
        return []
    if site == "mlp":
        return [graph.heads_of(layer).stop]
    share = 1 if site == "q" else graph.n_heads // graph.n_kv_heads
    first = graph.heads_of(layer).start + head * share
    return list(range(first, first + share))


def random_edges(
    keep: Bool[Tensor, "reader writer"], graph: EdgeGraph, n: int, matched: bool = True, seed: int = 0
) -> Bool[Tensor, "set reader writer"]:
    """n random sets of as many edges. matched: each reader hears as many writers as in `keep`, drawn from those that it can
    hear; otherwise any edges of the graph."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n, *keep.shape, generator=generator).masked_fill(~graph.exists, 2.0)
    if not matched:
        order = drawn.flatten(1).argsort(1)[:, : int(keep.sum())]
        return torch.zeros(n, keep.numel(), dtype=torch.bool).scatter_(1, order, True).view(n, *keep.shape)
    return drawn.argsort(-1).argsort(-1) < keep.sum(-1, keepdim=True)


def connected_edges(
    keep: Bool[Tensor, "reader writer"],
    graph: EdgeGraph,
    n: int,
    first: Sequence[tuple[int, int]] = (),
    seed: int = 0,
) -> Bool[Tensor, "set reader writer"]:
    """n random sets of edges that all lie on a way from the embedding to the logits within their set (`prune`).

    Edges are drawn until as many of them are connected as `keep` has edges, and the others are left out again. The last one
    may connect several, so a set can be a little larger than `keep`. first: (reader, writer) of edges that are in every draw
    from the beginning.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(n, *keep.shape, generator=generator).masked_fill(~graph.exists, 2.0)
    for reader, writer in first:
        drawn[:, reader, writer] = -1.0
    ranks = drawn.flatten(1).argsort(1).argsort(1).view_as(drawn)

    def connected(rank: Tensor, n_drawn: int) -> Tensor:
        return prune((rank < n_drawn) & graph.exists, graph)

    wanted, lengths = int(keep.sum()), range(int(graph.exists.sum()))
    found = [bisect_left(lengths, wanted, key=lambda k, rank=rank: int(connected(rank, k).sum())) for rank in ranks]
    return torch.stack([connected(rank, n_drawn) for rank, n_drawn in zip(ranks, found, strict=True)])


# --- how good -------------------------------------------------------------------------------------------------------------


def sizes(graph: EdgeGraph, shares: Sequence[float] = SHARES) -> list[int]:
    """How many edges each share of the graph is, rounded."""
    return [round(share * graph.n_edges) for share in shares]


def faithfulness_curve(
    run: RunEdges, scores: Float[Tensor, "reader writer"], signed: bool = False, shares: Sequence[float] = SHARES
) -> Float[Tensor, " share"]:
    """The faithfulness of the best edges by their scores, at each share of all edges."""
    masks = [top_edges(scores, run.graph.exists, n, signed) for n in sizes(run.graph, shares)]
    return run.faithfulness(torch.stack(masks))


def cpr(faithfulness: Float[Tensor, " share"], shares: Sequence[float] = SHARES) -> float:
    """Circuit performance ratio: the area under the curve, by trapezoids. All ones give .999; more is possible."""
    return float(np.trapezoid(faithfulness.double().cpu(), shares))


def cmd(faithfulness: Float[Tensor, " share"], shares: Sequence[float] = SHARES) -> float:
    """Circuit-model distance: the area between the curve and 1, whichever lies above. 0 is best."""
    return float(np.trapezoid((1 - faithfulness.double().cpu()).abs(), shares))


def jaccard(one: Bool[Tensor, "reader writer"], other: Bool[Tensor, "reader writer"]) -> float:
    """Edges in both, as a share of the edges in either; 1 where both are empty."""
    either = int((one | other).sum())
    return int((one & other).sum()) / either if either else 1.0


def bootstrap_overlap(
    per_prompt: Float[Tensor, "reader writer batch"],
    exists: Bool[Tensor, "reader writer"],
    n: int,
    draws: int = 20,
    signed: bool = False,
    seed: int = 0,
) -> list[float]:
    """The Jaccard overlap of the n best edges by the mean over all prompts with those by the mean over prompts drawn anew."""
    generator, n_prompts = torch.Generator().manual_seed(seed), per_prompt.shape[-1]
    whole, found = top_edges(per_prompt.mean(-1), exists, n, signed), []
    for _ in range(draws):
        rows = torch.randint(n_prompts, (n_prompts,), generator=generator)
        found.append(jaccard(whole, top_edges(per_prompt[..., rows].mean(-1), exists, n, signed)))
    return found


# --- by trial -------------------------------------------------------------------------------------------------------------


def acdc(
    edges: Sequence[Hashable], distance: Callable[[frozenset], float], threshold: float
) -> tuple[list[Hashable], list[float]]:
    """Automated circuit discovery in miniature: each edge in turn is taken out for good unless that matters.

    edges: in the order in which they are tried. distance: how far the run of a set of edges is from the whole model. An edge
    stays if taking it out makes the distance grow by `threshold` or more. Returns the edges that stay, in their order, and
    the distance after every trial.
    """
    kept, now, way = frozenset(edges), distance(frozenset(edges)), []
    for edge in edges:
        without = distance(kept - {edge})
        if without - now < threshold:
            kept, now = kept - {edge}, without
        way.append(now)
    return [edge for edge in edges if edge in kept], way
