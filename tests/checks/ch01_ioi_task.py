"""Checks of chapter 01."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tests.checks.calling import call
from tests.checks.comparing import require_equal
from tests.checks.core import CheckFailed, both_models, exercise, require

TEMPLATES = ("When Kate and Paul met at noon,{S} offered a seat to", "After lunch Ruth saw Adam, and{S} said hello to")
NAMES = ((" Kate", " Paul"), (" Ruth", " Adam"))
TABLE = (
    ("When Kate and Paul met at noon, Paul offered a seat to", (" Kate", " Paul")),
    ("When Kate and Paul met at noon, Kate offered a seat to", (" Paul", " Kate")),
    ("After lunch Ruth saw Adam, and Adam said hello to", (" Ruth", " Adam")),
    ("After lunch Ruth saw Adam, and Ruth said hello to", (" Adam", " Ruth")),
)
ANSWERS = [(" Mary", " John"), (" John", " Mary"), (" Tom", " James")]


@exercise(
    "01",
    look="section 2: prompt 2i fills {S} with names[i][1], so that names[i][0] is the answer",
    takes="templates names",
)
def check_build_prompts(learner: Callable) -> str:
    result = call(learner, TEMPLATES, NAMES)
    require(result is not None, "what you return: None", "the function does not return anything")
    ok = isinstance(result, (tuple, list)) and len(result) == 2
    require(ok, f"what you return: {type(result).__name__}", "return two lists: prompts, answers")
    prompts, answers = list(result[0]), [tuple(pair) for pair in result[1]]
    want_prompts, want_answers = [row[0] for row in TABLE], [row[1] for row in TABLE]
    require(
        len(prompts) == len(answers) == len(TABLE),
        f"the number of prompts and answers: {len(prompts)} and {len(answers)}, expected {len(TABLE)} of each",
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
    return f"{len(TABLE)} prompts and their answers, in the published order"


def _prompt_mistake(got: list[str], want: list[str]) -> str:
    if any("{S}" in prompt for prompt in got):
        return "the slot {S} is still there: str.replace returns a new string"
    if [p.replace("  ", " ") for p in got] == want:
        return "two spaces: the names already begin with one"
    if got == [want[i + 1 - 2 * (i % 2)] for i in range(len(want))]:
        return "the order within a pair is turned round: names[i][1] fills the slot first"
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
    "01", look="section 3: model.to_single_token; model.to_tokens adds BOS unless told not to", takes="model answers"
)
def check_answer_token_ids(learner: Callable) -> str:
    for model in both_models():
        want = torch.tensor([[model.to_single_token(name) for name in pair] for pair in ANSWERS])
        bos = model.tokenizer.bos_token_id
        held = require_equal(
            call(learner, model, ANSWERS),
            want,
            f"the ids of the answers on {model.cfg.model_name}",
            axes="prompt answer",
            mistakes={
                "you took the first of [BOS, name]: pass prepend_bos=False": lambda: torch.full_like(want, bos),
                "the two answers are swapped: correct first": lambda: want.flip(-1),
                "the leading space is lost: ' Mary' and 'Mary' are different tokens": lambda: torch.tensor(
                    [[model.to_single_token(name.strip()) for name in pair] for pair in ANSWERS]
                ),
                "BOS is counted: there is an extra id per answer; pass prepend_bos=False":
                    lambda: model.to_tokens([name for pair in ANSWERS for name in pair]).reshape(len(ANSWERS), 2, 2),
            },
        )  # fmt: skip
        _require_refusal(learner, model)
    return f"ids as from model.to_single_token, and answers of several tokens are refused ({held})"


def _require_refusal(learner: Callable, model: Any) -> None:
    try:
        got = learner(model, [(" Mary", " Marianne")])
    except NotImplementedError:
        raise
    except Exception:
        return
    raise CheckFailed(
        f"an answer of several tokens, ' Marianne' on {model.cfg.model_name}: you return {got} and raise nothing",
        "a multi-token answer is accepted silently, so the logit you read would be that of its first piece; raise an error",
    )


def _logits() -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(3, 5, 11, generator=torch.Generator().manual_seed(0))
    return logits, torch.tensor([[1, 4], [9, 2], [0, 10]])


@exercise(
    "01",
    points=2,
    look="section 4: logits[:, -1] is [batch, d_vocab]; gather picks one column per row",
    takes="logits answer_tokens per_prompt",
)
def check_logit_diff(learner: Callable) -> str:
    logits, answers = _logits()
    rows = torch.arange(3)

    def by_hand(at_end: torch.Tensor) -> torch.Tensor:
        return at_end[rows, answers[:, 0]] - at_end[rows, answers[:, 1]]

    want = by_hand(logits[:, -1])
    others = {
        "you read the first position: the prediction stands at the last one, index -1": by_hand(logits[:, 0]),
        "you took probabilities: no softmax; the difference of raw logits is wanted": by_hand(
            logits[:, -1].softmax(-1)
        ),
        "the sign: correct minus incorrect": -want,
        "you averaged over positions: use the last one only": by_hand(logits.mean(1)),
        "every prompt is read with the first prompt's answers": logits[:, -1, answers[0, 0]]
        - logits[:, -1, answers[0, 1]],
    }
    require_equal(
        call(learner, logits, answers, per_prompt=True),
        want,
        "the logit difference of each prompt (per_prompt=True)",
        axes="prompt",
        mistakes={
            "you averaged although per_prompt=True: return one value per prompt": want.mean,
            **{message: (lambda value=value: value) for message, value in others.items()},
        },
    )
    held = require_equal(
        call(learner, logits, answers),
        want.mean(),
        "the mean logit difference",
        mistakes={
            "without per_prompt, return the mean over prompts": lambda: want,
            "you summed over prompts: average them": want.sum,
            **{message: (lambda value=value: value.mean()) for message, value in others.items()},
        },
    )
    return f"each prompt and the mean agree ({held})"


@exercise(
    "01",
    look="section 4: log-probabilities are logits minus one number per position, which cancels",
    takes="logits answer_tokens",
)
def check_logprob_diff(learner: Callable) -> str:
    logits, answers = _logits()
    rows = torch.arange(3)
    logprobs, probs = logits[:, -1].log_softmax(-1), logits[:, -1].softmax(-1)
    want = logprobs[rows, answers[:, 0]] - logprobs[rows, answers[:, 1]]
    over_batch = logits[:, -1].log_softmax(0)
    held = require_equal(
        call(learner, logits, answers),
        want,
        "log p(correct) − log p(incorrect) of each prompt",
        axes="prompt",
        mistakes={
            "you subtracted probabilities: take logarithms first (log_softmax)":
                lambda: probs[rows, answers[:, 0]] - probs[rows, answers[:, 1]],
            "you took the ratio of probabilities: its logarithm is wanted":
                lambda: probs[rows, answers[:, 0]] / probs[rows, answers[:, 1]],
            "log_softmax over the wrong axis: the vocabulary is the last one":
                lambda: over_batch[rows, answers[:, 0]] - over_batch[rows, answers[:, 1]],
            "you averaged over prompts: return one value per prompt": want.mean,
            "you read the first position: the prediction stands at the last one, index -1":
                lambda: logits[rows, 0, answers[:, 0]] - logits[rows, 0, answers[:, 1]],
            "the sign: correct minus incorrect": lambda: -want,
        },
    )  # fmt: skip
    return f"equal to the logit difference, as it must be ({held})"
