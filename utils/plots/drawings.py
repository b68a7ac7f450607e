"""What drawings are made of: boxes, words and arrows in a small SVG, with a description for those who do not see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

COLORS = {
    "frozen": ("#e6eaf0", "#8a94a3"),
    "sender": ("#f8d2cd", "#b3261e"),
    "receiver": ("#ffe3b0", "#a05a00"),
    "computed": ("#ffffff", "#222222"),
    "changed": ("#fff3d6", "#a05a00"),
}
INK, GRAY, RED, BLUE = "#222222", "#9aa3ad", "#b3261e", "#1f5fa8"


@dataclass(frozen=True)
class Drawing:
    """An SVG drawing. Notebooks and pages show it; `alt` is read out by a screen reader."""

    body: str = field(repr=False)
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
    """Words on one line, or on several where they hold line breaks."""
    lines = (
        f'<text x="{x:g}" y="{y + 1.25 * size * i:g}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}" '
        f'fill="{INK}">{escape(line)}</text>'
        for i, line in enumerate(words.split("\n"))
    )
    return "".join(lines)


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
