# %% [markdown]
# # 02 · Direct logit attribution
#
# Ninety minutes. The model prefers one name to another by some logits. Which of its parts wrote that preference? The residual stream is a sum of what the parts wrote, and you can read the preference off that sum term by term. So the question has an exact answer: one number for each part, and the numbers add up to what the model said.
#
# You will be able to
# - turn "Mary rather than John" into a direction, and read it off any part of the residual stream;
# - see at which layer the answer appears (logit lens and cumulative attribution), and which layers and heads write it;
# - check that your numbers add up to the model's own, prompt by prompt;
# - look at the attention of the heads you found, and say what that picture does not tell you;
# - say which of these results hold for other sentences.

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
import einops
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import (
    check_attribution_total,
    check_head_attributions,
    check_logit_diff_directions,
    check_residual_stack_to_logit_diff,
    check_top_heads,
)
from tests.checks.predicting import score_predictions
from utils import attribution, plots, widgets
from utils.attribution import bias_term, head_name, logit_diff
from utils.inference import ends_only, small_cache
from utils.ioi import ioi_dataset, ioi_pairs, positions_by_role, single_token_names
from utils.models import load_model
from utils.reference import compare
from utils.stats import bootstrap_interval
from utils.tiny_models import tiny_model

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# The task is that of chapter 01. Each of the eight prompts names two people. One of them, the *subject* (S), comes back, and the other, the *indirect object* (IO), is the answer. `ioi_pairs` builds the prompts. `small_cache` tells the model which activations to keep: those that this course reads. All of them together would take three times the memory.

# %%
pairs = ioi_pairs(model)
answer_tokens = pairs.answer_tokens  # [prompt, (correct, incorrect)]
logits, cache = model.run_with_cache(pairs.clean_tokens, names_filter=small_cache)
per_prompt = logit_diff(logits, answer_tokens, per_prompt=True)
for text, (correct, incorrect), value in zip(pairs.clean_text, pairs.answers, per_prompt.tolist(), strict=True):
    print(f"{value:6.2f}  logit({correct.strip()}) − logit({incorrect.strip()})  {text}")

# %%
compare("ioi.logit_diff.per_prompt", per_prompt, model)
compare("ioi.logit_diff.mean_clean", per_prompt.mean(), model)

# %% [markdown]
# ## 1 · What is in the residual stream?
#
# At each position the model keeps one vector, the **residual stream** (chapter 00 draws it). Nothing ever overwrites it. The embedding starts it,
# every attention and every MLP adds its output to it, and what is left after the last layer is the sum:
#
# $$x_\text{final} = x_\text{embed} + \sum_l \text{attn}_l + \sum_l \text{mlp}_l$$
#
# (In gpt2-small, $x_\text{embed}$ is itself the sum of two terms, one for the token and one for the position.) So "which part did it?" is a question about the terms of a sum. Only one position matters here: END, whose logits are the
# prediction. `cache.decompose_resid` lists the terms. (People say "layer 5" for the whole block and for either of its two parts. We say *layer* for the block, and *attention of layer 5* or *MLP of layer 5* for the parts.)
#
# *What do you expect?* Do all layers write about as much, or do a few write most?
# <details><summary>Our guess</summary>
# We guess that later layers write more. Their output has to make a difference in a sum that is already long.
# </details>

# %%
parts, part_names = cache.decompose_resid(layer=-1, pos_slice=-1, return_labels=True)  # [component, batch, d_model]
final_residual = cache["resid_post", model.cfg.n_layers - 1][:, -1]  # [batch, d_model]
print(
    f"{len(parts)} parts; the sum misses the final residual by {(parts.sum(0) - final_residual).abs().max():.0e} at most"
)
sizes = parts.norm(dim=-1).mean(-1)
plots.line(
    {
        kind: [size for size, name in zip(sizes.tolist(), part_names, strict=True) if name.endswith(kind)]
        for kind in ("attn_out", "mlp_out")
    },
    "How much each layer writes at END",
    x="layer",
    y="length of what is written (L2 norm)",
)


# %% [markdown]
# **How to read it.** There is one point for each layer and kind: the length of the vector that it adds at END, averaged over the eight prompts.
# The last layers write much longer vectors than the first ones, so our guess was right.
#
# **What it does not show.** The length of a vector does not say what is in it, and most of it may have nothing to do with names. We need the one direction that separates the two answers.
#
# **Try.** Use `pos_slice=0` (BOS), where so many heads rest their attention. Which layers write there, and how much?
# <details><summary>What you should find, on SmolLM2</summary>
#
# The MLP of layer 11 alone adds a vector of length 25,000 at BOS. At END the longest vector, from the MLP of layer 29, has
# length 620. At BOS, only four MLPs write a vector longer than 620. Such *massive activations* ([Sun et al.
# 2024](https://arxiv.org/abs/2402.17762)) occur in many models, and are connected with the attention that heads pay to the
# first position.
# </details>
#
# ## 2 · Which direction is "Mary, not John"?
#
# The logits are $x W_U + b_U$, with $x$ the normalized final residual, $W_U$ of shape `[d_model, d_vocab]` the
# **unembedding**, and $b_U$ a bias. A logit is the dot product of $x$ with one column of $W_U$. The difference of two logits is
# a dot product too, with the difference of two columns:
#
# $$\text{logit}(\text{Mary}) - \text{logit}(\text{John}) = x \cdot (W_U[:, \text{Mary}] - W_U[:, \text{John}]) + b_U[\text{Mary}] - b_U[\text{John}]$$
#
# That difference of columns is the **logit-difference direction** of the prompt.
#
# ### Exercise 2.1 · Directions
#
# > Difficulty: ●●○○○  Importance: ●●●●●  10 minutes
#
# For each prompt, return its direction: the column of the correct answer minus that of the incorrect one. Shape `[batch, d_model]`.
#
# <details><summary>Hint 1 · a question</summary>
#
# Is a token's vector a row or a column of $W_U$?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# Indexing with a table of ids gives a table of columns: `model.W_U[:, answer_tokens]` is `[d_model, batch, 2]`. Which axis has to go first in the result?
# </details>

