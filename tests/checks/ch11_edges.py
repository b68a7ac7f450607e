"""Checks of chapter 11, first part: which edges there are, and their scores, exact and estimated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from types import SimpleNamespace

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.ch05_runs import CLEAN, OTHER, Runs, runs_of
from tests.checks.comparing import Mistakes, as_tensor, once, require_equal
from tests.checks.core import exercise, require
from tests.plain_paths import edge_by_hooks, written
from utils.circuits.edge_run import EdgeRun
from utils.circuits.graph import EdgeGraph, Reader, edge_graph
from utils.tiny_models import tiny_model

# --- the graph --------------------------------------------------------------------------------------------------------

SHAPES = ((3, 4, None), (3, 4, 2), (2, 5, 1), (1, 3, 3))  # layers, heads, key/value heads


@exercise(
    "11",
    look="section 1: how many writers come before each reader",
    points=2,
    takes="cfg",
)
def check_edge_mask(learner: Callable) -> str:
    for n_layers, n_heads, shared in SHAPES:
        cfg = SimpleNamespace(n_layers=n_layers, n_heads=n_heads, n_key_value_heads=shared)
        given, found = dict(vars(cfg)), call(learner, cfg)
        require(
            vars(cfg) == given,
            "cfg before and after your function: a setting has changed",
            "leave cfg as it is: put the number of keys into a variable of your own",
        )
        held = require_equal(
            found,
            _mask(n_layers, n_heads, shared),
            f"the edges of {n_layers} layers of {n_heads} heads with {shared or n_heads} keys and values",
            axes="reader writer",
            mistakes=_mask_mistakes(n_layers, n_heads, shared),
        )
    return f"every edge of four small models, with keys and values of their own and shared ones ({held})"


def _mask(
    n_layers: int,
    n_heads: int,
    shared: int | None,
    same_mlp=False,
    logits=True,
    embedding=True,
    last_mlp=True,
    own=False,
    heads_hear=False,
    mlp_hears=True,
    only_queries=False,
    order="qkvm",
    strict=True,
    every=False,
) -> Tensor:
    """The table, node by node; each keyword is something to get wrong."""
    kv = n_heads if own or shared is None else shared
    writers = [(-1, "embed")] * embedding
    readers = []
    for layer in range(n_layers):
        writers += [(layer, head) for head in range(n_heads)] + [(layer, "mlp")]
        parts = {"q": n_heads, "k": 0 if only_queries else kv, "v": 0 if only_queries else kv, "m": 1}
        readers += [(site, layer) for site in order for _ in range(parts[site])]
    readers += [("logits", n_layers)] * logits
    if not last_mlp:
        writers = writers[:-1]

    def hears(reader: tuple, writer: tuple) -> bool:
        (site, at), (layer, part) = reader, writer
        before = layer < at or not strict
        if layer == at and site == "m":
            return (mlp_hears and part != "mlp") or (same_mlp and part == "mlp")
        if layer == at and site in "qkv":
            return heads_hear and part != "mlp"
        return before or every

    return torch.tensor([[hears(reader, writer) for writer in writers] for reader in readers])


def _mask_mistakes(n_layers: int, n_heads: int, shared: int | None) -> Mistakes:
    wrong = partial(_mask, n_layers, n_heads, shared)
    kv = shared or n_heads
    turned = _mask(n_layers, n_heads, shared)
    return {
        "an MLP hears itself: it reads what comes before it": lambda: wrong(same_mlp=True),
        "an MLP does not hear the heads of its own layer: attention comes before it": lambda: wrong(mlp_hears=False),
        "heads hear the heads of their own layer: they work side by side": lambda: wrong(heads_hear=True),
        "the logits are missing: they read, too": lambda: wrong(logits=False),
        "the embedding is missing: it is the first writer": lambda: wrong(embedding=False),
        "the last MLP is missing: it writes, and the logits read it": lambda: wrong(last_mlp=False),
        "every head has a key and a value of its own here: use cfg.n_key_value_heads": lambda: wrong(own=True),
        "keys and values are missing: each of them reads, too": lambda: wrong(only_queries=True),
        "the MLP stands before its layer's attention": lambda: wrong(order="mqkv"),
        "rows are writers and columns readers: [reader, writer]": lambda: turned.T,
        "the table is true where there is no edge": lambda: ~turned,
        "readers hear one writer too many: those before them, and no more": lambda: _shifted(turned, 1),
        "readers hear one writer too few: those before them, the embedding counted": lambda: _shifted(turned, -1),
        "nobody hears anything of the first layer: layers count from 0": lambda: _by_count(
            n_layers, n_heads, kv, lambda layer: 1 + max(0, layer - 1) * (n_heads + 1)
        ),
        "a layer counts for its heads only: its MLP writes, too": lambda: _by_count(
            n_layers, n_heads, kv, lambda layer: 1 + layer * n_heads, turned.shape[1]
        ),
    }


def _shifted(mask: Tensor, by: int) -> Tensor:
    return torch.arange(mask.shape[1]) < (mask.sum(1) + by)[:, None]


def _by_count(
    n_layers: int, n_heads: int, kv: int, before: Callable[[int], int], n_writers: int | None = None
) -> Tensor:
    counts = []
    for layer in range(n_layers):
        counts += [before(layer)] * (n_heads + 2 * kv) + [before(layer) + n_heads]
    counts.append(before(n_layers))
    return torch.arange(n_writers or 1 + n_layers * (n_heads + 1)) < torch.tensor(counts)[:, None]


# --- exact effects ----------------------------------------------------------------------------------------------------

READERS: dict[
    str, tuple[Reader, ...]
] = {  # in several layers, so that none is taken for granted; few writers come before 0
    "llama": (("v", 1, 1), ("k", 2, 0), ("q", 0, 2), ("mlp", 0, 0), ("logits", 3, 0)),
    "gpt2": (("q", 1, 3), ("k", 0, 2), ("mlp", 2, 0)),
}


class EarlyRuns(Runs):
    """The runs of chapter 05, with a metric that looks at one more position: what it is given must be all logits."""

    def metric(self, logits: Tensor) -> Tensor:
        return super().metric(logits) + 0.4 * logits[:, 6, 3].mean()


@cache
def early_runs_of(model: TransformerBridge) -> EarlyRuns:
    return EarlyRuns(model)


@exercise(
    "11",
    look="section 2: the message at ln1, ln2 or ln_final's hook_in; for q, k, v one head in a second run",
    points=3,
    takes="model tokens messages metric reader",
)
def check_exact_edges(learner: Callable) -> str:
    for family, readers in READERS.items():
        model = tiny_model(family)
        runs, messages, got = early_runs_of(model), _messages(model), []
        for reader in readers:
            n = edge_graph(model.cfg).n_before(*reader[:2])
            found = call(learner, model, runs.tokens, messages[:n], runs.metric, reader)
            what = f"the effect of every edge into {reader} of {model.cfg.model_name}"
            found = as_tensor(found, torch.zeros(n), what, ["writer"])
            if found.shape != (n,):
                require_equal(found, torch.zeros(n), what, axes="writer")
            got.append(found)
        want, mistakes = _into_all(model)
        held = require_equal(
            torch.cat(got),
            want,
            f"the effects of all edges into {', '.join(map(str, readers))}, one after the other, of {model.cfg.model_name}",
            axes="edge",
            mistakes=mistakes,
        )
    return f"all edges into a query, a key, a value, an MLP and the logits, on a Llama and a GPT-2 ({held})"


@cache
def _into_all(model: TransformerBridge) -> tuple[Tensor, Mistakes]:
    """One reader after the other. A mistake that a reader does not know does no harm there."""
    cases = [_into(model, reader) for reader in READERS[model.cfg.model_name.removeprefix("tiny-")]]
    messages = dict.fromkeys(message for _, mistakes in cases for message in mistakes)

    def of_all(message: str) -> Tensor:
        return torch.cat([mistakes[message]() if message in mistakes else want for want, mistakes in cases])

    return torch.cat([want for want, _ in cases]), once({message: partial(of_all, message) for message in messages})


@cache
def _messages(model: TransformerBridge) -> Tensor:
    runs = early_runs_of(model)
    writers = edge_graph(model.cfg).writers
    return torch.stack([written(model, runs.new, writer) - written(model, runs.orig, writer) for writer in writers])


@cache
def _into(model: TransformerBridge, reader: Reader) -> tuple[Tensor, Mistakes]:
    runs, graph = early_runs_of(model), edge_graph(model.cfg)
    site, layer, head = reader
    messages = _messages(model)[: graph.n_before(site, layer)]

    def each(reader: Reader = reader, change: Callable = lambda message: message, base: bool = True) -> Tensor:
        values = [edge_by_hooks(model, runs.tokens, change(m), runs.metric, reader) for m in messages]
        return torch.stack(values) - (runs.base if base else 0)

    def hooked(name: str) -> Tensor:
        """The message added at a hook, and everything reacts."""
        return torch.stack([_added(runs, name, message) for message in messages]) - runs.base

    def alone(message: Tensor) -> Tensor:
        stream = {"mlp": ("resid_mid", layer), "logits": ("resid_post", model.cfg.n_layers - 1)}
        return message - runs.orig[stream.get(site, ("resid_pre", layer))]

    last_position = torch.arange(runs.tokens.shape[1]) == runs.tokens.shape[1] - 1
    mistakes = {
        "the metric itself is returned: subtract that of the run on tokens": lambda: each(base=False),
        "unpatched minus patched: what does the metric gain?": lambda: -each(),
        "the metric of the run on tokens is added: subtract it": lambda: each() + 2 * runs.base,
        "the message is subtracted: add it": lambda: each(change=lambda m: -m),
        "the readers read the message alone: add it to their stream": lambda: each(change=alone),
        "only the last position hears the message": lambda: each(change=lambda m: m * last_position[:, None]),
        "nothing is patched: does the hook return something, and is it the right hook?": lambda: 0 * each(),
        "every writer's effect is that of the last one: a function made in a loop sees its last values": lambda: each()[
            -1:
        ].expand(len(messages)),
        "every writer's effect is that of the first one": lambda: each()[:1].expand(len(messages)),
        "the messages pile up: start each run anew": lambda: _piled(runs, reader, messages),
    }
    if site in ("q", "k", "v"):
        shared, in_front = len(runs.orig[site, layer][0, 0]), f"blocks.{layer}.ln1.hook_in"
        react = "all heads of the layer react: exchange this one head's part in a second run"
        mistakes |= {
            react: lambda: hooked(in_front),
            f"{react}; this happens where the reader is a {site}": lambda: hooked(in_front),
            "nothing is exchanged where the reader is a query, a key or a value: put in what was told": lambda: (
                0 * each()
            ),
            "all heads of the layer are exchanged: only this head's query, key or value": lambda: (
                torch.stack([_all_heads(runs, site, layer, m) for m in messages]) - runs.base
            ),
            "the message goes into the stream itself, and everything hears it: at ln1.hook_in": lambda: hooked(
                f"blocks.{layer}.hook_resid_pre"
            ),
            "the head's number is divided: it is already that of the shared key or value": lambda: each(
                (site, layer, head * shared // model.cfg.n_heads)
            ),
            **{
                f"the {other} is exchanged, whatever the reader is": partial(each, (other, layer, head))
                for other in "qkv"
                if other != site and len(runs.orig[other, layer][0, 0]) > head
            },
            **{
                f"head {other} is exchanged, whatever the reader is": partial(each, (site, layer, other))
                for other in range(shared)
            },
        }
    else:
        norm = f"blocks.{layer}.ln2" if site == "mlp" else "ln_final"
        mistakes |= {
            "the message is added after the norm: add it at hook_in": lambda: hooked(f"{norm}.hook_out"),
            f"the message is added at ln1.hook_in where the reader is {site!r}": lambda: hooked(
                f"blocks.{min(layer, 2)}.ln1.hook_in"
            ),
            "the message goes into the stream itself, and everything after it hears it": lambda: hooked(
                f"blocks.{min(layer, 2)}.hook_resid_mid"
            ),
        }
    return each(), once(mistakes)


def _added(runs: Runs, name: str, message: Tensor) -> Tensor:
    return runs.run((name, lambda stream, hook: stream + message))


def _all_heads(runs: Runs, site: str, layer: int, message: Tensor) -> Tensor:
    name = f"blocks.{layer}.attn.hook_{site}"
    with runs.model.hooks(fwd_hooks=[(f"blocks.{layer}.ln1.hook_in", lambda stream, hook: stream + message)]):
        _, told = runs.model.run_with_cache(runs.tokens, names_filter=name)
    return runs.run((name, lambda activation, hook: told[name]))


def _piled(runs: Runs, reader: Reader, messages: Tensor) -> Tensor:
    sums = messages.cumsum(0)
    return torch.stack([edge_by_hooks(runs.model, runs.tokens, m, runs.metric, reader) for m in sums]) - runs.base


# --- estimates --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Gradients:
    """What every writer writes in two runs of one model, and gradients along the way between them."""

    model: TransformerBridge

    @cached_property
    def graph(self) -> EdgeGraph:
        return edge_graph(self.model.cfg)

    @cached_property
    def run(self) -> EdgeRun:
        """The receiving run is the one on CLEAN, as in chapter 05's checks; the lending run that on OTHER."""
        return EdgeRun(
            self.model, self.model.to_tokens(CLEAN), self.model.run_with_cache(self.model.to_tokens(OTHER))[1]
        )

    @cached_property
    def both(self) -> tuple[Tensor, Tensor]:
        runs = runs_of(self.model)
        return tuple(
            torch.stack([written(self.model, cache, writer) for writer in self.graph.writers])
            for cache in (runs.new, runs.orig)
        )

    @cached_property
    def known(self) -> dict[float, Tensor]:
        return {}

    def at(self, share: float) -> Tensor:
        """The gradients there; shares that agree to a millionth are the same."""
        share = round(float(share), 6)
        if share not in self.known:
            self.known[share] = self.run.gradients_at(share, runs_of(self.model).metric)
        return self.known[share].clone()


