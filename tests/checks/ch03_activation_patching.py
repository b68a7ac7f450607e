"""Checks of chapter 03."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from unittest import mock

import torch
from torch import Tensor
from transformer_lens import ActivationCache, patching
from transformer_lens.model_bridge import TransformerBridge

from tests.checks.calling import call
from tests.checks.comparing import require_equal
from tests.checks.core import CheckFailed, both_models, exercise, require
from utils.ioi import ioi_pairs

KEEP = [0, 3, 4, 7]  # no prompt beside its mirror, so that clean and corrupted cannot stand in for each other
SITES = ("z", "q", "k", "v", "pattern")
BASE = 0.375  # the sweeps' metric on the corrupted run


@dataclass(frozen=True)
class Runs:
    """A model with its clean and corrupted runs on four prompts, and both metrics."""

    model: TransformerBridge
    clean_tokens: Tensor
    corrupted_tokens: Tensor
    answers: Tensor
    clean_cache: ActivationCache
    corrupted_cache: ActivationCache
    clean: Tensor
    corrupted: Tensor

    def metric(self, logits: Tensor) -> Tensor:
        return (_logit_diff(logits, self.answers).mean() - self.corrupted) / (self.clean - self.corrupted)

    def noising_metric(self, logits: Tensor) -> Tensor:
        return self.metric(logits) - 1

    def sweep_metric(self, logits: Tensor) -> Tensor:
        """What the sweeps are given: BASE on the corrupted run, so that a cell that is left out shows."""
        return self.metric(logits) + BASE

    def given(self) -> tuple:
        return self.model, self.corrupted_tokens, self.clean_cache, self.sweep_metric


def _logit_diff(logits: Tensor, answers: Tensor, pos: int = -1) -> Tensor:
    prompts = torch.arange(len(answers))
    return logits[prompts, pos, answers[:, 0]] - logits[prompts, pos, answers[:, 1]]


@cache
def _runs(family: str) -> Runs:
    model = next(m for m in both_models() if family in m.cfg.model_name)
    pairs = ioi_pairs(model)
    clean_tokens, corrupted_tokens, answers = (
        t[KEEP] for t in (pairs.clean_tokens, pairs.corrupted_tokens, pairs.answer_tokens)
    )
    clean_logits, clean_cache = model.run_with_cache(clean_tokens)
    corrupted_logits, corrupted_cache = model.run_with_cache(corrupted_tokens)
    baselines = (_logit_diff(logits, answers).mean() for logits in (clean_logits, corrupted_logits))
    return Runs(model, clean_tokens, corrupted_tokens, answers, clean_cache, corrupted_cache, *baselines)


def _both_runs() -> Iterable[Runs]:
    return (_runs("gpt2"), _runs("llama"))


@cache
def _built_in(family: str, sweep: str) -> Tensor:
    """`transformer_lens.patching`'s result, without its progress bars."""
    with mock.patch.object(patching, "tqdm", lambda items, **_: items):
        return getattr(patching, f"get_act_patch_{sweep}")(*_runs(family).given())


def _family(runs: Runs) -> str:
    return "gpt2" if "gpt2" in runs.model.cfg.model_name else "llama"


def _sweep(runs: Runs, hooks: Iterable[tuple], shape: tuple[int, ...], noising: bool = False) -> Tensor:
    """The metric of one hooked run per entry, in the given shape: what mistaken loops would compute."""
    tokens = runs.clean_tokens if noising else runs.corrupted_tokens
    metric = runs.noising_metric if noising else runs.sweep_metric
    return torch.stack([metric(runs.model.run_with_hooks(tokens, fwd_hooks=list(h))) for h in hooks]).reshape(shape)


def _patch(index: tuple, cache: ActivationCache) -> Callable:
    def hook_function(activation: Tensor, hook) -> Tensor:
        activation = activation.clone()
        activation[index] = cache[hook.name][index]
        return activation

    return hook_function