# %%
def logit_diff_directions(
    model: TransformerBridge, answer_tokens: Int[Tensor, "batch 2"]
) -> Float[Tensor, "batch d_model"]:
    """Per prompt, the unembedding column of the correct answer (index 0) minus that of the incorrect one (index 1)."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_logit_diff_directions(logit_diff_directions)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# columns = model.W_U[:, answer_tokens]  # d_model batch 2
# return (columns[..., 0] - columns[..., 1]).T  # batch d_model
# ```
#
# Indexing the second axis of `W_U` with a table of ids puts the axes of the table in its place, which gives
# `[d_model, batch, 2]`. After the difference, `.T` brings the prompts to the front. Rows of `W_E` fit the shape, too, and
# are wrong here: `load_model` changes `W_U` (section 3), so the two differ even in a model that embeds and unembeds with
# one matrix. Do not scale the directions to length 1 either, because their products with the stream would no longer be
# differences of logits.
# </details>

# %% [markdown]
# The built-in gives the columns, and leaves the difference to you:

# %%
directions = torch.stack([torch.as_tensor(row) for row in logit_diff_directions(model, answer_tokens)])  # [batch, d_model]
built_in = model.tokens_to_residual_directions(answer_tokens)  # [batch, 2, d_model]
print("largest difference:", (directions - (built_in[:, 0] - built_in[:, 1])).abs().max().item())


# %% [markdown]
# ## 3 · From a vector to logits: the norm in between
#
# Before the unembedding comes a last **LayerNorm** (in Llama-like models an RMSNorm). It subtracts the mean of the
# vector (RMSNorm does not), divides by a **scale** (its standard deviation; in RMSNorm its root mean square) and applies learned
# weights. `load_model` has simplified this, without changing any probability or any difference between logits. The learned weights are multiplied into $W_U$ and $b_U$ (*folding*). In a model with LayerNorm, the matrices that write to the stream are shifted so that all they write has mean zero. Then there is no mean left to subtract. Finally, from each row of $W_U$ its mean over the vocabulary is subtracted (*centering*). This moves all logits by the same amount, so softmax gives the same probabilities. What is left is a division:
#
# $$\text{logit difference} = \frac{x_\text{final}}{\text{scale}} \cdot \text{direction} + \text{bias}$$
#
# The scale depends on the whole stream. If you take the scale as it was in the run and hold it fixed, the expression is linear. You can divide each part of the sum by *that same scale* and multiply it by the direction, and the results still add up. If you divide each part by its own length, nothing adds up any more. A cache holds the scale as `ln_final.hook_scale` and, if nothing is filtered out, the normalized stream as `ln_final.hook_normalized`.
#
# ### Exercise 2.2 · Logit difference of a stack of vectors
#
# > Difficulty: ●●●○○  Importance: ●●●●●  15 minutes
#
# `stack` holds vectors at END of shape `[..., batch, d_model]`: parts of the residual stream, or the stream itself. Divide them by the scale of the final norm at END, which is one number per prompt. Take the dot product with each prompt's direction. Then average over prompts, unless `per_prompt` is set.
#
# <details><summary>Hint 1 · a question</summary>
#
# The stack may have any number of axes in front. Which two axes does it always have, and do `directions` and the scale have the same two?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# `cache["ln_final.hook_scale"]` is `[batch, pos, 1]`. At END it is `[batch, 1]`, which broadcasts against `[..., batch, d_model]`.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# A dot product over `d_model` is a multiplication and a sum over the *last* axis. Averaging over prompts comes after that.
# </details>

# %%
def residual_stack_to_logit_diff(
    stack: Float[Tensor, "... batch d_model"],
    cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
    per_prompt: bool = False,
) -> Float[Tensor, "..."]:
    """What each vector of the stack contributes to the logit difference, with the final norm's scale at END held fixed.

    Returns the mean over prompts, or [..., batch] if per_prompt. The bias of the unembedding is no part of it.
    """
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_residual_stack_to_logit_diff(residual_stack_to_logit_diff)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# scaled = stack / cache["ln_final.hook_scale"][:, -1]  # ... batch d_model
# contributions = (scaled * directions).sum(-1)  # ... batch
# return contributions if per_prompt else contributions.mean(-1)
# ```
#
# Multiplying and summing over the last axis keeps each prompt with its own scale and its own direction.
# `scaled @ directions.T` would multiply each prompt by the directions of *all* prompts. The mean over prompts has to come
# last: neighboring prompts have opposite directions, so the mean of our eight directions is zero. It is `mean(-1)` and not
# `mean(1)`, because the batch is the last axis that is left, whatever stands before it.
# </details>

# %% [markdown]
# `cache.apply_ln_to_stack` is the built-in for the first line (it subtracts the mean as well, where the model does), and
# `cache.logit_attrs` does all of it. Compare, and compare the final residual with the model's own logit difference:

# %%
by_hand = residual_stack_to_logit_diff(parts, cache, directions)  # [component]
scaled = cache.apply_ln_to_stack(parts, layer=-1, pos_slice=-1)
print("against apply_ln_to_stack:", f"{((scaled * directions).sum(-1).mean(-1) - by_hand).abs().max():.0e}")
attributes = cache.logit_attrs(
    parts, tokens=answer_tokens[:, 0], incorrect_tokens=answer_tokens[:, 1], pos_slice=-1, has_batch_dim=True
)  # [component, batch]
print("against logit_attrs:", f"{(attributes.mean(-1) - by_hand).abs().max():.0e}")
print(f"the final residual gives {residual_stack_to_logit_diff(final_residual, cache, directions):.4f}")
print(f"the model itself says    {per_prompt.mean():.4f}")

# %% [markdown]
# ## 4 · When does the answer appear? Two curves
#
# What if the model stopped after layer 3 and read its answer then? Take the residual stream as it stands after each step, and read
# it off as the model reads its last one. There are two ways to do this, and they answer different questions. They differ in
# the final norm, which divides a stream by its size:
#
# - The **logit lens** (nostalgebraist 2020) divides each stream by its *own* size. It says what the model would answer if it
#   really stopped there.
# - **Cumulative attribution** divides every stream by the size of the *last* one, as your function does. It says how much of the final
#   logit difference has been written so far. Its steps are the contributions of the parts, and they add up.
#
# *What do you expect?* A slow rise from layer to layer, or a jump? And will the two curves agree?
# <details><summary>Our guess</summary>
# A jump. Before END can name Mary, some head has to bring her name there, and until then nothing at END should favor either name. We expected two curves of the same shape.
# </details>
#
# `cache.accumulated_resid(incl_mid=True)` stacks the streams before each layer (`3_pre`), between its attention and its MLP (`3_mid`),
# and at the end. `model.ln_final` is the final norm: it divides whatever it is given by its own size.

# %%
streams, stream_names = cache.accumulated_resid(layer=-1, incl_mid=True, pos_slice=-1, return_labels=True)
cumulative = residual_stack_to_logit_diff(streams, cache, directions)
lens = (model.ln_final(streams) * directions).sum(-1).mean(-1)  # [stream]
plots.line(
    {"logit lens (own size)": lens, "cumulative attribution (last size)": cumulative},
    "The logit difference at END, stream by stream",
    x="the residual stream before a layer (pre), or between its attention and its MLP (mid)",
    y="logit difference",
    x_labels=stream_names,
)

# %%
halfway = next(name for name, value in zip(stream_names, cumulative.tolist(), strict=True) if value > cumulative[-1] / 2)
compare("ioi.attribution.half_is_written_at", halfway, model)
compare("ioi.attribution.lens_at_one_half_of_layers", lens[len(lens) // 2], model)
compare("ioi.attribution.lens_highest_at", stream_names[lens.argmax()], model)
compare("ioi.attribution.lens_highest", lens.max(), model)
compare("ioi.attribution.cumulative_there", cumulative[lens.argmax()], model)
compare("ioi.attribution.size_grows_by", (streams[-1].norm(dim=-1) / streams[lens.argmax()].norm(dim=-1)).mean(), model)
compare("ioi.attribution.both_end_at", torch.stack([lens[-1], cumulative[-1]]), model)

# %% [markdown]
# **How to read it.** For more than half of the layers both lines lie near zero. Then they jump, within a single layer or over two or three. The jump comes at a `mid`, the point after an attention and before the next MLP, so attention made it. After the jump the two curves can go different ways, and at the end they meet,
# because the last stream is divided by its own size in both.
#
# ### Interpret: does the answer fade?
#
# An earlier draft of this chapter drew one of these curves and called it the other. From the lens alone you might write: *"After its peak the model becomes less sure, because later layers take part of the answer back."* What do the two curves together say?
#
# - **a** The sentence is true: from the peak on, later layers write against the answer, all in all.
# - **b** It is false: later layers add to the answer, all in all. The lens falls because the stream grows, and the same difference becomes a smaller part of a longer vector.
#
# Choose, and say which curve decides.

# %%
choice = {"after the peak of the lens": None}

# %%
added_later = cumulative[-1] - cumulative[lens.argmax()]
score_predictions(choice, {"after the peak of the lens": "b" if added_later > 0 else "a"})
compare("ioi.attribution.added_after_the_peak", added_later, model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# **b.** Both curves jump in the attention of layer 23. There the lens reaches 10.0, and it falls to 4.7 at the end. The cumulative curve stands at 3.9 there and ends at 4.7 as well. Later layers take some away (most of it in layer 24) and add some, and in the end they have added .8. What makes the lens fall is the size of the stream, which
# grows 2.5 times. So "the answer fades after layer 23" would be a wrong reading of the lens, and "the answer is complete after layer 23" a wrong reading of the cumulative curve.
# </details>
#
# TransformerLens' demo has the cumulative curve for gpt2-small, under the name of logit lens. It is flat before layer 7, rises mostly in the attention of layer 9, and loses some of the rise after that.
#
# **What it does not show.** A flat curve does not mean that nothing happens. END may already hold *which* name to look for, before any name can be read there. Chapter 03 tests this.
#
# **Try.** Draw the lens of another position: `pos_slice=10`, where the subject returns. Where does it begin?
# <details><summary>What you should find, on SmolLM2</summary>
#
# At −58, for the embedding alone. SmolLM2 uses the same matrix to embed and to unembed, so a token's embedding has a large dot product with that token's own column. Read by the lens, the stream at S2 begins by "predicting" the name that stands there, which is the *wrong* one. After three layers the value is −1.8, and from then on it is closer to zero still. By then the stream has to predict the word after S2.
# </details>
#
# ## 5 · Which layers write it?
#
# The cumulative curve adds up. Its steps are the contributions of single parts, which you already have: `parts` and `by_hand`.

# %%
plots.bar(
    {
        kind: [value for value, name in zip(by_hand.tolist(), part_names, strict=True) if name.endswith(kind)]
        for kind in ("attn_out", "mlp_out")
    },
    "What each layer adds to the logit difference",
    x="layer",
    y="contribution (logits)",
)

# %%
attention_parts = torch.stack(
    [value for value, name in zip(by_hand, part_names, strict=True) if name.endswith("attn_out")]
)
compare("ioi.attribution.best_attention_layer", attention_parts.argmax(), model)
compare("ioi.attribution.best_attention_layer_adds", attention_parts.max(), model)
compare("ioi.attribution.worst_attention_layer", attention_parts.argmin(), model)


# %% [markdown]
# **How to read it.** There are two bars for each layer, one for its attention and one for its MLP. Bars above zero push toward the right name.
#
# *What do you see?* How many layers carry most of the answer, and does anything push the other way?
# <details><summary>What we see, for SmolLM2</summary>
#
# The attention of layer 23 adds 3.8 of the 4.7 logits. The attention of layer 24 pushes against the answer (−.9). All attention together adds 3.6 and all MLPs 1.2, most of this in the last layers.
# </details>
#
# It makes sense that attention does most of it: an MLP sees one position, and the names stand at other positions than END.
#
# **An MLP is a sum, too.** Its output is the sum over its *neurons*: each has an activation (`cache["post", layer]` in an unfiltered cache) and one row of `model.W_out[layer]` that it writes, multiplied by the activation. So you could go on and attribute the logit difference to single neurons in the same way. The course stays with heads, because attention writes most of the difference on this task.
#
# **What it does not show.** Whether a layer *needs* what an earlier one wrote. A bar is a **direct** effect: what goes from the part straight to the logits. A layer that only prepares the ground for a later one has no bar here, however much depends on it.
#
# **Try.** Plot one prompt instead of the mean, with `per_prompt=True`. Is it the same layer every time?
# <details><summary>What you should find, on SmolLM2</summary>
#
# The attention of layer 23 adds more than any other part in seven of the eight prompts, 1.1 to 8.3 logits. (In prompt 1 the MLP of layer 28 takes away more, 1.7, than layer 23 adds.) In prompt 6, the one with the smallest logit difference, the attention of layer 24 adds most (1.8): what pushes against the answer on average helps there.
# </details>
#
# ## 6 · Do the parts add up?
#
# If the parts do not add up to the whole, then something is missing from your list of parts. In the mean over our eight prompts they did add up. But an error can hide in a mean. Each name is the correct answer in one prompt and the incorrect one in its neighbor, so whatever depends on the names alone cancels. One thing does depend on them alone: the bias $b_U$.
#
# ### Exercise 2.3 · The total, prompt by prompt
#
# > Difficulty: ●●●○○  Importance: ●●●●●  15 minutes
#
# Return, per prompt, the contributions of the embedding, of every attention layer and of every MLP, summed, **plus what
# $b_U$ adds** to the logit difference. It must equal the model's logit difference for every prompt.
#
# <details><summary>Hint 1 · a question</summary>
#
# Which term of the formula in section 3 is not a part of the residual stream?
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# `cache.decompose_resid(layer=-1, pos_slice=-1)` gives the parts, and exercise 2.2 with `per_prompt=True` their contributions.
# `model.b_U[answer_tokens]` has the shape `[batch, 2]`.
# </details>

# %%
def attribution_total(
    model: TransformerBridge, cache: ActivationCache, answer_tokens: Int[Tensor, "batch 2"]
) -> Float[Tensor, " batch"]:
    """All components' contributions at END and the bias term, summed: each prompt's logit difference."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_attribution_total(attribution_total)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# parts = cache.decompose_resid(layer=-1, pos_slice=-1)  # component batch d_model
