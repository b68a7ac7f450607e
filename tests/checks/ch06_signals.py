"""Checks of chapter 06, last part: what a head carries."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import both_models, exercise
from utils.ioi import single_token_names

# --- what a head carries ------------------------------------------------------------------------------------------------


@exercise(
    "06",
    look="section 6: stream after layer 0 at the name, then ln1, the value of the head's group, W_O, ln_final, unembed",
    points=3,
    takes="model names k",
)
def check_copy_scores(learner: Callable) -> str:
    for model, k in itertools.product(both_models(), (40, 90)):
        want, mistakes = _copying(model, k)
        held = require_equal(
            call(learner, model, _names(model), k),
            want,
            f"the copying scores of 13 names, k = {k}, on {model.cfg.model_name}",
            axes="sign layer head",
            mistakes=mistakes,
        )
    return f"13 names on a GPT-2 and a Llama, both signs, two values of k ({held})"


@cache
def _names(model: TransformerBridge) -> Tensor:
    return torch.tensor([model.to_single_token(f" {name}") for name in single_token_names(model)[3:16]])


@cache
def _copying(model: TransformerBridge, k: int) -> tuple[Tensor, Mistakes]:
    names = _names(model)
    scores = partial(_copy, model, names, k)
    want, likeliest = scores(), _copy(model, names, 1)
    return want, once(
        {
            "the head reads the embedding: it reads the stream after the first layer": lambda: scores(
                site="hook_resid_pre"
            ),
            "the head reads the stream in the middle of the first layer: after its MLP": lambda: scores(
                site="hook_resid_mid"
            ),
            "the head reads BOS: the name is the second token": lambda: scores(position=0),
            "the names are given without BOS": lambda: scores(bos=False),
            "a query head has the wrong shared value: neighbors share one, so use repeat_interleave": lambda: scores(
                spread=True
            ),
            "the final norm is left out": lambda: scores(final=False),
            "both rows are the positive score: the second is of the negated output": lambda: want[:1].expand(2, -1, -1),
            "the two rows are exchanged: first the output as it is": lambda: want.flip(0),
            "the least likely tokens are taken in place of the negated output: negate before the final norm": lambda: (
                scores(least=True)
            ),
            **({"only the likeliest token counts: the k likeliest do": lambda: likeliest} if likeliest.any() else {}),
            "one token too many": lambda: _copy(model, names, k + 1),
            "one token too few": lambda: _copy(model, names, k - 1),
            "any of the names counts: each name counts for itself": lambda: scores(anyone=True),
            "these are counts: divide by the number of names": lambda: want * len(names),
        }
    )


@torch.no_grad()
def _copy(
    model,
    names: Tensor,
    k: int,
    site="hook_resid_post",
    position=1,
    bos=True,
    spread=False,
    final=True,
    least=False,
    anyone=False,
) -> Tensor:
    tokens = torch.stack([torch.full_like(names, model.tokenizer.bos_token_id), names], 1) if bos else names[:, None]
    stream = model.run_with_cache(tokens)[1][f"blocks.0.{site}"][:, position if bos else 0]
    table = torch.zeros(2, model.cfg.n_layers, model.cfg.n_heads)
    for layer, head in itertools.product(range(model.cfg.n_layers), range(model.cfg.n_heads)):
        block = model.blocks[layer]
        values = block.attn.v(block.ln1(stream[:, None]))[:, 0]
        values = values.unflatten(-1, (-1, model.cfg.d_head))
        shared = values.shape[1]
        own = values[:, head % shared if spread else head // (model.cfg.n_heads // shared)]
        for i, sign in enumerate((1, -1)):
            written = (sign if not least else 1) * own @ model.W_O[layer, head]
            logits = model.unembed((model.ln_final(written[:, None])) if final else written[:, None])[:, 0]
            likeliest = (logits * (sign if least else 1)).topk(k).indices
            hits = torch.isin(likeliest, names).any(1) if anyone else (likeliest == names[:, None]).any(1)
            table[i, layer, head] = hits.float().mean()
    return table


TOKENS, POSITIONS = ("kept", "random", "inverted"), ("kept", "inverted")
TEMPLATE = "When{A} and{B} went to the store,{S} gave a drink to"
FOURS = (  # I, S, x, y
    (" Mary", " John", " Paul", " Kate"),
    (" Tom", " Amy", " Dan", " Sid"),
    (" Anna", " Mark", " Jack", " Emma"),
)
KINDS = {
    ("inverted", "inverted"): "ISI",
    ("kept", "kept"): "ISS",
    ("random", "kept"): "xyy",
    ("inverted", "kept"): "SII",
    ("random", "inverted"): "xyx",
    ("kept", "inverted"): "SIS",
}
FLIP_ROLES = {"S2": torch.tensor([10, 9, 10]), "END": torch.tensor([14, 14, 13])}
FLIPPED = (
    {"END": [(2, 1), (1, 0)], "S2": [(1, 3), (0, 2)]},
    {"END": [(2, 3)]},
    {"S2": [(0, 3), (1, 2), (0, 1)], "END": [(1, 2)]},
)


@exercise(
    "06",
    look="section 6: z[torch.arange(batch), roles[role], head] from the variant's run, into the run of the original prompts",
    points=4,
    takes="model tokens variants circuit roles score",
)
def check_flip_signals(learner: Callable) -> str:
    for model in both_models():
        for case, circuit in enumerate(FLIPPED):
            want, mistakes = _flipped(model, case)
            variants, score = _variants(model)
            held = require_equal(
                call(learner, model, variants["kept", "kept"], variants, circuit, FLIP_ROLES, score),
                want,
                f"the six scores of {circuit} on {model.cfg.model_name}",
                axes="token position",
                mistakes=mistakes,
            )
    return f"six kinds of prompt, heads at one role and at two, on a GPT-2 and a Llama ({held})"


@cache
def _variants(model: TransformerBridge) -> tuple[dict[tuple[str, str], Tensor], Callable[[Tensor], Tensor]]:
    """The tokens of all six kinds of prompt, and a score of the original ones that is 0 on none of them."""
    variants = {}
    for signal, letters in KINDS.items():
        who = [dict(zip("ISxy", four, strict=True)) for four in FOURS]
        texts = [TEMPLATE.format(A=w[letters[0]], B=w[letters[1]], S=w[letters[2]]) for w in who]
        variants[signal] = model.to_tokens(texts)
    answers = torch.tensor([[model.to_single_token(name) for name in four[:2]] for four in FOURS])

    def score(logits: Tensor) -> Tensor:
        correct, incorrect = logits[:, -1].gather(-1, answers).unbind(-1)
        return 0.3 + (correct - incorrect).mean()

    return variants, score


@cache
def _flipped(model: TransformerBridge, case: int) -> tuple[Tensor, Mistakes]:
    (variants, score), circuit = _variants(model), FLIPPED[case]
    tokens = variants["kept", "kept"]

    def flip(circuit: Mapping = circuit, **changes) -> Tensor:
        return _flip(model, circuit, **changes)

    def of_each_role(chosen: slice) -> dict[str, list]:
        return {role: members[chosen] for role, members in circuit.items()}

    want, last_role = flip(), {head: role for role, heads in circuit.items() for head in heads}
    return want, once(
        {
            "rows and columns are mixed up: variants[token, position]": lambda: flip(turned=True),
            "the heads are exchanged at every position: at their role only": lambda: flip(everywhere=True),
            "every prompt is exchanged at the roles of all prompts: z[torch.arange(batch), roles[role], head]": lambda: (
                flip(union=True)
            ),
            "the variants run, with the original messages: run the original prompts": lambda: flip(swapped=True),
            "these are the scores of the variants themselves": lambda: torch.stack(
                [torch.stack([score(model(variants[token, position])) for position in POSITIONS]) for token in TOKENS]
            ),
            "only the first role is exchanged": lambda: flip(dict(list(circuit.items())[:1])),
            "only the last role is exchanged": lambda: flip(dict(list(circuit.items())[-1:])),
            "only the last head of a role is exchanged": lambda: flip(of_each_role(slice(-1, None))),
            "only the first head of a role is exchanged": lambda: flip(of_each_role(slice(1))),
            "every head is exchanged at all roles": lambda: flip(_spread(circuit)),
            "a head that stands at two roles is exchanged at one of them": lambda: flip(
                {role: [head for head in heads if last_role[head] == role] for role, heads in circuit.items()}
            ),
            "variants are taken in the order of the dictionary: variants[token, position]": lambda: flip(
                names=dict(zip(itertools.product(TOKENS, POSITIONS), variants, strict=True))
            ),
            "all heads of the layers are exchanged": lambda: flip(all_heads=True),
            "token and position are inverted together: each cell has a variant of its own": lambda: flip(
                names={(t, p): (t, "kept" if t == "kept" else "inverted") for t in TOKENS for p in POSITIONS}
            ),
            "every cell is the unchanged model": lambda: score(model(tokens)).expand(3, 2),
            "the first cell is subtracted: return the scores": lambda: want - want[0, 0],
        }
    )


def _spread(circuit: Mapping) -> dict[str, list]:
    """Every head at every role."""
    return {role: [head for heads in circuit.values() for head in heads] for role in circuit}


@cache
def _variant_run(model: TransformerBridge, signal: tuple[str, str]) -> ActivationCache:
    return model.run_with_cache(_variants(model)[0][signal])[1]


def _flip(
    model: TransformerBridge,
    circuit: Mapping,
    turned=False,
    everywhere=False,
    union=False,
    swapped=False,
    all_heads=False,
    names: Mapping | None = None,
) -> Tensor:
    variants, score = _variants(model)
    original, table = ("kept", "kept"), torch.zeros(3, 2)
    cells = list(itertools.product(enumerate(TOKENS), enumerate(POSITIONS)))
    if turned:
        signals = [(t, p) for p in POSITIONS for t in TOKENS]
        cells = [((i // 2, signals[i][0]), (i % 2, signals[i][1])) for i in range(6)]
    for (i, token), (j, position) in cells:
        other = (names or {}).get((token, position), (token, position))
        lent = _variant_run(model, original if swapped else other)

        def put(z: Tensor, hook, lent=lent) -> Tensor:
            z, lent_z, layer = z.clone(), lent[hook.name], int(hook.name.split(".")[1])
            for role, members in circuit.items():
                for head in [head for at, head in members if at == layer]:
                    rows, places = torch.arange(len(z)), FLIP_ROLES[role]
                    heads = slice(None) if all_heads else head
                    if everywhere:
                        z[:, :, heads] = lent_z[:, :, heads]
                    elif union:
                        z[:, places, heads] = lent_z[:, places, heads]
                    else:
                        z[rows, places, heads] = lent_z[rows, places, heads]
            return z

        hooks = [(f"blocks.{layer}.attn.hook_z", put) for layer in range(model.cfg.n_layers)]
        table[i, j] = score(model.run_with_hooks(variants[other if swapped else original], fwd_hooks=hooks))
    return table
