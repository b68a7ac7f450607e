"""Circuits on both tiny models."""

import pytest

from utils.circuits import evaluate
from utils.ioi import ioi_dataset
from utils.tiny_models import tiny_model


@pytest.fixture(scope="session")
def circuit_tests():
    """One for each fixture, made once."""
    return {family: evaluate.circuit_test(ioi_dataset(tiny_model(family), 48), 24) for family in ("gpt2", "llama")}
