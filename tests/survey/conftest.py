"""Models and a survey of them, for the tests of the survey."""

import functools

import pytest
from transformers import PreTrainedTokenizerFast

from tests.survey.cases import HERE, QUICK, TEMPLATE
from utils import dialect, tiny_models
from utils.dialect import survey
from utils.models import load_model
from utils.tiny_models import save_tiny_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Three tiny models that know the 37 traits; the second has a chat template, which has braces in it."""
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "WORDS", f"{tiny_models.WORDS} {' '.join(dialect.favorability())} traits? says: is:")
        made = [
            str(save_tiny_model(root / f"{family}-{seed}", family, seed=seed))
            for family, seed in (("gpt2", 0), ("llama", 0), ("llama", 1))
        ]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made[1])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(made[1])
    return made


@pytest.fixture(scope="session")
def alone(folders, once, tmp_path_factory):
    """The survey of the three, made in this process."""
    folder = tmp_path_factory.mktemp("alone")
    report = survey.make_survey(folders, folder, QUICK, HERE, measure=once)
    assert report.done == folders and not report.failed
    return survey.read_survey(folder)


@pytest.fixture(scope="session")
def once():
    """Measures every model once under each settings, for tests of what becomes of the rows in files."""
    return functools.cache(survey.survey_model)


@pytest.fixture(scope="session")
def chatty(folders):
    return load_model(folders[1], device="cpu")
