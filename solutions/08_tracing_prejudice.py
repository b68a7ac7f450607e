# %% [markdown]
# # 08 · Where does the gap come from?
#
# Two hours. Chapter 07 measured how much more a model expects unfavourable traits of a person who says *he done worked* than of one who
# says *he has worked*, and found how little such a number means alone. This chapter opens the model with the tools of chapters 02 and 03, and
# keeps the habit: **every view stands beside the same view of a swap that has nothing to do with dialect.**
#
# African American English (AAE) is a rule-governed variety of English; *done* before a verb marks a completed action (Labov 1972; Green 2002). What
# is traced here is a model's prejudice against it, not anything about its speakers. **Content note:** unkind adjectives appear as
# predictions.
#
# You will be able to
# - choose pairs on which activation patching means something;
# - find two defects of a naive analysis, one that a reconciliation catches and one that it does not;
# - split a gap into layers and heads that add up to it, and trace it through positions by patching;
# - say which part of a picture is about dialect, by looking at the picture beside it.

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
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import (
    check_aligned_pairs,
    check_compare_with_null,
    check_gap_by_component,
    check_gap_direction,
    check_patch_guise,
    check_reconcile,
)
from utils.tiny_models import tiny_model
from utils import dialect, patching, plots
from utils.dialect import tracing
from utils.attribution import apply_final_norm, component_labels, decompose_at, head_name, top_heads
from utils.experiment import run_experiment
from utils.inference import small_cache
from utils.models import load_model
from utils.prompts import tokenize
from utils.reference import compare

# %% tags=["nbval-ignore-output"]
model = load_model()


# %% [markdown]
# ## 1 · Which pairs can be patched?
#
# Patching puts the activation at position $p$ of one run in the place of the activation at position $p$ of another. That is a fair exchange only if
# position $p$ means the same in both: the two prompts must have **as many tokens**, and, so that we know what was exchanged, **exactly one** of
# them may differ.
#
# ### Exercise 8.1 · Aligned pairs
#
# > Difficulty: ●●○○○  Importance: ●●●●●  10 minutes
#
# From pairs of whole prompts, return for every aligned one a tuple: its index in the list, and the position of the one token that
# differs (BOS is position 0).
#
# <details><summary>Hint</summary>
#
# `model.to_tokens(prompt)[0]` for both. Compare the lengths before the tokens: `zip` stops at the shorter one without a word.
# </details>

# %%
def aligned_pairs(model: TransformerBridge, pairs: list[tuple[str, str]]) -> list[tuple[int, int]]:
    """(index of the pair, position of the differing token) of every pair that is equally long and differs in one token."""
    ### BEGIN SOLUTION
    found = []
    for i, (one, other) in enumerate(pairs):
        a, b = model.to_tokens(one)[0], model.to_tokens(other)[0]
        if len(a) == len(b) and (a != b).sum() == 1:
            found.append((i, int((a != b).nonzero()[0, 0])))
    return found
    ### END SOLUTION


# %%
check_aligned_pairs(aligned_pairs)

# %% [markdown]
# `dialect.aligned_pairs(model, pairs, frame)` is the general version. How many pairs of each feature can be patched, in this model's tokenizer?

# %%
FRAME = dialect.frames("paper")[4]
print(FRAME)
counts = {name: (len(dialect.aligned_pairs(model, dialect.pairs_of(name), FRAME)), len(dialect.pairs_of(name)))
          for name in (*dialect.feature_names(), *dialect.grammar()["contrasts"])}  # fmt: skip
for name, (aligned, total) in counts.items():
    print(f"{name:17} {aligned:3} of {total} pairs are aligned")
compare("tracing.aligned_features", sum(aligned > 20 or aligned == total for aligned, total in counts.values()), model)

# %% [markdown]
# The published contrast is not among them: `he's usually` is longer than `he be`. Patching it position by position would compare the verb of
# one guise with the adverb of the other, and draw a picture all the same.
#
# We trace *done* / *has*, the aligned feature with the largest gap in chapter 07. Beside it goes the neutral swap *once* / *twice*, at the
# same position in the same frame with the same verbs (of the swaps in chapter 07, it had the largest gap). (Which word of a swap comes first has no meaning; we put first
# the one that makes the gap positive.)

