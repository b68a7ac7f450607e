"""Checks of chapter 11, second part: running edges, choosing them, areas, overlaps, and trial by trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import combinations_with_replacement

import numpy as np
import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.ch05_runs import CLEAN, OTHER
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import CheckFailed, exercise, require
from utils.circuits.edge_run import EdgeRun
from utils.circuits.graph import EdgeGraph, edge_graph
from utils.tiny_models import tiny_model

# --- running a set of edges -------------------------------------------------------------------------------------------

KEPT = ("a third of the edges cut", "another third cut", "the last third cut", "all edges kept", "no edge kept")
LATE = tuple(  # another last word in four of five: what the embedding tells the last position matters
    prompt.removesuffix(" to") + last for prompt, last in zip(OTHER, (" with", " to", " in", " of", " at"), strict=True)
)


@exercise(
    "11",
    look="section 5: changed[0], then in each layer the heads and after them the MLP; what is heard is a sum",
    points=4,
    takes="run keep",
)
def check_run_edges(learner: Callable) -> str:
    for model in (tiny_model("llama"), tiny_model("gpt2")):
        run = _edge_run(model)
        for kept in KEPT:
            want, mistakes = _ran(model, kept)
            got = call(learner, run, _keep(model, kept))
            held = require_equal(
                got,
                want,
                f"the logits with {kept}, on {model.cfg.model_name}",
                axes="prompt position vocab",
                mistakes=mistakes,
            )
    return f"some edges, all, and none, on a Llama and a GPT-2 ({held})"


@cache
def _edge_run(model: TransformerBridge) -> EdgeRun:
    return EdgeRun(model, model.to_tokens(CLEAN), model.run_with_cache(model.to_tokens(LATE))[1])


@cache
def _keep(model: TransformerBridge, kept: str) -> Tensor:
    """Every edge is cut in one of three sets, where most are kept: one that is always heard, or never, is noticed."""
    exists = edge_graph(model.cfg).exists
    third = torch.randint(3, exists.shape, generator=torch.Generator().manual_seed(9))
    sets = (*(exists & (third != i) for i in (2, 0, 1)), exists.clone(), exists & False)
    return dict(zip(KEPT, sets, strict=True))[kept]


@cache
def _ran(model: TransformerBridge, kept: str) -> tuple[Tensor, Mistakes]:
    run, keep = _edge_run(model), _keep(model, kept)
    wrong = partial(_by_reader, run, keep)
    all_of_it = run.graph.exists
    return run.logits(keep[None])[0], once(
        {
            "the embedding tells nothing: changed[0] is run.gained_embedding": lambda: wrong(embedding=0.0),
            "the embedding's change has the wrong sign": lambda: wrong(embedding=-1.0),
            "heads are never written into changed": lambda: wrong(heads=False),
            "MLPs are never written into changed": lambda: wrong(mlps=False),
            "MLPs hear nothing of the heads of their own layer: fill these in first": lambda: wrong(late=True),
            "every writer is heard, whatever is kept": lambda: _by_reader(run, all_of_it),
            "the kept edges are cut, and the others kept": lambda: _by_reader(run, all_of_it & ~keep),
            "all heads of a layer hear what the layer's first reader hears": lambda: wrong(first_reader=True),
            "the MLP hears what a reader of its layer's attention hears: it is the reader after the slice": lambda: (
                wrong(mlp_reader=-1)
            ),
            "the MLP hears what the first reader of the next layer hears: its own is readers.stop": lambda: wrong(
                mlp_reader=1
            ),
            "the logits hear nothing": lambda: wrong(final="nothing"),
            "the logits hear every writer: they are a reader like others": lambda: wrong(final="everything"),
            "the logits hear what the last MLP hears: they are the last reader": lambda: wrong(final="mlp"),
            "the first layer is left out": lambda: wrong(layers=range(1, run.graph.n_layers)),
            "the last layer is left out": lambda: wrong(layers=range(run.graph.n_layers - 1)),
            "what readers hear is averaged over writers: add up": lambda: wrong(average=True),
            "what readers hear is cut to whole numbers: keep it a float": lambda: wrong(whole=True),
            "what the MLP writes is written into every writer: its own place is heads.stop": lambda: wrong(
                everywhere=True
            ),
            "a writer keeps what it writes in the clean run: it should write what it makes of the kept edges": lambda: (
                wrong(clean=True)
            ),
        }
    )


def _by_reader(
    run: EdgeRun,
    keep: Tensor,
    embedding=1.0,
    heads=True,
    mlps=True,
    late=False,
    first_reader=False,
    mlp_reader=0,
    final="own",
    layers=None,
    average=False,
    clean=False,
    whole=False,
    everywhere=False,
) -> Tensor:
    """The run, reader by reader; each keyword is something to get wrong."""
    graph = run.graph
    changed = torch.zeros(len(graph.writers), *run.gained_embedding.shape)
    changed[0] = embedding * run.gained_embedding
    if clean:
        changed = run.gained_by_all().clone()

    def heard(reader: int, mask: Tensor = keep) -> Tensor:
        kept = mask[reader]
        total = torch.einsum("w,wbpd->bpd", kept.float(), changed)
        total = total.trunc() if whole else total
        return total / len(kept) if average else total

    for layer in range(graph.n_layers) if layers is None else layers:
        readers, own = graph.attention_readers(layer), graph.heads_of(layer)
        early = heard(readers.stop + mlp_reader)
        told = torch.stack([heard(readers.start if first_reader else r) for r in range(readers.start, readers.stop)])
        if heads and not clean:
            changed[own] = run.heads_tell(layer, told)
        if mlps and not clean:
            changed[slice(None) if everywhere else own.stop] = run.mlp_tells(
                layer, early if late else heard(readers.stop + mlp_reader)
            )
    last = {
        "own": lambda: heard(-1),
        "nothing": lambda: 0 * heard(-1),
        "everything": lambda: heard(-1, torch.ones_like(keep)),
        "mlp": lambda: heard(-2),
    }
    return run.logits_of(last[final]())


# --- choosing edges ---------------------------------------------------------------------------------------------------

GRAPH = EdgeGraph(3, 4, 2)


@exercise(
    "11",
    look="section 6: what does not exist must come last, and of equal scores at the border only some are chosen",
    points=2,
    takes="scores exists n signed",
)
def check_top_edges(learner: Callable) -> str:
    for case in range(len(_choices())):
        held = _require_choice(learner, case)
    exists = GRAPH.exists
    for signed in (False, True):
        tied = torch.zeros(exists.shape).masked_fill(torch.arange(exists.shape[1]) == 0, 2.0)
        tied[3, 0] = 3.0 if signed else -3.0
        got = torch.as_tensor(call(learner, tied, exists, 40, signed=signed))
        require(
            got.shape == exists.shape and int(got.sum()) == 40,
            f"the best 40 edges, where many have the same score: {int(got.sum())} edges were chosen",
            "exactly n edges: of equal scores at the border, take as many as are missing",
        )
        require(
            not (got & ~exists).any() and bool(got[:, 0].all()),
            "the best 40 edges, where many have the same score: an edge that does not exist, or one of the best is missing",
            "put what does not exist last, and then choose",
        )
    unequal = torch.arange(float(exists.numel())).view(exists.shape)
    require_equal(
        call(learner, unequal, exists, 0),
        exists & False,
        "the best 0 edges",
        axes="reader writer",
        mistakes={
            "with n = 0, [-n:] takes everything: order from the largest and take the first n": lambda: exists | True,
            "with n = 0 every edge is chosen: order from the largest and take the first n": lambda: exists,
        },
    )
    return f"signed and by size, all edges and few, with ties ({held})"


@cache
def _choices() -> tuple[tuple[Tensor, int, bool | None, float, float], ...]:
    """Which edges exist, n, signed (None: left out), and the spread and the middle of the scores."""
    anywhere = torch.rand(9, 14, generator=torch.Generator().manual_seed(5)) < 0.4
    ordered, every = GRAPH.exists, int(anywhere.sum())
    return (
        (ordered, 25, False, 1.0, 0.0),
        (ordered, 25, True, 1.0, 0.0),
        (ordered, 150, True, 1.0, 0.0),
        (ordered, 190, False, 1.0, 0.0),
        (ordered, 1, False, 1.0, 0.0),
        (ordered, 60, None, 1.0, 0.0),
        (anywhere, 20, True, 1.0, -3.0),
        (anywhere, every // 2, None, 1e-3, 1.0),
        (anywhere, every, True, 1.0, -1.0),
    )


def _require_choice(learner: Callable, case: int) -> str:
    exists, n, signed, spread, middle = _choices()[case]
    generator = torch.Generator().manual_seed(case)
    scores = middle + spread * torch.randn(exists.shape, generator=generator)  # those of edges that do not exist, too
    more = {} if signed is None else {"signed": signed}
    return require_equal(
        call(learner, scores, exists, n, **more),
        _top(scores, exists, n, bool(signed)),
        f"the best {n} edges, {'signed' if signed else 'by size'}",
        axes="reader writer",
        mistakes=_top_mistakes(scores, exists, n, bool(signed)),
    )


def _top(scores: Tensor, exists: Tensor, n: int, signed: bool, ascending: bool = False) -> Tensor:
    ranked = scores if signed else scores.abs()
    flat = [(float(ranked[r, w]) * (1 if ascending else -1), r, w) for r, w in exists.nonzero().tolist()]
    keep = torch.zeros_like(exists)
    for _, r, w in sorted(flat)[:n]:
        keep[r, w] = True
    return keep


def _top_mistakes(scores: Tensor, exists: Tensor, n: int, signed: bool) -> Mistakes:
    everything = torch.ones_like(exists)
    right = partial(_top, scores, exists, n)
    return {
        "edges are ranked by size where the sign is asked for"
        if signed
        else "edges are ranked by sign where the size is asked for": lambda: right(not signed),
        "these are the weakest edges: the largest first": lambda: right(signed, ascending=True),
        "edges that do not exist are chosen: put them last": lambda: _top(scores, everything, n, signed),
        "edges that do not exist are chosen, as if they had a score of 0: put them last, with -inf": lambda: _top(
            scores * exists, everything, n, signed
        ),
        "one edge too many": lambda: _top(scores, exists, n + 1, signed),
        "one edge too few": lambda: _top(scores, exists, n - 1, signed),
        "which edges exist is worked out anew: the table `exists` says it": lambda: _top(
            scores, torch.arange(exists.shape[1]) < exists.sum(1)[:, None], n, signed
        ),
        "edges with a score below zero are never chosen: of those that hurt, the mildest are the best": lambda: (
            right(signed) & (scores > 0)
        ),
        "the chosen edges are left out": lambda: exists & ~right(signed),
        "only edges that do not exist are chosen: the mask is inverted": lambda: _top(scores, ~exists, n, signed),
        "everything but the best edges is chosen": lambda: ~right(signed),
        "every edge is chosen": lambda: exists,
        "everything is chosen": lambda: everything,
        "nothing is chosen": lambda: exists & False,
    }


# --- areas ------------------------------------------------------------------------------------------------------------

CURVES = (
    ((0.001, 0.01, 0.1, 0.5, 1.0), (0.2, 0.9, 1.6, 2.1, 1.0)),
    ((0.001, 0.002, 0.005, 0.02, 0.4, 1.0), (-0.3, 0.1, 0.5, 0.4, 0.8, 1.0)),
    ((0.0, 0.25, 1.0), (1.0, 1.0, 1.0)),
    ((0.125, 0.25, 0.75), (1.5, 0.5, 0.75)),  # neither begins at 0 nor ends at 1
)


@exercise(
    "11",
    look="section 6: the definitions of CPR and CMD; at which places do the heights stand?",
    takes="shares faithfulness",
)
def check_curve_areas(learner: Callable) -> str:
    for shares, heights in CURVES:
        got = call(learner, list(shares), list(heights))
        require(
            isinstance(got, (tuple, list, Tensor, np.ndarray)) and len(got) == 2,
            f"what you return: {type(got).__name__}",
            "return two numbers, (cpr, cmd)",
        )
        held = require_equal(
            got,
            torch.tensor(_areas(shares, heights)),
            f"CPR and CMD of the curve {heights}",
            axes="area",
            mistakes=_area_mistakes(shares, heights),
            atol=1e-5,
        )
    return f"four curves, above 1, below 0, all ones, and over a part of the shares ({held})"


def _trapezoids(places: Sequence[float], heights: Sequence[float]) -> float:
    parts = zip(places, places[1:], heights, heights[1:], strict=False)
    return sum((b - a) * (x + y) / 2 for a, b, x, y in parts)


def _areas(shares: Sequence[float], heights: Sequence[float]) -> tuple[float, float]:
    return _trapezoids(shares, heights), _trapezoids(shares, [abs(1 - height) for height in heights])


def _area_mistakes(shares, heights) -> Mistakes:
    cpr, cmd = _areas(shares, heights)
    even = list(range(len(shares)))
    gaps = [1 - height for height in heights]
    steps = list(zip(shares, shares[1:], heights, strict=False))

    def left(values: Sequence[float]) -> float:
        return sum((b - a) * x for (a, b, _), x in zip(steps, values, strict=False))

    def right(values: Sequence[float]) -> float:
        return sum((b - a) * x for (a, b, _), x in zip(steps, values[1:], strict=False))

    sizes = [abs(gap) for gap in gaps]
    return {
        "the two are exchanged: (cpr, cmd)": lambda: torch.tensor([cmd, cpr]),
        "the sides of the curve cancel in CMD: take the absolute value at each point, before the area": lambda: (
            torch.tensor([cpr, _trapezoids(shares, gaps)])
        ),
        "the absolute value of CMD is taken after the area: take it at each point": lambda: torch.tensor(
            [cpr, abs(_trapezoids(shares, gaps))]
        ),
        "the sides of the curve cancel in CMD, with the sign turned": lambda: torch.tensor(
            [cpr, -_trapezoids(shares, gaps)]
        ),
        "the points count as evenly spaced: give the shares as places": lambda: torch.tensor(
            [_trapezoids(even, heights), _trapezoids(even, sizes)]
        ),
        "the points of CPR count as evenly spaced": lambda: torch.tensor([_trapezoids(even, heights), cmd]),
        "the points of CMD count as evenly spaced": lambda: torch.tensor([cpr, _trapezoids(even, sizes)]),
        "these are means over points: take areas": lambda: torch.tensor([np.mean(heights), np.mean(sizes)]).float(),
        "places and heights are exchanged": lambda: torch.tensor(
            [_trapezoids(heights, shares), _trapezoids(sizes, shares)]
        ),
        "places and heights of CPR are exchanged": lambda: torch.tensor([_trapezoids(heights, shares), cmd]),
        "places and heights of CMD are exchanged": lambda: torch.tensor([cpr, _trapezoids(sizes, shares)]),
        "these are areas of the left points: take trapezoids": lambda: torch.tensor([left(heights), left(sizes)]),
        "these are areas of the right points: take trapezoids": lambda: torch.tensor([right(heights), right(sizes)]),
        "CMD is the area under the curve's size, not its distance from 1": lambda: torch.tensor(
            [cpr, _trapezoids(shares, [abs(height) for height in heights])]
        ),
        "CMD is 1 minus CPR: a curve above 1 is as far from the model as one below": lambda: torch.tensor(
            [cpr, 1 - cpr]
        ),
        "CMD is the distance from another number than 1": lambda: torch.tensor(
            [cpr, _trapezoids(shares, [abs(2 - height) for height in heights])]
        ),
        "CMD adds 1 to the curve: it is the distance from 1": lambda: torch.tensor(
            [cpr, _trapezoids(shares, [abs(1 + height) for height in heights])]
        ),
        "the curve is clipped to 1 in CPR: what lies above counts": lambda: torch.tensor(
            [_trapezoids(shares, [min(1.0, height) for height in heights]), cmd]
        ),
        "the curve is led on to (1, 1): take the points that are given, and no others": lambda: torch.tensor(
            _areas([*shares, 1.0], [*heights, 1.0])
        ),
        "the curve is led back to (0, 0): take the points that are given, and no others": lambda: torch.tensor(
            _areas([0.0, *shares], [0.0, *heights])
        ),
        "CMD is the distance from the last height: it is the distance from 1": lambda: torch.tensor(
            [cpr, _trapezoids(shares, [abs(heights[-1] - height) for height in heights])]
        ),
        "the areas are divided by the width of the curve": lambda: torch.tensor([cpr, cmd]) / (shares[-1] - shares[0]),
        "CMD is the area under the constant 1: take the distance of the curve from it": lambda: torch.tensor(
            [cpr, _trapezoids(shares, [1.0] * len(shares))]
        ),
    }


# --- overlap ----------------------------------------------------------------------------------------------------------


@exercise(
    "11",
    look="section 7: draw prompts with replacement; overlap = in both / in either",
    points=2,
    takes="per_prompt exists n draws seed",
)
def check_bootstrap_overlap(learner: Callable) -> str:
    draws = 60
    for case, n in ((0, 30), (1, 8), (2, 60)):
        per_prompt, exists = _prompt_scores(case)
        got = _overlaps(call(learner, per_prompt, exists, n, draws, case), draws)
        _require_overlaps(got, case, n, draws)
        again = _overlaps(call(learner, per_prompt, exists, n, draws, case), draws)
        require(
            got == again, "two calls with the same seed: they differ", "make a generator from the seed in the function"
        )
        other = _overlaps(call(learner, per_prompt, exists, n, draws, case + 7), draws)
        require(got != other, "two calls with different seeds: all overlaps agree", "the generator must use `seed`")
    default = _overlaps(call(learner, *_prompt_scores(0), 30, 12), 12)
    require(len(set(default)) > 1, "12 overlaps without a seed: all agree", "draw anew each time")
    return "60 draws each, of many edges and of few, as spread as a bootstrap should be"


def _require_overlaps(got: Sequence[float], case: int, n: int, draws: int) -> None:
    """Each is one that a draw can have, and together they are as spread as draws are."""
    usual, possible, what = (
        _usual_overlaps(case, n, draws),
        _possible(case, n),
        f"{draws} overlaps of the best {n} edges",
    )
    impossible = [value for value in got if min(abs(value - other) for other in possible) > 1e-3]
    likely = "" if _alike(got, usual) and not impossible else _overlap_mistake(got, case, n, draws)
    n_prompts = _prompt_scores(case)[0].shape[-1]
    require(
        not impossible,
        f"{what}: one is {impossible[0] if impossible else 0:.4f}, which no draw of {n_prompts} prompts gives",
        likely or "the overlap is the number of edges in both, divided by the number in either",
    )
    require(
        _alike(got, usual),
        f"{what}: mean {np.mean(got):.3f}, spread {np.std(got):.3f}; over many "
        f"draws they have mean {np.mean(usual):.3f} and spread {np.std(usual):.3f}",
        likely
        or "draw as many prompts as there are, with replacement, and compare with the best edges over all prompts",
    )


@cache
def _possible(case: int, n: int) -> set[float]:
    """Of three prompts, the overlaps of all their draws; of more prompts, those that any two sets of n can have."""
    per_prompt, exists = _prompt_scores(case)
    if (n_prompts := per_prompt.shape[-1]) > 3:
        return {k / (2 * n - k) for k in range(n + 1)}
    whole = _top(per_prompt.mean(-1), exists, n, signed=False)
    drawn = combinations_with_replacement(range(n_prompts), n_prompts)
    again = [_top(per_prompt[..., list(rows)].mean(-1), exists, n, signed=False) for rows in drawn]
    return {int((whole & other).sum()) / int((whole | other).sum()) for other in again}


def _overlaps(result, draws: int) -> list[float]:
    try:
        found = [float(value) for value in result]
    except (TypeError, ValueError):
        raise CheckFailed(
            f"what you return: {type(result).__name__}", "return a list of numbers, one for each draw"
        ) from None
    require(
        len(found) == draws,
        f"what you return: {len(found)} numbers for {draws} draws",
        "return one overlap for each draw",
    )
    require(
        all(0 <= value <= 1 for value in found),
        f"your overlaps: from {min(found):.3g} to {max(found):.3g}",
        "an overlap lies between 0 and 1: edges in both, divided by edges in either",
    )
    return found


@cache
def _usual_overlaps(case: int, n: int, draws: int, wrong: str = "") -> list[float]:
    """Many overlaps, right ones or those of a mistake."""
    given = OVERLAP_MISTAKES.get(wrong, {})
    several = [_overlap(*_prompt_scores(case), n, draws, seed, **given) for seed in range(3)]
    return [value for values in several for value in values]


def _overlap_mistake(got: Sequence[float], case: int, n: int, draws: int) -> str:
    """The first mistake whose overlaps are like these, on prompts where they are unlike the right ones."""
    right, possible = _usual_overlaps(case, n, draws), _possible(case, n)
    few = _prompt_scores(case)[0].shape[-1] <= 3  # so few values can come up that they tell mistakes apart
    for name in OVERLAP_MISTAKES:
        wrong = _usual_overlaps(case, n, draws, name)
        differs = not _alike(wrong, right) or (few and not set(wrong) <= possible)
        if differs and _alike(got, wrong) and (not few or np.isin(np.round(got, 4), np.round(wrong, 4)).mean() > 0.9):
            return name
    return ""


@cache
def _prompt_scores(case: int) -> tuple[Tensor, Tensor]:
    """Scores of nine prompts and the edges of a model; of case 2, three prompts of unlike size, and edges anywhere."""
    exists, n_prompts, generator = GRAPH.exists, 9, torch.Generator().manual_seed(case)
    if case == 2:
        exists, n_prompts = torch.rand(20, 26, generator=generator) < 0.5, 3
    common = torch.randn(exists.shape, generator=generator)
    own = 1.5 * torch.randn(*exists.shape, n_prompts, generator=generator)
    return common[..., None] + own * (torch.tensor([0.7, 1.0, 2.0]) if case == 2 else 1.0), exists


def _overlap(
    per_prompt: Tensor, exists: Tensor, n: int, draws: int, seed: int, size: int | None = None, replace=True, signed=False,
    share=False, first=False, pairs=False, everywhere=False, anew=False, more=0, average: Callable = torch.mean,
) -> list[float]:  # fmt: skip
    rng, n_prompts = np.random.default_rng(seed), per_prompt.shape[-1]
    size = (size or n_prompts) + more
    exists = torch.arange(exists.shape[1]) < exists.sum(1)[:, None] if anew else exists

    def best(rows) -> Tensor:
        means = average(per_prompt[..., torch.as_tensor(rows)], -1)
        ranked = (means if signed else means.abs()).masked_fill(~exists & (not everywhere), -torch.inf).flatten()
        return torch.zeros(ranked.numel(), dtype=torch.bool).index_fill_(0, ranked.topk(n).indices, True)

    def drawn() -> Tensor:
        return best(rng.choice(n_prompts, size, replace=replace))

    whole, found = best([0] if first else range(n_prompts)), []
    for _ in range(draws):
        again, against = drawn(), drawn() if pairs else whole
        both, either = int((against & again).sum()), int((against | again).sum())
        found.append(both / n if share else both / either)
    return found


OVERLAP_MISTAKES: dict[str, dict] = {
    "drawn without replacement: every draw is then all prompts, and the overlap 1": {"replace": False},
    "one prompt a draw: draw as many as there are": {"size": 1},
    "ranked by sign: rank by absolute score": {"signed": True},
    "divided by n: divide by the number of edges in either": {"share": True},
    "compared with the best edges of the first prompt: with those over all prompts": {"first": True},
    "two drawn sets are compared: compare each with the best edges over all prompts": {"pairs": True},
    "edges that do not exist are chosen": {"everywhere": True},
    "which edges exist is worked out anew: the table `exists` says it": {"anew": True},
    "one prompt too few in each draw: draw as many as there are": {"more": -1},
    "one prompt too many in each draw: draw as many as there are": {"more": 1},
    "the sizes are averaged: take the mean score, and then its size": {"average": lambda x, axis: x.abs().mean(axis)},
    "the median over the prompts: the mean": {"average": lambda x, axis: x.median(axis).values},
}


def _alike(found: Sequence[float], usual: Sequence[float]) -> bool:
    """Whether both could be draws of the same kind: mean and spread agree to four standard errors."""
    error = np.std(usual) / np.sqrt(len(found)) + 1e-9
    return abs(np.mean(found) - np.mean(usual)) < 4 * error and abs(np.std(found) - np.std(usual)) < 4 * error + 1e-6


# --- by trial ---------------------------------------------------------------------------------------------------------


@exercise(
    "11",
    look="section 8: keep the set and its distance; compare each trial with that distance",
    points=2,
    takes="edges distance threshold",
)
def check_acdc(learner: Callable) -> str:
    for case, (edges, distance, threshold) in enumerate(_trials()):
        asked: list[frozenset] = []

        def counted(kept, distance=distance, asked=asked, edges=edges) -> float:
            kept = frozenset(kept)
            require(
                kept <= set(edges),
                "the sets that you run: one holds what is no edge",
                "take edges out, and put none in",
            )
            asked.append(kept)
            return distance(kept)

        got = call(learner, list(edges), counted, threshold)
        require(
            isinstance(got, (list, tuple)) and all(edge in edges for edge in got),
            f"what you return: {got!r}"[:200],
            "return the list of edges that stay",
        )
        want, mistakes = _stay(edges, distance, threshold), _trial_mistakes(edges, distance, threshold)
        held = require_equal(
            [edge in got for edge in edges],
            torch.tensor([edge in want for edge in edges]),
            f"which of {len(edges)} edges stay, trial {case + 1}",
            axes="edge",
            mistakes=mistakes,
        )
        require(
            list(got) == want, f"the edges that stay: {got}", f"return them once each, in the order of `edges`: {want}"
        )
        require(
            len(asked) <= 2 * len(edges) + 2,
            f"how many sets you run for {len(edges)} edges: {len(asked)}",
            "remember the distance of what is kept now: one run for each edge, and one to begin with",
        )
    return f"stand-ins, in both orders; many small losses; edges that hurt; a growth of exactly the threshold ({held})"


@cache
def _trials() -> tuple:
    weights = dict(zip("abcdefgh", (0.5, 0.25, -0.5, 1.0, 0.125, 0.25, 0.0, -0.25), strict=True))

    def stand_ins(kept: frozenset) -> float:
        return (
            (0 if kept & {"a", "b"} else 1)
            + (0 if "c" in kept else 0.5)
            + (0 if {"d", "e"} <= kept or "f" in kept else 2)
        )

    def additive(kept: frozenset) -> float:
        return sum(weight for edge, weight in weights.items() if edge not in kept)

    def small(kept: frozenset) -> float:
        return 0.0625 * (20 - len(kept))

    def one_needs_another(kept: frozenset) -> float:
        """4, which comes first, is needed only while 7 is there, which goes last; 0 is needed, and one of 1 and 5."""
        return 4 * (7 in kept and 4 not in kept) + 0.5 * (0 not in kept) + 2 * (not kept & {1, 5})

    numbered = [(i % 5, i) for i in range(20)]
    return (
        (tuple("abcdef"), stand_ins, 0.25),
        (tuple("fedcba"), stand_ins, 0.25),
        (tuple("abcdefgh"), additive, 0.25),
        (tuple("hgfedcba"), additive, 0.26),
        (tuple(numbered), small, 0.1),
        (tuple(numbered), lambda kept: 3.0 - small(kept), 0.1),
        ((4, 1, 2, 0, 5, 6, 3, 7), one_needs_another, 0.03125),
        (tuple("abcdefgh"), additive, 0.0),
    )


def _stay(
    edges,
    distance,
    threshold,
    strict=False,
    from_start=False,
    put_back=False,
    absolute=False,
    keep_now=False,
    reverse=False,
    total=False,
    repeat=False,
) -> list:
    kept = frozenset(edges)
    start = now = distance(kept)
    found = []
    for edge in reversed(edges) if reverse else edges:
        without = distance(kept - {edge})
        growth = without if total else without - (start if from_start else now)
        growth = abs(growth) if absolute else growth
        goes = growth <= threshold if strict else growth < threshold
        if goes and not put_back:
            kept = kept - {edge}
            now = now if keep_now else without
        found += [] if goes else [edge]
    if repeat and len(found) < len(edges):
        return _stay(found, distance, threshold, repeat=True)
    return [edge for edge in edges if edge in found]


def _trial_mistakes(edges, distance, threshold) -> Mistakes:
    wrong = partial(_stay, edges, distance, threshold)

    def mask(stay: Sequence) -> Tensor:
        return torch.tensor([edge in stay for edge in edges])

    return {
        "each edge is tried on its own, with all others there: what goes must stay away": lambda: mask(
            wrong(put_back=True)
        ),
        "the growth is counted from the beginning: count it from the run as it is at that moment": lambda: mask(
            wrong(from_start=True)
        ),
        "an edge that makes the distance smaller stays: it may go, there is no growth": lambda: mask(
            wrong(absolute=True)
        ),
        "a growth by exactly the threshold is let go: it matters, and the edge stays": lambda: mask(wrong(strict=True)),
        "the edges are tried in another order than given": lambda: mask(wrong(reverse=True)),
        "the distance itself is compared with the threshold: compare its growth": lambda: mask(wrong(total=True)),
        "edges that stayed are tried again: each is tried once": lambda: mask(wrong(repeat=True)),
        "an edge whose name counts as false, such as 0, is lost: ask whether it is in the set": lambda: torch.tensor(
            [edge in wrong() and bool(edge) for edge in edges]
        ),
        "the distance now is not updated when an edge goes": lambda: mask(wrong(keep_now=True)),
        "these are the edges that go: return those that stay": lambda: ~mask(wrong()),
        "every edge stays": lambda: mask(edges),
        "no edge stays": lambda: mask(()),
        "what matters is taken out, and what does not is kept: the comparison is the wrong way round": lambda: mask(
            _turned(edges, distance, threshold)
        ),
        "the growth has the wrong sign: distance without the edge, minus the distance now": lambda: mask(
            _turned(edges, distance, threshold, sign=True)
        ),
    }


def _turned(edges, distance, threshold, sign: bool = False) -> list:
    kept, now = frozenset(edges), distance(frozenset(edges))
    for edge in edges:
        without = distance(kept - {edge})
        if (now - without < threshold) if sign else (without - now > threshold):
            kept, now = kept - {edge}, without
    return [edge for edge in edges if edge in kept]
