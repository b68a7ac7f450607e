# %% [markdown]
# # 04 · What kind of head is it?
#
# Two and a half hours. Chapters 02 and 03 found heads that matter for one task. What do these heads do on other texts? And what does the model do without one of them?
# Sections 1 to 3 look for habits that a head has on any text. Sections 4 to 8 remove a name mover, find that the model hardly misses it, and take the reasons apart, one by one. Sections 9 and 10 compare our heads with the published classes, and score the heads of any model.
#
# You will be able to
# - score every head for three habits on meaningless text, and recognize them in real text;
# - remove a head at one position, by zero or by its mean, and compare what happens with what attribution predicts;
# - name the heads that react, and split their reaction exactly into attention, values and normalization;
# - tell a head that helps out from an opponent that stands down;
# - look up any head of any model in a table.

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
import itertools
import warnings
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache, utilities
from transformer_lens.head_detector import detect_head
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from tests.checks import (
    check_ablate_at_end,
    check_backup_by_route,
    check_direct_effect_change,
    check_head_scores,
    check_layernorm_ratio,
    check_mean_ablate,
)
from tests.checks.predicting import score_predictions
from utils import ablation, atlas, attribution, heads, patching, plots, widgets
from utils.attribution import head_attributions, head_name, logit_diff, logit_diff_directions, top_heads
from utils.experiment import run_experiment
from utils.inference import ends_only, small_cache
from utils.ioi import ioi_dataset, ioi_pairs, positions_by_role
from utils.models import load_model
from utils.reference import compare, figures
from utils.stats import bootstrap_interval
from utils.tiny_models import tiny_model

pd.set_option("display.max_colwidth", None)

# %% tags=["nbval-ignore-output"]
model = load_model()
n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
all_heads = [head_name(layer, head) for layer in range(n_layers) for head in range(n_heads)]

# %% [markdown]
# ## 1 · What does a head do where nothing means anything?
#
# Take a hundred tokens at random and give them to the model twice in a row. There is no grammar in them, and there are no facts or names. The only way to predict anything is to notice that the second hundred tokens repeat the first hundred.
#
# *What do you expect?* How well can the model predict the next token in the first copy, and in the second?
# <details><summary>Our guess</summary>
# In the first copy it can hardly predict anything. If a model gave the same probability to each of 49,152 tokens, the log-probability of the right one would be −10.8. A model that expects ordinary text does worse than that. In the second copy it should predict almost every token from the second one on: by then it has seen one token come again, and can look up what followed it.
# </details>
#
# These tokens have no BOS in front, because the published scores that we compare with were made without one.

# %%
seq_len = 100
random_tokens = heads.repeated_tokens(seq_len, batch=2, seed=0).to(model.cfg.device)  # [2, 200]
log_probs = model(random_tokens).log_softmax(-1)[:, :-1]  # [batch, pos, d_vocab]
correct = log_probs.gather(-1, random_tokens[:, 1:, None])[..., 0]  # [batch, pos]
del log_probs  # 80 MB with this vocabulary
plots.line(
    {"log-probability": correct.mean(0)},
    "Random tokens given twice: how well is the next one predicted?",
    x="position of the predicting token",
    y="log-probability of the right token (natural log)",
)

# %%
compare("anatomy.random_tokens.first_copy", correct[:, : seq_len - 1].mean(), model)
compare("anatomy.random_tokens.second_copy", correct[:, seq_len:].mean(), model)


# %% [markdown]
# **How to read it.** The left half is guessing. At position 100 the first token comes again, and within a few tokens the curve climbs toward zero. The model now predicts what came after the same token a hundred positions earlier.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# In the first copy the mean is −12.8, worse than an even guess (−10.8), because the model expects ordinary text. In the second copy it is −1.7. That is the logarithm of .18, so the right token gets 18 % as a geometric mean, which a few badly predicted tokens pull down. If you guessed that the model is nearly sure of every token, that was too hopeful. (How often the right token comes first was not counted.)
# </details>
#
# To predict like this the model needs heads with habits. We look for three:
#
# | habit | a query at position *i* attends to position | because there stands |
# |---|---|---|
# | **previous-token head** | *i* − 1 | the token before |
# | **duplicate-token head** | *i* − `seq_len` | the same token, the first time |
# | **induction head** | *i* − (`seq_len` − 1) | what *followed* the same token, the first time |
#
# Each of these is a diagonal of the attention pattern: the set of cells where query minus key is one constant, the **offset**. A head's
# score for a habit is its mean attention along that diagonal. ([Olsson et al. 2022](https://arxiv.org/abs/2209.11895) describe induction heads. The three scores in this form come from TransformerLens' Exploratory Analysis Demo.)
#
# ### Exercise 4.1 · Three scores for every head
#
# > Difficulty: ●●●○○  Importance: ●●●●●  15 minutes
#
# `tokens` holds `seq_len` tokens and the same again, and perhaps a BOS in front of both. Return a dictionary with the keys
# `"previous_token"`, `"duplicate_token"` and `"induction"`; each value is `[layer, head]`, the mean of the whole diagonal, over the
# batch too. If there is a BOS, cut its row and its column off first: it belongs to neither copy, and many heads look at it.
#
# <details><summary>Hint 1 · a question</summary>
#
# How far back is the first copy of the same token? And what followed it: is that one farther or one nearer?
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# `pattern` is `[batch, head, query, key]`. `pattern[..., -2 * seq_len :, -2 * seq_len :]` leaves out whatever is in front.
# `x.diagonal(-3, dim1=-2, dim2=-1)` takes the cells where row minus column is 3.
# </details>
# <details><summary>Hint 3 · to save memory</summary>
#
# A names filter keeps the cache small:
# `model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_pattern"))`.
# </details>

# %%
def head_scores(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], seq_len: int
) -> dict[str, Float[Tensor, "layer head"]]:
    """Mean attention of every head along three diagonals: "previous_token", "duplicate_token", "induction".

    tokens: seq_len tokens given twice, with or without BOS in front. BOS takes no part, as query or as key.
    """
    ### BEGIN SOLUTION
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_pattern"))
    patterns = torch.stack([cache["pattern", layer] for layer in range(model.cfg.n_layers)])
    patterns = patterns[..., -2 * seq_len :, -2 * seq_len :]  # [layer, batch, head, query, key]
    offsets = {"previous_token": 1, "duplicate_token": seq_len, "induction": seq_len - 1}
    return {name: patterns.diagonal(-offset, dim1=-2, dim2=-1).mean((1, -1)) for name, offset in offsets.items()}
    ### END SOLUTION


# %%
check_head_scores(head_scores)

# %% [markdown] tags=["answer"]
# `diagonal` counts column minus row, which is key minus query here, so a key *before* the query has a negative number. With
# a positive one you read above the main diagonal, where the causal mask makes everything zero. What followed the equal
# token stands one place after it, so it is one place nearer to the query: `seq_len - 1`. `diagonal` puts its cells on a new
# last axis, `[layer, batch, head, cell]`, and `mean((1, -1))` averages over batch and cells.

# %%
scores = head_scores(model, random_tokens, seq_len)
plots.imshow(
    torch.stack(list(scores.values())),
    "Three habits on repeated random tokens",
    x="head",
    y="layer",
    panels=["previous token", "duplicate token", "induction"],
    sequential=True,
    unit="attention",
)

# %%
for name, table in scores.items():
    compare(f"head_scores.{name}", table[:3, :3], model)
    compare(f"anatomy.top.{name}", heads.names(top_heads(table, 5)), model)

