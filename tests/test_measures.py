"""utils.dialect.measures: the paper's measures and the course's, on profiles worked out by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from utils import dialect
from utils.dialect import DialectError, measures
from utils.dialect.grammar import stereotypes

WORDS = list(dialect.favorability())
RATINGS = torch.tensor(list(dialect.favorability().values()))


def profile(**scores):
    return torch.tensor([float(scores.get(word, 0.0)) for word in WORDS])


# --- the lists ----------------------------------------------------------------------------------------------------------


def test_every_study_names_five_of_the_traits_from_the_most_named_down():
    lists = stereotypes()
    assert list(lists) == ["1933", "1951", "1969", "2012"]
    for named in lists.values():
        assert len(named) == measures.TOP and set(named) <= set(WORDS)
        assert list(named.values()) == sorted(named.values(), reverse=True)


def test_the_lists_are_those_that_the_paper_prints():
    printed = {
        "1933": "lazy ignorant musical religious stupid",
        "1951": "musical lazy ignorant religious stupid",
        "1969": "musical lazy sensitive ignorant religious",
        "2012": "loud loyal musical religious aggressive",
    }
    assert {year: " ".join(named) for year, named in stereotypes().items()} == printed


def test_a_list_that_is_changed_by_its_reader_stays_as_it_was():
    stereotypes()["1933"].clear()
    assert stereotypes()["1933"]


# --- strength and gap -----------------------------------------------------------------------------------------------------


def test_strength_is_five_traits_against_thirty_two():
    assert measures.strength(profile(lazy=1.0)) == pytest.approx(1 / 5)
    assert measures.strength(profile(brilliant=1.0)) == pytest.approx(-1 / 32)
    assert measures.strength(torch.ones(37)) == pytest.approx(0, abs=1e-6)


def test_strength_takes_other_words():
    assert measures.strength(profile(loud=2.0), ["loud", "rude"]) == pytest.approx(1.0)


def test_a_favorable_word_of_the_stereotype_adds_to_strength_and_takes_from_the_gap():
    musical = profile(musical=1.0)
    assert measures.strength(musical) > 0 > measures.gap(musical)


def test_gap_is_the_difference_of_two_preferences():
    generator = torch.Generator().manual_seed(0)
    aae, sae = torch.randn(2, 3, 4, 37, generator=generator)
    unfavorable, favorable = dialect.traits()
    want = dialect.preference(aae, WORDS, unfavorable, favorable) - dialect.preference(
        sae, WORDS, unfavorable, favorable
    )
    torch.testing.assert_close(measures.gap(aae - sae), want)


@pytest.mark.parametrize("measure", [measures.strength, measures.gap])
def test_linear_measures_of_a_mean_are_means_of_the_measure(measure):
    cells = torch.randn(6, 9, 37, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(measure(cells).mean(), measure(cells.mean((0, 1))))
    assert measure(cells).shape == (6, 9)


def test_the_order_of_measures_need_not_be_linear():
    cells = torch.randn(50, 37, generator=torch.Generator().manual_seed(2))
    assert abs(measures.agreement(cells).mean() - measures.agreement(cells.mean(0))) > 0.01


# --- average precision ----------------------------------------------------------------------------------------------------


def precision_by_hand(order, relevant):
    ranks = [i for i, item in enumerate(order) if relevant[item]]
    return np.mean([(found + 1) / (rank + 1) for found, rank in enumerate(ranks)])


@pytest.mark.parametrize(
    ("scores", "relevant", "want"),
    [
        ([3, 2, 1], [True, False, False], 1.0),
        ([3, 2, 1], [False, False, True], 1 / 3),
        ([3, 2, 1], [True, False, True], (1 + 2 / 3) / 2),
        ([1, 2, 3], [True, False, True], (1 + 2 / 3) / 2),
        ([0, 0], [True, False], 3 / 4),
        ([0, 0, 0], [True, True, True], 1.0),
    ],
)
def test_average_precision_of_small_rankings(scores, relevant, want):
    assert measures.average_precision(scores, relevant) == pytest.approx(want)


@pytest.mark.parametrize("seed", range(8))
def test_ties_count_as_the_mean_over_all_orders(seed):
    rng = np.random.default_rng(seed)
    scores, relevant = rng.integers(0, 3, 6), rng.random(6) < 0.5
    relevant[rng.integers(6)] = True
    orders = [
        o for o in itertools.permutations(range(6)) if all(scores[a] >= scores[b] for a, b in itertools.pairwise(o))
    ]
    want = np.mean([precision_by_hand(order, relevant) for order in orders])
    assert measures.average_precision(scores, relevant) == pytest.approx(want)


@pytest.mark.parametrize(
    ("scores", "relevant", "words"),
    [
        ([1.0, 2.0], [True], "one of each"),
        ([1.0, 2.0], [False, False], "nothing to find"),
        ([1.0, math.nan], [True, False], "nan"),
    ],
)
def test_rankings_that_mean_nothing_are_refused(scores, relevant, words):
    with pytest.raises(ValueError, match=words):
        measures.average_precision(scores, relevant)


# --- agreement --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", ["1933", "1951", "1969", "2012"])
def test_agreement_is_one_for_the_study_itself_and_falls_when_its_order_is_turned(year):
    named = list(stereotypes()[year])
    own = profile(**{word: 5 - i for i, word in enumerate(named)})
    turned = profile(**{word: i + 1 for i, word in enumerate(named)})
    assert measures.agreement(own, year) == pytest.approx(1)
    assert measures.agreement(turned, year) < 0.7
    assert measures.agreement(-own, year) < 0.1


def test_agreement_of_chance_is_what_its_docstring_says():
    shuffled = torch.rand(600, 37, generator=torch.Generator().manual_seed(3))
    chance = measures.agreement(shuffled, "2012")
    assert chance.mean() == pytest.approx(0.163, abs=0.01) and chance.std() == pytest.approx(0.105, abs=0.01)
    harmonic = sum(1 / n for n in range(1, 38))
    assert float(measures.agreement(torch.zeros(37))) == pytest.approx(float(chance.mean()), abs=0.01)
    assert measures.average_precision([0] * 37, [1] + [0] * 36) == pytest.approx(harmonic / 37)


def test_agreement_keeps_the_axes_and_knows_its_studies():
    assert measures.agreement(torch.randn(2, 3, 37)).shape == (2, 3)
    with pytest.raises(DialectError, match="1933, 1951, 1969, 2012"):
        measures.agreement(torch.zeros(37), "1954")


# --- favorability --------------------------------------------------------------------------------------------------------


def test_weighted_favorability_weighs_the_five_highest():
    scores = profile(lazy=3.0, kind=1.0, rude=-4.0)
    assert measures.weighted_favorability(scores) == pytest.approx((3 * -1.32 + 1.46) / 4)
    assert measures.weighted_favorability(profile(lazy=1, kind=1), k=1) in (pytest.approx(-1.32), pytest.approx(1.46))


def test_scores_below_zero_have_no_weight_and_none_above_zero_is_nan():
    assert measures.weighted_favorability(profile(brilliant=2.0) - 0.5) == pytest.approx(1.86)
    assert measures.weighted_favorability(-torch.rand(37) - 0.1).isnan()
    both = torch.stack([profile(honest=1.0), -torch.ones(37)])
    assert measures.weighted_favorability(both).isnan().tolist() == [False, True]


# --- all of them, and what they refuse --------------------------------------------------------------------------------------


def test_all_measures_are_the_single_ones():
    cells = torch.randn(2, 3, 37, generator=torch.Generator().manual_seed(4))
    found = measures.all_measures(cells)
    assert list(found) == [
        "strength",
        "agreement_1933",
        "agreement_1951",
        "agreement_1969",
        "agreement_2012",
        "favorability",
        "gap",
    ]
    assert all(values.shape == (2, 3) for values in found.values())
    torch.testing.assert_close(found["gap"], measures.gap(cells))
    torch.testing.assert_close(found["agreement_2012"][1, 2], measures.agreement(cells[1, 2], "2012"))


@pytest.mark.parametrize(
    "measure", [measures.strength, measures.gap, measures.agreement, measures.weighted_favorability]
)
def test_a_profile_of_other_traits_is_refused(measure):
    with pytest.raises(DialectError, match="37 traits"):
        measure(torch.zeros(2, 36))


def test_strength_names_words_that_are_no_traits():
    with pytest.raises(DialectError, match="'smart' is not one of the 37"):
        measures.strength(torch.zeros(37), ["lazy", "smart"])
    with pytest.raises(DialectError, match="leave some"):
        measures.strength(torch.zeros(37), WORDS)
