"""Looking things up in the head atlas: settings stay apart, searches find what they say, browser and mosaic."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.atlas.cases import settings_table
from utils import atlas, plots, widgets

SETTINGS = {
    "batch": [2, 4],
    "seed": [0, 1, 2],
    "seq_len": [20, 50],
    "bos": [True, False],
    "dtype": ["float32", "bfloat16"],
    "layers": [12, np.nan],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_stay_apart(name):
    values = SETTINGS[name]
    table = settings_table(**{name: values})
    wide = atlas.by_head(table)
    assert list(wide.columns) == ["model", "head", name, *atlas.SCORES] and len(wide) == 2 * len(values)
    assert set(wide["induction"].round(6)) == {round(0.1 * (1 + i), 6) for i in range(len(values))}
    with pytest.raises(
        atlas.AtlasError, match=rf"several settings \({name}: .*choose one: grids\(table, 'induction', {name}="
    ):
        atlas.grids(table, "induction")
    grid = atlas.grids(table, "induction", **{name: values[0]})["m"]
    assert grid.to_numpy().tolist() == [[0.1, 0.1]]
    one = atlas.by_head(table[table[name] == values[0]])
    assert list(one.columns) == ["model", "head", *atlas.SCORES] and len(one) == 2


def test_settings_that_differ_between_models():
    both = pd.concat([settings_table(["a"], batch=[2]), settings_table(["b"], batch=[4])])
    assert atlas.by_head(both)["batch"].tolist() == [2, 2, 4, 4]
    with pytest.raises(atlas.AtlasError, match="batch: 2, 4"):
        atlas.grids(both, "induction")
    assert set(atlas.grids(both, "induction", batch=4)) == {"b"}
    with_and_without = pd.concat([settings_table(["a"], bos=[True]), settings_table(["b"], bos=[False])])
    assert set(atlas.grids(with_and_without, "induction")) == {"a", "b"}, (
        "whether there is a BOS follows from the model"
    )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [({"luck": 1}, "no setting 'luck'; there are: seed"), ({"batch": 9}, "batch=9; there are: 2, 4")],
)
def test_a_choice_that_is_not_there(chosen, message):
    with pytest.raises(atlas.AtlasError, match=message):
        atlas.grids(settings_table(batch=[2, 4]), "induction", **chosen)


def test_two_values_under_the_same_settings_are_refused_and_repeated_rows_are_one():
    table = settings_table(batch=[4])
    twice = pd.concat([table, table])
    pd.testing.assert_frame_equal(atlas.by_head(twice), atlas.by_head(table))
    assert atlas.grids(twice, "induction")["m"].to_numpy().tolist() == [[0.1, 0.1]]
    contradiction = pd.concat([table, table.assign(value=0.7)])
    for read in (atlas.by_head, lambda table: atlas.grids(table, "induction")):
        with pytest.raises(atlas.AtlasError, match=r"L0H0 of m has the values \[0.1, 0.7\] of .* keep one"):
            read(contradiction)


def test_search(alone, folders):
    wide = atlas.by_head(alone)
    assert len(wide) == 48 and list(wide.columns) == ["model", "head", *atlas.SCORES]
    assert set(atlas.search(wide, "L1H2")["head"]) == {"L1H2"} and len(atlas.search(wide, "l1h2")) == 4
    assert len(atlas.search(wide, "L1")) == 16 and len(atlas.search(wide, f"L1 {folders[0]}")) == 4
    some = atlas.search(wide, "copying<-0.05 entropy>0.4")
    assert 0 < len(some) < 48 and (some["copying"] < -0.05).all() and (some["entropy"] > 0.4).all()
    assert len(atlas.search(wide, "")) == 48 and atlas.search(wide, "no-such-model").empty


HEADS = pd.DataFrame(
    {
        "model": ["org/one", "org/two", "org/one", "induction-1l"],
        "head": ["L0H0", "L1H0", "L1H12", "L10H1"],
        "batch": [2, 4, 4, 4],
        "bos": [True, True, False, True],
        "dtype": ["float32", "float32", "bfloat16", "float32"],
        "induction": [0.4, 0.001, np.nan, 0.5],
        "copying": [-0.5, 0.0, 0.25, 1.0],
    }
)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("induction>0.4", [3]),
        ("induction>=0.4", [0, 3]),
        ("induction<0.4", [1]),
        ("induction<=0.4", [0, 1]),
        ("induction=0.4", [0]),
        ("induction==0.4", [0]),
        ("induction > 0.4", [3]),
        ("induction >=.4", [0, 3]),
        ("  induction\t>= 4e-1 ", [0, 3]),
        ("induction=1e-3", [1]),
        ("induction<1E-2", [1]),
        ("induction>+0.4", [3]),
        ("copying >= -5e-1 copying<= 0.", [0, 1]),
        ("copying≥0.25", [2, 3]),
        ("copying ≤ −0.5", [0]),
        ("Induction>0.4", [3]),
        ("batch = 4", [1, 2, 3]),
        ("batch=4 L1", [1, 2]),
        ("bos=true", [0, 1, 3]),
        ("bos=0", [2]),
        ("dtype=bfloat16", [2]),
        ("model=org/one", [0, 2]),
        ("head=L1H0", [1]),
        ("L1", [1, 2]),
        ("L10", [3]),
        ("one induction>=0.4", [0]),
        ("copying>0, L10", [3]),
        ("ORG", [0, 1, 2]),
        ("induction", [3]),
        ("L1H1", []),
    ],
)
def test_what_a_search_finds(query, rows):
    assert atlas.search(HEADS, query).index.tolist() == rows


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("luck>1", "no score 'luck'; there are: batch, bos, dtype, induction, copying"),
        ("induction>abc", "'abc' is not a number"),
        ("induction>", "'' is not a number"),
        ("induction > L1", "'L1' is not"),
        ("induction>0,4", "'0,4' is not a number"),
        ("induction>nan", "'nan' is not"),
        ("induction>40%", "'40%' is not"),
        (">0.4", "a score comes before the sign"),
        ("<b>luck>1", "a score comes before the sign"),
        ("induction=>0.4", "'>0.4' is not"),
        ("0.2<induction<0.4", "no score '0.2'"),
        ("induction!=0.4", "no score 'induction!'"),
        ("induction>0.4.5", "'0.4.5' is not"),
        ("dtype>1", "dtype is text"),
        ("copying", "alone says nothing"),
    ],
)
def test_what_a_search_cannot_read(query, message):
    with pytest.raises(atlas.AtlasError, match=message):
        atlas.search(HEADS, query)


@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
@given(st.floats(-1, 1), st.sampled_from([">", ">=", "<", "<=", "=", "=="]), st.sampled_from(["", " "]))
def test_bounds_mean_what_they_say(number, sign, space):
    wide = pd.DataFrame({"model": "m", "head": "L0H0", "copying": [-1.0, -0.25, number, 0.0, 0.25, 1.0]})
    compare = {">": "gt", ">=": "ge", "<": "lt", "<=": "le", "=": "eq", "==": "eq"}[sign]
    found = atlas.search(wide, f"copying{space}{sign}{space}{number!r}")
    assert found.index.tolist() == wide.index[getattr(wide["copying"], compare)(number)].tolist()


def test_browser_keeps_settings_apart_and_takes_a_table_with_few_scores():
    shown = widgets.atlas_browser(settings_table(seed=[0, 1]))
    query, _ = shown.controls
    assert "4 of 4 heads" in shown.message.value and "<th>seed</th>" in shown.figure.body
    query.value = "seed = 1 induction>=0.2"
    assert "2 of 4 heads" in shown.message.value
    query.value = "induction>abc"
    assert "is not a number" in shown.message.value
    table = settings_table(batch=[4])
    shown = widgets.atlas_browser(table[table["score"] == "copying"])
    assert shown.controls[1].value == "copying" and "2 of 2 heads" in shown.message.value


def test_browser(alone):
    shown = widgets.atlas_browser(alone)
    query, order = shown.controls
    assert "48 of 48 heads" in shown.message.value and "L0H" in shown.figure.body
    query.value = "L2H1"
    assert "4 of 48 heads" in shown.message.value and shown.figure.body.count("L2H1") == 4
    order.value = "copying"
    assert "by copying" in shown.message.value
    query.value = "<b>luck>1"
    assert "✗" in shown.message.value and "<b>luck" not in shown.message.value
    query.value = "luck>1"
    assert "no score" in shown.message.value and "L2H1" in shown.figure.body, "the last figure stays"


def test_mosaic_has_a_panel_per_model(alone, folders):
    tables = atlas.grids(alone, "induction")
    figure = plots.mosaic(
        {Path(name).name: grid.to_numpy() for name, grid in tables.items()}, "title", unit="attention"
    )
    assert [annotation.text for annotation in figure.layout.annotations] == [
        Path(name).name for name in sorted(folders)
    ]
    assert len(figure.data) == 4 and figure.data[0].z.shape == (3, 4) and figure.layout.coloraxis.cmin == 0
    with pytest.raises(atlas.AtlasError, match="no score"):
        atlas.grids(alone, "luck")
