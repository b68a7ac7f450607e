"""Head scores, ablation at END and the split of its consequences: chapter 04's functions and the general ones agree."""

import itertools

import numpy as np
import pytest
import torch

from tests.solutions import solution_functions
from utils import ablation, heads
from utils.attribution import head_attributions, logit_diff, logit_diff_directions
from utils.ioi import ioi_pairs
from utils.prompts import tokenize
from utils.reference import figures
from utils.tiny_models import tiny_model

PROMPTS = [
    "When John and Mary went to the store, John gave a drink to",
    "Then Tom and Amy went to the park, Amy gave a ring to",
]
UNEQUAL = ["When John and Mary went to the store, John gave a drink to", "Then Amy gave a ring to"]
ANSWERS = [(" Mary", " John"), (" Tom", " Amy")]
FAMILIES = ("gpt2", "llama")


@pytest.fixture(scope="module")
def solution():
    return solution_functions("04")


def setting(model, tokens, ablated=(0, 1), last=None):
    answers = torch.tensor([[model.to_single_token(word) for word in pair] for pair in ANSWERS])
    directions = logit_diff_directions(model, answers)
    logits, clean = model.run_with_cache(tokens)
    without_logits, without = ablation.ablate_at_end(model, tokens, *ablated, last=last)
    change = (logit_diff(without_logits, answers, True, last) - logit_diff(logits, answers, True, last)).mean()
    return clean, without, directions, change.item()


# --- solution and utils agree -------------------------------------------------------------------------------------------


