"""Tracing a guise through a model: patching, attention, directions; and the solutions of chapter 08."""

import random

import pytest
import torch
from transformer_lens import patching as builtin

from tests.solutions import solution_functions
from tests.tracing_cases import DONE, F_WORDS, FRAME, U_WORDS, answers, residual_sweep
from utils import dialect, inference, patching, stats
from utils.dialect import DialectError, Pair, removing, tracing
from utils.dialect.removing import Edit, GuiseRuns, matched_heads
from utils.experiment import run_experiment
from utils.inference import end_logits
from utils.prompts import tokenize

# --- tracing ----------------------------------------------------------------------------------------------------------


def test_a_batch_is_aligned_and_says_where(model):
    odd = Pair("he has then walked", "he has walked", "walked")
    batch = tracing.guise_batch(model, [odd, *DONE], FRAME)
    sides = zip(batch.clean_text, batch.corrupted_text, batch.names, strict=True)
    known = {(FRAME.format(pair.aae), FRAME.format(pair.sae), pair.cluster) for pair in DONE}
    assert len(batch) and all(row in known for row in sides)
    differs = batch.clean_tokens != batch.corrupted_tokens
    assert differs.sum(1).eq(1).all() and differs[:, batch.position].all()
    assert batch.labels(model)[batch.position].endswith("done / has")
    assert len(tracing.guise_batch(model, DONE, FRAME, n=1)) == 1
    with pytest.raises(DialectError, match="none of 1 pairs"):
        tracing.guise_batch(model, [odd], FRAME)


def test_components_and_heads_add_up_to_every_rows_gap(model):
    batch = tracing.guise_batch(model, DONE, FRAME)
    u, f = answers(model)
    prefers = tracing.preference_of(u, f)
    (logits_a, aae), (logits_s, sae) = (model.run_with_cache(t) for t in (batch.clean_tokens, batch.corrupted_tokens))
    direction = dialect.gap_direction(model, U_WORDS, F_WORDS)
    gap = prefers(logits_a) - prefers(logits_s)
    parts = tracing.gap_by_component(aae, sae, direction)
    assert torch.allclose(parts.sum(0), gap, atol=1e-3)
    lens, written = tracing.gap_by_stream(model, aae, sae, direction)
    assert len(tracing.stream_labels(model)) == len(lens) == len(written) == len(parts)
    assert torch.allclose(lens[-1], gap, atol=1e-3) and torch.allclose(written, parts.cumsum(0), atol=1e-3)
    middle = tracing.stream_labels(model).index("1_mid")
    by_hand = [model.ln_final(cache["resid_mid", 1][:, -1]) @ direction for cache in (aae, sae)]
    assert torch.allclose(lens[middle], by_hand[0] - by_hand[1], atol=1e-4)
    heads = tracing.gap_by_head(model, aae, sae, direction)
    attention = parts[1::2]  # [layer, batch]; the output bias is the same on both sides but for the scale
    if model.cfg.normalization_type.startswith("RMS"):
        assert torch.allclose(heads.sum(1), attention, atol=1e-3)


def test_heads_of_pairs_of_different_lengths_are_those_of_each_pair_alone(model):
    pairs, direction = [*DONE, *dialect.pairs_of("be_usually", 3)], dialect.gap_direction(model, U_WORDS, F_WORDS)
    together = tracing.head_gaps(model, pairs, FRAME, direction, batch_size=3)
    for pair, found in zip(pairs, together, strict=True):
        runs = [model.run_with_cache(model.to_tokens(FRAME.format(side)))[1] for side in (pair.aae, pair.sae)]
        assert torch.allclose(found, tracing.gap_by_head(model, *runs, direction)[..., 0], atol=1e-4)


def test_attention_from_the_end(model):
    tokens, mask = tokenize(model, [FRAME.format("he done walked"), "They are kind"])
    _, cache = model.run_with_cache(tokens)
    found = tracing.attention_from_end(cache, 2, mask.sum(-1) - 1)
    by_hand = [cache["pattern", 1][i, :, int(mask[i].sum()) - 1, 2] for i in (0, 1)]
    assert found.shape == (model.cfg.n_layers, model.cfg.n_heads)
    assert torch.allclose(found[1], (by_hand[0] + by_hand[1]) / 2, atol=1e-6)
    assert torch.allclose(tracing.attention_from_end(cache, 2)[0], cache["pattern", 0][:, :, -1, 2].mean(0), atol=1e-6)


