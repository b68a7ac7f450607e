"""The checks: solutions and unusual right answers pass, every listed mistake is named, and what they say helps."""

import functools
import inspect
import re

import pytest
import torch

from tests.checks import REGISTRY, CheckFailed
from tests.checks.comparing import BROKEN, all_mistakes, require_equal
from tests.checks.core import STUB
from tests.right import RIGHT
from tests.solutions import SOLUTIONS, solution_functions
from tests.wrong import WRONG

MISTAKES = [(name, fragment) for name, wrong in WRONG.items() for fragment in wrong]


@pytest.mark.parametrize("name", REGISTRY)
def test_solution_passes(name, capsys):
    """On the way, every mistake that the check could name is computed on every input: it is wrong on one of them at least."""
    solution = solution_functions(REGISTRY[name].chapter)[name]
    BROKEN.clear()
    with all_mistakes() as caught:
        REGISTRY[name].check(solution)
    assert BROKEN == {}, "named mistakes that cannot be computed"
    assert [message for message, noticed in caught.items() if not noticed] == [], "named mistakes that would pass"
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 and printed[0].startswith(f"✓ {name}: ")


@pytest.mark.parametrize(("name", "fragment"), MISTAKES)
def test_mistake_is_named(name, fragment, capsys):
    with pytest.raises(CheckFailed) as caught:
        REGISTRY[name].check(WRONG[name][fragment])
    assert fragment in str(caught.value)
    assert caught.value.exercise == name and caught.value.look
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, right in RIGHT.items() for what in right])
def test_unusual_right_answers_pass(name, what, capsys):
    REGISTRY[name].check(RIGHT[name][what])
    assert capsys.readouterr().out.startswith(f"✓ {name}: ")


def test_every_exercise_has_unusual_right_answers():
    assert set(RIGHT) == set(REGISTRY)
    assert {name for name, right in RIGHT.items() if len(right) < 2} == set(), "each has at least two"


STRANGE = [
    None,
    "text",
    0,
    [],
    {},
    [[1], [2, 3]],
    (None, None),
    object(),
    iter([1]),
    torch.zeros(0),
    torch.zeros(7, 7, 7),
    torch.zeros(2, 3),
    0.123,
]


@pytest.mark.parametrize("name", REGISTRY)
def test_no_check_crashes_whatever_comes_back(name):
    BROKEN.clear()
    for returned in STRANGE:
        with pytest.raises(CheckFailed) as caught:
            REGISTRY[name].check(lambda *_, returned=returned, **__: returned)
        assert caught.value.crashed is None, returned
    assert BROKEN == {}, "named mistakes that cannot be computed"


@pytest.mark.parametrize("name", REGISTRY)
def test_arguments_are_those_of_the_solution(name):
    """What a check passes by place reaches the learner under the names of the signature that the notebook gives."""
    takes = REGISTRY[name].takes
    solution = solution_functions(REGISTRY[name].chapter)[name]
    names = tuple(inspect.signature(solution).parameters)
    assert takes == names or not takes  # a hook function is called by the library, by place
    if takes:
        with pytest.raises(CheckFailed, match="by their names"):
            REGISTRY[name].check(lambda a, b=0, c=0, d=0, e=0, f=0: 0)


def test_wrong_implementations_belong_to_exercises():
    assert set(WRONG) == set(REGISTRY)
    assert {name for name, wrong in WRONG.items() if len(wrong) < 3} == set(), "each has at least three"


@pytest.mark.parametrize("source", sorted(SOLUTIONS.glob("[0-9]*.py")), ids=lambda path: path.stem)
def test_every_exercise_of_a_chapter_is_checked_in_it(source):
    text = source.read_text(encoding="utf-8")
    called = set(re.findall(r"^check_(\w+)\(\1\)$", text, re.MULTILINE))
    assert called == {name for name, exercise in REGISTRY.items() if exercise.chapter == source.stem[:2]}
    assert set(re.findall(r"^check_(\w+)\(", text, re.MULTILINE)) == called


