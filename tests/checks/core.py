"""What every check shares: the registry, guarded calls, one comparison, and messages a learner can act on.

A check is a function of the learner's function. It calls it with `call`, compares with `require_equal`, and returns
one sentence that says what held. `@exercise` registers it and turns what happens into one printed line or `CheckFailed`.
"""

from __future__ import annotations

import functools
import linecache
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from utils.tiny_models import one_thread, tiny_model

EXACT, APPROXIMATE = 1e-6, 1e-4
STUB = "this exercise is not written yet"  # what the notebooks' placeholder raises


class CheckFailed(AssertionError):
    """Says what was compared and by how much it is off, the likely mistake, and where to look."""

    def __init__(self, compared: str, likely: str = "", look: str = "") -> None:
        super().__init__(compared)
        self.exercise, self.compared, self.likely, self.look = "", compared, likely, look

    def __str__(self) -> str:
        rows = [("compared", self.compared), ("likely", self.likely), ("look at", self.look)]
        lines = [f"{name:<9} {text}" for name, text in rows if text]
        return "\n".join([f"✗ {self.exercise}: not yet", *lines])

    def _render_traceback_(self) -> list[str]:
        """IPython shows this in place of a traceback: the message is for the learner, the frames are not."""
        return str(self).splitlines()


@dataclass(frozen=True)
class Exercise:
    """One exercise: where it is, how many points it is worth, and its check."""

    chapter: str
    name: str
    points: int
    look: str
    check: Callable[[Callable], None]


REGISTRY: dict[str, Exercise] = {}


def exercise(chapter: str, look: str, points: int = 1) -> Callable:
    """Register `check_<name>(learner)` as the check of exercise <name>.

    chapter: "03". look: where a stuck learner should look, in words. The check returns what held, as a sentence.
    """

    def decorate(body: Callable[[Callable], str]) -> Callable[[Callable], None]:
        name = body.__name__.removeprefix("check_")

        @functools.wraps(body)
        def check(learner: Callable) -> None:
            failure = None
            try:
                with one_thread():
                    held = body(learner)
            except CheckFailed as error:
                error.exercise, error.look = name, error.look or look
                failure = error
            if failure is not None:
                raise failure.with_traceback(None) from None
            print(f"✓ {name}: {held}")

        REGISTRY[name] = Exercise(chapter, name, points, look, check)
        return check

    return decorate


def both_models() -> Iterator[TransformerBridge]:
    """The tiny GPT-2, then the tiny grouped-query Llama."""
    yield from (tiny_model("gpt2"), tiny_model("llama"))


# --- calling a learner's function ------------------------------------------------------------------------------------


def call(learner: Callable, *args: Any, **kwargs: Any) -> Any:
    """The learner's result, or CheckFailed: unsolved, an exception of theirs, inputs edited, hooks left behind.

    Models among the arguments are put back as they were, whatever happens.
    """
    given = [*args, *kwargs.values()]
    models = [a for a in given if isinstance(a, TransformerBridge)]
    before = [_snapshot(a) for a in given]
    hooks_before = [_hooks(model) for model in models]
    try:
        result = learner(*args, **kwargs)
    except CheckFailed:
        raise
    except Exception as error:
        if _is_unsolved(error):
            raise CheckFailed(
                "nothing: this exercise is not written yet",
                "replace the line that raises NotImplementedError with your code",
            ) from error
        raise CheckFailed(f"nothing: {_where(learner, error)}", _exception_hint(error)) from error
    finally:
        left = [name for model, hooks in zip(models, hooks_before, strict=True) for name in _hooks(model) - hooks]
        if left:
            for model in models:
                model.reset_hooks()
    if left:
        names = ", ".join(sorted(name for name, _ in left)[:3])
        raise CheckFailed(
            f"the model before and after your function: it leaves a hook on {names}",
            "use model.run_with_hooks(..., fwd_hooks=[...]), which removes its hooks, not model.add_hook",
        )
    _require_unchanged(given, before)
    return result


def _hooks(model: TransformerBridge) -> set[tuple[str, int]]:
    return {
        (name, id(hook)) for name, point in model.hook_dict.items() for hook in [*point.fwd_hooks, *point.bwd_hooks]
    }


def _snapshot(value: Any) -> Any:
    """Copies of the tensors in `value`, to see afterwards whether they were edited."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, (ActivationCache, Mapping)):
        return {key: _snapshot(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [_snapshot(v) for v in value]
    return None


def _require_unchanged(given: Sequence[Any], before: Sequence[Any], name: str = "an argument") -> None:
    for value, copy in zip(given, before, strict=True):
        if isinstance(copy, Tensor) and not (value.shape == copy.shape and torch.equal(value, copy)):
            raise CheckFailed(
                f"{name} before and after your function: its values were changed",
                "you wrote into an input; work on a copy (x = x.clone()), or the next cell sees your edit",
            )
        if isinstance(copy, dict):
            for key in copy:
                what = "the cache" if isinstance(value, ActivationCache) else "a dictionary"
                _require_unchanged([value[key]], [copy[key]], f"entry {key!r} of {what}")
        if isinstance(copy, list):
            _require_unchanged(list(value), copy, name)


def _is_unsolved(error: Exception) -> bool:
    """Whether the placeholder, or a line like it, raised the error: torch raises the same type for a wrong dtype."""
    if not isinstance(error, NotImplementedError):
        return False
    last = traceback.extract_tb(error.__traceback__)[-1]
    raised_by_hand = (last.line or "").lstrip().startswith("raise NotImplementedError")
    return STUB in str(error) or (raised_by_hand and "site-packages" not in last.filename)


def _where(learner: Callable, error: Exception) -> str:
    """The exception, and the learner's own line that raised it (or the last line of theirs on the way)."""
    code = getattr(learner, "__code__", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if code and f.filename == code.co_filename]
    text = f"your function raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if frames:
        line = frames[-1].line or linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip()
        text += f"\n{'':<10}at line {frames[-1].lineno - code.co_firstlineno + 1} of {learner.__name__}: {line}"
    return text


