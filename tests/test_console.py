"""Output survives every encoding, and stays as it is where the encoding has the characters."""

import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.course.console import make_output_safe, say

LINE = "✓ zero_head: ✗ → · ± ≥ “x” … 3 × 4 − α ┃─╭ █ é 🙂"


def printed(encoding, text):
    """The bytes that `say` writes to a stdout of this encoding."""
    stream, before = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline=""), sys.stdout
    sys.stdout = stream
    try:
        say(text)
        stream.flush()
    finally:
        sys.stdout = before
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "cp437", "cp932", "latin-1", "ascii"])
def test_what_an_encoding_lacks_is_spelled_out(encoding):
    text = printed(encoding, LINE)
    assert "?" not in text and "zero_head" in text and "\\U0001f642" in text
    assert ("ok" in text) != ("✓" in text)


def test_cp1252_as_a_learner_on_windows_sees_it():
    assert printed("cp1252", "✓ a: exact · b → c │ d") == "ok a: exact · b -> c | d\n"


def test_utf8_is_left_alone():
    assert printed("utf-8", LINE) == f"{LINE}\n"


@given(st.text())
def test_no_text_at_all_raises(text):
    assert printed("ascii", text).isascii() and printed("cp1252", text)


@pytest.mark.parametrize("stream", [None, io.StringIO(), object()])
def test_streams_that_are_no_console(stream, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream)
    make_output_safe()


def test_a_redirected_check(tmp_path):
    """Python itself chooses cp1252, as on Windows where output goes to a file."""
    code = "from utils.course.console import make_output_safe; make_output_safe(); print('✓ ✗ →')"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0 and done.stdout.decode("cp1252").split() == ["ok", "x", "->"]
