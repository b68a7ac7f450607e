"""What a learner's function must leave as it was: the models and arguments that it is given.

They are put back whatever happens, since later calls are given the same ones: weights, hooks of every kind, settings,
training mode; tensors, caches and lists. What was changed is said.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from utils.tiny_models import tiny_model

PROBE = torch.tensor([[0, 5, 9, 7]])
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class Before:
    """Everything that a function is given, as it was before the call, and its way back."""

    def __init__(self, given: Sequence[Any]) -> None:
        self.models = [_State(model) for model in given if isinstance(model, TransformerBridge)]
        self.arguments = [(value, _snapshot(value)) for value in given]

    def put_back(self) -> list[tuple[str, str]]:
        """(what was changed, what to do instead) of every change; all is as it was afterwards."""
        changes = [change for state in self.models for change in state.put_back()]
        return changes + [change for value, kept in self.arguments for change in _put_back(value, kept)]


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
        self.held = {module: (dict(module._parameters), dict(module._buffers)) for module in modules}
        self.settings = dict(vars(model.cfg))
        self.wants_gradient = [part.requires_grad for part, _ in self.weights]

    def put_back(self) -> list[tuple[str, str]]:
        """(what was changed, what to do instead) of every change; the model is as it was afterwards."""
        found = [*self._hooks(), *self._mode(), *self._gradients(), *self._values()]
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
        settings = [name for name, value in vars(self.model.cfg).items() if not _equal(value, self.settings.get(name))]
        vars(self.model.cfg).clear()
        vars(self.model.cfg).update(self.settings)
        if settings:
            yield (
                f"the model before and after your function: its setting {settings[0]} has changed",
                "leave model.cfg as it is: the next cell runs the same model",
            )

    def _gradients(self) -> Iterator[tuple[str, str]]:
        left = [part for part, _ in self.weights if part.grad is not None]
        for part in left:
            part.grad = None
        before = zip(self.weights, self.wants_gradient, strict=True)
        switched = [(part, was) for (part, _), was in before if part.requires_grad != was]
        for part, was in switched:
            part.requires_grad_(was)
        if switched:
            yield (
                f"the model before and after your function: requires_grad of {len(switched)} of its weights has changed",
                "leave requires_grad of the weights as it is; torch.no_grad() is enough where no gradient is needed",
            )
        if left:
            yield (
                f"the model before and after your function: {len(left)} of its weights hold a gradient",
                "backward() adds to every weight's .grad; torch.autograd.grad(value, of_what) leaves the model as it is",
            )

    def _replaced(self) -> int:
        """How many tensors stood in the place of weights and buffers (.double() does so with buffers). They are gone now."""
        count = 0
        for module, kinds in self.held.items():
            for now, kept in zip((module._parameters, module._buffers), kinds, strict=True):
                count += sum(now.get(name) is not part for name, part in kept.items())
                now.clear()
                now.update(kept)
        return count

    def _values(self) -> Iterator[tuple[str, str]]:
        replaced = self._replaced()
        changed = [(part, copy) for part, copy in self.weights if not _equal(part, copy)]
        with torch.no_grad():
            for part, copy in changed:
                if part.dtype == copy.dtype and part.shape == copy.shape:
                    part.copy_(copy)
                else:
                    part.data = copy.clone()
        if changed or replaced:
            yield (
                f"the model's weights before and after your function: {len(changed) or replaced} of them changed",
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


@dataclass
class _Kept:
    """An argument as it was. values: a copy of a tensor's; parts: (part, what it was) by key; more: a cache's own fields."""

    values: Tensor | None = None
    parts: Mapping[Any, tuple[Any, Any]] | None = None
    more: Mapping[str, Any] | None = None


def _snapshot(value: Any) -> _Kept:
    """What could be edited in `value`, to see afterwards whether it was, and to put it back."""
    if isinstance(value, Tensor):
        return _Kept(value.detach().clone())
    if isinstance(value, ActivationCache):
        return _Kept(parts={key: (value[key], _snapshot(value[key])) for key in value}, more=dict(vars(value)))
    if isinstance(value, Mapping):
        return _Kept(parts={key: (part, _snapshot(part)) for key, part in value.items()})
    if isinstance(value, (list, tuple)):
        return _Kept(parts={i: (part, _snapshot(part)) for i, part in enumerate(value)})
    return _Kept()


def _put_back(value: Any, kept: _Kept, name: str = "an argument") -> Iterator[tuple[str, str]]:
    """(what was changed, what to do instead) of every change in an argument, which is as it was afterwards."""
    if kept.values is not None:
        yield from _tensor_put_back(value, kept.values, name)
    if kept.parts is None:
        return
    if isinstance(value, Mapping | ActivationCache):
        what = "the cache" if isinstance(value, ActivationCache) else "a dictionary"
        yield from _entries_put_back(value, kept, what)
        names = {key: f"entry {key!r} of {what}" for key in kept.parts}
    else:
        yield from _items_put_back(value, kept, name)
        names = dict.fromkeys(kept.parts, name)
    for key, (part, was) in kept.parts.items():
        yield from _put_back(part, was, names[key])


@torch.no_grad()
def _tensor_put_back(value: Tensor, was: Tensor, name: str) -> list[tuple[str, str]]:
    same = _equal(value, was)
    wants_gradient = value.requires_grad and value.is_leaf
    if wants_gradient:
        value.requires_grad_(False)
    if not same and value.shape == was.shape and value.dtype == was.dtype:
        value.copy_(was)
    elif not same:
        value.data = was.clone()
    changes = []
    if not same:
        changes = [
            (
                f"{name} before and after your function: its values were changed",
                "you wrote into an input; work on a copy (x = x.clone()), or the next cell sees your edit",
            )
        ]
    elif wants_gradient:
        changes = [
            (
                f"{name} before and after your function: it asks for a gradient",
                "requires_grad_() changes what you are given: use x.detach().clone().requires_grad_()",
            )
        ]
    return changes


def _entries_put_back(value: Any, kept: _Kept, what: str) -> Iterator[tuple[str, str]]:
    before, now = {key: part for key, (part, _) in kept.parts.items()}, {key: value[key] for key in value}
    if isinstance(value, ActivationCache):
        vars(value).update(kept.more)
    entries = value.cache_dict if isinstance(value, ActivationCache) else value
    if isinstance(entries, MutableMapping) and (
        set(now) != set(before) or any(now[key] is not before[key] for key in now)
    ):
        entries.clear()
        entries.update(before)
    if set(now) != set(before):
        yield (
            f"{what} before and after your function: it has {len(now)} entries in place of {len(before)}",
            "do not add to what you are given or take from it; the next cell needs it as it was",
        )
    elif changed := [key for key in now if now[key] is not before[key] and not _equal(now[key], before[key])]:
        yield (
            f"entry {changed[0]!r} of {what} before and after your function: its values were changed",
            "you put something else into an input; work on a copy, or the next cell sees your edit",
        )


def _items_put_back(value: list | tuple, kept: _Kept, name: str) -> Iterator[tuple[str, str]]:
    before, now = [part for part, _ in kept.parts.values()], list(value)
    if isinstance(value, list):
        value[:] = before
    if len(now) != len(before):
        yield (
            f"{name} before and after your function: it has {len(now)} items in place of {len(before)}",
            "do not pop from a list that you are given, or append to it: copy it first, list(items)",
        )
    elif changed := [i for i, part in enumerate(now) if part is not before[i] and not _equal(part, before[i])]:
        yield (
            f"{name} before and after your function: {now[changed[0]]!r} stands where {before[changed[0]]!r} stood",
            "you changed the order of a list that you are given, or what is in it: work on a copy, or use sorted(items)",
        )


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    return type(one) is type(other) and one == other
