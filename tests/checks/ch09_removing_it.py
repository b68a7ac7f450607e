"""Checks of chapter 09."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Callable
from math import comb

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import Mistakes, require_equal, together
from tests.checks.core import both_models, exercise, require

PROMPTS = (
    "He says he done walked. He is",
    "They",
    "She says she has walked to the park. She is",
    "They are kind",
    "He is lazy and he is loud",
)
HEADS = [(1, 3), (0, 2), (1, 1)]  # in no order, two of one layer
PADDING = 7  # an ordinary token, and not BOS


def _tokens(model: TransformerBridge) -> tuple[Tensor, Tensor]:
    rows = [model.to_tokens(prompt)[0] for prompt in PROMPTS]
    longest = max(map(len, rows))
    tokens = torch.stack([torch.nn.functional.pad(row, (0, longest - len(row)), value=PADDING) for row in rows])
    return tokens, torch.stack([torch.arange(longest) < len(row) for row in rows]).long()


@functools.cache
def _alone(model: TransformerBridge) -> list[Tensor]:
    """Per prompt, run by itself: z as [layer, pos, head, d_head]."""
    runs = [model.run_with_cache(model.to_tokens(prompt))[1] for prompt in PROMPTS]
    return [torch.stack([cache["z", layer][0] for layer in range(model.cfg.n_layers)]) for cache in runs]


@exercise(
    "09",
    look="section 3: real tokens only, BOS not among them, and every token counts the same",
    takes="model tokens mask",
)
def check_mean_z(learner: Callable) -> str:
    for model in both_models():
        tokens, mask = _tokens(model)
        alone = _alone(model)
        _, cache = model.run_with_cache(tokens)
        padded = torch.stack([cache["z", layer] for layer in range(model.cfg.n_layers)])
        held = require_equal(
            call(learner, model, tokens, mask),
            torch.cat([z[:, 1:] for z in alone], dim=1).mean(1),
            f"the mean over real tokens but BOS, from prompts run one by one, on {model.cfg.model_name}",
            axes="layer head d_head",
            mistakes={
                "padding is in the mean: use the mask": lambda: padded[:, :, 1:].mean((1, 2)),
                "padding and BOS are in the mean: use the mask, and leave position 0 out": lambda: padded.mean((1, 2)),
                "BOS is in the mean: heads do something of their own there; leave position 0 out": lambda: torch.cat(
                    list(alone), dim=1
                ).mean(1),
                "a mean of the prompts' means: every token counts the same, so long prompts count more": lambda: (
                    torch.stack([z[:, 1:].mean(1) for z in alone]).mean(0)
                ),
                "divided by the padded number of tokens: divide by how many are real": lambda: (
                    torch.cat([z[:, 1:] for z in alone], dim=1).sum(1) / mask[:, 1:].numel()
                ),
                "the last tokens only: average over all real positions": lambda: torch.stack(
                    [z[:, -1] for z in alone]
                ).mean(0),
                "that is the query: z is what a head read, before W_O": lambda: _mean_over(model, "q"),
                "position 1 is left out too: only BOS is": lambda: torch.cat([z[:, 2:] for z in alone], dim=1).mean(1),
                "summed, not averaged": lambda: torch.cat([z[:, 1:] for z in alone], dim=1).sum(1),
                "the first axis is the prompt: average over prompts too": lambda: torch.stack(
                    [z[:, 1:].mean(1) for z in alone], dim=1
                ),
            },
        )
    return f"the mean of every head over five prompts of 2 to 13 tokens, padding and BOS left out ({held})"


def _mean_over(model: TransformerBridge, site: str) -> Tensor:
    runs = [model.run_with_cache(model.to_tokens(prompt))[1] for prompt in PROMPTS]
    layers = range(model.cfg.n_layers)
    return torch.cat([torch.stack([cache[site, layer][0, 1:] for layer in layers]) for cache in runs], dim=1).mean(1)


def _run(model: TransformerBridge, tokens: Tensor, values: Tensor, heads=HEADS, at=slice(1, None)) -> Tensor:
    def hook_for(layer: int):
        def put(z, hook):
            z = z.clone()
            for chosen_layer, head in heads:
                if chosen_layer == layer:
                    z[:, at, head] = values[layer, head]
            return z

        return f"blocks.{layer}.attn.hook_z", put

    return model.run_with_hooks(tokens, fwd_hooks=[hook_for(layer) for layer in range(model.cfg.n_layers)])


@exercise(
    "09",
    look="section 3: the axes of z are [batch, pos, head, d_head]; every hook must remember its own layer and head",
    takes="model tokens heads means",
)
def check_ablate_heads(learner: Callable) -> str:
    for model in both_models():
        tokens = model.to_tokens([PROMPTS[0], PROMPTS[0].replace("done", "has")])
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head, generator=generator)
        run = functools.partial(_run, model, tokens, means)
        held = require_equal(
            call(learner, model, tokens, list(HEADS), means),
            run(),
            f"the logits with {len(HEADS)} heads replaced at positions 1, 2, … on {model.cfg.model_name}",
            axes="batch position vocab",
            mistakes={
                "nothing is replaced: is the hook in fwd_hooks, and does it return z?": lambda: model(tokens),
                "BOS is replaced too: start at position 1": lambda: run(at=slice(None)),
                "only the last position is replaced: all positions but the first": lambda: run(at=slice(-1, None)),
                "zeros are put in, not the means": lambda: _run(model, tokens, torch.zeros_like(means)),
                "every hook uses the last head of the list: a function made in a loop must remember its own head":
                    lambda: _run_last_head(model, tokens, means),
                "every hook uses the last pair of the list, layer and head": lambda: run(heads=HEADS[-1:]),
                "only the first head of the list is replaced": lambda: run(heads=HEADS[:1]),
                "the whole layer is replaced: only the heads of the list":
                    lambda: run(heads=[(la, h) for la in (0, 1) for h in range(model.cfg.n_heads)]),
                "layer and head are exchanged: the list holds (layer, head)":
                    lambda: run(heads=[(h, la) for la, h in HEADS if h < model.cfg.n_layers]),
                "position 1 keeps its own value: leave out position 0 alone": lambda: run(at=slice(2, None)),
                "every head of these layers gets the mean of the head in the list: index z[:, 1:, head]":
                    lambda: _run_rows(model, tokens, means, lambda z, head: z[:, 1:]),
                "the first prompt keeps its heads: z is [batch, pos, head, d_head], so leave out position 0, not row 0":
                    lambda: _run_rows(model, tokens, means, lambda z, head: z[1:, :, head]),
                "position and head are exchanged: z is [batch, pos, head, d_head]":
                    lambda: _run_rows(model, tokens, means, lambda z, head: z[:, head, 1:]),
            },
        )  # fmt: skip
        require_equal(
            call(learner, model, tokens, [], means),
            model(tokens),
            f"the logits with an empty list of heads on {model.cfg.model_name}",
            axes="batch position vocab",
        )
    return f"the same logits as an independent hook run, for three heads and for none, and no hook left behind ({held})"


def _run_last_head(model: TransformerBridge, tokens: Tensor, means: Tensor) -> Tensor:
    """What late binding does: hooks in the right layers, all with the last head."""
    last_layer, last_head = HEADS[-1]

    def put(z, hook):
        z = z.clone()
        z[:, 1:, last_head] = means[last_layer, last_head]
        return z

    layers = dict.fromkeys(layer for layer, _ in HEADS)
    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", put) for layer in layers])


def _run_rows(model: TransformerBridge, tokens: Tensor, means: Tensor, part: Callable) -> Tensor:
    """What a wrong index does: each head's mean is written into part(z, head), one hook after the other."""

    def put(z, hook, layer, head):
        z = z.clone()
        part(z, head)[...] = means[layer, head]
        return z

    hooks = [(f"blocks.{la}.attn.hook_z", functools.partial(put, layer=la, head=h)) for la, h in HEADS]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)


