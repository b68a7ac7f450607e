"""The patching engine equals the built-in loops, and its errors name the value and the fix."""

from __future__ import annotations

import gc
import inspect
import itertools
import json
import tempfile
import weakref
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens import ActivationCache
from transformer_lens import patching as builtin
from transformer_lens.utilities import get_act_name

from utils import patching
from utils.assumptions import UnsupportedModel
from utils.attribution import logit_diff
from utils.ioi import NAMES, TEMPLATES, ioi_pairs
from utils.models import load_model
from utils.patching import resumable, sweep
from utils.patching.options import Metrics, TokenMetric
from utils.patching.panels import HEAD_SITES
from utils.tiny_models import one_thread, tiny_model, tiny_tokenizer

FAMILIES = ("gpt2", "llama")
SINGLE = [name for name, sweeps in patching.SWEEPS.items() if len(sweeps) == 1]
EVERY = [name for name, sweeps in patching.SWEEPS.items() if len(sweeps) > 1]
N_WORDS = 300


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(builtin, "tqdm", lambda items: items)
    monkeypatch.setattr(resumable, "_last", [])  # no run of another test


@pytest.fixture(autouse=True, scope="module")
def one_thread_for_all():
    with one_thread():
        yield


def ours(name: str, *args, **kwargs):
    return getattr(patching, f"get_act_patch_{name}")(*args, progress=False, **kwargs)


def theirs(name: str, *args, **kwargs):
    return getattr(builtin, f"get_act_patch_{name}")(*args, **kwargs)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return a.shape == b.shape and (a - b).abs().max().item() <= tolerance


class Case:
    """Clean and corrupted random prompts on a tiny model, and a metric per prompt."""

    def __init__(self, family="gpt2", n_layers=3, seed=0, batch=3, n_pos=7, first=3, mask=None, also=None):
        self.model = tiny_model(family, n_layers, seed)
        g = torch.Generator().manual_seed(seed)
        self.corrupted = torch.randint(1, N_WORDS, (batch, n_pos), generator=g)
        self.clean = self.corrupted.clone()
        for pos in {first, *([also] if also is not None else [])}:
            self.clean[:, pos] = 1 + (self.corrupted[:, pos] + 11) % (N_WORDS - 1)
        self.mask = mask
        self.cache = self.model.run_with_cache(self.clean, attention_mask=mask)[1]
        self.ids = torch.randint(0, N_WORDS, (2, batch), generator=g)

    def per_prompt(self, logits):
        at_end = logits[:, -1]
        rows = torch.arange(len(at_end))
        return at_end[rows, self.ids[0]] - at_end[rows, self.ids[1]]

    def metric(self, logits):
        return self.per_prompt(logits).mean()

    @property
    def args(self):
        return self.model, self.corrupted, self.cache, self.metric


def hook_loop(case: Case, name: str) -> torch.Tensor:
    """The sweep by its definition, one masked run per cell, metric at the true last positions. [L, P, H] axes in order."""
    ((site, axes),) = patching.SWEEPS[name]
    heads = case.cache[get_act_name(site, 0)].shape[1 if site == "pattern" else 2]
    sizes = {"layer": case.model.cfg.n_layers, "pos": case.corrupted.shape[1], "dest_pos": case.corrupted.shape[1]}
    ends = [int(row.nonzero().max()) for row in case.mask]
    out = torch.zeros([sizes.get(axis, heads) for axis in axes])
    for cell in itertools.product(*map(range, out.shape)):
        where = dict(zip(axes, cell, strict=True))
        pos = where.get("pos", where.get("dest_pos", slice(None)))
        head = where.get("head", where.get("head_index", slice(None)))
        index = (slice(None), head, pos) if site == "pattern" else (slice(None), pos, head)
        index = index if site in HEAD_SITES else index[:2]

        def patch(activation, hook, index=index, layer=cell[0]):
            activation[index] = case.cache[get_act_name(site, layer)][index]
            return activation

        hooks = [(get_act_name(site, cell[0]), patch)]
        logits = case.model.run_with_hooks(case.corrupted, fwd_hooks=hooks, attention_mask=case.mask)
        out[cell] = case.metric(logits[torch.arange(len(ends)), ends].unsqueeze(1))
    return out


