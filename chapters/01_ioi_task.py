# %% [markdown]
# # 01 · The IOI task
#
# One hour. Before you can explain how a model does something, you need three things. You need a task that it really does, prompts that isolate this task, and one number that says how well it does. This chapter builds all three for *indirect object
# identification* (IOI), the task of [Wang et al. (2022)](https://arxiv.org/abs/2211.00593). It ends with an experiment that already rules out one explanation.
#
# You will be able to
# - say why the prompts of an experiment must match in length, and their answers be single tokens;
# - build the eight prompts that the next chapters take apart;
# - measure the model with the *logit difference*, and say why not with a probability;
# - say how far a result holds, with an interval over sentences that you did not choose by hand;
# - turn a guess about a mechanism into an experiment that could refute it.

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
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import check_answer_token_ids, check_build_prompts, check_logit_diff, check_logprob_diff
from tests.checks.predicting import score_predictions
from utils import attribution, ioi, plots, widgets
from utils.inference import end_logits
from utils.models import load_model
from utils.reference import compare
from utils.stats import bootstrap_interval

# %% tags=["nbval-ignore-output"]
model = load_model()

# %% [markdown]
# ## 1 · Can it do the task at all?
#
# > After John and Mary went to the store, John gave a bottle of milk to …
#
# You said "Mary" to yourself. Nothing in the grammar forbids "John", and "John" is the name you read most recently. You
# chose the person who was *not* doing the giving. In the terms of the paper, Mary is the **indirect object** (IO), and
# John is the **subject**, mentioned twice: **S1** and **S2**.
#
# Why this task? It is small, and yet not trivial: the model has to find out *which* of two names to say. With names drawn at random it cannot know the answer from elsewhere, because the answer is nowhere but in this sentence. It is also one of the few tasks for which somebody has published a whole
# circuit, so you can compare.
#
# *What do you expect?* At what rank among all the tokens of the vocabulary does the model put `" Mary"`?
# <details><summary>Our guess</summary>
# First, or nearly. This pattern is common in text, and the model has seen a great deal of text.
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
# **How to read it.** The column *logit* is the raw score, and *probability* is its softmax over the whole vocabulary. The rank counts the tokens that
# are ahead, so 0 is the best rank. (`transformer_lens.utilities.test_prompt(prompt, answer, model)` prints such a table in one call.)
#
# Now try prompts of your own. Tab goes from one box to the next, and Enter reads what you typed. Which small change of the prompt makes the model prefer the other name? (Where nothing runs, as on a web page, you see the first prompt only.)

# %%
widgets.prompt_explorer(model, prompt, answers=("Mary", "John"))

# %% [markdown]
# **How to read it.** The first table has the tokens as the model reads them; `␣` stands for a space. The second has the likeliest next tokens. The line above both is the difference of two logits, which section 3 makes our measure: above zero, the model prefers the first of the two answers.
#
# This is how most work on a model begins: a short loop of guessing, trying one prompt, and looking. Keep the loop short, and write down what you expected.
#
# **What it does not show.** One prompt may be luck. You need several, and in half of them the other name should be the right one. Then a model that merely likes one of the names gets half of them wrong.
#
# ## 2 · Which prompts?
#
# There are two demands, and both have to do with what comes later.
#
# **Equal length.** Chapter 03 moves activations from one prompt to another at the same position. That makes sense only
# if position 10 is the second mention of the subject in both. So the two prompts of a pair need the same number of tokens, and names must be single tokens. Our eight prompts all have the same length, which also makes them easy to run together. (Where lengths differ, prompts are *padded* with a token that the model is told to ignore. Padding is easy to get wrong, and chapter 07 shows what happens then.)
#
# **Mirrored pairs.** If every answer were `" Mary"`, a model that simply likes Mary would look clever. So each template
# is used twice, with the roles of its two names exchanged: the same words, the same names in the first clause, and only
# the second mention differs. What the two prompts share cannot explain why their answers differ.
#
# Which names would do? Those that are one token *with* their leading space:

