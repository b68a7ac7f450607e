"""The steps of a report that need aligned pairs: activation patching, path patching, and the circuit with its controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from utils.attribution import top_heads
from utils.circuits.criteria import random_circuits
from utils.circuits.evaluate import CircuitTest, faithfulness, keep_mask, z_of_heads
from utils.circuits.path_options import MLPS
from utils.circuits.paths import path_patch
from utils.circuits.report.task import MIN_ALIGNED, ReportTask
from utils.experiment import Experiment, run_experiment
from utils.patching import get_act_patch_attn_head_out_all_pos, get_act_patch_block_every

AT_END, ANYWHERE = "end", "anywhere"  # roles: at the last position; at every position
MEAN_OF = 32  # corrupted prompts of one shape that a mean is taken over, at most
WITHIN = (2, 4, 1000)  # layers between a head and the random one in its place: the first that leaves a choice


def experiment_of(task: ReportTask, rows: Sequence[int]) -> Experiment:
    """Both runs of these rows, scored by the logit difference."""
    return run_experiment(task.model, task.pairs_of(rows))


def unaligned_reason(task: ReportTask) -> str:
    """Why nothing can be patched, with the lines that are at fault: a sentence, or ""."""
    if task.can_patch:
        return ""
    if len(task.aligned) < MIN_ALIGNED:
        lines = [str(row.line) for row, shape in zip(task.rows, task.shapes, strict=True) if shape is None]
        return (
            f"Only {len(task.aligned)} of {len(task.rows)} pairs have equally many tokens on both sides, and {MIN_ALIGNED} "
            "are needed. Where the lengths differ, position 5 is another word in the two runs. Lines "
            f"{', '.join(lines[:12])}{' …' if len(lines) > 12 else ''}: choose words with equally many tokens "
            "(model.to_str_tokens shows them)."
        )
    return (
        f"The {len(task.aligned)} aligned pairs fall into {len(set(task.shapes) - {None})} shapes (template, length, place "
        "of the difference), and most shapes have one pair: nothing is left to test on. Write several pairs for each shape."
    )


def patching_step(task: ReportTask) -> dict[str, Any]:
    """Clean activations patched into the corrupted run, by layer and position and by head; heads the other way too.

    streams: [3, layer, pos], residual stream, attention and MLP, on those pairs that have the commonest shape.
    """
    if reason := unaligned_reason(task):
        return {"skipped": reason}
    rows, _ = task.halves
    same = task.largest_shape(rows)
    of_shape, whole = experiment_of(task, same), experiment_of(task, rows)
    differing = (of_shape.pairs.clean_tokens != of_shape.pairs.corrupted_tokens).any(0).nonzero()[:, 0].tolist()
    positions = list(range(differing[0], of_shape.pairs.clean_tokens.shape[1]))
    heads = get_act_patch_attn_head_out_all_pos
    return {
        "lines": [task.rows[i].line for i in rows],
        "n_same": len(same),
        "positions": positions,
        "differing": differing,
        "labels": [of_shape.pairs.labels(task.model)[i] for i in positions],
        "streams": of_shape.denoise(get_act_patch_block_every, positions=positions),
        "denoised": whole.denoise(heads),
        "noised": -whole.noise(heads),
        "clean": whole.clean,
        "corrupted": whole.corrupted,
    }


def paths_step(task: ReportTask) -> dict[str, Any]:
    """Who writes the answer directly, who feeds the writers' queries at the end, and who feeds keys and values anywhere.

    MLPs are held as they were; where no head reaches the threshold then, they are computed again (mlps: "free"), so that a
    path may go through them. Each table is the share of the difference between the runs that is lost when the path from one
    head is corrupted. The circuit is made of the heads that reach the threshold.
    """
    if reason := unaligned_reason(task):
        return {"skipped": reason}
    experiment = experiment_of(task, task.halves[0])
    for mlps in MLPS:
        lost = partial(_lost, experiment, mlps=mlps)
        direct = lost()
        writers = strongest_heads(direct, task.settings)
        if writers:
            break
    result = {"mlps": mlps, "direct": direct, "writers": writers, "feeders": [], "brokers": []}
    if not writers:
        return result
    query = lost(receivers=writers, component="q")
    brokers = [head for head in strongest_heads(query, task.settings) if head not in writers]
    readers = [*writers, *brokers]
    value, key = (lost(receivers=readers, component=name, at=None) for name in ("v", "k"))
    feeders = list(dict.fromkeys(head for table in (value, key) for head in strongest_heads(table, task.settings)))
    return result | {"query": query, "brokers": brokers, "value": value, "key": key, "feeders": feeders}


def _lost(experiment: Experiment, at: str | None = AT_END, **receivers: Any) -> Float[Tensor, "layer head"]:
    """The share lost when the path from each head is corrupted, at the last position or (None) at all."""
    where = experiment.pairs.clean_last if at == AT_END else None
    return -experiment.noise(path_patch, at=where, **receivers)


def strongest_heads(effects: Float[Tensor, "layer head"], settings: Any) -> list[tuple[int, int]]:
    """The heads whose effect, of either sign, reaches the threshold, strongest first, and at most as many as are allowed."""
    reached = int((effects.abs() >= settings.threshold).sum())
    return top_heads(effects.abs(), min(reached, settings.most))


# --- the circuit ----------------------------------------------------------------------------------------------------------


def circuit_of(paths: Mapping[str, Any]) -> dict[str, list[tuple[int, int]]]:
    """Role → heads, from the result of `paths_step`. Writers and brokers are kept at the end, feeders everywhere."""
    at_end, anywhere = [*paths["writers"], *paths["brokers"]], paths["feeders"]
    return {AT_END: [tuple(head) for head in at_end], ANYWHERE: [tuple(head) for head in anywhere]}


def circuit_step(task: ReportTask, paths: Mapping[str, Any]) -> dict[str, Any]:
    """How much of the logit difference the circuit reproduces on pairs that did not find it, beside matched random circuits.

    Every other head is replaced by its mean over corrupted prompts of the same shape. circuits: name → each pair's score.
    judged: name → value, low, high, mae, correlation. random: kind → the same for each draw.
    """
    circuit = circuit_of(paths) if "skipped" not in paths else {}
    if not any(circuit.values()):
        nothing = "No path from any head reaches the threshold, so there is no circuit to test."
        return {"skipped": paths.get("skipped", nothing)}
    test, strongest = report_test(task), tuple(paths["writers"][0])
    rest = {role: [head for head in heads if head != strongest] for role, heads in circuit.items()}
    scores = {
        "whole model": test.full,
        "empty": test.empty,
        "circuit": circuit_scores(test, circuit),
        "strongest head alone": circuit_scores(test, {AT_END: [strongest]}),
        "circuit without the strongest head": circuit_scores(test, rest),
        "whole model without the circuit": test.scores_of_mask(~circuit_mask(test, circuit)),
    }
    if abs(float((test.full - test.empty).mean())) < 1e-6:
        return {"skipped": "The model scores as well with every head replaced by its mean: heads do not do this task."}
    judged = {name: vars(faithfulness(test.full, each, test.empty)) for name, each in scores.items()}
    return {
        "lines": [task.rows[i].line for i in task.halves[1]],
        "strongest": strongest,
        "circuit": circuit,
        "circuits": scores,
        "judged": judged,
        "random": dict(_controls(task, test, circuit, strongest)),
        "shared_answers": _shared_answers(task),
        "shape_sizes": _shape_sizes(task),
    }


def _controls(
    task: ReportTask, test: CircuitTest, circuit: Mapping, strongest: tuple[int, int]
) -> Iterator[tuple[str, Any]]:
    cfg, settings = task.model.cfg, task.settings
    kinds = {"never the strongest head": {"never": [strongest]}, "always the strongest head": {"keep": [strongest]}}
    for kind, rule in kinds.items():
        for within in WITHIN:
            options = {"within": within, "seed": settings.seed, **rule}
            try:
                drawn = list(random_circuits(circuit, settings.n_random, cfg.n_layers, cfg.n_heads, **options))
            except ValueError:
                continue
            found = [vars(faithfulness(test.full, circuit_scores(test, each), test.empty)) for each in drawn]
            yield kind, {"within": within, "draws": found}
            break


def circuit_mask(test: CircuitTest, circuit: Mapping[str, Sequence]) -> Bool[Tensor, "layer batch pos head"]:
    """True where a head of the circuit is kept."""
    mask = keep_mask({AT_END: circuit.get(AT_END, [])}, test.roles, test.shape)
    for layer, head in circuit.get(ANYWHERE, []):
        mask[layer, :, :, head] = True
    return mask


def circuit_scores(test: CircuitTest, circuit: Mapping[str, Sequence]) -> Float[Tensor, " batch"]:
    """Each pair's logit difference when these heads are all that is kept."""
    return test.scores_of_mask(circuit_mask(test, circuit))