shapes = st.tuples(st.integers(1, 4), st.integers(2, 8))  # prompts, positions
models = st.sampled_from([(family, *size) for family in FAMILIES for size in ((1, 3), (2, 1), (3, 0))])
relaxed = partial(
    settings,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@relaxed(max_examples=24)
@given(model=models, shape=shapes, name=st.sampled_from(SINGLE), data=st.data())
def test_equals_builtin(model, shape, name, data):
    batch, n_pos = shape
    first, also = (data.draw(st.integers(0, n_pos - 1)) for _ in range(2))
    case = Case(*model, batch, n_pos, first, also=also)
    max_batch = data.draw(st.sampled_from([None, 1, 5]))
    assert close(ours(name, *case.args, max_batch=max_batch), theirs(name, *case.args))


@relaxed(max_examples=12)
@given(
    model=models, shape=shapes, name=st.sampled_from(SINGLE), side=st.sampled_from(["left", "right"]), data=st.data()
)
def test_padding_and_different_lengths_equal_a_loop_of_masked_runs(model, shape, name, side, data):
    batch, n_pos = shape
    lengths = [data.draw(st.integers(1, n_pos)) for _ in range(batch - 1)] + [n_pos]
    mask = torch.zeros(batch, n_pos, dtype=torch.long)
    for row, length in zip(mask, lengths, strict=True):
        row[slice(-length, None) if side == "left" else slice(length)] = 1
    case = Case(*model, batch, n_pos, data.draw(st.integers(0, n_pos - 1)), mask)
    assert close(ours(name, *case.args, attention_mask=mask), hook_loop(case, name))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", EVERY)
def test_every_equals_builtin_with_its_zero_rows(family, name):
    case = Case(family)
    assert close(ours(name, *case.args), theirs(name, *case.args))


@pytest.mark.parametrize("name", ["resid_pre", "attn_head_pattern_by_pos", "attn_head_all_pos_every"])
def test_per_prompt_results_are_the_builtins(name):
    case = Case("llama")
    args = (case.model, case.corrupted, case.cache, case.per_prompt)
    found, expected = ours(name, *args, reduce="none"), theirs(name, *args, reduce="none", baseline=True)
    assert close(found.values, expected.values) and close(found.baseline, expected.baseline)
    assert found.axis_names == expected.axis_names and found.index_df.equals(expected.index_df)
    assert found.patch_type_names == expected.patch_type_names and not found.reduced
    assert close(ours(name, *args, reduce="mean"), theirs(name, *args, reduce="mean"))


@pytest.mark.parametrize("name", ["resid_mid", "attn_head_v_by_pos", "attn_head_pattern_by_pos"])
def test_positions_are_the_columns_asked_for(name):
    case = Case("llama")
    full, some = ours(name, *case.args), ours(name, *case.args, positions=[5, -1, 0])
    axis = [axis for axis, size in enumerate(full.shape) if size == 7][-1]
    assert close(some, full.index_select(axis, torch.tensor([5, 6, 0])))
    result = ours(name, *case.args, positions=[5, -1, 0], baseline=True)
    assert set(result.index_df.iloc[:, axis]) == {0, 5, 6}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["resid_pre", "mlp_out", "attn_head_k_all_pos"])
def test_all_logits(family, name):
    case = Case(family)

    def spread(logits):
        return logits[:, 2:, :5].log_softmax(-1).std()

    args = (case.model, case.corrupted, case.cache, spread)
    assert close(ours(name, *args, logits="all"), theirs(name, *args))


def test_one_at_the_differing_token_in_layer_0_and_zero_before():
    case = Case("gpt2", first=3)
    low, high = case.metric(case.model(case.corrupted)), case.metric(case.model(case.clean))
    result = ours("resid_pre", case.model, case.corrupted, case.cache, lambda x: (case.metric(x) - low) / (high - low))
    assert close(result[0, 3], torch.tensor(1.0)) and close(result[:, :3], torch.zeros(3, 3))
    assert close(result[0, 4:], torch.zeros(3))  # the same tokens there: nothing is patched in