# directions = logit_diff_directions(model, answer_tokens)
# contributions = residual_stack_to_logit_diff(parts, cache, directions, per_prompt=True)  # component batch
# bias = model.b_U[answer_tokens]  # batch 2
# return contributions.sum(0) + bias[:, 0] - bias[:, 1]
# ```
#
# The model adds $b_U$ after the final norm, so the bias is not divided by the scale and is in no part of the stream. Each
# prompt has a bias of its own, so `per_prompt=True` is needed, and `sum(0)` sums over the parts and keeps the prompts
# apart. Because all parts are divided by the same scale, you could also sum them first and project the sum. If you collect
# the parts by hand, begin with `cache["resid_pre", 0]`: in gpt2-small it holds the vector for the position as well as the
# embedding.
# </details>

# %%
total = attribution_total(model, cache, answer_tokens)
largest_error = (total - per_prompt).abs().max().item()
assert largest_error < 1e-3, f"the attributions miss a prompt's logit difference by {largest_error}"
print(f"largest error over {len(total)} prompts: below 1e-3")
plots.bar(
    {"attributions and bias, summed": total, "the model's logit difference": per_prompt},
    "Attributions add up to the logit difference of every prompt",
    x="prompt",
    y="logits",
)

# %% [markdown]
# How much was the bias worth? That depends on the model. The final LayerNorm of GPT-2 has a bias of its own, which `load_model` has put into $b_U$, so each prompt has some. SmolLM2 has an RMSNorm and no biases, so it has none. Here is the bias in your model, and in the small random GPT-2 that the checks use:

