# %% [markdown]
# # 06 · The whole circuit
#
# Three and a half hours. You have followed single paths. Now put the heads together and ask a harder question: can these heads do the task without all the others?
#
# You will be able to
# - build a data set with templates, and means that keep the template and lose the names;
# - run a circuit: every head outside it is replaced by its mean;
# - report a circuit's faithfulness with an interval, an error per prompt, and controls to compare it with;
# - test completeness and minimality, and keep the sign;
# - find out *what* a head carries: the name, or its place.

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
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import get_act_name

from tests.checks import (
    check_copy_scores,
    check_faithfulness,
    check_flip_signals,
    check_greedy_incompleteness,
    check_ioi_dataset,
    check_keep_mask,
    check_means_by_template,
    check_minimality,
    check_random_circuits,
    check_run_circuit,
)
from tests.checks.predicting import score_predictions
from utils import heads, ioi, plots
from utils.attribution import head_name, top_heads
from utils.circuits import criteria, evaluate, paths
from utils.circuits.graph import Edge, node_name, strongest_edges
from utils.experiment import run_experiment
from utils.models import load_model
from utils.reference import compare, figures

pd.set_option("display.max_colwidth", None)
pd.set_option("display.width", 140)

# %% tags=["nbval-ignore-output"]
model = load_model()
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads


# %% [markdown]
# ## 1 · A data set with templates
#
# Eight prompts were enough to follow paths. They are too few to say how well a circuit does, and they have another fault: they cannot
# give us means. To remove a head without telling the rest of the model anything, we replace its output by a **mean** over
# other prompts. This mean should keep everything except the one thing that we study, the repetition: which name is repeated,
# and that a name is repeated at all. So we need many prompts of the same shape:
#
# - A **template** fixes all words except the names. Prompts of one template have every role at the same position, so that means per position make sense.
# - Both orders, ABBA ("Mary and John … John") and BABA ("John and Mary … John"), occur equally often. Otherwise the place of the answer gives it away. Each order counts as a template of its own.
# - Every prompt has a twin with three different names, **ABC**: "Anna and Paul … Kate". The twin has the same shape, but no name is repeated, so there is no right answer. Means are taken over the twins.
#
# ### Exercise 6.1 · Prompts, twins and roles
#
# > Difficulty: ●●●○○  Importance: ●●●○○  20 minutes
#
# Prompt `i` uses template `i // 2 % len(templates)`, as ABBA if `i` is even and as BABA if it is odd. Draw five different names for it from `ioi.single_token_names(model)`: the indirect object, the subject, and three for
# the twin. A template looks like `"When{A} and{B} went to the shop,{S} gave a bag to"`: `{A}` is the place of the first name, `{B}` that of the second, and `{S}` that of the name that returns. In ABBA the indirect object stands first, in BABA the subject does. The names go in with a space in front, as in `" Mary"`.
#
# Return a dictionary:
# - `"clean"` and `"abc"`: lists of `n` texts;
# - `"answers"`: a list of pairs (indirect object, subject), each with its space;
# - `"template"`: a tensor `[n]`, `2 * number of the template + (0 for ABBA, 1 for BABA)`;
# - `"roles"`: a dictionary of tensors `[n]` with the positions of `"IO"`, `"S1"`, `"S1+1"`, `"S2"` and `"END"` in the model's own tokens, BOS included.
#
# The same `seed` must give the same prompts.
#
# <details><summary>Hint 1 · a question</summary>
#
# If you draw the twin's three names one after the other, how often do two of them agree?
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# Make `generator = random.Random(seed)` once, before the loop. `generator.sample(names, 5)` draws without replacement. `template.format(A=…, B=…, S=…)` fills the slots.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# Do not count words. Compare `model.to_tokens(text)[0]` with `model.to_single_token(name)`, and look up where they agree: the subject stands at two positions.
# </details>

# %%
def ioi_dataset(model: TransformerBridge, templates: Sequence[str], n: int, seed: int) -> dict:
    """n prompts, their ABC twins, answers (indirect object, subject), template numbers, and positions by role."""
    ### BEGIN SOLUTION
    generator, names = random.Random(seed), ioi.single_token_names(model)
    data = {"clean": [], "abc": [], "answers": [], "template": []}
    roles = {"IO": [], "S1": [], "S1+1": [], "S2": [], "END": []}
    for i in range(n):
        number, order = i // 2 % len(templates), i % 2
        io, subject, *others = [f" {name}" for name in generator.sample(names, 5)]
        first, second = (io, subject) if order == 0 else (subject, io)
        text = templates[number].format(A=first, B=second, S=subject)
        data["clean"].append(text)
        data["abc"].append(templates[number].format(A=others[0], B=others[1], S=others[2]))
        data["answers"].append((io, subject))
        data["template"].append(2 * number + order)
        tokens = model.to_tokens(text)[0]
        s1, s2 = (tokens == model.to_single_token(subject)).nonzero()[:, 0].tolist()
        roles["IO"].append((tokens == model.to_single_token(io)).nonzero().item())
        for role, position in (("S1", s1), ("S1+1", s1 + 1), ("S2", s2), ("END", len(tokens) - 1)):
            roles[role].append(position)
    data["template"] = torch.tensor(data["template"])
    return data | {"roles": {role: torch.tensor(positions) for role, positions in roles.items()}}
    ### END SOLUTION


# %%
check_ioi_dataset(ioi_dataset)

# %% [markdown] tags=["answer"]
# One draw of five cannot repeat a name. With separate draws, a twin would repeat a name now and then, and the means, which
# are meant to lose the repetition, would keep a trace of it. `(tokens == …).nonzero()` lists the positions at which a token
# stands, in order, so for the subject it gives S1 and then S2. If you counted words, you would miss BOS, punctuation, and the
# further tokens of a word that is split.

# %%
yours = ioi_dataset(model, ["When{A} and{B} went to the shop,{S} gave a bag to"], 4, seed=0)
for clean, abc, answers in zip(yours["clean"], yours["abc"], yours["answers"], strict=True):
    print(f"{clean!r} → {answers[0]!r}   twin: {abc!r}")

# %% [markdown]
# From here on we use the course's own data set, `ioi.ioi_dataset`, with six sentence structures of different lengths. It also draws the place and the object. Its 96 prompts make eight for each of the twelve templates.
#
# *What do you expect?* Is the model equally good at all six structures?

