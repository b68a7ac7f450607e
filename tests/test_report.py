"""The report on a CSV of pairs: every task end to end on tiny models, resumed after a cut, the same to the byte."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from tests.report_fixtures import GOOD, HEADER, save_task_model, task_model, write_csv
from utils.attribution import logit_diff
from utils.circuits import report
from utils.circuits.report import ReportSettings, command, make_circuit_report, read_report_task, searching, seeing
from utils.circuits.report.circuit_words import matched_random_p, read_circuit
from utils.circuits.report.stored import StepStore, as_plain, settings_digest, steps_folder
from utils.circuits.report.svg import bars_svg, heatmap_svg, lines_svg, points_svg
from utils.circuits.report.words import advice, head_list, read_paths
from utils.experiment import run_experiment
from utils.inference import end_logits
from utils.patching import get_act_patch_attn_head_out_all_pos, get_act_patch_resid_pre
from utils.tasks import TASKS, task_csv, task_file

SMALL = ReportSettings(anyway=True, pairs=4, test_pairs=4, n_random=19, most=2)
STEPS = ("behavior", "attribution", "patching", "paths", "circuit")
LONELY = "John Tom Anna Paul Kate Jane Luke Ruth".split()
UNALIGNED = [f"{name} went to the shop,{name} and Tom went to the shop, Mary, John" for name in LONELY]


class Loads(HTMLParser):
    """Whatever a page would ask somebody for, and its scripts."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        asking = {"src", "href", "xlink:href", "srcset", "action", "data", "poster", "background"}
        self.found += [(tag, name, value) for name, value in attributes if name in asking]
        self.found += [(tag, "", "")] * (tag in ("script", "link", "iframe", "object", "embed", "img", "base"))


def loads_nothing(page):
    without_names = page.replace('xmlns="http://www.w3.org/2000/svg"', "")
    return not Loads(page).found and not re.search(r"https?:|@import|url\(|//\w+\.\w", without_names)


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "pairs.csv")


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


# --- pairs that cannot be patched, and shapes -----------------------------------------------------------------------------


def test_unaligned_pairs_are_attributed_and_what_cannot_be_done_is_said(tmp_path):
    path = write_csv(tmp_path / "pairs.csv", [*UNALIGNED, *GOOD[:2]])
    results = make_circuit_report(path, task_model("llama"), tmp_path / "report.html", SMALL)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for step in ("patching", "paths", "circuit"):
        assert (
            "Only 2 of 10 pairs" in results[step]["skipped"]
            and "Lines 2, 3, 4, 5, 6, 7, 8, 9:" in results[step]["skipped"]
        )
    assert results["attribution"]["largest_error"] < 1e-4 and page.count("<strong>Not done.</strong>") == 3


def test_shapes_with_one_pair_each_are_named(tmp_path):
    rows = [f"{row},{i}" for i, row in enumerate(GOOD)]
    task = read_report_task(write_csv(tmp_path / "p.csv", rows, f"{HEADER},template"), task_model("gpt2"), SMALL)
    assert not task.can_patch and "fall into 10 shapes" in searching.unaligned_reason(task)


def test_halves_are_balanced_and_apart(tmp_path):
    path = tmp_path / "capitals.csv"
    path.write_text(task_csv("capitals"), encoding="utf-8")
    task = read_report_task(path, task_model("gpt2"), ReportSettings(pairs=9, test_pairs=12))
    found, tested = task.halves
    assert len(found) == 9 and len(tested) == 12 and not set(found) & set(tested)
    for half in (found, tested):
        counts = np.unique([task.rows[i].template for i in half], return_counts=True)[1]
        assert len(counts) == 3 and counts.max() - counts.min() <= 1
    assert {task.shapes[i][1:] for i in task.largest_shape(found)} == {task.shapes[task.largest_shape(found)[0]][1:]}


