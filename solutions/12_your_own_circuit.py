# %% [markdown]
# # 12 · Your own circuit
#
# Ninety minutes, or as long as you like. So far the task was chosen for you. Now you bring your own: a file with pairs of prompts. This chapter is a checklist that you can use for any task, and it asks you to guess before every step.
#
# You will be able to
# - write pairs of prompts that can be compared, and say what is wrong with those that cannot;
# - decide with an interval whether a model can do a task, before you look for a circuit;
# - run the whole of part one on your own file, by hand or with one command;
# - say what a circuit's numbers support, and what they do not;
# - name the results that would prove you wrong.

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
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import check_matched_p, check_may_go_on, check_pair_problems, check_supported
from tests.checks.predicting import score_predictions
from utils import plots, tasks
from utils.attribution import head_name
from utils.circuits.report import ReportSettings, read_report_task, searching, seeing
from utils.circuits.report.circuit_words import matched_random_p, read_circuit
from utils.circuits.report.words import component_names, read_attribution, read_behavior, read_patching, read_paths
from utils.models import load_model
from utils.reference import compare

pd.set_option("display.max_colwidth", None)
pd.set_option("display.width", 140)

# %% tags=["nbval-ignore-output"]
model = load_model()
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads


# %% [markdown]
# ## 1 · Your pairs
#
# Everything starts with a file of **minimal pairs**. A minimal pair is two prompts that are alike except for one word, where that word decides the answer. For example, "The author near the senators" goes on with " is", and "The author**s** near the senators" goes on with " are". The first prompt is called clean and the second corrupted.
#
# The file is a CSV with the columns `clean`, `corrupted`, `answer` and `wrong_answer`. A column `template` may say which pairs share a sentence. Three files come with the course:
#
# - `agreement`: does the verb agree with the first noun, although another noun stands nearer?
# - `capitals`: which capital belongs to the country?
# - `greater_than`: a war that began in 1752 cannot have ended in 1723.
#
# A pair is valid for our methods if four things hold. If one of them fails, simple code does not crash, but its figures are wrong. (The course's own functions refuse most such pairs; yours should name the reason.) That is why you write the test for them yourself, before you write any pair.
#
# ### Exercise 12.1 · What makes a pair valid?
#
# > Difficulty: ●●○○○  Importance: ●●●●●  15 minutes
#
# Return the set of problems that a pair has, as strings:
# - `"length"`: the two prompts have different numbers of tokens;
# - `"difference"`: the prompts are equally long, but they do not differ in exactly one token;
# - `"answer"`: the answer is not one token;
# - `"wrong answer"`: the wrong answer is not one token.
#
# A valid pair has no problem, so the set is empty. A pair may have several.
#
# <details><summary>Hint 1 · a question</summary>
#
# "The writers" and "The writer" have two words each. How many tokens do they have? Look with `model.to_str_tokens`.
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# `model.to_tokens(text)` has shape `[1, pos]`. `(a != b).sum()` counts differences, if both have the same shape.
# </details>
# <details><summary>Hint 3 · the line that people miss</summary>
#
# `model.to_tokens` puts BOS in front. In an answer, BOS must not be counted: `prepend_bos=False`.
# </details>

# %%
def pair_problems(model: TransformerBridge, clean: str, corrupted: str, answer: str, wrong: str) -> set[str]:
    """Which of "length", "difference", "answer" and "wrong answer" is wrong with a pair; empty for a valid one."""
    ### BEGIN SOLUTION
    problems = set()
    clean_tokens, corrupted_tokens = model.to_tokens(clean), model.to_tokens(corrupted)  # 1 pos
    if clean_tokens.shape != corrupted_tokens.shape:
        problems.add("length")
    elif (clean_tokens != corrupted_tokens).sum() != 1:
        problems.add("difference")
    for name, word in (("answer", answer), ("wrong answer", wrong)):
        if model.to_tokens(word, prepend_bos=False).shape[1] != 1:
            problems.add(name)
    return problems
    ### END SOLUTION


# %%
check_pair_problems(pair_problems)

# %% [markdown] tags=["answer"]
# The tokens are compared only in the `elif`, because prompts of different lengths cannot be compared place by place.
# Comparing sets of tokens would overlook that the same word can change in two places. BOS stands in front of both prompts,
# so it changes neither test of them, but it would make an answer longer by one. The blank in front of an answer stays on:
# it is a part of the token that the model would have to write.

