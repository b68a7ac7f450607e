# %% [markdown]
# # 09 · Can it be removed, and what else goes?
#
# Ninety minutes. If some heads carry a prejudice, switch them off. This chapter does that, with success, and then asks the questions that turn
# the success into something else: does it hold for sentences that did not choose the heads? would any other heads have done? what else
# disappeared?
#
# African American English (AAE) is a rule-governed variety of English, and the prejudice studied here is the model's (chapter 07). **Content note:** unkind
# adjectives appear as predictions.
#
# **Should one?** Ask this before you ask how. If a model treats speakers of a dialect unfairly, something should change. But a model that no longer takes in what is said in a dialect does not treat its speakers fairly either: it serves them worse. So the aim cannot be that AAE and SAE make no difference anywhere. It can only be that the *judgment of the person* does not depend on the dialect, while
# everything else that the model does with the sentence stays. Keep this in mind when a number goes to zero.
#
# You will be able to
# - replace heads by their means, and say what the mean was taken over;
# - test a removal on held-out words and prompts, against random heads, and for side effects;
# - tell "it survived one control" from "it is specific";
# - write a claim that says no more than was measured.

# %% [markdown] tags=["model"]
# **The model.** `load_model()` prints which model you have. Every figure of the course was computed on SmolLM2-135M-Instruct, a
# small chat model whose 4-bit weights are converted back to ordinary numbers. Here it reads plain text behind its BOS token,
# `<|im_start|>`, and not a chat. With gpt2-small, the model of Wang et al. 2022, the code is the same and the numbers differ;
# the chapters have not been run on it yet. `load_model("gpt2-small")` takes it, where a model hub can be reached.

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

import scipy.stats
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import check_ablate_heads, check_mean_z, check_overlap_p, check_share_removed
from utils import dialect, inference, patching, plots, stats
from utils.dialect import tracing
from utils.attribution import head_name, logit_diff
from utils.experiment import run_experiment
from utils.ioi import ioi_pairs
from utils.models import load_model
from utils.reference import compare

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# ## 1 · Which heads?
#
# Rank the heads by how much of the gap of *done* / *has* each one's output restores when patched from the AAE run into the SAE run (chapter
# 08). The ranking uses three verbs in one prompt. Everything that is *tested* later uses other verbs and prompts in other words.

# %%
TRAIN_FRAME, TEST_FRAMES = dialect.frames("paper")[4], dialect.frames("own")[:4]
done = dialect.pairs_of("done", 12)
train, held_out = done[:3], done[6:]
U, F = (dialect.attribute_tokens(model, group) for group in dialect.traits())


def effects_and_ranking(pairs: list[dialect.Pair]) -> tuple[Float[Tensor, "layer head"], list[tuple[int, int]]]:
    """What each head's output restores of the gap of these pairs, and the heads by the size of it."""
    experiment = run_experiment(model, tracing.guise_batch(model, pairs, TRAIN_FRAME), tracing.preference_of(U, F))
    effect = experiment.denoise(patching.get_act_patch_attn_head_out_all_pos)
    return effect, [divmod(i, model.cfg.n_heads) for i in effect.abs().flatten().argsort(descending=True).tolist()]


effect, ranking = effects_and_ranking(train)
plots.heads(
    effect, "Share of the gap of done / has that each head's output restores (three verbs, one prompt)", unit="share"
)

# %%
print("first twenty:", ", ".join(head_name(*pair) for pair in ranking[:20]))
compare("removal.largest_share_of_one_head", effect.max(), model)
compare(
    "removal.share_of_top_20",
    effect.abs().flatten().sort(descending=True).values[:20].sum() / effect.abs().sum(),
    model,
)


# %% [markdown]
# **How to read it.** One cell per head. The darkest are the candidates. **What it does not show:** that the list has anything to do with
# dialect. Every map has darkest cells; chapter 08 put the map of a neutral swap beside this one.
#
# ## 2 · Switching off
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
# <details><summary>Hint</summary>
#
# Every *token* counts the same, so a long prompt counts more than a short one. `cache["z", layer]` is `[batch, position, head, d_head]`; make the mask's
# first column 0, and weight with it.
# </details>

