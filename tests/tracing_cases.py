"""Sweeps and answers that tests of part two use."""

from utils import dialect, patching
from utils.dialect import Pair, tracing
from utils.experiment import run_experiment

U_WORDS, F_WORDS = ["lazy", "rude", "loud"], ["kind", "honest", "smart"]
FRAME = 'A person who says " {} " is'
DONE = [Pair(f"{p} done {v}", f"{p} has {v}", v, "done") for p in ("he", "she") for v in ("walked", "car")]


def answers(model):
    return tuple(dialect.attribute_tokens(model, group) for group in (U_WORDS, F_WORDS))


def residual_sweep(model, batch):
    experiment = run_experiment(model, batch, tracing.preference_of(*answers(model)))
    return experiment.denoise(patching.get_act_patch_resid_pre, progress=False)
