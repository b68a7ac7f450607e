"""What the engine computes and keeps: the logits that a metric reads, one receiving run, memory; and attribution patching."""

from __future__ import annotations

import gc
import itertools
import json
import tempfile
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from transformer_lens import ActivationCache
from transformer_lens.utilities import get_act_name

from tests.patching.cases import FAMILIES, N_WORDS, SINGLE, Case, close, ours
from utils import patching
from utils.patching import resumable, sweep
from utils.patching.options import Metrics, TokenMetric

# --- a metric that says which tokens it reads ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", list(patching.SWEEPS))
def test_the_logits_of_a_few_tokens_give_the_same_numbers(name, family):
    """Prompts that start to differ at other positions, so that a cell holds computed logits and unpatched ones."""
    case = Case(family, batch=4, also=5)
    case.clean[1:, 3] = case.corrupted[1:, 3]
    case.cache = case.model.run_with_cache(case.clean)[1]
    few, seen = TokenMetric(case.per_prompt, case.ids.flatten()), []
    for reduce in ("none", "mean"):
        whole, found = (ours(name, *case.args[:3], metric, reduce=reduce) for metric in (case.per_prompt, few))
        whole, found = (result.values if reduce == "none" else result for result in (whole, found))
        assert whole.std() > 1e-3 and close(found, whole, 1e-5)

    def read(logits):
        seen.append(logits.as_subclass(torch.Tensor)[0, 0].isnan())
        return case.metric(logits)

    ours(name, *case.args[:3], TokenMetric(read, case.ids.flatten()))
    assert all((~at).nonzero()[:, 0].tolist() == case.ids.unique().tolist() for at in seen)  # no other is computed


def test_a_metric_that_reads_more_than_it_says_is_nan():
    case = Case()
    assert ours("resid_pre", *case.args[:3], TokenMetric(case.metric, case.ids[0])).isnan().all()


def test_other_metrics_and_other_positions_are_given_every_logit():
    """Where one metric of several does not say what it reads, and with logits="all"."""
    case = Case()
    few = TokenMetric(case.metric, case.ids.flatten())
    both = ours("resid_pre", *case.args[:3], {"few": few, "mean": lambda logits: logits[:, -1].mean()})
    assert not both.values.isnan().any()
    everywhere = TokenMetric(lambda logits: logits.mean() + case.metric(logits), case.ids.flatten())
    assert not ours("resid_pre", *case.args[:3], everywhere, logits="all").isnan().any()


# --- one receiving run for several sweeps ---------------------------------------------------------------------------------


def test_a_run_is_used_again_for_the_same_prompts_and_forgotten_with_them():
    case = Case("llama", batch=2)
    model, tokens = case.model, case.corrupted
    first = resumable.receiving_run(model, tokens)
    assert resumable.receiving_run(model, tokens.clone()) is first
    assert resumable.receiving_run(model, tokens, torch.ones_like(tokens)) is first
    other = torch.ones_like(tokens)
    other[0, 0] = 0
    assert resumable.receiving_run(model, case.clean) is not first
    again = resumable.receiving_run(model, tokens)
    assert again is not first and resumable.receiving_run(model, tokens, other) is not again
    kept, forgotten = resumable.receiving_run(model, tokens), weakref.ref(tokens)
    kept = weakref.ref(kept)
    del tokens, case
    gc.collect()
    assert forgotten() is None and kept() is None


@pytest.mark.parametrize("change", ["in place", "unseen", "hook", "tokens"])
def test_a_run_is_made_anew_where_anything_has_changed(change):
    case = Case("gpt2", batch=2)
    model, first = case.model, resumable.receiving_run(case.model, case.corrupted)
    weight, handle = model.blocks[1].mlp.out.original_component.weight, None
    before = weight.detach().clone()
    try:
        if change == "in place":
            weight[3] += 0.5
        elif change == "unseen":
            weight.data[3] += 0.5
        elif change == "hook":
            handle = model.blocks[1].mlp.register_forward_hook(lambda module, given, out: out)
        else:
            case.corrupted[0, 2] += 1
        again = resumable.receiving_run(model, case.corrupted)
        assert again is not first
        moved = (again.resid_pre[-1] - first.resid_pre[-1]).abs().max()
        assert (moved > 1e-3) == (change != "hook")
    finally:
        weight.copy_(before)
        if handle:
            handle.remove()


