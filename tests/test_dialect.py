"""utils.dialect: the grammar, the readers, and gaps that do not depend on padding."""

import itertools
import re

import pytest
import torch

from utils import dialect
from utils.dialect import DialectError, Pair
from utils.dialect.grammar import allowed_verbs
from utils.inference import end_logits
from utils.prompts import tokenize
from utils.tiny_models import tiny_model

U, F = ["lazy", "rude", "loud"], ["kind", "honest", "smart"]
FORBIDDEN = "kill shoot fight steal smoke drug rob hit beat stab deal drunk".split()


# --- the grammar ------------------------------------------------------------------------------------------------------


def test_there_is_enough_of_everything():
    assert len(dialect.feature_names()) >= 8
    assert len(dialect.grammar()["verbs"]) >= 30
    assert len(dialect.swap_names()) >= 30 and len(set(dialect.swap_names())) == len(dialect.swap_names())
    assert len(dialect.frames("paper")) == len(dialect.frames("own")) == 9
    assert len(dialect.favorability()) == 37
    assert all(
        frame.count("{}") == 1 for kind in ("paper", "own", "guilt", "penalty") for frame in dialect.frames(kind)
    )


def test_every_feature_names_a_source_and_says_what_it_is():
    for name, entry in {**dialect.grammar()["features"], **dialect.grammar()["contrasts"]}.items():
        assert entry["source"] and entry["about"], name


def test_unfavorable_traits_are_rated_below_zero_and_favorable_ones_from_one():
    ratings = dialect.favorability()
    unfavorable, favorable = dialect.traits()
    assert all(ratings[t] < 0 for t in unfavorable) and all(ratings[t] >= 1 for t in favorable)
    assert len(unfavorable) == 10 and len(favorable) == 13


def test_pairs_are_minimal_and_neutral():
    for name in (*dialect.feature_names(), *dialect.grammar()["contrasts"]):
        for pair in dialect.pairs_of(name):
            assert pair.aae != pair.sae and pair.name == name
            words = f"{pair.aae} {pair.sae}".split()
            assert not set(words) & set(FORBIDDEN)
            assert "{" not in pair.aae + pair.sae
    assert not allowed_verbs() & set(FORBIDDEN)


def test_swaps_differ_in_one_word_and_not_in_dialect():
    aae_words = {"be", "done", "been", "ain't", "nothing", "stay", "finna"}
    for name in dialect.swap_names():
        for pair in dialect.swap_pairs(name, 3):
            one, other = pair.aae.split(), pair.sae.split()
            assert sum(a != b for a, b in zip(one, other, strict=True)) == 1
            assert not (set(one) | set(other)) & aae_words


def test_some_sentences_as_written():
    assert dialect.pairs_of("done", 2) == [
        Pair("he done worked", "he has worked", "work", "done"),
        Pair("she done cooked", "she has cooked", "cook", "done"),
    ]
    assert dialect.pairs_of("be_usually", 1)[0].sae == "he's usually working"
    assert dialect.pairs_of("negative_concord", 1)[0] == Pair(
        "he didn't cook nothing", "he didn't cook anything", "cook", "negative_concord"
    )
    assert len(dialect.pairs_of("was", 3, all_pronouns=True)) == 6


def test_errors_of_the_grammar_name_what_there_is():
    with pytest.raises(DialectError, match=r"'dun'.*habitual_be"):
        dialect.pairs_of("dun")
    with pytest.raises(DialectError, match="99 words"):
        dialect.pairs_of("done", 99)
    with pytest.raises(DialectError, match="car/truck"):
        dialect.swap_pairs("x/y")
    with pytest.raises(DialectError, match="paper"):
        dialect.frames("papers")


def test_at_least_six_features_are_aligned_with_one_differing_token(smollm2):
    frame = dialect.frames()[4]
    aligned = [
        n for n in dialect.feature_names() if len(dialect.aligned_pairs(smollm2, dialect.pairs_of(n), frame)) >= 20
    ]
    assert len(aligned) >= 6
    for name in dialect.swap_names():
        assert len(dialect.aligned_pairs(smollm2, dialect.swap_pairs(name), frame)) >= 30, name