@pytest.mark.parametrize("name", REGISTRY)
def test_where_to_look_is_the_section_where_the_check_stands(name):
    (source,) = SOLUTIONS.glob(f"{REGISTRY[name].chapter}_*.py")
    before = source.read_text(encoding="utf-8").split(f"\ncheck_{name}({name})")[0]
    section = re.findall(r"^# ## (\d+) ·", before, re.MULTILINE)[-1]
    assert REGISTRY[name].look.startswith(f"section {section}: ")


def test_failure_has_no_traceback_for_the_learner():
    with pytest.raises(CheckFailed) as caught:
        REGISTRY["zero_head"].check(lambda z, hook, head_index: None)
    shown = "\n".join(caught.value._render_traceback_())
    assert shown.splitlines()[0] == "✗ zero_head: not yet"
    assert "core.py" not in shown and caught.value.__suppress_context__ and caught.value.__cause__ is None


def test_exception_in_the_learners_function_names_their_line():
    def zero_head(z, hook, head_index):
        wrong_index = z[:, :, 99]
        return wrong_index

    with pytest.raises(
        CheckFailed, match=r"raised IndexError(.|\n)*at line 2 of zero_head: wrong_index = z\[:, :, 99\]"
    ):
        REGISTRY["zero_head"].check(zero_head)


def test_another_exercise_that_is_not_written_yet_is_named():
    def zero_head(z, hook, head_index):
        raise NotImplementedError(STUB)

    def logits_without_head(model, tokens, layer, head_index):
        return zero_head(torch.zeros(1), None, head_index)

    with pytest.raises(CheckFailed, match=r"your function calls `zero_head`, and that exercise is not written yet"):
        REGISTRY["logits_without_head"].check(logits_without_head)


def test_a_function_that_raises_only_where_a_gradient_is_wanted_is_told_so():
    def logit_diff(logits, answer_tokens, per_prompt=False):
        found = torch.as_tensor(logits[:, -1].numpy()).gather(-1, answer_tokens)
        return found[:, 0] - found[:, 1] if per_prompt else (found[:, 0] - found[:, 1]).mean()

    with pytest.raises(CheckFailed, match="raised RuntimeError on logits that want a gradient"):
        REGISTRY["logit_diff"].check(logit_diff)


def test_an_unsolved_exercise_is_said_to_be_unsolved():
    def zero_head(z, hook, head_index):
        raise NotImplementedError

    with pytest.raises(CheckFailed, match="not written yet"):
        REGISTRY["zero_head"].check(zero_head)


@pytest.mark.parametrize(
    "slip",
    [
        lambda z, hook, head_index: z * torch.arange(z.shape[2]).softmax(-1)[:, None],
        lambda z, hook, head_index: torch.nn.Module()(z),
    ],
    ids=["softmax of integers", "a module without forward"],
)
def test_torchs_own_not_implemented_error_is_shown(slip):
    with pytest.raises(CheckFailed) as caught:
        REGISTRY["zero_head"].check(slip)
    raised = "raised (NotImplementedError|RuntimeError): "  # older versions of torch raise the latter for integers
    assert "not written yet" not in str(caught.value) and re.search(raised, str(caught.value))


# --- what a check says ------------------------------------------------------------------------------------------------


def test_decorated_and_partial_functions_pass_and_their_lines_are_found():
    solution = solution_functions("00")["zero_head"]

    @functools.wraps(solution)
    def decorated(*args, **kwargs):
        return solution(*args, **kwargs)

    for learner in (decorated, functools.partial(solution)):
        REGISTRY["zero_head"].check(learner)

    @functools.wraps(solution)
    def slips(z, hook, head_index):
        return z[99]

    with pytest.raises(CheckFailed, match=r"raised IndexError"):
        REGISTRY["zero_head"].check(functools.partial(slips))


