"""Calling a learner's function: its errors in one line, and everything that it must leave as it was.

Models are put back whatever happens: weights, hooks of every kind, training mode. What was changed is said.
"""

from __future__ import annotations

import functools
import linecache
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.core import STUB, CheckFailed, plain
from utils.tiny_models import tiny_model

PROBE = torch.tensor([[0, 5, 9, 7]])
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def call(learner: Callable, *args: Any, **kwargs: Any) -> Any:
    """The learner's result, or CheckFailed: unsolved, an exception of theirs, something changed that was not theirs."""
    given = [*args, *kwargs.values()]
    states = [_State(model) for model in given if isinstance(model, TransformerBridge)]
    before, grad, failure = [_snapshot(value) for value in given], torch.is_grad_enabled(), None
    try:
        result = learner(*args, **kwargs)
    except CheckFailed as error:
        failure = error
    except Exception as error:
        failure = _told(learner, error)
    torch.set_grad_enabled(grad)
    changes = [change for state in states for change in state.put_back()]
    if failure is not None:
        raise failure
    if changes:
        raise CheckFailed(*changes[0])
    for value, copy in zip(given, before, strict=True):
        _require_unchanged(value, copy)
    return _collected(result)


def _collected(result: Any) -> Any:
    if isinstance(result, types.GeneratorType):
        raise CheckFailed(
            "what you return: a generator", "nothing is computed yet: return a list, [… for …], or a tensor"
        )
    return result


# --- the model, before and after ------------------------------------------------------------------------------------


@functools.cache
def _weights(model: TransformerBridge) -> list[tuple[Tensor, Tensor]]:
    """Every weight and buffer of a fixture beside a copy of it, made before any learner's function saw it."""
    seen = {id(part): part for part in [*model.parameters(), *model.buffers()]}
    return [(part, part.detach().clone()) for part in seen.values()]


@functools.cache
def _logits(model: TransformerBridge) -> Tensor:
    return _fresh_logits(model)


@torch.no_grad()
def _fresh_logits(model: TransformerBridge) -> Tensor:
    """The model's logits on a prompt of our own, unseen by the hooks with which a check may be counting runs."""
    modules = [module for module in model.modules() if not isinstance(module, HookPoint)]
    aside = [(getattr(module, kind), dict(getattr(module, kind))) for module in modules for kind in MODULE_HOOKS]
    for hooks, _ in aside:
        hooks.clear()
    try:
        return model(PROBE.to(model.cfg.device))
    finally:
        for hooks, saved in aside:
            hooks.update(saved)


class _State:
    """What a function may not change in a model, and its way back."""

    def __init__(self, model: TransformerBridge) -> None:
        self.model, self.weights, self.logits = model, _weights(model), _logits(model)
        self.others = model.hook_dict["blocks.0.hook_mlp_out"].add_hook(_left_by_somebody_else)
        self.points = {name: (list(point.fwd_hooks), list(point.bwd_hooks)) for name, point in model.hook_dict.items()}
        modules = [*model.modules(), *model.original_model.modules()]  # the bridge hands its mode on to both
        self.modules = {module: [dict(getattr(module, kind)) for kind in MODULE_HOOKS] for module in modules}
        self.training = {module: module.training for module in modules}

    def put_back(self) -> list[tuple[str, str]]:
        """(what was changed, what to do instead) of every change; the model is as it was afterwards."""
        found = [*self._hooks(), *self._mode(), *self._values()]
        self.model.hook_dict["blocks.0.hook_mlp_out"].fwd_hooks.remove(self.others)
        self.others.hook.remove()
        return found

    def _hooks(self) -> Iterator[tuple[str, str]]:
        added, removed = [], []
        for name, point in self.model.hook_dict.items():
            fwd, bwd = self.points[name]
            now = [*point.fwd_hooks, *point.bwd_hooks]
            added += [name] * any(hook not in [*fwd, *bwd] for hook in now)
            removed += [name] * any(hook not in now for hook in [*fwd, *bwd])
            for hook in now:
                if hook not in [*fwd, *bwd]:
                    hook.hook.remove()
            point.fwd_hooks, point.bwd_hooks = fwd, bwd
        for module, kinds in self.modules.items():
            for kind, hooks in zip(MODULE_HOOKS, kinds, strict=True):
                now = getattr(module, kind)
                if [key for key in now if key not in hooks and not _is_of_point(now[key])]:
                    added.append(f"the module {type(module).__name__}")
                now.clear()
                now.update(hooks)
        if added:
            yield (
                f"the model before and after your function: it leaves a hook on {', '.join(added[:3])}",
                "use model.run_with_hooks(..., fwd_hooks=[...]) or `with model.hooks(...)`, which remove their hooks",
            )
        if removed:
            yield (
                f"the model before and after your function: a hook of somebody else's is gone from {removed[0]}",
                "do not call reset_hooks: run_with_hooks and `with model.hooks(...)` remove their own hooks, and only those",
            )

    def _mode(self) -> Iterator[tuple[str, str]]:
        changed = [module for module, training in self.training.items() if module.training != training]
        for module, training in self.training.items():
            module.training = training
        if changed:
            yield (
                "the model before and after your function: it is in another mode (model.train(), model.eval())",
                "leave the mode as it is: in training mode dropout makes every run differ",
            )

    def _values(self) -> Iterator[tuple[str, str]]:
        changed = [part for part, copy in self.weights if not torch.equal(part, copy)]
        with torch.no_grad():
            for part, copy in self.weights:
                if not torch.equal(part, copy):
                    part.copy_(copy)
        if changed:
            yield (
                f"the model's weights before and after your function: {len(changed)} of them changed",
                "you wrote into a weight: a slice such as model.W_U[:, i] is a view of it; work on a copy (.clone())",
            )
            return
        try:
            same = torch.allclose(_fresh_logits(self.model), self.logits, atol=1e-5)
        except Exception:  # the model no longer runs at all
            same = False
        if not same:
            _weights.cache_clear()
            _logits.cache_clear()
            tiny_model.cache_clear()
            yield (
                "the model's logits on a prompt of our own, before and after your function: they are not the same",
                "the function changes the model itself; compute on copies and with hooks that are removed",
            )


