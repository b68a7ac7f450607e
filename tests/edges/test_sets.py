"""Sets of edges: runs of any set, how sets are chosen and judged, and ACDC in miniature."""

import itertools
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens.tools.analysis import attribution_patching as analysis

from tests.edges.cases import FAMILIES, TOLERANCE, case, exact
from utils.attribution import logit_diff
from utils.circuits import discovery, edges
from utils.circuits.graph import EdgeGraph, edge_graph
from utils.circuits.path_options import EMBED
from utils.experiment import run_experiment
from utils.tiny_models import tiny_model

quickly = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@cache
def sets_of(family, rows=4):
    return discovery.RunEdges(case(family, rows))


# --- sets of edges ----------------------------------------------------------------------------------------------------------


def some_edges(graph, seed, share):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(graph.exists.shape, generator=generator) < share) & graph.exists


@pytest.mark.parametrize(("family", "rows"), list(itertools.product(FAMILIES, (4, 5))))
def test_all_edges_are_the_clean_run_and_none_the_corrupted(family, rows):
    run, experiment = sets_of(family, rows), case(family, rows)
    scores = run.scores(torch.stack([run.graph.exists, torch.zeros_like(run.graph.exists)]))
    torch.testing.assert_close(scores[0], experiment.clean_scores, **TOLERANCE)
    torch.testing.assert_close(scores[1], experiment.corrupted_scores, **TOLERANCE)
    assert run.faithfulness(run.graph.exists) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_missing_edge_is_one_patched_edge(family):
    """All edges but one: the clean run with that edge patched from the corrupted run."""
    run, experiment = sets_of(family), case(family)
    wanted = experiment.noise(edges.exact_edges, progress=False)
    chosen = run.graph.exists.nonzero()[::7]
    masks = run.graph.exists.repeat(len(chosen), 1, 1)
    masks[torch.arange(len(chosen)), chosen[:, 0], chosen[:, 1]] = False
    found = run.faithfulness(masks) - 1
    # a missing edge out of a writer is also missing what the reader's own change would have told it: nothing, for one edge
    torch.testing.assert_close(found, wanted[chosen[:, 0], chosen[:, 1]], atol=2e-4, rtol=0)


@quickly
@given(st.sampled_from(FAMILIES), st.integers(0, 999), st.sampled_from([0.1, 0.3, 0.6, 0.9]))
def test_pruning_changes_nothing(family, seed, share):
    run = sets_of(family)
    keep = some_edges(run.graph, seed, share)
    pruned = discovery.prune(keep, run.graph)
    assert not (pruned & ~keep).any()
    torch.testing.assert_close(run.scores(pruned), run.scores(keep), **TOLERANCE)
    assert torch.equal(discovery.prune(pruned, run.graph), pruned)


def test_pruning_finds_what_is_cut_off():
    graph = EdgeGraph(3, 4, 2)
    keep = torch.zeros_like(graph.exists)
    way = [(graph.reader("v", 1, 1), 0), (graph.reader("logits"), graph.writer((1, 3)))]
    dead = [(graph.reader("k", 2, 0), graph.writer((1, 3))), (graph.reader("mlp", 2), graph.writer((0, 1)))]
    for reader, writer in [*way, *dead]:
        keep[reader, writer] = True
    pruned = discovery.prune(keep, graph)
    assert sorted(map(tuple, pruned.nonzero().tolist())) == sorted(way)
    assert not discovery.prune(keep & (torch.arange(graph.exists.shape[1]) > 0), graph).any()
    assert torch.equal(discovery.prune(graph.exists, graph), graph.exists)


@quickly
@given(st.sampled_from(FAMILIES), st.integers(0, 999))
def test_a_set_of_edges_by_plain_arithmetic(family, seed):
    """The same run written out reader by reader with the model's own modules, at every position."""
    run, experiment = sets_of(family), case(family)
    keep = some_edges(run.graph, seed, 0.5)
    torch.testing.assert_close(run.scores(keep), _plain_scores(experiment, run.graph, keep), **TOLERANCE)


