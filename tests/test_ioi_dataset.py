"""The data set of part one: balanced, aligned within a template, its roles where its words are, and no name twice."""

from collections import Counter

import pytest
import torch

from utils.ioi import CORRUPTIONS, NAME_POOL, STRUCTURES, ioi_dataset, ioi_pairs, positions_by_role
from utils.prompts import PromptError
from utils.tiny_models import tiny_model


def tokens_at(pairs, side, positions):
    return getattr(pairs, f"{side}_tokens")[torch.arange(len(pairs)), positions]


@pytest.mark.parametrize("n", [8, 24, 62])
def test_orders_and_structures_are_balanced(model, n):
    data = ioi_dataset(model, n)
    assert len(data) == n == len(data.pairs())
    assert Counter(prompt.order for prompt in data.prompts) == {"ABBA": n // 2, "BABA": n // 2}
    counts = Counter(data.template.tolist())
    assert max(counts.values()) - min(counts.values()) <= 1
    assert set(counts) == set(range(min(n, 2 * len(STRUCTURES))))


def test_templates_have_one_length_and_one_place_for_each_role(model):
    data = ioi_dataset(model, 48, seed=3)
    pairs, roles = data.pairs(), data.roles()
    assert torch.equal(pairs.clean_mask, pairs.corrupted_mask) and not pairs.clean_mask.all()
    for template in data.template.unique():
        rows = data.template == template
        assert rows.sum() == 4
        assert len(pairs.clean_mask[rows].sum(-1).unique()) == 1
        assert all(len(positions[rows].unique()) == 1 for positions in roles.values())
    assert torch.equal(roles["END"], pairs.clean_last)
    assert torch.equal(roles["IO"] < roles["S1"], data.template % 2 == 0), "ABBA has the indirect object first"


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_corruptions_change_the_names_that_they_say(model, corruption):
    data = ioi_dataset(model, 24, seed=1)
    pairs, roles = data.pairs(corruption), data.roles()
    changed = pairs.clean_tokens != pairs.corrupted_tokens
    for i, (mention, stands) in enumerate(zip(("IO", "S1", "S2"), CORRUPTIONS[corruption], strict=True)):
        words = [model.to_single_token(prompt.names[stands]) for prompt in data.prompts]
        assert tokens_at(pairs, "corrupted", roles[mention]).tolist() == words
        assert changed[torch.arange(24), roles[mention]].all() == (stands != ("IO", "S", "S")[i])
    assert (
        changed.sum(-1) == sum(a != b for a, b in zip(CORRUPTIONS[corruption], ("IO", "S", "S"), strict=True))
    ).all()


def test_names_are_five_and_prompts_differ(model):
    data = ioi_dataset(model, 200, seed=5)
    assert all(len(set(prompt.names.values())) == 5 for prompt in data.prompts)
    assert len(set(data.pairs().clean_text)) == 200
    for prompt, text in zip(data.prompts, data.pairs("ABC").corrupted_text, strict=True):
        assert all(text.count(prompt.names[name]) == 1 for name in "xyz"), "no name is repeated"
        assert not any(prompt.names[name] in text for name in ("IO", "S"))


def test_seeds(model):
    first, again, other = (ioi_dataset(model, 16, seed=seed).pairs().clean_text for seed in (0, 0, 1))
    assert first == again != other


def test_roles_of_padded_prompts_are_those_of_the_prompts_alone(model):
    data = ioi_dataset(model, 24)
    pairs, roles = data.pairs(), data.roles()
    for row, length in enumerate(pairs.clean_mask.sum(-1).tolist()):
        alone = positions_by_role(pairs.clean_tokens[row : row + 1, :length], pairs.answer_tokens[row : row + 1])
        assert {role: at.item() for role, at in alone.items()} == {role: at[row].item() for role, at in roles.items()}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": 6}, "n=6"),
        ({"n": 9}, "n=9"),
        ({"n": 1002}, "n=1002"),
        ({"structures": ["{A} and{B} met.{S} gave it to"]}, "has {place} 0 times"),
        ({"structures": ["{A},{B},{S},{place},{object}"]}, "begins with a name"),
        ({"structures": []}, "no structures"),
        ({"names": NAME_POOL[:5]}, "5 of the names"),
        ({"names": ["Xanthippe", "Zebedee", *NAME_POOL[:5]]}, "5 of the names"),
        ({"places": [" amphitheatre"]}, "0 of the places"),
        ({"objects": []}, "0 of the objects"),
        ({"n": 400, "names": NAME_POOL[:6], "places": [" park"], "objects": [" ball"]}, "make 360 prompts"),
    ],
)
def test_bad_requests_are_named(options, said):
    with pytest.raises(PromptError) as told:
        ioi_dataset(tiny_model("gpt2"), **options)
    assert said in str(told.value)


def test_an_unknown_corruption_is_named(model):
    with pytest.raises(PromptError, match="'abc' is not one of ABC, IO"):
        ioi_dataset(model, 8).pairs("abc")


def test_the_real_model_does_the_task(smollm2):
    """Every structure has its words in one token each; the indirect object wins in most prompts."""
    data = ioi_dataset(smollm2, 24)
    pairs = data.pairs()
    logits = smollm2(pairs.clean_tokens, attention_mask=pairs.clean_mask)
    ends = logits[torch.arange(24), pairs.clean_last]
    difference = ends.gather(-1, pairs.answer_tokens) @ torch.tensor([1.0, -1.0], device=ends.device)
    assert len(data.template.unique()) == 12
    assert (difference > 0).float().mean() > 0.7


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_the_eight_prompts_have_the_same_corruptions(model, corruption):
    pairs = ioi_pairs(model, corruption=corruption)
    roles = positions_by_role(pairs.clean_tokens, pairs.answer_tokens)
    for mention, stands in zip(("IO", "S1", "S2"), CORRUPTIONS[corruption], strict=True):
        found = tokens_at(pairs, "corrupted", roles[mention])
        known = {"IO": pairs.answer_tokens[:, 0], "S": pairs.answer_tokens[:, 1]}
        if stands in known:
            assert torch.equal(found, known[stands])
        else:
            assert not torch.isin(found, pairs.answer_tokens).any() and len(found.unique()) == 8
    others = torch.ones_like(pairs.clean_tokens, dtype=torch.bool)
    for mention in ("IO", "S1", "S2"):
        others[torch.arange(8), roles[mention]] = False
    assert torch.equal(pairs.clean_tokens[others], pairs.corrupted_tokens[others])


def test_unknown_corruption_of_the_eight_is_refused(model):
    with pytest.raises(PromptError, match="'S3' is not one of ABC, IO, S1, S2, flip, swap"):
        ioi_pairs(model, corruption="S3")
