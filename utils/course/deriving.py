"""What follows from a chapter's one source, `solutions/NN_name.py` or `start.py`: its executed twin, what learners open.

From the source come its `.ipynb` twin, which keeps its outputs, and both files in `chapters/`. There, solutions are cleared
(nbgrader), cells tagged `solution` are gone (nbconvert), check cells are locked and worth points, and a folded answer, made
from the solution region, stands behind each check. A markdown cell tagged `answer` behind a check explains that answer. The
README's chapter table and the minutes in docs/teaching.md are derived, too; the address of the repository comes from
`[tool.course]` in pyproject.toml, and what the cell tagged `read-next` recommends from references.bib.
"""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import re
import textwrap
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat import NotebookNode
from nbgrader.preprocessors import ClearHiddenTests, ClearSolutions
from pybtex.exceptions import PybtexError

from utils.course.outputs import without_progress_bars
from utils.course.progress import title_of
from utils.course.reading import read_next
from utils.course.setup_cell import MODEL_NOTE, PLACEHOLDER, setup_cell
from utils.course.teaching import RUN_TIMES, read_run_times, with_minutes

ROOT = Path(__file__).resolve().parents[2]
SOLUTIONS, CHAPTERS, CHECKS = (ROOT / name for name in ("solutions", "chapters", "tests/checks"))
STUB = 'raise NotImplementedError("this exercise is not written yet: put your code here")'
FORMAT = "py:percent"
REGION = re.compile(r"^ *### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION", re.DOTALL | re.MULTILINE)
ANSWER = "<details><summary>Answer</summary>\n\n```python\n{code}\n```\n</details>"
TABLE = re.compile(r"(<!-- chapters -->\n).*?(<!-- /chapters -->)", re.DOTALL)
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class NotebookError(RuntimeError):
    """A notebook that cannot be derived, has drifted, or did not run; the message names it."""


def sources(chapters: Sequence[str] = ()) -> list[Path]:
    """The solution sources, all or those whose names begin with one of `chapters` ("start", "03", "03_activation")."""
    found = [*SOLUTIONS.glob("start.py"), *sorted(SOLUTIONS.glob("[0-9][0-9]_*.py"))]
    for name in chapters:
        if not any(path.stem.startswith(name) for path in found):
            raise NotebookError(f"no chapter {name!r}; there are: {', '.join(path.stem for path in found)}")
    return [p for p in found if not chapters or p.stem.startswith(tuple(chapters))]


# --- deriving ---------------------------------------------------------------------------------------------------------


def course() -> dict[str, str]:
    """`[tool.course]` of pyproject.toml: repository and branch."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["course"]


def derived_from(source: Path) -> dict[Path, str]:
    """path → text of every file that follows from one source, the source itself included (some of its cells are derived)."""
    solution = jupytext.read(source, fmt=FORMAT)
    _fill_derived(solution, source)
    _mark(solution)
    chapter = exercises(solution)
    for notebook in (solution, chapter):
        tidy_notebook(notebook)
    twin = SOLUTIONS / f"{source.stem}.ipynb"
    return {
        source: _as_script(solution),
        twin: as_json(_with_outputs(solution, twin)),
        CHAPTERS / source.name: _as_script(chapter),
        CHAPTERS / f"{source.stem}.ipynb": as_json(chapter),
    }


def _fill_derived(notebook: NotebookNode, source: Path) -> None:
    """Write what all notebooks share, and what references.bib recommends, into the cells that are tagged for it."""
    setup = setup_cell(course()["repository"], course()["branch"])
    for tag, text in {"model": MODEL_NOTE, "setup": setup, "read-next": _recommended(source)}.items():
        cells = [cell for cell in notebook.cells if tag in _tags(cell)]
        if len(cells) != bool(text):
            wanted = "one" if text else f"none, as references.bib has no field read-{_chapter(source)}"
            raise NotebookError(f"{source.name}: {len(cells)} cells are tagged {tag!r}; there must be {wanted}")
        if cells:
            cells[0].source = text


def _recommended(source: Path) -> str:
    """What references.bib recommends after this chapter."""
    try:
        return read_next(ROOT / "references.bib", _chapter(source))
    except (PybtexError, ValueError) as error:
        raise NotebookError(f"references.bib: {error}") from error


def _chapter(source: Path) -> str:
    """The chapter's number, or "start"."""
    return source.stem.split("_")[0]


def _mark(notebook: NotebookNode) -> None:
    """nbgrader's metadata: solution cells, and locked check cells with points."""
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        cell.metadata.pop("nbgrader", None)
        is_solution = cell.cell_type == "code" and "### BEGIN SOLUTION" in cell.source
        is_check = _is_check(cell)
        if not (is_solution or is_check):
            continue
        name = re.search(r"def (\w+)" if is_solution else r"(check_\w+)", cell.source)
        grade_id = name[1] if name else "solution"
        seen[grade_id] += 1
        cell.metadata["nbgrader"] = {
            "grade": is_check,
            "grade_id": grade_id if seen[grade_id] == 1 else f"{grade_id}_{seen[grade_id]}",
            "locked": is_check,
            "schema_version": 3,
            "solution": is_solution,
            "task": False,
            **({"points": _points(cell.source)} if is_check else {}),
        }


def _points(source: str) -> int:
    """Points of the check that is called here: stated once, where the check is."""
    name, known = re.match(r"check_(\w+)\(", source)[1], points_of_checks()
    if name not in known:
        raise NotebookError(f"check_{name} is called in a notebook but is not in tests.checks.REGISTRY")
    return known[name]


