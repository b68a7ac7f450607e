"""One head in one drawing: its attention pattern, and the tokens that it raises and lowers."""

from __future__ import annotations

from collections.abc import Sequence

from utils.plots.drawings import BLUE, GREY, INK, RED, Drawing, text
from utils.plots.inputs import Numbers, as_array, require_count, table

LABELS, ABOVE = 120, 40


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
    values = table(as_array(pattern, digits=3), "the pattern", [2])
    for axis, length in zip(("query", "key"), values.shape, strict=True):
        require_count("tokens", tokens, length, f"{axis} positions")
    shown = [token.replace("\n", "⏎").replace(" ", "␣")[:12] for token in tokens]
    cell = max(12, min(24, 360 // len(shown)))
    size = cell * len(shown)
    body = [text(LABELS, 22, f"{name}: where each position looks", 14, "start", "bold")]
    body.append(f'<rect x="{LABELS}" y="{ABOVE}" width="{size}" height="{size}" fill="none" stroke="{GREY}"/>')
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
        shown = token.replace("\n", "⏎").replace(" ", "␣")[:14]
        parts.append(text(left + 110, y + 13, shown, 12, "end"))
        x, color = (zero, RED) if change > 0 else (zero - width, BLUE)
        parts.append(f'<rect x="{x:.1f}" y="{y + 2}" width="{width:.1f}" height="14" fill="{color}"/>')
        parts.append(text(zero + 80, y + 13, f"{change:+.2f}", 12, "start"))
    bottom = ABOVE + 24 * len(changes)
    return [*parts, f'<line x1="{zero}" x2="{zero}" y1="{ABOVE}" y2="{bottom}" stroke="{INK}"/>']


def _listed(changes: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{token.strip() or '␣'} ({change:+.2f})" for token, change in changes[:3])
