"""Fixtures that more than one test module uses."""

import pytest

from utils.models import DEFAULT_EMBEDDED, load_model
from utils.tiny_models import tiny_model


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    """Both tiny models, one after the other."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def smollm2():
    """The embedded model: real weights."""
    return load_model(DEFAULT_EMBEDDED)
