"""Examine this machine: what the course needs, one line each, with the cause and the command that fixes it.

    make doctor, or python -m utils.course.doctor [--json]      exit status 0 if nothing failed, else 1

`fail` means that the course does not run until it is fixed; `warn`, that it runs, with less. Standard library only until
the packages are there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import warnings
from dataclasses import asdict

from utils.course import install
from utils.course.console import make_output_safe
from utils.course.probes import PROBES, Finding


def examine(name: str) -> Finding:
    """The finding of one probe; what it prints is dropped, and what it raises is a finding too."""
    dropped = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(dropped), contextlib.redirect_stderr(dropped):
            warnings.simplefilter("ignore")
            found = PROBES[name]()
    except ModuleNotFoundError as error:
        found = Finding("fail", f"not examined: {error.name} is not installed in this Python", install.command("setup"))
    except (Exception, SystemExit) as error:
        again = f"{install.command('setup')}; if it stays, delete .venv first"
        found = Finding("fail", f"{type(error).__name__}: {error}", again)
    return Finding(found.state, _presentable(found.cause), _presentable(found.fix))


def _presentable(text: str) -> str:
    """In one line, and without passwords, tokens or keys, which addresses and messages may hold."""
    text = re.sub(r"://[^/\s@]+@", "://***@", " ".join(text.split()))
    for variable, value in os.environ.items():
        if re.search(r"TOKEN|PASSWORD|SECRET|KEY|CREDENTIAL", variable, re.IGNORECASE) and len(value) >= 6:
            text = text.replace(value, "***")
    return text


def _line(name: str, found: Finding) -> str:
    return f"{found.state:<5} {name:<14} {found.cause}" + (f"  ->  {found.fix}" if found.fix else "")


def main() -> int:
    make_output_safe()
    parser = argparse.ArgumentParser(prog="python -m utils.course.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the findings as one JSON object")
    as_json = parser.parse_args().json
    findings = {}
    for name in PROBES:
        findings[name] = examine(name)
        if not as_json:
            print(_line(name, findings[name]), flush=True)
    counts = {state: sum(found.state == state for found in findings.values()) for state in ("ok", "warn", "fail")}
    if as_json:
        lines = [{"name": name, **asdict(found)} for name, found in findings.items()]
        print(json.dumps({"ok": counts["fail"] == 0, "counts": counts, "findings": lines}, indent=1))
    else:
        print(_verdict(counts))
    return 1 if counts["fail"] else 0


def _verdict(counts: dict[str, int]) -> str:
    if counts["fail"]:
        failed = f"{counts['fail']} of {sum(counts.values())} failed"
        return f"{failed}: start with the first, whose fix stands after the arrow"
    return "the course runs on this machine" + (f"; {counts['warn']} warnings do not stop it" if counts["warn"] else "")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os._exit(1)
