"""Drawings that an explorer draws again and again: one head, changes as bars, and the heads of a circuit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from utils.plots.drawings import BLUE, GRAY, INK, RED, Drawing, arrow, text
from utils.plots.inputs import Numbers, as_array, require_count, require_known, table

LABELS, ABOVE = 120, 40


def visible(token: str) -> str:
    """A token with its spaces and line breaks to be seen."""
    return token.replace("\n", "⏎").replace(" ", "␣")


def head_view(
    pattern: Numbers,
    tokens: Sequence[str],
    name: str,
    raised: Sequence[tuple[str, float]],
    lowered: Sequence[tuple[str, float]],
) -> Drawing:
    """A pattern as squares (rows ask, columns are read), and beside it bars for tokens and their change of logit.

    pattern: [query, key]. raised, lowered: (token, change of its logit). Raises ValueError for a wrong number of tokens.
    """
    values = table(as_array(pattern, digits=3), "the pattern", 2)
    for axis, length in zip(("query", "key"), values.shape, strict=True):
        require_count("tokens", tokens, length, f"{axis} positions")
    shown = [visible(token)[:12] for token in tokens]
    cell = max(12, min(24, 360 // len(shown)))
    size = cell * len(shown)
    body = [text(LABELS, 22, f"{name}: where each position looks", 14, "start", "bold")]
    body.append(f'<rect x="{LABELS}" y="{ABOVE}" width="{size}" height="{size}" fill="none" stroke="{GRAY}"/>')
    for i, row in enumerate(values):
        middle = ABOVE + cell * (i + 0.5)
        body.append(text(LABELS - 6, middle + 4, f"{i} {shown[i]}", 11, "end"))
        body += [
            f'<rect x="{LABELS + cell * j}" y="{ABOVE + cell * i}" width="{cell}" height="{cell}" fill="{BLUE}" '
            f'fill-opacity="{share:g}"/>'
            for j, share in enumerate(row.round(2))
            if share >= 0.01
        ]
        x, y = LABELS + cell * (i + 0.5), ABOVE + size + 10
        body.append(f'<g transform="translate({x:g} {y}) rotate(55)">{text(0, 0, f"{i} {shown[i]}", 11, "start")}</g>')
    left = LABELS + size + 40
    body.append(text(left, 22, "what it does to logits at the last position", 14, "start", "bold"))
    body += _bars(left, [*raised, *reversed(lowered)])
    alt = (
        f"Attention pattern of {name} over {len(shown)} tokens. At the last position it raises "
        f"{_listed(raised)} most, and lowers {_listed(lowered)} most."
    )
    return Drawing("".join(body), left + 330, max(ABOVE + size + 100, ABOVE + 24 * (len(raised) + len(lowered))), alt)


def _bars(left: float, changes: Sequence[tuple[str, float]]) -> list[str]:
    """A row for each token: its name, a bar to the right (red, raised) or left (blue, lowered), and the number."""
    longest = max((abs(change) for _, change in changes), default=0.0) or 1.0
    zero, parts = left + 200, []
    for i, (token, change) in enumerate(changes):
        y, width = ABOVE + 24 * i, 70 * abs(change) / longest
        parts.append(text(left + 110, y + 13, visible(token)[:14], 12, "end"))
        x, color = (zero, RED) if change > 0 else (zero - width, BLUE)
        parts.append(f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="14" fill="{color}"/>')
        parts.append(text(zero + 80, y + 13, f"{change:+.2f}", 12, "start"))
    bottom = ABOVE + 24 * len(changes)
    return [*parts, f'<line x1="{zero}" x2="{zero}" y1="{ABOVE}" y2="{bottom}" stroke="{INK}"/>']


def changes_drawing(title: str, changes: Sequence[tuple[str, float]]) -> Drawing:
    """Bars to the right (red, above zero) and to the left (blue, below), one below the other, each with its name."""
    body = [text(20, 22, title, 14, "start", "bold"), *_bars(40, changes)]
    alt = f"{title}: " + ", ".join(f"{name} {change:+.2f}" for name, change in changes)
    return Drawing("".join(body), max(420, 40 + 8 * len(title)), ABOVE + 24 * len(changes) + 12, alt)


def circuit_drawing(heads: Sequence[dict[str, Any]], roles: Sequence[str], title: str) -> Drawing:
    """Heads on the residual streams of a prompt: columns are positions, later layers stand further up.

    heads: as for `utils.plots.circuit`. Raises ValueError for none at all and for a role that is not among `roles`.
    """
    if not heads:
        raise ValueError("no head is left to draw; choose a smaller effect")
    for head in heads:
        require_known(f"a role of head {head['name']}", [head["at"], head["reads"]], list(roles))
    layers = sorted({head["layer"] for head in heads}, reverse=True)
    rows = {layer: [head for head in heads if head["layer"] == layer] for layer in layers}
    most = max(len([h for h in row if h["at"] == role]) for row in rows.values() for role in roles)
    wide, bottom = max(110, 62 * most + 30), 70 + 56 * len(layers)
    at = {role: 90 + wide * (i + 0.5) for i, role in enumerate(roles)}
    body = [text(16, 22, title, 14, "start", "bold")]
    body += [
        f'<line x1="{x:g}" x2="{x:g}" y1="44" y2="{bottom}" stroke="#d5dae0" stroke-width="5"/>' for x in at.values()
    ]
    body += [text(x, bottom + 20, role, 13) for role, x in at.items()]
    largest = max(abs(head["effect"]) for head in heads) or 1.0
    boxes = []
    for i, layer in enumerate(layers):
        y = 66 + 56 * i
        body.append(text(16, y + 4, f"layer {layer}", 12, "start"))
        for role in roles:
            row = [head for head in rows[layer] if head["at"] == role]
            for j, head in enumerate(row):
                x, color = at[role] + 62 * (j - (len(row) - 1) / 2), RED if head["effect"] > 0 else BLUE
                start = (at[head["reads"]], y + 38)
                body.append(arrow([start, (x, y + 13)], color, 1 + 4 * abs(head["effect"]) / largest))
                boxes.append(_head_box(x, y, head["name"], color))
    listed = ", ".join(f"{h['name']} reads {h['reads']}, acts at {h['at']}, {h['effect']:+.2f}" for h in heads)
    return Drawing("".join([*body, *boxes]), round(110 + wide * len(roles)), bottom + 36, f"{title}. {listed}")


def _head_box(x: float, y: float, name: str, color: str) -> str:
    place = f'x="{x - 28:g}" y="{y - 12}" width="56" height="24" rx="5"'
    frame = f'<rect {place} fill="#ffffff" stroke="{color}" stroke-width="2"/>'
    return frame + text(x, y + 4, name, 12)


def _listed(changes: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{token.strip() or '␣'} ({change:+.2f})" for token, change in changes[:3])