# %%
for some_model in (model, tiny_model("gpt2")):
    some_pairs = ioi_pairs(some_model)
    bias = bias_term(some_model, some_pairs.answer_tokens)
    rounded = [round(value, 2) + 0.0 for value in bias.tolist()]
    print(f"{some_model.cfg.model_name:14} per prompt {rounded}  mean {abs(bias.mean()):.2f}")

# %%
compare("ioi.attribution.largest_bias", bias_term(model, answer_tokens).abs().max(), model)

# %% [markdown]
# **How to read it.** Neighboring prompts have opposite signs, so the mean is zero on any model. On prompts whose answers are not
# mirrored (chapter 08 has some), leaving out the bias gives a wrong total, and no error message.
#
# ## 7 · Which heads?
#
# An attention layer's output is a sum again: each head's `z` at END, `[batch, head, d_head]`, times that head's own output matrix
# $W_O$, `[head, d_head, d_model]`. (A bias $b_O$, if the model has one, belongs to no head.)
#
# ### Predict before you look
#
# How many of the model's heads add at least a tenth of what the strongest head adds, in either direction? Choose `"fewer than 10"`, `"10 to 50"` or `"more than 50"`. SmolLM2 has 270 heads, gpt2-small 144.

# %%
prediction = {"heads that matter directly": None}


