"""Checks of chapter 05, first part: paths to the logits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor
from transformer_lens import ActivationCache

from tests.checks.calling import call
from tests.checks.ch05_runs import AT, Runs, both_runs
from tests.checks.comparing import Mistakes, once, require_equal
from tests.checks.core import exercise

# --- to the logits ----------------------------------------------------------------------------------------------------


@exercise(
    "05",
    look="section 2: stream + (lending z - receiving z) @ W_O at the last position, then ln_final, unembed, metric",
    points=2,
    takes="model receiving lending metric",
)
def check_direct_effects(learner: Callable) -> str:
    for runs in both_runs():
        want, mistakes = _direct(runs)
        held = require_equal(
            call(learner, runs.model, runs.orig, runs.new, runs.metric),
            want,
            f"the metric of every direct path on {runs.model.cfg.model_name}",
            axes="layer head",
            mistakes=mistakes,
        )
    return f"the metric of every head's direct path, on a GPT-2 and a Llama, with the norm's own scale ({held})"


@cache
def _direct(runs: Runs) -> tuple[Tensor, Mistakes]:
    model, orig, new = runs.model, runs.orig, runs.new
    n_layers = model.cfg.n_layers
    final, scale = orig["resid_post", n_layers - 1][:, -1:], orig["ln_final.hook_scale"][:, -1:]

    def read(stream: Tensor, frozen: bool = False) -> Tensor:
        if not frozen:
            return runs.metric(model.unembed(model.ln_final(stream)))
        centered = stream - stream.mean(-1, keepdim=True) if model.cfg.normalization_type.startswith("LN") else stream
        return runs.metric(model.unembed(centered / scale))

    def each(stream_of: Callable[[tuple[int, int]], Tensor], **kwargs) -> Tensor:
        return runs.table(lambda head: read(stream_of(head), **kwargs))

    def wrote(cache: ActivationCache, layer: int, head: int, pos: slice = slice(-1, None)) -> Tensor:
        return cache["z", layer][:, pos, head] @ model.W_O[layer, head]

    def change(head: tuple[int, int]) -> Tensor:
        return runs.message(*head)[:, -1:]

    def cumulated() -> Tensor:
        order = [head for row in runs.heads() for head in row]
        return each(lambda head: final + sum(change(other) for other in order[: order.index(head) + 1]))

    return each(lambda head: final + change(head)), once({
        "the final norm's scale is frozen: give the changed stream to model.ln_final, which divides by its own":
            lambda: each(lambda head: final + change(head), frozen=True),
        "the other way round: the stream is the receiving run's, and the head's new part is the lending run's":
            lambda: each(lambda head: new["resid_post", n_layers - 1][:, -1:] - change(head)),
        "the change is subtracted: lending minus receiving, added": lambda: each(lambda head: final - change(head)),
        "the final stream is the lending run's: only the head's part comes from it":
            lambda: each(lambda head: new["resid_post", n_layers - 1][:, -1:] + change(head)),
        "the change is added after the final norm: add it to the stream, then normalize":
            lambda: runs.table(lambda head: runs.metric(model.unembed(model.ln_final(final) + change(head)))),
        "the changes of earlier heads are still there: start each head from the receiving run's stream": cumulated,
        "the head's old part is still there: subtract it before you add the new one":
            lambda: each(lambda head: final + wrote(new, *head)),
        "the head is taken out and not replaced": lambda: each(lambda head: final - wrote(orig, *head)),
        "this is activation patching, where later parts react: nothing comes between the head and the logits here":
            lambda: runs.table(lambda head: runs.patched(*head)),
        "only the change is read: add it to the final stream": lambda: each(change),
        "the change is that of the first position: take the last one":
            lambda: each(lambda head: final + runs.message(*head)[:, :1]),
        "the change is summed over positions: take the last one":
            lambda: each(lambda head: final + runs.message(*head).sum(1, keepdim=True)),
        "the stream is that of the layer: take the final one, resid_post of the last layer":
            lambda: each(lambda head: orig["resid_post", head[0]][:, -1:] + change(head)),
        "the stream is that before the last layer: take the final one, resid_post of the last layer":
            lambda: each(lambda head: orig["resid_pre", n_layers - 1][:, -1:] + change(head)),
        "the two outputs are added: lending minus receiving":
            lambda: each(lambda head: final + wrote(new, *head) + wrote(orig, *head)),
        "the receiving run's part is added again: add lending minus receiving":
            lambda: each(lambda head: final + wrote(orig, *head)),
        "the last prompt is taken where the last position is meant: position is axis 1":
            lambda: each(lambda head: orig["resid_post", n_layers - 1][-1:] + change(head)),
        "the unpatched metric is subtracted: return the metric itself":
            lambda: each(lambda head: final + change(head)) - read(final),
    })  # fmt: skip


ENDS = torch.tensor([14, 4, 14, 10, 14])  # most of them the last one: nothing that is sent elsewhere reaches the logits
TO_LOGITS = (  # positions of the sender, whether MLPs are frozen, layers
    (None, True, [1]),
    (ENDS, False, [2, 0]),
    (torch.full_like(AT, 14), False, [1]),
    (AT, True, None),
)


@exercise(
    "05",
    look="section 3: hold every z (and mlp_out) at orig; in the sender's layer start from a copy of orig",
    points=3,
    takes="model tokens new orig metric at freeze_mlps layers",
)
def check_path_patch_to_logits(learner: Callable) -> str:
    for runs in both_runs():
        for case, (at, frozen, layers) in enumerate(TO_LOGITS):
            want, mistakes = _to_logits(runs, case)
            chosen = {"at": at, "freeze_mlps": None if frozen else False, "layers": layers}  # None: left to its default
            chosen = {name: value for name, value in chosen.items() if value is not None}
            held = require_equal(
                call(learner, runs.model, runs.tokens, runs.new, runs.orig, runs.metric, **chosen),
                want,
                f"the metric of every path to the logits on {runs.model.cfg.model_name}, MLPs "
                f"{'frozen' if frozen else 'free'}, senders {'everywhere' if at is None else 'at one position'}",
                axes="layer head",
                mistakes=mistakes,
            )
    return f"two runs with hooks agree, MLPs frozen and free, at all positions and at one of each prompt ({held})"


@cache
def _to_logits(runs: Runs, case: int) -> tuple[Tensor, Mistakes]:
    at, frozen, layers = TO_LOGITS[case]
    free, table = not frozen, partial(runs.table, layers=layers)
    order = [head for row in runs.heads(layers) for head in row]
    path = partial(runs.path, at=at, free=free)
    closed = (
        "no path is open: a hook that holds the sender's z overwrites what you sent; one hook must do both"
        if at is None  # where that was right, the sender is exchanged, but at other positions
        else "nothing arrives: the sender is not exchanged at `at`, a position in each prompt; z[rows, at, head]"
    )
    return table(path), once({
        closed: lambda: table(lambda head: runs.base),
        "the unpatched metric is subtracted: return the metric itself": lambda: table(path) - runs.base,
        "the other parts are held at the lending run: hold them at orig, the receiving run":
            lambda: table(lambda head: path(head, held=runs.new)),
        "the two runs are exchanged: orig is held, new is sent":
            lambda: table(lambda head: path(head, swapped=True)),
        "every sender so far is still sent: start each one from orig":
            lambda: table(lambda head: runs.path(order[: order.index(head) + 1], at=at, free=free)),
        "the earlier senders of the layer are still sent: start each one from a copy of orig":
            lambda: table(lambda head: runs.path([(head[0], h) for h in range(head[1] + 1)], at=at, free=free)),
        "the MLPs react: with freeze_mlps they are held too": lambda: table(lambda head: runs.path(head, at=at, free=True)),
        "the MLPs are held although freeze_mlps is false": lambda: table(lambda head: runs.path(head, at=at)),
        "nothing is frozen: this is activation patching": lambda: table(lambda head: runs.patched(*head, at)),
        "the sender is exchanged elsewhere than at `at`: one position in each prompt, so index rows and positions together, "
        "z[rows, at, head]": lambda: table(lambda head: runs.path(head, free=free)),
        "all heads of the layer are sent: one head at a time":
            lambda: table(lambda head: runs.path([(head[0], h) for h in range(runs.model.cfg.n_heads)], at=at, free=free)),
        "the rows are not the layers that were asked for": lambda: runs.table(
            lambda head: path(head), None if layers is None else range(len(layers))
        ),
        "the rows are in the order of the layers, not in the order that was asked for": lambda: runs.table(
            lambda head: path(head), None if layers is None else sorted(layers)
        ),
    })  # fmt: skip
