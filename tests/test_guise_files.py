"""Datasets in other people's files: read by name, exactly as pandas and spreadsheets save them, or refused with the line."""

import csv
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.guise_files import read, refused
from utils import dialect
from utils.dialect import DatasetRow, DialectError
from utils.dialect.files import FRAME, PROMPTS, TRAITS
from utils.tiny_models import tiny_model

HEADER = "prompt_aae,prompt_sae,best_attr_aae,best_attr_sae,score_aae,score_sae\n"
SHORT = "prompt_aae,prompt_sae,best_attr_aae,best_attr_sae\n"
ROW = DatasetRow("he be here", "he is here", "lazy", "kind", 1.5, -2.5)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "no column prompt_aae"),
        ("\n\nhe be,he is\n", 3, "no column prompt_aae"),
        ("prompt_aae,prompt_sae,best_attr_aae,x,y\n", 1, "no column best_attr_sae"),
        (SHORT.strip() + ",score_aae\n", 1, "score_aae; call them"),
        (SHORT.strip() + ",score_a,score_b\n", 1, "score_a, score_b; call them"),
        (SHORT.strip() + ",prompt_aae\n", 1, "2 columns prompt_aae"),
        (SHORT.strip() + ",prompt_sae.1\n", 1, "2 columns prompt_sae"),
        (HEADER.strip() + ",score_sae\n", 1, "2 columns score_sae"),
        (HEADER + "he be here,he is here,lazy,kind,1,x\n", 2, r"the scores \['1', 'x'\]"),
        (HEADER + "he be here,he is here,lazy,,1,2\n", 2, "best_attr_sae is empty"),
        (HEADER + "he be here,he is here,nan,kind,1,2\n", 2, "best_attr_aae is 'nan'"),
        (HEADER + "he be here,he is here,very lazy,kind,1,2\n", 2, "'very lazy'"),
        (HEADER + "he be here,he is here,lazy\u200b,kind,1,2\n", 2, r"'lazy\\u200b'"),
        (HEADER + "he be here,he is here,1.5,2.5,lazy,kind\n", 2, "best_attr_aae is '1.5'"),
        (HEADER + "he be here,,lazy,kind,1,2\n", 2, "the SAE side is empty"),
        (HEADER + "nan,he is here,lazy,kind,1,2\n", 2, "'nan'"),
        (HEADER + "he be here,he is here ,lazy,kind,1,2\n", 2, "white space at the end"),
        (HEADER + "he be here,he is here,lazy,kind,1,2\nhe be here, man,he is here,lazy,kind,1,2\n", 3, "7 fields"),
        (HEADER + "he be here,he is here,lazy,kind,1\n", 2, "5 fields"),
        (HEADER + "he be here\n", 2, "1 fields"),
        (HEADER + "he be,he is,lazy,kind,1,2\n" + HEADER, 3, "header"),
        (SHORT + "he be,he is,lazy,kind\n" + SHORT.upper(), 3, "header"),
        (HEADER + '"he be\nhere","he is\nhere",lazy,kind,1,2\nhe be,he is,lazy,kind,1,x\n', 5, "scores"),
        (HEADER + "he be,he is,lazy,kind,1,2\n" + '"he be\nhere","he is\nhere",lazy,kind,1,x\n', 3, "scores"),
        (HEADER.replace(",", ";") + "he be;he is;lazy;kind;1,5;2,5\n", 2, r"\['1,5', '2,5'\].*point"),
        (SHORT.strip() + ",prompt\nhe be,he is,lazy,kind,\n", 2, "prompt is ''"),
        (SHORT.strip() + ",variable_aae\nhe be,he is,lazy,kind,nan\n", 2, "variable_aae is 'nan'"),
    ],
)
def test_datasets_refused_with_line_and_value(text, line, message):
    refused(text, line, message, dialect.read_dataset)


@pytest.mark.parametrize("score", ["", "nan", "NaN", "inf", "-inf", "1e999", "1_000", "1,5", "１", "None", "0x1"])
def test_scores_that_are_no_finite_numbers(score):
    row = f'he be,he is,lazy,kind,1,2\nhe be,he is,lazy,kind,1,"{score}"\n'
    refused(HEADER + row, 3, re.escape(repr(["1", score])), dialect.read_dataset)


