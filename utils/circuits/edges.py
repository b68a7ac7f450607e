"""Scores for every edge: exact ones, one patch for each, and estimates of all of them from a few gradients.

Two runs are given, as in `utils.circuits.paths`: the *receiving* run is changed, and the *lending* run gives what a writer
writes. An edge's effect is what the metric gains if one reader hears one writer as in the lending run. Everything else that
it hears stays, and all that follows is computed again.

Sources: attribution for edges, Nanda 2023 and Syed et al. 2023 (EAP); integrated gradients, Hanna et al. 2024 (EAP-IG).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from utils.circuits.edge_run import EdgeRun, metric_gradient
from utils.circuits.graph import Reader, edge_graph
from utils.circuits.path_options import Node, Path, path_options
from utils.circuits.paths import path_values
from utils.patching.options import DEFAULT_MEMORY, Metric, Metrics, SweepOptions

RULES = ("left", "midpoint", "trapezoid")


def exact_edges(
    model,
    tokens: Int[Tensor, "batch pos"],
    lending_cache: ActivationCache,
    patching_metric: Metric,
    readers: Sequence[Reader] | None = None,
    writers: Sequence[Node] | None = None,
    **options: Any,
) -> Float[Tensor, "reader writer ..."]:
    """The effect of every edge, each patched on its own: metric with the edge patched minus metric without.

    tokens: the receiving run's. lending_cache: the other run's (`small_cache` holds what is needed). patching_metric: logits
    at each prompt's last position, [batch, 1, d_vocab], to a 0-d tensor ([batch] if reduce="none").
    readers, writers: those of `edge_graph(model.cfg)` that are wanted, by default all. Rows and columns of the result are in
    the order of the graph: those not asked for, and edges that do not exist, hold 0.
    options: see `utils.circuits.path_options.PathOptions`; with reduce="none" the result is [reader, writer, batch].
    Raises ValueError for a reader or a writer that the model does not have.
    """
    chosen = path_options(options)
    graph = edge_graph(model.cfg)
    rows = [graph.reader(*reader) for reader in (graph.readers if readers is None else readers)]
    columns = [graph.writer(writer) for writer in (graph.writers if writers is None else writers)]
    edges = [(row, column) for row in rows for column in columns if graph.exists[row, column]]
    reads = [{(site, layer): (head,)} for site, layer, head in graph.readers]
    paths = [Path((graph.writers[column],), reads[row]) for row, column in edges]
    values, unpatched = path_values(model, tokens, lending_cache, patching_metric, paths, chosen)
    effects = values.new_zeros(len(graph.readers), len(graph.writers), *unpatched.shape)
    for (row, column), value in zip(edges, values - unpatched, strict=True):
        effects[row, column] = value
    return effects


def eap(
    model, tokens: Int[Tensor, "batch pos"], lending_cache: ActivationCache, patching_metric: Metric, **options: Any
) -> Float[Tensor, "reader writer ..."]:
    """Edge attribution patching: the effect of every edge to first order, from one gradient in the receiving run.

    (what the writer writes in the lending run, minus what it writes in the receiving run) · (gradient of the metric with
    respect to what the reader reads), summed over positions. One forward and one backward pass beside the lending run.
    Arguments and shape are those of `exact_edges`. options: reduce, attention_mask, max_memory.
    """
    return eap_ig(model, tokens, lending_cache, patching_metric, steps=1, rule="left", **options)


@torch.no_grad()
def eap_ig(
    model,
    tokens: Int[Tensor, "batch pos"],
    lending_cache: ActivationCache,
    patching_metric: Metric,
    steps: int = 5,
    rule: str = "midpoint",
    reduce: str = "scalar",
    attention_mask: Int[Tensor, "batch pos"] | None = None,
    max_memory: float = DEFAULT_MEMORY,
) -> Float[Tensor, "reader writer ..."]:
    """The same with the gradient averaged along the way: over runs whose embedding lies between those of the two runs.

    steps: how many gradients are taken. rule: where, and with which weights (`integration_points`). As steps grow, the scores
    of all edges out of the embedding add up to metric(lending) - metric(receiving).
    """
    metrics = Metrics(patching_metric, SweepOptions(reduce=reduce))
    points = integration_points(steps, rule)
    edges = EdgeRun(model, tokens, lending_cache, attention_mask, max_memory)
    scores = torch.zeros(len(tokens), *edges.graph.exists.shape, device=tokens.device)
    for share, weight in points:
        upstream = metric_gradient(lambda logits: metrics(logits)[0], edges.along(share))
        for group in edges.groups(gradients=True):
            gradients = edges.gradients(share, group, upstream[group.prompts]).transpose(0, 1).flatten(2)
            gained = edges.gained(group).transpose(0, 1).flatten(2)  # rows writer n*d_model
            scores[group.prompts] += weight * gradients @ gained.transpose(1, 2)
    scores = scores * edges.graph.exists.to(scores.device)
    return scores.movedim(0, -1) if reduce == "none" else scores.sum(0)


def integration_points(steps: int, rule: str) -> list[tuple[float, float]]:
    """(share of the way from the receiving to the lending run, weight) of each gradient.

    "left": the beginning of each of `steps` equal parts of the way. "midpoint": their middles. "trapezoid": `steps` points
    from the beginning to the end, of which the first and the last count half. Weights add up to 1.
    """
    if rule not in RULES or steps < 1 + (rule == "trapezoid"):
        raise ValueError(
            f"steps={steps}, rule={rule!r}: rules are {RULES}, with at least one step, or two for 'trapezoid'"
        )
    if rule == "trapezoid":
        parts = steps - 1
        return [(i / parts, (0.5 if i in (0, parts) else 1.0) / parts) for i in range(steps)]
    return [((i + 0.5 * (rule == "midpoint")) / steps, 1 / steps) for i in range(steps)]
