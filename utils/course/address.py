"""Write the course's address (owner/name of its repository) wherever it stands.

    make address REPOSITORY=owner/name [BRANCH=main]      or: python -m utils.course.address owner/name [--branch main]

It stands in `[tool.course]` of pyproject.toml and in CITATION.cff. The README's links and the notebooks' first cells are
derived from pyproject.toml.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

from utils.course import deriving, notebooks
from utils.course.setup_cell import PLACEHOLDER

REPOSITORY = re.compile(r"(?P<owner>[A-Za-z0-9][A-Za-z0-9_-]{0,38})/(?P<name>[A-Za-z0-9._-]{1,100})")
BRANCH = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/-]*")
LINK = re.compile(r"(?:\w+://[^/]+/|[^/@]+@[^:]+:)(?P<repository>[^/]+/[^/]+?)(?:\.git)?/?")
CITED = re.compile(r'(?m)^repository-code: ".*"\n')


class AddressError(ValueError):
    """An address that cannot be one; the message names it and says what it should look like."""


def write_address(repository: str, branch: str = "main") -> None:
    """Put the address into pyproject.toml and CITATION.cff, and derive what follows from it.

    Raises AddressError, before anything is written, for what is no address.
    """
    _require(repository, branch)
    settings = deriving.ROOT / "pyproject.toml"
    text = settings.read_text(encoding="utf-8")
    for key, value in (("repository", repository), ("branch", branch)):
        text, count = re.subn(rf'(?m)^{key} = "[^"]*"$', f'{key} = "{value}"', text)
        if count != 1:
            raise AddressError(f'pyproject.toml has {count} lines `{key} = "…"`; [tool.course] must have one')
    settings.write_text(text, encoding="utf-8")
    citation = deriving.ROOT / "CITATION.cff"
    cited = CITED.sub("", citation.read_text(encoding="utf-8")).rstrip("\n")
    citation.write_text(f'{cited}\nrepository-code: "https://github.com/{repository}"\n', encoding="utf-8")
    notebooks.sync([], execute_too=False)


def _require(repository: str, branch: str) -> None:
    found = REPOSITORY.fullmatch(repository)
    if not found or found["name"] in (".", "..") or found["name"].endswith(".git"):
        link = LINK.fullmatch(repository)
        example = "for example jane-doe/mechinterp-course, with letters, digits, - _ and ."
        raise AddressError(f"{repository!r} is not owner/name: {link['repository'] if link else example}")
    if found["owner"] == PLACEHOLDER:
        raise AddressError(f"{repository!r} is the placeholder; give the owner and name of your own repository")
    if not BRANCH.fullmatch(branch):
        raise AddressError(f"{branch!r} is not the name of a branch, such as main")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m utils.course.address", description=__doc__.splitlines()[0])
    parser.add_argument("repository", help="owner/name")
    parser.add_argument("--branch", default="main", help="default: main")
    given = parser.parse_args(arguments)
    try:
        write_address(given.repository, given.branch)
    except (AddressError, deriving.NotebookError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