# %% [markdown]
# **How to read it.** There is one cell for each head, and one color scale for the three panels. Most cells are pale: a habit belongs to a few heads.
#
# *What do you see?* Find the darkest cells of each panel in the lists just printed. Do induction heads stand earlier or later than previous-token heads, and why?
# <details><summary>What we see, for SmolLM2</summary>
#
# L16H0 leads the previous-token heads, L8H0 the duplicate-token heads, and L18H6, L17H3 and L17H4 the induction heads. The
# induction heads are in layers 17 and 18, after the strongest previous-token head. The usual explanation predicts this order
# ([Elhage et al. 2021](https://transformer-circuits.pub/2021/framework/index.html)): an induction head needs each position to
# carry a note of which token stands before it. A previous-token head in an earlier layer writes this note. Chapter 05 tests
# this for L16H0 and L17H4.
# </details>
#
# Duplicate-token heads and induction heads find out the same thing in two ways: that a token has occurred before. A duplicate-token head can compare the words themselves. An induction head compares the present word with the notes that a previous-token head has left, so in this explanation it needs such a head, and no duplicate-token head.
#
# **What it does not show.** A score is about where a head looks on random tokens. A head with three low scores may well have other habits. Nor does a score say what the head writes: there are heads that look where induction heads look and write *against* the token that they find (*anti-induction heads*). Section 10 has a score for that half.
#
# **Try.** Put a BOS in front: `heads.repeated_tokens(seq_len, bos=model.tokenizer.bos_token_id)`. Do the same heads lead? And with another `seed`?
# <details><summary>What you should find, on SmolLM2</summary>
#
# With BOS the same four heads lead every panel, in the same order, and their scores change by .04 at most. We also tried ten
# other seeds. The four previous-token heads kept their order in all of them, and the four induction heads in nine. Of the
# duplicate-token heads, the first three kept theirs in all ten. The fourth has a score of only .2, and with three of the
# seeds another head took its place. The scores themselves changed by .06 at most, except with seed 6, where L8H0 lost .17 and
# L14H3 .13.
# </details>
#
# ## 2 · Do they do it in real text?
#
# *What do you expect?* Take the leading induction head and a sentence given twice. Which word will it attend to from the second `" bags"`?
# <details><summary>Our guess</summary>
# From the second " bags", the word that followed the first " bags".
# </details>

# %%
text = " Visitors leave their bags at the desk and walk up the stairs to the first hall."
twice = model.to_tokens(text + text)  # BOS in front
text_len = (twice.shape[1] - 1) // 2
_, text_cache = model.run_with_cache(twice, names_filter=lambda name: name.endswith("hook_pattern"))
plots.attention_of_heads(
    text_cache,
    top_heads(scores["induction"], 3),
    model.to_str_tokens(text + text),
    title="The three heads with the highest induction score, on a sentence given twice",
)


# %% [markdown]
# **How to read it.** In the lower half (the second copy) look for a line parallel to the main diagonal: each word attends to the word after its
# own first occurrence. In the upper half there is nothing to find, and the attention rests on BOS at the left edge.
#
# TransformerLens has a head detector built in. It takes text and the name of a habit, or your own 0/1 table of cells, and returns the share
# of a head's whole attention that falls on those cells. With our diagonal as the table it must give our score, except that it
# divides by another number of rows. Here is the comparison.

# %%
def detected(text: str, offset: int) -> Float[Tensor, "layer head"]:
    """The built-in detector's score for one diagonal, as a mean over the diagonal's own cells, BOS left out."""
    n = model.to_tokens(text).shape[1]
    cells = torch.zeros(n, n)
    cells[1:, 1:] = torch.diag(torch.ones(n - 1 - offset), -offset)
    return detect_head(model, text, cells.to(model.cfg.device)).cpu() * n / cells.sum()


difference = detected(text + text, text_len - 1) - heads.head_scores(model, twice, text_len)["induction"].cpu()
compare("anatomy.detector_difference", difference.abs().max(), model)

# %% [markdown]
# ## 3 · What do these heads do in the IOI task?
#
# The eight prompts repeat something too: a name. In *When John and Mary went to the shops, John gave the bag to*, the first `" John"` is **S1** and the second one **S2**. The answer, `" Mary"`, is **IO**, the indirect object. The last position is **END**.
#
# *What do you expect?* At S2, where will an induction head look?
# <details><summary>Our guess</summary>
# At the token after S1: that is what followed the same token. Nothing in the task asks for that word. But the fact that *something* was
# found there says that this name is a repeated one, which is just what the task needs.
# </details>

# %%
pairs = ioi_pairs(model)
tokens, answers = pairs.clean_tokens, pairs.answer_tokens
directions = logit_diff_directions(model, answers)
clean_logits, clean_cache = model.run_with_cache(tokens, names_filter=small_cache)
clean_diff = logit_diff(clean_logits, answers)
positions = positions_by_role(tokens, answers)
after_s1 = heads.attention_between(clean_cache, positions["S2"], positions["S1+1"])
plots.scatter(
    scores["induction"],
    after_s1,
    "Induction heads at work in IOI: one point per head",
    x="induction score (random tokens)",
    y="attention from S2 to the token after S1",
    labels=all_heads,
)

# %%
together = torch.corrcoef(torch.stack([scores["induction"].flatten(), after_s1.flatten()]))[0, 1]
compare("anatomy.induction_in_ioi.correlation", together, model)

# %% [markdown]
# **How to read it.** If the points rise to the right, a habit measured on noise predicts what a head does in a sentence. Points
# high on the left look at the token after S1 for another reason. Points low on the right have the habit and do not use it here.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# The points rise, but loosely (the correlation is .49). L17H4 does both: its induction score is .70, and it spends .77 of its attention on that token. L18H6 has the highest induction score of all (.92), and from S2 it looks at the token after S1 with only .24.
# </details>
#
# Chapter 03 asked which heads *matter* for the task. It took a head's output `z` from the clean run and put it into the run with the other name at S2. Then it measured how much of the logit difference came back. Here is that sweep again. The table shows the habits of the ten heads with the largest effects.

# %% tags=["nbval-ignore-output"]
patched = run_experiment(model, pairs).denoise(patching.get_act_patch_attn_head_out_all_pos)

# %%
direct = head_attributions(model, clean_cache, directions)
evidence = {
    **scores,
    "S2→S1": heads.attention_between(clean_cache, positions["S2"], positions["S1"]),
    "S2→S1+1": after_s1,
    "END→S2": heads.attention_between(clean_cache, positions["END"], positions["S2"]),
    "END→IO": heads.attention_between(clean_cache, positions["END"], positions["IO"]),
    "patching": patched,
    "direct": direct,
}
found = sorted(top_heads(patched.abs(), 10))
pd.DataFrame(
    {name: [table[head].item() for head in found] for name, table in evidence.items()}, index=heads.names(found)
).round(2)

# %%
compare("anatomy.patching.top_heads", heads.names(found), model)

# %% [markdown]
# **How to read it.** The rows are in order of layer. Read each row as a sentence: *this head has these habits on random tokens, attends there in the task, and matters this
# much*.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# L17H4 is an induction head, and from S2 it looks at S1+1. L19H2 and L20H0 have none of the three habits on random tokens; in
# the task they read S2 from END. L23H0, L23H7 and L24H4 read IO from END, and write straight to the logits (`direct`): the
# first two for the right name, the third against it.
# </details>
#
# **What it does not show.** Plenty of heads with a high induction score are not in this table. Having a habit and being used here are
# two different things.
#
# ## 4 · What if a name mover is missing?
#
# A **name mover** looks at IO from END and writes that name ([Wang et al. 2022](https://arxiv.org/abs/2211.00593)). Take the name mover with the largest direct effect. (On SmolLM2 two other heads have larger effects. L23H3 looks at S2 and lowers that name; it gets its turn in section 8. L29H1 reads END itself, and L29H0 undoes most of what it does.)