@exercise("09", look="section 3: one ratio of two means, taken from 1", takes="before after")
def check_share_removed(learner: Callable) -> str:
    before = torch.tensor([0.9, 0.4, -0.1, 0.6, 0.3])
    cases = {
        "a gap that shrinks": (before, torch.tensor([0.2, 0.3, 0.1, -0.4, 0.5])),
        "a gap that grows": (before, torch.tensor([1.0, 0.8, -0.3, 0.9, 0.4])),
        "a gap whose sign turns": (before, torch.tensor([-0.2, 0.1, -0.6, -0.4, 0.05])),
        "a negative gap that shrinks": (-before, torch.tensor([-0.1, 0.2, -0.3, -0.4, 0.1])),
        "a gap that is gone": (before, torch.tensor([0.5, -0.5, 0.25, -0.25, 0.0])),
    }
    for what, (start, rows) in cases.items():
        held = require_equal(
            call(learner, start, rows),
            (start.sum() - rows.sum()) / start.sum(),
            f"1 - mean(after) / mean(before), for {what}",
            mistakes={
                "this is the share that is left: subtract it from 1":
                    lambda start=start, rows=rows: rows.mean() / start.mean(),
                "a mean of ratios, ruled by rows near zero: divide the means":
                    lambda start=start, rows=rows: (1 - rows / start).mean(),
                "absolute values of rows: a row whose sign turned is more than removed, so keep signs":
                    lambda start=start, rows=rows: 1 - rows.abs().mean() / start.abs().mean(),
                "absolute values of the means: a gap whose sign turned is more than removed, so keep the sign":
                    lambda start=start, rows=rows: 1 - rows.mean().abs() / start.mean().abs(),
                "cut off at 0 or at 1: a share may be more than 1, or below 0":
                    lambda start=start, rows=rows: (1 - rows.mean() / start.mean()).clamp(0, 1),
                "a difference, not a share: divide by the mean before":
                    lambda start=start, rows=rows: start.mean() - rows.mean(),
                "before and after are exchanged": lambda start=start, rows=rows: 1 - start.mean() / rows.mean(),
                "divided by the gap after: the share is of what there was before":
                    lambda start=start, rows=rows: (start.mean() - rows.mean()) / rows.mean(),
                "one share per row: take means first": lambda start=start, rows=rows: 1 - rows / start,
                "this is 1 whatever the gaps are: subtract the share that is left from it": lambda: torch.tensor(1.0),
                "the share that is left is taken from 2, not from 1":
                    lambda start=start, rows=rows: 2 - rows.mean() / start.mean(),
                "the means are multiplied: divide the mean after by the mean before":
                    lambda start=start, rows=rows: 1 - rows.mean() * start.mean(),
                "this is 1 minus the mean after, in logits: divide that mean by the mean before":
                    lambda rows=rows: 1 - rows.mean(),
                "this is 1 minus the mean before: the gaps after are not used":
                    lambda start=start: 1 - start.mean(),
                "divided by the sum before, not by its mean":
                    lambda start=start, rows=rows: 1 - rows.mean() / start.sum(),
                "the sum after is divided by the mean before: take two means, or two sums":
                    lambda start=start, rows=rows: 1 - rows.sum() / start.mean(),
            },
        )  # fmt: skip
    return f"gaps that shrink, grow, turn, or go: 1 is all of it, 0 is nothing, below 0 is more than before ({held})"


