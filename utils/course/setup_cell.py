"""What every notebook begins with: which model its figures are from, and a cell that finds the course's code.

On Colab that cell installs the course first.
"""

from __future__ import annotations

PLACEHOLDER = "OWNER"  # of `[tool.course]` in pyproject.toml, until the course is published

CELL = """\
# This cell finds the course's code. On Colab it first installs the course, and keeps Colab's own torch, numpy and pandas.
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

if "google.colab" in sys.modules:
    COURSE, REPOSITORY, BRANCH = Path("/content/course"), "@url@", "@branch@"
    kept = [f"{name}=={metadata.version(name)}" for name in ("numpy", "pandas", "torch") if util.find_spec(name)]
    steps = [
        (COURSE.parent, ["git", "clone", "--depth=1", f"--branch={BRANCH}", REPOSITORY, str(COURSE)]),
        (COURSE, [sys.executable, "-m", "pip", "install", "-q", "-r", "requirements.txt", *kept]),
        (COURSE, [sys.executable, "-m", "utils.course.install", "weights"]),
    ]
    if not (COURSE / "installed").exists():
        print("Installing the course. This takes a few minutes.")
        shutil.rmtree(COURSE, ignore_errors=True)  # what an earlier try has left
        for folder, command in steps:
            try:
                subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
            except subprocess.CalledProcessError as error:
                print((error.stderr or "")[-2000:])
                print("The course is not installed yet, for the reason above. Run this cell again.")
                print("If it fails again, choose Runtime > Restart session, and run this cell once more.")@ask@
                raise
        (COURSE / "installed").touch()
    print(f"The course is ready, with Colab's {', '.join(kept)}. To keep your work: File > Save a copy in Drive.")
else:
    spec = util.find_spec("utils")
    installed = Path(spec.origin).parent.parent if spec and spec.origin else Path.cwd()
    places = [Path.cwd(), *Path.cwd().parents, *map(Path, sys.path), installed]
    COURSE = next((p for p in places if (p / "utils/models.py").exists() and (p / "tests/checks").exists()), None)
    if COURSE is None:
        raise ModuleNotFoundError(
            f"the course's code is not in {Path.cwd()} or a folder above it, and this kernel ({sys.executable}) does not "
            "have it. Open the notebook inside the course's folder, or install that folder into this kernel: "
            "pip install -e FOLDER. @where@"
        )
    if util.find_spec("transformer_lens") is None:
        raise ModuleNotFoundError(
            f"this kernel ({sys.executable}) does not have the course's packages. Choose the kernel of "
            f"{COURSE / '.venv'}, or start JupyterLab with `make lab` in {COURSE}."
        )
sys.path.insert(0, str(COURSE))"""

MODEL_NOTE = """\
**The model.** `load_model()` prints which model you have. Every figure of the course was computed on SmolLM2-135M-Instruct, a
small chat model whose 4-bit weights are converted back to ordinary numbers. Here it reads plain text after its BOS token,
`<|im_start|>`, and not a chat. With gpt2-small, the model of Wang et al. 2022, the code is the same and the numbers differ;
the chapters have not been run on it yet. `load_model()` takes gpt2-small where it is cached or a model hub answers, except on
Colab. To see the numbers of the text anywhere, write `load_model("smollm2-135m")`."""

ASK = "The address OWNER/... is a placeholder: ask whoever gave you this notebook for the course's real address."


def setup_cell(repository: str, branch: str) -> str:
    """The cell's source, for a repository "owner/name" and its branch."""
    published = not repository.startswith(f"{PLACEHOLDER}/")
    url = f"https://github.com/{repository}"
    words = {
        "@url@": url,
        "@branch@": branch,
        "@ask@": "" if published else f'\n{"":16}print("{ASK}")',
        "@where@": f"To get the folder: git clone --branch {branch} {url}" if published else ASK,
    }
    cell = CELL
    for word, text in words.items():
        cell = cell.replace(word, text)
    return cell
