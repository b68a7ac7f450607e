# %% [markdown]
# # 00 · Hooks and caches
#
# Forty-five minutes. A language model turns tokens into scores for the next token. Everything in between is numbers, and you can read and
# change all of them while the model runs. This chapter shows you both on a real model, after a five-minute tour of what is inside.
#
# You will be able to
# - draw a transformer: the residual stream, and the heads and MLPs that read from it and write to it;
# - say what the model really receives: tokens, with one in front that you did not type;
# - read any activation with `run_with_cache`, and know its name and its axes;
# - change any activation with `run_with_hooks`, and measure what that does.
#
# If you have used TransformerLens before, skip section 1 and go straight to the exercises.

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
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache, utilities
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import check_attention_to_first_token, check_logits_without_head, check_zero_head
from tests.checks.predicting import score_predictions
from utils import plots
from utils.models import load_model
from utils.reference import compare

# %% [markdown]
# `load_model()` takes gpt2-small if it is in your cache or a model hub answers, and otherwise SmolLM2-135M, which came with the
# course. On Colab it takes SmolLM2-135M in any case. It prints which one you have and why.

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# ## 1 · A transformer in five minutes
#
# A language model reads a text and gives a score to every possible next piece of text. Follow one text, "When John and Mary went to the
# shops, John gave the bag to", through the model:
#
# - The text is cut into **tokens**. A token is usually a word or a part of one, and the model knows it by a number.
# - Each token becomes a vector, its **embedding**, with 576 numbers in SmolLM2-135M and 768 in gpt2-small. This vector starts the
#   **residual stream** of its position. The model must also know where a token stands: gpt2-small adds a second vector, for the position, and SmolLM2
#   tells its attention how far apart two positions are.
# - The model has several **layers**: 30 in SmolLM2-135M, 12 in gpt2-small. Each layer consists of two parts, **attention** and an **MLP**
#   (multi-layer perceptron). Each part reads the residual stream, scaled to a standard size, and *adds* its output to it. Nothing is overwritten. A later part can cancel what an earlier one wrote, but only by adding the opposite.
# - After the last layer, the stream at the last position is scaled to a standard size (the **final norm**) and multiplied by a matrix, the
#   **unembedding**. That gives the **logits**, one score for every token of the vocabulary. **Softmax** turns scores into
#   probabilities: it exponentiates them and divides by their sum.

# %%
plots.residual_stream_drawing()

# %% [markdown]
# **How to read it.** Time goes upward. Each gray line is the stream of one position, and the colored boxes read from it and write to it. The drawing shows
# the boxes for the last position only; every other position has the same boxes, with the same weights.
#
# Look at which arrows go sideways. Only attention reads other positions, and it can read only what stands at or before its own. An MLP sees one
# position. So whenever something known at one word is used at another, attention has carried it there. This fact makes models easier to
# take apart, and most of this course rests on it.
#
# The attention of a layer consists of several **heads** that work side by side: 9 in SmolLM2-135M, 12 in gpt2-small. Here is one of them, at the
# position of " to":

# %%
plots.head_drawing()

# %% [markdown]
# **How to read it.** Follow the three numbered steps.
#
# 1. The head asks. From the stream at its own position it computes a **query**, a short vector that says what it is looking for.
# 2. The others answer. Every position so far offers a **key**. The dot product of query and key is a score, and softmax turns the scores
#    into weights that add up to 1. These weights are the head's attention **pattern**.
# 3. Something is passed on. Every position also offers a **value**. The head takes the average of the values with these weights. This average
#    is called **z**, and the head's output matrix $W_O$ turns it into the vector that the head adds to the stream.
#
# Keep two questions apart, because the whole course does. *Where* does a head read from? Its queries and keys decide that. *What* does it pass on? Its values and $W_O$ decide that. Queries, keys and values are made by matrices, too, so four matrices describe a head.
#
# ## 2 · What does the model read?
#
# *What do you expect?* How many tokens is `"When John and Mary went to the shops, John gave the bag to"`: fewer than its thirteen words, as many, or more?
# <details><summary>Our guess</summary>
# Two more than its words. These words are common enough for a token each, the comma is a token, and the tokenizer puts a token
# of its own in front.
# </details>

