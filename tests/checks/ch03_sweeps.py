"""Checks of chapter 03, second part: sweeps over layers, positions and heads."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import cache, partial
from unittest import mock

import torch
from torch import Tensor

from tests.checks.calling import call
from tests.checks.ch03_runs import BASE, SHORT, Runs, both_runs, built_in, patched
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import CheckFailed, both_models, exercise

# --- positions --------------------------------------------------------------------------------------------------------


@exercise(
    "03",
    look="section 3: corrupted tokens run; resid_pre of one layer at one position comes from the clean cache",
    points=2,
    takes="model corrupted_tokens clean_cache metric layers",
)
def check_get_act_patch_resid_pre(learner: Callable) -> str:
    for runs in both_runs(SHORT):
        want = built_in(runs, "resid_pre")
        with _tokens_seen(runs) as seen:
            got = call(learner, *runs.given())
        held = require_equal(
            got,
            want,
            f"transformer_lens.patching.get_act_patch_resid_pre on {runs.model.cfg.model_name}",
            axes="layer position",
            mistakes={**_other_tokens(runs, want, seen), **_resid_mistakes(runs)},
        )
        if runs.model is next(both_models()):
            _check_layers(learner, runs, want, "layer position")
    return f"every layer and position of a GPT-2 and of a Llama agrees with transformer_lens.patching ({held})"


@contextlib.contextmanager
def _tokens_seen(runs: Runs) -> Iterator[list[Tensor]]:
    """The tokens of every hooked run inside the `with`."""
    seen, run = [], runs.model.run_with_hooks

    def spy(tokens: Tensor, *args, **kwargs) -> Tensor:
        seen.append(tokens)
        return run(tokens, *args, **kwargs)

    with mock.patch.object(runs.model, "run_with_hooks", spy):
        yield seen


def _other_tokens(runs: Runs, want: Tensor, seen: list[Tensor]) -> Mistakes:
    """The values are those of patching every position: only the tokens tell the two mistakes apart."""
    if all(torch.equal(tokens, runs.corrupted_tokens) for tokens in seen):
        return {}
    message = "you ran the clean tokens: the corrupted ones run, and get something clean"
    return {message: lambda: torch.full_like(want, 1 + BASE)}


@cache
def _resid_mistakes(runs: Runs) -> Mistakes:
    want = built_in(runs, "resid_pre")
    n_layers, n_positions = want.shape
    cells = [(layer, pos) for layer in range(n_layers) for pos in range(n_positions)]
    sweep = partial(runs.sweep, shape=(n_layers, n_positions))

    def at(where: Callable[[int], tuple], name: str = "resid_pre") -> Tensor:
        return sweep([[patched(name, layer, where(pos), runs.clean_cache)] for layer, pos in cells])

    def noised() -> Tensor:
        hooks = [[patched("resid_pre", layer, (slice(None), pos), runs.corrupted_cache)] for layer, pos in cells]
        return sweep(hooks, noising=True) + 1 + BASE

    return once(
        {
            "layer and position are transposed: return [layer, pos]": lambda: want.T,
            "this is noising: the corrupted tokens run, and get something clean, not the other way round": noised,
            "every value is that of the unpatched corrupted run: does the hook function return the patched activation, "
            "and is it in fwd_hooks?": lambda: torch.full_like(want, BASE),
            "position 0 is left out: its cells are 0, and the corrupted run's metric is not; run every position": lambda: (
                torch.cat([torch.zeros_like(want[:, :1]), want[:, 1:]], dim=1)
            ),
            **_taken_off(want),
            "you patched every position: index position `pos` only": lambda: at(lambda pos: (...,)),
            "each run keeps the patches of earlier positions too: one position in each run": lambda: at(
                lambda pos: (slice(None), slice(0, pos + 1))
            ),
            "you patched the residual stream after the layer: resid_pre is the one before it": lambda: at(
                lambda pos: (slice(None), pos), "resid_post"
            ),
            "you patched `resid_mid`, between attention and MLP: resid_pre is the stream before the layer": lambda: at(
                lambda pos: (slice(None), pos), "resid_mid"
            ),
        }
    )


def _taken_off(want: Tensor) -> Mistakes:
    return {"the corrupted run's value is subtracted: the sweep returns the metric as it is": lambda: want - BASE}


def _whole_table(want: Tensor) -> Mistakes:
    """What goes wrong in every panel alike."""
    return {
        **_taken_off(want),
        "every value is that of the unpatched corrupted run: does the hook function return the patched activation, "
        "and is it in fwd_hooks?": lambda: torch.full_like(want, BASE),
        "the two last axes are transposed: the layer comes first": lambda: want.transpose(-1, -2),
    }


def _check_layers(learner: Callable, runs: Runs, want: Tensor, axes: str) -> None:
    """`layers` is honored: one row for each, in the order given."""
    chosen = [2, 0]
    at = axes.split().index("layer")
    picked = want.index_select(at, torch.tensor(chosen))
    try:
        rows = call(learner, *runs.given(), layers=chosen)
    except CheckFailed as error:
        if "IndexError" in error.compared:
            error.likely = (
                "with layers=[2, 0] there are two rows: write results[row] for row, layer in enumerate(layers)"
            )
        raise
    require_equal(
        rows,
        picked,
        f"the rows of layers={chosen}",
        axes=axes,
        mistakes={
            "`layers` is ignored: loop over it, one row for each of its layers": lambda: want,
            "the rows are in the order of the model, not of `layers`: enumerate(layers)": lambda: picked.flip(at),
            "`layers` is counted, not used: with layers=[2, 0] the layers are 2 and 0": lambda: want.narrow(
                at, 0, len(chosen)
            ),
        },
    )


@exercise(
    "03",
    look="section 3: resid_pre, attn_out, mlp_out, in this order; one activation in each run",
    points=2,
    takes="model corrupted_tokens clean_cache metric layers",
)
def check_get_act_patch_block_every(learner: Callable) -> str:
    for runs in both_runs(SHORT):
        want = built_in(runs, "block_every")
        held = require_equal(
            call(learner, *runs.given()),
            want,
            f"transformer_lens.patching.get_act_patch_block_every on {runs.model.cfg.model_name}",
            axes="panel layer position",
            mistakes=_block_mistakes(runs),
        )
        if runs.model is next(both_models()):
            _check_layers(learner, runs, want, "panel layer position")
    return f"all three panels on a GPT-2 and on a Llama agree with transformer_lens.patching ({held})"


@cache
def _block_mistakes(runs: Runs) -> Mistakes:
    want = built_in(runs, "block_every")
    _, n_layers, n_positions = want.shape
    cells = [(layer, pos) for layer in range(n_layers) for pos in range(n_positions)]
    names = ("resid_pre", "attn_out", "mlp_out")

    def panel(*names: str, every: bool = False) -> Tensor:
        """Of runs that patch all of these, at one position or at every."""
        return runs.sweep(
            (
                [patched(name, layer, (slice(None), slice(None) if every else pos), runs.clean_cache) for name in names]
                for layer, pos in cells
            ),
            (n_layers, n_positions),
        )

    orders = [order for order in itertools.permutations(range(3)) if order != (0, 1, 2)]
    return once({
        **{
            f"the order of the panels is {', '.join(names)}, not {', '.join(names[i] for i in order)}":
                lambda order=order: want[list(order)]
            for order in orders
        },
        "the patches are cumulative: later panels keep the patches of earlier ones; patch one activation in each run":
            lambda: torch.stack([want[0], panel(*names[:2]), panel(*names)]),
        "the patches are cumulative: the MLP panel patches the attention output too; patch one activation in each run":
            lambda: torch.stack([want[0], want[1], panel("attn_out", "mlp_out")]),
        **_whole_table(want),
        "the panels of attention and MLP patch every position: index position `pos` only":
            lambda: torch.stack([want[0], *(panel(name, every=True) for name in names[1:])]),
        "the panel of the residual stream patches every position: index position `pos` only":
            lambda: torch.stack([panel("resid_pre", every=True), want[1], want[2]]),
        "all panels patch every position: index position `pos` only":
            lambda: torch.stack([panel(name, every=True) for name in names]),
        "all three panels are the residual stream: use the name of each": lambda: want[:1].expand_as(want),
        "the panels stand last: return [3, layer, pos]": lambda: want.permute(1, 2, 0),
        "resid_mid in place of attn_out: the stream after attention holds everything before it too":
            lambda: torch.stack([want[0], panel("resid_mid"), want[2]]),
    })  # fmt: skip


# --- heads ------------------------------------------------------------------------------------------------------------


@exercise(
    "03",
    look="section 5: z is [batch, pos, head, d_head]; z[:, :, head] is one head everywhere",
    points=2,
    takes="model corrupted_tokens clean_cache metric layers",
)
def check_get_act_patch_attn_head_out_all_pos(learner: Callable) -> str:
    for runs in both_runs(SHORT):
        want = built_in(runs, "attn_head_out_all_pos")
        held = require_equal(
            _call_heads(learner, runs),
            want,
            f"transformer_lens.patching.get_act_patch_attn_head_out_all_pos on {runs.model.cfg.model_name}",
            axes="layer head",
            mistakes=_head_mistakes(runs),
        )
        if runs.model is next(both_models()):
            _check_layers(learner, runs, want, "layer head")
    return f"every head of a GPT-2 and of a Llama agrees with transformer_lens.patching ({held})"


def _call_heads(learner: Callable, runs: Runs) -> Tensor:
    """As `call`, with better words for two exceptions that this chapter invites."""
    try:
        return call(learner, *runs.given())
    except CheckFailed as error:
        if "hook_result" in error.compared:
            error.likely = "you patched `result`, after W_O: the model does not compute it for one head; patch z"
        elif "IndexError" in error.compared and runs.shares_keys:
            error.likely = (
                "this model has 4 query heads and 2 key/value heads: loop over clean_cache[name, layer].shape[axis] heads, "
                "and leave the rest of the rows of k and v zero"
            )
        raise


def _cells(runs: Runs) -> list[tuple[int, int]]:
    return [(layer, head) for layer in range(runs.model.cfg.n_layers) for head in range(runs.model.cfg.n_heads)]


@cache
def _head_mistakes(runs: Runs, noising: bool = False) -> Mistakes:
    want = _noised(runs) if noising else built_in(runs, "attn_head_out_all_pos")
    lends = runs.corrupted_cache if noising else runs.clean_cache

    def heads(where: Callable[[int], tuple], name: str = "z") -> Tensor:
        hooks = [[patched(name, layer, where(head), lends)] for layer, head in _cells(runs)]
        return runs.sweep(hooks, tuple(want.shape), noising)

    return once(
        {
            **({} if noising else _taken_off(want)),
            "heads and layers are transposed: return [layer, head]": lambda: want.T,
            "every value is that of the unpatched run: did you index the position (axis 1) and not the head (axis 2), or not "
            "return the patched z?": lambda: torch.full_like(want, 0.0 if noising else BASE),
            "one position only, the last: patch z at every position": lambda: heads(
                lambda head: (slice(None), -1, head)
            ),
            "one position only, S2: patch z at every position": lambda: heads(
                lambda head: (slice(None), runs.s2, head)
            ),
            "you patched all heads of the layer: index one of them": lambda: heads(lambda head: (...,)),
            "you patched the query: patch z, the output": lambda: heads(
                lambda head: (slice(None), slice(None), head), "q"
            ),
            "each run keeps the patches of earlier heads too: one head in each run": lambda: heads(
                lambda head: (slice(None), slice(None), slice(0, head + 1))
            ),
        }
    )


@exercise(
    "03",
    look="section 5: the head is axis 1 of pattern, axis 2 of z, q, k, v; k and v may have fewer heads",
    points=3,
    takes="model corrupted_tokens clean_cache metric layers",
)
def check_get_act_patch_attn_head_all_pos_every(learner: Callable) -> str:
    for runs in both_runs(SHORT):
        want = built_in(runs, "attn_head_all_pos_every")
        held = require_equal(
            _call_heads(learner, runs),
            want,
            f"transformer_lens.patching.get_act_patch_attn_head_all_pos_every on {runs.model.cfg.model_name}",
            axes="panel layer head",
            mistakes=_every_mistakes(runs),
        )
        if runs.model is next(both_models()):
            _check_layers(learner, runs, want, "panel layer head")
    return f"all five panels on a GPT-2 and on a grouped-query Llama agree with transformer_lens.patching ({held})"


@cache
def _every_mistakes(runs: Runs) -> Mistakes:
    want = built_in(runs, "attn_head_all_pos_every")
    _, n_layers, n_heads = want.shape
    shared = runs.clean_cache["v", 0].shape[2]

    def with_panels(*panels: int, value: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.stack([value(panel) if i in panels else panel for i, panel in enumerate(want)])

    def pattern_at(*index) -> Tensor:
        hooks = [[patched("pattern", layer, (*index, head), runs.clean_cache)] for layer, head in _cells(runs)]
        found = runs.sweep(hooks, (n_layers, n_heads))
        return with_panels(4, value=lambda panel: found)

    def filled(panel: Tensor, value: float) -> Tensor:
        return torch.cat([panel[:, :shared], torch.full_like(panel[:, shared:], value)], dim=1)

    wrong = {
        "q, k, v, pattern, z": [1, 2, 3, 4, 0],
        "q, k, v, z, pattern": [1, 2, 3, 0, 4],
        "z, pattern, q, k, v": [0, 4, 1, 2, 3],
        "pattern, q, k, v, z": [4, 1, 2, 3, 0],
        "z, k, q, v, pattern": [0, 2, 1, 3, 4],
        "z, q, v, k, pattern": [0, 1, 3, 2, 4],
    }
    return once(
        {
            **{
                f"the order of the panels is z, q, k, v, pattern, not {name}": lambda order=order: want[order]
                for name, order in wrong.items()
            },
            "pattern is indexed like z: its axes are [batch, head, query, key], so the head is axis 1": lambda: (
                pattern_at(slice(None), slice(None))
            ),
            "pattern is patched along the key axis: its axes are [batch, head, query, key], so the head is axis 1": lambda: (
                pattern_at(...)
            ),
            "the cells of k and v that have no head are nan: leave them zero": lambda: with_panels(
                2, 3, value=lambda panel: filled(panel, torch.nan)
            ),
            "the cells of k and v that have no head hold the corrupted run's value: leave them zero": lambda: (
                with_panels(2, 3, value=lambda panel: filled(panel, BASE))
            ),
            "k and v are given to each query head: fill one value for each key/value head, then zeros": lambda: (
                with_panels(2, 3, value=lambda panel: panel[:, :shared].repeat_interleave(n_heads // shared, dim=-1))
            ),
            "all panels are the same activation: use each name in turn": lambda: want[:1].expand_as(want),
            "the panels stand last: return [5, layer, head]": lambda: want.permute(1, 2, 0),
            **_whole_table(want),
            "k and v are filled from the other end: the shared heads come first, then zeros": lambda: with_panels(
                2, 3, value=lambda panel: panel.roll(n_heads - shared, -1)
            ),
        }
    )


@exercise(
    "03",
    look="section 9: the clean run receives, the corrupted cache lends; noising_metric",
    points=2,
    takes="model clean_tokens corrupted_tokens answer_tokens layers",
)
def check_noising_sweep(learner: Callable) -> str:
    for runs in both_runs(SHORT):
        want = _noised(runs)
        given = runs.model, runs.clean_tokens, runs.corrupted_tokens, runs.answers
        held = require_equal(
            call(learner, *given),
            want,
            f"corrupted z patched into the clean run, 0 for clean and −1 for corrupted, on {runs.model.cfg.model_name}",
            axes="layer head",
            mistakes={**_noising_mistakes(runs), **_head_mistakes(runs, noising=True)},
        )
        require_equal(
            call(learner, *given, layers=[2, 0]),
            want[[2, 0]],
            "the rows of layers=[2, 0]",
            axes="layer head",
            mistakes={
                "`layers` is ignored: hand it on to exercise 3.4": lambda want=want: want,
                "the rows are in the order of the model, not of `layers`": lambda want=want: want[[0, 2]],
            },
        )
    return f"every head of a GPT-2 and of a Llama agrees with an independent noising run ({held})"


@cache
def _noised(runs: Runs) -> Tensor:
    hooks = [
        [patched("z", layer, (slice(None), slice(None), head), runs.corrupted_cache)] for layer, head in _cells(runs)
    ]
    return runs.sweep(hooks, (runs.model.cfg.n_layers, runs.model.cfg.n_heads), noising=True)


def _noising_mistakes(runs: Runs) -> Mistakes:
    want, scale = _noised(runs), runs.clean - runs.corrupted
    denoising = built_in(runs, "attn_head_out_all_pos") - BASE
    return {
        "the same metric as denoising: 0 should mean the clean run, use noising_metric": lambda: want + 1,
        "this is denoising: the clean run receives, and the corrupted cache lends": lambda: denoising,
        "you ran the corrupted tokens: the clean run receives, and the corrupted cache lends": lambda: denoising - 1,
        "the clean run got its own activations: cache the corrupted run": lambda: torch.zeros_like(want),
        "the two baselines are exchanged": lambda: (want * scale + scale) / -scale,
        "not rescaled: these are logit differences": lambda: want * scale + runs.clean,
        "not divided: these are changes of the logit difference": lambda: want * scale,
        "the sign: the corrupted run is -1": lambda: -want,
    }
