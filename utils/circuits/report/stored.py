"""Results of the steps of a report, in a folder beside it: a run that was cut goes on, and nothing of another run gets in.

Each step is one JSON file, written whole or not at all, below a folder whose name is a digest of what the results depend
on: the bytes of the CSV, the model's weights and settings, the report's settings, and the version of this code. A step's
result is read back from its file before it is used, so that a run that goes on and one that was never cut are the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

VERSION = 2  # of what the steps compute: a change makes old results invalid
STRIDE = 9973  # every so many weights are looked at


@dataclass(frozen=True)
class ReportSettings:
    """What a report computes. All of it is in the digest of its results.

    pairs: on how many pairs the slow steps look for parts (half of the aligned ones at most). test_pairs: on how many others
    the circuit is tested. n_random: random circuits of each kind. threshold: the share of the difference between the runs
    that a path must carry for its sender to be in the circuit. most: senders that one step may add. anyway: go on where the
    model cannot do the task. seed: of bootstraps and random circuits.
    """

    pairs: int = 12
    test_pairs: int = 24
    n_random: int = 20
    threshold: float = 0.02
    most: int = 12
    anyway: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"pairs": 4, "test_pairs": 4, "n_random": 19, "most": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)}: at least {low} is needed")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold={self.threshold} is not between 0 and 1; 0.02 is 2 % of the difference")


def weights_digest(model: TransformerBridge) -> str:
    """A digest of the model's sizes and of some of its weights: two models of one name are told apart."""
    found = hashlib.sha256(repr((model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model, model.cfg.d_vocab)).encode())
    for name, weights in sorted(model.original_model.state_dict().items()):
        some = weights.detach().flatten()[::STRIDE].to("cpu", torch.float32)
        found.update(name.encode() + some.numpy().tobytes())
    return found.hexdigest()


def settings_digest(data: bytes, model: TransformerBridge, settings: ReportSettings) -> str:
    """Names the results of this CSV, with this model and these settings."""
    said = hashlib.sha256(data).hexdigest()
    parts = [str(VERSION), said, model.cfg.model_name, weights_digest(model), repr(asdict(settings))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def steps_folder(out: str | Path) -> Path:
    """Where the results of a report's steps are kept: report.html has report.steps beside it."""
    return Path(out).with_suffix(".steps")


def stored_step(folder: Path, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of a step from its file in the folder of their digest; if there is none that is whole, what `compute`
    returns, once it is stored."""
    file = folder / f"{name}.json"
    with contextlib.suppress(OSError, ValueError):
        return json.loads(file.read_text(encoding="utf-8"))
    write_text(file, json.dumps(as_plain(compute())))
    return json.loads(file.read_text(encoding="utf-8"))


def as_plain(value: Any) -> Any:
    """Tensors and tuples as lists: what JSON can hold. Floats are rounded to six significant digits, nan is None."""
    if isinstance(value, torch.Tensor) or hasattr(value, "tolist"):
        return as_plain(value.tolist())
    if isinstance(value, dict):
        return {str(key): as_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if value == value else None
    return value


def write_text(path: Path, text: str) -> None:
    """Whole or not at all: written beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)
