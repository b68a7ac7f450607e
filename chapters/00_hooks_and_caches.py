# %% [markdown]
# # 00 · Hooks and caches
#
# Thirty minutes. A language model turns tokens into logits; everything in between is numbers that you can read and
# change while it runs. This chapter shows both, on a real model.
#
# You will be able to
# - say what the model really receives: tokens, with one in front that you did not type;
# - read any activation with `run_with_cache`, and know its name and its axes;
# - change any activation with `run_with_hooks`, and measure what that does.

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
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache, utilities
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import check_attention_to_first_token, check_logits_without_head, check_zero_head
from utils import plots
from utils.models import load_model
from utils.reference import compare

# %% [markdown]
# `load_model()` takes gpt2-small if it is in your cache or a model hub answers, and otherwise SmolLM2-135M, which came with the
# course. On Colab it takes SmolLM2-135M in any case. It prints which one you have and why.

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# ## 1 · What does the model read?
#
# *What do you expect?* How many tokens is `"When John and Mary went to the shops"`: fewer than its words, as many, or more?
# <details><summary>Our guess</summary>
# One more than its words. These words are common enough for a token each, and the tokenizer puts a token of its own in
# front.
# </details>

# %%
prompt = "When John and Mary went to the shops, John gave the bag to"
tokens = model.to_tokens(prompt)
print(tokens.shape)
print(model.to_str_tokens(prompt))

# %% [markdown]
# - A **token** is an integer that stands for a piece of text. Most tokens of words in mid-sentence begin with a space:
#   `" Mary"` and `"Mary"` are two different tokens. If a result looks wrong, check for a forgotten space first.
# - The first token is **BOS** (beginning of sequence; its spelling differs between models). The course always keeps it,
#   because many heads of trained models pay much of their attention to position 0. Exercise 0.1 measures how much.
# - Positions count from 0, so the last word, `" to"`, stands at `tokens.shape[1] - 1`. We call that position **END**: its
#   logits are the prediction of the next token.

# %%
logits = model(tokens)  # [batch, position, d_vocab]
probabilities, candidates = logits[0, -1].softmax(-1).topk(5)
for probability, token in zip(probabilities, candidates, strict=True):
    print(f"{probability:6.3f}  {model.to_string(token)!r}")

# %% [markdown]
# ## 2 · What happens inside?
#
# `run_with_cache` runs the model and keeps every activation on the way. `cache["pattern", 5]` is short for
# `cache["blocks.5.attn.hook_pattern"]`; `list(cache.keys())` shows all the names. The ones you will use most:
#
# | short name | shape | what it is |
# |---|---|---|
# | `resid_pre` | `[batch, position, d_model]` | the residual stream as it enters a layer |
# | `q`, `k`, `v` | `[batch, position, head, d_head]` | queries, keys, values (SmolLM2 shares keys and values between heads) |
# | `pattern` | `[batch, head, query, key]` | attention: how much position *query* reads from position *key*; rows add up to 1 |
# | `z` | `[batch, position, head, d_head]` | what each head has read, before it is written back |
# | `attn_out`, `mlp_out` | `[batch, position, d_model]` | what a layer adds to the residual stream |

# %%
logits, cache = model.run_with_cache(tokens)
for name in ("resid_pre", "q", "k", "pattern", "z", "mlp_out"):
    print(f"{name:10} {tuple(cache[name, 0].shape)}")

# %% [markdown]
# Here are the attention patterns of one layer, a small square per head. Rows are queries (who reads), columns are keys (who
# is read). Click a square to enlarge it.

# %%
layer = model.cfg.n_layers // 2
str_tokens = model.to_str_tokens(prompt)
plots.attention_of_heads(
    cache,
    [(layer, head) for head in range(model.cfg.n_heads)],
    str_tokens,
    title=f"Attention in layer {layer}: rows read from columns",
)


# %% [markdown]
# **How to read it.** The upper right is empty, because a position cannot read from later ones (the *causal mask*). Look
# at the first column: in most heads it is the darkest. A head that has nothing to do still has to spend its attention
# somewhere, because softmax makes every row add up to 1, and BOS is where it goes.
#
# **What it does not show.** A dark cell says where a head reads *from*. It does not say *what* it reads, nor whether
# anything later uses it. The rest of the course is about those two questions.
#
# How general is the dark first column? Measure it.
#
# ### Exercise 0.1 · Attention to the first token
#
# > Difficulty: ●●○○○  Importance: ●●●○○  10 minutes
#
# For every layer and head, average the attention paid to position 0, over all prompts in the batch and over all queries but
# the first (BOS can read only itself, so its row says nothing). Return a tensor `[layer, head]`.
#
# <details><summary>Hint</summary>
#
# `cache["pattern", layer]` is `[batch, head, query, key]`. Slice queries from 1 on and key 0, average over batch and
# query, and `torch.stack` the layers. `cache.model.cfg.n_layers` is the number of layers.
# </details>

# %%
def attention_to_first_token(cache: ActivationCache) -> Float[Tensor, "layer head"]:
    """Mean attention each head pays to position 0.

    Averaged over the batch and over queries 1, 2, …: query 0 can attend only to itself.
    """
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_attention_to_first_token(attention_to_first_token)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# patterns = torch.stack([cache["pattern", layer] for layer in range(cache.model.cfg.n_layers)])
# return patterns[..., 1:, 0].mean((1, 3))  # [layer, batch, head, query] → [layer, head]
# ```
# </details>

# %%
to_first = attention_to_first_token(cache)
plots.heads(to_first, "Attention to the first token, by head", unit="attention", sequential=True)

# %%
compare("hooks.attention_to_first_token", to_first.mean(), model)
compare("hooks.share_of_heads_above_half", (to_first > 0.5).float().mean(), model)


