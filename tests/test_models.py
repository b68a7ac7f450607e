"""Which model is loaded, what is said of it, and that its logits are compared with recorded ones."""

import json
import ssl
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tests.model_cases import cut
from utils import models
from utils.models import DEFAULT_EMBEDDED, REGISTRY, ModelError, ModelWarning, load_model
from utils.tiny_models import save_tiny_model


def test_embedded_model_is_what_the_paper_needs(smollm2):
    assert smollm2.cfg.model_name == "smollm2-135m"
    assert (smollm2.cfg.n_layers, smollm2.cfg.n_heads, smollm2.cfg.n_key_value_heads) == (30, 9, 3)
    assert smollm2.W_U.dtype == torch.float32 and not smollm2.training and not torch.is_grad_enabled()
    assert smollm2.W_U.mean(-1).abs().max() < 1e-5, "the unembedding is centered"
    logits = smollm2("When John and Mary went to the shops, John gave the bag to")
    assert smollm2.to_string(logits[0, -1].argmax()) == " Mary"


def test_a_folder_loads_and_says_so(tmp_path, capsys):
    save_tiny_model(tmp_path, "llama")
    model = load_model(str(tmp_path), device="cpu")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1
    assert "asked for" in printed[0] and "from a local folder" in printed[0] and "cpu" in printed[0]
    assert model.cfg.n_key_value_heads == 2


def test_unknown_name_lists_what_there_is():
    with pytest.raises(ModelError, match=r"unknown model 'nonsense'.*gpt2-small.*smollm2-135m"):
        load_model("nonsense")


@pytest.mark.parametrize("name", ["gpt2-small", "someone/some-model"])
def test_hub_name_with_no_hub(name, monkeypatch):
    monkeypatch.setattr(models, "_cached_snapshot", lambda spec: None)
    monkeypatch.setattr(models, "hub_answers", lambda: False)
    with pytest.raises(ModelError, match=rf"{name}.*no hub answered.*smollm2-135m"):
        load_model(name)


