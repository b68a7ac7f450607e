"""Checks of chapter 05. The oracle is `tests.plain_paths`, two runs with hooks; for the logits alone, a formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import require_equal
from tests.checks.core import both_models, exercise
from tests.plain_paths import by_hooks

CLEAN = (  # five, as many as no other axis of the fixtures has
    "When John and Mary went to the store, John gave a drink to",
    "Then Tom and Amy went to the park, Amy gave a ring to",
    "After Dan and Sid went to the house, Dan gave a kiss to",
    "While Paul and Jane went to the school, Jane said a book to",
    "When Mark and Kate went to the garden, Mark had an apple to",
)
OTHER = (
    "When Anna and Mary went to the park, Mary gave a bag to",
    "Then Tom and Bob went to the store, Luke had a ring to",
    "While Dan and Emma went to the house, Sid gave a drink to",
    "While Jack and Ruth went to the office, Jane gave the book to",
    "Then Mark and Kate went to the garden, Adam had an apple to",
)
ANSWERS = ((" Mary", " John"), (" Tom", " Amy"), (" Sid", " Dan"), (" Paul", " Jane"), (" Kate", " Mark"))
AT = torch.tensor([2, 4, 10, 10, 14])  # a position in each prompt, the last one among them


@dataclass(eq=False)
class Runs:
    """The receiving run (orig) and the lending run (new) of one model, and a metric that is 0 on neither."""

    model: TransformerBridge

    @cached_property
    def tokens(self) -> Tensor:
        return self.model.to_tokens(CLEAN)

    @cached_property
    def orig(self) -> ActivationCache:
        return self.model.run_with_cache(self.tokens)[1]

    @cached_property
    def new(self) -> ActivationCache:
        return self.model.run_with_cache(self.model.to_tokens(OTHER))[1]

    @cached_property
    def answers(self) -> Tensor:
        return torch.tensor([[self.model.to_single_token(word) for word in pair] for pair in ANSWERS])

    def metric(self, logits: Tensor) -> Tensor:
        correct, incorrect = logits[:, -1].gather(-1, self.answers).unbind(-1)
        return 0.7 + 1.3 * (correct - incorrect).mean()

    def heads(self, layers: Sequence[int] | None = None) -> list[list[tuple[int, int]]]:
        layers = range(self.model.cfg.n_layers) if layers is None else layers
        return [[(layer, head) for head in range(self.model.cfg.n_heads)] for layer in layers]

    def table(self, value: Callable[[tuple[int, int]], Tensor], layers: Sequence[int] | None = None) -> Tensor:
        """[layer, head] of a function of the sender."""
        return torch.stack([torch.stack([value(head) for head in row]) for row in self.heads(layers)])

    def message(self, layer: int, head: int) -> Tensor:
        return (self.new["z", layer][:, :, head] - self.orig["z", layer][:, :, head]) @ self.model.W_O[layer, head]

    def path(
        self, senders, receivers="logits", component=None, at=None, free=False, swapped=False, held=None
    ) -> Tensor:
        """The metric of one path. held: the cache that everything else is frozen at."""
        lending = self.orig if swapped else self.new
        held = (self.new if swapped else self.orig) if held is None else held
        if component in ("k", "v"):
            group = self.model.cfg.n_heads // self.orig[component, 0].shape[2]
            receivers = [(layer, head // group) for layer, head in receivers]
        senders = [senders] if isinstance(senders, tuple) else senders
        return by_hooks(
            self.model, self.tokens, lending, self.metric, senders, receivers, component, at, free, receiving=held
        )

    def run(self, *hooks: tuple[str, Callable]) -> Tensor:
        return self.metric(self.model.run_with_hooks(self.tokens, fwd_hooks=list(hooks)))

    def patched(self, layer: int, head: int, at=None) -> Tensor:
        """Activation patching of one head."""
        return self.run(self.send(layer, head, at))

    def send(self, layer: int, head: int, at=None) -> tuple[str, Callable]:
        where = slice(None) if at is None else (torch.arange(len(self.tokens)), at)

        def change(z: Tensor, hook) -> Tensor:
            z = z.clone()
            z[:, :, head][where] = self.new[hook.name][:, :, head][where]
            return z

        return f"blocks.{layer}.attn.hook_z", change


def _added(name: str, delta: Tensor) -> tuple[str, Callable]:
    return name, lambda stream, hook: stream + delta


# --- to the logits ----------------------------------------------------------------------------------------------------


@exercise(
    "05",
    look="section 2: stream + (lending z - receiving z) @ W_O at the last position, then ln_final, unembed, metric",
    points=2,
    takes="model receiving lending metric",
)
def check_direct_effects(learner: Callable) -> str:
    for model in both_models():
        runs = Runs(model)
        n_layers, orig, new = model.cfg.n_layers, runs.orig, runs.new
        final, scale = orig["resid_post", n_layers - 1][:, -1:], orig["ln_final.hook_scale"][:, -1:]

        def read(stream: Tensor, frozen: bool = False) -> Tensor:
            if not frozen:
                return runs.metric(model.unembed(model.ln_final(stream)))
            centred = (
                stream - stream.mean(-1, keepdim=True) if model.cfg.normalization_type.startswith("LN") else stream
            )
            return runs.metric(model.unembed(centred / scale))

        def each(stream_of: Callable[[tuple[int, int]], Tensor], **kwargs) -> Tensor:
            return runs.table(lambda head: read(stream_of(head), **kwargs))

        def wrote(cache: ActivationCache, layer: int, head: int, pos: slice = slice(-1, None)) -> Tensor:
            return cache["z", layer][:, pos, head] @ model.W_O[layer, head]

        def change(head: tuple[int, int]) -> Tensor:
            return runs.message(*head)[:, -1:]

        held = require_equal(
            call(learner, model, orig, new, runs.metric),
            each(lambda head: final + change(head)),
            f"the metric of every direct path on {model.cfg.model_name}",
            axes="layer head",
            mistakes={
                "the final norm's scale is frozen: give the changed stream to model.ln_final, which divides by its own":
                    lambda: each(lambda head: final + change(head), frozen=True),
                "the other way round: the stream is the receiving run's, and the head's new part is the lending run's":
                    lambda: each(lambda head: new["resid_post", n_layers - 1][:, -1:] - change(head)),
                "the change is subtracted: lending minus receiving, added": lambda: each(lambda head: final - change(head)),
                "the head's old part is still there: take it off before you add the new one":
                    lambda: each(lambda head: final + wrote(new, *head)),
                "the head is taken out and not replaced": lambda: each(lambda head: final - wrote(orig, *head)),
                "this is activation patching, where later parts react: nothing comes between the head and the logits here":
                    lambda: runs.table(lambda head: runs.patched(*head)),
                "only the change is read: add it to the final stream": lambda: each(change),
                "the change is that of the first position: take the last one":
                    lambda: each(lambda head: final + runs.message(*head)[:, :1]),
                "the change is summed over positions: take the last one":
                    lambda: each(lambda head: final + runs.message(*head).sum(1, keepdim=True)),
                "the stream is that of the layer: take the final one, resid_post of the last layer":
                    lambda: each(lambda head: orig["resid_post", head[0]][:, -1:] + change(head)),
                "the stream is that before the last layer: take the final one, resid_post of the last layer":
                    lambda: each(lambda head: orig["resid_pre", n_layers - 1][:, -1:] + change(head)),
                "the two outputs are added: lending minus receiving":
                    lambda: each(lambda head: final + wrote(new, *head) + wrote(orig, *head)),
                "the receiving run's part is added again: add lending minus receiving":
                    lambda: each(lambda head: final + wrote(orig, *head)),
                "the last prompt is taken where the last position is meant: position is axis 1":
                    lambda: each(lambda head: orig["resid_post", n_layers - 1][-1:] + change(head)),
                "the unpatched metric is subtracted: return the metric itself":
                    lambda: each(lambda head: final + change(head)) - read(final),
            },
        )  # fmt: skip
    return f"the metric of every head's direct path, on a GPT-2 and a Llama, with the norm's own scale ({held})"


@exercise(
    "05",
    look="section 3: hold every z (and mlp_out) at orig; in the sender's layer start from a copy of orig",
    points=3,
    takes="model tokens new orig metric at freeze_mlps layers",
)
def check_path_patch_to_logits(learner: Callable) -> str:
    last = torch.full_like(AT, 14)
    for model in both_models():
        runs = Runs(model)
        for at, frozen, layers in ((None, True, [1]), (AT, False, [2, 0]), (last, False, [1]), (AT, True, None)):
            got = call(learner, model, runs.tokens, runs.new, runs.orig, runs.metric, at, frozen, layers)
            path = partial(runs.path, at=at, free=not frozen)
            held = require_equal(
                got,
                runs.table(path, layers),
                f"the metric of every path to the logits on {model.cfg.model_name}, MLPs "
                f"{'frozen' if frozen else 'free'}, senders {'everywhere' if at is None else 'at one position'}",
                axes="layer head",
                mistakes=_to_logits_mistakes(runs, at, frozen, layers),
            )
    return f"two runs with hooks agree, MLPs frozen and free, at all positions and at one of each prompt ({held})"


def _to_logits_mistakes(
    runs: Runs, at: Tensor | None, frozen: bool, layers: Sequence[int] | None
) -> dict[str, Callable]:
    free, table = not frozen, partial(runs.table, layers=layers)
    order = [head for row in runs.heads(layers) for head in row]
    return {
        "no path is open: a hook that holds the sender's z overwrites what you sent; one hook must do both":
            lambda: table(lambda head: runs.metric(runs.model(runs.tokens))),
        "the other parts are held at the lending run: hold them at orig, the receiving run":
            lambda: table(lambda head: runs.path(head, at=at, free=free, held=runs.new)),
        "the two runs are exchanged: orig is held, new is sent":
            lambda: table(lambda head: runs.path(head, at=at, free=free, swapped=True)),
        "every sender so far is still sent: start each one from orig":
            lambda: table(lambda head: runs.path(order[: order.index(head) + 1], at=at, free=free)),
        "the earlier senders of the layer are still sent: start each one from a copy of orig":
            lambda: table(lambda head: runs.path([(head[0], h) for h in range(head[1] + 1)], at=at, free=free)),
        "the MLPs react: with freeze_mlps they are held too": lambda: table(lambda head: runs.path(head, at=at, free=True)),
        "the MLPs are held although freeze_mlps is false": lambda: table(lambda head: runs.path(head, at=at)),
        "nothing is frozen: this is activation patching": lambda: table(lambda head: runs.patched(*head, at)),
        "the sender is exchanged elsewhere than at `at`: one position in each prompt, so index rows and positions together, "
        "z[rows, at, head]": lambda: table(lambda head: runs.path(head, free=free)),
        "all heads of the layer are sent: one head at a time":
            lambda: table(lambda head: runs.path([(head[0], h) for h in range(runs.model.cfg.n_heads)], at=at, free=free)),
        "the rows are not the layers that were asked for": lambda: runs.table(
            lambda head: runs.path(head, at=at, free=free), None if layers is None else range(len(layers))
        ),
        "the rows are in the order of the layers, not in the order that was asked for": lambda: runs.table(
            lambda head: runs.path(head, at=at, free=free), None if layers is None else sorted(layers)
        ),
    }  # fmt: skip


# --- one sender, every receiver -----------------------------------------------------------------------------------------


@exercise(
    "05",
    look="section 4: add delta at ln1.hook_in, cache the component, then exchange one head's in a run of its own",
    points=3,
    takes="model tokens delta component metric layers",
)
def check_edge_patch(learner: Callable) -> str:
    for model in both_models():
        runs = Runs(model)
        for component, layers in (("q", [1]), ("k", [2, 1]), ("v", None)):
            delta = runs.message(0, 1) * (1.5 if component == "q" else 1.0)
            edge = partial(_edge, runs, delta, component)
            held = require_equal(
                call(learner, model, runs.tokens, delta, component, runs.metric, layers),
                _receivers_table(runs, component, edge, layers),
                f"the metric with one head's {component} reading delta, on {model.cfg.model_name}",
                axes="layer head",
                mistakes=_edge_mistakes(runs, delta, component, layers),
            )
    return f"queries, keys and values of every head, in front of the norm; shared keys and values once ({held})"


def _receivers_table(runs: Runs, component: str, value: Callable, layers: Sequence[int] | None) -> Tensor:
    layers = range(runs.model.cfg.n_layers) if layers is None else layers
    n_heads = runs.orig[component, 0].shape[2]
    return torch.stack([torch.stack([value((layer, head)) for head in range(n_heads)]) for layer in layers])


def _edge(
    runs: Runs, delta: Tensor, component: str, receiver: tuple[int, int], site="hook_resid_pre", every=False, at=None
):
    """The metric with one head's component told by a run that has delta at `site` of its layer."""
    layer, head = receiver
    name = f"blocks.{layer}.attn.hook_{component}"
    with runs.model.hooks(fwd_hooks=[_added(f"blocks.{layer}.{site}", delta)]):
        _, told = runs.model.run_with_cache(runs.tokens, names_filter=name)

    def read(activation: Tensor, hook) -> Tensor:
        activation = activation.clone()
        where = (slice(None), slice(None) if at is None else at) + (() if every else (head,))
        activation[where] = told[name][where]
        return activation

    return runs.run((name, read))


