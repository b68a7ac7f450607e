"""What is wrong with a folder that should hold a model, found before anything is loaded from it."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import transformers
from safetensors import SafetensorError, safe_open

LFS_POINTER = b"version https://git-lfs"
NEEDED = ("config.json", "*.safetensors", "tokenizer*")


def problem_of(folder: Path) -> str | None:
    """What keeps the model in `folder` from being loaded, to be read behind "model folder …", with the fix; or None.

    Missing files, pickled weights, git-lfs pointers, files that are cut off, shards that are not there, quantized weights.
    """
    missing = [what for what in NEEDED if not any(folder.glob(what))]
    if missing:
        return (
            f"has no {' and no '.join(missing)}; the course loads safetensors only, never pickled weights: save the "
            "model with model.save_pretrained(folder) and tokenizer.save_pretrained(folder)"
        )
    for path in (folder / "config.json", *sorted(folder.glob("tokenizer*")), *sorted(folder.glob("*.safetensors"))):
        if path.is_file() and (problem := _unreadable(path)):
            return problem
    return _missing_shards(folder) or _quantized(folder)


def _unreadable(path: Path) -> str | None:
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return f"was cloned without git-lfs: {path.name} is a pointer to a file; run `git lfs pull` in the folder"
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):  # reads the header and compares the sizes that it states
                pass
    except (ValueError, SafetensorError) as error:
        return f"has a damaged {path.name} ({error}): it is cut off or not what its name says; copy it again"
    return None


def _missing_shards(folder: Path) -> str | None:
    for index in sorted(folder.glob("*.safetensors.index.json")):
        named = set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values())
        if missing := sorted(name for name in named if not (folder / name).exists()):
            return f"lacks {', '.join(missing)}, which {index.name} names; copy all shards of the weights"
    return None


def _quantized(folder: Path) -> str | None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    how = config.get("quantization_config")
    if not how:
        return None
    method = how.get("quant_method", "unknown method") if isinstance(how, dict) else how
    return (
        f"holds quantized weights ({method}), on which TransformerLens cannot fold norms; use the checkpoint that they "
        "were made from, or save a dequantized copy"
    )


class _Complaints(logging.Handler):
    """Collects what transformers says about weights that a checkpoint does not have."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """A row of transformers' table reads "name | MISSING | …"; the sentence below it says what that means."""
        lines = [line for line in record.getMessage().splitlines() if "MISSING" in line or "newly initialized" in line]
        rows = [line.split("|")[0].strip() for line in lines if "|" in line]
        self.found += rows or lines


@contextlib.contextmanager
def loading_complaints() -> Iterator[list[str]]:
    """A list that fills with transformers' complaints about missing weights while a model is loaded: it draws such weights
    at random and goes on. What else it has to say about a load is not shown."""
    logger, handler = transformers.utils.logging.get_logger("transformers"), _Complaints()
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.set_verbosity_warning()
    logger.addHandler(handler)
    try:
        yield handler.found
    finally:
        logger.removeHandler(handler)
        transformers.utils.logging.set_verbosity(verbosity)
        transformers.utils.logging.enable_default_handler()