# %% [markdown]
# **How to read it.** One cell per head; a dark one rests on BOS most of the time. The first layers are pale: heads there
# still look at neighbours and at equal tokens. Pale cells in dark layers are heads that found something in this sentence. Keep two or
# three of them in mind, by name: `L9H6` means layer 9, head 6.
#
# **Try.** Change `prompt` to something with no names in it. Which heads go dark?
#
# ## 3 · What if a head were missing?
#
# Reading is not enough: to know whether a part matters, change it and see. A **hook** is a function that the model calls
# in the middle of its run with an activation, and whose return value is used in its place:
#
# ```python
# def hook_function(activation, hook):
#     return changed_activation
# ```
#
# Setting an activation to zero is the crudest change there is (an *ablation*). It is a good first tool and a poor last
# one: zero is not what a later layer expects from a head that has "nothing to say". Chapter 04 returns to that.
#
# ### Exercise 0.2 · Zero one head
#
# > Difficulty: ●○○○○  Importance: ●●●●○  5 minutes
#
# Return `z` with one head set to zero. Work on a copy: a hook that writes into its input also changes what others see.
#
# <details><summary>Hint</summary>
#
# The axes are `[batch, position, head, d_head]`. `z.clone()` copies.
# </details>

# %%
def zero_head(
    z: Float[Tensor, "batch position head d_head"], hook: HookPoint, head_index: int
) -> Float[Tensor, "batch position head d_head"]:
    """A copy of `z` in which one head is zero at every position. `hook` is not needed; TransformerLens passes it."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_zero_head(zero_head)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# z = z.clone()
# z[:, :, head_index] = 0
# return z
# ```
# </details>

# %% [markdown]
# ### Exercise 0.3 · Logits without a head
#
# > Difficulty: ●●○○○  Importance: ●●●●●  10 minutes
#
# Run the model with one head's `z` set to zero and return its logits. Use `model.run_with_hooks(tokens, fwd_hooks=[(name,
# function)])`: it takes its hooks away when it is done. A hook added with `model.add_hook` stays, and silently
# changes every run after it.
#
# <details><summary>Hint</summary>
#
# `utilities.get_act_name("z", layer)` gives the full name. `functools.partial(zero_head, head_index=3)` is a hook function
# with the head filled in.
# </details>

# %%
from functools import partial


def logits_without_head(
    model: TransformerBridge, tokens: Int[Tensor, "batch position"], layer: int, head_index: int
) -> Float[Tensor, "batch position d_vocab"]:
    """The model's logits when the head `layer`, `head_index` writes nothing. Leaves no hooks on the model."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_logits_without_head(logits_without_head)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# hook = (utilities.get_act_name("z", layer), partial(zero_head, head_index=head_index))
# return model.run_with_hooks(tokens, fwd_hooks=[hook])
# ```
# </details>

# %% [markdown]
# Now the experiment. The prompt asks for `" Mary"` and against `" John"`. Remove the heads of one layer, one at a time: which
# of them was holding up the difference between the two names?

# %%
mary, john = model.to_single_token(" Mary"), model.to_single_token(" John")


def mary_over_john(logits: Float[Tensor, "batch position d_vocab"]) -> float:
    return (logits[0, -1, mary] - logits[0, -1, john]).item()


layer = int(0.78 * model.cfg.n_layers)  # layer 9 of gpt2-small, layer 23 of SmolLM2
whole = mary_over_john(logits)
drops = [mary_over_john(logits_without_head(model, tokens, layer, head)) - whole for head in range(model.cfg.n_heads)]
plots.bar(
    drops,
    f"Removing one head of layer {layer}: change of logit(Mary) − logit(John), which was {whole:.2f}",
    x="head removed",
    y="change in logits",
)

# %%
compare("hooks.mary_over_john", whole, model)
compare("hooks.most_needed_head", f"L{layer}H{min(range(len(drops)), key=drops.__getitem__)}", model)

# %% [markdown]
# **How to read it.** A bar below zero is a head whose absence makes the model less sure of Mary. With a bar above zero, the model is
# surer of Mary when the head is gone. Most bars are near zero.
#
# It is tempting to say that a head with a positive bar argues for John. That does not follow. When a head is removed, every later head and MLP reads
# something else, and the bar mixes the head's own contribution with all of these reactions. On SmolLM2 the tallest positive bar
# belongs to L23H0, and chapter 02 will show that L23H0 itself writes *for* Mary. Chapter 04 takes the two apart.
#
# **What it does not show.** A head can matter and yet show nothing here, if another head does its work when it is gone.
# That happens, and chapter 04 measures it.
#
# **Try.** Change `layer`. In which layers does no single head matter?
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `model.to_tokens`, `to_str_tokens`, `to_single_token` | text to tokens and back; BOS is put in front |
# | `model.run_with_cache(tokens)` | logits and every activation |
# | `cache["pattern", layer]` | an activation by its short name |
# | `model.run_with_hooks(tokens, fwd_hooks=[(name, function)])` | logits of a run that your function changes |
# | `utilities.get_act_name("z", layer)` | an activation's full name |
#
# **Glossary.** *Ablation*: replacing an activation by something without information, such as zero. *Activation*: any number
# the model computes on the way. *BOS*: the token put at position 0. *Cache*: all activations of one run. *Causal mask*: no
# position reads from later ones. *END*: the last position. *Head*: one of several attention mechanisms in a layer; `L9H6`.
# *Hook*: a function called in the middle of a run. *Logits*: one score per possible next token, before softmax. *Residual
# stream*: the running sum of everything the layers have written at one position. *Token*: a piece of text as an integer.
#
# **Next:** [01 · The IOI task](01_ioi_task.ipynb) turns "Mary, not John" into a number worth explaining.