def _edge_mistakes(runs: Runs, delta: Tensor, component: str, layers: Sequence[int] | None) -> dict[str, Callable]:
    table = partial(_receivers_table, runs, component, layers=layers)
    edge, n_heads = partial(_edge, runs, delta, component), runs.model.cfg.n_heads
    shared = n_heads // runs.orig[component, 0].shape[2]
    others = {"q": "the query", "k": "the key", "v": "the value"}

    def wide(fill: Callable[[Tensor], Tensor]) -> Tensor:
        return fill(table(edge)) if shared > 1 else table(edge)

    mistakes = {
        "delta is added behind the norm: add it at ln1.hook_in, so that the norm divides by the new length":
            lambda: table(partial(edge, site="ln1.hook_out")),
        "delta goes into the stream itself, so that everything after reads it: exchange the head's component alone":
            lambda: table(lambda receiver: runs.run(_added(f"blocks.{receiver[0]}.hook_resid_pre", delta))),
        "delta reaches all of this layer's attention: exchange one component of one head":
            lambda: table(lambda receiver: runs.run(_added(f"blocks.{receiver[0]}.ln1.hook_in", delta))),
        "all heads of the layer are exchanged: one head in each run": lambda: table(partial(edge, every=True)),
        "only the last position is exchanged: exchange the head's component at every position":
            lambda: table(partial(edge, at=-1)),
        "delta is subtracted: add it": lambda: table(partial(_edge, runs, -delta, component)),
        "nothing is exchanged: does your hook return the activation?":
            lambda: table(lambda receiver: runs.metric(runs.model(runs.tokens))),
        "the unpatched metric is subtracted: return the metric itself":
            lambda: table(edge) - runs.metric(runs.model(runs.tokens)),
        "a shared key or value stands once for each query head: it needs one column":
            lambda: wide(lambda found: found.repeat_interleave(shared, 1)),
        "columns of zeros follow the shared keys or values: return one column for each of them":
            lambda: wide(lambda found: torch.cat([found, torch.zeros(len(found), n_heads - found.shape[1])], 1)),
        "the rows are not the layers that were asked for":
            lambda: _receivers_table(runs, component, edge, None if layers is None else range(len(layers))),
        "the rows are in the order of the layers, not in the order that was asked for":
            lambda: _receivers_table(runs, component, edge, None if layers is None else sorted(layers)),
    }  # fmt: skip
    for other in "qkv".replace(component, ""):
        if runs.orig[other, 0].shape[2] == runs.orig[component, 0].shape[2]:
            message = f"{others[other]} is exchanged, whatever `component` says"
            mistakes[message] = lambda other=other: table(partial(_edge, runs, delta, other))
    return mistakes