# %%
N = 4
neutral = [dialect.Pair(pair.sae, pair.aae, pair.cluster) for pair in dialect.swap_pairs("once/twice", 8)]
done = tracing.guise_batch(model, dialect.pairs_of("done", 8), FRAME, n=N)
swap = tracing.guise_batch(model, neutral, FRAME, n=N)
if swap.position != done.position or swap.clean_tokens.shape != done.clean_tokens.shape:
    raise ValueError(
        "the swap is not aligned with the feature in this tokenizer; choose another of dialect.swap_names()"
    )
positions = done.labels(model)
positions[done.position] = f"{done.position} (swapped)"
U_words, F_words = dialect.traits()
U, F = (dialect.attribute_tokens(model, group) for group in (U_words, F_words))
preference = tracing.preference_of(U, F)  # logits → mean unfavourable logit − mean favourable logit, at the last position
experiments = {name: run_experiment(model, batch, preference) for name, batch in (("done", done), ("swap", swap))}
gaps = {name: experiment.clean_scores - experiment.corrupted_scores for name, experiment in experiments.items()}
plots.bar(
    {"done / has (dialect)": gaps["done"], "twice / once (neutral)": gaps["swap"]},
    "Two gaps, one of them about dialect",
    x="verb",
    y="gap (logits)",
    x_labels=done.names,
)

# %%
compare("tracing.gap.done", gaps["done"].mean(), model)
compare("tracing.gap.swap", gaps["swap"].mean(), model)


# %% [markdown]
# **How to read it.** Bars above zero: after the first word, the model leans more to unfavourable traits. On the embedded model both groups do, by about as
# much, and the second group has nothing to do with dialect. Whatever the figures below show for *done* alone is worth little until you have looked at the
# other panel. (The neutral swap was chosen *because* its gap is large: it is a fair companion for the maps, and no null for the size.)
#
# ## 2 · The direction that the gap is
#
# Logits are the normalized final residual stream times the unembedding. So the preference for `U` over `F` is its projection on one
# direction, the same for every row.
#
# ### Exercise 8.2 · The gap's direction
#
# > Difficulty: ●●○○○  Importance: ●●●●●  5 minutes
#
# Return the mean unembedding column of the unfavourable traits minus the mean column of the favourable ones.
#
# <details><summary>Hint</summary>
#
# `model.W_U` is `[d_model, d_vocab]`: a trait is a column.
# </details>

# %%
def gap_direction(
    model: TransformerBridge, unfavourable: Int[Tensor, "u"], favourable: Int[Tensor, "f"]
) -> Float[Tensor, "d_model"]:
    """The direction on which the normalised stream's projection is the preference for unfavourable traits."""
    ### BEGIN SOLUTION
    return model.W_U[:, unfavourable].mean(1) - model.W_U[:, favourable].mean(1)
    ### END SOLUTION


# %%
check_gap_direction(gap_direction)


# %% [markdown]
# ## 3 · Two defects of a naive analysis
#
# Before splitting a number into parts, make sure that the parts *are* that number, **row by row**. A mean can agree while every row is
# wrong.
#
# ### Exercise 8.3 · Reconcile
#
# > Difficulty: ●●●●○  Importance: ●●●●●  15 minutes
#
# For a batch of equally long prompts, compare each row's preference, read from the logits at the last position, with the projection of its final residual
# stream. Return two rows of errors (logits minus projection): without the unembedding's bias, and with it.
#
# <details><summary>Hint</summary>
#
# `apply_final_norm(stream, cache)` from `utils.attribution` centers and scales `[batch, d_model]` as the model's final norm does at the last position. The
# final stream is `cache["resid_post", n_layers - 1][:, -1]`. `model.b_U` may be `None`: then the bias term is zero.
# </details>

