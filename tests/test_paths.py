"""Path patching: equal to two plain runs with hooks, to the built-in direct path, and to the identities of its definition."""

import itertools
from functools import cache, partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens import patching as built_in

from tests.plain_paths import by_hooks
from utils.attribution import logit_diff
from utils.circuits.paths import all_out_edges, edge_patch, path_patch
from utils.experiment import run_experiment
from utils.inference import small_cache
from utils.ioi import positions_by_role
from utils.patching import get_act_patch_attn_head_out_all_pos
from utils.prompts import make_pairs
from utils.tiny_models import tiny_model

# Five prompts, none beside its mirror; corruptions of three kinds, so that runs differ at other positions in each.
FORMS = (
    "When {} and {} went to the shops, {} gave the bag to",
    "When {} and {} went to the park, {} gave the ball to",
    "When {} and {} went to the shops, {} gave an apple to",
    "After {} and {} went to the park, {} gave a drink to",
    "While {} and {} had an apple at the office, {} gave it to",
)
NAMES = [
    ("John Mary John", "John Mary Mary"),
    ("Tom James Tom", "Amy James Tom"),
    ("Dan Sid Sid", "Dan Sid Bob"),
    ("Martin Amy Amy", "Jane Luke Ruth"),
    ("Kate Anna Anna", "Kate Anna Kate"),
]
PROMPTS = [tuple(form.format(*names.split()) for names in both) for form, both in zip(FORMS, NAMES, strict=True)]
ANSWERS = [(" Mary", " John"), (" James", " Tom"), (" Dan", " Sid"), (" Martin", " Amy"), (" Kate", " Anna")]
TOLERANCE = 5e-5  # on a scale that divides by the small logit differences of random models
FOUR = slice(0, 4)  # prompts of one length


def setting(family, rows=FOUR):
    model = tiny_model(family)
    clean, corrupted = zip(*PROMPTS[rows], strict=True)
    return model, make_pairs(model, clean, corrupted, ANSWERS[rows], aligned=rows == FOUR)


@cache
def experiment_of(family, n=4):
    """Both runs of the first n prompts, made once: no test changes them."""
    return run_experiment(*setting(family, slice(0, n)))


@pytest.fixture(params=["gpt2", "llama"])
def case(request):
    return tiny_model(request.param), experiment_of(request.param)


def given_of(experiment):
    """Denoising: the corrupted run receives, the clean one lends."""
    return (experiment.model, experiment.pairs.corrupted_tokens, experiment.clean_cache, experiment.denoising_metric)


# --- the plain way: two runs with hooks -----------------------------------------------------------------------------------


def shared(model, receivers, component):
    """The heads' own places in hook_q, hook_k or hook_v."""
    if receivers == "logits" or component == "q":
        return receivers
    group = model.cfg.n_heads // (model.cfg.n_key_value_heads or model.cfg.n_heads)
    return [(layer, head // group) for layer, head in receivers]


RECEIVERS = [
    ("logits", None),
    ([(1, 3)], "q"),
    ([(2, 1)], "k"),
    ([(2, 0), (2, 3)], "v"),
    ([(1, 0), (2, 2)], "q"),
    ([(1, 1), (1, 2), (2, 0)], "v"),
]


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
    model, pairs = experiment.model, experiment.pairs
    for layer, head in ((0, 1), (1, 3)):
        want = built_in.get_act_patch_direct_path(
            model,
            pairs.corrupted_tokens,
            experiment.clean_cache,
            experiment.corrupted_cache,
            experiment.denoising_metric,
            layer,
            head,
            component,
            verbose=False,
        )
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
