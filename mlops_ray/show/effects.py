"""What features do, as SVG texts: how much each matters, and what the answer is by its values, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mlops_ray.show.charts import svg

_WIDTH, _LEFT, _ROW, _MARGIN = 640, 220, 20, 12
_PLOT = 160
_LONGEST = 30


@dataclass(frozen=True)
class Point:
    """A value with its 95 % interval, None where there is none. name: in words; at: its place, where it is a number."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    at: float | None = None


def bars(title: str, points: Sequence[Point]) -> str:
    """Horizontal bars from 0, with whiskers."""
    ends = [end for one in points for end in (one.value, one.low, one.high) if end is not None]
    scale = _Scale(min(0.0, *ends), max(0.0, *ends), _LEFT, _WIDTH - _MARGIN)
    parts = []
    for row, one in enumerate(points):
        top = row * _ROW + 4
        start, end = sorted((scale(0.0), scale(one.value)))
        parts.append(_text(_LEFT - 8, top + 11, one.name, "end"))
        parts.append(f'<rect x="{start:.1f}" y="{top}" width="{end - start:.1f}" height="12" class="bar"/>')
        if one.low is not None and one.high is not None:
            parts.append(_line(scale(one.low), top + 6, scale(one.high), top + 6))
    return svg("".join(parts), _WIDTH, len(points) * _ROW + 8, title)


def curve(title: str, points: Sequence[Point]) -> str:
    """A line with a band where the points have places; else dots in their order, with whiskers."""
    placed = all(one.at is not None for one in points)
    places = [float(one.at if one.at is not None else order) for order, one in enumerate(points)]
    ends = [end for one in points for end in (one.value, one.low, one.high) if end is not None]
    across = _Scale(min(places), max(places), 60, _WIDTH - 60)
    up = _Scale(min(ends), max(ends), _PLOT - 10, 10)
    parts = [_text(52, up(end) + 4, f"{end:.4g}", "end") for end in sorted({min(ends), max(ends)})]
    spots = [(across(place), one) for place, one in zip(places, points, strict=True)]
    if placed:
        upper = [f"{x:.1f},{up(one.high):.1f}" for x, one in spots if one.high is not None]
        lower = [f"{x:.1f},{up(one.low):.1f}" for x, one in spots if one.low is not None]
        parts.append(f'<polygon points="{" ".join([*upper, *reversed(lower)])}" class="bar" opacity="0.25"/>')
        middle = " ".join(f"{x:.1f},{up(one.value):.1f}" for x, one in spots)
        parts.append(f'<polyline points="{middle}" class="line"/>')
    for x, one in spots:
        parts.append(f'<circle cx="{x:.1f}" cy="{up(one.value):.1f}" r="2.5" class="dot"/>')
        if not placed and one.low is not None and one.high is not None:
            parts.append(_line(x, up(one.low), x, up(one.high)))
    named = [spots[0], spots[-1]] if placed else spots
    parts += [_text(x, _PLOT + 10, one.name, "middle", longest=30 if placed else 8) for x, one in named]
    return svg("".join(parts), _WIDTH, _PLOT + 18, title)


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return self.start + share * (self.end - self.start)


def _text(x: float, y: float, text: str, anchor: str, longest: int = _LONGEST) -> str:
    shown = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11">{escape(shown)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="axis"/>'