@exercise(
    "09",
    look="section 6: the survival function gives the probability of *more than* its first argument",
    takes="one other n_total",
)
def check_overlap_p(learner: Callable) -> str:
    # how many heads the lists have, how many of them they share, how many heads there are
    cases = ((8, 6, 2, 48), (5, 9, 0, 30), (4, 4, 4, 12), (7, 3, 1, 40), (6, 10, 5, 36))
    got = [call(learner, *_lists(*case[:3]), case[3]) for case in cases]
    want, mistakes = together([_overlap(*case) for case in cases])
    held = require_equal(
        None if any(value is None for value in got) else got,
        want,
        "P(at least as many shared heads), counted out by hand, for five pairs of lists",
        axes="pair",
        mistakes=mistakes,
        atol=1e-6,
    )
    return f"five pairs of lists that share 0 to 5 heads, against the probability counted out by hand ({held})"


def _lists(n_one: int, n_other: int, shared: int) -> tuple[list, list]:
    one = [(layer, 0) for layer in range(n_one)]
    return one, [(layer, 0) for layer in range(shared)][::-1] + [(layer, 1) for layer in range(n_other - shared)]


def _overlap(n_one: int, n_other: int, shared: int, total: int) -> tuple[Tensor, Mistakes]:
    one, other = _lists(n_one, n_other, shared)
    want, exactly = _at_least(shared, total, n_one, n_other), _exactly(shared, total, n_one, n_other)
    in_order = sum(a == b for a, b in zip(one, other, strict=False))
    layers = len({layer for layer, _ in one} & {layer for layer, _ in other})
    values = {
        "P(more than that many): at least as many means sf(shared - 1, ...)": want - exactly,
        "P(exactly that many): at least as many is wanted, the survival function": exactly,
        "P(fewer): this is the other tail": 1 - want,
        "P(at most): this is the other tail": 1 - want + exactly,
        "P(at least two more than that many): sf counts those above its argument, so give it shared - 1":
            _at_least(shared + 2, total, n_one, n_other),
        "heads are compared place by place: the order of a ranking does not matter, use sets":
            _at_least(in_order, total, n_one, n_other),
        "layers are compared, not heads: a head is a pair (layer, head)": _at_least(layers, total, n_one, n_other),
        "this counts all the heads of both lists: shared are those in both (&)":
            _at_least(n_one + n_other - shared, total, n_one, n_other),
        "this counts the first list, not the heads in both": _at_least(n_one, total, n_one, n_other),
        "this counts the second list, not the heads in both": _at_least(n_other, total, n_one, n_other),
        "P(at least one fewer): sf already leaves its argument out, so give it shared - 1":
            _at_least(max(shared - 1, 0), total, n_one, n_other),
        "P(at least two), whatever the lists share: give sf the number of shared heads minus 1":
            _at_least(2, total, n_one, n_other),
        "this is the share of heads in common, not a probability": shared / min(n_one, n_other),
        "this is the share of the first list that is in the other, not a probability": shared / n_one,
        "this is the share of the second list that is in the other, not a probability": shared / n_other,
        "this is how many are shared, not a probability": float(shared),
    }  # fmt: skip
    as_tensors = {message: torch.tensor(value, dtype=torch.float64) for message, value in values.items()}
    return torch.tensor(want, dtype=torch.float64), {message: value.clone for message, value in as_tensors.items()}


