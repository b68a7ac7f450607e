# %% [markdown]
# # Start here
#
# You are about to take a language model apart, twice. In the first part you find out how a model completes "When John and Mary went to the shops, John gave the bag to" with " Mary", down to single attention heads. In the second part you use the same tools on a question about people. Does a model attach other traits to a speaker of African American English than to a speaker of Standard American English? Where in the network does that happen, and how do you keep from fooling yourself about it?
#
# You need Python and a little PyTorch. You do not need to have seen the inside of a transformer: chapter 00 begins with a tour.

# %% [markdown] tags=["model"]
# **The model.** `load_model()` prints which model you have. Every figure of the course was computed on SmolLM2-135M-Instruct, a
# small chat model whose 4-bit weights are converted back to ordinary numbers. Here it reads plain text behind its BOS token,
# `<|im_start|>`, and not a chat. With gpt2-small, the model of Wang et al. 2022, the code is the same and the numbers differ;
# the chapters have not been run on it yet. `load_model("gpt2-small")` takes it, where a model hub can be reached.

# %% tags=["setup"]
# This cell finds the course's code. On Colab it first installs the course, and keeps Colab's own torch, numpy and pandas.
import shutil
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

if "google.colab" in sys.modules:
    COURSE, REPOSITORY, BRANCH = Path("/content/course"), "https://github.com/OWNER/mechinterp-course", "main"
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
                print("If it fails again, choose Runtime > Restart session, and run this cell once more.")
                print("The address OWNER/... is a placeholder: ask whoever gave you this notebook for the course's real address.")
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
            "pip install -e FOLDER. The address OWNER/... is a placeholder: ask whoever gave you this notebook for the course's real address."
        )
    if util.find_spec("transformer_lens") is None:
        raise ModuleNotFoundError(
            f"this kernel ({sys.executable}) does not have the course's packages. Choose the kernel of "
            f"{COURSE / '.venv'}, or start JupyterLab with `make lab` in {COURSE}."
        )
sys.path.insert(0, str(COURSE))

# %%
import pandas as pd

from tests.checks import CheckFailed, check_zero_head
from utils import plots
from utils.models import load_model

# %% [markdown]
# ## Does everything work?
#
# Run the two cells above, and then the one below. (In JupyterLab: Shift+Enter.) The first run takes a quarter of a minute. It prints one line that says which model you have, and why.

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# If you see an error in place of that line, the message says what to do. `make doctor`, typed in a terminal in the course's folder, examines the whole installation.
#
# ## The map
#
# | chapter | the question | time |
# |---|---|---|
# | [00 · Hooks and caches](00_hooks_and_caches.ipynb) | What is inside a transformer, and how do you read and change it? | 45 min |
# | [01 · The IOI task](01_ioi_task.ipynb) | What exactly does the model do, and how do you put a number on it? | 60 min |
# | [02 · Direct logit attribution](02_logit_attribution.ipynb) | Which parts write the answer? | 90 min |
# | [03 · Activation patching](03_activation_patching.ipynb) | Which parts carry the information that decides it? | 150 min |
# | [04 · What kind of head is it?](04_head_anatomy.ipynb) | What do these heads do elsewhere, and what happens without them? | 150 min |
# | [05 · Path patching](05_path_patching.ipynb) | Who tells whom? | 120 min |
# | [06 · The whole circuit](06_full_circuit.ipynb) | Can these heads do the task on their own? | 150 min |
# | [07 · Matched guises](07_matched_guises.ipynb) | Does the model judge a speaker by the dialect? | 90 min |
# | [08 · Where does the gap come from?](08_tracing_prejudice.ipynb) | Where in the network does this happen? | 120 min |
# | [09 · Can it be removed, and what else goes?](09_removing_it.ipynb) | What changes when those parts are taken out? | 90 min |
# | [10 · At scale](10_at_scale.ipynb) | How do you do all of this many times faster, and what may you trust? | 90 min |
#
# Every chapter can be opened on its own: it loads the model and the prompts itself. Later chapters use what earlier ones explain.
#
# **If you have one evening:** 00, 01, and sections 1 to 5 of 03. **If you know TransformerLens:** begin with 02. **If you are here for the second part:** 00, 01, 02, then 07 to 09. **If you teach:** `docs/coverage.md` lists what is where.
#
# ## How a chapter works
#
# Each section asks a question and lets you guess before you see the answer. Write your guess down. A guess that turns out wrong is the most useful thing that can happen to you in this course, because you will remember why.
#
# In an **exercise** you write a function. Its signature says which shapes go in and come out, and its docstring is the specification. The cell after it checks your function on small models with random weights, in a few seconds. If something is wrong, it says what was compared, what the mistake probably is, and where to look. Here is a function
# with a common mistake, so that you can see what that looks like. It is to set one attention head to zero, and returns its input unchanged.

# %%
try:
    check_zero_head(lambda z, hook, head_index: z)
except CheckFailed as failed:
    print(failed)

# %% [markdown]
# When you are stuck, unfold the **hints** one at a time. They get more specific: first a question, then shapes or tools, then the line that people miss. The **answer** is folded after the check. Reading it is no defeat, and it helps most after you have tried.
#
# In a **prediction** you write down what you expect, and in an **interpretation** you choose among sentences about a figure. Both are scored in the next cell, and neither can fail.
#
# The text says what holds in general. What holds for one model only is folded under **What we see, for SmolLM2**. If your model is another one, your numbers differ, and the lines that begin with ✓ or ✗ compare yours with the recorded ones.
#
# ## A first picture
#
# Here is what a transformer looks like from far away. Chapter 00 explains every box and arrow.

# %%
plots.residual_stream_drawing()

# %%
cfg = model.cfg
sizes = {"layers": cfg.n_layers, "heads in a layer": cfg.n_heads, "numbers in a residual stream (d_model)": cfg.d_model, "tokens in the vocabulary": cfg.d_vocab}
pd.DataFrame({"this model": sizes})

# %% [markdown]
# **Next:** [00 · Hooks and caches](00_hooks_and_caches.ipynb).
