"""Pairs in other people's files: as editors and spreadsheets save them, read exactly or refused with their line."""

import codecs

import pytest

from tests.guise_files import read, refused
from utils import dialect
from utils.dialect import DialectError
from utils.dialect.text import CURLY, straighten

GOOD = "he be here\the is here\n"
SHORT = "prompt_aae,prompt_sae,best_attr_aae,best_attr_sae\n"
SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x1f\x85\u2028\u2029"  # str.splitlines cuts at them, and no file of records does


def sides(pairs):
    return [(pair.aae, pair.sae) for pair in pairs]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_endings_byte_order_mark_blank_lines_and_no_final_newline(end, mark):
    text = mark + end.join(["he be working\the’s usually working", "", "  ", "she be cooking\tshe's usually cooking"])
    pairs = read(text)
    assert sides(pairs) == [
        ("he be working", "he's usually working"),
        ("she be cooking", "she's usually cooking"),
    ]
    assert [pair.cluster for pair in pairs] == ["working", "cooking"]
    refused(text + end + "he be", 5, "0 tabs")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("he be working he's working\n", 1, "0 tabs.*one tab"),
        ("he be working,he's working\n", 1, "0 tabs.*one tab"),
        ("he be working;he's working\n", 1, "0 tabs.*one tab"),
        ("a\tb\n\nhe be\tworking\tnow\n", 3, "2 tabs"),
        ("a\tb\nhe be working\t \n", 2, "the SAE side is empty"),
        ("\the is\n", 1, "the AAE side is empty"),
        ("he be\tnan\n", 1, "'nan'"),
        ("he be\tNaN\n", 1, "'NaN'"),
        ("he is\the is\n", 1, "both sides are 'he is'"),
        ("0\the be\the is\n", 1, "2 tabs"),
    ],
)
def test_pairs_refused_with_line_and_value(text, line, message):
    refused(text, line, message)


@pytest.mark.parametrize("text", ["", "\n\n", "AAE\tSAE\n", "\ufeff"])
def test_pairs_file_with_nothing_in_it(text):
    with pytest.raises(DialectError, match=r"file\.txt: no pairs"):
        read(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"he be here, man"\t"he is here, man"\n', ("he be here, man", "he is here, man")),
        ('"he say ""hi"" now"\t"he says ""hi"" now"\n', ('he say "hi" now', 'he says "hi" now')),
        ('he say ""hi""\t"he says ""hi"""\n', ('he say ""hi""', 'he says "hi"')),  # no mark at the start: text
        ('he said "hi\the says "hi\n', ('he said "hi', 'he says "hi')),
        ("she 6'2\" tall\tshe is 6'2\" tall\n", ("she 6'2\" tall", "she is 6'2\" tall")),
        ('"he be here\nall day"\t"he is here\nall day"\n', ("he be here\nall day", "he is here\nall day")),
        ("he be {here}\the is {here}\n", ("he be {here}", "he is {here}")),
        ("he be \\there\the is \\there\n", ("he be \\there", "he is \\there")),
    ],
)
def test_quotation_marks_as_spreadsheets_and_plain_files_write_them(text, expected):
    assert sides(read(text + GOOD)) == [expected, ("he be here", "he is here")]


@pytest.mark.parametrize(
    "broken",
    [
        '"he be here\the is here\n',  # never closed
        'he be here\t"he is here\n',
        '"hi" he said\t"hi" he says\n',  # text after the closing mark
        '"he be here\the is here\nshe be here\tshe is here\nthey be here"\tthey are here\n',  # closed two lines later
        'he be\t"he is\nshe be\tshe is"\n',
        '"he say \\"hi\\""\the is\n',
    ],
)
def test_quotation_marks_that_do_not_match_take_no_lines_with_them(broken):
    refused(GOOD + "\n" + broken + GOOD, 3)
    refused('"he be\nhere"\t"he is\nhere"\n' + broken + GOOD, 4)


def test_an_extra_column_takes_no_lines_with_it():
    refused('AAE\tSAE\tnote\nhe be\the is\t"so\nshe be\tshe is\tfine"\n', 2, "takes in a tab")


@pytest.mark.parametrize("separator", SEPARATORS)
def test_what_is_no_line_end_neither_cuts_nor_glues(separator):
    pairs = read(f"he be{separator}here\the is{separator}here\n" + GOOD)
    assert sides(pairs) == [(f"he be{separator}here", f"he is{separator}here"), ("he be here", "he is here")]
    (row,) = read(f"{SHORT}he be{separator}here,he is{separator}here,lazy,kind\n", dialect.read_dataset)
    assert row.prompt_aae == f"he be{separator}here"
    assert pairs[0].cluster == "here"


@pytest.mark.parametrize(
    "header",
    [
        "AAE\tSAE",
        "aae\tsae",
        "\ufeffAae\tSae",
        '"AAE"\t"SAE"',
        "AAVE\tStandard English",
        "African American\tStandard American",
        "variable_aae\tvariable_sae",
    ],
)
def test_a_header_names_the_columns_and_is_no_pair(header):
    assert sides(read(f"{header}\n{GOOD}")) == [("he be here", "he is here")]
    refused(f"{GOOD}{header}\n{GOOD}", 2, "header")


