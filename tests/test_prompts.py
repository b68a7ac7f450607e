"""Prompts, answers and metrics: right on good input, and an error that names the value on bad input."""

import pytest
import torch

from tests.solutions import solution_functions
from utils import attribution, ioi
from utils.prompts import PromptError, make_pairs, single_token, tokenize
from utils.tiny_models import tiny_model

ONE = "When John and Mary went to the store, John gave a drink to"
OTHER = "When John and Mary went to the store, Mary gave a drink to"
ANSWER = (" Mary", " John")


def test_eight_prompts(model):
    pairs = ioi.ioi_pairs(model)
    assert len(pairs) == 8 and pairs.clean_tokens.shape == (8, 15)
    assert pairs.clean_text[0] == "When John and Mary went to the shops, John gave the bag to"
    assert pairs.answers[:2] == [(" Mary", " John"), (" John", " Mary")]
    differs = pairs.clean_tokens != pairs.corrupted_tokens
    assert differs.sum(-1).tolist() == [1] * 8 and differs[:, 10].all(), "only S2 differs"
    assert torch.equal(pairs.corrupted_tokens[0], pairs.clean_tokens[1])
    assert pairs.clean_last.tolist() == [14] * 8


def test_eight_prompts_on_the_real_model(smollm2):
    pairs = ioi.ioi_pairs(smollm2)
    clean = attribution.logit_diff(smollm2(pairs.clean_tokens), pairs.answer_tokens)
    corrupted = attribution.logit_diff(smollm2(pairs.corrupted_tokens), pairs.answer_tokens)
    assert clean.item() == pytest.approx(4.724, abs=0.01)
    assert corrupted.item() == pytest.approx(-4.724, abs=0.01)


def test_chapter_01_builds_what_utils_builds(model):
    solution = solution_functions("01")
    prompts, answers = solution["build_prompts"](ioi.TEMPLATES, ioi.NAMES)
    pairs = ioi.ioi_pairs(model)
    assert (prompts, answers) == ioi.build_prompts() == (pairs.clean_text, pairs.answers)
    assert torch.equal(solution["answer_token_ids"](model, answers), pairs.answer_tokens)
    logits = model(pairs.clean_tokens)
    for per_prompt in (False, True):
        theirs = solution["logit_diff"](logits, pairs.answer_tokens, per_prompt)
        assert torch.equal(theirs, attribution.logit_diff(logits, pairs.answer_tokens, per_prompt))


def test_true_last_positions_of_unequal_prompts(model):
    short = "John gave a drink to"
    tokens, mask = tokenize(model, [ONE, short])
    assert mask.sum(-1).tolist() == [15, 6]
    answers = torch.tensor([[single_token(model, name) for name in ANSWER]] * 2)
    batched = attribution.logit_diff(model(tokens), answers, per_prompt=True, last=mask.sum(-1) - 1)
    for i, prompt in enumerate((ONE, short)):
        alone = attribution.logit_diff(model(model.to_tokens(prompt)), answers[:1])
        assert batched[i].item() == pytest.approx(alone.item(), abs=1e-4)


def test_unequal_lengths_are_allowed_where_not_aligned(model):
    pairs = make_pairs(model, [ONE], ["John gave a drink to"], [ANSWER], aligned=False)
    assert pairs.clean_last.tolist() == [14] and pairs.corrupted_mask.sum(-1).tolist() == [6]


@pytest.mark.parametrize(
    ("clean", "corrupted", "answers", "message"),
    [
        ([], [], [], "no prompts were given"),
        ([ONE], [OTHER, OTHER], [ANSWER], "1 clean prompts, 2 corrupted prompts, 1 answer pairs"),
        ([ONE], [ONE], [ANSWER], r"prompt 0 is the same in both batches: 'When John"),
        ([ONE], ["John gave a drink to"], [ANSWER], r"unequal length in tiny-gpt2: 'When John.* is 15 tokens.*is 6"),
        ([ONE], [OTHER], [(" Marianne", " John")], r"answer ' Marianne' is 8 tokens in tiny-gpt2.*single_token_names"),
    ],
    ids=["empty", "sizes", "no difference", "lengths", "two tokens"],
)
def test_bad_pairs(clean, corrupted, answers, message):
    with pytest.raises(PromptError, match=message):
        make_pairs(tiny_model("gpt2"), clean, corrupted, answers)


@pytest.mark.parametrize("template", ["John gave it to", "{S} and {S} went to"])
def test_template_without_its_slot(template):
    with pytest.raises(PromptError, match=r"template .* has no single slot \{S\}"):
        ioi.build_prompts([template], [ANSWER])


def test_templates_and_names_in_different_numbers():
    with pytest.raises(PromptError, match="2 templates and 1 pairs of names"):
        ioi.build_prompts(["a{S} b", "c{S} d"], [ANSWER])


def test_names_of_one_token(model):
    assert "Mary" in ioi.single_token_names(model) and "Marianne" not in ioi.single_token_names(model)


def test_what_pairs_say_of_themselves(model):
    pairs = ioi.ioi_pairs(model)
    assert pairs.position == 10 and pairs.names == [str(i) for i in range(8)]
    assert pairs.labels(model)[9:11] == ["9 ,", "10 John / Mary"] and len(pairs.labels(model)) == 15
    some = pairs[2:5]
    assert len(some) == 3 and some.answers == pairs.answers[2:5] and some.names == ["2", "3", "4"]
    assert torch.equal(some.corrupted_tokens, pairs.corrupted_tokens[2:5])
    with pytest.raises(TypeError, match=r"pairs\[:4\]"):
        pairs[0]
    two = make_pairs(model, [ONE], [OTHER.replace("store", "shops")], names=["a pair"])
    assert two.answers is None and two.answer_tokens is None and two.names == two[:1].names == ["a pair"]
    with pytest.raises(PromptError, match=r"positions \[8, 10\]"):
        _ = two.position


def test_roles_are_found_by_their_tokens():
    tokens = torch.tensor([[0, 5, 7, 5, 9], [0, 9, 7, 8, 7]])
    roles = ioi.positions_by_role(tokens, torch.tensor([[7, 5], [9, 7]]))
    expected = {"BOS": [0, 0], "IO": [2, 1], "S1": [1, 2], "S1+1": [2, 3], "S2": [3, 4], "END": [4, 4]}
    assert {role: at.tolist() for role, at in roles.items()} == expected
    for answers, message in (([5, 7], r"prompt 0 .*\(token 7\) 1 times"), ([6, 5], r"prompt 0 .*\(token 6\) 0 times")):
        with pytest.raises(PromptError, match=message):
            ioi.positions_by_role(tokens, torch.tensor([answers, [9, 7]]))
