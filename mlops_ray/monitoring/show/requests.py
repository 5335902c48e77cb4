"""The part of an endpoint's page that tells how requests went: refused, repaired, how fast, with which features."""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from math import isnan, nan

from mlops_ray.governance.requests import Requests
from mlops_ray.monitoring.request_history import RequestHour
from mlops_ray.show.document import table
from mlops_ray.show.over_time import Frame, Point, Scale, over_time

_VIEWS = 6
_COLUMNS = 10
_Value = Callable[[Requests], float]


def requests_html(hours: Sequence[RequestHour]) -> str:
    """Charts over the hours, small multiples, and the columns that were repaired. Empty where nothing was reported."""
    if not hours:
        return ""
    frame = Frame(hours[0].start, hours[-1].end)
    total = sum((one.requests for one in hours), Requests())
    charts = [
        _chart(frame, hours, "Requests in an hour", [("asked", lambda found: float(found.asked))], ",.0f"),
        _chart(
            frame, hours, "Refused (solid), failed (dashed)", [("refused", _refused), ("failed", _failed)], ".1%", 1.0
        ),
        _chart(frame, hours, "Repaired by the contract", [("repaired", _repaired)], ".1%", 1.0),
        _chart(
            frame, hours, "Latency in ms: median (solid), 99 % (dashed)", [("median", _ms(0.5)), ("99 %", _ms(0.99))]
        ),
    ]
    charts += [_view(frame, hours, view) for view in _views(total)]
    drawn = f'<div class="multiples">{"".join(charts)}</div>'
    return f'<h2>Requests</h2><p class="soft">{_said(total)}</p>{drawn}{_columns(total)}'


def _said(total: Requests) -> str:
    parts = [
        f"{total.asked:,} requests: {total.answered:,} answered, {total.refused:,} refused, {total.failed:,} failed"
    ]
    parts.append(f"of {total.repaired:,} a value was repaired")
    if (median := total.latency_s(0.5)) is not None:
        parts.append(f"half were answered within {1000 * median:.3g} ms")
    return f"{'; '.join(parts)}."


def _refused(found: Requests) -> float:
    return _share(found.refused, found.asked)


def _failed(found: Requests) -> float:
    return _share(found.failed, found.asked)


def _repaired(found: Requests) -> float:
    return _share(found.repaired, found.asked)


def _ms(share: float) -> _Value:
    def latency_ms(found: Requests) -> float:
        seconds = found.latency_s(share)
        return nan if seconds is None else 1000 * seconds

    return latency_ms


def _share(part: int, whole: int) -> float:
    return part / whole if whole else nan


def _view(frame: Frame, hours: Sequence[RequestHour], view: str) -> str:
    """Of a feature view the values that were not there or too old, for each answer."""

    def missing(found: Requests) -> float:
        return _share(found.missing.get(view, 0), found.answered)

    def stale(found: Requests) -> float:
        return _share(found.stale.get(view, 0), found.answered)

    title = f"View {view}: values missing (solid), too old (dashed), an answer"
    return _chart(frame, hours, title, [("missing", missing), ("too old", stale)], ".2g")


def _views(total: Requests) -> Iterable[str]:
    """Those with most that was missing or too old."""
    lacking = {view: total.missing.get(view, 0) + total.stale.get(view, 0) for view in (*total.missing, *total.stale)}
    return sorted(lacking, key=lambda view: (-lacking[view], view))[:_VIEWS]


def _chart(
    frame: Frame,
    hours: Sequence[RequestHour],
    title: str,
    values: Sequence[tuple[str, _Value]],
    form: str = ".3g",
    roof: float = float("inf"),
) -> str:
    lines = [[_point(hour, name, value(hour.requests), form) for hour in hours] for name, value in values]
    scale = Scale.of([point.value for line in lines for point in line], form, 0.0, roof)
    known = [point.value for point in lines[0] if not isnan(point.value)]
    last = f"last {format(known[-1], form)}" if known else "not known"
    return (
        f"<figure>{over_time(frame, lines, f'{title}: {last}', scale)}<figcaption>{escape(title)}</figcaption></figure>"
    )


def _point(hour: RequestHour, name: str, value: float, form: str) -> Point:
    said = "" if isnan(value) else f"{hour.start:%Y-%m-%d %H:%M}: {format(value, form)} {name}"
    return Point(hour.start, hour.end, value, said)


def _columns(total: Requests) -> str:
    if not total.values:
        return ""
    most = sorted(total.values.items(), key=lambda one: (-one[1], one[0]))[:_COLUMNS]
    return table(("column", "values repaired"), [(escape(name), f"{count:,}") for name, count in most])