def test_columns_of_pairs_are_found_by_name():
    assert sides(read("SAE\tAAE\nhe is here\the be here\n")) == [("he be here", "he is here")]
    assert sides(read("\taae\tsae\tcluster\n0\the be\the is\tx\n")) == [("he be", "he is")]  # pandas, with its index
    refused("\taae\tsae\n0\the be\the is\nhe be\the is\n", 3, "1 tabs")
    for header in ("aae,sae", "AAE SAE", "AAE\tAAE", "AAE\tEnglish", "text\tSAE", "AAE\tAAE text\tSAE"):
        refused(f"{header}\n{GOOD}", 1, "does not name one column")


def test_a_cluster_is_a_word_even_where_the_line_ends_in_punctuation():
    assert [pair.cluster for pair in read("he be here !\the is here !\n!\t?\n")] == ["here", "!"]


def test_alignment_and_allow_list(model):
    text = "he be working\the’s working\nhe be fighting\the is fighting\n"
    refused(text, 1, "not equally long", align=(model, "{}"))
    refused(text, 1, "no slot", align=(model, "no slot"))
    assert [p.aae for p in read(text, allow=iter(dialect.allow_list()))] == ["he be working"]
    with pytest.raises(DialectError, match="one string"):
        read(text, allow="he be")
    with pytest.raises(DialectError, match="curly='curl'"):
        read(text, curly="curl")


# --- what nobody sees -------------------------------------------------------------------------------------------------

SPACES = "\u00a0\u2002\u2003\u2007\u2009\u200a\u202f\u205f\u3000"
NOTHING = "\u200b\u200e\u200f\u2060\u00ad\u061c\u180e\u034f\u115f\u3164\u2800\ufe0f\u200c\u200d"


@pytest.mark.parametrize(
    ("aae", "sae"),
    [(f"he is{space}here", "he is here") for space in SPACES]
    + [(f"he is{nothing} here", "he is here") for nothing in NOTHING if nothing != "\u2800"]
    + [
        ("he is  here", "he is here"),
        ("cafe\u0301 open", "café open"),
        ("he is co\u2011op", "he is co-op"),
        ("a ﬁne day", "a fine day"),
    ],
)
def test_sides_that_look_the_same_are_the_same(aae, sae):
    for text in (f"{aae}\t{sae}\n", f"{sae}\t{aae}\n"):
        refused(GOOD + text, 2)
        refused(f"{SHORT}{text.strip()},lazy,kind\n".replace("\t", ","), 2, reader=dialect.read_dataset)


@pytest.mark.parametrize("hidden", [*SPACES, *"\u200b\u00ad\u2060\u2800", "  ", "\r"])
def test_a_difference_beside_the_dialect_that_nobody_sees_is_refused(hidden):
    between = "here" if hidden == "\r" else "here "
    refused(f'{GOOD}"he be {between}{hidden}now"\the is here now\n', 2, "nobody sees")
    both = f'"he be {between}{hidden}now"\t"he is {between}{hidden}now"\n'
    assert read(both)[0].aae == f"he be {between}{hidden}now"  # on both sides it is no difference
    refused("he be e\u0301lite\the is \u00e9lite\n", 1, "not NFC")


@pytest.mark.parametrize("damaged", ["\ufeff", "\ufffd", "\x92", "\x08", "\x7f", "\x1b"])
def test_characters_that_no_text_holds_are_refused(damaged):
    refused(f"{GOOD}he ain{damaged}t\the isn{damaged}t\n", 2, f"U\\+{ord(damaged):04X}")
    for row in (f"he{damaged} be,he{damaged} is,lazy,kind", f"he be,he is,lazy{damaged},kind"):
        refused(f"{SHORT}{row}\n", 2, f"U\\+{ord(damaged):04X}", dialect.read_dataset)


def test_letters_of_another_alphabet_are_refused():
    refused("he b\u0435 here\the is here\n", 1, "Latin")  # a Cyrillic e
    emoji = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert read(f"he be naïve {emoji}\the is naïve\n")[0].aae == f"he be naïve {emoji}"  # joined, and seen


@pytest.mark.parametrize("quote", CURLY)
def test_every_curly_quote(quote):
    text = f"he ain{quote}t\the isn{quote}t\n"
    straight = "he ain't" if CURLY[quote] == "'" else 'he ain"t'
    assert read(text)[0].aae == straight == straighten(f"he ain{quote}t")
    assert read(text, curly="keep")[0].aae == f"he ain{quote}t"
    refused(GOOD + text, 2, "curly quote", curly="error")
    refused(f"he ain{quote}t\t{straight}\n", 1, "both sides are")


@pytest.mark.parametrize("reader", [dialect.read_pairs, dialect.read_dataset])
def test_other_encodings_are_named_with_their_line_and_how_to_save(reader):
    text = "prompt_aae,prompt_sae\tx\r\nhe ain’t,he isn’t\ty\r\n"
    refused(text.encode("cp1252"), 2, r"0x92 in 'he ain\\x92t.*not UTF-8.*save it as UTF-8", reader)
    refused(codecs.BOM_UTF8 + text.encode("cp1252"), 2, "not UTF-8", reader)
    refused(text.encode("cp1252").replace(b"\r\n", b"\r"), 2, "not UTF-8", reader)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        refused(GOOD.encode(encoding), 1, "UTF-16", reader)