def _at(name: str, layer: int, index: tuple, cache: ActivationCache) -> tuple[str, Callable]:
    part = "attn." if name in SITES else ""
    return f"blocks.{layer}.{part}hook_{name}", _patch(index, cache)


# --- metrics ----------------------------------------------------------------------------------------------------------


@exercise(
    "03",
    look="section 2: subtract what should become 0, divide by the distance between the baselines",
    takes="logits answer_tokens clean corrupted",
)
def check_ioi_metric(learner: Callable) -> str:
    return _check_metric(learner, noising=False)


@exercise(
    "03", look="section 2: the clean run is 0 and the corrupted run is −1", takes="logits answer_tokens clean corrupted"
)
def check_noising_metric(learner: Callable) -> str:
    return _check_metric(learner, noising=True)


def _check_metric(learner: Callable, noising: bool) -> str:
    answers = torch.tensor([[3, 5], [5, 3], [1, 7], [8, 0], [2, 6]])
    for seed, (clean, corrupted) in enumerate(
        (map(torch.tensor, (2.5, -1.5)), (-0.7, 1.1), map(torch.tensor, (3.0, 0.5)))
    ):
        logits = torch.randn(5, 4, 9, generator=torch.Generator().manual_seed(seed)) * 3
        per_prompt = _logit_diff(logits, answers)
        mean, distance = per_prompt.mean(), clean - corrupted
        denoised, noised = (mean - corrupted) / distance, (mean - clean) / distance
        right, other = (noised, denoised) if noising else (denoised, noised)
        mistakes = {
            "the metric of denoising: for noising, 0 should mean the clean run, so subtract clean"
            if noising
            else "the metric of noising: for denoising, 0 should mean the corrupted run, so subtract corrupted":
                lambda: other,
            "inverted: this is 0 where it should be at its other end, and runs the other way":
                lambda: -other,
            "divides by the wrong sign: the distance is clean − corrupted": lambda: -right,
            "not divided by the distance between the baselines": lambda: right * distance,
            "only divided, nothing is subtracted": lambda: mean / distance,
            "not rescaled: this is the logit difference itself": lambda: mean,
            "read at the first position: the answer is predicted at the last one":
                lambda: (_logit_diff(logits, answers, 0).mean() - (clean if noising else corrupted)) / distance,
            "one value per prompt: a metric is one number, so take the mean":
                lambda: (per_prompt - (clean if noising else corrupted)) / distance,
        }  # fmt: skip
        held = require_equal(
            call(learner, logits, answers, clean, corrupted),
            right,
            "the mean logit difference, rescaled to 0 (clean) and −1 (corrupted)"
            if noising
            else "the mean logit difference, rescaled to 0 (corrupted) and 1 (clean)",
            mistakes=mistakes,
            is_tensor=True,
        )
        _require_gradient(learner, logits, answers, clean, corrupted)
    ends = (
        "0 on the clean run and −1 on the corrupted run" if noising else "0 on the corrupted run and 1 on the clean run"
    )
    for runs in _both_runs():
        logits = runs.model(runs.clean_tokens), runs.model(runs.corrupted_tokens)
        values = [call(learner, each, runs.answers, runs.clean, runs.corrupted) for each in logits]
        want = torch.tensor([0.0, -1.0]) if noising else torch.tensor([1.0, 0.0])
        require_equal(values, want, f"the metric of the clean and the corrupted run of {runs.model.cfg.model_name}")
    return f"{ends}, with a gradient, whether the baselines are tensors or floats ({held})"