def _exactly(k: int, total: int, a: int, b: int) -> float:
    return comb(a, k) * comb(total - a, b - k) / comb(total, b)


def _at_least(k: int, total: int, a: int, b: int) -> float:
    return sum(_exactly(i, total, a, b) for i in range(k, min(a, b) + 1))


@exercise(
    "09",
    look="section 3: multiply before and after swap by swap; the sign of a swap must not matter",
    takes="before after",
)
def check_slope_removed(learner: Callable) -> str:
    before = torch.tensor([0.9, -0.4, 0.1, -0.7, 0.3, -0.05])
    cases = {
        "gaps that shrink": (before, torch.tensor([0.45, -0.1, 0.2, -0.5, 0.15, 0.1])),
        "gaps that grow": (before, torch.tensor([1.2, -0.6, -0.1, -0.8, 0.5, -0.1])),
        "gaps whose signs turn": (before, torch.tensor([-0.5, 0.3, 0.2, 0.6, -0.2, 0.2])),
        "gaps that move at right angles": (before, before + torch.tensor([0.4, 0.9, 0.0, 0.0, 0.0, 0.0])),
        "the same swaps, some turned round": (
            before * torch.tensor([1, -1, -1, 1, -1, 1.0]),
            torch.tensor([0.45, 0.1, -0.2, -0.5, -0.15, 0.1]),
        ),
        "two swaps of one sign": (torch.tensor([0.5, 0.2]), torch.tensor([0.1, 0.3])),
    }
    for what, (start, rows) in cases.items():
        both = sum(x * y for x, y in zip(start.tolist(), rows.tolist(), strict=True))
        squares = sum(x * x for x in start.tolist())
        centered, moved = start - start.mean(), rows - rows.mean()
        held = require_equal(
            call(learner, start, rows),
            (squares - both) / squares,
            f"1 - the slope of the line through zero, for {what}",
            mistakes={
                "this is the share that is left: subtract it from 1": lambda both=both, squares=squares: both / squares,
                "minus the slope: what is gone is 1 minus what is left": lambda both=both, squares=squares: -both / squares,
                "multiplied by the squares: divide by them": lambda both=both, squares=squares: 1 - both * squares,
                "the products are not divided by the squares of the gaps before": lambda both=both: 1 - both,
                "the squares of the gaps before alone: the gaps after must enter": lambda squares=squares: 1 - squares,
                "ratios, not products: multiply before and after, swap by swap":
                    lambda start=start, rows=rows, squares=squares: 1 - (start / rows).sum() / squares,
                "divided by the number of swaps, not by the squares of the gaps before":
                    lambda both=both, start=start: 1 - both / len(start),
                "a share of sizes: a gap that moved to the other side of zero has not stayed, so keep the signs":
                    lambda start=start, rows=rows: 1 - rows.abs().mean() / start.abs().mean(),
                "a ratio of means: swaps have no direction, so their mean means nothing; multiply swap by swap":
                    lambda start=start, rows=rows: 1 - rows.mean() / start.mean(),
                "a mean of ratios, ruled by swaps near zero: add the products before you divide":
                    lambda start=start, rows=rows: (1 - rows / start).mean(),
                "the line does not go through zero: no constant here, a swap turned round must count the same":
                    lambda centered=centered, moved=moved: 1 - (centered @ moved) / (centered @ centered),
                "the slope of before on after: divide by the squares of the gaps before":
                    lambda both=both, rows=rows: 1 - both / rows.pow(2).sum(),
                "a correlation does not see how much is left: divide by the squares of the gaps before":
                    lambda both=both, start=start, rows=rows: 1 - both / (start.norm() * rows.norm()),
                "squares: the sign of what is left is lost":
                    lambda start=start, rows=rows: 1 - rows.pow(2).sum() / start.pow(2).sum(),
                "sizes in the product: a gap whose sign turned must count against":
                    lambda start=start, rows=rows: 1 - (start * rows).abs().sum() / start.pow(2).sum(),
                "divided by the square of the sum: square first, then add":
                    lambda both=both, start=start: 1 - both / start.sum() ** 2,
                "not divided by the number of swaps on both sides: either sum twice, or average twice":
                    lambda both=both, squares=squares, start=start: 1 - both / (squares / len(start)),
                "an average over a sum: either sum twice, or average twice":
                    lambda both=both, squares=squares, start=start: 1 - both / len(start) / squares,
                "the products and the squares are added: 1 minus their ratio":
                    lambda both=both, squares=squares: 1 + both / squares,
                "one value per swap: add up before you divide":
                    lambda start=start, rows=rows, squares=squares: 1 - start * rows / squares,
                "the share that is gone, per swap": lambda start=start, rows=rows: 1 - rows / start,
                "divided by the sum, not by the sum of squares": lambda both=both, start=start: 1 - both / start.sum(),
            },
            atol=1e-5,
        )  # fmt: skip
    return f"gaps that shrink, grow, turn or move sideways, and the same whichever way round a swap stands ({held})"


