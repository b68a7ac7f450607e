"""Unusual right answers that a check must accept: exercise → {what is unusual: the function}."""

from __future__ import annotations

import importlib
import pkgutil

RIGHT: dict[str, dict] = {}
for _module in pkgutil.iter_modules(__path__):
    RIGHT |= importlib.import_module(f"{__name__}.{_module.name}").RIGHT
