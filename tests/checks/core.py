"""What every check shares: the registry, and what a learner reads.

A check is a function of the learner's function. It calls it with `call` (`tests.checks.calling`), compares with
`require_equal` (`tests.checks.comparing`), and returns one sentence that says what held on which inputs. `@exercise`
registers it and turns whatever happens into one printed line or `CheckFailed`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from transformer_lens.model_bridge import TransformerBridge

from utils.course.recording import record_run
from utils.tiny_models import one_thread, tiny_model

STUB = "this exercise is not written yet"  # what the notebooks' placeholder raises


class CheckFailed(AssertionError):
    """Says what was compared and by how much it is off, the likely mistake, and where to look."""

    def __init__(self, compared: str, likely: str = "", look: str = "") -> None:
        super().__init__(compared)
        self.exercise, self.compared, self.likely, self.look = "", compared, likely, look
        self.crashed: Exception | None = None  # what the check itself could not cope with

    def __str__(self) -> str:
        rows = [("compared", self.compared), ("likely", self.likely), ("look at", self.look)]
        lines = [f"{name:<9} {text}" for name, text in rows if text]
        return "\n".join([f"✗ {self.exercise}: not yet", *lines])

    def _render_traceback_(self) -> list[str]:
        """IPython shows this in place of a traceback: the message is for the learner, the frames are not."""
        return str(self).splitlines()


@dataclass(frozen=True)
class Exercise:
    """One exercise: where it is, how many points it is worth, its arguments, and its check."""

    chapter: str
    name: str
    points: int
    look: str
    takes: tuple[str, ...]
    check: Callable[[Callable], None]


REGISTRY: dict[str, Exercise] = {}


def exercise(chapter: str, look: str, points: int = 1, takes: str = "") -> Callable:
    """Register `check_<name>(learner)` as the check of exercise <name>.

    chapter: "03". look: where a stuck learner should look, in words. takes: the names of the arguments in the signature
    that the notebook gives, in order; what the check passes by place then reaches the learner by name, as later cells
    pass it ("" for functions that the library calls by place). The check returns what held, as a sentence.
    """

    def decorate(body: Callable[[Callable], str]) -> Callable[[Callable], None]:
        name, names = body.__name__.removeprefix("check_"), tuple(takes.split())

        @functools.wraps(body)
        def check(learner: Callable) -> None:
            failure = None
            try:
                with one_thread():
                    held = body(by_name(learner, names))
            except CheckFailed as error:
                failure = error
            except Exception as error:  # nothing that a learner returns may end in a traceback of ours
                failure = CheckFailed(
                    f"nothing: what your function returns cannot be compared ({type(error).__name__}: {error})",
                    "print what it returns, and compare its type with the docstring",
                )
                failure.crashed = error
            record_run(chapter, name, learner, failure)
            if failure is not None:
                failure.exercise, failure.look = name, failure.look or look
                if used := globals_read(learner):
                    failure.likely += (
                        f"{'; ' * bool(failure.likely)}it reads the notebook's {used}, not what it is given"
                    )
                raise failure.with_traceback(None) from None
            print(f"✓ {name}: {held}")

        REGISTRY[name] = Exercise(chapter, name, points, look, names, check)
        return check

    return decorate


def by_name(learner: Callable, names: tuple[str, ...]) -> Callable:
    """The learner's function, called with its arguments by name."""
    if not callable(learner):
        raise CheckFailed(
            f"nothing: a {type(learner).__name__} was given, not a function",
            "give the check your function itself, without calling it: check_name(name)",
        )

    @functools.wraps(learner, updated=())
    def called(*args, **kwargs):
        return learner(*args[len(names) :], **dict(zip(names, args, strict=False)), **kwargs)

    return called


def plain(learner: Callable) -> Callable:
    """The function that was written with `def`, behind decorators and `functools.partial`."""
    while True:
        inner = learner.func if isinstance(learner, functools.partial) else getattr(learner, "__wrapped__", None)
        if inner is None:
            return learner
        learner = inner


def globals_read(learner: Callable) -> str:
    """The notebook's own values that a function reads, as "`model`, `tokens`": neither functions, modules, types, nor
    constants in capitals. "" if there are none."""
    function = plain(learner)
    code, space = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    if code is None:
        return ""
    values = {name: space[name] for name in code.co_names if name in space and not name.isupper()}
    own = [name for name, value in values.items() if isinstance(value, TransformerBridge) or not _is_tool(value)]
    return ", ".join(f"`{name}`" for name in own)


def _is_tool(value: object) -> bool:
    return callable(value) or type(value).__name__ in ("module", "_SpecialForm") or value is None


def both_models() -> Iterator[TransformerBridge]:
    """The tiny GPT-2, then the tiny grouped-query Llama."""
    yield from (tiny_model("gpt2"), tiny_model("llama"))


def require(condition: bool, compared: str, likely: str, look: str = "") -> None:
    """CheckFailed with these words unless `condition` holds. For what is not a comparison of tensors."""
    if not condition:
        raise CheckFailed(compared, likely, look)
