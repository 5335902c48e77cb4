"""A feature over time: its distribution beside the reference's, its level, its distance and its gaps, with the table
behind them; and all features of a kind of window, those that drift first."""

from collections.abc import Sequence
from html import escape
from math import isnan

from mlops_ray.monitoring.answers import PREDICTION, is_answer
from mlops_ray.monitoring.shifts import percent
from mlops_ray.monitoring.show.distributions import beside
from mlops_ray.monitoring.show.parts import figure, folded, in_words, moment
from mlops_ray.monitoring.show.series import FeaturePoint, FeatureSeries
from mlops_ray.show.document import table
from mlops_ray.show.over_time import Frame, Point, Scale, over_time

# So many are drawn at once, so many more when they are unfolded, and the rest are lines in a table.
OPEN, DRAWN = 8, 40
HEADS = ("feature", "importance", "furthest, in thresholds", "missing", "now")


def features_html(features: Sequence[FeatureSeries], frame: Frame) -> str:
    if not features:
        return ""
    drawn = [feature_html(one, frame) for one in features[: OPEN + DRAWN]]
    parts = ["<h3>Features: those that drift first, then by importance</h3>", *drawn[:OPEN]]
    if drawn[OPEN:]:
        parts.append(folded(f"{len(drawn) - OPEN:,} more features", "".join(drawn[OPEN:])))
    if rest := features[OPEN + DRAWN :]:
        parts.append(folded(f"The other {len(rest):,} features in numbers", table(HEADS, map(row, rest))))
    return "".join(parts)


def feature_html(one: FeatureSeries, frame: Frame, opened: bool = False) -> str:
    """opened: its table, too."""
    name = escape(one.name) or "<i>no name</i>"
    if is_answer(one.name):
        name = f"The answers{name.removeprefix(PREDICTION)}"
    elif not isnan(one.importance):
        name += f", {percent(one.importance)} of the importance"
    state = '<span class="drifts">▲ drifts</span> ' if one.drifts else ""
    charts = [
        ("Reference (filled) and now (outlined)" if one.is_number else "Reference (grey, above) and now",
         beside(one.reference, one.now, f"{one.name}: distribution in the reference and now. {one.words}")),
        _level(one, frame),
        _ratio(one, frame),
        *([] if one.is_segment else [_gaps(one, frame)]),
    ]  # fmt: skip
    drawn = "".join(figure(chart, caption) for caption, chart in charts)
    return (
        f'<div class="feature"><h4>{name}</h4><div class="words">{state}<small>{escape(one.words)}</small></div>'
        f'<div class="multiples">{drawn}</div>{_values(one, opened)}</div>'
    )


def _level(one: FeatureSeries, frame: Frame) -> tuple[str, str]:
    if not one.is_number:
        lines = [[_point(p, p.shares[at]) for p in one.points] for at, category in enumerate(one.categories)]
        scale = Scale.of([point.value for line in lines for point in line], ".0%", 0.0, 1.0)
        styles = ("solid", "dashed", "dotted")
        named = ", ".join(f"{escape(c)} {style}" for c, style in zip(one.categories, styles, strict=False))
        label = f"{one.name}: shares of {', '.join(one.categories)}"
        chart = over_time(frame, lines, label, scale, alarms=one.alarms)
        return f"Shares over time: {named}", chart
    level = [_point(p, p.level) for p in one.points]
    usual = [Point(p.start, p.end, p.usual) for p in one.points]
    scale = Scale.of([point.value for point in (*level, *usual)])
    label = f"{one.name}: mean, {in_words(level)}"
    return "Mean over time; dashed: the reference's", over_time(frame, [level], label, scale, usual, one.alarms)


def _ratio(one: FeatureSeries, frame: Frame) -> tuple[str, str]:
    points = [_point(p, p.ratio) for p in one.points]
    scale = Scale.of([1.2, *(point.value for point in points)], ".2g", 0.0)
    label = f"{one.name}: distance from the reference in thresholds, {in_words(points)}"
    return "Distance from the reference; 1 is the threshold", over_time(
        frame, [points], label, scale, alarms=one.alarms, limit=1.0
    )


def _gaps(one: FeatureSeries, frame: Frame) -> tuple[str, str]:
    missing = [Point(p.start, p.end, p.missing) for p in one.points]
    new = [Point(p.start, p.end, p.new) for p in one.points]
    lines = [missing] if one.is_number else [missing, new]
    scale = Scale.of([0.01, *(point.value for line in lines for point in line)], ".1%", 0.0, 1.0)
    caption = "Missing" if one.is_number else "Missing (solid), and never seen before (dashed)"
    return caption, over_time(frame, lines, f"{one.name}: {caption}, {in_words(missing)}", scale)


def row(one: FeatureSeries) -> tuple[str, ...]:
    last = one.points[-1] if one.points else None
    share = "" if isnan(one.importance) else percent(one.importance)
    missing = "" if last is None or isnan(last.missing) or one.is_segment else f"{last.missing:.1%}"
    return escape(one.name), share, f"{one.furthest:.2f}", missing, escape(one.words)


def _values(one: FeatureSeries, opened: bool) -> str:
    heads = ["window from", "rows"]
    heads += ["mean", "the reference's"] if one.is_number else [f"share of {escape(name)}" for name in one.categories]
    heads += ["distance", "", "threshold", "in thresholds"]
    heads += [] if one.is_segment else ["missing"] if one.is_number else ["missing", "never seen"]
    return folded("The same as a table", table(heads, [_cells(one, point) for point in one.points]), opened)


def _cells(one: FeatureSeries, point: FeaturePoint) -> list[str]:
    cells = [f"{'▲ ' if point.ratio > 1 else ''}{moment(point.start)}", f"{point.rows:,}"]
    if one.is_number:
        cells += [_number(point.level, ".5g"), _number(point.usual, ".5g")]
    else:
        cells += [_number(share, ".1%") for share in point.shares]
    found = point.distance
    if found is None:
        cells += ["not judged", "", "", ""]
    else:
        cells += [f"{found.value:.3g}", found.detector, f"{found.threshold:.3g}", f"{point.ratio:.2f}"]
    if not one.is_segment:
        cells += [_number(point.missing, ".2%")] if one.is_number else [
            _number(point.missing, ".2%"), _number(point.new, ".2%")
        ]  # fmt: skip
    return cells


def _number(value: float, form: str) -> str:
    return "" if isnan(value) else format(value, form)


def _point(one: FeaturePoint, value: float) -> Point:
    return Point(one.start, one.end, value, one.ratio > 1)