def _require_gradient(learner: Callable, logits: Tensor, answers: Tensor, clean, corrupted) -> None:
    """The metric's gradient with respect to the logits: it is linear in them."""
    with torch.enable_grad():
        leaf = logits.clone().requires_grad_()
        value = learner(leaf, answers, clean, corrupted)
        ok = isinstance(value, Tensor) and value.requires_grad
        require(
            ok, "the gradient of the metric: it has none", "keep it a tensor, without .item(), .detach() or no_grad()"
        )
        (gradient,) = torch.autograd.grad(value, leaf)
    want, rows = torch.zeros_like(logits), torch.arange(len(answers))
    share = float(1 / (clean - corrupted)) / len(answers)
    want[rows, -1, answers[:, 0]], want[rows, -1, answers[:, 1]] = share, -share
    require_equal(gradient, want, "the gradient of the metric", axes="prompt position token")


# --- one patch --------------------------------------------------------------------------------------------------------


@exercise(
    "03",
    look="section 3: activation[:, pos] is one position of every prompt; clean_cache[hook.name] is the same activation",
)
def check_patch_position(learner: Callable) -> str:
    for runs in _both_runs():
        for name, pos in (("resid_pre", 3), ("mlp_out", 0), ("attn_out", 11)):
            activation = runs.corrupted_cache[name, 1] + 1  # differs from the clean run at every position
            hook = _hook(runs.model, name)
            clean = runs.clean_cache[name, 1]
            held = require_equal(
                call(learner, activation, hook=hook, pos=pos, clean_cache=runs.clean_cache),
                _replaced(activation, clean, (slice(None), pos)),
                f"{name} of {runs.model.cfg.model_name} with position {pos} from the clean run",
                axes="batch position d_model",
                mistakes={
                    "you patched every position: index position `pos` only": lambda: clean,
                    "you patched a prompt, not a position: the batch is axis 0, positions are axis 1":
                        lambda: _replaced(activation, clean, (pos % len(activation),)),
                    "you patched from `pos` on: index position `pos` only":
                        lambda: _replaced(activation, clean, (slice(None), slice(pos, None))),
                    "you patched up to `pos`: index position `pos` only":
                        lambda: _replaced(activation, clean, (slice(None), slice(0, pos + 1))),
                    "you patched the last position: use `pos`": lambda: _replaced(activation, clean, (slice(None), -1)),
                    "you patched one coordinate at every position: positions are axis 1":
                        lambda: _replaced(activation, clean, (..., pos)),
                    "you patched every position but `pos`: the other way round":
                        lambda: _replaced(clean, activation, (slice(None), pos)),
                    "nothing is patched: the activation comes back as it was": lambda: activation,
                },
            )  # fmt: skip
    return f"positions 3, 0 and 11 of three activations are clean in every prompt, everything else untouched ({held})"


def _hook(model: TransformerBridge, name: str):
    """The hook point of layer 1, found as a run finds it: the name that a hook function sees may be an alias."""
    seen = []
    model.run_with_hooks(
        torch.zeros(1, 2, dtype=torch.long), fwd_hooks=[(f"blocks.1.hook_{name}", lambda _, hook: seen.append(hook))]
    )
    return seen[0]


def _replaced(activation: Tensor, clean: Tensor, index: tuple) -> Tensor:
    activation = activation.clone()
    activation[index] = clean[index]
    return activation


# --- sweeps -----------------------------------------------------------------------------------------------------------


@exercise(
    "03",
    look="section 3: corrupted tokens run; resid_pre of one layer at one position comes from the clean cache",
    points=2,
    takes="model corrupted_tokens clean_cache metric layers",
)
def check_get_act_patch_resid_pre(learner: Callable) -> str:
    for runs in _both_runs():
        want = _built_in(_family(runs), "resid_pre")
        held = require_equal(
            call(learner, *runs.given()),
            want,
            f"transformer_lens.patching.get_act_patch_resid_pre on {runs.model.cfg.model_name}",
            axes="layer position",
            mistakes=_resid_mistakes(runs, want, learner),
        )
        if runs is _runs("gpt2"):
            _check_layers(learner, runs, want, "layer position")
    return f"every layer and position of a GPT-2 and of a Llama agrees with transformer_lens.patching ({held})"