# %% [markdown]
# ### Exercise 2.4 · Contribution of every head, and the top heads
#
# > Difficulty: ●●●○○  Importance: ●●●●○  20 minutes
#
# Write two functions. `head_attributions` returns `[layer, head]`: what each head writes at END, projected as in exercise 2.2, averaged over prompts.
#
# You could loop over layers and heads. One `einops.einsum` is shorter and less error-prone: it multiplies two tensors and sums over every axis that is missing after the arrow. `einops.einsum(a, b, "batch i, i j -> batch j")` is a matrix product, for
# example. Axes with the same name in the two tensors are matched.
#
# <details><summary>Hint 1 · shapes</summary>
#
# `cache["z", layer]` is `[batch, pos, head, d_head]`, and `model.W_O` is `[layer, head, d_head, d_model]`. Stack `z` at END
# over layers.
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# Exercise 2.2 wants `[..., batch, d_model]`, so let the einsum give `layer head batch d_model`.
# </details>

# %%
def head_attributions(
    model: TransformerBridge, cache: ActivationCache, directions: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "layer head"]:
    """Each head's direct contribution to the logit difference at END, mean over prompts. b_O belongs to no head."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_head_attributions(head_attributions)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# z = torch.stack([cache["z", layer][:, -1] for layer in range(model.cfg.n_layers)])  # layer batch head d_head
# written = einops.einsum(
#     z, model.W_O, "layer batch head d_head, layer head d_head d_model -> layer head batch d_model"
# )
# return residual_stack_to_logit_diff(written, cache, directions)
# ```
#
# `layer` and `head` stand in both tensors and after the arrow, so each head's `z` meets its own output matrix. `d_head` is
# missing after the arrow, so it is summed over. Only `z` at END is used, because the logits at END are read from the stream
# of this position, and what a head writes elsewhere is not in it. $b_O$ is left out: it is added once in each layer, and if
# every head got it, it would count once for each head.
# </details>

# %% [markdown]
# The built-in is `cache.stack_head_results`, with layers and heads on one axis:

# %%
by_head = head_attributions(model, cache, directions)
stacked = cache.stack_head_results(layer=-1, pos_slice=-1)  # [layer × head, batch, d_model]
built_in = residual_stack_to_logit_diff(stacked, cache, directions).reshape(by_head.shape)
print(f"largest difference: {(by_head - built_in).abs().max():.0e}")
plots.heads(by_head, "What each head adds to the logit difference", unit="logits")

# %%
compare("ioi.attribution.top_head", by_head.max(), model)
compare("ioi.attribution.all_heads", by_head.sum(), model)
above_a_tenth = int((by_head.abs() > 0.1 * by_head.max()).sum())
score_predictions(prediction, {"heads that matter directly": "fewer than 10" if above_a_tenth < 10 else "10 to 50" if above_a_tenth <= 50 else "more than 50"})
compare("ioi.attribution.heads_above_a_tenth", above_a_tenth, model)


# %% [markdown]
# **How to read it.** Red heads push toward the right name, blue ones toward the wrong one. Almost all are white. Hover for the numbers.
#
# Now `top_heads`. Return the `k` heads with the largest values (`sign=1`) or with the most negative values (`sign=-1`), most extreme first, as a
# list of `(layer, head)` pairs of plain integers.
#
# <details><summary>Hint 1 · a question</summary>
#
# If you flatten a table of nine columns, which head is number 210?
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# `topk` gives the largest values of a flat tensor and their indices. `divmod(index, number_of_heads)` turns an index into a pair.
# </details>

# %%
def top_heads(attributions: Float[Tensor, "layer head"], k: int, sign: int = 1) -> list[tuple[int, int]]:
    """The k heads with the largest (sign=1) or the most negative (sign=-1) values, as (layer, head), most extreme first."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_top_heads(top_heads)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# order = (sign * attributions).flatten().topk(k).indices.tolist()
