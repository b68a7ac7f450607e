"""What the course's arithmetic assumes of a model, found out by numbers the first time that a model is used.

An attribution is right only where logits are a linear readout of a sum: norms folded into the weights that read from them,
no cap on the logits, and every layer's output added as it is. Most models fit. Olmo 2 (norms after the layers), Gemma 2
(capped logits) or Granite (scaled residuals) do not, and their attributions would miss the logits without a word. So each
assumption is tried once per model on a short probe, and a model that breaks it is refused by name.
"""

from __future__ import annotations

import importlib.metadata
import weakref

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from utils.parts import repeat_kv

RELATIVE = 1e-4  # float32 sums of a few hundred terms agree to about 1e-6; a broken assumption is off by 1e-2 and more
N_PROBE = 12
UNUSUAL = """
    alibi attention_multiplier attn_logit_softcapping clip_qkv embedding_multiplier final_logit_softcapping logit_scale
    logits_scaling no_rope_layer_interval parallel_attn residual_multiplier scale_attn_by_inverse_layer_idx sliding_window
    window_size""".split()
BEHIND_THE_NUMBERS = ("torch", "transformers", "transformer_lens")
_found: weakref.WeakKeyDictionary[TransformerBridge, dict[str, str]] = weakref.WeakKeyDictionary()


class UnsupportedModel(Exception):
    """This model does something that the course's arithmetic leaves out; the message names the model and what it is."""


def versions() -> str:
    """The libraries that the numbers depend on, as "torch 2.13.0, …": for messages."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in BEHIND_THE_NUMBERS)


def disagree(found: Tensor, expected: Tensor) -> float | None:
    """The largest difference, if it is more than float error beside the largest expected value, or nan; else None."""
    off, largest = (x.abs().max().item() for x in (found - expected, expected))
    return None if off <= RELATIVE * max(largest, 1e-6) else off


def peculiarities(model: TransformerBridge) -> str:
    """What the model's configuration has that most models have not, as "; its configuration has …": to name a cause."""
    config = getattr(model.original_model, "config", None)
    values = {name: getattr(config, name, None) for name in UNUSUAL}
    found = [f"{name}={value}" for name, value in values.items() if value is True or value not in (None, False, 1.0)]
    block = model.blocks[0]
    found += ["norms after its layers"] if hasattr(block, "ln1_post") else []
    found += ["norms on queries and keys"] if hasattr(block, "attn") and hasattr(block.attn, "q_norm") else []
    return f"; its configuration has {', '.join(found)}" if found else ""


def probe_tokens(model: TransformerBridge, length: int = N_PROBE) -> Int[Tensor, "1 pos"]:
    """Different ordinary token ids, spread over the vocabulary."""
    ids = torch.linspace(1, model.cfg.d_vocab - 1, length + 2).long()[1:-1]
    return ids.unsqueeze(0).to(model.cfg.device)


def hooks_on(model: TransformerBridge) -> list[str]:
    """Names of the hook points that somebody has put a hook on. The bridge's own (it has some on OPT) do not count."""
    return sorted(
        {
            point.name
            for point in model.hook_dict.values()
            for handle in (*point.fwd_hooks, *point.bwd_hooks)
            if not getattr(handle.user_hook, "__module__", "").startswith("transformer_lens")
        }
    )


def weights(model: TransformerBridge) -> tuple[int, ...]:
    """A number that changes with each change of a weight, in place or by another tensor: for what is computed once only."""
    return tuple(number for weight in model.parameters() for number in (weight.data_ptr(), weight._version))


def require_readout(model: TransformerBridge) -> None:
    """Raise UnsupportedModel unless logits are W_U times the final residual stream over its norm's scale (plus b_U), and
    that stream is the sum of the embedding and of all attention and MLP outputs."""
    _require(model, ("sum", "readout"))


def require_heads(model: TransformerBridge) -> None:
    """Raise UnsupportedModel unless each attention output is the sum over heads of pattern · values · W_O (plus b_O)."""
    _require(model, ("heads", "values"))


def _require(model: TransformerBridge, assumptions: tuple[str, ...]) -> None:
    if model not in _found:
        if hooks_on(model):
            return  # a probe would run through somebody's hooks: it is tried on the next call without any
        _found[model] = _broken(model)
    for name in assumptions:
        if name in _found[model]:
            raise UnsupportedModel(f"{model.cfg.model_name}: {_found[model][name]}")


@torch.no_grad()
def _broken(model: TransformerBridge) -> dict[str, str]:
    """assumption → what is wrong with it on this model, in words; empty for a model that fits.

    Compared at the last position of the probe: at the first one, massive activations come and go, and take digits along.
    """
    logits, cache = model.run_with_cache(probe_tokens(model))
    layers = range(model.cfg.n_layers)
    final = cache["resid_post", layers[-1]][0, -1]
    written = [cache[name, layer][0, -1] for layer in layers for name in ("attn_out", "mlp_out")]
    normed = final - final.mean() if model.cfg.normalization_type.startswith("LN") else final
    read = normed / cache["ln_final.hook_scale"][0, -1] @ model.W_U + (0 if model.b_U is None else model.b_U)
    pairs = {"sum": (cache["resid_pre", 0][0, -1] + sum(written), final), "readout": (read, logits[0, -1])}
    broken = {name: off for name, (found, expected) in pairs.items() if (off := disagree(found, expected))}
    for layer in layers:
        broken = _broken_heads(model, cache, layer) | broken
    return {name: f"{WRONG[name]} (off by {off:.2g}){peculiarities(model)}" for name, off in broken.items()}


WRONG = {
    "sum": "its attention and MLP outputs do not add up to the residual stream",
    "readout": "its logits are not W_U times the normed residual stream: norms that do not fold, or logits that are capped "
    "or scaled. Attributions would not add up to the logit difference; choose a model such as gpt2-small",
    "heads": "its attention output is not the sum over heads of z times W_O: a norm or a factor follows. Single heads cannot "
    "be attributed",
    "values": "z is not the attention pattern times the values: its attention does something more",
}


def _broken_heads(model: TransformerBridge, cache: ActivationCache, layer: int) -> dict[str, float]:
    z, attn_out = cache["z", layer][0, -1], cache["attn_out", layer][0, -1]
    pattern, v = cache["pattern", layer][0, :, -1], cache["v", layer][0]
    b_O = getattr(model.blocks[layer].attn, "b_O", None)
    written = torch.einsum("hd,hdm->m", z, model.W_O[layer]) + (0 if b_O is None else b_O)
    read = torch.einsum("hk,khd->hd", pattern, repeat_kv(v, model.cfg.n_heads))
    pairs = {"heads": (written, attn_out), "values": (read, z)}
    return {name: off for name, (found, expected) in pairs.items() if (off := disagree(found, expected))}
