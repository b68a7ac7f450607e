# %% [markdown]
# # 01 · The IOI task
#
# Forty-five minutes. Before you can explain how a model does something, you need something it really does, prompts that
# isolate it, and one number that says how well it is done. This chapter builds all three for *indirect object
# identification* (IOI), the task of Wang et al. 2022, "Interpretability in the Wild".
#
# You will be able to
# - say why the prompts of an experiment must match in length, and their answers be single tokens;
# - build the eight prompts that the next chapters take apart;
# - measure the model with the *logit difference*, and say why not with a probability.

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
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import check_answer_token_ids, check_build_prompts, check_logit_diff, check_logprob_diff
from utils import attribution, ioi, plots
from utils.models import load_model
from utils.reference import compare

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# ## 1 · Can it do the task at all?
#
# > After John and Mary went to the store, John gave a bottle of milk to …
#
# You said "Mary" to yourself. Nothing in the grammar forbids "John", and "John" is the name you read most recently; you
# chose the person who was *not* doing the giving. In the terms of the paper: Mary is the **indirect object** (IO), and
# John is the **subject**, mentioned twice: **S1** and **S2**.
#
# *What do you expect?* At what rank among all the tokens of the vocabulary does the model put `" Mary"`?
# <details><summary>Our guess</summary>
# First, or nearly. This pattern is common in text, and both models have seen a great deal of text.
# </details>

# %%
prompt = "After John and Mary went to the store, John gave a bottle of milk to"
at_end = model(model.to_tokens(prompt))[0, -1]  # [d_vocab]
order = at_end.argsort(descending=True)
top = pd.DataFrame(
    {
        "token": [model.to_string(token) for token in order[:10]],
        "logit": at_end[order[:10]].tolist(),
        "probability": at_end.softmax(-1)[order[:10]].tolist(),
    }
)
top.round(3)

# %%
mary = model.to_single_token(" Mary")
compare("test_prompt.rank", (at_end > at_end[mary]).sum(), model)
compare("test_prompt.logit", at_end[mary], model)
compare("test_prompt.probability", at_end.softmax(-1)[mary], model)
compare("test_prompt.top_tokens", top["token"].tolist(), model)

# %% [markdown]
# **How to read it.** The column *logit* is the raw score; *probability* is its softmax over the whole vocabulary. `" Mary"`
# should be on top by a wide margin, and `" John"` somewhere below.
#
# **What it does not show.** One prompt may be luck, or memory. You need several, built so that luck points the other way
# half of the time.
#
# ## 2 · Which prompts?
#
# Two demands, and both have to do with what comes later.
#
# **Equal length.** Chapter 03 moves activations from one prompt to another at the same position. That means something only
# if position 10 is the second mention of the subject in both. So all prompts need the same number of tokens, and names
# must be single tokens.
#
# **Mirrored pairs.** If every answer were `" Mary"`, a model that simply likes Mary would look clever. So each template
# is used twice, with the roles of its two names exchanged: the same words, the same names in the first clause, and only
# the slot for the second mention differs. What the pair shares cannot explain why the answers differ.
#
# Which names would do? Those that are one token *with* their leading space:

# %%
names = ioi.single_token_names(model)
print(f"{len(names)} of {len(ioi.NAME_POOL)}:", ", ".join(names))
print("not:", ", ".join(name for name in ioi.NAME_POOL if name not in names))
for name in (" Mary", "Mary", " Siobhan"):
    print(f"{name!r:12} {model.to_str_tokens(name, prepend_bos=False)}")


# %% [markdown]
# ### Exercise 1.1 · Build the prompts
#
# > Difficulty: ●●○○○  Importance: ●●●○○  10 minutes
#
# Every template has one slot, `{S}`, for the subject's second mention, and comes with a pair of names. Make two prompts of each:
# prompt `2i` fills the slot with `names[i][1]`, so its correct answer is `names[i][0]`; prompt `2i + 1` the other way round.
# Return the list of prompts and the list of `(correct, incorrect)` answers, both in this order. (It is the order in which the
# figures for gpt2-small were published, in TransformerLens' Exploratory Analysis Demo, from which the templates come.)
#
# <details><summary>Hint</summary>
#
# The names already carry their leading space and the template has none before the slot: `template.replace("{S}", name)`.
# </details>