# %%
to_io, to_s2 = evidence["END→IO"], evidence["END→S2"]
top = top_heads(direct.where(to_io > to_s2, -torch.inf), 1)[0]  # of the heads that look at IO, the one that writes most for it
top_layer, top_head = top
places = {role: at for role, at in positions.items() if role != "S1+1"}
looks = {name: heads.attention_between(clean_cache, positions["END"], at)[top] for name, at in places.items()}
writes = [head_attributions(model, clean_cache, model.W_U.T[answers[:, i]])[top] for i in (0, 1)]
plots.bar(list(looks.values()), f"Where {head_name(*top)} looks from END", x="position", y="attention", x_labels=list(looks))

# %%
compare("backup.ablated_head", head_name(*top), model)
compare("backup.looks_at", max(looks, key=looks.get), model)
compare("backup.writes_to_io_and_s", torch.stack(writes), model)

# %% [markdown]
# **How to read it.** The two numbers of the last line are what the head adds to the logits of IO and of S (against the mean of all tokens). Their difference is its direct effect.
#
# ### Predict before you look
#
# Now take this head away at END, and only there. Attribution makes a prediction, since the logit difference is a sum: what it was, minus the head's direct effect. Will the measured logit difference be nearer to this **naive prediction**, or nearer to that of the whole model? Answer `"naive"` or `"whole"`.

# %%
prediction = {"without the head, nearer to": None}

# %% tags=["solution"]
prediction = {"without the head, nearer to": "naive"}  # what we guessed


# %% [markdown]
# ### Exercise 4.2 · Ablate at END
#
# > Difficulty: ●●○○○  Importance: ●●●●●  10 minutes
#
# Run the model with one head's `z` zero at the last position only. Return the logits and the cache *of that run*. Leave no hook behind.
#
# <details><summary>Hint 1 · the tools</summary>
#
# `run_with_hooks` does not cache. `with model.hooks(fwd_hooks=[(name, function)]):` keeps hooks on the model for the length of the block, and you can call `run_with_cache` inside.
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# `z` is `[batch, pos, head, d_head]`. Clone before you write, and write at the last position only. `names_filter=small_cache` keeps all that this
# chapter reads.
# </details>

# %%
def ablate_at_end(
    model: TransformerBridge, tokens: Int[Tensor, "batch pos"], layer: int, head: int
) -> tuple[Float[Tensor, "batch pos d_vocab"], ActivationCache]:
    """Logits and cache of a run in which one head's z is zero at the last position. Leaves no hooks on the model."""
    ### BEGIN SOLUTION
    def zero_at_end(z: Float[Tensor, "batch pos head d_head"], hook: HookPoint) -> Tensor:
        z = z.clone()
        z[:, -1, head] = 0
        return z

    with model.hooks(fwd_hooks=[(utilities.get_act_name("z", layer), zero_at_end)]):
        return model.run_with_cache(tokens, names_filter=small_cache)
    ### END SOLUTION


# %%
check_ablate_at_end(ablate_at_end)

# %% [markdown] tags=["answer"]
# The run has to happen inside the `with` block, because its hooks are gone afterwards. `run_with_cache` gives logits and
# cache of one and the same run. A cache made after the block is that of the whole model, and the next exercises would find
# no change in it. Zero the head at END only: then every earlier position stays as it was, and what is lost can be set
# beside what the head writes at END.

# %%
ablated_logits, ablated_cache = ablate_at_end(model, tokens, top_layer, top_head)
naive = clean_diff - direct[top]
measured = logit_diff(ablated_logits, answers)
plots.bar(
    [clean_diff, naive, measured],
    f"Without {head_name(*top)} at END: what the sum predicts, and what happens",
    x="",
    y="mean logit difference",
    x_labels=["whole model", "naive prediction", "measured"],
)

# %%
whole = (measured - clean_diff).abs() < (measured - naive).abs()
score_predictions(prediction, {"without the head, nearer to": "whole" if whole else "naive"})
compare("backup.direct_effect", direct[top], model)
compare("backup.naive_prediction", naive, model)
compare("backup.measured", measured, model)


# %% [markdown]
# **How to read it.** The third bar would equal the second if no other part of the model reacted. A third bar higher than the second is **self-repair**: something
# made up for the loss. A lower one says that something else depended on this head. A third bar *near* the second does not say that nothing
# happened, because gains and losses may cancel.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# L23H0 contributes .77 of the 4.72 logits. Without it at END the difference is 4.69, not 3.95. So .74 of the .77, or 95 %, are made up for.
# </details>
#
# In gpt2-small the published figures are 3.55, 0.57 and 2.92 (TransformerLens' demo), so 2.35 of the 2.98 logits that should be lost come back. [Wang et al. (2022)](https://arxiv.org/abs/2211.00593) call heads that
# write more for the answer when name movers are gone **backup name movers**. Others have found such repair in many models and layers ([McGrath et al. 2023](https://arxiv.org/abs/2307.15771), [Rushing and Nanda 2024](https://arxiv.org/abs/2402.15390)). But not everything that comes back is help. In the demo the largest change, about one logit, is that of L10H7, a head that works *against* the answer and now does so less.
#
# ## 5 · Who changed?
#
# *What do you expect?* Which heads *can* have changed their direct effect, and which cannot?
# <details><summary>Our guess</summary>
# Heads in earlier layers ran before the ablation, and heads in the same layer run beside it: what they write is the same. Only later heads can write something
# else. But every head's direct effect is divided by the final norm's scale. That scale depends on the whole stream, so all direct effects may move a little.
# </details>
#
# ### Exercise 4.3 · The change of direct effect
#
# > Difficulty: ●●●○○  Importance: ●●●●○  10 minutes
#
# For each head: its direct effect on the mean logit difference in the ablated run, minus the same in the clean run. The final norm's scale differs between the two runs; use each run's own. Return `[layer, head]`.
#
# <details><summary>Hint</summary>
#
# Which cache holds the scale that belongs to the ablated run? Chapter 02's `head_attributions(model, cache, directions)`, imported above, reads z *and* the scale from the cache it is given.
# </details>

# %%
def direct_effect_change(
    model: TransformerBridge,
    clean_cache: ActivationCache,
    ablated_cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
) -> Float[Tensor, "layer head"]:
    """Direct effect on the logit difference after ablation minus before, mean over prompts."""
    ### BEGIN SOLUTION
    after = head_attributions(model, ablated_cache, directions)
    before = head_attributions(model, clean_cache, directions)
    return after - before
    ### END SOLUTION


# %%
check_direct_effect_change(direct_effect_change)

# %% [markdown] tags=["answer"]
# A direct effect is what a head writes along the direction, divided by the scale of the run in which it is written. So you
# need two complete attributions, and the difference comes last. Subtracting the two `z` first and attributing the difference
# is tempting and wrong, because it divides both runs by one scale. The heads of earlier layers, and the others in the ablated
# head's own layer, would then come out as exactly zero, although their direct effects have changed with the scale.

# %%
change = torch.as_tensor(direct_effect_change(model, clean_cache, ablated_cache, directions))
others = change.clone()
others[top] = 0  # its own loss would drown the rest
plots.heads(
    others, f"Change of direct effect without {head_name(*top)} (itself left out)", unit="logits"
)

