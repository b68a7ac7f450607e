"""Settings and tables that several tests of the atlas use."""

import pandas as pd

from utils import atlas

QUICK = atlas.Settings(seq_len=20, batch=2)


def settings_table(models=("m",), **varying):
    """Two heads of each model, scored once for every value of one setting; the value is .1, .2, … by setting."""
    ((name, values),) = varying.items()
    standard = {"seed": 0, "seq_len": 50, "batch": 4, "bos": True}
    return pd.DataFrame(
        [
            {"model": model, "layer": 0, "head": head, "score": score, "value": 0.1 * (1 + i)}
            | standard
            | {name: value}
            for model in models
            for i, value in enumerate(values)
            for head in (0, 1)
            for score in atlas.SCORES
        ]
    )
