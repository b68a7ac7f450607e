"""JupyterLab as a learner should meet it: the map is open, the list shows notebooks, and nothing asks or beckons.

    make lab, or python -m utils.course.lab [JupyterLab's own options, such as --no-browser]

The folder `lab_settings` hides the chapters' scripts and settings, leaves out nbgrader's panels and jupytext's menu, and
turns off news and the search for updates. It stands before the user's own configuration on Jupyter's search path, for
this process and what it starts: nothing is written there, and `jupyter lab` by itself is as before. What a user chooses
in Lab's Settings menu still wins over it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

LAB_SETTINGS = Path(__file__).resolve().with_name("lab_settings")
OPENED = Path(__file__).resolve().parents[2] / "chapters" / "start.ipynb"


def lab_arguments(more: Sequence[str]) -> list[str]:
    """JupyterLab's command line: the chapters as its folder, `start.ipynb` opened, then the user's own options."""
    return [str(OPENED.parent), f"--LabApp.default_url=/lab/tree/{OPENED.name}", *more]


def search_path() -> str:
    """JUPYTER_CONFIG_PATH with our settings first."""
    return os.pathsep.join(filter(None, [str(LAB_SETTINGS), os.environ.get("JUPYTER_CONFIG_PATH")]))


def main() -> int | None:
    os.environ["JUPYTER_CONFIG_PATH"] = search_path()  # read when jupyter_core is first imported, below
    from jupyterlab.labapp import main as start

    return start(lab_arguments(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