@cache
def gradients_of(model: TransformerBridge) -> Gradients:
    return Gradients(model)


def _score(gradients: Tensor, messages: Tensor) -> Tensor:
    return torch.einsum("rbpd,wbpd->rw", gradients, messages)


@exercise(
    "11",
    look="section 3: which axes are summed, and what stands where there is no edge",
    points=2,
    takes="new orig gradients exists",
)
def check_eap(learner: Callable) -> str:
    for model in (tiny_model("llama"), tiny_model("gpt2")):
        given = gradients_of(model)
        new, orig = given.both
        want, mistakes = _eap(model)
        held = require_equal(
            call(learner, new, orig, given.at(0), given.graph.exists),
            want,
            f"the score of every edge of {model.cfg.model_name}",
            axes="reader writer",
            mistakes=mistakes,
        )
    drawn = Drawn()
    want, mistakes = _eap_mistakes(*drawn.both, drawn.at(0), drawn.exists)
    require_equal(
        call(learner, *drawn.both, drawn.at(0), drawn.exists),
        want,
        f"the score of every edge, with numbers drawn at random and {int(drawn.exists.sum())} edges anywhere in the table",
        axes="reader writer",
        mistakes=mistakes,
    )
    return f"every edge of a Llama and of a GPT-2, zeros where there is none ({held})"


