"""What stands in front of the guises in a survey, and which models have which of it."""

import pytest
import torch

from utils import dialect
from utils.dialect import DialectError, Pair, prefixes, survey
from utils.prompts import token_row
from utils.tiny_models import tiny_model

# --- what stands in front -----------------------------------------------------------------------------------------------


def test_prefixes_are_what_they_are_called(chatty):
    plain, bos = token_row(chatty, "The person")[1:], chatty.tokenizer.bos_token_id
    turn = "<|endoftext|>(user) {}\n"
    in_front = {"nothing": [], "bos": [bos], "end-of-text": [chatty.tokenizer.eos_token_id]}
    in_front["user"] = chatty.to_tokens(turn, prepend_bos=False)[0].tolist()
    assert tuple(in_front) == prefixes.PREFIXES and prefixes.prefix_text(chatty, "user") == turn
    for prefix, ids in in_front.items():
        with prefixes.behind(chatty, prefix) as front:
            (frame,) = front(["{} person"])
            assert token_row(chatty, dialect.fill(frame, "The")).tolist() == [*ids, *plain.tolist()], prefix
        assert token_row(chatty, "The person").tolist() == [bos, *plain.tolist()], "the model's own BOS is back"


def test_a_gap_behind_a_prefix_is_read_behind_it(chatty):
    pairs, frames = dialect.pairs_of("be_usually", 2), dialect.frames()[:2]
    with prefixes.behind(chatty, "bos") as front:
        assert front(frames) == frames
        assert torch.equal(dialect.trait_gaps(chatty, pairs, front(frames)), dialect.trait_gaps(chatty, pairs, frames))
    with prefixes.behind(chatty, "end-of-text") as front:
        other = dialect.trait_gaps(chatty, pairs, front(frames))
    assert torch.allclose(
        other, dialect.trait_gaps(chatty, pairs, frames, bos=chatty.tokenizer.eos_token_id), atol=1e-5
    )
    with prefixes.behind(chatty, "user") as front:
        third = dialect.trait_gaps(chatty, pairs, front(frames))
    assert not torch.allclose(third, other, atol=1e-3)


def test_the_policy_is_restored_after_an_error(chatty):
    with pytest.raises(DialectError, match="exactly once"), prefixes.behind(chatty, "nothing") as front:
        front(["no slot"])
    assert chatty.cfg.default_prepend_bos


def test_a_prefix_that_a_model_lacks_is_refused_by_name(chatty, monkeypatch):
    with pytest.raises(DialectError, match="no prefix 'eos'; there are: nothing, bos"):
        prefixes.prefix_text(chatty, "eos")
    with pytest.raises(DialectError, match="tiny-gpt2 has no chat template"):
        prefixes.prefix_text(tiny_model("gpt2"), "user")
    monkeypatch.setattr(chatty.tokenizer, "chat_template", "{{ messages[0]['content'] }} {{ messages[0]['content'] }}")
    with pytest.raises(DialectError, match="writes a user's message 2 times"):
        prefixes.prefix_text(chatty, "user")
    monkeypatch.setattr(chatty.tokenizer, "chat_template", "{{ raise_exception('no user') }}")
    with pytest.raises(DialectError, match="cannot be filled in: no user"):
        prefixes.prefix_text(chatty, "user")
    monkeypatch.setattr(chatty.cfg, "default_prepend_bos", False)
    with pytest.raises(DialectError, match="has no BOS"), prefixes.behind(chatty, "bos"):
        pass


def test_the_separator_is_the_one_of_the_training_text_where_there_is_one(chatty, monkeypatch):
    assert prefixes.prefix_text(chatty, "end-of-text") == "<|endoftext|>"
    monkeypatch.setattr(prefixes, "SEPARATORS", ("<|nothing|>", " kind"))
    assert prefixes.prefix_text(chatty, "end-of-text") == " kind"
    monkeypatch.setattr(prefixes, "SEPARATORS", (" ",))
    refused = pytest.raises(DialectError, match="' ' is not one token or changes the next")
    with refused, prefixes.behind(chatty, "end-of-text"):
        pass
    assert chatty.cfg.default_prepend_bos
    pairs = (Pair("he be working", "he is working", "work", "mine"),)
    table = survey.survey_table(chatty, survey.SurveySettings(("bos", "end-of-text"), kinds=(), pairs=pairs))
    assert set(table["prefix"]) == {"bos"}
