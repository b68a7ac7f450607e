"""What a report says in words: each sentence is computed from the numbers beside it, and so is each warning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.attribution import head_name

StepResult = Mapping[str, Any]
CLOSE_TO_ZERO = 0.1  # a share of the difference between the runs


@dataclass(frozen=True)
class Reading:
    """said: what the numbers show. caveats: what they do not show, or what would change them."""

    said: list[str]
    caveats: list[str]


def head_list(heads: Sequence[Sequence[int]]) -> str:
    """L9H9, L9H6 and L10H0; "none" for no heads."""
    names = [head_name(*head) for head in heads]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else (names[0] if names else "none")


def _largest(table: np.ndarray) -> tuple[int, int]:
    """(layer, head) of the largest value."""
    layer, head = np.unravel_index(table.argmax(), table.shape)
    return int(layer), int(head)


def in_words(interval: Sequence[float]) -> str:
    """An interval, as "0.12 to 0.34"."""
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def read_behavior(result: StepResult) -> Reading:
    n = len(result["clean"])
    low, high = result["share_interval"]
    said = [
        f"The model prefers the answer to the wrong answer in {result['n_right']} of {n} clean prompts "
        f"({result['share_right']:.0%}; a 95 % interval is {low:.0%} to {high:.0%}).",
        f"The mean logit difference is {result['clean_mean']:.2f} on clean prompts "
        f"({in_words(result['clean_interval'])}) and "
        f"{result['corrupted_mean']:.2f} on corrupted ones ({in_words(result['corrupted_interval'])}).",
    ]
    favorites = ", ".join(f"{token!r} ({count} times)" for token, count in result["favorites"])
    caveats = [
        f"The answer is the model's first choice among all tokens in {result['top_1']:.0%} of the clean prompts, and the two "
        f"answers together have {result['mass']:.1%} of the probability. Its commonest first choices are {favorites}."
        + (
            " The logit difference compares two words that the model would rarely say here, so read every figure below "
            "with that in mind."
            if result["mass"] < 0.2
            else ""
        ),
        _independence(result["templates"], n),
    ]
    if n < 30:
        caveats.append(f"{n} pairs are few. Intervals from so few values tend to be too narrow.")
    return Reading(said, caveats)


def _independence(templates: Sequence[str], n: int) -> str:
    names = {name for name in templates if name}
    if len(names) <= 1:
        return (
            f"The intervals treat the {n} pairs as independent. Pairs that share a sentence are not, and here all have one "
            "template or none is named: the intervals say nothing about other sentences."
        )
    return (
        f"The intervals treat the {n} pairs as independent. They come from {len(names)} templates, so other templates may "
        "differ by more than the intervals show."
    )


def advice(result: StepResult) -> list[str]:
    """What to do about a task that the model does not do."""
    found = [
        "Look at the pairs with negative values first: is the answer really the right one, and does it begin with a space?"
    ]
    if result["mass"] < 0.05:
        found.append(
            f"The two answers have {result['mass']:.1%} of the probability. Change the prompt so that one of them is "
            "natural as the next word."
        )
    if result["corrupted_mean"] > 0.8 * result["clean_mean"] > 0:
        found.append(
            "The model prefers the answer on corrupted prompts as well. Corrupt the word that decides the answer."
        )
    found += ["Try a larger model.", "To see the other steps all the same, give --anyway. They then describe noise."]
    return found


# --- attribution and lens -----------------------------------------------------------------------------------------------


def component_names(n_layers: int) -> list[str]:
    """Names of what `attribution_step` adds up."""
    return ["embed", *(f"L{layer} {part}" for layer in range(n_layers) for part in ("attn", "mlp")), "bias"]


def read_attribution(result: StepResult) -> Reading:
    heads, parts = np.array(result["clean_heads"]), np.array(result["clean_parts"])
    change = heads - np.array(result["corrupted_heads"])
    total = parts.sum()
    top, low, moved = _largest(heads), _largest(-heads), _largest(np.abs(change))
    spread = np.array(result["clean_heads_spread"])
    mlps = parts[2:-1:2].sum()
    said = [
        f"All parts add up to each pair's logit difference: the largest error is {result['largest_error']:.1g} logits.",
        f"{head_name(*top)} adds most, {heads[top]:+.2f} logits of {total:.2f}, and {head_name(*low)} takes most away, "
        f"{heads[low]:+.2f}.",
        f"From the corrupted to the clean prompt, {head_name(*moved)} changes most, by {change[moved]:+.2f}.",
    ]
    caveats = [
        "This is what a part writes in the direction of the answer. It does not show why the part writes it, nor what would "
        "happen without it.",
        f"The MLPs together add {mlps:+.2f} logits and the attention layers {parts[1:-1:2].sum():+.2f}. A table of heads "
        "shows the second sum only.",
    ]
    if spread[top] > abs(heads[top]):
        caveats.append(
            f"From pair to pair, the contribution of {head_name(*top)} has a standard deviation of {spread[top]:.2f}, more "
            "than its mean. On single pairs it can have the other sign."
        )
    return Reading(said, caveats)


def read_lens(result: StepResult) -> Reading:
    own, final = np.array(result["clean_own"]), np.array(result["clean_final"])
    half = next((i for i, value in enumerate(final) if value >= final[-1] / 2), len(final) - 1)
    peak = int(own.argmax())
    said = [
        f"Measured with the last layer's scale, half of the final {final[-1]:.2f} logits is there after "
        f"{'the embedding' if half == 0 else f'layer {half - 1}'}.",
        f"Measured with its own size, the stream is furthest in favor of the answer after "
        f"{'the embedding' if peak == 0 else f'layer {peak - 1}'} ({own[peak]:.2f}).",
    ]
    caveats = [
        "The two curves answer different questions. Only the steps of the second one are what layers add. The first one can "
        "fall although every layer adds, because the stream grows.",
        "An early layer may write the answer in another form, which the unembedding does not read. A flat beginning does not "
        "mean that nothing happens there.",
    ]
    return Reading(said, caveats)


# --- patching and paths --------------------------------------------------------------------------------------------------


def read_patching(result: StepResult) -> Reading:
    streams, labels = np.array(result["streams"]), result["labels"]
    n_layers = streams.shape[1]
    leaves = next((layer for layer in range(n_layers) if streams[0, layer, 0] < 0.5), n_layers)
    arrives = next((layer for layer in range(n_layers) if streams[0, layer, -1] > 0.5), n_layers)
    denoised, noised = np.array(result["denoised"]), np.array(result["noised"])
    top = _largest(denoised)
    needed = _largest(noised)
    n = len(result["lines"])
    more = f"more than half of the difference up to layer {leaves - 1}"
    said = [
        f"The clean stream at {labels[0]!r} restores "
        + (more if leaves else "less than half of the difference even before layer 0")
        + (f", and the stream at the last position from layer {arrives} on." if arrives < n_layers else "."),
        f"Alone, {head_name(*top)} restores most when it is patched into the corrupted run: {denoised[top]:.0%} of the "
        f"difference of {result['clean'] - result['corrupted']:.2f} logits.",
        f"Alone, {head_name(*needed)} takes most away when it is patched into the clean run: {noised[needed]:.0%}.",
    ]
    agreement = np.corrcoef(denoised.ravel(), noised.ravel())[0, 1]
    caveats = [
        "A patch shows that information passes through a place. It does not show that the place computed it.",
        f"The two head tables correlate at {agreement:.2f}. "
        + (
            "Tables this much alike hold one piece of evidence and not two, and they show no sign of stand-ins."
            if agreement > 0.98
            else "Where they differ, look for stand-ins (restores little, taken away little) and for parts that are needed "
            "together."
        ),
        f"The tables of heads are means over {n} pairs. The maps by position use the {result['n_same']} "
        "pairs of the commonest length, since a position has to mean the same in all of them.",
    ]
    if len(result["differing"]) > 1:
        caveats.append(
            f"The sides differ at {len(result['differing'])} positions. Patching one of them restores its own share only, so "
            "the first column need not reach 1."
        )
    return Reading(said, caveats)


def read_paths(result: StepResult) -> Reading:
    direct = np.array(result["direct"])
    if not result["writers"]:
        return Reading(
            ["No head reaches the threshold on its direct path to the logits."],
            ["MLPs may write the answer, or many heads may write a little of it each."],
        )
    first = tuple(result["writers"][0])
    frozen, n = result.get("mlps", "frozen") == "frozen", len(result["writers"])
    said = [
        f"{n} head{'s' * (n != 1)} with a {'direct ' * frozen}path to the logits that reaches the threshold"
        f"{'' if frozen else ' (through MLPs or not)'}: {head_list(result['writers'])}. If only this path of "
        f"{head_name(*first)} is corrupted, the difference between the runs {'shrinks' if direct[first] > 0 else 'grows'} by "
        f"{abs(direct[first]):.0%}.",
        f"Into the queries of these heads: {head_list(result['brokers'])}. Into the keys and values of all of these: "
        f"{head_list(result['feeders'])}.",
    ]
    against = [head for head in result["writers"] if direct[tuple(head)] < 0]
    both = np.array(result["value"]), np.array(result["key"])
    caveats = _path_kind(result.get("mlps", "frozen"), direct.sum())
    if against:
        caveats.append(
            f"Against the answer: {head_list(against)}. The circuit keeps what writes against it, because the model has it."
        )
    if np.abs(both[1]).max() < CLOSE_TO_ZERO * max(np.abs(both[0]).max(), 1e-9):
        caveats.append(
            "Next to nothing goes through keys. If the corrupted word stands after most of the keys that are read, this "
            "follows from the corruption and says nothing about keys: corrupt an earlier word to test them."
        )
    return Reading(said, caveats)


def _path_kind(mlps: str, together: float) -> list[str]:
    """What a path is here. mlps: as in `utils.circuits.path_options.PathOptions`."""
    if mlps == "frozen":
        return [
            "A path is patched with every other head and every MLP held as it was. Paths that go through an MLP are not "
            "seen.",
            f"All direct paths together carry {together:.0%} of the difference. The rest reaches the logits through MLPs, or "
            "through the embedding.",
        ]
    return [
        "With MLPs held as they were, no head reaches the threshold. So here every other head is held, and MLPs are computed "
        "again: a path may go through MLPs, and these may do most of the work.",
        f"One by one, these paths carry shares that add up to {together:.0%}. They need not add up to 100 %, since MLPs mix "
        "what several heads write.",
    ]