def test_header_without_rows():
    with pytest.raises(DialectError, match="no rows below the header"):
        read(HEADER, dialect.read_dataset)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("he be,he is,lazy,kind,1,2\nhe be,he is,stubborn,kind,1,2\n", {}, "best_attr_aae 'stubborn'"),
        ("he be,he is,lazy,kind,1,2\nhe be,he is now,lazy,kind,1,2\n", {"aligned": True}, r"are \d+ and \d+ tokens"),
    ],
)
def test_tokens_of_a_dataset(text, options, message):
    refused(HEADER + text, 3, message, dialect.read_dataset, model=tiny_model("gpt2"), **options)
    with pytest.raises(DialectError, match="give model="):
        read(HEADER + text, dialect.read_dataset, aligned=True)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_endings(delimiter, end):
    fields = [HEADER.strip().split(","), ["he be here", "he is here", "lazy", "kind", "1.5", "-2.5"]]
    text = "\ufeff" + end.join(delimiter.join(row) for row in fields) + end
    assert read(text, dialect.read_dataset) == [ROW]


def test_columns_in_another_order_among_others():
    text = "Note;SCORE_SAE; best_attr_sae ;prompt_sae;prompt_aae;score_aae;best_attr_aae;note\n"
    text += 'x;-2.5;kind;he is here;he be here;1.5;lazy;"a\nb"\n'
    assert read(text, dialect.read_dataset) == [ROW]


def test_spaces_after_commas_do_not_make_a_difference():
    (row,) = read(f"{SHORT}he be here,he is here, lazy, kind\n", dialect.read_dataset)
    assert (row.best_attr_aae, row.best_attr_sae, row.score_aae) == ("lazy", "kind", None)
    refused(f"{SHORT}he be here, he is here, lazy, kind\n", 2, "white space at the start", dialect.read_dataset)


def published(n: int = 6) -> pd.DataFrame:
    pairs = [
        pair
        for pairs in zip(dialect.pairs_of("be_usually", n), dialect.pairs_of("done", n), strict=True)
        for pair in pairs
    ]
    rows = [
        (frame.format(p.aae), frame.format(p.sae), "lazy", "kind", frame, p.aae)
        for frame in dialect.frames()
        for p in pairs
    ]
    return pd.DataFrame(rows, columns=[*PROMPTS, *TRAITS, *FRAME])


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_the_published_columns_as_pandas_writes_them(tmp_path, index, quoting, sep):
    table, path = published(), tmp_path / "dataset.csv"
    table.to_csv(path, index=index, quoting=quoting, sep=sep)
    rows = dialect.read_dataset(path)
    assert [
        (r.prompt_aae, r.prompt_sae, r.best_attr_aae, r.best_attr_sae, r.prompt, r.variable_aae) for r in rows
    ] == list(table.itertuples(index=False, name=None))
    assert rows[0].score_aae is None and rows[0].score_sae is None
    pd.read_csv(path, sep=sep).to_csv(path)  # "Unnamed: 0" beside the new index
    assert dialect.read_dataset(path) == rows
    dialect.write_dataset(rows, path)
    assert path.read_text(encoding="utf-8").splitlines()[0] == ",".join([*PROMPTS, *TRAITS, *FRAME])
    assert dialect.read_dataset(path) == rows


def test_empty_cells_of_pandas_are_refused(tmp_path):
    path = tmp_path / "dataset.csv"
    table = published(2)
    for column in table.columns:
        for na in ("", "NaN", "nan", "<NA>", "NULL"):
            holed = table.copy()
            holed.loc[3, column] = None
            holed.to_csv(path, na_rep=na)
            with pytest.raises(DialectError, match=r"dataset\.csv:5: "):
                dialect.read_dataset(path)


