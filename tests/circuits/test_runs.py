"""Circuits run as they are defined: what is kept, where, and what the rest is set to."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zoo import zoo_model
from utils.attribution import logit_diff
from utils.circuits import criteria, evaluate
from utils.circuits.kept_positions import KeptPositions
from utils.ioi import ioi_dataset
from utils.tiny_models import tiny_model


def z_of(model, tokens, mask):
    _, cache = model.run_with_cache(tokens, attention_mask=mask)
    return torch.stack([cache["z", layer] for layer in range(model.cfg.n_layers)])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_all_heads_kept_is_the_model(circuit_tests, family):
    test = circuit_tests[family]
    logits = test.model(test.pairs.clean_tokens, attention_mask=test.pairs.clean_mask)
    expected = logit_diff(logits, test.pairs.answer_tokens, per_prompt=True, last=test.pairs.clean_last)
    torch.testing.assert_close(test.full, expected, atol=1e-4, rtol=0)
    found = evaluate.faithfulness(test.full, test.full, test.empty)
    assert (found.value, found.low, found.high, found.mae) == (1, 1, 1, 0) and found.correlation == pytest.approx(1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_head_kept_and_templates_of_one_is_the_twins_z_everywhere(family):
    model = tiny_model(family)
    pairs = ioi_dataset(model, 12).pairs("ABC")
    z = z_of(model, pairs.corrupted_tokens, pairs.corrupted_mask)
    means = evaluate.means_by_template(z, torch.arange(12))
    torch.testing.assert_close(means, z)
    nothing = torch.zeros(z.shape[:4], dtype=torch.bool)
    found = evaluate.run_circuit(model, pairs.clean_tokens, nothing, means, pairs.clean_mask)[:, 0]
    hooks = [
        (f"blocks.{layer}.attn.hook_z", lambda x, hook: z[int(hook.name.split(".")[1])])
        for layer in range(model.cfg.n_layers)
    ]
    whole = model.run_with_hooks(pairs.clean_tokens, fwd_hooks=hooks, attention_mask=pairs.clean_mask)
    torch.testing.assert_close(found, whole[torch.arange(12), pairs.clean_last], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_is_kept_and_what_is_taken_away_are_two_sides_of_a_mask(circuit_tests, family, seed):
    test, generator = circuit_tests[family], np.random.default_rng(seed)
    heads = [("S2", (int(generator.integers(3)), int(generator.integers(4)))) for _ in range(3)]
    heads += [("END", (int(generator.integers(3)), int(generator.integers(4)))) for _ in range(3)]
    circuit = criteria.as_circuit(heads)
    mask = evaluate.keep_mask(circuit, test.roles, test.shape)
    assert int(mask.sum()) == 24 * len(set(heads))
    torch.testing.assert_close(test.scores(circuit), test.scores_of_mask(mask))
    torch.testing.assert_close(test.scores_without(circuit), test.scores_of_mask(~mask))
    padded = torch.arange(test.shape[2]) > test.pairs.clean_last[:, None]
    assert not (mask & padded[None, :, :, None]).any(), "padding is never kept"


# --- the positions at which something is kept ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.1, 0.3]), whole=st.booleans())
def test_computing_some_positions_gives_the_whole_run(circuit_tests, family, seed, share, whole):
    """Any mask: other positions in every prompt, more of them in some than in others, padding left out.

    Beside the empty circuit some heads are kept; beside the whole model some have another z, their mean or any other.
    """
    test, generator = circuit_tests[family], torch.Generator().manual_seed(seed)
    real = test.pairs.clean_mask.bool()
    at = (torch.rand(test.shape[1:3], generator=generator) < share) & real
    chosen = (torch.rand(test.shape, generator=generator) < 0.5) & at[None, :, :, None]
    mask, z = (~chosen, torch.randn(test.means.shape, generator=generator)) if whole else (chosen, None)
    few = KeptPositions(test.model, test.pairs.clean_tokens, test.means, real, whole)
    for instead in (None, z):
        z_there = test.means if instead is None else instead
        by_hooks = evaluate.run_circuit(test.model, test.pairs.clean_tokens, mask, z_there, test.pairs.clean_mask)
        torch.testing.assert_close(few.logits(mask, instead), by_hooks, atol=1e-4, rtol=1e-4)
    first = torch.where(at.any(1), at.long().argmax(1), few.last)
    assert few.where(mask).shape[1] <= (1 + int((few.last - first).max()) if whole else 1 + int(at.sum(1).max()))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_small_circuit_runs_a_part_of_the_positions(family, monkeypatch):
    """And the numbers are those of the whole run; the model as it is has no such shortcut."""
    test = evaluate.circuit_test(ioi_dataset(tiny_model(family), 48), 24)
    circuit = {"S1+1": [(0, 1)], "S2": [(1, 2)], "END": [(2, 0), (2, 3)]}
    mask = evaluate.keep_mask(circuit, test.roles, test.shape)
    whole = test._by_hooks(mask)
    torch.testing.assert_close(test.scores(circuit), whole, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(whole, test.empty, atol=1e-3) and not torch.allclose(whole, test.full, atol=1e-3)
    runs, everywhere = [], torch.zeros(test.shape, dtype=torch.bool)
    everywhere[0, :, :, 0] = True
    monkeypatch.setattr(evaluate, "run_circuit", lambda *a: runs.append(a) or pytest.fail("a whole run"))
    assert len(test.scores(circuit)) == len(test.scores_without({"END": [(2, 0)]})) == 24 and not runs
    with pytest.raises(pytest.fail.Exception):
        test.scores_of_mask(everywhere)  # heads at so many positions that an ordinary run is as fast


@pytest.mark.parametrize("change", ["weight", "hook"])
def test_a_changed_model_is_run_whole(change):
    """What is computed once holds for the weights that it was computed with, and for a model with no hooks on it."""
    model = tiny_model("llama", 3, 5)
    test = evaluate.circuit_test(ioi_dataset(model, 48), 24)
    circuit = {"S2": [(1, 2)], "END": [(2, 0), (2, 3)]}
    before, mask = test.scores(circuit), evaluate.keep_mask(circuit, test.roles, test.shape)
    name = "blocks.1.hook_mlp_out"
    weight = model.blocks[1].mlp.out.original_component.weight
    kept = weight.detach().clone()
    try:
        if change == "weight":
            weight.mul_(0)
        else:
            model.add_hook(name, lambda out, hook: torch.zeros_like(out))
        after = test.scores(circuit)
        torch.testing.assert_close(after, test._by_hooks(mask))
        assert not torch.allclose(after, before, atol=1e-4)
    finally:
        weight.copy_(kept)
        model.reset_hooks()


@pytest.mark.parametrize("name", ["sliding window", "own hooks"])
def test_a_model_that_cannot_be_taken_apart_is_run_whole(name):
    model = zoo_model(name)
    test = evaluate.circuit_test(ioi_dataset(model, 48), 24)
    circuit = {"S2": [(1, 2)], "END": [(2, 0), (2, 3)]}
    mask = evaluate.keep_mask(circuit, test.roles, test.shape)
    torch.testing.assert_close(test.scores(circuit), test._by_hooks(mask), atol=2e-5, rtol=1e-4)


def test_empty_circuit_is_not_faithful_and_is_not_constant(circuit_tests):
    test = circuit_tests["gpt2"]
    found = evaluate.faithfulness(test.full, test.empty, test.empty)
    assert (found.value, found.low, found.high) == (0, 0, 0) and found.mae > 0
    assert test.empty.std() > 0


def test_faithfulness_interval_holds_the_value_and_a_constant_has_no_correlation():
    full, empty = torch.randn(30, generator=torch.Generator().manual_seed(0)) + 3, torch.zeros(30)
    found = evaluate.faithfulness(full, 0.5 * full, empty)
    assert found.value == pytest.approx(0.5) and found.low <= 0.5 <= found.high
    assert np.isnan(evaluate.faithfulness(full, torch.ones(30), empty).correlation)
    with pytest.raises(ValueError, match="there is nothing to explain"):
        evaluate.faithfulness(full, full, full)


def test_small_data_sets_and_wrong_sizes_are_refused():
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="12 templates have one prompt"):
        evaluate.circuit_test(ioi_dataset(model, 12))
    with pytest.raises(ValueError, match="n=25: the data set has 24 prompts"):
        evaluate.circuit_test(ioi_dataset(model, 24), 25)
    with pytest.raises(KeyError, match="'S3'"):
        evaluate.keep_mask({"S3": [(0, 0)]}, {"S2": torch.tensor([1])}, (1, 1, 2, 1))
