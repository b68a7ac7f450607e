"""What the engine refuses, in words that name the value and the fix; and the real model."""

from __future__ import annotations

import inspect
from functools import partial

import pandas as pd
import pytest
import torch
import transformers
from transformer_lens import patching as builtin

from tests.patching.cases import Case, close, ours, theirs
from utils import patching
from utils.assumptions import UnsupportedModel
from utils.attribution import logit_diff
from utils.ioi import NAMES, TEMPLATES, ioi_pairs
from utils.models import load_model
from utils.patching import resumable
from utils.tiny_models import tiny_tokenizer

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