# %%
after = direct + others
plots.scatter(
    direct,
    after,
    "Direct effect before and after: one point per head (the ablated one at its old place)",
    x="direct effect, whole model",
    y="direct effect, ablated run",
    labels=all_heads,
    diagonal=True,
)

# %%
changed = top_heads(others.abs(), 4)
compare("backup.changed.heads", heads.names(changed), model)
compare("backup.changed.by", torch.stack([others[head] for head in changed]), model)


# %% [markdown]
# **How to read it.** A head on the dotted line did not change. Look at where the points off the line come from. *Above the line, right half*: a head that wrote for IO writes more of it, as a
# backup would. *Above the line, left half*: a head that wrote *against* IO (a **negative name mover**) now writes less against it. *Below the line*: a head that has lost something. All
# three are changes of direct effect, and only the first fits the word backup.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# The largest change, +.36, is that of L24H4, from −.49 to −.13: an opponent stands down. Next is L23H3 with +.11. It is in the *same* layer as the head we removed, so it cannot have noticed anything, and yet its direct effect has grown. The next section explains this.
# In gpt2-small the two largest changes are about +1 for L10H7, a negative head, and +0.8 for L10H10.
# </details>
#
# **What it does not show.** Why. That is the rest of this chapter.
#
# ## 6 · Is it the normalization?
#
# The first suspect is easy to test. The final norm divides by the size of the residual stream. If you take a large vector away, all that is left is divided by another number. Then every direct effect changes, although no head has done anything new.
#
# *What do you expect?* If that were all, where would the points of the scatter lie?
# <details><summary>Our guess</summary>
# On a straight line through zero, with one slope for all heads: the scale of the clean run over the scale of the ablated run.
# </details>
#
# ### Exercise 4.3, second part · The ratio of scales
#
# Return the mean over prompts of `clean scale / ablated scale` at the last position, as a 0-d tensor. The scale is `cache["ln_final.hook_scale"]`,
# `[batch, pos, 1]`.
#
# <details><summary>Hint</summary>
#
# Is a mean of ratios the same as a ratio of means?
# </details>

# %%
def layernorm_ratio(clean_cache: ActivationCache, ablated_cache: ActivationCache) -> Float[Tensor, ""]:
    """Mean over prompts of the final norm's scale at the last position, clean over ablated."""
    ### BEGIN SOLUTION
    return (clean_cache["ln_final.hook_scale"][:, -1] / ablated_cache["ln_final.hook_scale"][:, -1]).mean()
    ### END SOLUTION


# %%
check_layernorm_ratio(layernorm_ratio)

# %% [markdown] tags=["answer"]
# If a head writes what it wrote before, its effect on a prompt is multiplied by clean scale over ablated scale, so the
# clean one stands on top. Each prompt has its own factor: divide first, then average. A ratio of two means would give more
# weight to the prompts with a large ablated scale. Take END only, because all earlier positions are the same in both runs,
# and their ratio of 1 would hide part of the change.

# %%
ratio = torch.as_tensor(layernorm_ratio(clean_cache, ablated_cache))
plots.scatter(
    direct,
    after,
    "If only the final norm had changed, every head would lie on the solid line",
    x="direct effect, whole model",
    y="direct effect, ablated run",
    labels=all_heads,
    slopes={f"slope {ratio.item():.3f}": ratio.item()},
)

# %%
by_scale_alone = direct * (ratio - 1)
explained = torch.stack([by_scale_alone[head] / others[head] for head in changed])
compare("backup.layernorm_scale_ratio", ratio, model)
compare("backup.share_by_scale_alone", explained, model)


# %% [markdown]
# **How to read it.** One number multiplies the direct effects of all heads. The printed shares say how much of the four largest changes it would give. A negative
# share means that it would have moved that head the *other* way.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# The ratio is 1.05: without L23H0's output the stream is shorter, so everything that is left counts 5 % more. For L23H3 this is the whole change (share 1.02). For L24H4 it is none of it: its effect is negative, so the scale alone would make it *more* negative (share −.07).
# </details>
#
# A few percent may sound like little. But the scale multiplies everything in the stream, which together is worth the whole
# logit difference. Section 8 adds it up. [Rushing and Nanda (2024)](https://arxiv.org/abs/2402.15390) found the final norm to
# be one of the general causes of self-repair.
#
# ## 7 · Or is it the zero?
#
# A head may write the same vector on every prompt, whatever the names are. If you set the head to zero, later layers miss that vector too, and may react to its absence. A gentler ablation puts in the head's **mean** over a set of prompts. Over our eight prompts every name is right as often as it is wrong. So the mean keeps what the head always writes, and holds nothing about which name is right.
#
# *What do you expect?* Will the mean leave more of the logit difference than zero did?
# <details><summary>Our guess</summary>
# About the same. If zero were the culprit, the changes of the other heads would shrink with the mean.
# </details>
#
# ### Exercise 4.4 · Mean ablation
#
# > Difficulty: ●●○○○  Importance: ●●●●○  10 minutes
#
# For every `(layer, head)` in `heads`, put the mean of its `z` *at the last position over the reference prompts* in place of its `z` at the last position. Return
# the logits. The heads may be in different layers.
#
# <details><summary>Hint 1 · shapes</summary>
#
# The mean of one head's `z` at the last position over the reference prompts is `[d_head]`.
# </details>
# <details><summary>Hint 2 · the line that people miss</summary>
#
# Make one hook for each head; several hooks on one layer follow each other. A hook function made in a loop
# sees the loop's last values when it is called, so bind head and mean with `partial`.
# </details>

# %%
def mean_ablate(
    model: TransformerBridge,
    tokens: Int[Tensor, "batch pos"],
    heads: list[tuple[int, int]],
    reference_cache: ActivationCache,
) -> Float[Tensor, "batch pos d_vocab"]:
    """Logits of a run in which each head's z at the last position is its mean there over the reference prompts."""
    ### BEGIN SOLUTION
    def put_at_end(z: Float[Tensor, "batch pos head d_head"], hook: HookPoint, head: int, value: Tensor) -> Tensor:
        z = z.clone()
        z[:, -1, head] = value
        return z

    hooks = []
    for layer, head in heads:
        mean = reference_cache["z", layer][:, -1, head].mean(0)  # [d_head]
        hooks.append((utilities.get_act_name("z", layer), partial(put_at_end, head=head, value=mean)))
    return model.run_with_hooks(tokens, fwd_hooks=hooks)
    ### END SOLUTION


# %%
check_mean_ablate(mean_ablate)

# %% [markdown] tags=["answer"]
# The mean over prompts of one head's `z` at END is a vector, and the assignment puts the same vector into every prompt.
# Take it over all reference prompts and at their own last position, `-1`, because they may be longer than the prompts that
# run, or more of them. Each hook copies `z` and changes one head, so two hooks in one layer do not undo each other. In
# place of `partial`, arguments with defaults (`head=head, value=mean`) also bind the values of one round of the loop.

# %% [markdown]
# The logit difference, and the change of every other head, under both ablations (the second run again with `utils.ablation`, which also keeps the cache):

