"""The page of a report: one HTML file with its figures inside, which loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2

from utils.attribution import head_name
from utils.circuits.report import words
from utils.circuits.report.circuit_words import read_circuit
from utils.circuits.report.svg import bars_svg, heatmap_svg, lines_svg, points_svg
from utils.circuits.report.task import ReportTask
from utils.circuits.report.words import StepResult
from utils.plots.drawings import Drawing

TEMPLATE_FILE = files("utils.circuits.report") / "page.html.jinja"
BARS = 12  # components shown, largest first


@dataclass(frozen=True)
class PageSection:
    """A step on the page. figures: (caption, drawing). table: header and rows, or nothing. skipped: why there is none."""

    title: str
    question: str = ""
    reading: words.Reading | None = None
    figures: Sequence[tuple[str, Drawing]] = ()
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    skipped: str = ""


def report_page(name: str, task: ReportTask, results: Mapping[str, StepResult]) -> str:
    """The whole page as text. name: that of the CSV."""
    cfg = task.model.cfg
    about = {
        "model": cfg.model_name,
        "layers and heads": f"{cfg.n_layers} layers of {cfg.n_heads} heads",
        "pairs": f"{len(task.rows)}, of which {len(task.aligned)} have equally many tokens on both sides",
        "first pair": f"{task.rows[0].clean!r} → {task.rows[0].answer!r}, and not {task.rows[0].wrong!r}",
        "corrupted": repr(task.rows[0].corrupted),
        "what stands in front": task.model.tokenizer.bos_token if cfg.default_prepend_bos else "nothing",
    }
    stop = results["behavior"]["stop"]
    options = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    return jinja2.Template(TEMPLATE_FILE.read_text(encoding="utf-8"), **options).render(
        name=name,
        about=about,
        sections=list(_sections(task, results)),
        stop=stop,
        anyway=task.settings.anyway,
        advice=words.advice(results["behavior"]) if stop else [],
        settings=vars(task.settings),
        summary=_summary(results),
    )


def _summary(results: Mapping[str, StepResult]) -> list[str]:
    """The first sentence of each reading."""
    readers = {"behavior": words.read_behavior, "paths": words.read_paths, "circuit": read_circuit}
    done = {name: results[name] for name in readers if name in results and "skipped" not in results[name]}
    return [readers[name](result).said[0] for name, result in done.items()]


def behavior_section(title: str, task: ReportTask, result: StepResult) -> PageSection:
    drawn = points_svg(
        {"clean": result["clean"], "corrupted": result["corrupted"]},
        "The logit difference of each pair, on its clean and on its corrupted prompt, with both means.",
        "logit of the answer minus logit of the wrong answer",
    )
    worst = sorted(range(len(task.rows)), key=lambda i: result["clean"][i])[:5]
    rows = [
        [str(task.rows[i].line), task.rows[i].clean, task.rows[i].answer, f"{result['clean'][i]:+.2f}"] for i in worst
    ]
    return PageSection(
        title,
        "Does the model prefer the answer to the wrong answer, and does the corruption matter?",
        words.read_behavior(result),
        [("Each point is one pair; the black bars are means.", drawn)],
        (("line", "the five pairs with the smallest difference", "answer", "logit difference"), rows),
    )


def _rows_and_columns(table: Sequence[Sequence[Any]]) -> tuple[list[str], list[str]]:
    return [f"layer {i}" for i in range(len(table))], [str(i) for i in range(len(table[0]))]


def attribution_section(title: str, task: ReportTask, result: StepResult) -> PageSection:
    clean, corrupted = result["clean_heads"], result["corrupted_heads"]
    change = [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(clean, corrupted, strict=True)]
    names = words.component_names(task.model.cfg.n_layers)
    parts = dict(zip(names, result["clean_parts"], strict=True))
    largest = sorted(sorted(parts, key=lambda name: -abs(parts[name]))[:BARS], key=names.index)
    rows, columns = _rows_and_columns(clean)
    bars = bars_svg({name: parts[name] for name in largest}, "The largest parts of the logit difference.", "logits")
    tables = {"clean prompts": clean, "clean − corrupted": change}
    alt = "What each head adds to the logit difference, by layer and head."
    by_head = heatmap_svg(tables, rows, columns, alt, "head")
    figures = [
        (f"The {len(largest)} largest parts, in the order of the model; clean prompts.", bars),
        ("Heads, in logits. The right table is clean minus corrupted: it needs no aligned pairs.", by_head),
    ]
    question = "How much does each part add to the logit difference, directly?"
    return PageSection(title, question, words.read_attribution(result), figures)


def lens_section(title: str, task: ReportTask, result: StepResult) -> PageSection:
    names = ["embed", *(f"L{layer}" for layer in range(task.model.cfg.n_layers))]
    series = {
        "clean, own size (logit lens)": result["clean_own"],
        "clean, last size (cumulative)": result["clean_final"],
        "corrupted, own size": result["corrupted_own"],
        "corrupted, last size": result["corrupted_final"],
    }
    drawn = lines_svg(
        series,
        names,
        "The logit difference in the stream after each layer.",
        "after the embedding, and after each layer",
        "logits",
    )
    caption = "The stream at the last position, read as if the model ended there."
    question = "At which layer does the stream prefer the answer?"
    return PageSection(title, question, words.read_lens(result), [(caption, drawn)])


def patching_section(title: str, task: ReportTask, result: StepResult) -> PageSection:
    panels = dict(zip(("residual stream", "attention", "MLP"), result["streams"], strict=True))
    rows, columns = _rows_and_columns(result["denoised"])
    by_place = heatmap_svg(panels, rows, result["labels"], "What a patch restores, by layer and position.", "position")
    tables = {"restored: clean → corrupted": result["denoised"], "taken away: corrupted → clean": result["noised"]}
    by_head = heatmap_svg(tables, rows, columns, "What patching one head does, by layer and head.", "head")
    whole = "Clean activations in the corrupted run, by layer and position. 1 restores the whole difference."
    figures = [
        (whole, by_place),
        ("Outputs of single heads, at all positions, as a share of the difference between the runs.", by_head),
    ]
    question = "Which single part, taken from the other run, brings the answer back or takes it away?"
    return PageSection(title, question, words.read_patching(result), figures)


def paths_section(title: str, task: ReportTask, result: StepResult) -> PageSection:
    readers = {"query": "queries", "value": "values", "key": "keys"}
    shown = {"to the logits": result["direct"]}
    shown |= {f"into {name}": result[key] for key, name in readers.items() if key in result}
    rows, _ = _rows_and_columns(result["direct"])
    columns = [str(i) for i in range(task.model.cfg.n_heads)]
    drawn = heatmap_svg(
        shown, rows, columns, "What is lost when a path from a head is corrupted.", "sending head", cell=(13, 11)
    )
    groups = (
        ("write to the logits", "writers"),
        ("feed the writers' queries", "brokers"),
        ("feed keys and values", "feeders"),
    )
    return PageSection(
        title,
        "On which head's message, passed directly, does the answer depend?",
        words.read_paths(result),
        [("The share of the difference that is lost when one path is corrupted, by sender.", drawn)],
        (("what they do", "heads, strongest first"), [[what, words.head_list(result[key])] for what, key in groups]),
    )


def circuit_section(title: str, task: ReportTask, result: StepResult) -> PageSection:
    names = ("whole model", "circuit", "strongest head alone", "circuit without the strongest head", "empty")
    shown = {
        name.replace("circuit without the strongest head", "circuit without it"): result["circuits"][name]
        for name in names
    }
    drawn = points_svg(shown, "The logit difference of each tested pair, by circuit.", "logit difference")
    figures = [("Each point is one tested pair; the black bars are means.", drawn)]
    if result["random"]:
        errors = {kind: [draw["mae"] for draw in one["draws"]] for kind, one in result["random"].items()}
        marks = {"the circuit": result["judged"]["circuit"]["mae"]}
        drawn = points_svg(errors, "Errors of random circuits.", "mean error in logits", marks)
        figures.append(("The error per pair of random circuits, and of the found one. Smaller is better.", drawn))
    rows = [
        [
            name,
            f"{one['value']:.2f}",
            f"{one['low']:.2f} to {one['high']:.2f}",
            f"{one['mae']:.2f}",
            "–" if one["correlation"] is None else f"{one['correlation']:.2f}",
        ]
        for name, one in result["judged"].items()
    ]
    strongest = head_name(*result["strongest"])
    question = (
        f"What is left of the answer when every other head is replaced by its mean? (Strongest head: {strongest}.)"
    )
    header = ("kept", "value", "95 % interval", "error per pair", "correlation")
    return PageSection(title, question, read_circuit(result), figures, (header, rows))


SECTIONS = {  # in their order on the page: title, and what makes it of the step's result
    "behavior": ("Can the model do it?", behavior_section),
    "attribution": ("Which parts write the answer?", attribution_section),
    "lens": ("When does the answer appear?", lens_section),
    "patching": ("Which parts carry it?", patching_section),
    "paths": ("Which head tells which?", paths_section),
    "circuit": ("Can these heads do it alone?", circuit_section),
}


def _sections(task: ReportTask, results: Mapping[str, StepResult]) -> Iterator[PageSection]:
    for name, (title, build) in SECTIONS.items():
        result = results.get("attribution" if name == "lens" else name)
        if result is not None:
            skipped = result.get("skipped", "")
            yield PageSection(title, skipped=skipped) if skipped else build(title, task, result)
