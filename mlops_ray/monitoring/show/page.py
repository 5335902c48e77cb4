"""The page of an endpoint: its alarms, then by version and kind of window the verdicts, quality, slices and features.

What matters most is first, and open; the rest is folded. All text of the data goes through `escape`.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from mlops_ray.governance.alarms import AlarmRecord
from mlops_ray.monitoring.show.feature import features_html
from mlops_ray.monitoring.show.kind import quality_html, slices_html, windows_html
from mlops_ray.monitoring.show.parts import folded, moment
from mlops_ray.monitoring.show.requests import requests_html
from mlops_ray.monitoring.show.series import KindSeries
from mlops_ray.show.beside import STYLE as BESIDE_STYLE
from mlops_ray.show.document import table, unbroken
from mlops_ray.show.over_time import STYLE, Frame
from mlops_ray.tasks.evaluation import metric_words

if TYPE_CHECKING:
    from mlops_ray.monitoring.show.drift_view import DriftView, VersionView

_ALARMS = 20
_SIGNS = {"critical": "▲▲", "warning": "▲", "info": "△"}
_PAGE_STYLE = """
.explored .multiples{display:grid;grid-template-columns:repeat(auto-fill,minmax(236px,1fr));gap:.3em 1.2em}
.explored figure{margin:.2em 0}.explored figcaption{font-size:12px;color:var(--soft);line-height:1.3}
.explored .feature{border-top:1px solid var(--line);padding:.7em 0 .3em}.explored .feature h4{margin:0 0 .2em}
.explored .feature h4,.explored h3{font-size:1em;overflow-wrap:anywhere}
.explored details{margin:.6em 0}.explored summary{cursor:pointer;color:var(--main)}
.explored .drifts{color:var(--warn);font-weight:600}.explored .words{overflow-wrap:anywhere}
.explored time{white-space:nowrap}.explored .what{min-width:16em}
@media print{.explored details>*{display:block}}
"""
PAGE_STYLE = STYLE + BESIDE_STYLE + _PAGE_STYLE
LEGEND = (
    "● a window, ▲ one with drift; dashed: the reference at the same times; shaded: an alarm stood; dotted vertical: "
    "another version began. A distance of 1 is the threshold."
)


def view_html(view: "DriftView") -> str:
    """The body; `PAGE_STYLE` is its style."""
    parts = [f"<h1>{escape(view.use_case)}: monitoring</h1>", facts_html(view), alarms_html(view.alarms, view.now)]
    if view.notes:
        parts.append(f'<ul class="soft">{"".join(f"<li>{escape(note)}</li>" for note in view.notes)}</ul>')
    parts.append(requests_html(view.requests))
    if not view.versions:
        parts.append("<p>Nothing was counted yet.</p>")
    else:
        parts.append(f'<p class="soft"><small>{LEGEND}</small></p>')
    began = [(one.begins, f"v{one.version}") for one in view.versions if one.begins is not None]
    for number, version in enumerate(view.versions):
        others = [(moment, name) for moment, name in began if name != f"v{version.version}"]
        parts.append(_version(version, view.alarms, others, number == 0 or version.live))
    return "".join(parts)


def facts_html(view: "DriftView") -> str:
    standing = sum(alarm.resolved_at is None for alarm in view.alarms)
    facts = [
        (f"{sum(one.rows for one in view.versions):,}", "predictions counted"),
        (f"{len(view.versions):,}", "versions"),
        (f"{sum(kind.finished for one in view.versions for kind in one.kinds):,}", "windows finished"),
        (f"{standing:,}", "alarms stand"),
        (f"{view.now:%Y-%m-%d %H:%M}", "UTC, when this was made"),
    ]
    return f'<div class="facts">{"".join(f"<span><b>{number}</b>{what}</span>" for number, what in facts)}</div>'


def alarms_html(alarms: Sequence[AlarmRecord], now: datetime) -> str:
    standing = [one for one in alarms if one.resolved_at is None]
    over = [one for one in alarms if one.resolved_at is not None]
    parts = ["<h2>Alarms</h2>", _alarm_table(standing, now) if standing else "<p>No alarm stands.</p>"]
    if over:
        shown = over[: -_ALARMS - 1 : -1]
        more = f", the last {len(shown)}" if len(shown) < len(over) else ""
        parts.append(folded(f"{len(over):,} alarms that are over{more}", _alarm_table(shown, now)))
    return "".join(parts)


def _alarm_table(alarms: Iterable[AlarmRecord], now: datetime) -> str:
    rows = []
    for one in alarms:
        state = unbroken("over" if one.resolved_at else "stands")
        if one.resolved_at is None and not one.is_open(now):
            state = f"silenced until {one.silenced_until:%Y-%m-%d %H:%M}: {escape(one.silenced_because)}"
        severity = f"{_SIGNS.get(one.severity, '')} {one.severity}"
        what = f'<div class="what">{escape(one.title)}</div>'
        rows.append((what, unbroken(severity), moment(one.since), state))
    return table(("what", "severity", "since", ""), rows)


def _version(
    version: "VersionView", alarms: Sequence[AlarmRecord], began: Sequence[tuple[datetime, str]], opened: bool
) -> str:
    name = f"Version {escape(version.version)}{' (takes traffic)' if version.live else ''}"
    head = f"{name}: {version.rows:,} predictions"
    if not version.kinds:
        why = f"Not watched: {version.unwatched}" if version.unwatched else "No window has begun."
        return f"<h2>{head}</h2><p>{escape(why)}</p>"
    own = [one for one in alarms if str(one.version) == version.version]
    first = version.most_telling
    kinds = [first, *(kind for kind in version.kinds if kind is not first)]
    drawn = "".join(
        folded(f"Windows of {escape(kind.spec)}: {kind.finished:,} finished", _kind(kind, own, began), kind is first)
        for kind in kinds
    )
    return f"<h2>{head}</h2>{drawn}" if opened else folded(head, drawn)


def _kind(kind: KindSeries, alarms: Sequence[AlarmRecord], began: Sequence[tuple[datetime, str]]) -> str:
    if kind.ends is None:
        return "<p>No window was judged yet.</p>"
    frame = Frame(*kind.ends, began)
    parts = []
    if kind.unknown:
        parts.append(f'<p class="warn">There is no reference beside it: {escape(kind.unknown)}</p>')
    parts += [
        quality_html(kind, frame, alarms),
        windows_html(kind, frame, alarms),
        slices_html(kind.slices, frame, metric_words(kind.metric)),
    ]
    return "".join([*parts, features_html(kind.features, frame)])
