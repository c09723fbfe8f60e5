"""Draw peak memory against the size of the file as SVG, without a library for plots."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 480, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 72, 34, 48
LIMIT_MIB = 128
"""The most memory that a send or receive may take; a dashed line in the plot."""
STEP_MIB = 32
COLOURS = {"send": "#0b6e99", "receive": "#c25e00"}
Points = Sequence[tuple[float, float]]


def plot(memory: Mapping[str, Points]) -> str:
    """Return the SVG: a line of memory in MiB over size in MiB for `send` and for `receive`."""
    sizes = sorted({size for points in memory.values() for size, _ in points})
    peaks = [peak for points in memory.values() for _, peak in points]
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    high = max(*peaks, LIMIT_MIB) * 1.1

    def across(size: float) -> float:
        """Return the horizontal place of a size, on a logarithmic axis."""
        share = math.log(size / sizes[0]) / (math.log(sizes[-1] / sizes[0]) or 1)
        return LEFT + share * (right - LEFT)

    def down(peak: float) -> float:
        return bottom - peak / high * (bottom - TOP)

    begin = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="11">'
    )
    out = [
        begin,
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="18" font-weight="bold">peak memory, MiB</text>',
        _text((LEFT + right) / 2, bottom + 34, "size of the file, MiB", "middle"),
    ]
    out += [_text(across(size), bottom + 16, f"{size:.0f}", "middle") for size in sizes[::2]]
    for peak in range(0, LIMIT_MIB + 1, STEP_MIB):
        dashed = peak == LIMIT_MIB
        ends = [(LEFT, down(peak)), (right, down(peak))]
        out.append(_line(ends, "#999" if dashed else "#ddd", dashed=dashed))
        out.append(_text(LEFT - 6, down(peak) + 4, f"{peak}", "end"))
    out.append(_text(right + 6, down(LIMIT_MIB) + 4, "limit", "start"))
    for name, points in memory.items():
        out.append(
            _line([(across(size), down(peak)) for size, peak in points], COLOURS[name], width=2)
        )
        out.append(_text(right + 6, down(points[-1][1]) + 4, name, "start", COLOURS[name]))
    return "\n".join([*out, "</svg>", ""])


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#333") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{text}</text>'


def _line(points: Points, colour: str, *, width: int = 1, dashed: bool = False) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}/>'
