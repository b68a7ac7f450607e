"""The numbers of the report are those of the course's functions, for pairs of any shape."""

import numpy as np
import torch

from tests.report.cases import SMALL
from tests.report.task_models import GOOD, HEADER, task_model, write_csv
from utils.attribution import logit_diff
from utils.circuits.report import ReportSettings, make_circuit_report, read_report_task, searching, seeing
from utils.circuits.report.circuit_words import read_circuit
from utils.circuits.report.stored import as_plain
from utils.circuits.report.words import read_paths
from utils.experiment import run_experiment
from utils.inference import end_logits
from utils.patching import get_act_patch_attn_head_out_all_pos, get_act_patch_resid_pre
from utils.tasks import task_csv

LONELY = "John Tom Anna Paul Kate Jane Luke Ruth".split()
UNALIGNED = [f"{name} went to the shop,{name} and Tom went to the shop, Mary, John" for name in LONELY]


# --- pairs that cannot be patched, and shapes -----------------------------------------------------------------------------


def test_unaligned_pairs_are_attributed_and_what_cannot_be_done_is_said(tmp_path):
    path = write_csv(tmp_path / "pairs.csv", [*UNALIGNED, *GOOD[:2]])
    results = make_circuit_report(path, task_model("llama"), tmp_path / "report.html", SMALL)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for step in ("patching", "paths", "circuit"):
        assert (
            "Only 2 of 10 pairs" in results[step]["skipped"]
            and "Lines 2, 3, 4, 5, 6, 7, 8, 9:" in results[step]["skipped"]
        )
    assert results["attribution"]["largest_error"] < 1e-4 and page.count("<strong>Not done.</strong>") == 3


def test_shapes_with_one_pair_each_are_named(tmp_path):
    rows = [f"{row},{i}" for i, row in enumerate(GOOD)]
    task = read_report_task(write_csv(tmp_path / "p.csv", rows, f"{HEADER},template"), task_model("gpt2"), SMALL)
    assert not task.can_patch and "fall into 10 shapes" in searching.unaligned_reason(task)


def test_halves_are_balanced_and_apart(tmp_path):
    path = tmp_path / "capitals.csv"
    path.write_text(task_csv("capitals"), encoding="utf-8")
    task = read_report_task(path, task_model("gpt2"), ReportSettings(pairs=9, test_pairs=12))
    found, tested = task.halves
    assert len(found) == 9 and len(tested) == 12 and not set(found) & set(tested)
    for half in (found, tested):
        counts = np.unique([task.rows[i].template for i in half], return_counts=True)[1]
        assert len(counts) == 3 and counts.max() - counts.min() <= 1
    assert {task.shapes[i][1:] for i in task.largest_shape(found)} == {task.shapes[task.largest_shape(found)[0]][1:]}


def test_batches_hold_every_row_once_and_shrink_with_the_memory(csv):
    model = task_model("gpt2")
    large, small = (read_report_task(csv, model, SMALL, memory) for memory in (2**28, 2**17))
    for task in (large, small):
        assert sorted(i for batch in task.batches() for i in batch) == list(range(len(GOOD)))
    assert len(large.batches()) == 1 < len(small.batches())
    a, b = (as_plain(seeing.attribution_step(task)) for task in (large, small))
    assert np.allclose(a["clean_parts"], b["clean_parts"], atol=1e-5)


# --- the numbers ------------------------------------------------------------------------------------------------------------


def test_steps_agree_with_the_functions_of_the_chapters(csv, model_name="gpt2"):
    model = task_model(model_name)
    task = read_report_task(csv, model, SMALL)
    pairs = task.pairs_of(task.halves[0])
    behavior, patching = seeing.behavior_step(task), searching.patching_step(task)
    ids = task.pairs_of(range(len(task.rows))).answer_tokens
    logits = end_logits(model, [row.clean for row in task.rows], progress=False)
    assert torch.allclose(behavior["clean"], logit_diff(logits[:, None], ids, per_prompt=True), atol=1e-5)
    experiment = run_experiment(model, pairs)
    same = run_experiment(model, task.pairs_of(task.largest_shape(task.halves[0])))
    stream = same.denoise(get_act_patch_resid_pre, positions=patching["positions"], progress=False)
    assert torch.allclose(patching["streams"][0], stream, atol=1e-4)
    noised = -experiment.noise(get_act_patch_attn_head_out_all_pos, progress=False)
    assert torch.allclose(patching["noised"], noised, atol=1e-4)


def test_the_circuit_of_all_heads_is_the_model_and_of_none_is_empty(csv):
    model = task_model("llama")
    task = read_report_task(csv, model, SMALL)
    test = searching.report_test(task)
    every = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    assert torch.allclose(searching.circuit_scores(test, {searching.ANYWHERE: every}), test.full, atol=1e-5)
    assert torch.allclose(searching.circuit_scores(test, {}), test.empty, atol=1e-5)
    clean = logit_diff(
        end_logits(model, test.pairs.clean_text, progress=False)[:, None], test.pairs.answer_tokens, True
    )
    assert torch.allclose(test.full, clean, atol=1e-4) and not torch.allclose(test.full, test.empty, atol=1e-3)
    mask = searching.circuit_mask(test, {searching.AT_END: [(1, 2)], searching.ANYWHERE: [(0, 1)]})
    assert (
        mask[1, :, :, 2].sum() == len(test.pairs) and mask[0, :, :, 1].all() and mask.sum() == mask[:2, :, :, 1:3].sum()
    )


def test_a_circuit_of_nearly_all_heads_has_no_controls_and_says_so(csv):
    """On three layers of four heads nothing is left to draw from."""
    task = read_report_task(csv, task_model("gpt2"), SMALL)
    every = [[layer, head] for layer in range(3) for head in range(4)]
    result = as_plain(searching.circuit_step(task, {"writers": every, "brokers": [], "feeders": every[:2]}))
    assert result["random"] == {} and any("No random circuits" in line for line in read_circuit(result).caveats)
    assert "skipped" in searching.circuit_step(task, {"writers": [], "brokers": [], "feeders": []})


def test_where_no_head_writes_directly_paths_may_go_through_mlps(csv, monkeypatch):
    task = read_report_task(csv, task_model("gpt2"), SMALL)
    frozen = searching.paths_step(task)
    assert (
        frozen["mlps"] == "frozen" and "Paths that go through an MLP are not" in read_paths(as_plain(frozen)).caveats[0]
    )
    chosen = searching.strongest_heads
    asked = []
    monkeypatch.setattr(
        searching, "strongest_heads", lambda *given: asked.append(1) or chosen(*given) * (len(asked) > 1)
    )
    free = searching.paths_step(task)
    assert (
        free["mlps"] == "free" and free["writers"] and not torch.allclose(free["direct"], frozen["direct"], atol=1e-3)
    )
    reading = read_paths(as_plain(free))
    assert "(through MLPs or not)" in reading.said[0] and "no head reaches the threshold" in reading.caveats[0]


def test_means_are_over_corrupted_prompts_of_one_shape(tmp_path):
    path = tmp_path / "capitals.csv"
    path.write_text(task_csv("capitals"), encoding="utf-8")
    model = task_model("gpt2")
    task = read_report_task(path, model, SMALL)
    test, row = searching.report_test(task), task.halves[1][0]
    same = [i for i in task.aligned if task.shapes[i] == task.shapes[row]]
    tokens = torch.cat([model.to_tokens(task.rows[i].corrupted) for i in same])
    _, cache = model.run_with_cache(tokens)
    assert torch.allclose(test.means[1, 0, : tokens.shape[1]], cache["z", 1].mean(0), atol=1e-5)