def _exception_hint(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "a name that the cache does not hold; list(cache.keys()) shows what it holds"
    if isinstance(error, IndexError):
        return "an index outside its axis: check the order of the axes in the docstring"
    if isinstance(error, TypeError) and "argument" in str(error):
        return "the function must take the arguments of the signature that was given, in that order"
    return "run the function yourself on the chapter's prompts to see the whole traceback"


# --- comparing --------------------------------------------------------------------------------------------------------


def require_equal(
    got: Any,
    want: Tensor | float,
    what: str,
    axes: str = "",
    mistakes: Mapping[str, Callable[[], Any]] | None = None,
    atol: float = APPROXIMATE,
) -> str:
    """'exact' or 'approximate (largest difference …)'; CheckFailed if `got` is not `want` within `atol`.

    what: what `got` should equal, in words. axes: names of the axes ("layer head"), used to say where the first
    difference is. mistakes: message → a function that computes what that mistake would give; the first that equals
    `got` is named. A mistake that happens to give the right answer on these inputs is never reported.
    """
    want = torch.as_tensor(want)
    names = axes.split()
    _require_tensor(got, want, what, names, mistakes or {})
    got = got.detach().to(want.device)
    if got.dtype.is_floating_point and not torch.isfinite(got).all():
        raise CheckFailed(f"your result with {what}: {_first(~torch.isfinite(got), names)} is nan or infinite",
                          "a division by zero, or a softmax over nothing but -inf")  # fmt: skip
    difference = (got.double() - want.double()).abs()
    largest = difference.max().item() if difference.numel() else 0.0
    if largest <= atol:
        return "exact" if largest <= EXACT else f"largest difference {largest:.0e}"
    wrong = difference > atol
    where = _first(wrong, names)
    raise CheckFailed(
        f"your result with {what}: off by {largest:.3g}"
        + (f"; {int(wrong.sum())} of {wrong.numel()} values differ, first at {where}" if want.ndim else ""),
        _named_mistake(got, mistakes or {}, atol) or _generic_mistake(got, want, atol),
    )


def _require_tensor(got: Any, want: Tensor, what: str, names: list[str], mistakes: Mapping[str, Callable]) -> None:
    """Type, shape and kind of dtype, each with its own message."""
    shape = f"[{', '.join(names)}] = {list(want.shape)}" if want.ndim else "a 0-d tensor"
    if got is None:
        raise CheckFailed(f"your result with {what}: it is None, not a tensor", "the function does not return anything")
    if not isinstance(got, Tensor):
        likely = "keep it a tensor: no .item(), no float()" if isinstance(got, (int, float)) else "return one tensor"
        raise CheckFailed(
            f"your result with {what}: it is a {type(got).__name__}, not a tensor of shape {shape}", likely
        )
    if got.shape != want.shape:
        likely = _named_mistake(got, mistakes, APPROXIMATE) or _shape_mistake(got, want, names)
        raise CheckFailed(f"your result with {what}: shape {list(got.shape)}, expected {shape}", likely)
    if got.dtype.is_floating_point != want.dtype.is_floating_point:
        raise CheckFailed(
            f"your result with {what}: dtype {got.dtype}, expected {want.dtype}",
            "token ids are integers; values are floats: check what you return",
        )


def _shape_mistake(got: Tensor, want: Tensor, names: list[str]) -> str:
    if got.ndim == want.ndim and sorted(got.shape) == sorted(want.shape):
        return f"the axes are in another order; the docstring asks for [{', '.join(names)}]"
    if got.ndim == want.ndim + 1:
        return "one axis too many: something is not averaged, summed or indexed yet"
    if got.ndim == want.ndim - 1:
        return "one axis too few: something is averaged or summed that should be kept"
    return "print the shape after every line, and write it behind the line as a comment"


def _named_mistake(got: Tensor, mistakes: Mapping[str, Callable[[], Any]], atol: float) -> str:
    for message, compute in mistakes.items():
        wrong = torch.as_tensor(compute())
        if wrong.shape == got.shape and torch.allclose(wrong.double(), got.double(), atol=atol, rtol=0):
            return message
    return ""


def _generic_mistake(got: Tensor, want: Tensor, atol: float) -> str:
    if torch.allclose(got.double(), -want.double(), atol=atol, rtol=0):
        return "the sign is the other way round"
    if not got.any():
        return "every value is zero: is anything written into the result?"
    if got.ndim == 2 and got.shape[0] == got.shape[1] and torch.allclose(got.T.double(), want.double(), atol=atol):
        return "the two axes are swapped"
    return ""


def _first(where: Tensor, names: list[str]) -> str:
    """Where the first True is, by name: L1H2, layer 1, position 3."""
    if where.ndim == 0:
        return "the value"
    index = dict(zip(names or [f"axis {i}" for i in range(where.ndim)], where.nonzero()[0].tolist(), strict=True))
    if {"layer", "head"} <= index.keys():
        index = {f"L{index['layer']}H{index['head']}": None, **index}
        del index["layer"], index["head"]
    return ", ".join(name if i is None else f"{name} {i}" for name, i in index.items())


def require(condition: bool, compared: str, likely: str, look: str = "") -> None:
    """CheckFailed with these words unless `condition` holds. For what is not a comparison of tensors."""
    if not condition:
        raise CheckFailed(compared, likely, look)
