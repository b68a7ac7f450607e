"""The report in words, figures and on its page; and its command."""

import json
import shutil

import numpy as np
import pytest
import torch

from tests.report.cases import SMALL, loads_nothing
from tests.report.task_models import GOOD, save_task_model, task_model, write_csv
from utils.circuits.report import ReportSettings, command, make_circuit_report
from utils.circuits.report.circuit_words import matched_random_p, read_circuit
from utils.circuits.report.stored import as_plain, stored_step
from utils.circuits.report.svg import bars_svg, heatmap_svg, lines_svg, points_svg
from utils.circuits.report.words import head_list

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


def test_a_head_kept_at_two_places_counts_once_and_numbers_agree_with_their_nouns():
    result = judged() | {"circuit": {"end": [[1, 2], [0, 3]], "before": [[1, 2]]}}
    assert read_circuit(result).said[0].startswith("The circuit of 2 heads gives 0.90")
    assert read_circuit(judged()).said[0].startswith("The circuit of 1 head gives")
    caveats = read_circuit(result | {"shared_answers": 0.0, "shape_sizes": [12, 12]}).caveats
    assert "No tested pair has an answer that helped to find the circuit." in caveats
    assert any("means over 12 corrupted prompts" in line for line in caveats)


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
    folder = tmp_path / "a"
    assert (
        stored_step(folder, "one", lambda: value) == plain == stored_step(folder, "one", lambda: pytest.fail("again"))
    )
    assert json.loads((folder / "one.json").read_text()) == plain


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
