"""An experiment: its ends, its two directions, its answers to what cannot be one."""

import pytest
import torch
from transformer_lens import patching as built_in

from utils import ioi, patching
from utils.attribution import logit_diff
from utils.experiment import run_experiment
from utils.prompts import PromptError, make_pairs
from utils.tiny_models import tiny_model

SHORT = [
    ("Mary gave a drink", "John gave a drink"),
    ("John and Mary went to the store", "John and John went to the store"),
]
RESID, HEADS = patching.get_act_patch_resid_pre, patching.get_act_patch_attn_head_out_all_pos


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def experiment(request):
    pairs = ioi.ioi_pairs(tiny_model(request.param))
    return run_experiment(tiny_model(request.param), pairs[:3])  # no prompt beside its mirror but one


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def padded(request):
    """Two pairs, of five and of eight tokens, with a score of our own."""
    model = tiny_model(request.param)
    clean, corrupted = (list(side) for side in zip(*SHORT, strict=True))
    pairs = make_pairs(model, clean, corrupted, aligned=False)
    return run_experiment(model, pairs, lambda logits: logits[:, -1, 7] - logits[:, -1, 40])


def test_its_runs_are_the_models_and_its_ends_0_and_1(experiment):
    model, pairs = experiment.model, experiment.pairs
    clean, corrupted = model(pairs.clean_tokens), model(pairs.corrupted_tokens)
    assert torch.allclose(experiment.clean_scores, logit_diff(clean, pairs.answer_tokens, True), atol=1e-5)
    assert torch.allclose(experiment.corrupted_scores, logit_diff(corrupted, pairs.answer_tokens, True), atol=1e-5)
    for logits, denoising in ((clean, 1), (corrupted, 0)):
        assert experiment.denoising_metric(logits).item() == pytest.approx(denoising, abs=1e-4)
        assert experiment.noising_metric(logits).item() == pytest.approx(denoising - 1, abs=1e-4)
    for cache, tokens in (
        (experiment.clean_cache, pairs.clean_tokens),
        (experiment.corrupted_cache, pairs.corrupted_tokens),
    ):
        _, expected = model.run_with_cache(tokens)
        assert all(torch.equal(value, expected[name]) for name, value in cache.items())


def test_both_directions_are_those_of_a_loop(experiment):
    model, pairs = experiment.model, experiment.pairs
    _, clean_cache = model.run_with_cache(pairs.clean_tokens)
    _, corrupted_cache = model.run_with_cache(pairs.corrupted_tokens)

    def score(logits):
        return logit_diff(logits, pairs.answer_tokens)

    ends = score(model(pairs.clean_tokens)), score(model(pairs.corrupted_tokens))
    loop = built_in.get_act_patch_attn_head_out_all_pos
    expected = (loop(model, pairs.corrupted_tokens, clean_cache, score) - ends[1]) / (ends[0] - ends[1])
    for sweep, options in ((HEADS, {"progress": False}), (loop, {})):
        assert torch.allclose(experiment.denoise(sweep, **options), expected, atol=1e-4)
    expected = (loop(model, pairs.clean_tokens, corrupted_cache, score) - ends[0]) / (ends[0] - ends[1])
    assert torch.allclose(experiment.noise(HEADS, progress=False), expected, atol=1e-4)
    with pytest.raises(AssertionError):  # the two are not each other's mirror on these pairs
        torch.testing.assert_close(-expected, experiment.denoise(HEADS, progress=False), atol=1e-4, rtol=0)


def test_values_per_prompt_have_the_same_mean(experiment):
    for direction in (experiment.denoise, experiment.noise):
        each = direction(HEADS, progress=False, reduce="none")
        assert each.values.shape[-1] == 3 and not each.values.isnan().any()
        assert torch.allclose(each.mean(), direction(HEADS, progress=False), atol=1e-4)


def test_prompts_of_several_lengths_are_patched_behind_a_mask(padded):
    """Each pair on its own, unpadded, is the oracle: the mean score of both over the mean distance."""
    model, alone, distance = padded.model, [], padded.clean - padded.corrupted
    for clean, corrupted in SHORT:
        tokens = model.to_tokens(corrupted)
        _, cache = model.run_with_cache(model.to_tokens(clean))
        alone.append(RESID(model, tokens, cache, lambda logits: padded.score(logits)[0], progress=False))
    found = padded.denoise(RESID, progress=False)
    assert found.shape == (3, 8)
    expected = torch.stack([alone[1], padded.corrupted_scores[0].expand(3, 8)])
    expected[1, :, :5] = alone[0]
    assert torch.allclose(found, (expected.mean(0) - padded.corrupted) / distance, atol=1e-4)


def test_what_cannot_be_an_experiment_is_refused_in_words():
    model = tiny_model("gpt2")
    unequal = make_pairs(model, ["John gave"], ["Mary gave a"], aligned=False)
    with pytest.raises(PromptError, match="have no answers"):
        run_experiment(model, make_pairs(model, ["John gave"], ["Mary gave"]))
    with pytest.raises(PromptError, match="pair 0 has 3 clean and 4 corrupted tokens"):
        run_experiment(model, unequal, lambda logits: logits[:, -1, 0])
    pairs = ioi.ioi_pairs(model)
    with pytest.raises(ValueError, match=r"the score returned \(\); it must return one number per prompt.*\(8,\)"):
        run_experiment(model, pairs, lambda logits: logits[:, -1].mean())
    with pytest.raises(IndexError, match="last position only"):
        run_experiment(model, pairs, lambda logits: logits[:, 3, 0])
    with pytest.raises(ValueError, match="no difference to bring back"):
        run_experiment(model, pairs, lambda logits: 0 * logits[:, -1, 0])
