"""The house's own rules: who may import whom, what stays private, how long code may be, one meaning a name.

The tables of exceptions hold what is still to be mended, or what has a reason. They may only shrink: an exception that is
no longer needed fails, too.
"""

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from tests import shapes

ROOT = Path(__file__).resolve().parents[1]
# The rooms, from the ground up. A module imports from its own room and from the rooms before it.
ROOMS = {
    "model": "models loading prompts inference shared_prefix parts assumptions tiny_models data",
    "subjects": "ioi dialect tasks",
    "methods": "attribution heads ablation patching experiment circuits dialect.tracing",
    "results": "stats reference plots widgets atlas dialect.survey dialect.__main__ circuits.report",
}
UPWARD: dict[tuple[str, str], str] = {}  # (module, what it imports): why it may, although the room is above its own
LONGEST_FUNCTION, LONGEST_MODULE = 40, 300
LONG_FUNCTIONS: dict[str, str] = {}  # module.function: who will shorten it
LONG_MODULES: dict[str, str] = {}
SHARED_NAMES = {  # public names that several modules define: why
    "main": "what a module does as a command",
    "ROOT": "the checkout; modules that run before the packages are there cannot import it",
}


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "utils").rglob("*.py"))
}
OF_EXERCISES = (
    "tests.checks",
    "tests.wrong",
    "tests.right",
)  # one module a chapter or half a chapter, whatever it takes
TESTS = {
    module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "tests").rglob("*.py"))
}
TESTS = {module: tree for module, tree in TESTS.items() if not module.startswith(OF_EXERCISES)}
SCIENCE = [module for module in FILES if module != "utils" and not module.startswith("utils.course")]


def lines_of(module):
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return len(path.read_text(encoding="utf-8").splitlines())


