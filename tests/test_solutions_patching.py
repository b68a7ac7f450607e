"""What chapter 03 teaches: its loops, utils and TransformerLens agree, on tiny models in full, on a real one in part."""

import pandas as pd
import pytest
import torch
from transformer_lens import patching as built_in

from tests.solutions import solution_functions
from utils import ioi, patching
from utils.experiment import run_experiment
from utils.prompts import make_pairs
from utils.tiny_models import tiny_model

SOLUTION = solution_functions("03")
SWEEPS = ["resid_pre", "block_every", "attn_head_out_all_pos", "attn_head_all_pos_every"]
KEEP = [0, 3, 4]  # no prompt beside its mirror


def _given(model, keep):
    """The four arguments of a sweep, and the experiment that they are from."""
    pairs = ioi.ioi_pairs(model)
    kept = [[side[i] for i in keep] for side in (pairs.clean_text, pairs.corrupted_text, pairs.answers)]
    experiment = run_experiment(model, make_pairs(model, *kept))
    return (model, experiment.pairs.corrupted_tokens, experiment.clean_cache, experiment.denoising_metric), experiment


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def tiny_case(request):
    return _given(tiny_model(request.param), KEEP)


@pytest.fixture(scope="module")
def real_case(smollm2):
    """Two prompts, each the other's corruption."""
    return _given(smollm2, [0, 1])


def _close(got, *others):
    for other in others:
        torch.testing.assert_close(got, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_loops_agree_in_full(tiny_case, sweep):
    given, _ = tiny_case
    name = f"get_act_patch_{sweep}"
    _close(SOLUTION[name](*given), getattr(built_in, name)(*given), getattr(patching, name)(*given, progress=False))


def _cells(sweep, given, cells):
    """The built-in on chosen cells, named by the columns of its own index."""
    names = ["layer", "pos" if sweep in ("resid_pre", "attn_out", "mlp_out") else "head"]
    index = pd.DataFrame(cells, columns=names)
    return getattr(built_in, f"get_act_patch_{sweep}")(*given, index_axis_names=None, index_df=index)


@pytest.mark.parametrize(
    ("sweep", "layer", "columns"), [("resid_pre", 20, (10, 11, 14)), ("attn_head_out_all_pos", 23, (0, 3))]
)
def test_loops_agree_on_a_real_model(real_case, sweep, layer, columns):
    given, _ = real_case
    mine = SOLUTION[f"get_act_patch_{sweep}"](*given, layers=[layer])[0, list(columns)]
    _close(mine, _cells(sweep, given, [(layer, column) for column in columns]))
    assert mine.abs().max() > 0.05, "a slice on which something happens"


def test_panels_agree_on_a_real_model(real_case):
    """Layer 17 of SmolLM2: attention works at S2 there, through the pattern of one head."""
    given, _ = real_case
    layer, head = 17, 4
    every = SOLUTION["get_act_patch_attn_head_all_pos_every"](*given, layers=[layer])[:, 0]
    for panel, (site, at) in enumerate({"out": head, "q": head, "k": 1, "v": 1, "pattern": head}.items()):
        _close(every[panel, at : at + 1], _cells(f"attn_head_{site}_all_pos", given, [(layer, at)]))
    assert not every[2:4, 3:].any(), "three key/value heads, then zeros"


def test_noising_sweep_agrees(tiny_case):
    (model, *_), experiment = tiny_case
    pairs = experiment.pairs
    _close(
        SOLUTION["noising_sweep"](model, pairs.clean_tokens, pairs.corrupted_tokens, pairs.answer_tokens),
        experiment.noise(built_in.get_act_patch_attn_head_out_all_pos),
        experiment.noise(patching.get_act_patch_attn_head_out_all_pos, progress=False),
    )


def test_metrics_agree_and_have_their_ends(tiny_case):
    (model, *_), experiment = tiny_case
    pairs, ends = experiment.pairs, {"clean": experiment.clean, "corrupted": experiment.corrupted}
    of_experiment = {"ioi_metric": experiment.denoising_metric, "noising_metric": experiment.noising_metric}
    for name, expected in (("ioi_metric", [1.0, 0.0]), ("noising_metric", [0.0, -1.0])):
        for tokens, end in zip((pairs.clean_tokens, pairs.corrupted_tokens), expected, strict=True):
            logits = model(tokens)
            theirs = SOLUTION[name](logits, pairs.answer_tokens, **ends)
            _close(torch.tensor(end), theirs, of_experiment[name](logits))


def test_a_set_that_is_its_own_corruption_cannot_tell_noising_from_denoising(real_case):
    """The identity that section 8 shows: on mirrored prompts noising is denoising with its sign turned."""
    (model, *_), experiment = real_case
    pairs, sweep = experiment.pairs, SOLUTION["get_act_patch_attn_head_out_all_pos"]
    noising = SOLUTION["noising_sweep"](model, pairs.clean_tokens, pairs.corrupted_tokens, pairs.answer_tokens, [20])
    _close(noising, experiment.noise(sweep, layers=[20]), -experiment.denoise(sweep, layers=[20]))


def test_positions_by_role(tiny_case):
    (model, *_), _ = tiny_case
    pairs = ioi.ioi_pairs(model)
    roles = ioi.positions_by_role(pairs.clean_tokens, pairs.answer_tokens)
    at = {role: [positions[i].item() for i in (0, 1)] for role, positions in roles.items()}
    assert at == {"BOS": [0, 0], "IO": [4, 2], "S1": [2, 4], "S1+1": [3, 5], "S2": [10, 10], "END": [14, 14]}
