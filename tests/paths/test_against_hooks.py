"""Path patching equals two runs with hooks, and the library's own."""

import itertools
from functools import partial

import pytest
import torch

from tests.paths.cases import (
    RECEIVERS,
    TOLERANCE,
    direct_path,
    experiment_of,
    given_of,
)
from tests.plain_paths import by_hooks
from utils.attribution import logit_diff
from utils.circuits.paths import edge_patch, path_patch
from utils.ioi import positions_by_role

# --- the plain way: two runs with hooks -----------------------------------------------------------------------------------


def shared(model, receivers, component):
    """The heads' own places in hook_q, hook_k or hook_v."""
    if receivers == "logits" or component == "q":
        return receivers
    group = model.cfg.n_heads // (model.cfg.n_key_value_heads or model.cfg.n_heads)
    return [(layer, head // group) for layer, head in receivers]


@pytest.mark.parametrize("mlps", ["frozen", "free"])
@pytest.mark.parametrize(("receivers", "component"), RECEIVERS)
def test_every_sender_agrees_with_two_runs(case, receivers, component, mlps):
    model, experiment = case
    roles = positions_by_role(experiment.pairs.clean_tokens, experiment.pairs.answer_tokens)
    _, lending = model.run_with_cache(experiment.pairs.clean_tokens)
    tokens, metric = experiment.pairs.corrupted_tokens, experiment.denoising_metric
    plain = partial(by_hooks, model, tokens, lending, metric, receiving=model.run_with_cache(tokens)[1])
    reading, moved = shared(model, receivers, component), []
    for turn, at in enumerate((None, roles["END"], roles["S2"])):
        found = path_patch(*given_of(experiment), receivers, component, at=at, mlps=mlps, progress=False)
        of_mlps = path_patch(
            *given_of(experiment), receivers, component, at=at, mlps=mlps, senders="mlps", progress=False
        )
        parts = itertools.product(range(model.cfg.n_layers), (*range(model.cfg.n_heads), "mlp"))
        for layer, part in list(parts)[turn::3]:  # every sender once, at one of the three
            want = plain([(layer, part)], reading, component, at, mlps == "free")
            got = of_mlps[layer] if part == "mlp" else found[layer, part]
            torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=TOLERANCE)
        moved.append(found.abs().max())
    assert max(moved) > 0.01


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize(("receivers", "component"), RECEIVERS)
def test_prompts_of_unequal_length(family, receivers, component):
    """Padded on the right; each sender is patched at each prompt's own position."""
    experiment = experiment_of(family, 5)
    model, pairs = experiment.model, experiment.pairs
    assert not pairs.clean_mask.all()
    sets = [[(0, 1)], [(0, "mlp"), (1, 2)], [(1, 0), (0, 3)]]
    _, lending = model.run_with_cache(pairs.clean_tokens, attention_mask=pairs.clean_mask)

    def metric(logits):
        return logit_diff(logits, pairs.answer_tokens, True, None if logits.shape[1] == 1 else pairs.clean_last)

    for at in (None, pairs.clean_last, torch.tensor([10, 2, 10, 12, 8])):
        options = {
            "senders": sets,
            "at": at,
            "attention_mask": pairs.corrupted_mask,
            "reduce": "none",
            "progress": False,
        }
        found = path_patch(model, pairs.corrupted_tokens, lending, metric, receivers, component, **options)
        where = shared(model, receivers, component)
        for sender, got in zip(sets, found, strict=True):
            want = by_hooks(
                model,
                pairs.corrupted_tokens,
                lending,
                metric,
                sender,
                where,
                component,
                at,
                False,
                pairs.corrupted_mask,
            )
            torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=TOLERANCE)
    assert experiment.denoise(path_patch, progress=False).shape == (3, 4)  # the mask is passed on


@pytest.mark.parametrize(("receivers", "component"), RECEIVERS)
def test_an_experiment_computes_the_logits_of_its_answers_only(case, receivers, component):
    """Its metric says which tokens it reads: the numbers are those of the same metric without that, in every prompt."""
    _, experiment = case
    for options in ({}, {"mlps": "free"}, {"max_batch": 3}, {"at": -1}):
        found = experiment.denoise(path_patch, receivers=receivers, component=component, progress=False, **options)
        whole = path_patch(*given_of(experiment), receivers, component, progress=False, **options)
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


def test_a_sender_before_the_first_difference_changes_nothing(case):
    """There the runs differ by float error, which is not patched: the value is the unpatched one to the last bit."""
    _, experiment = case
    first = (experiment.pairs.clean_tokens != experiment.pairs.corrupted_tokens).long().argmax(1)
    options = {"receivers": [(2, 1)], "component": "k", "progress": False}
    itself = experiment.denoise(path_patch, at=first - 1, **options)
    assert (itself == itself[0, 0]).all()
    assert experiment.denoise(path_patch, at=first, **options).std() > 0


@pytest.mark.parametrize(("options"), [{"max_batch": 1}, {"max_batch": 7}, {"max_memory": 1}])
def test_the_memory_bound_changes_nothing(case, options):
    _, experiment = case
    for receivers in ("logits", [(1, 0), (2, 1)]):
        component = None if receivers == "logits" else "k"
        whole, parts = (
            path_patch(*given_of(experiment), receivers, component, progress=False, **more) for more in ({}, options)
        )
        torch.testing.assert_close(parts, whole, atol=TOLERANCE, rtol=TOLERANCE)


# --- the built-in -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "component"), [("gpt2", "q"), ("gpt2", "k"), ("gpt2", "v"), ("llama", "q")])
def test_edges_agree_with_the_built_in(family, component):
    experiment = experiment_of(family)
    for layer, head in ((0, 1), (1, 3)):
        want = direct_path(experiment, (layer, head), component)
        found = edge_patch(*given_of(experiment), (layer, head), component, progress=False)
        torch.testing.assert_close(found[layer + 1 :], want[layer + 1 :], atol=TOLERANCE, rtol=TOLERANCE)
        torch.testing.assert_close(found[: layer + 1], torch.zeros(layer + 1, 4), atol=TOLERANCE, rtol=TOLERANCE)


def test_edges_are_paths_with_one_receiver(case):
    model, experiment = case
    for component in "qkv":
        edges = edge_patch(*given_of(experiment), [(0, 2), (0, "mlp")], component, at=-1, progress=False)
        group = model.cfg.n_heads // edges.shape[1]
        for layer in range(3):
            for head in range(edges.shape[1]):
                options = {"senders": [[(0, 2), (0, "mlp")]], "at": -1, "progress": False}
                one = path_patch(*given_of(experiment), [(layer, head * group)], component, **options)
                torch.testing.assert_close(edges[layer, head], one[0], atol=TOLERANCE, rtol=TOLERANCE)