def test_reading_the_notebooks_own_values_is_said():
    space = {"clean_z": torch.zeros(5, 15, 4, 8), "torch": torch, "N_HEADS": 4}
    exec("def zero_head(z, hook, head_index):\n    return torch.zeros_like(clean_z) + N_HEADS", space)
    with pytest.raises(CheckFailed, match="it reads the notebook's `clean_z`, not what it is given"):
        REGISTRY["zero_head"].check(space["zero_head"])


def test_what_is_not_a_function_is_refused():
    with pytest.raises(CheckFailed, match="give the check your function itself"):
        REGISTRY["zero_head"].check(torch.zeros(3))


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (None, "it is None"),
        (1.5, "shape [], expected [layer, head] = [2, 3]"),
        ("text", "a str that is not a table of numbers"),
        ([[1, 2], [3]], "a list that is not a table of numbers"),
        (torch.zeros(2, 3, dtype=torch.float16), "dtype torch.float16"),
        (torch.zeros(2, 3, dtype=torch.bool), "dtype torch.bool"),
        (torch.arange(6.0).reshape(2, 3) * 2, "2 times what it should be"),
        (torch.arange(6.0).reshape(2, 3) + 4, "off by the same 4"),
        (torch.arange(6.0).reshape(2, 3).flip(0), "order along axis 0 is turned round"),
        (torch.full((2, 3), 2.0), "every value is the same"),
        (torch.zeros(3), "shape [3], expected [layer, head] = [2, 3]"),
        (torch.zeros(3, 2), "the axes are in another order"),
        (torch.zeros(1, 2, 3), "one axis too many"),
        (torch.zeros(2, 3, dtype=torch.long), "dtype torch.int64, expected torch.float32"),
        (torch.full((2, 3), torch.nan), "L0H0 is nan or infinite"),
        (-torch.arange(6.0).reshape(2, 3), "the sign is the other way round"),
        (torch.arange(6.0).reshape(2, 3) + torch.tensor([0, 0, 1]), "2 of 6 values differ, first at L0H2"),
        (torch.arange(6.0).reshape(2, 3) + torch.tensor([0, 0, 1]), "4 of 6 values are right"),
    ],
)
def test_compare_says_what_is_off(got, expected):
    with pytest.raises(CheckFailed) as caught:
        require_equal(got, torch.arange(6.0).reshape(2, 3), "the truth", axes="layer head")
    assert expected in str(caught.value)


def test_what_a_passing_check_says_is_the_same_on_every_machine():
    """Float error differs from one processor to the next, and the stored outputs of notebooks are compared."""
    want = torch.ones(2)
    assert require_equal(want.clone(), want, "ones") == require_equal(want + 2e-5, want, "ones") == "to within 0.0001"
    assert require_equal(want, want, "ones", atol=1e-3) == "to within 0.001"
    assert require_equal(want.long(), want.long(), "ones") == "exact"


def test_one_number_is_called_a_multiple_only_of_a_whole_number():
    """Any two numbers have a ratio."""
    for got, likely in ((5 * 0.3, "5 times"), (0.3 / 4, "0.25 times"), (0.3 * 1.13, ""), (0.3 + 0.1, "")):
        with pytest.raises(CheckFailed) as caught:
            require_equal(got, 0.3, "the truth")
        assert likely in caught.value.likely and bool(likely) == bool(caught.value.likely)


def test_a_few_values_that_agree_by_chance_are_not_called_right():
    want = torch.arange(40.0).reshape(8, 5)
    got = want.flip(0).flip(1)
    got[0, 0] = want[0, 0]
    with pytest.raises(CheckFailed) as caught:
        require_equal(got, want, "the truth")
    assert caught.value.likely == ""


def test_a_mistake_that_gives_the_right_answer_is_not_reported():
    held = require_equal(torch.ones(2), torch.ones(2), "ones", mistakes={"no mistake": lambda: torch.ones(2)})
    assert held == "to within 0.0001"
