"""Checks of chapter 06, first part: the data set."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.checks.calling import call
from tests.checks.ch06_results import entries
from tests.checks.comparing import require_equal
from tests.checks.core import exercise, require
from utils.ioi import single_token_names
from utils.tiny_models import tiny_model

# --- the data set -----------------------------------------------------------------------------------------------------

TEMPLATES = (
    "When{A} and{B} went to the store,{S} gave a drink to",
    "Then the person said that{A} and{B} are in the park and{S} gave a ring to",
    "While{A} had the book{B} and they work in the house, and{S} said to",
)
ROLES = ("IO", "S1", "S1+1", "S2", "END")


@exercise(
    "06",
    look="section 1: one draw of five names without replacement; positions from the model's own tokens",
    points=3,
    takes="model templates n seed",
)
def check_ioi_dataset(learner: Callable) -> str:
    model, n = tiny_model("llama"), 62
    data = entries(call(learner, model, list(TEMPLATES), n, 3), ("clean", "abc", "answers", "template", "roles"))
    for key in ("clean", "abc", "answers", "template"):
        length = len(data[key]) if hasattr(data[key], "__len__") else None
        require(length == n, f"{key!r}: {length} entries where n = {n}", "one entry for each prompt")
    numbers = torch.tensor([2 * (i // 2 % len(TEMPLATES)) + i % 2 for i in range(n)])
    require_equal(
        data["template"],
        numbers,
        "the template numbers",
        axes="prompt",
        mistakes={
            "the order is not counted: 2 * template + 1 for BABA": lambda: numbers // 2,
            "the order is counted twice: 2 * template + order": lambda: numbers // 2 + numbers % 2,
            "ABBA and BABA are exchanged: ABBA is 0": lambda: numbers + 1 - 2 * (numbers % 2),
            "templates come one after the other: prompt i uses template i // 2 % len(templates)": lambda: torch.tensor(
                [2 * (i * len(TEMPLATES) // n) + i % 2 for i in range(n)]
            ),
        },
    )
    names, answers = {f" {name}" for name in single_token_names(model)}, [_pair(pair) for pair in data["answers"]]
    for i, (io, subject) in enumerate(answers):
        _require_prompt(i, io, subject, data["clean"][i], TEMPLATES[i // 2 % len(TEMPLATES)], i % 2, names)
        _require_twin(i, (io, subject), data["abc"][i], TEMPLATES[i // 2 % len(TEMPLATES)], names)
    require(
        min(len({pair[0] for pair in answers}), len({pair[1] for pair in answers})) > 5,
        "the names of 62 prompts: they are nearly the same in all of them",
        "draw new names for every prompt; make the generator once, before the loop",
    )
    require(
        any(set(answers[i]) != set(answers[i + 1]) for i in range(0, n - 1, 2)),
        "the names of prompts 2i and 2i + 1: they are the same in every pair",
        "draw five names for every prompt, also for the two that share a template",
    )
    held = _require_roles(
        entries(data["roles"], ROLES), [model.to_tokens(text)[0] for text in data["clean"]], model, answers
    )
    again, other = call(learner, model, list(TEMPLATES), n, 3), call(learner, model, list(TEMPLATES), n, 4)
    require(
        list(again["clean"]) == list(data["clean"]) and list(again["abc"]) == list(data["abc"]),
        "two data sets of the same seed: their prompts differ",
        "use random.Random(seed), and not the global generator; and do not loop over a set",
    )
    require(list(other["clean"]) != list(data["clean"]), "two seeds: the prompts are the same", "use the seed")
    odd = len(entries(call(learner, model, list(TEMPLATES), 7, 5), ("clean",))["clean"])
    require(
        odd == 7,
        f"'clean' for n = 7: {odd} entries",
        "an odd n ends with an ABBA prompt: go through range(n), one by one",
    )
    return f"62 prompts of three templates, their twins, answers and positions, for two seeds ({held})"


def _pair(pair: Any) -> tuple[str, str]:
    require(
        isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(name, str) for name in pair),
        f"an entry of 'answers': {pair!r}",
        "each is a pair of texts, (indirect object, subject)",
    )
    return pair[0], pair[1]


def _require_prompt(i: int, io: str, subject: str, text: Any, template: str, order: int, names: set[str]) -> None:
    first, second = (io, subject) if order == 0 else (subject, io)
    want = template.format(A=first, B=second, S=subject)
    likely = "the subject is the name that returns; ABBA has the indirect object first, BABA the subject"
    if {io, subject} - names:
        likely = "names come from ioi.single_token_names(model), each with a space in front"
    elif text == template.format(A=second, B=first, S=subject):
        likely = "the two orders are exchanged: even prompts are ABBA, the indirect object first"
    elif text == template.format(A=first, B=second, S=io):
        likely = "the answer is the name that is *not* repeated: (indirect object, subject)"
    require(
        text == want and not {io, subject} - names and io != subject, f"prompt {i}: {text!r}, expected {want!r}", likely
    )


def _require_twin(i: int, answers: tuple[str, str], text: Any, template: str, names: set[str]) -> None:
    pattern = re.sub(r"\\\{([ABS])\\\}", r"(?P<\1> \\w+)", re.escape(template))
    found = re.fullmatch(pattern, text) if isinstance(text, str) else None
    abc = found.groups() if found else ()
    require(
        bool(abc) and set(abc) <= names,
        f"twin {i}: {text!r} is not its prompt's template with three names",
        "fill the same template",
    )
    counts = Counter(abc)
    require(
        max(counts.values()) == 1,
        f"twin {i}: {text!r} has{counts.most_common(1)[0][0]} twice",
        "three draws one after the other can give the same name: draw all five names together, without replacement",
    )
    both = set(abc) & set(answers)
    require(
        not both,
        f"twin {i}: {text!r} has{', '.join(sorted(both))} of its own prompt",
        "the twin has three *other* names",
    )


def _require_roles(roles: Mapping, tokens: Sequence[Tensor], model, answers: Sequence[tuple[str, str]]) -> str:
    found: dict[str, list[int]] = {role: [] for role in ROLES}
    for row, (io, subject) in zip(tokens, answers, strict=True):
        s1, s2 = (row == model.to_single_token(subject)).nonzero()[:, 0].tolist()
        places = ((row == model.to_single_token(io)).nonzero().item(), s1, s1 + 1, s2, len(row) - 1)
        for role, place in zip(ROLES, places, strict=True):
            found[role].append(place)
    want = {role: torch.tensor(places) for role, places in found.items()}
    held = ""
    for role in ROLES:
        others = {
            f"the positions of {role} are those of {other}": lambda other=other: want[other]
            for other in ROLES
            if other != role
        }
        held = require_equal(
            roles[role],
            want[role],
            f"the positions of {role}",
            axes="prompt",
            mistakes={
                **others,
                "BOS is not counted: it is the model's token 0": lambda role=role: want[role] - 1,
                "BOS is counted twice": lambda role=role: want[role] + 1,
                "END is counted from the longest prompt: take each prompt's own last token": lambda: torch.full_like(
                    want["END"], int(want["END"].max())
                ),
            },
        )
    return held
