"""Published and recorded figures per model, and `compare`, which sets a computed value beside them.

In `utils/data/reference`, `gpt2-small.toml` holds figures published for gpt2-small, and `smollm2-135m.toml` holds what this
course computed on the embedded model. `python -m utils.reference LOG` records a log of computed values.

Whole numbers, booleans and text agree when they are equal. A number with a fraction agrees when it is off by at most `rel`
times the figure, or by at most `abs`, whichever allows more. A figure may state its own:

    rel   a share of the figure: 0.05 is 5 %
    abs   in the figure's own unit; without a `rel` it is the whole tolerance. Whole numbers may state it, too
    note  why the tolerance is what it is
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from utils.models import DEFAULT_EMBEDDED, DEFAULT_PUBLISHED

FIGURES = files("utils.data") / "reference"
REL = 0.01
ABS = 1e-4  # what float error comes to in these figures, from one thread, version or machine to another
FIELDS = ("value", "rel", "abs", "note", "source")


class ReferenceMismatch(AssertionError):
    """A computed value differs from the figure for this model by more than the stated tolerance."""


@functools.cache
def figures(model_name: str) -> dict[str, dict[str, Any]]:
    """key → {value, and what it states of rel, abs, note, source} of one model; empty for a model with no file.

    Raises ValueError for a field that means nothing, which would otherwise be passed over.
    """
    path = FIGURES / f"{model_name}.toml"
    if not path.is_file():
        return {}
    table = dict(_flatten(tomllib.loads(path.read_text(encoding="utf-8"))))
    for key, entry in table.items():
        if unknown := [field for field in entry if field not in FIELDS]:
            raise ValueError(f"{path.name}, {key}: unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
    return table


def _flatten(table: dict[str, Any], prefix: str = ""):
    for key, value in table.items():
        if isinstance(value, dict) and isinstance(value.get("value", {}), dict):  # a key may end in .value
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def compare(key: str, value: Any, model: TransformerBridge) -> None:
    """Print `value` beside the figure recorded for this model and the one published for gpt2-small.

    value: a number, a string, or a tensor or list of these (compared one by one).
    A value out of tolerance is marked ✗; under CI or COURSE_STRICT=1 it raises ReferenceMismatch, and so does a `key` that
    the embedded model has no figure for: there, everything stated is recorded. COURSE_REFERENCE_LOG names a file to which
    what was compared is appended.
    """
    value = _plain(value)
    name = model.cfg.model_name
    known, published = figures(name).get(key), figures(DEFAULT_PUBLISHED).get(key)
    agrees = known is None or _close(value, known["value"], known)
    parts = [f"{key}: {_show(value)}"]
    if known is None:
        parts.append(f"no figure for {name}")
    else:
        mark = f"{'✓' if agrees else '✗ differs from'} {'published' if name == DEFAULT_PUBLISHED else 'recorded'}"
        parts.append(f"{mark} for {name} {_show(known['value'])} {_tolerance(known)}")
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
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return round(value, 5) if isinstance(value, float) else value


def _allowed(figure: dict[str, Any], known: float) -> tuple[float, float]:
    """(rel, abs) for one number of a figure."""
    if isinstance(known, int) and not {"rel", "abs"} & figure.keys():
        return 0, 0
    return figure.get("rel", 0 if "abs" in figure else REL), figure.get("abs", ABS)


def _close(value: Any, known: Any, figure: dict[str, Any]) -> bool:
    if isinstance(known, list):
        same_length = isinstance(value, list) and len(value) == len(known)
        return same_length and all(_close(v, k, figure) for v, k in zip(value, known, strict=True))
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in (value, known)):
        return type(value) is type(known) and value == known
    if not (math.isfinite(value) and math.isfinite(known)):
        return value == known or (math.isnan(value) and math.isnan(known))
    rel, absolute = _allowed(figure, known)
    return abs(value - known) <= max(rel * abs(known), absolute)


def _numbers(value: Any) -> list:
    """All that is not text, however deep in lists."""
    if isinstance(value, list):
        return [number for one in value for number in _numbers(one)]
    return [] if isinstance(value, (str, bool)) else [value]


def _tolerance(figure: dict[str, Any]) -> str:
    """How a figure is compared, in words: "± 1 % or 0.0001", "± 0.005", "(exact)"."""
    allowed = [_allowed(figure, number) for number in _numbers(figure["value"])]
    rel, absolute = max(allowed, default=(0, 0))
    shown = [f"{100 * rel:g} %"] * bool(rel) + [f"{absolute:g}"] * bool(absolute)
    return f"± {' or '.join(shown)}" if shown else "(exact)"


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
    """Write the values of a COURSE_REFERENCE_LOG into the figures of their models; what else a figure states is kept."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    for name in {row["model"] for row in rows} - {DEFAULT_PUBLISHED}:
        table = dict(figures(name))
        for row in rows:
            if row["model"] == name:
                table[row["key"]] = table.get(row["key"], {}) | {"value": row["value"]}
        lines = [f"# Computed by this course's solution notebooks on {name}; written by python -m utils.reference."]
        for key in sorted(table):
            entry = table[key]
            lines += ["", f"[{key}]", *(f"{field} = {_toml(entry[field])}" for field in FIELDS if field in entry)]
        text = "\n".join(lines) + "\n"
        # what TOML cannot hold (None) stops here, and the file stays as it was
        read_back = dict(_flatten(tomllib.loads(text)))
        odd = [key for key, entry in read_back.items() if set(entry) - set(FIELDS)]
        if lost := sorted(set(table) - set(read_back)) or odd:
            why = "another key begins with it, or it with another; rename one"
            raise ValueError(f"{lost[0]!r} cannot be recorded: {why}")
        (FIGURES / f"{name}.toml").write_text(text, encoding="utf-8")
        print(f"{len(table)} figures for {name}")


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # nan, inf: JSON writes these in another way
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
