"""What hypothesis draws as arguments of exercises: tables, masks, edges, curves, trials."""

from __future__ import annotations

import math
import types
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

QUARTERS = st.integers(-12, 12).map(lambda n: n / 4)


@st.composite
def tables(draw, *sizes: tuple[int, int], n: int = 1, elements=QUARTERS):
    """n tables of one shape, each axis from its smallest to its largest size."""
    shape = [draw(st.integers(*size)) for size in sizes]
    values = st.lists(elements, min_size=math.prod(shape), max_size=math.prod(shape))
    return tuple(torch.tensor(draw(values)).reshape(shape) for _ in range(n))


@st.composite
def templates(draw):
    """z of five prompts, and which template each of them has."""
    sizes = [draw(st.integers(1, 3)) for _ in range(4)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    z = torch.randint(-8, 9, (sizes[0], 5, *sizes[1:]), generator=generator) / 4
    return z, torch.tensor(draw(st.lists(st.integers(0, 2), min_size=5, max_size=5)))


@st.composite
def masks(draw):
    """Attention masks whose real tokens stand together, with padding on either side."""
    width = draw(st.integers(2, 6))
    spans = draw(st.lists(st.tuples(st.integers(0, width - 1), st.integers(1, width)), min_size=1, max_size=4))
    return (torch.tensor([[int(start <= i < start + n) for i in range(width)] for start, n in spans]),)


@st.composite
def two_lists_of_heads(draw):
    heads = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=5, unique=True)
    return draw(heads), draw(heads), draw(st.integers(9, 14))


@st.composite
def edge_scores(draw):
    (scores,) = draw(tables((1, 4), (1, 5)))
    (exists,) = draw(tables((scores.shape[0],) * 2, (scores.shape[1],) * 2, elements=st.booleans()))
    return scores, exists, draw(st.integers(0, int(exists.sum()))), draw(st.booleans())


@st.composite
def curves(draw):
    places = sorted(draw(st.lists(st.integers(0, 16), min_size=2, max_size=5, unique=True)))
    heights = draw(st.lists(QUARTERS, min_size=len(places), max_size=len(places)))
    return [place / 16 for place in places], heights


@dataclass(frozen=True)
class Distance:
    """What each edge that is gone adds, and what a pair adds of which the second is there without the first."""

    alone: tuple[float, ...]
    needs: tuple[tuple[int, int], ...]

    def __call__(self, kept: frozenset) -> float:
        gone = sum(weight for edge, weight in enumerate(self.alone) if edge not in kept)
        return 1.0 + gone + sum(one not in kept and other in kept for one, other in self.needs)


@st.composite
def trials(draw):
    weights = draw(st.lists(QUARTERS, min_size=1, max_size=6))
    edge = st.integers(0, len(weights) - 1)
    needs = draw(st.lists(st.tuples(edge, edge), max_size=3))
    order = draw(st.permutations(range(len(weights))))
    return order, Distance(tuple(weights), tuple(needs)), draw(st.integers(0, 4)) / 4


@st.composite
def gradients(draw):
    n_readers, n_writers = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rest = [draw(st.integers(1, 3)) for _ in range(3)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randint(-8, 9, shape, generator=generator) / 4

    exists = torch.rand(n_readers, n_writers, generator=generator) < 0.6
    return drawn(n_writers, *rest), drawn(n_writers, *rest), drawn(n_readers, *rest), exists


@st.composite
def ways(draw):
    """messages, gradients_at, exists, steps: the gradient is a curve through three drawn tables."""
    messages, _, first, exists = draw(gradients())
    second, third = first.flip(0, 3), first.roll(1, 2) ** 2
    return messages, lambda share: first + share * second + share**3 * third, exists, draw(st.integers(1, 4))


@st.composite
def settings_of_models(draw):
    n_heads = draw(st.integers(1, 4))
    shared = draw(st.sampled_from([None, *(n for n in range(1, n_heads + 1) if n_heads % n == 0)]))
    return (types.SimpleNamespace(n_layers=draw(st.integers(1, 3)), n_heads=n_heads, n_key_value_heads=shared),)


@st.composite
def scores_of_pairs(draw):
    n = draw(st.integers(3, 12))
    column = st.lists(QUARTERS, min_size=n, max_size=n)
    shift, spread = draw(QUARTERS), draw(QUARTERS)
    clean, noise = draw(column), draw(column)
    return [value / 2 + shift for value in clean], [
        a / 2 + shift - b / 4 - spread for a, b in zip(clean, noise, strict=True)
    ]


def varied(pairs: tuple[list[float], list[float]]) -> bool:
    clean, corrupted = map(np.array, pairs)
    return clean.std() > 0 and (clean - corrupted).std() > 0 and corrupted.std() > 0


reports = st.fixed_dictionaries(
    {
        "clean_low": QUARTERS,
        "value": st.integers(1, 8).map(lambda n: n / 4),
        "low": st.sampled_from([0.25, 0.75, 0.8, 0.875, 1.0, 1.25]),
        "high": st.sampled_from([0.5, 1.0, 1.125, 1.2, 1.25, 1.5]),
        "mae": st.integers(0, 8).map(lambda n: n / 4),
        "empty_mae": st.integers(0, 8).map(lambda n: n / 2),
        "random_p": st.sampled_from([0.01, 0.03125, 0.05, 0.0625, 0.5]),
        "value_without_strongest": QUARTERS,
        "shared_answers": st.sampled_from([0.0, 0.0078125, 0.5, 0.75, 1.0]),
    }
)
