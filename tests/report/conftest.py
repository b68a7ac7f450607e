"""A CSV of pairs and a finished report, for the tests of the report."""

import pytest

from tests.report.task_models import write_csv


@pytest.fixture
def csv(tmp_path):
    return write_csv(tmp_path / "pairs.csv")
