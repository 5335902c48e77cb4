"""The page of an endpoint: its alarms, then by version and kind of window the verdicts, quality, slices and features.

What matters most is first, and open; the rest is folded. All text of the data goes through `escape`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from math import isnan
from typing import TYPE_CHECKING

from mlops_ray.governance.alarms import AlarmRecord
from mlops_ray.monitoring.answers import PREDICTION, is_answer
from mlops_ray.monitoring.judging import Distance
from mlops_ray.monitoring.shifts import percent
from mlops_ray.monitoring.show.distributions import beside
from mlops_ray.monitoring.show.requests import requests_html
from mlops_ray.monitoring.show.series import (
    FeaturePoint,
    FeatureSeries,
    KindSeries,
    QualityPoint,
    SliceSeries,
    Verdicts,
    span_of,
)
from mlops_ray.show.beside import STYLE as BESIDE_STYLE
from mlops_ray.show.document import table, unbroken
from mlops_ray.show.over_time import (
    STYLE,
    WIDE,
    Frame,
    Point,
    Scale,
    Span,
    over_time,
    quality_over_time,
)
from mlops_ray.tasks.evaluation import Measured, metric_words

if TYPE_CHECKING:
    from mlops_ray.monitoring.show.drift_view import DriftView, VersionView

# So many features or slices are drawn at once, so many more when they are unfolded, and the rest are lines in a table.
_OPEN, _DRAWN = 8, 40
_ALARMS = 20
_SIGNS = {"critical": "▲▲", "warning": "▲", "info": "△"}
_PAGE_STYLE = """
.explored .multiples{display:grid;grid-template-columns:repeat(auto-fill,minmax(236px,1fr));gap:.3em 1.2em}
.explored figure{margin:.2em 0}.explored figcaption{font-size:12px;color:var(--soft);line-height:1.3}
.explored .feature{border-top:1px solid var(--line);padding:.7em 0 .3em}.explored .feature h4{margin:0 0 .2em}
.explored .feature h4,.explored h3{font-size:1em;overflow-wrap:anywhere}
.explored details{margin:.6em 0}.explored summary{cursor:pointer;color:var(--main)}
.explored .drifts{color:var(--warn);font-weight:600}.explored .words{overflow-wrap:anywhere}
@media print{.explored details>*{display:block}}
"""
PAGE_STYLE = STYLE + BESIDE_STYLE + _PAGE_STYLE
_LEGEND = (
    "● a window, ▲ one with drift; dashed: the reference at the same times; shaded: an alarm stood; dotted vertical: "
    "another version began. A distance of 1 is the threshold. Point at a mark for its values."
)


def view_html(view: "DriftView") -> str:
    """The body; `PAGE_STYLE` is its style."""
    parts = [f"<h1>{escape(view.use_case)}: monitoring</h1>", _facts(view), _alarms(view.alarms, view.now)]
    if view.notes:
        parts.append(f'<ul class="soft">{"".join(f"<li>{escape(note)}</li>" for note in view.notes)}</ul>')
    parts.append(requests_html(view.requests))
    if not view.versions:
        parts.append("<p>Nothing was counted yet.</p>")
    else:
        parts.append(f'<p class="soft"><small>{_LEGEND}</small></p>')
    began = [(one.begins, f"v{one.version}") for one in view.versions if one.begins is not None]
    for number, version in enumerate(view.versions):
        others = [(moment, name) for moment, name in began if name != f"v{version.version}"]
        parts.append(_version(version, view.alarms, others, number == 0 or version.live))
    return "".join(parts)


def _facts(view: "DriftView") -> str:
    standing = sum(alarm.resolved_at is None for alarm in view.alarms)
    facts = [
        (f"{sum(one.rows for one in view.versions):,}", "predictions counted"),
        (f"{len(view.versions):,}", "versions"),
        (f"{sum(kind.finished for one in view.versions for kind in one.kinds):,}", "windows finished"),
        (f"{standing:,}", "alarms stand"),
        (f"{view.now:%Y-%m-%d %H:%M}", "UTC, when this was made"),
    ]
    return f'<div class="facts">{"".join(f"<span><b>{number}</b>{what}</span>" for number, what in facts)}</div>'


def _alarms(alarms: Sequence[AlarmRecord], now: datetime) -> str:
    standing = [one for one in alarms if one.resolved_at is None]
    over = [one for one in alarms if one.resolved_at is not None]
    parts = ["<h2>Alarms</h2>", _alarm_table(standing, now) if standing else "<p>No alarm stands.</p>"]
    if over:
        shown = over[: -_ALARMS - 1 : -1]
        more = f", the last {len(shown)}" if len(shown) < len(over) else ""
        parts.append(_folded(f"{len(over):,} alarms that are over{more}", _alarm_table(shown, now)))
    return "".join(parts)


def _alarm_table(alarms: Iterable[AlarmRecord], now: datetime) -> str:
    rows = []
    for one in alarms:
        state = unbroken("over" if one.resolved_at else "stands")
        if one.resolved_at is None and not one.is_open(now):
            state = f"silenced until {one.silenced_until:%Y-%m-%d %H:%M}: {escape(one.silenced_because)}"
        severity = f"{_SIGNS.get(one.severity, '')} {one.severity}"
        rows.append((unbroken(severity), unbroken(f"{one.since:%Y-%m-%d %H:%M}"), state, escape(one.title)))
    return table(("severity", "since", "", "what"), rows)


def _version(
    version: "VersionView", alarms: Sequence[AlarmRecord], began: Sequence[tuple[datetime, str]], opened: bool
) -> str:
    name = f"Version {escape(version.version)}{' (takes traffic)' if version.live else ''}"
    head = f"{name}: {version.rows:,} predictions"
    if not version.kinds:
        why = f"Not watched: {version.unwatched}" if version.unwatched else "No window has begun."
        return f"<h2>{head}</h2><p>{escape(why)}</p>"
    own = [one for one in alarms if str(one.version) == version.version]
    # The kind with most to show is open.
    first = max(version.kinds, key=lambda kind: len(kind.windows) + sum(bool(one.labels) for one in kind.quality))
    kinds = [first, *(kind for kind in version.kinds if kind is not first)]
    drawn = "".join(
        _folded(f"Windows of {escape(kind.spec)}: {kind.finished:,} finished", _kind(kind, own, began), kind is first)
        for kind in kinds
    )
    return f"<h2>{head}</h2>{drawn}" if opened else _folded(head, drawn)


def _kind(kind: KindSeries, alarms: Sequence[AlarmRecord], began: Sequence[tuple[datetime, str]]) -> str:
    if kind.ends is None:
        return "<p>No window was judged yet.</p>"
    frame = Frame(*kind.ends, began)
    parts = []
    if kind.unknown:
        parts.append(f'<p class="warn">There is no reference beside it: {escape(kind.unknown)}</p>')
    parts += [
        _quality(kind, frame, alarms),
        _overview(kind, frame, alarms),
        _slices(kind.slices, frame, metric_words(kind.metric)),
    ]
    return "".join([*parts, _features(kind.features, frame)])


def _overview(kind: KindSeries, frame: Frame, alarms: Sequence[AlarmRecord]) -> str:
    """The whole windows: rows, mean answer, share that is chosen, and what was answered."""
    if not kind.windows:
        return ""
    spans = _spans(alarms, "prediction")
    rows = [_verdict_point(one, float(one.rows), f"{one.rows:,} rows", one.data == "drift") for one in kind.windows]
    moved = [one.prediction == "drift" for one in kind.windows]
    means = [
        _verdict_point(one, one.mean, f"mean answer {one.mean:.4g}", drift)
        for one, drift in zip(kind.windows, moved, strict=True)
    ]
    chosen = [
        _verdict_point(one, one.chosen, f"{one.chosen:.1%} chosen", drift)
        for one, drift in zip(kind.windows, moved, strict=True)
    ]
    charts = [
        ("Rows in a window; ▲ the data had changed", rows, Scale.of([p.value for p in rows], ",.0f", 0.0), ()),
        ("Mean answer; ▲ the answers had changed", means, Scale.of([p.value for p in means]), spans),
        ("Decision rate", chosen, Scale.of([p.value for p in chosen], ".0%", 0.0, 1.0), spans),
    ]
    drawn = "".join(
        _figure(over_time(frame, [points], f"{title}, {_in_words(points)}", scale, alarms=marked), title)
        for title, points, scale, marked in charts
        if any(not isnan(point.value) for point in points)
    )
    lacking = sum("not enough data" in (one.data, one.prediction) for one in kind.windows)
    concept = sum(one.concept == "drift" for one in kind.windows)
    said = f"Of the last {len(kind.windows)} windows {sum(one.data == 'drift' for one in kind.windows)} have drift of "
    said += f"the data, {sum(moved)} of the answers, {concept} of what labels say; {lacking} could not be judged whole."
    return f'<h3>Windows</h3><p class="soft">{said}</p><div class="multiples">{drawn}</div>'


def _quality(kind: KindSeries, frame: Frame, alarms: Sequence[AlarmRecord]) -> str:
    estimated = [(_quality_point(one, one.estimated, "estimated"), one.estimated) for one in kind.quality]
    measured = [
        (_quality_point(one, one.measured, f"measured on {one.labels:,} labels"), one.measured) for one in kind.quality
    ]
    known = [one for one in (*estimated, *measured) if not isnan(one[1].value)]
    if not known:
        return "<h3>Quality</h3><p>Neither estimated nor measured yet.</p>"
    wide = Frame(frame.start, frame.end, frame.began, WIDE)
    title = (
        f"{_named(kind.metric)}: estimated (line with its 95 % band), measured on labels (squares with 95 % intervals)"
    )
    said = f"{title}. {_last_words(kind.quality)}"
    chart = quality_over_time(wide, estimated, measured, said, _spans(alarms, "concept"))
    return f"<h3>Quality</h3>{_figure(chart, said)}"


def _last_words(quality: Sequence[QualityPoint]) -> str:
    parts = []
    for name, found in (("estimated", [one.estimated for one in quality]), ("measured", [o.measured for o in quality])):
        last = next((one for one in reversed(found) if not isnan(one.value)), None)
        parts.append(f"last {name} {_measured(last)}" if last else f"never {name}")
    off = sum(map(_is_off, quality))
    both = sum(not isnan(one.measured.value) and one.estimated.low is not None for one in quality)
    held = f" Of {both} windows with both {both - off} are as estimated." if both else ""
    return f"{'; '.join(parts).capitalize()}.{held}"


def _is_off(one: QualityPoint) -> bool:
    low, high, truth = one.estimated.low, one.estimated.high, one.measured.value
    return low is not None and high is not None and not isnan(truth) and not low <= truth <= high


def _named(metric: str) -> str:
    words = metric_words(metric)
    return words[0].upper() + words[1:]


def _slices(slices: Sequence[SliceSeries], frame: Frame, metric: str) -> str:
    known = [one for one in slices if one.last is not None]
    if not known:
        return ""
    large = [one for one in known if not one.is_small] or known
    scale = Scale.of_intervals(point.measured for one in large for point in one.points)
    drawn = [_slice(one, frame, scale) for one in known]
    shown, rest = (f'<div class="multiples">{"".join(part)}</div>' for part in (drawn[:_OPEN], drawn[_OPEN:]))
    more = _folded(f"{len(drawn) - _OPEN:,} more slices", rest) if drawn[_OPEN:] else ""
    return f"<h3>Slices, by measured {metric}, worst first, then those with few labels</h3>{shown}{more}"


def _slice(one: SliceSeries, frame: Frame, scale: Scale) -> str:
    points = [(_quality_point(p, p.measured, f"{p.labels:,} labels"), p.measured) for p in one.points]
    last = one.last
    assert last is not None
    said = f"{_measured(last.measured)} on {last.labels:,} labels{f', {last.about}' if last.about else ''}"
    chart = quality_over_time(frame, [], points, f"{one.name}: {said}", scale=scale)
    return _figure(chart, f"<b>{escape(one.name)}</b> {escape(said)}")


def _features(features: Sequence[FeatureSeries], frame: Frame) -> str:
    if not features:
        return ""
    drawn = [_feature(one, frame) for one in features[: _OPEN + _DRAWN]]
    parts = ["<h3>Features: those that drift first, then by importance</h3>", *drawn[:_OPEN]]
    if drawn[_OPEN:]:
        parts.append(_folded(f"{len(drawn) - _OPEN:,} more features", "".join(drawn[_OPEN:])))
    if rest := features[_OPEN + _DRAWN :]:
        heads = ("feature", "importance", "furthest, in thresholds", "missing", "now")
        parts.append(_folded(f"The other {len(rest):,} features in numbers", table(heads, map(_row, rest))))
    return "".join(parts)


def _feature(one: FeatureSeries, frame: Frame) -> str:
    name = escape(one.name) or "<i>no name</i>"
    if is_answer(one.name):
        name = f"The answers{name.removeprefix(PREDICTION)}"
    elif not isnan(one.importance):
        name += f", {percent(one.importance)} of the importance"
    state = '<span class="drifts">▲ drifts</span>, ' if one.drifts else ""
    charts = [
        ("Reference (filled) and now (outlined)" if one.is_number else "Reference (grey, above) and now",
         beside(one.reference, one.now, f"{one.name}: distribution in the reference and now. {one.words}")),
        _level(one, frame),
        _ratio(one, frame),
        *([] if one.is_segment else [_gaps(one, frame)]),
    ]  # fmt: skip
    drawn = "".join(_figure(chart, caption) for caption, chart in charts)
    return (
        f'<div class="feature"><h4>{name}</h4><div class="words">{state}<small>{escape(one.words)}</small></div>'
        f'<div class="multiples">{drawn}</div></div>'
    )


def _level(one: FeatureSeries, frame: Frame) -> tuple[str, str]:
    if not one.is_number:
        lines = [
            [_point(p, p.shares[at], f"{category} {p.shares[at]:.1%}") for p in one.points]
            for at, category in enumerate(one.categories)
        ]
        scale = Scale.of([point.value for line in lines for point in line], ".0%", 0.0, 1.0)
        styles = ("solid", "dashed", "dotted")
        named = ", ".join(f"{escape(c)} {style}" for c, style in zip(one.categories, styles, strict=False))
        label = f"{one.name}: shares of {', '.join(one.categories)}"
        chart = over_time(frame, lines, label, scale, alarms=one.alarms)
        return f"Shares over time: {named}", chart
    level = [_point(p, p.level, f"mean {p.level:.5g}") for p in one.points]
    usual = [Point(p.start, p.end, p.usual, "") for p in one.points]
    scale = Scale.of([point.value for point in (*level, *usual)])
    label = f"{one.name}: mean, {_in_words(level)}"
    return "Mean over time; dashed: the reference's", over_time(frame, [level], label, scale, usual, one.alarms)


def _ratio(one: FeatureSeries, frame: Frame) -> tuple[str, str]:
    points = [_point(p, p.ratio, _distance_words(p.distance)) for p in one.points]
    scale = Scale.of([1.2, *(point.value for point in points)], ".2g", 0.0)
    label = f"{one.name}: distance from the reference in thresholds, {_in_words(points)}"
    return "Distance from the reference; 1 is the threshold", over_time(
        frame, [points], label, scale, alarms=one.alarms, limit=1.0
    )


def _gaps(one: FeatureSeries, frame: Frame) -> tuple[str, str]:
    missing = [Point(p.start, p.end, p.missing, _says(p.start, f"{p.missing:.2%} missing")) for p in one.points]
    new = [Point(p.start, p.end, p.new, _says(p.start, f"{p.new:.2%} never seen before")) for p in one.points]
    lines = [missing] if one.is_number else [missing, new]
    scale = Scale.of([0.01, *(point.value for line in lines for point in line)], ".1%", 0.0, 1.0)
    caption = "Missing" if one.is_number else "Missing (solid), and never seen before (dashed)"
    return caption, over_time(frame, lines, f"{one.name}: {caption}, {_in_words(missing)}", scale)


def _row(one: FeatureSeries) -> tuple[str, ...]:
    last = one.points[-1] if one.points else None
    share = "" if isnan(one.importance) else percent(one.importance)
    missing = "" if last is None or isnan(last.missing) or one.is_segment else f"{last.missing:.1%}"
    return escape(one.name), share, f"{one.furthest:.2f}", missing, escape(one.words)


def _spans(alarms: Iterable[AlarmRecord], question: str) -> list[Span]:
    return [span_of(one) for one in alarms if one.question == question]


def _verdict_point(one: Verdicts, value: float, text: str, drift: bool) -> Point:
    return Point(one.start, one.end, value, _says(one.start, text), drift)


def _quality_point(one: QualityPoint, found: Measured, text: str) -> Point:
    return Point(one.start, one.end, found.value, _says(one.start, f"{text}: {_measured(found)}"))


def _point(one: FeaturePoint, value: float, text: str) -> Point:
    return Point(one.start, one.end, value, _says(one.start, text), one.ratio > 1)


def _distance_words(one: Distance | None) -> str:
    return "not judged" if one is None else f"{one.detector} {one.value:.3g}, threshold {one.threshold:.3g}"


def _says(start: datetime, text: str) -> str:
    return f"{start:%Y-%m-%d %H:%M}: {text}"


def _measured(found: Measured) -> str:
    if isnan(found.value):
        return "unknown"
    interval = "" if found.low is None or found.high is None else f" ({found.low:.3f} to {found.high:.3f})"
    return f"{found.value:.3f}{interval}"


def _in_words(points: Sequence[Point]) -> str:
    """For those who do not see the chart."""
    known = [point.value for point in points if not isnan(point.value)]
    if not known:
        return "not known"
    drift = sum(point.drift for point in points)
    return f"{len(known)} windows from {min(known):.3g} to {max(known):.3g}, last {known[-1]:.3g}, {drift} with drift"


def _figure(chart: str, caption: str) -> str:
    """caption: HTML already."""
    return f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"


def _folded(summary: str, body: str, opened: bool = False) -> str:
    """summary, body: HTML already."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{body}</details>"