# %%
def reconcile(
    model: TransformerBridge,
    logits: Float[Tensor, "batch position d_vocab"],
    cache: ActivationCache,
    answers: tuple[Int[Tensor, "u"], Int[Tensor, "f"]],
) -> Float[Tensor, "2 batch"]:
    """Preference in the logits minus its reconstruction from the residual stream: without, and with the bias term."""
    ### BEGIN SOLUTION
    unfavourable, favourable = answers
    at_end = logits[:, -1]
    preference = at_end[:, unfavourable].mean(-1) - at_end[:, favourable].mean(-1)
    final = apply_final_norm(cache["resid_post", model.cfg.n_layers - 1][:, -1], cache)
    projected = final @ (model.W_U[:, unfavourable].mean(1) - model.W_U[:, favourable].mean(1))
    bias = 0.0 if model.b_U is None else model.b_U[unfavourable].mean() - model.b_U[favourable].mean()
    return torch.stack([preference - projected, preference - projected - bias])
    ### END SOLUTION


# %%
check_reconcile(reconcile)

# %% [markdown]
# Now use it to find what is wrong with this analysis, which is a fair copy of what people do. It takes guises of **different**
# lengths, pads them, reads the last column, and splits what it read into parts. The model is first yours, then a random toy that has a
# *LayerNorm*, as GPT-2 has (folding a LayerNorm's own bias into the unembedding is where the bias comes from).

# %%
toy = tiny_model("gpt2")
toy_answers = tuple(
    torch.tensor([toy.to_single_token(w) for w in group]) for group in ((" lazy", " rude"), (" kind", " honest"))
)
contrast = dialect.pairs_of("be_usually", 4)
texts = [FRAME.format(getattr(pair, side)) for side in ("aae", "sae") for pair in contrast]
report = {}
for name, one, answers in ((model.cfg.model_name, model, (U, F)), ("LayerNorm toy", toy, toy_answers)):
    tokens, mask = tokenize(one, texts)
    logits, cache = one.run_with_cache(tokens)
    without_bias, with_bias = reconcile(one, logits, cache, answers).abs().max(1).values
    at_column = tracing.preference_of(*answers)(logits)
    at_token = torch.cat([tracing.preference_of(*answers)(one(one.to_tokens(text))) for text in texts])
    report[name] = [without_bias.item(), with_bias.item(), (at_column - at_token).abs().max().item()]
plots.bar(
    report,
    "Largest error of any row",
    x="what is compared",
    y="logits",
    x_labels=["parts with logits, no bias term", "parts with logits, bias term in", "last column with true last token"],
)

# %%
compare("tracing.reconcile", report[model.cfg.model_name], model)
compare("tracing.reconcile_toy", report["LayerNorm toy"], model)


# %% [markdown]
# **How to read it.** The first group is the **bias defect**: on a model with a LayerNorm the parts miss the logits by the same amount in
# every row, unless the bias is counted as a part. In IOI's eight prompts it cancels, because each answer pair comes with its mirror; here nothing
# is mirrored. On a model with RMSNorm and no bias it is zero, which is how it goes unnoticed.
#
# The third group is the **padding defect**, and here is the trap: in the middle group everything adds up. Logits and parts were read at *the same wrong
# position*. Reconciling cannot catch that; only a comparison with prompts run one by one can. A difference of guises does not remove it either, because
# the two guises are padded by different amounts.
#
# **What it does not show.** How large the damage is for a conclusion; chapter 07 counted the rows whose sign changes.
#
# **Try.** Read `tokens` left-padded, without giving the model a mask. Which bar grows?
#
# ## 4 · Which parts write the gap?
#
# ### Exercise 8.4 · The gap by component
#
# > Difficulty: ●●●○○  Importance: ●●●●○  15 minutes
#
# Split the mean gap into the embedding and every layer's attention and MLP. Each side has its **own** final norm, with its own scale: normalize first,
# subtract after. The result must add up to the gap.
#
# <details><summary>Hint</summary>
#
# `decompose_at(cache)` gives `[component, batch, d_model]` at the last position; `apply_final_norm(stack, cache)` takes any number of leading axes.
# </details>

# %%
def gap_by_component(
    aae: ActivationCache, sae: ActivationCache, direction: Float[Tensor, "d_model"]
) -> Float[Tensor, "component"]:
    """Each component's part of the mean gap: embedding, L0 attention, L0 MLP, …"""
    ### BEGIN SOLUTION
    sides = [
        apply_final_norm(decompose_at(cache), cache) @ direction for cache in (aae, sae)
    ]  # [component, batch] each
    return (sides[0] - sides[1]).mean(-1)
    ### END SOLUTION