# --- every sender, given receivers --------------------------------------------------------------------------------------

RECEIVERS = (  # heads, component, position in each prompt, layers of the senders; the quick ones first
    ([(2, 1), (1, 3)], "q", None, [0]),
    ([(2, 3), (2, 0)], "k", AT, [1, 0]),
    ([(1, 2), (2, 3)], "v", AT, None),
)


@exercise(
    "05",
    look="section 5: step 1 holds everything but the sender and caches; step 2 holds nothing and exchanges all receivers",
    points=4,
    takes="model tokens new orig metric receivers component at layers",
)
def check_path_patch_to_heads(learner: Callable) -> str:
    for model in both_models():
        runs = Runs(model)
        for receivers, component, at, layers in RECEIVERS:
            path = partial(runs.path, receivers=receivers, component=component, at=at)
            held = require_equal(
                call(
                    learner,
                    model,
                    runs.tokens,
                    runs.new,
                    runs.orig,
                    runs.metric,
                    list(receivers),
                    component,
                    at,
                    layers,
                ),
                runs.table(path, layers),
                f"the metric of every path into {component} of two heads on {model.cfg.model_name}",
                axes="layer head",
                mistakes=_to_heads_mistakes(runs, receivers, component, at, layers),
            )
    return f"two plain runs agree, for queries, keys and values, shared ones too, of heads in two layers ({held})"


