"""Metrics: what a replica counted, brought into Ray's own Prometheus endpoint once a second, off the hot path."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from ray.util.metrics import Counter, Gauge

from mlops_ray.predictions.collect import Lag
from mlops_ray.serving.counters import BOUNDS_S, Counts, Judged

# Every fourth of the bounds counted with, and how many of the counted buckets lie below: each is 2.4 times as wide as
# the one before.
_LE = {f"{bound:.4g}": count for count, bound in list(enumerate(BOUNDS_S, 1))[3::4]} | {"+Inf": len(BOUNDS_S) + 1}
_STATUS = ("use_case", "status")
_VERSION = ("use_case", "version", "route")
_OF_VERSION = ("use_case", "version")
# Who counts, and how far it was.
Counted = list[tuple[object, Mapping[tuple[str, ...], float]]]


class Lookups(Protocol):
    """What an online reader counts: seconds spent, and by view features that were not there, and that were too old."""

    seconds: float
    reads: int
    missing: dict[str, int]
    stale: dict[str, int]


class Metrics:
    """The metrics of one use case in one replica. Names begin with `mlops_ray_`; Ray adds its own tags."""

    def __init__(self, use_case: str):
        self._tags = {"use_case": use_case}
        self._requests = _counter("requests", "Requests that a version answered or failed to answer", _VERSION)
        self._errors = _counter("errors", "Requests that a version failed to answer", _VERSION)
        # A Prometheus histogram, bucket by bucket: Ray's own takes one observation a call, and its agent takes each
        # apart again, which at 3,000 requests/s is a twentieth of a core.
        self._latency = _counter(
            "latency_seconds_bucket", "Answers within `le` seconds of the request's arrival", (*_VERSION, "le")
        )
        self._answers = _counter("answers", "Answers of any kind, by HTTP status", _STATUS)
        self._answer_latency = _counter(
            "answer_seconds_bucket",
            "Answers of any kind within `le` seconds of the first byte",
            (*_STATUS, "le"),
        )
        self._lookups = {
            name: _counter(f"online_store_{name}", text, ("use_case", *tags))
            for name, text, *tags in (
                ("seconds", "Time spent reading the online store"),
                ("reads", "Reads of the online store"),
                ("missing", "Feature values that the online store did not have", "view"),
                ("stale", "Feature values that were older than their time to live", "view"),
            )
        }
        self._judged = {
            "refused": _counter("requests_refused", "Requests whose values a version does not take", _OF_VERSION),
            "repaired": _counter("requests_repaired", "Requests of which the contract repaired a value", _OF_VERSION),
            "values": _counter("values_repaired", "Values that the contract repaired", (*_OF_VERSION, "column")),
        }
        self._dropped = _counter("shadow_dropped", "Requests that no shadow was asked, under pressure", ("use_case",))
        self._lag_bytes = _gauge("ledger_waiting_bytes", "Predictions not yet moved to shared storage")
        self._lag_s = _gauge("ledger_oldest_seconds", "Age of the oldest prediction not yet moved to shared storage")
        self._seen: dict[tuple[str, str], Counts] = {}
        self._seen_answers: dict[int, Counts] = {}
        self._seen_lookups: Counted = []
        self._seen_judged: Counted = []
        self._seen_dropped = 0

    def publish(
        self, counts: Mapping[tuple[str, str], Counts], lookups: Sequence[Lookups], dropped: int, lag: Lag
    ) -> None:
        """Add what was counted since the last call. Called from one thread. lookups: of the versions held."""
        for (version, route), counted in list(counts.items()):
            now = counted + Counts()  # as it stands: answers go on meanwhile, and what comes now is the next round's
            self._add(now - self._seen.get((version, route), Counts()), {"version": version, "route": route})
            self._seen[version, route] = now
        before, self._seen_lookups = self._seen_lookups, [(reader, _counted(reader)) for reader in lookups]
        for (name, view), value in _new(before, self._seen_lookups):
            _increase(self._lookups[name], value, self._tags | ({"view": view} if view else {}))
        _increase(self._dropped, dropped - self._seen_dropped, self._tags)
        self._seen_dropped = dropped
        self._lag_bytes.set(lag.bytes, self._tags)
        self._lag_s.set(lag.oldest_age_s, self._tags)

    def publish_answers(self, answers: Mapping[int, Counts]) -> None:
        """Add the answers of each status since the last call, also those that no version gave."""
        for status, counted in list(answers.items()):
            now = counted + Counts()
            new, tags = now - self._seen_answers.get(status, Counts()), self._tags | {"status": str(status)}
            _increase(self._answers, new.requests, tags)
            _increase_buckets(self._answer_latency, new, tags)
            self._seen_answers[status] = now

    def publish_judged(self, versions: Sequence[tuple[str, Judged]]) -> None:
        """Add what the contracts of these versions made of requests since the last call."""
        before = self._seen_judged
        self._seen_judged = [(judged, _judged(version, judged)) for version, judged in versions]
        for (name, version, column), value in _new(before, self._seen_judged):
            tags = self._tags | {"version": version} | ({"column": column} if column else {})
            _increase(self._judged[name], value, tags)

    def _add(self, new: Counts, labels: dict[str, str]) -> None:
        tags = self._tags | labels
        _increase(self._requests, new.requests, tags)
        _increase(self._errors, new.errors, tags)
        _increase_buckets(self._latency, new, tags)


def _counted(reader: Lookups) -> dict[tuple[str, ...], float]:
    """What a reader has counted so far, by metric and view, "" where it is not by view."""
    found: dict[tuple[str, ...], float] = {("seconds", ""): reader.seconds, ("reads", ""): float(reader.reads)}
    found |= {("missing", view): float(values) for view, values in reader.missing.items()}
    return found | {("stale", view): float(values) for view, values in reader.stale.items()}


def _judged(version: str, judged: Judged) -> dict[tuple[str, ...], float]:
    """What was counted so far, by metric, version and column, "" where it is not by column."""
    found: dict[tuple[str, ...], float] = {
        ("refused", version, ""): float(judged.refused),
        ("repaired", version, ""): float(judged.repaired),
    }
    return found | {("values", version, column): float(values) for column, values in dict(judged.values).items()}


def _new(before: Counted, now: Counted) -> Iterator[tuple[Any, float]]:
    """By how much each count has grown. Versions come and go: one that is new counts from 0."""
    for source, counted in now:
        seen = next((counted for known, counted in before if known is source), {})
        for key, value in counted.items():
            yield key, value - seen.get(key, 0.0)


def _counter(name: str, text: str, tags: tuple[str, ...]) -> Counter:
    return Counter(f"mlops_ray_{name}_total", text, tags)


def _gauge(name: str, text: str) -> Gauge:
    return Gauge(f"mlops_ray_{name}", text, ("use_case",))


def _increase_buckets(counter: Counter, new: Counts, tags: dict[str, str]) -> None:
    for bound, buckets in _LE.items():
        _increase(counter, sum(new.latency[:buckets]), tags | {"le": bound})


def _increase(counter: Counter, by: float, tags: dict[str, str]) -> None:
    if by > 0:
        counter.inc(by, tags)
