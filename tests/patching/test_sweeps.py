"""The patching engine equals the built-in loops, with its arguments and several metrics."""

from __future__ import annotations

import itertools
from functools import partial

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformer_lens import patching as builtin
from transformer_lens.utilities import get_act_name

from tests.patching.cases import FAMILIES, SINGLE, Case, close, ours, theirs
from utils import patching
from utils.patching import sweep
from utils.patching.panels import HEAD_SITES

EVERY = [name for name, sweeps in patching.SWEEPS.items() if len(sweeps) > 1]


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
    case, g = Case(family, also=5), torch.Generator().manual_seed(1)
    for layer in range(3):
        activation = case.cache[f"blocks.{layer}.hook_resid_pre"]
        activation[0] += 0.1 * torch.randn(activation[0].shape, generator=g)
    assert close(ours("resid_pre", *case.args), theirs("resid_pre", *case.args))


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
