"""The profile: what sketches say of a table, as plain values that are shown, kept and compared."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from math import isfinite
from typing import Any, Self

import msgspec
import numpy as np

from mlops_ray.errors import IntegrityError
from mlops_ray.exploration.sketches import Times, bucket_start, in_unit, moment
from mlops_ray.exploration.table_sketch import ColumnSketch, TableSketch
from mlops_ray.show.shown import Shown
from mlops_ray.show.text import printable

BINS = 30
TOP = 100
_MOST_GAPS = 20
_MOST_VOLUMES = 400
# Time is counted by the smallest of these units in which nine of ten are not empty.
_FILLED = 0.9
_NEXT = {"hour": "day", "day": "month"}


@dataclass(frozen=True)
class Coverage:
    """Which stretch of time there is: from `first` to `last`, counted by `unit`, of which the share `filled` has rows.

    gaps: the longest empty stretches between, each by its first and its last unit, with how many units it has. volume:
    rows by the beginning of their unit, or of a longer one (`volume_unit`) where there are more than 400.
    """

    first: datetime
    last: datetime
    unit: str
    filled: float
    gaps: tuple[tuple[str, str, int], ...]
    volume_unit: str
    volume: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ColumnProfile:
    """One column. Shares are of its rows; what it has no values for is empty or None.

    type: what the most of its values are: integer, number, boolean, timestamp, local_time (a moment without a zone),
    text; `empty` without values. kinds: rows by what they are. missing: null, or nothing but white space; null_texts:
    words such as NA. odd: NaN, infinite and what the contract refuses. different: values, exact or to 2.2 %; repeated:
    the share of values that came before. percentiles: the 101 quantiles from 0 to 100 %, by rank to `rank_error`. top:
    the most frequent values with their rows at least, of each of which (and of any other value) there may be
    `top_error` more; without an error they are exact; of a long text its beginning and its hash. formats: rows that
    each format of dates reads. shape: shortest and longest text in characters, and the kinds of its characters;
    untidy: rows whose text begins or ends with white space.
    """

    name: str
    type: str
    rows: int
    missing: int
    null_texts: int
    kinds: dict[str, int]
    odd: dict[str, int]
    different: int
    different_exact: bool
    repeated: float
    top: tuple[tuple[str, int], ...]
    top_exact: bool
    top_error: int = 0
    whole: bool = False
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    percentiles: tuple[float, ...] = ()
    rank_error: float = 0.0
    edges: tuple[float, ...] = ()
    histogram: tuple[float, ...] = ()
    shortest: int | None = None
    longest: int | None = None
    characters: tuple[str, ...] = ()
    untidy: int = 0
    formats: dict[str, int] = field(default_factory=dict)
    coverage: Coverage | None = None

    @property
    def values(self) -> int:
        """Rows that have a value."""
        return sum(rows for kind, rows in self.kinds.items() if kind != "null_text")

    @property
    def missing_share(self) -> float:
        return 1 - self.values / self.rows if self.rows else 0.0


@dataclass(frozen=True, repr=False)
class Profile(Shown):
    """A table. name: what it is. cells: rows times columns; seconds: how long the pass over them took.

    duplicates: the share of rows that are equal to one before, exact or (beyond 2,048 different rows) estimated from a
    sample of 2,048. malformed: rows that could not be split into columns. refused: rows that the contract refuses, by
    reason in `reasons`. unreadable: files by the sentence that says why nothing of them was read.
    """

    name: str
    rows: int
    columns: tuple[ColumnProfile, ...]
    duplicates: float
    duplicates_exact: bool
    malformed: int = 0
    refused: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def cells(self) -> int:
        return sum(column.rows for column in self.columns)

    def column(self, name: str) -> ColumnProfile | None:
        return next((column for column in self.columns if column.name == name), None)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(json.dumps(asdict(self), default=datetime.isoformat, allow_nan=False))
        return found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Raises IntegrityError if it was written by another version."""
        try:
            return msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise IntegrityError(f"A profile cannot be read: {error}. Make it again.") from None

    @property
    def title(self) -> str:
        return self.name

    def _html(self) -> str:
        from mlops_ray.exploration.page import profile_html

        return profile_html(self)

    def _text(self) -> str:
        from mlops_ray.exploration.lines import profile_lines

        return "\n".join([*map(printable, self.unreadable.values()), *profile_lines(self)])


