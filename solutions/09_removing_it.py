# %% [markdown]
# # 09 · Can it be removed, and what else goes?
#
# Two hours. If some heads carry a prejudice, can we switch them off? This chapter does so, and the gap shrinks. Then it asks
# what this success is worth: does it hold for sentences that did not choose the heads? Would any other heads have done? What
# else disappeared? But before all that, it asks whether the gap *should* be removed.
#
# African American English (AAE) is a rule-governed variety of English, and the prejudice studied here is the model's (chapter 07). **Content note:** unkind
# adjectives appear as predictions.
#
# You will be able to
# - say what a removal should leave alone, before you remove anything;
# - replace heads by their means, and take the means where they are used;
# - take a direction out of the stream at one position;
# - test a removal on held-out words and prompts, against controls drawn from the same layers, and for side effects;
# - tell "it survived one control" from "it is specific", and write a claim that says no more than was measured.

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
import random
from collections import Counter

import numpy as np
import pandas as pd
import scipy.stats
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import (
    check_ablate_heads,
    check_matched_heads,
    check_mean_z,
    check_overlap_p,
    check_run_projected,
    check_share_removed,
    check_slope_removed,
)
from tests.checks.predicting import score_predictions
from utils import dialect, inference, patching, plots, stats
from utils.dialect import nulls, removing, tracing
from utils.dialect.prefixes import behind
from utils.dialect.removing import Edit, GuiseRuns
from utils.attribution import head_name, logit_diff
from utils.experiment import run_experiment
from utils.ioi import ioi_pairs
from utils.models import load_model
from utils.prompts import single_token
from utils.reference import compare

# %% tags=["nbval-ignore-output"]
model = load_model()
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads

# %% [markdown]
# ## 1 · Should one?
#
# Suppose a tool could make a model ignore a dialect: whatever is said in AAE is taken in as its SAE counterpart would be, or not at all. Every gap of chapter 07 would be zero. Would that be a good thing?
#
# For speakers of AAE it could well be a harm. *He been working* does not mean *he works*. *Done* says that something is finished. A model that no longer takes this in serves its speakers worse than others: it summarizes their letters wrongly, and answers other questions than they asked. Speech technology already makes more errors for Black speakers ([Koenecke et al. 2020](https://doi.org/10.1073/pnas.1915768117)). And a method that treats a dialect as noise to be cleaned away repeats what schools and courts have long done to it.
#
# So "the two guises make no difference anywhere" cannot be the aim. The aim can only be that the *judgment of the person* does not hang on the dialect, while what was said is understood as well as before. Four things follow, and they are this chapter's yardsticks:
#
# 1. The gap gets smaller **on words and prompts that were not used** to find out what to remove.
# 2. Gaps of **neutral swaps** stay. Otherwise the model has not lost a prejudice, it has lost the difference between any two sentences.
# 3. **Other abilities** stay: IOI, and the next word of plain text.
# 4. **Uptake** stays: the model still uses what was said *in AAE* as well as it did before.
#
# For the fourth we need a measure. After `Someone says: " he done worked " This means that the person has`, the word *worked* carries over what was said. Its log-probability is a crude sign of uptake: a model of this size explains little, but it can repeat. Here is the model as it is:

# %%
TRAIN_FRAME, TEST_FRAMES = dialect.frames("paper")[4], dialect.frames("own")[:4]
done = dialect.pairs_of("done", 12)
train, held_out = done[:3], done[6:11]
U, F = (dialect.attribute_tokens(model, group) for group in dialect.traits())
UPTAKE = 'Someone says: " {} " This means that the person has'
uptake_runs = GuiseRuns(model, held_out, [UPTAKE])
carried = torch.tensor([single_token(model, " " + pair.sae.split()[-1]) for pair in held_out])


def uptake(edit: Edit) -> Float[Tensor, "2"]:
    """The mean log-probability of the verb that was said: after the AAE and after the SAE guises."""
    log_p = uptake_runs.end_logits(carried, edit, log_softmax=True)[:, :, 0]  # [guise, pair, verb]
    return log_p.diagonal(dim1=1, dim2=2).mean(1)


as_it_is = uptake(Edit())
compare("removal.uptake.intact", as_it_is, model)


# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# After the AAE guises the verb has a mean log-probability of −2.02, and after the SAE guises −2.72. Do not read this as "AAE is understood better": in the SAE prompt, *has* comes a second time. An induction head (chapter 04) would make the verb likelier there. It is less likely all the same, and we did not look for the reason. The two columns cannot be compared with each other. Each can be compared with itself, before and after a removal.
# </details>
#
# ## 2 · Which heads?
#
# Rank the heads by how much of the gap of *done* / *has* each one's output restores when patched from the AAE run into the SAE run (chapter
# 08). The ranking uses three verbs in one prompt. Everything that is *tested* later uses other verbs and prompts in other words.

# %%
def effects_of(pairs: list[dialect.Pair], frame: str) -> Float[Tensor, "layer head"]:
    """What each head's output restores of the gap of these pairs."""
    experiment = run_experiment(model, tracing.guise_batch(model, pairs, frame), tracing.preference_of(U, F))
    return experiment.denoise(patching.get_act_patch_attn_head_out_all_pos)


def ranked(effect: Float[Tensor, "layer head"]) -> list[tuple[int, int]]:
    """All heads, from the one that restores most to the one that works most against the gap."""
    return [divmod(i, n_heads) for i in effect.flatten().argsort(descending=True).tolist()]


effect = effects_of(train, TRAIN_FRAME)
ranking, by_size = ranked(effect), ranked(effect.abs())
plots.heads(
    effect, "Share of the gap of done / has that each head's output restores (three verbs, one prompt)", unit="share"
)

# %%
print("restore most:  ", ", ".join(f"{head_name(*pair)} {effect[pair]:+.2f}" for pair in ranking[:5]))
print("largest by size:", ", ".join(f"{head_name(*pair)} {effect[pair]:+.2f}" for pair in by_size[:5]))
compare("removal.largest_share_of_one_head", effect.max(), model)
compare("removal.five_largest_by_size_that_oppose", sum(effect[pair] < 0 for pair in by_size[:5]).item(), model)
compare("removal.shares_of_top_5_and_20", [sum(effect[pair] for pair in ranking[:k]) for k in (5, 20)], model)