def test_prompts_that_are_equal_keep_their_corrupted_value():
    case = Case("llama")
    clean = case.clean.clone()
    clean[1] = case.corrupted[1]
    cache = case.model.run_with_cache(clean)[1]
    result = ours("attn_head_out_all_pos", case.model, case.corrupted, cache, case.per_prompt, reduce="none")
    assert (result.effect()[..., 1] == 0).all() and (result.effect()[..., 0] != 0).any()


def test_nothing_is_changed_and_no_hook_is_left():
    case = Case("gpt2")
    before = {name: case.cache[name].clone() for name in case.cache}, case.corrupted.clone(), case.model(case.corrupted)
    for name in SINGLE:
        ours(name, *case.args)
    patching.attribution_patching(*case.args)
    assert all(torch.equal(case.cache[name], value) for name, value in before[0].items())
    assert torch.equal(case.corrupted, before[1]) and torch.equal(case.model(case.corrupted), before[2])
    assert not any(p.fwd_hooks or p.bwd_hooks for p in case.model.hook_dict.values())
    assert all(p.grad is None for p in case.model.parameters()) and not torch.is_grad_enabled()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_that_is_no_run_of_the_model_is_patched_as_it_is(family):
    """Where the clean cache is a run, the engine does not compute its first differing position again; else it must."""
    case, g = Case(family, also=5), torch.Generator().manual_seed(1)
    for layer in range(3):
        activation = case.cache[f"blocks.{layer}.hook_resid_pre"]
        activation[0] += 0.1 * torch.randn(activation[0].shape, generator=g)
    assert close(ours("resid_pre", *case.args), theirs("resid_pre", *case.args))


def test_the_first_differing_position_is_not_computed_where_the_cache_is_a_run(monkeypatch):
    case, starts = Case("llama"), []
    resume = resumable.CorruptedRun.resume
    monkeypatch.setattr(resumable.CorruptedRun, "resume", lambda *args: starts.append(args[2].start) or resume(*args))
    ours("resid_pre", *case.args)
    assert sorted(set(starts)) == [4, 5, 6] and min(starts) == 4  # they differ from position 3 on


# --- the built-in's own arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SINGLE)
def test_chosen_cells_are_the_builtins(family, name, monkeypatch):
    case, (panel,) = Case(family, first=2, batch=4), patching.SWEEPS[name]
    sizes = {"layer": 3, "pos": 7, "dest_pos": 7, "head": 2, "head_index": 2}
    g = torch.Generator().manual_seed(4)
    rows = [[int(torch.randint(sizes[axis], (), generator=g)) for axis in panel.axes] for _ in range(5)]
    cells = pd.DataFrame([*rows, rows[0]], columns=panel.axes)  # in no order, one of them twice
    given = {"index_df": cells, "index_axis_names": None}
    function = getattr(builtin, f"get_act_patch_{name}")
    assert close(ours(name, *case.args, **given), function(*case.args, **given))
    found, index = ours(name, *case.args, index_df=cells, return_index_df=True)
    assert close(found, function(*case.args, **given)) and index.equals(cells)
    run = []
    monkeypatch.setattr(
        sweep.Sweep, "values", lambda self, cells, plain=sweep.Sweep.values: run.append(cells) or plain(self, cells)
    )
    ours(name, *case.args, index_df=cells)
    asked = {tuple(row) for row in rows}
    assert sum(map(len, run[0].values())) == len(asked)  # and no cell beside them


