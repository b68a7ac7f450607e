"""Every check passes its solution, names every mistake, and leaves models and inputs as they were."""

import re

import pytest
import torch

from tests.checks import REGISTRY, CheckFailed
from tests.checks.calling import call
from tests.checks.comparing import require_equal
from tests.solutions import SOLUTIONS, solution_functions
from tests.wrong import WRONG
from utils.tiny_models import tiny_model

MISTAKES = [(name, fragment) for name, wrong in WRONG.items() for fragment in wrong]


@pytest.mark.parametrize("name", REGISTRY)
def test_solution_passes(name, capsys):
    solution = solution_functions(REGISTRY[name].chapter)[name]
    REGISTRY[name].check(solution)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 and printed[0].startswith(f"✓ {name}: ")


@pytest.mark.parametrize(("name", "fragment"), MISTAKES)
def test_mistake_is_named(name, fragment, capsys):
    with pytest.raises(CheckFailed) as caught:
        REGISTRY[name].check(WRONG[name][fragment])
    assert fragment in str(caught.value)
    assert caught.value.exercise == name and caught.value.look
    assert capsys.readouterr().out == ""


def test_wrong_implementations_belong_to_exercises():
    assert set(WRONG) == set(REGISTRY)
    assert {name for name, wrong in WRONG.items() if len(wrong) < 3} == set(), "each has at least three"


@pytest.mark.parametrize("source", sorted(SOLUTIONS.glob("[0-9]*.py")), ids=lambda path: path.stem)
def test_every_exercise_of_a_chapter_is_checked_in_it(source):
    text = source.read_text(encoding="utf-8")
    called = set(re.findall(r"^check_(\w+)\(\1\)$", text, re.MULTILINE))
    assert called == {name for name, exercise in REGISTRY.items() if exercise.chapter == source.stem[:2]}
    assert set(re.findall(r"^check_(\w+)\(", text, re.MULTILINE)) == called


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
    assert "not written yet" not in str(caught.value) and "raised NotImplementedError: " in str(caught.value)


def test_call_removes_hooks_that_a_function_left():
    model = tiny_model("gpt2")
    before = model(torch.tensor([[0, 1, 2]]))

    def leaves_hook(model):
        model.add_hook("blocks.0.hook_mlp_out", lambda activation, hook: activation * 0)

    with pytest.raises(CheckFailed, match=r"leaves a hook on blocks\.0\.hook_mlp_out"):
        call(leaves_hook, model)
    assert torch.equal(model(torch.tensor([[0, 1, 2]])), before)


@pytest.mark.parametrize(
    ("got", "expected"),
    [
        (None, "it is None"),
        (1.5, "it is a float, not a tensor"),
        (torch.zeros(3), "shape [3], expected [layer, head] = [2, 3]"),
        (torch.zeros(3, 2), "the axes are in another order"),
        (torch.zeros(1, 2, 3), "one axis too many"),
        (torch.zeros(2, 3, dtype=torch.long), "dtype torch.int64, expected torch.float32"),
        (torch.full((2, 3), torch.nan), "L0H0 is nan or infinite"),
        (-torch.arange(6.0).reshape(2, 3), "the sign is the other way round"),
        (torch.arange(6.0).reshape(2, 3) + torch.tensor([0, 0, 1]), "2 of 6 values differ, first at L0H2"),
    ],
)
def test_compare_says_what_is_off(got, expected):
    with pytest.raises(CheckFailed) as caught:
        require_equal(got, torch.arange(6.0).reshape(2, 3), "the truth", axes="layer head")
    assert expected in str(caught.value)


def test_compare_says_how_well_it_agrees():
    want = torch.ones(2)
    assert require_equal(want.clone(), want, "ones") == "exact"
    assert require_equal(want + 2e-5, want, "ones") == "largest difference 2e-05"


def test_a_mistake_that_gives_the_right_answer_is_not_reported():
    assert (
        require_equal(torch.ones(2), torch.ones(2), "ones", mistakes={"no mistake": lambda: torch.ones(2)}) == "exact"
    )
