"""What the course assumes of a model: each assumption holds by numbers, or the model is refused by name."""

import pytest
import torch

from tests.zoo import CONFIGS, zoo_model
from utils import ablation, assumptions, attribution, patching
from utils.assumptions import UnsupportedModel
from utils.inference import end_logits
from utils.patching.blocks import run_block
from utils.tiny_models import tiny_model

PROMPT = "When John and Mary went to the shops, Mary gave a ball to the kind person who"
MODELS = ["gpt2", "llama", *CONFIGS]
ANSWERS = torch.tensor([[5, 9]])


def named(name):
    return tiny_model(name) if name in ("gpt2", "llama") else zoo_model(name)


def cached(model):
    return model.run_with_cache(model.to_tokens(PROMPT))


def holds_or_refused(model, measure):
    """The largest error of `measure`, or None where the model is refused by name."""
    try:
        return measure().abs().max().item()
    except UnsupportedModel as refusal:
        assert model.cfg.model_name in str(refusal)
        return None


@pytest.mark.parametrize("name", MODELS)
def test_attributions_add_up_or_the_model_is_refused(name):
    model = named(name)
    logits, cache = cached(model)

    def miss():
        total = attribution.attribution_total(model, cache, ANSWERS)
        return total - attribution.logit_diff(logits, ANSWERS, per_prompt=True)

    off = holds_or_refused(model, miss)
    assert (off is None) == (name in ("norms after layers", "soft caps", "scaled residuals"))
    assert off is None or off < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_heads_add_up_to_their_layer_or_the_model_is_refused(name):
    model = named(name)
    _, cache = cached(model)

    def miss():
        found = attribution.head_results(model, cache).sum(1)  # layer batch d_model
        biases = [getattr(block.attn, "b_O", None) for block in model.blocks]
        found = found + torch.stack([b if b is not None else torch.zeros(32) for b in biases])[:, None]
        return found - torch.stack([cache["attn_out", layer][:, -1] for layer in range(model.cfg.n_layers)])

    off = holds_or_refused(model, miss)
    assert (off is None) == (name in ("norms after layers", "soft caps", "scaled residuals", "clipped"))
    assert off is None or off < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_a_block_by_itself_does_what_it_does_in_the_model_or_is_refused(name):
    model = named(name)
    _, cache = cached(model)

    def miss():
        layers = range(model.cfg.n_layers)
        rows = [run_block(model, i, cache["resid_pre", i]) - cache["resid_post", i] for i in layers]
        return torch.stack(rows)

    off = holds_or_refused(model, miss)
    assert (off is None) == (name in ("sliding window", "soft caps", "own hooks"))
    assert off is None or off < 1e-4


def test_a_block_is_tried_again_on_longer_prompts():
    model = zoo_model("sliding window")  # 4 positions: up to there, nothing is wrong
    short = model.run_with_cache(model.to_tokens("When John"))[1]["resid_pre", 0]
    assert run_block(model, 0, short).shape == short.shape
    with pytest.raises(UnsupportedModel, match=r"on 19 tokens.*sliding_window=4.*transformers "):
        run_block(model, 0, cached(model)[1]["resid_pre", 0])


@pytest.mark.parametrize("name", MODELS)
def test_end_logits_are_right_on_every_architecture(name):
    model = named(name)
    prompts = [PROMPT, "When John and Mary went to the store, John gave the", "When John and Mary", "The person is"]
    alone = torch.stack([model(model.to_tokens(prompt))[0, -1] for prompt in prompts])
    for options in ({}, {"batch_size": 2}, {"share_prefix": False}):
        assert torch.allclose(end_logits(model, prompts, progress=False, **options), alone, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_sweeps_are_those_of_the_library_on_every_architecture(name, recwarn):
    model = named(name)
    clean, corrupted = (model.to_tokens(f"When {name} went to the store") for name in ("John", "Mary"))
    _, cache = model.run_with_cache(clean)

    def metric(logits):
        return logits[:, -1, 5].mean() - logits[:, -1, 9].mean()

    got = patching.get_act_patch_resid_pre(model, corrupted, cache, metric, progress=False)
    want = patching.built_in.get_act_patch_resid_pre(model, corrupted, cache, metric)
    assert torch.allclose(got, want, atol=1e-4)


def test_what_is_wrong_is_said_with_the_setting_that_explains_it():
    with pytest.raises(UnsupportedModel, match=r"tiny soft caps: its logits.*final_logit_softcapping=2\.0"):
        assumptions.require_readout(zoo_model("soft caps"))
    with pytest.raises(UnsupportedModel, match=r"tiny norms after layers.*norms that do not fold"):
        assumptions.require_readout(zoo_model("norms after layers"))
    with pytest.raises(UnsupportedModel, match=r"tiny clipped: z is not.*clip_qkv=0\.05"):
        assumptions.require_heads(zoo_model("clipped"))


def test_a_model_is_tried_once_and_never_through_hooks():
    model, seen = tiny_model("gpt2", seed=3), []

    def count(resid, hook):
        seen.append(hook.name)

    model.add_hook("hook_embed", count)
    try:
        assumptions.require_readout(model)
        run_block(model, 0, torch.zeros(1, 3, model.cfg.d_model))
        assert not seen and assumptions.hooks_on(model) == ["hook_embed"]
    finally:
        model.reset_hooks()
    assumptions.require_readout(model)
    model.run_with_hooks(model.to_tokens("The"), fwd_hooks=[("hook_embed", count)])
    assumptions.require_readout(model)
    assert len(seen) == 1


def test_the_librarys_own_hooks_are_not_somebodys():
    assert assumptions.hooks_on(zoo_model("own hooks")) == []


def test_routes_are_refused_where_patterns_times_values_are_not_z():
    model = zoo_model("clipped")
    _, cache = cached(model)
    with pytest.raises(UnsupportedModel, match="tiny clipped"):
        ablation.direct_effect_factors(model, cache, torch.ones(1, 32))