# %%
check_gap_by_component(gap_by_component)

# %% [markdown]
# *What do you expect?* Attention or MLPs, early or late, and will the neutral swap look different?
# <details><summary>Our guess</summary>
# The last few layers decide between adjectives, whatever the reason; so the two lines should be alike at the end. If dialect has parts of its own,
# the lines should differ earlier.
# </details>

# %%
direction = dialect.gap_direction(model, U_words, F_words)
caches = {name: (experiment.clean_cache, experiment.corrupted_cache) for name, experiment in experiments.items()}
lens = {name: tracing.gap_after_layers(*pair, direction) for name, pair in caches.items()}
plots.line(
    {"done / has (dialect)": lens["done"], "twice / once (neutral)": lens["swap"]},
    "Logit lens of the gap: the stream before each layer, and at the end",
    x="layer",
    y="gap so far (logits)",
)

# %%
parts = {name: tracing.gap_by_component(*pair, direction).mean(-1) for name, pair in caches.items()}
plots.bar(
    {"done / has (dialect)": parts["done"], "twice / once (neutral)": parts["swap"]},
    "Direct parts of the gap, by component",
    x="component",
    y="part of the gap (logits)",
    x_labels=component_labels(model),
)

# %%
print(
    *(f"{name}: parts add up to {parts[name].sum():.4f}, the gap is {gaps[name].mean():.4f}" for name in parts),
    sep="\n",
)
attention_share = {name: parts[name][1::2].abs().sum() / parts[name].abs().sum() for name in parts}
half = 1 + 2 * (model.cfg.n_layers // 2)
late_share = {name: parts[name][half:].abs().sum() / parts[name].abs().sum() for name in parts}
compare("tracing.attention_share", [attention_share[name] for name in ("done", "swap")], model)
compare("tracing.late_share", [late_share[name] for name in ("done", "swap")], model)


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)


compare("tracing.cosine_of_components", cosine(parts["done"], parts["swap"]), model)

# %% [markdown]
# **How to read it.** The line crosses into its final value where the gap is written. A component's bar is what it writes itself, not what it
# causes others to write. Large bars of opposite signs nearly cancel: compare the tallest with the whole gap. The shares printed
# above say how much (in absolute size) is attention's, and how much comes in the later half.
#
# **What it does not show.** What causes the bars. A late MLP that writes much of the gap may be the last link of a chain that begins
# elsewhere. The cosine says how alike the two patterns of bars are; near 1, dialect and a neutral swap are written by the same parts.
#
# Now heads: directly, by what they write at the end, and where they look from there.

# %%
heads = {name: tracing.gap_by_head(model, *pair, direction).mean(-1) for name, pair in caches.items()}  # [layer, head]
plots.imshow(
    torch.stack([heads["done"], heads["swap"]]),
    "Direct parts of the gap, by head",
    x="head",
    y="layer",
    panels=["done / has (dialect)", "twice / once (neutral)"],
    unit="logits",
)

# %%
looks = {
    name: torch.stack([cache["pattern", layer][:, :, -1, done.position].mean(0) for layer in range(model.cfg.n_layers)])
    for name, (cache, _) in caches.items()
}
plots.imshow(
    torch.stack([looks["done"], looks["swap"]]),
    "Attention from the last token to the swapped word",
    x="head",
    y="layer",
    panels=["to 'done'", "to 'twice'"],
    sequential=True,
    unit="attention",
)

# %%
print("largest direct parts:", {name: [head_name(*pair) for pair in top_heads(heads[name], 3)] for name in heads})
compare("tracing.cosine_of_heads", cosine(heads["done"], heads["swap"]), model)
compare("tracing.cosine_of_attention", cosine(looks["done"], looks["swap"]), model)