def profile_of(
    name: str, table: TableSketch, unreadable: Mapping[str, str] | None = None, seconds: float = 0
) -> Profile:
    """What the sketches of a table say."""
    return Profile(
        name=name,
        rows=table.rows + table.malformed,
        columns=tuple(_column(column, sketch) for column, sketch in table.columns.items()),
        duplicates=table.repeats.repeated,
        duplicates_exact=table.repeats.exact,
        malformed=table.malformed,
        refused=table.refused,
        reasons=dict(sorted(table.reasons.items(), key=lambda one: (-one[1], one[0]))),
        unreadable=dict(unreadable or {}),
        seconds=seconds,
    )


def _column(name: str, sketch: ColumnSketch) -> ColumnProfile:
    kinds = {kind: rows for kind, rows in sorted(sketch.kinds.items()) if rows}
    top, error = sketch.frequent.top(TOP)
    numbers, shapes = sketch.numbers, sketch.shapes
    given: dict[str, Any] = {}
    if numbers.count:
        edges, histogram = numbers.histogram(BINS)
        given |= {
            "whole": numbers.whole == numbers.count,
            "minimum": numbers.minimum,
            "maximum": numbers.maximum,
            "mean": numbers.mean if isfinite(numbers.mean) else None,
            "deviation": numbers.deviation if isfinite(numbers.deviation) else None,
            "percentiles": tuple(numbers.percentiles()),
            "rank_error": float(numbers.sketch.normalized_rank_error(False)),
            "edges": tuple(edges),
            "histogram": tuple(histogram),
        }
    if shapes.longest >= 0:
        given |= {"shortest": shapes.shortest, "longest": shapes.longest, "characters": tuple(sorted(shapes.kinds))}
    return ColumnProfile(
        name=name,
        type=_type(kinds),
        rows=sketch.rows,
        missing=sketch.missing,
        null_texts=kinds.get("null_text", 0),
        kinds=kinds,
        odd={what: rows for what, rows in sorted(sketch.odd.items()) if rows},
        different=sketch.repeats.different,
        different_exact=sketch.repeats.exact,
        repeated=sketch.repeats.repeated,
        top=tuple(top),
        top_exact=not error,
        top_error=error,
        untidy=shapes.untidy,
        formats=dict(sorted(sketch.formats.items())),
        coverage=_coverage(sketch.times),
        **given,
    )


def _type(kinds: Mapping[str, int]) -> str:
    values = {kind: rows for kind, rows in kinds.items() if kind != "null_text"}
    if not values:
        return "empty"
    if "digits" in values:
        return "text"
    if set(values) <= {"integer", "number", "thousands"}:
        return "integer" if set(values) == {"integer"} else "number"
    return max(values, key=lambda kind: (values[kind], kind))


def _coverage(times: Times) -> Coverage | None:
    first, last = moment(times.first_us), moment(times.last_us)
    if first is None or last is None:
        return None
    unit, buckets, counts = times.unit, times.buckets, times.counts
    while len(buckets) < _FILLED * (buckets[-1] - buckets[0] + 1) and unit in _NEXT:
        unit, buckets, counts = _longer(unit, buckets, counts)
    filled = len(buckets) / float(buckets[-1] - buckets[0] + 1)
    gaps = _gaps(buckets, unit)
    volume_unit = unit
    while len(buckets) > _MOST_VOLUMES and volume_unit in _NEXT:
        volume_unit, buckets, counts = _longer(volume_unit, buckets, counts)
    volume = [(_start(int(b), volume_unit), int(rows)) for b, rows in zip(buckets, counts, strict=True)]
    return Coverage(first, last, unit, filled, gaps, volume_unit, tuple(volume[:_MOST_VOLUMES]))


def _longer(unit: str, buckets: Any, counts: Any) -> tuple[str, Any, Any]:
    longer = _NEXT[unit]
    found, places = np.unique(in_unit(buckets if unit == "hour" else buckets * 24, longer), return_inverse=True)
    return longer, found, np.bincount(places, counts).astype(np.int64)


def _gaps(buckets: Any, unit: str) -> tuple[tuple[str, str, int], ...]:
    empty = np.diff(buckets) - 1
    longest = [at for at in np.argsort(-empty, kind="stable")[:_MOST_GAPS] if empty[at] > 0]
    return tuple(
        (_start(int(buckets[at]) + 1, unit), _start(int(buckets[at + 1]) - 1, unit), int(empty[at])) for at in longest
    )


def _start(bucket: int, unit: str) -> str:
    begin = bucket_start(bucket, unit)
    if begin is None:
        return "beyond the calendar"
    return begin.isoformat() if unit == "hour" else f"{begin:%Y-%m-%d}" if unit == "day" else f"{begin:%Y-%m}"
