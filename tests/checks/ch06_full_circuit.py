"""Checks of chapter 06."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from tests.checks.calling import call
from tests.checks.comparing import require_equal
from tests.checks.core import CheckFailed, both_models, exercise, require
from utils.ioi import single_token_names
from utils.tiny_models import tiny_model

# --- the data set -----------------------------------------------------------------------------------------------------

TEMPLATES = (
    "When{A} and{B} went to the store,{S} gave a drink to",
    "Then the person said that{A} and{B} are in the park and{S} gave a ring to",
    "While{A} had the book{B} and they work in the house, and{S} said to",
)
ROLES = ("IO", "S1", "S1+1", "S2", "END")


def _entries(result: Any, keys: Sequence[str]) -> Mapping:
    require(
        isinstance(result, Mapping) and set(result) >= set(keys),
        f"what you return: {sorted(result) if isinstance(result, Mapping) else type(result).__name__}",
        f"return a dictionary with the keys {', '.join(keys)}",
    )
    return result


@exercise(
    "06",
    look="section 1: one draw of five names without replacement; positions from the model's own tokens",
    points=3,
    takes="model templates n seed",
)
def check_ioi_dataset(learner: Callable) -> str:
    model, n = tiny_model("llama"), 62
    data = _entries(call(learner, model, list(TEMPLATES), n, 3), ("clean", "abc", "answers", "template", "roles"))
    for key in ("clean", "abc", "answers", "template"):
        length = len(data[key]) if hasattr(data[key], "__len__") else None
        require(length == n, f"{key!r}: {length} entries where n = {n}", "one entry for each prompt")
    numbers = torch.tensor([2 * (i // 2 % len(TEMPLATES)) + i % 2 for i in range(n)])
    require_equal(
        data["template"], numbers, "the template numbers", axes="prompt",
        mistakes={
            "the order is not counted: 2 * template + 1 for BABA": lambda: numbers // 2,
            "the order is counted twice: 2 * template + order": lambda: numbers // 2 + numbers % 2,
            "ABBA and BABA are exchanged: ABBA is 0": lambda: numbers + 1 - 2 * (numbers % 2),
            "templates come one after the other: prompt i uses template i // 2 % len(templates)":
                lambda: torch.tensor([2 * (i * len(TEMPLATES) // n) + i % 2 for i in range(n)]),
        },
    )  # fmt: skip
    names, answers = {f" {name}" for name in single_token_names(model)}, [_pair(pair) for pair in data["answers"]]
    for i, (io, subject) in enumerate(answers):
        _require_prompt(i, io, subject, data["clean"][i], TEMPLATES[i // 2 % len(TEMPLATES)], i % 2, names)
        _require_twin(i, (io, subject), data["abc"][i], TEMPLATES[i // 2 % len(TEMPLATES)], names)
    require(
        min(len({pair[0] for pair in answers}), len({pair[1] for pair in answers})) > 5,
        "the names of 62 prompts: they are nearly the same in all of them",
        "draw new names for every prompt; make the generator once, before the loop",
    )
    held = _require_roles(
        _entries(data["roles"], ROLES), [model.to_tokens(text)[0] for text in data["clean"]], model, answers
    )
    again, other = call(learner, model, list(TEMPLATES), n, 3), call(learner, model, list(TEMPLATES), n, 4)
    require(
        list(again["clean"]) == list(data["clean"]) and list(again["abc"]) == list(data["abc"]),
        "two data sets of the same seed: their prompts differ",
        "use random.Random(seed), and not the global generator; and do not loop over a set",
    )
    require(list(other["clean"]) != list(data["clean"]), "two seeds: the prompts are the same", "use the seed")
    return f"62 prompts of three templates, their twins, answers and positions, for two seeds ({held})"


def _pair(pair: Any) -> tuple[str, str]:
    require(
        isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(name, str) for name in pair),
        f"an entry of 'answers': {pair!r}", "each is a pair of texts, (indirect object, subject)",
    )  # fmt: skip
    return pair[0], pair[1]


def _require_prompt(i: int, io: str, subject: str, text: Any, template: str, order: int, names: set[str]) -> None:
    first, second = (io, subject) if order == 0 else (subject, io)
    want = template.format(A=first, B=second, S=subject)
    likely = "the subject is the name that returns; ABBA has the indirect object first, BABA the subject"
    if {io, subject} - names:
        likely = "names come from ioi.single_token_names(model), each with a space in front"
    elif text == template.format(A=second, B=first, S=subject):
        likely = "the two orders are exchanged: even prompts are ABBA, the indirect object first"
    elif text == template.format(A=first, B=second, S=io):
        likely = "the answer is the name that is *not* repeated: (indirect object, subject)"
    require(
        text == want and not {io, subject} - names and io != subject, f"prompt {i}: {text!r}, expected {want!r}", likely
    )


def _require_twin(i: int, answers: tuple[str, str], text: Any, template: str, names: set[str]) -> None:
    fitting = [abc for abc in itertools.product(sorted(names), repeat=3) if _fits(template, abc, text)]
    require(
        bool(fitting), f"twin {i}: {text!r} is not its prompt's template with three names", "fill the same template"
    )
    counts = Counter(fitting[0])
    require(
        max(counts.values()) == 1,
        f"twin {i}: {text!r} has{counts.most_common(1)[0][0]} twice",
        "three draws one after the other can give the same name: draw all five names together, without replacement",
    )
    both = set(fitting[0]) & set(answers)
    require(
        not both,
        f"twin {i}: {text!r} has{', '.join(sorted(both))} of its own prompt",
        "the twin has three *other* names",
    )


def _fits(template: str, abc: tuple[str, str, str], text: Any) -> bool:
    return isinstance(text, str) and template.format(A=abc[0], B=abc[1], S=abc[2]) == text


def _require_roles(roles: Mapping, tokens: Sequence[Tensor], model, answers: Sequence[tuple[str, str]]) -> str:
    found: dict[str, list[int]] = {role: [] for role in ROLES}
    for row, (io, subject) in zip(tokens, answers, strict=True):
        s1, s2 = (row == model.to_single_token(subject)).nonzero()[:, 0].tolist()
        places = ((row == model.to_single_token(io)).nonzero().item(), s1, s1 + 1, s2, len(row) - 1)
        for role, place in zip(ROLES, places, strict=True):
            found[role].append(place)
    want = {role: torch.tensor(places) for role, places in found.items()}
    held = ""
    for role in ROLES:
        others = {
            f"these are the positions of {other}": lambda other=other: want[other] for other in ROLES if other != role
        }
        held = require_equal(
            roles[role], want[role], f"the positions of {role}", axes="prompt",
            mistakes={
                "BOS is not counted: it is the model's token 0": lambda role=role: want[role] - 1,
                "BOS is counted twice": lambda role=role: want[role] + 1,
                "END is counted from the longest prompt: take each prompt's own last token":
                    lambda: torch.full_like(want["END"], int(want["END"].max())),
                **others,
            },
        )  # fmt: skip
    return held


# --- means, masks, runs -----------------------------------------------------------------------------------------------


@exercise("06", look="section 2: z[:, template == number].mean(1, keepdim=True)", points=2, takes="z template")
def check_means_by_template(learner: Callable) -> str:
    for template in ([7, 2, 7, 7, 2, 4, 2], [0, 1, 0, 1, 1, 3, 3]):
        numbers = torch.tensor(template)
        z = torch.randn(3, 7, 6, 4, 2, generator=torch.Generator().manual_seed(len(set(template)))) + 1
        held = require_equal(
            call(learner, z, numbers),
            _means(z, numbers),
            f"the means of templates {template}",
            axes="layer prompt position head d_head",
            mistakes={
                "all templates are averaged together": lambda: z.mean(1, keepdim=True).expand_as(z),
                "ABBA and BABA are averaged together: each number is a template of its own": lambda: _means(z, numbers // 2),
                "positions are averaged too: keep them apart": lambda: _means(z, numbers).mean(2, keepdim=True).expand_as(z),
                "layers are averaged too": lambda: _means(z, numbers).mean(0, keepdim=True).expand_as(z),
                "heads are averaged too": lambda: _means(z, numbers).mean(3, keepdim=True).expand_as(z),
                "d_head is averaged too": lambda: _means(z, numbers).mean(4, keepdim=True).expand_as(z),
                "these are sums: divide by the number of prompts of the template":
                    lambda: _means(z, numbers) * torch.bincount(numbers)[numbers][:, None, None, None],
                "positions are averaged in place of prompts": lambda: z.mean(2, keepdim=True).expand_as(z),
                "layers are averaged in place of prompts": lambda: z.mean(0, keepdim=True).expand_as(z),
                "each prompt has the mean of all *other* templates": lambda: torch.stack(
                    [z[:, numbers != number].mean(1) for number in numbers], 1
                ),
                "nothing is averaged: this is z": lambda: z,
                "each prompt has the first prompt of its template": lambda: _means(z, numbers, first=True),
                "each prompt is left out of its own mean": lambda: _means(z, numbers, leave_out=True),
                "neighbors are taken for a template: the numbers come in any order": lambda: _means(
                    z, torch.cat([torch.zeros(1), (numbers.diff() != 0).cumsum(0)]).long()
                ),
            },
            atol=1e-5,
        )  # fmt: skip
    return f"two sets of templates, in any order, with one prompt and with several ({held})"


def _means(z: Tensor, numbers: Tensor, first: bool = False, leave_out: bool = False) -> Tensor:
    rows = []
    for i, number in enumerate(numbers.tolist()):
        same = [j for j, other in enumerate(numbers.tolist()) if other == number and not (leave_out and j == i)]
        rows.append(z[:, same[:1] if first else same or [i]].mean(1))
    return torch.stack(rows, 1)


@exercise(
    "06", look="section 2: mask[layer, torch.arange(batch), positions, head]", points=2, takes="circuit roles shape"
)
def check_keep_mask(learner: Callable) -> str:
    roles = {
        "S1": torch.tensor([1, 3, 1, 3, 5]),
        "S2": torch.tensor([4, 4, 6, 6, 2]),
        "END": torch.tensor([7, 6, 7, 8, 6]),
    }
    shape = (4, 5, 9, 3)
    for circuit in ({"END": [(2, 1), (0, 2)], "S2": [(1, 2), (2, 1)]}, {"S1": [(0, 1)], "END": []}, {}):
        table = partial(_mask, circuit, roles, shape)
        held = require_equal(
            call(learner, circuit, roles, shape),
            table(),
            f"the mask of {circuit}",
            axes="layer prompt position head",
            mistakes={
                "every prompt keeps the positions of all prompts: pair them, mask[layer, torch.arange(batch), places, head]":
                    lambda: table(where=lambda i, places: places.tolist()),
                "every prompt keeps the first prompt's position": lambda: table(where=lambda i, places: [int(places[0])]),
                "heads are kept at every position": lambda: table(where=lambda i, places: range(shape[2])),
                "heads are kept at the last position only": lambda: table(where=lambda i, places: [shape[2] - 1]),
                "layer and head are exchanged": lambda: table(turned=True),
                "the mask is true where a head is *not* kept": lambda: ~table(),
                "all heads of the layer are kept": lambda: table().any(3, keepdim=True).expand(shape),
                "every head is kept at all roles of the circuit": lambda: _mask(
                    {role: [h for heads in circuit.values() for h in heads] for role in circuit}, roles, shape
                ),
                "only the last role is kept: the mask is made anew for each":
                    lambda: _mask(dict(list(circuit.items())[-1:]), roles, shape),
                "only the first role is kept": lambda: _mask(dict(list(circuit.items())[:1]), roles, shape),
            },
        )  # fmt: skip
    return f"three circuits, roles that differ between prompts, and the empty circuit ({held})"


def _mask(circuit, roles, shape, where: Callable = lambda i, places: [int(places[i])], turned: bool = False) -> Tensor:
    mask = torch.zeros(shape, dtype=torch.bool)
    for role, members in circuit.items():
        for layer, head in members:
            layer, head = (head, layer) if turned else (layer, head)
            for i in range(shape[1]):
                for position in where(i, roles[role]):
                    mask[layer, i, position, head] = True
    return mask


@exercise(
    "06",
    look="section 2: torch.where(mask[layer][..., None], z, means[layer])",
    points=2,
    takes="model tokens mask means",
)
def check_run_circuit(learner: Callable) -> str:
    generator = torch.Generator().manual_seed(6)
    for model in both_models():
        tokens = model.to_tokens([template.format(A=" John", B=" Mary", S=" John") for template in TEMPLATES[:1]])
        tokens = torch.cat([tokens, tokens.flip(1), tokens.roll(3, 1), tokens.roll(7, 1), tokens.roll(9, 1)])
        _, cache = model.run_with_cache(tokens)
        z = torch.stack([cache["z", layer] for layer in range(model.cfg.n_layers)])
        means = z.roll(1, 1) + 0.3 * torch.randn(z.shape, generator=generator)
        for share in (0.4, 1.0, 0.0):
            mask = torch.rand(z.shape[:4], generator=generator) < share
            run = partial(_circuit, model, tokens)
            held = require_equal(
                call(learner, model, tokens, mask, means),
                run(lambda layer, own: torch.where(mask[layer][..., None], own, means[layer])),
                f"the logits with {100 * share:.0f} % of all heads kept, on {model.cfg.model_name}",
                axes="prompt position vocab",
                mistakes={
                    "the mask is taken the wrong way round: it is true for what is kept":
                        lambda: run(lambda layer, own: torch.where(mask[layer][..., None], means[layer], own)),
                    "kept heads write what they wrote in the whole model: let them work with what they find":
                        lambda: run(lambda layer, own: torch.where(mask[layer][..., None], z[layer], means[layer])),
                    "heads that are not kept become zero: give them their means":
                        lambda: run(lambda layer, own: own * mask[layer][..., None]),
                    "nothing is replaced: does your hook return z?": lambda: run(lambda layer, own: own),
                    "the means of layer 0 are used in all layers":
                        lambda: run(lambda layer, own: torch.where(mask[layer][..., None], own, means[0])),
                    "the mask of layer 0 is used in all layers":
                        lambda: run(lambda layer, own: torch.where(mask[0][..., None], own, means[layer])),
                    "only the last layer is replaced: a function made in a loop sees its last values":
                        lambda: run(lambda layer, own: torch.where(mask[layer][..., None], own, means[layer]), [-1]),
                    "only layer 0 is replaced":
                        lambda: run(lambda layer, own: torch.where(mask[layer][..., None], own, means[layer]), [0]),
                    "the means are averaged over prompts: each prompt has its own": lambda: run(
                        lambda layer, own: torch.where(mask[layer][..., None], own, means[layer].mean(0, keepdim=True))
                    ),
                    "the MLPs are taken away as well: only heads are": lambda: run(
                        lambda layer, own: torch.where(mask[layer][..., None], own, means[layer]), mlps=False
                    ),
                    "a head is kept everywhere if it is kept anywhere": lambda: run(
                        lambda layer, own: torch.where(mask[layer].any(1, keepdim=True)[..., None], own, means[layer])
                    ),
                },
            )  # fmt: skip
    return f"some heads kept, all, and none, on a GPT-2 and a Llama ({held})"


def _circuit(model, tokens: Tensor, change: Callable, layers: Sequence[int] | None = None, mlps: bool = True) -> Tensor:
    n_layers = model.cfg.n_layers
    chosen = range(n_layers) if layers is None else [layer % n_layers for layer in layers]
    hooks = [
        (f"blocks.{layer}.attn.hook_z", lambda z, hook, layer=layer: change(layer, z)) for layer in chosen
    ] + [(f"blocks.{layer}.hook_mlp_out", lambda out, hook: out * 0) for layer in range(n_layers) if not mlps]  # fmt: skip
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


# --- how well ---------------------------------------------------------------------------------------------------------

FAITHFULNESS = ("value", "low", "high", "mae", "correlation")


@exercise(
    "06",
    look="section 3: a ratio of means; prompts are drawn whole; the error is per prompt",
    points=3,
    takes="full circuit empty",
)
def check_faithfulness(learner: Callable) -> str:
    for seed, n, slope in ((0, 40, 0.7), (1, 25, -0.4)):
        generator = np.random.default_rng(seed)
        empty = generator.normal(0.4, 1.2, n)
        full = empty + generator.gamma(1.5, 2.0, n)
        circuit = empty + slope * (full - empty) + generator.normal(0.3, 0.8, n)
        given = tuple(torch.tensor(scores, dtype=torch.float32) for scores in (full, circuit, empty))
        found = _entries(call(learner, *given), FAITHFULNESS)
        full, circuit, empty = (scores.double().numpy() for scores in given)
        for name in ("value", "mae", "correlation"):
            held = require_equal(
                found[name],
                _fit(name, full, circuit, empty),
                f"{name!r} of {n} prompts",
                mistakes=_fit_mistakes(name, full, circuit, empty),
                atol=1e-4,
            )
        _require_interval(_end(found["low"], "low"), _end(found["high"], "high"), full, circuit, empty)
    return f"value, interval, error and correlation of two sets of scores, one with a negative value ({held})"


def _ratio(full, circuit, empty, axis=-1):
    return (circuit.mean(axis) - empty.mean(axis)) / (full.mean(axis) - empty.mean(axis))


def _fit(name: str, full, circuit, empty) -> float:
    return {
        "value": lambda: _ratio(full, circuit, empty),
        "mae": lambda: np.abs(circuit - full).mean(),
        "correlation": lambda: np.corrcoef(circuit, full)[0, 1],
    }[name]()


def _fit_mistakes(name: str, full, circuit, empty) -> dict[str, Callable]:
    gain, whole = circuit - empty, full - empty
    return {
        "value": {
            "a mean of ratios: one prompt with a small denominator decides it; take the ratio of the means":
                lambda: (gain / whole).mean(),
            "a median of ratios: take the ratio of the means": lambda: np.median(gain / whole),
            "the empty circuit is not subtracted": lambda: circuit.mean() / full.mean(),
            "the empty circuit is subtracted in the numerator only": lambda: gain.mean() / full.mean(),
            "the empty circuit is subtracted in the denominator only": lambda: circuit.mean() / whole.mean(),
            "the ratio is turned round: circuit over full": lambda: whole.mean() / gain.mean(),
            "this is a distance: return a share": lambda: full.mean() - circuit.mean(),
            "this is a percentage": lambda: 100 * gain.mean() / whole.mean(),
        },
        "mae": {
            "the distance of the means: take the distance on each prompt, then the mean":
                lambda: abs(circuit.mean() - full.mean()),
            "the signs are kept, so that errors cancel: take absolute values": lambda: (circuit - full).mean(),
            "the signs are kept, so that errors cancel: take absolute values first": lambda: (full - circuit).mean(),
            "squared errors: take absolute ones": lambda: ((circuit - full) ** 2).mean(),
            "a root of squared errors: take absolute ones": lambda: ((circuit - full) ** 2).mean() ** 0.5,
            "the median error: take the mean": lambda: np.median(np.abs(circuit - full)),
            "divided by the model's score: keep logits": lambda: np.abs(circuit - full).mean() / full.mean(),
            "the sum: take the mean": lambda: np.abs(circuit - full).sum(),
        },
        "correlation": {
            "a correlation of ranks: Pearson's is of values": lambda: stats.spearmanr(circuit, full).statistic,
            "squared": lambda: np.corrcoef(circuit, full)[0, 1] ** 2,
            "the means are not taken off": lambda: (circuit * full).sum() / np.sqrt((circuit**2).sum() * (full**2).sum()),
            "the empty circuit is subtracted first: correlate the scores themselves": lambda: np.corrcoef(gain, whole)[0, 1],
            "circuit and empty circuit: correlate circuit and model": lambda: np.corrcoef(circuit, empty)[0, 1],
            "a covariance: divide by both standard deviations": lambda: np.cov(circuit, full)[0, 1],
        },
    }[name]  # fmt: skip


def _end(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise CheckFailed(f"{name!r}: {type(value).__name__}", "each end of the interval is one number") from None


def _require_interval(low: float, high: float, full, circuit, empty) -> None:
    """The ends against a large bootstrap of whole prompts, within what a thousand draws leave open."""
    rows = np.random.default_rng(9).integers(len(full), size=(40000, len(full)))
    drawn = _ratio(full[rows], circuit[rows], empty[rows])

    def ends(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
        return tuple(np.quantile(values, [(1 - level) / 2, (1 + level) / 2]))

    want, width = ends(drawn), np.ptp(ends(drawn))
    near = max(abs(low - want[0]), abs(high - want[1])) < 0.065 * width
    if near and low <= _ratio(full, circuit, empty) <= high:
        return
    apart = [np.random.default_rng(i).integers(len(full), size=(40000, len(full))) for i in (1, 2, 3)]
    others = {
        "prompts are not drawn whole: the three scores of a prompt belong together (paired=True)":
            ends(_ratio(full[apart[0]], circuit[apart[1]], empty[apart[2]])),
        "low and high are exchanged": want[::-1],
        "an interval of another level: 95 % leaves 2.5 % on each side": ends(drawn, 0.9),
        "one standard error to each side: that is 68 %": ends(drawn, 0.68),
        "the mean of ratios is drawn, not the ratio of means": ends(((circuit - empty) / (full - empty))[rows].mean(1)),
        "the interval of the circuit's score: it is of the share": ends(circuit[rows].mean(1)),
        "the empty circuit is not subtracted in the draws": ends(circuit[rows].mean(1) / full[rows].mean(1)),
    }  # fmt: skip
    likely = [
        word for word, (a, b) in others.items() if max(abs(low - a), abs(high - b)) < 0.06 * max(abs(b - a), 1e-9)
    ]
    raise CheckFailed(
        f"your interval [{low:.3f}, {high:.3f}] with a bootstrap over whole prompts [{want[0]:.3f}, {want[1]:.3f}]",
        likely[0]
        if likely
        else "draw prompts with replacement, as many as there are, and take the 2.5 % and 97.5 % quantiles",
    )


# --- controls and criteria ----------------------------------------------------------------------------------------------


@exercise(
    "06",
    look="section 4: begin with the kept heads; then one draw for each other head from those near enough and not taken",
    points=3,
    takes="circuit n n_layers n_heads within keep never seed",
)
def check_random_circuits(learner: Callable) -> str:
    circuit = {"END": [(7, 1), (7, 2), (4, 0), (1, 3)], "S2": [(4, 0), (5, 2)], "S1+1": [(2, 2)]}
    layers, heads, n = 9, 4, 60
    for within, keep, never, seed in ((2, (), ((7, 3), (6, 0)), 0), (1, ((7, 1),), (), 1)):
        given = (circuit, n, layers, heads, within, list(keep), list(never), seed)
        found = _circuits(call(learner, *given), n, circuit)
        for drawn in found:
            for role, members in circuit.items():
                _require_draw(role, drawn[role], members, layers, heads, within, keep, never)
        varied = {role: len({tuple(sorted(drawn[role])) for drawn in found}) for role in circuit}
        require(
            min(varied.values()) > 3, f"{n} draws: at some role only {min(varied.values())} of them differ",
            "draw anew for every circuit: make the generator once, before the loop",
        )  # fmt: skip
        _require_reach(found, circuit, layers, heads, within, keep, never)
        again = _circuits(call(learner, *given), n, circuit)
        require(
            again == found,
            "two calls with the same seed: the draws differ",
            "use random.Random(seed), not the global generator",
        )
        other = _circuits(call(learner, *given[:-1], seed + 5), n, circuit)
        require(other != found, "two seeds: the draws are the same", "use the seed")
    return "size, roles, layers, kept and forbidden heads of 120 circuits, and that every allowed head can be drawn"


def _circuits(result: Any, n: int, circuit: Mapping) -> list[dict[str, list]]:
    require(
        isinstance(result, (list, tuple)) and len(result) == n and all(isinstance(drawn, Mapping) for drawn in result),
        f"what you return: {type(result).__name__} of {len(result) if hasattr(result, '__len__') else '?'}",
        f"return a list of n = {n} circuits, each a dictionary from role to heads",
    )
    for drawn in result:
        require(
            set(drawn) == set(circuit),
            f"the roles of a draw: {sorted(map(str, drawn))}",
            f"the roles are {sorted(circuit)}",
        )
        for role, members in drawn.items():
            pairs = isinstance(members, (list, tuple)) and all(
                isinstance(head, (list, tuple)) and len(head) == 2 and all(isinstance(x, int) for x in head)
                for head in members
            )
            require(pairs, f"the heads at {role}: {members!r}", "each head is (layer, head)")
    return [{role: [tuple(head) for head in members] for role, members in drawn.items()} for drawn in result]


def _require_draw(role, drawn, members, layers, heads, within, keep, never) -> None:
    what = f"a draw at {role}: {drawn} for {members}"
    kept = [head for head in members if head in keep]
    rest = [head for head in drawn if head not in kept]
    require(len(drawn) == len(members), what, "as many heads at each role as the circuit has")
    require(len(set(drawn)) == len(drawn), what, "a head is there twice: take what is chosen out of what can be drawn")
    require(
        all(head in drawn for head in kept), what, f"{kept} must stay: heads in `keep` are in every draw, at their role"
    )
    require(
        not set(rest) & set(members), what, "it holds a head of the circuit itself: draw among the others at this role"
    )
    require(
        not set(rest) & set(never), what, f"it holds one of `never`, {list(never)}: the dominant head must stay out"
    )
    require(
        all(0 <= layer < layers and 0 <= head < heads for layer, head in rest),
        what,
        "a head that the model does not have",
    )
    away = [head for head in members if head not in kept]
    require(
        any(
            all(abs(a[0] - b[0]) <= within for a, b in zip(order, away, strict=True))
            for order in itertools.permutations(rest)
        ),
        what,
        f"layers are not matched: each head is at most within = {within} layers from the one it stands for",
    )


def _require_reach(found, circuit, layers, heads, within, keep, never) -> None:
    """With one head at S1+1, sixty draws should meet most of what is allowed there, in every layer."""
    role, (layer, _) = "S1+1", circuit["S1+1"][0]
    near = range(max(0, layer - within), min(layers, layer + within + 1))
    allowed = {(i, h) for i in near for h in range(heads)} - set(circuit[role]) - set(never)
    met = {drawn[role][0] for drawn in found}
    require(
        all({head[axis] for head in met} == {head[axis] for head in allowed} for axis in (0, 1))
        and len(met) > 0.6 * len(allowed),
        f"sixty draws at {role}: {len(met)} of {len(allowed)} allowed heads, in layers {sorted({i for i, _ in met})}",
        f"every head of the layers from {min(near)} to {max(near)} should have a chance, both ends included",
    )


class _Toy:
    """Scores of removed heads that interact, counting how often they are asked."""

    def __init__(self, members: Sequence, seed: int, offset: float, rising: bool = False) -> None:
        generator = np.random.default_rng(seed)
        self.members, self.asked, self.rising = list(members), 0, rising
        self.single = dict(zip(self.members, generator.normal(0, 1, len(members)), strict=True))
        self.double = {frozenset(p): generator.normal(0, 1) for p in itertools.combinations(self.members, 2)}
        self.offset = offset

    def __call__(self, removed: Sequence) -> float:
        self.asked += 1
        gone = list(removed)
        if self.rising:  # towards a larger score with every head that is removed
            return float(self.offset + sum(0.2 * abs(self.single[head]) for head in gone))
        pairs = itertools.combinations(gone, 2)
        value = (
            self.offset + sum(self.single[head] for head in gone) + sum(self.double[frozenset(pair)] for pair in pairs)
        )
        return float(value)


MEMBERS = [
    ("END", (7, 1)),
    ("END", (7, 2)),
    ("END", (4, 0)),
    ("S2", (4, 0)),
    ("S2", (5, 2)),
    ("S1+1", (2, 2)),
    ("S1", (0, 1)),
]


@exercise(
    "06",
    look="section 5: the distance decides, not F(C without K) alone; remember the best set on the way",
    points=3,
    takes="members in_circuit in_model k n seed",
)
def check_greedy_incompleteness(learner: Callable) -> str:
    for seed, n, offset in ((11, 3, 4.4), (4, 7, -0.4), (8, 5, 3.2), (9, 9, 0.8)):  # here every mistake leads elsewhere
        circuit, model = _Toy(MEMBERS, seed, 2.0), _Toy(MEMBERS, seed + 50, offset)
        removed, distance = _found(call(learner, list(MEMBERS), circuit, model, 20, n, seed))
        asked = circuit.asked + model.asked
        best, way = _greedy(circuit, model, n)
        _require_set(removed, distance, best, _greedy_mistakes(circuit, model, n, way))
        require(
            asked <= 4 * (1 + sum(range(1, len(MEMBERS) + 1))),
            f"calls of in_circuit and in_model: {asked}",
            "ask for each set once, in each step for the heads that are not removed yet",
        )
    for seed in range(5):
        circuit, model = _Toy(MEMBERS, seed + 9, 1.0), _Toy(MEMBERS, seed + 70, 1.2)
        removed, distance = _found(call(learner, list(MEMBERS), circuit, model, 2, 3, seed))
        _require_possible(circuit, model, removed, distance, 3)
    circuit, model = _Toy(MEMBERS, 3, 1.0, rising=True), _Toy(MEMBERS, 3, 6.0, rising=True)
    model.single = dict.fromkeys(MEMBERS, 0.0)
    removed, distance = _found(call(learner, list(MEMBERS), circuit, model, 20, 2, 0))
    require(
        not removed and abs(distance - 5) < 1e-6,
        f"a circuit that comes nearer to the model with every head removed: K = {removed}, distance {distance:.3f}",
        "the empty set, with its distance of 5, is the best: begin with |F(C) - F(M)| as the distance to beat",
    )
    ways = {
        frozenset(_found(call(learner, list(MEMBERS), _Toy(MEMBERS, 9, 1.0), _Toy(MEMBERS, 70, 1.2), 2, 3, seed))[0])
        for seed in range(8)
    }
    require(
        len(ways) > 1,
        "eight seeds with k = 2: always the same K",
        "draw k of the remaining heads with random.Random(seed)",
    )
    return "the greedy set of four circuits, every draw among all subsets, and each set asked for once"


def _found(result: Any) -> tuple[list, float]:
    ok = isinstance(result, (tuple, list)) and len(result) == 2 and isinstance(result[0], (list, tuple, set, frozenset))
    require(ok, f"what you return: {type(result).__name__}", "return two things: the list K, and its distance")
    return list(result[0]), _end(result[1], "the distance")


def _distance(circuit: _Toy, model: _Toy, removed: Sequence) -> float:
    return abs(circuit(removed) - model(removed))


def _greedy(circuit: _Toy, model: _Toy, n: int, value: Callable | None = None) -> tuple[list, list[list]]:
    """The best set on the way, and the way, with every head tried in each step."""
    value = value or (lambda removed: _distance(circuit, model, removed))
    way: list[list] = [[]]
    for _ in range(min(n, len(MEMBERS))):
        left = [head for head in MEMBERS if head not in way[-1]]
        way.append([*way[-1], max(left, key=lambda head: value([*way[-1], head]))])
    return max(way, key=value), way


def _greedy_mistakes(circuit: _Toy, model: _Toy, n: int, way: list[list]) -> dict[str, list]:
    return {
        "this is the last set of the way: a step may make the distance smaller, so remember the best one": way[-1],
        "F(C without K) alone is made as small as possible: that is no incompleteness, the model may fall as well":
            _greedy(circuit, model, n, lambda removed: -circuit(removed))[0],
        "F(C without K) alone is made as large as possible": _greedy(circuit, model, n, circuit)[0],
        "the sign is kept: the circuit may fall below the model, or stay above it; take the absolute distance":
            _greedy(circuit, model, n, lambda removed: circuit(removed) - model(removed))[0],
        "the sign is kept, the other way: take the absolute distance":
            _greedy(circuit, model, n, lambda removed: model(removed) - circuit(removed))[0],
        "the distance is made as small as possible":
            _greedy(circuit, model, n, lambda removed: -_distance(circuit, model, removed))[0],
        "only one head is ever removed: add to what is removed already":
            [max(MEMBERS, key=lambda head: _distance(circuit, model, [head]))],
    }  # fmt: skip


def _require_set(removed: list, distance: float, best: list, mistakes: Mapping[str, list]) -> None:
    named = [word for word, wrong in mistakes.items() if set(wrong) == set(removed) and set(wrong) != set(best)]
    require(
        set(removed) == set(best) and len(removed) == len(best),
        f"the set K, {removed}, with that of a greedy search that tries every head, {best}",
        named[0] if named else "in each step add the head that makes |F(C without K) - F(M without K)| largest",
    )
    require(np.isfinite(distance), f"the distance: {distance}", "return the distance of the best set")


def _require_possible(circuit: _Toy, model: _Toy, removed: list, distance: float, n: int) -> None:
    require(
        set(removed) <= set(MEMBERS) and len(set(removed)) == len(removed) <= n,
        f"the set K with n = {n}: {removed}", "K has at most n heads of the circuit, each once",
    )  # fmt: skip
    require(
        abs(distance - _distance(circuit, model, removed)) < 1e-6,
        f"the distance {distance:.4f} with that of the K you return, {_distance(circuit, model, removed):.4f}",
        "the set and the distance must belong together, and it is an absolute value",
    )
    require(
        distance >= _distance(circuit, model, []) - 1e-9,
        "the distance with that of the empty set: it is smaller",
        "the empty set is on the way, too: begin with it as the best",
    )


@exercise(
    "06",
    look="section 5: F(C without K and v) - F(C without K), K = together[v] without v",
    points=2,
    takes="in_circuit members together",
)
def check_minimality(learner: Callable) -> str:
    together = {head: [other for other in MEMBERS if other[0] == head[0]] for head in MEMBERS[:5]}
    for seed, given in ((0, None), (1, together), (2, {MEMBERS[0]: MEMBERS[1:3]})):
        score = _Toy(MEMBERS, seed, 1.7)

        def table(value: Callable, score=score, given=given) -> Tensor:
            return torch.tensor([value(score, head, _others(given, head)) for head in MEMBERS])

        found = call(learner, score, list(MEMBERS), given)
        require(
            isinstance(found, Mapping) and set(found) == set(MEMBERS),
            f"what you return: {type(found).__name__}", "return a dictionary with one entry for each head",
        )  # fmt: skip
        held = require_equal(
            [found[head] for head in MEMBERS],
            table(lambda score, head, others: score([*others, head]) - score(others)),
            "the change for each head",
            axes="head",
            mistakes={
                "absolute values: the sign says whether removing the head helps":
                    lambda: table(lambda score, head, others: abs(score([*others, head]) - score(others))),
                "the sign is turned: with v removed, minus without": lambda: table(
                    lambda score, head, others: score(others) - score([*others, head])
                ),
                "K is not removed: remove together[v] in both": lambda: table(
                    lambda score, head, others: score([head]) - score([])
                ),
                "K is removed on one side only: F(C without K) is what you compare with": lambda: table(
                    lambda score, head, others: score([*others, head]) - score([])
                ),
                "v itself is in K, so that both sides are the same where it is listed": lambda: table(
                    lambda score, head, others: (
                        0.0 if head in (given or {}).get(head, []) else score([*others, head]) - score(others)
                    )
                ),
                "this is the score without v, not its change": lambda: table(
                    lambda score, head, others: score([*others, head])
                ),
                "divided by the score of the circuit: return the change in logits": lambda: table(
                    lambda score, head, others: (score([*others, head]) - score(others)) / score([])
                ),
            },
        )  # fmt: skip
    return f"the signed change of seven heads, without K, with their class as K, and with K for one head only ({held})"


def _others(together: Mapping | None, head) -> list:
    return [other for other in (together or {}).get(head, []) if other != head]


# --- what a head carries ------------------------------------------------------------------------------------------------


@exercise(
    "06",
    look="section 6: stream after layer 0 at the name, then ln1, the value of the head's group, W_O, ln_final, unembed",
    points=3,
    takes="model names k",
)
def check_copy_scores(learner: Callable) -> str:
    for model, k in itertools.product(both_models(), (40, 90)):
        names = torch.tensor([model.to_single_token(f" {name}") for name in single_token_names(model)[3:16]])
        scores = partial(_copy, model, names, k)
        held = require_equal(
            call(learner, model, names, k),
            scores(),
            f"the copying scores of 13 names, k = {k}, on {model.cfg.model_name}",
            axes="sign layer head",
            mistakes={
                "the head reads the embedding: it reads the stream after the first layer":
                    lambda: scores(site="hook_resid_pre"),
                "the head reads the stream in the middle of the first layer: after its MLP":
                    lambda: scores(site="hook_resid_mid"),
                "the head reads BOS: the name is the second token": lambda: scores(position=0),
                "the names are given without BOS": lambda: scores(bos=False),
                "a query head has the wrong shared value: neighbors share one, so use repeat_interleave":
                    lambda: scores(spread=True),
                "the final norm is left out": lambda: scores(final=False),
                "both rows are the positive score: the second is of the negated output":
                    lambda: scores()[:1].expand(2, -1, -1),
                "the two rows are exchanged: first the output as it is": lambda: scores().flip(0),
                "the least likely tokens are taken in place of the negated output: negate before the final norm":
                    lambda: scores(least=True),
                "only the likeliest token counts: the k likeliest do": lambda: _copy(model, names, 1),
                "one token too many": lambda: _copy(model, names, k + 1),
                "one token too few": lambda: _copy(model, names, k - 1),
                "any of the names counts: each name counts for itself": lambda: scores(anyone=True),
                "these are counts: divide by the number of names": lambda: scores() * len(names),
            },
            atol=1e-4,
        )  # fmt: skip
    return f"13 names on a GPT-2 and a Llama, both signs, two values of k ({held})"


@torch.no_grad()
def _copy(
    model, names: Tensor, k: int, site="hook_resid_post", position=1, bos=True, spread=False, final=True, least=False,
    anyone=False,
) -> Tensor:  # fmt: skip
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


@exercise(
    "06",
    look="section 6: z[torch.arange(batch), roles[role], head] from the variant's run, into the run of the original prompts",
    points=4,
    takes="model tokens variants circuit roles score",
)
def check_flip_signals(learner: Callable) -> str:
    template = "When{A} and{B} went to the store,{S} gave a drink to"
    names = [
        (" Mary", " John", " Paul", " Kate"),
        (" Tom", " Amy", " Dan", " Sid"),
        (" Anna", " Mark", " Jack", " Emma"),
    ]
    kinds = {
        ("kept", "kept"): "ISS", ("kept", "inverted"): "SIS", ("random", "kept"): "xyy", ("random", "inverted"): "xyx",
        ("inverted", "kept"): "SII", ("inverted", "inverted"): "ISI",
    }  # fmt: skip
    roles = {"S2": torch.tensor([10, 9, 10]), "END": torch.tensor([14, 14, 13])}
    for model in both_models():
        variants = {}
        for signal, letters in kinds.items():
            who = [dict(zip("ISxy", four, strict=True)) for four in names]
            texts = [template.format(A=w[letters[0]], B=w[letters[1]], S=w[letters[2]]) for w in who]
            variants[signal] = model.to_tokens(texts)
        tokens = variants["kept", "kept"]
        answers = torch.tensor([[model.to_single_token(name) for name in four[:2]] for four in names])

        def score(logits: Tensor, answers=answers) -> Tensor:
            correct, incorrect = logits[:, -1].gather(-1, answers).unbind(-1)
            return 0.3 + (correct - incorrect).mean()

        for circuit in ({"END": [(2, 1), (1, 0)], "S2": [(1, 3), (0, 2)]}, {"END": [(2, 3)]}):
            flip = partial(_flip, model, tokens, variants, circuit, roles, score)
            held = require_equal(
                call(learner, model, tokens, variants, circuit, roles, score),
                flip(),
                f"the six scores of {circuit} on {model.cfg.model_name}",
                axes="token position",
                mistakes={
                    "rows and columns are mixed up: variants[token, position]": lambda: flip(turned=True),
                    "the heads are exchanged at every position: at their role only": lambda: flip(everywhere=True),
                    "every prompt is exchanged at the roles of all prompts: z[torch.arange(batch), roles[role], head]":
                        lambda: flip(union=True),
                    "the variants run, with the original messages: run the original prompts": lambda: flip(swapped=True),
                    "these are the scores of the variants themselves": lambda: _scores(model, variants, score),
                    "only the first role is exchanged":
                        lambda: _flip(model, tokens, variants, dict(list(circuit.items())[:1]), roles, score),
                    "only the last role is exchanged":
                        lambda: _flip(model, tokens, variants, dict(list(circuit.items())[-1:]), roles, score),
                    "only the last head of a role is exchanged": lambda: _flip(
                        model, tokens, variants, {role: heads[-1:] for role, heads in circuit.items()}, roles, score
                    ),
                    "only the first head of a role is exchanged": lambda: _flip(
                        model, tokens, variants, {role: heads[:1] for role, heads in circuit.items()}, roles, score
                    ),
                    "every head is exchanged at all roles":
                        lambda: _flip(model, tokens, variants, _spread(circuit), roles, score),
                    "all heads of the layers are exchanged": lambda: flip(all_heads=True),
                    "token and position are inverted together: each cell has a variant of its own": lambda: flip(
                        names={(t, p): (t, "kept" if t == "kept" else "inverted") for t in TOKENS for p in POSITIONS}
                    ),
                    "every cell is the unchanged model": lambda: score(model(tokens)).expand(3, 2),
                    "the first cell is subtracted: return the scores": lambda: flip() - flip()[0, 0],
                },
            )  # fmt: skip
    return f"six kinds of prompt, heads at one role and at two, on a GPT-2 and a Llama ({held})"


def _spread(circuit: Mapping) -> dict[str, list]:
    """Every head at every role."""
    return {role: [head for heads in circuit.values() for head in heads] for role in circuit}


def _scores(model, variants: Mapping, score: Callable) -> Tensor:
    return torch.stack([torch.stack([score(model(variants[t, p])) for p in POSITIONS]) for t in TOKENS])


def _flip(
    model, tokens, variants, circuit, roles, score, turned=False, everywhere=False, union=False, swapped=False,
    all_heads=False, names: Mapping | None = None,
) -> Tensor:  # fmt: skip
    table = torch.zeros(3, 2)
    cells = list(itertools.product(enumerate(TOKENS), enumerate(POSITIONS)))
    if turned:
        signals = [(t, p) for p in POSITIONS for t in TOKENS]
        cells = [((i // 2, signals[i][0]), (i % 2, signals[i][1])) for i in range(6)]
    for (i, token), (j, position) in cells:
        other = variants[(names or {}).get((token, position), (token, position))]
        run, lent = (other, tokens) if swapped else (tokens, other)
        _, cache = model.run_with_cache(lent)

        def put(z: Tensor, hook, cache=cache) -> Tensor:
            z = z.clone()
            for role, members in circuit.items():
                for layer, head in members:
                    if hook.name == f"blocks.{layer}.attn.hook_z":
                        rows, places = torch.arange(len(z)), roles[role]
                        heads = slice(None) if all_heads else head
                        if everywhere:
                            z[:, :, heads] = cache[hook.name][:, :, heads]
                        elif union:
                            z[:, places, heads] = cache[hook.name][:, places, heads]
                        else:
                            z[rows, places, heads] = cache[hook.name][rows, places, heads]
            return z

        hooks = [(f"blocks.{layer}.attn.hook_z", put) for layer in range(model.cfg.n_layers)]
        table[i, j] = score(model.run_with_hooks(run, fwd_hooks=hooks))
    return table
