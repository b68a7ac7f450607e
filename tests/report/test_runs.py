"""The report: what it runs, what it keeps, and what it does when something fails."""

import re
import shutil

import pytest

from tests.report.cases import SMALL, loads_nothing
from tests.report.task_models import task_model, write_csv
from utils.circuits import report
from utils.circuits.report import ReportSettings, make_circuit_report, seeing
from utils.circuits.report.stored import settings_digest, steps_folder
from utils.circuits.report.words import advice
from utils.tasks import TASKS, task_file

STEPS = ("behavior", "attribution", "patching", "paths", "circuit")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with a finished report on the CSV, report.html, and its steps: the small GPT-2's."""
    folder = tmp_path_factory.mktemp("whole")
    make_circuit_report(write_csv(folder / "pairs.csv"), task_model("gpt2"), folder / "report.html", SMALL)
    return folder


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of the finished report, to harm."""
    shutil.copytree(whole, tmp_path / "finished")
    return tmp_path / "finished" / "report.html"


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", TASKS)
def test_each_task_end_to_end_on_tiny_models(name, family, tmp_path):
    model, out = task_model(family), tmp_path / "report.html"
    results = make_circuit_report(task_file(name), model, out, SMALL)
    page = out.read_text(encoding="utf-8")
    assert tuple(results) == STEPS and not [step for step in results if "skipped" in results[step]]
    assert [int(n) for n in re.findall(r"<h2>(\d) · ", page)] == [1, 2, 3, 4, 5, 6]
    assert page.count("<figure>") == 9 and page.count("Before you quote this") == 6 and "nan" not in page
    assert loads_nothing(page) and len(page) < 400_000 and "Go on with care." in page
    attribution, behavior = results["attribution"], results["behavior"]
    assert sum(attribution["clean_parts"]) == pytest.approx(behavior["clean_mean"], abs=1e-4)
    assert attribution["clean_own"][-1] == pytest.approx(behavior["clean_mean"], abs=1e-4)
    assert attribution["clean_final"][-1] == pytest.approx(behavior["clean_mean"], abs=1e-4)
    assert set(results["circuit"]["random"]) and {
        len(one["draws"]) for one in results["circuit"]["random"].values()
    } == {19}
    assert not set(results["patching"]["lines"]) & set(results["circuit"]["lines"])


def test_a_second_run_writes_the_same_bytes_and_computes_nothing(csv, tmp_path, monkeypatch):
    model = task_model("llama")
    for out in ("one.html", "two.html"):
        make_circuit_report(csv, model, tmp_path / out, SMALL)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    for step in STEPS:
        monkeypatch.setattr(report, f"{step}_step", lambda *_: pytest.fail("computed again"))
    before = (tmp_path / "one.html").read_bytes()
    (tmp_path / "one.html").unlink()
    make_circuit_report(csv, model, tmp_path / "one.html", SMALL)
    assert (tmp_path / "one.html").read_bytes() == before


@pytest.mark.parametrize("cut", STEPS[1:])
def test_a_run_that_was_cut_goes_on_where_it_stopped(cut, csv, tmp_path, whole, monkeypatch):
    model, out, called = task_model("gpt2"), tmp_path / "report.html", []
    for step in STEPS:
        compute = getattr(report, f"{step}_step")

        def counted(*given, compute=compute, step=step):
            called.append(step)
            if step == cut and called.count(cut) == 1:
                raise KeyboardInterrupt
            return compute(*given)

        monkeypatch.setattr(report, f"{step}_step", counted)
    with pytest.raises(KeyboardInterrupt):
        make_circuit_report(csv, model, out, SMALL)
    assert not out.exists()
    make_circuit_report(csv, model, out, SMALL)
    assert called == [*STEPS[: STEPS.index(cut) + 1], *STEPS[STEPS.index(cut) :]]
    assert out.read_bytes() == (whole / "report.html").read_bytes()


def test_a_file_that_was_cut_off_is_computed_again(csv, finished):
    model, out = task_model("gpt2"), finished
    (file,) = steps_folder(out).glob("*/paths.json")
    whole, page = file.read_text(), out.read_bytes()
    file.write_text(whole[: len(whole) // 2])
    make_circuit_report(csv, model, out, SMALL)
    assert file.read_text() == whole and out.read_bytes() == page
    assert not list(steps_folder(out).glob("**/*.partial"))


def test_nothing_of_another_file_model_or_setting_is_taken(csv, finished):
    data, model = csv.read_bytes(), task_model("gpt2")
    other_weights = task_model("gpt2", seed=1)
    assert other_weights.cfg.model_name == model.cfg.model_name
    given = [
        (data, model, SMALL),
        (data + b"\n", model, SMALL),
        (data, task_model("llama"), SMALL),
        (data, other_weights, SMALL),
        (data, model, ReportSettings(anyway=True, pairs=4, test_pairs=4, n_random=19, most=2, seed=1)),
    ]
    assert len({settings_digest(*each) for each in given}) == len(given)
    first = make_circuit_report(csv, model, finished, SMALL)  # read, not computed
    second = make_circuit_report(csv, other_weights, finished, SMALL)
    assert (
        first["behavior"]["clean"] != second["behavior"]["clean"] and len(list(steps_folder(finished).iterdir())) == 2
    )


def test_it_stops_where_the_model_cannot_do_the_task_with_advice(csv, tmp_path):
    results = make_circuit_report(csv, task_model("gpt2"), tmp_path / "report.html", ReportSettings())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert tuple(results) == ("behavior",) and results["behavior"]["stop"]
    assert "<strong>Stop here.</strong>" in page and "--anyway" in page and "Which parts write" not in page
    assert loads_nothing(page)


@pytest.mark.parametrize(
    ("clean", "difference", "share", "said"),
    [
        ([0.1, 2.0], [0.5, 2.0], 0.9, ""),
        ([0.0, 2.0], [0.5, 2.0], 0.9, "does not lie above zero"),
        ([-1.0, 2.0], [0.5, 2.0], 0.9, "does not lie above zero"),
        ([0.1, 2.0], [0.5, 2.0], 0.5, "only 50% of the pairs"),
        ([0.1, 2.0], [-0.5, 2.0], 0.9, "The corruption hardly changes the answer"),
    ],
)
def test_the_stopping_rule(clean, difference, share, said):
    found = seeing.stopping_reason(clean, difference, share)
    assert said in found and bool(found) == bool(said)


def test_advice_fits_the_numbers():
    good = {"mass": 0.5, "corrupted_mean": -1.0, "clean_mean": 1.0}
    assert len(advice(good)) == 3
    assert any("natural as" in line for line in advice(good | {"mass": 0.01}))
    assert any("on corrupted prompts as well" in line for line in advice(good | {"corrupted_mean": 0.9}))