# %%
prompt = "When John and Mary went to the shops, John gave the bag to"
tokens = model.to_tokens(prompt)
print(tokens.shape)
print(model.to_str_tokens(prompt))

# %% [markdown]
# - The shape is `[1, 15]`: one text (the **batch** axis), fifteen tokens.
# - Most tokens of words in mid-sentence begin with a space: `" Mary"` and `"Mary"` are two different tokens. If a result looks
#   wrong, check for a forgotten space first.
# - The first token is **BOS** (beginning of sequence; its spelling differs between models). The course always keeps it,
#   because many heads of trained models pay much of their attention to position 0. Exercise 0.1 measures how much.
# - Positions count from 0, so the last word, `" to"`, stands at `tokens.shape[1] - 1`. We call that position **END**: its
#   logits are the prediction of the next token.

# %%
logits = model(tokens)  # [batch, pos, d_vocab]
probabilities, candidates = logits[0, -1].softmax(-1).topk(5)
for probability, token in zip(probabilities, candidates, strict=True):
    print(f"{probability:6.3f}  {model.to_string(token)!r}")

# %% [markdown]
# The model gets it right: the bag goes to Mary. The next chapters ask how. First you need a way to look inside.
#
# ## 3 · What happens inside?
#
# TransformerLens, the library of this course, gives you two tools. `run_with_cache` runs the model and copies its intermediate results, the **activations**, into a dictionary. `run_with_hooks` hands one activation to a function of yours, and goes on with whatever that function returns.

# %%
plots.hooks_drawing()

# %% [markdown]
# The copies have names. `cache["pattern", 5]` is short for
# `cache["blocks.5.attn.hook_pattern"]`, and `list(cache.keys())` shows all the names. Below are those that you will
# use most. In shapes, `pos` is short for position.
#
# | short name | shape | what it is |
# |---|---|---|
# | `resid_pre` | `[batch, pos, d_model]` | the residual stream as it enters a layer |
# | `q`, `k`, `v` | `[batch, pos, head, d_head]` | queries, keys, values |
# | `pattern` | `[batch, head, query, key]` | attention: how much position *query* reads from position *key*; rows add up to 1 |
# | `z` | `[batch, pos, head, d_head]` | what each head has read, before it is written back |
# | `attn_out`, `mlp_out` | `[batch, pos, d_model]` | what a layer's attention (all heads together) and MLP add to the residual stream |

# %%
logits, cache = model.run_with_cache(tokens)
for name in ("resid_pre", "q", "k", "pattern", "z", "mlp_out"):
    print(f"{name:10} {tuple(cache[name, 0].shape)}")

# %% [markdown]
# Compare `q` with `k`. In SmolLM2 there are nine queries and only three keys: three heads share one key and one value. This is called
# **grouped-query attention**, and it saves memory. In gpt2-small every head has its own.
#
# Here are the attention patterns of one layer, a small square for each head. Rows are queries (who reads), columns are keys (who
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
# at the first column: in most heads it is the darkest. A head that finds nothing to do still has to spend its attention somewhere, because softmax makes every row add up to 1. Many trained models spend it on the first position, which [Xiao et al. (2023)](https://arxiv.org/abs/2309.17453) call an *attention sink*.
#
# **What it does not show.** A dark cell says where a head reads *from*. It does not say *what* the head takes from there, nor whether any later part uses it. Those two questions fill the rest of part one.
#
# ### Predict before you look
#
# How general is the dark first column? Guess the share of the model's heads, over all layers, that pay more than half of their attention to position 0.
# Choose `"under a quarter"`, `"a quarter to a half"`, `"half to three quarters"` or `"over three quarters"`, and write it down. The cell after the exercise scores your guess.

