"""Pairs, experiments and plain runs that the tests of path patching use."""

from functools import cache

from transformer_lens import patching as built_in

from utils.experiment import run_experiment
from utils.prompts import make_pairs
from utils.tiny_models import tiny_model

# Five prompts, none beside its mirror; corruptions of three kinds, so that runs differ at other positions in each.
FORMS = (
    "When {} and {} went to the shops, {} gave the bag to",
    "When {} and {} went to the park, {} gave the ball to",
    "When {} and {} went to the shops, {} gave an apple to",
    "After {} and {} went to the park, {} gave a drink to",
    "While {} and {} had an apple at the office, {} gave it to",
)
NAMES = [
    ("John Mary John", "John Mary Mary"),
    ("Tom James Tom", "Amy James Tom"),
    ("Dan Sid Sid", "Dan Sid Bob"),
    ("Martin Amy Amy", "Jane Luke Ruth"),
    ("Kate Anna Anna", "Kate Anna Kate"),
]
PROMPTS = [tuple(form.format(*names.split()) for names in both) for form, both in zip(FORMS, NAMES, strict=True)]
ANSWERS = [(" Mary", " John"), (" James", " Tom"), (" Dan", " Sid"), (" Martin", " Amy"), (" Kate", " Anna")]
TOLERANCE = 5e-5  # on a scale that divides by the small logit differences of random models
FOUR = slice(0, 4)  # prompts of one length


def setting(family, rows=FOUR):
    model = tiny_model(family)
    clean, corrupted = zip(*PROMPTS[rows], strict=True)
    return model, make_pairs(model, clean, corrupted, ANSWERS[rows], aligned=rows == FOUR)


@cache
def experiment_of(family, n=4):
    """Both runs of the first n prompts, made once: no test changes them."""
    return run_experiment(*setting(family, slice(0, n)))


def given_of(experiment):
    """Denoising: the corrupted run receives, the clean one lends."""
    return (experiment.model, experiment.pairs.corrupted_tokens, experiment.clean_cache, experiment.denoising_metric)


RECEIVERS = [
    ("logits", None),
    ([(1, 3)], "q"),
    ([(2, 1)], "k"),
    ([(2, 0), (2, 3)], "v"),
    ([(1, 0), (2, 2)], "q"),
    ([(1, 1), (1, 2), (2, 0)], "v"),
]


def direct_path(experiment, sender, component):
    """The library's own edges from one head, [layer, head] of the receivers; it has no grouped keys and values."""
    given = experiment.pairs.corrupted_tokens, experiment.clean_cache, experiment.corrupted_cache
    return built_in.get_act_patch_direct_path(
        experiment.model, *given, experiment.denoising_metric, *sender, component, verbose=False
    )
