"""What each attention head does, as numbers from its attention pattern: previous-token, duplicate-token, induction and more.

Scores are read on random tokens repeated once, where meaning cannot help: whatever a head finds there, it finds by position
or by equality of tokens. Source of the three scores, of the tokens and of their seed: the executed "Exploratory Analysis
Demo" of TransformerLens; for induction heads, Olsson et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import require_heads, require_readout
from utils.attribution import head_name, top_heads
from utils.parts import repeat_kv

LOWEST_ID, HIGHEST_ID = 100, 20000  # ordinary tokens in the vocabularies that the scores were published for
DIAGONAL_SCORES = ("previous_token", "duplicate_token", "induction")
# A hook for runs whose logits nobody reads: those of one position in place of all, which saves most of the memory.
ONE_LOGIT = ("unembed.hook_in", lambda resid, hook: resid[:, -1:])


def offsets(seq_len: int) -> dict[str, int]:
    """score → how far back its key is from its query, for a sequence of seq_len tokens that is given twice."""
    return dict(zip(DIAGONAL_SCORES, (1, seq_len, seq_len - 1), strict=True))


def repeated_tokens(
    seq_len: int = 100, batch: int = 2, seed: int = 0, bos: int | None = None, high: int = HIGHEST_ID
) -> Int[Tensor, "batch pos"]:
    """Random token ids from 100 up to `high` (not included), each row repeated once; with `bos` in front if given.

    With the defaults these are the tokens of the published scores, which have no BOS.
    """
    if high <= LOWEST_ID:
        raise ValueError(
            f"token ids are drawn from {LOWEST_ID} up to high={high}: give a vocabulary of more than {LOWEST_ID}"
        )
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(LOWEST_ID, high, (batch, seq_len), generator=generator).repeat(1, 2)  # batch 2*seq_len
    return tokens if bos is None else torch.cat([torch.full((batch, 1), bos), tokens], dim=1)


def score_patterns(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    scores: Mapping[str, Callable[[Float[Tensor, "batch head query key"]], Float[Tensor, " head"]]],
) -> dict[str, Float[Tensor, "layer head"]]:
    """Any functions of a layer's attention pattern, for all layers in one run. No pattern outlives its layer, so long
    sequences and large models fit."""
    rows: dict[str, list[Tensor]] = {name: [] for name in scores}

    def read(pattern: Tensor, hook) -> None:
        for name, score in scores.items():
            rows[name].append(score(pattern).float().cpu())

    hooks = [(f"blocks.{layer}.attn.hook_pattern", read) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=[*hooks, ONE_LOGIT])
    return {name: torch.stack(values) for name, values in rows.items()}


def stripe(pattern: Float[Tensor, "batch head query key"], offset: int, seq_len: int) -> Float[Tensor, " head"]:
    """Mean attention from each query to the key `offset` places before it, among the last 2 * seq_len positions: what
    stands in front of the repeated tokens (BOS) neither asks nor is asked."""
    inner = pattern[..., -2 * seq_len :, -2 * seq_len :]
    return inner.diagonal(-offset, dim1=-2, dim2=-1).mean((0, -1))


def head_scores(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], seq_len: int
) -> dict[str, Float[Tensor, "layer head"]]:
    """Previous-token, duplicate-token and induction score of every head.

    tokens: seq_len tokens and the same again, with or without BOS in front. Raises ValueError for other tokens.
    """
    first, second = tokens[:, -2 * seq_len : -seq_len], tokens[:, -seq_len:]
    if tokens.shape[1] not in (2 * seq_len, 2 * seq_len + 1) or not torch.equal(first, second):
        raise ValueError(
            f"tokens of shape {list(tokens.shape)} are not {seq_len} tokens given twice, with or without BOS in front; "
            "make them with repeated_tokens"
        )
    readers = {name: lambda pattern, o=offset: stripe(pattern, o, seq_len) for name, offset in offsets(seq_len).items()}
    return score_patterns(model, tokens, readers)


def attention_between(
    cache: ActivationCache, query: Int[Tensor, " batch"] | int, key: Int[Tensor, " batch"] | int
) -> Float[Tensor, "layer head"]:
    """Mean over prompts of each head's attention from position `query` to position `key` (ints, or one per prompt)."""
    layers = [cache["pattern", layer] for layer in range(cache.model.cfg.n_layers)]
    rows = torch.arange(len(layers[0]), device=layers[0].device)
    return torch.stack([pattern[rows, :, query, key].mean(0) for pattern in layers])