# %% [markdown]
# **How to read it.** Red heads push toward unfavourable traits on the first word of the pair, blue ones away. In the second figure, a dark cell is a head
# whose last position reads the swapped word. Look for heads that are dark on the left and pale on the right: only those could be said to look for *done*. If
# the two panels are nearly the same picture, these heads read whatever stands at that place in the quotation.
#
# **What it does not show.** A head that reads *done* need not use it.
#
# ## 5 · How does it travel?
#
# ### Exercise 8.5 · Patch one guise into the other
#
# > Difficulty: ●●●○○  Importance: ●●●●●  15 minutes
#
# Run the **SAE** prompts; at each layer and position, put in the residual stream of the **AAE** run. Return `[layer, position]` of the preference for
# unfavourable traits, averaged over the pairs and rescaled: 0 is the SAE run, 1 the AAE run. Use `patching.get_act_patch_resid_pre(model,
# corrupted_tokens, clean_cache, metric)` from `utils` (the built-in of the same name works too, more slowly).
#
# <details><summary>Hint</summary>
#
# Four steps: `run_with_cache` on the AAE tokens; the two mean preferences; a metric that is 0-d; the sweep. Read `logits[:, -1]` in the
# metric.
# </details>

# %%
def patch_guise(
    model: TransformerBridge,
    aae_tokens: Int[Tensor, "batch position"],
    sae_tokens: Int[Tensor, "batch position"],
    answers: tuple[Int[Tensor, "u"], Int[Tensor, "f"]],
) -> Float[Tensor, "layer position"]:
    """AAE residual streams patched into the SAE run: 1 where one patch restores the whole gap."""
    ### BEGIN SOLUTION
    unfavourable, favourable = answers

    def preference(logits):
        at_end = logits[:, -1]
        return (at_end[:, unfavourable].mean(-1) - at_end[:, favourable].mean(-1)).mean()

    aae_logits, aae_cache = model.run_with_cache(aae_tokens)
    top, bottom = preference(aae_logits), preference(model(sae_tokens))
    return patching.get_act_patch_resid_pre(
        model, sae_tokens, aae_cache, lambda logits: (preference(logits) - bottom) / (top - bottom)
    )
    ### END SOLUTION


# %%
check_patch_guise(patch_guise)

# %% [markdown]
# It is the experiment of chapter 03 once more, with a preference in the place of a logit difference. So `experiment.denoise(sweep)` does this
# with any sweep of `utils.patching`. One call gives the residual stream, attention outputs and MLP outputs.

# %%
blocks = {
    name: experiment.denoise(patching.get_act_patch_block_every) for name, experiment in experiments.items()
}  # [resid_pre / attn_out / mlp_out, layer, position] each
plots.imshow(
    torch.stack([blocks["done"][0], blocks["swap"][0]]),
    "Residual stream, first word's run patched into the second's: share of the gap restored",
    x="position",
    y="layer (before it)",
    x_labels=positions,
    panels=["done / has (dialect)", "twice / once (neutral)"],
    limit=1.0,
    unit="share of gap",
)

# %%
for name in blocks:
    resid = blocks[name][0]
    at, before = resid[0, done.position].item(), resid[:, : done.position].abs().max().item()
    print(f"{name}: {at:.6f} at the swapped token of layer 0, at most {before:.1e} at earlier positions")
compare("tracing.resid.layer_0", [blocks[name][0][0, done.position] for name in blocks], model)
half_way = {name: int((blocks[name][0][:, done.position] < 0.5).long().argmax()) for name in blocks}
arrives = {name: int((blocks[name][0][:, -1] > 0.5).long().argmax()) for name in blocks}
compare("tracing.resid.leaves_the_word_at_layer", [half_way[name] for name in blocks], model)
compare("tracing.resid.reaches_the_end_at_layer", [arrives[name] for name in blocks], model)
compare("tracing.cosine_of_residual_maps", cosine(blocks["done"][0], blocks["swap"][0]), model)

# %% [markdown]
# **How to read it.** Two things must hold, and are printed: exactly 1 at the swapped token before layer 0 (the whole difference is still there), and 0 at
# every earlier position (nothing can flow backwards). Then follow the 1 upwards: it leaves the word's column, and turns up in another, often at a quotation mark that
# sums up what was quoted, and then at the end. The layer at which it leaves and the layer at which it arrives are printed.
#
# **What it does not show.** That a path is the dialect's. Look at the right panel: if the neutral difference takes the same road at about
# the same layers, this is the road of *anything said in the quotation*.
#
# **Try.** `experiment.noise(…)` patches the other way, SAE into AAE: 0 is no change, −1 takes the whole gap away. Are the two maps mirror images?