# return [divmod(index, attributions.shape[1]) for index in order]
# ```
#
# `flatten` puts the rows one after another, so a flat index is layer · n_heads + head. `divmod` by the number of *heads*,
# which is `shape[1]`, undoes that; dividing by the number of layers is a common slip. Multiplying by `sign` makes the most
# negative values the largest, so one `topk` serves both ends, whereas absolute values would mix them. Keep the indices that
# `topk` gives: if you look up each value in the table afterwards, two heads of equal value become the same head twice.
# </details>

# %%
positive, negative = ([tuple(pair) for pair in top_heads(by_head, 3, sign=sign)] for sign in (1, -1))
for name, chosen in (("toward the answer", positive), ("against it", negative)):
    print(name, [f"{head_name(*pair)} {by_head[pair]:.2f}" for pair in chosen])

# %%
compare("ioi.attribution.positive_heads", [head_name(*pair) for pair in positive[:2]], model)
compare("ioi.attribution.negative_heads", [head_name(*pair) for pair in negative[:2]], model)

# %% [markdown]
# ## 8 · Where do these heads look?
#
# *What do you expect?* Where does a head that brings the answer to END look from END?
# <details><summary>Our guess</summary>
# At the answer, the indirect object. That is what gpt2-small's name movers do ([Wang et al. 2022](https://arxiv.org/abs/2211.00593), section 3.1). Do not take our word
# for your model.
# </details>
#
# Read the last row of each square, END: its columns are the words it reads.

# %%
str_tokens = model.to_str_tokens(pairs.clean_text[0])
plots.attention_of_heads(cache, positive, str_tokens, title="The three heads that push most toward the answer")

# %%
plots.attention_of_heads(cache, negative, str_tokens, title="The three heads that push most against it")


# %% [markdown]
# One prompt can mislead: here the subject stands first, in the next prompt second. So name positions by their *role*. IO is where the answer stands. S1 and S2 are the subject's first and second mention, and S1+1 is the position right after S1. Then average over prompts.

# %%
def attention_by_role(pair: tuple[int, int], query: str = "END") -> dict[str, float]:
    """role → mean attention that the head pays to it from the role `query`."""
    layer, head = pair
    roles, prompts = positions_by_role(pairs.clean_tokens, answer_tokens), torch.arange(len(answer_tokens))
    rows = cache["pattern", layer][prompts, head, roles[query]]  # batch key
    return {role: rows[prompts, positions].mean().item() for role, positions in roles.items()}


chosen = [*positive, *negative]
looks = [attention_by_role(pair) for pair in chosen]
plots.bar(
    {role: [look[role] for look in looks] for role in looks[0]},
    "Where END looks: three heads for the answer, then three against it",
    x="head",
    y="attention from END, mean over prompts",
    x_labels=[head_name(*pair) for pair in chosen],
)

# %%
without_bos = {role: share for role, share in looks[0].items() if role != "BOS"}
compare("ioi.attribution.top_head_looks_at", max(without_bos, key=without_bos.__getitem__), model)
compare("ioi.attribution.top_head_attention_to_it", max(without_bos.values()), model)