@pytest.mark.parametrize(
    ("prompt", "variable", "message"),
    [
        ("He says {}", "he is here", "give 'He says he is here'"),
        ("He says", "he be here", "no slot"),
        ("He {} says {}", "he be here", "2 slots"),
        ("He says {x}", "he be here", "name"),
        ("He says {", "he be here", "braces"),
    ],
)
def test_a_frame_and_a_guise_that_do_not_give_the_prompt(prompt, variable, message):
    header = SHORT.strip() + ",prompt,variable_aae\n"
    refused(
        f"{header}He says he be here,He says he is here,lazy,kind,{prompt},{variable}\n",
        2,
        message,
        dialect.read_dataset,
    )
    good = f"{header}He says  he be here,He says  he is here,lazy,kind,He says {{}},he be here\n"
    assert read(good, dialect.read_dataset)[0].variable_aae == "he be here"  # up to white space


@pytest.mark.parametrize(
    "broken",
    [
        '"he be,he is,lazy,kind,1,2\n',
        'he be,"he is,lazy,kind,1,2\n',
        '"he be,he is,lazy,kind,1,2\nshe be,she is,lazy,kind,1,2\nthey be",they are,lazy,kind,1,2\n',
        '"he be, now,he is,lazy,kind,1,2\nthey be",they are,lazy,kind,1,2\n',
        'he be,"he is,lazy,kind,1,2\nshe be,she is",lazy,kind,1,2\n',
        '"hi" he be,"hi" he is,lazy,kind,1,2\n',
        'he be,he is,lazy,"kind,1,2\nshe be,she is,lazy,kind",1,2\n',
    ],
)
def test_an_unclosed_mark_takes_no_rows_with_it(broken):
    refused(
        HEADER + "he be,he is,lazy,kind,1,2\n" + broken + "he be,he is,lazy,kind,1,2\n", 3, "", dialect.read_dataset
    )
    noted = HEADER.strip() + ',note\nhe be,he is,lazy,kind,1,2,"so\nshe be,she is,lazy,kind,1,2,fine"\n'
    refused(noted, 2, "note is closed in a later row", dialect.read_dataset)


def test_allow_list_of_a_dataset():
    text = SHORT + "".join(f"Ann says he be {verb},Ann says he is {verb},lazy,kind\n" for verb in ("here", "gone"))
    text += "Ann says he be here,Ann says he stands here,lazy,kind\n"
    assert len(read(text, dialect.read_dataset, allow=iter(["be", "is"]))) == 2
    with pytest.raises(DialectError, match="one string"):
        read(text, dialect.read_dataset, allow="be")


# --- there and back ---------------------------------------------------------------------------------------------------

TEXTS = st.text(st.sampled_from("ab e,;\t|\"'{}\n\r\\’é\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029"), min_size=1).map(
    lambda text: f"x{text}x"
)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TEXTS, FINITE, FINITE), min_size=1, max_size=4), st.booleans(), st.booleans())
def test_what_is_written_is_read_back_exactly(tmp_path_factory, values, with_scores, with_frame):
    rows = [
        DatasetRow(
            f"be {text}",
            f"is {text}",
            "lazy",
            "kind",
            *((a, b) if with_scores else (None, None)),
            *(("{} " + text.replace("{", "{{").replace("}", "}}"), "be") if with_frame else (None, None)),
        )
        for text, a, b in values
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    dialect.write_dataset(rows, path)
    assert dialect.read_dataset(path, curly="keep") == rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_aae": float("nan")}, "scores"),
        ({"score_aae": None}, "score_aae is None"),
        ({"best_attr_aae": " lazy"}, "read back"),
        ({"best_attr_aae": "very lazy"}, "one word"),
        ({"prompt_aae": ""}, "empty"),
        ({"prompt_aae": "he be \ud800"}, r"U\+D800"),
        ({"prompt_aae": "he is here"}, "both sides"),
        ({"prompt_aae": 5}, "read back"),
        ({"prompt_aae": "he be,he is,lazy,kind,1,2\nshe be"}, "closed in a later row"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, changes, message):
    path = tmp_path / "rows.csv"
    with pytest.raises(DialectError, match=rf"rows\[1\]: .*{message}"):
        dialect.write_dataset([ROW, DatasetRow(**{**vars(ROW), **changes})], path)
    with pytest.raises(DialectError, match="no rows"):
        dialect.write_dataset([], path)
    assert not path.exists()
