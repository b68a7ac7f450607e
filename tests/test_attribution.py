"""What chapter 02 teaches: its solutions, utils and TransformerLens agree, on the tiny models and on a real one."""

import pytest
import torch

from tests.solutions import solution_functions
from utils import attribution
from utils.ioi import NAMES, TEMPLATES, ioi_pairs
from utils.prompts import make_pairs
from utils.tiny_models import tiny_model

SOLUTION = solution_functions("02")


def _run(model, n_templates):
    pairs = ioi_pairs(model, TEMPLATES[:n_templates], NAMES[:n_templates])
    return model, pairs.answer_tokens, *model.run_with_cache(pairs.clean_tokens)


@pytest.fixture(params=["tiny-gpt2", "tiny-llama", "smollm2"])
def case(request):
    if request.param == "smollm2":
        return _run(request.getfixturevalue("smollm2"), 1)
    return _run(tiny_model(request.param.removeprefix("tiny-")), len(TEMPLATES))


def _close(*values, atol=1e-4):
    for other in values[1:]:
        torch.testing.assert_close(values[0], other, atol=atol, rtol=0)


def test_directions(case):
    model, answers, _, _ = case
    built_in = model.tokens_to_residual_directions(answers)
    _close(
        SOLUTION["logit_diff_directions"](model, answers),
        attribution.logit_diff_directions(model, answers),
        built_in[:, 0] - built_in[:, 1],
    )


@pytest.mark.parametrize("per_prompt", [False, True])
def test_stack_to_logit_diff(case, per_prompt):
    model, answers, _, cache = case
    directions = attribution.logit_diff_directions(model, answers)
    stack = cache.decompose_resid(layer=-1, pos_slice=-1)
    built_in = (cache.apply_ln_to_stack(stack, layer=-1, pos_slice=-1) * directions).sum(-1)
    _close(
        SOLUTION["residual_stack_to_logit_diff"](stack, cache, directions, per_prompt),
        attribution.residual_stack_to_logit_diff(stack, cache, directions, per_prompt),
        built_in if per_prompt else built_in.mean(-1),
    )


def test_total_is_every_prompts_logit_difference(case):
    model, answers, logits, cache = case
    _close(
        attribution.logit_diff(logits, answers, per_prompt=True),
        SOLUTION["attribution_total"](model, cache, answers),
        attribution.attribution_total(model, cache, answers),
        atol=1e-3,
    )


def test_heads(case):
    model, answers, _, cache = case
    directions = attribution.logit_diff_directions(model, answers)
    stacked = cache.stack_head_results(layer=-1, pos_slice=-1)
    built_in = attribution.residual_stack_to_logit_diff(stacked, cache, directions)
    solved = SOLUTION["head_attributions"](model, cache, directions)
    _close(solved, attribution.head_attributions(model, cache, directions), built_in.reshape(solved.shape))


@pytest.mark.parametrize("sign", [1, -1])
def test_top_heads(sign):
    values = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert SOLUTION["top_heads"](values, 6, sign) == attribution.top_heads(values, 6, sign)


def test_top_heads_refuses_another_sign():
    with pytest.raises(ValueError, match="sign 0 is not 1"):
        attribution.top_heads(torch.zeros(2, 2), 1, sign=0)


def test_prompts_of_several_lengths_reconcile_at_their_own_last_position(model):
    """What the solution cannot do and utils can: each prompt read at its own last token, in a right-padded batch."""
    clean = [
        "When John and Mary went to the shops, John gave the bag to",
        "Then Tom and James went to the park, Tom said",
    ]
    corrupted = [clean[0].replace(", John", ", Mary"), clean[1].replace(", Tom", ", James")]
    pairs = make_pairs(model, clean, corrupted, [(" Mary", " John"), (" James", " Tom")], aligned=False)
    logits, cache = model.run_with_cache(pairs.clean_tokens, attention_mask=pairs.clean_mask)
    last = pairs.clean_last
    assert last[0] != last[1]
    at_last = attribution.logit_diff(logits, pairs.answer_tokens, per_prompt=True, last=last)
    _close(at_last, attribution.attribution_total(model, cache, pairs.answer_tokens, last), atol=1e-3)


def test_real_model_has_the_figures_of_the_issue(smollm2):
    """Mean logit difference 4.724 and L23H3's direct attribution 2.24 on the eight prompts."""
    _, answers, logits, cache = _run(smollm2, len(TEMPLATES))
    directions = attribution.logit_diff_directions(smollm2, answers)
    assert attribution.logit_diff(logits, answers).item() == pytest.approx(4.724, abs=0.01)
    by_head = attribution.head_attributions(smollm2, cache, directions)
    assert attribution.top_heads(by_head, 1) == [(23, 3)]
    assert by_head[23, 3].item() == pytest.approx(2.24, abs=0.02)