# %%
data = ioi.ioi_dataset(model, 96)
test = evaluate.circuit_test(data, 36)  # means from the 96 twins; circuits are run on the first 36 prompts, three of each template
by_structure = [test.full[test.template // 2 == number].mean().item() for number in range(len(ioi.STRUCTURES))]
pd.DataFrame({"structure": ioi.STRUCTURES, "mean logit difference": np.round(by_structure, 2)}).set_index("structure")

# %%
compare("circuit.full.mean", test.full.mean(), model)
compare("circuit.full.share_right", (test.full > 0).float().mean(), model)
compare("circuit.full.by_structure", torch.tensor(by_structure), model)


# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# No. The mean is 4.6 for the structure that begins with *Yesterday*, and 2.6 for the one that begins with *While*. Each mean
# is over six prompts. Even so, the right name is ahead of the wrong one in all 36 prompts.
# </details>
#
# ## 2 · Take everything else away
#
# ### Exercise 6.2 · Means by template
#
# > Difficulty: ●●○○○  Importance: ●●●●○  10 minutes
#
# `z` holds the twins' head outputs for all layers. Give each prompt the mean over all prompts of *its* template, position by position. The template numbers come in any order, and a template may have one prompt only.
#
# <details><summary>Hint 1 · a question</summary>
#
# What would be left of the positions if you averaged two templates of different lengths together?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# `z[:, template == number]` is `[layer, prompts of this template, pos, head, d_head]`. Average over axis 1 and keep the axis.
# </details>

# %%
def means_by_template(
    z: Float[Tensor, "layer batch pos head d_head"], template: Int[Tensor, " batch"]
) -> Float[Tensor, "layer batch pos head d_head"]:
    """For each prompt, the mean of z over all prompts of its template, position by position."""
    ### BEGIN SOLUTION
    means = torch.empty_like(z)
    for number in template.unique():
        means[:, template == number] = z[:, template == number].mean(1, keepdim=True)
    return means
    ### END SOLUTION


# %%
check_means_by_template(means_by_template)


# %% [markdown] tags=["answer"]
# `template == number` picks the prompts of one template wherever they stand in the batch, and as an index on the left it
# writes their mean back to the same places. `keepdim=True` leaves an axis of length 1, along which torch copies the mean to
# all of these prompts. Without it, torch would line up layers with prompts: that is an error or, if the template has as many
# prompts as the model has layers, a wrong result without one. `template.unique()` lists the numbers that occur, which need
# not begin at 0.

# %% [markdown]
# ### Exercise 6.3 · Which heads are kept, and where
#
# > Difficulty: ●●●○○  Importance: ●●●○○  10 minutes
#
# A circuit is a dictionary from a role to the heads that work there, for example `{"END": [(9, 9)], "S2": [(5, 5)]}`. Return a mask `[layer, batch, pos, head]` that is true where a head of the circuit is kept: at the position of its role, which differs from prompt to prompt.
#
# <details><summary>Hint 1 · a question</summary>
#
# `mask[layer, :, positions, head]` looks right. For which prompts does it set which positions?
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# Pair each prompt with its own position: `mask[layer, torch.arange(batch), positions, head] = True`.
# </details>

# %%
def keep_mask(
    circuit: Mapping[str, Sequence[tuple[int, int]]],
    roles: Mapping[str, Int[Tensor, " batch"]],
    shape: tuple[int, int, int, int],
) -> Bool[Tensor, "layer batch pos head"]:
    """True where a head of the circuit is kept: at the position of its role in each prompt. shape: that of the mask."""
    ### BEGIN SOLUTION
    mask = torch.zeros(shape, dtype=torch.bool)
    for role, members in circuit.items():
        for layer, head in members:
            mask[layer, torch.arange(shape[1]), roles[role], head] = True
    return mask
    ### END SOLUTION


# %%
check_keep_mask(keep_mask)


# %% [markdown] tags=["answer"]
# Two index tensors of the same length are read in pairs: the first prompt with the first position, the second with the
# second. A slice (`:`) in place of `torch.arange(shape[1])` gives every prompt the positions of all prompts, and you would
# not notice as long as all positions are the same. The mask is made once, and its cells are only switched on. So a head that
# is listed at two roles is kept at both.

# %% [markdown]
# ### Exercise 6.4 · Run the circuit
#
# > Difficulty: ●●●○○  Importance: ●●●●●  15 minutes
#
# Run `tokens`. In every layer, replace `z` by its mean wherever the mask does not keep it. Everything else computes as usual: MLPs, norms, and the kept heads, which work with what they find.
#
# <details><summary>Hint 1 · a question</summary>
#
# Should a kept head write what it wrote in the whole model, or what it makes of the thinned-out stream?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# The mask of a layer is `[batch, pos, head]`, and `z` is `[batch, pos, head, d_head]`. `torch.where(condition, a, b)` chooses cell by cell, after broadcasting: which axis does the mask lack?
# </details>

# %%
def run_circuit(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "layer batch pos head"],
    means: Float[Tensor, "layer batch pos head d_head"],
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of a run in which z is its mean wherever the mask does not keep it."""
    ### BEGIN SOLUTION

    def replace(z, hook, layer):
        return torch.where(mask[layer][..., None], z, means[layer])

    hooks = [(get_act_name("z", layer), partial(replace, layer=layer)) for layer in range(model.cfg.n_layers)]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)
    ### END SOLUTION


# %%
check_run_circuit(run_circuit)

# %% [markdown] tags=["answer"]
# The hook is given `z` as the head computes it in *this* run, after heads below it have been replaced. Its `z` from the whole
# model would bring along what all the other heads had told it, so the run would not show what the circuit can do without
# them. `[..., None]` adds the missing axis, and one entry of the mask then decides for all `d_head` numbers of a head.
# `partial` fixes the layer of each hook, while a function that looks up the loop's `layer` when it is called would find the
# last layer each time.

# %% [markdown]
# `test.scores(circuit)` does all of this for padded prompts as well, and returns each prompt's logit difference. Two values frame everything that follows: the whole model, and the **empty circuit**, in which every head is replaced.
#
# *What do you expect?* What is the mean logit difference of the empty circuit? And is it the same for every prompt?

# %%
compare("circuit.empty.mean", test.empty.mean(), model)
compare("circuit.empty.spread", test.empty.std(), model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# The mean is near 0, because nothing tells the two names apart on average. A single prompt is another matter: the spread over prompts is about two logits. So the model prefers some names to others even when no head says who is repeated. Whatever a circuit scores has to be compared with the empty circuit, and not with zero.
# </details>
#
# ## 3 · The circuit, from path patching
#
# Chapter 05 found the paths by hand. Here is a similar search with thresholds, on the same eight prompts. A head that feeds the writers' queries from an earlier layer counts as a *broker*, even where it also has a small direct effect of its own. None of the eight prompts is in the data set, so the test is on new sentences.

# %%
pairs = ioi.ioi_pairs(model)
roles = ioi.positions_by_role(pairs.clean_tokens, pairs.answer_tokens)
flip = run_experiment(model, pairs)  # S2 is the other name
fresh = run_experiment(model, ioi.ioi_pairs(model, corruption="S1"))  # S1 is a fresh name


def lost(experiment, receivers="logits", component=None, role="END") -> Float[Tensor, "layer head"]:
    """The share lost when the path from each head, at one role, is corrupted (chapter 05)."""
    return -experiment.noise(paths.path_patch, receivers=receivers, component=component, at=roles[role], progress=False)


def at_least(threshold: float, effects: Float[Tensor, "layer head"]) -> list[tuple[int, int]]:
    """The heads whose effect, of either sign, reaches the threshold, strongest first."""
    return top_heads(effects.abs(), int((effects.abs() >= threshold).sum()))


direct = lost(flip)
writers = at_least(0.02, direct)
into_query = lost(flip, writers, "q")
writing_layer = min(layer for layer, _ in writers[:5])  # as in chapter 05
brokers = [head for head in at_least(0.02, into_query) if head[0] < writing_layer]
writers = [head for head in writers if head not in brokers]
into_value = lost(flip, brokers, "v", "S2")
repeaters = at_least(0.01, into_value)
into_key = lost(fresh, repeaters, "k", "S1+1")
previous = at_least(0.02, into_key)
slot_circuit = {"END": [*writers, *brokers], "S2": repeaters, "S1+1": previous}
pd.DataFrame(
    {"heads": [", ".join(heads.names(members)) for members in (writers, brokers, repeaters, previous)]},
    index=["END: write the answer", "END: feed the writers' queries", "S2: feed those values", "S1+1: feed those keys"],
)

# %%
compare("circuit.writers", heads.names(writers), model)
compare("circuit.brokers", heads.names(brokers), model)
compare("circuit.repeaters", heads.names(repeaters), model)
compare("circuit.previous", heads.names(previous), model)


# %% [markdown]
# We call the four rows **writers**, **brokers**, **repeaters** and **previous-token heads**. A head is in its row because
# of a path, and what it attends to was not asked. On SmolLM2, for example, two of the four repeaters, L14H3 and L15H7, look
# back from S2 to S1 itself, as duplicate-token heads do, and not to S1+1.
#
# ### Exercise 6.5 · Faithfulness
#
# > Difficulty: ●●●○○  Importance: ●●●●●  20 minutes
#
# How much of the model's score does a circuit reproduce? Given each prompt's score in the whole model, in the circuit and in the empty circuit, return a dictionary:
# - `"value"`: (mean circuit − mean empty) / (mean full − mean empty);
# - `"low"` and `"high"`: a 95 % bootstrap interval of this value. Draw prompts with replacement, each prompt with its three scores, at least 1000 times;
# - `"mae"`: the mean distance between circuit and whole model on one prompt, in logits;
# - `"correlation"`: Pearson's correlation between the two over prompts.
#
# <details><summary>Hint 1 · a question</summary>
#
# One prompt has a full score of 0.1. What would it do to a mean of ratios?
# </details>
# <details><summary>Hint 2 · the tool</summary>
#
# `scipy.stats.bootstrap((full, circuit, empty), statistic, paired=True, method="percentile")` draws prompts whole. Your statistic takes three arrays and `axis`.
# </details>

# %%
def faithfulness(
    full: Float[Tensor, " batch"], circuit: Float[Tensor, " batch"], empty: Float[Tensor, " batch"]
) -> dict[str, float]:
    """The share of the model's mean score that the circuit gives ("value", "low", "high"), "mae", and "correlation"."""
    ### BEGIN SOLUTION
    samples = [scores.cpu().numpy().astype(float) for scores in (full, circuit, empty)]

    def value(full, circuit, empty, axis=-1):
        return (circuit.mean(axis) - empty.mean(axis)) / (full.mean(axis) - empty.mean(axis))

    drawn = stats.bootstrap(samples, value, paired=True, method="percentile", n_resamples=1999, rng=0)
    return {
        "value": value(*samples),
        "low": drawn.confidence_interval.low,
        "high": drawn.confidence_interval.high,
        "mae": np.abs(samples[1] - samples[0]).mean(),
        "correlation": np.corrcoef(samples[0], samples[1])[0, 1],
    }
    ### END SOLUTION


# %%
check_faithfulness(faithfulness)

# %% [markdown] tags=["answer"]
# A prompt on which the whole model scores about the same as the empty circuit has a ratio of any size, and a few such prompts
# would decide a mean of ratios. So the means come first and the ratio after. `paired=True` keeps the three scores of a prompt
# together; drawn apart, what makes one prompt easier than another would no longer cancel between them. For `"mae"`, the
# absolute value comes before the mean, or errors of opposite sign would cancel.

# %% [markdown]
# ### Predict before you look
#
# On SmolLM2 the circuit has 22 heads. Now keep only **the strongest writer**, one head at one position, and replace every
# other head by its mean. What share of the model's mean score do you expect? Choose `"under a quarter"`, `"a quarter to a
# half"`, `"half to three quarters"` or
# `"over three quarters"`.

# %%
prediction = {"the strongest writer alone": None}

# %% tags=["solution"]
prediction = {"the strongest writer alone": "under a quarter"}  # what we guessed


# %%
def report(circuit: evaluate.Circuit) -> dict[str, float]:
    """The row of a circuit in the tables below."""
    scores = test.scores(circuit)
    return {"mean": scores.mean().item(), **faithfulness(test.full, scores, test.empty)}


rows = {"strongest writer alone": report({"END": writers[:1]}), "circuit from the first corruption": report(slot_circuit)}
share = rows["strongest writer alone"]["value"]
measured = ["under a quarter", "a quarter to a half", "half to three quarters", "over three quarters"][min(3, max(0, int(4 * share)))]
score_predictions(prediction, {"the strongest writer alone": measured})
pd.DataFrame(rows).T.round(2)

# %%
for name, row in rows.items():
    key = name.replace(" ", "_")
    compare(f"circuit.{key}.value", row["value"], model)
    compare(f"circuit.{key}.mae", row["mae"], model)
    compare(f"circuit.{key}.correlation", row["correlation"], model)

# %% [markdown]
# *What do you see?* Which row is the better explanation of the model?
# <details><summary>What we see, for SmolLM2</summary>
#
# **One head, L23H3, reaches 68 % of the mean score. The circuit of 22 heads, which contains it, reaches 44 %.** If you looked
# at the mean alone, you would throw the circuit away. The error per prompt does not help, because on average both miss the
# model's score of a prompt by 2.0 logits. The correlation tells them apart: it is .56 for the lone head and .81 for the
# circuit. Most of the .56 is there without any circuit, since some names are likelier than others (section 4 gives the
# number). So the circuit follows the model better from prompt to prompt, but something that lifts its score is missing.
# </details>
#
# ### What is missing?
#
# Section 7 of chapter 05 has the answer. In both runs of the first corruption, the name at S2 is a repeated one. So heads that mark it as *repeated* write the same in both, and the first corruption cannot show them. With a fresh name at S1 they write something else. So we add the heads that feed the writers' **keys** at S2 under the second corruption. We call them **markers**.

# %%
into_writers_key = lost(fresh, writers, "k", "S2")
markers = at_least(0.03, into_writers_key)
circuit = {**slot_circuit, "S2": list(dict.fromkeys([*repeaters, *markers]))}
strongest = writers[0]
without = {**circuit, "END": [head for head in circuit["END"] if head != strongest]}
rows |= {
    "circuit with markers": report(circuit),
    f"the same without {head_name(*strongest)}": report(without),
    "two strongest writers": report({"END": writers[:2]}),
}
pd.DataFrame(rows).T.round(2)

# %%
compare("circuit.markers", heads.names(markers), model)
compare("circuit.size", len(criteria.placed(circuit)), model)
for name, key in (("circuit with markers", "found"), (f"the same without {head_name(*strongest)}", "without_strongest"), ("two strongest writers", "two_writers")):
    compare(f"circuit.{key}.value", rows[name]["value"], model)
    compare(f"circuit.{key}.interval", torch.tensor([rows[name]["low"], rows[name]["high"]]), model)
    compare(f"circuit.{key}.mae", rows[name]["mae"], model)
    compare(f"circuit.{key}.correlation", rows[name]["correlation"], model)

# %%
alone, found = test.scores({"END": [strongest]}), test.scores(circuit)
plots.scatter(
    torch.cat([test.full, test.full]),
    torch.cat([alone, found]),
    "One prompt, one point: the whole model against two circuits",
    x="logit difference in the whole model",
    y="logit difference in the circuit",
    color=["strongest writer alone"] * len(alone) + ["circuit with markers"] * len(found),
    color_name="circuit",
    diagonal=True,
)


# %% [markdown]
# **How to read it.** A faithful circuit puts every prompt on the diagonal. A circuit that is right on average and wrong on every prompt gives a cloud around the diagonal.
#
# ## 4 · Compared with what?
#
# Any number needs something to compare it with. How well do *other* circuits of the same shape do? And since one head may
# dominate, as L23H3 does in SmolLM2, there are two fair comparisons: random circuits that may not hold it, and random
# circuits that always do.
#
# ### Exercise 6.6 · Matched random circuits
#
# > Difficulty: ●●●○○  Importance: ●●●●○  20 minutes
#
# Return `n` random circuits of the same shape: for every head of `circuit`, another head at the same role, at most `within` layers away. A draw must not hold any head of the circuit at that head's role, nor the same head twice at one role. Heads in `keep` stay in every draw, at their own role. Heads in `never` are never drawn. The same `seed` gives
# the same draws.
#
# <details><summary>Hint 1 · a question</summary>
#
# Why match the layers? Think of what a head of the first layer could possibly know about S2.
# </details>
# <details><summary>Hint 2 · the steps</summary>
#
# For each role: begin with the kept heads. For each other head, list the heads near enough, take out those that are not allowed or already chosen, and draw one with `generator.choice`, where `generator = random.Random(seed)` is made once, at the beginning.
# </details>

# %%
def random_circuits(
    circuit: Mapping[str, Sequence[tuple[int, int]]],
    n: int,
    n_layers: int,
    n_heads: int,
    within: int = 2,
    keep: Sequence[tuple[int, int]] = (),
    never: Sequence[tuple[int, int]] = (),
    seed: int = 0,
) -> list[dict[str, list[tuple[int, int]]]]:
    """n circuits with as many heads at each role as `circuit`, each at most `within` layers from the head it stands for."""
    ### BEGIN SOLUTION
    generator, circuits = random.Random(seed), []
    for _ in range(n):
        drawn = {}
        for role, members in circuit.items():
            chosen = [head for head in members if head in keep]
            for layer, _ in [head for head in members if head not in keep]:
                near = range(max(0, layer - within), min(n_layers, layer + within + 1))
                allowed = [(i, h) for i in near for h in range(n_heads) if (i, h) not in [*members, *chosen, *never]]
                chosen.append(generator.choice(allowed))
            drawn[role] = chosen
        circuits.append(drawn)
    return circuits
    ### END SOLUTION


# %%
check_random_circuits(random_circuits)

# %% [markdown] tags=["answer"]
# A head of the circuit, drawn in another one's place, would bring part of the circuit's score into the control. So `allowed`
# leaves out all of `members`, and not only the head that is being replaced. It leaves out `chosen` as well, because heads of
# nearby layers are drawn from overlapping lists. `range` stops before its end, hence the `+ 1`. A generator made inside the
# loop would begin again with the same seed, and all `n` circuits would be the same.

# %%
draws = {
    "random, never the strongest": random_circuits(circuit, 20, n_layers, n_heads, never=[strongest]),
    "random, always the strongest": random_circuits(circuit, 20, n_layers, n_heads, keep=[strongest]),
}
null = {name: pd.DataFrame([report(drawn) for drawn in some]) for name, some in draws.items()}
for name, table in null.items():
    rows[f"{name}: mean of 20"] = table.mean().to_dict()
    rows[f"{name}: largest value of 20"] = table.loc[table["value"].idxmax()].to_dict()
rows["the whole model"] = {"mean": test.full.mean().item(), "value": 1.0, "low": 1.0, "high": 1.0, "mae": 0.0, "correlation": 1.0}
rows["empty"] = {"mean": test.empty.mean().item(), **faithfulness(test.full, test.empty, test.empty)}
pd.DataFrame(rows).T.sort_values("mae").round(2)

# %%
for name, key in (("random, never the strongest", "random"), ("random, always the strongest", "random_with_strongest")):
    compare(f"circuit.{key}.mean", null[name]["value"].mean(), model)
    compare(f"circuit.{key}.max", null[name]["value"].max(), model)
    compare(f"circuit.{key}.mae", null[name]["mae"].mean(), model)
    compare(f"circuit.{key}.correlation", null[name]["correlation"].mean(), model)
compare("circuit.empty.correlation", rows["empty"]["correlation"], model)
compare("circuit.empty.mae", rows["empty"]["mae"], model)


# %% [markdown]
# **How to read it.** The rows are sorted by the error per prompt. The interval of a row is over prompts; in the rows "mean of 20" it is the mean of twenty intervals.
#
# *What do you see?* Three questions. Which column tells the found circuit apart from random ones most clearly? What does a random circuit with the strongest head score? How well does the *empty* circuit correlate with the model?
# <details><summary>What we see, for SmolLM2</summary>
#
# - Random circuits without L23H3 explain nothing: their mean value is −.07.
# - Random circuits **with** L23H3 have a mean value of .60, a little less than L23H3 reaches alone. Their other heads add nothing. If you drew random circuits without thinking of the dominant head, some would look faithful, and you would not know why.
# - The empty circuit, which knows nothing about the task, correlates with the model at .49. A correlation has to be compared with *that*, and not with 0.
# - The found circuit stands out most clearly in the error per prompt: .85 logits, where every other circuit has 1.8 or more. Its correlation is .88. The circuit without L23H3 has .79, so it follows the model's ups and downs as well, but it gives far too little.
#
# A mean alone cannot show any of this. So report a circuit with three numbers, its value (with an interval), its error per
# prompt and its correlation, and give the same three for the controls.
# </details>
#
# ## 5 · Complete? Minimal?
#
# A circuit can be faithful and still lack a stand-in: a head that matters only when another head is gone. **Completeness** asks about that. Remove some heads K from the circuit and from the whole model: both should fall alike. If the model still copes where the circuit fails, it has heads that the circuit lacks. We write F(M) for the mean score of the whole model, F(C) for that of the circuit, and C∖K for the circuit without the heads K.
#
# ### Exercise 6.7 · Look for the worst K
#
# > Difficulty: ●●●●○  Importance: ●●●○○  20 minutes
#
# There are too many sets K to try. Search greedily: begin with none. In each of `n` steps, draw `k` of the remaining heads (all of them if fewer are left), and add the one that makes |F(C∖K) − F(M∖K)| largest. Stop after `n` steps, or sooner if no head is left. Return the best K that you met on the way, the empty one included, and its distance.
#
# `in_circuit(K)` and `in_model(K)` are the two mean scores with the heads of the list K removed. Do not ask them more often than necessary.
#
# <details><summary>Hint 1 · a question</summary>
#
# What would you find if you made F(C∖K) alone as small as possible?
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# A step may make the distance smaller, because one head has to be added. Remember the best set and not the last.
# </details>

# %%
def greedy_incompleteness(
    members: Sequence, in_circuit: Callable[[list], float], in_model: Callable[[list], float], k: int, n: int, seed: int = 0
) -> tuple[list, float]:
    """The set K with the largest |in_circuit(K) - in_model(K)| that a greedy search of at most n steps meets, and that distance."""
    ### BEGIN SOLUTION
    generator, removed = random.Random(seed), []
    best = [], abs(in_circuit([]) - in_model([]))
    for _ in range(min(n, len(members))):
        left = [head for head in members if head not in removed]
        distances = {
            head: abs(in_circuit([*removed, head]) - in_model([*removed, head]))
            for head in generator.sample(left, min(k, len(left)))
        }
        chosen = max(distances, key=distances.get)
        removed = [*removed, chosen]
        if distances[chosen] > best[1]:
            best = removed, distances[chosen]
    return best
    ### END SOLUTION


# %%
check_greedy_incompleteness(greedy_incompleteness)

# %% [markdown] tags=["answer"]
# A set K that ruins the circuit does not speak against it if K ruins the model just as much, so the distance decides. The
# search does not stop when a step makes the distance smaller, because heads that stand in for each other may show only when
# several of them are gone. So `best` is kept apart from `removed`, and it begins with the empty set, because circuit and
# model may differ before anything is removed. `max(distances, key=distances.get)` returns the head whose distance is largest.

# %%
some = test.first(12)  # one prompt of each template
in_circuit, in_model = criteria.scorers(some, circuit)
members = criteria.placed(circuit)  # (role, (layer, head)) for every head of the circuit
worst, distance = greedy_incompleteness(members, in_circuit, in_model, k=4, n=3)
classes = {"writers": writers, "brokers": brokers}
removed = {name: [member for member in members if member[0] == "END" and member[1] in group] for name, group in classes.items()}
removed |= {"repeaters and markers": [m for m in members if m[0] == "S2"], "previous tokens": [m for m in members if m[0] == "S1+1"], "the worst K": worst}
pairs_of_scores = {name: (in_circuit(group), in_model(group)) for name, group in {"nothing": [], **removed}.items()}
plots.scatter(
    [scores[1] for scores in pairs_of_scores.values()],
    [scores[0] for scores in pairs_of_scores.values()],
    "Completeness: the same heads removed from the model and from the circuit",
    x="F(M without K): the whole model",
    y="F(C without K): the circuit",
    labels=list(pairs_of_scores),
    diagonal=True,
)

# %%
compare("circuit.incompleteness.worst", distance, model)
compare("circuit.incompleteness.worst_set", [node_name(head) for _, head in worst], model)
for name, (of_circuit, of_model) in pairs_of_scores.items():
    compare(f"circuit.incompleteness.{name.replace(' ', '_').lower()}", torch.tensor([of_circuit, of_model]), model)


# %% [markdown]
# **How to read it.** Each point is one set K. On the diagonal the circuit falls as the model does. Below it, the model copes better than the circuit, so something outside the circuit stands in.
#
# *What do you see?* For which class does the model cope best, and what is the largest distance of the search?
# <details><summary>What we see, for SmolLM2</summary>
#
# All points lie within .7 logits of the diagonal. Without the writers nothing is left of either score. Without the brokers
# both fall to 1.9 or 2.0, and without the repeaters and markers to .7 (circuit) and .5 (model). The largest distance belongs
# to the previous-token heads. Without them the circuit falls from 3.5 to 2.5, and the model only from 3.7 to 3.1. Of this
# distance of .68, .26 is there before anything is removed. The rest, .42, suggests that the model has stand-ins for these
# heads, which the circuit lacks. But twelve prompts are few for a difference of this size. The search finds no larger
# distance (.67). It took three steps with four tries each, on one prompt of each template, and a greedy search gives a lower
# bound: a worse set may exist. In the paper, the worst sets had distances of about 3 logits.
# </details>
#
# ### Exercise 6.8 · Does every head earn its place?
#
# > Difficulty: ●●○○○  Importance: ●●●○○  10 minutes
#
# **Minimality** asks of every head v: does the circuit change if v is removed as well? A head with a stand-in shows its worth only when the stand-in is gone. So for each v there may be a set K = `together[v]` of heads that are removed in both runs. If v itself is listed in K, leave it out there.
#
# Return head → F(C∖(K∪{v})) − F(C∖K). Keep the sign. A negative change means that the head helps. In the paper's figure several heads have a positive change.

# %%
def minimality(in_circuit: Callable[[list], float], members: Sequence, together: Mapping | None = None) -> dict:
    """v → F(C without K and v) - F(C without K), with its sign. together: v → K; None, or no entry, is no others."""
    ### BEGIN SOLUTION
    changes = {}
    for head in members:
        others = [other for other in (together or {}).get(head, []) if other != head]
        changes[head] = in_circuit([*others, head]) - in_circuit(others)
    return changes
    ### END SOLUTION


# %%
check_minimality(minimality)

# %% [markdown] tags=["answer"]
# Both scores lack K, so v is the only difference between them. If you compared with the whole circuit, the change would be
# that of K and v together. If v stayed in K, both scores would lack it, and the change would be 0 whatever the head does.
# `(together or {}).get(head, [])` gives an empty list both for `None` and for a head without an entry.

# %%
changes = minimality(in_circuit, members)
order = sorted(members, key=changes.get)
plots.bar(
    {"change": [changes[member] for member in order]},
    "What removing one more head does to the circuit",
    x="removed head @ role",
    y="F(C without v) − F(C)",
    x_labels=[f"{head_name(*head)}@{role}" for role, head in order],
)

# %%
helpful, harmful = order[:3], [member for member in order[::-1][:3] if changes[member] > 0]
compare("circuit.minimality.most_helpful", heads.names([head for _, head in helpful]), model)
compare("circuit.minimality.most_helpful_change", torch.tensor([changes[member] for member in helpful]), model)
compare("circuit.minimality.most_harmful", heads.names([head for _, head in harmful]), model)
compare("circuit.minimality.most_harmful_change", torch.tensor([changes[member] for member in harmful]), model)
compare("circuit.minimality.below_a_tenth", sum(abs(change) < 0.1 for change in changes.values()), model)


# %% [markdown]
# *What do you see?* Which heads could go? Which would the circuit be *better* without?
# <details><summary>What we see, for SmolLM2</summary>
#
# L23H3 (−2.4), L17H4 (−1.1) and L20H0 (−1.0) carry the circuit. At the other end, removing L29H0 (+.8), L24H5 (+.3) or L24H7 (+.2) makes the score *higher*. All three work against the answer in the whole model as well: their direct effects are negative (the blue arrows into the logits in section 7). So a faithful circuit needs them, although its score would be higher without them. If we had taken
# absolute values, these heads would look like helpers. Thirteen heads change the score by less than a tenth of a logit: the threshold on paths let them in, and the circuit does not need them one by one.
# </details>
#
# ### Can you improve the circuit?
#
# These changes invite you to tinker. Leave out the heads that hurt, and the score goes up. Keep only the eight heads that are
# needed most, and the circuit becomes small. Or keep all writers and nothing that feeds them. The last two rows ask what the
# matter is with the writers: they keep only those that write for the answer, with and without the strongest.
#
# *What do you expect?* Which of the first three changes will be best by the value, and which by the error per prompt?

# %%
def placed_back(chosen: Sequence[tuple[str, tuple[int, int]]]) -> dict[str, list[tuple[int, int]]]:
    """(role, head) pairs as a circuit."""
    return {role: [head for where, head in chosen if where == role] for role in circuit}


helping = [head for head in writers if direct[head] > 0]
tinkered = {
    "circuit with markers": circuit,
    "without the heads that hurt": placed_back([member for member in members if changes[member] <= 0]),
    "the eight needed most": placed_back(order[:8]),
    "all writers, nothing else": {"END": writers},
    "writers that help, nothing else": {"END": helping},
    "the same without the strongest": {"END": [head for head in helping if head != strongest]},
}
tinkered_rows = {name: report(each) for name, each in tinkered.items()}
pd.DataFrame(tinkered_rows).T.assign(heads=[len(criteria.placed(each)) for each in tinkered.values()]).round(2)

# %%
for name, key in zip(list(tinkered)[1:], ("without_harmful", "best_eight", "writers_alone", "helping_alone", "helping_without_strongest"), strict=True):
    row = tinkered_rows[name]
    compare(f"circuit.tinkered.{key}", torch.tensor([row["value"], row["mae"], row["correlation"]]), model)
compare("circuit.tinkered.eight", heads.names([head for _, head in order[:8]]), model)


# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# Without the nine heads that hurt, the value is 1.47: nearly half as much again as the whole model. The error per prompt
# doubles, from .85 to 1.75, and the correlation falls from .88 to .79. A value above 1 is no success. It says that you have
# left out what holds the score back. (These heads were chosen by their effect on the first twelve of the 36 prompts, so on
# those twelve a rise was to be expected.) The eight heads that are needed most have a value of 1.07, which looks nearly
# perfect. But their error is 1.78, and their correlation of .59 is hardly better than the empty circuit's .49. By the value
# they look about as good as all 30 heads, and by the error per prompt they are twice as bad.
#
# All ten writers without their feeders have .20, less than L23H3 alone (.68). Four of the other nine write against the
# answer, but they are not the reason: without these four the value is lower still (.01). The five that are left beside L23H3
# write for the answer in the whole model. Here, where nothing tells them where to look, they write for the wrong name: alone
# they have −.68.
# </details>
#
# ## 6 · What does a head carry?
#
# ### Exercise 6.9 · Copying scores
#
# > Difficulty: ●●●●○  Importance: ●●●○○  20 minutes
#
# A name mover should write the name that it reads, whichever name that is. Test it without any prompt: give the model each name alone, after BOS. Take the stream after the first layer at the name's position. Send it through a head as if the head looked there with full attention, that is through `ln1`, the value map and $W_O$. Then read it off through the final norm and
# the unembedding. The **copying score** is the share of names that come out among the `k` likeliest tokens.
#
# Return `[2, layer, head]`: the score of what the head writes, and the score of its *negative*, which finds heads that write against the name they read.
#
# <details><summary>Hint 1 · a question</summary>
#
# How many value heads does `model.blocks[layer].attn.v` give, and which query head uses which?
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# `model.blocks[layer].ln1` and `.attn.v` are modules that you can call; `.attn.v` includes the bias, and returns `[name, 1, n_value_heads · d_head]`: `.unflatten(-1, (-1, model.cfg.d_head))` takes the heads apart. `repeat_interleave(n_heads // n_value_heads, dim=2)` gives each query head its value. `logits.topk(k).indices` are the likeliest tokens.
# </details>

# %%
def copy_scores(model: TransformerBridge, names: Int[Tensor, " name"], k: int = 5) -> Float[Tensor, "sign layer head"]:
    """The share of names that are themselves among the k likeliest tokens after the head has read them alone; then its negative.

    names: token ids, each given after BOS. The head reads the stream after the first layer.
    """
    ### BEGIN SOLUTION
    tokens = torch.stack([torch.full_like(names, model.tokenizer.bos_token_id), names], dim=1)
    _, cache = model.run_with_cache(tokens, names_filter="blocks.0.hook_resid_post")
    stream = cache["resid_post", 0][:, 1:]  # name 1 d_model
    scores = torch.zeros(2, model.cfg.n_layers, model.cfg.n_heads)
    for layer, block in enumerate(model.blocks):
        values = block.attn.v(block.ln1(stream)).unflatten(-1, (-1, model.cfg.d_head))  # name 1 value_head d_head
        values = values.repeat_interleave(model.cfg.n_heads // values.shape[2], dim=2)
        for head in range(model.cfg.n_heads):
            written = values[:, :, head] @ model.W_O[layer, head]  # name 1 d_model
            for i, sign in enumerate((1, -1)):
                likeliest = model.unembed(model.ln_final(sign * written))[:, 0].topk(k).indices  # name k
                scores[i, layer, head] = (likeliest == names[:, None]).any(1).float().mean()
    return scores
    ### END SOLUTION


# %%
check_copy_scores(copy_scores)

# %% [markdown] tags=["answer"]
# Query heads that share a value head are neighbors, so each value is repeated in place: 0, 0, 0, 1, 1, 1, … (`repeat` would
# give 0, 1, 2, 0, 1, 2, …). The sign is turned before the final norm and the unembedding. Taking the `k` *least* likely
# tokens instead is not the same where the unembedding has a bias, because that would turn the bias as well. `names[:, None]`
# compares each row of `k` tokens with its own name, and not with all names.

# %%
name_tokens = model.to_tokens([f" {name}" for name in ioi.single_token_names(model)[:24]], prepend_bos=False)[:, 0]
copying = criteria.copy_scores(model, name_tokens)  # as yours, a layer at a time
in_circuit_at_end = list(dict.fromkeys(circuit["END"]))
plots.bar(
    {sign: [copying[i][head].item() for head in in_circuit_at_end] for i, sign in enumerate(("writes the name", "writes against it"))},
    "Copying scores of the circuit's heads at END",
    x="head",
    y="share of names in the top 5",
    x_labels=heads.names(in_circuit_at_end),
)

# %%
for i, sign in enumerate(("positive", "negative")):
    copiers = [head for head in top_heads(copying[i], 5) if copying[i][head] >= 0.5]
    compare(f"circuit.copying.{sign}", heads.names(copiers), model)
    compare(f"circuit.copying.{sign}_scores", torch.stack([copying[i][head] for head in copiers]), model)
    compare(f"circuit.copying.{sign}_mean_of_all", copying[i].mean(), model)
compare("circuit.copying.strongest_writer", copying[:, strongest[0], strongest[1]], model)
for head in [head for head in writers if copying[0][head] >= 0.5 and direct[head] < 0]:  # copies names, and hurts the answer
    attends = [heads.attention_between(flip.clean_cache, roles["END"], roles[role])[head] for role in ("IO", "S1", "S2")]
    compare(f"circuit.copying.{head_name(*head)}_attends_to_io_s1_s2", torch.stack(attends), model)

# %% [markdown]
# *What do you see?* Which heads copy, and which copy negatively? What about the two heads of the last layer?
# <details><summary>What we see, for SmolLM2</summary>
#
# L23H2, L23H0 and L23H1 write the name they read (1.0, .92, .88), as the name movers of the paper do. L24H5 copies as well
# (.83), but on these prompts its direct effect is slightly negative. It looks at S1 and S2 (.07, .06) more than at IO (.04),
# so what it copies is mostly the wrong name. **L23H3 scores 0 and 1.0**: it writes against *every one* of the 24 names. L24H4
# writes against 20 of them (.83). The heads of layer 29 score 0 both ways. They matter for the answer, but they do not copy
# names: they read END itself, and pass on what is there.
# Over all heads of the model the means are .02 and .01, so a high score is rare.
# </details>
#
# These classes also let us ask the opposite question. What is left of the whole model if only one class is taken out?

# %%
chain = {"END": top_heads(into_query.abs(), 2), "S2": repeaters[:1], "S1+1": previous[:1]}
movers = [head for head in writers if copying[0][head] >= 0.2 and direct[head] > 0]
last_layer = [head for head in writers if head[0] == n_layers - 1]
taken_out = {"strongest writer": {"END": [strongest]}, "name movers": {"END": movers}, "brokers": {"END": chain["END"]}, "chain without name movers": chain, "writers of the last layer": {"END": last_layer}}
left = {name: (test.scores_without(group).mean() / test.full.mean()).item() for name, group in taken_out.items()}
pd.DataFrame({"heads": [", ".join(heads.names([h for g in group.values() for h in g])) for group in taken_out.values()], "share of F(M) left": np.round(list(left.values()), 2)}, index=list(left))

# %%
compare("circuit.movers", heads.names(movers), model)
for name, share in left.items():
    compare(f"circuit.taken_out.{name.replace(' ', '_')}", share, model)


# %% [markdown]
# *What do you see?* Which class does the model miss least, and how can that be?
# <details><summary>What we see, for SmolLM2</summary>
#
# The name movers: without L23H0, L23H1, L23H2 and L23H7 the model keeps its whole score (1.00). The heads of the last layer are nearly as dispensable (.95), since they work against each other. Without the two strongest brokers, L20H0 and L19H2, the model keeps about half (.52), without the chain up to these brokers .33, and without L23H3 .43. So a class can matter in path patching and be replaceable all the same. Chapter 04 showed one reason: when a name mover is gone, L24H4 writes less against the answer.
#
# Isn't it odd that the brokers matter so much more than the name movers, whose queries they feed? If the brokers are gone, the name movers still write, but they may look at the wrong name. If the name movers are gone, they write nothing. This would explain the figures; the chapter does not test it.
# </details>
#
# ### Exercise 6.10 · The six-way flip
#
# > Difficulty: ●●●●○  Importance: ●●●●●  25 minutes
#
# There are two ways to say which name is repeated: by the **token** ("it is *John*"), and by the **position** ("it is the *second* name"). Activation patching with a flipped S2 changes both at once. To pull them apart, let the heads write what they write in six kinds of prompt:
#
# | repeated name | at the same place | at the other place |
# |---|---|---|
# | **kept** | Mary and John … John | John and Mary … John |
# | **random** | Paul and Kate … Kate | Paul and Kate … Paul |
# | **inverted** | John and Mary … Mary | Mary and John … Mary |
#
# Take the heads' `z` at their roles from each kind of prompt and put it into the run of the original prompts; nothing else is changed. Return `[3, 2]`, the score of each cell in the order of the table. `variants` maps `("kept", "kept")`, `("kept", "inverted")`, `("random", "kept")` … to tokens; the first word is the token's row and the second the position's column.
#
# <details><summary>Hint 1 · a question</summary>
#
# What must the first cell be, whatever the heads?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# `z[torch.arange(batch), roles[role], head]` is `[batch, d_head]`, the head at its role in every prompt. The roles stand at the same positions in all six kinds.
# </details>

# %%
def flip_signals(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    variants: Mapping[tuple[str, str], Int[Tensor, "batch pos"]],
    circuit: Mapping[str, Sequence[tuple[int, int]]],
    roles: Mapping[str, Int[Tensor, " batch"]],
    score: Callable[[Tensor], Float[Tensor, ""]],
) -> Float[Tensor, "token place"]:
    """The score of the original prompts when the circuit's heads, at their roles, write what they write in a variant.

    Rows: the repeated token is kept, random, inverted. Columns: its position is kept, inverted.
    """
    ### BEGIN SOLUTION
    rows = torch.arange(len(tokens))
    scores = torch.zeros(3, 2)
    for i, token in enumerate(("kept", "random", "inverted")):
        for j, position in enumerate(("kept", "inverted")):
            _, cache = model.run_with_cache(variants[token, position], names_filter=lambda name: name.endswith("hook_z"))

            def put(z, hook, cache=cache):
                z = z.clone()
                for role, members in circuit.items():
                    for layer, head in members:
                        if hook.name == get_act_name("z", layer):
                            z[rows, roles[role], head] = cache[hook.name][rows, roles[role], head]
                return z

            hooks = [(lambda name: name.endswith("attn.hook_z"), put)]
            scores[i, j] = score(model.run_with_hooks(tokens, fwd_hooks=hooks))
    return scores
    ### END SOLUTION


# %%
check_flip_signals(flip_signals)

# %% [markdown] tags=["answer"]
# All six cells run the original prompts, and only what the chosen heads write at their roles comes from the variant. If you
# scored the variants themselves, every head would read something else, and the table would not tell what these heads carry.
# If two of the chosen heads stand in different layers, the later one does not react to the earlier one at its role, because
# its `z` there is overwritten, too. `cache=cache` ties the hook to the cache of this cell; a plain reference would do as well
# here, because the hook is called before the loop goes on.

# %% [markdown]
# Four groups of heads, on one prompt of each template: the brokers, the strongest repeater at S2, the strongest writer, and brokers and writer together. `criteria.flip_signals` does it for padded prompts, and for several circuits at once.

# %%
variants = {
    signal: some.pairs.clean_tokens if corruption is None else data.pairs(corruption)[:12].corrupted_tokens
    for signal, corruption in ioi.SIGNALS.items()
}
main_brokers = top_heads(into_query.abs(), 2)
groups = {
    f"brokers {' and '.join(heads.names(main_brokers))}": {"END": main_brokers},
    f"repeater {head_name(*repeaters[0])}": {"S2": repeaters[:1]},
    f"strongest writer {head_name(*strongest)}": {"END": [strongest]},
    "brokers and strongest writer": {"END": [*main_brokers, strongest]},
}
flips = dict(zip(groups, criteria.flip_signals(some, variants, list(groups.values())), strict=True))
plots.imshow(
    torch.stack(list(flips.values())),
    "The six-way flip: mean logit difference when some heads carry another message",
    x="position of the repeated name",
    y="repeated name",
    x_labels=["kept", "inverted"],
    y_labels=["kept", "random", "inverted"],
    panels=list(flips),
    unit="logits",
)

# %%
for key, scores in zip(("brokers", "repeater", "strongest_writer", "both"), flips.values(), strict=True):
    compare(f"circuit.flip.{key}", scores, model)
    compare(f"circuit.flip.{key}_token_and_position", torch.tensor(criteria.signal_strengths(scores)), model)

# %% [markdown]
# `signal_strengths` fits score = constant + *a* · token + *b* · position, where "kept" counts as 1, "random" as 0 and "inverted" as −1, and prints *a* and *b*.
#
# ### Interpret: who carries what?
#
# - **a** Brokers carry the position, and the strongest writer carries the token.
# - **b** Brokers carry the token, and the strongest writer carries the position.
# - **c** Neither: both carry mainly the same, or it is another mixture.
#
# Which is true of the model at hand, and which two numbers say so?

# %%
choice = {"who carries what": None}

# %% tags=["solution"]
choice = {"who carries what": "a"}  # for SmolLM2

# %%
carries = {key: max(zip(map(abs, criteria.signal_strengths(scores)), ("token", "position"), strict=True)) for key, scores in flips.items()}
(_, of_brokers), _, (_, of_writer), _ = carries.values()
decided = {("position", "token"): "a", ("token", "position"): "b"}.get((of_brokers, of_writer), "c")
score_predictions(choice, {"who carries what": decided})
compare("circuit.flip.decided", decided, model)


# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# **a.** For the brokers, *b* is 1.6 logits and *a* is .1. For L23H3, *a* is 2.0 and *b* is −.1. So the two mechanisms of chapter 05 can be told apart: one carries *where* the repeated name stands, the other *which* name it is. If all three heads carry the inverted message, the model prefers the wrong name by 4.3 logits, more than it preferred the right one before (3.7).
#
# In gpt2-small the S-inhibition heads carry mostly position, too, and some token: Wang et al. (2022, figure 9) give 3.55 and −0.99 for the token kept, 2.45 and −1.96 for a random one, 1.77 and −3.16 for the inverted one.
# </details>
#
# ## 7 · The circuit as a graph
#
# The next figure shows the main paths: into the logits, into the queries of the five strongest writers, into the values of the two strongest brokers, and into the keys of the strongest repeater and of the strongest writer. An arrow is drawn from a loss of 2 to 4 % on. Where there is no arrow, the path is weaker, or it was not measured. Paths into logits, queries and values are measured with S2 flipped, and paths into keys with a fresh S1. So compare the widths of arrows of one kind only.

# %%
def edges_into(experiment, senders, at: str, receiver, to: str, component: str, least: float) -> list[Edge]:
    """The paths from these senders, at one role, into a component of one head: those that lose at least `least`."""
    effects = -experiment.noise(
        paths.path_patch, receivers=[receiver], component=component, at=roles[at], senders=senders, progress=False
    )  # [sender]
    found = [Edge(sender, at, receiver, to, effect, component) for sender, effect in zip(senders, effects.tolist(), strict=True)]
    return [edge for edge in found if abs(edge.effect) >= least]


edges = strongest_edges(direct, "END", "logits", "END", least=0.03)
for head in writers[:5]:
    edges += edges_into(flip, circuit["END"], "END", head, "END", "q", least=0.03)
for head in main_brokers:
    edges += edges_into(flip, circuit["S2"], "S2", head, "END", "v", least=0.02)
edges += edges_into(fresh, circuit["S1+1"], "S1+1", repeaters[0], "S2", "k", least=0.03)
edges += edges_into(fresh, circuit["S2"], "S2", strongest, "END", "k", least=0.04)
plots.graph(edges, ["IO", "S1", "S1+1", "S2", "END"], "The circuit: who tells whom, and how much is lost without it")

# %%
compare("circuit.graph.edges", len(edges), model)

# %% [markdown]
# **How to read it.** Layers run upward and positions from left to right. Red arrows help the answer, blue ones hurt it, and the width is the share lost. Point at a dot to read one path, or at a head to read all of its paths.
#
# ## 8 · Beside the published circuit
#
# For gpt2-small, Wang et al. (2022) published 26 heads. If your model is gpt2-small, the next cell runs their circuit; the course holds no published circuit for other models (there are some, for gpt2-medium and for Pythia).

# %%
PUBLISHED_ROLES = {
    "END": ("name_mover", "backup_name_mover", "negative_name_mover", "s_inhibition"), "S2": ("induction", "duplicate_token"),
    "S1+1": ("previous_token",),
}
known = figures(model.cfg.model_name)
if "paper.heads.name_mover" in known:
    theirs = {
        role: [tuple(map(int, head[1:].split("H"))) for kind in kinds for head in known[f"paper.heads.{kind}"]["value"]]
        for role, kinds in PUBLISHED_ROLES.items()
    }
    row = report(theirs)
    for name, value in row.items():
        compare(f"circuit.published.{name}", value, model)
else:
    print(f"the course holds no published circuit for {model.cfg.model_name}")

# %% [markdown]
# One circuit has several published scores, so say which one you compare with:
#
# | what is reported | F(C) | F(M) | source |
# |---|---|---|---|
# | "87 % of the logit difference", a gap of 0.46 | 3.10 | 3.56 | Wang et al. 2022, section 4 |
# | the bar without any head removed in the figure on minimality | 2.62 | | the same, figure 20 |
# | the authors' saved run of 100 prompts | 2.84 | 3.30 | their repository |
# | a reimplementation with 25 prompts | | 2.81 | ARENA 1.4.1 |
#
# They differ in prompts, in templates and in what the means are taken over. We could not run gpt2-small here, because this machine reaches no model hub.
#
# ## 9 · What we may say
#
# **For SmolLM2, in one paragraph.** A circuit of 30 heads at three positions reproduces the logit difference of the model with a mean error of .85 logits per prompt. The prompts of this test were not used to find it. Two mechanisms run side by side. One works out the *place* of the repeated name; it has the published shape, from previous-token head to name
# mover. The other is one strong head that writes against the *name* at S2, and a repetition makes it look there harder. The strong head alone reaches two thirds of the mean score and explains hardly anything from prompt to prompt.
#
# **What it does not show.**
# - MLPs were never removed. The circuit says which *heads* are needed, given all MLPs.
# - The value depends on what replaces a head. Means over other twins, or resampled twins, give other numbers.
# - Thresholds chose the heads. Other thresholds give other circuits, some better by one criterion and worse by another.
# - The interval is over prompts. It says nothing about other sentence structures; the table in section 1 shows how much they differ.
#
# **Try.** Build the circuit with thresholds twice as large. Which numbers change most?
# <details><summary>What you should find, on SmolLM2</summary>
#
# 19 heads are left of 30. The value falls from .96 to .82, the error per prompt grows from .85 to .96 logits, and the correlation falls from .88 to .86. So the eleven weakest heads mostly shift the mean, and explain little from prompt to prompt.
# </details>
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `ioi.ioi_dataset`, `.pairs("ABC")` | prompts by template, with twins |
# | `means_by_template`, `keep_mask`, `run_circuit` | mean ablation of everything outside a circuit |
# | `evaluate.circuit_test(data, n)`, `.scores(circuit)` | the same in one call, for padded prompts |
# | `faithfulness` | value with interval, error and correlation per prompt |
# | `random_circuits` | matched controls |
# | `greedy_incompleteness`, `minimality` | does it lack a stand-in, and is every head needed? |
# | `copy_scores`, `flip_signals` | what a head writes; whether it carries the name or its place |
#
# **Glossary.** *ABC prompt*: a twin with three different names. *Circuit*: heads, each at a role, that are kept while all others are replaced. *Completeness*: the circuit without any K falls as the model without K does. *Copying score*: the share of names that a head writes when it reads them. *Faithfulness*: how much of the model's score a circuit reproduces. *Mean ablation*: replacing an output by
# its mean over other prompts. *Minimality*: every head of the circuit changes its score. *Template*: a sentence with slots for names.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Wang et al. 2022, [Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small](https://arxiv.org/abs/2211.00593). Sections 2.3, 3.1 and 4 define what this chapter computes. Figure 9 is the six-way flip, and figure 20 the one on minimality.
# - McDougall et al. 2023, [Copy Suppression: Comprehensively Understanding an Attention Head](https://arxiv.org/abs/2310.04625). It asks what the negative heads of gpt2-small are good for.
# - Miller et al. 2024, [Transformer Circuit Faithfulness Metrics Are Not Robust](https://arxiv.org/abs/2407.08734). It shows how much the faithfulness of a circuit depends on how the rest of the model is taken out.
# - Conmy et al. 2023, [Towards Automated Circuit Discovery for Mechanistic Interpretability](https://arxiv.org/abs/2304.14997). Its procedure finds circuits without a person who chooses each next step.

# %% [markdown]
# **Next:** [07 · Matched guises](07_matched_guises.ipynb) takes the same tools to a question about people.
