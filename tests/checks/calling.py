"""Calling a learner's function, and telling its errors in one line."""

from __future__ import annotations

import linecache
import traceback
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.checks.core import STUB, CheckFailed, plain
from tests.checks.side_effects import Before


def call(learner: Callable, *args: Any, **kwargs: Any) -> Any:
    """The learner's result, or CheckFailed: unsolved, an exception of theirs, something changed that was not theirs."""
    before, grad, failure = Before([*args, *kwargs.values()]), torch.is_grad_enabled(), None
    try:
        result = learner(*args, **kwargs)
    except CheckFailed as error:
        failure = error
    except Exception as error:
        failure = _told(learner, error)
    finally:  # also where somebody interrupts a long run
        torch.set_grad_enabled(grad)
        changes = before.put_back()
    if failure is not None:
        raise failure
    if changes:
        raise CheckFailed(*changes[0])
    return _collected(result)


def with_a_gradient(learner: Callable, leaf: Tensor, *args: Any) -> Any:
    """The learner's result for logits that want a gradient; CheckFailed if their function raises on those alone."""
    try:
        return learner(leaf, *args)
    except Exception as error:
        raise CheckFailed(
            f"nothing: your function raised {type(error).__name__} on logits that want a gradient",
            "compute with torch from beginning to end: .numpy(), .item() and .detach() cut the gradient off",
        ) from None


def _collected(result: Any) -> Any:
    if isinstance(result, types.GeneratorType):
        raise CheckFailed(
            "what you return: a generator", "nothing is computed yet: return a list, [… for …], or a tensor"
        )
    return result


def _told(learner: Callable, error: Exception) -> CheckFailed:
    """An exception of the learner's function, in words."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if STUB in str(error) and last.name not in (getattr(plain(learner), "__name__", last.name), "<lambda>"):
        return CheckFailed(
            f"nothing: your function calls `{last.name}`, and that exercise is not written yet",
            f"write `{last.name}` first, or copy its folded answer, and run its cell",
        )
    if _is_unsolved(error):
        return CheckFailed(
            "nothing: this exercise is not written yet",
            "replace the line that raises NotImplementedError with your code",
        )
    return CheckFailed(f"nothing: {_where(learner, error)}", _exception_hint(learner, error))


def _is_unsolved(error: Exception) -> bool:
    """Whether the placeholder, or a line like it, raised the error: torch raises the same type for a wrong dtype."""
    if not isinstance(error, NotImplementedError):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    raised_by_hand = (last.line or "").lstrip().startswith("raise NotImplementedError")
    return STUB in str(error) or (raised_by_hand and "site-packages" not in last.filename)


def _own_frames(learner: Callable, error: Exception) -> list[traceback.FrameSummary]:
    code = getattr(plain(learner), "__code__", None)
    return [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]


def _where(learner: Callable, error: Exception) -> str:
    """The exception, and the learner's own line that raised it (or the last line of theirs on the way)."""
    frames, function = _own_frames(learner, error), plain(learner)
    text = f"your function raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if frames:
        line = frames[-1].line or linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip()
        place = (frames[-1].lineno or 0) - function.__code__.co_firstlineno + 1
        text += f"\n{'':<10}at line {place} of {function.__name__}: {line}"
    return text


def _exception_hint(learner: Callable, error: Exception) -> str:
    if isinstance(error, KeyError):
        return "a key that is not there: print the keys of what you index, such as list(cache.keys())"
    if isinstance(error, IndexError):
        return "an index outside its axis: check the order of the axes in the docstring"
    if isinstance(error, TypeError) and "argument" in str(error) and not _own_frames(learner, error):
        return "the function must take the arguments of the signature that was given, by their names"
    if isinstance(error, NameError):
        return "a name that is not defined: it is misspelled, not imported, or in a cell that has not run yet"
    return "run the function yourself on the chapter's prompts to see the whole traceback"
