"""Two tiny random models, saved as ordinary folders and loaded by `load_model`: what checks and tests run on."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from utils.models import load_model, no_progress_bars

WORDS = """
When After Then While and went to the gave a an drink said had that is are was were has be been done with in of on at it
store shops park school office house garden bag ball apple book letter ring kiss milk bottle computer
Mary John Tom James Dan Sid Martin Amy Alice Bob Anna Paul Mark Jane Kate Luke Ruth Adam Emma Jack
The person people who says say tends tend He She They he she they What his her their traits one usually already
work working sing singing cook cooking walk walked talk car truck kind lazy smart rude honest loud calm"""
MAX_LENGTH = 128
END, UNKNOWN = "<|endoftext|>", "<unk>"


def tiny_tokenizer(padding: str = END, more_words: str = "") -> PreTrainedTokenizerFast:
    """Words above are one token (with or without a leading space), and so are those of `more_words`; anything else falls
    apart into characters.

    padding: END, which is BOS too, as in GPT-2; or UNKNOWN, which is not, as in many a Llama.
    """
    words = f"{WORDS} {more_words}".split()
    pieces = [chr(c) for c in range(32, 127)] + ["\n", "’", "“", "”"] + words + [f" {w}" for w in words]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([END, UNKNOWN, *pieces]))}
    options = {"unk_token": UNKNOWN, "continuing_subword_prefix": "", "max_input_chars_per_word": 1000}
    tokenizer = Tokenizer(models.WordPiece(vocab, **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?[^A-Za-z ]| "), "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = {"bos_token": END, "eos_token": END, "pad_token": padding, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _config(family: str, n_layers: int, vocab_size: int):
    special = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": vocab_size}
    if family == "gpt2":
        sizes = {"n_layer": n_layers, "n_head": 4, "n_embd": 32, "n_positions": MAX_LENGTH}
        return GPT2LMHeadModel, GPT2Config(pad_token_id=0, **sizes, **special)
    if family == "llama":
        sizes = {"num_hidden_layers": n_layers, "hidden_size": 32, "intermediate_size": 64}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": MAX_LENGTH}
        return LlamaForCausalLM, LlamaConfig(pad_token_id=1, **sizes, **special)
    raise ValueError(f"family {family!r} is not one of 'gpt2', 'llama'")


def save_tiny_model(folder: Path, family: str, n_layers: int = 3, seed: int = 0, more_words: str = "") -> Path:
    """Write a random model with its tokenizer. All weights are random, biases and norms too, so that nothing cancels."""
    tokenizer = tiny_tokenizer(UNKNOWN if family == "llama" else END, more_words)
    model_class, config = _config(family, n_layers, len(tokenizer))
    model = model_class(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm_scale = "weight" in name and parameter.ndim == 1
            parameter.copy_(1 + 0.2 * noise if is_norm_scale else 0.3 * noise)
    with no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@functools.cache
def tiny_model(family: str = "gpt2", n_layers: int = 3, seed: int = 0) -> TransformerBridge:
    """A loaded tiny model: 'gpt2' (LayerNorm, biases, learned positions) or 'llama' (RMSNorm, rotary, 4 query and 2
    key/value heads, padding that is not BOS). 3 layers, d_model 32. The same object every time: leave no hooks on it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        model = load_model(str(save_tiny_model(Path(folder), family, n_layers, seed)), device="cpu")
    model.cfg.model_name = f"tiny-{family}"
    return model


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread: for tiny matrices, on a busy machine, a second thread is waited for longer than it works."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
