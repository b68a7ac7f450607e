"""The functions of a solution notebook, without running the notebook."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

SOLUTIONS = Path(__file__).resolve().parents[1] / "solutions"


@functools.cache
def solution_functions(chapter: str) -> dict[str, Callable[..., Any]]:
    """name → function of `solutions/<chapter>_*.py`: its imports, UPPER_CASE constants and definitions, executed."""
    (path,) = SOLUTIONS.glob(f"{chapter}_*.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if _is_definition(node)]
    namespace: dict[str, Any] = {"__name__": f"solutions_{chapter}"}
    exec(compile(tree, str(path), "exec"), namespace)
    return {name: value for name, value in namespace.items() if callable(value)}


def _is_definition(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Name) and target.id.isupper() for target in node.targets)
    return isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef))