def imports(module):
    """(module, name) of everything from the course that a module imports; name is None where it is a whole module."""
    for node in ast.walk(FILES[module]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] in ("utils", "tests"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are written in full, so that one can search for them"
            for alias in node.names if node.module.split(".")[0] in ("utils", "tests") else ():
                whole = f"{node.module}.{alias.name}"
                yield (whole, None) if whole in FILES else (node.module, alias.name)


def room_of(module):
    """The room with the longest name that the module's own begins with: dialect.tracing is not dialect."""
    inside = module.removeprefix("utils.")
    places = [(name, room) for room, names in ROOMS.items() for name in names.split()]
    fitting = [(len(name), room) for name, room in places if f"{inside}.".startswith(f"{name}.")]
    return max(fitting)[1] if fitting else None


# --- imports ------------------------------------------------------------------------------------------------------------


def test_every_module_has_its_room():
    assert [module for module in SCIENCE if room_of(module) is None] == []


def upward(module):
    order = list(ROOMS)
    for there, name in imports(module):
        if there == "utils" or room_of(there) is None or order.index(room_of(there)) > order.index(room_of(module)):
            yield module, there if name is None else f"{there}.{name}"


@pytest.mark.parametrize("module", SCIENCE)
def test_imports_go_one_way(module):
    """Results read methods, methods work on subjects, subjects are put to models. None of them reads the press or tests."""
    new = [f"{module} ({room_of(module)}) imports {what}" for _, what in upward(module) if (module, what) not in UPWARD]
    assert new == []


def test_exceptions_to_the_one_way_are_in_use():
    assert set(UPWARD) <= {pair for module in SCIENCE for pair in upward(module)}


def test_the_package_itself_imports_the_console_only():
    assert list(imports("utils")) == [("utils.course.console", "make_output_safe")]


def test_the_press_imports_no_test_but_the_checks():
    """The registry states the points; the doctor solves one exercise."""
    allowed = {"tests.checks", "tests.solutions"}
    press = [module for module in FILES if module.startswith("utils.course")]
    assert {there for module in press for there, _ in imports(module) if there.startswith("tests")} <= allowed


@pytest.mark.parametrize("module", FILES)
def test_nothing_private_crosses_a_module(module):
    borrowed = {}  # what a whole module is called here → its name
    for node in ast.walk(FILES[module]):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            whole = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            if whole in FILES:
                borrowed[alias.asname or (alias.name if isinstance(node, ast.ImportFrom) else whole)] = whole
    private = [f"{there}.{name}" for there, name in imports(module) if is_private(name or there.split(".")[-1])]
    for node in ast.walk(FILES[module]):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in borrowed:
            private.append(ast.unparse(node))
    assert private == []


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


# --- length -------------------------------------------------------------------------------------------------------------


def code_lines(function):
    """From the first statement behind the docstring to the last."""
    rest = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - rest[0].lineno + 1 if rest else 0


def long_functions():
    for module, tree in (FILES | TESTS).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > LONGEST_FUNCTION:
                yield f"{module}.{node.name}"


def test_functions_are_short():
    assert sorted(long_functions()) == sorted(LONG_FUNCTIONS)


def test_modules_are_short():
    long = {module for module in FILES | TESTS if lines_of(module) > LONGEST_MODULE}
    assert long == set(LONG_MODULES)


# --- names --------------------------------------------------------------------------------------------------------------


def public_names(tree):
    """Functions, classes and constants that a module defines."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name for target in targets for name in ast.walk(target)]
            yield from (name.id for name in names if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store))


def test_one_meaning_a_name():
    """No two modules define the same public name."""
    owners = defaultdict(set)
    for module, tree in FILES.items():
        for name in public_names(tree):
            if not name.startswith("_"):
                owners[name].add(module)
    double = {name: sorted(modules) for name, modules in owners.items() if len(modules) > 1}
    assert {name: modules for name, modules in double.items() if name not in SHARED_NAMES} == {}
    assert set(SHARED_NAMES) <= set(double), "no longer shared: take it out of the table"


# --- names in shapes ------------------------------------------------------------------------------------------------------


def test_no_file_is_excused_from_undefined_names_in_shapes():
    """A shape of one axis is written with a space before it, " batch"; "batch" alone reads as a name that nobody defines."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "F" in settings["select"] and "F821" not in settings["ignore"]
    assert [pattern for pattern, rules in settings["per-file-ignores"].items() if {"F", "F821"} & set(rules)] == []


# axis as nobody spells it → as everybody does
OTHER_SPELLINGS = {
    **{"position": "pos", "seq": "pos", "T": "pos", "B": "batch", "N": "batch", "batch_size": "batch", "D": "d_model"},
    **{
        "H": "head",
        "heads": "head",
        "K": "kv_head",
        "d": "d_head",
        "V": "d_vocab",
        "vocab": "d_vocab",
        "layers": "layer",
    },
}


def test_axes_are_spelled_in_one_way():
    files = [
        *(ROOT / "utils").rglob("*.py"),
        *(ROOT / "tests" / "checks").glob("*.py"),
        *(ROOT / "solutions").glob("*.py"),
    ]
    found = {}
    for path in files:
        for shape in re.findall(r'(?:Float|Int|Bool)\[[\w. ]+, ?"([^"]*)"\]', path.read_text(encoding="utf-8")):
            for axis in {axis.lstrip("#*_") for axis in shape.split()} & OTHER_SPELLINGS.keys():
                found.setdefault(path.relative_to(ROOT).as_posix(), set()).add(f"{axis}: {OTHER_SPELLINGS[axis]}")
    assert found == {}


def test_exceptions_from_checked_shapes_name_modules_that_exist():
    assert set(shapes.NOT_YET) | set(shapes.SHAPES_ONLY) <= shapes.rooms()
    assert "-p tests.shapes -p" in (ROOT / "pyproject.toml").read_text(encoding="utf-8"), "loaded before utils is"


def test_no_table_is_turned_in_a_way_that_old_pandas_gets_wrong():
    """pandas 2.2, which Colab has, puts values into other cells when it unstacks without sorting, and says nothing."""
    files = [*(ROOT / "utils").rglob("*.py"), *(ROOT / "solutions").glob("*.py")]
    assert [
        path.name for path in files if re.search(r"unstack\([^)]*sort=False", path.read_text(encoding="utf-8"))
    ] == []


# --- the chapters' text -------------------------------------------------------------------------------------------------

FOLD = re.compile(r"<details>\s*<summary>(.*?)</summary>(.*?)</details>", re.DOTALL)


@pytest.mark.parametrize("source", sorted((ROOT / "solutions").glob("*.py")), ids=lambda path: path.stem)
def test_every_fold_says_something(source):
    """A mark that was to be filled in later would be shorter, or say so."""
    text = re.sub(r"^# ?", "", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    folds = {title: inner.strip() for title, inner in FOLD.findall(text)}
    assert [title for title, inner in folds.items() if len(inner) < 25] == []
    assert re.findall(r"\b(?:FOLD\d+|TODO|TBD|FIXME|XXX)\b", text) == []
