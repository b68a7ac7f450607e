"""Edges: exact sweeps equal one-by-one patching, estimates obey their identities, sets of edges lie between the two runs."""

import itertools
from functools import cache, partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens import ActivationCache
from transformer_lens import patching as built_in
from transformer_lens.tools.analysis import attribution_patching as analysis

from tests.plain_paths import edge_by_hooks, written
from tests.test_paths import FOUR, setting
from utils.attribution import logit_diff
from utils.circuits import discovery, edges
from utils.circuits.edge_run import EdgeRun
from utils.circuits.graph import EdgeGraph, edge_graph
from utils.circuits.path_options import EMBED
from utils.experiment import run_experiment
from utils.patching import attribution_patching
from utils.tiny_models import tiny_model

TOLERANCE = {"atol": 1e-4, "rtol": 0}
FAMILIES = ("gpt2", "llama")
quickly = settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@cache
def case(family, rows=4):
    """An experiment of four prompts of one length, or of five, of which one is shorter."""
    model, pairs = setting(family, FOUR if rows == 4 else slice(0, rows))
    return run_experiment(model, pairs)


@cache
def exact(family, rows=4):
    return case(family, rows).denoise(edges.exact_edges, progress=False)


@cache
def sets_of(family, rows=4):
    return discovery.RunEdges(case(family, rows))


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
        want = built_in.get_act_patch_direct_path(
            experiment.model,
            experiment.pairs.corrupted_tokens,
            experiment.clean_cache,
            experiment.corrupted_cache,
            experiment.denoising_metric,
            layer,
            head,
            component,
            verbose=False,
        )
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


# --- estimates --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "rows"), list(itertools.product(FAMILIES, (4, 5))))
def test_edges_of_a_writer_add_up_to_its_node(family, rows):
    """The gradient by what a part writes is the sum of the gradients by what its readers read."""
    experiment, graph = case(family, rows), edge_graph(tiny_model(family).cfg)
    found = experiment.denoise(edges.eap).sum(0)
    heads = experiment.denoise(partial(attribution_patching, sweep="attn_head_out_all_pos"))
    mlps = experiment.denoise(partial(attribution_patching, sweep="mlp_out")).sum(1)
    for layer in range(3):
        torch.testing.assert_close(found[graph.heads_of(layer)], heads[layer], **TOLERANCE)
        torch.testing.assert_close(found[graph.writer((layer, "mlp"))], mlps[layer], **TOLERANCE)


def test_agrees_with_the_built_in_edge_attribution():
    """TransformerLens', prompt by prompt; it refuses shared keys and values."""
    experiment, graph = case("gpt2"), EdgeGraph(3, 4, 4)
    found = experiment.denoise(edges.eap, reduce="none")
    pairs, config = experiment.pairs, analysis.EdgeAttributionConfig(granularity="edge")
    sites = {"q_input": "q", "k_input": "k", "v_input": "v", "mlp_in": "mlp", "logits": "logits"}
    for row in range(2):
        with torch.enable_grad():
            result = analysis.attribution_patch(
                experiment.model,
                pairs.clean_tokens[[row]],
                pairs.corrupted_tokens[[row]],
                lambda logits, row=row: (
                    logit_diff(logits[:, -1:], pairs.answer_tokens[[row]]) / (experiment.clean - experiment.corrupted)
                ),
                config,
            )
        theirs = torch.zeros_like(found[..., row])  # theirs has an edge for each position
        for (writer, reader), score in result.edge_scores.items():
            layer = None if reader.kind == "logits" else reader.layer
            at = graph.reader(sites[reader.kind], layer, reader.head or 0)
            part = {"embed": EMBED, "mlp_out": (writer.layer, "mlp")}.get(writer.kind, (writer.layer, writer.head))
            theirs[at, graph.writer(part)] += score
        torch.testing.assert_close(found[..., row], theirs, **TOLERANCE)


