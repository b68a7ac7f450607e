# %% [markdown]
# # 10 · At scale
#
# Ninety minutes. Chapter 03 patched one cell at a time, and each cell cost a whole forward pass. That is fine for eight short
# prompts and hopeless for a data set. This chapter makes the same sweep many times faster without changing one number in it, and
# then looks at a method that is faster still and does change them.
#
# You will be able to
# - say which part of a patched forward pass is new, and which part has been computed before;
# - skip, resume and batch a sweep, and show that it still equals the built-in one;
# - tell when the gradient shortcut, *attribution patching*, can be trusted, and name the heads that it loses;
# - find out what limits the speed of a computation on your own machine.

# %% [markdown] tags=["model"]
# **The model.** `load_model()` prints which model you have. Every figure of the course was computed on SmolLM2-135M-Instruct, a
# small chat model whose 4-bit weights are converted back to ordinary numbers. Here it reads plain text after its BOS token,
# `<|im_start|>`, and not a chat. With gpt2-small, the model of Wang et al. 2022, the code is the same and the numbers differ;
# the chapters have not been run on it yet. `load_model()` takes gpt2-small where it is cached or a model hub answers, except on
# Colab. To see the numbers of the text anywhere, write `load_model("smollm2-135m")`.

# %% [markdown] tags=["solution"]
# *This is the solution notebook; the exercises are in `chapters/`. `make sync EXECUTE=1` computed its outputs. Every time in it is from
# the machine that ran it; yours will differ, and nothing compares them.*

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
import time
from functools import partial

import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor
from transformer_lens import patching as builtin
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

from tests.checks import (
    check_attention_from_position,
    check_cells_that_can_change,
    check_patch_every_layer,
    check_run_from_layer,
)
from tests.checks.predicting import score_predictions
from utils import patching, plots
from utils.attribution import head_name
from utils.experiment import run_experiment
from utils.patching.blocks import run_block
from utils.patching.resumable import CorruptedRun
from utils.ioi import NAMES, TEMPLATES, ioi_pairs
from utils.models import load_model
from utils.reference import compare

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# ## 1 · What does a sweep cost?
#
# Two prompts are enough to see everything here, so take the first pair of chapter 01. The clean run reads a prompt, and the corrupted run reads its neighbor, which has the other name at **S2**. The metric is 0 for the corrupted run and 1 for the clean one.

# %%
pairs = ioi_pairs(model, TEMPLATES[:1], NAMES[:1])
clean_tokens, corrupted_tokens = pairs.clean_tokens, pairs.corrupted_tokens  # each [prompt, pos]
experiment = run_experiment(model, pairs)
clean_cache, corrupted_cache, metric = experiment.clean_cache, experiment.corrupted_cache, experiment.denoising_metric
n_layers, (n_prompts, n_pos) = model.cfg.n_layers, corrupted_tokens.shape
labels = pairs.labels(model)
print(pairs.clean_text[0], "|", pairs.corrupted_text[0])

# %% [markdown]
# Here is the sweep that we are after. It patches the clean residual stream into the corrupted run, one cell (layer, position) at a time. The engine that computes it is what this chapter explains.
#
# *What do you expect?* How many of these cells could a patch possibly change? Guess the number, as a share of all cells. The built-in loop does not ask: it runs the whole model once for every cell.
# <details><summary>Our guess</summary>
# The two runs read the same tokens before S2, and no position can read a later one. So you know without computing anything that all columns left of S2 are zero. S2 is the eleventh of fifteen positions, so a third of the cells is left.
# </details>

# %%
exact = patching.get_act_patch_resid_pre(model, corrupted_tokens, clean_cache, metric, progress=False)  # [layer, pos]
plots.imshow(
    exact, "Residual stream, clean patched into corrupted", x="position", y="layer", x_labels=labels,
    unit="0 corrupted, 1 clean",
)

# %% [markdown]
# **How to read it.** Red cells bring the clean answer back. They stand at S2 in the early layers and at END in the late ones (chapter 03 says why). The columns left of S2 are exactly zero.
#
# **What it does not show.** What it cost. The built-in loop runs one forward pass per cell, zeros included. Time a few of its
# cells; `index_df` names the cells to run, so you need not wait for all of them.

# %%
cells = builtin.make_df_from_ranges([n_layers, n_pos], ["layer", "pos"])  # one row per cell


