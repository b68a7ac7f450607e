"""Fixtures that more than one test module uses, and which modules are tested here."""

from importlib.util import find_spec

import pytest

from utils.loading import DEFAULT_EMBEDDED
from utils.models import load_model
from utils.tiny_models import tiny_model

# Tests of how notebooks are made: they need the maintainers' tools, which a learner's machine does not have.
PRESS = ["test_notebooks.py", "test_pages.py", "test_run.py", "test_setup_cell.py"]
collect_ignore = [] if find_spec("nbgrader") else PRESS

# What `make check` leaves to `make test`: other processes, kernels and wheels, and the longest comparisons.
SLOW = ["test_atlas.py", "test_packaging.py", "test_patching.py", "test_solutions_patching.py", "test_embedded.py"]


def pytest_collection_modifyitems(items):
    for item in items:
        if "smollm2" in getattr(item, "fixturenames", ()):
            item.add_marker("real_model")
        if item.path.name in SLOW or "stops_at_the_first_exercise" in item.name:
            item.add_marker("slow")


def pytest_report_header():
    if collect_ignore:
        return f"left out, as nbgrader is not installed (pip install -e .[dev] brings it): {', '.join(collect_ignore)}"


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    """Both tiny models, one after the other."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def smollm2():
    """The embedded model: real weights."""
    return load_model(DEFAULT_EMBEDDED)
