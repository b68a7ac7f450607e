"""Drawings made by code: small SVGs with a description for those who do not see them."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

COLORS = {
    "frozen": ("#e6eaf0", "#8a94a3"), "sender": ("#f8d2cd", "#b3261e"), "receiver": ("#ffe3b0", "#a05a00"),
    "computed": ("#ffffff", "#222222"),
}  # fmt: skip
INK = "#222222"


@dataclass(frozen=True)
class Drawing:
    """An SVG drawing. Notebooks and pages show it; `alt` is read out by a screen reader."""

    body: str
    width: int
    height: int
    alt: str

    def _repr_svg_(self) -> str:
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" aria-label="{escape(self.alt, quote=True)}" font-family="sans-serif" '
            f'style="background:#ffffff;max-width:100%"><title>{escape(self.alt)}</title>{self.body}</svg>'
        )


def text(x: float, y: float, words: str, size: int = 13, anchor: str = "middle", weight: str = "normal") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" fill="{INK}">'
        f"{escape(words)}</text>"
    )


def box(x: float, y: float, words: str, kind: str, width: float = 84, height: float = 28) -> str:
    """A box around (x, y). kind: a key of COLORS."""
    fill, stroke = COLORS[kind]
    return (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" '
        f'stroke="{stroke}" stroke-width="1.6"/>' + text(x, y + 4.5, words, 12)
    )


def arrow(points: list[tuple[float, float]], color: str = INK, width: float = 1.6) -> str:
    """A line through the points, with a head at its end."""
    (x0, y0), (x1, y1) = points[-2:]
    length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
    dx, dy = 8 * (x1 - x0) / length, 8 * (y1 - y0) / length
    head = f"{x1:g},{y1:g} {x1 - dx - dy / 2:g},{y1 - dy + dx / 2:g} {x1 - dx + dy / 2:g},{y1 - dy - dx / 2:g}"
    line = " ".join(f"{x:g},{y:g}" for x, y in points)
    return (
        f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="{width:g}"/>'
        f'<polygon points="{head}" fill="{color}"/>'
    )


def path_patching_drawing() -> Drawing:
    """The two runs of path patching side by side: what is exchanged, frozen, recorded, and computed again."""
    red, orange, body = COLORS["sender"][1], COLORS["receiver"][1], []
    for left, title in ((20, "Run 1: what would the receiver read?"), (400, "Run 2: let the receiver read it")):
        first = left == 20
        stream = left + 60
        body.append(text(left + 160, 24, title, 14, weight="bold"))
        body.append(arrow([(stream, 330), (stream, 60)], "#9aa3ad", 3))
        body.append(text(stream, 348, "residual stream", 12))
        rows = [  # height, what stands there, how it is treated in run 1 and in run 2
            (300, "sender", "sender", "computed"),
            (250, "MLP", "frozen", "computed"),
            (200, "other head", "frozen", "computed"),
            (150, "receiver", "receiver", "receiver"),
            (100, "later parts", "frozen", "computed"),
        ]
        for y, words, in_first, in_second in rows:
            body.append(box(left + 190, y, words, in_first if first else in_second, 100))
            body.append(arrow([(left + 140, y - 8), (stream + 4, y - 14)], "#9aa3ad"))
            body.append(arrow([(stream, y + 12), (left + 138, y + 6)], "#9aa3ad"))
        if first:
            body.append(arrow([(left + 140, 296), (stream - 10, 286), (stream - 10, 172), (left + 138, 154)], red, 2.6))
            body.append(text(left + 246, 304, "from the lending run", 11, "start"))
            body.append(text(left + 246, 154, "its input is recorded", 11, "start"))
        else:
            body.append(text(left + 246, 154, "gets the recorded input", 11, "start"))
            body.append(arrow([(left + 140, 140), (stream - 10, 132), (stream - 10, 62)], orange, 2.6))
            body.append(text(stream, 50, "logits", 12))
    body.append(
        box(90, 380, "frozen", "frozen", 70, 22) + text(132, 384, "held at its value in the receiving run", 11, "start")
    )
    body.append(
        box(390, 380, "plain", "computed", 70, 22)
        + text(432, 384, "computed as usual, from what it finds", 11, "start")
    )
    alt = (
        "Two runs of the model side by side. In run 1 the sender's output is taken from the lending run and every other part "
        "is frozen at its value in the receiving run; what the receiver would read is recorded. In run 2 nothing but the "
        "receiver's input is exchanged for the recorded one, and everything after the receiver is computed again."
    )
    return Drawing("".join(body), 780, 400, alt)
