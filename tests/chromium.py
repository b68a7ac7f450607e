"""The Chromium or Chrome in which tests draw, and how they start it. Playwright allows one at a time in a process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

BROWSER = os.environ.get("CHROME") or shutil.which("chromium") or shutil.which("google-chrome")
QUIET = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()


@contextmanager
def chromium(*more: str) -> Iterator:
    """A browser that asks nobody for updates. more: further switches. The test is skipped where Playwright is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is in the extra `dev`")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=[*QUIET, *more])
        yield browser
        browser.close()
