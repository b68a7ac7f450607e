"""Fixtures that more than one test module uses, and which modules are tested here."""

import multiprocessing
from importlib.util import find_spec

import pytest

# Tests of how notebooks are made: they need the maintainers' tools, which a learner's machine does not have.
PRESS = [
    *("test_address.py", "test_house.py", "test_notebooks.py", "test_packaging.py", "test_site.py", "test_run.py"),
    *("test_setup_cell.py", "test_progress.py", "test_submission.py", "test_kit.py", "test_teaching.py"),
    "test_slides.py",
]
collect_ignore = [] if find_spec("nbgrader") else PRESS
# What `make check` leaves to `make test`: what takes more than about a second of a processor, or waits for other processes,
# kernels and wheels. Each word is a part of names of tests, of their modules or of a folder of modules.
SLOW = """
    two_workers killed scheduler a_worker_that all_workers_vanish test_command[ mosaic_has_a_panel survey/
    of_699_lines of_315_rows memory_stays_under greedy_set every_sweep_reads loops_agree_in_full
    test_equals_builtin attn_head_by_pos_every- few_tokens_give several_metrics_are_the_builtins[options padding_and_different
    cannot_reproduce per_prompt_results the_units_of_the_exact_sweep library_on_every_architecture
    every_edge_agrees edges_of_the_embedding plain_arithmetic trial_in_two_orders every_sender_agrees goes_on_where_it_stopped
    whole_difference[midpoint whole_difference[trapezoid prompts_of_unequal_length logits_of_its_answers
    computing_some_positions with_an_index second_run_writes end_to_end_on_tiny_models was_cut_off
    nothing_of_another_file writes_a_page look_like_html_are_shown_as_text does_not_stop_the_others steps_agree_with
    no_check_crashes explain_themselves spoilt_model told_apart equivalent_mutants interval-whole pigeonhole interval_covers
    installed_copy stops_at_the_first_exercise notices_a tests_count_as no_tests_at_all without_torch damaged_cache
    lab_served kit_grades kit_release kit_packages test_site.py test_slides.py saved_notebooks
""".split()
# Checks that run a model hundreds of times: `make check` leaves out the first row, and tries only solutions of the second.
LONG_CHECKS = {
    "get_act_patch_block_every get_act_patch_attn_head_all_pos_every path_patch_to_heads exact_edges": "solution_passes ",
    "edge_patch get_act_patch_resid_pre noising_sweep path_patch_to_logits joint_senders flip_signals": "",
}
for names, also in LONG_CHECKS.items():
    tests = f"{also}mistake_is_named answers_pass".split()
    SLOW += [f"{test}[{name}" for test in tests for name in names.split()]

# Behind the notebooks, which pytest is given first, `make test` starts these modules, or folders of modules: a long one that
# came last would be waited for.
LONGEST = "test_checks test_kit survey report atlas test_tracing patching edges".split()


def pytest_collection_modifyitems(items):
    def place(path):
        if path.suffix != ".py":
            return -1  # a notebook
        return min(
            (LONGEST.index(name) for name in (path.stem, path.parent.name) if name in LONGEST), default=len(LONGEST)
        )

    items.sort(key=lambda item: place(item.path))
    for item in items:
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        fixtures = getattr(item, "fixturenames", ())  # a notebook's cell has none
        if "smollm2" in fixtures or any(isinstance(value, str) and value == "smollm2" for value in parameters):
            item.add_marker("real_model")
        in_browser = "browser" in item.path.parts
        if in_browser:
            item.add_marker("browser")
        if in_browser or any(part in f"{item.path.parent.name}/{item.path.name} {item.name}" for part in SLOW):
            item.add_marker("slow")


def pytest_report_header():
    if collect_ignore:
        return f"left out, as nbgrader is not installed (pip install -e .[dev] brings it): {', '.join(collect_ignore)}"


def pytest_terminal_summary(terminalreporter):
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if report.nodeid.startswith("tests/browser")
    ]
    if skipped:
        reason = "there is no Chromium or Chrome here, or a package of the extras `dev` and `lab` is missing"
        terminalreporter.write_line(
            f"{len(skipped)} tests in a browser did NOT run ({reason}); then: make test-browser"
        )


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    """Both tiny models, one after the other."""
    from utils.tiny_models import tiny_model  # here and below: what hands out the tests (-n 2) imports no torch

    return tiny_model(request.param)


@pytest.fixture(scope="session")
def smollm2():
    """The embedded model: real weights."""
    from utils.loading import DEFAULT_EMBEDDED
    from utils.models import load_model

    return load_model(DEFAULT_EMBEDDED)


@pytest.fixture
def workers_by_fork():
    """Dask's workers are forks of one process that has imported what they need, and start within a second. The atlas
    of two workers and the survey's command are tested with workers as the course starts them, each a Python of its own."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        yield
        return
    dask, distributed = pytest.importorskip("dask"), pytest.importorskip("distributed.utils")
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        imported = ["distributed", "tests.atlas.test_workers", "tests.survey.test_runs"]
        distributed.get_mp_context().set_forkserver_preload(imported)
        yield
