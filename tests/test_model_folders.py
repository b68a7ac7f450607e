"""Folders that cannot be loaded are named, with what is wrong with them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.model_cases import cut
from utils.models import ModelError, load_model
from utils.tiny_models import save_tiny_model


def _pointer(folder):
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 540000000\n"
    (folder / "model.safetensors").write_text(text)


def _tokenizer_pointer(folder):
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def _empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def _cut_config(folder):
    (folder / "config.json").write_text((folder / "config.json").read_text()[:40])


def _lost_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def _lost_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _nan_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _no_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def _config(**changes):
    def change(folder):
        known = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | changes))

    return change


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (_pointer, "git lfs pull"),
        (_tokenizer_pointer, r"tokenizer\.json is a pointer.*git lfs pull"),
        (cut, r"damaged model\.safetensors.*copy it again"),
        (_empty, r"damaged model\.safetensors.*copy it again"),
        (_cut_config, r"damaged config\.json"),
        (_lost_shard, r"lacks model-00002-of-00002\.safetensors"),
        (_lost_weight, r"lacks 1 weight.*up_proj"),
        (_nan_weight, "nan or infinite"),
        (_no_tokenizer, r"no tokenizer"),
        (_config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantized weights \(gptq\)"),
        (_config(model_type="nonesuch", architectures=["NonesuchForCausalLM"]), "cannot be loaded.*nonesuch"),
        (_config(num_attention_heads=3), "cannot be loaded"),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_a_folder_that_cannot_be_loaded_is_named_with_the_reason(harm, words, tmp_path):
    harm(save_tiny_model(tmp_path, "llama"))
    with pytest.raises(ModelError, match=words) as raised:
        load_model(tmp_path, device="cpu")
    assert str(tmp_path) in str(raised.value)


def test_a_file_in_place_of_its_folder(tmp_path):
    save_tiny_model(tmp_path, "gpt2")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load_model(tmp_path / "model.safetensors")
