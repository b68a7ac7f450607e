"""Estimates of edges by gradients: EAP and EAP-IG against their definitions and the library."""

import itertools
from functools import partial

import pytest
import torch
from transformer_lens import ActivationCache
from transformer_lens.tools.analysis import attribution_patching as analysis

from tests.edges.cases import FAMILIES, TOLERANCE, case, exact
from utils.attribution import logit_diff
from utils.circuits import edges
from utils.circuits.edge_run import EdgeRun
from utils.circuits.graph import EdgeGraph, edge_graph
from utils.circuits.path_options import EMBED
from utils.patching import attribution_patching
from utils.tiny_models import tiny_model


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