# %%
prediction = {"heads that rest on position 0": None}


# %% [markdown]
# ### Exercise 0.1 · Attention to the first token
#
# > Difficulty: ●●○○○  Importance: ●●●○○  10 minutes
#
# How much attention does each head pay to position 0? Take the mean over all prompts in the batch and over all queries except the first. (BOS can read only itself, so its row says nothing.) Return a tensor `[layer, head]`.
#
# The signature below says `-> Float[Tensor, "layer head"]`. Read it as: a tensor of floats with two axes, which we call `layer` and `head`. These annotations come from
# the library *jaxtyping*. Python does not check them, but they tell you the shape that is wanted, and every function of this course has them.
#
# <details><summary>Hint 1 · a question</summary>
#
# Which axis of `cache["pattern", layer]` says who reads, and which says who is read?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# A pattern is `[batch, head, query, key]`. `torch.stack` of one for each layer is `[layer, batch, head, query, key]`. `cache.model.cfg.n_layers` is the number of layers.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# Slice *queries* from 1 on, and take *key* 0: `patterns[..., 1:, 0]`. Then two axes are left to average over.
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
#
# The last axis of a pattern is the key and the one before it is the query, so `1:` picks the queries and `0` the key. An
# integer index takes its axis away, and a slice keeps it. What is left is `[layer, batch, head, query]`, and `mean((1, 3))`
# averages over batch and queries in one call. If you exchange the two indices, you ask how much query 0 pays to later keys,
# and the causal mask makes all of that zero.
# </details>

# %%
to_first = torch.as_tensor(attention_to_first_token(cache))
plots.heads(to_first, "Attention to the first token, by head", unit="attention", sequential=True)

# %%
above_half = (to_first > 0.5).float().mean()
measured = ["under a quarter", "a quarter to a half", "half to three quarters", "over three quarters"][min(3, int(4 * above_half))]
score_predictions(prediction, {"heads that rest on position 0": measured})
compare("hooks.attention_to_first_token", to_first.mean(), model)
compare("hooks.share_of_heads_above_half", above_half, model)


# %% [markdown]
# **How to read it.** There is one cell for each head, and a dark head rests on BOS most of the time. Layer 0 is in the top row, so the heatmap is read downward, whereas the drawings above are read upward. All heatmaps of the course are drawn this way. A head has a name, `L9H6` for layer 9, head 6, and you will meet some of them again and again.
#
# *What do you see?* Which layers are pale? And what might a pale head in a dark layer be doing?
# <details><summary>What we see, for SmolLM2</summary>
#
# On average a head spends .54 of its attention on BOS, and 59 % of all heads spend more than half. Five layers have no dark
# head at all. They are 0, 1 and 2 (.11, .05 and .24 on average), and 10 and 11, a third of the way through the model (.12 and
# .04). From layer 12 on most heads are dark. A pale head in a dark layer looks at something in this sentence instead. Chapter
# 04 asks what such heads look at.
# </details>
#
# **Try.** Change `prompt` to `"2 4 6 8 10 12 14"` and run the cells from there to the heatmap. Which heads become darker, and which become paler? (Change it back, and run the same cells again, before you go on.)
# <details><summary>What you should find, on SmolLM2</summary>
#
# The mean falls from .54 to .47. L13H8 (+.41) and L14H8 (+.36) now rest on BOS, and L25H8 (−.56) and L28H8 (−.54) have found something to do. So "this head rests" is a statement about a head *and* a text.
# </details>
#
# ## 4 · What if a head were missing?
#
# Reading is not enough. To know whether a part matters, change it and see what happens. You do that with a **hook**, a function that the model calls
# in the middle of its run. It receives an activation, and whatever it returns is used in its place:
#
# ```python
# def hook_function(activation, hook):
#     return changed_activation
# ```
#
# The second argument, `hook`, is a small object that knows the activation's full name (`hook.name`). TransformerLens always passes it, so your function has to accept it.
#
# The crudest change is to set an activation to zero. Replacing an activation by something without information is called an **ablation**. Zero is a good first choice. It is also a strange input for the layers that follow, because no head ever wrote exactly nothing while the model was trained. Chapter 04 has better replacements.
#
# ### Exercise 0.2 · Remove a head
#
# > Difficulty: ●●○○○  Importance: ●●●●●  15 minutes
#
# Write two functions. `zero_head` is the hook function: it returns `z` with one head set to zero. Work on a copy, because a hook that writes into its input
# also changes the tensor that a cache, or another hook, may hold.