# %%
plots.imshow(
    torch.cat([blocks["done"][1:], blocks["swap"][1:]]),
    "Attention and MLP outputs patched, one at a time",
    x="position",
    y="layer",
    x_labels=positions,
    panels=["done: attention", "done: MLP", "neutral: attention", "neutral: MLP"],
    unit="share of gap",
    columns=2,
)

# %% [markdown]
# **How to read it.** A cell is one layer's attention (or MLP) output at one position. Attention cells far from the swapped word move information between
# positions; MLP cells change it in place. What is new in the panels of *done*, against the neutral ones?
#
# ## 6 · Which heads carry it, and do they carry anything else?

# %%
FEW = 3
few = {name: run_experiment(model, batch[:FEW], preference) for name, batch in (("done", done), ("swap", swap))}
five = {
    name: experiment.denoise(patching.get_act_patch_attn_head_all_pos_every) for name, experiment in few.items()
}  # [output / query / key / value / pattern, layer, head] each
PANELS = ["output", "query", "key", "value", "pattern"]
plots.imshow(
    torch.cat([five["done"], five["swap"]]),
    "Heads patched at all positions: share of the gap restored",
    x="head",
    y="layer",
    panels=[f"done: {panel}" for panel in PANELS] + [f"neutral: {panel}" for panel in PANELS],
    unit="share of gap",
    columns=5,
)

# %%
strongest = {name: top_heads(five[name][0], 3) for name in five}
print({name: [f"{head_name(*pair)} {five[name][0][pair]:+.2f}" for pair in strongest[name]] for name in strongest})
compare("tracing.heads.largest_share", [five[name][0].max() for name in five], model)
compare("tracing.heads.cosine", cosine(five["done"][0], five["swap"][0]), model)
compare("tracing.heads.value_against_pattern", [five["done"][i].abs().sum() for i in (3, 4)], model)


# %% [markdown]
# **How to read it.** Each panel replaces one ingredient of one head, at every position. On a model whose heads share keys and values (SmolLM2), the key and value
# panels have a column per group, and the rest of the columns is empty. Compare the largest cell with 1, and with the largest cell of the neutral panels: a head that
# restores a quarter of *any* gap is a reader of quotations.
#
# Ranked by this figure, any model has "top heads for dialect", because any list has a top. The question is whether they stand out *from what they do
# for any other word*. With one neutral swap beside it you can look; with eleven you can count.
#
# ### Exercise 8.6 · Compare with the null, head by head
#
# > Difficulty: ●●●○○  Importance: ●●●●●  10 minutes
#
# For each head, the two-sided p-value of the observed value among the same head's values on null swaps: (1 + swaps at least as large) / (1 +
# swaps).
#
# <details><summary>Hint</summary>
#
# It is exercise 7.7, cell by cell: `null` has one axis more in front, and broadcasting does the rest.
# </details>

# %%
def compare_with_null(
    observed: Float[Tensor, "layer head"], null: Float[Tensor, "swap layer head"]
) -> Float[Tensor, "layer head"]:
    """Two-sided rank p-value of every head's value among its values on null swaps, the observed one included."""
    ### BEGIN SOLUTION
    return (1 + (null.abs() >= observed.abs()).sum(0)) / (1 + len(null))
    ### END SOLUTION


# %%
check_compare_with_null(compare_with_null)

# %% [markdown]
# The values are the heads' direct parts of the gap, which cost one run per prompt. The swaps are the first eleven that are aligned.

# %%
null_maps, null_names = [], []
for name in dialect.swap_names():
    pairs = dialect.aligned_pairs(model, dialect.swap_pairs(name, N), FRAME)
    if len(pairs) == N and len(null_names) < 11:
        batch = tracing.guise_batch(model, [pair for pair, _ in pairs], FRAME)
        both_tokens = torch.cat([batch.clean_tokens, batch.corrupted_tokens])
        _, both = model.run_with_cache(both_tokens, names_filter=small_cache)
        at_end = tracing.apply_final_norm(tracing.head_results(model, both), both) @ direction  # [layer, head, 2 N]
        null_maps.append((at_end[..., :N] - at_end[..., N:]).mean(-1))
        null_names.append(name)