def report_test(task: ReportTask) -> CircuitTest:
    """The pairs that test a circuit, with means over corrupted prompts of their shape in place of the other heads."""
    rows = task.halves[1]
    pairs = task.pairs_of(rows)
    cfg, n_pos = task.model.cfg, pairs.clean_tokens.shape[1]
    means = torch.zeros(cfg.n_layers, len(rows), n_pos, cfg.n_heads, cfg.d_head, device=pairs.clean_tokens.device)
    template = torch.zeros(len(rows), dtype=torch.long)
    for number, shape in enumerate(dict.fromkeys(task.shapes[i] for i in rows)):
        of_shape = [i for i in task.aligned if task.shapes[i] == shape][:MEAN_OF]
        at = [k for k, i in enumerate(rows) if task.shapes[i] == shape]
        template[at] = number
        mean = _mean_z(task, of_shape)  # layer pos head d_head
        means[:, at, : mean.shape[1]] = mean.unsqueeze(1)
    return CircuitTest(task.model, pairs, {AT_END: pairs.clean_last}, template, means)


def _mean_z(task: ReportTask, rows: Sequence[int]) -> Float[Tensor, "layer pos head d_head"]:
    """Mean of every head's z over the corrupted prompts of these rows, which have one length."""
    batches = task.pairs_of(rows).corrupted_tokens.split(8)
    return sum(z_of_heads(task.model, some, torch.ones_like(some)).sum(1) for some in batches) / len(rows)


def _shared_answers(task: ReportTask) -> float:
    """The share of tested pairs whose answer is also the answer of a pair that found the circuit."""
    found = {task.rows[i].answer for i in task.halves[0]}
    tested = [task.rows[i].answer in found for i in task.halves[1]]
    return sum(tested) / len(tested)


def _shape_sizes(task: ReportTask) -> list[int]:
    """How many corrupted prompts each shape of the test has for its mean."""
    shapes = dict.fromkeys(task.shapes[i] for i in task.halves[1])
    return [min(MEAN_OF, task.shapes.count(shape)) for shape in shapes]