# %%
names = ioi.single_token_names(model)
print(f"{len(names)} of {len(ioi.NAME_POOL)}:", ", ".join(names))
print("not:", ", ".join(name for name in ioi.NAME_POOL if name not in names))
for name in (" Mary", "Mary", " mary", " Siobhan"):
    print(f"{name!r:12} {model.to_str_tokens(name, prepend_bos=False)}")


# %% [markdown]
# **How to read it.** A frequent name with its space and its capital letter is one token. Without the space it is another token, and in lower case it may fall into pieces, as rare names do. The pieces are called *subwords*. To find a word in a prompt, ask the
# model instead of counting words: `model.get_token_position(" Mary", prompt)`.
#
# ### Exercise 1.1 · Build the prompts
#
# > Difficulty: ●●○○○  Importance: ●●●○○  10 minutes
#
# Every template has one slot, `{S}`, for the subject's second mention, and comes with a pair of names. Make two prompts of each:
# prompt `2i` fills the slot with `names[i][1]`, so its correct answer is `names[i][0]`; prompt `2i + 1` is the other way round.
# Return the list of prompts and the list of `(correct, incorrect)` answers, both in this order. (The templates come from TransformerLens' Exploratory Analysis Demo, which lists its figures for gpt2-small in this order.)
#
# <details><summary>Hint 1 · a question</summary>
#
# Which name goes into the slot: the one that is the answer, or the other one?
# </details>
# <details><summary>Hint 2 · the tool</summary>
#
# The names already carry their leading space and the template has none before the slot: `template.replace("{S}", name)`.
# </details>

# %%
def build_prompts(templates: list[str], names: list[tuple[str, str]]) -> tuple[list[str], list[tuple[str, str]]]:
    """Two prompts per template and their (correct, incorrect) answers, names with their leading space.

    Prompt 2i has names[i][1] in the slot, prompt 2i+1 has names[i][0]; the other name is the correct answer.
    """
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_build_prompts(build_prompts)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# prompts, answers = [], []
# for template, (first, second) in zip(templates, names, strict=True):
#     for correct, incorrect in ((first, second), (second, first)):
#         prompts.append(template.replace("{S}", incorrect))
#         answers.append((correct, incorrect))
# return prompts, answers
# ```
#
# The name in the slot is the repeated one, so the *other* name is the answer, wherever the two stand in the sentence. The
# inner loop takes the pair in both orders before the next template begins, so mirrored prompts are neighbors. Section 3
# relies on this, because it makes the corrupted batch by exchanging neighbors. If you made all first prompts and then all
# second ones, it would exchange prompts of different templates.
# </details>

# %%
prompts, answers = build_prompts(list(ioi.TEMPLATES), list(ioi.NAMES))
pd.DataFrame({"prompt": prompts, "correct": [a[0] for a in answers], "incorrect": [a[1] for a in answers]})

# %% [markdown]
# Are they aligned? The rows below are the tokens of two neighbors. They must differ in exactly one place.

# %%
tokens = model.to_tokens(prompts)
compare("ioi.prompt_tokens", tokens.shape[1], model)
one, other = (model.to_str_tokens(prompt) for prompt in prompts[:2])
for position, (a, b) in enumerate(zip(one, other, strict=True)):
    print(f"{position:2} {a!r:16} {b!r:16} {'← differs' if a != b else ''}")


# %% [markdown]
# The position that differs is **S2**. Remember its number, because most of chapter 03 happens there and at **END**, the last position.
#
# ### Exercise 1.2 · The ids of the answers
#
# > Difficulty: ●○○○○  Importance: ●●●●○  5 minutes
#
# Return the token ids of the correct and the incorrect answer as a tensor `[prompt, 2]` of 64-bit integers. (`torch.tensor`
# makes such integers from Python's by itself.) An answer of more than one token
# must raise an error: its first piece would be read as if it were the whole name.
#
# <details><summary>Hint 1 · a question</summary>
#
# What does `model.to_tokens(" Mary")` put in front?
# </details>
# <details><summary>Hint 2 · the tool</summary>
#
# `model.to_single_token(name)` returns one id, and refuses anything else.
# </details>

