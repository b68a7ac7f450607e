# %% [markdown]
# # 05 · Path patching
#
# Two and a half hours. Chapter 03 showed which heads matter, and chapter 04 what such a head does. Neither chapter showed who talks to whom. A
# head that matters may write the answer itself, or it may tell another head where to look. In this chapter you follow single
# connections through the network, and you draw the circuit from what you find.
#
# You will be able to
# - patch one path from a sender to a receiver while everything else is held still;
# - compute a head's direct effect on the logits, and say how it differs from attribution;
# - find out which heads feed the query, the key or the value of any other head;
# - test your tools with an identity: if you patch all paths out of a head together, you get activation patching;
# - show where the effects of single paths do not add up, and say what that means.

# %% [markdown] tags=["model"]
# **The model.** `load_model()` prints which model you have. Every figure of the course was computed on SmolLM2-135M-Instruct, a
# small chat model whose 4-bit weights are converted back to ordinary numbers. Here it reads plain text after its BOS token,
# `<|im_start|>`, and not a chat. With gpt2-small, the model of Wang et al. 2022, the code is the same and the numbers differ;
# the chapters have not been run on it yet. `load_model()` takes gpt2-small where it is cached or a model hub answers, except on
# Colab. To see the numbers of the text anywhere, write `load_model("smollm2-135m")`.

# %% [markdown] tags=["solution"]
# *This is the solution notebook; the exercises are in `chapters/`. `make sync EXECUTE=1` computed its outputs.*

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

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache
from transformer_lens import patching as built_in
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

from tests.checks import (
    check_all_out_edges,
    check_direct_effects,
    check_edge_patch,
    check_joint_senders,
    check_path_patch_to_heads,
    check_path_patch_to_logits,
)
from tests.checks.predicting import score_predictions
from utils import heads, patching, plots
from utils.attribution import head_attributions, head_name, logit_diff_directions, top_heads
from utils.circuits import paths
from utils.circuits.graph import Edge, strongest_edges
from utils.experiment import run_experiment
from utils.ioi import NAMES, TEMPLATES, ioi_pairs, positions_by_role
from utils.models import load_model
from utils.reference import compare

# %% tags=["nbval-ignore-output"]
model = load_model()
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads

# %% [markdown]
# ## 1 · What is a path?
#
# Every head and every MLP reads the residual stream and adds something to it. So every later part can read what an earlier part
# has written. In the language of circuits, the parts are **nodes**, and each pair "this one writes, that one reads" is an **edge**. A
# head has three readers: one for its queries, one for its keys and one for its values. The logits read the stream, too.
#
# An edge is the **direct path** between two nodes. What the sender writes, its **message**, goes into the residual stream, and the receiver reads it from there. The same message can also take longer ways, through any part in between. Activation patching changes all of
# these ways at once. **Path patching** changes one of them.
#
# Two runs are needed, as in chapter 03. The **receiving run** is the one that we change. The **lending run** is the other one, from which we take the sender's output. There are two steps:

# %%
plots.path_patching_drawing()

# %% [markdown]
# 1. *What would the receiver read?* Run the receiving prompts with the sender's output from the lending run. All other heads and all MLPs are
#    **frozen**: each gives the output that it had in the receiving run. The receiver's input now differs by what the sender has written, and by nothing else.
#    Record what the receiver makes of that input, for example its queries.
# 2. *What happens then?* Run the receiving prompts once more. This time nothing is frozen, and nothing is changed except the recorded part of the
#    receiver. Everything after the receiver reacts as it likes. Read the metric.
#
# We write L16H0@S1+1 → key of L17H4@S2 for such a path: L16H0 writes at S1+1, and L17H4, which works at S2, reads it as a key.
#
# In this chapter the clean run receives and the corrupted run lends, so we are **noising**. Each number says how much of the clean answer is *lost* when one path carries the message of the other prompt. The corruption is the one that you know: S2 becomes the other name.

# %%
pairs = ioi_pairs(model)
experiment = run_experiment(model, pairs)
clean_cache, corrupted_cache = experiment.clean_cache, experiment.corrupted_cache
roles = positions_by_role(pairs.clean_tokens, pairs.answer_tokens)  # role → its position in each prompt
compare("ioi.logit_diff.mean_clean", experiment.clean, model)


# %%
def lost(logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, ""]:
    """The share of the logit difference that is lost: 0 as in the clean run, 1 as in the corrupted run."""
    return -experiment.noising_metric(logits)


# %% [markdown]
# A loss of 1 means that the model now prefers the other name as much as it preferred the right one before. At a loss of ½ it
# cannot tell the two names apart. A negative loss means that the corrupted message made the clean answer *stronger*, so the
# path works against the answer.
#
# ## 2 · Who writes the answer?
#
# The shortest path of all leads from a head to the logits. Attribution (chapter 02) measured what a head *writes* for the answer. Now we ask another
# question: how much is lost if the logits get this one head's output from the corrupted run, and everything else from the clean one?
#
# *What do you expect?* Which of the heads that you know will be at the top? Write down three names before you go on.
#
# ### Exercise 5.1 · Direct effects
#
# > Difficulty: ●●○○○  Importance: ●●●●●  10 minutes
#
# Nothing comes between a head and the logits on the direct path except the final norm, so you need no run at all. Take the
# final residual stream of the receiving run at the last position. Exchange one head's part in it. Then apply the model's own last steps, `model.unembed(model.ln_final(stream))`, and read the metric.
#
# The caches hold `["z", layer]`, with the axes `[batch, pos, head, d_head]`, and `["resid_post", n_layers - 1]`, which is the final
# stream.
#
# <details><summary>Hint 1 · a question</summary>
#
# The stream is a sum. What do you have to add to it so that one term is exchanged for another?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# A head writes `z @ model.W_O[layer, head]`. If you index with `[:, -1:, head]`, the difference of the two runs at the last position is `[batch, 1, d_model]`. The metric wants logits of the shape `[batch, 1, d_vocab]`.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# The final norm must see the changed stream: `model.ln_final(final + change)`. If you divide by the scale of the receiving run instead, you get
# a difference of two attributions.
# </details>

# %%
def direct_effects(
    model: TransformerBridge,
    receiving: ActivationCache,
    lending: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
) -> Float[Tensor, "layer head"]:
    """The metric when one head's part of the final residual stream, at the last position, is that of the lending run.

    metric: logits [batch, 1, d_vocab] to a number.
    """
    ### BEGIN SOLUTION
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    final = receiving["resid_post", n_layers - 1][:, -1:]  # [batch, 1, d_model]
    results = torch.zeros(n_layers, n_heads, device=final.device)
    for layer in range(n_layers):
        change = lending["z", layer][:, -1:] - receiving["z", layer][:, -1:]  # [batch, 1, head, d_head]
        written = torch.einsum("bphd,hdm->hbpm", change, model.W_O[layer])  # [head, batch, 1, d_model]
        logits = model.unembed(model.ln_final(final + written))  # [head, batch, 1, d_vocab]
        results[layer] = torch.stack([metric(of_head) for of_head in logits])
    return results
    ### END SOLUTION


