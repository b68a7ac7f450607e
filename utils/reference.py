"""Published and recorded figures per model, and `compare`, which sets a computed value beside them.

`utils/figures/gpt2-small.toml` holds figures published for gpt2-small; `utils/figures/smollm2-135m.toml` holds what this
course computed on the embedded model. `python -m utils.reference LOG` records a log of computed values.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from utils.models import DEFAULT_EMBEDDED, DEFAULT_PUBLISHED

FIGURES = Path(__file__).parent / "figures"
DEFAULT_TOLERANCE = 0.01


class ReferenceMismatch(AssertionError):
    """A computed value differs from the figure for this model by more than the stated tolerance."""


@functools.cache
def figures(model_name: str) -> dict[str, dict[str, Any]]:
    """key → {value, tolerance, source} of one model; empty for a model with no file."""
    path = FIGURES / f"{model_name}.toml"
    if not path.exists():
        return {}
    return dict(_flatten(tomllib.loads(path.read_text(encoding="utf-8"))))


def _flatten(table: dict[str, Any], prefix: str = ""):
    for key, value in table.items():
        if isinstance(value, dict) and "value" not in value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def compare(key: str, value: Any, model: TransformerBridge) -> None:
    """Print `value` beside the figure recorded for this model and the one published for gpt2-small.

    value: a number, a tensor or list of numbers, a string or list of strings (compared exactly).
    A value out of tolerance is marked ✗; under CI or COURSE_STRICT=1 it raises ReferenceMismatch, and so does a `key` that
    the embedded model has no figure for: there, everything stated is recorded. COURSE_REFERENCE_LOG names a file to which
    what was compared is appended.
    """
    value = _plain(value)
    name = model.cfg.model_name
    known, published = figures(name).get(key), figures(DEFAULT_PUBLISHED).get(key)
    agrees = known is None or _close(value, known["value"], known.get("tolerance", DEFAULT_TOLERANCE))
    parts = [f"{key}: {_show(value)}"]
    if known is not None:
        kind = "published" if name == DEFAULT_PUBLISHED else "recorded"
        parts.append(f"{'✓' if agrees else '✗ differs from'} {kind} for {name} {_show(known['value'])}"
                     + ("" if _is_text(known["value"]) else f" ± {known.get('tolerance', DEFAULT_TOLERANCE):g}"))  # fmt: skip
    else:
        parts.append(f"no figure for {name}")
    if published is not None and name != DEFAULT_PUBLISHED:
        parts.append(f"{DEFAULT_PUBLISHED} {_show(published['value'])} ({published.get('source', 'published')})")
    line = " · ".join(parts)
    print(line if len(line) < 140 else "\n    ".join(parts))
    _log(key, value, name, known is not None, agrees)
    if _strict() and (not agrees or (known is None and name == DEFAULT_EMBEDDED)):
        raise ReferenceMismatch(line)


def _strict() -> bool:
    return any(os.environ.get(variable, "").lower() in ("1", "true") for variable in ("CI", "COURSE_STRICT"))


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, Tensor) or hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def _is_text(value: Any) -> bool:
    return _is_text(value[0]) if isinstance(value, list) and value else isinstance(value, str)


def _close(value: Any, known: Any, tolerance: float) -> bool:
    if isinstance(known, list):
        same_length = isinstance(value, list) and len(value) == len(known)
        return same_length and all(_close(v, k, tolerance) for v, k in zip(value, known, strict=True))
    if isinstance(known, (str, bool)) or isinstance(value, (str, bool, list)):
        return value == known
    return abs(value - known) <= tolerance


def _show(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_show(v) for v in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _log(key: str, value: Any, name: str, known: bool, agrees: bool) -> None:
    if path := os.environ.get("COURSE_REFERENCE_LOG"):
        with open(path, "a", encoding="utf-8") as file:
            row = {"key": key, "value": value, "model": name, "known": known, "agrees": agrees}
            file.write(json.dumps(row) + "\n")


def record(log: Path) -> None:
    """Write the values of a COURSE_REFERENCE_LOG into the figures of their models; tolerances already there are kept."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    for name in {row["model"] for row in rows} - {DEFAULT_PUBLISHED}:
        table = dict(figures(name))
        for row in rows:
            if row["model"] == name:
                old = table.get(row["key"], {})
                table[row["key"]] = {"value": row["value"], "tolerance": old.get("tolerance", DEFAULT_TOLERANCE)}
        lines = [f"# Computed by this course's solution notebooks on {name}; written by python -m utils.reference."]
        for key in sorted(table):
            entry = table[key]
            lines += ["", f"[{key}]", f"value = {json.dumps(entry['value'], ensure_ascii=False)}"]
            lines += [] if _is_text(entry["value"]) else [f"tolerance = {entry['tolerance']:g}"]
        (FIGURES / f"{name}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(table)} figures for {name}")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
