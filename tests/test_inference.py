"""The small cache: what it holds is what the whole cache holds, and it is all that the methods need."""

import pytest
import torch

from utils import patching
from utils.attribution import attribution_total, head_attributions, logit_diff_directions
from utils.inference import small_cache
from utils.ioi import ioi_pairs


@pytest.fixture
def caches(model):
    pairs = ioi_pairs(model)
    whole = model.run_with_cache(pairs.clean_tokens)[1]
    return pairs, whole, model.run_with_cache(pairs.clean_tokens, names_filter=small_cache)[1]


@torch.no_grad()
def test_every_sweep_reads_the_same_from_it(model, caches):
    pairs, whole, small = caches
    assert len(small.cache_dict) < len(whole.cache_dict) / 2
    for name in patching.SWEEPS:
        sweep = getattr(patching, f"get_act_patch_{name}")
        results = [
            sweep(model, pairs.corrupted_tokens, cache, lambda logits: logits[:, -1, 5].mean(), progress=False)
            for cache in (whole, small)
        ]
        assert torch.equal(*results), name


@torch.no_grad()
def test_attributions_read_the_same_from_it(model, caches):
    pairs, whole, small = caches
    directions = logit_diff_directions(model, pairs.answer_tokens)
    assert torch.equal(*(head_attributions(model, cache, directions) for cache in (whole, small)))
    assert torch.equal(*(attribution_total(model, cache, pairs.answer_tokens) for cache in (whole, small)))
    for built_in in ("decompose_resid", "accumulated_resid"):  # they pass over what a cache lacks, without a word
        assert torch.equal(*(getattr(cache, built_in)(layer=-1, pos_slice=-1) for cache in (whole, small))), built_in


@torch.no_grad()
def test_hooks_find_their_activation_under_their_own_name(model, caches):
    """`clean_cache[hook.name]`, as chapter 03 writes it."""
    pairs, _, small = caches
    names = [f"blocks.1.hook_{name}" for name in ("resid_pre", "resid_mid", "attn_out", "mlp_out")]
    names += [f"blocks.1.attn.hook_{name}" for name in "zqkv"] + ["blocks.1.attn.hook_pattern"]
    found = {}

    def keep(activation, hook):
        found[hook.name] = activation

    model.run_with_hooks(pairs.clean_tokens, fwd_hooks=[(name, keep) for name in names])
    assert len(found) == len(names)
    for name, activation in found.items():
        assert torch.allclose(small[name], activation, atol=1e-5)
