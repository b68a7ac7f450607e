"""What a path patch is asked for: senders, receivers and options, checked when they are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from utils.patching.options import DEFAULT_MEMORY, SweepOptions, require_options

Node = tuple[int, int | str]  # a head as (layer, head), an MLP as (layer, "mlp"), or EMBED
EMBED: Node = (-1, "embed")  # the embedding, with that of positions where there is one: it writes before every layer
# (what is read, layer) → heads that read it; (0,) for "mlp" and "logits"
Reads = dict[tuple[str, int], tuple[int, ...]]
COMPONENTS = ("q", "k", "v")
SENDERS, MLPS = ("heads", "mlps"), ("frozen", "free")


@dataclass(frozen=True, eq=False)
class PathOptions:
    """The options of every path patch, all of them keywords.

    senders: "heads" or "mlps", each of them alone; or a list, of which each is a head (layer, head), an MLP (layer, "mlp"),
        the embedding (EMBED), or a list of these, patched together.
    at: the position at which senders are patched, one number or one for each prompt [batch]; negative ones count from the
        end of the longest prompt. None: every position.
    mlps: "frozen", where MLPs between a sender and its receivers are held as heads are, so that a path goes through the
        residual stream alone; or "free", where they are computed anew, as Wang et al. (2022) do.
    reduce: "scalar", for a metric that returns a 0-d tensor, or "none", for one that returns [batch].
    attention_mask, max_batch, max_memory, progress: as in `utils.patching.SweepOptions`.
    """

    senders: str | Sequence = "heads"
    at: int | Int[Tensor, " batch"] | None = None
    mlps: str = "frozen"
    reduce: str = "scalar"
    attention_mask: Int[Tensor, "batch pos"] | None = None
    max_batch: int | None = None
    max_memory: float = DEFAULT_MEMORY
    progress: bool = True

    def __post_init__(self) -> None:
        if self.mlps not in MLPS:
            raise ValueError(f"mlps={self.mlps!r} is not one of {MLPS}")
        if self.reduce not in ("scalar", "none"):
            raise ValueError(f"reduce={self.reduce!r} is not one of ('scalar', 'none')")
        self.as_sweep()

    def as_sweep(self) -> SweepOptions:
        return SweepOptions(reduce=self.reduce, max_batch=self.max_batch, max_memory=self.max_memory)

    def positions(self, real: Bool[Tensor, "batch pos"]) -> Int[Tensor, " batch"] | None:
        """Each prompt's position, counted from the front. Raises where there is none, or padding."""
        if self.at is None:
            return None
        n_prompts, n_pos = real.shape
        at = torch.as_tensor(self.at, device=real.device)
        if at.dtype.is_floating_point or at.ndim > 1 or (at.ndim == 1 and len(at) != n_prompts):
            raise ValueError(f"at={self.at!r} is neither a position nor one for each of {n_prompts} prompts")
        at = at.long().expand(n_prompts)
        for row, pos in enumerate(at.tolist()):
            if not -n_pos <= pos < n_pos:
                raise IndexError(f"at={pos} is outside prompts of {n_pos} tokens")
            if not real[row, pos]:
                raise IndexError(f"at={pos} is padding in prompt {row}; give one position for each prompt")
        return at % n_pos


def path_options(given: Mapping[str, Any]) -> PathOptions:
    """The options as one object. Raises TypeError for a name that is no option, with the names that are."""
    require_options(PathOptions, given, "path patch")
    return PathOptions(**given)


@dataclass(frozen=True)
class Path:
    """Senders that are patched together, and what reads them.

    added: each reader reads the patched run's own stream and what the senders would add; else it reads the unpatched run's
    stream and what they would add, whatever the other readers have changed.
    """

    senders: tuple[Node, ...]
    reads: Reads
    added: bool = False

    @property
    def first_read(self) -> int:
        """The layer of the first reader; n_layers for the logits."""
        return min(layer for _, layer in self.reads)

    @property
    def exists(self) -> bool:
        """Whether any reader comes after a sender: in each layer attention reads, heads write, the MLP reads and writes."""
        written = min(4 * layer + (3 if is_mlp((layer, part)) else 1) for layer, part in self.senders)
        return written < max(4 * layer + (2 if site == "mlp" else 0) for site, layer in self.reads)