# %%
check_direct_effects(direct_effects)

# %% [markdown] tags=["answer"]
# Adding *lending minus receiving* exchanges one term of the sum; if you add the lending run's part alone, the old one is
# still there. A bias needs no care, because it is the same in both runs. The `einsum` puts the head first, so `ln_final`
# and `unembed` treat all heads of a layer in one call, and each part of the result has the shape that the metric wants. A
# loop over heads with `change[:, :, head] @ model.W_O[layer, head]` gives the same.

# %%
direct = torch.as_tensor(direct_effects(model, clean_cache, corrupted_cache, lost))
plots.heads(direct, "Direct path from each head to the logits: what is lost when it is corrupted", unit="share lost")

# %%
writers = top_heads(direct.abs(), 5)
compare("paths.direct.heads", heads.names(writers), model)
compare("paths.direct.lost", torch.stack([direct[head] for head in writers]), model)

# %% [markdown]
# **How to read it.** Each cell is one head with a corrupted direct path. Red: the answer is lost, so the head writes for it. Blue: the answer
# grows, so in the clean run the head writes against it.
#
# *What do you see?* Compare with the three names that you wrote down. Do the largest losses add up to 1?
# <details><summary>What we see, for SmolLM2 (the two lines above)</summary>
#
# L23H3 alone loses 47 % of the difference. L29H1 (27 %) and L29H0 (−21 %) pull in opposite directions, L23H0 loses 17 %, and L24H4
# (−11 %) works against the answer. These five sum to .58. Smaller heads and the MLPs carry the rest.
# </details>
#
# Is this only the attribution of chapter 02 under another name? If the final norm's scale were a constant, the loss would be the attribution in the clean run minus the attribution in the corrupted run. Here are
# both for every head.

# %%
directions = logit_diff_directions(model, pairs.answer_tokens)
written = {name: head_attributions(model, cache, directions) for name, cache in (("clean", clean_cache), ("corrupted", corrupted_cache))}
by_attribution = (written["clean"] - written["corrupted"]) / (experiment.clean - experiment.corrupted)
all_names = [head_name(layer, head) for layer in range(n_layers) for head in range(n_heads)]
plots.scatter(
    by_attribution,
    direct,
    "Loss on the direct path against the change of attribution",
    x="attribution, clean minus corrupted (share)",
    y="loss on the direct path (share)",
    labels=all_names,
    diagonal=True,
)

# %%
compare("paths.direct.largest_gap_to_attribution", (direct - by_attribution).abs().max(), model)


# %% [markdown]
# **How to read it.** If every head lies close to the diagonal, the scale changes little when one head's message is exchanged. On SmolLM2 the largest gap is .012, so on these prompts the two
# questions have nearly the same answer. The horizontal axis is the *change* of attribution, and not the attribution of chapter 02 itself. A head that writes the same in both runs can have a large attribution, and has no loss at all.
#
# ## 3 · The same path, with hooks
#
# For the logits there is a formula. For other receivers there is none, so we now build the general tool. It freezes parts with hooks.
# We try it where we know the answer already.
#
# ### Exercise 5.2 · Path patching to the logits
#
# > Difficulty: ●●●○○  Importance: ●●●●●  20 minutes
#
# Run `tokens`, the prompts of the receiving run, once for every sender. Hold the `z` of every head at its value in `orig`, the receiving run's cache. Only the sender's `z` comes from
# `new`, the lending run's cache. If `freeze_mlps` is true, hold every `mlp_out` at its value in `orig` as well.
#
# `at` gives one position for each prompt, `[batch]`, and the sender is exchanged there only; `None` means at every position. `layers` are the senders' layers, one
# row of the result for each.
#
# <details><summary>Hint 1 · a question</summary>
#
# In the sender's layer you need a hook that does both jobs: hold the other heads and exchange one. What happens if two hooks write to
# the same `z`?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# `z` is `[batch, pos, head, d_head]`. For one position in each prompt, index with `z[rows, at, head]`, where `rows` is `torch.arange(len(tokens))`.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# Start the sender's hook from a copy, `orig[hook.name].clone()`. Without the copy you write into the cache, and every later sender is patched, too.
# </details>