def _told_by(runs: Runs, receivers, component: str, hooks, second=(), wrong_group: bool = False) -> Tensor:
    """Step 1 with these hooks, step 2 with `second` beside the exchange."""
    shared = runs.model.cfg.n_heads // runs.orig[component, 0].shape[2]
    names = {f"blocks.{layer}.attn.hook_{component}" for layer, _ in receivers}
    with runs.model.hooks(fwd_hooks=list(hooks)):
        _, told = runs.model.run_with_cache(runs.tokens, names_filter=lambda name: name in names)

    def read(activation: Tensor, hook) -> Tensor:
        activation = activation.clone()
        for layer, head in receivers:
            if hook.name == f"blocks.{layer}.attn.hook_{component}":
                index = head % activation.shape[2] if wrong_group else head // shared
                activation[:, :, index] = told[hook.name][:, :, index]
        return activation

    return runs.run(*((name, read) for name in names), *second)


def _holds(runs: Runs, sender: tuple[int, int], at: Tensor | None, mlps: bool = True) -> list[tuple[str, Callable]]:
    """The hooks of step 1."""
    name, change = runs.send(*sender, at)

    def hold(activation: Tensor, hook) -> Tensor:
        held = runs.orig[hook.name]
        return change(held, hook) if hook.name == name else held

    layers = range(runs.model.cfg.n_layers)
    frozen = [f"blocks.{layer}.attn.hook_z" for layer in layers]
    return [(site, hold) for site in frozen + [f"blocks.{layer}.hook_mlp_out" for layer in layers] * mlps]


