"""The page of an endpoint in sections that link to each other, for who serves pages: each weighs little, however many
features, slices, windows and versions there are, and together they hold all that the one page holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from mlops_ray.governance.requests import Requests
from mlops_ray.monitoring.show.feature import HEADS, feature_html, row
from mlops_ray.monitoring.show.kind import OPEN, quality_html, slices_html, windows_html
from mlops_ray.monitoring.show.page import LEGEND, PAGE_STYLE, alarms_html, facts_html
from mlops_ray.monitoring.show.requests import requests_html, requests_words
from mlops_ray.monitoring.show.series import FeatureSeries, KindSeries
from mlops_ray.show.document import table, with_style
from mlops_ray.show.over_time import Frame
from mlops_ray.tasks.evaluation import metric_words

if TYPE_CHECKING:
    from mlops_ray.monitoring.show.drift_view import DriftView, VersionView

_DRAWN = 4  # features of a section of a kind of window: the first that drift


@dataclass(frozen=True)
class Asked:
    """Which section. version, windows: of which version and kind, "" for what tells most. feature: that one alone.
    part: `slices` or `requests` alone; "" for the section that leads to all others."""

    version: str = ""
    windows: str = ""
    feature: str = ""
    part: str = ""


def section_html(view: "DriftView", asked: Asked) -> str | None:
    """The section with its style; None where there is no such version, kind, feature or part."""
    if asked.part == "requests":
        return with_style(f"<h1>{escape(view.use_case)}: monitoring</h1>{requests_html(view.requests)}", PAGE_STYLE)
    version = next((one for one in view.versions if asked.version in ("", one.version)), None)
    if version is None or not version.kinds:
        lacks = asked.version and version is None
        return None if lacks or asked.windows or asked.feature or asked.part else _head(view, version)
    kind = next((one for one in version.kinds if asked.windows == one.spec), None)
    if kind is None and asked.windows:
        return None
    kind = kind or version.most_telling
    body = _body(view, version, kind, asked)
    return None if body is None else with_style(body, PAGE_STYLE)


def _body(view: "DriftView", version: "VersionView", kind: KindSeries, asked: Asked) -> str | None:
    title = f"<h1>{escape(view.use_case)}: monitoring</h1>"
    name = f"Version {escape(version.version)}, windows of {escape(kind.spec)}"
    frame = _frame(view, version, kind)
    if asked.feature:
        found = next((one for one in kind.features if one.name == asked.feature), None)
        return (
            None
            if found is None or frame is None
            else f"{title}<h2>{name}</h2>{feature_html(found, frame, opened=True)}"
        )
    if asked.part == "slices" and frame is not None:
        drawn = slices_html(kind.slices[OPEN:], frame, metric_words(kind.metric))
        return f"{title}<h2>{name}: the other slices</h2>{drawn}"
    return None if asked.part else _head(view, version) + _kind(view, version, kind, frame)


def _head(view: "DriftView", shown: "VersionView | None") -> str:
    """What is of all versions, and the way to each and its kinds of windows."""
    parts = [f"<h1>{escape(view.use_case)}: monitoring</h1>", facts_html(view), alarms_html(view.alarms, view.now)]
    if view.notes:
        parts.append(f'<ul class="soft">{"".join(f"<li>{escape(note)}</li>" for note in view.notes)}</ul>')
    if view.requests:
        said = requests_words(sum((one.requests for one in view.requests), Requests()))
        parts.append(f"<h2>Requests</h2><p>{said} {_link('Hour by hour', {'part': 'requests'})}</p>")
    if not view.versions:
        return "".join([*parts, "<p>Nothing was counted yet.</p>"])
    lines = []
    for one in view.versions:
        why = "" if one.kinds else f"not watched: {one.unwatched}" if one.unwatched else "no window has begun"
        kinds = ", ".join(
            _link(f"windows of {kind.spec}", {"version": one.version, "windows": kind.spec}) + f" ({kind.finished:,})"
            for kind in one.kinds
        )
        live = " (takes traffic)" if one.live else ""
        lines.append((f"{escape(one.version)}{live}", f"{one.rows:,}", kinds or escape(why)))
    return "".join([*parts, "<h2>Versions</h2>", table(("version", "predictions", "its windows"), lines)])


def _kind(view: "DriftView", version: "VersionView", kind: KindSeries, frame: Frame | None) -> str:
    head = f"<h2>Version {escape(version.version)}, windows of {escape(kind.spec)}: {kind.finished:,} finished</h2>"
    if frame is None:
        return f"{head}<p>No window was judged yet.</p>"
    own = [one for one in view.alarms if str(one.version) == version.version]
    here = {"version": version.version, "windows": kind.spec}
    parts = [head, f'<p class="soft"><small>{LEGEND}</small></p>']
    if kind.unknown:
        parts.append(f'<p class="warn">There is no reference beside it: {escape(kind.unknown)}</p>')
    parts += [quality_html(kind, frame, own), windows_html(kind, frame, own)]
    parts.append(slices_html(kind.slices[:OPEN], frame, metric_words(kind.metric)))
    if more := len(kind.slices) - OPEN:
        parts.append(f"<p>{_link('The other slices', here | {'part': 'slices'})}</p>" if more > 0 else "")
    return "".join([*parts, _features(kind.features, frame, here)])


def _features(features: Sequence[FeatureSeries], frame: Frame, here: Mapping[str, str]) -> str:
    """The first that drift are drawn, and all stand in a table that leads to each."""
    if not features:
        return ""
    drawn = "".join(feature_html(one, frame) for one in features[:_DRAWN] if one.drifts)
    rows = []
    for one in features:
        _, *cells = row(one)
        name = f"{'▲ ' if one.drifts else ''}{_link(one.name or 'no name', {**here, 'feature': one.name})}"
        rows.append((name, *cells))
    head = "<h3>Features: those that drift (▲) first, then by importance</h3>"
    return f"{head}{drawn}<h3>All features</h3>{table(HEADS, rows)}"


def _frame(view: "DriftView", version: "VersionView", kind: KindSeries) -> Frame | None:
    others = [(one.begins, f"v{one.version}") for one in view.versions if one.begins and one is not version]
    return None if kind.ends is None else Frame(*kind.ends, others)


def _link(text: str, query: Mapping[str, str]) -> str:
    return f'<a href="?{escape(urlencode(query))}">{escape(text)}</a>'