def in_top_share(values: Float[Tensor, "layer head"], share: float = 0.1) -> Tensor:
    """Which heads are among the highest `share` of all heads, above zero, and at least a tenth of the highest value, so that
    a score that few heads have is not given to a tenth of them. [layer, head] of bool."""
    k = max(1, int(share * values.numel()))
    return (values >= values.flatten().topk(k).values[-1]) & (values > 0) & (values >= 0.1 * values.max())


def names(heads: Sequence[tuple[int, int]]) -> list[str]:
    return [head_name(*head) for head in heads]


# --- beside the paper ------------------------------------------------------------------------------------------------

# class of Wang et al. 2022 → the evidence that would be in the top tenth, what it means in words, what it leaves open
CLASSES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "previous_token": (("previous_token",), "attends to the token before", "who reads what it writes (05)"),
    "duplicate_token": (("duplicate_token",), "attends to an equal token", "who reads what it writes (05)"),
    "induction": (("induction",), "attends to what followed an equal token", "who reads what it writes (05)"),
    "s_inhibition": (
        ("END→S2", "patching"),
        "attends from END to S2, and patching it matters",
        "whose queries it changes (05)",
    ),
    "name_mover": (("END→IO", "direct"), "attends from END to IO, and writes for IO", "whether it copies (06)"),
    "negative_name_mover": (
        ("END→IO", "against"),
        "attends from END to IO, and writes against IO",
        "whether it copies (06)",
    ),
    "backup_name_mover": (
        ("change",),
        "its direct effect rises once the top head is gone",
        "the rest of the circuit (06)",
    ),
}


def classes_shown(evidence: Mapping[str, Float[Tensor, "layer head"]], share: float = 0.1) -> dict[str, Tensor]:
    """class → which heads have all of its evidence among the highest `share` of heads. [layer, head] of bool.

    evidence: tables by the names in `CLASSES`; "against" is made from "direct". A class whose evidence is not given is
    left out.
    """
    tables = dict(evidence)
    if "direct" in tables:
        tables.setdefault("against", -tables["direct"])
    return {
        kind: torch.stack([in_top_share(tables[name], share) for name in needed]).all(0)
        for kind, (needed, _, _) in CLASSES.items()
        if all(name in tables for name in needed)
    }


def evidence_table(
    evidence: Mapping[str, Float[Tensor, "layer head"]],
    published: Mapping[str, Sequence[str]] | None = None,
    chosen: Sequence[tuple[int, int]] = (),
    share: float = 0.1,
) -> pd.DataFrame:
    """One row per head: its class in the paper, what our evidence says, and whether they agree.

    published: class → head names, for the model of the paper; None for any other, where `chosen` heads are listed under
    the classes whose evidence they have. The verdict is "agree" or "differ" by `classes_shown`, and "not tested" where the
    evidence for that class was not collected.
    """
    found, rows = classes_shown(evidence, share), []
    if published is None:
        for head in chosen:
            kinds = [kind for kind, has in found.items() if has[head]]
            rows.append(_row(head, "no published class", evidence, kinds, "—", kinds))
        return pd.DataFrame(rows)
    for kind, heads in published.items():
        for name in heads:
            head = tuple(int(n) for n in name.removeprefix("L").split("H"))
            kinds = [k for k, has in found.items() if has[head]]
            verdict = "not tested" if kind not in found else "agree" if kind in kinds else "differ"
            rows.append(_row(head, kind.replace("_", " "), evidence, kinds, verdict, [kind]))
    return pd.DataFrame(rows)