def _to_heads_mistakes(runs: Runs, receivers, component: str, at, layers) -> dict[str, Callable]:
    table = partial(runs.table, layers=layers)
    path = partial(runs.path, receivers=receivers, component=component, at=at)
    told = partial(_told_by, runs, receivers, component)
    order = [head for row in runs.heads(layers) for head in row]
    shared = runs.model.cfg.n_heads // runs.orig[component, 0].shape[2]
    mistakes = {
        "the wrong shared key or value receives: query head h uses number h // (n_heads // n_key_value_heads)":
            lambda: table(lambda head: told(_holds(runs, head, at), wrong_group=True)),
        "no path is open: either a hook that holds the sender's z overwrites what you sent, or the receivers' "
        "component is frozen before it is cached": lambda: table(lambda head: runs.metric(runs.model(runs.tokens))),
        "only the first receiver is exchanged: all of them, in one run":
            lambda: table(lambda head: path(head, receivers=receivers[:1])),
        "only the last receiver is exchanged: all of them, in one run":
            lambda: table(lambda head: path(head, receivers=receivers[-1:])),
        "step 1 freezes nothing: other heads and MLPs pass the message on": lambda: table(
            lambda head: told([runs.send(*head, at)])
        ),
        "the MLPs are free in step 1: hold mlp_out at orig as well": lambda: table(lambda head: path(head, free=True)),
        "step 2 is frozen: there everything after the receivers must react": lambda: table(
            lambda head: told(_holds(runs, head, at), [hook for hook in _holds(runs, head, at) if hook[0] not in
                {f"blocks.{layer}.attn.hook_z" for layer, _ in receivers} | {f"blocks.{head[0]}.attn.hook_z"}])
        ),
        "the sender is exchanged in step 2 as well: there only the receivers are":
            lambda: table(lambda head: told(_holds(runs, head, at), [runs.send(*head, at)])),
        "the other parts are held at the lending run: hold them at orig":
            lambda: table(lambda head: path(head, held=runs.new)),
        "the two runs are exchanged: orig is held, new is sent": lambda: table(lambda head: path(head, swapped=True)),
        "every sender so far is still sent: start each one from orig":
            lambda: table(lambda head: path(order[: order.index(head) + 1])),
        "the earlier senders of the layer are still sent: start each one from a copy of orig":
            lambda: table(lambda head: path([(head[0], h) for h in range(head[1] + 1)])),
        "all heads of the layer are sent: one head at a time":
            lambda: table(lambda head: path([(head[0], h) for h in range(runs.model.cfg.n_heads)])),
        "the sender is exchanged at every position: only at `at`, one position in each prompt":
            lambda: table(lambda head: path(head, at=None)),
        "every prompt is exchanged at the positions of all prompts: index rows and positions together, z[rows, at]":
            lambda: table(lambda head: path(head, at=None if at is None else at[:, None])),
        "every receiver's head is exchanged in every receiver's layer: each in its own": lambda: table(
            lambda head: path(head, receivers=[(layer, other) for layer, _ in receivers for _, other in receivers])
        ),
        "the first head of the layer receives, whatever `receivers` says":
            lambda: table(lambda head: path(head, receivers=[(layer, 0) for layer, _ in receivers])),
        "the second head of the layer receives, whatever `receivers` says": lambda: table(
            lambda head: path(head, receivers=[(layer, shared) for layer, _ in receivers])
        ),
        "this is activation patching of the sender: the receivers alone should get the message":
            lambda: table(lambda head: runs.patched(*head, at)),
        "the rows are in the order of the layers, not in the order that was asked for":
            lambda: runs.table(path, None if layers is None else sorted(layers)),
    }  # fmt: skip
    for other, word in (("q", "queries"), ("k", "keys"), ("v", "values")):
        if other != component:
            mistakes[f"the {word} are exchanged, whatever `component` says"] = lambda other=other: table(
                lambda head: path(head, component=other)
            )
    return mistakes


