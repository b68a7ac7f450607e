"""The figures of a report: heatmaps, lines, points and bars as SVG, for a page that is opened anywhere and asks nobody.

No script and no font is needed. Each value stands in a tooltip (an SVG title), and each figure has a description for those
who do not see it. Red is positive and blue is negative, as in the chapters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from utils.plots.drawings import BLUE, GRAY, INK, RED, Drawing, text

WARM, COLD = (178, 24, 43), (33, 102, 172)
SERIES = (RED, BLUE, "#117733", "#a05a00", "#6a3d9a")
GRAY_CELL = "#dddddd"  # of what has no value, and of the grid
Value = float | None


def _color(value: Value, limit: float) -> str:
    if value is None or not math.isfinite(value):
        return GRAY_CELL
    share = min(1.0, abs(value) / limit) if limit else 0.0
    end = WARM if value > 0 else COLD
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in end)


def _tooltip(words: str) -> str:
    return f"<title>{escape(words)}</title>"


def heatmap_svg(
    panels: Mapping[str, Sequence[Sequence[Value]]],
    rows: Sequence[str],
    columns: Sequence[str],
    alt: str,
    x: str,
    cell: tuple[int, int] = (16, 11),
) -> Drawing:
    """One table per panel, layers by `x`, side by side, with one color scale. cell: width and height of a cell in pixels."""
    values = [value for table in panels.values() for row in table for value in row if value is not None]
    limit = max((abs(value) for value in values), default=0.0) or 1.0
    wide, high = cell
    longest = max(map(len, columns), default=0)
    below, left, top, gap = 18 + (4.8 * longest if longest > 3 else 12), 46, 44, 26
    widest = max(map(len, panels), default=0) * 6.8  # of a panel's name
    each = round(max(wide * len(columns), widest) + gap)
    body = []
    for number, (name, table) in enumerate(panels.items()):
        x0 = left + number * each
        body.append(text(x0, top - 14, name, 12, "start", "bold"))
        for i, row in enumerate(table):
            y0 = top + high * (len(table) - 1 - i)  # early layers at the bottom
            for j, value in enumerate(row):
                shown = "no value" if value is None else f"{value:+.3f}"
                body.append(
                    f'<rect x="{x0 + wide * j}" y="{y0}" width="{wide}" height="{high}" fill="{_color(value, limit)}">'
                    f"{_tooltip(f'{rows[i]}, {columns[j]}: {shown}')}</rect>"
                )
            if number == 0 and (i % 5 == 0 or len(table) <= 12):
                body.append(text(left - 5, y0 + high - 1, rows[i].removeprefix("layer "), 10, "end"))
        base = top + high * len(table)
        body.append(
            f'<rect x="{x0}" y="{top}" width="{wide * len(columns)}" height="{high * len(table)}" fill="none" '
            f'stroke="{GRAY}"/>'
        )
        body += [_column_label(x0 + wide * (j + 0.5), base, name, longest > 3) for j, name in enumerate(columns)]
    height, middle = top + high * len(rows) + below + 18, top + high * len(rows) / 2
    body.append(text(left, height - 5, f"{x} →", 11, "start"))
    body.append(f'<g transform="rotate(-90 12 {middle:g})">{text(12, middle, "layer →", 11)}</g>')
    width = left + each * len(panels) + 60
    body.append(_scale(width - 62, top, min(160, high * len(rows)), limit))
    return Drawing("".join(body), round(width), round(height), alt)


def _column_label(x: float, base: float, name: str, turned: bool) -> str:
    if not turned:
        return text(x, base + 12, name, 10)
    place = f'transform="translate({x + 3:g} {base + 8:g}) rotate(-60)"'
    return f'<text {place} text-anchor="end" font-size="10" fill="{INK}">{escape(name)}</text>'


def _scale(x: float, top: float, height: float, limit: float) -> str:
    """The colors and what they stand for."""
    steps = 20
    bars = [
        f'<rect x="{x:g}" y="{top + height * i / steps:.1f}" width="10" height="{height / steps + 0.6:.1f}" '
        f'fill="{_color(limit * (1 - 2 * i / (steps - 1)), limit)}"/>'
        for i in range(steps)
    ]
    marks = ((f"{limit:+.2g}", 8), ("0", height / 2 + 4), (f"{-limit:+.2g}", height))
    return "".join(bars) + "".join(text(x + 14, top + at, mark, 10, "start") for mark, at in marks)


def lines_svg(series: Mapping[str, Sequence[float]], names: Sequence[str], alt: str, x: str, y: str) -> Drawing:
    """Lines over the same points, by name, with a legend below."""
    width, height, left, top = 760, 280, 62, 16
    every = [value for values in series.values() for value in values]
    low, high = min(0.0, *every), max(0.0, *every)
    span, count = (high - low) or 1.0, len(names)

    def place(i: int, value: float) -> tuple[float, float]:
        return left + (width - left - 20) * i / max(1, count - 1), top + (height - top - 40) * (high - value) / span

    body = [_y_axis(low, high, left, width - 20, lambda value: place(0, value)[1], y, (top + height - 40) / 2)]
    for color, (name, values) in zip(SERIES, series.items(), strict=False):
        points = [place(i, value) for i, value in enumerate(values)]
        body.append(f'<polyline points="{_joined(points)}" fill="none" stroke="{color}" stroke-width="2"/>')
        body += [
            f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{color}">'
            f"{_tooltip(f'{name}, {names[i]}: {values[i]:+.2f}')}</circle>"
            for i, (a, b) in enumerate(points)
        ]
    for i in range(0, count, max(1, count // 10)):
        body.append(text(place(i, low)[0], height - 22, names[i], 10))
    body.append(text((left + width) / 2, height - 6, x, 11))
    body.append(_legend(list(series), left, height + 12))
    return Drawing("".join(body), width, height + 24, alt)


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _y_axis(low: float, high: float, left: float, right: float, at, name: str, middle: float) -> str:
    """Four grid lines with their values, zero in black, and the axis' name."""
    parts = [
        f'<line x1="{left}" x2="{right}" y1="{at(mark):.1f}" y2="{at(mark):.1f}" stroke="{INK if mark == 0 else GRAY_CELL}"/>'
        + text(left - 6, at(mark) + 4, f"{mark:g}", 10, "end")
        for mark in _marks(low, high, 4)
    ]
    turned = f'<g transform="rotate(-90 14 {middle:g})">{text(14, middle, name, 11)}</g>'
    return "".join(parts) + turned


