"""Many prompts at once give what each gives alone; a library that makes that untrue is found out on first use."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama import modeling_llama

from tests.zoo import zoo_model
from utils import assumptions, shared_prefix
from utils.inference import end_logits
from utils.shared_prefix import WrongLogits, beginnings, last_logits
from utils.tiny_models import tiny_model

PROMPTS = [
    "When John went to the store",
    "When John went to the park with",
    "When John went",
    "When John went to the shops",
]


@pytest.fixture(params=["gpt2", "llama"])
def fresh(request, monkeypatch):
    """A tiny model that counts as never used, also afterwards."""
    model = tiny_model(request.param)
    monkeypatch.delitem(shared_prefix._fits, model, raising=False)
    yield model
    shared_prefix._fits.pop(model, None)


def rows_of(model, prompts=PROMPTS):
    return [model.to_tokens(prompt)[0] for prompt in prompts]


def alone(model, rows):
    return torch.stack([model(row[None])[0, -1] for row in rows])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(["gpt2", "llama"]),
    start=st.lists(st.integers(1, 300), max_size=6),
    rests=st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=8), min_size=1, max_size=6),
)
def test_any_rows_give_what_they_give_alone(family, start, rests):
    model = tiny_model(family)
    rows = [torch.tensor(start + rest) for rest in rests]
    assert torch.allclose(last_logits(model, rows), alone(model, rows), atol=1e-4)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=5), min_size=1, max_size=8))
def test_each_different_beginning_is_run_once(tokens):
    where, owner, place = beginnings([torch.tensor(row) for row in tokens])
    expected = {tuple(row[: n + 1]) for row in tokens for n in range(len(row))}
    found = [tuple(tokens[i][: n + 1]) for i, n in zip(owner.tolist(), place.tolist(), strict=True)]
    assert len(found) == len(expected) and set(found) == expected
    for row, numbers in zip(tokens, where.tolist(), strict=True):
        assert [found[number] for number in numbers[: len(row)]] == [tuple(row[: n + 1]) for n in range(len(row))]
        assert numbers[len(row) :] == [0] * (where.shape[1] - len(row))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_rows_that_begin_alike_in_groups_are_run_together(family, monkeypatch):
    """Not one beginning for all, and some of the rows end within others: the model's own run is not needed for them."""
    model = tiny_model(family)
    monkeypatch.delitem(shared_prefix._fits, model, raising=False)
    rows = [torch.tensor(row) for row in ([5, 6, 7], [5, 6], [5, 6, 7, 8, 9], [9, 6, 7], [9, 6, 8, 8], [3], [5, 6])]
    expected = alone(model, rows)
    assert last_logits(model, rows).shape == expected.shape
    assert shared_prefix._fits[model] == {shared_prefix.shared: True}, "the way that shares was not taken"
    monkeypatch.setattr(shared_prefix, "padded", lambda *_: pytest.fail("the rows were run whole"))
    assert torch.allclose(last_logits(model, rows), expected, atol=1e-4)


def test_equal_rows_and_rows_that_begin_others(fresh):
    rows = rows_of(fresh, ["When John", "When John", "When", "When John went"])
    assert torch.allclose(last_logits(fresh, rows), alone(fresh, rows), atol=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_a_transformers_that_makes_runs_together_wrong_is_found_out(share, monkeypatch):
    """A rotation that depends on how many tokens are run at once: whole runs and runs together then differ."""
    model = tiny_model("llama")
    monkeypatch.delitem(shared_prefix._fits, model, raising=False)
    right = modeling_llama.LlamaRotaryEmbedding.forward

    def wrong(self, x, position_ids):
        return right(self, x, position_ids * x.shape[1])

    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", wrong)
    with pytest.raises(WrongLogits, match=r"tiny-llama.*differ by .*torch .*transformers .*transformer_lens "):
        end_logits(model, PROMPTS, progress=False, share_prefix=share)
    assert not shared_prefix._fits.get(model), "nothing is remembered of a failed trial"
    monkeypatch.undo()
    assert torch.allclose(end_logits(model, PROMPTS, progress=False), alone(model, rows_of(model)), atol=1e-4)


def test_a_library_without_past_key_values_changes_nothing(fresh, monkeypatch):
    """The argument that transformers 5.24 dropped: whoever hands it to the model gets it ignored here."""
    right = type(fresh).forward

    def forgetful(self, *args, past_key_values=None, **options):
        return right(self, *args, **options)

    monkeypatch.setattr(type(fresh), "forward", forgetful)
    assert torch.allclose(end_logits(fresh, PROMPTS, progress=False), alone(fresh, rows_of(fresh)), atol=1e-4)


def test_the_comparison_is_made_once_per_model(fresh, monkeypatch):
    lengths = []
    right = type(fresh).forward

    def counted(self, tokens, *args, **options):
        lengths.append(tokens.shape)
        return right(self, tokens, *args, **options)

    monkeypatch.setattr(type(fresh), "forward", counted)
    last_logits(fresh, rows_of(fresh))
    first = len(lengths)
    last_logits(fresh, rows_of(fresh))
    assert first > 1 and len(lengths) == first + 1  # once more: the embedding of the second batch


def test_architectures_that_explain_themselves_are_run_whole():
    for name in ("sliding window", "soft caps", "scaled attention", "norms after layers", "qwen3"):
        model = zoo_model(name)
        last_logits(model, rows_of(model))
        ways = {way.__name__: fits for way, fits in shared_prefix._fits[model].items()}
        assert ways == {"shared": False, "padded": True}, name


def test_an_unexplained_difference_is_an_error_with_a_way_out(monkeypatch):
    model = zoo_model("scaled attention")
    monkeypatch.delitem(shared_prefix._fits, model, raising=False)
    monkeypatch.setattr(shared_prefix, "peculiarities", lambda model: "")
    with pytest.raises(WrongLogits, match=r"share_prefix=False"):
        last_logits(model, rows_of(model))
    assert torch.allclose(last_logits(model, rows_of(model), share=False), alone(model, rows_of(model)), atol=1e-4)


def test_hooks_on_the_model_are_run(fresh):
    def double(resid, hook):
        return 2 * resid

    rows = rows_of(fresh)
    fresh.add_hook("blocks.1.hook_resid_pre", double)
    try:
        hooked, expected = last_logits(fresh, rows), alone(fresh, rows)
    finally:
        fresh.reset_hooks()
    assert torch.allclose(hooked, expected, atol=1e-4)
    assert not torch.allclose(hooked, last_logits(fresh, rows), atol=1e-2)


def test_versions_name_what_numbers_depend_on():
    assert all(f"{name} " in assumptions.versions() for name in ("torch", "transformers", "transformer_lens"))
