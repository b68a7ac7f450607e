"""Tracing and edited runs against independent runs, the solutions against utils, and files through the pipeline."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformer_lens import patching as builtin

from tests.solutions import solution_functions
from utils import dialect, inference, patching, stats
from utils.dialect import DialectError, Pair, removing, tracing
from utils.dialect.removing import Edit, GuiseRuns, matched_heads
from utils.experiment import run_experiment
from utils.inference import end_logits
from utils.prompts import tokenize

U_WORDS, F_WORDS = ["lazy", "rude", "loud"], ["kind", "honest", "smart"]
FRAME = 'A person who says " {} " is'
DONE = [Pair(f"{p} done {v}", f"{p} has {v}", v, "done") for p in ("he", "she") for v in ("walked", "car")]


def answers(model):
    return tuple(dialect.attribute_tokens(model, group) for group in (U_WORDS, F_WORDS))


def residual_sweep(model, batch):
    experiment = run_experiment(model, batch, tracing.preference_of(*answers(model)))
    return experiment.denoise(patching.get_act_patch_resid_pre, progress=False)


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
    bias = dialect.gap_bias(model, U_WORDS, F_WORDS)
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


# --- removing ---------------------------------------------------------------------------------------------------------


PAIRS = [*DONE, *dialect.pairs_of("be_usually", 3)]
OTHER_FRAMES = [FRAME, 'He says: " {} " He is a']


def test_guise_runs_say_what_the_model_says(model):
    runs, (u, f) = GuiseRuns(model, PAIRS, OTHER_FRAMES), answers(model)
    expected = dialect.trait_gaps(model, PAIRS, OTHER_FRAMES, U_WORDS, F_WORDS, share_prefix=False)
    assert torch.allclose(runs.gaps(u, f), expected, atol=1e-4)
    log_p = runs.end_logits(u, log_softmax=True)
    alone = model(model.to_tokens(OTHER_FRAMES[1].format(PAIRS[2].sae)))[0, -1].log_softmax(-1)[u]
    assert torch.allclose(log_p[1, 2, 1], alone, atol=1e-4)
    for layer in (0, 1, model.cfg.n_layers):
        found = runs.at_quote(layer)
        for side, text in enumerate((PAIRS[5].aae, PAIRS[5].sae)):
            tokens = model.to_str_tokens(FRAME.format(text))
            _, cache = model.run_with_cache(model.to_tokens(FRAME.format(text)))
            streams = [*(cache["resid_pre", at] for at in range(model.cfg.n_layers)), cache["resid_post", -1]]
            closing = max(i for i, token in enumerate(tokens) if '"' in token)
            assert torch.allclose(found[side, 5, 0], streams[layer][0, closing], atol=1e-4)


def _by_hooks(model, hooks):
    """Gaps of `PAIRS` in `OTHER_FRAMES`, every prompt run whole."""
    u, f = answers(model)
    prompts = [frame.format(getattr(pair, side)) for side in ("aae", "sae") for pair in PAIRS for frame in OTHER_FRAMES]
    logits = inference.hooked_end_logits(model, prompts, hooks)
    aae, sae = (logits[:, u].mean(-1) - logits[:, f].mean(-1)).unflatten(0, (2, len(PAIRS), len(OTHER_FRAMES)))
    return aae - sae


def test_an_edit_of_shared_runs_is_the_edit_of_the_model(model):
    runs, (u, f) = GuiseRuns(model, PAIRS, OTHER_FRAMES), answers(model)
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head, generator=generator)
    direction = torch.randn(model.cfg.d_model, generator=generator)
    edits = [
        Edit([(1, 2), (0, 1), (1, 0)], means),
        Edit([(model.cfg.n_layers - 1, 3)], means),
        Edit(direction=direction, layer=1),
        Edit([(0, 3)], means, direction, 0),
    ]
    plain = _by_hooks(model, [])
    assert torch.allclose(runs.gaps(u, f), plain, atol=1e-4)
    for edit in edits:
        changed = _by_hooks(model, edit.hooks())
        assert not torch.allclose(changed, plain, atol=1e-3)
        assert torch.allclose(runs.gaps(u, f, edit), changed, atol=1e-4)


def test_hooks_of_an_edit_leave_the_first_position_and_put_in_what_they_should(model):
    means = torch.ones(model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_head)
    direction, seen = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(0)), {}
    edit = Edit([(1, 2), (0, 1), (1, 0)], means, direction, 1)
    names = ("blocks.1.attn.hook_z", "blocks.1.hook_resid_pre", "blocks.0.attn.hook_z")
    watch = [(name, lambda x, hook, name=name: seen.update({name: x.clone()})) for name in names]
    tokens = model.to_tokens(FRAME.format("he done walked"))
    _, before = model.run_with_cache(tokens)
    model.run_with_hooks(tokens, fwd_hooks=[*edit.hooks(), *watch])
    assert seen[names[0]][0, 1:, [0, 2]].eq(1).all() and not seen[names[0]][0, 1:, [1, 3]].eq(1).any()
    assert seen[names[2]][0, 1:, 1].eq(1).all()
    assert torch.allclose(seen[names[2]][0, 0], before[names[2]][0, 0])
    along = seen[names[1]] @ direction
    assert along[0, 1:].abs().max() < 1e-4 < along[0, 0].abs()


def test_an_edit_at_the_closing_quote_changes_that_position_alone(model):
    u, f = answers(model)
    direction, layer = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(1)), 1
    edit = Edit(direction=direction, layer=layer, quote_only=True)
    found = GuiseRuns(model, PAIRS, [FRAME]).gaps(u, f, edit)
    unit = direction / direction.norm()

    def preference(text):
        tokens = model.to_tokens(FRAME.format(text))
        closing = max(i for i, token in enumerate(model.to_str_tokens(FRAME.format(text))) if '"' in token)

        def project(x, hook):
            x = x.clone()
            x[:, closing] -= (x[:, closing] @ unit)[:, None] * unit
            return x

        logits = model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", project)])[0, -1]
        return logits[u].mean() - logits[f].mean()

    expected = torch.stack([preference(pair.aae) - preference(pair.sae) for pair in PAIRS])
    assert torch.allclose(found[:, 0], expected, atol=1e-4)
    assert not torch.allclose(found, GuiseRuns(model, PAIRS, [FRAME]).gaps(u, f), atol=1e-3)
    with pytest.raises(ValueError, match="closing quote"):
        edit.hooks()
    with pytest.raises(DialectError, match="no closing quote"):
        GuiseRuns(model, PAIRS, ["He says {} and is"]).gaps(u, f, edit)


def test_a_closing_quote_is_told_from_the_same_mark_within_a_longer_guise(model):
    """Up to that mark the two prompts are equal, but only in the first does the edit apply to it."""
    u, f = answers(model)
    pairs = [Pair(f"he done walked{more}", f"he has walked{more}", more or "walked") for more in ("", ' " is kind')]
    direction = torch.randn(model.cfg.d_model, generator=torch.Generator().manual_seed(4))
    edit = Edit(direction=direction, layer=1, quote_only=True)
    alone = torch.cat([GuiseRuns(model, [pair], [FRAME]).gaps(u, f, edit) for pair in pairs])
    assert torch.allclose(GuiseRuns(model, pairs, [FRAME]).gaps(u, f, edit), alone, atol=1e-4)


def test_an_edit_without_means_is_refused():
    with pytest.raises(ValueError, match="give the means"):
        Edit([(0, 1)])


def test_matched_heads_keep_the_layers():
    heads = [(3, 1), (0, 0), (3, 2), (7, 8)]
    draws = [matched_heads(heads, 9, random.Random(seed)) for seed in range(300)]
    for draw in draws:
        assert len(set(draw)) == 4 and Counter(layer for layer, _ in draw) == {0: 1, 3: 2, 7: 1}
    seen = Counter(head for draw in draws for head in draw)
    assert {head for layer, head in seen if layer == 3} == set(range(9))
    assert max(seen[3, head] for head in range(9)) < 2 * min(seen[3, head] for head in range(9))
    assert draws[0] == matched_heads(heads, 9, random.Random(0))


def test_slope_removed_keeps_signs():
    before = torch.tensor([1.0, -2.0, 0.5])
    assert removing.slope_removed(before, before) == 0 and removing.slope_removed(before, -before) == 2
    assert removing.slope_removed(before, 0.4 * before) == pytest.approx(0.6)
    moved = before + torch.tensor([0.2, 0.1, 0.0])  # at right angles to `before`: sizes change, the slope does not
    assert removing.slope_removed(before, moved) == pytest.approx(0, abs=1e-6)


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


# --- whole files of the two public formats ------------------------------------------------------------------------------


def pairs_file(path: Path) -> Path:
    """699 pairs with what public files hold: no final newline, curly apostrophes, sides of different lengths."""
    verbs = [forms[3] for forms in dialect.grammar()["verbs"].values()]
    lines = [
        f"{p} {a}\t{p}{b}"
        for v in verbs
        for p in ("he", "she", "they")
        for a, b in (
            (f"be {v}", f"’s usually {v}"),
            (f"be {v} now", f"'s usually {v} now"),
            (f"done {v}", f" has {v}"),
            (f"be out {v}", f" is out {v}"),
            (f"be {v} too", f" is {v} too"),
            (f"stay {v}", f" keeps {v}"),
            (f"been {v}", f"’s been {v}"),
        )
    ]
    path.write_text("\n".join(lines[:699]), encoding="utf-8")
    return path


def test_a_pairs_file_of_699_lines_through_gap_and_patching(tmp_path, model):
    pairs = dialect.read_pairs(pairs_file(tmp_path / "pairs.txt"))
    assert len(pairs) == 699 and not any("’" in pair.sae for pair in pairs)
    gaps = dialect.trait_gaps(model, pairs, [FRAME], U_WORDS, F_WORDS, progress=False)
    assert gaps.shape == (699, 1) and torch.isfinite(gaps).all()
    one = pairs[500]
    alone = dialect.trait_gaps(model, [one], [FRAME], U_WORDS, F_WORDS)
    assert gaps[500, 0] == pytest.approx(alone.item(), abs=1e-4)
    low, high = stats.bootstrap_interval(gaps[:, 0], [pair.cluster for pair in pairs])
    assert low <= gaps.mean() <= high
    aligned = dialect.aligned_pairs(model, pairs, FRAME)
    assert 0 < len(aligned) < 699
    batch = tracing.guise_batch(model, pairs, FRAME, n=6)
    assert residual_sweep(model, batch)[0, batch.position] == pytest.approx(
        1, abs=1e-3
    )  # in units of a small difference


def test_a_dataset_of_315_rows_through_gap_and_patching(tmp_path, model):
    lines = [",".join(dialect.COLUMNS)]
    for i in range(315):
        pair = [*dialect.pairs_of("done"), *dialect.pairs_of("be_usually")][i % 70]
        texts = [FRAME.format(side).replace("'", "’" if i % 5 == 0 else "'") for side in (pair.aae, pair.sae)]
        quoted = ['"' + text.replace('"', '""') + f" {'too ' * (i // 70)}" + '"' for text in texts]
        lines.append(f"{quoted[0]},{quoted[1]},lazy,kind,{i / 7:.3f},{-i / 9:.3f}")
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    rows = dialect.read_dataset(path, model)
    assert len(rows) == 315
    prompts = [row.prompt_aae for row in rows] + [row.prompt_sae for row in rows]
    logits = end_logits(model, prompts, torch.cat(answers(model)), progress=False)
    values = dialect.preference(logits, [*U_WORDS, *F_WORDS], U_WORDS, F_WORDS)
    gaps = values[:315] - values[315:]
    assert torch.isfinite(gaps).all()
    pairs = [Pair(row.prompt_aae, row.prompt_sae) for row in rows]
    batch = tracing.guise_batch(model, pairs, "{}", n=5)
    assert residual_sweep(model, batch)[0, batch.position] == pytest.approx(1, abs=1e-4)
    assert [row for row in rows if len(dialect.aligned_pairs(model, [Pair(row.prompt_aae, row.prompt_sae)])) == 0]
    with pytest.raises(DialectError, match=r"tokens in tiny-"):
        dialect.read_dataset(path, model, aligned=True)
