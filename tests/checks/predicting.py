"""Predictions and choices that a learner writes down first, set beside what was measured. Nothing here can fail."""

from __future__ import annotations

from collections.abc import Mapping


def score_predictions(predicted: Mapping[str, str | int | None], measured: Mapping[str, str | int]) -> None:
    """Print each prediction beside what was measured, then how many were right.

    predicted: what was asked to the learner's answer, None where there is none yet. Case and spaces around do not matter.
    """
    right = 0
    for question, found in measured.items():
        answer = predicted.get(question)
        if answer is None:
            print(f"· {question}: you have not written a guess yet; measured: {found}")
            continue
        agrees = str(answer).strip().casefold() == str(found).casefold()
        right += agrees
        print(f"{'✓' if agrees else '✗'} {question}: you said {answer}; measured: {found}")
    for unknown in [question for question in predicted if question not in measured]:
        print(f"? {unknown}: nothing was asked under this name; the questions are {', '.join(measured)}")
    print(f"{right} of {len(measured)} right. A wrong guess is worth a second look: what did you assume?")
