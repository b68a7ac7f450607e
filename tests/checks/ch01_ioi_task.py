"""Checks of chapter 01."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.checks.calling import call, with_a_gradient
from tests.checks.comparing import require_equal
from tests.checks.core import CheckFailed, both_models, exercise, require

TEMPLATES = (
    "When Kate and Paul met at noon,{S} offered a seat to",
    "After lunch Ruth saw Adam, and{S} said hello to",
    "Then Emma met Jack and Kate there;{S} wrote a letter to",
)
NAMES = ((" Kate", " Paul"), (" Ruth", " Adam"), (" Jack", " Emma"))  # some not as in the text, or the alphabet
ANSWERS = [(" Mary", " John"), (" John", " Mary"), (" Tom", " James"), (" Anna", " Mary"), (" Bob", " Sid")]
SEVERAL_TOKENS = (  # at any place, and all of the same number, so that a table of them is not ragged
    [(" Mary", " Marianne")],
    [(" Marianne", " Mary")],
    [(" Mary", " John"), (" John", " Marianne")],
    [(" Marianne", " Marianna")],
)


@exercise(
    "01",
    look="section 2: prompt 2i fills {S} with names[i][1], so that names[i][0] is the answer",
    takes="templates names",
)
def check_build_prompts(learner: Callable) -> str:
    prompts, answers = _two_lists(call(learner, list(TEMPLATES), list(NAMES)))
    want_prompts, want_answers = [], []
    for template, (first, second) in zip(TEMPLATES, NAMES, strict=True):
        for correct, incorrect in ((first, second), (second, first)):
            want_prompts.append(template.replace("{S}", incorrect))
            want_answers.append((correct, incorrect))
    require(
        len(prompts) == len(answers) == len(want_prompts),
        f"the number of prompts and answers: {len(prompts)} and {len(answers)}, expected {len(want_prompts)} of each",
        "every template is used twice: once with each name in the slot",
    )
    for i, (got, want) in enumerate(zip(prompts, want_prompts, strict=True)):
        require(got == want, f"prompt {i}: {got!r}, expected {want!r}", _prompt_mistake(prompts, want_prompts))
    for i, (got, want) in enumerate(zip(answers, want_answers, strict=True)):
        require(
            got == want,
            f"the answers to prompt {i}: {got!r}, expected {want!r}",
            _answer_mistake(answers, want_answers),
        )
    return f"{len(want_prompts)} prompts of {len(TEMPLATES)} templates and their answers, in the published order"


def _two_lists(result: Any) -> tuple[list[str], list[tuple]]:
    """Prompts and answers; CheckFailed for anything that is not two lists, of strings and of pairs."""
    require(result is not None, "what you return: None", "the function does not return anything")
    ok = isinstance(result, Sequence) and len(result) == 2 and all(isinstance(part, (list, tuple)) for part in result)
    require(ok, f"what you return: {type(result).__name__}", "return two lists: prompts, answers")
    prompts, answers = result
    swapped = all(isinstance(item, (list, tuple)) for item in prompts) and all(
        isinstance(item, str) for item in answers
    )
    require(not swapped, "what you return: answers first", "the prompts come first, then the answers")
    for prompt in prompts:
        require(isinstance(prompt, str), f"a prompt: {prompt!r}", "a prompt is one string")
    for pair in answers:
        ok = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(word, str) for word in pair)
        require(
            ok, f"the answers to a prompt: {pair!r}", "the answers to a prompt are two strings, (correct, incorrect)"
        )
    return list(prompts), [tuple(pair) for pair in answers]


def _prompt_mistake(got: list[str], want: list[str]) -> str:
    if any("{S}" in prompt for prompt in got):
        return "the slot {S} is still there: str.replace returns a new string"
    if [p.replace("  ", " ") for p in got] == want:
        return "two spaces: the names already begin with one"
    if [sorted(got[i : i + 2]) for i in range(0, len(got), 2)] == [
        sorted(want[i : i + 2]) for i in range(0, len(want), 2)
    ]:
        return "the order within a pair is reversed: names[i][1] is in the slot of prompt 2i, whichever stands first"
    if sorted(got) == sorted(want):
        return "the order: both prompts of a template stand next to each other, template by template"
    if any(p.count(" ") < w.count(" ") for p, w in zip(got, want, strict=True)):
        return "a space is lost: names carry their leading space into the slot; do not strip them"
    return "prompt 2i fills the slot with names[i][1], prompt 2i + 1 with names[i][0]"


def _answer_mistake(got: list[Any], want: list[Any]) -> str:
    if got == [pair[::-1] for pair in want]:
        return "the answers are swapped: the correct one is the name that is NOT in the slot; it comes first"
    if got == [tuple(name.strip() for name in pair) for pair in want]:
        return "the leading space is missing: ' Mary' and 'Mary' are different tokens"
    if len(set(got[:2])) == 1:
        return "both prompts of a template have the same answer: it must turn round with the name in the slot"
    return "each pair is (correct, incorrect), and the incorrect one is the name in the slot"


@exercise(
    "01", look="section 2: model.to_single_token; model.to_tokens adds BOS unless told not to", takes="model answers"
)
def check_answer_token_ids(learner: Callable) -> str:
    for model in both_models():
        want = torch.tensor([[model.to_single_token(name) for name in pair] for pair in ANSWERS])
        names = [name for pair in ANSWERS for name in pair]
        held = require_equal(
            call(learner, model, list(ANSWERS)),
            want,
            f"the ids of the answers on {model.cfg.model_name}",
            axes="prompt answer",
            mistakes={
                "you took the first of [BOS, name]: pass prepend_bos=False": lambda: torch.full_like(
                    want, model.tokenizer.bos_token_id
                ),
                "the two answers are swapped: correct first": lambda: want.flip(-1),
                "the leading space is lost: ' Mary' and 'Mary' are different tokens": lambda: torch.tensor(
                    [[model.to_single_token(name.strip()) for name in pair] for pair in ANSWERS]
                ),
                "every row is the first prompt's answers": lambda: want[:1].expand_as(want),
                "BOS is counted: there is an extra id per answer; pass prepend_bos=False": lambda: model.to_tokens(
                    names
                ).reshape(len(ANSWERS), 2, 2),
            },
        )
        for answers in SEVERAL_TOKENS:
            _require_refusal(learner, model, answers)
    return f"ids as from model.to_single_token, and an answer of several tokens is refused wherever it stands ({held})"


def _require_refusal(learner: Callable, model: Any, answers: list) -> None:
    try:
        got = call(learner, model, answers)
    except CheckFailed as error:
        require("not written yet" not in error.compared, error.compared, error.likely)
        return
    raise CheckFailed(
        f"an answer of several tokens, in {answers} on {model.cfg.model_name}: you return {got} and raise nothing",
        "a multi-token answer is accepted silently, so the logit you read would be that of its first piece; raise an error",
    )


def _logits() -> tuple[Tensor, Tensor]:
    """Logits of five prompts and their answers: differences of both signs, and no two axes of one size."""
    logits = 3 * torch.randn(5, 4, 11, generator=torch.Generator().manual_seed(3))
    answers = torch.tensor([[1, 4], [9, 2], [0, 10], [7, 8], [4, 1]])
    signs = (logits[torch.arange(5), -1, answers[:, 0]] - logits[torch.arange(5), -1, answers[:, 1]]).sign().tolist()
    assert {-1.0, 1.0} <= set(signs), "a check that cannot see a lost sign"
    return logits, answers


@exercise(
    "01",
    points=2,
    look="section 3: logits[:, -1] is [batch, d_vocab]; gather picks one column per row",
    takes="logits answer_tokens per_prompt",
)
def check_logit_diff(learner: Callable) -> str:
    logits, answers = _logits()
    mistakes = _difference_mistakes(logits, answers)
    want = _differences(logits[:, -1], answers)
    require_equal(
        call(learner, logits, answers, per_prompt=True),
        want,
        "the logit difference of each prompt (per_prompt=True)",
        axes="prompt",
        mistakes={"you averaged although per_prompt=True: return one value per prompt": want.mean, **mistakes},
        is_tensor=True,
    )
    held = require_equal(
        call(learner, logits, answers),
        want.mean(),
        "the mean logit difference",
        mistakes={
            "without per_prompt, return the mean over prompts": lambda: want,
            "you summed over prompts: average them": want.sum,
            "the largest prompt's in place of the mean": want.max,
            "the median over prompts: take the mean": want.median,
            "you averaged absolute values: a prompt that goes wrong counts against the others": want.abs().mean,
            **{message: (lambda value=value: value().mean()) for message, value in mistakes.items()},
        },
        is_tensor=True,
    )
    _require_one_prompt(learner, logits, answers, per_prompt=True)
    _require_gradient(learner, logits, answers)
    return f"each of five prompts, their mean, and its gradient agree ({held})"


def _require_one_prompt(learner: Callable, logits: Tensor, answers: Tensor, **more) -> None:
    """A batch of one prompt has one value, in a batch of one."""
    want = _differences(logits[3:4, -1], answers[3:4])
    require_equal(
        call(learner, logits[3:4], answers[3:4], **more),
        want,
        "the difference of a batch of one prompt",
        axes="prompt",
        mistakes={
            "squeeze() takes away the batch as well, if there is one prompt: say which axis, or index it": lambda: want[
                0
            ],
        },
    )


def _differences(at_end: Tensor, answers: Tensor) -> Tensor:
    rows = torch.arange(len(answers))
    return at_end[rows, answers[:, 0]] - at_end[rows, answers[:, 1]]


def _difference_mistakes(logits: Tensor, answers: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What goes wrong in a difference at the last position, one value per prompt."""
    end, rows = logits[:, -1], torch.arange(len(answers))
    return {
        "you read the first position: the prediction stands at the last one, index -1": lambda: _differences(
            logits[:, 0], answers
        ),
        "you read position 1: the last one is index -1": lambda: _differences(logits[:, 1], answers),
        "you read the position before the last: the prediction stands at index -1": lambda: _differences(
            logits[:, -2], answers
        ),
        "you took probabilities: no softmax; the difference of raw logits is wanted": lambda: _differences(
            end.softmax(-1), answers
        ),
        "the sign: correct minus incorrect": lambda: -_differences(end, answers),
        "absolute values: a prompt whose answer is wrong has a negative difference": lambda: _differences(
            end, answers
        ).abs(),
        "you averaged over positions: use the last one only": lambda: _differences(logits.mean(1), answers),
        "every prompt is read with the first prompt's answers": lambda: end[:, answers[0, 0]] - end[:, answers[0, 1]],
        "this is the correct answer's logit: subtract the incorrect one's": lambda: end[rows, answers[:, 0]],
        "this is the incorrect answer's logit: subtract it from the correct one's": lambda: end[rows, answers[:, 1]],
        "you added the two: correct minus incorrect": lambda: end[rows, answers[:, 0]] + end[rows, answers[:, 1]],
        "every prompt is read with the answers of all prompts: pair rows and columns, or use gather": lambda: (
            end[:, answers[:, 0]] - end[:, answers[:, 1]]
        ).mean(1),
    }


