"""Lines: a view for a terminal."""

from collections.abc import Iterator
from math import isnan
from typing import TYPE_CHECKING

from mlops_ray.show.text import columns, printable
from mlops_ray.tasks.evaluation import metric_words

if TYPE_CHECKING:
    from mlops_ray.monitoring.show.drift_view import DriftView
    from mlops_ray.monitoring.show.series import KindSeries

_FEATURES = 10


def view_lines(view: "DriftView") -> Iterator[str]:
    """The alarms that stand, then by version and kind of window the quality and the features that are furthest."""
    standing = [one for one in view.alarms if one.resolved_at is None]
    yield printable(f"{view.title} at {view.now:%Y-%m-%d %H:%M} UTC, {len(standing)} alarms stand")
    for alarm in standing:
        yield printable(f"  {alarm.severity} since {alarm.since:%Y-%m-%d %H:%M}: {alarm.title}")
    for version in view.versions:
        yield printable(f"version {version.version}: {version.rows:,} predictions. {version.unwatched}".rstrip())
        for kind in version.kinds:
            yield printable(f"  windows of {kind.spec}: {kind.finished:,} finished. {kind.unknown}".rstrip())
            yield from _kind(kind)
    if not view.versions:
        yield "Nothing was counted yet."


def _kind(kind: "KindSeries") -> Iterator[str]:
    for name in ("estimated", "measured"):
        last = next((getattr(one, name) for one in reversed(kind.quality) if not isnan(getattr(one, name).value)), None)
        if last is not None:
            yield f"    {metric_words(kind.metric)} last {name}: {last.value:.4f}"
    rows = [(one.name, f"{one.furthest:.2f}", "drifts" if one.drifts else "", one.words) for one in kind.features]
    if rows:
        shown = columns(("feature", "furthest, in thresholds", "", "change"), rows[:_FEATURES])
        yield from (f"    {line}" for line in shown.splitlines())
    if len(rows) > _FEATURES:
        yield f"    {len(rows) - _FEATURES} more features"