# %%
def build_prompts(templates: list[str], names: list[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Two prompts per template and their (correct, incorrect) answers, names with their leading space.

    Prompt 2i has names[i][1] in the slot, prompt 2i+1 has names[i][0]; the other name is the correct answer.
    """
    ### BEGIN SOLUTION
    prompts, answers = [], []
    for template, (first, second) in zip(templates, names, strict=True):
        for correct, incorrect in ((first, second), (second, first)):
            prompts.append(template.replace("{S}", incorrect))
            answers.append((correct, incorrect))
    return prompts, answers
    ### END SOLUTION


# %%
check_build_prompts(build_prompts)

# %%
prompts, answers = build_prompts(list(ioi.TEMPLATES), list(ioi.NAMES))
pd.DataFrame({"prompt": prompts, "correct": [a[0] for a in answers], "incorrect": [a[1] for a in answers]})

# %% [markdown]
# Are they aligned? The rows below are the tokens of two neighbours. They must differ in exactly one place.

# %%
tokens = model.to_tokens(prompts)
compare("ioi.prompt_tokens", tokens.shape[1], model)
one, other = (model.to_str_tokens(prompt) for prompt in prompts[:2])
for position, (a, b) in enumerate(zip(one, other, strict=True)):
    print(f"{position:2} {a!r:16} {b!r:16} {'← differs' if a != b else ''}")


# %% [markdown]
# The position that differs is **S2**. Remember its number; most of chapter 03 happens there and at **END**, the last one.
#
# ## 3 · What exactly is the answer?
#
# ### Exercise 1.2 · The ids of the answers
#
# > Difficulty: ●○○○○  Importance: ●●●●○  5 minutes
#
# Return an integer tensor `[prompt, 2]` with the token ids of the correct and the incorrect answer. An answer of more than one token
# must raise an error: its first piece would be read as if it were the whole name.
#
# <details><summary>Hint</summary>
#
# `model.to_single_token(" Mary")` returns one id, and refuses anything else.
# </details>

# %%
def answer_token_ids(model: TransformerBridge, answers: list[tuple[str, str]]) -> Int[Tensor, "prompt 2"]:
    """Token ids of each prompt's correct and incorrect answer. Raises an error for an answer that is not one token."""
    ### BEGIN SOLUTION
    return torch.tensor([[model.to_single_token(name) for name in pair] for pair in answers], device=model.cfg.device)
    ### END SOLUTION


# %%
check_answer_token_ids(answer_token_ids)


# %% [markdown]
# ## 4 · One number for how well it is done
#
# The **logit difference** is the logit of the correct answer minus the logit of the incorrect one, at END. Why this and not the
# probability, or the log-probability, of the correct answer?
#
# - **It asks the question you have.** The model must first see that a *name* comes next, then *which*. A probability mixes the two:
#   it falls when the model thinks of `" the"` instead, which has nothing to do with IOI. Both names share whatever says "a name",
#   and in the difference it cancels.
# - **It is linear** in the last residual stream, up to one scale (chapter 02). A probability is not, so its parts do not add up.
# - **It loses nothing** about the choice between the two: it *is* the difference of their log-probabilities. You will check that.
#
# ### Exercise 1.3 · The logit difference
#
# > Difficulty: ●●○○○  Importance: ●●●●●  10 minutes
#
# Return correct minus incorrect at the last position: one value per prompt, `[batch]`, if `per_prompt`, otherwise their mean as a
# 0-d tensor (not a Python float: chapter 10 needs its gradient).
#
# <details><summary>Hint</summary>
#
# `logits[:, -1].gather(-1, answer_tokens)` is `[batch, 2]`.
# </details>

# %%
def logit_diff(
    logits: Float[Tensor, "batch position d_vocab"], answer_tokens: Int[Tensor, "batch 2"], per_prompt: bool = False
) -> Float[Tensor, ""] | Float[Tensor, "batch"]:
    """Logit of the correct answer minus that of the incorrect one at END: per prompt [batch], or the mean, 0-d."""
    ### BEGIN SOLUTION
    correct, incorrect = logits[:, -1].gather(-1, answer_tokens).unbind(-1)  # each [batch]
    return correct - incorrect if per_prompt else (correct - incorrect).mean()
    ### END SOLUTION


# %%
check_logit_diff(logit_diff)


# %% [markdown]
# ### Exercise 1.4 · The same in log-probabilities
#
# > Difficulty: ●○○○○  Importance: ●●○○○  5 minutes
#
# Return the difference of the two answers' *log-probabilities*, per prompt. Before you run it: will it be larger or
# smaller than the logit difference?
#
# <details><summary>Our prediction</summary>
#
# Equal. The log-probability of a token is its logit minus the logarithm of the sum of all exponentiated logits. That sum is
# the same for both answers, so it cancels.
# </details>

# %%
def logprob_diff(
    logits: Float[Tensor, "batch position d_vocab"], answer_tokens: Int[Tensor, "batch 2"]
) -> Float[Tensor, "batch"]:
    """Log-probability of the correct answer minus that of the incorrect one at END, per prompt."""
    ### BEGIN SOLUTION
    correct, incorrect = logits[:, -1].log_softmax(-1).gather(-1, answer_tokens).unbind(-1)
    return correct - incorrect
    ### END SOLUTION


# %%
check_logprob_diff(logprob_diff)

# %% [markdown]
# Now the measurement. The **corrupted** batch is the same batch with neighbours exchanged: each prompt is scored with its own
# answers, but reads its neighbour's text, in which S2 is the other name.

# %%
answer_tokens = answer_token_ids(model, answers)
corrupted_tokens = tokens[[i + 1 - 2 * (i % 2) for i in range(len(tokens))]]
clean, corrupted = model(tokens), model(corrupted_tokens)
by_prompt = logit_diff(clean, answer_tokens, per_prompt=True)
plots.bar(
    {
        "clean": by_prompt,
        "corrupted (S2 exchanged)": logit_diff(corrupted, answer_tokens, per_prompt=True),
    },
    "Logit difference of the eight prompts",
    x="prompt",
    y="logit(correct) − logit(incorrect)",
    x_labels=[f"{i} {correct.strip()}" for i, (correct, _) in enumerate(answers)],
)

# %%
compare("ioi.logit_diff.per_prompt", by_prompt, model)
compare("ioi.logit_diff.mean_clean", by_prompt.mean(), model)
compare("ioi.logit_diff.mean_corrupted", logit_diff(corrupted, answer_tokens), model)
compare("ioi.accuracy", (by_prompt > 0).float().mean(), model)

# %% [markdown]
# **How to read it.** Each bar is one prompt; above zero the model prefers the right name. A difference of *d* means that the right
# name is exp(*d*) times as probable as the wrong one: 3 is twenty to one. Exchanging one token, S2, turns every bar over. That is
# no accident: with mirrored pairs, the corrupted value of a prompt is minus the clean value of its neighbour.
#
# Look at a pair of neighbours. If their clean bars differ in height, the model has a second preference: for one of the two names, or for the
# name in one of the two places. These prompts cannot tell which, because each name keeps its place in both prompts of a pair. Either way,
# the preference cancels in the average over the pair, and what is left is IOI alone.
#
# **What it does not show.** How it is done, and whether it holds for other sentences. Eight prompts from four templates are a
# microscope slide, not a survey.
#
# Is the difference really more telling than the probability? Compare them prompt by prompt:

# %%
probability = clean[:, -1].softmax(-1).gather(-1, answer_tokens[:, :1])[:, 0]
plots.scatter(
    by_prompt,
    probability,
    "The probability of the answer also falls when the model thinks of words that are not names",
    x="logit difference",
    y="probability of the correct answer",
    labels=[f"{i}{correct}" for i, (correct, _) in enumerate(answers)],
)

# %% [markdown]
# **How to read it.** If the two measured the same thing, the points would lie on one rising curve. Find two prompts with nearly the same
# logit difference and different probabilities: what differs between them is how much the model expects *a name* at all.
#
# **Try.** Replace a template by one of your own (keep the slot, and check that all prompts stay equally long). Does the model still
# prefer the indirect object? What does `ioi.ioi_pairs(model, [your_template], [(" Tom", " Mary")])` say if the lengths differ?
#
# ## 5 · Before you look inside: how would *you* do it?
#
# Write down, in words, a procedure that a model could follow to get these right, given that each position can only read earlier ones
# and attention moves information between positions. Then compare.
#
# <details><summary>Three candidate procedures</summary>
#
# 1. *Count.* Collect all names so far; give each a vote; let duplicates vote against themselves.
# 2. *Find the duplicate, then avoid it.* At S2, notice that this name stood here before. Tell END "not this one". At END, attend to
#    names, skip the marked one, and copy what is left.
# 3. *Go by position.* "The name that came second", or "the one not at the place of the repeated one". Right on these templates
#    for a reason that would fail on others.
#
# All three need a way to notice a repetition, a way to carry that from S2 to END, and a way to copy a name to the output.
# Wang et al. 2022 found heads in gpt2-small for each of these jobs: duplicate-token and induction heads, S-inhibition heads, and name movers.
# Whether your model does it that way is what the next chapters let you find out.
# </details>
#
# Later chapters take prompts and tokens from `utils.ioi`, which is what you have just written, with error messages:

# %%
pairs = ioi.ioi_pairs(model)
print(
    len(pairs),
    "prompts of",
    pairs.clean_tokens.shape[1],
    "tokens;",
    "same tokens as yours:",
    torch.equal(pairs.clean_tokens, tokens),
)
print(
    "same metric as yours:",
    torch.equal(attribution.logit_diff(clean, pairs.answer_tokens), logit_diff(clean, answer_tokens)),
)

# %% [markdown]
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `model.to_single_token`, `model.to_str_tokens` | one token or an error; the pieces of a text |
# | `utils.ioi.ioi_pairs(model)` | the eight prompts, clean and corrupted, with answers |
# | `utils.ioi.single_token_names(model)` | names that can be answers |
# | `utils.attribution.logit_diff(logits, answer_tokens)` | the number to explain |
#
# **Glossary.** *Clean, corrupted*: the prompt whose behaviour you study, and its twin with one thing changed. *END*: the last position.
# *IO*: the indirect object, the correct answer. *Logit difference*: logit of the correct answer minus logit of the incorrect one, at
# END. *Mirrored pair*: two prompts that differ only in which name fills the slot. *S1, S2*: the first and second mention of the subject.
#
# **Next:** [02 · Logit attribution](02_logit_attribution.ipynb) asks which parts of the model add up to this number.
