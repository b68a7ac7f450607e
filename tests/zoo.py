"""Tiny random models of many architectures, to see which of them the course's arithmetic holds for, and which it refuses."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch
import transformers
from transformer_lens.model_bridge import TransformerBridge

from utils.loading.embedded import no_progress_bars
from utils.models import load_model
from utils.tiny_models import tiny_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
GROUPED = {**SIZES, **SPECIAL, "num_key_value_heads": 2, "max_position_embeddings": 128}
GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "bos_token_id": 0, "eos_token_id": 0}
GEMMA = {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}

CONFIGS = {
    "qwen2": lambda **v: transformers.Qwen2Config(**GROUPED, **v),
    "qwen3": lambda **v: transformers.Qwen3Config(**GROUPED, head_dim=8, **v),
    "phi3": lambda **v: transformers.Phi3Config(**GROUPED, **v),
    "neox": lambda **v: transformers.GPTNeoXConfig(**SIZES, **SPECIAL, max_position_embeddings=128, **v),
    "sliding window": lambda **v: transformers.MistralConfig(**GROUPED, sliding_window=4, **v),
    "norms after layers": lambda **v: transformers.Olmo2Config(**GROUPED, **v),
    "clipped": lambda **v: transformers.OlmoConfig(**GROUPED, clip_qkv=0.05, **v),
    "soft caps": lambda **v: transformers.Gemma2Config(
        **GEMMA, attn_logit_softcapping=2.0, final_logit_softcapping=2.0, **v
    ),
    "scaled residuals": lambda **v: transformers.GraniteConfig(
        **GROUPED, residual_multiplier=0.5, logits_scaling=3.0, embedding_multiplier=2.0, attention_multiplier=0.2, **v
    ),
    "scaled attention": lambda **v: transformers.GPT2Config(**GPT, scale_attn_by_inverse_layer_idx=True, **v),
    "own hooks": lambda **v: transformers.OPTConfig(
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
        **SPECIAL,
        **v,
    ),
}


@functools.cache
def zoo_model(name: str) -> TransformerBridge:
    """A loaded tiny model of that name, all its weights random, norms too."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](vocab_size=len(tokenizer)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        with no_progress_bars():
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded = load_model(Path(folder), device="cpu")
    loaded.cfg.model_name = f"tiny {name}"
    return loaded