def test_every_attribute_is_one_token(smollm2):
    words = [*dialect.favorability()]
    for groups in dialect.grammar()["attributes"].values():
        words += itertools.chain.from_iterable(groups.values())
    assert dialect.attribute_tokens(smollm2, words).shape == (len(words),)


def test_alignment_lets_nothing_else_through(model):
    good = Pair("he has walked", "he had walked")
    longer, two = Pair("he has walked", "he has then walked"), Pair("he has walked", "she had walked")
    found = dialect.aligned_pairs(model, [good, longer, two], 'He says " {} "')
    assert [pair for pair, _ in found] == [good]
    position = found[0][1]
    a, b = (model.to_str_tokens(f'He says " {side} "') for side in (good.aae, good.sae))
    assert (a[position], b[position]) == (" has", " had")
    with pytest.raises(DialectError, match="not equally long"):
        dialect.aligned_pairs(model, [longer], strict=True)
    with pytest.raises(DialectError, match="differ in 2 tokens"):
        dialect.aligned_pairs(model, [two], strict=True)


# --- padding ----------------------------------------------------------------------------------------------------------


def prompts_of_many_lengths():
    pairs = (
        dialect.pairs_of("be_usually", 3) + dialect.pairs_of("zero_copula", 2) + dialect.pairs_of("existential_it", 2)
    )
    frames = [dialect.frames()[i] for i in (0, 3, 7)]
    return [frame.format(side) for pair in pairs for frame in frames for side in (pair.aae, pair.sae)]


def all_ways(model, prompts):
    """Each prompt's last-token logits: alone, right-padded, left-padded (mask; strings), in batches with shared starts."""
    alone = torch.cat([model(model.to_tokens(prompt))[:, -1] for prompt in prompts])
    tokens, mask = tokenize(model, prompts)
    right = model(tokens, attention_mask=mask)[torch.arange(len(prompts)), mask.sum(-1) - 1]
    shift = tokens.shape[1] - mask.sum(-1)
    left_tokens = torch.stack([row.roll(int(s)) for row, s in zip(tokens, shift, strict=True)])
    left_mask = torch.stack([row.roll(int(s)) for row, s in zip(mask, shift, strict=True)])
    return alone, {
        "right": right,
        "left": model(left_tokens, attention_mask=left_mask)[:, -1],
        "batched": end_logits(model, prompts, batch_size=8),
        "one batch": end_logits(model, prompts, batch_size=1000),
        "singly": end_logits(model, prompts, batch_size=1),
    }


def test_padding_makes_no_difference_on_the_fixtures(model):
    prompts = prompts_of_many_lengths()[:12]
    alone, others = all_ways(model, prompts)
    for name, logits in others.items():
        assert (logits - alone).abs().max() < 1e-4, name


def test_padding_makes_no_difference_on_smollm2(smollm2):
    alone, others = all_ways(smollm2, prompts_of_many_lengths()[1::7])
    for name, logits in others.items():
        assert (logits - alone).abs().max() < 1e-4, name


def test_end_logits_keeps_order_repeats_and_options(model):
    prompts = ["He says", "They say", "He says", "He"]
    tokens = dialect.attribute_tokens(model, ["kind", "lazy"])
    logits = end_logits(model, prompts, tokens)
    assert logits.shape == (4, 2) and torch.equal(logits[0], logits[2])
    logp = end_logits(model, prompts, log_softmax=True)
    assert torch.allclose(logp.exp().sum(-1), torch.ones(4), atol=1e-5)
    other_bos = int(model.to_tokens(" the", prepend_bos=False)[0, 0])
    by_hand = model.to_tokens("They say").clone()
    by_hand[0, 0] = other_bos
    assert torch.allclose(
        end_logits(model, prompts, tokens, bos=other_bos)[1], model(by_hand)[0, -1, tokens], atol=1e-4
    )