# %%
compare("backup.mean_ablated", logit_diff(mean_ablate(model, tokens, [top], clean_cache), answers), model)
to_mean = ablation.set_heads([top], ablation.mean_z_at_end(clean_cache, [top]))
_, without_head = ablation.run_with_cache_and_hooks(model, tokens, to_mean)
others_by_mean = torch.as_tensor(direct_effect_change(model, clean_cache, without_head, directions))
others_by_mean[top] = 0
del without_head  # a cache takes 70 MB
plots.scatter(
    others,
    others_by_mean,
    "Change of direct effect under two ablations: one point per other head",
    x="change when z is set to zero (logits)",
    y="change when z is set to its mean (logits)",
    labels=all_heads,
    diagonal=True,
)

# %%
compare("backup.changed.by_mean", torch.stack([others_by_mean[head] for head in changed]), model)

# %% [markdown]
# **How to read it.** A head on the line changes by as much under the mean as under zero. So its change comes from the *loss
# of the name*, and not from the zero. A head near the horizontal axis changes only if the constant vector is missing as well,
# and to call such a change "backup" would be a mistake. On SmolLM2 the large changes lie close to the line (L24H4 .33 in
# place of .36, L23H3 .10 in place of .11), and with the mean the logit difference is 4.69 again.
#
# **Try.** Take the mean over other prompts: `model.run_with_cache(pairs.corrupted_tokens)[1]`. Should it matter?
# <details><summary>What you should find</summary>
#
# It gives exactly the same. The corrupted prompts are the clean ones in another order, so the mean over them is the same mean.
# </details>
#
# ## 8 · Why do they change?
#
# TransformerLens' demo stops here, with this question. What can change a later head's direct effect? Write the effect out. For one prompt it is
#
# ```
# effect = Σ over positions k of  A[k] · w[k] / s          with  w[k] = v[k] W_O · direction
# ```
#
# Here `A[k]` is the head's attention from END to position k. `w[k]` is what the value at k would add to the logit difference, and `s` is the final norm's scale. So only three things can change: **where the head looks** (`A`), **what it finds there** (`w`), and **the scale** (`s`).
#
# *What do you expect?* The head was removed at END only, and no position sees a later one. So at which positions can queries, keys and values of later heads have changed?
# <details><summary>Our guess</summary>
# Only at END. Every earlier position is computed without END. So the values at IO, S1 and S2 are exactly what they were. Only a head that attends to END itself can find other values. The attention can change through END's query (toward every position) or through END's key (toward END).
# </details>

# %%
differences = {
    f"{name} {where}": torch.stack(
        [(clean_cache[name, layer] - ablated_cache[name, layer])[:, part].abs().max() for layer in range(n_layers)]
    )
    for name in ("q", "k", "v")
    for where, part in (("before END", slice(0, -1)), ("at END", slice(-1, None)))
}
for name, values in differences.items():
    print(f"{name:13} largest difference between the two runs {values.max().item():.2f}")