# %% [markdown]
# **How to read it.** One cell per head. Red heads carry the gap, and blue heads work *against* it: with their AAE output the SAE run prefers unfavorable traits less. Whoever wants the gap smaller should not remove those. An earlier edition of this chapter ranked heads by the *size* of their effect, and two of its first five were blue. From here on, "top" means: restores most, with its sign.
#
# **What it does not show:** that the list has anything to do with
# dialect. Every map has darkest cells; chapter 08 put the maps of neutral swaps beside this one. Nor do the shares add up: those of the first twenty come to 2.4 gaps. Heads pass on to each other what they carry, so it is counted more than once, and the heads that work against the gap are not among them.
#
# ## 3 · Switching off
#
# Zero is an unusual value for a head's output, and later layers may fail for that reason alone. **Mean ablation** puts in what the head writes
# *on average*: it keeps the head's constant contribution and removes what depends on the sentence.
#
# ### Exercise 9.1 · The mean of every head
#
# > Difficulty: ●●●○○  Importance: ●●●●○  10 minutes
#
# From right-padded tokens and their mask, return every head's mean `z`, over all real tokens of all prompts except BOS.
#
# <details><summary>Hint 1 · a question</summary>
#
# Should a long prompt count more than a short one? Read again what the mean is taken over.
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# `cache["z", layer]` is `[batch, pos, head, d_head]`, and the mask is `[batch, pos]`: as booleans, it picks the tokens that count. Leave its first column out.
# </details>

# %%
def mean_z(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch pos"]
) -> Float[Tensor, "layer head d_head"]:
    """Each head's mean z over real tokens but the first of each prompt."""
    ### BEGIN SOLUTION
    _, cache = model.run_with_cache(tokens)
    z = torch.stack(
        [cache["z", layer] for layer in range(model.cfg.n_layers)]
    )  # [layer, batch, pos, head, d_head]
    counted = mask[:, 1:].bool()
    return z[:, :, 1:][:, counted].mean(1)  # [layer, token, head, d_head] → [layer, head, d_head]
    ### END SOLUTION


# %%
check_mean_z(mean_z)


# %% [markdown] tags=["answer"]
# A mask of booleans over `[batch, pos]` picks the tokens that count and puts them on one axis, so every token has the same
# weight in the mean. If you average each prompt first and then the prompts, a token of a short prompt counts for more than
# one of a long prompt. Padded positions have to go because the model computes a `z` for them, too. They stand on the right,
# where no real token reads them, so the run itself needs no mask.

# %% [markdown]
# ### Exercise 9.2 · Run without them
#
# > Difficulty: ●●●○○  Importance: ●●●●●  10 minutes
#
# Return the logits when each of `heads` writes its mean at every position but the first. (At BOS most heads do something of their own, chapter 00, and an average
# over ordinary tokens is no substitute for it.)
#
# <details><summary>Hint 1 · a question</summary>
#
# One hook per head, or per layer, on `hook_z`. When is the hook called, and what do the loop's variables hold by then?
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# A function made in a loop must remember *its* layer and head: `functools.partial` (after `import functools`), a default argument, or a function that makes the hook.
# </details>