def _resid_mistakes(runs: Runs, want: Tensor, learner: Callable) -> dict[str, Callable[[], Tensor]]:
    n_layers, n_positions = want.shape
    name = "resid_pre"
    cells = [(layer, pos) for layer in range(n_layers) for pos in range(n_positions)]
    sweep = partial(_sweep, runs, shape=(n_layers, n_positions))
    clean, corrupted = runs.clean_cache, runs.corrupted_cache

    def clean_tokens_run() -> Tensor:  # the same values as patching every position: only the tokens tell them apart
        return torch.full_like(want, BASE if _ran_corrupted_tokens(learner, runs) else 1 + BASE)

    def noised() -> Tensor:
        hooks = [[_at(name, layer, (slice(None), pos), corrupted)] for layer, pos in cells]
        return sweep(hooks, noising=True) + 1 + BASE

    return {
        "layer and position are transposed: return [layer, position]": lambda: want.T,
        "you ran the clean tokens: the corrupted ones run, and get something clean": clean_tokens_run,
        "this is noising: the corrupted tokens run, and get something clean, not the other way round": noised,
        "every value is that of the unpatched corrupted run: does the hook function return the patched activation, "
        "and is it in fwd_hooks?": lambda: torch.full_like(want, BASE),
        "position 0 is left out, and its cells are not the corrupted run's: run every position, or they stay 0":
            lambda: torch.cat([torch.zeros_like(want[:, :1]), want[:, 1:]], dim=1),
        "the corrupted run's value is taken off: the sweep returns the metric as it is": lambda: want - BASE,
        "you patched every position: index position `pos` only":
            lambda: sweep([[_at(name, layer, (...,), clean)] for layer, pos in cells]),
        "each run keeps the patches of earlier positions too: one position in each run":
            lambda: sweep([[_at(name, layer, (slice(None), slice(0, pos + 1)), clean)] for layer, pos in cells]),
        "you patched the residual stream after the layer: resid_pre is the one before it":
            lambda: sweep([[_at("resid_post", layer, (slice(None), pos), clean)] for layer, pos in cells]),
        "you patched `resid_mid`, between attention and MLP: resid_pre is the stream before the layer":
            lambda: sweep([[_at("resid_mid", layer, (slice(None), pos), clean)] for layer, pos in cells]),
    }  # fmt: skip


def _ran_corrupted_tokens(learner: Callable, runs: Runs) -> bool:
    """Whether the model was run on the corrupted tokens, each time."""
    seen, run = [], runs.model.run_with_hooks

    def spy(tokens: Tensor, *args, **kwargs) -> Tensor:
        seen.append(tokens)
        return run(tokens, *args, **kwargs)

    with mock.patch.object(runs.model, "run_with_hooks", spy):
        learner(*runs.given())
    return all(torch.equal(tokens, runs.corrupted_tokens) for tokens in seen)


def _check_layers(learner: Callable, runs: Runs, want: Tensor, axes: str) -> None:
    """`layers` is honoured: one row for each, in the order given."""
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
            "the rows are in the order of the model, not of `layers`: enumerate(layers)":
                lambda: picked.flip(at),
            "`layers` is counted, not used: with layers=[2, 0] the layers are 2 and 0":
                lambda: want.narrow(at, 0, len(chosen)),
        },
    )  # fmt: skip


@exercise(
    "03",
    look="section 3: resid_pre, attn_out, mlp_out, in this order; one activation in each run",
    points=2,
    takes="model corrupted_tokens clean_cache metric layers",
)
def check_get_act_patch_block_every(learner: Callable) -> str:
    for runs in _both_runs():
        want = _built_in(_family(runs), "block_every")
        held = require_equal(
            call(learner, *runs.given()),
            want,
            f"transformer_lens.patching.get_act_patch_block_every on {runs.model.cfg.model_name}",
            axes="panel layer position",
            mistakes=_block_mistakes(runs, want),
        )
        if runs is _runs("gpt2"):
            _check_layers(learner, runs, want, "panel layer position")
    return f"all three panels on a GPT-2 and on a Llama agree with transformer_lens.patching ({held})"


