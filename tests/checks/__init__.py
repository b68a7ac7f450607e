"""The checks that learners call: `check_<exercise>(your_function)` prints what held or raises `CheckFailed`.

Every chapter's module is imported here, so that `REGISTRY` lists every exercise.
"""

import importlib
import pkgutil

from tests.checks.core import REGISTRY, CheckFailed
from utils.course.console import make_output_safe

make_output_safe()
for _module in pkgutil.iter_modules(__path__):
    if _module.name.startswith("ch"):
        importlib.import_module(f"{__name__}.{_module.name}")
globals().update({f"check_{name}": exercise.check for name, exercise in REGISTRY.items()})

__all__ = ["REGISTRY", "CheckFailed", *(f"check_{name}" for name in REGISTRY)]
