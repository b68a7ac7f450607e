"""Both tiny models, with two runs each."""

import pytest

from tests.paths.cases import experiment_of
from utils.tiny_models import tiny_model


@pytest.fixture(params=["gpt2", "llama"])
def case(request):
    return tiny_model(request.param), experiment_of(request.param)