# %%
def ablate_heads(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    heads: list[tuple[int, int]],
    means: Float[Tensor, "layer head d_head"],
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits with every (layer, head) replaced by its mean at all positions but 0. Leaves no hooks."""

    ### BEGIN SOLUTION
    def hook_for(layer, head):
        def set_mean(z, hook):
            z = z.clone()
            z[:, 1:, head] = means[layer, head]
            return z

        return f"blocks.{layer}.attn.hook_z", set_mean

    return model.run_with_hooks(tokens, fwd_hooks=[hook_for(layer, head) for layer, head in heads])
    ### END SOLUTION


# %%
check_ablate_heads(ablate_heads)

# %% [markdown] tags=["answer"]
# Each call of `hook_for` has a `layer` and a `head` of its own, and the function that it returns keeps them. A hook that is
# defined in the loop itself looks both up when the model runs. By then the loop has ended, and every hook writes the mean
# of the last head of the list. `run_with_hooks` takes its hooks off again; those put on with `add_hook` would stay for
# every later run.

# %% [markdown]
# The general versions are `tracing.mean_z(model, prompts)` and `Edit(heads, means)`. An `Edit` is a change of the model that can be put to many prompts: `edit.hooks()` gives hooks for any text, and `GuiseRuns(model, pairs, frames).gaps(U, F, edit)` the trait gaps, several times as fast as hooks, because it runs what the prompts share only once.
#
# **Take the means where they are used.** A head's average over quoted guises is a strange thing to write into a story about John and Mary. An earlier edition did just that, and then counted the damage to IOI as a property of the heads. So there are three sets of means: from guises (of the training verbs), for gaps; from IOI prompts with three different names, for IOI; and from other plain sentences, for the loss on plain text.

# %%
ioi, three_names = ioi_pairs(model), ioi_pairs(model, corruption="ABC").corrupted_text
TEXTS = [
    "The library opens at nine in the morning and closes at six, except on Sundays.",
    "Water boils at a lower temperature on a mountain, because the air pressure is lower there.",
    "She packed a lunch, checked the map twice, and set out along the river before sunrise.",
    "The committee will meet next week to decide which of the three bridges to repair first.",
    "Bake the bread for forty minutes, let it cool on a rack, and slice it with a sharp knife.",
]
OTHER_TEXTS = [
    "The train to the coast leaves every hour from the second platform, and it is rarely late.",
    "Most birds that nest here in spring fly south again before the first snow.",
    "He repaired the fence, painted the gate green, and planted beans along the wall.",
    "The museum bought two of the paintings and borrowed the rest from a private collection.",
    "Rinse the rice until the water runs clear, then simmer it gently under a closed lid.",
]
guises = [frame.format(side) for frame in (TRAIN_FRAME, *TEST_FRAMES) for pair in train for side in (pair.aae, pair.sae)]
means = {
    "guises": tracing.mean_z(model, guises),
    "ioi": tracing.mean_z(model, three_names),
    "text": tracing.mean_z(model, OTHER_TEXTS),
}


def ioi_score(edit: Edit) -> float:
    logits = inference.hooked_end_logits(model, ioi.clean_text, edit.hooks())  # [prompt, d_vocab]
    return logit_diff(logits[:, None], ioi.answer_tokens).item()


def text_loss(edit: Edit) -> float:
    return inference.next_token_loss(model, TEXTS, edit.hooks()).item()


ioi_intact, loss_intact = ioi_score(Edit()), text_loss(Edit())
ioi_lost = {kind: 1 - ioi_score(Edit(ranking[:20], means[kind])) / ioi_intact for kind in ("guises", "ioi")}
loss_added = {kind: text_loss(Edit(ranking[:20], means[kind])) - loss_intact for kind in ("guises", "text")}
compare("removal.means.ioi_lost_with_means_of_guises_and_of_ioi", list(ioi_lost.values()), model)
compare("removal.means.loss_added_with_means_of_guises_and_of_text", list(loss_added.values()), model)


# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# With means of guises, twenty heads cost 32 % of the IOI logit difference and .36 nats on plain text. With means of IOI prompts and of plain text they cost 25 % and .17 nats. So a fifth of the damage to IOI, and half of that to plain text, was made by the means and not by the missing heads.
# </details>
#
# ### Exercise 9.3 · How much is gone?
#
# > Difficulty: ●●○○○  Importance: ●●●●○  5 minutes
#
# From gaps before and after, return the share of the *mean* gap that was removed: 1 if nothing is left, 0 if nothing changed, above 1 if the sign turned, below 0
# if it grew.
#
# <details><summary>Hint</summary>
#
# One ratio of two means. A mean of ratios would be ruled by rows whose gap happened to be near zero.
# </details>

# %%
def share_removed(before: Float[Tensor, " row"], after: Float[Tensor, " row"]) -> Float[Tensor, ""]:
    """The share of the mean gap that is gone: 1 is all of it, 0 nothing, and below 0 it has grown."""
    ### BEGIN SOLUTION
    return 1 - after.mean() / before.mean()
    ### END SOLUTION


# %%
check_share_removed(share_removed)


# %% [markdown] tags=["answer"]
# The mean gap after the removal, divided by the mean gap before, is the share that is left. Both means keep the signs of
# their rows. With absolute values, a row that has crossed zero would count as a gap that is left, although more than all of
# it is gone. The result is not cut off at 0 or 1, because a share above 1 tells you that the sign has turned.

# %% [markdown]
# ### Exercise 9.4 · How much is gone, if signs mean nothing?
#
# > Difficulty: ●●●○○  Importance: ●●●●○  10 minutes
#
# The neutral swaps have gaps of both signs, and which word comes first is arbitrary. So their mean gap means nothing, and
# neither does a share of it. An earlier edition took the mean of their *sizes*, which cannot be compared with the signed share of exercise 9.3: a gap that jumps from +.1 to −.1 has not changed its size.
#
# Draw the line through zero that best predicts the gaps after from the gaps before (least squares). Its slope is what is left, and 1 minus the slope is what is gone. Return that.
#
# <details><summary>Hint 1 · a question</summary>
#
# If you turn a swap round, both its gap before and its gap after change their sign. Which combination of the two does not?
# </details>
# <details><summary>Hint 2 · the formula</summary>
#
# The slope of a line through zero is the sum of the products, divided by the sum of the squares of what stands on the x axis.
# </details>

# %%
def slope_removed(before: Float[Tensor, " swap"], after: Float[Tensor, " swap"]) -> Float[Tensor, ""]:
    """1 minus the slope of the least-squares line through zero that predicts the gaps after from the gaps before."""
    ### BEGIN SOLUTION
    return 1 - (before * after).sum() / (before * before).sum()
    ### END SOLUTION


# %%
check_slope_removed(slope_removed)


# %% [markdown] tags=["answer"]
# Turning a swap round changes the sign of both its gaps, but neither their product nor their squares, so the slope stays
# the same. A line with a constant would not: turning a swap round moves the mean of the gaps, and the line with it. The
# ratio of after to before does not depend on the order of the words either, but one swap with a gap near zero could rule
# the mean of these ratios. The slope weights each ratio by the square of the gap before.

# %% [markdown]
# ## 4 · Controls that could have won
#
# ### Exercise 9.5 · Heads drawn by lot, layer by layer
#
# > Difficulty: ●●●○○  Importance: ●●●●●  10 minutes
#
# Would any other heads have done as well? If you draw them from the whole model, most come from layers where nothing about the sentence is passed on, and the control is too easy to beat. So draw **as many heads from each layer as the list has**, among *all* heads of that layer, without drawing one twice. Heads of the list may be drawn: then, if the heads of a layer were interchangeable, the list itself would be one of these draws, and its rank among them is a p-value.
#
# `rng` is a `random.Random`. Use its methods, so that the same seed gives the same draw.
#
# <details><summary>Hint 1 · a question</summary>
#
# How many heads of each layer does the list have? `collections.Counter` counts.
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# `rng.sample(range(n_heads), n)` draws n *different* numbers; `rng.randrange` called n times may draw one twice.
# </details>

# %%
def matched_heads(heads: list[tuple[int, int]], n_heads: int, rng: random.Random) -> list[tuple[int, int]]:
    """As many different heads of every layer as `heads` has there, drawn by `rng` among all n_heads of the layer."""
    ### BEGIN SOLUTION
    counts = Counter(layer for layer, _ in heads)
    return [(layer, head) for layer, n in counts.items() for head in rng.sample(range(n_heads), n)]
    ### END SOLUTION


# %%
check_matched_heads(matched_heads)

# %% [markdown] tags=["answer"]
# `Counter` says how many heads each layer has to give, and one call of `rng.sample` draws all of them. One head for each
# layer in `set(layers)` is too few, because a layer may occur several times. It is tempting to leave the heads of the list
# out, since they are what you compare with. But then no draw could be the list itself, and its rank among the draws would
# not be a p-value.

# %% [markdown]
# Here is a first use of such draws. It costs one more patching sweep. Does the *ranking* hold for sentences that did not
# make it? Patch every head once more, on three held-out verbs in a prompt in other words, and add up the shares of the top five and the top twenty. A thousand matched lists say what lists from the same layers add up to.

# %%
effect_held_out = effects_of(held_out[:3], TEST_FRAMES[3])
sums, ranking_p = {}, {}
for k in (5, 20):
    own = sum(effect_held_out[pair] for pair in ranking[:k]).item()
    drawn = [
        sum(effect_held_out[pair] for pair in removing.matched_heads(ranking[:k], n_heads, random.Random(seed))).item()
        for seed in range(1000)
    ]
    sums[k] = [own, *np.quantile(drawn, (0.025, 0.5, 0.975))]
    ranking_p[k] = (1 + sum(value >= own for value in drawn)) / 1001
    compare(f"removal.ranking.top_{k}.held_out_share_and_matched", sums[k], model)
    compare(f"removal.ranking.top_{k}.p", ranking_p[k], model)
agreement = np.corrcoef(effect.flatten(), effect_held_out.flatten())[0, 1]
compare("removal.ranking.correlation_of_effects", agreement, model)


# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# The top five add up to .38 of the held-out gap. Matched lists add up to .10 in the middle, and 95 % of them lie between −.14 and .39: p = .03. The top twenty add up to 1.23, against .39, [−.13, .93]: p = .002. Head by head the two sets of effects correlate at .38. So the ranking holds for other words and wording, loosely. Note how much a list of *random* heads from these layers carries: more than a third of the gap, for twenty.
# </details>
#
# ### Exercise 9.6 · A direction, at one position
#
# > Difficulty: ●●●●○  Importance: ●●●●○  15 minutes
#
# Heads are a coarse unit: each carries many things. Chapter 08 found that in the middle layers much of the difference sits at the closing quotation mark: on SmolLM2, .71 of the gap of *done* in layer 13. So one can try something smaller: take one **direction** out of the stream, there.
#
# Return the logits of a run in which, before layer `layer`, the stream at each row's own position has no component along `direction`: $x - (x \cdot \hat d)\,\hat d$, where $\hat d$ is the direction scaled to length 1.
#
# <details><summary>Hint 1 · shapes</summary>
#
# With `rows = torch.arange(len(tokens))`, `stream[rows, positions]` is `[batch, d_model]`: one vector per row. The stream before a layer is `hook_resid_pre`.
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# The component is one number per row. It needs one more axis at its end, `[:, None]`, before it multiplies the unit vector.
# </details>

# %%
def run_projected(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    direction: Float[Tensor, " d_model"],
    layer: int,
    positions: Int[Tensor, " batch"],
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits with the direction taken out of the stream before a layer, at one position of each row. Leaves no hooks."""
    ### BEGIN SOLUTION
    unit = direction / direction.norm()
    rows = torch.arange(len(tokens))

    def take_out(stream, hook):
        stream = stream.clone()
        x = stream[rows, positions]  # batch d_model
        stream[rows, positions] = x - (x @ unit)[:, None] * unit
        return stream

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", take_out)])
    ### END SOLUTION


# %%
check_run_projected(run_projected)

# %% [markdown] tags=["answer"]
# Two index tensors of the same length are read as pairs: row 0 with the first position, row 1 with the second. With a colon
# in place of `rows`, every row would be changed at the positions of all rows. If the direction is not scaled to length 1, the
# part that you subtract is off by a factor, the square of the direction's length. The edit acts at this one place only: later
# layers may write the direction again.

# %% [markdown]
# The general version is `Edit(direction=…, layer=…, quote_only=True)`. The direction of *done* is the mean difference between the two guises of the *training* verbs. In which layer? We let the training verbs choose that, too: here is what is removed of their own gap, layer by layer.

# %%
train_runs = GuiseRuns(model, train, dialect.frames("paper")[2:6])


def direction_at(layer: int, runs: GuiseRuns | None = None) -> Float[Tensor, " d_model"]:
    """The mean difference of the stream before this layer at the closing quotation mark: first guise minus second.

    runs: of which pairs (None: the training verbs of done).
    """
    first, second = (runs or train_runs).at_quote(layer)
    return (first - second).mean((0, 1))


def gone_of_train(layer: int) -> float:
    edit = Edit(direction=direction_at(layer), layer=layer, quote_only=True)
    return 1 - (train_runs.gaps(U, F, edit).mean() / train_runs.gaps(U, F).mean()).item()


layers_tried = range(1, n_layers, 3) if n_layers > 12 else range(1, n_layers)
by_layer = [gone_of_train(layer) for layer in layers_tried]
plots.line(
    by_layer,
    "The direction of done, taken out at the closing quote: what goes of the gap of the training verbs",
    x="before layer",
    y="share removed",
    x_labels=list(layers_tried),
)

# %%
quote = layers_tried[int(np.argmax(by_layer))]
compare("removal.direction.layer", quote, model)
compare("removal.direction.train_share", max(by_layer), model)

# %% [markdown]
# ## 5 · What goes
#
# Now everything at once, on held-out verbs in prompts in other words: heads, directions, and their controls.
#
# ### Predict before you look
#
# Five heads are few (SmolLM2 has 270), and twenty are a lot. Answer `"yes"` or `"no"`:
#
# - Do the top five remove more of the held-out gap than *every* matched draw of five?
# - Does IOI survive five *random* heads (losing less than a tenth, on average)?
# - Does the direction of plain errors (*he can working*, chapter 08) remove a tenth of the gap of *done*?

# %%
prediction = {"top five beat every draw": None, "IOI survives five random heads": None, "the errors' direction removes a tenth": None}

# %% tags=["solution"]
prediction = {  # what we guessed
    "top five beat every draw": "yes",
    "IOI survives five random heads": "yes",
    "the errors' direction removes a tenth": "yes",
}

# %%
SWAPS = dialect.swap_names()[::3]
swap_pairs = [dialect.swap_pairs(name, 7)[6] for name in SWAPS]  # one held-out verb each
runs = {"done": GuiseRuns(model, held_out, TEST_FRAMES), "swaps": GuiseRuns(model, swap_pairs, TEST_FRAMES[:2])}
intact = {name: one.gaps(U, F) for name, one in runs.items()}  # [pair, frame] each


def outcome(edits: dict[str, Edit], side_effects: bool = True) -> dict:
    """Everything that is measured of one edit, which may have other means for each kind of text; or the gap of done alone."""
    after = runs["done"].gaps(U, F, edits["guises"])
    found = {"table": after, "gap of done removed": (1 - after.mean() / intact["done"].mean()).item()}
    if not side_effects:
        return found
    change = uptake(edits["guises"]) - as_it_is
    swaps_after = runs["swaps"].gaps(U, F, edits["guises"]).mean(1)
    found |= {
        "swaps removed": removing.slope_removed(intact["swaps"].mean(1), swaps_after).item(),
        "uptake AAE": change[0].item(),
        "uptake SAE": change[1].item(),
    }
    if edits["guises"].quote_only:  # IOI prompts and plain text have no closing quotation mark: there is nothing to measure
        return found
    return found | {
        "IOI lost": 1 - ioi_score(edits["ioi"]) / ioi_intact,
        "loss added": text_loss(edits["text"]) - loss_intact,
    }


def without_heads(heads: list[tuple[int, int]], side_effects: bool = True) -> dict:
    return outcome({kind: Edit(heads, mean) for kind, mean in means.items()}, side_effects)


def without_direction(direction: Tensor, layer: int, quote_only: bool = True, side_effects: bool = True) -> dict:
    edit = Edit(direction=direction, layer=layer, quote_only=quote_only)
    return outcome(dict.fromkeys(means, edit), side_effects)


# %%
error_pairs = [pair for pairs in nulls.null_pairs("errors", 2).values() for pair in pairs]
other_features = [pair for name in dialect.feature_names() if name != "done" for pair in dialect.pairs_of(name, 2)]
of_others = {
    "errors": direction_at(quote, GuiseRuns(model, error_pairs, [TRAIN_FRAME])),
    "features": direction_at(quote, GuiseRuns(model, other_features, [TRAIN_FRAME])),
}
results = {
    "top 5 heads": without_heads(ranking[:5]),
    "top 20 heads": without_heads(ranking[:20]),
    "5 heads, by size": without_heads(by_size[:5]),
    "done, at the quote": without_direction(direction_at(quote), quote),
    "done, everywhere": without_direction(direction_at(quote), quote, quote_only=False),
    "12 other features, quote": without_direction(of_others["features"], quote),
    "20 errors, quote": without_direction(of_others["errors"], quote),
}
later = int(0.6 * n_layers)  # another choice: about where the difference reaches the last token (chapter 08)
elsewhere = without_direction(direction_at(later), later, side_effects=False)

# %%
DRAWS, WITH_SIDE_EFFECTS = {5: 19, 20: 9}, 3
drawn = {
    k: [
        without_heads(removing.matched_heads(ranking[:k], n_heads, random.Random(seed)), seed < WITH_SIDE_EFFECTS)
        for seed in range(n)
    ]
    for k, n in DRAWS.items()
}
generator = torch.Generator().manual_seed(0)
at_random = [
    without_direction(torch.randn(model.cfg.d_model, generator=generator), quote, side_effects=i < 1) for i in range(3)
]
swap_runs = GuiseRuns(model, [pair for name in SWAPS for pair in dialect.swap_pairs(name, 3)], [TRAIN_FRAME])
first, second = (side.unflatten(0, (len(SWAPS), 3)).mean((1, 2)) for side in swap_runs.at_quote(quote))  # [swap, d_model] each
of_swaps = [without_direction(direction, quote, side_effects=i < 2) for i, direction in enumerate(first - second)]
controls = {f"{k} matched heads ({n} draws)": drawn[k] for k, n in DRAWS.items()}
controls |= {"random direction, quote (3)": at_random, f"a swap's direction, quote ({len(of_swaps)})": of_swaps}

# %%
COLUMNS = ["gap of done removed", "swaps removed", "IOI lost", "loss added", "uptake AAE", "uptake SAE"]


def shown(found: dict) -> dict:
    """One row of the table: the gap that is left with its interval, how much went with its interval, and the rest."""
    left, went = stats.anova_interval(found["table"]), stats.anova_interval(intact["done"] - found["table"])
    row = {
        "gap left": f"{found['table'].mean():.2f} [{left[0]:.2f}, {left[1]:.2f}]",
        "gap that went": f"{(intact['done'] - found['table']).mean():.2f} [{went[0]:.2f}, {went[1]:.2f}]",
    }
    return row | {column: f"{found[column]:+.2f}" if column in found else "n/a" for column in COLUMNS}


def values_of(found: list[dict], column: str) -> list[float]:
    """A column of all the draws for which it was measured."""
    return [one[column] for one in found if column in one]


def mean_of(found: list[dict], column: str) -> float:
    """The mean of a column over draws, nan where it was measured in none."""
    values = values_of(found, column)
    return float(np.mean(values)) if values else float("nan")


def shown_range(found: list[dict]) -> dict:
    """One row of a control: mean over draws, smallest and largest."""
    values = {column: values_of(found, column) for column in COLUMNS}
    row = {"gap left": f"{np.mean([one['table'].mean() for one in found]):.2f}", "gap that went": ""}
    return row | {c: f"{np.mean(v):+.2f} ({min(v):+.2f} to {max(v):+.2f})" if v else "n/a" for c, v in values.items()}


low, high = stats.anova_interval(intact["done"])
table = {"nothing": {"gap left": f"{intact['done'].mean():.2f} [{low:.2f}, {high:.2f}]"}}
table |= {name: shown(found) for name, found in results.items()}
table |= {name: shown_range(found) for name, found in controls.items()}
pd.DataFrame(table).T.fillna("").rename_axis("taken out")

# %%
print(
    "Shares are of what there was before: 1 is all of it, below 0 is more than before. Loss and uptake are in nats.\n"
    "Intervals are over verbs and prompts (chapter 07); in brackets after a control, its smallest and largest draw.\n"
    f"To save time, only the first few draws of a control ({WITH_SIDE_EFFECTS} of heads) have the columns after the first.\n"
    "n/a: the edit changes only what stands at a closing quotation mark, and these texts have none."
)
plots.bar(
    {column: [mean_of([found], column) for found in results.values()] + [mean_of(found, column) for found in controls.values()] for column in COLUMNS[:3]},
    "What goes with heads and directions, and with their controls",
    x="what is taken out",
    y="share",
    x_labels=[*results, *controls],
)

# %%
beaten = {k: [one["gap of done removed"] for one in drawn[k]] for k in DRAWS}
draw_p = {k: (1 + sum(v >= results[f"top {k} heads"]["gap of done removed"] for v in beaten[k])) / (1 + DRAWS[k]) for k in DRAWS}
ioi_random = np.mean(values_of(drawn[5], "IOI lost"))
errors_remove = results["20 errors, quote"]["gap of done removed"]
measured = {
    "top five beat every draw": draw_p[5] <= 1 / (1 + DRAWS[5]),
    "IOI survives five random heads": ioi_random < 0.1,
    "the errors' direction removes a tenth": errors_remove >= 0.1,
}
score_predictions(prediction, {question: "yes" if holds else "no" for question, holds in measured.items()})
compare("removal.intact", [intact["done"].mean(), *stats.anova_interval(intact["done"])], model)
went = stats.anova_interval(intact["done"] - elsewhere["table"])
compare("removal.direction.another_layer", [later, elsewhere["gap of done removed"], *went], model)
for name, found in results.items():
    key = name.replace(",", "").replace(" ", "_")
    compare(f"removal.{key}", [found[column] for column in COLUMNS if column in found], model)
    compare(f"removal.gap_left.{key}", [found["table"].mean(), *stats.anova_interval(found["table"])], model)
for name, found in controls.items():
    key = name.split(" (")[0].replace(",", "").replace("'", "").replace(" ", "_")
    compare(f"removal.control.{key}", [mean_of(found, column) for column in COLUMNS if values_of(found, column)], model)
    compare(f"removal.most_of_the_gap.{key}", max(one["gap of done removed"] for one in found), model)
compare("removal.rank_p_among_matched_draws", list(draw_p.values()), model)

# %% [markdown]
# **How to read it.** Go through the four yardsticks, column by column, and hold every row against the controls *of its kind*, never against zero. "Swaps removed" is the null of chapter 07, *under ablation*: if it is as large as the share of *done*, what was removed carried **what was said**, whatever was said.
#
# *What do you see?* What would you have concluded from the first column alone? And from the first and the IOI column?
# <details><summary>What we see, for SmolLM2</summary>
#
# **Heads.** The top five remove .45 of the gap, and .19 logits, [.06, .32]. No matched draw of five removes as much: the mean is .10 and the most .43, so p = .05, the smallest that nineteen draws allow. That is weak evidence: one better draw
# would have made it .10. The top twenty remove .80; nine draws of twenty remove .34 on average and at most .57. Ranked by size, with its two heads that work against the gap, a list of five removes only .29.
#
# **What else goes.** The top five leave the rest nearly alone: they take .11 of the swaps' gaps, nothing of IOI,
# and add .03 nats of loss. Five *random* heads (three draws) do hardly more harm: the swaps' gaps grow by .06, IOI loses
# .03, and .03 nats of loss are added. So passing these tests is no praise of the list. (Uptake is the exception. After AAE
# guises the list takes .04 nats of it, and the random heads take .22 on average, from .06 to .42.) Twenty heads take .53 of the gaps of swaps, where three random draws take .17 (.05 to .35).
# So these heads carry much of what tells one quotation from another, whatever its words are. The uptake of AAE falls by 1.65
# nats. In the same three draws it falls by .55 on average, and in none by more than 1.32. After SAE guises the verb becomes
# *likelier*, by .77, but so it does in one of the three draws, by .92. By this crude sign (one prompt, five verbs), the loss
# falls on what is said in AAE. That is close to the harm of section 1. IOI (.25) and loss (.17 nats) suffer as well, two to
# three times as much as with random heads (.08 and .08).
#
# **Directions.** On the training verbs, in prompts of the kind that made it, the direction of *done* in layer 13 removes .71 of the gap. On other verbs in other prompts it removes .18, and .07 logits, [.02, .13]. The difference between .71 and .18 is what testing on held-out words and prompts is for. (Part of it is selection: .71 is the best of ten layers.) At the quote the edit hardly moves swaps (−.05) and uptake (+.02 after AAE, +.09 after SAE).
# It cannot touch IOI or plain text, which have no closing quote. No swap's direction removes more than .12 of the gap of *done*. (Each of those is a mean over one prompt, and that of *done* over four, so this control is a little weak.) Made and taken out in layer 18,
# the direction of *done* removes .20 of the gap, or .09 logits, [.05, .12]. Taken out at all positions, that of layer 13 removes no more, and costs .07 of IOI and .10 nats, more than the top five heads do. So at the quote it is a clean edit of a small part of the gap.
#
# **Errors, and other features.** The direction of plain errors removes nothing of the gap of *done* (−.02). Nor does the common direction of the twelve *other* features (.03, [−.02, .04] logits). So this result says nothing about errors in particular: in layer 13, the small part of the gap that one direction carries is particular to *done*. (These two directions, too, are means over one prompt.) What features and errors share appears in later layers (chapter 08), and was not removed here.
# </details>
#
# **What it does not show.** Nineteen draws say roughly what chance does, not exactly: no p-value can be below 1/20, and with nine none below 1/10. And a share of a small gap is an unsteady
# number. That is why the table also has the gap that is left, and the gap that went, with intervals over verbs and prompts.
#
# **Try.** Choose the heads for another feature (`dialect.pairs_of("been", 12)` is not aligned; `existential_it` is), and measure *done*. Which columns change?
# <details><summary>What you should find, on SmolLM2</summary>
#
# Heads chosen for *it's* / *there's* remove nearly as much of the gap of *done* as its own heads do: .41 with five of them, and .79 with twenty. The two lists of five have no head in common, and the lists of twenty share six. What changes is the price. The five heads take .23 of the gaps of swaps and .96 nats of the uptake of AAE, where the own five take .11 and .04 nats, and they add .11 nats of loss in place of .03. The twenty take as much of the gaps of swaps as the own twenty do (.54), but 2.14 nats of the uptake of AAE in place of 1.65, and less of IOI (.09 in place of .25).
# </details>
#
# ### With another prefix
#
# Here are the same heads with the end-of-text token in front. Their means, and the direction of *done*, are made anew there from the training verbs: the means in the prompts of the test, as before, and the direction in prompts that are not tested.

# %%
other_gone = {}
try:
    with behind(model, "end-of-text") as front:
        other_train, other_runs = (GuiseRuns(model, some, front(TEST_FRAMES)) for some in (train, held_out[:3]))
        makers = GuiseRuns(model, train, front(dialect.frames("paper")[2:6]))  # as train_runs, of section 4
        other_means = tracing.mean_z(model, other_train.prompts)
        before = other_runs.gaps(U, F)
        edits = {
            "top 5 heads": Edit(ranking[:5], other_means),
            "top 20 heads": Edit(ranking[:20], other_means),
            "done, at the quote": Edit(direction=direction_at(quote, makers), layer=quote, quote_only=True),
        }
        other_gone = {name: 1 - (other_runs.gaps(U, F, edit).mean() / before.mean()).item() for name, edit in edits.items()}
    compare("removal.end_of_text.intact", [before.mean(), *stats.anova_interval(before)], model)
    compare("removal.end_of_text.removed", list(other_gone.values()), model)
except dialect.DialectError as lacking:
    print(lacking)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# After the end-of-text token the gap is .31, with an interval from −.19 to .82, so there is little to remove that one can be sure of. The shares are .46 and .91 for the heads and .16 for the direction. If the gap itself may be zero, a share of it means little, so we give no interval.
# </details>
#
# ## 6 · The mirror
#
# Turn the experiment round. Take a swap that has nothing to do with dialect, choose heads for *it* in just the same way, and measure both gaps.
#
# ### Interpret: whose heads are they?
#
# For each length of the lists, five and twenty, choose what the figure below will show:
#
# - **a** Each list does clearly more to its own gap than to the other's, in *both* directions: the lists are about words.
# - **b** Only the list chosen for *done* is selective. (This could speak for heads of the dialect.)
# - **c** The list chosen for *done* is not selective: what it does to the other gap is about as much as what it does to its own.
#
# "Clearly" means by a quarter of the gap, or more. Your choice is scored on *once* / *twice*.

# %%
choice = {"five heads": None, "twenty heads": None}

# %% tags=["solution"]
choice = {"five heads": "a", "twenty heads": "c"}  # what we guessed

# %% [markdown]
# Two mirrors are better than one: *once* / *twice*, which has the largest gap of all swaps, and *car* / *truck*, which stands elsewhere in the sentence. Each gap is measured with the means of its own sentences.

# %%
MIRRORS = ("once/twice", "car/truck")
mirror_effects, gone = {}, {}
done_gone = {k: results[f"top {k} heads"]["gap of done removed"] for k in (5, 20)}
for name in MIRRORS:
    of_train = dialect.swap_pairs(name, 3)
    mirror_effects[name] = effects_of(of_train, TRAIN_FRAME)
    own_means = tracing.mean_z(model, [frame.format(side) for frame in TEST_FRAMES for pair in of_train for side in (pair.aae, pair.sae)])
    mirror_runs = GuiseRuns(model, dialect.swap_pairs(name, 9)[6:], TEST_FRAMES)
    before = mirror_runs.gaps(U, F).mean()
    for k in (5, 20) if name == MIRRORS[0] else (5,):
        for chosen_for, heads in (("done", ranking[:k]), (name, ranked(mirror_effects[name])[:k])):
            of_mirror = 1 - (mirror_runs.gaps(U, F, Edit(heads, own_means)).mean() / before).item()
            of_done = done_gone[k] if chosen_for == "done" else without_heads(heads, side_effects=False)["gap of done removed"]
            gone[name, k, chosen_for] = [of_done, of_mirror]
plots.bar(
    {f"{k} heads for {chosen_for} ({name})": values for (name, k, chosen_for), values in gone.items()},
    "Heads chosen for done, and heads chosen for a neutral swap: what goes?",
    x="what is measured (held-out words and prompts)",
    y="share removed",
    x_labels=["gap of done / has", "gap of the neutral swap in brackets"],
)


# %%
def whose(k: int, name: str = MIRRORS[0]) -> str:
    for_done, for_mirror = gone[name, k, "done"], gone[name, k, name]
    own, others = for_done[0] - for_done[1] >= 0.25, for_mirror[1] - for_mirror[0] >= 0.25
    return "a" if own and others else "b" if own else "c"


score_predictions(choice, {"five heads": whose(5), "twenty heads": whose(20)})
for (name, k, chosen_for), values in gone.items():
    compare(f"removal.mirror.{name}.{k}_for_{chosen_for}".replace("/", "_"), values, model)
compare("removal.mirror.second_mirror", whose(5, MIRRORS[1]), model)
mirror_effect = mirror_effects[MIRRORS[0]]
mirror_ranking = ranked(mirror_effect)


# %% [markdown]
# The lists themselves are evidence, too. How many of their twenty heads do they share, and is that more than chance?
# Exercise 9.7 gives the probability for lists drawn from the whole model. Both lists favor the middle layers, and so they
# would share some heads even if nothing else tied them together. The matched draws of exercise 9.5 allow for that.
#
# ### Exercise 9.7 · More overlap than chance?
#
# > Difficulty: ●●●○○  Importance: ●●●○○  10 minutes
#
# You get two lists of heads of a model with `n_total` heads. Count the heads that are in both. Return the probability that
# two lists of the same lengths, drawn at random from the `n_total` heads, share *at least* as many.
#
# <details><summary>Hint 1 · a question</summary>
#
# Does the order of a ranking matter here? What does Python offer for "in both"?
# </details>
# <details><summary>Hint 2 · the tool</summary>
#
# `scipy.stats.hypergeom` has a survival function `sf(x, M, n, N)`: M things, n of them marked, N drawn.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# `sf(x, …)` is the probability of *more than* x. You need "at least as many".
# </details>

# %%
def overlap_p(one: list[tuple[int, int]], other: list[tuple[int, int]], n_total: int) -> float:
    """P(at least as many shared heads | both lists drawn at random), hypergeometric."""
    ### BEGIN SOLUTION
    shared = len(set(one) & set(other))
    return float(scipy.stats.hypergeom.sf(shared - 1, n_total, len(one), len(other)))
    ### END SOLUTION


# %%
check_overlap_p(overlap_p)

# %% [markdown] tags=["answer"]
# If you call the heads of one list marked, the other list is a draw without replacement, and the number of marked heads in it
# has a hypergeometric distribution. This number is whole, so "at least `shared`" is the same as "more than `shared - 1`". The
# probability of *exactly* this number (`pmf`) does not say how unusual an overlap is, because even the likeliest number can
# have a small probability. Sets ignore the order, where a comparison place by place would ask for the same rank as well.

# %%
n_total, K = n_layers * n_heads, 20


def overlap(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> tuple[int, float, float]:
    """Heads in common; the probability of as many for random lists; and for lists from the same layers as the first."""
    common = len(set(one) & set(other))
    anywhere = float(scipy.stats.hypergeom.sf(common - 1, n_total, len(one), len(other)))  # exercise 9.7
    matched = [len(set(removing.matched_heads(one, n_heads, random.Random(seed))) & set(other)) for seed in range(9999)]
    return common, anywhere, (1 + sum(count >= common for count in matched)) / 10000


in_common, chance, chance_matched = overlap(ranking[:K], mirror_ranking[:K])
compare("removal.mirror.heads_in_common", in_common, model)
compare("removal.mirror.overlap_p", f"{chance:.0e}", model)
compare("removal.mirror.overlap_p_matched", chance_matched, model)
compare("removal.mirror.correlation_of_effects", np.corrcoef(effect.flatten(), mirror_effect.flatten())[0, 1], model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# **Twenty: c.** The list chosen for *done* removes .80 of its gap and .62 of that of *once* / *twice*. The list chosen for *once* / *twice* removes .71 of its own, and .80 of the gap of *done*: as much as the list that was chosen for it. Nine of the twenty heads are the same. For random lists the probability is one in a million, and for lists from the same layers p = .0004.
#
# **Five: b**, and this is the trap. The list chosen for *done* looks selective: .45 of its own gap, .13 of the other. The list chosen for *once* / *twice* does not: .38 and .27. "Heads of the dialect"? The second mirror says no. The five heads chosen for *car* / *truck* remove .42 of the gap of *done*, and .03 of their own. They have never seen the dialect. What differs is how easily the gaps are disturbed. That of *done* falls with the top five of either swap (.27 and .42), though little with random heads (.10 on average). That of *car* / *truck* hardly falls even with its own five. Selectivity has to be measured against what other lists do to the *same* gap.
# </details>
#
# **What it does not show.** Two mirrors are two swaps. With others the bars differ; what they test stays the same.
#
# **Try.** `MIRRORS = ("again/often", "then/later")`. How much of *done* do their heads take?
# <details><summary>What you should find, on SmolLM2</summary>
#
# Five heads chosen for *again* / *often* remove .46 of the gap of *done*, as much as its own five, and those for *then* / *later* .31. With twenty heads it is .64 and .60. (The cell tries twenty only for the first of `MIRRORS`; exchange the two to see the second number.) None of these lists was chosen with a word of AAE.
# </details>
#
# ## 7 · Why surviving IOI says little
#
# IOI is solved by particular heads (chapter 03). If the removed heads are other ones, IOI should survive. But that would be true of *any* removal that
# misses them.

# %%
ioi_effect = run_experiment(model, ioi[:4]).denoise(patching.get_act_patch_attn_head_out_all_pos)
ioi_heads = ranked(ioi_effect)[:K]
with_ioi, ioi_chance, _ = overlap(ranking[:K], ioi_heads)
print(f"shared by both top {K}: {[head_name(*pair) for pair in sorted(set(ioi_heads) & set(ranking[:K]))]}")
print(f"expected by chance: {K * K / n_total:.1f}")
plots.scatter(
    effect,
    ioi_effect,
    "Every head's part in the gap and in IOI",
    x="share of the gap of done / has restored",
    y="share of the IOI logit difference restored",
    labels=[head_name(*divmod(i, n_heads)) for i in range(n_total)],
)

# %%
compare("removal.shared_with_ioi", with_ioi, model)
compare("removal.shared_with_ioi_p", ioi_chance, model)


# %% [markdown]
# **How to read it.** Points far to the right or left matter for the gap, points far up or down for IOI. Points in the corners matter for both.
#
# *What do you see?* Look back at the IOI column of the table, and at its controls. What does it say about the top heads that IOI survives the loss of five of them, or suffers from the loss of twenty?
# <details><summary>What we see, for SmolLM2</summary>
#
# The lists share two of twenty heads, where chance gives 1.5 (p = .45). So one would have expected IOI to survive, and for the top five it does: it loses nothing. But with five random heads it loses .03. A control that random heads pass as well cannot tell them from the top five. With twenty heads IOI does lose .25, although the lists have hardly a head in common, and twenty random heads cost it .08. Two lists of "top heads" without overlap do not mean two separate mechanisms: what is below the cut of a ranking matters too.
#
# So IOI was a poor control, for two reasons. Random heads pass it as well, so passing it says nothing about the top five.
# And it asks about a sentence without a quotation, while the heads in question pass on what is quoted. The swaps and the uptake of section 5 ask about the same kind of sentence, and they are the columns in which the price shows most directly.
# </details>
#
# ## 8 · What a careful claim looks like
#
# > *On [model], replacing the five heads that restore most of the gap of* done / has *by their means removed [x] of the gap on held-out verbs and prompts, [interval]. Nineteen draws of five heads from the same layers removed [mean], at most [largest]. The gaps of twelve neutral swaps fell by [slope]. With another prefix it was [y].*
#
# Here are this chapter's claims in that form. Each has what it was compared with, and the result that would have changed it.

# %%
def interval_of(found: dict) -> str:
    low, high = stats.anova_interval(intact["done"] - found["table"])
    return f"{low:.2f} to {high:.2f} logits"


def range_of(found: list[dict], column: str = "gap of done removed") -> str:
    values = values_of(found, column)
    return f"{np.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"


five, twenty, at_quote = (results[name] for name in ("top 5 heads", "top 20 heads", "done, at the quote"))
here = {name: f"bos; end-of-text {share:.2f}" for name, share in other_gone.items()}
claims = [
    ("the top five heads carry part of the gap", f"{five['gap of done removed']:.2f}", interval_of(five), here.get("top 5 heads", "bos"),
     f"19 matched draws: {range_of(drawn[5])}", f"a matched draw that removes as much (p {draw_p[5]:.2f})"),
    ("the top twenty carry most of it", f"{twenty['gap of done removed']:.2f}", interval_of(twenty), here.get("top 20 heads", "bos"),
     f"9 matched draws: {range_of(drawn[20])}", f"a matched draw that removes as much (p {draw_p[20]:.2f})"),
    ("and half of the swaps' gaps, taken together", f"{twenty['swaps removed']:.2f}", f"slope over {len(SWAPS)} swaps", "bos",
     f"{WITH_SIDE_EFFECTS} matched draws: {range_of(drawn[20], 'swaps removed')}", "swaps that stay as they were"),
    ("and much of what is said in AAE", f"{twenty['uptake AAE']:.2f} nats", f"{len(held_out)} verbs", "bos",
     f"{WITH_SIDE_EFFECTS} matched draws: {range_of(drawn[20], 'uptake AAE')}", "uptake as with matched draws"),
    ("a direction at the quote carries a small part", f"{at_quote['gap of done removed']:.2f}; in training prompts {max(by_layer):.2f}",
     interval_of(at_quote), here.get("done, at the quote", "bos"), f"directions of swaps: {range_of(of_swaps)}", "a swap's direction that removes as much of done"),
    ("and hardly moves swaps", f"{at_quote['swaps removed']:.2f}", f"slope over {len(SWAPS)} swaps", "bos",
     f"random direction: {range_of(at_random, 'swaps removed')}", "swaps that fall with it"),
    ("the direction of errors does not carry it", f"{errors_remove:.2f}", interval_of(results["20 errors, quote"]), "bos",
     f"12 other features: {results['12 other features, quote']['gap of done removed']:.2f}", "as much as the direction of done"),
    ("twenty heads chosen for one swap overlap with the top twenty", f"{in_common} of 20", f"p {chance_matched:.4f}", "bos",
     "lists from the same layers", "an overlap of one or two heads"),
]
pd.DataFrame(claims, columns=["claim", "number", "interval", "prefix", "null or control", "what would change it"]).set_index("claim")

# %% [markdown]
# All of them are for one model and one feature. The gap of *done* was measured on five held-out verbs in four prompts (three
# verbs after end-of-text), the swaps on one verb each in two prompts, and uptake in a single prompt. The last claim rests on
# the training verbs, one prompt and one swap. Where the prefix is *bos* alone, nothing is known about others. The claims are
# worded for SmolLM2. With another model, check them against the numbers beside them.
#
# **What was not shown:** that prejudice has been removed from anything. A gap that
# is closed because the model no longer takes in what is said is not a fairer model. A trait gap is not the harm itself, which happens where a model's judgment is used. And a person's speech is not the model's only way to guess who
# they are. The reverse holds too: that a gap could *not* be removed cleanly here does not mean that this model is past help, or that "no head is biased" and therefore nothing is.
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `tracing.mean_z(model, prompts)` | every head's mean output over real tokens |
# | `Edit(heads, means)`, `Edit(direction=…, layer=…)` | a change of the model; `.hooks()` for any text |
# | `GuiseRuns(model, pairs, frames)` | `.gaps(U, F, edit)`, `.end_logits(tokens, edit)`, `.at_quote(layer)`: many edits on the same prompts |
# | `removing.matched_heads`, `slope_removed` | draws from the same layers; the share of gaps whose sign means nothing |
# | `inference.next_token_loss` | loss of a changed run |
# | `patching.get_act_patch_attn_head_out_all_pos` | the ranking |
# | `scipy.stats.hypergeom.sf` | overlap of two lists by chance |
#
# **Glossary.** *Held out*: not used to choose what is tested. *Matched draw*: as many heads of each layer as a list has, drawn by lot. *Mean ablation*: replacing a head's output by its average. *Projecting out*: taking away a vector's component along a direction. *Side effect*:
# what else a change changes. *Specific*: changes what it should and not what is like it. *Training verbs*: here, those that chose heads and directions; nothing is trained. *Uptake*: using what was said.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Blodgett et al. 2020, [Language (Technology) is Power: A Critical Survey of “Bias” in NLP](https://arxiv.org/abs/2005.14050). It asks what papers on bias measure, whom the bias harms, and why that needs to be said first.
# - Gonen and Goldberg 2019, [Lipstick on a Pig: Debiasing Methods Cover up Systematic Gender Biases in Word Embeddings But do not Remove Them](https://arxiv.org/abs/1903.03862). It finds that bias which had been removed from word vectors was still there, only harder to see.
# - Ravfogel et al. 2020, [Null It Out: Guarding Protected Attributes by Iterative Nullspace Projection](https://arxiv.org/abs/2004.07667). It removes a property by projecting out, one after another, the directions that predict it.
# - Belrose et al. 2023, [LEACE: Perfect linear concept erasure in closed form](https://arxiv.org/abs/2306.03819). It removes everything that a linear classifier could use, with the smallest change.
# - Hase et al. 2023, [Does Localization Inform Editing? Surprising Differences in Causality-Based Localization vs. Knowledge Editing in Language Models](https://arxiv.org/abs/2301.04213). It finds that knowing where a fact is stored hardly tells you where to edit it.