def test_a_shared_reader_is_the_sum_of_its_heads():
    """If every head had a copy of its own of the shared keys and values, their edges would add up to the shared one's."""
    experiment, graph = case("llama"), EdgeGraph(3, 4, 2)
    run = EdgeRun(experiment.model, experiment.pairs.corrupted_tokens, experiment.clean_cache)
    group = next(run.groups(gradients=True))
    streams = run.here(run.run.resid_pre[1], group).expand(1, 8, -1, -1, -1)
    with torch.enable_grad():
        stream = streams.detach().requires_grad_()
        z = run.attention_z(1, stream, group)
        shared = torch.autograd.grad(z.sum(), stream)[0][0]  # reader rows n d_model
        own = run.here(run.run.resid_pre[1], group).expand(4, 3, -1, -1, -1).detach().requires_grad_()
        total = 0
        for head in range(4):  # each head alone reads its own query, key and value
            alone = run.run.resid_pre[1][group.prompts, group.start :].expand(1, 8, -1, -1, -1).clone()
            for i, row in enumerate((head, 4 + head // 2, 6 + head // 2)):
                alone[0, row] = own[head, i]
            total = total + run.attention_z(1, alone, group)[..., head, :].sum()
        by_head = torch.autograd.grad(total, own)[0]
    for kv in range(2):
        torch.testing.assert_close(shared[4 + kv], by_head[2 * kv : 2 * kv + 2, 1].sum(0), **TOLERANCE)
        torch.testing.assert_close(shared[6 + kv], by_head[2 * kv : 2 * kv + 2, 2].sum(0), **TOLERANCE)
    assert graph.n_kv_heads == 2


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rule", edges.RULES)
def test_edges_of_the_embedding_add_up_to_the_whole_difference(family, rule):
    """As steps grow. The midpoint and trapezoid rules get there sooner than the left one."""
    off = [abs(case(family).denoise(edges.eap_ig, steps=n, rule=rule)[:, 0].sum().item() - 1) for n in (8, 64)]
    assert off[1] < (0.05 if rule == "left" else 0.02)
    assert off[1] < off[0] or off[0] < 1e-3


def test_small_differences_are_estimated_exactly():
    """To first order: where everything that is lent differs by little, one gradient is enough."""
    experiment = case("gpt2")
    found, wanted = experiment.denoise(edges.eap), exact("gpt2")
    small = _shrunk(experiment, 2e-3)
    metric = experiment.denoising_metric
    ex = edges.exact_edges(experiment.model, experiment.pairs.corrupted_tokens, small, metric, progress=False)
    ap = edges.eap(experiment.model, experiment.pairs.corrupted_tokens, small, metric)
    assert (ap - ex).abs().max() < 0.05 * ex.abs().max()
    assert (found - wanted).abs().max() > 0.5 * wanted.abs().max()


def _shrunk(experiment, share):
    """A lending cache in which everything differs by a small share of the real difference."""
    other = experiment.corrupted_cache
    shrunk = {
        name: other[name] + share * (experiment.clean_cache[name] - other[name])
        for name in other
        if name.endswith(("hook_z", "mlp_out", "hook_in", "resid_pre"))
    }
    return ActivationCache(shrunk, experiment.model)


def test_a_divergence_has_no_gradient_where_the_runs_agree():
    """The KL divergence from the receiving run is smallest there, so edge attribution sees nothing at all."""
    experiment = case("llama")
    model, tokens = experiment.model, experiment.pairs.clean_tokens
    own = model(tokens)[:, -1].log_softmax(-1)

    def divergence(logits):
        return (own.exp() * (own - logits[:, -1].log_softmax(-1))).sum(-1).mean()

    given_here = (model, tokens, experiment.corrupted_cache, divergence)
    assert edges.eap(*given_here).abs().max() < 1e-5
    assert edges.exact_edges(*given_here, progress=False).max() > 1e-3
    assert edges.eap_ig(*given_here, steps=5).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_estimates_do_not_depend_on_the_memory_bound(family):
    experiment = case(family, 5)
    whole = experiment.denoise(edges.eap_ig, steps=2)
    torch.testing.assert_close(experiment.denoise(edges.eap_ig, steps=2, max_memory=1), whole, **TOLERANCE)
    per_prompt = experiment.denoise(edges.eap_ig, steps=2, reduce="none")
    torch.testing.assert_close(per_prompt.mean(-1), whole, **TOLERANCE)
    assert not whole[~edge_graph(experiment.model.cfg).exists].any()


def test_points_of_the_rules():
    assert edges.integration_points(1, "left") == [(0.0, 1.0)]
    assert edges.integration_points(2, "midpoint") == [(0.25, 0.5), (0.75, 0.5)]
    assert edges.integration_points(3, "trapezoid") == [(0.0, 0.25), (0.5, 0.5), (1.0, 0.25)]
    for steps, rule in itertools.product(range(2, 9), edges.RULES):
        points = edges.integration_points(steps, rule)
        assert len(points) == steps and sum(weight for _, weight in points) == pytest.approx(1)
    for steps, rule in ((0, "left"), (1, "trapezoid"), (3, "simpson")):
        with pytest.raises(ValueError, match="rules are"):
            edges.integration_points(steps, rule)


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