def is_mlp(node: Node) -> bool:
    return node[1] == "mlp"


def written_site(node: Node) -> str:
    """The activation that holds what a node writes."""
    return "resid_pre" if node == EMBED else "mlp_out" if is_mlp(node) else "z"


def sender_sets(model, senders: str | Sequence) -> tuple[list[tuple[Node, ...]], tuple[int, ...]]:
    """The senders of each path, and the shape of the result."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if isinstance(senders, str):
        if senders not in SENDERS:
            raise ValueError(f"senders={senders!r} is not one of {SENDERS}, nor a list of heads (layer, head)")
        if senders == "mlps":
            return [((layer, "mlp"),) for layer in range(n_layers)], (n_layers,)
        return [((layer, head),) for layer in range(n_layers) for head in range(n_heads)], (n_layers, n_heads)
    sets = [tuple(_nodes(model, each)) for each in senders]
    if not sets or not all(sets):
        raise ValueError("senders is an empty list, or has one in it; name at least one head, such as (9, 6)")
    return sets, (len(sets),)


def _nodes(model, given: Any) -> Iterator[Node]:
    """The nodes of one entry: a node, or a list of them."""
    for node in [given] if _is_pair(given) else list(dict.fromkeys(map(tuple, given))):
        yield require_node(model, node)


def _is_pair(given: Any) -> bool:
    return len(given) == 2 and all(isinstance(part, (int, str)) for part in given)


def require_node(model, node: Any) -> Node:
    """The node, if the model has it. Raises ValueError or IndexError."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if isinstance(node, (tuple, list)) and tuple(node) == EMBED:
        return EMBED
    is_node = isinstance(node, (tuple, list)) and _is_pair(node) and isinstance(node[0], int)
    if not is_node or (isinstance(node[1], str) and node[1] != "mlp"):
        raise ValueError(f'{node!r} is neither a head (layer, head) nor an MLP (layer, "mlp")')
    layer, part = node
    if not 0 <= layer < n_layers or (isinstance(part, int) and not 0 <= part < n_heads):
        raise IndexError(f"{node!r}: {model.cfg.model_name} has layers 0 to {n_layers - 1}, heads 0 to {n_heads - 1}")
    return layer, part


def head_readers(model, receivers: str | Sequence[Node], component: str | None) -> Reads:
    """The readers of a path: the logits, or one component of some heads (shared keys and values by their own number)."""
    if receivers == "logits":
        if component is not None:
            raise ValueError(f"component={component!r}, but the logits have no components: leave it out")
        return {("logits", model.cfg.n_layers): (0,)}
    if component not in COMPONENTS:
        raise ValueError(f"component={component!r} is not one of {COMPONENTS}: say what of the receivers is patched")
    if isinstance(receivers, str) or not len(receivers):
        raise ValueError(f'receivers={receivers!r} is neither "logits" nor a list of heads such as [(9, 6)]')
    reads: dict[tuple[str, int], set[int]] = {}
    shared = 1 if component == "q" else model.cfg.n_heads // (model.cfg.n_key_value_heads or model.cfg.n_heads)
    for layer, head in [require_node(model, node) for node in ([receivers] if _is_pair(receivers) else receivers)]:
        if head == "embed":
            raise ValueError("receivers has the embedding, which reads nothing; receivers are heads, or the logits")
        if head == "mlp":
            raise ValueError(f"receivers has the MLP of layer {layer}; here receivers are heads, or the logits")
        reads.setdefault((component, layer), set()).add(head // shared)
    return {reader: tuple(sorted(heads)) for reader, heads in reads.items()}


def every_reader(model) -> Reads:
    """All that reads the residual stream: every head's queries, keys and values, every MLP, and the logits."""
    layers, queries = range(model.cfg.n_layers), tuple(range(model.cfg.n_heads))
    shared = tuple(range(model.cfg.n_key_value_heads or model.cfg.n_heads))
    heads = {(c, layer): queries if c == "q" else shared for c in COMPONENTS for layer in layers}
    return {**heads, **{("mlp", layer): (0,) for layer in layers}, ("logits", model.cfg.n_layers): (0,)}