# %% [markdown]
# Here it is at work. Which problem does each of these pairs have? Guess before you run the cell.

# %%
candidates = [
    ("The author near the senators", "The authors near the senators", " is", " are"),
    ("The chairman near the senators", "The chairmen near the senators", " is", " are"),
    ("The author near the senators", "The authors near the senator", " is", " are"),
    ("The capital of Turkey is the city of", "The capital of Iran is the city of", " Ankara", " Tehran"),
]
pd.DataFrame([(*pair, ", ".join(sorted(pair_problems(model, *pair))) or "valid") for pair in candidates], columns=["clean", "corrupted", "answer", "wrong answer", "problems"])

# %%
compare("own.problems", [", ".join(sorted(pair_problems(model, *pair))) for pair in candidates], model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# The first pair is valid. In the second, "chairmen" has more tokens than "chairman", so every later word stands at another position in the two runs. In the third, both nouns change, and a patch could not tell which of them matters. In the fourth, " Ankara" is not one token, so there is no single logit to read.
# </details>
#
# Now choose your file. To use your own, write its path in place of the one below, for example `MY_CSV = "my_pairs.csv"`. The reader stops at anything it would have to guess, and names the line, the value and what to do. The texts below describe `agreement`; with another file you get other figures, and the sentences that are computed from them change too. The lines that begin with `own.` compare with the figures recorded for `agreement`, so with another file they show ✗, which then only says that it is another file. `pairs` find the circuit, `test_pairs` test it, and `n_random` is the number of random circuits to compare with.

# %%
MY_CSV = tasks.task_file("agreement")
task = read_report_task(MY_CSV, model, ReportSettings(pairs=8, test_pairs=16, n_random=19))
pd.DataFrame([vars(row) for row in task.rows[:6]]).set_index("line")

# %%
compare("own.pairs", len(task.rows), model)
compare("own.aligned", len(task.aligned), model)

# %% [markdown]
# `task.aligned` lists the rows whose two prompts have equally many tokens. Only those can be patched, because each position must hold the same word in both runs, except for the word that decides. The other steps take pairs of any length.
#
# ## 2 · Can the model do it?
#
# There is no circuit for a task that the model does not do. So the first step is to measure the behavior, and to decide *before you look at any head* whether you may go on.
#
# **Write down what you expect.** In what share of the 48 clean prompts does the model prefer the answer to the wrong answer? Choose `"under 70 %"`, `"70 to 90 %"` or `"over 90 %"`. And how often is the answer its first choice among all tokens? Choose `"often"` (more than half of the prompts) or `"seldom"`.

# %%
prediction = {"share right": None, "answer comes first": None}

# %% tags=["solution"]
prediction = {"share right": "over 90 %", "answer comes first": "often"}  # both wrong, as many first guesses are

# %%
behavior = seeing.behavior_step(task)
share = behavior["share_right"]
measured = {
    "share right": "under 70 %" if share < 0.7 else "70 to 90 %" if share <= 0.9 else "over 90 %",
    "answer comes first": "often" if behavior["top_1"] > 0.5 else "seldom",
}
score_predictions(prediction, measured)
plots.intervals(
    {"mean over pairs": [float(behavior[f"{name}_mean"]) for name in ("clean", "corrupted", "difference")]},
    "Logit difference of answer and wrong answer, with 95 % intervals over pairs",
    x="logit of the answer minus logit of the wrong answer",
    labels={"mean over pairs": ["clean", "corrupted", "clean − corrupted"]},
    bounds={"mean over pairs": tuple([behavior[f"{name}_interval"][end] for name in ("clean", "corrupted", "difference")] for end in (0, 1))},
)

# %%
compare("own.behavior.share_right", share, model)
compare("own.behavior.means", torch.stack([behavior["clean_mean"], behavior["corrupted_mean"]]), model)
compare("own.behavior.interval", behavior["clean_interval"], model)
compare("own.behavior.top_1", behavior["top_1"], model)
compare("own.behavior.mass", behavior["mass"], model)


# %% [markdown]
# *What do you see?* Does the model do the task? And is the answer what the model would say here? Which words does it put first?
# <details><summary>What we see, for SmolLM2</summary>
#
# The model prefers the verb that agrees in 85 % of the clean prompts. The mean logit difference is 1.44 on clean prompts (1.02 to 1.85) and −1.27 on corrupted ones, so the first noun decides. But the answer is never the model's first choice. What it would rather write is, most often, a full stop, "'s" or a new line. The two verbs share 2 % of the probability. So we are about to explain a preference between two words that the model would rarely say here. That is worth knowing, and worth saying in every summary.
# </details>
#
# ### Exercise 12.2 · A stopping rule
#
# > Difficulty: ●●○○○  Importance: ●●●●●  15 minutes
#
# Decide with numbers, not by looking at a figure. Given each pair's logit difference on its clean and on its corrupted prompt, compute two 95 % t intervals: one of the mean clean score, and one of the mean of *clean minus corrupted*, pair by pair. You may go on only if both intervals lie above zero. If the first does not, these pairs do not show that the model can do the task. If the second does not, they do not show that the corruption changes anything, and a patch may have nothing to bring back.
#
# Return a dictionary with `"clean"` and `"difference"`, each a pair (low, high), and `"go"`, True or False.
#
# A t interval is mean ± t · s / √n, where s is the standard deviation with n − 1 in the denominator, and t is the 97.5 % point of Student's distribution with n − 1 degrees of freedom.
#
# <details><summary>Hint 1 · a question</summary>
#
# Is the interval of a difference the difference of two intervals? Each pair has both scores, so what varies from pair to pair?
# </details>
# <details><summary>Hint 2 · the tool</summary>
#
# `stats.t.interval(0.95, n - 1, loc=mean, scale=standard_error)` gives (low, high), and `stats.sem(values)` the standard error. (`stats` is `scipy.stats`; it is imported above.)
# </details>

# %%
def may_go_on(clean: Sequence[float], corrupted: Sequence[float]) -> dict:
    """95 % t intervals of the mean clean score ("clean") and of clean minus corrupted ("difference"), and whether to "go" on."""
    ### BEGIN SOLUTION
    clean, corrupted = np.asarray(clean), np.asarray(corrupted)
    found = {}
    for name, values in (("clean", clean), ("difference", clean - corrupted)):
        found[name] = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    found["go"] = bool(found["clean"][0] > 0 and found["difference"][0] > 0)
    return found
    ### END SOLUTION


# %%
check_may_go_on(may_go_on)

# %% [markdown] tags=["answer"]
# The two scores of a pair belong together, so the difference is taken first, and its interval afterwards. If you treat the
# scores as independent, the interval is too wide where both rise together from pair to pair, and too narrow where one falls
# as the other rises. The *lower* ends decide: a mean above zero could have come out below zero with other pairs.
# `stats.sem` has n − 1 in its denominator, while numpy's `std` has n unless you say `ddof=1`.

# %%
decision = may_go_on(behavior["clean"].tolist(), behavior["corrupted"].tolist())
compare("own.go", decision["go"], model)
for sentence in [behavior["stop"] or "The report would go on.", *read_behavior(behavior).caveats]:
    print("–", sentence)

# %% [markdown]
# The sentences above are what the report prints. They are computed from the numbers, so they change with your file. The report's own rule is like yours, with a bootstrap in place of the t interval, and it also asks that more than half of the pairs are right.
#
# ## 3 · Which parts write the answer?
#
# Attribution takes the logit difference apart into what each layer and each head adds to it (chapter 02). It needs no corrupted run and no alignment. The parts have to add up, so the first thing to look at is the error of the sum.
#
# **Write down what you expect.** Which adds more to the logit difference here: all attention layers together, or all MLPs together? Write `"attention"` or `"MLPs"`.

# %%
prediction = {"adds more": None}

# %% tags=["solution"]
prediction = {"adds more": "attention"}

# %%
attribution = seeing.attribution_step(task)
parts = dict(zip(component_names(n_layers), attribution["clean_parts"].tolist(), strict=True))
by_kind = {"attention": sum(v for k, v in parts.items() if k.endswith("attn")), "MLPs": sum(v for k, v in parts.items() if k.endswith("mlp"))}
score_predictions(prediction, {"adds more": max(by_kind, key=by_kind.get)})
plots.heads(
    torch.stack([attribution["clean_heads"], attribution["clean_heads"] - attribution["corrupted_heads"]]),
    "What each head adds to the logit difference",
    unit="logits",
    panels=["clean prompts", "clean − corrupted"],
)

# %%
compare("own.attribution.adds_up", attribution["largest_error"] < 1e-3, model)
compare("own.attribution.attention_and_mlps", list(by_kind.values()), model)
strongest_head = divmod(int(attribution["clean_heads"].argmax()), n_heads)
compare("own.attribution.strongest_head", head_name(*strongest_head), model)
compare("own.attribution.strongest", attribution["clean_heads"].max(), model)

# %%
plots.line(
    {"own size (logit lens)": attribution["clean_own"], "last size (cumulative attribution)": attribution["clean_final"]},
    "The logit difference in the stream after each layer",
    x="after the embedding, and after each layer",
    y="logits",
    x_labels=["embed", *(f"L{layer}" for layer in range(n_layers))],
)

# %%
for sentence in [*read_attribution(attribution).said, *read_attribution(attribution).caveats]:
    print("–", sentence)

# %% [markdown]
# *What do you see?* Is there a single head that does the task? What do the MLPs add, and what does that mean for a circuit made of heads?
# <details><summary>What we see, for SmolLM2</summary>
#
# One head stands out: L26H0 adds .79 of the 1.44 logits. L27H8 and L27H7 come next. From corrupted to clean prompts L26H0 changes by 1.51 logits, more than any other. All attention layers together add 1.64, and the MLPs together take away .20 (MLP 28 alone takes .43, and MLP 29 gives .18 back). So for this task a circuit of heads can hope to cover most of the answer. Still, the contribution of L26H0 has a standard deviation of .90 over pairs, which is more than its mean (.79).
#
# Both curves stay within .4 of zero until layer 25, rise in layers 26 and 27, and then fall, since layer 28 takes away .4 logits. Read with its own size, the stream stands at 2.28 before the fall, and with the last size at 1.66, because the stream grows at the end (chapter 02).
# </details>
#
# ## 4 · Which parts carry it?
#
# Attribution shows who writes. Patching shows where the information travels (chapter 03): take an activation from the clean run, put it into the corrupted run, and see how much of the difference comes back. From here on the slow steps use `settings.pairs` pairs, and they use *half* of the file at most. The other half is kept for the test of the circuit.
#
# **Write down what you expect.** The deciding word is the first noun, and the prompt ends three words later. In which third of the layers does the information leave the noun? Write `"first"`, `"middle"` or `"last"`.

# %%
prediction = {"leaves the noun in the … third": None}

# %% tags=["solution"]
prediction = {"leaves the noun in the … third": "middle"}

# %%
if not task.can_patch:
    raise ValueError(searching.unaligned_reason(task))  # sections 4 and 5 need pairs that are equally long
patching = searching.patching_step(task)
leaves = int((patching["streams"][0, :, 0] < 0.5).int().argmax())  # the first layer at which the noun restores less than half
thirds = ("first", "middle", "last")
score_predictions(prediction, {"leaves the noun in the … third": thirds[min(2, 3 * leaves // n_layers)]})
plots.imshow(
    patching["streams"],
    "Clean activations patched into the corrupted run",
    x="position",
    y="layer",
    x_labels=patching["labels"],
    panels=["residual stream", "attention", "MLP"],
    unit="restored",
)

# %%
compare("own.patching.leaves_the_noun_at_layer", leaves, model)
compare("own.patching.largest_head", patching["denoised"].max(), model)
compare("own.patching.heads_correlate", torch.corrcoef(torch.stack([patching["denoised"].flatten(), patching["noised"].flatten()]))[0, 1], model)
for sentence in [*read_patching(patching).said, *read_patching(patching).caveats]:
    print("–", sentence)

# %% [markdown]
# *What do you see?* Where does the information go when it leaves the noun, and does a single head carry it?
# <details><summary>What we see, for SmolLM2</summary>
#
# The information stays at the noun for a very long time: until layer 26 of 30. Then it goes to the last position in one or two steps. A single head carries most of it. L26H0, patched alone into the corrupted run, restores 69 % of the difference, and it is the same head that writes the answer. In the MLP panel only one cell is large, layer 0 at the noun, where the word is first looked up. Compare this with the chain of chapter 05, where the answer passes through several heads.
# </details>
#
# ### Interpret: what does this corruption ask?
#
# In `agreement`, the corrupted prompt has the first noun in the other number. You could corrupt in other ways as well. Suppose that you replace the *second* noun ("senators" by "senator") and leave the first as it is. The right verb stays the same. What does the logit difference depend on?
#
# - **a** On the second noun more than on the first: where the two disagree in number, the model prefers the wrong verb on average.
# - **b** On both: the nearer noun pulls the verb toward itself, and the first one still decides on average.
# - **c** On the first noun only (the two kinds of pairs differ by less than .1).
#
# Choose before you run the cell. It compares pairs whose two nouns agree in number with pairs whose nouns do not, and measures how far each corruption moves the mean.

# %%
choice = {"corrupting the second noun": None}

# %% tags=["solution"]
choice = {"corrupting the second noun": "b"}

# %%
from utils.inference import end_logits
from utils.prompts import single_token


agreement = read_report_task(tasks.task_file("agreement"), model)  # whichever file you chose: its prompts end in a noun
of_agreement = seeing.behavior_step(agreement)


def mean_difference(prompts: Sequence[str]) -> float:
    """The mean logit difference of these prompts, with the answers of `agreement`."""
    ids = torch.tensor([[single_token(model, row.answer), single_token(model, row.wrong)] for row in agreement.rows])
    right, wrong = end_logits(model, prompts, progress=False).gather(1, ids.to(model.cfg.device)).unbind(1)
    return (right - wrong).mean().item()


def other_number(noun: str) -> str:
    """The noun in the other number."""
    return noun[:-1] if noun.endswith("s") else f"{noun}s"


distracted = []
for row in agreement.rows:
    before, last = row.clean.rsplit(" ", 1)
    distracted.append(f"{before} {other_number(last)}")
moved = {"first noun": float(of_agreement["difference_mean"]), "second noun": float(of_agreement["clean_mean"]) - mean_difference(distracted)}
agrees = torch.tensor([row.clean.split()[1].endswith("s") == row.clean.endswith("s") for row in agreement.rows])
alike, unlike = (float(of_agreement["clean"].cpu()[agrees == value].mean()) for value in (True, False))
decided = "c" if abs(alike - unlike) < 0.1 else "a" if unlike < 0 else "b"
score_predictions(choice, {"corrupting the second noun": decided})
pd.DataFrame({"mean logit difference": {"both nouns in the same number": alike, "nouns in different numbers": unlike}}).round(2)

# %%
compare("own.corruption.moved", list(moved.values()), model)
compare("own.corruption.alike_and_unlike", [alike, unlike], model)
compare("own.corruption.decided", decided, model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# **b.** With both nouns in the same number the difference is 2.17, and with different ones .70: the nearer noun pulls the verb toward itself by about 1.5 logits, and the first noun still wins. Over the whole file this hardly shows. If every second noun changes its number, the mean moves by only .24, because half of the pairs
# gain most of what the other half loses (all but .48 logits). (If the first noun changes, it moves by 2.70.) So if you patch with this corruption, take pairs of one kind, because a map of all pairs would divide by a small difference. And it would show how the model is *distracted*, whereas the corruption in the file asks about agreement.
# </details>
#
# ## 5 · A circuit, and its controls
#
# Path patching finds who writes to the logits directly, who feeds the queries of these heads, and who feeds their keys and values (chapter 05). Every head that reaches the threshold is in the circuit. Then the circuit is tested as in chapter 06: all other heads are replaced by their means, on pairs that did not help to find it.
#
# **Write down what you expect.** What share of the model's mean score will the circuit reproduce on the pairs that are kept back? Choose `"under half"`, `"half to 0.9"`, `"0.9 to 1.1"` or `"over 1.1"`.

# %%
prediction = {"value of the circuit": None}

# %% tags=["solution"]
prediction = {"value of the circuit": "half to 0.9"}

# %%
paths = searching.paths_step(task)
shown = [name for name in ("direct", "query", "value", "key") if name in paths]
plots.heads(
    torch.stack([paths[name] for name in shown]),
    "What is lost when one path is corrupted, by its sender",
    unit="share lost",
    panels=[{"direct": "to the logits", "query": "into queries", "value": "into values", "key": "into keys"}[name] for name in shown],
)

# %%
compare("own.paths.writers", [head_name(*head) for head in paths["writers"]], model)
compare("own.paths.direct_in_all", paths["direct"].sum(), model)
for sentence in [*read_paths(paths).said, *read_paths(paths).caveats]:
    print("–", sentence)

# %%
circuit = searching.circuit_step(task, paths)
if "skipped" in circuit:
    raise ValueError(circuit["skipped"])  # what follows needs a circuit
judged = pd.DataFrame(circuit["judged"]).T
value = judged.loc["circuit", "value"]
score_predictions(prediction, {"value of the circuit": "under half" if value < 0.5 else "half to 0.9" if value < 0.9 else "0.9 to 1.1" if value <= 1.1 else "over 1.1"})
judged.round(2)

# %%
for name in ("circuit", "empty", "strongest head alone", "circuit without the strongest head", "whole model without the circuit"):
    row = circuit["judged"][name]
    compare(f"own.circuit.{name.replace(' ', '_')}", [row["value"], row["mae"], row["correlation"]], model)


# %% [markdown]
# **How to read it.** *value* is the share of the model's mean score, with its interval (*low*, *high*). *mae* is how many logits it misses the model by, on an average pair. *correlation* is over pairs.
#
# ### Exercise 12.3 · Better than chance?
#
# > Difficulty: ●●○○○  Importance: ●●●●○  10 minutes
#
# A circuit of twenty heads looks good until you see what twenty *other* heads do. The report draws random circuits: for each head, and each place where the circuit keeps it, another head of a nearby layer. It runs each of them. Turn this into a p-value: how likely is a random circuit to do at least as well as the one found?
#
# Count how many random values are at least as good as the found one, ties included. Add 1 to this count and to the number of draws, and divide. The found circuit counts as one of the draws, so the p-value is never 0. For an error, smaller is better; for a share, larger is better.
#
# <details><summary>Hint 1 · a question</summary>
#
# You drew 19 random circuits, and all of them are worse. May you say that p is 0?
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# A random circuit that does exactly as well counts against you: `<=` for an error, and `>=` for a share.
# </details>

# %%
def matched_p(found: float, random: Sequence[float], smaller_is_better: bool) -> float:
    """The share of values, the found one among them, that are at least as good as the found one."""
    ### BEGIN SOLUTION
    random = np.asarray(random)
    as_good = random <= found if smaller_is_better else random >= found
    return float((1 + as_good.sum()) / (1 + len(random)))
    ### END SOLUTION


# %%
check_matched_p(matched_p)

# %% [markdown] tags=["answer"]
# If the circuit you found is no better than a random one, every place in a ranking of all of them, itself included, is
# equally likely for it. So the p-value is its place, divided by how many there are. A random circuit that does exactly as
# well counts as being in front of it, so that ties cannot make p too small. `np.asarray` is needed because a list cannot be
# compared with a number.

# %%
rows = []
for kind, one in circuit["random"].items():
    draws = pd.DataFrame(one["draws"])
    by_error = matched_p(judged.loc["circuit", "mae"], draws["mae"], smaller_is_better=True)
    by_value = matched_p(value, draws["value"], smaller_is_better=False)
    rows.append({"random circuits": kind, "mean value": draws["value"].mean(), "mean error": draws["mae"].mean(), "p by error": by_error, "p by value": by_value})
    compare(f"own.random.{kind.split()[0]}", [draws["value"].mean(), draws["mae"].mean(), by_error, by_value], model)
    assert np.isclose(by_error, matched_random_p(circuit, kind)), "the report computes the same"
columns = ["random circuits", "mean value", "mean error", "p by error", "p by value"]
pd.DataFrame(rows, columns=columns).set_index("random circuits").round(3)

# %%
for sentence in [*read_circuit(circuit).said, *read_circuit(circuit).caveats]:
    print("–", sentence)


# %% [markdown]
# *What do you see?* Is the circuit nearer to the model than the random ones? How much of that is one head? And what can the model still do *without* the circuit?
# <details><summary>What we see, for SmolLM2</summary>
#
# The circuit of 7 heads (three of them are kept both at the last position and before it) reproduces .96 of the mean score on 16 held-out pairs, with an interval from .81 to 1.29. It misses the model by .37 logits on a pair, where the empty circuit misses it by 1.18. No random circuit is as near, so p is 1/20, the smallest value that 19 draws can give.
#
# Now the other side. L26H0 alone gives .38, and the circuit without it .33. Together they give .96, which is more than the .72 that these two add up to. Random circuits that hold L26H0 also give .38: their other heads add nothing. The correlation says little here, because the empty circuit already has .86. Finally, the model without the circuit falls to −.14, so no other heads stand in.
# </details>
#
# ## 6 · What may you claim?
#
# ### Exercise 12.4 · Claims that the numbers support
#
# > Difficulty: ●●●○○  Importance: ●●●●●  20 minutes
#
# It is easy to claim too much about a circuit: one number looks good, and another one, which nobody looked at, speaks
# against it. So write down the rules once. Given the numbers of a report, return a dictionary that says which of five claims they support:
#
# - `"does the task"`: the interval of the mean logit difference lies above zero (`clean_low`);
# - `"faithful"`: the interval of the value lies between 0.8 and 1.2, both ends included (`low`, `high`), **and** the error per pair is less than half of the empty circuit's (`mae`, `empty_mae`);
# - `"special"`: the p-value against random circuits is at most 0.05 (`random_p`);
# - `"more than one head"`: without its strongest head, the circuit keeps at least half of its value (`value_without_strongest`, `value`);
# - `"new words"`: no tested pair has an answer that also helped to find the circuit (`shared_answers`, the share of tested pairs whose answer did).
#
# The thresholds are ours. Others are possible, as long as you fix them before you look.
#
# <details><summary>Hint 1 · a question</summary>
#
# A circuit with the value 1.0 and the interval 0.3 to 1.7: is it faithful?
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# "Faithful" needs three comparisons. A mean can look good while the error per pair is bad (chapter 06).
# </details>

# %%
def supported(numbers: Mapping[str, float]) -> dict[str, bool]:
    """claim → whether the numbers support it, for the five claims of this exercise."""
    ### BEGIN SOLUTION
    within = numbers["low"] >= 0.8 and numbers["high"] <= 1.2
    return {
        "does the task": numbers["clean_low"] > 0,
        "faithful": within and numbers["mae"] < numbers["empty_mae"] / 2,
        "special": numbers["random_p"] <= 0.05,
        "more than one head": numbers["value_without_strongest"] >= numbers["value"] / 2,
        "new words": numbers["shared_answers"] == 0,
    }
    ### END SOLUTION


# %%
check_supported(supported)

# %% [markdown] tags=["answer"]
# A value near 1 can have an interval that allows nearly anything, so both ends of the interval decide. Errors of both signs
# cancel in the value, but not in the error per pair. This error is compared with the empty circuit's, because the same
# number of logits is little in one task and much in another. "Half" is half of the circuit's own value, so a circuit with a
# small value is not held to 0.5.

# %% [markdown]
# **Predict before you run it:** which of the five claims do the numbers of your report support? Write True or False for each.

# %%
prediction = {"does the task": None, "faithful": None, "special": None, "more than one head": None, "new words": None}

# %% tags=["solution"]
prediction = {"does the task": True, "faithful": True, "special": True, "more than one head": True, "new words": False}

# %%
kind = "never the strongest head"
numbers = {
    "clean_low": behavior["clean_interval"][0], "value": value, "low": judged.loc["circuit", "low"], "high": judged.loc["circuit", "high"],
    "mae": judged.loc["circuit", "mae"], "empty_mae": judged.loc["empty", "mae"],
    "random_p": matched_random_p(circuit, kind) if kind in circuit["random"] else 1.0,
    "value_without_strongest": judged.loc["circuit without the strongest head", "value"], "shared_answers": circuit["shared_answers"],
}
claims = {claim: bool(holds) for claim, holds in supported(numbers).items()}
score_predictions({claim: None if guess is None else str(guess) for claim, guess in prediction.items()}, {claim: str(holds) for claim, holds in claims.items()})

# %%
for claim, holds in claims.items():
    compare(f"own.claims.{claim.replace(' ', '_')}", holds, model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# Three of the five claims fail, and the mean alone would not have shown it. *Faithful* is False: the value is .96, but its interval reaches 1.29, beyond 1.2. With more test pairs the interval would be narrower, and the claim might hold. *More than one head* is False: without L26H0 the circuit keeps .33, less than half of .96. *New words* is False: every tested answer is one of four verbs that also found the circuit. What remains is "the model does the task" and "this circuit is nearer to the model than matched random ones".
# </details>
#
# ## 7 · The whole report in one command
#
# You have now run every step by hand. In a terminal, one command does all of it and writes a page that you can send to somebody:
#
# ```
# python -m utils.circuits.report my_pairs.csv --model smollm2-135m --out report.html
# ```
#
# It keeps the result of each step in a folder beside the page. If it is interrupted, run it again: it goes on where it stopped. With several CSVs or several models, give a folder: `--out reports`. The reports on the three files of the course are in `docs/examples/`.
#
# **Try.** Run the command, or this chapter, on `capitals`. Which step looks most different from `agreement`, and why?
# <details><summary>What you should find, on SmolLM2</summary>
#
# These are the figures of the two reports in `docs/examples/`; yours may differ with the number of pairs. Look first at *Can the model do it?* On `capitals` the model is right in all 48 pairs, and the answer is its first choice of all tokens in 83 % of them. On `agreement` it is right in 41 of 48, and the right verb is never its first choice. So the same analysis rests on something the model does in one file, and on a weak preference in the other.
#
# Under *Can these heads do it alone?* the values of the two circuits are nearly the same, .89 and .86. Their intervals are not: .86 to .92 for capitals, .71 to 1.10 for verbs. The logit differences of the capitals are seven times as large, so what is measured stands out more.
#
# *Which parts write the answer?* differs as well. On `capitals` the MLPs write about half of the logit difference (5.1 of 10.5 logits), while on `agreement` what the MLPs write nearly cancels (−.2 of 1.4 together; MLP 28 alone takes away .4). So a table of heads shows a little more than the whole sum for the verbs (1.6 of 1.4 logits), and about half of it for the capitals.
# </details>
#
# ## 8 · What would convince you that this is wrong?
#
# You have a story now. Before you tell it, write down at least three results that you would *not* expect if it were true, and how you would look for them. Some ideas:
#
# - **Other words.** Keep the sentences and take nouns that are not in the file. If the circuit has learned words, and not number, it fails here.
# - **Other sentences.** Write a fifth preposition, or a relative clause: "The author that the senators like". The interval over pairs says nothing about these.
# - **Another corruption.** Replace the first noun by a word without a number, such as "sheep". Parts that react to *any* change of the noun show up again, and parts for number do not.
# - **Another replacement.** Take single corrupted prompts in place of means. A circuit whose value depends on this choice is a fact about the choice.
# - **More draws.** Draw 200 random circuits in place of 19. With 19, the p-value cannot be below .05.
# - **Another threshold.** Run the report with `--threshold 0.04`. If the story changes, it was about the threshold.
#
# Then run one of them. If your story survives the test, say so in your summary, together with the result that would have refuted it.
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `read_report_task(path, model, settings)` | reads a CSV of pairs; refuses what it would have to guess |
# | `seeing.behavior_step`, `.attribution_step` | logit differences with intervals; attribution that adds up, and the lens |
# | `searching.patching_step`, `.paths_step`, `.circuit_step` | patching, paths, and a circuit with controls on pairs kept back |
# | `read_behavior` … `read_circuit` | sentences and warnings, computed from the numbers |
# | `python -m utils.circuits.report` | all of it, as one page |
#
# **Glossary.** *Claim*: a sentence that a number could refute. *Held-out pairs*: pairs that did not help to find the circuit. *Matched random circuit*: as many heads, at the same places, in nearby layers. *Minimal pair*: two prompts that differ in the one word that decides the answer. *Stopping rule*: what must hold before you go on, written down before you look.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Miller et al. 2024, [Transformer Circuit Faithfulness Metrics Are Not Robust](https://arxiv.org/abs/2407.08734). Read it before you compare your circuit's value with somebody else's.
# - Shi et al. 2024, [Hypothesis Testing the Circuit Hypothesis in LLMs](https://arxiv.org/abs/2410.13032). It puts a circuit's claims as hypotheses with tests, and finds that several published circuits pass only some of them.
# - Hanna et al. 2023, [How does GPT-2 compute greater-than?: Interpreting mathematical abilities in a pre-trained language model](https://arxiv.org/abs/2305.00586). This is a whole circuit study of the task in the file greater-than, for GPT-2 small, from the first pair to the last control.
# - Linzen et al. 2016, [Assessing the Ability of LSTMs to Learn Syntax-Sensitive Dependencies](https://arxiv.org/abs/1611.01368). It introduced agreement across a distracting noun as a test of language models.

# %% [markdown]
# **Back to the map:** [Start here](start.ipynb) shows what you have finished, and what is still open.
