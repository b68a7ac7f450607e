"""CSVs of pairs: what is read, and thirty-odd ways in which a file can be wrong, each with a message of its own."""

import re
import warnings

import pytest

from tests.report.task_models import GOOD, HEADER, TASK_WORDS, write_csv
from utils.circuits.report.pairs_csv import (
    COMPLAINTS_SHOWN,
    MIN_PAIRS,
    PairsFileError,
    check_answers,
    read_pair_rows,
)
from utils.tasks import TASK_COLUMNS, TASKS, task_csv, task_file
from utils.tiny_models import tiny_model

FIFTH = GOOD[3]  # on line 5


def rows_with(row: str, at: int = 3) -> list[str]:
    return [*GOOD[:at], row, *GOOD[at + 1 :]]


def fifth(clean="Anna sat", corrupted="Kate sat", answer=" Anna", wrong=" Kate") -> list[str]:
    return rows_with(f'"{clean}","{corrupted}","{answer}","{wrong}"')


def file_of(rows=GOOD, header=HEADER) -> bytes:
    return ("\n".join([header, *rows]) + "\n").encode()


# what is wrong → (the file's bytes, what the message says: place, value, fix)
BAD = {
    "empty": (b"", "pairs.csv: the file is empty; the first line names the columns"),
    "blank lines only": (b"\n\n \n", "the file is empty"),
    "header only": (f"{HEADER}\n".encode(), "pairs.csv:1: there is a header and no pair below it"),
    "no header": (file_of(header=GOOD[0].replace("Mary", "Emma")), "pairs.csv:1: no column names in ['Emma and John"),
    "no clean": (
        file_of(header="prompt,corrupted,answer,wrong_answer"),
        "pairs.csv:1: no column 'clean' among ['prompt'",
    ),
    "no corrupted": (file_of(header="clean,other,answer,wrong_answer"), "pairs.csv:1: no column 'corrupted' among"),
    "no answer": (file_of(header="clean,corrupted,right,wrong_answer"), "pairs.csv:1: no column 'answer' among"),
    "no wrong answer": (
        file_of(header="clean,corrupted,answer,incorrect"),
        "pairs.csv:1: no column 'wrong answer' among",
    ),
    "column twice": (file_of(header="clean,corrupted,answer,wrong_answer,Clean"), "the column 'clean' is there twice"),
    "semicolons": (file_of(header=HEADER.replace(",", ";")), "pairs.csv:1: the columns are separated by semicolons"),
    "tabs": (file_of(header=HEADER.replace(",", "\t")), "pairs.csv:1: the columns are separated by tabs"),
    "a spreadsheet": (b"PK\x03\x04rest", "pairs.csv: this is a spreadsheet and not text; save it as 'CSV UTF-8'"),
    "UTF-16": (file_of().decode().encode("utf-16"), "pairs.csv:1: the file is UTF-16, not UTF-8"),
    "Windows-1252": (file_of(rows_with("café,bar, Anna, Kate")).decode().encode("cp1252"), "pairs.csv:5: byte 0xe9"),
    "NUL": (file_of(rows_with("An\0na,Kate, Anna, Kate")), "pairs.csv:5: a NUL character"),
    "marks that do not match": (
        file_of(rows_with('"Anna" sat,Kate sat, Anna, Kate')),
        "pairs.csv:5: the quotation marks",
    ),
    "a field too few": (file_of(rows_with("Anna sat,Kate sat, Anna")), "pairs.csv:5: 3 fields and 4 columns"),
    "a comma in a text": (
        file_of(rows_with("Anna, she sat,Kate sat, Anna, Kate")),
        "pairs.csv:5: 5 fields and 4 columns",
    ),
    "empty clean": (file_of(fifth(clean=" ")), "pairs.csv:5: 'clean' is empty; fill it in, or delete the line"),
    "empty corrupted": (file_of(fifth(corrupted="")), "pairs.csv:5: 'corrupted' is empty"),
    "empty answer": (file_of(fifth(answer="")), "pairs.csv:5: 'answer' is empty"),
    "empty wrong answer": (file_of(fifth(wrong=" ")), "pairs.csv:5: 'wrong answer' is empty"),
    "nan": (
        file_of(fifth(wrong="nan")),
        "pairs.csv:5: 'wrong answer' is 'nan', which programs write for an empty cell",
    ),
    "equal sides": (file_of(fifth(corrupted="Anna sat")), "pairs.csv:5: clean and corrupted are both 'Anna sat'"),
    "equal answers": (file_of(fifth(wrong=" Anna")), "pairs.csv:5: answer and wrong answer are both ' Anna'"),
    "answers apart by a space": (file_of(fifth(wrong="Anna")), "answer ' Anna' and wrong answer 'Anna' differ in"),
    "space at a prompt's end": (file_of(fifth(clean="Anna sat ")), "5: the clean prompt 'Anna sat ' ends in white"),
    "space at the corrupted end": (
        file_of(fifth(corrupted="Kate sat ")),
        "the corrupted prompt 'Kate sat ' ends in white",
    ),
    "space at an answer's end": (
        file_of(fifth(answer=" Anna ")),
        "pairs.csv:5: the answer ' Anna ' ends in white space",
    ),
    "two spaces": (
        file_of(fifth(wrong="  Kate")),
        "pairs.csv:5: the wrong answer '  Kate' begins with more than one space",
    ),
    "glued": (
        file_of(fifth(answer="Anna", wrong="Kate")),
        "the answer 'Anna' would be glued to the prompt, 'Anna satAnna'",
    ),
    "one with a space": (
        file_of(fifth(clean="5 +", corrupted="6 +", wrong="7")),
        "one begins with a space and one does not",
    ),
    "something unseen": (
        file_of(fifth(clean="An\u200bna sat")),
        "holds something that nobody sees: U+200B ZERO WIDTH SPACE",
    ),
    "a control character": (file_of(fifth(clean="An\u0007na sat")), "pairs.csv:5: U+0007 control character in"),
    "two alphabets": (file_of(fifth(clean="Ann\u0430 sat")), "mixes Latin letters with others that look like them"),
    "header again": (file_of(rows_with(HEADER)), "pairs.csv:5: the header is there a second time; delete this line"),
    "a pair twice": (file_of([*GOOD, FIFTH]), "pairs.csv:12: the same pair stands on line 5"),
    "contradiction": (
        file_of([*GOOD, FIFTH.replace(" Anna, Kate", " Kate, Anna")]),
        "pairs.csv:12: ' Kate' is right for 'Anna and Paul went to the office' here and wrong on line 5",
    ),
    "too few pairs": (file_of(GOOD[:3]), f"pairs.csv: 3 pairs; at least {MIN_PAIRS} are needed"),
}

