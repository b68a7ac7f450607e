"""Wrong implementations that learners really write: exercise → {a part of the message it must get: the function}."""

from __future__ import annotations

import importlib
import pkgutil

WRONG = {}
for _module in pkgutil.iter_modules(__path__):
    WRONG |= importlib.import_module(f"{__name__}.{_module.name}").WRONG