def test_batches_hold_every_row_once_and_shrink_with_the_memory(csv):
    model = task_model("gpt2")
    large, small = (read_report_task(csv, model, SMALL, memory) for memory in (2**28, 2**17))
    for task in (large, small):
        assert sorted(i for batch in task.batches() for i in batch) == list(range(len(GOOD)))
    assert len(large.batches()) == 1 < len(small.batches())
    a, b = (as_plain(seeing.attribution_step(task)) for task in (large, small))
    assert np.allclose(a["clean_parts"], b["clean_parts"], atol=1e-5)


# --- the numbers ------------------------------------------------------------------------------------------------------------


def test_steps_agree_with_the_functions_of_the_chapters(csv, model_name="gpt2"):
    model = task_model(model_name)
    task = read_report_task(csv, model, SMALL)
    pairs = task.pairs_of(task.halves[0])
    behavior, patching = seeing.behavior_step(task), searching.patching_step(task)
    ids = task.pairs_of(range(len(task.rows))).answer_tokens
    logits = end_logits(model, [row.clean for row in task.rows], progress=False)
    assert torch.allclose(behavior["clean"], logit_diff(logits[:, None], ids, per_prompt=True), atol=1e-5)
    experiment = run_experiment(model, pairs)
    same = run_experiment(model, task.pairs_of(task.largest_shape(task.halves[0])))
    stream = same.denoise(get_act_patch_resid_pre, positions=patching["positions"], progress=False)
    assert torch.allclose(patching["streams"][0], stream, atol=1e-4)
    noised = -experiment.noise(get_act_patch_attn_head_out_all_pos, progress=False)
    assert torch.allclose(patching["noised"], noised, atol=1e-4)


def test_the_circuit_of_all_heads_is_the_model_and_of_none_is_empty(csv):
    model = task_model("llama")
    task = read_report_task(csv, model, SMALL)
    test = searching.report_test(task)
    every = [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    assert torch.allclose(searching.circuit_scores(test, {searching.ANYWHERE: every}), test.full, atol=1e-5)
    assert torch.allclose(searching.circuit_scores(test, {}), test.empty, atol=1e-5)
    clean = logit_diff(
        end_logits(model, test.pairs.clean_text, progress=False)[:, None], test.pairs.answer_tokens, True
    )
    assert torch.allclose(test.full, clean, atol=1e-4) and not torch.allclose(test.full, test.empty, atol=1e-3)
    mask = searching.circuit_mask(test, {searching.AT_END: [(1, 2)], searching.ANYWHERE: [(0, 1)]})
    assert (
        mask[1, :, :, 2].sum() == len(test.pairs) and mask[0, :, :, 1].all() and mask.sum() == mask[:2, :, :, 1:3].sum()
    )


def test_a_circuit_of_nearly_all_heads_has_no_controls_and_says_so(csv):
    """On three layers of four heads nothing is left to draw from."""
    task = read_report_task(csv, task_model("gpt2"), SMALL)
    every = [[layer, head] for layer in range(3) for head in range(4)]
    result = as_plain(searching.circuit_step(task, {"writers": every, "brokers": [], "feeders": every[:2]}))
    assert result["random"] == {} and any("No random circuits" in line for line in read_circuit(result).caveats)
    assert "skipped" in searching.circuit_step(task, {"writers": [], "brokers": [], "feeders": []})


def test_where_no_head_writes_directly_paths_may_go_through_mlps(csv, monkeypatch):
    task = read_report_task(csv, task_model("gpt2"), SMALL)
    frozen = searching.paths_step(task)
    assert (
        frozen["mlps"] == "frozen" and "Paths that go through an MLP are not" in read_paths(as_plain(frozen)).caveats[0]
    )
    chosen = searching.strongest_heads
    asked = []
    monkeypatch.setattr(
        searching, "strongest_heads", lambda *given: asked.append(1) or chosen(*given) * (len(asked) > 1)
    )
    free = searching.paths_step(task)
    assert (
        free["mlps"] == "free" and free["writers"] and not torch.allclose(free["direct"], frozen["direct"], atol=1e-3)
    )
    reading = read_paths(as_plain(free))
    assert "directly or through MLPs" in reading.said[0] and "no head reaches the threshold" in reading.caveats[0]


def test_means_are_over_corrupted_prompts_of_one_shape(tmp_path):
    path = tmp_path / "capitals.csv"
    path.write_text(task_csv("capitals"), encoding="utf-8")
    model = task_model("gpt2")
    task = read_report_task(path, model, SMALL)
    test, row = searching.report_test(task), task.halves[1][0]
    same = [i for i in task.aligned if task.shapes[i] == task.shapes[row]]
    tokens = torch.cat([model.to_tokens(task.rows[i].corrupted) for i in same])
    _, cache = model.run_with_cache(tokens)
    assert torch.allclose(test.means[1, 0, : tokens.shape[1]], cache["z", 1].mean(0), atol=1e-5)


# --- words ------------------------------------------------------------------------------------------------------------------


def judged(**change):
    one = {"value": 0.9, "low": 0.8, "high": 1.0, "mae": 0.5, "correlation": 0.9}
    names = (
        "circuit",
        "empty",
        "strongest head alone",
        "circuit without the strongest head",
        "whole model without the circuit",
    )
    table = {name: dict(one) for name in names}
    table["empty"] |= {"value": 0.0, "mae": 2.0, "correlation": 0.4}
    table["strongest head alone"]["value"], table["whole model without the circuit"]["value"] = 0.2, 0.1
    for name, values in change.items():
        table[name.replace("_", " ")] |= values
    draws = [{"value": 0.1, "mae": 1.0 + i / 10, "correlation": 0.3} for i in range(19)]
    return {
        "judged": table,
        "circuit": {"end": [[1, 2]]},
        "lines": [2, 3],
        "strongest": [1, 2],
        "shared_answers": 0.5,
        "shape_sizes": [4, 8],
        "random": {"never the strongest head": {"within": 2, "draws": draws}},
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"circuit": {"value": 1.4}}, "is not better than 1"),
        ({"circuit": {"mae": 2.5}}, "do not call it faithful"),
        ({"circuit": {"correlation": 0.3}}, "no better than the empty circuit"),
        ({"strongest_head_alone": {"value": 0.7}}, "gives more than half of the circuit's value"),
        ({"whole_model_without_the_circuit": {"value": 0.8}}, "the circuit is not the only way"),
        ({"circuit": {"mae": 1.5}}, "by this test the circuit is not special"),
    ],
)
def test_caveats_follow_from_the_numbers(change, said):
    assert any(said in line for line in read_circuit(judged(**change)).caveats)
    assert not any(said in line for line in read_circuit(judged()).caveats)


