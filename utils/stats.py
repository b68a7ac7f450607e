"""Intervals, permutation tests and corrections for the dialect chapters. scipy does the work; clusters are respected."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from torch import Tensor

N_RESAMPLES, LEVEL = 4999, 0.95


def _array(values: ArrayLike | Sequence) -> np.ndarray:
    return (values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)).astype(float)


def cluster_means(values: ArrayLike | Sequence, clusters: Sequence[Hashable]) -> np.ndarray:
    """The mean of each cluster's values, in the order in which the clusters first appear."""
    values, clusters = _array(values), list(clusters)
    if values.ndim != 1 or len(values) != len(clusters):
        raise ValueError(f"values of shape {values.shape} and {len(clusters)} clusters; give one cluster per value")
    names = list(dict.fromkeys(clusters))
    return np.array([values[[c == name for c in clusters]].mean() for name in names])


def bootstrap_interval(
    values: ArrayLike | Sequence,
    clusters: Sequence[Hashable] | None = None,
    level: float = LEVEL,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean when whole clusters are resampled (None: every value is its own).

    Rows that share a verb are not independent; resampling rows gives intervals that are too narrow.
    """
    means = _array(values) if clusters is None else cluster_means(values, clusters)
    if len(means) < 2:
        raise ValueError(f"{len(means)} cluster(s): an interval needs at least 2")
    result = stats.bootstrap(
        (means,), np.mean, confidence_level=level, n_resamples=n_resamples, method="percentile", rng=seed
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def crossed_interval(
    table: ArrayLike | Sequence, level: float = LEVEL, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean of a [row, column] table when rows and columns are both resampled.

    For gaps by verb and prompt, where neither is the whole population (Owen 2007, "The pigeonhole bootstrap").
    """
    table = _array(table)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(f"a table of shape {table.shape}: at least 2 rows and 2 columns are needed")

    def mean(rows, columns, axis=-1):
        return table[rows[..., :, None], columns[..., None, :]].mean((-2, -1))

    options = {"confidence_level": level, "n_resamples": n_resamples, "method": "percentile", "rng": seed}
    result = stats.bootstrap(tuple(map(np.arange, table.shape)), mean, vectorized=True, **options)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def sign_flip_p(values: ArrayLike | Sequence, n_resamples: int = N_RESAMPLES, seed: int = 0) -> float:
    """Two-sided p-value of a mean of paired differences: the labels of each pair are exchanged at random.

    Give cluster means, not rows. Exact when there are few enough of them.
    """
    values = _array(values)
    both = values, np.zeros_like(values)
    options = {"permutation_type": "samples", "vectorized": True, "n_resamples": n_resamples, "rng": seed}
    result = stats.permutation_test(both, lambda a, b, axis: (a - b).mean(axis), **options)
    return float(result.pvalue)


def rank_p(observed: float | Tensor, null: ArrayLike | Sequence) -> float:
    """Two-sided p-value of `observed` among gaps of swaps that mean nothing: (1 + how many are as large) / (1 + all).

    The observed value is one of the values it is ranked among; with n swaps no p-value is below 1 / (n + 1).
    """
    null = np.abs(_array(null))
    return float((1 + (null >= abs(float(observed))).sum()) / (1 + len(null)))


def holm(p_values: ArrayLike | Sequence) -> np.ndarray:
    """Holm-adjusted p-values: below .05 means that the chance of any false claim among all of them is below .05."""
    p = _array(p_values)
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    return np.minimum(adjusted, 1.0)[np.argsort(order, kind="stable")]


def false_discovery(p_values: ArrayLike | Sequence) -> np.ndarray:
    """Benjamini-Hochberg-adjusted p-values: below q means that at most a share q of the claims is expected to be false."""
    return stats.false_discovery_control(_array(p_values))
