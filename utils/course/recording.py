"""A learner's own record of the checks that they ran: one line of JSON for each run, in a file on their machine.

It is `progress.jsonl` in the user's data folder, not beside the chapters: one person has one record, whichever copy of the
course is open, and it outlives a new clone, and a copy that a whole room shares may be read-only. The environment
variable COURSE_PROGRESS names another file, or turns the record off (0). Nothing leaves the machine, and the learner's
code is not kept. `utils.course.progress` reads the record.

A run counts when a person made it: in a notebook or in IPython, outside `solutions/`, with a function that has a name.
A lambda is for showing what a check says.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from platformdirs import user_data_path

NOT_WRITTEN = "not written yet"  # recorded in place of a mistake when only the placeholder was there
LONGEST_MISTAKE = 300  # characters
SOLVED = Path(__file__).resolve().parents[2] / "solutions"


def record_path() -> Path | None:
    """The file that holds the record, there or not; None if COURSE_PROGRESS turns the record off.

    Raises RuntimeError where COURSE_PROGRESS begins with a ~ whose user has no home folder.
    """
    named = os.environ.get("COURSE_PROGRESS", "").strip()
    if named.lower() in ("0", "off", "no", "false"):
        return None
    if named.lower() in ("", "1", "on", "yes", "true"):
        return user_data_path("mechinterp-course", appauthor=False) / "progress.jsonl"
    return Path(named).expanduser()


def record_run(chapter: str, exercise: str, learner: Callable, failure: Exception | None) -> None:
    """Append one run of a check to the record. Whatever goes wrong here, the check goes on as if nothing had.

    chapter: "03". failure: the CheckFailed that the learner is about to read, or None if the check passed.
    """
    with contextlib.suppress(Exception):  # a full disk, a read-only folder, no home: none of this is about the answer
        path = record_path()
        if path is None or not _made_by_a_person(learner):
            return
        run = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "chapter": chapter,
            "exercise": exercise,
            "passed": failure is None,
            "mistake": "" if failure is None else _mistake(failure),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        _append(path, json.dumps(run, ensure_ascii=False))


def _made_by_a_person(learner: Callable) -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    named = getattr(learner, "__name__", "") != "<lambda>"
    return shell is not None and named and Path.cwd().resolve() != SOLVED


def _mistake(failure: Exception) -> str:
    """The likely mistake in the words of the check, or what it compared where it could not name one, without any code."""
    if NOT_WRITTEN in failure.compared:
        return NOT_WRITTEN
    said = failure.likely or re.split(r"\bat line \d+ of ", failure.compared)[0]
    return " ".join(said.split())[:LONGEST_MISTAKE]


def _append(path: Path, line: str) -> None:
    """One write, so that two notebooks do not mix their lines; on a line of its own also where the last one was cut off."""
    with path.open("ab+") as file:
        cut_off = False
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            cut_off = file.read(1) != b"\n"
        file.write(b"\n" * cut_off + line.encode() + b"\n")
