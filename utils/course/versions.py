"""Do the installed packages fit requirements.txt, and are they the pinned ones of constraints.txt?

python -m utils.course.versions [--bounds]     print what does not fit; exit status 1 if anything
"""

from __future__ import annotations

import importlib.metadata as metadata
import sys
import tomllib
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from utils.course.install import MODEL_WHEEL, ROOT


def requirements(extras: bool) -> list[Requirement]:
    """The course's direct dependencies that apply here; with `extras`, those of JupyterLab and of the tests as well."""
    lines = _lines("requirements.txt")
    if extras:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines += [line for extra in project["optional-dependencies"].values() for line in extra]
    return _applying(lines)


def outside_bounds(extras: bool) -> list[str]:
    """One phrase for every direct dependency that is missing, or whose version requirements.txt does not allow."""
    found = []
    for requirement in requirements(extras):
        version = _installed(requirement.name)
        if version is None:
            found.append(f"{requirement.name} is not installed")
        elif not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} is {version}, the course needs {requirement.specifier}")
    return found


def not_pinned(names: set[str] | None = None) -> list[str]:
    """One phrase for every installed package whose version is not that of constraints.txt; all of them, or `names` only."""
    found, canonical = [], {canonicalize_name(name) for name in names or ()}
    for pin in _applying(_lines("constraints.txt")):
        version, wanted = _installed(pin.name), names is None or canonicalize_name(pin.name) in canonical
        if wanted and version is not None and not pin.specifier.contains(version, prereleases=True):
            found.append(f"{pin.name} is {version}, tested with {str(pin.specifier).removeprefix('==')}")
    return found


def _lines(name: str) -> list[str]:
    lines = [line.split(" #")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", "-"))]


def _applying(lines: Iterable[str]) -> list[Requirement]:
    """The requirements whose markers hold on this system."""
    found = [Requirement(line) for line in lines]
    return [requirement for requirement in found if requirement.marker is None or requirement.marker.evaluate()]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main() -> int:
    found = outside_bounds(extras=True)
    if "--bounds" not in sys.argv:
        weights = Requirement(MODEL_WHEEL)
        fits = _installed(weights.name) is not None and weights.specifier.contains(_installed(weights.name))
        found += not_pinned() + ([] if fits else [f"{MODEL_WHEEL} is not installed"])
    print("\n".join(found) or "the installed packages fit")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
