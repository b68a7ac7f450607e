"""A machine whose steps are recorded."""

import pytest

from tests.install.cases import TEXTS, Machine
from utils.course import install


@pytest.fixture(params=["plain", "with spaces und Umläute"])
def machine(request, monkeypatch, tmp_path):
    stand_in = Machine(tmp_path / request.param)
    stand_in.root.mkdir()
    for name, text in TEXTS.items():
        (stand_in.root / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(install, "ROOT", stand_in.root)
    monkeypatch.setattr(install, "VENV", stand_in.root / ".venv")
    monkeypatch.setattr(install.subprocess, "run", stand_in.run)
    monkeypatch.setattr(install, "fits", stand_in.answer)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    return stand_in
