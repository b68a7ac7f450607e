"""Checks of chapter 06, second part: means, masks, the run of a circuit, and how faithful it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.ch06_results import entries, one_number
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import CheckFailed, both_models, exercise

TEMPLATE = "When{A} and{B} went to the store,{S} gave a drink to"

# --- means, masks, runs -----------------------------------------------------------------------------------------------


@exercise("06", look="section 2: one mean for each template, over axis 1 of z", points=2, takes="z template")
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
                "ABBA and BABA are averaged together: each number is a template of its own": lambda: _means(
                    z, numbers // 2
                ),
                "positions are averaged too: keep them apart": lambda: (
                    _means(z, numbers).mean(2, keepdim=True).expand_as(z)
                ),
                "layers are averaged too": lambda: _means(z, numbers).mean(0, keepdim=True).expand_as(z),
                "heads are averaged too": lambda: _means(z, numbers).mean(3, keepdim=True).expand_as(z),
                "d_head is averaged too": lambda: _means(z, numbers).mean(4, keepdim=True).expand_as(z),
                "divided by the number of all prompts: divide by that of the template": lambda: (
                    _means(z, numbers) * (torch.bincount(numbers)[numbers] / len(numbers))[:, None, None, None]
                ),
                "medians: take the mean": lambda: _means(z, numbers, reduce=lambda of: of.median(1).values),
                "numbers are taken for places in a list: they are names, take those that occur (template.unique())": lambda: (
                    torch.where((numbers < len(numbers.unique()))[:, None, None, None], _means(z, numbers), z)
                ),
                "these are sums: divide by the number of prompts of the template": lambda: (
                    _means(z, numbers) * torch.bincount(numbers)[numbers][:, None, None, None]
                ),
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
        )
    return f"two sets of templates, in any order, with one prompt and with several ({held})"


def _means(
    z: Tensor, numbers: Tensor, first: bool = False, leave_out: bool = False, reduce: Callable = lambda of: of.mean(1)
) -> Tensor:
    rows = []
    for i, number in enumerate(numbers.tolist()):
        same = [j for j, other in enumerate(numbers.tolist()) if other == number and not (leave_out and j == i)]
        rows.append(reduce(z[:, same[:1] if first else same or [i]]))
    return torch.stack(rows, 1)


@exercise(
    "06",
    look="section 2: the axes of the mask, and which position belongs to which prompt",
    points=2,
    takes="circuit roles shape",
)
def check_keep_mask(learner: Callable) -> str:
    roles = {
        "S1": torch.tensor([1, 3, 1, 3, 5]),
        "S2": torch.tensor([4, 4, 6, 6, 2]),
        "END": torch.tensor([7, 6, 7, 8, 6]),
    }
    shape = (4, 5, 9, 3)
    for circuit in ({"END": [(2, 0), (0, 2), (2, 1)], "S2": [(1, 2), (2, 1)]}, {"S1": [(0, 1)], "END": []}, {}):
        table = partial(_mask, circuit, roles, shape)
        last_role = {head: role for role, heads in circuit.items() for head in heads}
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
                "roles are paired with the circuit by their order: by their names":
                    lambda: _mask(dict(zip(roles, circuit.values(), strict=False)), roles, shape),
                "a head that stands at two roles is kept at one of them": lambda: _mask(
                    {role: [head for head in heads if last_role[head] == role] for role, heads in circuit.items()},
                    roles, shape,
                ),
                "only one head of a layer is kept": lambda: _mask(
                    {role: list(dict(heads).items()) for role, heads in circuit.items()}, roles, shape
                ),
                "every position up to the role's is kept": lambda: table(where=lambda i, places: range(int(places[i]) + 1)),
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
    look="section 2: the mask says, for each layer, prompt, position and head, whether z stays",
    points=2,
    takes="model tokens mask means",
)
def check_run_circuit(learner: Callable) -> str:
    for model in both_models():
        tokens, _, means, masks = _circuit_runs(model)
        for share, mask in masks.items():
            want, mistakes = _circuit_logits(model, share)
            held = require_equal(
                call(learner, model, tokens, mask, means),
                want,
                f"the logits with {100 * share:.0f} % of all heads kept, on {model.cfg.model_name}",
                axes="prompt position vocab",
                mistakes=mistakes,
            )
    return f"some heads kept, all, and none, on a GPT-2 and a Llama ({held})"


@cache
def _circuit_runs(model: TransformerBridge) -> tuple[Tensor, Tensor, Tensor, dict[float, Tensor]]:
    """Tokens of five prompts, their z, means to put in its place, and masks by the share of heads that they keep."""
    generator = torch.Generator().manual_seed(6)
    tokens = model.to_tokens([TEMPLATE.format(A=" John", B=" Mary", S=" John")])
    tokens = torch.cat([tokens, tokens.flip(1), tokens.roll(3, 1), tokens.roll(7, 1), tokens.roll(9, 1)])
    _, run = model.run_with_cache(tokens)
    z = torch.stack([run["z", layer] for layer in range(model.cfg.n_layers)])
    means = z.roll(1, 1) + 0.3 * torch.randn(z.shape, generator=generator)
    masks = {share: torch.rand(z.shape[:4], generator=generator) < share for share in (0.4, 1.0, 0.0)}
    return tokens, z, means, masks


@cache
def _circuit_logits(model: TransformerBridge, share: float) -> tuple[Tensor, Mistakes]:
    tokens, z, means, masks = _circuit_runs(model)
    mask, run = masks[share], partial(_circuit, model, tokens)

    def kept(layer: int, own: Tensor) -> Tensor:
        return torch.where(mask[layer][..., None], own, means[layer])

    return run(kept), once(
        {
            "the mask is taken the wrong way round: it is true for what is kept": lambda: run(
                lambda layer, own: torch.where(mask[layer][..., None], means[layer], own)
            ),
            "kept heads write what they wrote in the whole model: let them work with what they find": lambda: run(
                lambda layer, own: torch.where(mask[layer][..., None], z[layer], means[layer])
            ),
            "heads that are not kept become zero: give them their means": lambda: run(
                lambda layer, own: own * mask[layer][..., None]
            ),
            "nothing is replaced: does your hook return z?": lambda: run(lambda layer, own: own),
            "the means of layer 0 are used in all layers": lambda: run(
                lambda layer, own: torch.where(mask[layer][..., None], own, means[0])
            ),
            "the mask of layer 0 is used in all layers": lambda: run(
                lambda layer, own: torch.where(mask[0][..., None], own, means[layer])
            ),
            "every layer gets the last one's mask and means: a function made in a loop sees its last values": lambda: (
                run(lambda layer, own: kept(-1, own))
            ),
            "only the last layer is replaced: put a hook on every layer": lambda: run(kept, [-1]),
            "layer 0 is left out: replace in every layer": lambda: run(kept, range(1, model.cfg.n_layers)),
            "the last layer is left out: replace in every layer": lambda: run(kept, range(model.cfg.n_layers - 1)),
            "only layer 0 is replaced": lambda: run(kept, [0]),
            "the mask of the first prompt is used for all": lambda: run(
                lambda layer, own: torch.where(mask[layer, :1, ..., None], own, means[layer])
            ),
            "the means are averaged over positions: each position has its own": lambda: run(
                lambda layer, own: torch.where(mask[layer][..., None], own, means[layer].mean(1, keepdim=True))
            ),
            "the layers are taken in reverse": lambda: run(
                lambda layer, own: torch.where(mask[-1 - layer][..., None], own, means[-1 - layer])
            ),
            "the means are averaged over prompts: each prompt has its own": lambda: run(
                lambda layer, own: torch.where(mask[layer][..., None], own, means[layer].mean(0, keepdim=True))
            ),
            "the MLPs are taken away as well: only heads are": lambda: run(kept, mlps=False),
            "a head is kept everywhere if it is kept anywhere": lambda: run(
                lambda layer, own: torch.where(mask[layer].any(1, keepdim=True)[..., None], own, means[layer])
            ),
        }
    )


def _circuit(model, tokens: Tensor, change: Callable, layers: Sequence[int] | None = None, mlps: bool = True) -> Tensor:
    n_layers = model.cfg.n_layers
    chosen = range(n_layers) if layers is None else [layer % n_layers for layer in layers]
    hooks = [(f"blocks.{layer}.attn.hook_z", lambda z, hook, layer=layer: change(layer, z)) for layer in chosen] + [
        (f"blocks.{layer}.hook_mlp_out", lambda out, hook: out * 0) for layer in range(n_layers) if not mlps
    ]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


# --- how well ---------------------------------------------------------------------------------------------------------

FAITHFULNESS = ("value", "low", "high", "mae", "correlation")
SCORE_SETS = ((0, 40, 0.7), (1, 25, -1.6))  # seed, prompts, the share that the circuit gives


@exercise(
    "06",
    look="section 3: a ratio of means; prompts are drawn whole; the error is per prompt",
    points=3,
    takes="full circuit empty",
)
def check_faithfulness(learner: Callable) -> str:
    for case in range(len(SCORE_SETS)):
        given = _scores(case)
        found = entries(call(learner, *(torch.tensor(scores, dtype=torch.float32) for scores in given)), FAITHFULNESS)
        for name in ("value", "mae", "correlation"):
            held = require_equal(
                found[name],
                _fit(name, *given),
                f"{name!r} of {len(given[0])} prompts",
                mistakes=_fit_mistakes(name, *given),
                atol=1e-4,
            )
        _require_interval(one_number(found["low"], "low"), one_number(found["high"], "high"), case)
    return f"value, interval, error and correlation of two sets of scores, one with a negative value ({held})"


@cache
def _scores(case: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of the full model, a circuit, and the empty circuit, which 32 bits hold exactly."""
    seed, n, slope = SCORE_SETS[case]
    generator = np.random.default_rng(seed)
    empty = generator.normal(0.4, 1.2, n)
    full = empty + generator.gamma(1.5, 2.0, n)
    circuit = empty + slope * (full - empty) + generator.normal(0.3, 0.8, n)
    return tuple(scores.astype(np.float32).astype(float) for scores in (full, circuit, empty))


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
            "the ratio is upside down: circuit over full": lambda: whole.mean() / gain.mean(),
            "this is what the circuit adds, in logits: divide by what the model adds": gain.mean,
            "this is what the model adds, in logits: divide what the circuit adds by it": whole.mean,
            "the empty circuit is added in the numerator: subtract it": lambda: (circuit + empty).mean() / whole.mean(),
            "the empty circuit is added in the denominator: subtract it": lambda: gain.mean() / (full + empty).mean(),
            "the numerator is the empty circuit's score: what the circuit adds to it": lambda: empty.mean() / whole.mean(),
            "the denominator is the empty circuit's score: what the model adds to it": lambda: gain.mean() / empty.mean(),
            "the circuit's scores are summed: take their mean":
                lambda: (circuit.sum() - empty.mean()) / whole.mean(),
            "the empty circuit's scores are summed: take their mean, above and below":
                lambda: (circuit.mean() - empty.sum()) / whole.mean(),
            "this is a distance: return a share": lambda: full.mean() - circuit.mean(),
            "kept between 0 and 1: a circuit may do worse than none, or better than the model":
                lambda: np.clip(gain.mean() / whole.mean(), 0, 1),
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
            "the scores are added: take the distance": lambda: np.abs(circuit + full).mean(),
            "the size of the circuit's score: its distance from the model's": lambda: np.abs(circuit).mean(),
            "the size of the model's score: its distance from the circuit's": lambda: np.abs(full).mean(),
            "the distance of the empty circuit from the model: that of the circuit": lambda: np.abs(empty - full).mean(),
            "the distance of the circuit from the empty one: from the model": lambda: np.abs(circuit - empty).mean(),
            "the sum: take the mean": lambda: np.abs(circuit - full).sum(),
        },
        "correlation": {
            "a correlation of ranks: Pearson's is of values": lambda: stats.spearmanr(circuit, full).statistic,
            "this is the correlation's square: return the correlation": lambda: np.corrcoef(circuit, full)[0, 1] ** 2,
            "the sign is lost: a circuit may do worst where the model does best":
                lambda: abs(np.corrcoef(circuit, full)[0, 1]),
            "the means are not subtracted": lambda: (circuit * full).sum() / np.sqrt((circuit**2).sum() * (full**2).sum()),
            "the empty circuit is subtracted first: correlate the scores themselves": lambda: np.corrcoef(gain, whole)[0, 1],
            "circuit and empty circuit: correlate circuit and model": lambda: np.corrcoef(circuit, empty)[0, 1],
            "the correlation of a thing with itself: circuit and model": lambda: 1.0,
            "the correlation of the model with the empty circuit": lambda: np.corrcoef(full, empty)[0, 1],
            "a covariance: divide by both standard deviations": lambda: np.cov(circuit, full)[0, 1],
        },
    }[name]  # fmt: skip