null_maps = torch.stack(null_maps)  # [swap, layer, head]
p_map = (1 + (null_maps.abs() >= heads["done"].abs()).sum(0)) / (1 + len(null_maps))  # exercise 8.6
plots.heads(
    p_map, "Rank of each head's part in the gap of done / has, among eleven neutral swaps", unit="p", sequential=True
)

# %%
first_place = {"done": (p_map == p_map.min()).float().mean()}
for i, name in enumerate(null_names):
    others = torch.cat([null_maps[:i], null_maps[i + 1 :], heads["done"][None]])
    p_other = (1 + (others.abs() >= null_maps[i].abs()).sum(0)) / (1 + len(others))
    first_place[name] = (p_other == 1 / (1 + len(others))).float().mean()
plots.bar(
    list(first_place.values()),
    "Share of heads for which this swap is the largest of the twelve",
    x="swap",
    y="share of heads",
    x_labels=list(first_place),
)

# %%
compare("tracing.null.heads_where_done_is_first", first_place["done"], model)
compare("tracing.null.most_of_any_swap", max(first_place[name] for name in null_names), model)
sizes = torch.cat([heads["done"][None], null_maps]).flatten(1).norm(dim=1)
compare("tracing.null.rank_of_total_size", int((sizes >= sizes[0]).sum()), model)

# %% [markdown]
# **How to read it.** The null for the second figure is easy to say: twelve swaps, so each should be the largest for one head in twelve, 8 %. The first bar
# is dialect. If it towers over the others, *done* does something to the heads that ordinary words do not; if another bar is as tall, then that ordinary word
# has as good a claim to heads of its own.
#
# **What it does not show.** Direct parts only. And a large change is not a *specific* one: *done* is rarer in this place than *has*, and a surprising word stirs more of
# everything.
#
# ## What was shown
#
# For the model named at the top, one feature (*done* / *has*), one prompt, three or four verbs:
#
# - The gap can be split into parts that add up to it in every row, if the true last token is read. The bias cancels in a gap, which is a difference of two guises. It matters for the *preference* of one guise.
# - By patching, the difference sits at the swapped word first, moves through the quotation, and ends at the last token. The cells that must be 1 and 0 are.
# - No single head restores most of it; the direct parts are many and mostly late.
# - The neutral swap's maps are beside every map of dialect, and the cosines printed above say how alike they are. What the two share may be the machinery for *quoted
#   content*. But this is one swap. Two neutral swaps can be less alike or more, so a cosine near 1 with one of them is no proof that the maps are the same for all.
#
# What was **not** shown: that a "dialect circuit" exists, or that none does. The maps are means over few pairs in one prompt; one aligned feature stands for
# thirteen; and agreement with one neutral swap does not make a mechanism unspecific, just as a difference from one would not make it specific.
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `dialect.aligned_pairs`, `tracing.guise_batch` | pairs fit for patching; a batch with its differing position |
# | `dialect.gap_direction`, `attribution.apply_final_norm`, `decompose_at` | the gap as a projection; parts that add up |
# | `tracing.gap_by_component`, `gap_by_head`, `gap_after_layers` | who writes the gap |
# | `run_experiment(model, batch, preference)` | two guises as one experiment: `.denoise(sweep)`, `.noise(sweep)` |
# | `patching.get_act_patch_block_every`, `..._attn_head_all_pos_every` | three panels; five panels |
#
# **Glossary.** *Aligned*: of equal length, differing in one token. *Bias term*: the part of a logit difference that the unembedding's bias adds. *Direct part*: what a component
# writes into the last position's stream, read with the gap's direction. *Logit lens*: reading an unfinished stream as if it were final. *Null map*: the same figure for a
# swap that changes nothing of interest. *Padding defect*: reading a column that is padding in some rows. *Reconcile*: check that parts add up to the whole, row by row.
#
# **Next:** [09 · Can it be removed?](09_removing_it.ipynb)
