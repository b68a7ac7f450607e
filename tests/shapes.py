"""A pytest plugin: the tests run the course's functions with their shapes and types checked, by jaxtyping and beartype.

It must be loaded before anything of `utils` is imported, so `addopts` in pyproject.toml names it first. Without beartype, as
on a learner's machine, nothing is checked. `COURSE_SHAPES=all` checks the modules of NOT_YET as well, and so shows what is left.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from jaxtyping import install_import_hook

UTILS = Path(__file__).resolve().parents[1] / "utils"
PRESS = "course"  # it computes nothing that has a shape
NOT_YET: dict[str, str] = {}  # modules and packages of utils: which annotation is not true. It may only shrink.


def checked() -> list[str]:
    """The modules and packages of `utils` whose functions are checked; a package with all that is in it."""
    left_out = {PRESS, *(() if os.environ.get("COURSE_SHAPES") == "all" else NOT_YET)}
    names = {path.stem for path in UTILS.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    return [f"utils.{name}" for name in sorted(names - left_out - {"__init__"})]


if find_spec("beartype"):
    install_import_hook(checked(), "beartype.beartype")
