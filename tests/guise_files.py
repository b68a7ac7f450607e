"""Two helpers of the tests of files: write a file as it is and read it, and expect it to be refused at a line."""

import tempfile
from pathlib import Path

import pytest

from utils import dialect
from utils.dialect import DialectError


def read(content, reader=dialect.read_pairs, **options):
    """What a reader makes of a file with this content, bytes or text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return reader(path, **options)


def refused(content, line, message="", reader=dialect.read_pairs, **options):
    """Expect DialectError that begins with the file and the line and goes on with the message, a regular expression."""
    with pytest.raises(DialectError, match=rf"(?s)file\.txt:{line}: .*{message}"):
        read(content, reader, **options)
