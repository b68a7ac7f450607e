"""Three ready-made tasks as pairs of prompts: years, subject–verb agreement, and capitals (`utils/data/tasks/*.csv`).

    python -m utils.tasks [FOLDER]      writes the three files again (default: where the package keeps them)

Every row has the columns clean, corrupted, answer, wrong_answer and template, as `python -m utils.circuits.report` reads
them. The sentences are ours. The words were chosen so that the prompts of a pair have equally many tokens and differ in one
of them, and every answer is one token, under SmolLM2's tokenizer and, for agreement and capitals, under gpt2's; tests
compare. greater_than does not fit gpt2, which reads "62" and even "1862" as one token.

greater_than
    "The war lasted from the year 1752 to the year 17": the century's next digit must not be smaller than 5. answer: a larger
    digit. wrong answer: a smaller one. corrupted: the first year begins its century (1702), so that both digits are possible.
    After Hanna et al. 2023, "How does GPT-2 compute greater-than?", whose years are two-digit tokens of gpt2. SmolLM2 reads
    digit by digit, so the first digit decides here. With gpt2, use the paper's own prompts.
agreement
    "The author near the senators": the verb agrees with the first noun, and not with the nearer one. answer: the verb that
    agrees (is, are, was, were). corrupted: the first noun in the other number. Every verb is the answer equally often, and
    the second noun has the number of the first as often as not. After Linzen, Dupoux and Goldberg 2016, and Marvin and
    Linzen 2018.
capitals
    "The capital of France is the city of": recall of a fact. wrong answer: the capital of the corrupted prompt's country.
    After the prompts of Meng et al. 2022, "Locating and editing factual associations in GPT".
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pandas as pd

TASK_FOLDER = files("utils.data") / "tasks"
TASK_COLUMNS = ("clean", "corrupted", "answer", "wrong_answer", "template")
N_ROWS = 48

EVENTS = "war trial journey famine drought siege strike voyage reign building".split()
PEOPLE = (
    "author senator teacher doctor manager student lawyer farmer king pilot driver singer writer actor artist judge nurse "
    "soldier officer"
).split()
PREPOSITIONS = "near behind beside with".split()
VERBS = ((" is", " are"), (" was", " were"))
CAPITALS = dict(
    pair.split()
    for pair in (
        "France Paris;Germany Berlin;Italy Rome;Spain Madrid;Russia Moscow;China Beijing;Japan Tokyo;Egypt Cairo;"
        "Greece Athens;Ireland Dublin;Austria Vienna;Iraq Baghdad;Cuba Havana;Portugal Lisbon;Peru Lima;Norway Oslo;"
        "Sweden Stockholm;Poland Warsaw;England London;Iran Tehran;India Delhi;Canada Ottawa;Hungary Budapest;"
        "Scotland Edinburgh;Belgium Brussels;Denmark Copenhagen;Syria Damascus;Finland Helsinki;Chile Santiago;Korea Seoul"
    ).split(";")
)
COUNTRY_TEMPLATES = (
    "The capital of {} is the city of",
    "The capital city of {} is called",
    "The government of {} meets in the capital,",
)
TaskRow = tuple[str, str, str, str, str]


def greater_than_rows(n: int = N_ROWS, seed: int = 0) -> Iterator[TaskRow]:
    """n different rows. The decade of the first year runs evenly from 3 to 7; answers are not the next digit only."""
    generator, seen = random.Random(seed), set()
    while len(seen) < n:
        decade, event = 3 + len(seen) % 5, generator.choice(EVENTS)
        century, unit = generator.randint(11, 18), generator.randint(2, 8)
        answer, wrong = generator.randint(decade + 1, 9), generator.randint(1, decade - 1)
        clean, corrupted = (
            f"The {event} lasted from the year {century}{first}{unit} to the year {century}" for first in (decade, 0)
        )
        if clean not in seen:
            seen.add(clean)
            yield clean, corrupted, str(answer), str(wrong), "years"


def agreement_rows(n: int = N_ROWS, seed: int = 0) -> Iterator[TaskRow]:
    """n different rows. Verbs, the numbers of both nouns and prepositions are balanced in every sixteen rows."""
    generator, seen = random.Random(seed), set()
    kinds = list(itertools.product((0, 1), (0, 1), PREPOSITIONS))
    while len(seen) < n:
        i = len(seen)
        first, second, place = kinds[i % len(kinds)]
        verbs = VERBS[(i + i // len(kinds)) % len(VERBS)]
        noun, other = generator.sample(PEOPLE, 2)
        nouns, others = (noun, f"{noun}s"), (other, f"{other}s")
        clean, corrupted = (f"The {nouns[number]} {place} the {others[second]}" for number in (first, 1 - first))
        if (clean, verbs) not in seen:
            seen.add((clean, verbs))
            yield clean, corrupted, verbs[first], verbs[1 - first], place


def capitals_rows(n: int = N_ROWS, seed: int = 0) -> Iterator[TaskRow]:
    """n different prompts, at most three for each country. Every country is clean and corrupted about equally often."""
    generator, countries, seen = random.Random(seed), list(CAPITALS), set()
    while len(seen) < n:
        generator.shuffle(countries)
        for clean, corrupted in zip(countries, [*countries[1:], countries[0]], strict=True):
            numbers = [(len(seen) + turn) % len(COUNTRY_TEMPLATES) for turn in range(len(COUNTRY_TEMPLATES))]
            number = next((number for number in numbers if (clean, number) not in seen), None)
            if number is None or len(seen) == n:
                return
            seen.add((clean, number))
            prompts = [COUNTRY_TEMPLATES[number].format(country) for country in (clean, corrupted)]
            yield *prompts, f" {CAPITALS[clean]}", f" {CAPITALS[corrupted]}", f"capital {number + 1}"


TASKS: dict[str, Callable[..., Iterator[TaskRow]]] = {
    "greater_than": greater_than_rows,
    "agreement": agreement_rows,
    "capitals": capitals_rows,
}


def task_csv(name: str, n: int = N_ROWS, seed: int = 0) -> str:
    """The text of a task's file. Raises KeyError, with the names that there are, for an unknown task."""
    if name not in TASKS:
        raise KeyError(f"no task {name!r}; the tasks are {', '.join(TASKS)}")
    return pd.DataFrame(TASKS[name](n, seed), columns=TASK_COLUMNS).to_csv(index=False, lineterminator="\n")


def task_file(name: str) -> Path:
    """Where the package keeps a task's file. Raises KeyError, with the names that there are, for an unknown task."""
    if name not in TASKS:
        raise KeyError(f"no task {name!r}; the tasks are {', '.join(TASKS)}")
    return Path(str(TASK_FOLDER / f"{name}.csv"))


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    folder = Path(given[0]) if given else Path(str(TASK_FOLDER))
    folder.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        (folder / f"{name}.csv").write_text(task_csv(name), encoding="utf-8")
        print(folder / f"{name}.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