def timed(function, *args) -> tuple[float, object]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = function(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def builtin_cells(some: pd.DataFrame) -> Float[Tensor, " cell"]:
    """The built-in's value in the given cells, one forward pass each."""
    setter = builtin.layer_pos_patch_setter
    return builtin.generic_activation_patch(
        model, corrupted_tokens, clean_cache, metric, setter, "resid_pre", index_df=some
    )


compare("scale.cells", len(cells), model)

# %% tags=["nbval-ignore-output"]
builtin_cells(cells.head(1))  # the first call of anything is slower
sample = cells[7::41]
took, found = timed(builtin_cells, sample)
seconds = {"built-in": took * len(cells) / len(sample)}
print(f"{len(sample)} cells in {took:.1f} s, so about {seconds['built-in']:.0f} s for all {len(cells)} (scaled up, not run)")


# %% [markdown]
# Scaled up from a sample: all cells cost the built-in loop the same. The number to beat is on your screen. Eight prompts take
# two to four times as long (section 7 says why), and a data set of hundreds takes hours.
#
# ## 2 · Which cells can change?
#
# A patch replaces a corrupted activation by a clean one. If the two are equal, the run stays as it was and the metric is that of the
# corrupted run, without running it.
#
# ### Exercise 10.1 · Skip what cannot change
#
# > Difficulty: ●●○○○  Importance: ●●●○○  10 minutes
#
# Given the residual streams of both runs, `[layer, batch, pos, d_model]`, return a boolean `[layer, pos]`: True where
# patching that cell can change something. A cell is patched in all prompts at once, so a difference in one prompt is enough.
#
# <details><summary>Hint 1 · a question</summary>
#
# `clean != corrupted` is boolean and has four axes. Which two have to go, and is one difference enough or are all needed?
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# `any` takes one axis or a tuple of axes. If you take one at a time, remember that after the first call the later axes have moved up.
# </details>

# %%
def cells_that_can_change(
    clean: Float[Tensor, "layer batch pos d_model"], corrupted: Float[Tensor, "layer batch pos d_model"]
) -> Bool[Tensor, "layer pos"]:
    """True in every cell where the clean and the corrupted activation of any prompt differ at all."""
    ### BEGIN SOLUTION
    return (clean != corrupted).any(-1).any(1)
    ### END SOLUTION


# %%
check_cells_that_can_change(cells_that_can_change)

# %% [markdown] tags=["answer"]
# Averaging over prompts first would be a trap: in mirrored prompts the differences are opposite and cancel.

# %% [markdown]
# Now the real model. The cells outside the mask need no run; a few of them are run by the built-in to see that you are right.

# %%
clean_resid = torch.stack([clean_cache["resid_pre", layer] for layer in range(n_layers)])  # [layer, batch, pos, d_model]
corrupted_resid = torch.stack([corrupted_cache["resid_pre", layer] for layer in range(n_layers)])
can_change = torch.as_tensor(cells_that_can_change(clean_resid, corrupted_resid))
changing = cells[can_change.flatten().tolist()].reset_index(drop=True)
outside = cells[(~can_change).flatten().tolist()]
compare("scale.cells_that_can_change", len(changing), model)
print("largest effect outside the mask:", builtin_cells(outside[::101]).abs().max().item())

# %% [markdown]
# On SmolLM2 146 cells are left, and not a third of 450, which is 150. Before layer 0 only S2 itself differs, so the four positions after it have nothing to exchange yet.

# %% tags=["nbval-ignore-output"]
seconds["1 skip cells"] = seconds["built-in"] * len(changing) / len(cells)
print(f"{seconds['1 skip cells']:.0f} s, {seconds['built-in'] / seconds['1 skip cells']:.1f} times faster than the built-in")


# %% [markdown]
# The time shrinks to the share of cells that can change. So the gain is large if the prompts differ late, and there is next
# to none if they differ in their first token. That is worth knowing when you choose prompts.
#
# ## 3 · Which layers have run before?
#
# Take a cell in layer 20. Layers 0 to 19 of the patched run are those of the corrupted run, and you have them in a cache. Only layers
# 20 and later are new.
#
# TransformerLens accepts `model(resid, start_at_layer=20)`, and the result is right. But in version 4.3 the earlier blocks run all the
# same, and their result is replaced. You will have to write the loop yourself; `run_block(model, layer, resid)` from
# `utils.patching.blocks` runs one block and returns the residual stream after it. (Calling `model.blocks[layer]` directly is not enough for a
# model with *rotary* positions: a block called by itself does not know where its tokens stand.)
#
# ### Exercise 10.2 · Resume at a layer
#
# > Difficulty: ●●○○○  Importance: ●●●●○  10 minutes
#
# Return the logits `[batch, pos, d_vocab]` of a run whose residual stream just before block `layer` is `resid`. No earlier block
# may run.
#
# <details><summary>Hint 1 · a question</summary>
#
# Which two modules does the model have after its last block? `print(model)` shows them.
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# The loop begins *with* block `layer`, because `resid` is what stands before it.
# </details>

# %%
def run_from_layer(
    model: TransformerBridge, resid: Float[Tensor, "batch pos d_model"], layer: int
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of the run that has `resid` before block `layer`; runs the blocks from there to the last, and no other."""
    ### BEGIN SOLUTION
    for later in range(layer, model.cfg.n_layers):
        resid = run_block(model, later, resid)
    return model.unembed(model.ln_final(resid))
    ### END SOLUTION


# %%
check_run_from_layer(run_from_layer)

# %% [markdown] tags=["answer"]
# The residual stream before a block, at every position, is all that the rest of the run needs. The later blocks compute
# their queries, keys and values from it, so nothing else of the earlier blocks has to be kept. `ln_final` must not be left
# out, although norms are folded. Folding moves only a norm's weights into the matrices that read it, and the norm still
# divides every position by its scale.

# %% [markdown]
# Compare with the built-in on a sample of the cells that can change, spread evenly over the layers. The time is scaled up from the
# sample to all of them, as the built-in's was.

# %%
sample = changing[5::12]
expected = builtin_cells(sample)


def patched(layer: int, pos: int) -> Float[Tensor, "batch pos d_model"]:
    """The corrupted residual stream before block `layer`, with the clean one at `pos`."""
    resid = corrupted_resid[layer].clone()
    resid[:, pos] = clean_resid[layer][:, pos]
    return resid


def by_layer(some: pd.DataFrame) -> Float[Tensor, " cell"]:
    return torch.stack([metric(run_from_layer(model, patched(layer, pos), layer)) for layer, pos in some.values])


took, found = timed(by_layer, sample)
print(f"{len(sample)} cells equal to the built-in:", torch.allclose(found, expected, atol=1e-4))

# %% tags=["nbval-ignore-output"]
seconds["2 resume at layer"] = took * len(changing) / len(sample)
print(f"{seconds['2 resume at layer']:.1f} s, {seconds['built-in'] / seconds['2 resume at layer']:.1f} times faster")


# %% [markdown]
# On average a patch sits in the middle layer, so this halves the work of the layers. Did the time halve? If it did not, keep the question for section 7.
#
# ## 4 · Which positions have run before?
#
# The same argument holds for positions. A patch at position `p` changes nothing before `p`, in any layer. Norms and MLPs work on each
# position by itself, so they can simply be given the positions from `p` on. Attention is different: position `p` reads earlier
# ones. But what it reads of them are their keys and values, and those are the corrupted run's.
#
# ### Exercise 10.3 · Resume at a position
#
# > Difficulty: ●●●●○  Importance: ●●●●○  20 minutes
#
# One attention layer for the positions from `start` on. (`start` is the length of the prefix, `k_prefix.shape[1]`, and may be 0.) You are given their queries, keys and values (`q`, `k`, `v`, with rotation
# done) and the keys and values of the `start` positions before them. Return `z`, the weighted mean of values, `[batch, new, head,
# d_head]`.
#
# Some models have fewer key/value heads than query heads (*grouped-query attention*): with four query heads and two key/value heads, query
# heads 0 and 1 share the first one.
#
# <details><summary>Hint 1 · a question</summary>
#
# Query number `i` stands at position `start + i`. Which keys may it read, and how many does query 0 read?
# </details>
# <details><summary>Hint 2 · the tool</summary>
#
# `k.repeat_interleave(n, dim=2)` repeats each key/value head `n` times in place. Scores are divided by the square root of `d_head`.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# `torch.tril` takes a `diagonal`. Without it, query `i` may read only keys 0 to `i`, as if it stood at position `i`.
# </details>

# %%
def attention_from_position(
    q: Float[Tensor, "batch new head d_head"],
    k: Float[Tensor, "batch new kv_head d_head"],
    v: Float[Tensor, "batch new kv_head d_head"],
    k_prefix: Float[Tensor, "batch start kv_head d_head"],
    v_prefix: Float[Tensor, "batch start kv_head d_head"],
) -> Float[Tensor, "batch new head d_head"]:
    """z at the new positions, which follow the prefix and read it; causal, scores scaled by 1 / sqrt(d_head)."""
    ### BEGIN SOLUTION
    k, v = torch.cat([k_prefix, k], dim=1), torch.cat([v_prefix, v], dim=1)  # [batch, start + new, kv_head, d_head]
    k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], dim=2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(k_prefix.shape[1])
    pattern = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", pattern, v)
    ### END SOLUTION


# %%
check_attention_from_position(attention_from_position)

# %% [markdown] tags=["answer"]
# The causal mask has a row for each new query and a column for every key, with the prefix first. `tril(start)` moves its
# diagonal by the length of the prefix, so query `i` reads keys 0 to `start + i`. `repeat_interleave` puts the copies of a
# key/value head side by side (0, 0, 1, 1), like the query heads that share it; `repeat` would give 0, 1, 0, 1. In `einsum`,
# a letter that is missing after the arrow is summed over: `d` for the scores, and `k`, the keys, for `z`.

# %% [markdown]
# Everything else needs no new idea, so here it is: `CorruptedRun` of `utils.patching.resumable` holds the corrupted run's residual streams, keys and
# values, and the parts of a block. Around your attention they make a run that resumes at a layer *and* at a position, and
# that unembeds the last position only, which is all that the metric reads.

# %%
run = CorruptedRun(model, corrupted_tokens)


def run_from_position(resid: Float[Tensor, "batch new d_model"], layer: int, start: int) -> Float[Tensor, "batch 1 d_vocab"]:
    """Logits at the last position, from the residual stream before block `layer` at positions `start` and later."""
    prompts = torch.arange(len(resid), device=resid.device)
    for later in range(layer, n_layers):
        q, k, v = run.qkv(later, resid)
        q, k = run.rotated(q, prompts, start), run.rotated(k, prompts, start)
        z = attention_from_position(q, k, v, run.k[later][:, :start], run.v[later][:, :start])
        resid = resid + run.attn_out(later, z)
        resid = resid + run.mlp_out(later, resid)
    return run.unembed(resid[:, -1:])


def by_position(some: pd.DataFrame) -> Float[Tensor, " cell"]:
    return torch.stack([metric(run_from_position(patched(layer, pos)[:, pos:], layer, pos)) for layer, pos in some.values])


took, found = timed(by_position, sample)
print(f"{len(sample)} cells equal to the built-in:", torch.allclose(found, expected, atol=1e-4))

# %% tags=["nbval-ignore-output"]
seconds["3 … and at position"] = took * len(changing) / len(sample)
print(f"{seconds['3 … and at position']:.1f} s, {seconds['built-in'] / seconds['3 … and at position']:.1f} times faster")


# %% [markdown]
# S2 is the eleventh of fifteen positions: at most five positions are left of fifteen, three on average. Is the run five times faster
# than the one before? Probably not. Keep that in mind for section 7.
#
# ## 5 · Why one at a time?
#
# So far every cell walks through the layers alone. But a patched copy of the prompts is just another row of a batch. Fix a position and
# let all its patches travel together: before block 0, one copy is patched and sets off. Before block 1 a second one joins, patched there, and
# block 1 runs both. When the last block has run, there is one copy per layer, in order, and each block has run *once*.
#
# ### Exercise 10.4 · Patch many at once
#
# > Difficulty: ●●●●○  Importance: ●●●●●  20 minutes
#
# For one position, return the logits at the last position of one patched run per layer: `[layer, batch, d_vocab]`. You are given the
# residual streams of both runs. Each block may run only once.
#
# <details><summary>Hint 1 · a question</summary>
#
# When block 5 runs, how many copies of the prompts are under way, and which of them has joined last?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# Begin with an empty batch, `corrupted[0][:0]`. When block `l` runs, the batch has `(l + 1) · batch` rows, and `torch.cat` keeps them in the order in which they joined.
# </details>
# <details><summary>Hint 3 · the tool</summary>
#
# In the end the first axis holds layer 0's prompts, then layer 1's, …: `unflatten(0, (-1, batch))` takes it apart.
# </details>

# %%
def patch_every_layer(
    model: TransformerBridge,
    clean: Float[Tensor, "layer batch pos d_model"],
    corrupted: Float[Tensor, "layer batch pos d_model"],
    pos: int,
) -> Float[Tensor, "layer batch d_vocab"]:
    """Logits at the last position of the corrupted run with the clean resid_pre at `pos`, patched before each layer in turn.

    clean, corrupted: resid_pre of every layer in both runs. One growing batch: each block runs once.
    """
    ### BEGIN SOLUTION
    running = corrupted[0][:0]  # no copies yet
    for layer in range(model.cfg.n_layers):
        new = corrupted[layer].clone()
        new[:, pos] = clean[layer][:, pos]
        running = run_block(model, layer, torch.cat([running, new]))  # [(layer + 1) * batch, pos, d_model]
    logits = model.unembed(model.ln_final(running[:, -1]))
    return logits.unflatten(0, (-1, corrupted.shape[1]))
    ### END SOLUTION


# %%
check_patch_every_layer(patch_every_layer)


# %% [markdown] tags=["answer"]
# Rows of a batch do not read each other, so copies that were patched before different layers can go through a block
# together. A copy joins before the block of its own layer, because otherwise it would skip this block. The `clone` matters
# because `corrupted[layer]` is a view: writing into it would change the streams that you were given. The copies of one
# layer lie side by side in the batch, so the layer comes first in `unflatten(0, (-1, batch))`.

# %% [markdown]
# This is fast enough to run whole: every position that can change, every layer. The engine does all four things at once, so compare
# with it too.

# %%
def together(positions: list[int]) -> Float[Tensor, "layer pos"]:
    """The whole sweep; a position that is not listed keeps the corrupted value, 0."""
    values = torch.zeros(n_layers, n_pos)
    for pos in positions:
        logits = patch_every_layer(model, clean_resid, corrupted_resid, pos)  # [layer, batch, d_vocab]
        values[:, pos] = torch.stack([metric(at_end.unsqueeze(1)) for at_end in logits])
    return values


took, found = timed(together, sorted(set(changing["pos"].tolist())))
on_sample = found[sample["layer"].tolist(), sample["pos"].tolist()]
print("equal to the built-in on its sample:", torch.allclose(on_sample, expected.cpu(), atol=1e-4))
print("equal to the engine everywhere:     ", torch.allclose(found, exact.cpu(), atol=1e-4))

# %% tags=["nbval-ignore-output"]
seconds["4 … all layers at once"] = took
engine = partial(patching.get_act_patch_resid_pre, model, corrupted_tokens, clean_cache, metric, progress=False)
seconds["engine: 1 to 4"], _ = timed(engine)
pd.DataFrame(
    {"seconds": seconds, "times faster than the built-in": {k: seconds["built-in"] / s for k, s in seconds.items()}}
).round(1)


# %% [markdown]
# **How to read it.** Like step 2, step 4 resumes at a layer and computes all positions, while step 3 computes only some of them. So step 4 does *more* arithmetic than step 3. On our machine it was faster all the same.
# The last row puts all of them together: `utils.patching`, with the names and signatures of `transformer_lens.patching`, for every
# kind of activation. The engine begins with a run of its own on the corrupted tokens, and compares it with the model's. If the two disagree, it does not understand the architecture: then it warns you and uses the built-in loops. The engine also saves something that the four steps do not. S2 is the first position that differs. A stream that is patched there reads only earlier positions, which are the same in both runs. So at S2 it is the clean run's stream in every later layer. That stream is known, and only the positions after S2 have to be computed.
#
# **What it does not show.** How the time grows. Once there are enough prompts to fill the matrix products (section 7), twice the prompts take twice the time. How long the prompts are
# matters only from the first difference on. Let $n$ be the number of positions from there to the end. A patch at one of them
# computes this position and all that follow, which makes $n(n+1)/2$ positions in all. So the time grows as the *square* of
# $n$. The positions before the first difference cost almost nothing. With the number of layers the arithmetic grows as the square, too, for the same reason. `make bench` measures all three, and the memory, and plots them.
#
# **Try.** Use all eight prompts: `ioi_pairs(model)`. Which steps gain more than with two, and which less?
# <details><summary>What you should find</summary>
#
# In one run of ours with all eight prompts, the factors were 3, 5, 14 and 11, and 40 for the engine. Steps 1 and 2 gain about as much as with two prompts, because they save whole cells and whole layers. Steps 3 and 4 change places. Every matrix product now has four times as many rows. So it is less wasteful to run few positions at a time, and putting all layers into one batch gains less. Section 7 says why.
# </details>
#
# ## 6 · Can a gradient replace the sweep?
#
# Everything so far was exact. If an estimate is good enough, you can have one for the price of three runs. Write the metric as a function of one activation, $m(a)$. A sweep computes
# $m(a_\text{clean})$ for every cell. The first-order estimate from the corrupted run is
#
# $$ m(a_\text{corrupted}) + (a_\text{clean} - a_\text{corrupted}) \cdot \nabla m(a_\text{corrupted}) $$
#
# and one backward pass gives the gradient at *every* cell. Two forward passes and one backward pass, whatever the number of cells:
# **attribution patching** ([Nanda 2023](https://www.neelnanda.io/mechanistic-interpretability/attribution-patching)).
#
# *What do you expect?* It is exact where the metric is linear in the activation. Will it be better in early or in late layers? For the whole
# residual stream, or for a single head?
# <details><summary>Our guess</summary>
# It should be better in late layers and for single heads, because such a patch is a small change and few parts come after it. Patching the residual stream at S2 in layer 0 exchanges one name for another, and all layers come after that.
# </details>

# %%
def estimate_of(sweep: str) -> Float[Tensor, "layer *where"]:
    return patching.attribution_patching(model, corrupted_tokens, clean_cache, metric, sweep)


estimated = estimate_of("resid_pre")  # [layer, pos]
plots.imshow(
    torch.stack([exact, estimated]), "Residual stream: the sweep, and its estimate from one gradient", x="position", y="layer",
    x_labels=labels, panels=["exact", "attribution patching"], limit=1.0, unit="0 corrupted, 1 clean",
)

# %%
heads_exact = patching.get_act_patch_attn_head_out_all_pos(model, corrupted_tokens, clean_cache, metric, progress=False)
heads_estimated = estimate_of("attn_head_out_all_pos")  # [layer, head]
plots.imshow(
    torch.stack([heads_exact, heads_estimated]), "Heads' outputs, all positions: the sweep and its estimate", x="head", y="layer",
    panels=["exact", "attribution patching"], unit="effect",
)

# %% [markdown]
# **How to read it.** The colors of a figure share one scale, and the darkest red of the first stands for 1 *and more*. Compare the columns of S2 and
# END from the top down. Where is the estimate too weak, too strong, of the wrong sign? Then look at the heads: the pale ones agree,
# which is easy. The question is whether the strong ones are the same in both panels.
#
# A scatter shows that better. On the dotted line the estimate is exact.

# %%
s2_on = (clean_tokens != corrupted_tokens).any(0).long().argmax().item()
late = [f"L{layer} {labels[pos]}" for layer in range(n_layers) for pos in range(s2_on, n_pos)]
depth = torch.arange(n_layers).unsqueeze(1).expand(n_layers, n_pos - s2_on)
plots.scatter(
    exact[:, s2_on:], estimated[:, s2_on:], "Residual stream: each cell from S2 on", x="exact", y="estimate",
    labels=late, color=depth.flatten(), color_name="layer", diagonal=True,
)

# %%
names = [head_name(layer, head) for layer in range(n_layers) for head in range(model.cfg.n_heads)]
head_depth = torch.arange(n_layers).unsqueeze(1).expand_as(heads_exact)
plots.scatter(
    heads_exact, heads_estimated, "Heads' outputs: each head", x="exact", y="estimate", labels=names,
    color=head_depth.flatten(), color_name="layer", diagonal=True,
)


# %% [markdown]
# Look for a point far from the line and near zero on the estimate's axis: a head that matters and that the gradient does not see.
#
# *What do you see?* Is the estimate better in early layers or in late ones, and which strong heads does it miss?
# <details><summary>What we see, for SmolLM2</summary>
#
# No strong cell has the wrong sign. In the stream the estimate at S2 is too weak: .20 in layer 0, and .3 to .5 up to layer 20, where the exact value is about 1. At END, from layer 24 on, it is right to within .04.
# So late is better than early. Most single heads are right to within .04. L23H3 is a little too weak (.55 in place of .62),
# and two heads are far off: L17H4 (.00 in place of .22) and L20H0 (.12 in place of .36).
# </details>
#
# How good is the estimate, in one number? A common choice is **Spearman's rank correlation**, the correlation of the ranks. It is 1 if both put the cells in the same order.

# %%
def rank_correlation(a: Tensor, b: Tensor) -> float:
    return float(spearmanr(a.flatten().cpu(), b.flatten().cpu()).statistic)


def strongest(values: Tensor, k: int = 10) -> set[int]:
    return set(values.abs().flatten().topk(k).indices.tolist())


half = n_layers // 2
compare("scale.spearman.resid_pre", rank_correlation(exact[:, s2_on:], estimated[:, s2_on:]), model)
compare("scale.spearman.resid_pre_early", rank_correlation(exact[:half, s2_on:], estimated[:half, s2_on:]), model)
compare("scale.spearman.resid_pre_late", rank_correlation(exact[half:, s2_on:], estimated[half:, s2_on:]), model)
compare("scale.spearman.heads", rank_correlation(heads_exact, heads_estimated), model)
compare("scale.top_ten_heads_found", len(strongest(heads_exact) & strongest(heads_estimated)), model)
compare("scale.s2_in_layer_0", [exact[0, s2_on].item(), estimated[0, s2_on].item()], model)

# %% [markdown]
# These rank correlations are high, and they mislead. In the early half of the residual stream the number is .98 on SmolLM2, although there every estimate at S2 is less than 40 % of the exact value: the order is right, and the sizes are not. The number for the heads misleads in another way. There are 270 heads in SmolLM2, and more than 240 of them change the metric by less than a hundredth. So Spearman's number mostly says whether the estimate has put these heads into the right order, although they do next to nothing. You want to know about the others.
#
# ### Predict before you look
#
# Take the heads that matter: those whose exact effect is at least .1, now on all eight prompts. In how many of them is the estimate less than half of the exact effect, so that the head might be overlooked? Write down a number.

# %%
prediction = {"heads that the gradient loses": None}

# %% tags=["solution"]
prediction = {"heads that the gradient loses": 0}  # what we guessed

# %% [markdown]
# There is a remedy to try. One gradient looks at one end only of the way from the corrupted to the clean run. **Integrated gradients** ([Sundararajan et al. 2017](https://arxiv.org/abs/1703.01365)) are the mean of many gradients along that way. Mix the embeddings of the two runs in shares from 0 to 1 and take the gradient at each mixture. ([Hanna et al. 2024](https://arxiv.org/abs/2403.17806) do this for circuits.)

# %%
eight = run_experiment(model, ioi_pairs(model))
eight_exact = eight.denoise(patching.get_act_patch_attn_head_out_all_pos, progress=False)
one_gradient = patching.attribution_patching(
    model, eight.pairs.corrupted_tokens, eight.clean_cache, eight.denoising_metric, "attn_head_out_all_pos"
)


def integrated_gradients(steps: int) -> Float[Tensor, "layer head"]:
    """Each head's estimate with the mean gradient over mixtures of the corrupted and the clean embeddings."""
    start, names = eight.corrupted_cache["hook_embed"], [get_act_name("z", layer) for layer in range(n_layers)]
    way = eight.clean_cache["hook_embed"] - start
    change = [eight.clean_cache[name] - eight.corrupted_cache[name] for name in names]
    total = torch.zeros(n_layers, model.cfg.n_heads)
    for share in (torch.arange(steps) + 0.5) / steps:
        found = {}

        def mix(embedding, hook, share=share):
            return (start + share * way).requires_grad_()

        def keep(z, hook, found=found):
            found[hook.name] = z
            return z

        with torch.enable_grad(), model.hooks(fwd_hooks=[("hook_embed", mix), *((name, keep) for name in names)]):
            value = eight.denoising_metric(model(eight.pairs.corrupted_tokens))
            gradients = torch.autograd.grad(value, [found[name] for name in names])
        total += torch.stack([(c * g).sum((0, 1, 3)) for c, g in zip(change, gradients, strict=True)]).cpu()
    return total / steps


along = integrated_gradients(10)
strong = [divmod(i, model.cfg.n_heads) for i in eight_exact.abs().flatten().argsort(descending=True).tolist()]
strong = [head for head in strong if eight_exact[head].abs() >= 0.1]
plots.bar(
    {name: [table[head].item() for head in strong] for name, table in (("exact", eight_exact), ("one gradient", one_gradient), ("integrated gradients, 10 steps", along))},
    "The heads that matter: exact effect and two estimates",
    x="head",
    y="effect (0 corrupted, 1 clean)",
    x_labels=[head_name(*head) for head in strong],
)

# %%
lost = [head for head in strong if one_gradient[head] / eight_exact[head] < 0.5]
score_predictions(prediction, {"heads that the gradient loses": len(lost)})
compare("scale.eight.strong_heads", [head_name(*head) for head in strong], model)
compare("scale.eight.lost_by_one_gradient", [head_name(*head) for head in lost], model)
for name, table in (("exact", eight_exact), ("one_gradient", one_gradient), ("integrated", along)):
    compare(f"scale.eight.{name}", torch.stack([table[head] for head in strong]), model)
where = tuple(torch.tensor(strong).T)
for name, table in (("one_gradient", one_gradient), ("integrated", along)):
    both = [rank_correlation(eight_exact, table), rank_correlation(eight_exact[where], table[where])]
    compare(f"scale.eight.spearman.{name}_all_and_strong", both, model)
compare("scale.eight.heads_below_a_hundredth", (eight_exact.abs() < 0.01).sum(), model)

# %% [markdown]
# *What do you see?* Which heads does one gradient lose, and what do they have in common? Do integrated gradients bring them back? And what happens to the two rank correlations?
# <details><summary>What we see, for SmolLM2</summary>
#
# One gradient loses two of the eight: L17H4 (.01 in place of .33) and L20H0 (.11 in place of .44). Both are links of the chain from S2 to END.
# What the chain carries ends in the queries of layer 23, so it acts through where those heads look. (L19H2, which stands
# beside L20H0 in the chain, keeps .10 of .14.) When a softmax is nearly full or nearly empty, the first small step away from the corrupted run hardly moves it. That may be why the gradient sees so little. L23H3 and the heads after it, whose effect goes nearly straight to the logits, are estimated well.
#
# Integrated gradients bring back a part of what was lost: 46 % for L17H4 (.15) and 35 % for L20H0 (.22). Now compare the rank correlations. Over the heads that matter, the remedy raises it from .69 to .93. Over all heads it *lowers* it from .94 to .73.
# </details>
#
# ### Which explanation fits?
#
# One would not expect a remedy that brings lost heads back to lower the rank correlation. Here are three explanations. **a**: it puts the heads that matter into a worse order than one gradient does, whatever it does with the others. **b**: it puts the heads that do almost nothing into another order, and there are many of them. **c**: neither; both the heads that matter and those that do almost nothing are ordered at least as well as before. Choose one from the figure and the numbers above. The next cell then splits the heads by the size of their exact effect, and computes the rank correlation in each group.

# %%
choice = {"why the rank correlation over all heads changes": None}

# %% tags=["solution"]
choice = {"why the rank correlation over all heads changes": "b"}  # for SmolLM2

# %%
groups = {"below .01": eight_exact.abs() < 0.01, ".01 to .1": (eight_exact.abs() >= 0.01) & (eight_exact.abs() < 0.1), ".1 and more": eight_exact.abs() >= 0.1}
by_size = {
    name: {"heads": int(chosen.sum()), **{method: round(rank_correlation(eight_exact[chosen], table[chosen.to(table.device)]), 2) for method, table in (("one gradient", one_gradient), ("integrated gradients", along))}}
    for name, chosen in groups.items()
}
gain = {name: row["integrated gradients"] - row["one gradient"] for name, row in by_size.items()}
decided = "a" if gain[".1 and more"] < 0 else "b" if gain["below .01"] < 0 else "c"
score_predictions(choice, {"why the rank correlation over all heads changes": decided})
for name, row in by_size.items():
    compare(f"scale.eight.spearman.heads_{name.replace(' ', '_').replace('.', '')}", [row["one gradient"], row["integrated gradients"]], model)
pd.DataFrame(by_size).T.rename_axis("size of the exact effect")

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# Explanation **b**. Over the eight heads that matter, integrated gradients raise the rank correlation from .69 to .93. Over the 241 heads below .01 they lower it from .91 to .63, and over the 21 in between from .96 to .90. The correlation over all heads counts every head alike, so the 241 decide it. If you had looked at that number alone, you would have thrown the better method away.
# </details>
#
# Why does one gradient miss so much? Patching S2 before layer 0 makes the corrupted run the clean one, so the exact value there is 1. The estimate is far from it: .20 on SmolLM2 (the last line of the cell above the prediction). Walk from the corrupted activation to the clean one in small steps and watch the metric. The estimate is the
# tangent at the start.

# %%
steps = torch.linspace(0, 1, 11)


def along_the_way(layer: int, pos: int) -> list[float]:
    """The metric when the activation has gone a share of the way from corrupted to clean, at one cell."""
    difference = (clean_resid - corrupted_resid)[layer][:, pos]  # [batch, d_model]
    copies = corrupted_resid[layer].repeat(len(steps), 1, 1, 1)  # [step, batch, pos, d_model]
    copies[:, :, pos] += steps.to(difference.device)[:, None, None] * difference
    resid = copies.flatten(0, 1)
    for later in range(layer, n_layers):
        resid = run_block(model, later, resid)
    at_end = model.unembed(model.ln_final(resid[:, -1:])).unflatten(0, (len(steps), -1))
    return [metric(logits).item() for logits in at_end]


middle, end = n_layers // 2, n_layers - 2
ways = {}
for layer, pos in ((0, s2_on), (middle, s2_on), (end, n_pos - 1)):
    ways[f"L{layer} {labels[pos]}"] = along_the_way(layer, pos)
    ways[f"L{layer} {labels[pos]}, tangent"] = (steps * estimated[layer, pos].cpu()).tolist()
figure = plots.line(
    ways, "From the corrupted activation to the clean one: the metric, and its tangent at the start",
    x="share of the way", y="0 corrupted, 1 clean", x_labels=[round(step, 1) for step in steps.tolist()],
)
for curve, tangent in zip(figure.data[::2], figure.data[1::2], strict=True):
    tangent.update(mode="lines", line={"color": curve.line.color, "dash": "dot"})
figure


# %% [markdown]
# **How to read it.** Each curve comes with a dotted straight line that leaves 0 in the same direction. Where they part early, the model does
# something that a straight line cannot: a norm rescales, a softmax saturates, a head that looked at one name looks at the other.
# The more layers still follow, the more of that there is. At the end of the network little follows but the final norm, and curve and
# line stay close.
#
# **What it does not show.** That the estimate is useless. As a way to find candidates among thousands of heads it may be good enough, if you remember what kind of head it loses. Check the strongest *and* some of the weakest
# cells by exact patching, which the engine makes cheap. [Kramár et al. 2024](https://arxiv.org/abs/2403.00745) ("AtP*") study where it misses and repair two of these cases, the saturated softmax among them.
#
# ## 7 · Where does the remaining time go?
#
# A patched copy at layer $l$ and position $p$ cannot avoid the layers from $l$ on, at the positions from $p$ on (at S2, from the next one on). Count that work. For each token, each weight of a block takes part in one multiplication and one addition. So a token costs 2 FLOP (floating-point operations) per weight. The unembedding's weights count in the same way at the positions where logits are wanted. (Attention scores are left out: with so few tokens they are less than one percent.)
#
# *What do you expect?* Your machine can multiply large matrices at some rate. How near to it does a sweep come?

# %%
def block_weights() -> int:
    """Weights in the matrices of one block."""
    cfg = model.cfg
    kv_heads = cfg.n_key_value_heads or cfg.n_heads
    gated = 3 if cfg.gated_mlp else 2
    return cfg.d_model * (2 * cfg.d_head * (cfg.n_heads + kv_heads) + gated * cfg.d_mlp)


def work(layers_positions: list[tuple[int, int]], unembedded: int) -> int:
    """FLOP of cells that each run so many layers at so many positions, and unembed so many positions."""
    rows = n_prompts * sum(layers * positions for layers, positions in layers_positions)
    unembedding = len(layers_positions) * n_prompts * unembedded * model.cfg.d_model * model.cfg.d_vocab
    return 2 * (rows * block_weights() + unembedding)


to_run = [(layer, pos) for layer in range(n_layers) for pos in range(s2_on, n_pos) if layer or pos == s2_on]
flop = {
    "built-in": work([(n_layers, n_pos)] * (n_layers * n_pos), n_pos),
    "1 skip cells": work([(n_layers, n_pos)] * len(to_run), n_pos),
    "2 resume at layer": work([(n_layers - layer, n_pos) for layer, _ in to_run], n_pos),
    "3 … and at position": work([(n_layers - layer, n_pos - pos) for layer, pos in to_run], 1),
    "4 … all layers at once": work([(n_layers - layer, n_pos) for layer in range(n_layers)] * (n_pos - s2_on), 1),
    "engine: 1 to 4": work([(n_layers - layer, n_pos - max(pos, s2_on + 1)) for layer, pos in to_run], 1),
}
rows_per_product = {
    "built-in": n_prompts * n_pos,
    "2 resume at layer": n_prompts * n_pos,
    "3 … and at position": n_prompts * (n_pos - s2_on + 1) / 2,
    "4 … all layers at once": n_prompts * n_pos * (n_layers + 1) / 2,
    "engine: 1 to 4": n_prompts * (n_pos - s2_on + 1) / 2 * (n_layers + 1) / 2,
}
print({name: f"{value / 1e9:.0f} GFLOP" for name, value in flop.items()})
compare("scale.unavoidable_share", flop["engine: 1 to 4"] / flop["built-in"], model)

# %% [markdown]
# Step 2 does .61 of the arithmetic of step 1, and not half (on SmolLM2). The work of the layers is halved, but each cell still unembeds all fifteen positions, and the unembedding has a fifth of all weights that are used.
#
# By this count step 3 does hardly more arithmetic than the engine. Yet it is slower. The
# reason is in the shape of the matrix products. Multiply `n` rows by the weights of an MLP, one layer after the other as a model does, and
# measure the rate for growing `n`.

# %% tags=["nbval-ignore-output"]
weights = [torch.randn(model.cfg.d_model, model.cfg.d_mlp, device=model.cfg.device) for _ in range(n_layers)]
counts = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]


def rate(n_rows: int) -> float:
    """GFLOP/s of n rows times each layer's weights; the best of three."""
    x = torch.randn(n_rows, model.cfg.d_model, device=model.cfg.device)
    best = min(timed(lambda: [x @ w for w in weights])[0] for _ in range(3))
    return 2 * n_rows * sum(w.numel() for w in weights) / best / 1e9


rates = [rate(n) for n in counts]
figure = plots.line(
    {"one matrix product": rates}, "A roofline: products of few rows are slow, and so are sweeps made of them",
    x="rows in a product (log)", y="GFLOP/s (log)", x_labels=counts,
)
solved = [name for name in rows_per_product if name in seconds]
figure.add_scatter(
    x=[rows_per_product[name] for name in solved], y=[flop[name] / seconds[name] / 1e9 for name in solved], text=solved,
    mode="markers+text", textposition="middle right", name="sweeps", marker={"size": 10},
)
figure.layout.shapes = []
figure.update_xaxes(type="log", range=[-0.2, 4]).update_yaxes(type="log").update_layout(showlegend=True, height=480)

# %% [markdown]
# **How to read it.** The line is the **roofline** of your machine. It rises while the time goes into *reading the weights*: a product of one row reads every weight for two operations. It becomes flat where *arithmetic* is the limit. Each point is a sweep: the FLOP it
# does, by the seconds you measured, at the average number of rows in its products. A point below the line pays for something else: the
# small steps between products, Python, hooks.
#
# Step 3 lies far to the left. It does hardly more work than is unavoidable, but its matrix products have only a handful of rows each. So for every cell it reads all the weights of the remaining layers again. Step 4 moves to the right. The engine has a little less work than step 3, and rows by the dozen.
# With more prompts it moves right by itself, up to the flat part: from there on, only a faster machine,
# fewer cells, or an estimate helps.
#
# <details><summary>How near do the sweeps come? One run of ours</summary>
#
# The largest products reached about 130 GFLOP/s. Step 4 came to more than half of that, the engine to about a third, the
# built-in loop to a little less, and step 3 to less than a tenth. The engine is the fastest all the same, because it has the
# least to compute.
# </details>
#
# **What it does not show.** Memory. A batch that grows without bound does not fit at some point, so the engine splits it: `max_memory`
# bounds what the patched copies take, and is 128 MiB unless you say otherwise. On the embedded model every cell of this chapter runs in
# less than 1.7 GiB, weights included, which fits on Binder. What `max_memory` does not bound are the clean cache and the corrupted run,
# which grow with the prompts. A sweep over some hundred prompts, such as the one of `make bench`, therefore needs more than Binder's 2 GB.
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `transformer_lens.patching.generic_activation_patch(…, index_df=…)` | the built-in loop over some cells |
# | `utils.patching.get_act_patch_*` | the same sweeps, resumed and batched |
# | `utils.patching.attribution_patching(…, sweep)` | the estimate from one gradient |
# | `utils.patching.blocks.run_block`, `utils.patching.resumable.CorruptedRun` | one block; a run that can resume |
# | `scipy.stats.spearmanr` | rank correlation |
#
# **Glossary.** *Attribution patching*: a first-order estimate of a patching sweep from one gradient. *Cell*: one place that is patched, such as
# (layer, position). *FLOP*: one floating-point multiplication or addition; GFLOP/s are billions of them per second. *Grouped-query attention*:
# several query heads share a key/value head. *Prefix*: the positions before the patched one. *Rank correlation*: how far two lists
# agree in order. *Resume*: continue a run from stored activations instead of from the tokens. *Roofline*: the highest rate that reading
# the weights, or arithmetic, allows. *Rotary positions*: queries and keys are turned by an angle that grows with their position.
# *Integrated gradients*: attribution patching with the gradient averaged along the way between the two runs. *Sweep*: patching every cell in turn.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Kramár et al. 2024, [AtP\*: An efficient and scalable method for localizing LLM behaviour to components](https://arxiv.org/abs/2403.00745). It finds two cases in which the gradient misleads, and repairs both.
# - Syed et al. 2023, [Attribution Patching Outperforms Automated Circuit Discovery](https://arxiv.org/abs/2310.10348). It scores the edges between components with attribution patching, and compares that with a search by exact patching.
# - Hanna et al. 2024, [Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms](https://arxiv.org/abs/2403.17806). It uses integrated gradients for edges, and shows why two circuits that overlap need not work alike.

# %% [markdown]
# **Next:** [11 · Finding circuits automatically](11_circuit_discovery.ipynb) uses gradients to score every connection of the model.
