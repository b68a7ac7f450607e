"""utils.stats against scipy, formulas and known distributions."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
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


# --- crossed random effects ---------------------------------------------------------------------------------------------

# What varies most → standard deviations of rows (verbs), columns (prompts) and cells. "measured": of the trait gap of
# be_usually on SmolLM2-135M, 12 verbs and nine prompts.
REGIMES = {
    "verbs": (1.0, 0.2, 0.3),
    "prompts": (0.2, 1.0, 0.3),
    "interaction": (0.1, 0.1, 1.0),
    "measured": (0.17, 0.23, 0.18),
}
TABLES = arrays(float, st.tuples(st.integers(2, 6), st.integers(2, 6)), elements=st.floats(-8, 8, width=16))
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True)


def share_excluding(interval, tables, value=0.0):
    """The share of the tables whose interval does not hold `value`."""
    low, high = np.array([interval(table) for table in tables]).T
    return ((low > value) | (value > high)).mean()


@pytest.mark.parametrize("regime", REGIMES)
def test_anova_interval_covers_the_mean_as_often_as_it_says(regime):
    tables = stats.simulate_tables(12, 9, *REGIMES[regime], mean=0.4, n_tables=2000, seed=1)
    coverage = 1 - share_excluding(stats.anova_interval, tables, 0.4)
    assert 0.92 <= coverage <= 0.98


@pytest.mark.parametrize("regime", ["verbs", "prompts"])
def test_with_few_verbs_the_pigeonhole_bootstrap_is_wrong_far_more_often(regime):
    tables = stats.simulate_tables(4, 6, *REGIMES[regime], n_tables=300)
    anova, rows = (share_excluding(f, tables) for f in (stats.anova_interval, lambda t: one_factor(t.flatten())))
    pigeonhole = share_excluding(lambda table: stats.crossed_interval(table, n_resamples=400), tables)
    assert anova < 0.08 < pigeonhole < rows and rows > 0.25


def one_factor(values):
    """The ordinary t interval of independent values."""
    return scipy_stats.t.interval(0.95, len(values) - 1, values.mean(), scipy_stats.sem(values))


def two_factors(row, column, shape=(5, 7), noise=0.3, seed=0):
    """A table whose row effects, column effects and residual have exactly the mean squares that one asks for."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=shape)
    a = table.mean(1, keepdims=True) - table.mean()
    b = table.mean(0, keepdims=True) - table.mean()
    e = table - table.mean() - a - b
    return (
        row * a / a.std(ddof=1)
        + column * b / b.std(ddof=1)
        + noise * e / np.sqrt((e**2).sum() / (shape[0] - 1) / (shape[1] - 1))
    )


def test_components_by_hand():
    table = two_factors(2.0, 1.0) + 3
    found = stats.variance_components(table)
    assert found == pytest.approx({"row": 4 - 0.09 / 7, "column": 1 - 0.09 / 5, "residual": 0.09})
    low, high = stats.anova_interval(table)
    of_mean = found["row"] / 5 + found["column"] / 7 + found["residual"] / 35
    squares, freedom = np.array([7 * 4, 5 * 1, 0.09]), np.array([4, 6, 24])
    degrees = (28 + 5 - 0.09) ** 2 / (squares**2 / freedom).sum()
    half = scipy_stats.t.ppf(0.975, degrees) * np.sqrt(of_mean)
    assert (low, high) == pytest.approx((3 - half, 3 + half))


def test_a_factor_without_variation_of_its_own_drops_out():
    """Then the interval is the t interval of the other factor's means, and of all cells where neither has any."""
    rows_only = two_factors(2.0, 0.01)
    assert stats.variance_components(rows_only)["column"] < 0
    assert stats.anova_interval(rows_only, 0.9) == pytest.approx(
        scipy_stats.t.interval(0.9, 4, rows_only.mean(), scipy_stats.sem(rows_only.mean(1)))
    )
    assert stats.anova_interval(rows_only.T, 0.9) == pytest.approx(stats.anova_interval(rows_only, 0.9))
    neither = two_factors(0.01, 0.01)
    half = scipy_stats.t.ppf(0.975, 24) * 0.3 / np.sqrt(35)
    assert stats.anova_interval(neither) == pytest.approx((-half, half))


@pytest.mark.parametrize("seed", range(4))
def test_components_and_interval_are_those_of_statsmodels_mixed_model(seed):
    """REML and ANOVA agree on a balanced table where no component is negative; so does the variance of the mean."""
    mixed = pytest.importorskip(
        "statsmodels.formula.api", reason="statsmodels is not installed (pip install -e .[dev])"
    )
    table = stats.simulate_tables(8, 6, 0.8, 0.6, 0.5, mean=0.3, n_tables=1, seed=seed)[0]
    found = stats.variance_components(table)
    assert min(found.values()) > 0
    long = pd.DataFrame([{"row": r, "column": c, "y": y} for (r, c), y in np.ndenumerate(table)])
    parts = {"row": "0 + C(row)", "column": "0 + C(column)"}
    model = mixed.mixedlm("y ~ 1", long, groups=np.ones(len(long)), re_formula="0", vc_formula=parts)
    fit = model.fit(reml=True)
    theirs = dict(zip(model.exog_vc.names, fit.vcomp, strict=True)) | {"residual": fit.scale}
    assert found == pytest.approx(theirs, rel=2e-3)
    squares = np.array(
        [6 * found["row"] + found["residual"], 8 * found["column"] + found["residual"], found["residual"]]
    )
    degrees = (squares @ [1, 1, -1]) ** 2 / (squares**2 / [7, 5, 35]).sum()
    half = scipy_stats.t.ppf(0.975, degrees) * fit.bse_fe["Intercept"]
    mean = fit.fe_params["Intercept"]
    assert stats.anova_interval(table) == pytest.approx((mean - half, mean + half), rel=2e-3)