def test_mean_cosine():
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-5.0, 0.0]])
    assert tracing.mean_cosine(vectors) == pytest.approx(-1 / 3)
    assert tracing.mean_cosine(vectors, torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(1 / 6)
    with pytest.raises(ValueError, match="needs two"):
        tracing.mean_cosine(vectors[:1])


def test_gaps_of_pairs_of_different_lengths_reconcile_row_by_row(model):
    pairs = dialect.pairs_of("be_usually", 4)
    direction = dialect.gap_direction(model, U_WORDS, F_WORDS)
    sides = []
    for side in ("aae", "sae"):
        tokens, mask = tokenize(model, [FRAME.format(getattr(pair, side)) for pair in pairs])
        sides.append((model.run_with_cache(tokens)[1], mask.sum(-1) - 1))
    (aae, aae_last), (sae, sae_last) = sides
    parts = tracing.gap_by_component(aae, sae, direction, aae_last, sae_last)
    gaps = dialect.trait_gaps(model, pairs, [FRAME], U_WORDS, F_WORDS)[:, 0]
    assert torch.allclose(parts.sum(0), gaps, atol=1e-3)


def test_a_preference_needs_the_bias_and_a_gap_does_not(model):
    text = FRAME.format("he done walked")
    direction = dialect.gap_direction(model, U_WORDS, F_WORDS)
    logits, cache = model.run_with_cache(model.to_tokens(text))
    final = tracing.apply_final_norm(tracing.decompose_at(cache).sum(0), cache)
    unfavorable, favorable = answers(model)
    b_U = torch.zeros(model.cfg.d_vocab) if model.b_U is None else model.b_U
    bias = b_U[unfavorable].mean() - b_U[favorable].mean()
    preference = tracing.preference_of(*answers(model))(logits)
    assert torch.allclose(preference, final @ direction + bias, atol=1e-3)
    assert (abs(bias) > 1e-2) == (model.cfg.model_name == "tiny-gpt2")


def test_patching_a_guise_is_1_at_the_word_and_0_before_it(model):
    batch = tracing.guise_batch(model, DONE, FRAME)
    experiment = run_experiment(model, batch, tracing.preference_of(*answers(model)))
    resid = experiment.denoise(patching.get_act_patch_resid_pre, progress=False)
    assert resid[0, batch.position] == pytest.approx(1, abs=1e-4)
    elsewhere = [resid[:, : batch.position], resid[0, batch.position + 1 :]]
    assert max(part.abs().max() for part in elsewhere) < 1e-4  # float error, in units of a small difference
    oracle = experiment.denoise(builtin.get_act_patch_resid_pre)
    assert torch.allclose(resid, oracle, atol=1e-4)
    back = experiment.noise(patching.get_act_patch_resid_pre, progress=False)
    assert back[0, batch.position] == pytest.approx(-1, abs=1e-4) and back[:, : batch.position].abs().max() < 1e-4
    used = [pair for pair in DONE if FRAME.format(pair.aae) in batch.clean_text]
    gap = dialect.trait_gaps(model, used, [FRAME], U_WORDS, F_WORDS)[:, 0]
    assert torch.allclose(experiment.clean_scores - experiment.corrupted_scores, gap, atol=1e-4)


def test_means_of_heads_and_the_loss(model):
    prompts = ["He says he has walked. He is", "They are", "She is"]
    alone = [model.run_with_cache(model.to_tokens(p))[1]["z", 1][0, 1:] for p in prompts]
    means = tracing.mean_z(model, prompts, batch_size=2)
    assert torch.allclose(means[1], torch.cat(alone).mean(0), atol=1e-5)
    assert torch.allclose(inference.hooked_end_logits(model, prompts, []), end_logits(model, prompts), atol=1e-4)
    loss = inference.next_token_loss(model, ["He is kind"])
    tokens = model.to_tokens("He is kind")
    by_hand = torch.nn.functional.cross_entropy(model(tokens)[0, :-1], tokens[0, 1:])
    assert loss == pytest.approx(by_hand.item(), abs=1e-4)


# --- solutions and utils ----------------------------------------------------------------------------------------------


def test_chapter_07_agrees_with_utils(model):
    ns = solution_functions("07")
    prompts = [FRAME.format(side) for pair in dialect.pairs_of("be_usually", 3) for side in (pair.aae, pair.sae)]
    u, f = answers(model)
    ids = torch.cat([u, f])
    expected = end_logits(model, prompts, ids, log_softmax=True)
    assert torch.allclose(ns["log_probs_at_end"](model, prompts, ids), expected, atol=1e-4)
    _, mask = tokenize(model, prompts)
    assert torch.equal(ns["last_token_index"](mask), mask.sum(-1) - 1)
    assert torch.allclose(
        ns["association_scores"](expected[::2], expected[1::2]),
        dialect.association_scores(expected[::2], expected[1::2]),
    )
    pairs = list(zip(prompts[::2], prompts[1::2], strict=True))
    gaps = dialect.trait_gaps(model, dialect.pairs_of("be_usually", 3), [FRAME], U_WORDS, F_WORDS)[:, 0]
    assert torch.allclose(ns["trait_gap"](model, pairs, u, f), gaps, atol=1e-4)
    values, clusters = torch.randn(12), list("aabbccddeeff")
    assert ns["bootstrap_interval"](values, clusters) == pytest.approx(
        stats.bootstrap_interval(values, clusters), abs=1e-6
    )
    observed, null = torch.randn(5), torch.randn(9)
    assert ns["null_swaps"](observed, null).tolist() == pytest.approx([stats.rank_p(o, null) for o in observed])


def test_chapters_08_and_09_agree_with_utils(model):
    ns = solution_functions("08") | solution_functions("09")
    u, f = answers(model)
    batch = tracing.guise_batch(model, DONE, FRAME)
    prompts = [(FRAME.format(pair.aae), FRAME.format(pair.sae)) for pair in DONE]
    found = dialect.aligned_pairs(model, DONE, FRAME)
    assert ns["aligned_pairs"](model, prompts) == [(i, at) for i, (_, at) in enumerate(found)]
    direction = dialect.gap_direction(model, U_WORDS, F_WORDS)
    assert torch.allclose(ns["gap_direction"](model, u, f), direction)
    (logits, aae), (_, sae) = (model.run_with_cache(tokens) for tokens in (batch.clean_tokens, batch.corrupted_tokens))
    assert torch.allclose(
        ns["gap_by_component"](aae, sae, direction), tracing.gap_by_component(aae, sae, direction).mean(-1)
    )
    assert ns["reconcile"](model, logits, aae, (u, f))[1].abs().max() < 1e-3
    resid = ns["patch_guise"](model, batch.clean_tokens, batch.corrupted_tokens, (u, f))
    assert torch.allclose(resid, residual_sweep(model, batch), atol=1e-4)
    texts = [FRAME.format(pair.aae) for pair in DONE] + ["They are"]
    means = tracing.mean_z(model, texts)
    assert torch.allclose(ns["mean_z"](model, *tokenize(model, texts)), means, atol=1e-5)
    heads = [(0, 1), (2, 3), (2, 0)]
    hooked = model.run_with_hooks(batch.clean_tokens, fwd_hooks=Edit(heads, means).hooks())
    assert torch.allclose(ns["ablate_heads"](model, batch.clean_tokens, heads, means), hooked, atol=1e-5)
    vectors = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert ns["mean_cosine"](vectors) == pytest.approx(tracing.mean_cosine(vectors).item(), abs=1e-6)
    assert ns["slope_removed"](*vectors[:2]) == pytest.approx(removing.slope_removed(*vectors[:2]).item(), abs=1e-6)
    draws = [sorted(draw(heads, 9, random.Random(3))) for draw in (ns["matched_heads"], matched_heads)]
    assert draws[0] == draws[1]


def test_chapter_09_takes_a_direction_out_as_utils_does(model):
    run_projected, (u, _) = solution_functions("09")["run_projected"], answers(model)
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(2))
    runs = GuiseRuns(model, DONE, [FRAME])
    expected = runs.end_logits(u, Edit(direction=direction, layer=1, quote_only=True))[:, :, 0]
    for side, prompts in enumerate([FRAME.format(getattr(pair, s)) for pair in DONE] for s in ("aae", "sae")):
        for i, prompt in enumerate(prompts):
            closing = max(at for at, token in enumerate(model.to_str_tokens(prompt)) if '"' in token)
            logits = run_projected(model, model.to_tokens(prompt), direction, 1, torch.tensor([closing]))
            assert torch.allclose(logits[0, -1, u], expected[side, i], atol=1e-4)