def _require_gradient(learner: Callable, logits: Tensor, answers: Tensor) -> None:
    """The mean's gradient: 1/n at each correct answer's last logit, -1/n at the incorrect one's, else 0."""
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        mean = with_a_gradient(learner, leaf, answers)
        ok = isinstance(mean, Tensor) and mean.requires_grad
        require(
            ok, "the gradient of the mean: it has none", "keep it a tensor, without .item(), .detach() or no_grad()"
        )
        (gradient,) = torch.autograd.grad(mean, leaf)
    want, rows, share = torch.zeros_like(logits), torch.arange(len(answers)), 1 / len(answers)
    want[rows, -1, answers[:, 0]], want[rows, -1, answers[:, 1]] = share, -share
    require_equal(gradient, want, "the gradient of the mean", axes="prompt position token")


@exercise(
    "01",
    look="section 3: log-probabilities are logits minus one number per position, which cancels",
    takes="logits answer_tokens",
)
def check_logprob_diff(learner: Callable) -> str:
    logits, answers = _logits()
    end, rows = logits[:, -1], torch.arange(len(answers))
    log_probs, probs = end.log_softmax(-1), end.softmax(-1)
    want = _differences(log_probs, answers)
    held = require_equal(
        call(learner, logits, answers),
        want,
        "log p(correct) − log p(incorrect) of each prompt",
        axes="prompt",
        mistakes={
            "you subtracted probabilities: take logarithms first (log_softmax)": lambda: _differences(probs, answers),
            "you took the ratio of probabilities: its logarithm is wanted": lambda: (
                probs[rows, answers[:, 0]] / probs[rows, answers[:, 1]]
            ),
            "log_softmax over the wrong axis: the vocabulary is the last one": lambda: _differences(
                end.log_softmax(0), answers
            ),
            "log_softmax over the positions: the vocabulary is the last axis": lambda: _differences(
                logits.log_softmax(1)[:, -1], answers
            ),
            "you averaged over prompts: return one value per prompt": want.mean,
            "logarithms to the base 10: log_softmax takes natural ones": lambda: _differences(probs.log10(), answers),
            "logarithms to the base 2: log_softmax takes natural ones": lambda: _differences(probs.log2(), answers),
            "these are log-odds: the logarithm of p alone, without 1 - p": lambda: _differences(probs.logit(), answers),
            "this is the correct answer's log-probability: subtract the incorrect one's": lambda: log_probs[
                rows, answers[:, 0]
            ],
            "this is the incorrect answer's log-probability: subtract it from the correct one's": lambda: log_probs[
                rows, answers[:, 1]
            ],
            "you added the two: correct minus incorrect": lambda: (
                log_probs[rows, answers[:, 0]] + log_probs[rows, answers[:, 1]]
            ),
            **_difference_mistakes(logits, answers),
        },
    )
    _require_one_prompt(learner, logits, answers)
    return f"equal to the logit difference of five prompts, as it must be ({held})"
