"""What a report says about a circuit: its numbers beside those of the controls, and what they do not show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from utils.attribution import head_name
from utils.circuits.report.searching import WITHIN
from utils.circuits.report.words import Reading, in_words


def matched_random_p(result: Mapping[str, Any], kind: str) -> float | None:
    """The share of random circuits, the found one among them, whose error per pair is as small; None if none were drawn."""
    if kind not in result["random"]:
        return None
    errors = [draw["mae"] for draw in result["random"][kind]["draws"]]
    return (1 + sum(error <= result["judged"]["circuit"]["mae"] for error in errors)) / (1 + len(errors))


def n_heads_of(circuit: Mapping[str, Sequence[Sequence[int]]]) -> int:
    """How many heads a circuit has, each counted once, though it may be kept at several places."""
    return len({tuple(head) for heads in circuit.values() for head in heads})


def read_circuit(result: Mapping[str, Any]) -> Reading:
    judged, size = result["judged"], n_heads_of(result["circuit"])
    found, empty, alone = judged["circuit"], judged["empty"], judged["strongest head alone"]
    strongest = head_name(*result["strongest"])
    said = [
        f"The circuit of {size} head{'s' * (size != 1)} gives {found['value']:.2f} of the model's mean score over that of "
        f"the empty circuit ({in_words((found['low'], found['high']))}) on {len(result['lines'])} pairs that had no part in "
        "finding it.",
        f"On a single pair it misses the model by {found['mae']:.2f} logits on average; the empty circuit misses it by "
        f"{empty['mae']:.2f}. Over pairs, circuit and model correlate at {_number(found['correlation'])} "
        f"(the empty circuit at {_number(empty['correlation'])}).",
        f"{strongest} alone gives {alone['value']:.2f}, and the circuit without it "
        f"{judged['circuit without the strongest head']['value']:.2f}.",
    ]
    for kind in result["random"]:
        draws = result["random"][kind]["draws"]
        said.append(
            f"{len(draws)} random circuits of the same size, {kind}: "
            f"{np.mean([d['value'] for d in draws]):.2f} on average, an error of "
            f"{np.mean([d['mae'] for d in draws]):.2f} logits. Of these and the found circuit, a share of "
            f"{matched_random_p(result, kind):.3f} has an error as small as the found one's (p)."
        )
    return Reading(said, _circuit_caveats(result, strongest))


def _number(value: float | None) -> str:
    return "nothing, since the values are all the same" if value is None else f"{value:.2f}"


def _circuit_caveats(result: Mapping[str, Any], strongest: str) -> list[str]:
    """What the numbers of this circuit warn of, then what holds of every circuit."""
    left, sizes = result["judged"]["whole model without the circuit"]["value"], result["shape_sizes"]
    number = min(sizes) if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    caveats = [*_from_scores(result["judged"], strongest), *_from_controls(result)]
    if left > 0.5:
        caveats.append(
            f"The model without these heads keeps {left:.2f} of its score: other heads can do the task as well, and the "
            "circuit is not the only way."
        )
    return [
        *caveats,
        f"In {result['shared_answers']:.0%} of the tested pairs the answer is one that also helped to find the circuit. They "
        "are other pairs, and not all of them other words."
        if result["shared_answers"]
        else "No tested pair has an answer that helped to find the circuit.",
        f"Heads outside the circuit are replaced by means over {number} corrupted prompts of the same shape, and MLPs are "
        "kept. Other replacements give other values.",
    ]


def _from_scores(judged: Mapping[str, Any], strongest: str) -> Iterator[str]:
    found, empty, alone = judged["circuit"], judged["empty"], judged["strongest head alone"]
    if found["value"] > 1.05:
        yield (
            f"A value of {found['value']:.2f} is not better than 1: the circuit lacks heads that speak against the answer."
        )
    if alone["value"] > 0.5 * found["value"] > 0:
        yield (
            f"{strongest} alone gives more than half of the circuit's value, so the mean says little about the other heads."
        )
    if None not in (found["correlation"], empty["correlation"]) and found["correlation"] <= empty["correlation"]:
        yield "The circuit follows the model from pair to pair no better than the empty circuit does."
    if found["mae"] >= empty["mae"]:
        yield "On single pairs the circuit is no nearer to the model than the empty circuit: do not call it faithful."


def _from_controls(result: Mapping[str, Any]) -> Iterator[str]:
    for kind in result["random"]:
        if matched_random_p(result, kind) > 0.05:
            yield f"Some random circuits ({kind}) are as near to the model: by this test the circuit is not special."
        if result["random"][kind]["within"] > WITHIN[0]:
            yield (
                f"Random circuits ({kind}) take heads up to {result['random'][kind]['within']} layers away, since too few "
                "are left nearby."
            )
    if not result["random"]:
        yield "No random circuits of this size could be drawn, because too few other heads are left. Nothing is compared."