# %%
def effect_factors(
    model: TransformerBridge,
    cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
    layer: int,
    head: int,
) -> tuple[Float[Tensor, "batch key"], Float[Tensor, "batch key"], Float[Tensor, " batch"]]:
    """The three factors of one head's direct effect at END: its attention, what each key's value would write along the
    direction, and the final norm's scale."""
    pattern = cache["pattern", layer][:, head, -1]  # batch key
    values = cache["v", layer]  # batch key kv_head d_head: several heads may share one set of values
    values = values[:, :, head * values.shape[2] // model.cfg.n_heads]  # batch key d_head
    if model.cfg.normalization_type.startswith("LN"):  # LayerNorm centers what it reads
        directions = directions - directions.mean(-1, keepdim=True)
    written = torch.einsum("bkd,dm,bm->bk", values, model.W_O[layer, head], directions)
    return pattern, written, cache["ln_final.hook_scale"][:, -1, 0]


pattern, written, scale = effect_factors(model, clean_cache, directions, *changed[0])
again = ((pattern * written).sum(-1) / scale).mean()
print(f"{head_name(*changed[0])}: {again:.4f} from the factors, {direct[changed[0]]:.4f} from chapter 02's attribution")


# %% [markdown]
# Now the split. Exchange the three factors one at a time, from the clean run's to the ablated run's, and note what each exchange does to the effect. The three steps
# add up to the whole change. But there are six orders, and because the factors multiply, a factor exchanged first gives another number than the
# same factor exchanged last. No order has a better claim than another, so take the mean over all six. This mean is the **Shapley value** ([Shapley 1953](https://doi.org/10.1515/9781400881970-018)). It is the only split with four properties:
#
# - The parts add up to the whole change.
# - The factors are treated alike.
# - A factor that changes nothing gets zero.
# - The split of a sum of two effects is the sum of their splits.
#
# ### Exercise 4.5 · The change, by route
#
# > Difficulty: ●●●●○  Importance: ●●●●●  20 minutes
#
# Take the change of one head's direct effect: ablated minus clean, mean over prompts. Return `[3]`: how much of it is due to the head's attention pattern, to its values, and to the final norm's scale. Average each of the three over the six orders.
#
# <details><summary>Hint 1 · a question</summary>
#
# Begin with three clean factors and exchange them in the order 2, 0, 1. What do you credit to factor 0?
# </details>
# <details><summary>Hint 2 · the tools</summary>
#
# `effect_factors` above gives the three factors of a run. `itertools.permutations(range(3))` gives the orders. For each order, begin with the list of clean factors and go through the order. For each `i`, compute the effect, put in the ablated factor `i`, and compute again. Credit the difference to `i`.
# </details>

# %%
def backup_by_route(
    model: TransformerBridge,
    clean_cache: ActivationCache,
    ablated_cache: ActivationCache,
    directions: Float[Tensor, "batch d_model"],
    layer: int,
    head: int,
) -> Float[Tensor, "3"]:
    """One head's change of direct effect, ablated minus clean, by route: attention pattern, values, scale. They add up."""
    ### BEGIN SOLUTION
    clean, ablated = (effect_factors(model, cache, directions, layer, head) for cache in (clean_cache, ablated_cache))
    routes = torch.zeros(3, device=directions.device)
    orders = list(itertools.permutations(range(3)))
    for order in orders:
        now = list(clean)
        for i in order:
            before = ((now[0] * now[1]).sum(-1) / now[2]).mean()
            now[i] = ablated[i]
            routes[i] += ((now[0] * now[1]).sum(-1) / now[2]).mean() - before
    return routes / len(orders)
    ### END SOLUTION


# %%
check_backup_by_route(backup_by_route)

# %% [markdown] tags=["answer"]
# Every order leads from three clean factors to three ablated ones, so its three credits add up to the whole change, and so
# do their means over the orders. If you exchange each factor alone, always beginning from the clean run, you leave out what
# the factors do only together, and the parts do not add up. A single order adds up, but it credits what two factors do only
# together to the one that is exchanged later. `now = list(clean)` belongs inside the loop over orders: after the first
# order all factors are ablated, and no exchange would change anything.

# %%
shown = top_heads(others.abs(), 6)
routes = torch.stack([torch.as_tensor(backup_by_route(model, clean_cache, ablated_cache, directions, *head)) for head in shown])
plots.bar(
    dict(zip(ablation.ROUTES, routes.T, strict=True)),
    f"Why the direct effects changed when {head_name(*top)} was removed at END",
    x="head",
    y="change of direct effect (logits)",
    x_labels=heads.names(shown),
    stacked=True,
)

# %%
for head, parts in list(zip(shown, routes, strict=True))[:4]:
    compare(f"backup.route.{head_name(*head)}", parts, model)
compare("backup.route.adds_up", (routes.sum(1) - torch.stack([others[head] for head in shown])).abs().max(), model)
compare("backup.route.largest", [ablation.ROUTES[parts.abs().argmax()] for parts in routes[:4]], model)


# %% [markdown]
# **How to read it.** There is one bar for each head, in order of the size of its change. The diamond is the change itself, the sum of the parts. If one color fills the bar, that is the answer:
# the head *looks elsewhere*, or *finds something else at END*, or is *scaled*.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# L24H4 looks elsewhere: that alone gives +.38, and the scale takes .02 away, which leaves +.36. L23H3 is scaled, and nothing
# else. The others change by less than .05. Behind a small change there may be larger parts that cancel: L29H1 gains .04 by
# looking elsewhere and .07 by the scale, and loses .07 because its values have changed.
# </details>
#
# ### Freeze it, in a real run
#
# The split was computed from two caches. Is it what the model would do? Run the ablated model again, and hold one thing of one head at its clean value with a hook. There are four things to hold: its attention pattern, its query at END, its own key at END, and its value at END. (Holding the query does not hold the pattern, which is then computed from the old query and the new keys.) What is left of its change? (Heads that share keys
# or values share the freezing too.)

# %%
def change_left(head: tuple[int, int], activation: str) -> float:
    """The head's change of direct effect in a run without the top head, with one activation of its own frozen at END."""
    name = utilities.get_act_name(activation, head[0])
    n_entries = clean_cache[name].shape[1 if activation == "pattern" else 2]  # keys and values may be shared
    frozen = ablation.freeze(clean_cache, [name], head=head[1] * n_entries // n_heads)
    _, cache = ablation.run_with_cache_and_hooks(model, tokens, [*ablation.set_heads([top]), *frozen])
    return torch.as_tensor(direct_effect_change(model, clean_cache, cache, directions))[head].item()


frozen_parts = {"pattern": "attention pattern", "q": "query at END", "k": "key at END", "v": "value at END"}
left = {
    "nothing frozen": [others[head].item() for head in changed],
    **{what: [change_left(head, activation) for head in changed] for activation, what in frozen_parts.items()},
}
plots.bar(
    left,
    "What is left of a head's change when one of its activations is frozen",
    x="head",
    y="change of direct effect (logits)",
    x_labels=heads.names(changed),
)

# %%
for what, values in left.items():
    compare(f"backup.frozen.{what.replace(' ', '_')}", values, model)

# %% [markdown]
# **How to read it.** A bar that falls to zero names the cause: freeze that, and the head behaves as if nothing had been removed. If the pattern's bar and the query's bar fall together, the head looks elsewhere *because
# END asks another question*. If only the value's bar falls, the head reads END itself, and what it finds there has changed.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# For L24H4, freezing the pattern or only the query leaves −.04 of .36, and freezing its key or its value leaves everything.
# So END asks L24H4 another question when L23H0 is gone. For L23H3 freezing changes nothing, since only the norm has changed.
# So the real runs agree with the split, to within .02.
# </details>
#
# And where does the attention go?

# %%
moved = {
    head_name(*head): [
        sum(sign * heads.attention_between(cache, positions["END"], at)[head].item() for cache, sign in ((ablated_cache, 1), (clean_cache, -1)))
        for at in places.values()
    ]
    for head in changed
}
plots.bar(
    moved,
    "How the attention from END moved: ablated run minus clean run",
    x="attended position",
    y="change of mean attention",
    x_labels=list(places),
)

# %%
for name, values in moved.items():
    compare(f"backup.moved.{name}", values, model)

# %% [markdown]
# **How to read it.** There is one color for each head, and bars above zero are positions that it looks at more than before.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# L24H4 looks at IO less (−.17), and at BOS (+.12) and S2 (+.05) more. This fits what [McDougall et al. (2023)](https://arxiv.org/abs/2310.04625) call **copy suppression** and show for gpt2-small's L10H7. The more the model is already about to say a name, the more such a head attends to that name, and it writes against it. With less said for the name, there is less to suppress.
# </details>
#
# What about a head whose attention hardly moved, but whose bar for *values* in the stacked figure is long? It reads END itself, and passes on, or turns around, what it finds there. "Backup" would be a misleading word for that, too.
#
# ### The whole account
#
# Now all parts at once. The change of the logit difference has five parts, which add up to the whole: what the ablated head wrote itself; what changed because other heads look elsewhere; what changed because they find other values; the MLPs; and the scale. One ablation is only one case, so here are the heads with the six largest direct effects, for or against, each removed on its own.

# %%
removed = top_heads(direct.abs(), 6)
accounts = []
for head in removed:
    _, without_head = ablation.ablate_at_end(model, tokens, *head)  # as your function, with a small cache
    accounts.append(ablation.change_by_source(model, clean_cache, without_head, directions, [head]))
del without_head
plots.bar(
    {source: [account[source] for account in accounts] for source in accounts[0]},
    "What happens to the logit difference when one head is removed at END",
    x="removed head",
    y="change of the mean logit difference",
    x_labels=heads.names(removed),
    stacked=True,
)

# %%
compare("backup.account.heads", heads.names(removed), model)
compare("backup.account.total", [sum(account.values()) for account in accounts], model)
for source in accounts[0]:
    key = source.replace(":", "").replace("'", "").replace(" ", "_").lower()
    compare(f"backup.account.{key}", [account[source] for account in accounts], model)
compare("backup.account.adds_up", abs(sum(accounts[removed.index(top)].values()) - (measured - clean_diff).item()) < 1e-4, model)

# %% [markdown]
# **How to read it.** The first part of each bar is the naive prediction. Parts of the other sign undo the change, which is repair where the head wrote for the answer. Parts of the same sign add to it. The diamond is what was measured.
#
# ### Interpret: who made up for the name mover?
#
# It is tempting to say: *"When a name mover is removed, backup heads notice and step in."* Look at the bar of the head that we removed in section 4, and at the figures before it. What made up for the largest part of its loss?
#
# - **a** Heads that already wrote for the answer look elsewhere and write more for it.
# - **b** Heads that wrote against the answer look elsewhere and write less against it.
# - **c** The final norm: everything left in the stream counts more.
# - **d** The MLPs.

# %%
choice = {"largest part of the repair": None}

# %% tags=["solution"]
choice = {"largest part of the repair": "b"}  # for SmolLM2

# %%
by_route = ablation.change_by_route(model, clean_cache, ablated_cache, directions)
by_route[(slice(None), *top)] = 0
looking = by_route[ablation.ROUTES.index("attention pattern")]
account = accounts[removed.index(top)]
repair = {
    "a": looking[direct > 0].sum().item(),
    "b": looking[direct < 0].sum().item(),
    "c": next(amount for source, amount in account.items() if "norm" in source),
    "d": next(amount for source, amount in account.items() if "MLP" in source),
}
score_predictions(choice, {"largest part of the repair": max(repair, key=repair.get)})
compare("backup.repair.helpers_opponents_norm_mlps", list(repair.values()), model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# **b.** Without L23H0 the model should lose .77 logits and loses .04. Heads that write against the answer give .35 in all: L24H4 stands down by .38, and the others take .03 back. The final norm gives .22, which is 30 % of the repair. The MLPs give .10, and heads that write *for* the answer and look elsewhere .07. So the largest part of this "backup" is an opponent that writes less against the answer, and almost a third comes from the division by the norm. No head "notices" anything: all of them do what they
# always do, on another input.
# </details>
#
# ### The strongest head: does nothing react?
#
# Look at the first bar, the head with the largest direct effect. On SmolLM2 its diamond is close to its own part: it looks as if nothing had reacted. Here are the heads that did.

# %%
strongest = removed[0]
_, without_strongest = ablation.ablate_at_end(model, tokens, *strongest)
by_route = ablation.change_by_route(model, clean_cache, without_strongest, directions)
del without_strongest
by_route[(slice(None), *strongest)] = 0
answering = top_heads(by_route.sum(0).abs(), 6)
plots.bar(
    {route: [by_route[i][head] for head in answering] for i, route in enumerate(ablation.ROUTES)},
    f"Why the direct effects changed when {head_name(*strongest)} was removed at END",
    x="head",
    y="change of direct effect (logits)",
    x_labels=heads.names(answering),
    stacked=True,
)

# %%
compare("backup.strongest.head", head_name(*strongest), model)
compare("backup.strongest.answering", heads.names(answering[:4]), model)
compare("backup.strongest.change", torch.stack([by_route.sum(0)[head] for head in answering[:4]]), model)
compare("backup.strongest.direct_before", torch.stack([direct[head] for head in answering[:4]]), model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# A great deal has happened, and it cancels. Without L23H3 the other heads gain .58 by looking elsewhere, and the MLPs *lose* .69. The pair of layer 29 changes most (+.6 and −.5). It reads END itself, and what stands there is now different. L24H4 stands down here as well (+.4), although L23H3 writes against S and not for IO. Chapter 05 finds a path from L23H3 into the query of L24H4. So "no self-repair" can be a sum of large reactions.
# </details>
#
# One last test of the account. If nothing later may react (every later attention output, MLP output and the final scale frozen at their clean values), the naive prediction should come
# true exactly.

# %%
later = [f"blocks.{layer}.hook_attn_out" for layer in range(top_layer + 1, n_layers)]
later += [f"blocks.{layer}.hook_mlp_out" for layer in range(top_layer, n_layers)] + ["ln_final.hook_scale"]
hooks = [*ablation.set_heads([top]), *ablation.freeze(clean_cache, later)]
warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")  # which is what we mean to do
nothing_reacts = logit_diff(model.run_with_hooks(tokens, fwd_hooks=hooks), answers)
compare("backup.nothing_reacts_gives_the_naive_prediction", (nothing_reacts - naive).abs().item() < 1e-4, model)

# %% [markdown]
# ### How far does this hold?
#
# Eight prompts again. Remove the same name mover at END on the data set of chapter 01, prompt by prompt, and compare what is lost with what its direct effect predicts.

# %%
data = ioi_dataset(model, 36)
set_pairs, structure = data.pairs("flip"), [prompt.structure for prompt in data.prompts]
set_answers, ends = set_pairs.answer_tokens, set_pairs.clean_last
with model.hooks(fwd_hooks=[ends_only(ends)]):
    set_logits, set_cache = model.run_with_cache(
        set_pairs.clean_tokens,
        attention_mask=set_pairs.clean_mask,
        names_filter=lambda name: name.endswith("hook_z") or name == "ln_final.hook_scale",
    )
before = logit_diff(set_logits, set_answers, per_prompt=True)
predicted = attribution.head_attributions(model, set_cache, logit_diff_directions(model, set_answers), per_prompt=True, last=ends)
without = {}
for head in (top, strongest):
    hooks = [*ablation.set_heads([head], last=ends), ends_only(ends)]
    logits = model.run_with_hooks(set_pairs.clean_tokens, attention_mask=set_pairs.clean_mask, fwd_hooks=hooks)
    without[head] = before - logit_diff(logits, set_answers, per_prompt=True)
rows, names = {}, [head_name(*head) for head in without]
rows["predicted loss (direct effect)"] = [predicted[head] for head in without]
rows["measured loss"] = list(without.values())
bounds = {name: [bootstrap_interval(values, structure) for values in of_heads] for name, of_heads in rows.items()}
plots.intervals(
    {name: [values.mean().item() for values in of_heads] for name, of_heads in rows.items()},
    "Without one head at END, on 36 prompts of six structures",
    x="logit difference lost, with a 95 % interval over structures",
    labels=dict.fromkeys(rows, names),
    bounds={name: ([low for low, _ in found], [high for _, high in found]) for name, found in bounds.items()},
)

# %%
for i, name in enumerate(names):
    for kind, values in zip(("predicted", "measured"), rows.values(), strict=True):
        low, high = bounds[next(row for row in rows if row.startswith(kind))][i]
        compare(f"backup.dataset.{name}.{kind}_loss", torch.tensor([values[i].mean(), low, high]), model)

# %% [markdown]
# <details><summary>What we see, for SmolLM2</summary>
#
# The direct effect of L23H0 predicts a loss of .39, [.17, .60]. The measured loss is −.07, [−.15, .01], so without this name mover the model does about as well as with it. For L23H3 the prediction is 1.92, [1.65, 2.19], and 2.07, [1.75, 2.45], are lost. So both findings hold on average for other sentences: the loss of L23H0 is made up for, and that of L23H3 is not.
# </details>
#
# **What we may say.** In the model at hand, and for these prompts: which heads changed, by which route, and how much of the loss came back. Write your own sentence, with the numbers printed above,
# before you unfold ours.
#
# <details><summary>How to word it, for SmolLM2</summary>
#
# "When L23H0 is removed at END, the logit difference changes by −.04 where its direct effect predicts −.77. The largest change is that of L24H4, which writes against the answer: of its +.36, .38 are due to its
# attention pattern, and freezing its query alone leaves −.04. The final norm accounts for .22 of the .74 that come back." Not: "the backup heads notice that the name mover is
# gone".
# </details>
#
# **What it does not show.** Removal was at one position, and we followed direct effects only. What the changed heads read at END comes from other heads and MLPs in between, and chapter 05 follows such paths.
#
# ## 9 · Which class is it?
#
# [Wang et al. (2022)](https://arxiv.org/abs/2211.00593) sort the heads of gpt2-small's circuit into classes. Here is our evidence beside it. For gpt2-small the rows are the paper's heads, with a verdict: *agree* if the head is among the highest tenth of all heads, above zero, and at a tenth of the highest value or more, in every score that we count as typical of its class, and *differ* if not. The course holds no such list for other models; for them the rows are the heads that lead our own measurements.
#
# *What do you expect?* Will each head fit exactly one class?
# <details><summary>Our guess</summary>
# No. Classes are names for what heads were seen to do in one task, and nothing stops a head from doing two things, or a third.
# </details>

# %%
evidence["change"] = others
classes = figures(model.cfg.model_name)
published = {key.split(".")[-1]: entry["value"] for key, entry in classes.items() if key.startswith("paper.heads.")}
table = heads.evidence_table(evidence, published or None, chosen=heads.strongest(evidence, 2))
table

# %%
compare("anatomy.classes.agree", int((table["verdict"] == "agree").sum()), model)
compare("anatomy.classes.differ", int((table["verdict"] == "differ").sum()), model)
compare("anatomy.classes.fit_none", int((table["our evidence"] == "none of the classes").sum()), model)
compare("anatomy.classes.fit_several", int(table["our evidence"].str.contains(";").sum()), model)

# %% [markdown]
# **How to read it.** A head may show the evidence of several classes, or of none. *Differ* does not mean that the paper is wrong. The rule of the highest tenth is crude, random tokens are not its prompts, and the
# paper's classes were found by path patching. The last column says what this chapter has not looked at. A direct effect that
# rises once the top head is gone is not yet a backup. On SmolLM2 three rows show such a rise. Sections 6 and 8 showed that
# L24H4 stands down, that L23H3 is only scaled, and that the rise of L29H1, .04, is what is left of larger parts that cancel.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# Twelve of the 17 rows fit one class, two fit several (L23H3 and L24H4), and three fit none (L8H1, L25H2 and L29H0). L8H1
# shows how much the rule matters: in the task it looks from S2 at S1 with .85 of its attention, as a duplicate-token head
# would, but on random tokens its score for that habit is low.
# </details>
#
# A class is a name for what a head was seen to do in *one* task. The induction heads of section 1 work in other texts that repeat something as well (section 2). They were not made for this task, and this task uses them. In gpt2-medium, too, two different tasks were found to share most of their heads ([Merullo et al. 2024](https://arxiv.org/abs/2310.08744)).
#
# ## 10 · And in any other model?
#
# Nothing in section 1 knew which model it was given. So it can be done for every head of every model, once, and kept: an **atlas** of heads. To the three habits ours adds three scores:
#
# | score | what it is |
# |---|---|
# | `first_token` | mean attention to position 0, as in chapter 00 |
# | `entropy` | how spread the attention is: 0 on one position, 1 on all evenly |
# | `copying` | does the head write the token it reads? 1 always, 0 no more than by chance, −1 always against it |
#
# The first two come from the same attention patterns. Copying needs the values: each token is given alone, and what the head would write on reading it is carried to the logits.
#
# *What do you expect?* Which copying score should a name mover have, which a negative name mover, and which a head that reads S2 and lowers it?
# <details><summary>Our guess</summary>
# Near 1, near −1, and near −1: the last head, too, writes against the token that it reads.
# </details>
#
# And what do scores look like in a model that has learned nothing? The two tiny models with random weights, on which the checks run, will tell.

# %%
settings = atlas.Settings(seed=0, seq_len=50, batch=4)
atlas_models = [model, tiny_model("gpt2"), tiny_model("llama")]
table_of_heads = pd.concat([atlas.head_table(each, settings) for each in atlas_models], ignore_index=True)
plots.mosaic(
    {name: grid.to_numpy() for name, grid in atlas.grids(table_of_heads, "induction").items()},
    "Induction score of every head: a trained model beside two random ones",
    unit="attention",
)

# %%
wide = atlas.by_head(table_of_heads)
trained = wide[wide["model"] == model.cfg.model_name].set_index("head")
compare("atlas.copying_of_top_head", float(trained.loc[head_name(*top), "copying"]), model)
compare("atlas.copying_of_strongest_head", float(trained.loc[head_name(*strongest), "copying"]), model)
compare("atlas.most_copying", trained["copying"].nlargest(4).index.tolist(), model)
compare("atlas.least_copying", trained["copying"].nsmallest(4).index.tolist(), model)
compare("atlas.induction_above_0.4", int((trained["induction"] > 0.4).sum()), model)
random_heads = wide[wide["model"].str.startswith("tiny")]
compare("atlas.random_models.highest_induction", float(random_heads["induction"].max()), model)
compare("atlas.random_models.mean_copying", float(random_heads["copying"].mean()), model)
compare("atlas.random_models.highest_copying", float(random_heads["copying"].abs().max()), model)

# %% [markdown]
# **How to read it.** There is one panel for each model, and one color scale. The random models show what a score is by chance.
#
# <details><summary>What we see, for SmolLM2</summary>
#
# Eight heads have an induction score above .4, and the highest of any head with random weights is .02. Our guess about
# copying was right. The name mover L23H0 has a copying score of .81, and only L23H2 copies more. The negative name mover,
# L24H4, has the lowest score of all heads. Next to it stands L23H3, the head that reads S2, with −.80. The copying scores of
# the 24 random heads of the two tiny models reach .13 in size. Those models have other sizes than SmolLM2, so take
# this as a warning about small scores, and not as a threshold.
# </details>
#
# **What it does not show.** The copying score asks what a head writes *if* it reads a token. Where it looks is the other half, and the atlas has both.
#
# ### Look something up
#
# In the browser below type, for instance, `induction>0.4`, or `copying<-0.5 L24`, or a head's name.

# %%
widgets.atlas_browser(table_of_heads)

# %% [markdown]
# For a survey, run it from a terminal. Models are scored in parallel on this machine, or on the workers of a Dask scheduler that you already have (a SLURM cluster, a gateway). Each table is kept as soon as it is done, and a second run does only what is missing:
#
# ```
# python -m utils.atlas gpt2-small smollm2-135m my/folder --workers 2
# python -m utils.atlas gpt2-small EleutherAI/pythia-160m --scheduler tcp://login-node:8786
# ```
#
# The result, `atlas/atlas.parquet` (and `.csv`), is what the browser and the mosaic take: `atlas.read_atlas("atlas")`.
#
# Where a model hub can be reached, this makes a mosaic of many *trained* models in one command: `python -m utils.atlas gpt2-small gpt2-medium EleutherAI/pythia-160m --folder atlas`, then `plots.mosaic` as above. It was not run here, where there is no hub.
#
# ## Recap
#
# | you met | what it does |
# |---|---|
# | `utils.heads.repeated_tokens`, `head_scores` | random tokens given twice, and three habits of every head |
# | `transformer_lens.head_detector.detect_head` | the built-in score for any set of cells of a pattern |
# | `model.hooks(fwd_hooks=[...])` | a context in which the model runs, and caches, with hooks |
# | `utils.ablation.ablate_at_end`, `mean_ablate`, `set_heads` | a head's `z` replaced at each prompt's last position |
# | `utils.ablation.change_by_route`, `shapley` | a change split by attention, values and scale; the parts add up |
# | `utils.ablation.change_by_source`, `freeze` | the whole account of an ablation; holding an activation at its clean value |
# | `utils.atlas`, `utils.widgets.atlas_browser`, `plots.mosaic` | every head of any model as a table, and ways to look at it |
#
# **Glossary.** *Ablation*: replacing an activation by something without information; *zero ablation*, *mean ablation*. *Backup head*: one that writes more for the answer when another head is removed. *Copy suppression*: writing against a token that
# is read and is about to be said. *Direct effect*: what a component itself adds to the logit difference, through the final norm and the unembedding only. *Duplicate-token head*: attends to an earlier occurrence of the same token. *Freezing*: holding an
# activation at its value in another run. *Induction head*: attends to what followed an earlier occurrence of the same token. *Name mover*: attends from END to IO and writes it; a *negative* one writes against it. *Previous-token head*: attends to the token before. *Self-repair*:
# the rest of the model making up for what was removed. *Shapley value*: the mean, over all orders of exchange, of what exchanging one factor does.

# %% [markdown] tags=["read-next"]
# **Read next**
#
# - Olsson et al. 2022, [In-context Learning and Induction Heads](https://arxiv.org/abs/2209.11895). It says what induction heads do, and collects evidence that models learn from their context with them.
# - McDougall et al. 2023, [Copy Suppression: Comprehensively Understanding an Attention Head](https://arxiv.org/abs/2310.04625). It studies one head of gpt2-small that writes against what the model is about to say.
# - McGrath et al. 2023, [The Hydra Effect: Emergent Self-repair in Language Model Computations](https://arxiv.org/abs/2307.15771). It finds that later layers make up for an attention layer that is removed, in a model of another family.
# - Rushing and Nanda 2024, [Explorations of Self-Repair in Language Models](https://arxiv.org/abs/2402.15390). It measures what makes up for a head that is removed: later heads and neurons, and the scale of the final norm.

# %% [markdown]
# **Next:** [05 · Path patching](05_path_patching.ipynb) follows the effect of one head through another.
