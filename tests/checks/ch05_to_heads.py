"""Checks of chapter 05, second part: edges, paths into heads, and many edges at once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import Tensor
from transformer_lens import ActivationCache

from tests.checks.calling import call
from tests.checks.ch05_runs import AT, Runs, added, both_runs, both_runs_shared_first
from tests.checks.comparing import Mistakes, once, require_equal, together
from tests.checks.core import exercise

# --- one sender, every receiver -----------------------------------------------------------------------------------------


EDGES = (("q", [1]), ("k", [2, 1]), ("v", None))  # component, layers


@exercise(
    "05",
    look="section 4: add delta at ln1.hook_in, cache the component, then exchange one head's in a run of its own",
    points=3,
    takes="model tokens delta component metric layers",
)
def check_edge_patch(learner: Callable) -> str:
    for runs in both_runs():
        for case, (component, layers) in enumerate(EDGES):
            want, mistakes = _edges(runs, case)
            given = (runs.tokens, _delta(runs, component), component, runs.metric)
            held = require_equal(
                call(learner, runs.model, *given, **_chosen(layers=layers)),
                want,
                f"the metric with one head's {component} reading delta, on {runs.model.cfg.model_name}",
                axes="layer head",
                mistakes=mistakes,
            )
    return f"queries, keys and values of every head, in front of the norm; shared keys and values once ({held})"


@cache
def _delta(runs: Runs, component: str) -> Tensor:
    """A message, and a little more at every position: the two runs agree at the first ones."""
    message = runs.message(0, 1) * (1.5 if component == "q" else 1.0)
    return message + 0.3 * torch.randn(message.shape, generator=torch.Generator().manual_seed(7))


def _chosen(**arguments) -> dict:
    """The optional arguments of a call: those that are not None, so that the defaults are tried too."""
    return {name: value for name, value in arguments.items() if value is not None}


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
    told = _told_of_delta(runs, delta, f"blocks.{layer}.{site}", name)

    def read(activation: Tensor, hook) -> Tensor:
        activation = activation.clone()
        where = (slice(None), slice(None) if at is None else at) + (() if every else (head,))
        activation[where] = told[where]
        return activation

    return runs.run((name, read))


@cache
def _told_of_delta(runs: Runs, delta: Tensor, site: str, name: str) -> Tensor:
    """The activation of this name in the run that has delta at `site`."""
    with runs.model.hooks(fwd_hooks=[added(site, delta)]):
        return runs.model.run_with_cache(runs.tokens, names_filter=name)[1][name]


@cache
def _edges(runs: Runs, case: int) -> tuple[Tensor, Mistakes]:
    component, layers = EDGES[case]
    delta = _delta(runs, component)
    table = partial(_receivers_table, runs, component, layers=layers)
    edge, n_heads = partial(_edge, runs, delta, component), runs.model.cfg.n_heads
    shared = n_heads // runs.orig[component, 0].shape[2]
    others = {"q": "the query", "k": "the key", "v": "the value"}

    def reading(other: Tensor) -> Tensor:
        return table(partial(_edge, runs, other, component))

    def wide(fill: Callable[[Tensor], Tensor]) -> Tensor:
        return fill(table(edge)) if shared > 1 else table(edge)

    mistakes = {
        "delta is added after the norm: add it at ln1.hook_in, so that the norm divides by the new length": lambda: (
            table(partial(edge, site="ln1.hook_out"))
        ),
        "delta goes into the stream itself, so that everything after reads it: exchange the head's component alone": lambda: (
            table(lambda receiver: runs.run(added(f"blocks.{receiver[0]}.hook_resid_pre", delta)))
        ),
        "delta reaches all of this layer's attention: exchange one component of one head": lambda: table(
            lambda receiver: runs.run(added(f"blocks.{receiver[0]}.ln1.hook_in", delta))
        ),
        "all heads of the layer are exchanged: one head in each run": lambda: table(partial(edge, every=True)),
        "only the last position is exchanged: exchange the head's component at every position": lambda: table(
            partial(edge, at=-1)
        ),
        "delta is subtracted: add it": lambda: reading(-delta),
        "nothing is exchanged: does your hook return the activation?": lambda: table(lambda receiver: runs.base),
        "the unpatched metric is subtracted: return the metric itself": lambda: table(edge) - runs.base,
        "every prompt gets the first prompt's delta: each has its own": lambda: reading(delta[:1].expand_as(delta)),
        "delta is averaged over positions: each has its own": lambda: reading(
            delta.mean(1, keepdim=True).expand_as(delta)
        ),
        "position 0 is left out: delta is added at every position": lambda: reading(
            torch.cat([0 * delta[:, :1], delta[:, 1:]], 1)
        ),
        "a shared key or value stands once for each query head: it needs one column": lambda: wide(
            lambda found: found.repeat_interleave(shared, 1)
        ),
        "columns of zeros follow the shared keys or values: return one column for each of them": lambda: wide(
            lambda found: torch.cat([found, torch.zeros(len(found), n_heads - found.shape[1])], 1)
        ),
        "the rows are not the layers that were asked for": lambda: _receivers_table(
            runs, component, edge, None if layers is None else range(len(layers))
        ),
        "the rows are in the order of the layers, not in the order that was asked for": lambda: _receivers_table(
            runs, component, edge, None if layers is None else sorted(layers)
        ),
    }
    for other in "qkv".replace(component, ""):
        if runs.orig[other, 0].shape[2] == runs.orig[component, 0].shape[2]:
            message = f"{others[other]} is exchanged, whatever `component` says"
            mistakes[message] = lambda other=other: table(partial(_edge, runs, delta, other))
    return table(edge), once(mistakes)


# --- every sender, given receivers --------------------------------------------------------------------------------------

RECEIVERS = (  # heads, component, position in each prompt, layers of the senders; the first tells most mistakes apart
    ([(2, 3), (1, 0), (2, 2)], "k", None, [1, 0]),  # two of them share a key in the Llama
    ([(2, 1), (1, 3)], "q", AT, [0]),
    ([(1, 2), (2, 3)], "v", AT, None),
)


@exercise(
    "05",
    look="section 5: step 1 holds everything but the sender and caches; step 2 holds nothing and exchanges all receivers",
    points=4,
    takes="model tokens new orig metric receivers component at layers",
)
def check_path_patch_to_heads(learner: Callable) -> str:
    for runs in both_runs_shared_first():
        for case, (receivers, component, at, layers) in enumerate(RECEIVERS):
            given = (runs.tokens, runs.new, runs.orig, runs.metric, list(receivers), component)
            want, mistakes = _to_heads(runs, case)
            held = require_equal(
                call(learner, runs.model, *given, **_chosen(at=at, layers=layers)),
                want,
                f"the metric of every path into {component} of {len(receivers)} heads on {runs.model.cfg.model_name}",
                axes="layer head",
                mistakes=mistakes,
            )
    return f"two plain runs agree, for queries, keys and values, shared ones too, of heads in two layers ({held})"


def _told_by(
    runs: Runs, receivers, component: str, hooks, second=(), wrong_group: bool = False, added_up: bool = False
) -> Tensor:
    """Step 1 with these hooks, step 2 with `second` beside the exchange."""
    shared = runs.model.cfg.n_heads // runs.orig[component, 0].shape[2]
    names = {f"blocks.{layer}.attn.hook_{component}" for layer, _ in receivers}
    with runs.model.hooks(fwd_hooks=list(hooks)):
        _, told = runs.model.run_with_cache(runs.tokens, names_filter=lambda name: name in names)

    def read(activation: Tensor, hook) -> Tensor:
        before, activation = activation, activation.clone()
        for layer, head in receivers:
            if hook.name == f"blocks.{layer}.attn.hook_{component}":
                index = head % activation.shape[2] if wrong_group else head // shared
                news = told[hook.name][:, :, index]
                activation[:, :, index] += news - (before[:, :, index] if added_up else activation[:, :, index])
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


@cache
def _to_heads(runs: Runs, case: int) -> tuple[Tensor, Mistakes]:
    receivers, component, at, layers = RECEIVERS[case]
    table = partial(runs.table, layers=layers)
    path = partial(runs.path, receivers=receivers, component=component, at=at)
    told = partial(_told_by, runs, receivers, component)
    order = [head for row in runs.heads(layers) for head in row]
    shared = runs.model.cfg.n_heads // runs.orig[component, 0].shape[2]
    n_shared = runs.orig[component, 0].shape[2]
    last_of_each = list(dict(receivers).items())  # a dictionary layer → head keeps one of each layer
    mistakes = {
        **({"only one receiver of a layer is exchanged: a layer may hold several":
            lambda: table(lambda head: path(head, receivers=last_of_each))} if last_of_each != list(receivers) else {}),
        "the wrong shared key or value receives: query head h uses number h // (n_heads // n_key_value_heads)":
            lambda: table(lambda head: told(_holds(runs, head, at), wrong_group=True)),
        "a shared key or value is changed once for each of its query heads: set it, and do not add to it":
            lambda: table(lambda head: told(_holds(runs, head, at), added_up=True)),
        "no path is open: either a hook that holds the sender's z overwrites what you sent, or the receivers' "
        "component is frozen before it is cached": lambda: table(lambda head: runs.base),
        "only the first receiver is exchanged: all of them, in one run":
            lambda: table(lambda head: path(head, receivers=receivers[:1])),
        "only the last receiver is exchanged: all of them, in one run":
            lambda: table(lambda head: path(head, receivers=receivers[-1:])),
        "the unpatched metric is subtracted: return the metric itself": lambda: table(path) - runs.base,
        "the receivers are exchanged one by one, and their effects added up: all of them, in one run": lambda: table(
            lambda head: runs.base + sum(path(head, receivers=[receiver]) - runs.base for receiver in receivers)
        ),
        "the receivers are exchanged one by one, and the metrics averaged: all of them, in one run": lambda: table(
            lambda head: torch.stack([path(head, receivers=[receiver]) for receiver in receivers]).mean()
        ),
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
        "head h uses shared key or value h // (n_heads // n_key_value_heads): you divided by the number of shared ones":
            lambda: table(lambda head: path(head, receivers=[(layer, h // n_shared * shared) for layer, h in receivers])),
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
    return table(path), once(mistakes)


# --- many edges at once -------------------------------------------------------------------------------------------------

SENDERS = (  # senders, receivers, component, position in each prompt
    ([(0, 2), (2, 1), (0, 0), (1, 3)], [(1, 2), (2, 3)], "k", AT),
    ([(0, 1), (1, 2), (0, 3)], [(2, 1), (1, 3)], "q", None),
    ([(1, 0)], [(2, 3), (2, 0)], "v", AT),
)


@exercise(
    "05",
    look="section 8: one recording run for each layer that holds a receiver, with the sum of the earlier senders' messages",
    points=3,
    takes="model tokens new orig metric senders receivers component at",
)
def check_joint_senders(learner: Callable) -> str:
    for runs in both_runs_shared_first():
        got = []
        for senders, receivers, component, at in SENDERS:
            given = (runs.tokens, runs.new, runs.orig, runs.metric, list(senders), list(receivers), component)
            got.append(call(learner, runs.model, *given, **_chosen(at=at)))
        want, mistakes = _joint_sets(runs)
        held = require_equal(
            None if any(value is None for value in got) else got,
            want,
            f"the metric with several senders and receivers together, three sets of them, on {runs.model.cfg.model_name}",
            axes="set",
            mistakes=mistakes,
        )
    return f"several senders and one, receivers in one layer and in two, queries, keys and values ({held})"


@cache
def _joint_sets(runs: Runs) -> tuple[Tensor, Mistakes]:
    return together([_joint(runs, case) for case in range(len(SENDERS))])


@cache
def _joint(runs: Runs, case: int) -> tuple[Tensor, Mistakes]:
    senders, receivers, component, at = SENDERS[case]
    path = partial(runs.path, receivers=receivers, component=component, at=at)
    base, shared = runs.base, runs.model.cfg.n_heads // runs.orig[component, 0].shape[2]

    def sent(
        layer: int, heard: Callable = operator.lt, places=at, message: Callable = runs.message, last: bool = False
    ) -> Tensor:
        total = torch.zeros_like(runs.orig["resid_pre", 0])
        where = slice(None) if places is None else (torch.arange(len(total)), places)
        for sender in [sender for sender in senders if heard(sender[0], layer)][-1 if last else 0 :]:
            total[where] += message(*sender)[where]
        return total

    def wrote(of: ActivationCache) -> Callable:
        return lambda layer, head: of["z", layer][:, :, head] @ runs.model.W_O[layer, head]

    def joint(site: str = "ln1.hook_in", one_run: bool = False, alone: bool = False, **kwargs) -> Tensor:
        layers = sorted({layer for layer, _ in receivers})
        told = {}
        for group in [layers] if one_run else [[layer] for layer in layers]:
            with runs.model.hooks(
                fwd_hooks=[added(f"blocks.{layer}.{site}", sent(layer, **kwargs), alone) for layer in group]
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

    return path(list(senders)), once({
        "the effects of single senders are added up: the receivers must read all messages at once":
            lambda: base + sum(path(sender) - base for sender in senders),
        "only one receiver of a layer is exchanged: a layer may hold several":
            lambda: path(list(senders), receivers=list(dict(receivers).items())),
        "the metrics of single senders are averaged: the receivers must read all messages at once":
            lambda: sum(path(sender) for sender in senders) / len(senders),
        "only one sender of a layer is sent: a layer may hold several": lambda: path(list(dict(senders).items())),
        "only the first sender is sent": lambda: path(senders[0]),
        "only the last sender is sent": lambda: path(senders[-1]),
        "senders of the receiver's own layer are counted: it can hear earlier layers only": lambda: joint(heard=operator.le),
        "senders after a receiver's layer are counted: it can hear earlier layers only":
            lambda: joint(heard=lambda sending, receiving: True),
        "later senders are counted in place of earlier ones: a receiver hears earlier layers":
            lambda: joint(heard=operator.gt),
        "the sum is overwritten: of the senders that a receiver hears, only the last one is left; add them up (+=)":
            lambda: joint(last=True),
        "the message is the sum of both runs' outputs: new minus orig":
            lambda: joint(message=lambda *head: wrote(runs.new)(*head) + wrote(runs.orig)(*head)),
        "the message is what the head writes in new: send the difference": lambda: joint(message=wrote(runs.new)),
        "the message is what the head writes in orig: send the difference, new minus orig":
            lambda: joint(message=wrote(runs.orig)),
        "the receivers read the message alone: add it to their stream": lambda: joint(alone=True),
        "receivers hear one another: one recording run for each layer that holds a receiver": lambda: joint(one_run=True),
        "the message is added after the norm: add it at ln1.hook_in": lambda: joint("ln1.hook_out"),
        "the messages are sent at every position: only at `at`": lambda: joint(places=None),
        "every prompt gets the message at the positions of all prompts: index rows and positions together":
            lambda: joint(places=None if at is None else at[:, None]),
        "only the first receiver is exchanged": lambda: path(list(senders), receivers=receivers[:1]),
        "only the last receiver is exchanged": lambda: path(list(senders), receivers=receivers[-1:]),
        "the message is subtracted: new minus orig": lambda: joint(message=lambda *head: -runs.message(*head)),
        "nothing is exchanged: this is the unpatched metric": lambda: base,
        "the unpatched metric is subtracted: return the metric itself": lambda: path(list(senders)) - base,
        "the two runs are exchanged": lambda: path(list(senders), swapped=True),
    })  # fmt: skip


SENDING = ((0, 3), (1, 0), (2, 2))  # a head in each layer


@exercise(
    "05",
    look="section 8: later ln1.hook_in, ln2.hook_in from the head's own layer on, and ln_final.hook_in",
    points=2,
    takes="model tokens new orig metric layer head",
)
def check_all_out_edges(learner: Callable) -> str:
    for runs in both_runs():
        given = (runs.tokens, runs.new, runs.orig, runs.metric)
        got = [call(learner, runs.model, *given, layer, head) for layer, head in SENDING]
        want, mistakes = _out_edges_of_three(runs)
        held = require_equal(
            None if any(value is None for value in got) else got,
            want,
            f"activation patching of {', '.join(f'L{layer}H{head}' for layer, head in SENDING)}, one after the other, "
            f"on {runs.model.cfg.model_name}",
            axes="head",
            mistakes=mistakes,
        )
    return f"activation patching of a head in each layer, from its edges alone ({held})"


@cache
def _out_edges_of_three(runs: Runs) -> tuple[Tensor, Mistakes]:
    return together([_out_edges(runs, layer, head) for layer, head in SENDING])


@cache
def _out_edges(runs: Runs, layer: int, head: int) -> tuple[Tensor, Mistakes]:
    delta, n_layers = runs.message(layer, head), runs.model.cfg.n_layers

    def told(attention=layer + 1, mlp=layer, logits=True, delta=delta, also=(), alone=False) -> Tensor:
        names = [f"blocks.{i}.ln1.hook_in" for i in range(attention, n_layers)]
        names += [f"blocks.{i}.ln2.hook_in" for i in range(mlp, n_layers)] + ["ln_final.hook_in"] * logits
        return runs.run(*(added(name, delta, alone) for name in names), *also)

    return runs.patched(layer, head), once(
        {
            "the MLP of the head's own layer is left out: it comes after attention and hears the head": lambda: told(
                mlp=layer + 1
            ),
            "the logits are left out: they read the stream, too": lambda: told(logits=False),
            "the MLPs are left out": lambda: told(mlp=n_layers),
            "later attention is left out": lambda: told(attention=n_layers),
            "only the logits are told: all later readers are": lambda: told(n_layers, n_layers),
            "the attention of the head's own layer is told: it cannot hear itself": lambda: told(attention=layer),
            "attention is told from layer 1 on, whatever the head's layer": lambda: told(attention=1),
            "attention is told from the layer before the head's on: it hears the head from the next layer on": lambda: (
                told(attention=layer - 1) if layer else torch.tensor(torch.nan)
            ),
            "the next layer's attention is left out: it is the first that hears the head": lambda: told(
                attention=layer + 2
            ),
            "earlier MLPs are told: the message exists only from the head's layer on": lambda: told(mlp=0),
            "earlier attention is told: the message exists only after the head's layer": lambda: told(attention=0),
            "the message counts twice: the head's own z stays as it is": lambda: told(also=[runs.send(layer, head)]),
            "the message is orig minus new: send new minus orig": lambda: told(delta=-delta),
            "the message is what the head writes in orig: send the difference, new minus orig": lambda: told(
                delta=runs.orig["z", layer][:, :, head] @ runs.model.W_O[layer, head]
            ),
            "the message is the sum of both runs' outputs: send the difference": lambda: told(
                delta=(runs.new["z", layer][:, :, head] + runs.orig["z", layer][:, :, head])
                @ runs.model.W_O[layer, head]
            ),
            "the readers read the message alone: add it to their stream": lambda: told(alone=True),
            "nobody is told: this is the unpatched metric": lambda: runs.base,
            "the message is what the head writes in new: send the difference": lambda: told(
                delta=runs.new["z", layer][:, :, head] @ runs.model.W_O[layer, head]
            ),
            "only the last position is told": lambda: told(
                delta=delta * (torch.arange(delta.shape[1]) == delta.shape[1] - 1)[:, None]
            ),
        }
    )
