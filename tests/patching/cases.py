"""Runs on tiny models, and the sweeps of the course and of the library by their names."""

from __future__ import annotations

import torch
from transformer_lens import patching as builtin

from utils import patching
from utils.tiny_models import tiny_model

FAMILIES = ("gpt2", "llama")
SINGLE = [name for name, sweeps in patching.SWEEPS.items() if len(sweeps) == 1]
N_WORDS = 300


def ours(name: str, *args, **kwargs):
    return getattr(patching, f"get_act_patch_{name}")(*args, progress=False, **kwargs)


def theirs(name: str, *args, **kwargs):
    return getattr(builtin, f"get_act_patch_{name}")(*args, **kwargs)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return a.shape == b.shape and (a - b).abs().max().item() <= tolerance


class Case:
    """Clean and corrupted random prompts on a tiny model, and a metric per prompt."""

    def __init__(self, family="gpt2", n_layers=3, seed=0, batch=3, n_pos=7, first=3, mask=None, also=None):
        self.model = tiny_model(family, n_layers, seed)
        g = torch.Generator().manual_seed(seed)
        self.corrupted = torch.randint(1, N_WORDS, (batch, n_pos), generator=g)
        self.clean = self.corrupted.clone()
        for pos in {first, *([also] if also is not None else [])}:
            self.clean[:, pos] = 1 + (self.corrupted[:, pos] + 11) % (N_WORDS - 1)
        self.mask = mask
        self.cache = self.model.run_with_cache(self.clean, attention_mask=mask)[1]
        self.ids = torch.randint(0, N_WORDS, (2, batch), generator=g)

    def per_prompt(self, logits):
        at_end = logits[:, -1]
        rows = torch.arange(len(at_end))
        return at_end[rows, self.ids[0]] - at_end[rows, self.ids[1]]

    def metric(self, logits):
        return self.per_prompt(logits).mean()

    @property
    def args(self):
        return self.model, self.corrupted, self.cache, self.metric
