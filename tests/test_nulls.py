"""utils.dialect.nulls, and what else the grammar generates: pairs in which nothing about a dialect changes."""

import pytest

from utils import dialect
from utils.dialect import DialectError, nulls

AAE_WORDS = {"be", "done", "been", "ain't", "nothing", "stay", "finna"}


@pytest.mark.parametrize("kind", nulls.KINDS)
def test_every_null_gives_pairs_whose_sides_differ(kind):
    found = nulls.null_pairs(kind, 4)
    assert len(found) == {"any swap": 34, "pre-verbal": 278, "same place": 60, "errors": 20, "misspellings": 8}[kind]
    for name, pairs in found.items():
        assert len(pairs) == 4 and len({pair.cluster for pair in pairs}) == 4, name
        for pair in pairs:
            assert pair.aae != pair.sae and pair.name == name
            assert "{" not in pair.aae + pair.sae


@pytest.mark.parametrize("kind", nulls.KINDS)
def test_no_null_holds_a_word_of_the_dialect(kind):
    for pairs in nulls.null_pairs(kind, 3).values():
        assert not AAE_WORDS & {word for pair in pairs for side in (pair.aae, pair.sae) for word in side.split()}


@pytest.mark.parametrize("kind", ["any swap", "pre-verbal", "same place", "misspellings"])
def test_these_nulls_exchange_one_word(kind):
    for name, pairs in nulls.null_pairs(kind, 4).items():
        for pair in pairs:
            one, other = pair.aae.split(), pair.sae.split()
            assert sum(a != b for a, b in zip(one, other, strict=True)) == 1, name


def test_the_pre_verbal_null_is_every_two_words_of_a_group():
    names = set(nulls.null_pairs("pre-verbal", 1))
    groups = dialect.grammar()["preverbal"]
    assert len(names) == sum(len(group["words"]) * (len(group["words"]) - 1) // 2 for group in groups)
    for group in groups:
        assert len(set(group["words"])) == len(group["words"])
        at = group["sentence"].split().index("{x}")
        assert group["sentence"].split()[at + 1] in {"{base}", "{ing}", "{past}"}, "directly before the verb"


def test_the_same_place_is_that_of_done_and_its_counterpart():
    done, found = dialect.pairs_of("done", 4), nulls.null_pairs("same place", 4)
    for word, pairs in found.items():
        assert [pair.sae for pair in pairs] == [pair.sae for pair in done]
        assert [pair.aae for pair in pairs] == [pair.aae.replace(" done ", f" {word} ") for pair in done]
    assert not {"done", "has"} & set(found)


def test_misspellings_stand_where_g_dropping_stands():
    dropped, found = dialect.pairs_of("g_dropping", 4), nulls.null_pairs("misspellings", 4)
    for pairs in found.values():
        assert [pair.sae for pair in pairs] == [pair.sae for pair in dropped]
        assert all(pair.aae != own.aae for pair, own in zip(pairs, dropped, strict=True))


def test_words_of_the_nulls_are_one_token_so_that_most_pairs_are_aligned(smollm2):
    for kind in ("pre-verbal", "same place"):
        for name, pairs in nulls.null_pairs(kind, 2).items():
            assert len(dialect.aligned_pairs(smollm2, pairs, dialect.frames()[4])) == 2, name


def test_unknown_nulls_are_refused():
    with pytest.raises(DialectError, match="any swap, pre-verbal, same place, errors, misspellings"):
        nulls.null_pairs("neutral")
    with pytest.raises(DialectError, match="99 words asked for"):
        nulls.null_pairs("errors", 99)


# --- what the grammar generates -----------------------------------------------------------------------------------------


def test_done_is_built_on_verbs_whose_past_and_participle_are_alike():
    verbs = dialect.grammar()["verbs"]
    assert all(verbs[pair.cluster][1] == verbs[pair.cluster][2] for pair in dialect.pairs_of("done"))


def test_pairs_of_templates_of_ones_own():
    pairs = dialect.filled(("{p} will {base}", "{p} is {ing}"), ["we", "they"], 3)
    assert [(pair.aae, pair.sae) for pair in pairs] == [
        ("we will work", "we is working"),
        ("they will cook", "they is cooking"),
        ("we will walk", "we is walking"),
    ]
    assert [pair.aae for pair in dialect.filled(("{p} {stem}ign", "{p} {ing}"), ["he"], 2)] == [
        "he workign",
        "he cookign",
    ]


def test_things_and_substances_have_their_own_words():
    things = dialect.pairs_of("inanimate_be_usually")
    assert things[0].aae == "it be raining" and things[0].sae == "it's usually raining"
    assert len({pair.cluster for pair in things}) == len(things) == 12
    assert not {"he", "she", "they", "we"} & {word for pair in things for word in pair.aae.split()}
    assert dialect.pairs_of("existential_it", 1)[0].aae == "it's some coffee in the kitchen"


def test_features_say_where_else_they_occur():
    shared = {name for name, entry in dialect.grammar()["features"].items() if entry.get("elsewhere")}
    assert {"done", "was", "negative_concord", "aint", "g_dropping", "existential_it"} <= shared
    assert not {"habitual_be", "zero_copula", "stay"} & shared


def test_occupations_have_a_standing_and_are_one_token(smollm2):
    prestige = dialect.grammar()["prestige"]
    assert len(prestige) >= 60 and all(1 <= rating <= 9 for rating in prestige.values())
    assert prestige["surgeon"] > prestige["teacher"] > prestige["dishwasher"]
    assert dialect.attribute_tokens(smollm2, list(prestige)).shape == (len(prestige),)
    assert all(frame.endswith(" a") for frame in dialect.frames("occupation")), "an n makes it 'an'"
