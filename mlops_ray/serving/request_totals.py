"""Request totals: how all requests to a replica went since it began, for its reports."""

from collections.abc import Mapping, Sequence

from mlops_ray.governance.requests import Requests
from mlops_ray.serving.counters import BOUNDS_S, Counts
from mlops_ray.serving.served_version import ServedVersion

_ROUTES = ("champion", "canary")  # shadows and versions that somebody asks for by number answer no caller's question
_BOUNDS = (*(f"{bound:.3g}" for bound in BOUNDS_S), "inf")


class RequestTotals:
    """Versions come and go, each with its own counts; what one that is gone had counted goes on to count."""

    def __init__(self) -> None:
        self._held: list[tuple[ServedVersion, Requests]] = []
        self._gone = Requests()

    def look(self, counts: Mapping[tuple[str, str], Counts], versions: Sequence[ServedVersion]) -> Requests:
        """All up to now. counts: by version and route, of all versions that ever answered. versions: that are held."""
        for served, last in self._held:
            if not any(served is one for one in versions):
                self._gone += last
        self._held = [(served, _of_version(served)) for served in versions]
        total = self._gone
        for _, found in self._held:
            total += found
        for (_, route), one in list(counts.items()):
            if route in _ROUTES:
                total += _of_answers(one)
        return total


def _of_version(served: ServedVersion) -> Requests:
    judged, reader = served.judged, served.predictor.reader
    missing, stale = ({}, {}) if reader is None else (dict(reader.missing), dict(reader.stale))
    return Requests(
        refused=judged.refused, repaired=judged.repaired, values=dict(judged.values), missing=missing, stale=stale
    )


def _of_answers(counts: Counts) -> Requests:
    latency = {bound: count for bound, count in zip(_BOUNDS, counts.latency, strict=True) if count}
    return Requests(answered=counts.requests - counts.errors, failed=counts.errors, latency=latency)