@dataclass(frozen=True)
class Drawn:
    """Messages, gradients along the way, and a table of edges, all drawn: every axis has a size of its own, and which edges
    exist cannot be told from their number."""

    n_readers: int = 6
    n_writers: int = 7
    rest: tuple[int, ...] = (3, 4, 5)  # batch pos d_model

    def drawn(self, *shape: int, seed: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    @property
    def both(self) -> tuple[Tensor, Tensor]:
        return self.drawn(self.n_writers, *self.rest, seed=1), self.drawn(self.n_writers, *self.rest, seed=2)

    @property
    def exists(self) -> Tensor:
        return self.drawn(self.n_readers, self.n_writers, seed=3) > 0

    def at(self, share: float) -> Tensor:
        """A curve through the gradients at both ends, so that it matters where along the way they are taken."""
        start, slope, bend = (self.drawn(self.n_readers, *self.rest, seed=seed) for seed in (4, 5, 6))
        return start + float(share) * slope + 2 * float(share) ** 3 * bend


def _by_number(exists: Tensor) -> Tensor:
    """As many edges in each row, but the first ones."""
    return torch.arange(exists.shape[1]) < exists.sum(1)[:, None]


@cache
def _eap(model: TransformerBridge) -> tuple[Tensor, Mistakes]:
    given = gradients_of(model)
    return _eap_mistakes(*given.both, given.at(0), given.graph.exists)


def _eap_mistakes(new: Tensor, orig: Tensor, gradients: Tensor, exists: Tensor) -> tuple[Tensor, Mistakes]:
    n_prompts, n_pos = new.shape[1:3]
    want = _score(gradients, new - orig) * exists
    return want, once({
        "the two runs are exchanged: the message is new minus orig": lambda: -want,
        "the message is what is written in new: subtract what is written in orig": lambda: _score(gradients, new) * exists,
        "the message is what is written in orig: new minus orig": lambda: _score(gradients, orig) * exists,
        "the two runs are added: new minus orig": lambda: _score(gradients, new + orig) * exists,
        "edges that do not exist have a score: put 0 there": lambda: _score(gradients, new - orig),
        "edges that exist have none: the mask is inverted": lambda: _score(gradients, new - orig) * ~exists,
        "which edges exist is worked out anew: the table `exists` says it":
            lambda: _score(gradients, new - orig) * _by_number(exists),
        "the score is averaged over prompts: the gradient is that of the whole metric, so add up": lambda: want / n_prompts,
        "the score is averaged over positions: add up": lambda: want / n_pos,
        "the score is averaged over prompts and positions: add up": lambda: want / n_prompts / n_pos,
        "only the last position counts: add up over positions":
            lambda: _score(gradients[:, :, -1:], (new - orig)[:, :, -1:]) * exists,
        "only the first prompt counts: add up over prompts": lambda: _score(gradients[:, :1], (new - orig)[:, :1]) * exists,
        "rows are writers and columns readers: [reader, writer]": lambda: want.T,
        "signs are lost: no absolute value": lambda: want.abs(),
        "gradients and messages are each summed first, and then multiplied: multiply, then sum":
            lambda: torch.einsum("rd,wd->rw", gradients.sum((1, 2)), (new - orig).sum((1, 2))) * exists,
        "prompts are summed before you multiply: each prompt has its own gradient":
            lambda: torch.einsum("rpd,wpd->rw", gradients.sum(1), (new - orig).sum(1)) * exists,
        "positions are summed before you multiply: each position has its own gradient":
            lambda: torch.einsum("rbd,wbd->rw", gradients.sum(2), (new - orig).sum(2)) * exists,
    })  # fmt: skip


STEPS = (4, 1, 5)


@exercise(
    "11",
    look="section 4: the midpoint rule, and then exercise 11.3",
    points=2,
    takes="messages gradients_at exists steps",
)
def check_eap_ig(learner: Callable) -> str:
    for model in (tiny_model("llama"), tiny_model("gpt2")):
        given = gradients_of(model)
        new, orig = given.both
        for steps in STEPS:
            want, mistakes = _ig(model, steps)
            held = require_equal(
                call(learner, new - orig, given.at, given.graph.exists, steps),
                want,
                f"the score of every edge of {model.cfg.model_name} with {steps} steps",
                axes="reader writer",
                mistakes=mistakes,
            )
    drawn, messages = Drawn(), Drawn().both[0]
    want, mistakes = _ig_mistakes(drawn.at, messages, drawn.exists, 3)
    require_equal(
        call(learner, messages, drawn.at, drawn.exists, 3),
        want,
        "the score of every edge, with numbers drawn at random and three steps",
        axes="reader writer",
        mistakes=mistakes,
    )
    return f"every edge of a Llama and of a GPT-2, with one, four and five steps ({held})"


@cache
def _ig(model: TransformerBridge, steps: int) -> tuple[Tensor, Mistakes]:
    given = gradients_of(model)
    new, orig = given.both
    return _ig_mistakes(given.at, new - orig, given.graph.exists, steps)


def _ig_mistakes(at: Callable, messages: Tensor, exists: Tensor, steps: int) -> tuple[Tensor, Mistakes]:
    def mean(points: list[float], divisor: float | None = None, exists: Tensor = exists) -> Tensor:
        return _score(sum(map(at, points)) / (divisor or len(points)), messages) * exists

    middles = [(i + 0.5) / steps for i in range(steps)]
    several = max(1, steps - 1)
    mistakes = {
        "the gradients are added up and not divided by steps": lambda: mean(middles, 1.0),
        "these are the beginnings of the parts: take their middles, (i + 0.5) / steps": lambda: mean(
            [i / steps for i in range(steps)]
        ),
        "these are the ends of the parts: take their middles, (i + 0.5) / steps": lambda: mean(
            [(i + 1) / steps for i in range(steps)]
        ),
        "these points go from one end to the other: take the middles of the parts": lambda: mean(
            [i / several for i in range(steps)]
        ),
        "one point too many: from 0 to steps - 1": lambda: mean([*middles, (steps + 0.5) / steps]),
        "one point too many, divided by steps: from 0 to steps - 1": lambda: mean(
            [*middles, (steps + 0.5) / steps], steps
        ),
        "the first part of the way is left out": lambda: mean(middles[1:], steps),
        "the last part of the way is left out": lambda: mean(middles[:-1], steps),
        "only the first gradient is used: average all of them": lambda: mean(middles[:1]),
        "only the last gradient is used: average all of them": lambda: mean(middles[-1:]),
        "only the last gradient is used, and divided by steps": lambda: mean(middles[-1:], steps),
        "the middles of the way are shifted down: (i + 0.5) / steps": lambda: mean(
            [(i - 0.5) / steps for i in range(steps)]
        ),
        "the middles of the way are shifted up by a whole part": lambda: mean(
            [(i + 1.5) / steps for i in range(steps)]
        ),
        "all gradients are those of orig: gradients_at takes the share of the way": lambda: mean([0.0]),
        "all gradients are those of new: gradients_at takes the share of the way": lambda: mean([1.0]),
        "the share is not divided by steps: it goes from 0 to 1": lambda: mean([i + 0.5 for i in range(steps)], steps),
        "edges that do not exist have a score: put 0 there": lambda: mean(middles, exists=torch.ones_like(exists)),
        "edges that exist have none: the mask is inverted": lambda: mean(middles, exists=~exists),
        "which edges exist is worked out anew: the table `exists` says it": lambda: mean(
            middles, exists=_by_number(exists)
        ),
        "the message has the wrong sign: it is already new minus orig": lambda: -mean(middles),
        "rows are writers and columns readers: [reader, writer]": lambda: mean(middles).T,
        "the product is multiplied by steps: divide by it": lambda: mean(middles, 1 / steps),
    }
    return mean(middles), once(mistakes)
