"""The head atlas: one tidy table, and scores that are what their definitions say."""

import numpy as np
import pytest
import torch

from tests.atlas.cases import QUICK
from utils import atlas, heads
from utils.tiny_models import tiny_model

# --- scores ---------------------------------------------------------------------------------------------------------


def test_table_is_tidy_and_whole(alone, folders):
    assert list(alone.columns) == ["model", "layer", "head", "score", "value", "seed", "seq_len", "batch", "bos"]
    assert len(alone) == 4 * 3 * 4 * len(atlas.SCORES) and not alone.duplicated(atlas.ORDER).any()
    assert set(alone["model"]) == set(folders) and alone["bos"].all()
    assert set(alone["seed"]) == {0} and set(alone["seq_len"]) == {20} and set(alone["batch"]) == {2}
    limits = alone.groupby("score")["value"].agg(["min", "max"])
    assert (limits["max"] <= 1).all() and (limits["min"] >= [-1 if s == "copying" else 0 for s in limits.index]).all()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_scores_by_their_definitions(family):
    model, n = tiny_model(family), QUICK.seq_len
    table = atlas.head_table(model, QUICK)
    bos = model.tokenizer.bos_token_id
    tokens = heads.repeated_tokens(n, 2, 0, bos, model.cfg.d_vocab)
    _, cache = model.run_with_cache(tokens)
    pattern = torch.stack([cache["pattern", layer] for layer in range(3)])  # layer batch head query key
    want = {
        "previous_token": torch.stack([pattern[..., q, q - 1] for q in range(2, 2 * n + 1)]).mean((0, 2)),
        "duplicate_token": torch.stack([pattern[..., q, q - n] for q in range(n + 1, 2 * n + 1)]).mean((0, 2)),
        "induction": torch.stack([pattern[..., q, q - n + 1] for q in range(n, 2 * n + 1)]).mean((0, 2)),
        "first_token": pattern[..., 1:, 0].mean((1, 3)),
        "entropy": torch.stack(
            [
                torch.distributions.Categorical(pattern[..., q, : q + 1]).entropy() / np.log(q + 1)
                for q in range(1, 2 * n + 1)
            ]
        ).mean((0, 2)),
    }
    for score, expected in want.items():
        assert np.allclose(atlas.grids(table, score)[model.cfg.model_name], expected, atol=1e-5), score


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_copying_score_by_its_definition(family):
    model, ids = tiny_model(family), torch.arange(100, 112)
    got = heads.copying_scores(model, ids, bos=0)
    _, cache = model.run_with_cache(torch.stack([torch.zeros_like(ids), ids], dim=1))
    for layer, head in ((0, 1), (1, 3), (2, 2)):
        value = cache["v", layer][:, 1, head // (4 // cache["v", layer].shape[2])]
        logits = value @ model.W_O[layer, head] @ model.W_U[:, ids]
        wins = [np.mean([bool(logits[j, j] > logits[i, j]) for i in range(12) if i != j]) for j in range(12)]
        assert got[layer, head].item() == pytest.approx(2 * np.mean(wins) - 1, abs=1e-6)


def test_a_head_that_copies_scores_one():
    """Value and output weights that carry the unembedding's own directions: every token writes itself."""
    model = tiny_model("gpt2")
    ids = torch.arange(100, 110)

    def as_written(v, hook):
        v = v.clone()
        through = model.W_O[0, 0] @ model.W_U[:, ids]  # d_head token
        v[:, -1, 0] = torch.linalg.pinv(through)  # token d_head: each row writes one token
        v[:, -1, 1] = -torch.linalg.pinv(model.W_O[0, 1] @ model.W_U[:, ids])
        return v

    with model.hooks(fwd_hooks=[("blocks.0.attn.hook_v", as_written)]):
        scores = heads.copying_scores(model, ids, bos=0)
    assert scores[0, 0] > 0.9 and scores[0, 1] < -0.9


def test_a_sequence_that_does_not_fit_is_refused():
    with pytest.raises(atlas.AtlasError, match="at most 128 tokens and seq_len=64 makes 129"):
        atlas.head_table(tiny_model("gpt2"), atlas.Settings(seq_len=64))
