"""Fixtures that more than one test module uses, and which modules are tested here."""

from importlib.util import find_spec

import pytest

from utils.loading import DEFAULT_EMBEDDED
from utils.models import load_model
from utils.tiny_models import tiny_model

# Tests of how notebooks are made: they need the maintainers' tools, which a learner's machine does not have.
PRESS = [
    *("test_address.py", "test_house.py", "test_notebooks.py", "test_packaging.py", "test_site.py", "test_run.py"),
    *("test_setup_cell.py", "test_progress.py", "test_submission.py", "test_kit.py", "test_teaching.py"),
]
collect_ignore = [] if find_spec("nbgrader") else PRESS
# What `make check` leaves to `make test`: waiting for other processes, kernels and wheels, and the longest comparisons.
SLOW = """
    two_workers killed scheduler a_worker_that all_workers_vanish test_command[ mosaic_has_a_panel
    of_699_lines of_315_rows memory_stays_under greedy_set every_sweep_reads loops_agree_in_full
    kind_of_drift installed_copy stops_at_the_first_exercise notices_a tests_count_as no_tests_at_all
    every_edge_agrees trial_in_two_orders
    no_check_crashes every_named_mistake equivalent_mutants_exist explain_themselves lab_served kit_grades kit_release
    bytes_by_command opens_it_from_the_disk
""".split()


def pytest_collection_modifyitems(items):
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        fixtures = getattr(item, "fixturenames", ())  # a notebook's cell has none
        if "smollm2" in fixtures or any(isinstance(value, str) and value == "smollm2" for value in parameters):
            item.add_marker("real_model")
        in_browser = "browser" in item.path.parts
        if in_browser:
            item.add_marker("browser")
        if in_browser or any(name in item.name for name in SLOW):
            item.add_marker("slow")


def pytest_report_header():
    if collect_ignore:
        return f"left out, as nbgrader is not installed (pip install -e .[dev] brings it): {', '.join(collect_ignore)}"


def pytest_terminal_summary(terminalreporter):
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "browser" in report.keywords]
    if skipped:
        reason = "there is no Chromium or Chrome here, or a package of the extras `dev` and `lab` is missing"
        terminalreporter.write_line(
            f"{len(skipped)} tests in a browser did NOT run ({reason}); then: make test-browser"
        )


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    """Both tiny models, one after the other."""
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def smollm2():
    """The embedded model: real weights."""
    return load_model(DEFAULT_EMBEDDED)
