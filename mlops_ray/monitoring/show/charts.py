"""Small charts over time, and of two distributions beside each other, as SVG texts.

Colour never tells alone: windows with drift are triangles and others dots, and the reference is dashed. The marks of a
line are one shape, as each for itself would be most of a page; the tables behind the charts have their values.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from math import inf, isfinite

import numpy as np

from mlops_ray.exploration.charts import svg
from mlops_ray.monitoring.show.series import Span
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, Sketch
from mlops_ray.tasks.evaluation import Measured

SMALL, WIDE = (240, 96), (1040, 190)
_TOP, _FOOT, _SIDE, _GUTTER = 14, 16, 4, 38
_BINS = 24
_NAMED = 5
# Dashes of lines that share a chart, in order.
_DASHES = ("", "5 3", "1.5 3")

STYLE = """
.explored svg .line{fill:none;stroke:var(--main);stroke-width:1.6}
.explored svg .dots{stroke:var(--main);stroke-width:3.6;stroke-linecap:round}
.explored svg .usual{fill:none;stroke:var(--other);stroke-width:1.4;stroke-dasharray:4 3}
.explored svg .band{fill:var(--main);opacity:.18}.explored svg .drift{fill:var(--alarm)}
.explored svg .shade{fill:var(--shade)}.explored svg .limit{stroke:var(--alarm);stroke-dasharray:2 2}
.explored svg .began{stroke:var(--ink);stroke-width:1;stroke-dasharray:1 2}.explored svg .was{fill:var(--other)}
.explored svg .is{fill:none;stroke:var(--main);stroke-width:1.8}.explored svg .whisker{stroke:var(--ink)}
.explored svg .square{fill:var(--paper);stroke:var(--ink);stroke-width:1.5}
"""


@dataclass(frozen=True)
class Frame:
    """What charts over the same time share. began: moments at which versions began, with their names."""

    start: datetime
    end: datetime
    began: Sequence[tuple[datetime, str]] = ()
    size: tuple[int, int] = SMALL

    def x(self, moment: datetime) -> float:
        """Where a moment is, kept inside."""
        span = (self.end - self.start).total_seconds() or 1.0
        part = min(1.0, max(0.0, (moment - self.start).total_seconds() / span))
        return _GUTTER + part * (self.size[0] - _GUTTER - _SIDE)


@dataclass(frozen=True)
class Point:
    """One window: its middle is where it is drawn. value: NaN leaves a gap."""

    start: datetime
    end: datetime
    value: float
    drift: bool = False

    @property
    def middle(self) -> datetime:
        return self.start + (self.end - self.start) / 2


@dataclass(frozen=True)
class Scale:
    """The values at the bottom and the top of a chart, in words at its left."""

    low: float
    high: float
    form: str = ".3g"

    @classmethod
    def of(cls, values: Sequence[float], form: str = ".3g", floor: float | None = None, roof: float = inf) -> "Scale":
        """Room for all that are finite. floor: is at the bottom; roof: what the top never is above."""
        finite = [value for value in values if isfinite(value)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        low = low if floor is None else floor
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        return cls(low if floor is not None else low - room, min(roof, high + room), form)

    def words(self, value: float) -> str:
        """A value as an axis says it."""
        return f"{value:,.0f}" if self.form == ".3g" and 1e3 <= abs(value) < 1e6 else format(value, self.form)

    @classmethod
    def of_intervals(cls, found: Iterable[Measured]) -> "Scale":
        """Room for metrics between 0 and 1 with their intervals."""
        scale = cls.of([end for one in found for end in (one.value, one.low, one.high) if end is not None], ".2f")
        return cls(max(0.0, scale.low), min(1.0, scale.high), scale.form)


def over_time(
    frame: Frame,
    lines: Sequence[Sequence[Point]],
    label: str,
    scale: Scale,
    usual: Sequence[Point] = (),
    alarms: Sequence[Span] = (),
    limit: float | None = None,
) -> str:
    """Values by window. usual: of the reference. alarms: are shaded. limit: a line that is not to be crossed."""
    height = frame.size[1]
    parts = [*_background(frame, alarms), *_ends(frame, scale)]
    if limit is not None and scale.low <= limit <= scale.high:
        y = _y(limit, scale, height)
        parts.append(f'<path class="limit" d="M{_GUTTER} {y:.1f}H{frame.size[0]}"/>')
    if usual:
        parts.append(f'<path class="usual" d="{_path(frame, usual, scale)}"/>')
    for number, line in enumerate(lines):
        dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number % len(_DASHES) else ""
        parts.append(f'<path class="line" d="{_path(frame, line, scale)}"{dash}/>')
        parts += _marks(frame, line, scale)
    return svg("".join(parts), *frame.size, label)


def quality_over_time(
    frame: Frame,
    estimated: Sequence[tuple[Point, Measured]],
    measured: Sequence[tuple[Point, Measured]],
    label: str,
    alarms: Sequence[Span] = (),
    scale: Scale | None = None,
) -> str:
    """Estimates as a line in the band of their intervals, what labels say as squares with whiskers."""
    scale = scale or Scale.of_intervals(one for _, one in (*estimated, *measured))
    height = frame.size[1]
    parts = [*_background(frame, alarms), *_ends(frame, scale)]
    parts += (f'<path class="band" d="{band}"/>' for band in _bands(frame, estimated, scale))
    parts.append(f'<path class="line" d="{_path(frame, [point for point, _ in estimated], scale)}"/>')
    parts += _marks(frame, [point for point, _ in estimated], scale)
    whiskers, squares = list[str](), list[str]()
    for point, one in measured:
        if not isfinite(one.value):
            continue
        x, y = frame.x(point.middle), _y(one.value, scale, height)
        if one.low is not None and one.high is not None:
            low, high = (_y(end, scale, height) for end in (one.low, one.high))
            whiskers.append(f"M{x:.1f} {low:.1f}V{high:.1f}")
        squares.append(f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z")
    parts += _shape("whisker", whiskers) + _shape("square", squares)
    return svg("".join(parts), *frame.size, label)


def beside(reference: Sketch | None, now: Sketch | None, label: str) -> str:
    """The distribution of the reference as bars, and of the last window as an outline (numbers) or bars below."""
    if isinstance(now, NumericSketch):
        return _numbers(reference if isinstance(reference, NumericSketch) else None, now, label)
    if isinstance(now, CategoricalSketch):
        return _categories(reference if isinstance(reference, CategoricalSketch) else None, now, label)
    return ""


def _numbers(reference: NumericSketch | None, now: NumericSketch, label: str) -> str:
    width, height = SMALL
    edges = _edges([one for one in (reference, now) if one is not None and one.values])
    if edges is None:
        return svg(f'<text x="{_SIDE}" y="{height // 2}">no value</text>', width, height, label)
    shares = [None if one is None or not one.values else _in(one, edges) for one in (reference, now)]
    most = max(float(one.max()) for one in shares if one is not None) or 1.0
    step = (width - 2 * _SIDE) / (len(edges) - 1)

    def y(share: float) -> float:
        return _TOP + (height - _TOP - _FOOT) * (1 - share / most)

    floor, parts = height - _FOOT, []
    if shares[0] is not None:
        for at, share in enumerate(shares[0]):
            said = f"reference: {share:.1%} from {edges[at]:.4g} to {edges[at + 1]:.4g}"
            parts.append(
                f'<rect class="was" x="{_SIDE + at * step:.1f}" y="{y(share):.1f}" width="{max(0.5, step - 1):.1f}" '
                f'height="{max(0.0, floor - y(share)):.1f}"><title>{escape(said)}</title></rect>'
            )
    if shares[1] is not None:
        steps = "".join(f"V{y(share):.1f}H{_SIDE + (at + 1) * step:.1f}" for at, share in enumerate(shares[1]))
        parts.append(f'<path class="is" d="M{_SIDE} {floor}{steps}V{floor}"/>')
    parts.append(_foot(width, height, f"{edges[0]:.4g}", f"{edges[-1]:.4g}"))
    return svg("".join(parts), width, height, label)


def _edges(sketches: Sequence[NumericSketch]) -> np.ndarray | None:
    """Bins of equal width from the 1 % to the 99 % quantile of all; None without values."""
    if not sketches:
        return None
    lows, highs = zip(*(_central(one) for one in sketches), strict=True)
    low, high = min(lows), max(highs)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _BINS + 1)


def _central(sketch: NumericSketch) -> tuple[float, float]:
    """Between which edges about 98 % of the values lie."""
    uppers = np.append(sketch.edges.astype(np.float64), sketch.maximum)
    below = np.cumsum(sketch.counts) / sketch.values
    low, high = (float(uppers[min(int(np.searchsorted(below, rank)), len(uppers) - 1)]) for rank in (0.01, 0.99))
    return max(sketch.minimum, min(low, high)), min(sketch.maximum, high)


def _in(sketch: NumericSketch, edges: np.ndarray) -> np.ndarray:
    """The shares of the values in bins; those outside are in the first and the last."""
    counts = sketch.like(NumericSketch.with_edges(edges)).counts / sketch.values
    inner = counts[1:-1].astype(np.float64)
    inner[0] += counts[0]
    inner[-1] += counts[-1]
    return np.asarray(inner)


def _categories(reference: CategoricalSketch | None, now: CategoricalSketch, label: str) -> str:
    width, height = SMALL
    names = now.categories
    same = reference is not None and reference.categories == names and reference.values > 0
    new = now.counts / now.values if now.values else np.zeros(len(names))
    old = reference.counts / reference.values if same and reference is not None else np.zeros(len(names))
    order = sorted(range(len(names)), key=lambda at: (-max(old[at], new[at]), names[at]))[:_NAMED]
    rows = [(names[at], float(old[at]), float(new[at])) for at in order]
    if now.unseen:
        rows = [*rows[: _NAMED - 1], ("(new)", 0.0, float(now.unseen / now.values))]
    if not rows:
        return svg(f'<text x="{_SIDE}" y="{height // 2}">no value</text>', width, height, label)
    most = max(max(one[1:]) for one in rows) or 1.0
    step, left = height / max(_NAMED, len(rows)), 74
    parts = []
    for at, (name, was, is_) in enumerate(rows):
        shown, top = name if len(name) <= 10 else f"{name[:9]}…", at * step
        said = f"{name}: reference {was:.1%}, now {is_:.1%}"
        bars = (("was", was, 2.0), ("bar", is_, step / 2))
        parts.append(f'<text x="{left - 5}" y="{top + step / 2 + 4:.1f}" text-anchor="end">{escape(shown)}</text>')
        parts += (
            f'<rect class="{kind}" x="{left}" y="{top + offset:.1f}" height="{step / 2 - 2:.1f}" '
            f'width="{max(0.5, (width - left - _SIDE) * share / most):.1f}"><title>{escape(said)}</title></rect>'
            for kind, share, offset in bars
        )
    return svg("".join(parts), width, height, label)


def _background(frame: Frame, alarms: Sequence[Span]) -> Iterator[str]:
    height = frame.size[1]
    for one in alarms:
        left, right = frame.x(one.start), frame.x(one.end or frame.end)
        yield (
            f'<rect class="shade" x="{left:.1f}" y="0" width="{max(2.0, right - left):.1f}" height="{height - _FOOT}">'
            f"<title>an alarm since {one.start:%Y-%m-%d %H:%M}</title></rect>"
        )
    for moment, name in frame.began:
        if frame.start < moment < frame.end:
            x = frame.x(moment)
            yield (
                f'<path class="began" d="M{x:.1f} 0V{height - _FOOT}"/><text x="{x + 2:.1f}" y="10" font-size="9">'
                f"{escape(name)}</text>"
            )


def _ends(frame: Frame, scale: Scale) -> Iterator[str]:
    width, height = frame.size
    yield _foot(width, height, f"{frame.start:%Y-%m-%d}", f"{frame.end:%Y-%m-%d}", _GUTTER)
    for y, value in ((_TOP, scale.high), (height - _FOOT, scale.low)):
        said = escape(scale.words(value))
        yield f'<text x="{_GUTTER - 5}" y="{y}" font-size="10" text-anchor="end">{said}</text>'


def _foot(width: int, height: int, first: str, last: str, left: int = 0) -> str:
    y, line = height - 4, f'<path class="axis" d="M{left} {height - _FOOT}H{width}"/>'
    return (
        f'{line}<text x="{left}" y="{y}" font-size="10">{escape(first)}</text>'
        f'<text x="{width}" y="{y}" font-size="10" text-anchor="end">{escape(last)}</text>'
    )


def _y(value: float, scale: Scale, height: int) -> float:
    part = (min(scale.high, max(scale.low, value)) - scale.low) / ((scale.high - scale.low) or 1.0)
    return _TOP + (height - _TOP - _FOOT) * (1 - part)


def _path(frame: Frame, points: Sequence[Point], scale: Scale) -> str:
    """A line through the points, broken where a value is not known."""
    drawn, pen = [], "M"
    for point in points:
        if isfinite(point.value):
            drawn.append(f"{pen}{frame.x(point.middle):.1f} {_y(point.value, scale, frame.size[1]):.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(drawn)


def _bands(frame: Frame, points: Sequence[tuple[Point, Measured]], scale: Scale) -> Iterator[str]:
    """Areas between the ends of intervals, one for each stretch of points that have one."""
    stretch: list[tuple[float, float, float]] = []
    for point, one in [*points, (None, None)]:
        if point is not None and one is not None and one.low is not None and one.high is not None:
            low, high = (_y(end, scale, frame.size[1]) for end in (one.low, one.high))
            stretch.append((frame.x(point.middle), low, high))
        elif stretch:
            there = "L".join(f"{x:.1f} {high:.1f}" for x, _, high in stretch)
            back = "L".join(f"{x:.1f} {low:.1f}" for x, low, _ in reversed(stretch))
            yield f"M{there}L{back}Z"
            stretch = []


def _marks(frame: Frame, points: Sequence[Point], scale: Scale) -> list[str]:
    """Dots, which are lines of no length, and triangles."""
    dots, triangles = list[str](), list[str]()
    for point in points:
        if not isfinite(point.value):
            continue
        x, y = frame.x(point.middle), _y(point.value, scale, frame.size[1])
        if point.drift:
            triangles.append(f"M{x - 4:.1f} {y + 3:.1f}h8l-4 -7z")
        else:
            dots.append(f"M{x:.1f} {y:.1f}h0")
    return _shape("dots", dots) + _shape("drift", triangles)


def _shape(kind: str, parts: Sequence[str]) -> list[str]:
    return [f'<path class="{kind}" d="{"".join(parts)}"/>'] if parts else []
