"""What is known of one kind of window: quality estimated and measured, the windows' verdicts, and slices; each chart
with the table behind it."""

from collections.abc import Iterable, Sequence
from html import escape
from math import isnan

from mlops_ray.governance.alarms import AlarmRecord
from mlops_ray.monitoring.show.parts import figure, folded, in_words, measured, moment
from mlops_ray.monitoring.show.series import KindSeries, QualityPoint, SliceSeries, Verdicts, span_of
from mlops_ray.show.document import table
from mlops_ray.show.over_time import WIDE, Frame, Point, Scale, Span, over_time, quality_over_time
from mlops_ray.tasks.evaluation import Measured, metric_words

# So many slices are drawn at once, the rest when they are unfolded.
OPEN = 8


def quality_html(kind: KindSeries, frame: Frame, alarms: Sequence[AlarmRecord]) -> str:
    estimated = [(_quality_point(one, one.estimated), one.estimated) for one in kind.quality]
    labelled = [(_quality_point(one, one.measured), one.measured) for one in kind.quality]
    known = [one for one in (*estimated, *labelled) if not isnan(one[1].value)]
    if not known:
        return "<h3>Quality</h3><p>Neither estimated nor measured yet.</p>"
    wide = Frame(frame.start, frame.end, frame.began, WIDE)
    title = (
        f"{_named(kind.metric)}: estimated (line with its 95 % band), measured on labels (squares with 95 % intervals)"
    )
    said = f"{title}. {_last_words(kind.quality)}"
    chart = quality_over_time(wide, estimated, labelled, said, _spans(alarms, "concept"))
    return f"<h3>Quality</h3>{figure(chart, said)}{folded('The same as a table', _quality_table(kind.quality))}"


def _last_words(quality: Sequence[QualityPoint]) -> str:
    parts = []
    for name, found in (("estimated", [one.estimated for one in quality]), ("measured", [o.measured for o in quality])):
        last = next((one for one in reversed(found) if not isnan(one.value)), None)
        parts.append(f"last {name} {measured(last)}" if last else f"never {name}")
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


def _quality_table(quality: Iterable[QualityPoint]) -> str:
    heads = ("window from", "estimated", "measured", "on labels", "")
    rows = [
        (
            f"{'▲ ' if _is_off(one) else ''}{moment(one.start)}",
            "" if isnan(one.estimated.value) else measured(one.estimated),
            "" if isnan(one.measured.value) else measured(one.measured),
            f"{one.labels:,}",
            escape(one.about),
        )
        for one in quality
    ]
    return table(heads, rows)


def windows_html(kind: KindSeries, frame: Frame, alarms: Sequence[AlarmRecord]) -> str:
    """The whole windows: rows, mean answer, share that is chosen, and what was answered."""
    if not kind.windows:
        return ""
    spans = _spans(alarms, "prediction")
    rows = [Point(one.start, one.end, float(one.rows), one.data == "drift") for one in kind.windows]
    moved = [one.prediction == "drift" for one in kind.windows]
    means = [Point(one.start, one.end, one.mean, drift) for one, drift in zip(kind.windows, moved, strict=True)]
    chosen = [Point(one.start, one.end, one.chosen, drift) for one, drift in zip(kind.windows, moved, strict=True)]
    charts = [
        ("Rows in a window; ▲ the data had changed", rows, Scale.of([p.value for p in rows], ",.0f", 0.0), ()),
        ("Mean answer; ▲ the answers had changed", means, Scale.of([p.value for p in means]), spans),
        ("Decision rate", chosen, Scale.of([p.value for p in chosen], ".0%", 0.0, 1.0), spans),
    ]
    drawn = "".join(
        figure(over_time(frame, [points], f"{title}, {in_words(points)}", scale, alarms=marked), title)
        for title, points, scale, marked in charts
        if any(not isnan(point.value) for point in points)
    )
    lacking = sum("not enough data" in (one.data, one.prediction) for one in kind.windows)
    concept = sum(one.concept == "drift" for one in kind.windows)
    said = f"Of the last {len(kind.windows)} windows {sum(one.data == 'drift' for one in kind.windows)} have drift of "
    said += f"the data, {sum(moved)} of the answers, {concept} of what labels say; {lacking} could not be judged whole."
    behind = folded("The same as a table", _windows_table(kind.windows))
    return f'<h3>Windows</h3><p class="soft">{said}</p><div class="multiples">{drawn}</div>{behind}'


def _windows_table(windows: Iterable[Verdicts]) -> str:
    heads = ("window from", "rows", "data", "answers", "labels say", "mean answer", "decision rate")
    rows = [
        (
            moment(one.start), f"{one.rows:,}", one.data, one.prediction, one.concept,
            "" if isnan(one.mean) else f"{one.mean:.4g}", "" if isnan(one.chosen) else f"{one.chosen:.1%}",
        )
        for one in windows
    ]  # fmt: skip
    return table(heads, rows)


def slices_html(slices: Sequence[SliceSeries], frame: Frame, metric: str) -> str:
    known = [one for one in slices if one.last is not None]
    if not known:
        return ""
    large = [one for one in known if not one.is_small] or known
    scale = Scale.of_intervals(point.measured for one in large for point in one.points)
    drawn = [slice_html(one, frame, scale) for one in known]
    shown, rest = (
        f'<div class="multiples">{"".join(part)}</div>{folded("The same as a table", _slices_table(ones))}'
        for part, ones in ((drawn[:OPEN], known[:OPEN]), (drawn[OPEN:], known[OPEN:]))
    )
    more = folded(f"{len(drawn) - OPEN:,} more slices", rest) if drawn[OPEN:] else ""
    return f"<h3>Slices, by measured {metric}, worst first, then those with few labels</h3>{shown}{more}"


def slice_html(one: SliceSeries, frame: Frame, scale: Scale) -> str:
    points = [(_quality_point(p, p.measured), p.measured) for p in one.points]
    last = one.last
    assert last is not None
    said = f"{measured(last.measured)} on {last.labels:,} labels{f', {last.about}' if last.about else ''}"
    chart = quality_over_time(frame, [], points, f"{one.name}: {said}", scale=scale)
    return figure(chart, f"<b>{escape(one.name)}</b> {escape(said)}")


def _slices_table(slices: Sequence[SliceSeries]) -> str:
    """A line for each window, with what labels say of each slice, and how many."""
    known = [
        {point.start: f"{measured(point.measured)} on {point.labels:,}" for point in one.points if point.labels}
        for one in slices
    ]
    starts = sorted({start for one in known for start in one})
    heads = ("window from", *(escape(one.name) for one in slices))
    return table(heads, [(moment(start), *(one.get(start, "") for one in known)) for start in starts])


def _quality_point(one: QualityPoint, found: Measured) -> Point:
    return Point(one.start, one.end, found.value)


def _spans(alarms: Iterable[AlarmRecord], question: str) -> list[Span]:
    return [span_of(one) for one in alarms if one.question == question]
