"""One block of the model, run by itself."""

from __future__ import annotations

import weakref

import torch
from jaxtyping import Float
from torch import Tensor

from utils.assumptions import UnsupportedModel, disagree, hooks_on, peculiarities, probe_tokens, versions

_longest_tried: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # model → the length at which its blocks agreed


def run_block(model, layer: int, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after one block of the bridge, hooks included: unpadded prompts, whole from position 0.

    A block called by itself is not told where its tokens stand, and then a rotary model rotates nothing. The first call for
    a model (and for each greater length) compares every block with the model's own run, and raises UnsupportedModel where
    a block needs to be told more than that, such as how far it may look.
    """
    if resid.shape[1] > _longest_tried.get(model, 0):
        _try_blocks(model, resid.shape[1])
    return _run_block(model, layer, resid)


def _run_block(model, layer: int, resid: Tensor) -> Tensor:
    rotary = getattr(model, "rotary_emb", None)
    places = torch.arange(resid.shape[1], device=resid.device).unsqueeze(0)
    rotation = {} if rotary is None else {"position_embeddings": rotary.original_component(resid, places)}
    out = model.blocks[layer](resid, **rotation)  # a tensor, or a tuple that begins with it
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def _try_blocks(model, length: int) -> None:
    """Compare every block with the model's own run, unless hooks are on the model: then the next call without any does."""
    if hooks_on(model):
        return
    name, tokens = model.cfg.model_name, probe_tokens(model, length)
    _, cache = model.run_with_cache(tokens, names_filter=lambda hook: hook.endswith(("hook_in", "hook_out")))
    advice = f"run the whole model with hooks instead{peculiarities(model)}"
    for layer in range(model.cfg.n_layers):
        before, after = (cache[f"blocks.{layer}.{end}"] for end in ("hook_in", "hook_out"))
        try:
            found = _run_block(model, layer, before)
        except (AttributeError, RuntimeError, TypeError, UnboundLocalError) as reason:
            raise UnsupportedModel(f"a block of {name} cannot be run by itself ({reason}); {advice}") from reason
        if off := disagree(found[:, 1:], after[:, 1:]):
            raise UnsupportedModel(
                f"block {layer} of {name}, run by itself on {length} tokens, is off by {off:.2g}; {advice} ({versions()})"
            )
    _longest_tried[model] = length