def agree(model, tokens, solution, layer, head):
    """Every function of the chapter against the one in utils."""
    n = 12
    random_tokens = heads.repeated_tokens(n, 2, seed=3, high=min(heads.HIGHEST_ID, model.cfg.d_vocab)).to(
        model.cfg.device
    )
    ours, theirs = (f(model, random_tokens, n) for f in (heads.head_scores, solution["head_scores"]))
    assert all(torch.allclose(ours[name], theirs[name].cpu(), atol=1e-5) for name in heads.DIAGONAL_SCORES)
    clean, without, directions, _ = setting(model, tokens, (layer, head))
    logits, cache = solution["ablate_at_end"](model, tokens, layer, head)
    assert torch.allclose(
        cache["resid_post", model.cfg.n_layers - 1], without["resid_post", model.cfg.n_layers - 1], atol=1e-4
    )
    change = ablation.direct_effect_change(model, clean, without, directions)
    assert torch.allclose(change, solution["direct_effect_change"](model, clean, without, directions), atol=1e-5)
    ratio = solution["layernorm_ratio"](clean, without)
    by_scales = (clean["ln_final.hook_scale"][:, -1] / without["ln_final.hook_scale"][:, -1]).mean()
    assert by_scales.item() == pytest.approx(ratio.item(), abs=1e-6)
    chosen = [(layer, head), (layer, 0)]
    by_mean = [f(model, tokens, chosen, clean) for f in (ablation.mean_ablate, solution["mean_ablate"])]
    assert torch.allclose(*by_mean, atol=1e-4) and not torch.allclose(by_mean[0], logits, atol=1e-2)
    routes = ablation.change_by_route(model, clean, without, directions)
    for later in ((layer + 1, 1), (model.cfg.n_layers - 1, 0)):
        theirs = solution["backup_by_route"](model, clean, without, directions, *later)
        assert torch.allclose(routes[(slice(None), *later)], theirs, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_solution_and_utils_agree_on_fixtures(family, solution):
    model = tiny_model(family)
    agree(model, model.to_tokens(PROMPTS), solution, 0, 2)


def test_solution_and_utils_agree_on_the_embedded_model(smollm2, solution):
    agree(smollm2, ioi_pairs(smollm2).clean_tokens[:2], solution, 23, 3)


# --- what the split promises --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompts", [PROMPTS, UNEQUAL], ids=["equal lengths", "padded"])
def test_routes_and_sources_add_up(family, prompts):
    model = tiny_model(family)
    tokens, mask = tokenize(model, prompts)
    last = mask.sum(-1) - 1
    for ablated in ((0, 1), (1, 3), (2, 0)):
        clean, without, directions, measured = setting(model, tokens, ablated, last)
        change = ablation.direct_effect_change(model, clean, without, directions, last)
        routes = ablation.change_by_route(model, clean, without, directions, last)
        assert routes.shape == (3, 3, 4) and torch.isfinite(routes).all()
        others = torch.ones(3, 4, dtype=torch.bool)
        others[ablated] = False
        assert torch.allclose(routes.sum(0)[others], change[others], atol=1e-4)
        sources = ablation.change_by_source(model, clean, without, directions, [ablated], last)
        assert sum(sources.values()) == pytest.approx(measured, abs=1e-3) and abs(measured) > 1e-3
        before = head_attributions(model, clean, directions, last=last)[ablated].item()
        assert sources["ablated head itself"] == pytest.approx(-before, abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_later_heads_change_but_for_the_scale(family):
    """Before END nothing moves, so pattern and values of the ablated head's own and earlier layers contribute nothing."""
    model = tiny_model(family)
    clean, without, directions, _ = setting(model, model.to_tokens(PROMPTS), (1, 2))
    routes = ablation.change_by_route(model, clean, without, directions)
    assert routes[:2, :2].abs().max() < 1e-5 and routes[:2, 2].abs().max() > 1e-3
    for layer, name in itertools.product(range(3), ("k", "v", "q")):
        assert torch.allclose(clean[name, layer][:, :-1], without[name, layer][:, :-1], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_run_gives_what_the_factors_say(family):
    """A head whose pattern is frozen in a real run writes what the clean pattern and the ablated values make."""
    model, head = tiny_model(family), (1, 3)
    tokens = model.to_tokens(PROMPTS)
    clean, without, directions, _ = setting(model, tokens)
    (pattern, _, _), (_, written, _) = (
        ablation.direct_effect_factors(model, cache, directions) for cache in (clean, without)
    )
    name = f"blocks.{head[0]}.attn.hook_pattern"
    hooks = [*ablation.set_heads([(0, 1)]), *ablation.freeze(clean, [name], head=head[1])]
    _, frozen = ablation.run_with_cache_and_hooks(model, tokens, hooks)
    scale = frozen["ln_final.hook_scale"][:, -1, 0]
    expected = ablation.direct_effect(pattern, written, scale)[head]
    assert head_attributions(model, frozen, directions)[head].item() == pytest.approx(expected.item(), abs=1e-4)
    assert torch.allclose(frozen[name][:, head[1], -1], clean[name][:, head[1], -1])
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("family", FAMILIES)
def test_if_nothing_reacts_the_naive_prediction_comes_true(family):
    model, (layer, head) = tiny_model(family), (1, 2)
    tokens = model.to_tokens(PROMPTS)
    clean, _, directions, _ = setting(model, tokens)
    names = [f"blocks.{i}.hook_attn_out" for i in range(layer + 1, 3)]
    names += [f"blocks.{i}.hook_mlp_out" for i in range(layer, 3)] + ["ln_final.hook_scale"]
    hooks = [*ablation.set_heads([(layer, head)]), *ablation.freeze(clean, names)]
    answers = torch.tensor([[model.to_single_token(word) for word in pair] for pair in ANSWERS])
    got = logit_diff(model.run_with_hooks(tokens, fwd_hooks=hooks), answers)
    naive = logit_diff(model(tokens), answers) - head_attributions(model, clean, directions)[layer, head]
    assert got.item() == pytest.approx(naive.item(), abs=1e-3)


def test_shapley_adds_up_is_symmetric_and_gives_nothing_for_nothing():
    before, after = [torch.tensor(x) for x in (2.0, 3.0, 5.0)], [torch.tensor(x) for x in (3.0, 3.0, 1.0)]
    parts = ablation.shapley(lambda a, b, c: a * b / c, before, after)
    assert sum(parts).item() == pytest.approx(3 * 3 / 1 - 2 * 3 / 5) and parts[1].item() == 0
    same = ablation.shapley(lambda a, b: a * b, [torch.tensor(1.0)] * 2, [torch.tensor(4.0)] * 2)
    assert same[0].item() == same[1].item() == 7.5


# --- scores and tokens ------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_published_scores():
    torch.manual_seed(0)
    published = torch.randint(100, 20000, size=(2, 100)).repeat(1, 2)
    assert torch.equal(heads.repeated_tokens(), published)
    assert (
        torch.equal(heads.repeated_tokens(bos=7)[:, 1:], published) and (heads.repeated_tokens(bos=7)[:, 0] == 7).all()
    )
    with pytest.raises(ValueError, match="high=80"):
        heads.repeated_tokens(high=80)


def test_scores_refuse_tokens_that_are_not_repeated():
    with pytest.raises(ValueError, match="not 10 tokens given twice"):
        heads.head_scores(tiny_model("gpt2"), torch.arange(100, 120)[None], 10)
    with pytest.raises(ValueError, match="not 10 tokens given twice"):
        heads.head_scores(tiny_model("gpt2"), heads.repeated_tokens(11, 2, high=150), 10)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_between(family):
    model = tiny_model(family)
    _, cache = model.run_with_cache(model.to_tokens(PROMPTS))
    got = heads.attention_between(cache, torch.tensor([5, 9]), 2)
    for layer, head in itertools.product(range(3), range(4)):
        want = np.mean([cache["pattern", layer][0, head, 5, 2], cache["pattern", layer][1, head, 9, 2]])
        assert got[layer, head].item() == pytest.approx(want, abs=1e-6)


# --- beside the paper ---------------------------------------------------------------------------------------------------


def evidence(**marked):
    """Tables of 12 by 12 heads, zero but for the heads marked: name → {(layer, head): value}."""
    tables = {}
    for name, values in marked.items():
        tables[name.replace("_to_", "→")] = torch.zeros(12, 12)
        for head, value in values.items():
            tables[name.replace("_to_", "→")][head] = value
    return tables


def test_verdicts_on_the_published_classes():
    published = {k.split(".")[-1]: v["value"] for k, v in figures("gpt2-small").items() if k.startswith("paper.heads.")}
    found = evidence(
        previous_token={(4, 11): 0.98, (2, 2): 0.02},
        END_to_IO={(9, 9): 0.6, (10, 7): 0.5},
        direct={(9, 9): 3.0, (10, 7): -1.9},
    )
    table = heads.evidence_table(found, published).set_index(["head", "class in the paper"])
    assert len(table) == sum(map(len, published.values())) == 26
    assert table.loc[("L4H11", "previous token"), "verdict"] == "agree"
    assert table.loc[("L2H2", "previous token"), "verdict"] == "differ"
    assert table.loc[("L9H9", "name mover"), "verdict"] == "agree"
    assert table.loc[("L10H7", "negative name mover"), "verdict"] == "agree"
    assert table.loc[("L10H0", "name mover"), "verdict"] == "differ"
    assert set(table.xs("induction", level=1)["verdict"]) == {"not tested"}
    assert "writes for IO" in table.loc[("L9H9", "name mover"), "our evidence"]


def test_other_models_have_no_published_class():
    found = evidence(induction={(1, 2): 0.9, (3, 3): 0.5}, direct={(5, 5): 2.0, (6, 6): -1.0})
    chosen = heads.strongest(found, 2)
    assert {(1, 2), (3, 3), (5, 5), (6, 6)} <= set(chosen)
    table = heads.evidence_table(found, None, chosen).set_index("head")
    assert set(table["class in the paper"]) == {"no published class"} and set(table["verdict"]) == {"—"}
    assert table.loc["L1H2", "our evidence"] == "attends to what followed an equal token"
    assert table.loc["L5H5", "our evidence"] == "none of the classes"