def _block_mistakes(runs: Runs, want: Tensor) -> dict[str, Callable[[], Tensor]]:
    _, n_layers, n_positions = want.shape
    cells = [(layer, pos) for layer in range(n_layers) for pos in range(n_positions)]
    names = ("resid_pre", "attn_out", "mlp_out")
    sweep = partial(_sweep, runs, shape=(n_layers, n_positions))

    def at(name: str, layer: int, pos: int | slice = slice(None)) -> tuple[str, Callable]:
        return _at(name, layer, (slice(None), pos), runs.clean_cache)

    def cumulative() -> Tensor:
        panels = ([[at(name, layer, pos) for name in names[: i + 1]] for layer, pos in cells] for i in range(3))
        return torch.stack([sweep(panel) for panel in panels])

    def outputs_cumulative() -> Tensor:
        both = sweep([[at("attn_out", layer, pos), at("mlp_out", layer, pos)] for layer, pos in cells])
        return torch.stack([want[0], want[1], both])

    orders = [order for order in itertools.permutations(range(3)) if order != (0, 1, 2)]
    return {
        **{
            f"the order of the panels is {', '.join(names)}, not {', '.join(names[i] for i in order)}":
                lambda order=order: want[list(order)]
            for order in orders
        },
        "the patches are cumulative: later panels keep the patches of earlier ones; patch one activation in each run":
            cumulative,
        "the patches are cumulative: the MLP panel patches the attention output too; patch one activation in each run":
            outputs_cumulative,
        "the panels of attention and MLP patch every position: index position `pos` only":
            lambda: torch.stack([want[0], *(sweep([[at(n, layer)] for layer, pos in cells]) for n in names[1:])]),
        "all three panels are the residual stream: use the name of each": lambda: want[:1].expand_as(want),
        "the panels stand last: return [3, layer, position]": lambda: want.permute(1, 2, 0),
        "resid_mid in place of attn_out: the stream after attention holds everything before it too":
            lambda: torch.stack([want[0], sweep([[at("resid_mid", layer, pos)] for layer, pos in cells]), want[2]]),
    }  # fmt: skip


@exercise(
    "03",
    look="section 5: z is [batch, position, head, d_head]; z[:, :, head] is one head everywhere",
    points=2,
    takes="model corrupted_tokens clean_cache metric layers",
)
def check_get_act_patch_attn_head_out_all_pos(learner: Callable) -> str:
    for runs in _both_runs():
        want = _built_in(_family(runs), "attn_head_out_all_pos")
        held = require_equal(
            _call_heads(learner, runs),
            want,
            f"transformer_lens.patching.get_act_patch_attn_head_out_all_pos on {runs.model.cfg.model_name}",
            axes="layer head",
            mistakes=_head_mistakes(runs, want),
        )
        if runs is _runs("gpt2"):
            _check_layers(learner, runs, want, "layer head")
    return f"every head of a GPT-2 and of a Llama agrees with transformer_lens.patching ({held})"


def _call_heads(learner: Callable, runs: Runs) -> Tensor:
    """As `call`, with better words for two exceptions that this chapter invites."""
    try:
        return call(learner, *runs.given())
    except CheckFailed as error:
        if "hook_result" in error.compared:
            error.likely = "you patched `result`, after W_O: the model does not compute it for one head; patch z"
        elif "IndexError" in error.compared and _family(runs) == "llama":
            error.likely = (
                "this model has 4 query heads and 2 key/value heads: loop over clean_cache[name, layer].shape[axis] heads, "
                "and leave the rest of the rows of k and v zero"
            )
        raise