# what the model refuses → (row, what the message says)
BAD_FOR_THE_MODEL = {
    "answer of several tokens": (fifth(answer=" Sebastian"), "pairs.csv:5: the answer: answer ' Sebastian' is"),
    "wrong answer of several tokens": (
        fifth(wrong=" Sebastian"),
        "pairs.csv:5: the wrong answer: answer ' Sebastian' is",
    ),
    "a word the tokenizer lacks": (fifth(answer=" é"), "pairs.csv:5: the answer: answer ' é'"),
    "a prompt too long": (fifth(clean="Anna" + " sat" * 200), "pairs.csv:5: the clean prompt: a prompt of"),
}


def test_there_are_thirty_and_no_two_say_the_same():
    messages = [message for _, message in (*BAD.values(), *BAD_FOR_THE_MODEL.values())]
    assert len(messages) >= 30 and len(set(messages)) == len(messages)


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_with_place_value_and_fix(name, tmp_path):
    data, message = BAD[name]
    path = tmp_path / "pairs.csv"
    path.write_bytes(data)
    with pytest.raises(PairsFileError) as error:
        read_pair_rows(path)
    said = str(error.value)
    assert message in said and str(path) in said
    assert re.search("; |, perhaps|Write|at least|, and", said), "a message says what to do"


@pytest.mark.parametrize("name", BAD_FOR_THE_MODEL)
def test_what_the_model_cannot_read_is_refused_by_line(name, tmp_path):
    rows, message = BAD_FOR_THE_MODEL[name]
    path = write_csv(tmp_path / "pairs.csv", rows)
    found = read_pair_rows(path)
    with pytest.raises(PairsFileError) as error:
        check_answers(tiny_model("gpt2"), found, path)
    assert message in str(error.value) and "utils.ioi" not in str(error.value)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(PairsFileError, match="there is no such file"):
        read_pair_rows(tmp_path / "none.csv")
    with pytest.raises(PairsFileError, match="this is a folder"):
        read_pair_rows(tmp_path)


