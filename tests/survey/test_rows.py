"""The rows of a survey: what they measure, on which pairs, and that the same settings are one row."""

import pandas as pd
import pytest
import torch

from tests.survey.cases import HERE, QUICK
from utils import dialect, stats
from utils.dialect import DialectError, measures, prefixes, survey
from utils.tiny_models import tiny_model


def rows_of(table, **chosen):
    for column, value in chosen.items():
        table = table[table[column] == value]
    return table


def test_table_is_tidy_and_whole(alone, folders):
    assert list(alone.columns) == [*survey.KEYS, *survey.VALUES, "n_pairs", "n_verbs", "prefix_text", "sentences"]
    assert not alone.duplicated(list(survey.KEYS)).any() and alone["value"].notna().sum() > 0.9 * len(alone)
    n_measures, n_items = len(measures.all_measures(torch.zeros(37))), len(dialect.grammar()["contrasts"])
    assert alone.groupby(["model", "prefix"]).size().eq(n_measures * n_items * (9 + 1)).all()
    there = {name: set(rows["prefix"]) for name, rows in alone.groupby("model")}
    assert there == {folders[0]: {"nothing", "bos"}, folders[1]: set(QUICK.prefixes), folders[2]: {"nothing", "bos"}}
    assert set(alone["frame"]) == {*dialect.frames(), "all"} and set(alone["n_verbs"]) == {2}
    assert survey.left_out(alone, [*folders, "unknown"], QUICK.prefixes) == [
        f"{folders[i]} has nothing to put in front as 'user': no rows" for i in (0, 2)
    ]


