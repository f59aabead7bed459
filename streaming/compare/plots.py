"""Plots as SVG text, for a page that stands alone: intervals about zero, and gains over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 640, 150, 14, 10, 26
COLOURS = 6


@dataclass
class Bar:
    """A named interval; `low` and `high` None where there is none."""

    name: str
    value: float
    low: float | None
    high: float | None
    title: str


@dataclass
class Line:
    """A named course: times in ms, values, and what they lie between (None: no band there)."""

    name: str
    times_ms: Sequence[int]
    values: Sequence[float]
    bands: Sequence[tuple[float, float] | None]


@dataclass
class Mark:
    """Something that happened, at a time in ms."""

    time_ms: int
    title: str


def intervals(bars: Sequence[Bar], unit: str) -> str:
    """Intervals one below another, with zero in sight."""
    height = TOP + 26 * len(bars) + BOTTOM
    ends = [0.0, *(x for b in bars for x in (b.value, b.low, b.high) if x is not None)]
    scale = _Scale(min(ends), max(ends), LEFT, WIDTH - RIGHT)
    out = [_grid_x(scale, height, unit)]
    for n, bar in enumerate(bars):
        y = TOP + 26 * n + 13
        low = bar.value if bar.low is None else bar.low
        high = bar.value if bar.high is None else bar.high
        name, title = escape(_short(bar.name)), escape(bar.title)
        out.append(
            f'<g class="c{n % COLOURS}"><title>{title}</title>'
            f'<text class="name" x="{LEFT - 10}" y="{y + 4}">{name}</text>'
            f'<line class="range" x1="{scale(low):.1f}" x2="{scale(high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot" cx="{scale(bar.value):.1f}" cy="{y}" r="4.5"/></g>'
        )
    return _svg(height, out)


def over_time(lines: Sequence[Line], marks: Sequence[Mark], unit: str) -> str:
    """Courses over time with their bands, and what happened when."""
    height, left = 220, 62
    times = [t for line in lines for t in line.times_ms]
    if not times:
        return ""
    values = [0.0, *(v for line in lines for v in line.values)]
    values += [end for line in lines for band in line.bands if band for end in band]
    x = _Scale(min(times), max(times), left, WIDTH - RIGHT, margin=0)
    y = _Scale(min(values), max(values), height - BOTTOM, TOP)
    out = []
    for tick in y.ticks():
        zero = " zero" if tick == 0 else ""
        out.append(
            f'<line class="grid{zero}" x1="{left}" x2="{WIDTH - RIGHT}" '
            f'y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
            f'<text class="tick" x="{left - 7}" y="{y(tick) + 4:.1f}">{tick:g}{unit}</text>'
        )
    first, last = min(times), max(times)
    for n in range(5):
        at = first + (last - first) * n // 4
        anchor = ("start", "middle", "middle", "middle", "end")[n]
        out.append(
            f'<text class="when" style="text-anchor:{anchor}" x="{x(at):.1f}" '
            f'y="{height - 8}">{_when(at, last - first)}</text>'
        )
    for mark in marks:
        if first <= mark.time_ms <= last:
            out.append(
                f'<line class="mark" x1="{x(mark.time_ms):.1f}" x2="{x(mark.time_ms):.1f}" '
                f'y1="{TOP}" y2="{height - BOTTOM}"><title>{escape(mark.title)}</title></line>'
            )
    for n, line in enumerate(lines):
        banded = [(t, b) for t, b in zip(line.times_ms, line.bands, strict=True) if b]
        edge = [f"{x(t):.1f},{y(b[1]):.1f}" for t, b in banded]
        edge += [f"{x(t):.1f},{y(b[0]):.1f}" for t, b in reversed(banded)]
        path = " ".join(
            f"{x(t):.1f},{y(v):.1f}" for t, v in zip(line.times_ms, line.values, strict=True)
        )
        out.append(
            f'<g class="c{n % COLOURS}"><title>{escape(line.name)}</title>'
            f'<polygon class="band" points="{" ".join(edge)}"/>'
            f'<polyline class="line" points="{path}"/></g>'
        )
    return _svg(height, out)


class _Scale:
    """Numbers to places, with some room at both ends."""

    def __init__(
        self, low: float, high: float, start: float, end: float, margin: float = 0.06
    ) -> None:
        room = (high - low) * margin or (0.0 if margin == 0 else 1.0)
        self.low, self.high = low - room, high + room
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """About five round numbers."""
        rough = (self.high - self.low) / 5
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(m * size for m in (1, 2, 5, 10) if m * size >= rough)
        first = math.ceil(self.low / step)
        return [round(n * step, 12) for n in range(first, int(self.high / step) + 1)]


def _grid_x(scale: _Scale, height: int, unit: str) -> str:
    out = []
    for tick in scale.ticks():
        zero = " zero" if tick == 0 else ""
        at = f"{scale(tick):.1f}"
        out.append(
            f'<line class="grid{zero}" x1="{at}" x2="{at}" y1="{TOP}" y2="{height - BOTTOM}"/>'
            f'<text class="when" x="{at}" y="{height - 8}">{tick:g}{unit}</text>'
        )
    return "".join(out)


def _svg(height: int, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(parts)}</svg>'


def _when(time_ms: int, span_ms: int) -> str:
    form = "%Y-%m" if span_ms > 400 * 86_400_000 else "%m-%d"
    form = "%H:%M:%S" if span_ms < 86_400_000 else form
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime(form)


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"