def _plain_scores(experiment, graph, keep):
    model, tokens = experiment.model, experiment.pairs.corrupted_tokens
    _, corrupted = model.run_with_cache(tokens)
    clean = experiment.clean_cache
    wrote = {EMBED: clean["resid_pre", 0] - corrupted["resid_pre", 0]}

    def heard(reader):
        names = [graph.writers[i] for i in keep[reader].nonzero()[:, 0].tolist()]
        return sum((wrote[name] for name in names), torch.zeros_like(wrote[EMBED]))

    for layer in range(graph.n_layers):
        inputs = {site: [] for site in "qkv"}
        for site, n in (("q", graph.n_heads), ("k", graph.n_kv_heads), ("v", graph.n_kv_heads)):
            for head in range(n):
                delta = heard(graph.reader(site, layer, head))
                with model.hooks(fwd_hooks=[(f"blocks.{layer}.ln1.hook_in", lambda x, hook, d=delta: x + d)]):
                    _, told = model.run_with_cache(tokens, names_filter=f"blocks.{layer}.attn.hook_{site}")
                inputs[site].append(told[f"blocks.{layer}.attn.hook_{site}"][:, :, head])
        hooks = [(f"blocks.{layer}.attn.hook_{s}", lambda x, hook, s=s: torch.stack(inputs[s], 2)) for s in "qkv"]  # noqa: B023
        with model.hooks(fwd_hooks=hooks):
            _, told = model.run_with_cache(tokens, names_filter=f"blocks.{layer}.attn.hook_z")
        z = told[f"blocks.{layer}.attn.hook_z"] - corrupted["z", layer]
        wrote |= {(layer, head): z[:, :, head] @ model.W_O[layer, head] for head in range(graph.n_heads)}
        delta = heard(graph.reader("mlp", layer))
        with model.hooks(fwd_hooks=[(f"blocks.{layer}.ln2.hook_in", lambda x, hook, d=delta: x + d)]):
            _, told = model.run_with_cache(tokens, names_filter=f"blocks.{layer}.hook_mlp_out")
        wrote[layer, "mlp"] = told[f"blocks.{layer}.hook_mlp_out"] - corrupted["mlp_out", layer]
    final = heard(graph.reader("logits"))
    logits = model.run_with_hooks(tokens, fwd_hooks=[("ln_final.hook_in", lambda x, hook: x + final)])
    return experiment.score(logits)


def test_agrees_with_the_built_in_faithfulness():
    """TransformerLens keeps clean edges beside corrupted ones, too; on one prompt, of an ordinary GPT-2."""
    experiment, graph = case("gpt2"), EdgeGraph(3, 4, 4)
    pairs = experiment.pairs[:1]
    alone = run_experiment(experiment.model, pairs)
    run, keep = discovery.RunEdges(alone), some_edges(graph, 5, 0.6)

    def metric(logits):
        return logit_diff(logits[:, -1:], pairs.answer_tokens)

    config = analysis.EdgeAttributionConfig(granularity="edge")
    with torch.enable_grad():
        theirs = analysis.attribution_patch(
            experiment.model, pairs.clean_tokens, pairs.corrupted_tokens, metric, config
        )
    sites = {"q_input": "q", "k_input": "k", "v_input": "v", "mlp_in": "mlp", "logits": "logits"}
    circuit = []
    for writer, reader in theirs.edge_scores:
        layer = None if reader.kind == "logits" else reader.layer
        part = {"embed": EMBED, "mlp_out": (writer.layer, "mlp")}.get(writer.kind, (writer.layer, writer.head))
        if keep[graph.reader(sites[reader.kind], layer, reader.head or 0), graph.writer(part)]:
            circuit.append((writer, reader))
    found = analysis.faithfulness(experiment.model, pairs.clean_tokens, pairs.corrupted_tokens, metric, circuit)
    assert run.faithfulness(keep).item() == pytest.approx(found.recovered, abs=1e-4)


def test_impossible_edges_are_refused():
    run = sets_of("gpt2")
    with pytest.raises(ValueError, match="do not exist"):
        run.scores(torch.ones_like(run.graph.exists))


@pytest.mark.parametrize("family", FAMILIES)
def test_sets_do_not_depend_on_the_memory_bound(family):
    experiment, graph = case(family, 5), edge_graph(tiny_model(family).cfg)
    keep = torch.stack([some_edges(graph, seed, 0.5) for seed in range(3)])
    bounded = discovery.RunEdges(experiment, {"max_memory": 1})
    torch.testing.assert_close(bounded.scores(keep), sets_of(family, 5).scores(keep), **TOLERANCE)


# --- choosing ---------------------------------------------------------------------------------------------------------------


@quickly
@given(st.integers(0, 999), st.integers(0, 190), st.booleans())
def test_top_edges_are_the_best_and_exactly_so_many(seed, n, signed):
    graph, generator = EdgeGraph(3, 4, 2), torch.Generator().manual_seed(seed)
    scores = torch.randn(graph.exists.shape, generator=generator).round(decimals=1)  # with ties
    keep = discovery.top_edges(scores, graph.exists, n, signed)
    assert int(keep.sum()) == n and not (keep & ~graph.exists).any()
    ranked = scores if signed else scores.abs()
    if 0 < n < 190:
        assert ranked[keep].min() >= ranked[graph.exists & ~keep].max()
    with pytest.raises(ValueError, match="190 edges"):
        discovery.top_edges(scores, graph.exists, 191, signed)


@pytest.mark.parametrize("matched", [True, False])
def test_random_sets_are_of_the_same_size(matched):
    graph = EdgeGraph(3, 4, 2)
    keep = some_edges(graph, 1, 0.3)
    drawn = discovery.random_edges(keep, graph, 30, matched)
    assert drawn.shape == (30, *keep.shape) and not (drawn & ~graph.exists).any()
    assert (drawn.flatten(1).sum(1) == keep.sum()).all()
    assert (drawn.sum(-1) == keep.sum(-1)).all() == matched
    assert torch.equal(drawn, discovery.random_edges(keep, graph, 30, matched)) and len(drawn.unique(dim=0)) > 20