def test_every_bad_line_is_listed_up_to_a_limit(tmp_path):
    two = rows_with("Anna sat,Anna sat, Anna, Kate")
    two[6] = "Mary sat,Tom sat, Mary,"
    with pytest.raises(PairsFileError) as error:
        read_pair_rows(write_csv(tmp_path / "pairs.csv", two))
    assert len(str(error.value).splitlines()) == 2 and ":5:" in str(error.value) and ":8:" in str(error.value)
    with pytest.raises(PairsFileError) as error:
        read_pair_rows(write_csv(tmp_path / "pairs.csv", [",,,"] * 30))
    assert (
        str(error.value).splitlines()[-1] == "… and 10 more"
        and len(str(error.value).splitlines()) == COMPLAINTS_SHOWN + 1
    )


def test_columns_in_any_order_and_spelling_and_extra_ones_are_named(tmp_path):
    rows = [",".join((str(i), *reversed(row.split(",")))) for i, row in enumerate(GOOD)]
    path = write_csv(tmp_path / "pairs.csv", rows, "id,Wrong-Answer,ANSWER,corrupted ,Clean")
    with pytest.warns(UserWarning, match="these columns are not used: 'id'"):
        found = read_pair_rows(path)
    plain = read_pair_rows(write_csv(tmp_path / "plain.csv"))
    assert found == plain and len(found) == len(GOOD)
    assert (found[0].line, found[0].answer, found[0].template) == (2, " Mary", "")


def test_quoted_commas_line_breaks_templates_and_a_byte_order_mark(tmp_path):
    rows = [f'"{i}. Yes, he\nsaid","{i}. No, he\nsaid", Mary, John,t{i % 2}' for i in range(MIN_PAIRS)]
    path = tmp_path / "pairs.csv"
    path.write_text("\ufeff" + "\r\n".join([f"{HEADER},template", *rows]), encoding="utf-8", newline="")
    found = read_pair_rows(path)
    assert len(found) == MIN_PAIRS and found[3].clean == "3. Yes, he\nsaid"
    assert [row.template for row in found[:3]] == ["t0", "t1", "t0"] and found[1].line == 5


# --- the ready-made tasks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_the_tasks_files_are_what_the_code_writes_and_can_be_read(name):
    assert task_file(name).read_text(encoding="utf-8") == task_csv(name)
    assert task_csv(name).splitlines()[0] == ",".join(TASK_COLUMNS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = read_pair_rows(task_file(name))
    assert len(rows) == 48 and len({(row.clean, row.answer) for row in rows}) == 48
    assert {word.strip() for row in rows for word in (row.answer, row.wrong)} <= {*TASK_WORDS.split(), *"123456789"}


def test_the_tasks_are_balanced_and_what_they_say():
    agreement = read_pair_rows(task_file("agreement"))
    counts = {row.answer: 0 for row in agreement}
    for row in agreement:
        counts[row.answer] += 1
        noun, other = row.clean.split()[1], row.clean.split()[-1]
        assert (row.answer in (" are", " were")) == noun.endswith("s") != row.corrupted.split()[1].endswith("s")
        assert noun.rstrip("s") != other.rstrip("s")
    assert set(counts.values()) == {12}
    for row in read_pair_rows(task_file("greater_than")):
        century, decade = row.clean[-2:], int(re.search(r"\d{4}", row.clean)[0][2])
        assert re.search(r"\d{4}", row.clean)[0][:2] == century and int(row.wrong) < decade < int(row.answer)
        assert re.search(r"\d{4}", row.corrupted)[0][2] == "0"
    capitals = read_pair_rows(task_file("capitals"))
    of = {row.answer: [] for row in capitals}
    for row in capitals:
        of[row.answer].append(row.clean)
    assert max(map(len, of.values())) <= 2 and {row.wrong for row in capitals} <= set(of)


def test_more_rows_another_seed_and_an_unknown_task():
    assert len(task_csv("capitals", 80).splitlines()) == 81 and task_csv("agreement", seed=1) != task_csv("agreement")
    for function in (task_csv, task_file):
        with pytest.raises(KeyError, match="the tasks are greater_than, agreement, capitals"):
            function("none")


def test_tasks_fit_the_embedded_tokenizer(smollm2):
    """One token an answer, equal lengths, one difference: on SmolLM2's tokenizer. gpt2's could not be reached."""
    from utils.circuits.report import ReportSettings, read_report_task

    for name in TASKS:
        task = read_report_task(task_file(name), smollm2, ReportSettings())
        assert len(task.aligned) == 48 and all(len(places) == 1 for _, _, places in task.shapes)