# --- many edges at once -------------------------------------------------------------------------------------------------

SENDERS = (
    ([(0, 1), (1, 2), (0, 3)], [(2, 1), (1, 3)], "q", None),
    ([(1, 0)], [(2, 3), (2, 0)], "v", AT),
    ([(0, 2), (0, 0), (2, 1)], [(1, 2), (2, 3)], "k", AT),
)


@exercise(
    "05",
    look="section 8: one recording run for each layer that holds a receiver, with the sum of the earlier senders' messages",
    points=3,
    takes="model tokens new orig metric senders receivers component at",
)
def check_joint_senders(learner: Callable) -> str:
    for model in both_models():
        runs = Runs(model)
        for senders, receivers, component, at in SENDERS:
            given = (runs.tokens, runs.new, runs.orig, runs.metric, list(senders), list(receivers), component, at)
            held = require_equal(
                call(learner, model, *given),
                runs.path(list(senders), receivers, component, at),
                f"the metric with {len(senders)} senders into {component} of two heads together, on {model.cfg.model_name}",
                mistakes=_joint_mistakes(runs, senders, receivers, component, at),
            )
    return f"several senders and one, receivers in one layer and in two, queries, keys and values ({held})"


def _joint_mistakes(runs: Runs, senders, receivers, component: str, at) -> dict[str, Callable]:
    path = partial(runs.path, receivers=receivers, component=component, at=at)
    base, shared = runs.metric(runs.model(runs.tokens)), runs.model.cfg.n_heads // runs.orig[component, 0].shape[2]

    def sent(layer: int, of=senders, later: bool = False, places=at) -> Tensor:
        total = torch.zeros_like(runs.orig["resid_pre", 0])
        where = slice(None) if places is None else (torch.arange(len(total)), places)
        for sender in of:
            if later or sender[0] < layer:
                total[where] += runs.message(*sender)[where]
        return total

    def joint(site: str = "ln1.hook_in", one_run: bool = False, **kwargs) -> Tensor:
        layers = sorted({layer for layer, _ in receivers})
        told = {}
        for group in [layers] if one_run else [[layer] for layer in layers]:
            with runs.model.hooks(
                fwd_hooks=[_added(f"blocks.{layer}.{site}", sent(layer, **kwargs)) for layer in group]
            ):
                _, cache = runs.model.run_with_cache(runs.tokens)
            told |= {f"blocks.{layer}.attn.hook_{component}": cache[component, layer] for layer in group}

        def read(activation: Tensor, hook) -> Tensor:
            activation = activation.clone()
            for layer, head in receivers:
                if hook.name == f"blocks.{layer}.attn.hook_{component}":
                    activation[:, :, head // shared] = told[hook.name][:, :, head // shared]
            return activation

        return runs.run(*((name, read) for name in told))

    return {
        "the effects of single senders are added up: the receivers must read all messages at once":
            lambda: base + sum(path(sender) - base for sender in senders),
        "only the first sender is sent": lambda: path(senders[0]),
        "only the last sender is sent: the sum is overwritten": lambda: path(senders[-1]),
        "senders after a receiver's layer are counted: it can hear earlier layers only": lambda: joint(later=True),
        "receivers hear one another: one recording run for each layer that holds a receiver": lambda: joint(one_run=True),
        "the message is added behind the norm: at ln1.hook_in": lambda: joint("ln1.hook_out"),
        "the messages are sent at every position: only at `at`": lambda: joint(places=None),
        "every prompt gets the message at the positions of all prompts: index rows and positions together":
            lambda: joint(places=None if at is None else at[:, None]),
        "only the first receiver is exchanged": lambda: path(list(senders), receivers=receivers[:1]),
        "only the last receiver is exchanged": lambda: path(list(senders), receivers=receivers[-1:]),
        "the message is subtracted: new minus orig": lambda: joint_negative(runs, joint, senders),
        "nothing is exchanged: this is the unpatched metric": lambda: base,
        "the unpatched metric is subtracted: return the metric itself": lambda: path(list(senders)) - base,
        "the two runs are exchanged": lambda: path(list(senders), swapped=True),
    }  # fmt: skip


def joint_negative(runs: Runs, joint: Callable, senders) -> Tensor:
    """`joint` with the two caches exchanged for the message alone."""
    runs.new, runs.orig = runs.orig, runs.new
    try:
        return joint()
    finally:
        runs.new, runs.orig = runs.orig, runs.new


@exercise(
    "05",
    look="section 8: later ln1.hook_in, ln2.hook_in from the head's own layer on, and ln_final.hook_in",
    points=2,
    takes="model tokens new orig metric layer head",
)
def check_all_out_edges(learner: Callable) -> str:
    for model in both_models():
        runs, n_layers = Runs(model), model.cfg.n_layers
        for layer, head in ((0, 3), (1, 0), (2, 2)):
            delta = runs.message(layer, head)

            def told(
                attention=layer + 1, mlp=layer, logits=True, delta=delta, n_layers=n_layers, runs=runs, also=()
            ) -> Tensor:
                names = [f"blocks.{i}.ln1.hook_in" for i in range(attention, n_layers)]
                names += [f"blocks.{i}.ln2.hook_in" for i in range(mlp, n_layers)] + ["ln_final.hook_in"] * logits
                return runs.run(*(_added(name, delta) for name in names), *also)

            held = require_equal(
                call(learner, model, runs.tokens, runs.new, runs.orig, runs.metric, layer, head),
                runs.patched(layer, head),
                f"activation patching of L{layer}H{head} on {model.cfg.model_name}",
                mistakes={
                    "the MLP of the head's own layer is left out: it comes after attention and hears the head":
                        lambda: told(mlp=layer + 1),
                    "the logits are left out: they read the stream, too": lambda: told(logits=False),
                    "the MLPs are left out": lambda: told(mlp=n_layers),
                    "later attention is left out": lambda: told(attention=n_layers),
                    "only the logits are told: all later readers are": lambda: told(n_layers, n_layers),
                    "the attention of the head's own layer is told: it cannot hear itself": lambda: told(attention=layer),
                    "earlier MLPs are told: the message exists only from the head's layer on": lambda: told(mlp=0),
                    "earlier attention is told: the message exists only after the head's layer": lambda: told(attention=0),
                    "the message counts twice: the head's own z stays as it is":
                        lambda: told(also=[runs.send(layer, head)]),
                    "the message is orig minus new: send new minus orig": lambda: told(delta=-delta),
                    "the message is what the head writes in new: send the difference":
                        lambda: told(delta=runs.new["z", layer][:, :, head] @ model.W_O[layer, head]),
                    "only the last position is told": lambda: told(
                        delta=delta * (torch.arange(delta.shape[1]) == delta.shape[1] - 1)[:, None]
                    ),
                },
            )  # fmt: skip
    return f"activation patching of a head in each layer, from its edges alone ({held})"
