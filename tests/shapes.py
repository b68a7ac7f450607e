"""A pytest plugin: the tests run the course's functions with their shapes and types checked, by jaxtyping and beartype.

It must be loaded before anything of `utils` is imported, so `addopts` in pyproject.toml names it first. Without beartype,
as on a learner's machine, nothing is checked. `COURSE_SHAPES=all` checks the modules of NOT_YET as well: it shows what is
left to be mended.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from jaxtyping import install_import_hook

UTILS = Path(__file__).resolve().parents[1] / "utils"
PRESS = "utils.course"  # it computes nothing that has a shape
# These refuse wrong types in their own words, and tests hand them wrong types to read those words. Only shapes are checked.
SHAPES_ONLY = ("utils.dialect", "utils.models", "utils.prompts", "utils.inference", "utils.reference")
# jaxtyping's hook compiles from its source whatever is first imported within a module of ours, and keeps none of it where no
# bytecode is written. So the large libraries come first: they take five seconds of a processor in place of twenty.
LARGE = "beartype transformer_lens.model_bridge scipy.stats pandas plotly.express ipywidgets distributed".split()
NOT_YET: dict[str, str] = {}  # module or package: why it is not checked. It may only shrink.


def every_annotation(function: Callable) -> Callable:
    """beartype; a whole number is as good as a float."""
    from beartype import BeartypeConf, beartype

    return beartype(conf=BeartypeConf(is_pep484_tower=True))(function)


def shapes_only(function: Callable) -> Callable:
    """beartype on those annotations that state a shape."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if "jaxtyping." in repr(hint)}
    return every_annotation(function)


def rooms() -> set[str]:
    """The modules and packages directly in `utils`, without the press."""
    found = {path.stem for path in UTILS.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    return {f"utils.{name}" for name in found - {"__init__"}} - {PRESS}


if find_spec("beartype"):
    checked = rooms() - set(() if os.environ.get("COURSE_SHAPES") == "all" else NOT_YET)
    install_import_hook(sorted(checked - set(SHAPES_ONLY)), "tests.shapes.every_annotation")
    install_import_hook(sorted(checked & set(SHAPES_ONLY)), "tests.shapes.shapes_only")


def pytest_sessionstart(session) -> None:
    """Before the tests are collected. A process that only hands them out to others (-n 2) needs none of it."""
    hands_out = session.config.getoption("numprocesses", None) and not hasattr(session.config, "workerinput")
    if find_spec("beartype") and not hands_out:
        for name in LARGE:
            import_module(name)