# %% [markdown]
# **How to read it.** There is one group of bars for each head, and one bar for each place where it may look.
#
# *What do you see?* Where does the strongest head look? Which heads look at IO, and are they all on the same side?
# <details><summary>What we see, for SmolLM2</summary>
#
# L23H3 does more for the answer than any other head, and it does not look at the answer. From END it reads **S2** (.62), the name that must *not* be said. L23H0 and L24H4 both look at IO (.60 and .57), and one helps while the other hurts: the same place, opposite effects. The pair in layer 29 looks mostly at END itself (.48 and .59), where it can read
# what earlier heads have just brought. On gpt2-small the strongest heads look at IO (Wang et al. 2022).
# </details>
#
# How can a head that reads the wrong name help the right one? A logit *difference* has two sides. Project what each head writes onto the
# two columns one at a time, and onto the columns of names that are not in the prompt. (The unembedding is centered, so a logit
# counts from the mean over the vocabulary.)

# %%
names = model.to_tokens([f" {name}" for name in single_token_names(model)], prepend_bos=False)[:, 0]
columns = {
    "the answer (IO)": model.W_U.T[answer_tokens[:, 0]],
    "the subject (S)": model.W_U.T[answer_tokens[:, 1]],
    "other names, mean": torch.stack([model.W_U.T[names[~torch.isin(names, pair)]].mean(0) for pair in answer_tokens]),
}  # each: [batch, d_model]
writes = {name: head_attributions(model, cache, column) for name, column in columns.items()}
plots.bar(
    {name: [values[pair].item() for pair in chosen] for name, values in writes.items()},
    "What the same heads do to the logit of each name",
    x="head",
    y="contribution to the logit",
    x_labels=[head_name(*pair) for pair in chosen],
)

# %%
compare("ioi.attribution.top_head_on_answer", writes["the answer (IO)"][positive[0]], model)
compare("ioi.attribution.top_head_on_subject", writes["the subject (S)"][positive[0]], model)
compare("ioi.attribution.top_head_on_other_names", writes["other names, mean"][positive[0]], model)

# %% [markdown]
# **How to read it.** A head that *moves* the answer raises the first bar of its group more than the second, and hardly changes the third.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# L23H3 does not raise the answer: it lowers it a little, by .27. It lowers the subject by 2.51, and other names by only .09.
# So it reads the repeated name and writes against it. L23H0 is of the other kind: it raises the answer by 1.37. It raises the
# subject as well, by .60. A head that raises the right name and a head that lowers the wrong one can have the same color in
# the heatmap of section 7. This second figure tells them apart.
# </details>
#
# We keep the paper's term **name mover** for a head that looks at IO and raises it. Which of your heads deserve it? Look for a head whose attention is on IO in the first figure *and* whose first bar is above zero in the second.
# <details><summary>What we see, for SmolLM2</summary>
#
# Of these six, only L23H0. L29H1 raises the answer as well, but it looks at END. L24H4 looks at IO as well, but it lowers the answer.
# </details>
#
# You have seen six heads. The explorer below shows any of the others, on any short prompt. On the left is the head's attention pattern. On the right are the tokens whose logits the head raises and lowers most at the last position: the same projection as above, onto every column of the unembedding.
#
# *What do you expect?* Which token does the strongest head lower most, and what happens to it when you exchange the two names in the prompt?
# <details><summary>Our guess</summary>
# The subject, with its leading space. After the exchange the head lowers the other name.
# </details>

# %%
widgets.head_explorer(model, pairs.clean_text[0], *positive[0])

# %% [markdown]
# **How to read it.** Tab goes to the sliders, and the arrow keys move them. Each row of the pattern is a position that asks. The darkest square in the row is the position that it reads most.
#
# **What it does not show.** A list of names on the right does not prove that the head is *for* names. It is what this head wrote on this one prompt.
#
# **What a pattern says.** It says from where a head *may* have carried something, in this run.
#
# **What it does not say.**
# - *What* was carried: that depends on the head's values and on $W_O$, as you just saw.
# - That what stands at a position is about that position's word. After some layers the stream at S2 holds what earlier heads
#   brought there.
# - That anything depends on it: a head can look and write nothing.
# - *Why* the head looks there. Something must have told END which name to read, or not to. Attribution sees only the last step, from
#   a head to the logits. To go further back you have to intervene.
#
# **Try.** `attention_by_role(positive[0], query="S2")`: does the head look at names from S2, too, or only from END?
# <details><summary>What you should find, on SmolLM2</summary>
#
# From S2 itself, L23H3 spends .82 of its attention on BOS. From S1+1, the word after the first mention, it pays .32 to S1 on average. That mean has two halves: " and", after a first name, pays .37 to .79, and " went", after a second name, pays nothing. The view above shows every position of the first prompt. There " and" pays .79 to the first John, and " gave", which has no role, pays .45 to S2. END pays .60 to S2. So the head often looks back at the latest name, from END and from some of the words that follow a name, but not from all of them.
# </details>
#
# ## 9 · How far does this hold?
#
# All of this was measured on eight prompts. Repeat the attribution on the data set of chapter 01, with names, places and objects at random in six sentence structures. The prompts differ in length, so they are padded, and an attention mask tells the model what to ignore. Two things save memory: `names_filter`
# keeps only the activations that the attribution needs, and the hook `ends_only` lets the model compute logits at each prompt's last position only. `attribution.head_attributions` is your function for prompts of different lengths.
#
# *What do you expect?* Which heads will keep their role?

