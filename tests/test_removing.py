"""Removing heads and directions: what an edit does, against plain hooks."""

import random
from collections import Counter

import pytest
import torch

from tests.tracing_cases import DONE, F_WORDS, FRAME, U_WORDS, answers
from utils import dialect, inference
from utils.dialect import DialectError, Pair, removing
from utils.dialect.removing import Edit, GuiseRuns, matched_heads

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
