"""The mutants of a function: one operator, constant, index, axis, reduction, argument, dtype or statement changed."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial

BINARY = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Div, ast.Mult],
    ast.Mod: [ast.FloorDiv],
    ast.Pow: [ast.Mult],
    ast.MatMult: [],
    ast.BitAnd: [ast.BitOr],
    ast.BitOr: [ast.BitAnd],
}
COMPARED = {
    ast.Lt: [ast.LtE, ast.Gt],
    ast.LtE: [ast.Lt, ast.GtE],
    ast.Gt: [ast.GtE, ast.Lt],
    ast.GtE: [ast.Gt, ast.LtE],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
}
CALLS = {  # a method or function, and what a learner may confuse it with; "" leaves the call out
    "mean": ["sum"],
    "sum": ["mean"],
    "max": ["min"],
    "min": ["max"],
    "argmax": ["argmin"],
    "argmin": ["argmax"],
    "any": ["all"],
    "all": ["any"],
    "abs": [""],
    "clone": [""],
    "flip": [""],
    "unsqueeze": [""],
    "long": ["float"],
    "float": ["half"],
    "double": ["half"],
    "cumsum": ["cumprod"],
    "softmax": ["log_softmax", ""],
    "log_softmax": ["softmax", ""],
    "sorted": ["list", "reversed"],
    "argsort": [""],
    "repeat_interleave": ["repeat"],
    "unbind": [],
    "zeros": ["ones"],
    "zeros_like": ["ones_like"],
    "ones_like": ["zeros_like"],
    "fold": [""],
    "set": ["list"],
    "tril": ["triu"],
    "norm": ["sum"],
    "diagonal": [],
    "median": ["mean"],
}
NAMES = {
    "z": "q",
    "q": "k",
    "k": "q",
    "v": "k",
    "pattern": "attn_scores",
    "resid_pre": "resid_post",
    "resid_post": "resid_pre",
    "attn_out": "mlp_out",
    "mlp_out": "attn_out",
    "resid_mid": "resid_pre",
    "embed": "pos_embed",
}
MOST = 12  # changes of one node
WITHOUT_EFFECT = ("strict", "device")  # on inputs that fit, on one processor


def mutants_of(function: ast.FunctionDef, first: int, last: int) -> Iterator[tuple[str, str]]:
    """(name, source) of every mutant whose change lies on the lines from `first` to `last`."""
    plain, spared, seen = ast.unparse(function), set(map(id, _without_effect(function))), set()
    for node, put in _places(function):
        if id(node) in spared or not first <= getattr(node, "lineno", 0) <= last:
            continue
        before = ast.unparse(node)
        for new in list(_changes(node))[:MOST]:
            put(new)
            source = ast.unparse(function)
            put(node)
            if source not in (plain, *seen) and _compiles(source):
                seen.add(source)
                after = "" if isinstance(new, ast.Pass) else ast.unparse(new)
                yield f"{node.lineno - function.lineno}: {_short(before)} → {_short(after)}", source


def _places(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, Callable[[ast.AST], None]]]:
    """Every node inside a function, from the outside in, and what puts another one in its place."""
    for parent in list(ast.walk(function)):
        for name, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                yield value, partial(setattr, parent, name)
            elif isinstance(value, list):
                places = [(i, item) for i, item in enumerate(value) if isinstance(item, ast.AST)]
                yield from ((item, partial(value.__setitem__, i)) for i, item in places)


def _without_effect(function: ast.FunctionDef) -> list[ast.AST]:
    """Everything inside annotations, and inside the values of keywords that change nothing on inputs that fit."""
    nodes = list(ast.walk(function))
    spared = [node for node in nodes if isinstance(node, ast.keyword) and node.arg in WITHOUT_EFFECT]
    spared += [node.annotation for node in nodes if isinstance(node, ast.arg) and node.annotation]
    spared += [node.returns for node in nodes if isinstance(node, ast.FunctionDef) and node.returns]
    return [inner for node in spared for inner in ast.walk(node)]


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _short(text: str) -> str:
    return " ".join(text.split())[:90]


def _with(node: ast.AST, **values) -> ast.AST:
    new = copy.copy(node)
    for name, value in values.items():
        setattr(new, name, value)
    return new


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may be replaced by."""
    if isinstance(node, ast.BinOp):
        yield from (_with(node, op=op()) for op in BINARY.get(type(node.op), []))
        yield from (node.left, node.right)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield from (_with(node, ops=[op()]) for op in COMPARED[type(node.ops[0])])
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        yield from node.values
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.operand, ast.Constant) and isinstance(node.op, ast.USub):
            yield from (ast.Constant(0), ast.Constant(node.operand.value))
        else:
            yield node.operand
    elif isinstance(node, ast.Constant):
        yield from map(ast.Constant, _other_constants(node.value))
    elif isinstance(node, ast.Call):
        yield from _other_calls(node)
    elif isinstance(node, ast.Subscript):
        yield from _other_subscripts(node)
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp)):
        yield from _without_conditions(node)
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and isinstance(node.ctx, ast.Load):
        yield _with(node, elts=node.elts[::-1])
    elif isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr)):
        yield ast.Pass()
        if isinstance(node, ast.AugAssign):
            yield ast.Assign([node.target], node.value, lineno=node.lineno)
    elif isinstance(node, ast.If):
        yield from (_with(node, test=ast.Constant(value)) for value in (True, False))
    elif isinstance(node, ast.Raise):
        yield ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None:
        yield _with(node, value=ast.Constant(None))
        yield _with(node, value=_method(node.value, "half"))
        yield _with(node, value=_method(node.value, "int"))


