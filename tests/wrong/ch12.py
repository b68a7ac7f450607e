"""Wrong implementations of chapter 12's exercises, by a fragment of the message that each must be given."""

from __future__ import annotations

import numpy as np
from scipy import stats

# --- pair_problems ------------------------------------------------------------------------------------------------------


def _problems(
    model, clean, corrupted, answer, wrong, length=None, bos=False, least=1, most=1, look_at=(0, 1), first=False
):
    length = length or (lambda text: model.to_tokens(text).shape[1])
    found = []
    if length(clean) != length(corrupted):
        found.append("length")
    elif model.to_tokens(clean).shape == model.to_tokens(corrupted).shape:
        n = int((model.to_tokens(clean) != model.to_tokens(corrupted)).sum())
        found += ["difference"] * (not least <= n <= most)
    words = [("answer", answer), ("wrong answer", wrong)]
    found += [words[i][0] for i in look_at if model.to_tokens(words[i][1], prepend_bos=bos).shape[1] != 1]
    return set(found[:1] if first else found)


def pair_by_words(model, clean, corrupted, answer, wrong):
    found = _problems(model, clean, corrupted, answer, wrong) - {"length", "difference"}
    one, other = clean.split(), corrupted.split()
    if len(one) != len(other):
        return found | {"length"}
    return found | ({"difference"} if sum(a != b for a, b in zip(one, other, strict=True)) != 1 else set())


def pair_with_bos(model, clean, corrupted, answer, wrong):
    return _problems(model, clean, corrupted, answer, wrong, bos=True)


def pair_without_difference(model, clean, corrupted, answer, wrong):
    return _problems(model, clean, corrupted, answer, wrong, least=0)


def pair_with_many_differences(model, clean, corrupted, answer, wrong):
    return _problems(model, clean, corrupted, answer, wrong, most=99)


def pair_one_answer(model, clean, corrupted, answer, wrong):
    return _problems(model, clean, corrupted, answer, wrong, look_at=(0,))


def pair_first_problem(model, clean, corrupted, answer, wrong):
    return _problems(model, clean, corrupted, answer, wrong, first=True)


def pair_as_bool(model, clean, corrupted, answer, wrong):
    return not _problems(model, clean, corrupted, answer, wrong)


def pair_own_names(model, clean, corrupted, answer, wrong):
    return {f"bad {name}" for name in _problems(model, clean, corrupted, answer, wrong)}


def _with_answers(model, clean, corrupted, answer, wrong, bad):
    found = _problems(model, clean, corrupted, answer, wrong) - {"answer", "wrong answer"}
    return found | {name for name, word in (("answer", answer), ("wrong answer", wrong)) if bad(word)}


def pair_stripped(model, clean, corrupted, answer, wrong):
    def bad(word):
        return model.to_tokens(word.strip(), prepend_bos=False).shape[1] != 1

    return _with_answers(model, clean, corrupted, answer, wrong, bad)


def pair_by_sets(model, clean, corrupted, answer, wrong):
    one, other = (set(model.to_tokens(text)[0].tolist()) for text in (clean, corrupted))
    found = _problems(model, clean, corrupted, answer, wrong) - {"difference"}
    return found | ({"difference"} if "length" not in found and len(other - one) != 1 else set())


def pair_prompts_first(model, clean, corrupted, answer, wrong):
    found = _problems(model, clean, corrupted, answer, wrong)
    return found - {"answer", "wrong answer"} if "length" in found else found


# --- may_go_on --------------------------------------------------------------------------------------------------------------


def _decision(clean, corrupted, interval=None, values=None, rule=None):
    interval = interval or (lambda v: stats.t.interval(0.95, len(v) - 1, loc=v.mean(), scale=stats.sem(v)))
    clean, corrupted = np.asarray(clean), np.asarray(corrupted)
    a, b = interval(clean), interval(clean - corrupted if values is None else values(clean, corrupted))
    return {"clean": a, "difference": b, "go": bool(rule(a, b) if rule else a[0] > 0 and b[0] > 0)}


def go_normal(clean, corrupted):
    return _decision(clean, corrupted, lambda v: stats.norm.interval(0.95, loc=v.mean(), scale=stats.sem(v)))


def go_single_values(clean, corrupted):
    return _decision(clean, corrupted, lambda v: stats.t.interval(0.95, len(v) - 1, loc=v.mean(), scale=v.std(ddof=1)))


def go_population(clean, corrupted):
    return _decision(
        clean, corrupted, lambda v: stats.t.interval(0.95, len(v) - 1, loc=v.mean(), scale=stats.sem(v, ddof=0))
    )


def go_unpaired(clean, corrupted):
    found = _decision(clean, corrupted)
    clean, corrupted = np.asarray(clean), np.asarray(corrupted)
    scale = np.hypot(stats.sem(clean), stats.sem(corrupted))
    both = stats.t.interval(0.95, len(clean) - 1, loc=(clean - corrupted).mean(), scale=scale)
    return found | {"difference": both}


def go_turned(clean, corrupted):
    return _decision(clean, corrupted, values=lambda a, b: b - a)


def go_either(clean, corrupted):
    return _decision(clean, corrupted, rule=lambda a, b: a[0] > 0 or b[0] > 0)


