"""Tiny models that know the words of the ready-made tasks, and small CSVs: what the tests of the report run on."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from utils import tasks
from utils.models import load_model
from utils.tiny_models import save_tiny_model

VERBS = [verb.strip() for pair in tasks.VERBS for verb in pair]
TEMPLATE_WORDS = " ".join(tasks.COUNTRY_TEMPLATES).replace("{}", "").replace(",", "").split()
TASK_WORDS = " ".join(
    [
        *(
            *tasks.PEOPLE,
            *(f"{noun}s" for noun in tasks.PEOPLE),
            *tasks.PREPOSITIONS,
            *tasks.EVENTS,
            *VERBS,
            *TEMPLATE_WORDS,
        ),
        *(*tasks.CAPITALS, *tasks.CAPITALS.values(), "lasted", "from", "year"),
    ]
)


def save_task_model(folder: Path, family: str, seed: int = 0) -> Path:
    """A tiny random model whose tokenizer has every word of the tasks."""
    return save_tiny_model(folder, family, seed=seed, more_words=TASK_WORDS)


@functools.cache
def task_model(family: str, seed: int = 0) -> TransformerBridge:
    """The same, loaded. The same object every time: leave no hooks on it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        model = load_model(str(save_task_model(Path(folder), family, seed)), device="cpu")
    model.cfg.model_name = f"tiny-{family}"
    return model


HEADER = "clean,corrupted,answer,wrong_answer"
GOOD = [
    f"{a} and {b} went to the {place},{c} and {b} went to the {place}, {a}, {c}"
    for a, b, c, place in (
        ("Mary", "John", "Tom", "shop"),
        ("John", "Tom", "Mary", "park"),
        ("Tom", "Anna", "Paul", "school"),
        ("Anna", "Paul", "Kate", "office"),
        ("Paul", "Kate", "Anna", "house"),
        ("Kate", "Mary", "John", "garden"),
        ("Jane", "Luke", "Ruth", "shop"),
        ("Ruth", "Adam", "Emma", "park"),
        ("Emma", "Jack", "Luke", "school"),
        ("Luke", "Ruth", "Adam", "office"),
    )
]


def write_csv(path: Path, rows: list[str] = GOOD, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path