def _left_by_somebody_else(activation: Tensor, hook: Any) -> None:
    """A hook that does nothing, put on before the call: it is somebody else's, and must be there afterwards."""


_left_by_somebody_else.__module__ = "transformer_lens.hooks_of_others"  # so that sweeps do not refuse the model for it


def _is_of_point(hook: Any) -> bool:
    return "transformer_lens" in (getattr(hook, "__module__", None) or "")


# --- the arguments, before and after --------------------------------------------------------------------------------


def _snapshot(value: Any) -> Any:
    """A copy of what could be edited in `value`, to see afterwards whether it was."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (ActivationCache, Mapping)):
        return {key: _snapshot(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [_snapshot(item) for item in value]
    return value if isinstance(value, (str, int, float)) else None


def _require_unchanged(value: Any, copy: Any, name: str = "an argument") -> None:
    if isinstance(copy, (str, int, float)) and value != copy:
        raise CheckFailed(
            f"{name} before and after your function: {value!r} stands where {copy!r} stood",
            "you changed the order of a list that you are given, or what is in it: work on a copy, or use sorted(items)",
        )
    if isinstance(copy, Tensor) and not (value.shape == copy.shape and torch.equal(value, copy)):
        raise CheckFailed(
            f"{name} before and after your function: its values were changed",
            "you wrote into an input; work on a copy (x = x.clone()), or the next cell sees your edit",
        )
    if isinstance(copy, dict):
        what = "the cache" if isinstance(value, ActivationCache) else "a dictionary"
        if set(value) != set(copy):
            raise CheckFailed(
                f"{what} before and after your function: it has {len(value)} entries in place of {len(copy)}",
                "do not add to what you are given or take from it; the next cell needs it as it was",
            )
        for key in copy:
            _require_unchanged(value[key], copy[key], f"entry {key!r} of {what}")
    if isinstance(copy, list):
        if len(value) != len(copy):
            raise CheckFailed(
                f"{name} before and after your function: it has {len(value)} items in place of {len(copy)}",
                "do not pop from a list that you are given, or append to it: copy it first, list(items)",
            )
        for item, item_copy in zip(value, copy, strict=True):
            _require_unchanged(item, item_copy, name)


# --- the learner's errors -------------------------------------------------------------------------------------------


def _told(learner: Callable, error: Exception) -> CheckFailed:
    """An exception of the learner's function, in words."""
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
        return "a name that is not there; list(cache.keys()) shows what a cache holds"
    if isinstance(error, IndexError):
        return "an index outside its axis: check the order of the axes in the docstring"
    if isinstance(error, TypeError) and "argument" in str(error) and not _own_frames(learner, error):
        return "the function must take the arguments of the signature that was given, by their names"
    if isinstance(error, NameError):
        return "a name that only exists elsewhere in the notebook, or a misspelt one: use the function's arguments"
    return "run the function yourself on the chapter's prompts to see the whole traceback"