@pytest.mark.parametrize(
    "name", ["mlp_out", "attn_head_k_by_pos", "attn_head_pattern_by_pos", "attn_head_all_pos_every"]
)
@pytest.mark.parametrize("options", [{}, {"baseline": True}, {"reduce": "mean"}, {"reduce": "none", "baseline": True}])
def test_several_metrics_are_the_builtins(name, options):
    case = Case("llama", batch=4)
    score = case.metric if "reduce" not in options else case.per_prompt
    metrics = {"difference": score, "first": lambda logits: 3 * score(logits) - 1}
    args = (case.model, case.corrupted, case.cache, metrics)
    found, expected = ours(name, *args, **options), theirs(name, *args, **options)
    assert close(found.values, expected.values) and found.metric_names == expected.metric_names
    assert close(found["first"].values, expected["first"].values) and found.has_metric_axis
    assert found.reduced == expected.reduced and found.axis_names == expected.axis_names
    assert found.patch_type_names == expected.patch_type_names
    assert list(found.to_dataframe().columns) == list(expected.to_dataframe().columns)
    assert (found.to_dataframe()["value"] - expected.to_dataframe()["value"]).abs().max() < 1e-4
    if options.get("baseline"):
        assert close(found.baseline, expected.baseline) and close(found.effect(), expected.effect())


@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_patching_takes_several_metrics(family):
    case = Case(family)
    metrics = {"plain": case.metric, "twice": lambda logits: 2 * case.metric(logits)}
    found = patching.attribution_patching(case.model, case.corrupted, case.cache, metrics, "block_every")
    assert close(found["plain"].values, patching.attribution_patching(*case.args, "block_every"))
    assert close(found["twice"].values, 2 * found["plain"].values)


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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("logits", ["last", "all", "few"])
@pytest.mark.parametrize("name", ["resid_pre", "mlp_out", "attn_head_out_all_pos", "attn_head_pattern_by_pos"])
def test_memory_stays_under_the_bound_asked_for(name, logits, family):
    """Beside the bound: one patched row, which nothing can be smaller than, and the logits of two cells and a copy."""
    case = Case(family, n_layers=2, batch=24, n_pos=12)
    case.clean[1:, 3] = case.corrupted[1:, 3]
    case.clean[1:, 8] = 1 + (case.corrupted[1:, 8] + 11) % (N_WORDS - 1)  # all prompts but one differ later
    case.cache = case.model.run_with_cache(case.clean)[1]
    (panel,) = patching.SWEEPS[name]
    one_cell = 4 * 24 * (12 if logits == "all" else 1) * case.model.cfg.d_vocab
    peaks, metric = [], case.metric
    if logits == "few":
        logits, metric = "last", TokenMetric(case.metric, case.ids.flatten())
    for bound in (1, 1e6, 4e6):
        options = patching.SweepOptions(logits=logits, max_memory=bound, progress=False)
        run = resumable.CorruptedRun(case.model, case.corrupted)
        swept = sweep.Sweep(run, panel.site, case.cache, Metrics(metric, options), options)
        cells = swept.all_cells([3, 9] if panel.by_pos else None)
        peaks.append(peak_bytes(partial(swept.values, cells)))
        one_row = sweep.bytes_per_row(run, options, tokens=swept.metrics.tokens)
        assert peaks[-1] <= max(bound, one_row) + 3 * one_cell, bound
    assert logits == "all" or peaks[0] < 0.8 * peaks[-1]  # a larger bound is made use of


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


# --- errors ---------------------------------------------------------------------------------------------------------------


def test_training_mode():
    case = Case()
    case.model.train()
    try:
        with pytest.raises(ValueError, match=r"model\.eval"):
            ours("resid_pre", *case.args)
    finally:
        case.model.eval()


def test_hooks_left_on_the_model():
    case = Case()
    case.model.add_hook("blocks.1.attn.hook_z", lambda z, hook: z * 0)
    try:
        with pytest.raises(ValueError, match=r"hook_z.*reset_hooks"):
            ours("resid_pre", *case.args)
    finally:
        case.model.reset_hooks()


