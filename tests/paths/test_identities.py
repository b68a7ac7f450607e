"""What holds of paths whatever the model is, and what is refused."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.paths.cases import RECEIVERS, TOLERANCE, experiment_of, given_of
from utils.circuits.paths import all_out_edges, path_patch
from utils.inference import small_cache
from utils.patching import get_act_patch_attn_head_out_all_pos

# --- identities -----------------------------------------------------------------------------------------------------------


nodes = st.tuples(st.integers(0, 2), st.sampled_from([0, 1, 2, 3, "mlp"]))
families = st.sampled_from(["gpt2", "llama"])
places = st.sampled_from([None, -1, 2, 3, 10])
quickly = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@quickly
@given(families, nodes, places)
def test_all_edges_together_are_activation_patching(family, sender, at):
    experiment = experiment_of(family)
    model, pairs = experiment.model, experiment.pairs
    found = all_out_edges(*given_of(experiment), sender, at=at, progress=False)

    layer, part = sender
    _, whole = model.run_with_cache(pairs.clean_tokens)
    name = f"blocks.{layer}.hook_mlp_out" if part == "mlp" else f"blocks.{layer}.attn.hook_z"
    where = (slice(None), slice(None) if at is None else at, *([] if part == "mlp" else [part]))

    def put(activation, hook):
        activation = activation.clone()
        activation[where] = whole[name][where]
        return activation

    want = experiment.denoising_metric(model.run_with_hooks(pairs.corrupted_tokens, fwd_hooks=[(name, put)]))
    torch.testing.assert_close(found, want, atol=TOLERANCE, rtol=TOLERANCE)


@quickly
@given(families, places, st.sampled_from(["frozen", "free"]), st.sampled_from(RECEIVERS))
def test_a_run_that_lends_to_itself_changes_nothing(family, at, mlps, receivers):
    experiment = experiment_of(family)
    model, pairs = experiment.model, experiment.pairs
    _, itself = model.run_with_cache(pairs.corrupted_tokens, names_filter=small_cache)
    given_here = (model, pairs.corrupted_tokens, itself, experiment.denoising_metric)
    for senders in ("heads", "mlps"):
        found = path_patch(*given_here, *receivers, at=at, mlps=mlps, senders=senders, progress=False)
        torch.testing.assert_close(found, torch.zeros_like(found), atol=TOLERANCE, rtol=TOLERANCE)


@quickly
@given(families, places, st.sampled_from(["frozen", "free"]), st.sampled_from(RECEIVERS[1:]))
def test_senders_at_or_behind_the_last_receiver_change_nothing(family, at, mlps, receivers):
    experiment = experiment_of(family)
    found = path_patch(*given_of(experiment), *receivers, at=at, mlps=mlps, progress=False)
    last = max(layer for layer, _ in receivers[0])
    assert torch.equal(found[last:], found[-1, -1].expand(3 - last, 4))
    torch.testing.assert_close(found[-1, -1], torch.tensor(0.0), atol=TOLERANCE, rtol=TOLERANCE)


def test_last_layer_heads_reach_the_logits_as_activation_patching_says(case):
    """No head comes behind them, so with free MLPs the direct path is the whole effect."""
    _, experiment = case
    paths = experiment.denoise(path_patch, mlps="free", progress=False)
    whole = experiment.denoise(get_act_patch_attn_head_out_all_pos, progress=False)
    torch.testing.assert_close(paths[-1], whole[-1], atol=TOLERANCE, rtol=TOLERANCE)
    assert (paths[:-1] - whole[:-1]).abs().max() > 0.01


# --- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "said"),
    [
        (("logits", "q"), {}, ValueError, "leave it out"),
        (([(1, 0)],), {}, ValueError, "say what of the receivers"),
        (([(1, 0)], "z"), {}, ValueError, "'z'"),
        (("heads", "q"), {}, ValueError, "'heads'"),
        (([], "q"), {}, ValueError, "neither"),
        (([(1, "mlp")], "q"), {}, ValueError, "MLP of layer 1"),
        (([(3, 0)], "q"), {}, IndexError, "layers 0 to 2"),
        (([(1, 4)], "v"), {}, IndexError, "heads 0 to 3"),
        ((), {"senders": "all"}, ValueError, "'all'"),
        ((), {"senders": []}, ValueError, "empty"),
        ((), {"senders": [(0, "attn")]}, ValueError, "attn"),
        ((), {"senders": [(0, 9)]}, IndexError, "heads 0 to 3"),
        ((), {"mlps": "thawed"}, ValueError, "thawed"),
        ((), {"reduce": "mean"}, ValueError, "'mean'"),
        ((), {"at": 15}, IndexError, "15 tokens"),
        ((), {"at": torch.tensor([1, 2])}, ValueError, "4 prompts"),
        ((), {"max_batch": 0}, ValueError, "max_batch=0"),
        ((), {"positions": [1]}, TypeError, "the options are"),
    ],
)
def test_bad_requests_are_named(arguments, options, error, said):
    experiment = experiment_of("gpt2")
    with pytest.raises(error, match=said):
        path_patch(*given_of(experiment), *arguments, **{"progress": False, **options})


def test_padding_is_refused_by_its_prompt():
    experiment = experiment_of("gpt2", 5)
    with pytest.raises(IndexError, match="padding in prompt 0"):
        experiment.denoise(path_patch, at=-1, progress=False)


def test_several_metrics_are_refused(case):
    """By their names; in these tests the shape checker is before it, with a TypeError of its own."""
    model, experiment = case
    several = {"mean": experiment.denoising_metric, "other": experiment.denoising_metric}
    with pytest.raises(TypeError):
        path_patch(model, experiment.pairs.corrupted_tokens, experiment.clean_cache, several, progress=False)
