"""compare: what it prints, when it fails, and how figures are recorded."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils import reference
from utils.reference import ReferenceMismatch, compare, figures, record


def model(name):
    return SimpleNamespace(cfg=SimpleNamespace(model_name=name))


@pytest.fixture(autouse=True)
def not_strict(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    monkeypatch.delenv("COURSE_REFERENCE_LOG", raising=False)


def test_value_beside_recorded_and_published(capsys):
    compare("ioi.logit_diff.mean_clean", torch.tensor(4.7243), model("smollm2-135m"))
    printed = capsys.readouterr().out
    assert "✓ recorded for smollm2-135m 4.724 ± 1 % or 0.0001" in printed and "gpt2-small 3.552 (demo)" in printed


def test_published_figure_of_the_model_itself(capsys):
    compare("ioi.logit_diff.mean_clean", 3.5519, model("gpt2-small"))
    line = "ioi.logit_diff.mean_clean: 3.552 · ✓ published for gpt2-small 3.552 ± 0.0005"
    assert capsys.readouterr().out.strip() == line


def test_a_model_without_figures(capsys):
    compare("ioi.logit_diff.mean_clean", 1.0, model("my-model"))
    assert "no figure for my-model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ioi.logit_diff.mean_clean", 4.80),
        ("ioi.logit_diff.per_prompt", [4.616, 3.667]),
        ("scale.unavoidable_share", 0.0306 * 1.02),
        ("ioi.prompt_tokens", 16),
        ("test_prompt.top_tokens", [" John"]),
        ("hooks.most_needed_head", "L0H0"),
        ("no.such.key", 1.0),
    ],
)
def test_disagreement_fails_in_ci_and_only_there(key, value, monkeypatch, capsys):
    compare(key, value, model("smollm2-135m"))
    assert "✓" not in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ReferenceMismatch, match=key):
        compare(key, value, model("smollm2-135m"))


@pytest.fixture
def own_figures(tmp_path, monkeypatch):
    """Figures of a model "m", written by the test: a function that takes TOML."""
    monkeypatch.setattr(reference, "FIGURES", tmp_path)
    figures.cache_clear()
    yield lambda text: (tmp_path / "m.toml").write_text(text, encoding="utf-8")
    figures.cache_clear()


@pytest.mark.parametrize(
    ("figure", "agree", "differ", "shown"),
    [
        ("value = 2.0", [2.0, 2.019, 1.981, 2], [2.03, 1.97, -2.0, "2.0", True, [2.0]], "2 ± 1 % or 0.0001"),
        ("value = 0.0306", [0.0306, 0.0308], [0.0288, 0.0], "0.0306 ± 1 % or 0.0001"),
        ("value = 0.0", [0.0, -0.0, 0.00009], [0.0002, -0.0002, float("nan")], "0 ± 1 % or 0.0001"),
        ("value = 8", [8, 8.0, np.int64(8)], [9, 7, 8.01, "8", True], "8 (exact)"),
        ("value = 1", [1, 1.0], [True, 2], "1 (exact)"),
        ("value = true", [True, np.bool_(True)], [False, 1, "true"], "True (exact)"),
        ('value = "L9H6"', ["L9H6"], ["L9H7", ["L9H6"], 1], "L9H6 (exact)"),
        ("value = [2, 3]", [[2, 3], (2, 3), np.array([2, 3])], [[3, 2], [2], [2, 3, 4], 2], "[2, 3] (exact)"),
        ("value = [100.0, 0.001]", [[100.9, 0.00105]], [[100.0, 0.0012], [102.0, 0.001]], "± 1 % or 0.0001"),
        ("value = [1, 0.5]", [[1, 0.504]], [[2, 0.5], [1, 0.51]], "[1, 0.5] ± 1 % or 0.0001"),
        ("value = [[0.5], [4]]", [[[0.504], [4]]], [[[0.5], [5]], [[0.5, 4]]], "± 1 % or 0.0001"),
        ("value = 2.0\nabs = 0.5", [2.5, 1.5], [2.6], "2 ± 0.5"),
        ("value = 2.0\nrel = 0.1", [2.19, 1.81], [2.3], "2 ± 10 % or 0.0001"),
        ("value = 0.0\nrel = 0.1\nabs = 0.5", [0.5], [0.6], "0 ± 10 % or 0.5"),
        ("value = 10\nabs = 1\nnote = 'close'", [9, 11], [8, 12], "10 ± 1"),
        ("value = nan", [float("nan")], [0.0], "nan ± 1 % or 0.0001"),
        ("value = inf", [float("inf")], [0.0, float("-inf"), float("nan")], "inf ± 1 % or 0.0001"),
        ("value = []", [[]], [[1.0], 0], "[] (exact)"),
    ],
)
def test_what_agrees_with_a_figure(own_figures, monkeypatch, capsys, figure, agree, differ, shown):
    own_figures(f"[a.b]\n{figure}\n")
    monkeypatch.setenv("COURSE_STRICT", "1")
    for value in agree:
        compare("a.b", value, model("m"))
        printed = capsys.readouterr().out
        assert "✓ recorded for m" in printed and printed.strip().endswith(shown)
    for value in differ:
        with pytest.raises(ReferenceMismatch, match="✗ differs from recorded for m"):
            compare("a.b", value, model("m"))


@pytest.mark.parametrize("name", ["smollm2-135m", "gpt2-small"])
def test_every_figure_states_only_what_is_read(name):
    table = figures(name)
    assert table and all("value" in entry for entry in table.values())
    for key, entry in table.items():
        if isinstance(entry["value"], int) and "abs" in entry:
            assert entry["note"], f"{key}: say why a count may differ"


def test_a_field_that_means_nothing_is_refused(own_figures):
    own_figures("[a.b]\nvalue = 1.0\ntolerance = 0.5\n")
    with pytest.raises(ValueError, match=r"m.toml, a.b: unknown field 'tolerance'; the fields are value, rel, abs"):
        figures("m")


def test_a_key_may_end_in_the_name_of_a_field(own_figures):
    own_figures("[a.value]\nvalue = 1.0\n[a.rel]\nvalue = 2.0\nrel = 0.1\n")
    assert figures("m") == {"a.value": {"value": 1.0}, "a.rel": {"value": 2.0, "rel": 0.1}}


def test_a_key_that_another_begins_with_is_refused_and_the_file_stays(own_figures, tmp_path):
    own_figures("[a.b]\nvalue = 1.0\n")
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"key": "a.b.c", "value": 2.0, "model": "m"}) + "\n")
    with pytest.raises(ValueError, match="another key begins with it"):
        record(log)
    figures.cache_clear()
    assert figures("m") == {"a.b": {"value": 1.0}}


def test_log_and_record(own_figures, tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv("COURSE_REFERENCE_LOG", str(log))
    own_figures('["a.kept"]\nvalue = 1.0\nabs = 0.5\n[a.b]\nvalue = 2.0\nrel = 0.25\nnote = "two „words“"\n')
    recorded = {"a.b": 2.6, "a.c": [" Mary", "é"], "a.d": [float("nan"), float("inf"), 2], "a.e": True}
    for key, value in recorded.items():
        compare(key, value, model("m"))
    assert [json.loads(line)["agrees"] for line in log.read_text().splitlines()] == [False, True, True, True]
    record(log)
    figures.cache_clear()
    assert figures("m")["a.b"] == {"value": 2.6, "rel": 0.25, "note": "two „words“"}
    assert figures("m")["a.kept"] == {"value": 1.0, "abs": 0.5}
    assert figures("m")["a.e"] == {"value": True}
    for key, value in recorded.items():
        monkeypatch.setenv("COURSE_STRICT", "1")
        compare(key, value, model("m"))


def test_what_toml_cannot_hold_leaves_the_figures_as_they_were(own_figures, tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv("COURSE_REFERENCE_LOG", str(log))
    own_figures("[a.b]\nvalue = 2.0\n")
    compare("a.b", None, model("m"))
    with pytest.raises(ValueError):
        record(log)
    figures.cache_clear()
    assert figures("m") == {"a.b": {"value": 2.0}}