def test_the_gap_is_the_definition(model):
    pairs = dialect.pairs_of("be_usually", 3)
    frames = dialect.frames()[:2]
    gaps = dialect.trait_gaps(model, pairs, frames, U, F)
    assert gaps.shape == (3, 2)
    ids_u, ids_f = (dialect.attribute_tokens(model, group) for group in (U, F))

    def prefers(text):
        logits = model(model.to_tokens(text))[0, -1]
        return logits[ids_u].mean() - logits[ids_f].mean()

    by_hand = prefers(frames[1].format(pairs[2].aae)) - prefers(frames[1].format(pairs[2].sae))
    assert gaps[2, 1] == pytest.approx(by_hand.item(), abs=1e-4)
    swapped = [Pair(p.sae, p.aae) for p in pairs]
    assert torch.allclose(dialect.trait_gaps(model, swapped, frames, U, F), -gaps, atol=1e-5)


# --- writing a dataset ------------------------------------------------------------------------------------------------


def test_write_then_read_a_dataset(tmp_path, model, monkeypatch):
    monkeypatch.setattr(dialect, "favorability", lambda: dict.fromkeys([*U, *F], 0.0))
    rows = dialect.dataset_rows(model, ["done", "be_usually"], dialect.frames()[:2], 7, progress=False)
    path = tmp_path / "dialect.csv"
    dialect.write_dataset(rows, path)
    assert path.read_text().splitlines()[0] == ",".join(dialect.COLUMNS)
    assert dialect.read_dataset(path, model) == rows and len(rows) == 7
    assert all(row.best_attr_aae != row.best_attr_sae for row in rows)


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dialect, "favorability", lambda: dict.fromkeys([*U, *F], 0.0))
    monkeypatch.setattr("utils.models.load_model", lambda name: tiny_model("llama"))
    out = tmp_path / "x.csv"
    assert dialect.main(["--out", str(out), "--rows", "5", "--features", "done", "was"]) == 0
    assert "5 rows" in capsys.readouterr().out and len(dialect.read_dataset(out)) == 5
    assert dialect.main(["--out", str(tmp_path / "no" / "x.csv"), "--rows", "2"]) == 1


@pytest.mark.parametrize(("rows", "message"), [("0", "0 rows"), ("-1", "-1 rows"), ("361", "361 rows.*there are 360")])
def test_command_line_refuses_a_number_of_rows_that_is_not_there(tmp_path, monkeypatch, capsys, rows, message):
    monkeypatch.setattr("utils.models.load_model", lambda name: pytest.fail("a model was loaded for nothing"))
    out = tmp_path / "x.csv"
    assert dialect.main(["--out", str(out), "--rows", rows, "--features", "done", "was"]) == 1
    assert re.search(message, capsys.readouterr().err) and not out.exists()


def test_without_a_number_of_rows_there_are_315_or_all(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("utils.models.load_model", lambda name: None)
    monkeypatch.setattr(dialect, "dataset_rows", lambda model, names, frames, n_rows: asked.append(n_rows) or [])
    for features in (["done"], ["done", "was"]):
        assert (
            dialect.main(["--out", str(tmp_path / "x.csv"), "--features", *features]) == 1
        )  # no rows, so nothing to write
    assert asked == [180, 315]


def test_command_line_names_a_trait_that_the_model_cannot_answer_with(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("utils.models.load_model", lambda name: tiny_model("gpt2"))
    assert dialect.main(["--out", str(tmp_path / "x.csv"), "--rows", "2"]) == 1
    assert re.search(r"' cruel' is \d+ tokens", capsys.readouterr().err)


def test_dataset_rows_refuses_what_is_not_there(model):
    for names, n_rows, message in (
        (["done"], 0, "0 rows"),
        (["done"], 21, "21 rows"),
        ("done", 1, "one string"),
        ([], 1, "no"),
    ):
        with pytest.raises(DialectError, match=message):
            dialect.dataset_rows(model, names, ["{} is"], n_rows, progress=False)
