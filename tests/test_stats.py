"""utils.stats against scipy, formulas and known distributions."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from utils import stats

RNG = np.random.default_rng(0)


def test_bootstrap_of_clusters_is_scipys_bootstrap_of_their_means():
    values = RNG.normal(size=12)
    clusters = list("aaabbbcccddd")
    means = values.reshape(4, 3).mean(1)
    expected = scipy_stats.bootstrap(
        (means,), np.mean, method="percentile", n_resamples=4999, rng=0
    ).confidence_interval
    assert stats.bootstrap_interval(values, clusters) == pytest.approx((expected.low, expected.high))


def test_rows_of_one_cluster_do_not_count_as_many():
    verbs = np.repeat(RNG.normal(size=6), 20)
    low, high = stats.bootstrap_interval(verbs, np.repeat(range(6), 20).tolist())
    naive_low, naive_high = stats.bootstrap_interval(verbs)
    assert high - low > 3 * (naive_high - naive_low)


def test_crossed_interval_is_wider_than_either_factor_alone_and_covers():
    rows, columns = RNG.normal(size=(12, 1)), RNG.normal(size=(1, 9))
    table = rows + columns
    low, high = stats.crossed_interval(table)
    assert low < table.mean() < high
    for axis in (0, 1):
        one_low, one_high = stats.bootstrap_interval(table.mean(axis))
        assert high - low > one_high - one_low


def test_crossed_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for _ in range(60):
        table = RNG.normal(size=(12, 1)) + RNG.normal(size=(1, 12)) + RNG.normal(size=(12, 12))
        low, high = stats.crossed_interval(table, n_resamples=400)
        covered += low < 0 < high
    assert covered / 60 > 0.85


def test_sign_flip_is_exact_for_few_values():
    assert stats.sign_flip_p([1.0, 1.1, 0.9, 1.2, 1.0, 0.8]) == pytest.approx(2 / 2**6)
    assert stats.sign_flip_p(RNG.normal(size=12) * 1.0 - 0.0) > 0.01


def test_rank_p_is_two_sided_and_counts_the_observed_value():
    null = [-0.3, -0.1, 0.1, 0.2]
    assert stats.rank_p(0.3, null) == pytest.approx(2 / 5)
    assert stats.rank_p(-0.3, null) == pytest.approx(2 / 5)
    assert stats.rank_p(9.0, null) == pytest.approx(1 / 5)
    assert stats.rank_p(0.0, null) == 1


def test_holm_by_hand_and_never_below_the_raw_values():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    p = RNG.random(20)
    assert (stats.holm(p) >= p).all()
    assert (stats.holm(p) >= stats.false_discovery(p) - 1e-12).all()


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="3 clusters"):
        stats.bootstrap_interval([1.0, 2.0], list("abc"))
    with pytest.raises(ValueError, match="1 cluster"):
        stats.bootstrap_interval([1.0, 2.0], list("aa"))
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        stats.crossed_interval(np.zeros((1, 3)))
