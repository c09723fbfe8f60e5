"""A plot of time and memory against size, as SVG, by nothing but strings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 360, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 40
COLOURS = {"send": "#0b6e99", "receive": "#c25e00"}
Points = Sequence[tuple[float, float]]


def plot(times: Mapping[str, Points], memory: Mapping[str, Points]) -> str:
    """Return the SVG: times in seconds and memory in MiB, both over sizes in MiB."""
    inside = [
        *_panel(times, "seconds", 0, logarithmic=True),
        *_panel(memory, "peak memory, MiB", WIDTH, logarithmic=False, mark=128),
    ]
    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">'
    )
    paper = f'<rect width="{2 * WIDTH}" height="{HEIGHT}" fill="white"/>'
    return "\n".join([begin, paper, *inside, "</svg>", ""])


def _panel(
    lines: Mapping[str, Points],
    title: str,
    start: int,
    *,
    logarithmic: bool,
    mark: float | None = None,
) -> list[str]:
    """Return one diagram that begins `start` pixels from the left."""
    xs = sorted({x for points in lines.values() for x, _ in points})
    ys = [y for points in lines.values() for _, y in points]
    low = min(ys) * 0.8 if logarithmic else 0.0
    high = max([*ys, mark or 0.0]) * 1.15
    wide, high_px = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(x: float) -> float:
        share = math.log(x / xs[0]) / (math.log(xs[-1] / xs[0]) or 1)
        return start + LEFT + share * wide

    def down(y: float) -> float:
        share = math.log(y / low) / math.log(high / low) if logarithmic else y / high
        return TOP + (1 - share) * high_px

    out = [f'<text x="{start + LEFT}" y="16" font-weight="bold">{title}</text>']
    for x in xs[::2]:
        label = f"{x:.0f} MiB" if x < 1024 else f"{x / 1024:.0f} GiB"
        out.append(_text(across(x), HEIGHT - BOTTOM + 16, label, "middle"))
    for y in _ticks(low, high, logarithmic=logarithmic):
        out.append(_line([(start + LEFT, down(y)), (start + WIDTH - RIGHT, down(y))], "#ddd"))
        out.append(_text(start + LEFT - 6, down(y) + 4, f"{y:g}", "end"))
    if mark is not None:
        ends = [(start + LEFT, down(mark)), (start + WIDTH - RIGHT, down(mark))]
        out.append(_line(ends, "#999", dashed=True))
        out.append(_text(start + WIDTH - RIGHT, down(mark) - 4, f"bar: {mark:g}", "end"))
    for number, (name, points) in enumerate(lines.items()):
        out.append(_line([(across(x), down(y)) for x, y in points], COLOURS[name], width=2))
        where = start + LEFT + 8 + 70 * number
        out.append(_text(where, TOP - 4, name, "start", COLOURS[name]))
    return out


def _ticks(low: float, high: float, *, logarithmic: bool) -> list[float]:
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = [digit * 10.0**power for power in powers for digit in (1, 3)]
        return [step for step in steps if low <= step <= high]
    step = 10.0 ** math.floor(math.log10(high))
    step = step / 2 if high / step < 3 else step
    return [step * number for number in range(math.floor(high / step) + 1)]


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def _line(points: Points, colour: str, *, width: int = 1, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'
