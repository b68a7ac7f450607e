"""What several exercises of chapter 06 return: a dictionary with given keys, and single numbers in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.checks.core import CheckFailed, require


def entries(result: Any, keys: Sequence[str]) -> Mapping:
    require(
        isinstance(result, Mapping) and set(result) >= set(keys),
        f"what you return: {sorted(result) if isinstance(result, Mapping) else type(result).__name__}",
        f"return a dictionary with the keys {', '.join(keys)}",
    )
    return result


def one_number(value: Any, name: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise CheckFailed(f"{name!r}: {type(value).__name__}", "it should be one number") from None
