"""A course folder of its own, in which steps are recorded and not run."""

import os
import subprocess
import venv

from utils.course import install

TEXTS = {"requirements.txt": "einops\n", "constraints.txt": "einops==0.8.2\n", "pyproject.toml": "[project]\n"}
real_run = subprocess.run


class Machine:
    """A course folder of its own in which steps are recorded, not run. `fails`: a word of the step that fails.

    fits: what the packages in .venv are for `install.fits`: "pins", "bounds" (allowed, not the tested ones) or "".
    """

    def __init__(self, root):
        self.root, self.ran, self.fails, self.fits, self.raises, self.leaves = root, [], None, "", None, ""

    def run(self, command, cwd, **options):
        if options.get("capture_output"):  # a question to .venv's Python: asked for real
            return real_run(command, cwd=cwd, **options)
        self.ran.append([*command, f"TQDM_DISABLE={options.get('env', {}).get('TQDM_DISABLE')}"])
        if self.raises and self.raises in command:
            if self.leaves:
                (packages() / self.leaves).mkdir()
            raise KeyboardInterrupt
        (self.root / ".venv").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(
            command, int(bool(self.fails) and any(self.fails in part for part in command))
        )

    def answer(self, *options):
        return self.fits == "pins" or (self.fits == "bounds" and "--bounds" in options)

    def make_venv(self):
        venv.EnvBuilder(symlinks=os.name != "nt", with_pip=False).create(self.root / ".venv")

    def set_up(self):
        """A finished setup."""
        self.make_venv()
        assert install.set_up() == 0
        self.ran.clear()


def packages():
    return next(install.VENV.glob("[Ll]ib*/**/site-packages"))
