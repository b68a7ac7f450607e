"""Runs on tiny models, and sets of their edges."""

from functools import cache

from tests.paths.cases import FOUR, setting
from utils.circuits import edges
from utils.experiment import run_experiment

TOLERANCE = {"atol": 1e-4, "rtol": 0}
FAMILIES = ("gpt2", "llama")


@cache
def case(family, rows=4):
    """An experiment of four prompts of one length, or of five, of which one is shorter."""
    model, pairs = setting(family, FOUR if rows == 4 else slice(0, rows))
    return run_experiment(model, pairs)


@cache
def exact(family, rows=4):
    return case(family, rows).denoise(edges.exact_edges, progress=False)
