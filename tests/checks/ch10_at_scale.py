"""Checks of chapter 10. Oracles: hooked runs, one per cell, as the loops of transformer_lens.patching make them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from tests.checks.calling import call
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import both_models, exercise, require
from utils.patching.blocks import run_block
from utils.patching.resumable import CorruptedRun
from utils.tiny_models import MAX_LENGTH

N_POS, S2 = 7, 3


def _tokens(n_prompts: int = 4) -> tuple[Tensor, Tensor]:
    """Clean and corrupted prompts: the first two exchange their token at S2, the others differ two positions later."""
    clean = torch.randint(110, 190, (1, N_POS), generator=torch.Generator().manual_seed(3)).repeat(n_prompts, 1)
    clean[:, S2] += 5 * torch.arange(n_prompts)
    corrupted = clean.clone()
    corrupted[:2, S2] = clean[:2, S2].flip(0)
    corrupted[2:, S2 + 2] += 7
    return clean, corrupted


@cache
def _residuals(model, n_prompts: int = 4) -> tuple[Tensor, Tensor]:
    """resid_pre of every layer in both runs: [layer, batch, pos, d_model]."""
    runs = [model.run_with_cache(tokens)[1] for tokens in _tokens(n_prompts)]
    return tuple(torch.stack([run["resid_pre", layer] for layer in range(model.cfg.n_layers)]) for run in runs)


def _patched_run(model, tokens: Tensor, clean: Tensor, layer: int, pos: int | slice) -> Tensor:
    """Logits [batch, pos, d_vocab] of the slow way: a whole hooked pass."""

    def patch(resid, hook):
        resid[:, pos] = clean[layer][:, pos]
        return resid

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", patch)])


def _logits(model, resid: Tensor) -> Tensor:
    return model.unembed(model.ln_final(resid))


@contextlib.contextmanager
def _counted(model) -> Iterator[list[int]]:
    """How often each block runs inside the `with`."""
    run_block(model, 0, torch.zeros(1, MAX_LENGTH, model.cfg.d_model))  # compares itself with the model once, uncounted
    counts = [0] * model.cfg.n_layers

    def count(layer: int) -> Callable:
        def hook(*_) -> None:
            counts[layer] += 1

        return hook

    handles = [block.register_forward_hook(count(layer)) for layer, block in enumerate(model.blocks)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a block called without its rotation warns at length; the check says it
            yield counts
    finally:
        for handle in handles:
            handle.remove()


def _by_hand() -> tuple[Tensor, Tensor]:
    """Streams [layer 3, batch 2, pos 5, d_model 7] that differ in one coordinate here, in opposite ways there."""
    clean = torch.randn(3, 2, 5, 7, generator=torch.Generator().manual_seed(1))
    corrupted = clean.clone()
    corrupted[0, 1, 2, 4] = torch.nextafter(corrupted[0, 1, 2, 4], torch.tensor(9.0))  # one coordinate, by one bit
    corrupted[1, 0, 4] *= -1  # the length stays
    corrupted[2, 1, 1] += 0.4  # all coordinates of the other prompt
    corrupted[0, 0, 1] += 0.3  # all coordinates of one prompt
    corrupted[1, :, 0] = clean[1, :, 0].flip(0)  # the mean over prompts stays
    corrupted[2, 0, 4, :2] += torch.tensor([1.0, -1.0])  # the sum over coordinates stays
    corrupted[2, :, 3] *= 2
    return clean, corrupted


@exercise(
    "10",
    look="section 2: what a cell patches in, it patches into every prompt and every dimension at once",
    takes="clean corrupted",
)
def check_cells_that_can_change(learner: Callable) -> str:
    cases = {"streams that differ in a few numbers": _by_hand()}
    for model in both_models():
        cases[model.cfg.model_name] = _residuals(model, 4)
    for name, (clean, corrupted) in cases.items():
        differs = clean != corrupted  # [layer, batch, pos, d_model]
        want = differs.any(-1).any(1)
        held = require_equal(
            call(learner, clean, corrupted),
            want,
            f"whether any prompt's activation differs, on {name}",
            axes="layer position",
            mistakes={
                "inverted: True where the runs differ, so where a patch can change something": lambda want=want: ~want,
                "you asked that every coordinate differs: one is enough":
                    lambda differs=differs: differs.all(-1).any(1),
                "you asked that every prompt differs: one is enough": lambda differs=differs: differs.any(-1).all(1),
                "you looked at the first prompt only: any of them may differ":
                    lambda differs=differs: differs[:, 0].any(-1),
                "you averaged over prompts first: in mirrored prompts the differences cancel":
                    lambda clean=clean, corrupted=corrupted: (clean.mean(1) != corrupted.mean(1)).any(-1),
                "you summed over coordinates first: differences of both signs cancel":
                    lambda clean=clean, corrupted=corrupted: ~torch.isclose(
                        clean.sum(-1), corrupted.sum(-1), atol=1e-5).all(1),
                "you compared within a tolerance: different is different, however little (!=)":
                    lambda clean=clean, corrupted=corrupted: ~torch.isclose(clean, corrupted).all(-1).all(1),
                "you checked whether the difference exceeds some threshold: different is different (!=)":
                    lambda clean=clean, corrupted=corrupted: ((clean - corrupted).abs() > 1e-5).any(-1).any(1),
                "you compared lengths: vectors of one length can differ":
                    lambda clean=clean, corrupted=corrupted: (clean.norm(dim=-1) != corrupted.norm(dim=-1)).any(1),
                "you checked only whether the clean value is the larger one: either may be":
                    lambda clean=clean, corrupted=corrupted: (clean > corrupted).any(-1).any(1),
                "every position after the first difference counts: look at each cell": lambda want=want: want.cumsum(1) > 0,
                "the prompts are still there: one answer per cell, for all of them (any over axis 1)":
                    lambda differs=differs: differs.any(-1),
                "you looked at whether tokens differ: later positions read the changed one from layer 1 on":
                    lambda want=want: want[:1].expand_as(want),
            },
        )  # fmt: skip
    return f"on streams made by hand, where one number differs, and on both models' runs ({held})"


@exercise(
    "10",
    points=2,
    look="section 3: blocks layer, layer + 1, … to the last, then ln_final, then unembed",
    takes="model resid layer",
)
def check_run_from_layer(learner: Callable) -> str:
    for model in both_models():
        for layer in (1, 0, 2):
            resid, want, mistakes = _from_layer(model, layer)
            with _counted(model) as ran:
                got = call(learner, model, resid, layer)
            with _counted(model):
                held = require_equal(
                    got,
                    want,
                    f"the hooked run with resid_pre patched at layer {layer}, on {model.cfg.model_name}",
                    axes="prompt position token",
                    mistakes=mistakes,
                )
            require(
                not any(ran[:layer]),
                f"which blocks ran for layer {layer}: {ran} times each; the logits are right",
                "the earlier blocks ran as well: start_at_layer replaces their result and saves no work; loop yourself",
            )
    return f"on both models and every layer, the same logits, and no block before the layer has run ({held})"


@cache
def _from_layer(model, layer: int) -> tuple[Tensor, Tensor, Mistakes]:
    """A stream to start from, the logits, and named mistakes."""
    clean, corrupted = _residuals(model)
    resid = corrupted[layer].clone()
    resid[:, S2] = clean[layer][:, S2]
    return (
        resid,
        _patched_run(model, _tokens()[1], clean, layer, S2),
        once(
            {
                "you start one block late: resid_pre is what block `layer` itself reads": lambda: _logits(
                    model, _blocks(model, resid, range(layer + 1, 3))
                ),
                "you start at block 0: the blocks before `layer` have run already": lambda: _logits(
                    model, _blocks(model, resid, range(3))
                ),
                "you run one block only: all later ones follow": lambda: _logits(model, _blocks(model, resid, [layer])),
                "the final norm is missing: model.ln_final comes before model.unembed": lambda: model.unembed(
                    _blocks(model, resid, range(layer, 3))
                ),
                "no block runs: from `layer` to the last, each takes the stream that the one before returns": lambda: (
                    _logits(model, resid)
                ),
                "you return the residual stream: model.unembed turns it into logits": lambda: _blocks(
                    model, resid, range(layer, 3)
                ),
                "no rotation: a block called by itself does not know where its tokens stand; use run_block": lambda: (
                    _logits(model, _bare_blocks(model, resid, layer))
                ),
            }
        ),
    )


def _blocks(model, resid: Tensor, layers) -> Tensor:
    for layer in layers:
        resid = run_block(model, layer, resid)
    return resid


def _bare_blocks(model, resid: Tensor, layer: int) -> Tensor:
    for block in model.blocks[layer:]:
        resid = block(resid)[0]
    return resid


@exercise(
    "10",
    points=2,
    look="section 4: query i stands at position start + i, and reads keys 0 to start + i",
    takes="q k v k_prefix v_prefix",
)
def check_attention_from_position(learner: Callable) -> str:
    for model in both_models():
        for start in (2, 1, 0):  # 5, 6 or 7 new positions, 4 heads, 3 prompts: no two axes of one size
            given, want, mistakes = _from_position(model, start)
            held = require_equal(
                call(learner, *given),
                want,
                f"hook_z of layer 1 from position {start} on, on {model.cfg.model_name}",
                axes="prompt position head d_head",
                mistakes=mistakes,
            )
    return f"on both models, the same z from every start ({held})"


@cache
def _from_position(model, start: int) -> tuple[tuple[Tensor, ...], Tensor, Mistakes]:
    """q, k, v of the new positions and k, v of the prefix; z; named mistakes."""
    tokens = _tokens(3)[1]
    run, z = CorruptedRun(model, tokens), model.run_with_cache(tokens)[1]["z", 1]
    rows, n = torch.arange(len(tokens)), N_POS - start
    q, k, v = run.qkv(1, run.resid_pre[1])
    q, k = run.rotated(q, rows, 0), run.rotated(k, rows, 0)
    q_own, k_own, v_own = (part[:, start:] for part in (q, k, v))
    k_before, v_before = k[:, :start], v[:, :start]

    def attend(**changes) -> Tensor:
        return _attention(q_own, k, v, torch.ones(n, N_POS).tril(start).bool(), **changes)

    return (q_own, k_own, v_own, k_before, v_before), z[:, start:], once({
        "the causal mask has lost its offset: query i stands at start + i and reads that far":
            lambda: _attention(q_own, k, v, torch.ones(n, N_POS).tril().bool()),
        "no causal mask: a query reads keys that come after it":
            lambda: _attention(q_own, k, v, torch.ones(n, N_POS).bool()),
        "the query cannot read itself: the mask is one too strict (tril or triu by one)":
            lambda: _attention(q_own, k, v, torch.ones(n, N_POS).tril(start - 1).bool()),
        "the prefix is missing: the new queries read the old keys and values too":
            lambda: _attention(q_own, k_own, v_own, torch.ones(n, n).tril().bool()),
        "the prefix comes after your own keys: positions must stay in order, prefix first":
            lambda: _attention(q_own, torch.cat([k_own, k_before], 1), torch.cat([v_own, v_before], 1),
                               torch.ones(n, N_POS).tril(start).bool()),
        "the mask is upside down: a query reads what comes before it (tril, not triu)":
            lambda: _attention(q_own, k, v, torch.ones(n, N_POS).triu(start).bool()),
        "keys and values are exchanged: scores are queries times keys":
            lambda: _attention(q_own, v, k, torch.ones(n, N_POS).tril(start).bool()),
        "softmax over the queries: each query shares out its attention over the keys, the last axis":
            lambda: attend(axis=-2),
        **{f"the scores are multiplied by {scale:.3g}: divide them by the square root of d_head":
            (lambda scale=scale: attend(scale=scale))
            for scale in _wrong_scales(q_own)},
        "not scaled: divide the scores by the square root of d_head":
            lambda: attend(scale=1.0),
        "key/value heads are in the wrong order: query heads 0 and 1 share the first one; repeat_interleave, not repeat":
            lambda: attend(deal=True),
    })  # fmt: skip


def _wrong_scales(q: Tensor) -> list[float]:
    """d_head without its root, upside down, halved; roots of the sizes of other axes."""
    d_head = q.shape[-1]
    return [1 / d_head, d_head**0.5, 2 / d_head, 2.0, 0.5, *(size**-0.5 for size in q.shape[:-1])]


def _attention(q, k, v, allowed, scale: float | None = None, deal: bool = False, axis: int = -1) -> Tensor:
    group = q.shape[2] // k.shape[2]
    k, v = ((x.repeat(1, 1, group, 1) if deal else x.repeat_interleave(group, 2)) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    pattern = scores.masked_fill(~allowed, -torch.inf).softmax(axis).nan_to_num()
    return torch.einsum("bhqk,bkhd->bqhd", pattern, v)


@exercise(
    "10",
    points=3,
    look="section 5: before block l the batch grows by the copies patched there, then the block runs",
    takes="model clean corrupted pos",
)
def check_patch_every_layer(learner: Callable) -> str:
    for model in both_models():
        for pos in (S2 + 1, N_POS - 1, S2):
            held = _patched_everywhere(learner, model, pos)
    return f"on both models and at three positions, the same logits with each block run once ({held})"


def _patched_everywhere(learner: Callable, model, pos: int) -> str:
    clean, corrupted = _residuals(model)
    want, mistakes = _every_layer(model, pos)
    with _counted(model) as ran:
        got = call(learner, model, clean, corrupted, pos)
    with _counted(model):
        held = require_equal(
            got,
            want,
            f"one hooked run per layer, patched at position {pos}, on {model.cfg.model_name}",
            axes="layer prompt token",
            mistakes=mistakes,
        )
    require(
        max(ran) == 1,
        f"how often each block ran: {ran}; the logits are right",
        "more than one pass over the layers: let the batch grow instead, so that each block runs once for all",
    )
    return held


@cache
def _every_layer(model, pos: int) -> tuple[Tensor, Mistakes]:
    (clean_tokens, corrupted_tokens), (clean, corrupted) = _tokens(), _residuals(model)
    n_layers = model.cfg.n_layers

    def looped(at: int | slice = pos, tokens: Tensor = corrupted_tokens, source: Tensor = clean, read=-1) -> Tensor:
        return torch.stack([_patched_run(model, tokens, source, layer, at)[:, read] for layer in range(n_layers)])

    want = looped()
    return want, once(
        {
            "clean and corrupted are exchanged: the clean activation goes into the corrupted run": lambda: looped(
                tokens=clean_tokens, source=corrupted
            ),
            "you patch every position: index position `pos` only": lambda: looped(slice(None)),
            "nothing is patched: write the clean activation into the new copies": lambda: model(corrupted_tokens)[
                :, -1
            ].expand_as(want),
            "later layers are patched as well: each copy is patched once, before its own layer": lambda: torch.stack(
                [_patched_from(model, clean, corrupted, layer, pos) for layer in range(n_layers)]
            ),
            "the prompts of the clean run are in another order": lambda: looped(source=clean.flip(1)),
            "the copies come out in reverse: new ones go after those already under way (cat([x, new]))": lambda: (
                want.flip(0)
            ),
            "the new copies join after their block: resid_pre is what block l itself reads": lambda: _joined_late(
                model, clean, corrupted, pos
            ),
            "every position is still there: read the last one only": lambda: looped(read=slice(None)),
            "the copies are still in the batch axis: unflatten it into [layer, batch]": lambda: want.flatten(0, 1),
            "read as [batch, layer]: the copies of one layer lie side by side; unflatten into (-1, batch)": lambda: (
                want.flatten(0, 1).unflatten(0, (-1, n_layers)).transpose(0, 1)
            ),
            **{
                f"you read position {other}: the prediction stands at the last one, index -1": (
                    lambda other=other: looped(read=other)
                )
                for other in range(N_POS - 1)
            },
        }
    )


def _patched_from(model, clean: Tensor, corrupted: Tensor, first: int, pos: int) -> Tensor:
    """Logits at the last position of the corrupted run that is patched before this layer and before every later one."""
    resid = corrupted[first]
    for layer in range(first, len(corrupted)):
        resid = resid.clone()
        resid[:, pos] = clean[layer][:, pos]
        resid = run_block(model, layer, resid)
    return _logits(model, resid[:, -1])


def _joined_late(model, clean: Tensor, corrupted: Tensor, pos: int) -> Tensor:
    x = corrupted[0][:0]
    for layer in range(len(corrupted)):
        new = corrupted[layer].clone()
        new[:, pos] = clean[layer][:, pos]
        x = torch.cat([run_block(model, layer, x) if len(x) else x, new])
    return _logits(model, x[:, -1]).unflatten(0, (-1, corrupted.shape[1]))