@exercise(
    "09", look="section 4: count the heads of each layer, and draw as many from that layer", takes="heads n_heads rng"
)
def check_matched_heads(learner: Callable) -> str:
    heads, n_heads, n_draws = [(5, 2), (0, 3), (5, 0), (9, 1), (5, 5)], 6, 400
    draws = [_drawn(call(learner, list(heads), n_heads, random.Random(seed))) for seed in range(n_draws)]
    layers = Counter(layer for layer, _ in heads)
    for draw in draws:
        said = f"a draw for {heads} with {n_heads} heads in a layer: {sorted(draw)}"
        found = Counter(layer for layer, _ in draw)
        outside = [head for _, head in draw if not 0 <= head < n_heads]
        require(not outside, said, f"there is no head {outside[:1]}: a layer's heads are 0 to {n_heads - 1}")
        kept = found == layers or len(draw) != len(heads)
        require(
            kept,
            said,
            "the layers are not kept: as many heads of each layer as the list has, which see the same stream",
        )
        require(
            found == layers,
            said,
            f"{len(draw)} heads are drawn in place of {len(heads)}: one for each head of the list",
        )
        require(len(set(draw)) == len(draw), said, "a head is drawn twice: draw without putting back, rng.sample")
    again = _drawn(call(learner, list(heads), n_heads, random.Random(0)))
    other = len({tuple(sorted(draw)) for draw in draws})
    require(
        again == draws[0],
        f"two draws with random.Random(0): {draws[0]}, {again}",
        "the draw does not come from rng alone: use its methods, so that a seed gives the same draw again",
    )
    require(other > 1, f"{n_draws} draws with different seeds: all are {draws[0]}", "nothing is drawn by lot: use rng")
    equal = [dict(draw)[0] == dict(draw)[9] for draw in draws]  # layers of which one head is drawn
    rate, share = sum(equal) / n_draws, 1 / n_heads
    require(
        abs(rate - share) < 5 * (share * (1 - share) / n_draws) ** 0.5,
        f"how often layers 0 and 9 get the same head: in {rate:.2f} of the draws, where chance gives {share:.2f}",
        "the layers are drawn together: draw anew for each layer",
    )
    return _evenly(draws, heads, n_heads)