def test_values_by_their_definitions(alone, folders, chatty):
    """One contrast behind a chat template, run prompt by prompt, with nothing of the survey's own machinery."""
    words, frames = list(dialect.favorability()), dialect.frames()
    ids = dialect.attribute_tokens(chatty, words)
    front = prefixes.prefix_text(chatty, "user")

    def log_p(text):
        tokens = chatty.tokenizer(front + text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        return chatty(tokens)[0, -1].log_softmax(-1)[ids]

    pairs = dialect.pairs_of("is_usually", 2)
    ratio = torch.stack(
        [torch.stack([log_p(frame.format(p.aae)) - log_p(frame.format(p.sae)) for frame in frames]) for p in pairs]
    )  # pair frame trait
    named = torch.tensor([word in "lazy ignorant musical religious stupid".split() for word in words])
    strengths = ratio[..., named].mean(-1) - ratio[..., ~named].mean(-1)
    rows = rows_of(alone, model=folders[1], prefix="user", item="is_usually", kind="contrast")
    found = rows_of(rows, measure="strength").set_index("frame")
    assert found.loc[frames, "value"].to_numpy() == pytest.approx(strengths.mean(0).numpy(), abs=1e-4)
    whole = found.loc["all"]
    assert whole["value"] == pytest.approx(strengths.mean().item(), abs=1e-4) and whole["prefix_text"] == front
    assert (whole["low"], whole["high"]) == pytest.approx(stats.anova_interval(strengths), abs=1e-3)
    for measure, values in measures.all_measures(ratio.mean(0)).items():
        of_measure = rows_of(rows, measure=measure).set_index("frame")["value"]
        assert of_measure[frames].to_numpy() == pytest.approx(values.numpy(), abs=2e-3, nan_ok=True), measure
        assert of_measure["all"] == pytest.approx(values.mean().item(), abs=2e-3, nan_ok=True)


def test_only_what_is_linear_has_an_interval_and_only_over_all_frames(alone):
    has = alone["low"].notna() & alone["high"].notna()
    assert (has == ((alone["frame"] == "all") & alone["measure"].isin(["strength", "gap"]))).all()
    inside = alone[has]
    assert ((inside["low"] <= inside["value"]) & (inside["value"] <= inside["high"])).all()


def test_pairs_of_one_verb_count_once_and_a_file_is_an_item(chatty, tmp_path):
    verbs = ["working", "working", "working", "singing"]
    path = tmp_path / "mine.txt"
    path.write_text(
        "".join(f"{p} be {v}\t{p} is {v}\n" for p, v in zip(("he", "she", "they", "he"), verbs, strict=True))
    )
    pairs = tuple(dialect.read_pairs(path))
    table = survey.survey_table(chatty, survey.SurveySettings(("bos",), kinds=(), pairs=pairs))
    whole = rows_of(table, frame="all", measure="gap")
    assert whole[["kind", "item", "n_pairs", "n_verbs"]].values.tolist() == [["file", "mine", 4, 2]]
    gaps = dialect.trait_gaps(chatty, pairs, dialect.frames())
    by_verb = torch.stack([gaps[:3].mean(0), gaps[3]])
    assert whole["value"].item() == pytest.approx(by_verb.mean().item(), abs=1e-4)
    assert whole[["low", "high"]].values[0] == pytest.approx(stats.anova_interval(by_verb), abs=1e-3)
    one = survey.survey_table(chatty, survey.SurveySettings(("bos",), kinds=(), pairs=pairs[:1]))
    assert one["low"].isna().all(), "one verb has no interval"


def test_a_file_of_pairs_alone(folders, tmp_path, capsys):
    path = tmp_path / "mine.txt"
    path.write_text("he be working\the is working\nhe be singing\the is singing\n")
    options = f"--kinds --pairs {path} --prefixes bos --frames paper own --workers 0 --out {tmp_path}".split()
    assert survey.main_survey([folders[0], *options]) == 0
    table = survey.read_survey(tmp_path)
    assert set(table["item"]) == {"mine"} and set(table["frames"]) == {"paper", "own"}
    assert set(table["frame"]) == {"all", *dialect.frames("paper"), *dialect.frames("own")}
    path.write_text("he be working\n")
    assert survey.main_survey([folders[0], *options]) == 1 and "mine.txt:1" in capsys.readouterr().err


def test_every_kind_of_item_is_there_and_no_more_verbs_than_asked():
    found = survey.sentences(survey.SurveySettings(n_verbs=15))
    assert {item for kind, item in found if kind == "feature"} == set(dialect.feature_names())
    assert {item for kind, item in found if kind == "swap"} == set(dialect.swap_names())
    assert {item for kind, item in found if kind == "contrast"} == set(dialect.grammar()["contrasts"])
    assert all(1 < len(pairs) <= 15 for pairs in found.values())
    assert found["feature", "done"] == dialect.pairs_of("done", 15)
    assert found["swap", "car/truck"] == dialect.swap_pairs("car/truck", 15)


def test_a_model_that_cannot_say_a_trait_is_refused_by_name():
    with pytest.raises(ValueError, match=r"' cruel' is \d+ tokens in tiny-gpt2"):
        survey.survey_table(tiny_model("gpt2"), QUICK)


def test_a_model_with_none_of_the_prefixes_is_refused(folders, tmp_path):
    only_user = survey.SurveySettings(("user",), kinds=("contrast",), n_verbs=1)
    report = survey.make_survey(folders[:2], tmp_path, only_user, HERE)
    assert report.done == folders[1:2] and "has no chat template" in report.failed[folders[0]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prefixes": ("bos", "eos")}, "no prefix 'eos' in a survey; there are: nothing, bos"),
        ({"frames": ("guilt",)}, "no set of frames 'guilt' in a survey; there are: paper, own"),
        ({"kinds": ("error",)}, "no kind 'error' in a survey; there are: feature, contrast, swap"),
        ({"prefixes": ()}, "a survey of nothing"),
        ({"frames": ()}, "a survey of nothing"),
        ({"kinds": ()}, "a survey of nothing"),
        ({"n_verbs": 0}, "a survey of nothing"),
    ],
)
def test_settings_of_nothing_are_refused(wrong, message):
    with pytest.raises(DialectError, match=message):
        survey.SurveySettings(**wrong)


def test_overview_counts_features_outside_the_swaps():
    def row(kind, item, gap, measure="gap", prefix="bos"):
        keys = {"model": "m", "prefix": prefix, "frames": "paper", "sentences": "x", "frame": "all"}
        return keys | {"kind": kind, "item": item, "measure": measure, "value": gap}

    swaps = [row("swap", f"a/{i}", i / 100 * (-1) ** i) for i in range(101)]
    features = [row("feature", "one", 0.96), row("feature", "two", -0.99), row("feature", "three", 0.94)]
    ours = [row("contrast", "be_usually", 0.2), row("contrast", "be_usually", 0.4, "strength")]
    other = [row("contrast", "be_usually", 0.3, prefix="user"), row("feature", "one", 2.0, prefix="user")]
    each_frame = [row("feature", "one", 5.0) | {"frame": "{} is"}]
    lines = survey.overview(pd.DataFrame([*swaps, *features, *ours, *other, *each_frame])).set_index("prefix")
    assert lines.loc["bos", ["be_usually gap", "be_usually strength"]].tolist() == [0.2, 0.4]
    assert lines.loc["bos", ["95 % of swaps", "features outside"]].tolist() == pytest.approx([0.95, 2])
    assert lines.loc["user", "be_usually gap"] == 0.3
    assert lines.loc["user", ["95 % of swaps", "features outside"]].isna().all(), "without swaps there is no band"