# %%
def path_patch_to_logits(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    new: ActivationCache,
    orig: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    at: Int[Tensor, " batch"] | None = None,
    freeze_mlps: bool = True,
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer head"]:
    """The metric when one head sends what it writes in `new`, and every other head (and MLP) is frozen at `orig`.

    at: the position in each prompt where the sender is exchanged; None means all of them. layers: those of the senders.
    """
    layers = range(model.cfg.n_layers) if layers is None else layers
    ### BEGIN SOLUTION
    rows, at = (slice(None), slice(None)) if at is None else (torch.arange(len(tokens), device=tokens.device), at)

    def hold(activation, hook):
        return orig[hook.name]

    def send(z, hook, head):
        z = orig[hook.name].clone()
        z[rows, at, head] = new[hook.name][rows, at, head]
        return z

    frozen = [get_act_name("z", layer) for layer in range(model.cfg.n_layers)]
    if freeze_mlps:
        frozen += [get_act_name("mlp_out", layer) for layer in range(model.cfg.n_layers)]
    results = torch.zeros(len(layers), model.cfg.n_heads, device=tokens.device)
    for row, layer in enumerate(tqdm(layers)):
        sender = get_act_name("z", layer)
        for head in range(model.cfg.n_heads):
            hooks = [(name, hold) for name in frozen if name != sender] + [(sender, partial(send, head=head))]
            results[row, head] = metric(model.run_with_hooks(tokens, fwd_hooks=hooks))
    return results
    ### END SOLUTION


# %%
check_path_patch_to_logits(path_patch_to_logits)

# %% [markdown] tags=["answer"]
# Hooks at one place run one after the other, so a hook that holds the sender's `z` after yours overwrites what you send,
# and every cell is the unpatched metric. One hook does both: it starts from a copy of `orig` and exchanges one head. The
# rest is held at `orig` and not at `new`, because the logits should hear one head, and no other, from the lending run.
# `z[rows, at, head]` pairs each prompt with its own position, whereas `z[:, at, head]` would exchange the sender, in every
# prompt, at the positions of all prompts.

# %% [markdown]
# Your loop on two prompts and one layer, beside the formula of exercise 5.1 and the course's own `paths.path_patch`:

# %%
few = run_experiment(model, ioi_pairs(model, TEMPLATES[:1], NAMES[:1]))  # two prompts
layer = writers[0][0]
two_runs = model, few.pairs.clean_tokens, few.corrupted_cache, few.clean_cache, few.noising_metric
by_loop = path_patch_to_logits(*two_runs, layers=[layer])[0]
by_formula = torch.as_tensor(direct_effects(model, few.clean_cache, few.corrupted_cache, few.noising_metric))[layer]
by_course = few.noise(paths.path_patch, senders=[(layer, head) for head in range(n_heads)], progress=False)
print(f"layer {layer}, largest difference: your loop and the formula {(by_loop - by_formula).abs().max():.0e}, "
      f"your loop and paths.path_patch {(by_loop - by_course).abs().max():.0e}")

# %% [markdown]
# `paths.path_patch(model, tokens, lending_cache, metric, receivers="logits", component=None, **options)` does the same for any receivers, for all senders at once. It gives the same numbers much faster,
# because a frozen part has nothing to compute: step 1 is a sum of vectors, and step 2 begins at the receiver. `experiment.noise(paths.path_patch, …)` calls it with the clean tokens and the corrupted cache.
#
# **Frozen or free?** You froze the MLPs, so the message travels through the residual stream alone. Wang et al. (2022) let the MLPs between sender and receiver compute: for them, a path may lead through MLPs but not through
# other heads. Both definitions are in use. Ask which one a paper means, because the numbers differ:

# %%
frozen = -experiment.noise(paths.path_patch, progress=False)
free = -experiment.noise(paths.path_patch, mlps="free", progress=False)
plots.scatter(
    frozen,
    free,
    "Direct effects: MLPs frozen against MLPs free",
    x="share lost, MLPs frozen",
    y="share lost, MLPs free",
    labels=all_names,
    diagonal=True,
)

# %%
compare("paths.direct.formula_against_path_patch", (frozen - direct).abs().max() < 1e-4, model)
compare("paths.direct.lost_mlps_free", torch.stack([free[head] for head in writers]), model)

# %%
at_s2 = -experiment.noise(paths.path_patch, at=roles["S2"], mlps="free", progress=False)
compare("paths.direct.lost_at_s2", at_s2.abs().max(), model)

# %% [markdown]
# *What do you see?* Whose effects grow when the MLPs are free? And why is the last number zero, whatever the MLPs do?
# <details><summary>What we see, for SmolLM2</summary>
#
# L23H3 goes from .47 to .63: the MLPs from layer 23 on react to what L23H3 writes and add to its effect. The heads of layer 29 change less: from .27 to .29, and from −.21 to −.24. Only one MLP
# comes after them.
#
# The last number is zero because only attention moves a message from one position to another. With all other heads frozen, whatever a head writes at S2
# stays at S2, and the logits are read at END.
# </details>
#
# From here on the MLPs are frozen, unless we say otherwise. One reason is that messages then add up, as you will see in section 8.
#
# ## 4 · Who listens to a head?
#
# Chapter 03 found heads that bring back the answer without writing it. Take the strongest of them at END. We call it the **messenger**, and we ask who reads its message.

# %%
by_output = -experiment.noise(patching.get_act_patch_attn_head_out_all_pos, progress=False)
writing_layer = min(layer for layer, _ in writers)
earlier = by_output.clone()
earlier[writing_layer:] = 0
rows = torch.arange(len(pairs))


def attention_from(role: str, to: str, layer: int, head: int) -> float:
    """The clean run's mean attention from one role to another."""
    return clean_cache["pattern", layer][rows, head, roles[role], roles[to]].mean().item()


# Of the six strongest heads before the writers, those that work at END: they look from END to S2 more than from S2 to S1+1.
at_end = [head for head in top_heads(earlier.abs(), 6) if attention_from("END", "S2", *head) > attention_from("S2", "S1+1", *head)]
messenger = at_end[0]
compare("paths.messenger.head", head_name(*messenger), model)
compare("paths.messenger.attention_to_s2", attention_from("END", "S2", *messenger), model)
compare("paths.messenger.direct", direct[messenger], model)


# %% [markdown]
# The messenger looks from END to S2. Its direct effect is small beside what is lost when its whole output is corrupted (on SmolLM2, .03 of .44). So most of its message must go to other parts.
#
# ### Exercise 5.3 · One sender, every receiver
#
# > Difficulty: ●●●●○  Importance: ●●●●○  25 minutes
#
# `delta`, `[batch, pos, d_model]`, is the change that the sender would write into the stream. For every head of `layers`, let this head's query (or key,
# or value) alone be computed from the stream plus `delta`, and read the metric. Return one row per layer, one column per query head; for `"k"` and `"v"` one
# column per key/value head, which may be fewer.
#
# You need two runs, as in the drawing. In the first, add `delta` where attention reads the stream and cache the queries. The hook point `blocks.{layer}.ln1.hook_in` is the input of the norm in
# front of attention. What you add there reaches this layer's attention and nothing else, because the stream itself goes on unchanged beside the norm. In the second run, exchange one head's query.
#
# <details><summary>Hint 1 · a question</summary>
#
# The first run gives the queries of all heads of a layer at once. How many first runs do you need?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# `get_act_name("q", layer)` is `[batch, pos, head, d_head]`; for k and v the head axis counts key/value heads. `model.cfg.n_key_value_heads` may be `None`, and then every head has its own.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# Add `delta` before the norm and not after it. A norm divides by the size of the whole stream, and what is added after it is not divided.
# </details>

# %%
def edge_patch(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    delta: Float[Tensor, "batch pos d_model"],
    component: str,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer head"]:
    """The metric when one head's query, key or value alone reads the stream plus `delta`.

    component: "q", "k" or "v". layers: those of the receivers, one row each. Columns are heads, or key/value heads.
    """
    layers = range(model.cfg.n_layers) if layers is None else layers
    ### BEGIN SOLUTION
    n_heads = model.cfg.n_heads if component == "q" else model.cfg.n_key_value_heads or model.cfg.n_heads

    def add(stream, hook):
        return stream + delta

    def read(activation, hook, head, told):
        activation = activation.clone()
        activation[:, :, head] = told[hook.name][:, :, head]
        return activation

    results = torch.zeros(len(layers), n_heads, device=tokens.device)
    for row, layer in enumerate(tqdm(layers)):
        name = get_act_name(component, layer)
        with model.hooks(fwd_hooks=[(f"blocks.{layer}.ln1.hook_in", add)]):
            _, told = model.run_with_cache(tokens, names_filter=name)
        for head in range(n_heads):
            hook = (name, partial(read, head=head, told=told))
            results[row, head] = metric(model.run_with_hooks(tokens, fwd_hooks=[hook]))
    return results
    ### END SOLUTION


# %%
check_edge_patch(edge_patch)


# %% [markdown] tags=["answer"]
# One first run serves all heads of a layer, because they read the same stream and the cache keeps the component of each. In
# the second run `delta` is nowhere: the message comes in through one head's query, key or value, and everything after it
# reacts to that alone. If you read the metric in a run with `delta` in the stream, all later parts and the logits have read
# it, too. In the first run you may add it to `resid_pre` instead of `ln1.hook_in`, because nothing but this layer's
# component is kept.

# %%
def message(layer: int, head: int, new: ActivationCache, orig: ActivationCache) -> Float[Tensor, "batch pos d_model"]:
    """The change that a head would write into the stream: its output in `new` minus its output in `orig`."""
    return (new["z", layer][:, :, head] - orig["z", layer][:, :, head]) @ model.W_O[layer, head]


# %% [markdown]
# TransformerLens has this sweep for one sender as `transformer_lens.patching.get_act_patch_direct_path`. It runs the model once for every later head, so we compare on two prompts and on a sender that only the last layer can hear:

# %%
late, last_layer = (n_layers - 2, 0), n_layers - 1
delta = message(*late, few.corrupted_cache, few.clean_cache)
yours = edge_patch(model, few.pairs.clean_tokens, delta, "q", few.noising_metric, [last_layer])[0]
theirs = built_in.get_act_patch_direct_path(
    model, few.pairs.clean_tokens, few.corrupted_cache, few.clean_cache, few.noising_metric, *late, "q", verbose=False
)
print(f"from {head_name(*late)} to the queries of layer {last_layer}: largest difference {(yours - theirs[last_layer]).abs().max():.0e}")

# %% [markdown]
# Take care with the rows that the built-in returns for the sender's layer and the layers before it. It fills them with zeros, and nothing was measured there. Our metric is zero, too, where nothing is lost, so here you cannot tell the two apart. If your metric were the plain logit difference, these zeros would look like a large effect.
#
# Now for all heads on all prompts. `paths.edge_patch`, in `utils.circuits`, is the general version of your function; it takes the sender's name in place of `delta`.

# %%
heard = -experiment.noise(paths.edge_patch, sender=messenger, component="q", progress=False)
plots.heads(heard, f"Whose query listens to {head_name(*messenger)}?", unit="share lost")

# %%
listeners = top_heads(heard.abs(), 5)
compare("paths.listeners.heads", heads.names(listeners), model)
compare("paths.listeners.lost", torch.stack([heard[head] for head in listeners]), model)


# %% [markdown]
# *What do you see?* Is the strongest writer of section 2 among the listeners?
# <details><summary>What we see, for SmolLM2</summary>
#
# Of all queries, those of four heads of layer 23 depend most on the message of L20H0: L23H0 (.18), L23H7 (.13), L23H2 (.10)
# and L23H1 (.08). With the corrupted message these heads form other queries. The query of L21H5 reads the message as well,
# and this path works slightly against the answer (−.05). L23H3 sits in the same
# layer, has the largest direct effect of all, and is not on the list.
# </details>
#
# ## 5 · Whom does a head listen to?
#
# Turn the question round. Fix the receivers and sweep over the senders: this is the sweep that the paper's figures show.
#
# ### Exercise 5.4 · Every sender, given receivers
#
# > Difficulty: ●●●●●  Importance: ●●●●●  30 minutes
#
# For every sender in `layers`, do the two steps of section 1 with the MLPs frozen. In step 1 the senders' `z` comes from `new` and everything else is held at `orig`, as in exercise 5.2. Cache `component`
# ("q", "k" or "v") of the receivers. In step 2 exchange this component of all `receivers` together, with nothing frozen.
#
# `receivers` is a list of heads `(layer, head)`. Where several heads share a key or value, `head` still counts query heads,
# unlike the columns of exercise 5.3, and the key or value that this head uses is exchanged.
#
# <details><summary>Hint 1 · a question</summary>
#
# You freeze `z` and `mlp_out` in step 1, and you record queries. Why does freezing the receiver's own `z` do no harm?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# `orig[component, layer].shape[2]` counts the heads of this component. `n_heads // shape[2]` query heads share one of them, so query head `h` uses number `h // (n_heads // shape[2])`.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# In step 2 nothing is frozen: the parts after the receiver must be able to react. And all receivers are exchanged in the same run.
# </details>

# %%
def path_patch_to_heads(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    new: ActivationCache,
    orig: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    receivers: Sequence[tuple[int, int]],
    component: str,
    at: Int[Tensor, " batch"] | None = None,
    layers: Sequence[int] | None = None,
) -> Float[Tensor, "layer head"]:
    """The metric when the direct paths from one head to `component` of all receivers carry the message of `new`.

    All other heads and all MLPs between them are frozen at `orig`. at: the position in each prompt where the sender is
    exchanged; None means all of them. layers: those of the senders, one row each.
    """
    layers = range(model.cfg.n_layers) if layers is None else layers
    ### BEGIN SOLUTION
    rows, at = (slice(None), slice(None)) if at is None else (torch.arange(len(tokens), device=tokens.device), at)
    everything = [get_act_name(name, layer) for layer in range(model.cfg.n_layers) for name in ("z", "mlp_out")]
    names = {get_act_name(component, layer) for layer, _ in receivers}

    def hold(activation, hook):
        return orig[hook.name]

    def send(z, hook, head):
        z = orig[hook.name].clone()
        z[rows, at, head] = new[hook.name][rows, at, head]
        return z

    def read(activation, hook, told):
        activation = activation.clone()
        shared = model.cfg.n_heads // activation.shape[2]
        for layer, head in receivers:
            if hook.name == get_act_name(component, layer):
                activation[:, :, head // shared] = told[hook.name][:, :, head // shared]
        return activation

    results = torch.zeros(len(layers), model.cfg.n_heads, device=tokens.device)
    for row, layer in enumerate(tqdm(layers)):
        sender = get_act_name("z", layer)
        for head in range(model.cfg.n_heads):
            hooks = [(name, hold) for name in everything if name != sender] + [(sender, partial(send, head=head))]
            with model.hooks(fwd_hooks=hooks):
                _, told = model.run_with_cache(tokens, names_filter=lambda name: name in names)
            hooks = [(name, partial(read, told=told)) for name in names]
            results[row, head] = metric(model.run_with_hooks(tokens, fwd_hooks=hooks))
    return results
    ### END SOLUTION


# %%
check_path_patch_to_heads(path_patch_to_heads)

# %% [markdown] tags=["answer"]
# A head computes query, key and value *before* its `z`, so holding the receiver's own `z` in step 1 does not touch what you
# record. In step 2 the recorded component is all that changes; if you exchanged the sender as well, its message would take
# all other paths, too. The component is put in its place and not added, so two receivers that share a key or value change
# it once. A sender that stands in or after the layers of all receivers has no path to them, and its cell is the unpatched
# metric, not zero.

# %%
receiver, ends = listeners[0], few.pairs.clean_last
yours = path_patch_to_heads(*two_runs, receivers=[receiver], component="q", at=ends, layers=[messenger[0]])
senders = [(messenger[0], head) for head in range(n_heads)]
course = few.noise(paths.path_patch, receivers=[receiver], component="q", at=ends, senders=senders, progress=False)
print(f"senders of layer {messenger[0]} into the query of {head_name(*receiver)}: largest difference {(yours[0] - course).abs().max():.0e}")

# %% [markdown]
# ### Predict before you look
#
# Here are two of the writers of section 2. Which head feeds the query of each of them most? Answer with a name such as `"L12H3"`, or with
# `"nobody"` if you think that no head carries 3 % of the answer through this query. The cell after the sweep scores your guess.

# %%
writer_a = writers[0]  # the strongest writer
writer_b = next(head for head in writers[1:] if attention_from("END", "IO", *head) > 0.3)  # the strongest that looks at IO
print(f"A is {head_name(*writer_a)}, B is {head_name(*writer_b)}")
prediction = {"feeds the query of A": None, "feeds the query of B": None}

# %% tags=["solution"]
prediction = {"feeds the query of A": head_name(*messenger), "feeds the query of B": head_name(*messenger)}  # what we guessed


# %%
def lost_through(receivers: Sequence[tuple[int, int]], component: str, role: str, **options) -> Float[Tensor, "layer head"]:
    """The share lost when the path from each head, at one role, into a component of the receivers is corrupted."""
    return -experiment.noise(paths.path_patch, receivers=receivers, component=component, at=roles[role], progress=False, **options)


into_query = {head: lost_through([head], "q", "END") for head in writers}
plots.imshow(
    torch.stack(list(into_query.values())),
    "Who feeds the query of each of the five strongest writers?",
    x="head (sender)",
    y="layer of the sender",
    panels=heads.names(writers),
    unit="share lost",
)


# %%
def strongest_or_nobody(effects: Float[Tensor, "layer head"]) -> str:
    return head_name(*top_heads(effects.abs(), 1)[0]) if effects.abs().max() >= 0.03 else "nobody"


score_predictions(prediction, {f"feeds the query of {name}": strongest_or_nobody(into_query[head]) for name, head in (("A", writer_a), ("B", writer_b))})

# %%
for head, effects in into_query.items():
    strongest = top_heads(effects.abs(), 2)
    compare(f"paths.into_query.{head_name(*head)}.senders", heads.names(strongest), model)
    compare(f"paths.into_query.{head_name(*head)}.lost", torch.stack([effects[sender] for sender in strongest]), model)

# %% [markdown]
# **How to read it.** One panel for each receiver, one cell for each sender. Red: corrupting this path loses part of the answer.
#
# *What do you see?* Which panels are empty? Which have a blue cell, and what does blue mean for a head that itself writes against the answer?
# <details><summary>What we see, for SmolLM2</summary>
#
# **L23H0** listens to L20H0 (.16) and L19H2 (.07). (Section 4 gave .18 for L20H0. There its message was exchanged at every position, and here at END only.)
#
# **L24H4** has blue cells: L23H3 (−.11) and L23H0 (−.09). L24H4 writes against the answer, and its query reads what these two heads of layer 23 have written. With their corrupted messages it writes less against the answer, so the answer grows. Corrupting *this* path helps.
#
# **L23H3**, the strongest writer, has an empty panel: no sender reaches 1.2 %. No single head tells it much, through its
# query, that depends on which of the two names is repeated. The two heads of layer 29 have empty panels as well.
# </details>
#
# We guessed that the messenger feeds A, and on SmolLM2 we were wrong.
#
# You now have two kinds of edges, into the logits and into queries. Draw what you have found so far.

# %%
edges = strongest_edges(direct, "END", "logits", "END", least=0.06)
for head, effects in into_query.items():
    edges += strongest_edges(effects, "END", head, "END", "q", least=0.06)
plots.graph(edges, ["IO", "S1", "S1+1", "S2", "END"], "The last two steps: who writes the answer, and who feeds their queries")

# %% [markdown]
# **How to read it.** Heads stand at the position where they write, later layers further up. Red arrows help the answer, blue ones hurt it, and the width is the share lost. Point at the dot in the middle of an arrow to see the path and its loss, or at a head to see all of its
# arrows. An effect that is smaller than the threshold in the cell above is not drawn.
#
# All of this happens at END. The columns of the other positions are still empty.
#
# ## 6 · Up the chain
#
# So far we know the end of one chain: the messenger and its neighbors feed the queries of the heads that look at a name. Where does the messenger get its message from? It looks at S2, and chapter 03 found that its **values** matter. So something must have written its message at S2. We call the two heads that feed B's query most the **brokers**: on SmolLM2 these are L19H2 and the messenger itself, L20H0.

# %%
brokers = top_heads(into_query[writer_b].abs(), 2)  # the two heads that feed B's query most
into_value = lost_through(brokers, "v", "S2")
plots.heads(into_value, f"Who feeds the values of {' and '.join(heads.names(brokers))}, at S2?", unit="share lost")

# %%
repeater = top_heads(into_value.abs(), 1)[0]
compare("paths.brokers", heads.names(brokers), model)
compare("paths.into_value.senders", heads.names(top_heads(into_value.abs(), 3)), model)
compare("paths.into_value.lost", torch.stack([into_value[head] for head in top_heads(into_value.abs(), 3)]), model)
compare("paths.into_value.strongest_mlps_free", lost_through(brokers, "v", "S2", mlps="free")[repeater], model)

# %% [markdown]
# One head at S2 stands out. We call it the **repeater**. You should know it from chapter 04 as an induction head: one that attends from a repeated token to what came after its first mention, here from S2 to S1+1. On SmolLM2 it is L17H4, which carries .13 of the answer here (.26 if the MLPs are free).
#
# A note for models whose heads share values: SmolLM2's L20H0 shares its value with L20H1 and L20H2. The path into "the value of L20H0" is a path into all three.
#
# The last link is the repeater's **key** at S1+1: something must have written there "the token before me was this name". Under our corruption we cannot see that link.
#
# *What do you expect?* Why not? Which word would you have to change?
# <details><summary>What we expect</summary>
#
# Only S2 differs between the two runs, and S1+1 comes before S2. A head that cannot see S2 writes the same in both runs, so there is no other message to send. The loss would be exactly zero, and it would tell us nothing about keys. We must change
# S1.
# </details>

# %%
other_s1 = run_experiment(model, ioi_pairs(model, corruption="S1"))  # S1 is a fresh name, and nothing else differs
print(other_s1.pairs.clean_text[0], "|", other_s1.pairs.corrupted_text[0])
compare("paths.other_s1.corrupted", other_s1.corrupted, model)
into_key = -other_s1.noise(paths.path_patch, receivers=[repeater], component="k", at=roles["S1+1"], progress=False)
under_flip = lost_through([repeater], "k", "S1+1")
plots.heads(into_key, f"Who feeds the key of {head_name(*repeater)}, at S1+1? (S1 is a fresh name)", unit="share lost")

# %%
previous = top_heads(into_key.abs(), 1)[0]
compare("paths.into_key.senders", heads.names(top_heads(into_key.abs(), 2)), model)
compare("paths.into_key.lost", torch.stack([into_key[head] for head in top_heads(into_key.abs(), 2)]), model)
compare("paths.into_key.lost_when_s2_differs", under_flip.abs().max(), model)

# %% [markdown]
# *What do you see?* Now tell the whole chain in one sentence, from the first link to the last.
# <details><summary>What we see, for SmolLM2</summary>
#
# It takes more than one sentence:
#
# 1. At S1+1, L16H0 notes which token stood before: the name at S1.
# 2. At S2, L17H4 finds that note. From then on, S2 holds *where* its name stood before. (That the name has occurred before is true in both runs, so it cannot be what this path carries here.)
# 3. At END, L20H0 and L19H2 read this from S2.
# 4. At END, L23H0 and its neighbors take their queries from it, and they look at the *other* name.
#
# The loss on the first link is .31. It is measured with the second corruption: 0 is the clean run, and 1 is the run with a fresh name at S1.
# </details>
#
# Add the new edges to the graph. The edges into the logits, queries and values come from the first corruption, and the edge into the key from the second one. So you may compare the widths of arrows of one kind, but not those of a key's arrow with the others.

# %%
likely = top_heads(into_value.abs(), 10)  # the heads that feed both brokers together most
for head in brokers:
    for sender, effect in zip(likely, lost_through([head], "v", "S2", senders=likely).tolist(), strict=True):
        edges += [Edge(sender, "S2", head, "END", effect, "v")] if abs(effect) >= 0.03 else []
edges += strongest_edges(into_key, "S1+1", repeater, "S2", "k", least=0.06)
plots.graph(edges, ["IO", "S1", "S1+1", "S2", "END"], "The circuit, as far as path patching has shown it")

# %%
compare("paths.graph.edges", len(edges), model)

# %% [markdown]
# **How to read it.** As before, and now from left to right as well: dotted arrows end in a key, dashed ones in a value. Follow the chain from S1+1 to the logits.
#
# ## 7 · The head that seems to listen to nobody
#
# On SmolLM2 the largest effect in the graph comes from a head without an incoming arrow. Where does its knowledge come from?
# A head has three inputs. Here are all of them for A: its query at END, and its key and value at S2, where it looks, each fed
# by heads and by MLPs. (The token embedding could feed them, too. We leave it out, because on SmolLM2 its direct paths into A
# carry next to nothing.)

# %%
inputs = {"q@END, heads": into_query[writer_a]}  # measured above
inputs["q@END, mlps"] = lost_through([writer_a], "q", "END", senders="mlps")
for component in ("k", "v"):
    for senders in ("heads", "mlps"):
        inputs[f"{component}@S2, {senders}"] = lost_through([writer_a], component, "S2", senders=senders)
plots.bar(
    {"strongest sender": [effects.flatten()[effects.abs().argmax()] for effects in inputs.values()]},
    f"The strongest sender into each input of {head_name(*writer_a)}",
    x="input of the head, kind of sender",
    y="share lost",
    x_labels=list(inputs),
)

# %%
for name, effects in inputs.items():
    key = name.replace("@", "_").replace(", ", "_").lower()
    compare(f"paths.inputs_of_a.{key}", effects.flatten()[effects.abs().argmax()], model)
compare("paths.inputs_of_a.strongest_mlp", inputs["v@S2, mlps"].abs().argmax(), model)

# %% [markdown]
# ### Interpret: which sentence is true of A?
#
# - **a** Earlier heads tell A where to look, through its query.
# - **b** Earlier heads mark the repeated name for A, through the key at S2.
# - **c** Earlier heads write something at S2 that A reads as a value.
# - **d** A reads the word at S2 itself: the strongest sender into its value is an MLP of the first layers, which has seen little more than that word (chapter 03).
#
# Choose one and say which bar decides. The next cell compares your choice with the experiment.

# %%
choice = {"A": None}

# %% tags=["solution"]
choice = {"A": "d"}  # for SmolLM2

# %%
strength = {letter: inputs[name].abs().max() for letter, name in zip("abc", ("q@END, heads", "k@S2, heads", "v@S2, heads"), strict=True)}
strength["d"] = inputs["v@S2, mlps"][: n_layers // 10 + 1].abs().max()
decided = max(strength, key=strength.__getitem__)
score_predictions(choice, {"A": decided})

# %%
compare("paths.interpretation_of_a", decided, model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# **d.** MLP 0 at S2 carries .32 of the answer into L23H3's value, and no head carries more than 1.2 % into any of its inputs. MLP 0 acts as a second embedding (chapter 03), so this path means: L23H3 reads *which word stands at S2*. It looks there in both
# runs, and it writes against the name that it finds.
# </details>
#
# ### What the corruption hides
#
# Sentence **b** is not refuted yet. In both runs of this corruption the name at S2 is a repeated one, so a mark that says "this name is repeated" is the same in both. We need the other corruption: with a fresh name at S1, the name at S2 is not repeated any more. Here
# is the key of A at S2 under that corruption.

# %%
into_key_of_a = -other_s1.noise(paths.path_patch, receivers=[writer_a], component="k", at=roles["S2"], progress=False)
plots.heads(into_key_of_a, f"Who feeds the key of {head_name(*writer_a)}, at S2? (S1 is a fresh name)", unit="share lost")

# %%
markers = top_heads(into_key_of_a, 5)
compare("paths.into_key_of_a.senders", heads.names(markers), model)
compare("paths.into_key_of_a.lost", torch.stack([into_key_of_a[head] for head in markers]), model)
layer, head = writer_a
attends = [cache["pattern", layer][rows, head, roles["END"], roles["S2"]].mean() for cache in (other_s1.clean_cache, other_s1.corrupted_cache)]
compare("paths.a_attends_to_s2", torch.stack(attends), model)  # clean run, run with the fresh name


# %% [markdown]
# *What do you see?* How would you now describe A in one sentence? Compare with the sentence that you chose.
# <details><summary>What we see, for SmolLM2</summary>
#
# Several heads, each with .04 to .10, mark the name at S2 as repeated, and the strongest of them is L17H4, which is also a link of the chain. Without the repetition L23H3 gives S2 .40 of its attention in place of .62. So **d** says what A reads, **b** adds that repetition makes A look harder, and neither sentence alone is the
# whole story. On these prompts L23H3 writes against the name of whoever acts in the second clause, and more so if that name is a repeated one.
#
# This suggests that the model does the task in two ways at once. The chain of section 6 works out *which position* holds the repeated name, and sends the name movers to the other one. L23H3 works on *the token* at S2. Our first corruption changes the position and the token together, so it cannot tell the two ways apart. Chapter 06 has an experiment that can.
# </details>
#
# ## 8 · Do paths add up?
#
# If you patch two paths at once, do you lose the sum of the two losses? The two steps give two answers. What a receiver *reads* adds up exactly, because a frozen network only adds vectors to the stream. What the receiver and
# everything after it *make* of it does not have to add up.
#
# ### Exercise 5.5 · Several senders at once
#
# > Difficulty: ●●●○○  Importance: ●●●●○  15 minutes
#
# Patch the paths from all `senders` to `component` of all `receivers` together. This time do step 1 without freezing anything: because messages add up, the receivers of a layer read the stream plus the sum of the messages of all *earlier* senders. Add that sum at
# `blocks.{layer}.ln1.hook_in` and cache the component. Step 2 is as before.
#
# Use one recording run for every layer that holds a receiver. If you added messages in two layers in the same run, the receivers of the second layer would also read how the first layer has reacted.
#
# <details><summary>Hint 1 · a question</summary>
#
# Which senders can a receiver in layer 5 hear? What about a sender in layer 5?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# A message is `[batch, pos, d_model]`. With `at`, it is zero at every other position.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# Cache first, for all layers, and only then do the one run of step 2.
# </details>

# %%
def joint_senders(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    new: ActivationCache,
    orig: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    senders: Sequence[tuple[int, int]],
    receivers: Sequence[tuple[int, int]],
    component: str,
    at: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """The metric when the direct paths from all senders to `component` of all receivers are patched together.

    MLPs and all other heads are frozen at `orig`. at: the position in each prompt where the senders are exchanged; None means
    all of them.
    """
    ### BEGIN SOLUTION
    rows, at = (slice(None), slice(None)) if at is None else (torch.arange(len(tokens), device=tokens.device), at)
    told, W_O = {}, model.W_O  # taken once: each time that one asks for it, the model stacks the matrices of all layers
    for receiving_layer in {layer for layer, _ in receivers}:
        sent = torch.zeros_like(orig["resid_pre", receiving_layer])
        for layer, head in senders:
            if layer < receiving_layer:
                change = (new["z", layer][:, :, head] - orig["z", layer][:, :, head]) @ W_O[layer, head]
                sent[rows, at] += change[rows, at]

        def add(stream, hook, sent=sent):
            return stream + sent

        with model.hooks(fwd_hooks=[(f"blocks.{receiving_layer}.ln1.hook_in", add)]):
            _, cache = model.run_with_cache(tokens, names_filter=get_act_name(component, receiving_layer))
        told[get_act_name(component, receiving_layer)] = cache[component, receiving_layer]

    def read(activation, hook):
        activation = activation.clone()
        shared = model.cfg.n_heads // activation.shape[2]
        for layer, head in receivers:
            if hook.name == get_act_name(component, layer):
                activation[:, :, head // shared] = told[hook.name][:, :, head // shared]
        return activation

    return metric(model.run_with_hooks(tokens, fwd_hooks=[(name, read) for name in told]))
    ### END SOLUTION


# %%
check_joint_senders(joint_senders)

# %% [markdown] tags=["answer"]
# Messages are vectors and add up, so one sum tells a layer everything. It holds the senders of *earlier* layers only,
# because a head of the same layer writes after attention has read the stream. Adding up the *effects* of single senders
# would be another experiment: the receiver and all that follows it need not react in proportion. Step 1 works without
# freezing, because nothing before the receiving layer has changed, and what comes after it is not recorded.

# %% [markdown]
# Now three comparisons:
#
# - Both brokers into the query of B.
# - Every head before the repeater into its key at S1+1, noising as before.
# - The same paths, **denoising**: the run with the fresh name receives, the clean run lends, and the number says how much comes back.

# %%
before = [(layer, head) for layer in range(repeater[0]) for head in range(n_heads)]
key_at_s1 = {"receivers": [repeater], "component": "k", "at": roles["S1+1"]}
query_at_end = {"receivers": [writer_b], "component": "q", "at": roles["END"]}
clean_s1, corrupted_s1 = other_s1.clean_cache, other_s1.corrupted_cache
flip = model, pairs.clean_tokens, corrupted_cache, clean_cache, experiment.noising_metric
noising = model, other_s1.pairs.clean_tokens, corrupted_s1, clean_s1, other_s1.noising_metric
denoising = model, other_s1.pairs.corrupted_tokens, clean_s1, corrupted_s1, other_s1.denoising_metric
together = {
    "brokers → query of B": -joint_senders(*flip, brokers, **query_at_end),
    "all → key, noising": -joint_senders(*noising, before, **key_at_s1),
    "all → key, denoising": joint_senders(*denoising, before, **key_at_s1),
}
into_key_denoising = other_s1.denoise(paths.path_patch, progress=False, **key_at_s1)
one_by_one = {
    "brokers → query of B": sum(into_query[writer_b][head] for head in brokers),
    "all → key, noising": into_key[: repeater[0]].sum(),
    "all → key, denoising": into_key_denoising[: repeater[0]].sum(),
}
plots.bar(
    {"patched together": list(together.values()), "sum of single paths": list(one_by_one.values())},
    "Several senders: together, and one by one",
    x="senders → receiver",
    y="share lost (denoising: share that comes back)",
    x_labels=list(together),
)

# %%
for name in together:
    key = name.replace(" → ", "_into_").replace(", ", "_").replace(" ", "_").lower()
    compare(f"paths.joint.{key}.together", together[name], model)
    compare(f"paths.joint.{key}.sum", one_by_one[name], model)
layer, head = repeater
seen = [cache["pattern", layer][rows, head, roles["S2"], roles["S1+1"]].mean() for cache in (clean_s1, corrupted_s1)]
compare("paths.repeater_attends_to_s1_next", torch.stack(seen), model)  # clean run, run with the fresh name


# %% [markdown]
# *What do you see?* Where do the bars differ?
# <details><summary>What we see, for SmolLM2</summary>
#
# No pair of bars agrees. When messages are *taken out*, the sum is too large: .23 against .20, and .35 against .31. A likely
# reason: once one message has drawn the reader's attention away, less attention is left for the next message to take. When
# the clean messages are *put in*, the sum is too small: .73
# against .94. Here small messages do more on top of the large one than they do alone. A softmax would explain both. In the clean run the repeater gives S1+1 .77 of its attention, so small changes of its score matter. With the fresh name it gives S1+1 .002, and small changes of a score that low do next to nothing (the two shares are in the last line printed). This fits, but it does not prove that nothing after the repeater plays a part.
# </details>
#
# ### Exercise 5.6 · Every edge out of a head
#
# > Difficulty: ●●●○○  Importance: ●●●●○  15 minutes
#
# One identity tests all of this machinery. If *every* reader after a head gets the head's new message, it is as if the head itself had written it. So patching all outgoing edges together must equal activation patching of the head, exactly.
#
# Let every later reader read its stream plus the message: each later attention (`ln1.hook_in`), each MLP from the head's own layer on (`ln2.hook_in`), and the logits (`ln_final.hook_in`). The head itself keeps its `z`. One run does it.
#
# <details><summary>Hint 1 · a question</summary>
#
# In which order do attention and MLP of one layer come? Can the MLP of the head's own layer hear it?
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# The logits are a reader, too.
# </details>

# %%
def all_out_edges(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    new: ActivationCache,
    orig: ActivationCache,
    metric: Callable[[Tensor], Float[Tensor, ""]],
    layer: int,
    head: int,
) -> Float[Tensor, ""]:
    """The metric when every later reader reads its stream plus what the head would add: all of its outgoing edges."""
    ### BEGIN SOLUTION
    sent = (new["z", layer][:, :, head] - orig["z", layer][:, :, head]) @ model.W_O[layer, head]
    readers = [f"blocks.{later}.ln1.hook_in" for later in range(layer + 1, model.cfg.n_layers)]
    readers += [f"blocks.{later}.ln2.hook_in" for later in range(layer, model.cfg.n_layers)]
    hooks = [(name, lambda stream, hook: stream + sent) for name in [*readers, "ln_final.hook_in"]]
    return metric(model.run_with_hooks(tokens, fwd_hooks=hooks))
    ### END SOLUTION


# %%
check_all_out_edges(all_out_edges)


# %% [markdown] tags=["answer"]
# In a layer, attention comes first and the MLP second, so the MLP of the head's own layer is the first to hear it, and
# attention hears it from the next layer on. Each reader then reads what it would read if the head had written the message,
# and so writes what it would write; this goes on, reader by reader, up to the logits. If you exchange the head's own `z` as
# well, the message counts twice. The `lambda` may read `sent` directly, without `partial`, because `sent` is the same for
# every hook.

# %% [markdown]
# For the messenger: all edges together, activation patching, and the sum over the same edges patched one reader at a time.

# %%
def one_reader(name: str, sent: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, ""]:
    """The loss when one reader alone reads its stream plus `sent`."""
    return lost(model.run_with_hooks(pairs.clean_tokens, fwd_hooks=[(name, lambda stream, hook: stream + sent)]))


sent = message(*messenger, corrupted_cache, clean_cache)
layer, _ = messenger
readers = [f"blocks.{later}.ln1.hook_in" for later in range(layer + 1, n_layers)]
readers += [f"blocks.{later}.ln2.hook_in" for later in range(layer, n_layers)] + ["ln_final.hook_in"]
single = {name: one_reader(name, sent) for name in readers}
everything = -all_out_edges(*flip, *messenger)
compare("paths.out_edges.together", everything, model)
compare("paths.out_edges.is_activation_patching", (everything - by_output[messenger]).abs() < 1e-4, model)
compare("paths.out_edges.sum_of_single", sum(single.values()), model)
compare("paths.out_edges.strongest_reader", max(single, key=lambda name: single[name].abs()), model)

# %% [markdown]
# *What do you see?* The sum of the single edges is not the effect of the head. Is it too large or too small, and what would explain either?
# <details><summary>What we see, for SmolLM2</summary>
#
# Too large: the single edges sum to .52, and the head's whole effect is .44. Readers whose effects overlap make the sum too large, because each of them was measured while the others still heard the clean message. Readers that need each other would make it too small.
# Here the overlap wins. Either way, the effects of single edges do not have to add up to the effect of the head.
# </details>
#
# ## 9 · What we may say
#
# **In words.** In the model at hand and on these eight prompts, corrupting the direct path from … to … loses … of the logit difference, with MLPs frozen. Fill in your own numbers from above.
#
# **What it does not show.** Four things.
# - *Only what the corruption changes.* A path that carries the same message in both runs is invisible, however important. The empty key in section 6 was an example.
# - *Only these prompts.* Eight prompts from one family. Chapter 06 uses a data set with templates and gives intervals.
# - *Not what happens without the head.* A loss says what a wrong message does. Removing the message altogether is another experiment, also in chapter 06.
# - *Not the whole model.* We followed the strongest arrow at every step. Chapter 06 asks how much of the behavior the heads on the graph explain together.
#
# **Beside the paper.** In gpt2-small, Wang et al. (2022) found the same chain of four kinds of heads. Previous-token heads feed the keys of induction heads. These feed the values of S-inhibition heads, which feed the queries of name movers. The strongest writers of gpt2-small get the answer through this chain. SmolLM2 has the chain as well. But its strongest writer, L23H3, does not get its answer from it. We could not run gpt2-small here; on a machine that reaches a model hub, `load_model("gpt2-small")` lets you check.
#
# **Try.** Follow one more arrow. Which heads feed the *query* of the repeater at S2?
# <details><summary>What you should find, on SmolLM2</summary>
#
# `lost_through([repeater], "q", "S2")` is empty: no head carries half a percent. With `senders="mlps"` you see MLP 0 (.19). At S2 the query is made of the word itself, as A's value is.
# </details>
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `direct_effects` | the direct path from each head to the logits, by formula |
# | `path_patch_to_logits`, `path_patch_to_heads` | path patching with hooks, as two runs |
# | `edge_patch`, `transformer_lens.patching.get_act_patch_direct_path` | one sender, every receiver |
# | `blocks.{layer}.ln1.hook_in` | where attention reads the stream: what you add there nobody else reads |
# | `paths.path_patch` | the same numbers for all senders at once; options `at`, `mlps`, `senders` |
# | `utils.circuits.graph.strongest_edges`, `plots.graph` | edges from a sweep, and the circuit as a graph |
#
# **Glossary.** *Direct effect*: what is lost when only a head's path straight to the logits is corrupted. *Direct path*, *edge*: from a sender through the residual stream to a receiver, with nothing in between. *Freezing*: holding a part at its value in the receiving run. *Lending run*, *receiving run*: the run whose message is
# borrowed, and the run that is changed. *Message*: the difference between what a sender writes in the two runs. *Node*: a head, an MLP, or the logits. *Path patching*: patching one path while all other paths stay as they are.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Wang et al. 2022, [Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small](https://arxiv.org/abs/2211.00593). Section 3 walks back from the logits with path patching, and appendix B describes the method.
# - Elhage et al. 2021, [A Mathematical Framework for Transformer Circuits](https://transformer-circuits.pub/2021/framework/index.html). It explains how one head feeds another through its queries, its keys or its values.
# - Goldowsky-Dill et al. 2023, [Localizing Model Behavior with Path Patching](https://arxiv.org/abs/2304.05969). It states path patching in general, as a test of a hypothesis about paths.

# %% [markdown]
# **Next:** [06 · The whole circuit](06_full_circuit.ipynb) asks what these heads can do on their own.
