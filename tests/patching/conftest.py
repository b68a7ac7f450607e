"""Every test of the engine is quiet, on one thread, and sees no run of another."""

from __future__ import annotations

import pytest
from transformer_lens import patching as builtin

from utils.patching import resumable
from utils.tiny_models import one_thread


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(builtin, "tqdm", lambda items: items)
    monkeypatch.setattr(resumable, "_last", [])  # no run of another test


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_all():
    with one_thread():
        yield
