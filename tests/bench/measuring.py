"""Seconds and memory of a call, and the models on which the bench measures."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from utils.models import load_model
from utils.patching.resumable import give_back_memory
from utils.tiny_models import tiny_model

FIXTURES = ("tiny-gpt2", "tiny-llama")


class PeakMemory:
    """The most memory in use inside a `with`, above what was in use on entry. `bytes` after it."""

    def __enter__(self) -> PeakMemory:
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        gc.collect()
        give_back_memory()  # what was freed but kept by the allocator would be used first, and would hide a peak
        self.before = self.peak = self._now()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.done.set()
        self.thread.join()
        self.bytes = (torch.cuda.max_memory_allocated() if self.cuda else self.peak) - self.before

    def _watch(self) -> None:
        while not self.done.wait(0.005):
            self.peak = max(self.peak, self._now())

    def _now(self) -> int:
        if self.cuda:
            return torch.cuda.memory_allocated()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def the_model(name: str):
    if name not in FIXTURES:
        return load_model(name)
    return tiny_model(name.removeprefix("tiny-"))