# %%
def answer_token_ids(model: TransformerBridge, answers: list[tuple[str, str]]) -> Int[Tensor, "prompt 2"]:
    """Token ids of each prompt's correct and incorrect answer. Raises an error for an answer that is not one token."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_answer_token_ids(answer_token_ids)


# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# return torch.tensor([[model.to_single_token(name) for name in pair] for pair in answers], device=model.cfg.device)
# ```
#
# `to_single_token` leaves out BOS, and it raises an error for a name of several tokens. `model.to_tokens(name)[0, 0]` is
# the id of BOS, and with `prepend_bos=False` it is the first piece of a longer name, whose logit you would measure without
# noticing. `torch.tensor` does refuse rows of different lengths, but this does not protect you: two answers of two tokens
# each make an ordinary tensor. `device` puts the ids where the logits are, because `gather` needs both on one device.
# </details>

# %% [markdown]
# ## 3 · One number for how well it is done
#
# The **logit difference** is the logit of the correct answer minus the logit of the incorrect one, at END. Why this and not the
# probability, or the log-probability, of the correct answer?
#
# - **It asks the question you have.** Two things have to be right here: that a *name* comes next, and *which* name. A probability mixes the two: it falls when the model thinks of `" the"` instead, which has nothing to do with IOI. Whatever raises all names equally raises both of ours, and the difference does not change.
# - **It adds up.** Up to one scale, and in some models a constant, it is a weighted sum of the numbers in the last residual
#   stream. So each part of the model contributes a share, and the shares add up (chapter 02). A probability cannot be divided
#   in this way.
# - **It loses nothing** about the choice between the two: it *is* the difference of their log-probabilities. You will check that.
#
# ### Exercise 1.3 · The logit difference, twice
#
# > Difficulty: ●●○○○  Importance: ●●●●●  15 minutes
#
# First write `logit_diff`: correct minus incorrect at the last position. Return one value per prompt, `[batch]`, if `per_prompt`, otherwise their mean as a
# tensor without axes. (Do not make it a Python float, because chapter 10 needs its gradient.)
#
# <details><summary>Hint 1 · a question</summary>
#
# Every prompt needs two of the logits at its last position, and not the same two in every prompt. Which indexing operation takes a list of columns for every row?
# </details>
# <details><summary>Hint 2 · shapes</summary>
#
# `logits[:, -1]` is `[batch, d_vocab]` and `answer_tokens` is `[batch, 2]`. `a.gather(-1, index)` picks, in every row, the columns that the row of `index` names.
# </details>

# %%
def logit_diff(
    logits: Float[Tensor, "batch pos d_vocab"], answer_tokens: Int[Tensor, "batch 2"], per_prompt: bool = False
) -> Float[Tensor, ""] | Float[Tensor, " batch"]:
    """Logit of the correct answer minus that of the incorrect one at END: per prompt [batch], or the mean, 0-d."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_logit_diff(logit_diff)


# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# correct, incorrect = logits[:, -1].gather(-1, answer_tokens).unbind(-1)  # each [batch]
# return correct - incorrect if per_prompt else (correct - incorrect).mean()
# ```
#
# For each prompt, `gather` picks the two columns that its row of `answer_tokens` names, and `unbind(-1)` splits the result,
# `[batch, 2]`, into two tensors of shape `[batch]`. Indexing with `logits[:, -1][:, answer_tokens[:, 0]]` is tempting and
# wrong: it reads every prompt with the answers of *all* prompts and gives `[batch, batch]`. With a row number beside each
# column it is right: `logits[torch.arange(len(logits)), -1, answer_tokens[:, 0]]`. Avoid `squeeze()` without an axis,
# because it also removes the batch if there is one prompt in it.
# </details>

# %% [markdown]
# Then write `logprob_diff`, the difference of the two answers' *log-probabilities*, per prompt. Before you run it: will it be larger or
# smaller than the logit difference?
#
# <details><summary>Our prediction</summary>
#
# Equal. The log-probability of a token is its logit minus the logarithm of the sum of all exponentiated logits. That sum is
# the same for both answers, so it cancels.
# </details>