def test_large_runs_are_not_kept(monkeypatch):
    monkeypatch.setattr(resumable, "KEPT_BYTES", 1)
    case = Case("llama")
    assert resumable.receiving_run(*case.args[:2]) is not resumable.receiving_run(*case.args[:2])


# --- memory ---------------------------------------------------------------------------------------------------------------


def peak_bytes(function) -> int:
    """The most memory that torch held at once for what is made inside `function`, temporaries of its kernels included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profiler.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    changes = [event["args"]["Bytes"] for event in events if event.get("name") == "[memory]"]
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize(
    ("name", "logits", "family"),
    [
        *(("attn_head_out_all_pos", logits, "llama") for logits in ("all", "few")),
        *(("attn_head_pattern_by_pos", "last", family) for family in ("gpt2", "llama")),
    ],
)
def test_memory_stays_under_the_bound_asked_for(name, logits, family):
    """Beside the bound: one patched row, which nothing can be smaller than, and the logits of two cells and a copy.

    Without a bound the same sweep takes more than that, so that a bound which is not kept is found out.
    """
    case = Case(family, n_layers=2, batch=16, n_pos=12)
    case.clean[1:, 3] = case.corrupted[1:, 3]
    case.clean[1:, 8] = 1 + (case.corrupted[1:, 8] + 11) % (N_WORDS - 1)  # all prompts but one differ later
    case.cache = case.model.run_with_cache(case.clean)[1]
    (panel,) = patching.SWEEPS[name]
    one_cell = 4 * 16 * (12 if logits == "all" else 1) * case.model.cfg.d_vocab
    peaks, bound, metric = [], 1e5, case.metric
    if logits == "few":
        logits, metric = "last", TokenMetric(case.metric, case.ids.flatten())
    for asked in (bound, 1e9):
        options = patching.SweepOptions(logits=logits, max_memory=asked, progress=False)
        run = resumable.CorruptedRun(case.model, case.corrupted)
        swept = sweep.Sweep(run, panel.site, case.cache, Metrics(metric, options), options)
        cells = swept.all_cells([3, 8, 9] if panel.by_pos else None)
        peaks.append(peak_bytes(partial(swept.values, cells)))
    allowed = max(bound, sweep.bytes_per_row(run, options, tokens=swept.metrics.tokens)) + 3 * one_cell
    assert peaks[0] <= allowed < 0.8 * peaks[1]


# --- attribution patching -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SINGLE)
def test_attribution_is_the_exact_sweep_of_a_small_patch(family, name):
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, :2] = 0
    case, small = Case(family, mask=mask), 1e-3
    corrupted = case.model.run_with_cache(case.corrupted, attention_mask=mask)[1]
    ((site, _),) = patching.SWEEPS[name]
    names = [get_act_name(site, layer) for layer in range(3)]
    near = {n: corrupted[n] + small * (case.cache[n] - corrupted[n]) for n in names}
    args = (case.model, case.corrupted, ActivationCache(near, case.model), lambda x: case.metric(x.double()))
    exact = ours(name, *args, attention_mask=mask, baseline=True).effect() / small
    estimate = patching.attribution_patching(*case.args, name, attention_mask=mask, baseline=True).effect()
    assert close(estimate, exact, 0.03 * max(1.0, exact.abs().max().item()))


def test_attribution_has_the_shapes_and_the_units_of_the_exact_sweep():
    case = Case("llama")
    for name in patching.SWEEPS:
        assert patching.attribution_patching(*case.args, name).shape == ours(name, *case.args).shape
    args = (case.model, case.corrupted, case.cache, case.per_prompt)
    per_prompt = patching.attribution_patching(*args, "attn_head_q_by_pos", reduce="none")
    assert close(per_prompt.mean(), patching.attribution_patching(*case.args, "attn_head_q_by_pos"))
    with pytest.raises(ValueError, match="resid_post"):
        patching.attribution_patching(*case.args, "resid_post")
