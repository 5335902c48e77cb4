"""Labels: what turned out to be true, in requests that a server takes."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps
from mlops_ray.client.values import Row, model_path, plain

# A server takes labels of 100 days by UTC; 50 by any zones are no more than that.
LABELS_IN_A_REQUEST, DAYS_IN_A_REQUEST = 1_000, 50
_DAY_MS = 86_400_000


def labels_sent(name: str, labels: Sequence[Row]) -> Steps[int]:
    """How many were kept."""
    kept = 0
    for batch in _batches(labels):
        kept += (yield Call(model_path(name, "labels"), {"labels": plain(batch)}))["accepted"]
    return kept


def _batches(labels: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """In their order, as later labels correct earlier ones."""
    start, days = 0, set[Hashable]()
    for number, label in enumerate(labels):
        day = _day(label)
        if number - start == LABELS_IN_A_REQUEST or (day not in days and len(days) == DAYS_IN_A_REQUEST):
            yield labels[start:number]
            start, days = number, set()
        days.add(day)
    if labels:
        yield labels[start:]


def _day(label: Row) -> Hashable:
    """Tells apart, at least, what the server takes for labels of different days."""
    keys = label.get("keys")
    if isinstance(keys, Mapping):
        return tuple(_date(value) for value in keys.values())
    digits = str(label.get("request_id", "")).replace("-", "")[:12]
    try:
        return int(digits, 16) // _DAY_MS
    except ValueError:
        return digits


def _date(value: Any) -> Hashable:
    """Of a moment its day, in whatever zone; of other values nothing."""
    if isinstance(value, datetime):
        return value.date()
    text = value if isinstance(value, str) else ""
    return text[:10] if text[4:5] == text[7:8] == "-" else None