# %%
def zero_head(
    z: Float[Tensor, "batch pos head d_head"], hook: HookPoint, head_index: int
) -> Float[Tensor, "batch pos head d_head"]:
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
#
# The two colons stand for batch and position, and an axis that you do not mention, here `d_head`, is taken whole.
# `z[:, head_index]` would zero a *position* of all heads, and no error tells you so as long as there is a position of that
# number. A hook function that ends without `return` returns `None`, and then the model goes on with the `z` that it had.
# You could also multiply `z` by a mask of shape `[head, 1]` that is 0 for this head and 1 for the others; that makes a new
# tensor and needs no `clone`.
# </details>

# %% [markdown]
# `logits_without_head` runs the model with that hook and returns the logits. Use
# `model.run_with_hooks(tokens, fwd_hooks=[(name, function)])`, which takes its hooks away when it is done. A hook that you add with `model.add_hook` stays, and silently
# changes every run after it. You get wrong results and no error.
#
# Your hook function has three arguments, and TransformerLens passes only two of them. `functools.partial(zero_head, head_index=3)` makes a new function in which the third one is filled in.
#
# <details><summary>Hint 1 · a question</summary>
#
# Which activation has an axis for heads, and comes before the heads' outputs are added up?
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# `utilities.get_act_name("z", layer)` gives the full name of the activation.
# </details>

# %%
from functools import partial


def logits_without_head(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], layer: int, head_index: int
) -> Float[Tensor, "batch pos d_vocab"]:
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
#
# What a head writes is its `z` times its own part of $W_O$, so with a `z` of zeros it writes nothing. The query would be
# too early: if it is zero, all scores of the head are equal, softmax shares the attention out evenly, and the head still
# writes. `attn_out` would be too late, because there the heads are added up already. In place of `partial` you could write
# `lambda z, hook: zero_head(z, hook, head_index)`.
# </details>

# %% [markdown]
# Now the experiment. The right next word is `" Mary"`, and the tempting wrong one is `" John"`. Remove the heads of one layer, one at a time. How does the
# difference between the two names' logits change? We take a layer at about three quarters of the depth: layer 23 of SmolLM2, layer 9 of gpt2-small. Chapter 02 shows why we chose it: no other attention layer writes as much for the right name.

# %%
mary, john = model.to_single_token(" Mary"), model.to_single_token(" John")


def mary_over_john(logits: Float[Tensor, "batch pos d_vocab"]) -> float:
    return (logits[0, -1, mary] - logits[0, -1, john]).item()


layer = int(0.78 * model.cfg.n_layers)  # 23 of 30 layers, 9 of 12
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
# ### Interpret: what does a bar above zero mean?
#
# An earlier draft of this chapter said: *"A head with a bar above zero argues for John."* The sentence is tempting, and it does not follow. When a head is removed, every later head and MLP may read something else. The final norm divides by another number, too. The bar is therefore a sum: the loss of what the head itself wrote at the last position, and everything that follows from its absence. Take the head with the tallest bar. Which of these is true of it?
#
# - **a** It writes for John, and the bar is about as large as what it wrote.
# - **b** It writes for Mary, and what follows from its absence outweighs this.
# - **c** It writes next to nothing about the two names. The bar is what follows from its absence.
#
# Which experiment would tell them apart? Choose first, and write the letter in place of `None`, as in `"a"`. The cell after that computes what the head itself adds to the difference of the two logits. (Chapter 02 explains
# that line. It multiplies the head's output by the difference of two columns of the unembedding.)