@PROPERTY
@given(TABLES, st.floats(-4, 4), st.floats(-4, 4))
def test_the_interval_moves_with_its_table(table, shift, scale):
    """Shifted, scaled (turned over by a negative factor), and with rows and columns exchanged or in another order."""
    squares, _ = mean_squares(table)
    assume(abs(squares[:2] - squares[2]).min() > 1e-6)  # on the border, rounding decides whether a factor counts
    interval = np.array(stats.anova_interval(table))
    assert interval.mean() == pytest.approx(table.mean(), abs=1e-9)
    assert stats.anova_interval(table + shift) == pytest.approx(interval + shift, rel=1e-6, abs=1e-6)
    assert stats.anova_interval(scale * table) == pytest.approx(np.sort(scale * interval), rel=1e-6, abs=1e-6)
    assert stats.anova_interval(table.T) == pytest.approx(interval, rel=1e-9, abs=1e-9)
    assert stats.anova_interval(table[::-1, ::-1]) == pytest.approx(interval, rel=1e-9, abs=1e-9)
    components, turned = stats.variance_components(table), stats.variance_components(table.T)
    assert (components["row"], components["column"]) == pytest.approx((turned["column"], turned["row"]), abs=1e-9)
    narrow = np.array(stats.anova_interval(table, 0.5))
    assert interval[0] <= narrow[0] <= narrow[1] <= interval[1]


def mean_squares(table):
    """By another way than the one that is tested: the residual is what rows and columns leave of the whole."""
    n_rows, n_columns = table.shape
    of_rows = ((table.mean(1) - table.mean()) ** 2).sum() * n_columns
    of_columns = ((table.mean(0) - table.mean()) ** 2).sum() * n_rows
    rest = ((table - table.mean()) ** 2).sum() - of_rows - of_columns
    freedom = np.array([n_rows - 1, n_columns - 1, (n_rows - 1) * (n_columns - 1)])
    return np.array([of_rows, of_columns, rest]) / freedom, freedom


def test_an_interval_takes_tensors_and_lists_and_equal_values():
    table = two_factors(1.0, 1.0)
    assert (
        stats.anova_interval(torch.tensor(table)) == stats.anova_interval(table.tolist()) == stats.anova_interval(table)
    )
    assert stats.anova_interval(np.full((3, 4), 0.7)) == pytest.approx((0.7, 0.7))


def test_simulated_tables_are_what_was_asked_for():
    tables = stats.simulate_tables(6, 5, 2.0, 1.0, 0.5, mean=-3.0, n_tables=3000)
    assert tables.shape == (3000, 6, 5) and tables.mean() == pytest.approx(-3, abs=0.06)
    parts = pd.DataFrame([stats.variance_components(table) for table in tables]).mean()
    assert parts.to_dict() == pytest.approx({"row": 4, "column": 1, "residual": 0.25}, rel=0.05)
    again, other = (stats.simulate_tables(6, 5, 2.0, 1.0, 0.5, n_tables=2, seed=seed) for seed in (0, 1))
    assert np.array_equal(again, stats.simulate_tables(6, 5, 2.0, 1.0, 0.5, n_tables=2)) and not np.allclose(
        again, other
    )
    assert np.ptp(stats.simulate_tables(3, 4, 0, 0, 0, mean=2.0, n_tables=5)) == 0


def test_power_grows_with_verbs_only_where_verbs_vary():
    def power(n_verbs, regime):
        tables = stats.simulate_tables(n_verbs, 9, *REGIMES[regime], mean=0.7, n_tables=400)
        return share_excluding(stats.anova_interval, tables)

    assert power(20, "verbs") > power(6, "verbs") + 0.3
    assert abs(power(40, "prompts") - power(10, "prompts")) < 0.1


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
    assert (stats.holm(p) >= scipy_stats.false_discovery_control(p) - 1e-12).all()


def test_errors_name_the_value():
    with pytest.raises(ValueError, match="3 clusters"):
        stats.bootstrap_interval([1.0, 2.0], list("abc"))
    with pytest.raises(ValueError, match="1 cluster"):
        stats.bootstrap_interval([1.0, 2.0], list("aa"))
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        stats.crossed_interval(np.zeros((1, 3)))


@pytest.mark.parametrize("interval", [stats.anova_interval, stats.crossed_interval, stats.variance_components])
def test_tables_that_have_no_interval_are_refused_by_name(interval):
    for shape in ((1, 3), (3, 1), (0, 4), (6,), (2, 2, 2)):
        with pytest.raises(ValueError, match=re.escape(f"shape {shape}")):
            interval(np.ones(shape))
    for bad, name in ((np.nan, "NaN"), (-np.inf, "-inf")):
        table = RNG.normal(size=(4, 5))
        table[2, 3] = bad
        with pytest.raises(ValueError, match=rf"{name} in row 2, column 3 of a table of shape \(4, 5\)"):
            interval(table)


@pytest.mark.parametrize("level", [0, 1, 95, -0.5, np.nan])
def test_levels_outside_0_to_1_are_refused(level):
    with pytest.raises(ValueError, match=f"level {level}"):
        stats.anova_interval(np.eye(3), level)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"n_rows": 0}, "n_rows is 0"), ({"n_tables": -1}, "n_tables is -1"), ({"sd_noise": -0.1}, "sd_noise is -0.1")],
)
def test_simulations_of_nothing_are_refused(wrong, message):
    asked = {"n_rows": 4, "n_columns": 6, "sd_row": 1.0, "sd_column": 1.0, "sd_noise": 1.0, **wrong}
    with pytest.raises(ValueError, match=message):
        stats.simulate_tables(**asked)
