# %% [markdown]
# # 03 · Activation patching
#
# Two and a half hours. Attribution sees only the last step, from a part straight to the logits. To see what earlier parts do, you have to change one of them and let the rest of the model run. **Activation patching** takes the change from a second run on a nearly identical prompt, so you learn about one difference at a time.
#
# You will be able to
# - build a pair of prompts that differs in one respect only, and a metric from 0 to 1 between them;
# - write every common patching sweep as a plain loop: residual stream, layers, heads, and a head's query, key, value and pattern;
# - tell what a head does by *which of its inputs* matters;
# - choose a corruption, and say what it can show and what it cannot;
# - say when you may call a part sufficient, and when necessary;
# - draw the circuit you found, and see where it agrees with the published one.
#
# If time is short, do sections 1 to 5 and the summary in section 11.

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
from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache
from transformer_lens import patching as built_in
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

from tests.checks import (
    check_get_act_patch_attn_head_all_pos_every,
    check_get_act_patch_attn_head_out_all_pos,
    check_get_act_patch_block_every,
    check_get_act_patch_resid_pre,
    check_ioi_metric,
    check_noising_metric,
    check_noising_sweep,
    check_patch_position,
)
from tests.checks.predicting import score_predictions
from utils import patching, plots, widgets
from utils.attribution import head_attributions, head_name, logit_diff, logit_diff_directions, top_heads
from utils.experiment import run_experiment
from utils.inference import ends_only, small_cache
from utils.ioi import NAMES, TEMPLATES, ioi_dataset, ioi_pairs, positions_by_role
from utils.models import load_model
from utils.reference import compare, figures
from utils.stats import bootstrap_interval

# %% tags=["nbval-ignore-output"]
model = load_model()
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads

# %% [markdown]
# ## 1 · Two runs that differ in one word
#
# The **clean** prompt is one where the model gives the answer we want to explain. The **corrupted** prompt is as similar to it as possible, but has another answer. Ours is the clean prompt with one word exchanged: at S2, the subject's second mention, stands the other name:
#
# > When John and Mary went to the shops, **John** gave the bag to → Mary
# >
# > When John and Mary went to the shops, **Mary** gave the bag to → John
#
# Why only S2? Whatever the two runs share cannot explain their difference: grammar, shops, bags, the fact that a name comes
# next, the names themselves. What is left is which of the two names stands at S2. Exchanging it changes three things at once:
# which name is repeated, who acts, and which name comes last. This corruption cannot tell the three apart; section 6 comes
# back to this. If you exchange more words, you find the heads that react to any of them, all mixed together.
#
# Now carry one activation from the clean run into the corrupted run, and let the rest of the model compute what follows from it. If the clean answer comes back, this activation was enough to bring it back. This is how you *localize* a behavior. You do not look at every number in the model. You ask of one place after another whether it carries the difference.

# %%
plots.patching_drawing()

# %% [markdown]
# **How to read it.** Each square is the residual stream of one position (left to right) in one layer (bottom to top). The patch can change only what comes after it: later layers, at the same position and to its right. All other squares stay as they were in the corrupted run.
#
# Run both sides. (`small_cache` is the names filter of chapter 02.)

# %%
pairs = ioi_pairs(model)
answer_tokens = pairs.answer_tokens  # [prompt, (correct, incorrect)], correct in the clean prompt
clean_logits, clean_cache = model.run_with_cache(pairs.clean_tokens, names_filter=small_cache)
corrupted_logits, corrupted_cache = model.run_with_cache(pairs.corrupted_tokens, names_filter=small_cache)
clean, corrupted = logit_diff(clean_logits, answer_tokens), logit_diff(corrupted_logits, answer_tokens)
S2, END = (positions_by_role(pairs.clean_tokens, answer_tokens)[role][0].item() for role in ("S2", "END"))
print("positions where tokens differ:", (pairs.clean_tokens != pairs.corrupted_tokens).any(0).nonzero()[:, 0].tolist())

# %%
compare("ioi.logit_diff.mean_clean", clean, model)
compare("ioi.logit_diff.mean_corrupted", corrupted, model)
compare("ioi.prompt_tokens", pairs.clean_tokens.shape[1], model)


# %% [markdown]
# *What do you expect?* At which positions and layers do the two runs differ at all?
# <details><summary>Our guess</summary>
# At S2 they differ from the start. Before S2 they never differ, because no earlier position can read S2. After S2 they differ a little, and more with every layer.
# </details>

# %%
def relative_difference(layer: int) -> Float[Tensor, " pos"]:
    """How far apart the two residual streams are, as a share of their length."""
    clean_stream, corrupted_stream = clean_cache["resid_pre", layer], corrupted_cache["resid_pre", layer]
    return ((clean_stream - corrupted_stream).norm(dim=-1) / clean_stream.norm(dim=-1)).mean(0)


position_names = pairs.labels(model)
plots.imshow(
    torch.stack([relative_difference(layer) for layer in range(n_layers)]),
    "Where clean and corrupted runs differ",
    x="position (words of the first prompt)",
    y="residual stream before layer",
    x_labels=position_names,
    sequential=True,
    unit="share",
)


# %% [markdown]
# **How to read it.** White means that the two runs are the same there, so nothing that you patch there can matter. Everything before
# S2 is white. The darkest cell is S2 in layer 0, and the difference then spreads to the right.
#
# *What do you see?* Does the difference at END grow evenly?
# <details><summary>What we see, for SmolLM2</summary>
#
# It does not. It rises from .05 before layer 18 to .24 before layer 21, shrinks to .18, and jumps to .49 in layer 23. (Each value is a share of the stream's length, so it shrinks where the stream grows faster than the difference.) At S2 the difference falls from 1.17 to .20.
# </details>
#
# **What it does not show.** Which of these differences the answer depends on. To find out, carry them from one run into
# the other.
#
# ## 2 · A metric, two ways
#
# There are two ways to patch. **Denoising** puts a clean activation into the corrupted run and asks how much of the clean answer comes back. **Noising** puts a corrupted activation into the clean run and asks how much is lost. For both, we rescale the logit difference, so that a patch without any effect gives 0.
#
# ### Exercise 3.1 · The metrics
#
# > Difficulty: ●●○○○  Importance: ●●●●○  10 minutes
#
# The two *baselines* are the mean logit differences of the clean and of the corrupted run without any patch. Both functions return the mean logit difference of `logits`, rescaled by these two. `ioi_metric` is for denoising: 0 means "as in the corrupted run" and 1 "as in the clean run". `noising_metric` is for noising: 0 means "as in the clean run" and −1 "as in the corrupted run". Keep the results tensors without axes, because sweeps stack them, and
# chapter 10 takes gradients through them.
#
# <details><summary>Hint 1 · a question</summary>
#
# Which value should become 0 in each of the two? How far apart are the baselines on the new scale?
# </details>
# <details><summary>Hint 2 · the tool</summary>
#
# `logit_diff(logits, answer_tokens)` is in scope, and it is already the mean over prompts.
# </details>