def _drawn(got: object) -> list[tuple[int, int]]:
    """A draw as (layer, head); CheckFailed for what is none."""
    said = f"what you return: {got!r}"[:150]
    require(isinstance(got, (list, tuple, set, torch.Tensor)), said, "return a list of (layer, head)")
    entries = got.tolist() if isinstance(got, torch.Tensor) else list(got)
    for entry in entries:
        ok = isinstance(entry, (list, tuple, torch.Tensor)) and len(entry) == 2
        require(ok and all(float(x) == int(x) for x in entry), said, "each entry is a pair (layer, head)")
    return [(int(layer), int(head)) for layer, head in entries]


def _evenly(draws: list[list[tuple[int, int]]], heads: list[tuple[int, int]], n_heads: int) -> str:
    """Every head of a layer is as likely as any other: within five standard errors of the share expected."""
    seen = Counter(head for draw in draws for head in draw)
    for layer, n in Counter(layer for layer, _ in heads).items():
        share = n / n_heads
        error = (share * (1 - share) / len(draws)) ** 0.5
        shares = [seen[layer, head] / len(draws) for head in range(n_heads)]
        never = [head for head in range(n_heads) if not shares[head]]
        listed = [head for at, head in heads if at == layer]
        said = f"how often each head of layer {layer} is in {len(draws)} draws: {', '.join(f'{s:.2f}' for s in shares)}"
        likely = (
            "heads of the list are never drawn: draw among *all* heads of the layer, so that the list itself is a draw"
        )
        require(never != sorted(listed), said, likely)
        require(not never, said, f"head {never[:1]} is never drawn: a layer's heads are 0 to {n_heads - 1}")
        off = max(abs(found - share) for found in shares)
        require(
            off < 5 * error, said, f"heads are not equally likely: each should be in a share {share:.2f} of the draws"
        )
    return f"{len(draws)} draws, each with the layers of the list, and every head of a layer as likely as another"


