"""Build the website: `make site`, or

    python -m utils.course.site.build [CHAPTER ...] [--out build/site]

from the executed notebooks in solutions/, without running anything. Warnings are errors. Afterwards every link between the
pages is followed, with its fragment, and nothing on a page may be loaded from elsewhere. The same notebooks give the same
bytes.
"""

from __future__ import annotations

import argparse
import importlib.resources
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.errors import SphinxError

from utils.course.deriving import ROOT, SOLUTIONS, NotebookError, as_json, sources
from utils.course.site.chapters import chapter_page
from utils.course.site.checking import dead_links, loads_from_elsewhere
from utils.course.site.pages import DOCS, REFERENCE, other_pages
from utils.course.site.slides import write_slides
from utils.plots import circuitsvis_library

SPHINX = {
    "project": "Taking a language model apart, twice",
    "extensions": ["myst_nb", "sphinxcontrib.bibtex", "utils.course.site.mathml"],
    "language": "en",
    "html_theme": "sphinx_book_theme",
    "html_title": "Taking a language model apart, twice",
    "html_theme_options": {
        **dict.fromkeys(("use_download_button", "use_fullscreen_button"), False),
        "show_toc_level": 2,
        "extra_footer": "<p>Text and figures are under CC BY 4.0, code is under the MIT license.</p>",
        "navbar_persistent": [],  # one search field is enough: the sidebar's
    },
    "html_context": {"default_mode": "auto"},
    "html_static_path": ["_static"],
    "html_css_files": ["course.css"],
    "html_js_files": ["course.js"],
    "html_show_search_summary": False,  # it would fetch the pages, which a browser does not do from the disk
    **dict.fromkeys(("html_copy_source", "html_show_sourcelink", "html_show_copyright", "html_show_sphinx"), False),
    "html_math_renderer": "mathml",
    "bibtex_bibfiles": ["references.bib"],
    "bibtex_default_style": "plain",
    "myst_enable_extensions": ["dollarmath", "deflist"],
    "myst_heading_anchors": 4,
    "nb_code_prompt_show": "The cell that finds the course's code",
    "nb_code_prompt_hide": "Hide it again",
    "nb_execution_mode": "off",
    "nb_ipywidgets_js": {},
    "suppress_warnings": ["misc.highlighting_failure"],  # outputs of checks are no Python
}


def write_sources(folder: Path, executed: Mapping[str, NotebookNode], note: str = "") -> None:
    """Everything that Sphinx reads. executed: the solutions with their outputs, by stem, in the order of the course.
    note: markdown for the first page."""
    shutil.rmtree(folder, ignore_errors=True)
    static = folder / "_static"
    static.mkdir(parents=True)
    names = {f"{stem}.ipynb" for stem in executed} | set(REFERENCE)
    for source in sources():
        if source.stem in executed:
            page = chapter_page(source, executed[source.stem], names)
            (folder / f"{source.stem}.ipynb").write_text(as_json(page), encoding="utf-8")
    for name, text in other_pages(executed, note).items():
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "references.bib", folder)
    shutil.copy(SOLUTIONS / "pictures" / "circuit.png", folder)
    for name in ("course.css", "course.js"):
        shutil.copy(DOCS / "site" / name, static)
    plotly = importlib.resources.files("plotly").joinpath("package_data/plotly.min.js").read_text(encoding="utf-8")
    (static / "plotly.min.js").write_text(plotly, encoding="utf-8")
    library = circuitsvis_library().partition(">")[2].rpartition("</script>")[0]
    (static / "circuitsvis.js").write_text(library, encoding="utf-8")


def build_site(out: Path, executed: Mapping[str, NotebookNode], note: str = "", strict: bool = True) -> None:
    """Write the pages and slides into `out`, which is emptied first. note: markdown for the first page.

    strict: raise SphinxError if Sphinx warns of anything.
    """
    work = out.parent / f"{out.name}-work"
    write_sources(work / "source", executed, note)
    shutil.rmtree(out, ignore_errors=True)
    folders = {"srcdir": work / "source", "confdir": None, "outdir": out, "doctreedir": work / "doctrees"}
    app = Sphinx(**folders, buildername="html", confoverrides=SPHINX, status=None, warningiserror=strict, freshenv=True)
    app.build(force_all=True)
    if app.statuscode:
        raise SphinxError("Sphinx warned; see above")
    for leftover in (".buildinfo", "_sources", "objects.inv"):
        shutil.rmtree(out / leftover) if (out / leftover).is_dir() else (out / leftover).unlink(missing_ok=True)
    write_slides(out, executed)
    (out / ".nojekyll").touch()  # GitHub's pages leave out folders such as _static without it
    shutil.rmtree(work)


def read_executed(chapters: Sequence[str]) -> dict[str, NotebookNode]:
    """The executed solutions by stem, all or those named."""
    return {path.stem: nbformat.read(path.with_suffix(".ipynb"), as_version=4) for path in sources(chapters)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.course.site.build", description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="numbers or names; none means all")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site", help="default: build/site")
    given = parser.parse_args(arguments)
    try:
        build_site(given.out.resolve(), read_executed(given.chapters))
    except (NotebookError, SphinxError) as error:
        print(error, file=sys.stderr)
        return 1
    found = [*loads_from_elsewhere(given.out), *dead_links(given.out)]
    print("\n".join(found) or f"the site is in {given.out}; open {given.out / 'index.html'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