# %%
def mean_z(
    model: TransformerBridge, tokens: Int[Tensor, "batch position"], mask: Int[Tensor, "batch position"]
) -> Float[Tensor, "layer head d_head"]:
    """Each head's mean z over real tokens but the first of each prompt."""
    ### BEGIN SOLUTION
    _, cache = model.run_with_cache(tokens)
    z = torch.stack(
        [cache["z", layer] for layer in range(model.cfg.n_layers)]
    )  # [layer, batch, position, head, d_head]
    counted = mask[:, 1:].bool()
    return z[:, :, 1:][:, counted].mean(1)  # [layer, token, head, d_head] → [layer, head, d_head]
    ### END SOLUTION


# %%
check_mean_z(mean_z)


# %% [markdown]
# ### Exercise 9.2 · Run without them
#
# > Difficulty: ●●●○○  Importance: ●●●●●  10 minutes
#
# Return the logits when each of `heads` writes its mean at every position but the first. (At BOS most heads do something of their own, chapter 00, and an average
# over ordinary tokens is no substitute for it.)
#
# <details><summary>Hint</summary>
#
# One hook per head, or per layer, on `hook_z`; copy `z` first. A function made in a loop must remember *its* layer and head: `functools.partial`, or a default
# argument.
# </details>

# %%
def ablate_heads(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch position"],
    heads: list[tuple[int, int]],
    means: Float[Tensor, "layer head d_head"],
) -> Float[Tensor, "batch position d_vocab"]:
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


# %% [markdown]
# The general versions are `tracing.mean_z(model, prompts)` and `tracing.ablation_hooks(heads, means)`. The means here come from both guises of the three training
# verbs, in the test frames and the training frame: sentences of the kind in which the heads will be replaced.
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
def share_removed(before: Float[Tensor, "row"], after: Float[Tensor, "row"]) -> Float[Tensor, ""]:
    """1 - mean(after) / mean(before)."""
    ### BEGIN SOLUTION
    return 1 - after.mean() / before.mean()
    ### END SOLUTION


# %%
check_share_removed(share_removed)

# %% [markdown]
# ## 3 · Does it work?
#
# *What do you expect?* Twenty heads are replaced (of 270 in SmolLM2, of 144 in GPT-2). How much of the gap goes, on verbs and prompts that did not choose them? And if the twenty
# are drawn at random?
# <details><summary>Our guess</summary>
# Much of it on the training verbs, less on held-out ones; a little with random heads. So far, that would be a success story.
# </details>

# %%
reference = [
    frame.format(side) for frame in (TRAIN_FRAME, *TEST_FRAMES) for pair in train for side in (pair.aae, pair.sae)
]
means = tracing.mean_z(model, reference)
SWAPS = ["might/should", "once/twice", "also/only", "again/often", "car/truck", "today/yesterday"]
TEXTS = [
    "The library opens at nine in the morning and closes at six, except on Sundays.",
    "Water boils at a lower temperature on a mountain, because the air pressure is lower there.",
    "She packed a lunch, checked the map twice, and set out along the river before sunrise.",
    "The committee will meet next week to decide which of the three bridges to repair first.",
    "Bake the bread for forty minutes, let it cool on a rack, and slice it with a sharp knife.",
]
ioi = ioi_pairs(model)


