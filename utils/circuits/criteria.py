"""Is a circuit more than its score? Completeness, minimality, matched random circuits, copying, and the six-way flip.

Source: Wang et al. 2022, "Interpretability in the Wild", sections 3.2 and 4, figure 9 and the appendix.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import require_heads, require_readout
from utils.circuits.evaluate import Circuit, CircuitTest, Head, keep_mask, z_of_heads
from utils.ioi import SIGNALS
from utils.parts import repeat_kv

Placed = tuple[str, Head]  # a head of a circuit, with the role at which it is kept
SetScore = Callable[[Sequence[Placed]], float]


def placed(circuit: Circuit) -> list[Placed]:
    """The heads of a circuit one by one, as (role, (layer, head))."""
    return [(role, head) for role, heads in circuit.items() for head in heads]


def as_circuit(heads: Sequence[Placed]) -> dict[str, list[Head]]:
    """The other way: role → heads."""
    return {role: [head for at, head in heads if at == role] for role in dict.fromkeys(role for role, _ in heads)}


def scorers(test: CircuitTest, circuit: Circuit) -> tuple[SetScore, SetScore]:
    """Two functions of removed heads K: the mean score of the circuit without K, and of the whole model without K.

    Both remember what they have computed.
    """
    heads = placed(circuit)

    @functools.cache
    def without(removed: frozenset[Placed]) -> float:
        return float(test.scores(as_circuit([head for head in heads if head not in removed])).mean())

    @functools.cache
    def model_without(removed: frozenset[Placed]) -> float:
        return float(test.scores_without(as_circuit(list(removed))).mean())

    return lambda removed: without(frozenset(removed)), lambda removed: model_without(frozenset(removed))


def greedy_incompleteness(
    heads: Sequence[Placed], in_circuit: SetScore, in_model: SetScore, k: int = 5, n: int = 5, seed: int = 0
) -> tuple[list[Placed], float]:
    """A set K of heads that makes |F(C without K) - F(M without K)| large, and that distance.

    In each of n steps, k heads that are not in K yet are drawn, and the one that makes the distance largest is added. The
    best set on the way is returned. A complete circuit keeps the distance small whatever is removed.
    """
    generator, removed, best = random.Random(seed), [], ([], abs(in_circuit([]) - in_model([])))
    for _ in range(min(n, len(heads))):
        left = [head for head in heads if head not in removed]
        tried = {
            head: abs(in_circuit([*removed, head]) - in_model([*removed, head]))
            for head in generator.sample(left, min(k, len(left)))
        }
        chosen = max(tried, key=tried.__getitem__)
        removed = [*removed, chosen]
        best = max(best, (removed, tried[chosen]), key=lambda found: found[1])
    return best


def minimality(
    in_circuit: SetScore, heads: Sequence[Placed], together: Mapping[Placed, Sequence[Placed]] | None = None
) -> dict[Placed, float]:
    """For each head v: F(C without K and v) - F(C without K), with its sign. Negative: v helps. Positive: v hurts.

    together: K of each head, such as the other heads of its class, which could stand in for it; None means no others.
    """
    found = {}
    for head in heads:
        removed = [other for other in (together or {}).get(head, []) if other != head]
        found[head] = in_circuit([*removed, head]) - in_circuit(removed)
    return found


def random_circuits(
    circuit: Circuit,
    n: int,
    n_layers: int,
    n_heads: int,
    within: int = 2,
    keep: Sequence[Head] = (),
    never: Sequence[Head] = (),
    seed: int = 0,
) -> Iterator[dict[str, list[Head]]]:
    """n circuits of the same size: for each head, another one at the same role, at most `within` layers away.

    No draw holds a head of the circuit at that head's role, nor one of `never`; heads of `keep` stay in every draw as they
    are. Raises ValueError where too few heads are near enough.
    """
    generator = random.Random(seed)
    for _ in range(n):
        drawn: dict[str, list[Head]] = {}
        for role, heads in circuit.items():
            chosen = [head for head in heads if head in keep]
            for layer, head in (head for head in heads if head not in keep):
                near = range(max(0, layer - within), min(n_layers, layer + within + 1))
                taken = {*heads, *chosen, *never}
                pool = [(i, h) for i in near for h in range(n_heads) if (i, h) not in taken]
                if not pool:
                    raise ValueError(
                        f"no head is left within {within} layers of L{layer}H{head} at {role}; widen `within`"
                    )
                chosen.append(generator.choice(pool))
            drawn[role] = chosen
        yield drawn


@torch.no_grad()
def copy_scores(model: TransformerBridge, names: Int[Tensor, " name"], k: int = 5) -> Float[Tensor, "sign layer head"]:
    """The share of names that a head would put among the k likeliest tokens, if it read the name and nothing else.

    Each name is given alone, after BOS where the tokenizer has one. The stream after the first layer goes through the head's
    own norm, value and W_O, and from there through the final norm and the unembedding. sign: the head's output as it is,
    then its negative, which finds heads that write *against* the name. Source: Wang et al. 2022, section 3.1.
    """
    require_heads(model)
    require_readout(model)
    bos = model.tokenizer.bos_token_id
    alone = names[:, None] if bos is None else torch.stack([torch.full_like(names, bos), names], dim=1)
    _, cache = model.run_with_cache(alone, names_filter="blocks.0.hook_resid_post")
    stream = cache["resid_post", 0][:, -1:]  # name 1 d_model
    table = torch.zeros(2, model.cfg.n_layers, model.cfg.n_heads)
    for layer, block in enumerate(model.blocks):
        values = block.attn.v(block.ln1(stream)).unflatten(-1, (-1, model.cfg.d_head))  # name 1 kv_head d_head
        values = repeat_kv(values[:, 0], model.cfg.n_heads)  # name head d_head
        written = torch.einsum("nhd,hdm->hnm", values, model.W_O[layer])
        for i, sign in enumerate((1, -1)):
            likeliest = model.unembed(model.ln_final(sign * written)).topk(k).indices  # head name k
            table[i, layer] = (likeliest == names[:, None]).any(-1).float().mean(-1)
    return table


@torch.no_grad()
def flip_signals(
    test: CircuitTest, tokens: Mapping[tuple[str, str], Int[Tensor, "batch pos"]], circuits: Sequence[Circuit]
) -> Float[Tensor, "circuit token place"]:
    """The mean score when a circuit's heads, at their roles, write what they write in a prompt with another repeated name.

    tokens: the prompts of each of `utils.ioi.SIGNALS`, (token, position) → tokens; each is run once for all circuits. Rows:
    the repeated name is kept, random, inverted. Columns: its place is kept, inverted. Source: Wang et al. 2022, figure 9.
    """
    found = []
    for signal in SIGNALS:
        z = z_of_heads(test.model, tokens[signal], test.pairs.clean_mask)
        for circuit in circuits:
            mask = ~keep_mask(circuit, test.roles, test.shape)
            found.append(test.scores_of_mask(mask, instead=z).mean())
    return torch.stack(found).unflatten(0, (3, 2, len(circuits))).movedim(-1, 0)


def signal_strengths(scores: Float[Tensor, "token place"]) -> tuple[float, float]:
    """How much of the score goes with the token and how much with the position: half of what inverting each one takes away.

    The least-squares fit of score = constant + a · token + b · position, where kept is 1, random 0 and inverted -1.
    """
    token = (scores[0] - scores[2]).mean() / 2
    position = (scores[:, 0] - scores[:, 1]).mean() / 2
    return token.item(), position.item()
