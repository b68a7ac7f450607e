# %% [markdown]
# # Start here
#
# You are about to take a language model apart, twice. In the first part, a model reads "When John and Mary went to the shops, John gave the bag to" and goes on with " Mary". You find out which of its parts do that, and how. In the second part you use the same tools on a question about people. When the same thing is said in African American English and in Standard American English, does the model describe the two speakers with different words? If it does, where in the network does that come from? And how do you keep from fooling yourself about it?
#
# You need Python and a little PyTorch. You do not need to have seen the inside of a transformer: chapter 00 begins with a tour.

# %% [markdown] tags=["model"]
# **The model.** `load_model()` prints which model you have. Every figure of the course was computed on SmolLM2-135M-Instruct, a
# small chat model whose 4-bit weights are converted back to ordinary numbers. Here it reads plain text after its BOS token,
# `<|im_start|>`, and not a chat. With gpt2-small, the model of Wang et al. 2022, the code is the same and the numbers differ;
# the chapters have not been run on it yet. `load_model()` takes gpt2-small where it is cached or a model hub answers, except on
# Colab. To see the numbers of the text anywhere, write `load_model("smollm2-135m")`.

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
from utils.course.progress import progress
from utils.models import load_model

# %% [markdown]
# ## Does everything work?
#
# Run the two cells above, and then the one below. (In JupyterLab: Shift+Enter.) The first run can take a minute. It prints one line that says which model you have, and where it came from.

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# If you see an error in place of that line, read its last sentence: it says what to do. You can also open a terminal in the course's folder and type `make doctor`, which examines the whole installation.
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
# | [05 · Path patching](05_path_patching.ipynb) | Which head passes its result to which? | 150 min |
# | [06 · The whole circuit](06_full_circuit.ipynb) | Can these heads do the task on their own? | 210 min |
# | [07 · Matched guises](07_matched_guises.ipynb) | Does the model judge a speaker by the dialect? | 110 min |
# | [08 · Where does the gap come from?](08_tracing_prejudice.ipynb) | Where in the network does this happen? | 150 min |
# | [09 · Can it be removed, and what else goes?](09_removing_it.ipynb) | What changes when those parts are taken out? | 120 min |
# | [10 · At scale](10_at_scale.ipynb) | How do you do all of this many times faster, and what may you trust? | 90 min |
# | [11 · Finding circuits automatically](11_circuit_discovery.ipynb) | Can a program find the circuit, and can you trust what it finds? | 150 min |
# | [12 · Your own circuit](12_your_own_circuit.ipynb) | Which circuit does the model use for a task of yours, and what may you claim? | 90 min |
#
# Every chapter can be opened on its own: it loads the model and the prompts itself. But a later chapter does not explain again what an earlier one has explained.
#
# **If you have half a day:** 00, 01, sections 1 to 3, 5 and 7 of 02, and sections 1 to 5 of 03. **If you know
# TransformerLens:** begin with 02. **If you are here for the second part:** 00, 01, 02, sections 1 to 5 of 03, then 07 to 09.
# **If you teach:** `docs/teaching.md` says what a class needs, and `docs/coverage.md` lists what is where.
#
# ## How a chapter works
#
# Each section asks a question and lets you guess before you see the answer. Write your guess down. When a guess turns out wrong, you find out what you had assumed, and you remember it.
#
# In an **exercise** you write a function. Its signature says which shapes go in and come out, and its docstring is the specification. The cell after it checks your function on small models with random weights, in a few seconds. If something is wrong, it says what was compared, what the mistake probably is, and where to look. The next cell shows you such a message. The function in it should set one attention head to zero, but it returns its input unchanged.

# %%
try:
    check_zero_head(lambda z, hook, head_index: z)
except CheckFailed as failed:
    print(failed)

# %% [markdown]
# When you are stuck, unfold the **hints** one at a time. The first usually asks a question that points the way. Later ones name shapes or tools, or the line that people miss. The **answer** is folded, too, after the check. Nobody minds if you read it, and it helps most after you have tried.
#
# In a **prediction** you write down what you expect, and in an **interpretation** you choose among sentences about a figure. You write your answer in place of `None`, in quotes: the words of your choice, or only the letter of the sentence, as in `"a"`. The next cell sets what you wrote beside what was measured. Neither counts as passed or failed.
#
# What we see in a figure is folded under **What we see, for SmolLM2**, so that you can look first. Those numbers belong to that one model. Some cells print lines such as `ioi.accuracy: 1 · ✓ recorded for smollm2-135m`. They compare your number with the one that was recorded for your model, and ✗ means that the two differ.
#
# ## How far are you?
#
# Every check that you run adds a line to a file on your own computer: which exercise, when, whether it passed, and the likely mistake if it did not. Your code is not kept, and nothing is sent anywhere. The next cell reads that file. For each chapter it shows how many exercises have passed, how many you have tried, how many are still open, and which one comes next. Come back here whenever you want to know where you stopped, and run the cell again.

# %%
progress()

# %% [markdown]
# In a terminal, `make progress` prints the same table. To keep no record, start JupyterLab with `COURSE_PROGRESS=0 make lab`.
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

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Nanda 2022, [A Comprehensive Mechanistic Interpretability Explainer and Glossary](https://www.neelnanda.io/mechanistic-interpretability/glossary). It explains the words of the field at length. Keep it open while you work.
# - Olah et al. 2020, [Zoom In: An Introduction to Circuits](https://doi.org/10.23915/distill.00024.001). This essay shows in pictures what the field is after: small parts of a network that a person can understand, and the circuits that they form.
# - Sharkey et al. 2025, [Open Problems in Mechanistic Interpretability](https://arxiv.org/abs/2501.16496). A group of researchers list what nobody in the field can do yet.

# %% [markdown]
# **Next:** [00 · Hooks and caches](00_hooks_and_caches.ipynb).
