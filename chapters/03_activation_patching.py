# %% [markdown]
# # 03 · Activation patching
#
# Two hours. Attribution sees the last step only: from a part straight to the logits. To see what the parts before it do, change
# one of them and run the rest of the model. **Activation patching** takes the change from a second run on a
# nearly identical prompt, and so asks about one difference at a time.
#
# You will be able to
# - build a pair of prompts that differs in one respect only, and a metric from 0 to 1 between them;
# - write every common patching sweep as a plain loop: residual stream, layers, heads, and a head's query, key, value and pattern;
# - tell what a head does by *which of its inputs* matters;
# - say what it takes to call a part sufficient, and what to call it necessary;
# - draw the circuit you found, and see where it agrees with the published one.

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
from collections.abc import Callable, Sequence
from functools import partial

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
from utils import patching, plots
from utils.attribution import head_attributions, head_name, logit_diff, logit_diff_directions, top_heads
from utils.experiment import run_experiment
from utils.inference import small_cache
from utils.ioi import NAMES, TEMPLATES, ioi_pairs, positions_by_role, single_token_names
from utils.models import load_model
from utils.prompts import make_pairs
from utils.reference import compare, figures

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# ## 1 · Two runs that differ in one word
#
# The **clean** prompt is one where the model gives the answer we want to explain. The **corrupted** prompt is as similar as can
# be, and the answer changes. Here it is the clean prompt with the subject's second mention, S2, exchanged for the other name:
#
# > When John and Mary went to the shops, **John** gave the bag to → Mary
# >
# > When John and Mary went to the shops, **Mary** gave the bag to → John
#
# Why only S2? Whatever the two runs share cannot explain their difference: grammar, shops, bags, the fact that names come
# next, the names themselves. What is left is which of the two was repeated. Exchange more words, and you find the heads that
# care about any of them, all at once. (The order of the names could serve as well. It asks another question.)
#
# `small_cache` is a names filter: it keeps the activations that this chapter patches or reads, and leaves out the rest, which would
# take three times the memory.

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
# At S2 from the start. At the positions before it never: they cannot see it. At the ones behind it a little, and more with every layer.
# </details>

# %%
def relative_difference(layer: int) -> Float[Tensor, "position"]:
    """How far apart the two residual streams are, as a share of their length."""
    clean_stream, corrupted_stream = clean_cache["resid_pre", layer], corrupted_cache["resid_pre", layer]
    return ((clean_stream - corrupted_stream).norm(dim=-1) / clean_stream.norm(dim=-1)).mean(0)


position_names = pairs.labels(model)
plots.imshow(
    torch.stack([relative_difference(layer) for layer in range(model.cfg.n_layers)]),
    "Where clean and corrupted runs differ",
    x="position (words of the first prompt)",
    y="residual stream before layer",
    x_labels=position_names,
    sequential=True,
    unit="share",
)


# %% [markdown]
# **How to read it.** White means that the two runs are the same there, and nothing you patch there can matter. Everything before
# S2 is white. The dark cell is S2 in layer 0; the difference then spreads to the right.
#
# **What it does not show.** Which of these differences the answer depends on. To find out, carry them from one run into
# the other.
#
# ## 2 · A metric
#
# We shall run the corrupted prompt with one clean activation in it, and ask how much of the clean answer comes back. The logit
# difference says so in logits. Rescale it, so that 0 means "as in the corrupted run" and 1 "as in the clean run".
#
# ### Exercise 3.1 · The metric
#
# > Difficulty: ●○○○○  Importance: ●●●●○  5 minutes
#
# Return the mean logit difference of `logits`, rescaled by the two baselines. Keep it a tensor of no axes: sweeps stack them, and
# chapter 10 takes gradients through them.
#
# <details><summary>Hint</summary>
#
# `logit_diff(logits, answer_tokens)` is in scope. Subtract the value that should become 0; divide by the distance between the two.
# </details>

