"""Frames, pairs and traits that nothing can be measured with: each has its own error, in every function that takes them."""

import re

import pytest
import torch

from utils import dialect
from utils.dialect import DialectError, Pair
from utils.tiny_models import tiny_model

PAIR = Pair("he be working", "he is working", "working")
U, F = ["lazy", "rude"], ["kind", "honest"]
BAD_FRAMES = [
    (["The person is"], "'The person is' has no slot"),
    (["{} says {}"], "'{} says {}' has 2 slots"),
    (["{name} says"], "a name, a number or a format"),
    (["{0} says"], "a name, a number or a format"),
    (["{:>10} says"], "a name, a number or a format"),
    (["{!r} says"], "a name, a number or a format"),
    (["{ } says"], "a name, a number or a format"),
    (["{.aae} says"], "a name, a number or a format"),
    (["He says {"], "braces of the frame 'He says {'"),
    (["He says }{}"], "braces of the frame 'He says }{}'"),
    (["He says {{}}"], "no slot"),
    (["{}", ""], "'' has no slot"),
    (["{}", None], "None is NoneType"),
    (["{}", 3], "3 is int"),
    ("He says {}", "one string, 'He says {}'"),
    ([], "there are no frames"),
    (None, "None, not a list"),
    (3, "3, not a list"),
]
BAD_PAIRS = [
    ([], "there are no pairs"),
    (PAIR, "one Pair"),
    ("he be", "one string"),
    (None, "None, not a list"),
    ([Pair("", "x")], "the AAE side of Pair.* is empty"),
    ([PAIR, Pair("x", " \n")], "the SAE side of Pair.* is empty"),
    ([Pair(None, "x")], "the AAE side of Pair.* is None"),
    ([Pair("x", 3)], "the SAE side of Pair.* is 3"),
    ([("he be", "he is")], r"\('he be', 'he is'\) is not a pair"),
    (["he be"], "'he be' is not a pair"),
    ([None], "None is not a pair"),
    ({"done": [PAIR]}, "'done' is not a pair"),
]
BAD_TRAITS = [
    ([], F, "no unfavorable traits"),
    (U, [], "no favorable traits"),
    ("lazy", F, "unfavorable traits are one string, 'lazy'"),
    (U, "kind", "favorable traits are one string, 'kind'"),
    (["lazy", "kind"], F, "'kind' is in both sets"),
    (["lazy", "lazy"], F, "'lazy' is listed 2 times"),
    (U, ["kind", ""], "'' among the favorable traits"),
    (U, ["kind", None], "None among the favorable traits"),
    (U, 3, "3, not a list"),
]


@pytest.fixture(scope="module")
def gpt2():
    return tiny_model("gpt2")


@pytest.mark.parametrize(("frames", "message"), BAD_FRAMES)
def test_frames_that_cannot_be_used(gpt2, frames, message):
    message = message if message.startswith("None, not") else re.escape(message)
    for use in (
        lambda: dialect.check_frames(frames),
        lambda: dialect.trait_gaps(gpt2, [PAIR], frames, U, F, progress=False),
        lambda: dialect.guise_logits(gpt2, [PAIR], frames, U, progress=False),
        lambda: dialect.dataset_rows(gpt2, ["done"], frames, 1, progress=False),
    ):
        with pytest.raises(DialectError, match=message):
            use()


@pytest.mark.parametrize("frame", [frames[-1] for frames, _ in BAD_FRAMES if isinstance(frames, list) and frames])
def test_one_frame_that_cannot_be_used(gpt2, frame):
    with pytest.raises(DialectError, match=re.escape(repr(frame))):
        dialect.fill(frame, "he be")
    with pytest.raises(DialectError, match=re.escape(repr(frame))):
        dialect.aligned_pairs(gpt2, [PAIR], frame)


def test_a_guise_goes_into_a_frame_letter_by_letter(gpt2):
    guises = ["he be {working}", "{}", "{0} {{x}}", ' he said "hi" \n', "", "100% {"]
    assert [dialect.fill("He says: {} He is", guise) for guise in guises] == [
        f"He says: {guise} He is" for guise in guises
    ]
    assert dialect.fill("{{a}} {} {{", "x") == "{a} x {"
    with pytest.raises(DialectError, match="None is NoneType"):
        dialect.fill("{}", None)
    gaps = dialect.trait_gaps(
        gpt2, [Pair("he {be} there", "he {is} there")], iter(["He says {}"]), U, F, progress=False
    )
    assert gaps.shape == (1, 1) and torch.isfinite(gaps).all()


def test_every_frame_of_the_course_can_be_used():
    for kind in ("paper", "own", "occupation", "guilt", "penalty"):
        assert dialect.check_frames(dialect.frames(kind)) == dialect.frames(kind)


@pytest.mark.parametrize(("pairs", "message"), BAD_PAIRS)
def test_pairs_that_cannot_be_used(gpt2, pairs, message):
    for use in (
        lambda: dialect.check_pairs(pairs),
        lambda: dialect.trait_gaps(gpt2, pairs, ["{} is"], U, F, progress=False),
        lambda: dialect.guise_logits(gpt2, pairs, ["{} is"], U, progress=False),
        lambda: dialect.aligned_pairs(gpt2, pairs),
    ):
        with pytest.raises(DialectError, match=message):
            use()


@pytest.mark.parametrize(("unfavorable", "favorable", "message"), BAD_TRAITS)
def test_traits_that_cannot_be_used(gpt2, unfavorable, favorable, message):
    for use in (
        lambda: dialect.check_traits(unfavorable, favorable),
        lambda: dialect.trait_gaps(gpt2, [PAIR], ["{} is"], unfavorable, favorable, progress=False),
        lambda: dialect.preference(torch.randn(2, 4), [*U, *F], unfavorable, favorable),
        lambda: dialect.gap_direction(gpt2, unfavorable, favorable),
    ):
        with pytest.raises(DialectError, match=message):
            use()


def test_traits_beside_the_attributes(gpt2):
    with pytest.raises(DialectError, match="'loud' is not among the attributes"):
        dialect.preference(torch.randn(2, 4), [*U, *F], ["loud"], F)
    with pytest.raises(DialectError, match="5 values and 4 attributes"):
        dialect.preference(torch.randn(2, 5), [*U, *F], U, F)
    for attributes, message in (("lazy", "one string"), ([], "no attributes"), ([3], "3 among")):
        with pytest.raises(DialectError, match=message):
            dialect.attribute_tokens(gpt2, attributes)
