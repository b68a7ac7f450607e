"""The bench's sections on growth: time and memory against prompts, length and layers, and a dialect-sized sweep."""

from __future__ import annotations

import os

import torch
from rich.console import Console
from torch import Tensor

from tests.bench.measuring import PeakMemory, the_model, timed
from utils import patching
from utils.ioi import ioi_pairs
from utils.patching.options import DEFAULT_MEMORY
from utils.tiny_models import tiny_model


def synthetic(model, tokens: Tensor, lengths: list[int], differing: list[int], seed: int = 0):
    """Left-padded random prompts from the tokens of real ones, which differ in one position; with their mask."""
    g = torch.Generator().manual_seed(seed)
    n_pos = max(lengths)
    words = tokens[:, 1:].flatten().cpu()
    corrupted = words[torch.randint(len(words), (len(lengths), n_pos), generator=g)]
    mask = torch.zeros_like(corrupted)
    clean = corrupted.clone()
    for row, (length, at) in enumerate(zip(lengths, differing, strict=True)):
        mask[row, -length:] = 1
        corrupted[row, : n_pos - length + 1] = clean[row, : n_pos - length + 1] = tokens[0, 0]  # padding, then BOS
        clean[row, n_pos - length + at] = corrupted[row, n_pos - length + at] + 1
    device = tokens.device
    return clean.to(device), corrupted.to(device), mask.to(device)


def growth_point(model, tokens, lengths, differing, max_memory: float = DEFAULT_MEMORY) -> dict:
    clean, corrupted, mask = synthetic(model, tokens, lengths, differing)
    cache = {}
    for rows in torch.arange(len(clean)).split(32):  # the logits of every position are large: 32 prompts at a time
        part = model.run_with_cache(
            clean[rows], attention_mask=mask[rows], names_filter=lambda name: name.endswith("hook_resid_pre")
        )[1]
        for name, value in part.items():
            cache.setdefault(name, []).append(value)
    cache = {name: torch.cat(values) for name, values in cache.items()}
    with PeakMemory() as memory:
        seconds, _ = timed(
            lambda: patching.get_act_patch_resid_pre(
                model,
                corrupted,
                cache,
                lambda logits: logits[:, -1, :2].mean(),
                attention_mask=mask,
                max_memory=max_memory,
                progress=False,
            )
        )
    cached = len(clean) * clean.shape[1] * model.cfg.n_layers * 4 * (2 * model.cfg.d_model + 2 * _kv_width(model))
    return {
        "prompts": len(clean),
        "length": max(lengths),
        "layers": model.cfg.n_layers,
        "seconds": seconds,
        "peak_bytes": memory.bytes,
        "corrupted_run_bytes": cached,
        "asked_bytes": max_memory,
        "load_average": os.getloadavg()[0],
    }


def _kv_width(model) -> int:
    return (model.cfg.n_key_value_heads or model.cfg.n_heads) * model.cfg.d_head


def bench_growth(name: str, quick: bool, console: Console) -> dict[str, list[dict]]:
    """Residual sweeps; the differing token is five from the end, but for `length`, where it is the tenth."""
    model = the_model(name)
    tokens = ioi_pairs(model).clean_tokens
    grown: dict[str, list[dict]] = {"prompts": [], "length": [], "layers": []}
    for n in (8, 16, 32) if quick else (8, 16, 32, 64, 128, 256):
        grown["prompts"].append(growth_point(model, tokens, [15] * n, [10] * n))
    for n in (15, 20, 30) if quick else (15, 20, 30, 45, 60):
        grown["length"].append(growth_point(model, tokens, [n] * 8, [10] * 8))
    for n in (2, 4, 8, 16):
        tiny = tiny_model("llama", n)
        grown["layers"].append(growth_point(tiny, ioi_pairs(tiny).clean_tokens, [15] * 8, [10] * 8))
    for axis, points in grown.items():
        console.print(axis, [(p[axis], round(p["seconds"], 2), f"{p['peak_bytes'] / 1e6:.0f} MB") for p in points])
    return grown


def bench_dialect(name: str, quick: bool, console: Console) -> dict:
    """The dialect-sized sweep: 315 left-padded prompts of 14 to 22 tokens, one of which differs, 6 to 10 from the end."""
    model = the_model(name)
    n = 31 if quick else 315
    lengths = [14 + i % 9 for i in range(n)]
    point = growth_point(
        model, ioi_pairs(model).clean_tokens, lengths, [ln - 6 - i % 5 for i, ln in enumerate(lengths)]
    )
    console.print(point)
    return point