# %%
def logprob_diff(
    logits: Float[Tensor, "batch pos d_vocab"], answer_tokens: Int[Tensor, "batch 2"]
) -> Float[Tensor, " batch"]:
    """Log-probability of the correct answer minus that of the incorrect one at END, per prompt."""
    raise NotImplementedError("this exercise is not written yet: put your code here")


# %%
check_logprob_diff(logprob_diff)

# %% [markdown] tags=["answer"]
# <details><summary>Answer</summary>
#
# ```python
# correct, incorrect = logits[:, -1].log_softmax(-1).gather(-1, answer_tokens).unbind(-1)
# return correct - incorrect
# ```
#
# Since what `log_softmax` subtracts cancels, `logit_diff(logits, answer_tokens, per_prompt=True)` would be a right answer
# as well. It cancels only over the vocabulary, the last axis; over another axis, each token would have a number of its own
# subtracted. Take logarithms before the difference: a difference of two *probabilities* depends on all other tokens, too.
# `softmax(-1).log()` is the same function on paper, but a very small probability is rounded to zero, and then its logarithm
# is −∞.
# </details>

# %% [markdown]
# Now the measurement. The **corrupted** batch is the same batch with neighbors exchanged: each prompt is scored with its own
# answers, but reads its neighbor's text, in which S2 is the other name.

# %%
answer_tokens = torch.as_tensor(answer_token_ids(model, answers))
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
# **How to read it.** Each bar is one prompt, and above zero the model prefers the right name. A difference of *d* means that the right
# name is exp(*d*) times as probable as the wrong one: 3 is twenty to one. Exchanging one token, S2, turns every bar over. That is
# no accident: with mirrored pairs, the corrupted value of a prompt is minus the clean value of its neighbor.
#
# *What do you see?* Which two neighbors differ most, and does the model get all eight right?
# <details><summary>What we see, for SmolLM2</summary>
#
# All eight bars are above zero, and their mean is 4.72, so the right name is about a hundred times as probable as the wrong one. The last pair is extreme: 1.9 where the answer is Martin, and 10.1 where it is Amy.
# </details>
#
# ### Interpret: why do neighbors differ?
#
# An earlier draft of this chapter said: *"If the bars of two neighbors differ in height, the model likes one of the two names better."* There is another explanation. In both prompts of a pair each name also keeps its *place* in the first clause. The model may prefer whichever name stands in one of the two places. An experiment can separate the two: exchange the names in the first clause as well ("When **Mary** and **John** went …"), which changes the places and keeps the names. Which will be larger?
#
# - **a** In every pair, the preference for one of the names.
# - **b** In every pair, the preference for one of the places.
# - **c** It depends on the pair.

# %%
choice = {"what makes neighbors differ": None}

# %% [markdown]
# Each pair of names now has four logit differences. Call them *a* and *b* where the names stand in their usual places (first one name is the answer, then the other), and *c* and *d* where the places are exchanged. If the model likes one of the names, *a* and *c* rise and *b* and *d* fall, so the preference for a name is (a − b + c − d)/4. A preference for one of the places turns round when the places do, so it is (a − b − c + d)/4.

# %%
first_of_pair = [ioi.TEMPLATES[i].index(one) < ioi.TEMPLATES[i].index(other) for i, (one, other) in enumerate(ioi.NAMES)]
exchanged = [
    template.replace(one, "{X}").replace(other, one).replace("{X}", other)
    for template, (one, other) in zip(ioi.TEMPLATES, ioi.NAMES, strict=True)
]
swapped = ioi.ioi_pairs(model, exchanged, ioi.NAMES)
by_swapped = logit_diff(model(swapped.clean_tokens), swapped.answer_tokens, per_prompt=True)
(a, b), (c, d) = by_prompt.reshape(-1, 2).T, by_swapped.reshape(-1, 2).T  # each [pair]: one name is the answer, then the other
sign = 2 * torch.tensor(first_of_pair, device=a.device).int() - 1
preference = {"for the name that stands first in the label": (a - b + c - d) / 4, "for the first place": sign * (a - b - c + d) / 4}
plots.bar(
    preference,
    "What the model prefers besides the indirect object",
    x="pair of names",
    y="preference (logits)",
    x_labels=[f"{one.strip()}, {other.strip()}" for one, other in ioi.NAMES],
)

