"""Unusual right answers for chapter 12."""

import math

import numpy as np
import torch
from scipy import stats


def problems_as_list(model, clean, corrupted, answer, wrong):
    """Token texts, and a list in place of a set."""
    a, b = model.to_str_tokens(clean), model.to_str_tokens(corrupted)
    found = ["length"] if len(a) != len(b) else []
    if len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) != 1:
        found.append("difference")
    for word, name in ((wrong, "wrong answer"), (answer, "answer")):
        if len(model.to_str_tokens(word, prepend_bos=False)) > 1:
            found.append(name)
    return found


def problems_by_tokenizer(model, clean, corrupted, answer, wrong):
    """The tokenizer itself, conditions in a dictionary, a frozenset."""
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (clean, corrupted, answer, wrong)]
    same_length = len(ids[0]) == len(ids[1])
    broken = {
        "length": not same_length,
        "difference": same_length and (np.array(ids[0]) != np.array(ids[1])).sum() != 1,
        "answer": len(ids[2]) != 1,
        "wrong answer": len(ids[3]) != 1,
    }
    return frozenset(name for name, bad in broken.items() if bad)


def go_by_hand(clean, corrupted):
    """The formula, tensors, one key more."""
    clean, corrupted = torch.tensor(clean), torch.tensor(corrupted)
    t = stats.t.ppf(0.975, len(clean) - 1)

    def ends(values):
        half = t * values.std() / math.sqrt(len(values))
        return torch.stack([values.mean() - half, values.mean() + half])

    found = {"difference": ends(clean - corrupted), "clean": ends(clean), "n": len(clean)}
    return found | {"go": (found["clean"][0] > 0) & (found["difference"][0] > 0)}


def go_by_test(clean, corrupted):
    """scipy's t tests, whose results know their intervals; a decision by numpy."""
    one, two = stats.ttest_1samp(clean, 0), stats.ttest_rel(clean, corrupted)
    ends = [tuple(test.confidence_interval(0.95)) for test in (one, two)]
    return {"clean": list(ends[0]), "difference": np.array(ends[1]), "go": np.min([low for low, _ in ends]) > 0}


def p_by_counting(found, random, smaller_is_better):
    """A loop over signed values."""
    sign = 1 if smaller_is_better else -1
    as_good = [1 for value in [*random, found] if sign * value <= sign * found]
    return len(as_good) / (len(random) + 1)


def p_as_tensor(found, random, smaller_is_better):
    """A mean over the draws and the found value, as a tensor."""
    values = torch.cat([torch.as_tensor(np.asarray(random)), torch.tensor([found], dtype=torch.float64)])
    return ((values <= found) if smaller_is_better else (values >= found)).double().mean()


def claims_by_numpy(numbers):
    """numpy's booleans, one claim more."""
    n = {name: np.float64(value) for name, value in numbers.items()}
    return {
        "new words": n["shared_answers"] <= 0,
        "more than one head": 2 * n["value_without_strongest"] >= n["value"],
        "special": ~(n["random_p"] > 0.05),
        "faithful": (n["low"] >= 0.8) & (n["high"] <= 1.2) & (2 * n["mae"] < n["empty_mae"]),
        "does the task": n["clean_low"] > 0,
        "large": n["value"] > 1,
    }


def claims_in_steps(numbers):
    """Conditions one after the other."""
    claims = dict.fromkeys(("does the task", "faithful", "special", "more than one head", "new words"), False)
    if numbers["clean_low"] > 0:
        claims["does the task"] = True
    if not (numbers["low"] < 0.8 or numbers["high"] > 1.2 or numbers["mae"] >= 0.5 * numbers["empty_mae"]):
        claims["faithful"] = True
    if numbers["random_p"] <= 0.05:
        claims["special"] = True
    if numbers["value"] - numbers["value_without_strongest"] <= numbers["value"] / 2:
        claims["more than one head"] = True
    claims["new words"] = not numbers["shared_answers"]
    return claims


RIGHT = {
    "pair_problems": {"texts, a list": problems_as_list, "the tokenizer": problems_by_tokenizer},
    "may_go_on": {"by hand": go_by_hand, "t tests": go_by_test},
    "matched_p": {"a loop": p_by_counting, "a tensor": p_as_tensor},
    "supported": {"numpy": claims_by_numpy, "in steps": claims_in_steps},
}
