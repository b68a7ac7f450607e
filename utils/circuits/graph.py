"""The edges of a circuit: what one part tells another, where, and how much of the answer depends on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from utils.attribution import head_name, top_heads
from utils.circuits.path_options import Node

LOGITS = "logits"
COMPONENT_NAMES = {"q": "query", "k": "key", "v": "value", "": ""}


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
    """L9H9 for a head, "MLP 0" for an MLP, "logits" for the logits."""
    if isinstance(node, str):
        return node
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