@pytest.mark.parametrize(
    ("variable", "cached", "hub", "expected"),
    [
        ("some/thing", True, True, ("some/thing", "COURSE_MODEL")),
        ("", True, False, ("gpt2-small", "cache")),
        ("", False, True, ("gpt2-small", "answers")),
        ("", False, False, ("smollm2-135m", "no hub")),
    ],
)
def test_default_model(variable, cached, hub, expected, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_MODEL", variable)
    monkeypatch.setattr(models, "_cached_snapshot", lambda spec: tmp_path if cached else None)
    monkeypatch.setattr(models, "hub_answers", lambda: hub)
    name, why = models._default_name()
    assert name == expected[0] and expected[1] in why


def test_hub_is_not_asked_when_offline(monkeypatch):
    monkeypatch.setattr(models.huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert models.hub_answers() is False


def test_a_hub_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(models.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(models.huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: time.sleep(5))
    assert models.hub_answers(timeout=0.1) is False


def test_pickled_weights_are_refused(tmp_path):
    save_tiny_model(tmp_path, "gpt2")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors only, never pickled"):
        load_model(str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA; the error is for machines without it")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none(device):
    with pytest.raises(ModelError, match=f"'{device}' was asked for, but torch sees no CUDA"):
        load_model(DEFAULT_EMBEDDED, device=device)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS; the error is for others")
def test_mps_where_there_is_none():
    with pytest.raises(ModelError, match="'mps' was asked for"):
        load_model(DEFAULT_EMBEDDED, device="mps")


def test_unknown_device():
    with pytest.raises(ModelError, match="'tpu' is not one of"):
        load_model(DEFAULT_EMBEDDED, device="tpu")


def test_mps_that_computes_something_else_is_refused():
    class Inverted:
        """A model whose logits change sign once it has moved, as has happened on MPS."""

        sign = 1.0

        def to_tokens(self, text):
            return SimpleNamespace(to=lambda device: None)

        def to(self, device):
            self.sign = -1.0

        def __call__(self, tokens):
            return self.sign * torch.ones(1, 3, 5)

    with pytest.raises(ModelError, match="differ from the CPU's by 2"):
        models._move_to_mps(Inverted())


# --- names, paths, addresses, devices --------------------------------------------------------------------------------


def test_paths_and_torch_devices_are_taken(tmp_path, monkeypatch, capsys):
    save_tiny_model(tmp_path / "tiny", "gpt2")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (tmp_path / "tiny", "~/tiny"):
        assert load_model(name, device=torch.device("cpu")).cfg.model_name == str(name)
    monkeypatch.setenv("COURSE_MODEL", "~/tiny")
    assert load_model().cfg.n_layers == 3 and "named in COURSE_MODEL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://example.org/owner/name/tree/main", "is an address.*'owner/name'"),
        ("example.co/owner/name", "is an address.*'owner/name'"),
        ("https://example.org", "is an address"),
        ("a/b/c", "unknown model 'a/b/c'"),
        ("two words", "unknown model"),
        (3, "3 is a int"),
    ],
)
def test_what_is_no_name_is_told_how_to_be_one(name, words):
    with pytest.raises(ModelError, match=words):
        load_model(name)


@pytest.mark.parametrize("device", ["cpu0", "cuda:x", "", 0])
def test_what_is_no_device(device):
    with pytest.raises(ModelError, match="not one of 'cpu', 'cuda'"):
        load_model(DEFAULT_EMBEDDED, device=device)


def test_colab_takes_the_model_that_the_chapters_were_run_on(monkeypatch):
    monkeypatch.delenv("COURSE_MODEL", raising=False)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr(models, "hub_answers", lambda: True)
    name, why = models._default_name()
    assert name == DEFAULT_EMBEDDED and "load_model('gpt2-small')" in why


@pytest.mark.parametrize(
    "broken",
    [
        LocalEntryNotFoundError("cannot locate the files"),
        TimeoutError("timed out"),
        ssl.SSLError("certificate verify failed"),
        ConnectionError("reset by peer"),
        OSError(28, "No space left on device"),
        RuntimeError("proxy"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_hub_that_drops_out_midway(broken, monkeypatch):
    def download(repo, local_files_only=False, **_):
        raise LocalEntryNotFoundError("not cached") if local_files_only else broken

    monkeypatch.setattr(models, "hub_answers", lambda *args: True)
    monkeypatch.setattr(models.huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match=r"download of model 'gpt2-small' broke off.*load_model\('smollm2-135m'\)"):
        load_model("gpt2-small", device="cpu")


def test_a_cached_model_that_is_not_whole_counts_as_not_cached(tmp_path, monkeypatch):
    cut(save_tiny_model(tmp_path, "gpt2"))
    monkeypatch.setattr(models.huggingface_hub, "snapshot_download", lambda *args, **options: str(tmp_path))
    assert models._cached_snapshot(REGISTRY["gpt2-small"]) is None


# --- tokenizers and recorded logits ----------------------------------------------------------------------------------


def test_a_tokenizer_without_bos_puts_nothing_in_front(tmp_path, capsys):
    save_tiny_model(tmp_path, "llama")
    known = json.loads((tmp_path / "tokenizer.json").read_text())
    vocab = known["model"]["vocab"]
    vocab["<|nothing|>"] = vocab.pop("<|endoftext|>")  # what TransformerLens would put in front is in no vocabulary
    known["added_tokens"] = []
    for path in tmp_path.glob("*token*"):
        path.unlink()
    tokenizer = Tokenizer.from_str(json.dumps(known))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert "no BOS" in capsys.readouterr().out
    tokens = model.to_tokens("When John")
    assert model.to_string(tokens[0]) == "When John" and tokens.max() < model.cfg.d_vocab
    assert model(tokens).isfinite().all()


def test_the_embedded_model_is_compared_with_its_recorded_logits(smollm2, recwarn):
    spec = REGISTRY[DEFAULT_EMBEDDED]
    models._compare_with_recorded(smollm2, spec)
    assert not [warning for warning in recwarn if issubclass(warning.category, ModelWarning)]
    off = replace(spec, logits={**spec.logits, " Paris": spec.logits[" Paris"] + 0.05})
    with pytest.warns(ModelWarning, match=r"differs by 0\.05.*torch .*transformers "):
        models._compare_with_recorded(smollm2, off)


def test_every_wheel_model_has_recorded_logits():
    for spec in REGISTRY.values():
        assert not isinstance(spec, models.WheelModel) or len(spec.logits) >= 3


def test_loading_shows_no_bars_and_no_complaints(tmp_path, capfd):
    save_tiny_model(tmp_path, "gpt2")
    load_model(tmp_path, device="cpu")
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1 and "Loading" not in err and "generation flags" not in err
    assert Path(tmp_path).name in out
