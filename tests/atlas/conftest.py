"""Models and an atlas of them, for the tests of the atlas."""

import functools

import pytest

from tests.atlas.cases import QUICK
from utils import atlas
from utils.tiny_models import save_tiny_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Four tiny models as folders, the first two of other families than the last two seeds."""
    root = tmp_path_factory.mktemp("models")
    made = [("gpt2", 0), ("llama", 0), ("gpt2", 1), ("llama", 1)]
    return [str(save_tiny_model(root / f"{family}-{seed}", family, seed=seed)) for family, seed in made]


@pytest.fixture(scope="session")
def alone(folders, once, tmp_path_factory):
    """The atlas of the four, made in this process."""
    folder = tmp_path_factory.mktemp("alone")
    report = atlas.make_atlas(folders, folder, QUICK, workers=0, score=once)
    assert report.done == folders and not report.failed
    return atlas.read_atlas(folder)


@pytest.fixture(scope="session")
def once():
    """Scores every model once, for tests of what becomes of the scores in files."""
    return functools.cache(atlas.score_model)