def outcomes(heads: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Everything that is measured in one condition."""
    hooks = tracing.ablation_hooks(heads, means)
    swap_pairs = [pair for name in SWAPS for pair in dialect.swap_pairs(name, 8)[6:8]]
    gaps = tracing.hooked_gaps(model, [*held_out, *swap_pairs], TEST_FRAMES, hooks, U, F)  # [pair, frame]
    by_swap = gaps[len(held_out) :].unflatten(0, (len(SWAPS), 2)).mean((1, 2))  # [swap]
    return {
        "train": tracing.hooked_gaps(model, train, [TRAIN_FRAME], hooks, U, F).flatten(),
        "held out": gaps[: len(held_out)],
        "swaps": by_swap,
        "ioi": logit_diff(model.run_with_hooks(ioi.clean_tokens, fwd_hooks=hooks), ioi.answer_tokens),
        "loss": inference.next_token_loss(model, TEXTS, hooks),
    }


COUNTS, K, DRAWS = (5, 20, 60), 20, 4
intact = outcomes([])
top = {k: outcomes(ranking[:k]) for k in COUNTS}
everywhere = sorted(ranking)
drawn = [random.Random(seed).sample(everywhere, K) for seed in range(DRAWS)]
at_random = [outcomes(heads) for heads in drawn]


def summary(result: dict[str, Tensor]) -> dict[str, float]:
    """Share removed (gaps, size of neutral gaps, IOI), and the rise of the loss."""
    removed = {name: 1 - result[name].mean() / intact[name].mean() for name in ("train", "held out", "ioi")}
    removed["swaps"] = 1 - result["swaps"].abs().mean() / intact["swaps"].abs().mean()
    return {name: float(value) for name, value in removed.items()} | {"loss": float(result["loss"] - intact["loss"])}


rows = {f"top {k}": summary(top[k]) for k in COUNTS} | {
    f"random {K}, draw {i + 1}": summary(result) for i, result in enumerate(at_random)
}
print(f"{'replaced':18}{'gap, training':>15}{'gap, held out':>15}{'neutral gaps':>14}{'IOI':>8}{'loss':>9}")
print(f"{'nothing':18}{intact['train'].mean():15.2f}{intact['held out'].mean():15.2f}{intact['swaps'].abs().mean():14.2f}"
      f"{intact['ioi']:8.2f}{intact['loss']:9.2f}")  # fmt: skip
for name, row in rows.items():
    print(
        f"{name:18}{-row['train']:15.0%}{-row['held out']:15.0%}{-row['swaps']:14.0%}{-row['ioi']:8.0%}{row['loss']:+9.2f}"
    )

# %%
random_mean = {
    name: sum(rows[f"random {K}, draw {i + 1}"][name] for i in range(DRAWS)) / DRAWS for name in rows["top 5"]
}
KINDS = ["train", "held out", "swaps", "ioi"]
plots.bar(
    {f"top {k}": [rows[f"top {k}"][kind] for kind in KINDS] for k in COUNTS}
    | {f"random {K} (mean of {DRAWS})": [random_mean[kind] for kind in KINDS]},
    "What goes when heads are replaced by their means",
    x="what is measured",
    y="share removed",
    x_labels=[
        "gap of done, training verbs",
        "gap of done, held out",
        "gaps of neutral swaps (size)",
        "IOI logit difference",
    ],
)

# %%
conditions = {"nothing": intact} | {f"top {k}": top[k] for k in COUNTS}
conditions |= {f"random {K}, draw {i + 1}": result for i, result in enumerate(at_random)}
held_out_tables = {name: result["held out"] for name, result in conditions.items()}  # [pair, frame] each
intervals = {name: stats.crossed_interval(table) for name, table in held_out_tables.items()}
plots.intervals(
    {"gap": [table.mean().item() for table in held_out_tables.values()]},
    "The held-out gap of done / has, with heads replaced",
    x="gap (logits; 95 % intervals over verbs and prompts)",
    labels={"gap": list(conditions)},
    bounds={"gap": list(zip(*intervals.values(), strict=True))},
)

# %%
compare("removal.held_out.interval.intact", intervals["nothing"], model)
compare("removal.held_out.interval.top_20", intervals["top 20"], model)
compare("removal.gap.intact", [intact["train"].mean(), intact["held out"].mean()], model)
compare("removal.top_5", [rows["top 5"][kind] for kind in KINDS], model)
compare("removal.top_20", [rows["top 20"][kind] for kind in KINDS], model)
compare("removal.random_20", [random_mean[kind] for kind in KINDS], model)
compare("removal.loss.top_20", rows["top 20"]["loss"], model)
compare("removal.loss.random_20", random_mean["loss"], model)

# %% [markdown]
# **How to read it.** First group: on the sentences that chose the heads, the gap is bound to shrink. Second group: does it shrink on other verbs in other
# prompts? Third: the gaps of swaps that have nothing to do with dialect; the null of chapter 07, *under ablation*. If they shrink as much as the second
# group, the heads carried **what was said**, whatever was said; if they stay, something about *done* was special to the heads; in between, both. Fourth:
# IOI, the control that is usually shown. Hold each group against the random draws, and look at how much the draws differ among themselves.
#
# Now imagine the same figure without the third group. The gap is gone, it generalizes, random heads do not do it. It looks as if
# prejudice had been removed, and nothing else. On the embedded model twenty heads take more than eight tenths of the held-out gap, and with it **half of the size of gaps that are not about
# dialect**, four tenths of IOI and a quarter of a nat of loss: a blunt tool, at the size at which it works. Five heads take a good quarter of the gap and leave the
# rest nearly as it was. Is *that* specific? One control is missing still, and it is next.
#
# **What it does not show.** Four random draws say roughly what chance does, not exactly; and a share of a small gap is an unsteady
# number. The second figure shows the held-out gaps themselves, with intervals: what would another experimenter, with other verbs and prompts, have found *before* the
# removal, and after it? If the first interval includes zero, there was little to remove that one could be sure of.
#
# **Try.** Choose the heads for another feature (`dialect.pairs_of("been", 12)`), and measure *done*. Or take the means over `TEXTS` in
# the place of `reference`. Which bars change?
#
# ### The mirror
#
# Turn the experiment round. Take a swap that has nothing to do with dialect, choose heads for *it* in just the same way, and measure both gaps. *What do you expect*, if the heads
# chosen for *done* were about dialect? And if each list is about its own word?
# <details><summary>Our guess</summary>
# About dialect: the heads of the neutral swap leave the gap of <i>done</i> alone. About the word: each list does most to its own gap, in both directions alike. About
# neither, only about passing on what was quoted: both lists do much to both.
# </details>

# %%
mirror = max(SWAPS, key=lambda name: dialect.trait_gaps(model, dialect.swap_pairs(name, 3), [TRAIN_FRAME]).mean().abs())
mirror_train, mirror_held_out = dialect.swap_pairs(mirror, 3), dialect.swap_pairs(mirror, 10)[6:]
_, mirror_ranking = effects_and_ranking(mirror_train)
frames = (TRAIN_FRAME, *TEST_FRAMES)
both_means = tracing.mean_z(
    model, [frame.format(side) for frame in frames for pair in train + mirror_train for side in (pair.aae, pair.sae)]
)


def held_out_gaps(heads: list[tuple[int, int]]) -> Float[Tensor, "2"]:
    """The mean held-out gap of done and of the mirror swap, with the heads replaced."""
    hooks = tracing.ablation_hooks(heads, both_means)
    gaps = tracing.hooked_gaps(model, held_out + mirror_held_out, TEST_FRAMES, hooks, U, F)
    return torch.stack([gaps[: len(held_out)].mean(), gaps[len(held_out) :].mean()])


before = held_out_gaps([])
lists = {f"{k} chosen for {name}": heads[:k] for k in (5, K) for name, heads in (("done", ranking), (mirror, mirror_ranking))}
gone = {name: 1 - held_out_gaps(heads) / before for name, heads in lists.items()}
plots.bar(
    gone,
    f"Heads chosen for done, and heads chosen for {mirror}: what goes?",
    x="what is measured (held-out words and prompts)",
    y="share removed",
    x_labels=["gap of done / has", f"gap of {mirror} (no dialect)"],
)

# %%
in_common = len(set(ranking[:K]) & set(mirror_ranking[:K]))
print(f"gaps before: done / has {before[0]:+.2f}, {mirror} {before[1]:+.2f}; the two top {K} share {in_common} heads")
compare("removal.mirror.intact", before, model)
compare("removal.mirror.share_removed", torch.stack([*gone.values()]).flatten(), model)
compare("removal.mirror.heads_in_common", in_common, model)


# %% [markdown]
# **How to read it.** Do not compare the two groups of bars, compare the two *lists*. Does the list that was chosen for *done* treat *done* otherwise than the list that
# was chosen for the swap treats the swap? On the embedded model, with five heads, each list does most to its own word and little to the other's: both are selective, and the
# second has nothing to do with dialect. With twenty, the heads chosen for a swap *without any dialect in it* take away about as much of the gap of *done* as
# they take of their own, and nearly half of the two lists is the same. Being specific to a *word* is not being specific to a *dialect*; and what twenty heads remove is mostly
# the passing on of whatever was quoted.
#
# **What it does not show.** One mirror is one swap, the one of six with the largest gap. With another the bars differ; what they test stays the same.
#
# **Try.** `mirror = "car/truck"`. How much of *done* do its heads take?
#
# ## 4 · Why surviving IOI says little
#
# IOI is solved by particular heads (chapter 03). If the removed heads are other ones, one would expect IOI to survive, and that would be true of *any* removal that
# misses them. How much do the two lists overlap?
#
# ### Exercise 9.4 · More overlap than chance?
#
# > Difficulty: ●●●○○  Importance: ●●●○○  10 minutes
#
# Two lists of heads are drawn from `n_total` heads. Return the probability that two random lists of these lengths share *at least* as many.
#
# <details><summary>Hint</summary>
#
# `scipy.stats.hypergeom.sf(x, n_total, len(a), len(b))` is the probability of *more than* x. Compare heads as a set: the order of a ranking does not matter
# here.
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

# %%
ioi_effect = run_experiment(model, ioi[:4]).denoise(patching.get_act_patch_attn_head_out_all_pos)
ioi_heads = [divmod(i, model.cfg.n_heads) for i in ioi_effect.abs().flatten().argsort(descending=True)[:K].tolist()]
shared = sorted(set(ioi_heads) & set(ranking[:K]))
n_total = model.cfg.n_layers * model.cfg.n_heads
chance = scipy.stats.hypergeom.sf(len(shared) - 1, n_total, K, K)  # exercise 9.4
print(
    f"shared by both top {K}: {[head_name(*pair) for pair in shared]}; expected by chance {K * K / n_total:.1f}; p = {chance:.2f}"
)
plots.scatter(
    effect,
    ioi_effect,
    "Every head's part in the gap and in IOI",
    x="share of the gap of done / has restored",
    y="share of the IOI logit difference restored",
    labels=[head_name(*divmod(i, model.cfg.n_heads)) for i in range(n_total)],
)

# %%
compare("removal.shared_with_ioi", len(shared), model)
compare("removal.shared_with_ioi_p", chance, model)

# %% [markdown]
# **How to read it.** Points far to the right or left matter for the gap, points far up or down for IOI. Points in the corners matter for both. Two lessons, whichever
# way your model's figure looks. If the corners are empty, IOI was unlikely to fail, and its survival would have tested little: a control is informative only if it
# could have gone wrong. And if it fails all the same (the table in section 3), then two lists of "top heads" without a head in common do not mean two separate
# mechanisms: what is below the cut of a ranking matters too, and random heads cost something as well.
#
# ## 5 · What a careful claim looks like
#
# > *On [model], replacing the twenty heads that matter most for* done / has *by their means removed [x] of the gap on held-out verbs and prompts, and [y] with twenty
# > random heads (mean of four draws). The sizes of six neutral gaps fell by [z] as well. We therefore do not call these heads specific to dialect.*
#
# Fill in the three numbers from the table above. What makes it careful is not modesty. It names the model, the feature, what was held out, the control that could have failed,
# and what the control said.
#
# **What was shown:** one feature, one ranking, one way to ablate, on the model named at the top. **What was not shown:** that prejudice has been removed from anything. A gap that
# is closed because the model no longer takes in what is said is not a fairer model; and a person's speech is not the model's only way to guess who
# they are.
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `tracing.mean_z(model, prompts)` | every head's mean output over real tokens |
# | `tracing.ablation_hooks(heads, means)` | hooks for `run_with_hooks` that put the means in |
# | `tracing.hooked_gaps`, `inference.next_token_loss` | gaps and loss of a changed run |
# | `patching.get_act_patch_attn_head_out_all_pos` | the ranking |
# | `scipy.stats.hypergeom.sf` | overlap of two lists by chance |
#
# **Glossary.** *Held out*: not used to choose what is tested. *Mean ablation*: replacing a head's output by its average. *Random control*: the same number of heads, drawn by lot. *Side effect*:
# what else a change changes. *Specific*: changes what it should and not what is like it. *Training verbs*: here, those that chose the heads; nothing is trained.
