"""compare: what it prints, when it fails, and how figures are recorded."""

import json
from types import SimpleNamespace

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
    assert "✓ recorded for smollm2-135m 4.724 ± 0.01" in printed and "gpt2-small 3.552 (demo)" in printed


def test_published_figure_of_the_model_itself(capsys):
    compare("ioi.logit_diff.mean_clean", 3.5519, model("gpt2-small"))
    assert (
        capsys.readouterr().out.strip() == "ioi.logit_diff.mean_clean: 3.552 · ✓ published for gpt2-small 3.552 ± 0.005"
    )


def test_a_model_without_figures(capsys):
    compare("ioi.logit_diff.mean_clean", 1.0, model("my-model"))
    assert "no figure for my-model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ioi.logit_diff.mean_clean", 4.80),
        ("ioi.logit_diff.per_prompt", [4.616, 3.667]),
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


def test_log_and_record(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "FIGURES", tmp_path)
    figures.cache_clear()
    log = tmp_path / "log.jsonl"
    monkeypatch.setenv("COURSE_REFERENCE_LOG", str(log))
    (tmp_path / "m.toml").write_text('["a.kept"]\nvalue = 1.0\ntolerance = 0.5\n[a.b]\nvalue = 2.0\ntolerance = 0.25\n')
    compare("a.b", 2.5, model("m"))
    compare("a.c", [" Mary"], model("m"))
    assert [json.loads(line)["agrees"] for line in log.read_text().splitlines()] == [False, True]
    record(log)
    figures.cache_clear()
    assert figures("m")["a.b"] == {"value": 2.5, "tolerance": 0.25}
    assert figures("m")["a.c"] == {"value": [" Mary"]}
    assert figures("m")["a.kept"]["value"] == 1.0
    figures.cache_clear()