@functools.cache
def points_of_checks() -> dict[str, int]:
    """Exercise → points, read from the lines @exercise(...) of the checks: importing them would import torch."""
    found = {}
    for path in sorted(CHECKS.glob("ch*.py")):
        for function in ast.parse(path.read_text(encoding="utf-8")).body:
            for call in getattr(function, "decorator_list", ()):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "exercise":
                    given = {keyword.arg: keyword.value for keyword in call.keywords}
                    points = ast.literal_eval(given["points"]) if "points" in given else 1
                    found[function.name.removeprefix("check_")] = points
    return found


def exercises(solution: NotebookNode) -> NotebookNode:
    """What learners get: the answers folded behind their checks, the solutions cleared."""
    notebook, resources = copy.deepcopy(solution), {}
    notebook.cells = _with_answers(notebook.cells)
    for preprocessor in (
        TagRemovePreprocessor(remove_cell_tags={"solution"}, enabled=True),
        ClearSolutions(enforce_metadata=False, code_stub={"python": STUB}),
        ClearHiddenTests(enforce_metadata=False),
    ):
        notebook, resources = preprocessor.preprocess(notebook, resources)
    return notebook


def _with_answers(cells: Sequence[NotebookNode]) -> list[NotebookNode]:
    """The cells, with the answer of each solution region behind its check, and in it the explanation that follows there."""
    found: list[NotebookNode] = []
    regions: list[str] = []
    for cell in cells:
        regions += REGION.findall(cell.source) if cell.cell_type == "code" else []
        if "answer" in _tags(cell) and found and "answer" in _tags(found[-1]):
            found[-1].source = found[-1].source.replace("</details>", f"\n{cell.source}\n</details>")
            continue
        found.append(cell)
        if _is_check(cell) and regions:
            code = "\n\n".join(textwrap.dedent(region).strip("\n") for region in regions)
            found.append(nbformat.v4.new_markdown_cell(ANSWER.format(code=code), metadata={"tags": ["answer"]}))
            regions = []
    return found


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _is_check(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and re.match(r"check_\w+\(", cell.source) is not None


def tidy_notebook(notebook: NotebookNode) -> None:
    """Ids from content, tidy outputs, and no metadata that differs between machines: a diff shows only what changed."""
    seen: Counter[str] = Counter()
    notebook.metadata = nbformat.from_dict(KERNEL)
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] += 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
        kept = {key: cell.metadata[key] for key in ("nbgrader", "tags") if key in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type == "code":
            cell.outputs = without_progress_bars(cell.outputs)  # streams are whole: the client joins their parts


def _with_outputs(notebook: NotebookNode, twin: Path) -> NotebookNode:
    """The notebook with the outputs of those cells of `twin` whose source is still the same (ids are hashes of it).

    The first cell counts as the same whatever address it holds: away from Colab the address changes nothing.
    """
    notebook = copy.deepcopy(notebook)
    before = nbformat.read(twin, as_version=4).cells if twin.exists() else []
    old = {_identity(cell): cell for cell in before}
    for cell in notebook.cells:
        if cell.cell_type == "code" and _identity(cell) in old:
            was = old[_identity(cell)]
            cell.outputs, cell.execution_count = without_progress_bars(was.outputs), was.execution_count
    return notebook


def _identity(cell: NotebookNode) -> str:
    return "setup" if "setup" in _tags(cell) else cell.id


def _as_script(notebook: NotebookNode) -> str:
    plain = copy.deepcopy(notebook)
    filters = {"notebook_metadata_filter": "-all", "cell_metadata_filter": "-nbgrader"}
    plain.metadata = nbformat.from_dict({"jupytext": filters})
    return jupytext.writes(plain, fmt=FORMAT)


def as_json(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook) + "\n"


BADGES = {
    "Colab": "https://colab.research.google.com/assets/colab-badge.svg",
    "Binder": "https://mybinder.org/badge_logo.svg",
}


def links_to(path: str) -> dict[str, str]:
    """Where a file of the repository opens: host → address on the set branch; empty until the course has an address."""
    repository, branch = course()["repository"], course()["branch"]
    if repository.startswith(f"{PLACEHOLDER}/"):
        return {}
    return {
        "Colab": f"https://colab.research.google.com/github/{repository}/blob/{branch}/{path}",
        "Binder": f"https://mybinder.org/v2/gh/{repository}/{branch}?urlpath=lab/tree/{path}",
        "GitHub": f"https://github.com/{repository}/blob/{branch}/{path}",
    }


def readme_table() -> str:
    """The README's chapter table. Once the course has an address, each chapter has links that open it on Colab and Binder."""
    rows = ["| chapter | | |", "|---|---|---|"] if links_to("chapters") else ["| chapter |", "|---|"]
    for source in sources():
        path = f"chapters/{source.stem}.ipynb"
        badges = [f" [![{host}]({BADGES[host]})]({link}) |" for host, link in links_to(path).items() if host in BADGES]
        rows.append("".join([f"| [{title_of(source)}]({path}) |", *badges]))
    return "\n".join(rows) + "\n"


def all_derived(chapters: Sequence[str] = ()) -> dict[Path, str]:
    """path → text of every derived file, of the README with its table, and of the teaching page with its minutes."""
    files = {path: text for source in sources(chapters) for path, text in derived_from(source).items()}
    readme, teaching = ROOT / "README.md", ROOT / "docs" / "teaching.md"
    files[readme] = TABLE.sub(lambda m: m[1] + readme_table() + m[2], readme.read_text(encoding="utf-8"))
    if teaching.exists():
        texts = {_chapter(source): source.read_text(encoding="utf-8") for source in sources()}
        files[teaching] = with_minutes(teaching.read_text(encoding="utf-8"), texts, read_run_times(ROOT / RUN_TIMES))
    return files