# %%
choice = {"the tallest bar": None}

# %%
tallest = max(range(len(drops)), key=drops.__getitem__)
written = cache["z", layer][0, -1, tallest] @ model.W_O[layer, tallest]  # [d_model]
own = written @ (model.W_U[:, mary] - model.W_U[:, john]) / cache["ln_final.hook_scale"][0, -1]
decided = "a" if own < -drops[tallest] / 2 else "b" if own > drops[tallest] / 2 else "c"
score_predictions(choice, {"the tallest bar": decided})
compare("hooks.tallest_bar", drops[tallest], model)
compare("hooks.tallest_bar_own_writing", own.item(), model)
compare("hooks.tallest_bar_decided", decided, model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# **c.** The tallest bar belongs to L23H0. Without it the difference grows by .52, but on this prompt the head itself writes only −.07. Nearly the whole bar comes from what happens after the head: later parts read something else, and the final norm divides by another number. Over eight prompts, chapter 02 finds that L23H0 even writes *for* the right name, and chapter 04 finds out who reacts.
# </details>
#
# **What the bars do not show.** A head can matter and yet have no bar, if another head does its work when it is gone.
# Chapter 04 measures this, too.
#
# **Try.** Change `layer`. In which layers does no single head matter, and where is the largest bar of all?
# <details><summary>What you should find, on SmolLM2</summary>
#
# In layer 0, in layers 3 to 14, in layer 22 and in layers 25 to 28 no head changes the difference by more than half a logit. The largest changes come from layer 1: without L1H5 the difference falls by 3.2, without L1H3 by 2.6. Then come L20H0 (−2.3) and L23H3 (−2.2). In the last layer two heads have opposite effects, L29H0 (+1.7) and L29H1 (−1.5). You will meet all of these but the first two again. Do the heads of layer 1 know about names? The bars cannot tell. A head that later layers read from in every text has a large bar in this text, too. Remove L1H5 and look at the probabilities of the words in some ordinary sentence: they fall there as well.
# </details>
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
# | `functools.partial(function, argument=…)` | a function with an argument filled in |
#
# **Glossary.** *Ablation*: replacing an activation by something without information, such as zero. *Activation*: any number
# the model computes on the way. *BOS*: the token put at position 0. *Cache*: all activations of one run. *Causal mask*: no
# position reads from later ones. *Embedding*: the vector that a token starts with. *END*: the last position. *Grouped-query attention*: several heads share one key and one value. *Head*: one of several attention mechanisms in a layer; `L9H6`.
# *Hook*: a function called in the middle of a run. *Key*: what a position offers to be found by. *Query*: what a head is looking for. *Value*: what a position passes on. *Layer*: one attention and one MLP. *Logits*: one score for every possible next token, before softmax. *MLP*: the part of a layer that sees one position only. *Pattern*: a head's attention weights. *Residual
# stream*: the running sum of everything the layers have written at one position. *Token*: a piece of text as an integer. *Unembedding*: the matrix that turns the final residual stream into logits. *z*: the values that a head has read, averaged with its pattern.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Vaswani et al. 2017, [Attention Is All You Need](https://arxiv.org/abs/1706.03762). The architecture comes from this paper. Sections 1 to 3 are enough.
# - Elhage et al. 2021, [A Mathematical Framework for Transformer Circuits](https://transformer-circuits.pub/2021/framework/index.html). Read this one first. It introduces the residual stream, and the two halves of a head: where it looks, and what it passes on.

# %% [markdown]
# **Next:** [01 · The IOI task](01_ioi_task.ipynb) turns "Mary, not John" into a number worth explaining.