def _head_mistakes(runs: Runs, want: Tensor, noising: bool = False) -> dict[str, Callable[[], Tensor]]:
    n_layers, n_heads = want.shape
    cells = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    sweep = partial(_sweep, runs, shape=(n_layers, n_heads), noising=noising)
    lends = runs.corrupted_cache if noising else runs.clean_cache

    def heads(*index, name: str = "z") -> Tensor:
        return sweep([[_at(name, layer, (*index, head), lends)] for layer, head in cells])

    return {
        "heads and layers are transposed: return [layer, head]": lambda: want.T,
        "every value is that of the unpatched run: did you index the position (axis 1) and not the head (axis 2), or not "
        "return the patched z?": lambda: torch.full_like(want, 0.0 if noising else BASE),
        "one position only, the last: patch z at every position": lambda: heads(slice(None), -1),
        "one position only, S2: patch z at every position": lambda: heads(slice(None), 10),
        "you patched all heads of the layer: index one of them":
            lambda: sweep([[_at("z", layer, (...,), lends)] for layer, head in cells]),
        "you patched the query: patch z, the output": lambda: heads(slice(None), slice(None), name="q"),
        "each run keeps the patches of earlier heads too: one head in each run":
            lambda: sweep([[_at("z", layer, (slice(None), slice(None), slice(0, head + 1)), lends)]
                           for layer, head in cells]),
    }  # fmt: skip


@exercise(
    "03",
    look="section 5: the head is axis 1 of pattern, axis 2 of z, q, k, v; k and v may have fewer heads",
    points=3,
    takes="model corrupted_tokens clean_cache metric layers",
)
def check_get_act_patch_attn_head_all_pos_every(learner: Callable) -> str:
    for runs in _both_runs():
        want = _built_in(_family(runs), "attn_head_all_pos_every")
        held = require_equal(
            _call_heads(learner, runs),
            want,
            f"transformer_lens.patching.get_act_patch_attn_head_all_pos_every on {runs.model.cfg.model_name}",
            axes="panel layer head",
            mistakes=_every_mistakes(runs, want),
        )
        if runs is _runs("gpt2"):
            _check_layers(learner, runs, want, "panel layer head")
    return f"all five panels on a GPT-2 and on a grouped-query Llama agree with transformer_lens.patching ({held})"