# %%
def ioi_metric(
    logits: Float[Tensor, "batch pos d_vocab"],
    answer_tokens: Int[Tensor, "batch 2"],
    clean: Float[Tensor, ""] | float,
    corrupted: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """The mean logit difference on a scale where `corrupted` is 0 and `clean` is 1. For denoising."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_ioi_metric(ioi_metric)


# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# return (logit_diff(logits, answer_tokens) - corrupted) / (clean - corrupted)
# ```
#
# Two points fix a scale: subtract what should become 0, and divide by the distance from there to what should become 1. The
# distance keeps its sign. If the corrupted run has the larger difference, `clean - corrupted` is negative, and the formula
# still gives 0 and 1. Do not clamp the result, because a patch can bring back more than the whole answer or push it the
# wrong way.
# </details>

# %%
def noising_metric(
    logits: Float[Tensor, "batch pos d_vocab"],
    answer_tokens: Int[Tensor, "batch 2"],
    clean: Float[Tensor, ""] | float,
    corrupted: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """The mean logit difference on a scale where `clean` is 0 and `corrupted` is −1. For noising."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_noising_metric(noising_metric)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# return (logit_diff(logits, answer_tokens) - clean) / (clean - corrupted)
# ```
#
# The distance is the same as before, and what becomes 0 is now the clean run. So `noising_metric` is `ioi_metric` minus 1,
# and you could write it like that. If you divide by `corrupted - clean`, the scale turns round: then the corrupted run is
# 1, and what a patch destroys comes out above zero.
# </details>

# %% [markdown]
# Two runs, their two logit differences and the metrics between them belong together: they make one **experiment**. You will need many of
# them, so `run_experiment(model, pairs)` makes one in a single call. It runs both sides of the pairs and keeps the two baselines
# (`.clean`, `.corrupted`), the two caches (`.clean_cache`, `.corrupted_cache`) and your two metrics (`.denoising_metric`, `.noising_metric`).

# %%
experiment = run_experiment(model, pairs)
clean_cache, corrupted_cache = experiment.clean_cache, experiment.corrupted_cache  # as before; the two made by hand are freed
metric = partial(ioi_metric, answer_tokens=answer_tokens, clean=experiment.clean, corrupted=experiment.corrupted)
for name, logits in (("corrupted", corrupted_logits), ("clean", clean_logits)):
    print(f"{name:9} run: your metric {metric(logits):.3f}, the experiment's {experiment.denoising_metric(logits):.3f}")
clean_logits, corrupted_logits = clean_logits[:, -1:].clone(), corrupted_logits[:, -1:].clone()  # all of them take 24 MB each


# %% [markdown]
# ## 3 · One patch, then all of them
#
# ### Exercise 3.2 · Patch one position
#
# > Difficulty: ●●○○○  Importance: ●●●●●  10 minutes
#
# Write a hook function: it gets an activation of the *corrupted* run and returns it with the *clean* values at one position, in every prompt.
#
# <details><summary>Hint 1 · a question</summary>
#
# How does the function know which of the cache's activations to take?
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# `clean_cache[hook.name]` is the same activation in the clean run. Work on a copy (`activation.clone()`), or you also change
# the tensor that a cache, or another hook, may hold.
# </details>

# %%
def patch_position(
    activation: Float[Tensor, "batch pos ..."], hook: HookPoint, pos: int, clean_cache: ActivationCache
) -> Float[Tensor, "batch pos ..."]:
    """A copy of `activation` with the clean run's values at position `pos` (an index) and its own everywhere else."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_patch_position(patch_position)


# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# activation = activation.clone()
# activation[:, pos] = clean_cache[hook.name][:, pos]
# return activation
# ```
#
# `[:, pos]` takes every prompt (axis 0) at one position (axis 1) and all of the further axes, so the function fits any
# activation that begins with `[batch, pos]`. `activation[pos]` would patch a prompt. The colon is needed on the right side,
# too: `clean_cache[hook.name][0, pos]` raises no error, because it is broadcast, and every prompt gets the clean values of
# the first one. Taking the key from `hook.name` makes sure that the values come from the same place as the activation,
# whatever the layer.
# </details>

# %% [markdown]
# ### Exercise 3.3 · Every layer, every position
#
# > Difficulty: ●●●○○  Importance: ●●●●●  20 minutes
#
# A **sweep** is the same patch at every place, one after the other. For every layer and position, run the *corrupted* tokens with `resid_pre` of that layer patched at that position, and keep the
# metric. You need two loops and `run_with_hooks`. `layers` lets you run a few layers only.
#
# <details><summary>Hint 1 · a question</summary>
#
# How many runs of the model does the whole sweep take?
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# `get_act_name("resid_pre", layer)` is the full name. `partial(patch_position, pos=pos, clean_cache=clean_cache)` is a
# hook function with its two last arguments filled in.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# `layers` may be `[0, 15, 28]`: the *row* of the result is the number of the loop, and the layer is what stands in the list. `enumerate` gives both.
# </details>

# %%
def get_act_patch_resid_pre(
    model: TransformerBridge,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer pos"]:
    """The metric of the corrupted run with the clean residual stream before one layer, at one position.

    layers: the layers to patch, one row each; None means all of them.
    """
    layers = range(model.cfg.n_layers) if layers is None else layers
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_get_act_patch_resid_pre(get_act_patch_resid_pre)


# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# n_positions = corrupted_tokens.shape[1]
# results = torch.zeros(len(layers), n_positions, device=corrupted_tokens.device)
# for row, layer in enumerate(tqdm(layers)):
#     for pos in range(n_positions):
#         hook = (get_act_name("resid_pre", layer), partial(patch_position, pos=pos, clean_cache=clean_cache))
#         results[row, pos] = metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=[hook]))
# return results
# ```
#
# Each cell is a run of its own and must begin without the patches of the others. `run_with_hooks` takes care of that,
# because it removes its hooks; with `model.add_hook` they would pile up. Run the *corrupted* tokens: in a run of the clean
# ones, every value that you put in from the clean cache is there already, and the whole table shows the clean run.
# `resid_post` would be the stream *after* the layer, which is the next layer's `resid_pre`, so each row would be that of
# the next layer.
# </details>

# %% [markdown]
# The stream is a sum, so you can patch its parts as well. Write the same sweep for `resid_pre`, `attn_out` and `mlp_out` of every layer, in this order, as `[3, layer, pos]`. Only one activation is
# patched in each run. The axes of all three are the same, so `patch_position` works for them.

# %%
def get_act_patch_block_every(
    model: TransformerBridge,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "3 layer pos"]:
    """As `get_act_patch_resid_pre`, for resid_pre, attn_out and mlp_out: one activation at one position in each run."""
    layers = range(model.cfg.n_layers) if layers is None else layers
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_get_act_patch_block_every(get_act_patch_block_every)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# n_positions = corrupted_tokens.shape[1]
# results = torch.zeros(3, len(layers), n_positions, device=corrupted_tokens.device)
# for panel, name in enumerate(("resid_pre", "attn_out", "mlp_out")):
#     for row, layer in enumerate(tqdm(layers, desc=name)):
#         for pos in range(n_positions):
#             hook = (get_act_name(name, layer), partial(patch_position, pos=pos, clean_cache=clean_cache))
#             results[panel, row, pos] = metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=[hook]))
# return results
# ```
#
# The three sweeps differ only in the name of the activation, so one more loop is enough, and `torch.stack` of three sweeps
# would do as well. Patch one activation in each run, because the question is what each brings back *alone*. If later
# panels kept the patch of the residual stream, they could not tell you anything about attention or the MLP by itself.
# `resid_mid` does not replace `attn_out`: it is the stream after attention, and holds everything that was written before.
# </details>

# %% [markdown]
# Compare your loops on two prompts with `transformer_lens.patching`, which has functions of the same names, on a few
# cells of the same sweeps. (`index_df` names the cells; without it the built-in does all of them.) `few.denoise(sweep, …)` calls a sweep, yours or the built-in one, with the experiment's model, corrupted tokens, clean cache and metric, and with any further arguments that you give.

# %%
few = run_experiment(model, ioi_pairs(model, TEMPLATES[:1], NAMES[:1]))  # two prompts
yours = few.denoise(get_act_patch_block_every, layers=[0])  # [3, 1, pos]; its first row is the sweep of resid_pre
cell = {"index_axis_names": None, "index_df": pd.DataFrame({"layer": [0], "pos": [S2]})}
for row, name in enumerate(("resid_pre", "attn_out", "mlp_out")):
    theirs = few.denoise(getattr(built_in, f"get_act_patch_{name}"), **cell).item()
    print(f"{name:10} your loop {yours[row, 0, S2]:6.3f}   transformer_lens.patching {theirs:6.3f}")

# %% [markdown]
# Your loop runs the whole model once for every cell: hundreds of runs for one picture. Most of that work is wasted. A patch
# changes nothing in the layers before it and nothing at the positions before it, and where the two runs are equal it changes nothing at all.
# `utils.patching` has the names and arguments of `transformer_lens.patching`, gives the same numbers, and skips that work. From here on
# it draws the full figures, on all eight prompts.

# %%
by_block = experiment.denoise(patching.get_act_patch_block_every)  # [3, layer, pos]
plots.imshow(
    by_block[0],
    "Residual stream: how much of the clean answer one position brings back",
    x="position (words of the first prompt)",
    y="residual stream before layer",
    x_labels=position_names,
    unit="metric",
)

# %%
at_s2, at_end = by_block[0, :, S2], by_block[0, :, END]
handover = (at_s2 > 0.95).nonzero().max().item()  # the last layer before which S2 still holds (nearly) everything
compare("ioi.patching.s2_at_layer_0", at_s2[0], model)
compare("ioi.patching.handover_begins_in_layer", handover, model)
compare("ioi.patching.first_layer_where_end_holds_more_than_s2", (at_end > at_s2).nonzero().min(), model)
compare("ioi.patching.end_before_last_layer", at_end[-1], model)

# %% [markdown]
# **How to read it.** Read the column of S2 from the top: it is 1, layer after layer. If you put the clean stream back at this one position, the whole answer comes back, although every other position still holds what it held in the corrupted run. Then the column fades and END's column fills up, at once or in steps. By then the information at S2 on which the answer depends has been carried to END.
#
# *What do you see?* In which layers does this **handover** happen, and is it one step or more? Does it begin before or after the layer in which chapter 02 saw the answer appear (on SmolLM2, in the attention of layer 23)?
# <details><summary>What we see, for SmolLM2</summary>
#
# S2 holds everything until layer 19. Layers 19 and 20 carry a good half of it to END: before layer 21 END holds .55, and S2 still holds .41. Then nothing moves until layer 23, whose attention takes most of the rest from S2 (.39 before it, .08 after it). So the handover has two steps. After the first one, END knows something about *which* name to say before any name can be read there. The second falls into the layer in which chapter 02 saw the answer appear, so in that layer something at END must read S2 directly. Section 7 finds the head.
#
# Hardly any other position matters; there is a faint column just after S2. On gpt2-small the handover is in layers 7 and 8 (TransformerLens' Exploratory Analysis Demo).
# </details>
#
# **What it does not show.** How it was carried. The stream holds everything there is at a position, and what moved may be a small part of it.
#
# ## 4 · Which layers carry it?

# %%
plots.imshow(
    by_block,
    "Patching one layer's output at one position",
    x="position",
    y="layer",
    x_labels=position_names,
    panels=["residual stream before the layer", "attention output", "MLP output"],
    limit=1,
    unit="metric",
)

# %%
attention_cells, mlp_cells = by_block[1], by_block[2]
compare("ioi.patching.mlp_layer", divmod(mlp_cells.argmax().item(), mlp_cells.shape[1])[0], model)
compare("ioi.patching.mlp_at_s2", mlp_cells.max(), model)
compare("ioi.patching.attention_layers_at_s2", (attention_cells[:, S2] > 0.1).nonzero()[:, 0], model)
compare("ioi.patching.attention_layers_at_end", (attention_cells[:, END] > 0.1).nonzero()[:, 0], model)

# %% [markdown]
# *What do you see?* Which layers of attention matter, and at which of the two positions? And which MLP brings back everything?
# <details><summary>What we see, for SmolLM2</summary>
#
# Attention works at S2 in layer 17 (.44), and at END in layers 20 (.42) and 23 (.78). Layer 24 has a blue cell at END (−.25). Among the MLPs, that of layer 0 at S2 brings back the whole answer (1.00). No other MLP reaches .2.
# </details>
#
# Does MLP 0 know about indirect objects, then? It sees the word at S2 and little else. Here is a test: run each name *alone*, after BOS, in no sentence at all. Put the MLP 0 output of that run into the corrupted sentence, at S2.

# %%
bos = torch.full_like(answer_tokens[:, 1], model.tokenizer.bos_token_id)
_, alone = model.run_with_cache(torch.stack([bos, answer_tokens[:, 1]], dim=1), names_filter=get_act_name("mlp_out", 0))


def put_alone(mlp_out: Float[Tensor, "batch pos d_model"], hook: HookPoint) -> Float[Tensor, "batch pos d_model"]:
    mlp_out = mlp_out.clone()
    mlp_out[:, S2] = alone[hook.name][:, 1]
    return mlp_out


from_alone = metric(model.run_with_hooks(pairs.corrupted_tokens, fwd_hooks=[(get_act_name("mlp_out", 0), put_alone)]))
compare("ioi.patching.mlp_0_of_the_name_alone", from_alone, model)


# %% [markdown]
# On SmolLM2 that brings back .87 of the answer, although it comes from a run without a sentence. So MLP 0 acts as a **second
# embedding**: from its output, later layers read which word stands at a position. Patching this output is nearly the same as
# exchanging the word itself, so the red cell tells you no more than that exchange would.
#
# **Try.** Add up all cells of the attention panel in the column of END. Is the sum 1, the value that the residual panel shows at S2?
# <details><summary>What you should find, on SmolLM2</summary>
#
# The sum is 1.20, and all cells of the attention panel together give 1.87. Effects of parts that feed each other are counted more than once: what layer 20 brings to END is also what makes layer 23 write the name. So do not read patching effects as shares of one whole.
# </details>
#
# ## 5 · Which heads?
#
# ### Exercise 3.4 · Output of a head, at all positions
#
# > Difficulty: ●●●○○  Importance: ●●●●○  15 minutes
#
# Return `[layer, head]`: the metric when `z` of one head is patched at *every* position. Patch `z` and not what the head writes
# after $W_O$ (`result`). The model never computes the output of a single head; TransformerLens does so only on request, and
# otherwise refuses a hook there.
#
# <details><summary>Hint 1 · shapes</summary>
#
# `z` is `[batch, pos, head, d_head]`: the head is axis 2.
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# You need another hook function. Define it inside, give it an argument `head`, and fill that in with `partial`. A function that reads the loop's variable `head` itself is right only as long as it is called inside the loop.
# </details>

# %%
def get_act_patch_attn_head_out_all_pos(
    model: TransformerBridge,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer head"]:
    """The metric of the corrupted run with one head's clean `z` at every position; one row for each of `layers`."""
    layers = range(model.cfg.n_layers) if layers is None else layers
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_get_act_patch_attn_head_out_all_pos(get_act_patch_attn_head_out_all_pos)


# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# def patch_head(z, hook, head):
#     z = z.clone()
#     z[:, :, head] = clean_cache[hook.name][:, :, head]
#     return z
#
# results = torch.zeros(len(layers), model.cfg.n_heads, device=corrupted_tokens.device)
# for row, layer in enumerate(tqdm(layers)):
#     for head in range(model.cfg.n_heads):
#         hook = (get_act_name("z", layer), partial(patch_head, head=head))
#         results[row, head] = metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=[hook]))
# return results
# ```
#
# $W_O$ is the same in both runs, so a head with the clean `z` writes exactly what it wrote in the clean run.
# `z[:, :, head]` is one head at every position. `z[:, head]` would be a *position* of all heads, and usually no error tells
# you so. If you patch the last position only, you miss the heads that matter because of what they write at S2.
# </details>

# %% [markdown]
# ### Exercise 3.5 · Output, query, key, value, pattern
#
# > Difficulty: ●●●●○  Importance: ●●●●○  20 minutes
#
# A head's output changes for two reasons, alone or together: it looks elsewhere (its pattern, made of queries and keys), or what it sees there has
# changed (its values). Patch each alone. Return `[5, layer, head]` in the order `z`, `q`, `k`, `v`, `pattern`.
#
# There are two traps. The axes of `pattern` are `[batch, head, query, key]`: the head is axis 1 there, and axis 2 in the others. And many
# models share keys and values between heads (*grouped-query attention*: SmolLM2 has 9 query heads and 3 key/value heads). There `k` and
# `v` have fewer heads: fill the first cells of the row and leave the others zero, as TransformerLens does.
#
# <details><summary>Hint 1 · a question</summary>
#
# How can the cache tell you how many heads an activation has, whatever the model?
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# `clean_cache[name, layer].shape[axis]` is the number of heads of that activation.
# `activation.movedim(axis, 0)[head]` is one head of it. `movedim` gives a view: writing into it writes into `activation`.
# </details>

# %%
def get_act_patch_attn_head_all_pos_every(
    model: TransformerBridge,
    corrupted_tokens: Int[Tensor, "batch pos"],
    clean_cache: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "5 layer head"]:
    """As `get_act_patch_attn_head_out_all_pos`, for z, q, k, v and pattern.

    Rows of k and v hold one value for each key/value head, then zeros.
    """
    layers = range(model.cfg.n_layers) if layers is None else layers
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_get_act_patch_attn_head_all_pos_every(get_act_patch_attn_head_all_pos_every)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# def patch_head(activation, hook, head, axis):
#     activation = activation.clone()
#     activation.movedim(axis, 0)[head] = clean_cache[hook.name].movedim(axis, 0)[head]
#     return activation
#
# results = torch.zeros(5, len(layers), model.cfg.n_heads, device=corrupted_tokens.device)
# for panel, name in enumerate(("z", "q", "k", "v", "pattern")):
#     axis = 1 if name == "pattern" else 2
#     for row, layer in enumerate(tqdm(layers, desc=name)):
#         for head in range(clean_cache[name, layer].shape[axis]):
#             hook = (get_act_name(name, layer), partial(patch_head, head=head, axis=axis))
#             results[panel, row, head] = metric(model.run_with_hooks(corrupted_tokens, fwd_hooks=[hook]))
# return results
# ```
#
# `movedim(axis, 0)` brings the axis of heads to the front, so that `[head]` picks a head whatever the layout, and as it
# gives a view, the assignment changes the copy itself. If you index the pattern like `z`, `pattern[:, :, head]` is one
# *query* in all heads, and usually no error tells you so. The cache knows how many heads an activation has, so the loop
# ends after the last key/value head. The zeros that follow mean that there is no such head, and not that patching it has no
# effect.
# </details>

# %% [markdown]
# Your two loops on one layer and two prompts, beside the built-in on one head of it:

# %%
layer = int(0.58 * n_layers)  # 17 of 30 layers, 6 of 12: shortly before the handover
outputs = few.denoise(get_act_patch_attn_head_out_all_pos, layers=[layer])
five = few.denoise(get_act_patch_attn_head_all_pos_every, layers=[layer])
head = outputs[0].argmax().item()
cell = {"index_axis_names": None, "index_df": pd.DataFrame({"layer": [layer], "head": [head]})}
theirs = few.denoise(built_in.get_act_patch_attn_head_out_all_pos, **cell)
print(f"{head_name(layer, head)}: exercise 3.4 {outputs[0, head]:.3f}, exercise 3.5 {five[0, 0, head]:.3f}, built-in {theirs.item():.3f}")

# %% [markdown]
# ### Predict before you look
#
# Chapter 02 found a strongest head, by direct attribution. Will the same head have the largest patching effect? And will a head appear among the ten largest that lies *before* the layer of the handover, so that attribution could not see it? Answer `"yes"` or `"no"`.

# %%
prediction = {"same strongest head": None, "a head before the handover": None}

# %%
every = experiment.denoise(patching.get_act_patch_attn_head_all_pos_every)  # [5, layer, head]
plots.heads(every[0], "Patching each head's output at all positions", unit="metric")

# %%
directions = logit_diff_directions(model, answer_tokens)
direct = head_attributions(model, clean_cache, directions)  # [layer, head], chapter 02
ten = sorted(top_heads(every[0].abs(), 10))
measured = {"same strongest head": top_heads(direct.abs(), 1) == top_heads(every[0].abs(), 1), "a head before the handover": ten[0][0] < handover}
score_predictions(prediction, {question: "yes" if found else "no" for question, found in measured.items()})
compare("ioi.patching.top_heads", [head_name(*pair) for pair in ten], model)
compare("ioi.patching.strongest_head", head_name(*top_heads(every[0].abs(), 1)[0]), model)
compare("ioi.patching.strongest_head_effect", every[0].abs().max(), model)

# %% [markdown]
# **How to read it.** Red: with this head clean and everything else corrupted, the answer moves toward the clean one. Blue: it moves away from
# it. Only a few heads matter, and patching finds them with generic tools, without any idea about what they do.
#
# **What it does not show.** A white head may still do a great deal, as long as it does not depend on which name stands at S2. A head that finds "the last word is *to*, so a name comes next" writes the same in both runs, and patching it changes nothing.
#
# Now the reasons. The limit of the colors is the same in all five panels.

# %%
plots.imshow(
    every,
    "Patching a head's output, query, key, value, pattern",
    x="head (key and value: key/value head)",
    y="layer",
    panels=["output", "query", "key", "value", "pattern"],
    unit="metric",
)


# %% [markdown]
# **How to read it.** Take a red cell of the first panel and look for it in the others. If it is red in *query* and in *pattern*,
# the head matters because of where it looks. If it is red in *value*, what it finds where it looks differs between
# the runs. A head can have both reasons, so look for it in all of them.
#
# If your model shares keys and values, a cell of *key* or *value* stands for several query heads. Two of them may pull in opposite directions, and the cell shows only what they do together. To take it apart, give one *query* head the clean values and leave it its corrupted
# pattern. Its `z` is then (corrupted pattern) × (clean values): put that into a cache and sweep over outputs again. (Without
# sharing, this is the value panel itself.)

# %%
def z_of(pattern_cache: ActivationCache, value_cache: ActivationCache, layer: int) -> Float[Tensor, "batch query head d_head"]:
    """A layer's z with the patterns of one run and the values of another."""
    values = value_cache["v", layer]  # batch key kv_head d_head
    values = values.repeat_interleave(n_heads // values.shape[2], dim=2)  # batch key head d_head
    return torch.einsum("bhqk,bkhd->bqhd", pattern_cache["pattern", layer], values)


clean_values = {get_act_name("z", layer): z_of(corrupted_cache, clean_cache, layer) for layer in range(n_layers)}
own_values = patching.get_act_patch_attn_head_out_all_pos(model, pairs.corrupted_tokens, clean_values, metric)
same_run = z_of(clean_cache, clean_cache, n_layers - 1)
print("pattern × values is z:", torch.allclose(same_run, clean_cache["z", n_layers - 1], atol=1e-4))

# %% [markdown]
# Two scatters make it plain: for every head, the effect of its values against that of its output, and the effect of its pattern against
# that of its output. A head on the dotted diagonal owes its whole effect to that reason.

# %%
all_names = [head_name(layer, head) for layer in range(n_layers) for head in range(n_heads)]
layer_of = [layer for layer in range(n_layers) for _ in range(n_heads)]
plots.scatter(
    every[0],
    own_values,
    "Value against output: who owes its effect to what it reads?",
    x="output patched",
    y="values patched",
    labels=all_names,
    color=layer_of,
    color_name="layer",
    diagonal=True,
)

# %%
plots.scatter(
    every[0],
    every[4],
    "Pattern against output: who owes its effect to where it looks?",
    x="output patched",
    y="pattern patched",
    labels=all_names,
    color=layer_of,
    color_name="layer",
    diagonal=True,
)


# %%
def reason(output: float, values: float, pattern: float) -> str:
    """Which of the two accounts for at least half of a head's effect, alone."""
    by_values, by_pattern = values / output > 0.5, pattern / output > 0.5
    return {(True, False): "values", (False, True): "pattern", (True, True): "both"}.get((by_values, by_pattern), "neither")


reasons = {pair: reason(every[0][pair].item(), own_values[pair].item(), every[4][pair].item()) for pair in ten}
compare("ioi.patching.value_matters", [head_name(*pair) for pair in ten if reasons[pair] == "values"], model)
compare("ioi.patching.pattern_matters", [head_name(*pair) for pair in ten if reasons[pair] == "pattern"], model)

# %% [markdown]
# *What do you see?* Which heads matter because of what they read, and which because of where they look?
# <details><summary>What we see, for SmolLM2</summary>
#
# L17H4 and L23H0 matter because of their pattern (in L23H0 the values take .04 of it back). L20H0, L19H2, L23H3 and the pair of layer 29 matter because of their values. L24H4 and L23H7 are off both diagonals, because their two parts have opposite signs. L24H4's pattern gives −.25 and its values +.13. L23H7's pattern gives +.13 and its values −.08.
# </details>
#
# ### Interpret: do the two reasons add up?
#
# An earlier draft said: *"A head that lies off both diagonals needs both to change together."* L24H4 is such a head. If the sentence were true, the effects of pattern alone and values alone would not add up to the effect of the output. Do they?
#
# - **a** For each of the ten heads, the sum misses the head's effect by less than half of it: the sentence is false.
# - **b** For at least one of them, the sum misses by more than half of its effect: the sentence may be true.

# %%
choice = {"pattern and values": None}

# %%
together = every[4] + own_values
plots.scatter(
    every[0],
    together,
    "Pattern alone plus values alone, against output",
    x="output patched",
    y="pattern patched + values patched",
    labels=all_names,
    color=layer_of,
    color_name="layer",
    diagonal=True,
)

# %%
misses = together - every[0]
relative = {head_name(*pair): (misses[pair] / every[0][pair]).abs().item() for pair in ten}
print({name: round(miss, 2) for name, miss in relative.items()})
score_predictions(choice, {"pattern and values": "a" if max(relative.values()) < 0.5 else "b"})
compare("ioi.patching.additivity.correlation", np.corrcoef(together.flatten().cpu(), every[0].flatten().cpu())[0, 1], model)
compare("ioi.patching.additivity.relative_misses", torch.tensor(list(relative.values())), model)
compare("ioi.patching.additivity.largest_miss", head_name(*top_heads(misses.abs(), 1)[0]), model)
compare("ioi.patching.additivity.largest_miss_is", misses.abs().max(), model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# **a.** Nearly all points lie on the diagonal (correlation .998), and for nine of the ten heads the sum comes within 8 % of the effect. The exception is L24H4, with a sum of −.11 and an effect of −.16. So almost a third of its effect needs both together. That is still far from a head that does something *only* if both change. In L24H4 the two act side by side, in opposite directions: the clean pattern alone takes .25 of the answer away, and the clean values alone bring .13 back.
# </details>
#
# On gpt2-small the heads of layers 7 and 8 are the ones whose values matter, and those before and after them are the ones whose
# patterns matter (TransformerLens' demo). SmolLM2 has the same order: first pattern (L17H4), then values (L19H2, L20H0), then pattern (L23H0). Some late heads do not fit it, L23H3 above all.
#
# ## 6 · What a corruption can show
#
# The *key* panel above is almost empty. An earlier draft of this course concluded: *"The word that is read hardly decides whether it is read; the one who asks does."* The panel does not say that. Think about it before you go on.
#
# ### Predict before you look
#
# Our two runs differ at S2 only. Which of the words' keys can differ between the two runs? And if S1 were a fresh name instead (a **corruption** of another word), would the key panel still be dark? Answer `"dark"` if no key/value head would reach .2, and `"lit"` otherwise.

# %%
prediction = {"keys, with a fresh name at S1": None}

# %% [markdown]
# `ioi_pairs(model, corruption=…)` has several corruptions. Three of them put a name that occurs nowhere else in the place of one mention: of S1, of S2, or of IO. The names of the strongest cells that the code below prints are like `L17KV1`: layer 17, key/value head 1, which three query heads of SmolLM2 share.

# %%
panels, corrupted_to = {"S2 flipped: keys": every[2][:, : model.cfg.n_key_value_heads or n_heads]}, {}
for name in ("S1", "IO", "S2"):
    other = run_experiment(model, ioi_pairs(model, corruption=name))
    corrupted_to[name] = other.corrupted
    print(f"{name} fresh: {other.pairs.corrupted_text[0]!r}, logit difference {other.corrupted + 0:.2f}")
    if name == "IO":
        panels["IO fresh: values"] = other.denoise(patching.get_act_patch_attn_head_v_all_pos)
    elif name == "S1":
        panels["S1 fresh: keys"] = other.denoise(patching.get_act_patch_attn_head_k_all_pos)
    else:
        panels["S2 fresh: keys, noising"] = -other.noise(patching.get_act_patch_attn_head_k_all_pos)
    del other  # its caches take 70 MB each
plots.imshow(
    torch.stack(list(panels.values())),
    "What four corruptions show about keys and values",
    x="key/value head",
    y="layer",
    panels=list(panels),
    unit="share of the difference",
)

# %%
score_predictions(prediction, {"keys, with a fresh name at S1": "lit" if panels["S1 fresh: keys"].max() >= 0.2 else "dark"})
for key, panel in zip(("flip", "s1", "io", "s2"), panels.values(), strict=True):
    strongest = top_heads(panel.abs(), 3)
    compare(f"ioi.corruption.{key}.strongest", [f"L{layer}KV{head}" for layer, head in strongest], model)
    compare(f"ioi.corruption.{key}.effects", torch.stack([panel[cell] for cell in strongest]), model)
compare("ioi.corruption.logit_diffs", torch.stack(list(corrupted_to.values())), model)  # S1, IO, S2

# %% [markdown]
# *What do you see?* Which keys light up, and what does each corruption leave in the dark?
# <details><summary>What we see, for SmolLM2</summary>
#
# - **S2 flipped.** No key reaches .2. This is a consequence of the corruption and not a fact about keys. Every key at an earlier position, IO and S1 included, is the same in both runs, and patching it cannot change anything.
# - **S1 fresh.** The keys of layer 17 bring back .74, and those of layers 23 and 8 bring back .44 and .43. Now the mark "this
#   name has been here before" differs between the runs.
# - **S2 fresh.** In layer 23, L23H3 shares a key/value head with two others. If its keys come from the run with the fresh name, .28 of the answer is lost.
# - **IO fresh.** Now the answer's own name is gone, and the values at IO matter. One value head of layer 23, from which L23H0 reads, brings back .81.
# </details>
#
# So a dark cell means one of two things: the part does not matter, or it does not differ between *these* two runs. Before you conclude anything from a dark panel, name the corruption that would light it up.
#
# | corruption | what differs | what it cannot show |
# |---|---|---|
# | S2 flipped | which name stands at S2: which one is repeated, where it stood first, and who acts | which of these made the difference; whatever is the same for both, such as that a name *is* repeated, or keys at earlier words |
# | S1 fresh | whether the name at S2 has occurred before | what is done with a name that is not repeated |
# | S2 fresh | both: nothing is repeated, and a new name acts | which of the two made the difference |
# | IO fresh | the answer itself | how the model knows which name to avoid |
# | Gaussian noise on the embeddings ([Meng et al. 2022](https://arxiv.org/abs/2202.05262)) | everything about a word | what exactly about the word mattered; such embeddings are unlike any that the model has met |
#
# Exchanging the order of the two names is a sixth choice. It changes which place holds the answer and keeps the answer. Chapter 06 uses it to tell names from places.
#
# ## 7 · Early, middle, late
#
# You know two layers by now. In one the handover from S2 to END begins (section 3). In the other the answer is written: its attention has the largest direct attribution (chapter 02). These two split the ten heads into early, middle and late ones.
#
# *What do you expect?* Where do early heads look, and from where? And the middle ones?
# <details><summary>Our guess</summary>
# Early ones work at S2, and look back to where the same name stood before: "this is a repetition". Middle ones work at END and look at S2. Late
# ones work at END and look at a name.
# </details>

# %%
writing = direct.sum(1).argmax().item()


def stage_of(layer: int) -> str:
    """early: before the handover; late: from the layer on that writes the answer; middle: in between."""
    return "late" if layer >= writing else "early" if layer < handover else "middle"


stages = {stage: [pair for pair in ten if stage_of(pair[0]) == stage] for stage in ("early", "middle", "late")}
for stage, members in stages.items():
    compare(f"ioi.patching.{stage}_heads", [head_name(*pair) for pair in members], model)

# %%
str_tokens = model.to_str_tokens(pairs.clean_text[0])


def view(stage: str, row: str) -> plots.AttentionView | str:
    """The attention of a stage's heads on the first clean prompt."""
    title = f"{stage.capitalize()} heads, clean run: look at the row of {row}"
    return plots.attention_of_heads(clean_cache, stages[stage], str_tokens, title) if stages[stage] else f"no {stage} heads"


view("early", "S2")

# %%
view("middle", "END")

# %%
view("late", "END")


# %% [markdown]
# The views show one prompt. For all eight, measure three things of each head. Where does its output matter? (Patch `z` at S2 only, then at END only.) Which role does it look at from there? And what is its direct attribution?

# %%
@cache  # the explorer in section 11 asks for the same heads again
def effect_at(layer: int, head: int, pos: int) -> float:
    """The metric with one head's clean z at one position."""

    def patch(z, hook):
        z = z.clone()
        z[:, pos, head] = clean_cache[hook.name][:, pos, head]
        return z

    return metric(model.run_with_hooks(pairs.corrupted_tokens, fwd_hooks=[(get_act_name("z", layer), patch)])).item()


def looks_at(layer: int, head: int, query: str) -> tuple[str, float]:
    """The role, BOS apart, that a head pays most attention to from the role `query`, and how much. Clean run, mean over prompts."""
    roles, prompts = positions_by_role(pairs.clean_tokens, answer_tokens), torch.arange(len(answer_tokens))
    rows = clean_cache["pattern", layer][prompts, head, roles[query]]  # batch key
    shares = {role: rows[prompts, pos].mean().item() for role, pos in roles.items() if role != "BOS"}
    role = max(shares, key=shares.__getitem__)
    return role, shares[role]


found = []
for pair in tqdm(ten):
    effects = {"S2": effect_at(*pair, S2), "END": effect_at(*pair, END)}
    at = max(effects, key=lambda role: abs(effects[role]))
    reads, share = looks_at(*pair, at)
    found.append({
        "name": head_name(*pair), "layer": pair[0], "effect": round(every[0][pair].item(), 3), "at": at,
        "share of the effect there": round(effects[at] / every[0][pair].item(), 2), "reads": reads,
        "attention": round(share, 2), "why": reasons[pair], "direct attribution": round(direct[pair].item(), 2) + 0.0,
    })
pd.DataFrame(found).set_index("name").drop(columns="layer")

# %%
compare("ioi.patching.heads_that_act_at_s2", [head["name"] for head in found if head["at"] == "S2"], model)
compare("ioi.patching.heads_at_end_that_read_s2", [h["name"] for h in found if h["at"] == "END" and h["reads"] == "S2"], model)
compare("ioi.patching.heads_at_end_that_read_io", [h["name"] for h in found if h["at"] == "END" and h["reads"] == "IO"], model)

# %% [markdown]
# **How to read it.** Each row is a head. *at*: where its output matters. *reads*: where it looks from there. Read the rows in the order
# of their layers and tell the story in one sentence.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# L17H4 at S2 looks back to S1+1, the word after the first mention. L19H2 and L20H0 at END look at S2, and what they read there matters. L23H0 and L23H7 at END look at IO, and L24H4 looks at IO and writes against it. So far this is the published story.
#
# Two things differ from it. L23H3 is the strongest head here and has the largest direct attribution. It reads S2 and not IO, and its values matter, not its pattern. So it reads the name that stands at S2 and lowers it. To know *which* name that is, it hardly needs the earlier heads (section 8 measures this). Whether they help it to look at S2 is another question, and this corruption cannot answer it, because both runs have a repetition (section 6). And the last layer has a pair of heads with opposite
# effects that read END itself. Their values matter, so what they find there is what earlier heads have brought.
# </details>
#
# ## 8 · Who listens?
#
# A head can matter without writing about names itself. Then later heads or MLPs must use what it writes. Patch it in the corrupted run, as before, and look at
# the direct attribution of every head *in that run*. A head whose attribution changes has used the message, directly or by way of other heads.

# %%
corrupted_direct = head_attributions(model, corrupted_cache, directions)


def listeners(layer: int, head: int) -> Float[Tensor, "layer head"]:
    """Change of every head's direct attribution when one head's clean z is put into the corrupted run."""

    def patch(z, hook):
        z = z.clone()
        z[:, :, head] = clean_cache[hook.name][:, :, head]
        return z

    with model.hooks(fwd_hooks=[(get_act_name("z", layer), patch)]):
        _, cache = model.run_with_cache(pairs.corrupted_tokens, names_filter=small_cache)
    return head_attributions(model, cache, directions) - corrupted_direct


not_late = [*stages["early"], *stages["middle"]] or ten
speakers = sorted(not_late, key=lambda pair: every[0][pair].abs().item(), reverse=True)[:3]
heard = {pair: listeners(*pair) for pair in speakers}
changed = sorted(top_heads(sum(change.abs() for change in heard.values()), 8))
plots.bar(
    {f"{head_name(*pair)} patched": [change[other].item() for other in changed] for pair, change in heard.items()},
    "Patching one early or middle head: what later heads write instead",
    x="head",
    y="change of direct attribution (logits)",
    x_labels=[head_name(*other) for other in changed],
)

# %%
strongest = {pair: top_heads(change.abs(), 1)[0] for pair, change in heard.items()}
compare("ioi.patching.speakers", [head_name(*pair) for pair in strongest], model)
compare("ioi.patching.strongest_listeners", [head_name(*other) for other in strongest.values()], model)
compare("ioi.patching.top_attribution_head_heard", max(change[top_heads(direct, 1)[0]].abs() for change in heard.values()), model)

# %% [markdown]
# **How to read it.** There is one group of bars for each later head, and one bar in it for each patched head. If patching an early head and patching a middle one change the
# same heads in the same way, one chain is the simplest account: early, middle, late.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# All three patched heads move the same later heads. L23H0 and its neighbors write more for the clean answer (L23H0 by 1.4 logits if L20H0 is patched), and L24H4 writes more against it (by 1.3). L23H3, the head with the largest direct attribution, changes by less than .3. It hardly listens to what this chain says about *which* name stands where. A message that is the same in both runs, such as "a name is repeated", cannot show here. Chapter 05 finds one.
# </details>
#
# **What it does not show.** Which link is direct. The message may have passed through other heads and MLPs on its way. Chapter 05 patches
# one path at a time.
#
# ## 9 · Sufficient, or necessary?
#
# If denoising a head brings the answer back, the head is **sufficient** in this setting. If noising it destroys the answer, it is **necessary**. A head can be one and not the other. Which of the two it is depends on how heads work together.
#
# ### Predict before you look
#
# Two heads, A and B, make a circuit in one of three ways. In a **chain**, A feeds B and B gives the answer. As **stand-ins** (OR), either of them is enough. As **partners** (AND), both are needed. For each way: does making only A clean bring the answer back (denoising), and does corrupting only A lose it (noising)? Answer `"yes"` or `"no"` to all six.

# %%
prediction = {"chain, denoising A": None, "chain, noising A": None, "OR, denoising A": None, "OR, noising A": None, "AND, denoising A": None, "AND, noising A": None}

# %%
circuits = {  # a is 1 where A writes what it writes in the clean run, and b is what B's own input is
    "chain": lambda a, b: a,  # B passes on whatever A writes
    "OR": lambda a, b: a or b,
    "AND": lambda a, b: a and b,
}
measured = {}
for name, answer in circuits.items():
    measured[f"{name}, denoising A"] = "yes" if answer(1, 0) else "no"  # everything corrupted, A clean
    measured[f"{name}, noising A"] = "no" if answer(0, 1) else "yes"  # everything clean, A corrupted
score_predictions(prediction, measured)
plots.gates_drawing()


# %% [markdown]
# An earlier draft of this chapter said: *"One link of a chain that needs them all is necessary and not sufficient."* The drawing shows why this is false: in a chain, restoring any link restores everything after it. Necessary and not sufficient is the sign of *partners*.
#
# ### Exercise 3.6 · The noising sweep
#
# > Difficulty: ●●●○○  Importance: ●●●●○  10 minutes
#
# From clean and corrupted tokens alone, return `[layer, head]`: the noising metric when each head's corrupted `z` is patched, at every
# position, into the clean run. You have all the pieces. Mind which run lends and which receives.
#
# <details><summary>Hint 1 · a question</summary>
#
# The arguments of exercise 3.4 are called `corrupted_tokens` and `clean_cache`. Does its code depend on which run is which?
# </details>
# <details><summary>Hint 2 · the steps</summary>
#
# Cache the corrupted run. Compute the logit differences of the two unpatched runs, and `noising_metric` from them. Then call exercise 3.4, with the roles
# exchanged.
# </details>

# %%
def noising_sweep(
    model: TransformerBridge,
    clean_tokens: Int[Tensor, "batch pos"],
    corrupted_tokens: Int[Tensor, "batch pos"],
    answer_tokens: Int[Tensor, "batch 2"],
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer head"]:
    """The noising metric of the clean run with one head's corrupted `z` at every position; one row for each of `layers`."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_noising_sweep(noising_sweep)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# corrupted_logits, corrupted_cache = model.run_with_cache(corrupted_tokens)
# clean = logit_diff(model(clean_tokens), answer_tokens)
# corrupted = logit_diff(corrupted_logits, answer_tokens)
# metric = partial(noising_metric, answer_tokens=answer_tokens, clean=clean, corrupted=corrupted)
# return get_act_patch_attn_head_out_all_pos(model, clean_tokens, corrupted_cache, metric, layers)
# ```
#
# Exercise 3.4 runs the tokens that it is given and takes `z` from the cache that it is given; it does not know which of the
# two is clean. So noising is the same call with the clean tokens, the corrupted run's cache and another metric. With
# `ioi_metric` every value would be 1 too high. With the clean tokens *and* the clean cache nothing would change, and the
# whole table would be zero.
# </details>

# %% [markdown]
# *What do you expect* on our eight prompts? Will noising and denoising agree on every head, or on some?
# <details><summary>Our guess</summary>
# We expected some to differ. Look first at the figure, then at the prompts, and find out why it could not be otherwise.
# </details>

# %%
two = few.pairs
print("your loop, two prompts:", noising_sweep(model, two.clean_tokens, two.corrupted_tokens, two.answer_tokens, [layer]).cpu().numpy().round(3))
noising = experiment.noise(patching.get_act_patch_attn_head_out_all_pos)  # corrupted into clean, with `.noising_metric`
plots.scatter(
    every[0],
    noising,
    "Eight prompts: noising against denoising, each head's output",
    x="denoising (0 corrupted, 1 clean)",
    y="noising (0 clean, −1 corrupted)",
    labels=all_names,
    color=layer_of,
    color_name="layer",
)

# %%
compare("ioi.patching.noising_plus_denoising", (noising + every[0]).abs().max(), model)

# %% [markdown]
# **How to read it.** Every head lies on a straight line: noising is denoising with its sign turned. That is no discovery about heads.
# Each corrupted prompt is itself one of the eight clean ones. So if you patch the run on prompt 0 into the run on prompt 1, this is denoising for prompt 0 and noising for prompt 1. Both sweeps consist of the same runs. On such a set of prompts, they cannot tell sufficient from necessary.
#
# To ask two questions you need one of the other corruptions. With a fresh name at S2, the corrupted run has no reason to call for the other name. On average its logit difference is near zero: whatever the model prefers about a name or a place cancels within a pair.

# %%
third = run_experiment(model, ioi_pairs(model, corruption="S2"))
third_denoising = third.denoise(patching.get_act_patch_attn_head_out_all_pos)
third_noising = third.noise(patching.get_act_patch_attn_head_out_all_pos)
del third  # its caches take 70 MB each
plots.scatter(
    third_denoising,
    -third_noising,
    "Fresh name at S2: what is sufficient, and what is necessary",
    x="denoising: share of the answer brought back",
    y="noising: share of the answer lost",
    labels=all_names,
    color=layer_of,
    color_name="layer",
    diagonal=True,
)

# %%
strongest_third = top_heads(third_denoising.abs(), 1)[0]
compare("ioi.patching.third_name_strongest_head", head_name(*strongest_third), model)
compare("ioi.patching.third_name_denoising", third_denoising[strongest_third], model)
compare("ioi.patching.third_name_noising", third_noising[strongest_third], model)
for pair in [(layer, head) for layer, head in ten if third_denoising[layer, head] > 0.3]:
    compare(f"ioi.patching.third_name.{head_name(*pair)}", torch.stack([third_denoising[pair], -third_noising[pair]]), model)

# %% [markdown]
# **How to read it.** The horizontal axis is how much the clean head brings back. The vertical axis is how much is lost when this head alone is corrupted.
# Look at the points right of zero. For a point *below* the diagonal, making the head clean brings back more than corrupting it takes away, which is the sign of stand-ins. A point above the diagonal shows the sign of partners. The same heads stand out as before, so the choice of corruption did not make them up. Their sizes changed, so
# a size is a statement about a head *and* a corruption.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# Each of the seven heads that bring back more than .06 lies a little below the diagonal: L23H3 brings back .63 and takes .52 away. In proportion, L18H6 (.10 and .04) and L23H0 (.13 and .08) are farthest below it. So what each of them does is replaced in part when it is missing, and none looks like one of two partners. But the misses of the large heads are alike in proportion, so they can also have one common cause, such as the final norm.
# </details>
#
# **What it does not show.** Who the stand-ins are. Chapter 04 removes heads and watches how the others react.
#
# ## 10 · How far does this hold?
#
# Take the ten heads to the data set of chapter 01: 36 prompts of six sentence structures, with names, places and objects at random. Patch each head's clean `z` into the corrupted run (S2 flipped), and keep each prompt's score.
#
# *What do you expect?* Will the early and middle heads matter in every structure?

# %%
data = ioi_dataset(model, 36)
flipped, structure = data.pairs("flip"), torch.tensor([prompt.structure for prompt in data.prompts])
set_score = partial(logit_diff, answer_tokens=flipped.answer_tokens, per_prompt=True)
with model.hooks(fwd_hooks=[ends_only(flipped.clean_last)]):  # logits at each prompt's last position only, [batch, 1, d_vocab]
    set_logits, set_cache = model.run_with_cache(
        flipped.clean_tokens, attention_mask=flipped.clean_mask, names_filter=lambda name: name.endswith("hook_z")
    )
result = patching.get_act_patch_attn_head_out_all_pos(
    model,
    flipped.corrupted_tokens,
    set_cache,
    set_score,
    attention_mask=flipped.corrupted_mask,
    index_df=pd.DataFrame(ten, columns=["layer", "head"]),  # these cells of the sweep, and no others
    reduce="none",  # one score for each prompt
    baseline=True,  # and the scores of the corrupted run
)
scale = set_score(set_logits).mean() - result.baseline.mean()
del set_logits, set_cache  # 70 MB
shares = dict(zip(ten, (result.values - result.baseline) / scale, strict=True))
bounds = [bootstrap_interval(share, structure.tolist()) for share in shares.values()]
group, names = "36 prompts of six structures", [head_name(*pair) for pair in ten]
plots.intervals(
    {group: [share.mean().item() for share in shares.values()], "the eight prompts": [every[0][pair].item() for pair in ten]},
    "What each head brings back, on other sentences",
    x="share of the difference, with a 95 % interval over structures",
    labels={group: names, "the eight prompts": names},
    bounds={group: ([low for low, _ in bounds], [high for _, high in bounds])},
)

# %%
by_structure = {pair: torch.stack([share[structure == number].mean() for number in structure.unique()]) for pair, share in shares.items()}
for pair, (low, high) in zip(ten, bounds, strict=True):
    compare(f"ioi.patching.dataset.{head_name(*pair)}", torch.tensor([shares[pair].mean(), low, high]), model)  # mean, interval
pd.DataFrame({head_name(*pair): values.cpu().numpy().round(2) for pair, values in by_structure.items()}).rename_axis("structure")

# %% [markdown]
# **How to read it.** Each point is a mean over prompts, with the interval that you get when the six structures are drawn again. In the table, each number is the mean change in that structure, divided by the mean difference of all 36 prompts.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# L23H3 holds everywhere: .54, [.48, .60]. Most of the chain does not. L20H0 brings back .30 on average, [.14, .45], but only .03 in structures 3 and 4, and L17H4 behaves in the same way. L19H2, the other middle head, is smaller and steadier: .14 on average, and .12 and .18 in these two structures. So there it must read something that does not come from L17H4. Structure 3 is "While … was with … in the …", and structure 4 is "At first … knew … from the … only. One day …". These two do not join the names by "and". Whether that is the reason would take another experiment. But it is one more reason to think of two mechanisms: L23H3 is at work in all six structures, and L17H4 with L20H0 in four.
# </details>
#
# A mean over eight prompts of one shape could not have told you this.
#
# ## 11 · The circuit so far
#
# Here is a drawing of what you measured on the eight prompts. Each position has a column, and layers go up. An arrow goes from where a head looks to where it writes. Red arrows help the
# answer, blue ones hurt it, and the width is the patching effect.

# %%
plots.circuit(found, ["IO", "S1", "S1+1", "S2", "END"], f"The circuit so far, as measured on {model.cfg.model_name}")

# %% [markdown]
# We drew ten heads, and ten is an arbitrary number. Move the threshold below with the arrow keys, and watch which heads come and go. For each new head, two patches and one look at its pattern decide where it is drawn, so the first move to the left takes a few seconds.
#
# *What do you expect?* With half the threshold, do you find more heads of the kinds that you know, or heads in new places?

# %%
ROLES = ["IO", "S1", "S1+1", "S2", "END"]


def reads_and_acts(layer: int, head: int) -> tuple[str, str]:
    """The role that a head looks at, and the role (S2 or END) where its output matters more."""
    at = max(("S2", "END"), key=lambda role: abs(effect_at(layer, head, {"S2": S2, "END": END}[role])))
    return looks_at(layer, head, at)[0], at


widgets.threshold_explorer(every[0], ROLES, reads_and_acts, most=24)

# %% [markdown]
# <details><summary>What you should find, on SmolLM2</summary>
#
# At half the threshold, you find no head in a new place. The slider begins at .048, and the step nearest to half of that is
# .027. There fifteen heads are left, and the five new ones all act at END. Four of them are of kinds that you know: L23H1,
# L23H2 and L21H5 read IO, and L25H2 reads S2. The fifth, L24H5, reads no role much. One step further, at .020, a head appears
# in a new place: L14H3 at S2 reads S1, as duplicate-token heads do.
# </details>
#
# **What it does not show.** A threshold on single patches does not test the whole. Two heads that matter only together are
# both below it, and nothing says that the heads above it are enough. Chapter 06 runs the model with a circuit alone.
#
# [Wang et al. (2022)](https://arxiv.org/abs/2211.00593) published such a diagram for gpt2-small, from the evidence of this chapter and much more. Here it is, drawn anew. Gray arrows say what a class of heads reads, black ones whom it feeds, red and blue whether it raises or lowers the answer's logit. (Eight *backup name movers* are left out.)

# %%
plots.published_circuit_drawing()


# %% [markdown]
# The table sets their classes of heads beside the heads that *your* measurements describe in the same words. The rule is in the code: where a head acts, where it looks,
# and the sign of its effect.

# %%
def described_as(head: dict) -> str:
    """The published class whose description fits where a head acts, where it looks, and its sign; else 'none'."""
    if head["at"] == "S2":
        return {"S1": "duplicate_token", "S1+1": "induction"}.get(head["reads"], "none")
    by_sign = "name_mover" if head["effect"] > 0 else "negative_name_mover"
    return {"S2": "s_inhibition", "IO": by_sign}.get(head["reads"], "none")


DESCRIPTIONS = {
    "previous_token": "at S1+1, read S1: note who stood there",
    "duplicate_token": "at S2, read S1: this name has been here",
    "induction": "at S2, read S1+1: the same, by way of what followed it",
    "s_inhibition": "at END, read S2: carry which name to avoid",
    "name_mover": "at END, read IO: write it",
    "negative_name_mover": "at END, read IO: write against it",
    "backup_name_mover": "like name movers, when these are missing",
    "none": "no such description",
}


def circuit_table() -> str:
    """Classes, what they do, the published members, and the heads found here."""
    rows = ["| class | what they do | gpt2-small, published | found here |", "|---|---|---|---|"]
    for kind, what in DESCRIPTIONS.items():
        published = figures("gpt2-small").get(f"paper.heads.{kind}", {"value": []})["value"]
        here = [head["name"] for head in found if described_as(head) == kind]
        rows.append(f"| {kind.replace('_', ' ')} | {what} | {', '.join(published) or '–'} | {', '.join(here) or '–'} |")
    return "\n".join(rows)


Markdown(circuit_table())

# %%
for kind in ("induction", "s_inhibition", "name_mover", "negative_name_mover"):
    compare(f"ioi.circuit.{kind}", [head["name"] for head in found if described_as(head) == kind], model)

# %% [markdown]
# **How to read it.** On gpt2-small compare the two last columns: the ten heads are only part of the 26 published ones, and a rule of
# three features is coarse. On another model the heads have other names and may be fewer, so ask whether the *classes* are there.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# They are, in part. An early head at S2 reads S1+1, as induction heads do. Two middle heads carry from S2 to END. Late heads
# at END read IO, of both signs. But the largest single effect takes a shorter way, which the rule files under S-inhibition: L23H3
# reads S2 and writes straight to the logits. In gpt2-small, S-inhibition heads act *through* name movers. L24H7 is filed
# there, too, and fits even less: it hurts the answer, and in this row the rule does not ask for the sign.
# </details>
#
# **What it does not show.**
# - **Previous-token heads.** They work at S1+1, before S2, where the two runs are the same. With S2 flipped, no patch can find them. (The corruption of S1 can: `run_experiment(model, ioi_pairs(model, corruption="S1")).denoise(patching.get_act_patch_attn_head_out_all_pos)`.)
# - **Arrows between heads.** An arrow here goes from a position to a position. That L20H0 *feeds* L23H0 is a hypothesis that section 8 supports and chapter 05
#   tests.
# - **Completeness.** We took the ten largest effects, and ten is an arbitrary number. Chapter 06 asks how much of the behavior such a list explains.
#
# **Try.** Run the sweep in the first point. Which head comes out on top that no other figure of this chapter has shown?
# <details><summary>What you should find, on SmolLM2</summary>
#
# L16H0, with .75: a previous-token head. Then L17H4 (.54), L20H0 (.39), L23H3 (.36), and L8H1 (.35), which is new as well.
# </details>
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `transformer_lens.patching` | the sweeps of this chapter and more, as plain loops; `index_df` for chosen cells |
# | `utils.patching` | the same names and numbers, faster; `positions=`, prompts of several lengths |
# | `get_act_name(name, layer)`, `hook.name` | full names of activations |
# | `model.hooks(fwd_hooks=…)` | hooks for the length of a `with` block |
# | `utils.ioi.ioi_pairs(model, corruption=…)` | other corruptions: `"S1"`, `"S2"`, `"IO"`, `"swap"`, … |
# | `utils.experiment.run_experiment(model, pairs)` | two runs, two baselines, both metrics; `.denoise(sweep)`, `.noise(sweep)` |
#
# (You may meet another style in older code: `model.add_hook(name, function)`, then `model.run_with_cache(…)`, then `model.reset_hooks()`. In TransformerLens 4, `run_with_cache` no longer removes such hooks for you, so a forgotten one changes every later run.)
#
# **Glossary.** *Activation patching*: replacing an activation of one run by that of another. *AND, OR, chain*: ways in which parts work together; see section 9. *Clean, corrupted*: the run with the answer to explain, and the
# one that differs in the respect under study. *Denoising*: clean into corrupted; shows what is sufficient. *Grouped-query attention*: several query heads share one
# key/value head. *Handover*: the layers in which what S2 knows is carried to END. *Induction head*: a head that looks at what followed an earlier occurrence of the
# present token. *Localizing*: finding the places that carry a difference. *Necessary, sufficient*: see section 9; both with respect to a corruption. *Negative name mover*: a head that reads IO and lowers it. *Noising*: corrupted into
# clean; shows what is necessary. *S-inhibition head*: a head at END that reads S2 and steers name movers away from the subject. *Sweep*: the same patch at every layer and
# position, or head.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Nanda 2022, [Exploratory Analysis Demo](https://transformerlensorg.github.io/TransformerLens/generated/demos/Exploratory_Analysis_Demo.html). The sweeps, their names and the published figures for gpt2-small come from here.
# - Olsson et al. 2022, [In-context Learning and Induction Heads](https://arxiv.org/abs/2209.11895). This is the long study of induction heads.
# - Meng et al. 2022, [Locating and Editing Factual Associations in GPT](https://arxiv.org/abs/2202.05262). With this paper the technique became widely known. It corrupts prompts with noise.
# - Heimersheim and Nanda 2024, [How to use and interpret activation patching](https://arxiv.org/abs/2404.15255). It explains denoising, noising and the choice of a corruption with small examples.
# - Zhang and Nanda 2023, [Towards Best Practices of Activation Patching in Language Models: Metrics and Methods](https://arxiv.org/abs/2309.16042). It tries several corruptions and metrics on the same questions, and finds that they can give different answers.

# %% [markdown]
# **Next:** [04 · What kind of head is it?](04_head_anatomy.ipynb) scores heads by what they do on other texts, and removes some.