# %%
for_name, for_place = (values.abs() for values in preference.values())
decided = "a" if (for_name > for_place).all() else "b" if (for_name < for_place).all() else "c"
score_predictions(choice, {"what makes neighbors differ": decided})
compare("ioi.preference.for_name", (a - b + c - d) / 4, model)
compare("ioi.preference.for_first_place", sign * (a - b - c + d) / 4, model)

# %% [markdown]
# **How to read it.** There are two bars for each pair. Above zero, the model prefers the name that stands first in the label, or the first place in the sentence. Below zero, it prefers the other one.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# **c.** For John and Mary the name matters more (.60 against .12), for Dan and Sid the place (.71 against .28). For Martin and Amy both are large: the model prefers Amy by 1.8 logits and the second place by 2.3. Amy stands in the second place in our prompts, so the two add up. That explains the extreme pair.
# </details>
#
# Both preferences cancel in the average over a pair, because each name is the answer once. This is what mirrored pairs are for. It is also a warning: in a single prompt, whatever you find may be about the name.
#
# Is the difference really more telling than the probability? Compare them prompt by prompt:

# %%
probability = clean[:, -1].softmax(-1).gather(-1, answer_tokens[:, :1])[:, 0]
plots.scatter(
    by_prompt,
    probability,
    "The same logit difference can go with very different probabilities",
    x="logit difference",
    y="probability of the correct answer",
    labels=[f"{i}{correct}" for i, (correct, _) in enumerate(answers)],
)

# %% [markdown]
# **How to read it.** If the two measured the same thing, the points would lie on one rising curve. Find two prompts with nearly the same
# logit difference and different probabilities. They differ in how much probability the model gives to all *other* tokens.
# <details><summary>What we see, for SmolLM2</summary>
#
# The prompts with the answers John and James have differences of 3.7 and 3.6, and probabilities of .78 and .17. Dan has the second largest difference, 5.8, and only .21.
# </details>
#
# ## 4 · How far does this hold?
#
# Eight prompts from four hand-picked templates are enough to look closely, and too few to say "this model does IOI". The course has a second set for that question. `ioi.ioi_dataset(model, 96)` draws names, places and objects at random for
# six sentence structures, with the answer in the first place and in the second place equally often. These prompts differ in length, and `end_logits(model, texts)` returns
# the logits at each prompt's true last token, `[prompt, d_vocab]`.
#
# ### Predict before you look
#
# In how many of the 96 prompts does the model prefer the right name? Answer `"fewer than 80"`, `"80 to 90"` or `"more than 90"`.

# %%
prediction = {"right in how many of 96": None}

# %%
data = ioi.ioi_dataset(model, 96)
abc = data.pairs("ABC")  # beside each prompt a twin with three different names, for section 5
logits = end_logits(model, abc.clean_text, progress=False)  # [prompt, d_vocab]
scores = logit_diff(logits[:, None], abc.answer_tokens, per_prompt=True)  # [prompt]
structure = [prompt.structure for prompt in data.prompts]
on_top = logits.argmax(-1) == abc.answer_tokens[:, 0]
over_prompts, over_structures = bootstrap_interval(scores), bootstrap_interval(scores, structure)
print(f"mean {scores.mean():.2f}; 95 % interval over prompts [{over_prompts[0]:.2f}, {over_prompts[1]:.2f}], "
      f"over structures [{over_structures[0]:.2f}, {over_structures[1]:.2f}]")
by_structure = [scores[[s == number for s in structure]].mean().item() for number in range(len(ioi.STRUCTURES))]
pd.DataFrame({"structure": ioi.STRUCTURES, "mean logit difference": by_structure}).round(2).set_index("structure")

# %%
right = (scores > 0).sum()
score_predictions(prediction, {"right in how many of 96": "fewer than 80" if right < 80 else "80 to 90" if right <= 90 else "more than 90"})
compare("ioi.dataset.mean", scores.mean(), model)
compare("ioi.dataset.interval_over_prompts", torch.tensor(over_prompts), model)
compare("ioi.dataset.interval_over_structures", torch.tensor(over_structures), model)
compare("ioi.dataset.right", right, model)
compare("ioi.dataset.answer_is_the_top_token", on_top.sum(), model)
compare("ioi.dataset.by_structure", torch.tensor(by_structure), model)

