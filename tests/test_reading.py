"""What to read next: from references.bib into the notebooks, and nothing of it typed by hand."""

import shutil
import subprocess
import sys

import pytest

pytest.importorskip("pybtex", reason="pybtex is not installed; pip install -e .[dev] brings it")
pytest.importorskip("nbgrader", reason="nbgrader is not installed; pip install -e .[dev] brings it")

import nbformat

from utils.course import deriving, notebooks
from utils.course.deriving import ROOT, NotebookError
from utils.course.reading import read_next

LIBRARY = r"""
% a comment
@misc{one2020lens,
  author = {{nostalgebraist}},
  title = {interpreting {GPT}: the lens},
  year = 2020,
  url = {https://example.org/lens},
  read-02 = {It says ``read'' and takes 5 \% of an evening.},
}
@article{two2024patching, author = "Heimersheim, Stefan and van den Berg, Ada", year = {2024},
  title = {How to use a {patch}}, eprint = {2404.15255}, archivePrefix = {arXiv},
  read-02 = {It is short
    and good.}, read-start = {Begin here.}}
@inproceedings{three2021atp,
  author = {{Daum{\'e} III}, Hal and Kram{\'a}r, J{\'a}nos and Lieberum, Tom},
  title = {{AtP*}: a_b},
  year = {2021},
  doi = {10.1016/S0022-5371(73)80014-3},
  eprint = {2403.00745},
  read-02 = {It comes third.},
}
@misc{four2020none, author = {Doe, J.}, title = {Not recommended}, year = {2020}, url = {https://example.org}}
"""


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "references.bib"
    path.write_text(LIBRARY, encoding="utf-8")
    return path


def test_recommendations_name_who_when_what_where_and_why_in_the_order_of_the_file(library):
    assert read_next(library, "02").splitlines() == [
        "**Read next**",
        "",
        "- nostalgebraist 2020, [interpreting GPT: the lens](https://example.org/lens). "
        "It says “read” and takes 5 % of an evening.",
        "- Heimersheim and van den Berg 2024, [How to use a patch](https://arxiv.org/abs/2404.15255). "
        "It is short and good.",
        r"- Daumé III et al. 2021, [AtP\*: a\_b](https://doi.org/10.1016/S0022-5371(73)80014-3). It comes third.",
    ]
    assert read_next(library, "start").count("\n- ") == 1
    assert read_next(library, "05") == ""


@pytest.mark.parametrize(
    "field", ["year = 2020,", "title = {interpreting {GPT}: the lens},", "author = {{nostalgebraist}},"]
)
def test_a_recommended_entry_without_a_part_is_named(library, field):
    library.write_text(LIBRARY.replace(field, ""), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"one2020lens is recommended and lacks its {field.split()[0]}"):
        read_next(library, "02")


def test_a_recommended_entry_without_an_address_is_named(library):
    library.write_text(LIBRARY.replace("  url = {https://example.org/lens},\n", ""), encoding="utf-8")
    with pytest.raises(ValueError, match=r"one2020lens .* a doi, eprint or url"):
        read_next(library, "02")


# --- in the notebooks -------------------------------------------------------------------------------------------------


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A course of one chapter, whose derived files are as they should be."""
    for folder in ("solutions", "chapters"):
        (tmp_path / folder).mkdir()
        for path in (ROOT / folder).glob("01_ioi_task.*"):
            shutil.copy(path, tmp_path / folder)
    for name in ("pyproject.toml", "README.md", "references.bib"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.setattr(deriving, "ROOT", tmp_path)
    monkeypatch.setattr(deriving, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(deriving, "CHAPTERS", tmp_path / "chapters")
    notebooks.sync([], execute_too=False)
    assert notebooks.problems() == []
    return tmp_path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_check_fails_once_the_library_says_something_else_and_sync_brings_it_in(course):
    edit(course / "references.bib", "Sections 1 and 2 introduce the task", "Section 17 introduces the task")
    stale = [problem.split(":")[0] for problem in notebooks.problems()]
    names = {f"{folder}/01_ioi_task.{kind}" for folder in ("solutions", "chapters") for kind in ("py", "ipynb")}
    assert set(stale) == names
    notebooks.sync([], execute_too=False)
    assert notebooks.problems() == []
    for name in names:
        assert "Section 17 introduces the task" in (course / name).read_text(encoding="utf-8")


def test_what_is_typed_into_the_cell_is_replaced(course):
    source = course / "solutions/01_ioi_task.py"
    edit(source, "# **Read next**", "# **Read next** whatever you like")
    assert any(problem.startswith("solutions/01_ioi_task.py: differs") for problem in notebooks.problems())
    notebooks.sync([], execute_too=False)
    assert "whatever you like" not in source.read_text(encoding="utf-8") and notebooks.problems() == []


def test_learners_get_the_list_in_a_cell_of_its_own_and_outputs_stay(course):
    chapter = nbformat.read(course / "chapters/01_ioi_task.ipynb", as_version=4)
    (cell,) = (cell for cell in chapter.cells if "read-next" in cell.metadata.get("tags", []))
    assert cell.cell_type == "markdown" and cell.source == read_next(course / "references.bib", "01")
    edit(course / "references.bib", "Sections 1 and 2 introduce the task", "Section 17 introduces the task")
    before = nbformat.read(course / "solutions/01_ioi_task.ipynb", as_version=4)
    notebooks.sync([], execute_too=False)
    after = nbformat.read(course / "solutions/01_ioi_task.ipynb", as_version=4)
    assert [c.outputs for c in after.cells if c.cell_type == "code"] == [
        c.outputs for c in before.cells if c.cell_type == "code"
    ]


@pytest.mark.parametrize("times, there", [(0, "there must be one"), (2, "2 cells are tagged")])
def test_a_chapter_that_is_recommended_something_has_one_place_for_it(course, times, there):
    place = '# %% [markdown] tags=["read-next"]\n'
    edit(course / "solutions/01_ioi_task.py", place, "# %% [markdown]\n" if times == 0 else 2 * f"{place}# x\n\n")
    with pytest.raises(NotebookError, match=there):
        notebooks.problems()


def test_a_place_for_which_the_library_has_nothing_is_named(course):
    edit(course / "references.bib", "read-01 =", "unread-01 =")
    with pytest.raises(
        NotebookError, match=r"1 cells are tagged 'read-next'; there must be none, as .* no field read-01"
    ):
        notebooks.problems()


@pytest.mark.parametrize(
    "old, new, why",
    [
        ("@misc{nanda2022demo,", "@misc{wang2022ioi,", "repeated bibliography entry: wang2022ioi"),
        ("  year = {2022},\n", "  year = {2022}\n", "syntax error in line"),
        ("data set.}", "data \\emph{set}.}", "holds a LaTeX command"),
    ],
)
def test_a_library_that_cannot_be_read_is_said_in_one_line(course, monkeypatch, capsys, old, new, why):
    edit(course / "references.bib", old, new)
    monkeypatch.setattr(sys, "argv", ["notebooks", "check"])
    assert notebooks.main() == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("references.bib: ") and why in said and len(said.splitlines()) == 1


def test_the_press_derives_a_chapter_and_reads_the_library_without_torch():
    code = (
        "import sys; from utils.course import deriving\n"
        "assert deriving.derived_from(deriving.SOLUTIONS / '00_hooks_and_caches.py')\n"
        "from utils.course.reading import read_next\n"
        "assert read_next(deriving.ROOT / 'references.bib', '00')\n"
        "assert 'torch' not in sys.modules and 'transformer_lens' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