def _row(head, published: str, evidence, kinds: list[str], verdict: str, asked: list[str]) -> dict[str, str]:
    notable = {name: table for name, table in evidence.items() if in_top_share(table.abs())[head]}
    values = ", ".join(f"{name} {table[head].item():.2f}" for name, table in notable.items())
    return {
        "head": head_name(*head),
        "class in the paper": published,
        "our evidence": "; ".join(CLASSES[kind][1] for kind in kinds) or "none of the classes",
        "among the top tenth in": values,
        "verdict": verdict,
        "not tested here": "; ".join(dict.fromkeys(CLASSES[kind][2] for kind in asked if kind in CLASSES)) or "—",
    }


def strongest(evidence: Mapping[str, Float[Tensor, "layer head"]], k: int = 3) -> list[tuple[int, int]]:
    """The k heads that lead each table (and the k most negative by "direct"), without repeats, in order of layer."""
    tables = [*evidence.values()] + ([-evidence["direct"]] if "direct" in evidence else [])
    return sorted({head for table in tables for head in top_heads(table, k)})


# --- three more, for the atlas ---------------------------------------------------------------------------------------


def to_first(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, " head"]:
    """Mean attention to position 0, over queries 1, 2, … (query 0 has no choice)."""
    return pattern[..., 1:, 0].mean((0, -1))


def normalized_entropy(pattern: Float[Tensor, "batch head query key"]) -> Float[Tensor, " head"]:
    """Entropy of the attention, as a share of the largest that the query's keys allow: 0 is one key, 1 is all keys evenly.
    Mean over queries 1, 2, …"""
    entropy = -torch.special.xlogy(pattern, pattern).sum(-1)[..., 1:]  # batch head query
    largest = torch.arange(2, pattern.shape[-1] + 1, device=pattern.device).log()
    return (entropy / largest).mean((0, -1))


def copying_scores(
    model: TransformerBridge, token_ids: Int[Tensor, " n"], bos: int | None = None
) -> Float[Tensor, "layer head"]:
    """Whether a head that attends to a token writes that token: 1 always, 0 no more than by chance, -1 always against it.

    Each token is given alone (after `bos`), and each head's value at it is carried through W_O and the unembedding. For
    every token, the score is the share of the other tokens from which the head writes it less, rescaled to -1 … 1: no other
    part of the model between, and no token favored for being written from everywhere. Raises UnsupportedModel for a model
    whose heads do not write through W_O, or whose logits are not W_U times the normed stream.
    """
    require_heads(model)
    require_readout(model)
    ids = token_ids.unique().to(model.cfg.device)
    alone = ids[:, None] if bos is None else torch.stack([torch.full_like(ids, bos), ids], dim=1)
    n, rows = len(ids), []

    def read(values: Float[Tensor, "n pos kv_head d_head"], hook) -> None:
        layer = int(hook.name.split(".")[1])
        values = repeat_kv(values[:, -1], model.cfg.n_heads)  # n head d_head
        through = model.W_O[layer] @ model.W_U[:, ids]  # head d_head n
        logits = torch.einsum("ihd,hdj->hij", values, through)  # head, token read, token written
        own = logits.diagonal(dim1=1, dim2=2)[:, None]  # head 1 n
        ties = (own == logits).float().sum(1) - 1  # not with itself
        higher = (own > logits).float().sum(1) + 0.5 * ties
        rows.append((2 * higher / (n - 1) - 1).mean(-1).cpu())

    hooks = [(f"blocks.{layer}.attn.hook_v", read) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        model.run_with_hooks(alone, fwd_hooks=[*hooks, ONE_LOGIT])
    return torch.stack(rows)