def go_means(clean, corrupted):
    return _decision(clean, corrupted, rule=lambda a, b: sum(a) > 0 and sum(b) > 0)


def go_clean_only(clean, corrupted):
    return _decision(clean, corrupted, rule=lambda a, b: a[0] > 0)


def go_all_pairs(clean, corrupted):
    every = all(a > 0 and a > b for a, b in zip(clean, corrupted, strict=True))
    return _decision(clean, corrupted, rule=lambda a, b: every)


def go_ten_pairs(clean, corrupted):
    return _decision(clean, corrupted, rule=lambda a, b: a[0] > 0 and b[0] > 0 and len(clean) >= 10)


def go_tuple(clean, corrupted):
    return tuple(_decision(clean, corrupted).values())


# --- matched_p and supported -----------------------------------------------------------------------------------------------


def p_without_found(found, random, smaller_is_better):
    random = np.asarray(random)
    return (random <= found if smaller_is_better else random >= found).mean()


def p_without_ties(found, random, smaller_is_better):
    random = np.asarray(random)
    return (1 + (random < found if smaller_is_better else random > found).sum()) / (1 + len(random))


def p_other_way(found, random, smaller_is_better):
    random = np.asarray(random)
    return (1 + (random >= found if smaller_is_better else random <= found).sum()) / (1 + len(random))


def p_one_way(found, random, smaller_is_better):
    return (1 + (np.asarray(random) <= found).sum()) / (1 + len(random))


def p_of_sizes(found, random, smaller_is_better):
    return (1 + (np.abs(random) >= abs(found)).sum()) / (1 + len(random))


def _claims(numbers, **changed):
    found = {
        "does the task": numbers["clean_low"] > 0,
        "faithful": numbers["low"] >= 0.8 and numbers["high"] <= 1.2 and numbers["mae"] < numbers["empty_mae"] / 2,
        "special": numbers["random_p"] <= 0.05,
        "more than one head": numbers["value_without_strongest"] >= numbers["value"] / 2,
        "new words": numbers["shared_answers"] == 0,
    }
    return found | {name.replace("_", " "): value for name, value in changed.items()}


def claims_by_value(numbers):
    return _claims(numbers, faithful=0.8 <= numbers["value"] <= 1.2)


def claims_without_error(numbers):
    return _claims(numbers, faithful=numbers["low"] >= 0.8 and numbers["high"] <= 1.2)


def claims_without_upper_end(numbers):
    return _claims(numbers, faithful=numbers["low"] >= 0.8 and numbers["mae"] < numbers["empty_mae"] / 2)


def claims_large_p(numbers):
    return _claims(numbers, special=numbers["random_p"] > 0.05)


def claims_half_of_one(numbers):
    return _claims(numbers, more_than_one_head=numbers["value_without_strongest"] >= 0.5)


def claims_few_words(numbers):
    return _claims(numbers, new_words=numbers["shared_answers"] < 0.05)


def claims_small_share(numbers):
    return _claims(numbers, more_than_one_head=numbers["value"] - numbers["value_without_strongest"] <= 0.5)


def claims_some_words(numbers):
    return _claims(numbers, new_words=numbers["shared_answers"] < 1)


def claims_as_numbers(numbers):
    return {name: int(value) for name, value in _claims(numbers).items()}


WRONG = {
    "pair_problems": {
        "words are counted": pair_by_words,
        "BOS is counted": pair_with_bos,
        "a pair without any difference is let through": pair_without_difference,
        "several differences are let through": pair_with_many_differences,
        "the wrong answer is not looked at": pair_one_answer,
        "it stops at the first problem": pair_first_problem,
        "the blank in front of an answer is taken away": pair_stripped,
        "compared as sets": pair_by_sets,
        "only where the prompts are equally long": pair_prompts_first,
        "return a set of strings": pair_as_bool,
        "the names are": pair_own_names,
    },
    "may_go_on": {
        "a normal interval": go_normal,
        "this holds single values": go_single_values,
        "has n in its denominator": go_population,
        "the pairs are torn apart": go_unpaired,
        "the sign: clean minus corrupted": go_turned,
        "one of the two is enough for you": go_either,
        "the means are compared with zero": go_means,
        "the difference is not looked at": go_clean_only,
        "the decisions on all sets: off by 1; 1 of": go_ten_pairs,
        "the decisions on all sets: off by 1; 3 of": go_all_pairs,
        "return a dictionary": go_tuple,
    },
    "matched_p": {
        "the found circuit is not one of the draws": p_without_found,
        "ties do not count": p_without_ties,
        "the directions are exchanged": p_other_way,
        "smaller counts as better in both cases": p_one_way,
        "sizes are compared": p_of_sizes,
    },
    "supported": {
        "the value alone decides": claims_by_value,
        "the error per pair is not looked at": claims_without_error,
        "the upper end is not looked at": claims_without_upper_end,
        "a small p-value is what makes a circuit special": claims_large_p,
        "half of the circuit's own value": claims_half_of_one,
        "that not all are is too little": claims_some_words,
        "a few are too many": claims_few_words,
        "may add more than 0.5 where": claims_small_share,
        "each claim is True or False": claims_as_numbers,
    },
}
