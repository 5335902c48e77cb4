"""Parts that all sections of an endpoint's page have, as HTML."""

from collections.abc import Sequence
from datetime import datetime
from math import isnan

from mlops_ray.show.over_time import Point
from mlops_ray.tasks.evaluation import Measured


def moment(value: datetime) -> str:
    """In UTC; the script of the console's pages shows it in the viewer's zone. It is a moment in UTC already."""
    return f'<time datetime="{value:%Y-%m-%dT%H:%MZ}">{value:%Y-%m-%d %H:%M} UTC</time>'


def measured(found: Measured) -> str:
    if isnan(found.value):
        return "unknown"
    interval = "" if found.low is None or found.high is None else f" ({found.low:.3f} to {found.high:.3f})"
    return f"{found.value:.3f}{interval}"


def in_words(points: Sequence[Point]) -> str:
    """For those who do not see the chart."""
    known = [point.value for point in points if not isnan(point.value)]
    if not known:
        return "not known"
    drift = sum(point.drift for point in points)
    return f"{len(known)} windows from {min(known):.3g} to {max(known):.3g}, last {known[-1]:.3g}, {drift} with drift"


def figure(chart: str, caption: str) -> str:
    """caption: HTML already."""
    return f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"


def folded(summary: str, body: str, opened: bool = False) -> str:
    """summary, body: HTML already."""
    return f"<details{' open' if opened else ''}><summary>{summary}</summary>{body}</details>"