# %%
def ioi_metric(
    logits: Float[Tensor, "batch position d_vocab"],
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
# </details>

# %% [markdown]
# Two runs, their two logit differences and the metric between them belong together: they make one **experiment**. You will need many of
# them, so `run_experiment(model, pairs)` makes one in a single call. It runs both sides of the pairs and keeps the two baselines
# (`.clean`, `.corrupted`), the two caches (`.clean_cache`, `.corrupted_cache`) and the metric on your scale (`.denoising_metric`).

# %%
experiment = run_experiment(model, pairs)
clean_cache, corrupted_cache = experiment.clean_cache, experiment.corrupted_cache  # as before; the first two are given back
metric = partial(ioi_metric, answer_tokens=answer_tokens, clean=experiment.clean, corrupted=experiment.corrupted)
for name, logits in (("corrupted", corrupted_logits), ("clean", clean_logits)):
    print(f"{name:9} run: your metric {metric(logits):.3f}, the experiment's {experiment.denoising_metric(logits):.3f}")


# %% [markdown]
# ## 3 · One patch, then all of them
#
# ### Exercise 3.2 · Patch one position
#
# > Difficulty: ●●○○○  Importance: ●●●●●  10 minutes
#
# A hook function: it gets an activation of the *corrupted* run and returns it with the *clean* values at one position, in every prompt.
#
# <details><summary>Hint</summary>
#
# `clean_cache[hook.name]` is the same activation in the clean run. Work on a copy (`activation.clone()`), or you change what
# others see.
# </details>

# %%
def patch_position(
    activation: Float[Tensor, "batch position ..."], hook: HookPoint, pos: int, clean_cache: ActivationCache
) -> Float[Tensor, "batch position ..."]:
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
# </details>

# %% [markdown]
# ### Exercise 3.3 · The residual stream
#
# > Difficulty: ●●●○○  Importance: ●●●●●  15 minutes
#
# For every layer and position: run the *corrupted* tokens with `resid_pre` of that layer patched at that position, and keep the
# metric. Two loops and `run_with_hooks`. `layers` lets you run a few layers only.
#
# <details><summary>Hint</summary>
#
# `get_act_name("resid_pre", layer)` is the full name. `partial(patch_position, pos=pos, clean_cache=clean_cache)` is a
# hook function.
# </details>

# %%
def get_act_patch_resid_pre(
    model: TransformerBridge,
    corrupted_tokens: Int[Tensor, "batch position"],
    clean_cache: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer position"]:
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
# </details>

# %% [markdown]
# Try your loop on two prompts and three layers, and `transformer_lens.patching`, which has a function of the same name, on a few
# cells of the same sweep. (`index_df` names the cells; without it the built-in does all of them.) `few.denoise(sweep, …)` calls a sweep,
# yours or the built-in one, with the experiment's model, corrupted tokens, clean cache and metric, and hands on what you add.

# %%
few = run_experiment(model, ioi_pairs(model, TEMPLATES[:1], NAMES[:1]))  # two prompts
some_layers = [0, model.cfg.n_layers // 2, model.cfg.n_layers - 2]
some = few.denoise(get_act_patch_resid_pre, layers=some_layers)
plots.imshow(
    some,
    "Your loop: clean residual stream patched into the corrupted run (two prompts, three layers)",
    x="position",
    y="residual stream before layer",
    x_labels=position_names,
    y_labels=some_layers,
    unit="metric",
)

# %%
cells = pd.DataFrame({"layer": some_layers, "pos": [S2, S2, END]})
theirs = few.denoise(built_in.get_act_patch_resid_pre, index_axis_names=None, index_df=cells)
yours = torch.stack([some[row, pos] for row, pos in enumerate(cells["pos"])])
print("your loop:", yours.numpy().round(3), "  transformer_lens.patching:", theirs.numpy().round(3))

# %% [markdown]
# Your loop runs the whole model once per cell: hundreds of runs for one picture. Most of that work is wasted: a patch
# changes nothing in the layers below it and nothing at the positions before it, and where the runs are equal it changes nothing at all.
# `utils.patching` has the names and arguments of `transformer_lens.patching`, gives the same numbers, and skips that work. From here on
# it draws the full figures, on all eight prompts. `block_every`, which you will write next, has this sweep as its first panel.

# %%
by_block = experiment.denoise(patching.get_act_patch_block_every)  # [3, layer, position]
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
# **How to read it.** Read the column of S2 from the top: 1, layer after layer. Put the clean stream back at this one
# position, and the whole answer comes back, although END is corrupted. Then, within a few layers, the column fades and END's
# column fills up. Whatever S2 knew has been carried to END. On gpt2-small that happens in layers 7 and 8 (the executed demo of
# TransformerLens), on SmolLM2 in layers 19 to 23. Hardly another position matters; look for a faint column just behind S2.
#
# **What it does not show.** How it was carried. The stream holds everything there is at a position; what moved may be a small part of it.
#
# **Try.** Compare with the two curves of chapter 02. They saw nothing at END before the first name mover. Here END holds half of the
# answer earlier than that: *which* answer was decided before the answer was there.
#
# ## 4 · Which layers carry it?
#
# The stream is a sum of outputs, so patch the outputs instead: of one attention layer or one MLP, at one position.
#
# ### Exercise 3.4 · Residual stream, attention, MLP
#
# > Difficulty: ●●○○○  Importance: ●●●○○  10 minutes
#
# Return `[3, layer, position]`: the sweep of exercise 3.3 for `resid_pre`, `attn_out` and `mlp_out`, in this order. One activation is
# patched in each run.
#
# <details><summary>Hint</summary>
#
# One more loop around exercise 3.3. `patch_position` works for all three: their axes are the same.
# </details>

# %%
def get_act_patch_block_every(
    model: TransformerBridge,
    corrupted_tokens: Int[Tensor, "batch position"],
    clean_cache: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "3 layer position"]:
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
# </details>

# %% [markdown]
# Your loop on layer 0, beside the built-in at S2 of layer 0; then the full figure.

# %%
first_layer = few.denoise(get_act_patch_block_every, layers=[0])
cell = {"index_axis_names": None, "index_df": pd.DataFrame({"layer": [0], "pos": [S2]})}
for panel, sweep in enumerate((built_in.get_act_patch_resid_pre, built_in.get_act_patch_attn_out, built_in.get_act_patch_mlp_out)):
    theirs = few.denoise(sweep, **cell).item()
    print(f"{('resid_pre', 'attn_out', 'mlp_out')[panel]:10} your loop {first_layer[panel, 0, S2]:6.3f}   built-in {theirs:6.3f}")

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
# **How to read it.** Two columns matter in the middle panel: attention at S2 early, attention at END later, and few layers of
# each. In the panel of the MLPs look at layer 0, at S2: it brings back everything.
#
# **What it does not show.** That MLP 0 knows about indirect objects. It sees the word at S2 and nothing else, and
# later layers read the word from what it writes: it acts as a second embedding. A patch there is as good as exchanging the word
# itself. On some models a later MLP has an effect too: look whether it is far from the diagonal of the story told by attention.
#
# **Try.** Add up the attention panel's column at END. If the parts do not add up to the residual panel's 1, they depend on one another.
#
# ## 5 · Which heads?
#
# ### Exercise 3.5 · Output of a head, at all positions
#
# > Difficulty: ●●●○○  Importance: ●●●●○  15 minutes
#
# Return `[layer, head]`: the metric when `z` of one head is patched at *every* position. Patch `z` and not what the head writes
# after $W_O$ (`result`): the model does not compute that for one head, and TransformerLens refuses a hook there.
#
# <details><summary>Hint</summary>
#
# You need another hook function: the head is axis 2 of `z`, `[batch, position, head, d_head]`. Define it inside.
# </details>

# %%
def get_act_patch_attn_head_out_all_pos(
    model: TransformerBridge,
    corrupted_tokens: Int[Tensor, "batch position"],
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
# </details>

# %% [markdown]
# ### Exercise 3.6 · Output, query, key, value, pattern
#
# > Difficulty: ●●●●○  Importance: ●●●●○  20 minutes
#
# A head's output changes for one of two reasons: it looks elsewhere (its pattern, made of queries and keys), or what it sees there has
# changed (its values). Patch each alone. Return `[5, layer, head]` in the order `z`, `q`, `k`, `v`, `pattern`.
#
# Two traps. The axes of `pattern` are `[batch, head, query, key]`: the head is axis 1 there, axis 2 in the others. And many
# models share keys and values between heads (*grouped-query attention*: SmolLM2 has 9 query heads and 3 key/value heads). There `k` and
# `v` have fewer heads: fill the first ones of the row and leave zeros behind, as TransformerLens does.
#
# <details><summary>Hint</summary>
#
# `clean_cache[name, layer].shape[axis]` is the number of heads of that activation.
# `activation.transpose(1, 2)` is a view: writing into it writes into `activation`.
# </details>

# %%
def get_act_patch_attn_head_all_pos_every(
    model: TransformerBridge,
    corrupted_tokens: Int[Tensor, "batch position"],
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
# </details>

# %% [markdown]
# Your two loops on one layer and two prompts, beside the built-in on one head of it:

# %%
layer = int(0.58 * model.cfg.n_layers)  # 6 of gpt2-small, 17 of SmolLM2: the last layers before the handover
outputs = few.denoise(get_act_patch_attn_head_out_all_pos, layers=[layer])
five = few.denoise(get_act_patch_attn_head_all_pos_every, layers=[layer])
head = outputs[0].argmax().item()
cell = {"index_axis_names": None, "index_df": pd.DataFrame({"layer": [layer], "head": [head]})}
theirs = few.denoise(built_in.get_act_patch_attn_head_out_all_pos, **cell)
print(f"{head_name(layer, head)}: exercise 3.5 {outputs[0, head]:.3f}, exercise 3.6 {five[0, 0, head]:.3f}, built-in {theirs.item():.3f}")

# %% [markdown]
# And all heads on all prompts.
#
# *What do you expect?* The heads of chapter 02 again? Which others?
# <details><summary>Our guess</summary>
# Those, and the heads that make them look where they look: some at S2, and some that carry from S2 to END. Attribution could not see
# these, for they write nothing about names.
# </details>

# %%
every = experiment.denoise(patching.get_act_patch_attn_head_all_pos_every)  # [5, layer, head]
plots.heads(every[0], "Patching each head's output at all positions", unit="metric")

# %%
ten = sorted(top_heads(every[0].abs(), 10))
compare("ioi.patching.top_heads", [head_name(*pair) for pair in ten], model)
compare("ioi.patching.strongest_head", head_name(*top_heads(every[0].abs(), 1)[0]), model)
compare("ioi.patching.strongest_head_effect", every[0].abs().max(), model)

# %% [markdown]
# **How to read it.** Red: with this head clean and all else corrupted, the answer moves towards the clean one. Blue: away from
# it. Look for the red heads in layers *before* the ones of chapter 02: they are what attribution missed.
#
# **What it does not show.** That a white head does nothing. It does nothing that depends on which name S2 is. A head
# that finds "the last word is *to*, so a name comes next" is the same in both runs.
#
# Now the reasons. The limit of the colours is the same in all five panels.

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
# the head matters because of where it looks. If it is red in *value*, it looks at the same place in both runs, and what it finds
# there differs.
#
# The *key* panel is almost empty. Do not conclude that keys are unimportant. Our two runs differ at S2 only, so every key at an earlier
# position, IO and S1 included, is the same in both runs, and patching it cannot change anything. To test keys you have to
# corrupt the word that is looked at. Chapter 05 does this with a fresh name at S1, and finds a key that carries a third of the difference.
#
# If your model shares keys and values, a cell of *key* or *value* stands for several query heads. Two of them may pull in
# opposite directions, and the cell shows the sum. To take it apart, give one *query* head the clean values and leave it its corrupted
# pattern. Its `z` is then (corrupted pattern) × (clean values): put that into a cache and sweep over outputs again. (Without
# sharing, this is the value panel itself.)

# %%
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads


def z_of(pattern_cache: ActivationCache, value_cache: ActivationCache, layer: int) -> Float[Tensor, "batch query head d_head"]:
    """A layer's z with the patterns of one run and the values of another."""
    values = value_cache["v", layer]  # batch key kv_head d_head
    values = values.repeat_interleave(n_heads // values.shape[2], dim=2)  # batch key head d_head
    return torch.einsum("bhqk,bkhd->bqhd", pattern_cache["pattern", layer], values)


clean_values = {get_act_name("z", layer): z_of(corrupted_cache, clean_cache, layer) for layer in range(n_layers)}
own_values = patching.get_act_patch_attn_head_out_all_pos(model, pairs.corrupted_tokens, clean_values, metric)
same_run = z_of(clean_cache, clean_cache, n_layers - 1)
print(f"pattern × values is z: largest difference {(same_run - clean_cache['z', n_layers - 1]).abs().max():.0e}")

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
# **How to read it.** Most heads fall on one diagonal or the other. A head that is off both owes part of its effect to each. A point far *beyond* the
# diagonal of one scatter is on the other side of zero in the other: its pattern and its values pull in opposite directions. If pattern and values did their
# work independently, the two effects would add up to that of the output.
#
# **Try.** Plot `every[4] + own_values` against `every[0]`.
# <details><summary>What you should find, on SmolLM2</summary>
#
# The points lie close to the diagonal, also those of the heads that are off it in both scatters. So the two reasons add up, and no head here needs both to change together.
# </details>
#
# On gpt2-small the heads of layers 7 and 8 are the ones whose values matter, and those before and after them are the ones whose
# patterns matter (TransformerLens' demo). Look for the same three-part order in SmolLM2, and for the late heads that break it.
#
# **What it does not show.** Position. `z` was patched everywhere at once; where does a head act?
#
# ## 6 · Early, middle, late
#
# Three layers are known by now: where the handover from S2 to END begins (section 3), and where the answer is
# written (chapter 02: the attention layer with the largest direct attribution). They split the ten heads.
#
# *What do you expect?* Where do early heads look, and from where? And the middle ones?
# <details><summary>Our guess</summary>
# Early ones work at S2, and look back to where the same name stood before: "this is a repetition". Middle ones work at END and look at S2. Late
# ones work at END and look at a name.
# </details>

# %%
directions = logit_diff_directions(model, answer_tokens)
direct = head_attributions(model, clean_cache, directions)  # [layer, head], chapter 02
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
# The views show one prompt. For all eight, measure three things of each head: the position where its output matters (patch `z` at S2
# only, then at END only), the role it looks at from there, and its direct attribution.

# %%
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
    })  # fmt: skip
pd.DataFrame(found).set_index("name").drop(columns="layer")

# %%
compare("ioi.patching.heads_that_act_at_s2", [head["name"] for head in found if head["at"] == "S2"], model)
compare("ioi.patching.heads_at_end_that_read_s2", [h["name"] for h in found if h["at"] == "END" and h["reads"] == "S2"], model)
compare("ioi.patching.heads_at_end_that_read_io", [h["name"] for h in found if h["at"] == "END" and h["reads"] == "IO"], model)

# %% [markdown]
# **How to read it.** Each row is a head. *at*: where its output matters. *reads*: where it looks from there. Read the rows in the order
# of their layers and tell the story. The outline is the same in both models: something at S2 looks back to the first mention, something
# at END looks at S2, something at END looks at a name.
#
# **SmolLM2 only.** Two things differ from the published story. The first: L23H3, the strongest head here and the one with the largest
# direct attribution (chapter 02), reads S2 and not IO, and its values matter, not its pattern. It reads the repeated name off S2 and
# lowers it; it hardly needs the earlier heads (section 7 measures that). The second: the last layer has a pair of heads with opposite
# effects that read END itself. Their values matter: what they find there is what the heads before them have brought.
#
# ## 7 · Who listens?
#
# A head that matters without writing about names must matter through others. Patch it in the corrupted run, as before, and look at
# the direct attribution of every head *in that run*: those that change have, directly or through others, listened.

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
# **How to read it.** One group of bars per later head, one bar per patched head. If patching an early head and patching a middle one change the
# same heads in the same way, one chain is the simplest account: early, middle, late. Look for heads that rise *and* heads that fall: the same message
# turns both kinds towards the clean IO, and they write it with opposite signs. Then look for the head with the largest direct
# attribution. On SmolLM2 it is hardly there.
#
# **What it does not show.** Which link is direct. The message may have passed through other heads and MLPs on its way. Chapter 05 patches
# one path at a time.
#
# ## 8 · Sufficient, or necessary?
#
# So far: corrupted run, one clean activation. That is **denoising**. If it brings the answer back, the activation is *sufficient*
# in this setting. The other way round, clean run with one corrupted activation, is **noising**. If it destroys the answer, the activation
# is *necessary*. The two come apart in circuits that are not simple chains:
#
# - **A chain**, one head after another: every link is both. Restoring any link restores everything after it, and breaking any link breaks the answer.
# - **Stand-ins (OR)**: either of two heads is enough. Each is sufficient, and neither is necessary.
# - **Partners (AND)**: two heads are needed at the same time. Each is necessary, and neither is sufficient.
#
# ### Exercise 3.7 · The metric for noising
#
# > Difficulty: ●○○○○  Importance: ●●●○○  5 minutes
#
# Zero should mean "nothing has changed", and for noising that is the *clean* run. Rescale so that the clean run is 0 and the corrupted
# run −1.
#
# <details><summary>Hint</summary>
#
# Subtract `clean`; the distance in the denominator is that of exercise 3.1.
# </details>

# %%
def noising_metric(
    logits: Float[Tensor, "batch position d_vocab"],
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
# </details>

# %% [markdown]
# ### Exercise 3.8 · The noising sweep
#
# > Difficulty: ●●●○○  Importance: ●●●●○  10 minutes
#
# From clean and corrupted tokens alone, return `[layer, head]`: the noising metric when each head's corrupted `z` is patched, at every
# position, into the clean run. You have all the pieces; mind which run lends and which receives.
#
# <details><summary>Hint</summary>
#
# Cache the corrupted run. The two baselines are logit differences of the two unpatched runs. Then exercise 3.5, with the roles
# exchanged: its arguments are called `corrupted_tokens` and `clean_cache`, but it only knows the run that receives and the cache that
# lends.
# </details>

# %%
def noising_sweep(
    model: TransformerBridge,
    clean_tokens: Int[Tensor, "batch position"],
    corrupted_tokens: Int[Tensor, "batch position"],
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
# </details>

# %% [markdown]
# *What do you expect* on our eight prompts? Will noising and denoising agree on every head, or on some?
# <details><summary>Our guess</summary>
# We expected some to differ. Look first at the figure, then at the prompts, and find out why it could not be otherwise.
# </details>

# %%
two = few.pairs
print("your loop, two prompts:", noising_sweep(model, two.clean_tokens, two.corrupted_tokens, two.answer_tokens, [layer]).numpy().round(3))
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
# Each corrupted prompt is itself one of the eight clean ones. To patch the run on prompt 0 into the run on prompt 1 denoises one pair
# and noises the other. On a set that is its own corruption the two questions are one, and the result cannot tell
# sufficient from necessary.
#
# To ask two questions you need a corruption of another kind. Put a *third* name at S2: in "When John and Mary went to the
# shops, **Alice** gave the bag to", both names are as good as each other. The corrupted logit difference is zero in the
# mean: the information is gone, not inverted.

# %%
used = {name.strip() for pair in NAMES for name in pair}
third_names = [name for name in single_token_names(model) if name not in used][: len(TEMPLATES)]
third_text = [
    template.replace("{S}", f" {name}") for template, name in zip(TEMPLATES, third_names, strict=True) for _ in range(2)
]
third = run_experiment(model, make_pairs(model, pairs.clean_text, third_text, pairs.answers))
print(third_text[0], "→", f"logit difference in the mean {third.corrupted + 0:.3f}")
third_denoising = third.denoise(patching.get_act_patch_attn_head_out_all_pos)
third_noising = third.noise(patching.get_act_patch_attn_head_out_all_pos)
plots.scatter(
    third_denoising,
    -third_noising,
    "Third name at S2: what is sufficient, and what is necessary",
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

# %% [markdown]
# **How to read it.** Left to right: how much the clean head brings back. Bottom to top: how much is lost when it alone is corrupted.
# Right of zero, a point *below* the diagonal brings back more than its loss costs: when it fails, something else does part of the work. One above it
# would be a link that is needed and does not suffice. The same heads stand out as before, so the choice of corruption did not make them up; their sizes changed, so
# a size is a statement about a head *and* a corruption.
#
# **What it does not show.** Who the stand-ins are. Chapter 04 removes heads and watches others step in.
#
# **Try.** Corrupt with another first name instead (S1): which heads appear that these two corruptions cannot show?
#
# ## 9 · The circuit so far
#
# Here is what you measured, drawn: a column per position, the layers going up, an arrow from where a head looks to where it writes. Red helps the
# answer, blue hurts it; the width is the patching effect.

# %%
plots.circuit(found, ["IO", "S1", "S1+1", "S2", "END"], f"The circuit so far, as measured on {model.cfg.model_name}")


# %% [markdown]
# Wang et al. (2022) drew such a diagram for gpt2-small, from the evidence of this chapter and much more. Here are their classes of heads,
# and beside each the heads that *your* measurements describe in the same words. The rule is in the code: where a head acts, where it looks,
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
# three features is coarse. On another model the heads have other names and may be fewer; ask whether the *classes* are there.
#
# **SmolLM2 only.** They are, in part. An early head at S2 reads S1+1, as induction heads do; two middle heads carry from S2 to END; late heads
# at END read IO, of both signs. But the largest single effect takes a shorter way, which the rule files under S-inhibition: L23H3
# reads S2 and writes straight to the logits. In gpt2-small S-inhibition heads act *through* name movers.
#
# **What it does not show.**
# - **Previous-token heads.** They work at S1+1, before S2, where the two runs are the same. No patch between these runs can find them.
# - **Arrows between heads.** An arrow here goes from a position to a position. That L20H0 *feeds* L23H0 is a hypothesis that section 7 supports and chapter 05
#   tests.
# - **Completeness.** Ten heads were chosen because ten is a round number. Chapter 06 asks how much of the behaviour such a list explains.
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `transformer_lens.patching` | the sweeps of this chapter and more, as plain loops; `index_df` for chosen cells |
# | `utils.patching` | the same names and numbers, faster; `positions=`, prompts of several lengths |
# | `get_act_name(name, layer)`, `hook.name` | full names of activations |
# | `model.hooks(fwd_hooks=…)` | hooks for the length of a `with` block |
# | `utils.prompts.make_pairs` | your own clean and corrupted prompts, checked |
# | `utils.experiment.run_experiment(model, pairs)` | two runs, two baselines, both metrics; `.denoise(sweep)`, `.noise(sweep)` |
#
# **Glossary.** *Activation patching*: replacing an activation of one run by that of another. *Clean, corrupted*: the run with the answer to explain, and the
# one that differs in the respect under study. *Denoising*: clean into corrupted; shows what is sufficient. *Grouped-query attention*: several query heads share one
# key/value head. *Handover*: the layers in which what S2 knows is carried to END. *Induction head*: a head that looks at what followed an earlier occurrence of the
# present token (Olsson et al. 2022). *Necessary, sufficient*: see section 8; both with respect to a corruption. *Negative name mover*: a head that reads IO and lowers it. *Noising*: corrupted into
# clean; shows what is necessary. *S-inhibition head*: a head at END that reads S2 and steers name movers away from the subject. *Sweep*: the same patch at every layer and
# position, or head.
#
# Sources: Meng et al. 2022, "Locating and Editing Factual Associations in GPT" (the technique); Wang et al. 2022, "Interpretability in the Wild" (the circuit and its classes); Heimersheim and Nanda
# 2024, "How to use and interpret activation patching" (denoising and noising); the sweeps, their names and the published figures for gpt2-small follow `transformer_lens.patching` and TransformerLens' "Exploratory Analysis Demo".
#
# **Next:** 04 · What kind of head is it? scores heads by what they do on other texts, and removes some.
