"""Every edge of a model: the graph, and its exact effects against patching one edge at a time."""

import itertools

import numpy as np
import pytest
import torch

from tests.edges.cases import FAMILIES, TOLERANCE, case, exact
from tests.paths.cases import direct_path
from tests.plain_paths import edge_by_hooks, written
from utils.attribution import logit_diff
from utils.circuits import edges
from utils.circuits.graph import EdgeGraph, edge_graph
from utils.circuits.path_options import EMBED
from utils.tiny_models import tiny_model


def mask_of(experiment):
    return None if experiment.pairs.corrupted_mask.all() else experiment.pairs.corrupted_mask


# --- the graph --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "count"), [((12, 12, 12), 32_491), ((30, 9, 3), 70_651), ((3, 4, 4), 262), ((3, 4, 2), 190)]
)
def test_counts(shape, count):
    graph = EdgeGraph(*shape)
    assert graph.n_edges == count == int(graph.exists.sum())
    assert graph.exists.shape == (len(graph.readers), len(graph.writers)) and graph.exists[:, 0].all()


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_is_the_models(family):
    cfg = tiny_model(family).cfg
    graph = edge_graph(cfg)
    assert graph == EdgeGraph(3, 4, {"gpt2": 4, "llama": 2}[family])
    for reader, writer in itertools.product(range(len(graph.readers)), range(len(graph.writers))):
        (site, at, _), (layer, part) = graph.readers[reader], graph.writers[writer]
        comes_before = layer < at or (layer == at and site == "mlp" and part != "mlp")
        assert bool(graph.exists[reader, writer]) == comes_before
    for layer in range(3):
        assert graph.writers[graph.heads_of(layer)] == tuple((layer, head) for head in range(4))
        sites = [site for site, _, _ in graph.readers[graph.attention_readers(layer)]]
        assert sites == ["q"] * 4 + ["k"] * graph.n_kv_heads + ["v"] * graph.n_kv_heads
        assert graph.readers[graph.attention_readers(layer).stop] == ("mlp", layer, 0)


def test_names_and_numbers():
    graph = EdgeGraph(3, 4, 2)
    assert graph.edge_name(graph.reader("k", 2, 1), graph.writer((0, 3))) == "L0H3 → k of L2kv1"
    assert graph.edge_name(graph.reader("q", 1, 3), graph.writer(EMBED)) == "embedding → q of L1H3"
    assert graph.edge_name(graph.reader("logits"), graph.writer((1, "mlp"))) == "MLP 1 → logits"
    for wrong in (("k", 0, 2), ("z", 0, 0), ("mlp", 3, 0)):
        with pytest.raises(ValueError, match="is no reader"):
            graph.reader(*wrong)
    with pytest.raises(ValueError, match="is no writer"):
        graph.writer((3, 0))


# --- exact ------------------------------------------------------------------------------------------------------------------


def every_edge_by_hooks(model, tokens, lending, receiving, metric, graph, mask):
    """[reader, writer], reader by reader: each of its writers has rows of its own in one batch, which know of no others."""
    effects, unpatched = torch.zeros(graph.exists.shape), metric(model(tokens, attention_mask=mask))
    deltas = torch.stack([written(model, lending, w) - written(model, receiving, w) for w in graph.writers])

    def of_each(logits):
        return torch.stack([metric(part) for part in logits.split(len(tokens))])

    for reader, writers in enumerate(graph.exists):
        n, delta = int(writers.sum()), deltas[writers].flatten(0, 1)
        masks = None if mask is None else mask.repeat(n, 1)
        found = edge_by_hooks(model, tokens.repeat(n, 1), delta, of_each, graph.readers[reader], masks)
        effects[reader, writers] = found - unpatched
    return effects


@pytest.mark.parametrize(("family", "rows"), [("gpt2", 4), ("llama", 4), ("gpt2", 5), ("llama", 5)])
def test_every_edge_agrees_with_patching_one_by_one(family, rows):
    experiment = case(family, rows)
    model, pairs, mask = experiment.model, experiment.pairs, mask_of(experiment)
    lending, receiving = (
        model.run_with_cache(tokens, attention_mask=mask)[1] for tokens in (pairs.clean_tokens, pairs.corrupted_tokens)
    )

    def metric(logits):
        wanted = logits if logits.shape[1] == 1 else logits[torch.arange(len(logits)), pairs.clean_last].unsqueeze(1)
        return (logit_diff(wanted, pairs.answer_tokens) - experiment.corrupted) / (
            experiment.clean - experiment.corrupted
        )

    graph = edge_graph(model.cfg)
    want = every_edge_by_hooks(model, pairs.corrupted_tokens, lending, receiving, metric, graph, mask)
    torch.testing.assert_close(exact(family, rows), want, **TOLERANCE)
    assert want.abs().max() > 0.1


@pytest.mark.parametrize("component", "qkv")
def test_edges_between_heads_agree_with_the_built_in(component):
    experiment = case("gpt2")
    graph = edge_graph(experiment.model.cfg)
    for layer, head in ((0, 1), (1, 3)):
        want = direct_path(experiment, (layer, head), component)
        for at, to in itertools.product(range(layer + 1, 3), range(4)):
            found = exact("gpt2")[graph.reader(component, at, to), graph.writer((layer, head))]
            torch.testing.assert_close(found, want[at, to], **TOLERANCE)


def test_some_readers_and_writers_are_those_of_the_whole_table():
    experiment, graph = case("llama"), EdgeGraph(3, 4, 2)
    readers, writers = [("v", 2, 1), ("logits", 3, 0)], [EMBED, (1, 2)]
    found = experiment.denoise(edges.exact_edges, readers=readers, writers=writers, progress=False)
    rows, columns = [graph.reader(*r) for r in readers], [graph.writer(w) for w in writers]
    wanted = torch.zeros_like(found)
    wanted[np.ix_(rows, columns)] = exact("llama")[np.ix_(rows, columns)]
    torch.testing.assert_close(found, wanted, **TOLERANCE)
    per_prompt = experiment.denoise(edges.exact_edges, readers=readers, writers=writers, reduce="none", progress=False)
    torch.testing.assert_close(per_prompt.mean(-1), found, **TOLERANCE)