# %% [markdown]
# **How to read it.** We have one sample of prompts. To see how much its mean could have differed, draw new samples from it at random, with repetition, and take their means. The interval holds 95 % of these means (a *bootstrap*). What is drawn makes a difference. The first interval draws single *prompts*: what if we had drawn other prompts of these six kinds? The second draws whole *structures*: what if we had written other kinds of sentences? Prompts of one structure resemble each other, so the second interval is wider. It is the one to quote if you want to speak about sentences in general, and with only six structures it is a rough guide even then.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# All 96 are right, and in 71 of them the right name is the most probable of all tokens. The mean is 3.42, [3.11, 3.74] over prompts and [2.93, 3.95] over structures. The structures lie between 2.6 and 4.5. The eight published prompts have 4.72, but one of them alone has 10.1: without the pair of Martin and Amy, the other six have 4.3. So the eight are at the upper end of what these sentences show.
# </details>
#
# ## 5 · Before you look inside: how would *you* do it?
#
# Write down, in words, a procedure that a model could follow to get these right. Remember what it has to work with: each position can read only itself and earlier ones, and only attention carries information from one position to another. Two traps wait here. If you begin to measure without any idea, you are soon lost in figures. If you begin with a single idea, you will find it confirmed everywhere. So write down at least two procedures, and think of a result that would tell them apart. Then compare.
#
# <details><summary>Four candidate procedures</summary>
#
# 1. *Avoid the repeated name.* At S2, notice that this name stood here before. Tell END "not this one". At END, attend to
#    names, skip the marked one, and copy what is left.
# 2. *Avoid the latest name.* At END, look at the name of whoever acts in the second clause, and lower it. Whether it was mentioned before does not matter.
# 3. *Count.* Collect all names so far and give each a vote; let duplicates vote against themselves.
# 4. *Go by position.* Work out at which of the first two places the repeated name stands, and copy from the other place.
# </details>
#
# **How many steps does each need?** Before the first layer, the stream at a name holds which word stands there. It holds nothing about the other positions. So one attention layer has to find the repetition, and later ones have to use it. Procedures 1 and 4, as written above, need three attention layers. In the first, S2 finds the repetition. In the second, END reads from S2 what was found. Only in the third can END choose the name to copy, or the place to copy from. (S1 cannot carry the mark, because it cannot read S2.) Procedures 2 and 3 could do with one. For procedure 3, a head at END could look at all names alike and write against each. The name that stands there twice then gets twice as much, although nothing has found the repetition.
#
# **What success does not tell you.** On our prompts all four procedures give the right answer. A high logit difference cannot choose among them. You need a prompt on which they *disagree*.
#
# ### An experiment that separates them
#
# Take the first two procedures, and a prompt with three different names: "When John and Mary went to the shops, **Alice** gave the bag to". Nobody is repeated. The first procedure has nothing to avoid, so Alice should be as good as the others, or better, since she was mentioned last. The second procedure
# should still lower Alice.
#
# *What do you expect?*

# %%
prediction = {"the third name, compared with the first two": None}  # "lower", "about equal" (within half a logit) or "higher"

# %%
twins = end_logits(model, abc.corrupted_text, progress=False)  # [prompt, d_vocab]
names_of = [[model.to_single_token(prompt.names[slot]) for slot in "xyz"] for prompt in data.prompts]
first, second, third = twins.gather(-1, torch.tensor(names_of, device=twins.device)).unbind(-1)  # the logits of the three names
lead = (first + second) / 2 - third  # [prompt]
measured = "lower" if lead.mean() > 0.5 else "higher" if lead.mean() < -0.5 else "about equal"
score_predictions(prediction, {"the third name, compared with the first two": measured})
low, high = bootstrap_interval(lead, structure)
plots.intervals(
    {"mean over 96 prompts": torch.stack([scores.mean(), lead.mean()])},
    "Does the model avoid a name that is not repeated?",
    x="logit difference, with a 95 % interval over structures",
    labels={"mean over 96 prompts": ["IOI: right name minus repeated name", "three names: mean of two minus the third"]},
    bounds={"mean over 96 prompts": ([over_structures[0], low], [over_structures[1], high])},
)

