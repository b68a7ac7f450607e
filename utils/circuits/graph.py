"""The edges of a circuit: who could tell whom, and single edges with how much of the answer depends on them.

Every part of a model that writes to the residual stream is a writer: the embedding, each head, each MLP. Every part that
reads it is a reader: the query, key and value inputs of each head, each MLP, and the logits. Heads that share a key or a
value are one reader. There is an edge from each writer to each reader that comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from utils.attribution import head_name, top_heads
from utils.circuits.path_options import EMBED, Node

LOGITS = "logits"
COMPONENT_NAMES = {"q": "query", "k": "key", "v": "value", "": ""}
# What reads ("q", "k", "v", "mlp" or "logits"), its layer, and its head (0 for the last two).
Reader = tuple[str, int, int]


@dataclass(frozen=True)
class Edge:
    """One direct path.

    sender: a head (layer, head) or an MLP (layer, "mlp"); it writes at the role `at`. receiver: a head, or "logits";
    component: "q", "k" or "v" of the head, "" for the logits; the receiver writes at the role `to`. effect: how much the path
    adds to the metric, so that a positive one helps.
    """

    sender: Node
    at: str
    receiver: Node | str
    to: str
    effect: float
    component: str = ""

    def __post_init__(self) -> None:
        if self.component not in COMPONENT_NAMES or (self.receiver == LOGITS) != (self.component == ""):
            raise ValueError(
                f"component={self.component!r} of {self.receiver!r}: give 'q', 'k' or 'v' of a head, and none of the logits"
            )

    def __str__(self) -> str:
        into = f"the {COMPONENT_NAMES[self.component]} of " if self.component else ""
        return f"{node_name(self.sender)} at {self.at} → {into}{node_name(self.receiver)}"


def node_name(node: Node | str) -> str:
    """L9H9 for a head, "MLP 0" for an MLP, "embedding", "logits" for the logits."""
    if isinstance(node, str):
        return node
    if node == EMBED:
        return "embedding"
    layer, part = node
    return f"MLP {layer}" if part == "mlp" else head_name(layer, part)


def strongest_edges(
    effects: Float[Tensor, "layer head"],
    at: str,
    receiver: Node | str,
    to: str,
    component: str = "",
    least: float = 0.02,
) -> list[Edge]:
    """The edges of a sweep from every head, strongest first: those whose effect, of either sign, is at least `least`.

    effects: what each path adds to the metric: of a noising sweep, its negative.
    """
    chosen: Sequence[Node] = top_heads(effects.abs(), int((effects.abs() >= least).sum()))
    return [Edge(head, at, receiver, to, effects[head].item(), component) for head in chosen]


# --- the whole graph ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EdgeGraph:
    """All writers and readers of a model, in the order in which they are computed. `edge_graph` makes it.

    writers: the embedding, then in each layer the heads and the MLP. readers: in each layer the queries of all heads, the
    keys and the values of all key/value heads, and the MLP; then the logits. Tables over edges are [reader, writer].
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int

    @cached_property
    def writers(self) -> tuple[Node, ...]:
        parts = (*range(self.n_heads), "mlp")
        return (EMBED, *((layer, part) for layer in range(self.n_layers) for part in parts))

    @cached_property
    def readers(self) -> tuple[Reader, ...]:
        heads = {"q": self.n_heads, "k": self.n_kv_heads, "v": self.n_kv_heads, "mlp": 1}
        found = [(site, layer, i) for layer in range(self.n_layers) for site, n in heads.items() for i in range(n)]
        return (*found, (LOGITS, self.n_layers, 0))

    @cached_property
    def exists(self) -> Bool[Tensor, "reader writer"]:
        """Where there is an edge: a writer that comes before a reader."""
        before = torch.tensor([self.n_before(site, layer) for site, layer, _ in self.readers])
        return torch.arange(len(self.writers)) < before[:, None]

    @property
    def n_edges(self) -> int:
        return int(self.exists.sum())

    def n_before(self, site: str, layer: int) -> int:
        """How many writers come before this reader: they are the first so many of `writers`."""
        return 1 + layer * (self.n_heads + 1) + (self.n_heads if site == "mlp" else 0)

    def heads_of(self, layer: int) -> slice:
        """The writers that are heads of this layer; its MLP is the writer after them."""
        first = self.n_before("q", layer)
        return slice(first, first + self.n_heads)

    def attention_readers(self, layer: int) -> slice:
        """The readers in this layer's attention: queries, keys, values. The layer's MLP is the reader after them."""
        n = self.n_heads + 2 * self.n_kv_heads
        return slice(layer * (n + 1), layer * (n + 1) + n)

    def reader(self, site: str, layer: int | None = None, head: int = 0) -> int:
        """The number of a reader. head: the number of a key/value head for "k" and "v". Raises ValueError for another."""
        wanted = (site, self.n_layers if layer is None else layer, head)
        if wanted not in self.readers:
            raise ValueError(
                f"{wanted} is no reader: give 'q', 'k', 'v' or 'mlp' with a layer from 0 to {self.n_layers - 1}, or 'logits'"
            )
        return self.readers.index(wanted)

    def writer(self, node: Node) -> int:
        """The number of a writer: a head (layer, head), an MLP (layer, "mlp"), or EMBED. Raises ValueError for another."""
        if node not in self.writers:
            raise ValueError(f'{node} is no writer: give a head (layer, head), an MLP (layer, "mlp"), or EMBED')
        return self.writers.index(node)

    def edge_name(self, reader: int, writer: int) -> str:
        """Such as "L5H5 → v of L8H6"; heads that share a key or a value are named by its number: "k of L8kv2"."""
        return f"{node_name(self.writers[writer])} → {self.reader_name(reader)}"

    def reader_name(self, reader: int) -> str:
        site, layer, head = self.readers[reader]
        if site in (LOGITS, "mlp"):
            return LOGITS if site == LOGITS else node_name((layer, "mlp"))
        shared = site != "q" and self.n_kv_heads != self.n_heads
        return f"{site} of {f'L{layer}kv{head}' if shared else head_name(layer, head)}"


def edge_graph(cfg) -> EdgeGraph:
    """The graph of a model, from its configuration (`model.cfg`): anything with n_layers, n_heads and n_key_value_heads."""
    return EdgeGraph(cfg.n_layers, cfg.n_heads, getattr(cfg, "n_key_value_heads", None) or cfg.n_heads)