def test_p_of_random_circuits_and_lists_of_heads():
    assert matched_random_p(judged(), "never the strongest head") == pytest.approx(1 / 20)
    assert matched_random_p(judged(circuit={"mae": 1.05}), "never the strongest head") == pytest.approx(2 / 20)
    assert matched_random_p(judged(), "another kind") is None
    assert [head_list(heads) for heads in ([], [(1, 2)], [(1, 2), (3, 4), (5, 6)])] == [
        "none",
        "L1H2",
        "L1H2, L3H4 and L5H6",
    ]


# --- figures and the page ---------------------------------------------------------------------------------------------------


def test_figures_escape_text_and_show_what_has_no_value():
    drawn = heatmap_svg(
        {"<b>": [[1.0, None], [-2.0, 0.0]]}, ["layer 0", "layer 1"], ["<i>", "&"], "a & b", "x"
    )._repr_svg_()
    assert (
        "<b>" not in drawn
        and "&lt;b&gt;" in drawn
        and "layer 0, &amp;: no value" in drawn
        and 'fill="#dddddd"' in drawn
    )
    assert drawn.count("<rect") == 4 + 1 + 20 and "layer 1, &lt;i&gt;: -2.000" in drawn
    for figure in (
        lines_svg({"one": [0.0, 1.0]}, ["a", "b"], "lines", "x", "y"),
        points_svg({"one": [0.0, 1.0, -1.0]}, "points", "x", {"here": 0.5}),
        bars_svg({"a": 0.0, "b": -0.5}, "bars", "y"),
    ):
        assert figure._repr_svg_().count("<svg") == 1 and "nan" not in figure._repr_svg_()
    dark, light = (heatmap_svg({"": [[value, 1.0]]}, ["0"], ["a", "b"], "", "x").body for value in (1.0, 0.5))
    assert dark.count("#b2182b") > light.count("#b2182b")