# %%
compare("ioi.abc.lead_over_third", lead.mean(), model)
compare("ioi.abc.interval_over_structures", torch.tensor([low, high]), model)
compare("ioi.abc.share_of_prompts", (lead > 0).float().mean(), model)

# %% [markdown]
# *What do you see?* Which of the two procedures is refuted, and is the other one confirmed?
# <details><summary>What we see, for SmolLM2</summary>
#
# The third name stands 2.4 logits below the other two, [1.7, 3.2] over structures, and is lower in 93 % of the prompts. Nothing is repeated there. So "avoid the repeated name" cannot be the whole story: this model marks down the third name although it is new. That name is the latest one, and it is also the name of the person who acts; this experiment cannot say which of the two matters. But the repetition seems to count as well, since with it the difference is a logit larger (3.4). Procedures 1, 3 and 4 would all explain that. Chapters 03 to 06 find two mechanisms side by side: a head that writes against the name in the third place, and a chain of heads that finds the repetition.
# </details>
#
# For gpt2-small, [Wang et al. (2022)](https://arxiv.org/abs/2211.00593) describe the first procedure, and found heads for its steps. The paper calls these heads duplicate-token heads, induction heads, S-inhibition heads and name movers; chapters 03 and 04 explain these names.
# Whether your model does it that way is what the next chapters let you find out.
#
# **Try.** Use a template of your own with another verb: `ioi.ioi_pairs(model, [your_template], [(" Tom", " Mary")])`. Keep the slot `{S}`. What happens if you use a name of several tokens, such as Siobhan?
# <details><summary>What you should find, on SmolLM2</summary>
#
# The verb need not be one of giving. "When Tom and Mary went to the shops,{S} smiled at" has differences of 6.6 and 7.3, and "talked to" 3.3 and 4.2. It can also be weak and lopsided: "Tom and Mary had dinner, and then{S} kissed" has 0.2 and 3.5. If the two sides of a pair differ in length, `ioi_pairs` refuses them and says how many tokens each has.
# </details>
#
# Later chapters take prompts and tokens from `utils.ioi`. Its functions are those that you have just written, with error messages added:

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
# | `transformer_lens.utilities.test_prompt` | the top tokens and the rank of an answer |
# | `utils.ioi.ioi_pairs(model)` | the eight prompts, clean and corrupted, with answers |
# | `utils.ioi.ioi_dataset(model, n)` | prompts of six structures with random names; `.pairs("ABC")` |
# | `utils.attribution.logit_diff(logits, answer_tokens)` | the number to explain |
# | `utils.inference.end_logits(model, texts)` | logits at the end of prompts of any lengths |
# | `utils.stats.bootstrap_interval(values, clusters)` | an interval over whatever you draw again |
#
# **Glossary.** *ABC prompt*: a twin with three different names. *Clean, corrupted*: the prompt whose behavior you study, and its twin with one thing changed. *END*: the last position.
# *Interval (bootstrap)*: the range of the mean when the sample is drawn again from itself. *IO*: the indirect object, the correct answer. *Logit difference*: logit of the correct answer minus logit of the incorrect one, at
# END. *Mirrored pair*: two prompts that differ only in which name fills the slot. *S1, S2*: the first and second mention of the subject. *Subword*: a token that is a piece of a word.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Wang et al. 2022, [Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small](https://arxiv.org/abs/2211.00593). Sections 1 and 2 introduce the task and its data set.
# - Nanda 2022, [Exploratory Analysis Demo](https://transformerlensorg.github.io/TransformerLens/generated/demos/Exploratory_Analysis_Demo.html). The eight prompts come from this notebook, which also shows how one explores a model: in short loops of guessing and looking.

# %% [markdown]
# **Next:** [02 · Direct logit attribution](02_logit_attribution.ipynb) asks which parts of the model add up to this number.
