"""Small charts over time, as SVG texts.

Colour never tells alone: windows with drift are triangles and others dots, the reference is dashed, and each point says
its values when it is pointed at.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from math import inf, isfinite

from mlops_ray.show.charts import svg
from mlops_ray.tasks.evaluation import Measured

SMALL, WIDE = (240, 96), (1040, 190)
TOP, FOOT, _SIDE, _GUTTER = 14, 16, 4, 38
# Dashes of lines that share a chart, in order.
_DASHES = ("", "5 3", "1.5 3")

STYLE = """
.explored svg .line{fill:none;stroke:var(--main);stroke-width:1.6}.explored svg .dot{fill:var(--main)}
.explored svg .usual{fill:none;stroke:var(--other);stroke-width:1.4;stroke-dasharray:4 3}
.explored svg .band{fill:var(--main);opacity:.18}.explored svg .drift{fill:var(--alarm)}
.explored svg .shade{fill:var(--shade)}.explored svg .limit{stroke:var(--alarm);stroke-dasharray:2 2}
.explored svg .began{stroke:var(--ink);stroke-width:1;stroke-dasharray:1 2}.explored svg .whisker{stroke:var(--ink)}
.explored svg .square{fill:var(--paper);stroke:var(--ink);stroke-width:1.5}
"""


@dataclass(frozen=True)
class Span:
    """A stretch of time. end: None while it lasts."""

    start: datetime
    end: datetime | None


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
    """One window: its middle is where it is drawn. value: NaN leaves a gap. says: what it tells when pointed at."""

    start: datetime
    end: datetime
    value: float
    says: str
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
        parts += (_mark(frame, point, scale) for point in line if isfinite(point.value))
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
    parts += (_mark(frame, point, scale) for point, _ in estimated if isfinite(point.value))
    for point, one in measured:
        if not isfinite(one.value):
            continue
        x, y = frame.x(point.middle), _y(one.value, scale, height)
        whisker = ""
        if one.low is not None and one.high is not None:
            low, high = (_y(end, scale, height) for end in (one.low, one.high))
            whisker = f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}"/>'
        parts.append(
            f'{whisker}<rect class="square" x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6">'
            f"<title>{escape(point.says)}</title></rect>"
        )
    return svg("".join(parts), *frame.size, label)


def _background(frame: Frame, alarms: Sequence[Span]) -> Iterator[str]:
    height = frame.size[1]
    for one in alarms:
        left, right = frame.x(one.start), frame.x(one.end or frame.end)
        yield (
            f'<rect class="shade" x="{left:.1f}" y="0" width="{max(2.0, right - left):.1f}" height="{height - FOOT}">'
            f"<title>an alarm since {one.start:%Y-%m-%d %H:%M}</title></rect>"
        )
    for moment, name in frame.began:
        if frame.start < moment < frame.end:
            x = frame.x(moment)
            yield (
                f'<path class="began" d="M{x:.1f} 0V{height - FOOT}"/><text x="{x + 2:.1f}" y="10" font-size="9">'
                f"{escape(name)}</text>"
            )


def _ends(frame: Frame, scale: Scale) -> Iterator[str]:
    width, height = frame.size
    yield foot(width, height, f"{frame.start:%Y-%m-%d}", f"{frame.end:%Y-%m-%d}", _GUTTER)
    for y, value in ((TOP, scale.high), (height - FOOT, scale.low)):
        said = escape(scale.words(value))
        yield f'<text x="{_GUTTER - 5}" y="{y}" font-size="10" text-anchor="end">{said}</text>'


def foot(width: int, height: int, first: str, last: str, left: int = 0) -> str:
    """The axis below a small chart, with what stands at its ends."""
    y, line = height - 4, f'<path class="axis" d="M{left} {height - FOOT}H{width}"/>'
    return (
        f'{line}<text x="{left}" y="{y}" font-size="10">{escape(first)}</text>'
        f'<text x="{width}" y="{y}" font-size="10" text-anchor="end">{escape(last)}</text>'
    )


def _y(value: float, scale: Scale, height: int) -> float:
    part = (min(scale.high, max(scale.low, value)) - scale.low) / ((scale.high - scale.low) or 1.0)
    return TOP + (height - TOP - FOOT) * (1 - part)


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


def _mark(frame: Frame, point: Point, scale: Scale) -> str:
    x, y = frame.x(point.middle), _y(point.value, scale, frame.size[1])
    said = f"<title>{escape(point.says)}</title>"
    if point.drift:
        return f'<path class="drift" d="M{x - 4:.1f} {y + 3:.1f}h8l-4 -7z">{said}</path>'
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="1.8">{said}</circle>'