def _marks(low: float, high: float, n: int) -> list[float]:
    """About n round numbers from low to high, zero among them: their steps are 1, 2 or 5 times a power of ten."""
    about = (high - low) / n or 1.0
    power = 10 ** math.floor(math.log10(about))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor - about / power))
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _legend(names: Sequence[str], left: float, y: float) -> str:
    parts, x = [], left
    for color, name in zip(SERIES, names, strict=False):
        parts.append(
            f'<rect x="{x:g}" y="{y - 9:g}" width="10" height="10" fill="{color}"/>'
            + text(x + 15, y, name, 11, "start")
        )
        x += 30 + 6.3 * len(name)
    return "".join(parts)


def points_svg(
    groups: Mapping[str, Sequence[float]], alt: str, x: str, marks: Mapping[str, float] | None = None
) -> Drawing:
    """One row of points for each group, with the mean as a bar. marks: vertical lines by name."""
    width, left, row, top = 760, 210, 34, 30 if marks else 12
    every = [value for values in groups.values() for value in values] + list((marks or {}).values())
    low, high = min(0.0, *every), max(0.0, *every)
    span = (high - low) or 1.0
    height = top + row * len(groups) + 40

    def place(value: float) -> float:
        return left + (width - left - 30) * (value - low) / span

    body = [
        f'<line x1="{place(mark):.1f}" x2="{place(mark):.1f}" y1="{top}" y2="{height - 36}" '
        f'stroke="{INK if mark == 0 else GRAY_CELL}"/>' + text(place(mark), height - 24, f"{mark:g}", 10)
        for mark in _marks(low, high, 5)
    ]
    for name, value in (marks or {}).items():
        body.append(
            f'<line x1="{place(value):.1f}" x2="{place(value):.1f}" y1="{top - 4}" y2="{height - 36}" stroke="{RED}" '
            f'stroke-dasharray="5 3"/>' + text(place(value), top - 10, name, 11)
        )
    for number, (name, values) in enumerate(groups.items()):
        y, color = top + row * (number + 0.5), SERIES[number % len(SERIES)]
        body.append(text(left - 10, y + 4, name, 11, "end"))
        for i, value in enumerate(values):
            lift = 9 * ((i * 7) % 5 - 2) / 2
            body.append(
                f'<circle cx="{place(value):.1f}" cy="{y + lift:.1f}" r="3.4" fill="{color}" fill-opacity="0.55">'
                f"{_tooltip(f'{name}: {value:+.2f}')}</circle>"
            )
        mean = place(float(np.mean(values)))
        body.append(
            f'<line x1="{mean:.1f}" x2="{mean:.1f}" y1="{y - 13}" y2="{y + 13}" stroke="{INK}" stroke-width="2.5">'
            f"{_tooltip(f'{name}: mean {float(np.mean(values)):+.2f}')}</line>"
        )
    body.append(text((left + width) / 2, height - 6, x, 11))
    return Drawing("".join(body), width, height, alt)


def bars_svg(values: Mapping[str, float], alt: str, y: str) -> Drawing:
    """A bar for each name, upright, red above zero and blue below."""
    width, height, left, top = max(320, 80 + 24 * len(values)), 250, 62, 14
    low, high = min(0.0, *values.values()), max(0.0, *values.values())
    span, below = (high - low) or 1.0, 72

    def place(value: float) -> float:
        return top + (height - top - below) * (high - value) / span

    body = [_y_axis(low, high, left, width - 10, place, y, (top + height - below) / 2)]
    wide = (width - left - 10) / len(values)
    for i, (name, value) in enumerate(values.items()):
        a, b = sorted((place(0), place(value)))
        body.append(
            f'<rect x="{left + wide * (i + 0.15):.1f}" y="{a:.1f}" width="{0.7 * wide:.1f}" height="{max(b - a, 0.5):.1f}" '
            f'fill="{RED if value > 0 else BLUE}">{_tooltip(f"{name}: {value:+.3f}")}</rect>'
            + _column_label(left + wide * (i + 0.5), height - below, name, True)
        )
    return Drawing("".join(body), width, height, alt)