def test_prompts_that_look_like_html_are_shown_as_text(tmp_path):
    rows = [row.replace("shop", "shop <img src=x>", 2) if "shop" in row else row for row in GOOD]
    make_circuit_report(write_csv(tmp_path / "p.csv", rows), task_model("gpt2"), tmp_path / "r.html", SMALL)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "&lt;img src=x&gt;" in page and loads_nothing(page)


def test_plain_values_are_what_json_can_hold(tmp_path):
    value = {"t": torch.tensor([[0.123456789, 1.0]]), 3: (np.float32(0.5), float("nan")), "n": 4, "s": "x", "b": True}
    plain = as_plain(value)
    assert plain == {"t": [[0.123457, 1.0]], "3": [0.5, None], "n": 4, "s": "x", "b": True}
    store = StepStore(tmp_path / "a")
    assert store.get("one", lambda: value) == plain == store.get("one", lambda: pytest.fail("again"))
    assert json.loads(store.file_of("one").read_text()) == plain


@pytest.mark.parametrize(
    "setting", [{"pairs": 3}, {"test_pairs": 1}, {"n_random": 5}, {"threshold": 0.0}, {"threshold": 2.0}]
)
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        ReportSettings(**setting)


# --- the command ------------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_page_or_says_what_is_wrong(csv, tmp_path, capsys):
    folder = save_task_model(tmp_path / "model", "llama")
    given = [str(csv), "--model", str(folder), "--out", str(tmp_path / "report.html"), "--anyway", "--pairs", "5"]
    assert command.main(given) == 0 and "the report: " in capsys.readouterr().out
    assert (tmp_path / "report.html").exists()
    write_csv(csv, ["Anna sat,Anna sat, Anna, Kate"])
    assert command.main(given) == 1 and f"{csv}:2: clean and corrupted are both" in capsys.readouterr().err
    assert command.main([*given[:3], "--out", "report"]) == 1 or "ends in .html" in capsys.readouterr().err
    assert command.main([str(csv), str(csv), *given[1:5]]) == 1 and "need a folder" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, pytest.param(2, id="two_workers")])
def test_several_files_and_models_make_a_folder_with_an_index(workers, csv, tmp_path, capsys, workers_by_fork):
    models = [str(save_task_model(tmp_path / family, family)) for family in ("gpt2", "llama")]
    other = write_csv(tmp_path / "other.csv", GOOD[::-1])
    out = tmp_path / "reports"
    given = [str(csv), str(other), "--model", *models, "--out", str(out), "--anyway", "--workers", str(workers)]
    assert command.main(given) == 0 and "4 scored, 0 there already, 0 failed" in capsys.readouterr().out
    pages = sorted(out.glob("*.html"))
    assert len(pages) == 5 and (out / "index.html").read_text().count("<a href=") == 4
    table = (out / "reports.csv").read_text()
    assert table.count("share_right") == 4 and table.count("correlation") == 4
    again = next(page for page in pages if page.name != "index.html")
    before = again.read_bytes()
    again.unlink()
    assert command.main(given) == 0 and "1 scored, 3 there already" in capsys.readouterr().out
    assert again.read_bytes() == before


def test_a_model_that_fails_does_not_stop_the_others(csv, tmp_path, capsys):
    folder = str(save_task_model(tmp_path / "model", "gpt2"))
    shutil.copytree(folder, tmp_path / "broken")
    (tmp_path / "broken" / "config.json").write_text("{}")
    out = tmp_path / "reports"
    given = [str(csv), "--model", folder, str(tmp_path / "broken"), "--out", str(out), "--anyway", "--workers", "0"]
    assert command.main(given) == 1
    said = capsys.readouterr().out
    assert "1 scored, 0 there already, 1 failed" in said and "failed: " in (out / "index.html").read_text()