def _without_conditions(node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Iterator[ast.AST]:
    for i, loop in enumerate(node.generators):
        if loop.ifs:
            loops = list(node.generators)
            loops[i] = _with(loop, ifs=[])
            yield _with(node, generators=loops)


def _method(value: ast.expr, name: str) -> ast.expr:
    return ast.Call(ast.Attribute(value, name, ast.Load()), [], [])


def _other_constants(value: object) -> list:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value * 2, 0.0 if value else 1.0]
    if isinstance(value, str) and value in NAMES:
        return [NAMES[value]]
    return []


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    attribute = isinstance(node.func, ast.Attribute)
    name = node.func.attr if attribute else getattr(node.func, "id", "")
    for other in CALLS.get(name, []):
        if other:
            yield _with(node, func=_with(node.func, attr=other) if attribute else ast.Name(other, ast.Load()))
        elif attribute and not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("torch", "F", "np")):
            yield node.func.value
        elif node.args:
            yield node.args[0]
    for i, keyword in enumerate(node.keywords):
        if keyword.arg not in WITHOUT_EFFECT:
            yield _with(node, keywords=[*node.keywords[:i], *node.keywords[i + 1 :]])
    if len(node.args) > 1:
        yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
    if node.args and attribute and name in ("mean", "sum", "any", "all", "argmax", "max", "min"):
        yield _with(node, args=node.args[1:])
    if name == "range" and len(node.args) == 1:
        yield _with(node, args=[ast.Constant(1), node.args[0]])
        yield _with(node, args=[ast.BinOp(node.args[0], ast.Sub(), ast.Constant(1))])


def _other_subscripts(node: ast.Subscript) -> Iterator[ast.AST]:
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]

    def rebuilt(new: Sequence[ast.expr]) -> ast.AST:
        return _with(node, slice=ast.Tuple(list(new), ast.Load()) if len(new) > 1 else new[0])

    for i, part in enumerate(parts):
        if isinstance(part, ast.Slice) and (part.lower or part.upper or part.step):
            yield rebuilt([*parts[:i], ast.Slice(), *parts[i + 1 :]])
    for i in range(len(parts) - 1):
        yield rebuilt([*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]])
    if isinstance(node.ctx, ast.Store):
        yield rebuilt([*parts[:-1], ast.Slice()])