@cache
def _intervals(case: int) -> dict[str, tuple[float, float]]:
    """What is drawn → the ends; the first one is the right one, of a large bootstrap of whole prompts."""
    full, circuit, empty = _scores(case)
    rows, *apart = (np.random.default_rng(seed).integers(len(full), size=(40000, len(full))) for seed in (9, 1, 2, 3))
    drawn = _ratio(full[rows], circuit[rows], empty[rows])

    def ends(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    return {
        "": ends(drawn),
        "prompts are not drawn whole: the three scores of a prompt belong together (paired=True)": ends(
            _ratio(full[apart[0]], circuit[apart[1]], empty[apart[2]])
        ),
        "low and high are exchanged": ends(drawn)[::-1],
        "an interval of another level: 95 % leaves 2.5 % on each side": ends(drawn, 0.9),
        "one standard error to each side: that is 68 %": ends(drawn, 0.68),
        "the mean of ratios is drawn, not the ratio of means": ends(((circuit - empty) / (full - empty))[rows].mean(1)),
        "the interval of the circuit's score: it is of the share": ends(circuit[rows].mean(1)),
        "the empty circuit is not subtracted in the draws": ends(circuit[rows].mean(1) / full[rows].mean(1)),
    }


def _require_interval(low: float, high: float, case: int) -> None:
    """The ends against a large bootstrap of whole prompts, within what a thousand draws leave open."""
    (_, want), *others = _intervals(case).items()
    near = max(abs(low - want[0]), abs(high - want[1])) < 0.065 * (want[1] - want[0])
    if near and low <= _ratio(*_scores(case)) <= high:
        return
    likely = [word for word, (a, b) in others if max(abs(low - a), abs(high - b)) < 0.06 * max(abs(b - a), 1e-9)]
    raise CheckFailed(
        f"your interval [{low:.3f}, {high:.3f}] with a bootstrap over whole prompts [{want[0]:.3f}, {want[1]:.3f}]",
        likely[0]
        if likely
        else "draw prompts with replacement, as many as there are, and take the 2.5 % and 97.5 % quantiles",
    )