@pytest.mark.parametrize(
    "metric, error, message",
    [
        (lambda case, logits: case.metric(logits).item(), TypeError, "drop .item()"),
        (lambda case, logits: case.per_prompt(logits), ValueError, 'reduce="none"'),
        (lambda case, logits: logits[:, 2].mean(), IndexError, r'logits\[:, 2\].*logits="all"'),
        (lambda case, logits: logits[:, :-1].mean(), IndexError, 'logits="all"'),
        (lambda case, logits: logits.mean(), IndexError, 'logits="all"'),
    ],
)
def test_bad_metrics(metric, error, message):
    case = Case()
    for run in (partial(ours, "resid_pre"), patching.attribution_patching):
        with pytest.raises(error, match=message):
            run(case.model, case.corrupted, case.cache, partial(metric, case))


def test_bad_metric_per_prompt():
    case = Case()
    with pytest.raises(ValueError, match=r"one value per prompt: \(3,\)"):
        ours("resid_pre", *case.args, reduce="none")


def test_bad_caches():
    case = Case()
    missing = case.model.run_with_cache(case.clean, names_filter=lambda name: name.endswith("hook_resid_pre"))[1]
    ours("resid_pre", case.model, case.corrupted, missing, case.metric)  # all that this sweep needs
    with pytest.raises(KeyError, match=r"hook_attn_out.*names_filter"):
        ours("attn_out", case.model, case.corrupted, missing, case.metric)
    for tokens in (case.clean[:2], case.clean[:, :5]):
        with pytest.raises(ValueError, match="3 prompts of 7 tokens"):
            ours("resid_pre", case.model, case.corrupted, case.model.run_with_cache(tokens)[1], case.metric)
    same = case.model.run_with_cache(case.corrupted)[1]
    for name in ("resid_pre", "attn_head_pattern_all_pos", "attn_head_out_by_pos"):
        with pytest.raises(ValueError, match=r"same .* everywhere"):
            ours(name, case.model, case.corrupted, same, case.metric)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"positions": [7]}, IndexError, "position 7 is outside prompts of 7 tokens"),
        ({"logits": "first"}, ValueError, "'first'"),
        ({"reduce": "sum"}, ValueError, "'sum'"),
        ({"max_batch": 0}, ValueError, "max_batch=0"),
        ({"batch_size": 4}, TypeError, "'batch_size' is not an option.*max_batch"),
        ({"index_axis_names": ("layer",)}, ValueError, "index_axis_names"),
        ({"index_df": pd.DataFrame({"layer": [0]})}, ValueError, r"\['layer'\].*\['layer', 'pos'\]"),
        ({"index_df": pd.DataFrame({"layer": [3], "pos": [0]})}, IndexError, "layer 3.*3 layers"),
        ({"index_df": pd.DataFrame({"layer": [0], "pos": [-1]})}, IndexError, "position -1"),
        ({"index_df": pd.DataFrame({"layer": [], "pos": []})}, ValueError, "no rows"),
        ({"index_df": pd.DataFrame({"layer": [0], "pos": [1]}), "positions": [1]}, ValueError, "not both"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        ours("resid_pre", *Case().args, **options)


def test_what_there_is_is_said_where_a_name_is_unknown():
    case = Case()
    for run in (patching.patch_sweep, patching.attribution_patching):
        with pytest.raises(ValueError, match="'resid_post' is not one of resid_pre, resid_mid"):
            run(*case.args, "resid_post")
    for options, message in (({"logits": "first"}, "'first'"), ({"reduce": "sum"}, "'sum'")):
        with pytest.raises(ValueError, match=message):
            patching.attribution_patching(*case.args, **options)
    with pytest.raises(ValueError, match="empty"):
        ours("resid_pre", case.model, case.corrupted, case.cache, {})
    with pytest.raises(ValueError, match="one activation"):
        ours("block_every", *case.args, index_df=pd.DataFrame({"layer": [0], "pos": [1]}))


def test_positions_of_a_sweep_over_all_positions():
    with pytest.raises(ValueError, match="by position"):
        ours("attn_head_out_all_pos", *Case().args, positions=[1])


def test_a_model_that_the_pass_cannot_reproduce_goes_to_the_builtin(monkeypatch):
    case = Case()
    monkeypatch.setattr(resumable.CorruptedRun, "attend", lambda self, q, k, v, allowed: 2 * q)
    for name in ("resid_pre", "block_every"):
        with pytest.warns(UserWarning, match=r"tiny-gpt2 differ.*slow loops"):
            assert close(ours(name, *case.args), theirs(name, *case.args))
    with pytest.warns(UserWarning, match="slow loops") as warned:
        inspect.unwrap(patching.patch_sweep)(*case.args, "resid_pre")
    assert warned[0].filename == __file__  # it points at the call
    with pytest.warns(UserWarning, match="slow loops"):
        cells = pd.DataFrame({"layer": [2, 0], "pos": [3, 4]})
        assert close(ours("resid_pre", *case.args, index_df=cells), theirs("resid_pre", *case.args)[[2, 0], [3, 4]])
    with pytest.raises(UnsupportedModel):
        ours("resid_pre", *case.args, positions=[1])


@pytest.mark.parametrize(
    "model_class, config",
    [
        (transformers.GPTNeoXForCausalLM, transformers.GPTNeoXConfig(intermediate_size=64, num_attention_heads=4)),
        (
            transformers.MistralForCausalLM,
            transformers.MistralConfig(
                intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, sliding_window=4
            ),
        ),
    ],
)
def test_other_architectures_are_found_out_by_their_numbers(model_class, config, tmp_path):
    """Parallel blocks with partial rotation; attention that forgets. Neither is named anywhere in the engine."""
    tokenizer = tiny_tokenizer()
    config.update({"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0})
    model_class(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    case = Case(n_pos=8)
    case.model = load_model(str(tmp_path), device="cpu")
    case.cache = case.model.run_with_cache(case.clean)[1]
    with pytest.warns(UserWarning, match="slow loops"):
        assert close(ours("resid_pre", *case.args), theirs("resid_pre", *case.args))


# --- the real model -------------------------------------------------------------------------------------------------------


def test_smollm2_equals_builtin_on_two_prompts(smollm2):
    pairs = ioi_pairs(smollm2, TEMPLATES[:1], NAMES[:1])
    _, cache = smollm2.run_with_cache(pairs.clean_tokens)
    given = smollm2, pairs.corrupted_tokens, cache, lambda logits: logit_diff(logits, pairs.answer_tokens)
    positions = [10, 11, 14]
    cells = {
        "resid_pre": [[2, 10], [12, 10], [20, 14]],
        "attn_head_k_by_pos": [[5, 11, 2], [9, 14, 1]],
        "attn_head_pattern_by_pos": [[17, 3, 14], [20, 8, 14]],
    }
    for name, chosen in cells.items():
        function = getattr(builtin, f"get_act_patch_{name}")
        options = {key: value for key, value in function.keywords.items() if key != "index_axis_names"}
        frame = pd.DataFrame(chosen, columns=function.keywords["index_axis_names"])
        expected = function.func(*given, index_df=frame, **options)
        found = ours(name, *given, positions=positions)
        at = 2 if "pattern" in name else 1
        columns = [(*cell[:at], positions.index(cell[at]), *cell[at + 1 :]) for cell in chosen]
        assert close(torch.stack([found[column] for column in columns]), expected)


@pytest.mark.parametrize("name", ["attn_out", "mlp_out", "attn_head_out_by_pos"])
def test_smollm2_is_not_run_before_the_first_difference(name, smollm2, monkeypatch):
    """Its stream at BOS is a thousand times what a layer adds: float error there must not look like a difference."""
    pairs = ioi_pairs(smollm2, TEMPLATES[:1], NAMES[:1])
    _, cache = smollm2.run_with_cache(pairs.clean_tokens)
    starts, resume = [], resumable.CorruptedRun.resume
    monkeypatch.setattr(resumable.CorruptedRun, "resume", lambda *args: starts.append(args[2].start) or resume(*args))
    given = smollm2, pairs.corrupted_tokens, cache, lambda logits: logit_diff(logits, pairs.answer_tokens)
    ours(name, *given, positions=[0, 4, 9, 14])
    assert starts and set(starts) == {14}