def _every_mistakes(runs: Runs, want: Tensor) -> dict[str, Callable[[], Tensor]]:
    _, n_layers, n_heads = want.shape
    group = n_heads // runs.clean_cache["v", 0].shape[2]
    cells = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    sweep = partial(_sweep, runs, shape=(n_layers, n_heads))

    def with_panels(replacement: dict[int, Callable[[], Tensor]]) -> Tensor:
        return torch.stack([replacement[i]() if i in replacement else want[i] for i in range(5)])

    def pattern_at(*index) -> Tensor:
        return sweep([[_at("pattern", layer, (*index, head), runs.clean_cache)] for layer, head in cells])

    def for_query_heads(panel: int) -> Callable[[], Tensor]:
        return lambda: want[panel, :, : n_heads // group].repeat_interleave(group, dim=-1)

    def orders() -> dict[str, Callable[[], Tensor]]:
        wrong = {"q, k, v, pattern, z": [1, 2, 3, 4, 0], "q, k, v, z, pattern": [1, 2, 3, 0, 4],
                 "z, pattern, q, k, v": [0, 4, 1, 2, 3], "pattern, q, k, v, z": [4, 1, 2, 3, 0],
                 "z, k, q, v, pattern": [0, 2, 1, 3, 4], "z, q, v, k, pattern": [0, 1, 3, 2, 4]}  # fmt: skip
        return {
            f"the order of the panels is z, q, k, v, pattern, not {name}": lambda order=order: want[order]
            for name, order in wrong.items()
        }

    return {
        **orders(),
        "pattern is indexed like z: its axes are [batch, head, query, key], so the head is axis 1":
            lambda: with_panels({4: lambda: pattern_at(slice(None), slice(None))}),
        "pattern is patched along the key axis: its axes are [batch, head, query, key], so the head is axis 1":
            lambda: with_panels({4: lambda: pattern_at(...)}),
        "the cells of k and v that have no head are nan: leave them zero": lambda: with_panels(
            {panel: (lambda panel=panel: _with_nan(want[panel], n_heads // group)) for panel in (2, 3)}),
        "the cells of k and v that have no head hold the corrupted run's value: leave them zero": lambda: with_panels(
            {panel: (lambda panel=panel: _with_nan(want[panel], n_heads // group).nan_to_num(BASE)) for panel in (2, 3)}),
        "k and v are given to each query head: fill one value for each key/value head, then zeros":
            lambda: with_panels({2: for_query_heads(2), 3: for_query_heads(3)}),
        "all panels are the same activation: use each name in turn": lambda: want[:1].expand_as(want),
        "the pattern panel patches scores before softmax: their name is attn_scores, you want pattern":
            lambda: with_panels({4: lambda: sweep([[_at_scores(layer, head, runs)] for layer, head in cells])}),
        "the panels stand last: return [5, layer, head]": lambda: want.permute(1, 2, 0),
        "layer and head are transposed: return [5, layer, head]": lambda: want.transpose(1, 2),
    }  # fmt: skip


def _with_nan(panel: Tensor, n_heads: int) -> Tensor:
    panel = panel.clone()
    panel[:, n_heads:] = torch.nan
    return panel


def _at_scores(layer: int, head: int, runs: Runs) -> tuple[str, Callable]:
    return f"blocks.{layer}.attn.hook_attn_scores", _patch((slice(None), head), runs.clean_cache)


@exercise(
    "03",
    look="section 9: the clean run receives, the corrupted cache lends; noising_metric",
    points=2,
    takes="model clean_tokens corrupted_tokens answer_tokens layers",
)
def check_noising_sweep(learner: Callable) -> str:
    for runs in _both_runs():
        n_layers, n_heads = runs.model.cfg.n_layers, runs.model.cfg.n_heads
        cells = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        hooks = [[_at("z", layer, (slice(None), slice(None), head), runs.corrupted_cache)] for layer, head in cells]
        want = _sweep(runs, hooks, (n_layers, n_heads), noising=True)
        denoising = _built_in(_family(runs), "attn_head_out_all_pos") - BASE
        scale = runs.clean - runs.corrupted
        given = runs.model, runs.clean_tokens, runs.corrupted_tokens, runs.answers
        held = require_equal(
            call(learner, *given),
            want,
            f"corrupted z patched into the clean run, 0 for clean and −1 for corrupted, on {runs.model.cfg.model_name}",
            axes="layer head",
            mistakes={
                "the same metric as denoising: 0 should mean the clean run, use noising_metric": lambda: want + 1,
                "this is denoising: the clean run receives, and the corrupted cache lends": lambda: denoising,
                "you ran the corrupted tokens: the clean run receives, and the corrupted cache lends":
                    lambda: denoising - 1,
                "the clean run got its own activations: cache the corrupted run": lambda: torch.zeros_like(want),
                "the two baselines are exchanged": lambda: (want * scale + scale) / -scale,
                "not rescaled: these are logit differences": lambda: want * scale + runs.clean,
                "not divided: these are changes of the logit difference": lambda: want * scale,
                **_head_mistakes(runs, want, noising=True),
            },
        )  # fmt: skip
        require_equal(
            call(learner, *given, layers=[2, 0]),
            want[[2, 0]],
            "the rows of layers=[2, 0]",
            axes="layer head",
            mistakes={"`layers` is ignored: hand it on to exercise 3.4": lambda: want},
        )
    return f"every head of a GPT-2 and of a Llama agrees with an independent noising run ({held})"