@exercise(
    "09",
    look="section 4: x - (x · unit) unit, at each row's own position, in the stream before the layer",
    takes="model tokens direction layer positions",
)
def check_run_projected(learner: Callable) -> str:
    for model in reversed([*both_models()]):  # a LayerNorm takes a constant off: it would hide one mistake
        tokens = model.to_tokens([PROMPTS[0], PROMPTS[0].replace("done", "has"), PROMPTS[0].replace("walked", "car")])
        generator = torch.Generator().manual_seed(4)
        direction = 3 * torch.randn(model.cfg.d_model, generator=generator)
        positions = torch.tensor([5, 2, tokens.shape[1] - 1])
        for layer in (1, 0):
            held = _projected_at(learner, model, tokens, direction, layer, positions)
    return f"the logits of an independent hook run, each row at its own position, in two layers ({held})"


def _projected_at(
    learner: Callable, model: TransformerBridge, tokens: Tensor, direction: Tensor, layer: int, positions
) -> str:
    unit = direction / direction.norm()

    def run(change=None, at=positions, site="hook_resid_pre", where=layer):
        def edit(stream, hook):
            rows = []
            for row, position in zip(stream, at, strict=True):
                picked = torch.zeros(len(row), 1)
                picked[position] = 1
                rows.append(row + picked * (change or _without(unit))(row))
            return torch.stack(rows)

        return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{where}.{site}", edit)])

    def scaled(vector):
        return lambda x: -(x @ vector)[:, None] * vector

    everywhere, n = [slice(None)] * len(tokens), model.cfg.n_layers
    return require_equal(
        call(learner, model, tokens, direction, layer, positions),
        run(),
        f"the logits with the direction taken out before layer {layer} on {model.cfg.model_name}",
        axes="batch position vocab",
        mistakes={
            "nothing is taken out: is the hook in fwd_hooks, and does it return the stream?": lambda: model(tokens),
            "the direction is not scaled to length 1: divide it by its norm first": lambda: run(scaled(direction)),
            "divided by its norm once: the component is (x · unit), times the unit again": lambda: run(
                lambda x: -(x @ direction)[:, None] * unit
            ),
            "divided by its norm once: the component times the direction": lambda: run(
                lambda x: -(x @ unit)[:, None] * direction
            ),
            "the component is added, not taken out": lambda: run(lambda x: (x @ unit)[:, None] * unit),
            "only the component is kept: subtract it from the stream": lambda: run(
                lambda x: (x @ unit)[:, None] * unit - x
            ),
            "the component is subtracted from every number of the stream: multiply it by the unit vector": lambda: run(
                lambda x: -(x @ unit)[:, None].expand_as(x)
            ),
            "the unit itself is subtracted: subtract it times the stream's component along it": lambda: run(
                lambda x: -unit.expand_as(x)
            ),
            "the whole stream is set to zero": lambda: run(lambda x: -x),
            "it is taken out at every position: each row has one": lambda: run(at=everywhere),
            "every row is edited at the first row's position: each has its own": lambda: run(
                at=positions[:1].expand(len(tokens))
            ),
            "every row is edited at all of the positions: each has its own": lambda: run(at=[positions] * len(tokens)),
            "it is taken out at the last position": lambda: run(at=[-1] * len(tokens)),
            "only the first row is edited": lambda: _first_row(run(), model(tokens)),
            "that is the stream after the layer: before it is hook_resid_pre": lambda: run(site="hook_resid_post"),
            "that is the stream between attention and MLP: before the layer is hook_resid_pre": lambda: run(
                site="hook_resid_mid"
            ),
            "that is what attention writes: the stream is hook_resid_pre": lambda: run(site="hook_attn_out"),
            **{
                f"that is layer {other}, not the one asked for": (lambda other=other: run(where=other))
                for other in range(n)
                if other != layer
            },
        },
    )


def _without(unit: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: -(x @ unit)[:, None] * unit


def _first_row(edited: Tensor, plain: Tensor) -> Tensor:
    return torch.cat([edited[:1], plain[1:]])