# %%
data = ioi_dataset(model, 36)
set_pairs = data.pairs("flip")
with model.hooks(fwd_hooks=[ends_only(set_pairs.clean_last)]):
    _, set_cache = model.run_with_cache(
        set_pairs.clean_tokens,
        attention_mask=set_pairs.clean_mask,
        names_filter=lambda name: name.endswith("hook_z") or name == "ln_final.hook_scale",
    )
set_directions = logit_diff_directions(model, set_pairs.answer_tokens)
by_prompt = attribution.head_attributions(model, set_cache, set_directions, per_prompt=True, last=set_pairs.clean_last)
structure = [prompt.structure for prompt in data.prompts]
means = [by_prompt[pair].mean().item() for pair in chosen]
bounds = [bootstrap_interval(by_prompt[pair], structure) for pair in chosen]
group = "36 prompts of six structures"
plots.intervals(
    {group: means, "the eight prompts": [by_head[pair].item() for pair in chosen]},
    "What the same heads add on other sentences",
    x="contribution to the logit difference, with a 95 % interval over structures",
    labels={group: [head_name(*pair) for pair in chosen], "the eight prompts": [head_name(*pair) for pair in chosen]},
    bounds={group: ([low for low, _ in bounds], [high for _, high in bounds])},
)

# %%
weakest = [min(by_prompt[pair][[s == n for s in structure]].mean().item() for n in set(structure)) for pair in positive]
for pair, mean, (low, high) in zip(chosen, means, bounds, strict=True):
    compare(f"ioi.attribution.dataset.{head_name(*pair)}", torch.tensor([mean, low, high]), model)  # mean, interval
compare("ioi.attribution.dataset.weakest_structure_of_positive", torch.tensor(weakest), model)

# %% [markdown]
# **How to read it.** Each point is a mean, and its bar the interval that you get when the six structures are drawn again. Compare it with the same head in the lower group.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# L23H3 is solid: 1.9 logits, [1.7, 2.2], and at least 1.5 in every structure. So are the two heads of layer 29 (.9 and −.6). The name mover L23H0 is another matter: .4, [.2, .6], and in one of the six structures it adds next to nothing (.06). It was more impressive on the eight prompts (.8). So what you find on a few sentences of one shape may not hold for sentences of another shape.
# </details>
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `model.W_U`, `model.b_U` | unembedding `[d_model, d_vocab]` and its bias |
# | `model.tokens_to_residual_directions(tokens)` | columns of `W_U` for tokens |
# | `cache.decompose_resid(layer=-1, pos_slice=-1)` | embedding and every layer's output, at one position |
# | `cache.accumulated_resid(incl_mid=True)` | the residual stream after each step |
# | `cache.apply_ln_to_stack`, `cache["ln_final.hook_scale"]` | the final norm, with the scale of the run |
# | `cache.logit_attrs` | the attribution in one call |
# | `cache.stack_head_results`, `model.W_O` | what each head writes |
# | `einops.einsum(a, b, "batch i, i j -> batch j")` | products and sums over named axes |
# | `utils.attribution` | the same functions for prompts of any lengths |
#
# **Glossary.** *Bias term*: what $b_U$ adds to a logit difference. *Direct effect*: of a part on the logits, with everything between them
# left out. *Direct logit attribution*: splitting a logit, or a difference of logits, into direct effects of parts. *Indirect object (IO)*:
# the name that is the answer. *LayerNorm scale*: what the final norm divides by. *Logit-difference direction*: one column of the unembedding
# minus another. *Cumulative attribution*: how much of the final logit difference has been written so far; every stream is divided by the size of the last one. *Logit lens*: reading an answer off the residual stream before the last layer, each stream divided by its own size. *Name mover*: a head that attends from END to IO
# and raises its logit (Wang et al. 2022). *RMSNorm*: a LayerNorm that does not subtract the mean. *S1, S2*: the subject's first and second
# mention. *Unembedding*: the matrix that turns the final residual into logits.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Wang et al. 2022, [Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small](https://arxiv.org/abs/2211.00593). Section 3.1 is about name movers.
# - Nanda 2022, [Exploratory Analysis Demo](https://transformerlensorg.github.io/TransformerLens/generated/demos/Exploratory_Analysis_Demo.html). It takes the same first steps with the same prompts, on gpt2-small.
# - Elhage et al. 2021, [A Mathematical Framework for Transformer Circuits](https://transformer-circuits.pub/2021/framework/index.html). It treats the residual stream as a sum, to which every head and MLP adds its part.
# - nostalgebraist 2020, [interpreting GPT: the logit lens](https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru/interpreting-gpt-the-logit-lens). This post introduced the logit lens.
# - Belrose et al. 2023, [Eliciting Latent Predictions from Transformers with the Tuned Lens](https://arxiv.org/abs/2303.08112). It trains one affine map for each layer, so that early layers can be read more reliably than with the plain lens.

# %% [markdown]
# **Next:** [03 · Activation patching](03_activation_patching.ipynb) changes one activation at a time, and finds the heads that
# attribution cannot see.
