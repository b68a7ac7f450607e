"""The files of the head atlas: damaged ones are made again, others are told apart, and the command writes them."""

import io
import runpy
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.atlas.cases import QUICK, settings_table
from utils import atlas


def test_a_model_that_fails_does_not_stop_the_others(folders, tmp_path):
    report = atlas.make_atlas([str(tmp_path / "nothing"), folders[0]], tmp_path / "atlas", QUICK, workers=0)
    assert report.done == [folders[0]] and "unknown model" in report.failed[str(tmp_path / "nothing")]


def test_a_damaged_file_is_made_again(folders, tmp_path, once):
    atlas.make_atlas(folders[:1], tmp_path, QUICK, workers=0, score=once)
    file = atlas.file_of(tmp_path, folders[0], QUICK)
    file.write_bytes(file.read_bytes()[:100])
    assert atlas.make_atlas(folders[:1], tmp_path, QUICK, workers=0, score=once).done == folders[:1]
    assert len(atlas.read_atlas(tmp_path)) == 72


def with_a_flipped_bit(data):
    """In the last byte of the scores: the file stays parquet, and only a checksum tells."""
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(4)
    assert column.path_in_schema == "value"
    at = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "not parquet": lambda data: b"PAR1 but not really",
    "zeros": lambda data: data[:200] + bytes(len(data) - 200),
    "a flipped bit": with_a_flipped_bit,
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_file_of_another_model_is_named_and_left_out(how, folders, alone, tmp_path, once):
    one, other, third = folders[:3]
    atlas.make_atlas([one, other], tmp_path, QUICK, workers=0, score=once)
    file = atlas.file_of(tmp_path, other, QUICK)
    file.write_bytes(DAMAGE[how](file.read_bytes()))
    with pytest.warns(UserWarning, match=file.name):
        assert set(atlas.read_atlas(tmp_path)["model"]) == {one}
    report = atlas.make_atlas([one, third], tmp_path, QUICK, workers=0, score=once)
    assert (report.done, report.skipped, len(report.damaged)) == ([third], [one], 1) and file.name in str(report)
    assert set(pd.read_parquet(tmp_path / "atlas.parquet")["model"]) == {one, third}
    report = atlas.make_atlas([other], tmp_path, QUICK, workers=0, score=once)
    assert report.done == [other] and not report.damaged
    pd.testing.assert_frame_equal(
        atlas.read_atlas(tmp_path), alone[alone["model"] != folders[3]].reset_index(drop=True)
    )


def test_a_file_with_other_columns_or_another_model_is_not_taken_for_done(folders, tmp_path, once):
    file = atlas.file_of(tmp_path, folders[0], QUICK)
    file.parent.mkdir(parents=True)
    pd.DataFrame({"a": [1]}).to_parquet(file)
    with pytest.raises(atlas.AtlasError, match=f"(?s)no atlas in.*{file.name}: no column 'model'"):
        atlas.read_atlas(tmp_path)
    for table in (pd.DataFrame({"a": [1]}), settings_table(batch=[2])):
        table.to_parquet(file)
        assert atlas.make_atlas(folders[:1], tmp_path, QUICK, workers=0, score=once).done == folders[:1]


def test_files_of_another_version_are_read_beside_the_others(tmp_path):
    (tmp_path / "models").mkdir()
    for name, made_with in {"a": {"seed": [0]}, "b": {"seed": ["first"]}, "c": {"dtype": ["float32"]}}.items():
        settings_table([name], **made_with).to_parquet(tmp_path / "models" / f"{name}.parquet")
    table = atlas.read_atlas(tmp_path)
    assert table["model"].tolist() == ["a"] * 12 + ["b"] * 12 + ["c"] * 12
    assert len(atlas.by_head(table)) == 6


def test_other_settings_and_look_alike_names_have_other_files(tmp_path):
    names = {atlas.file_of(tmp_path, name, QUICK) for name in ("a/b", "a_b", "a b")}
    assert len(names | {atlas.file_of(tmp_path, "a/b", atlas.Settings(seed=1))}) == 4


def test_command(folders, tmp_path, monkeypatch, capsys):
    options = [folders[0], "--workers", "0", "--folder", str(tmp_path), "--seq-len", "20"]
    monkeypatch.setattr(sys, "argv", ["utils.atlas", *options])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("utils.atlas", run_name="__main__")  # as `python -m` does, with everything imported already
    assert "1 scored, 0 there already, 0 failed" in capsys.readouterr().out
    assert atlas.main(options) == 0
    assert atlas.main(["/no/such/model", "--workers", "0", "--folder", str(tmp_path)]) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"models", "atlas.parquet", "atlas.csv"}


@pytest.mark.parametrize("wrong", [{"models": []}, {"workers": -1}, {"attempts": 0}])
def test_settings_that_cannot_work_are_refused(wrong, tmp_path):
    with pytest.raises(atlas.AtlasError, match="at least one model"):
        atlas.make_atlas(**{"models": ["x"], "folder": tmp_path, **wrong})
    with pytest.raises(atlas.AtlasError, match="no atlas in"):
        atlas.read_atlas(tmp_path)