def test_connected_sets_have_no_edge_in_vain():
    graph = EdgeGraph(3, 4, 2)
    keep = some_edges(graph, 1, 0.3)
    drawn = discovery.connected_edges(keep, graph, 30)
    assert not (drawn & ~graph.exists).any() and len(drawn.unique(dim=0)) > 20
    assert all(torch.equal(one, discovery.prune(one, graph)) for one in drawn)
    extra = drawn.flatten(1).sum(1) - keep.sum()
    assert (extra >= 0).all() and extra.float().mean() < 3 and (extra == 0).any()
    assert torch.equal(drawn, discovery.connected_edges(keep, graph, 30))
    assert torch.equal(discovery.connected_edges(graph.exists, graph, 1)[0], graph.exists)  # all of them are connected
    to_mlp_0 = (graph.readers.index(("mlp", 0, 0)), 0)  # from the embedding
    with_it = discovery.connected_edges(keep, graph, 30, first=[to_mlp_0])
    assert with_it[:, *to_mlp_0].sum() > 25 > drawn[:, *to_mlp_0].sum()


def test_areas_of_known_curves():
    ones = torch.ones(len(discovery.SHARES))
    assert discovery.cpr(ones) == pytest.approx(0.999) and discovery.cmd(ones) == 0
    line = torch.tensor(discovery.SHARES)
    assert discovery.cpr(line) == pytest.approx((1 - 1e-6) / 2) and discovery.cmd(line) == pytest.approx(
        0.999 - 0.4999995
    )
    assert discovery.cpr(2 * ones) == pytest.approx(1.998) and discovery.cmd(2 * ones) == pytest.approx(0.999)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_curve_ends_at_the_whole_model(family):
    run = sets_of(family)
    for signed in (True, False):
        curve = discovery.faithfulness_curve(run, exact(family), signed, shares=(0.0, 0.1, 0.5, 1.0))
        assert curve[0] == pytest.approx(0, abs=1e-4) and curve[-1] == pytest.approx(1, abs=1e-4)
    assert discovery.sizes(EdgeGraph(30, 9, 3)) == [71, 141, 353, 707, 1413, 3533, 7065, 14130, 35326, 70651]


def test_overlap_of_sets():
    graph = EdgeGraph(3, 4, 2)
    one, other = some_edges(graph, 1, 0.3), some_edges(graph, 2, 0.3)
    both, either = int((one & other).sum()), int((one | other).sum())
    assert discovery.jaccard(one, other) == both / either and discovery.jaccard(one, one) == 1
    assert discovery.jaccard(one & ~one, other & ~other) == 1
    scores = torch.randn(*graph.exists.shape, 6, generator=torch.Generator().manual_seed(0))
    same = scores[..., :1].expand(-1, -1, 6)
    assert discovery.bootstrap_overlap(same, graph.exists, 20) == [1.0] * 20
    overlaps = discovery.bootstrap_overlap(scores, graph.exists, 20)
    assert len(overlaps) == 20 and min(overlaps) > 0 and max(overlaps) < 1


# --- by trial ---------------------------------------------------------------------------------------------------------------


def test_order_decides_between_stand_ins():
    """a or b is needed, and c; whichever of a and b is tried first goes."""

    def distance(kept):
        return (0 if kept & {"a", "b"} else 1) + (0 if "c" in kept else 0.5)

    assert discovery.acdc(["a", "b", "c", "d"], distance, 0.1) == (["b", "c"], [0, 0, 0, 0])
    assert discovery.acdc(["d", "c", "b", "a"], distance, 0.1)[0] == ["c", "a"]
    assert discovery.acdc(["c", "a", "b"], distance, 0.6) == (["b"], [0.5, 0.5, 0.5])
    assert discovery.acdc(["c", "a"], distance, 0.5)[0] == ["c", "a"], "a growth by exactly the threshold matters"


def test_trial_in_two_orders_on_a_model():
    run = sets_of("llama")
    edges_of_model = [tuple(edge) for edge in run.graph.exists.nonzero().tolist()]

    def distance(kept):
        keep = torch.zeros_like(run.graph.exists)
        keep[tuple(torch.tensor(sorted(kept), dtype=torch.long).reshape(-1, 2).T)] = True
        return abs(1 - run.faithfulness(keep).item())

    found = [discovery.acdc(order, distance, 0.02) for order in (edges_of_model, edges_of_model[::-1])]
    for kept, way in found:
        assert len(way) == 190 and way[-1] == pytest.approx(distance(frozenset(kept)), abs=1e-5)
        assert 0 < len(kept) < 190
    assert set(found[0][0]) != set(found[1][0])
