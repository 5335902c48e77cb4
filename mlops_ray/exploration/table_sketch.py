"""Sketches of a table: what one pass over its rows leaves of each column, and of the rows as a whole."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.exploration.kinds import sort_texts
from mlops_ray.exploration.sketches import Frequent, Numbers, Repeats, Shapes, Times
from mlops_ray.ingestion.texts import as_text
from mlops_ray.use_case import Column
from mlops_ray.use_case.column import TRIMMED

# Cells that are taken at once: of a table with 10,000 columns, 400 rows.
CELLS = 4_000_000
MOST_ROWS = 65_536
_LOOKED_AT = 1024
_PLAIN = Column("x", "text", text_form="exact")


@dataclass
class ColumnSketch:
    """A column: how many of its rows have what, and the sketches of its values by what they are.

    kinds: rows by what their values are or, where texts are guessed, can be read as (see `kinds`). missing: null, or
    nothing but white space. odd: rows with what is neither a value nor null, by its name: `NaN`, `infinite`, or a
    reason of the contract. formats: rows that each format of dates reads.
    """

    rows: int = 0
    missing: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    repeats: Repeats = field(default_factory=Repeats)
    frequent: Frequent = field(default_factory=Frequent)
    numbers: Numbers = field(default_factory=Numbers)
    shapes: Shapes = field(default_factory=Shapes)
    times: Times = field(default_factory=Times)

    def update(self, given: pl.Series, guess: bool) -> None:
        """Count values of any type. guess: texts are those of a file, which can mean anything."""
        self.rows += len(given)
        values = self._present(_plain(given))
        if not len(values):
            return
        many = _mostly_different(values)
        if many:  # to count each costs more than all else, and none of them is frequent
            different, rows = values, pl.Series([1]).new_from_index(0, len(values))
        else:
            counted = values.alias("value").value_counts(name="rows")
            different, rows = counted["value"], counted["rows"].cast(pl.Int64)
        if values.dtype == pl.String:
            self.shapes.update(different, rows)
            if guess:
                different, rows = self._sort(different, rows)
            else:
                self.kinds["text"] += len(values)
        elif values.dtype == pl.Boolean:
            self.kinds["boolean"] += len(values)
        elif isinstance(values.dtype, pl.Datetime):
            self.kinds["timestamp" if values.dtype.time_zone else "local_time"] += len(values)
            self.times.update(values.to_physical().to_numpy())
        else:
            self.kinds["number" if values.dtype.is_float() else "integer"] += len(values)
            self.numbers.update(values.cast(pl.Float64).to_numpy())
        if len(different):
            self.repeats.update(different.hash(0).to_numpy(), rows.to_numpy())
            self.frequent.update(different.cast(pl.String) if not many else None, rows)

    def _present(self, given: pl.Series) -> pl.Series:
        """The values that are there; the others are counted."""
        if given.dtype == pl.String:
            present = given.filter((given.str.strip_chars(TRIMMED) != "").fill_null(False))
        elif given.dtype.is_float():
            present = given.drop_nulls()
            if not bool(present.is_finite().all()):
                nan, infinite = int(present.is_nan().sum()), int(present.is_infinite().sum())
                self.odd += Counter({"NaN": nan, "infinite": infinite})
                present = present.filter(present.is_finite())
                self.missing -= nan + infinite
        else:
            present = given.drop_nulls()
        self.missing += len(given) - len(present)
        return present

    def _sort(self, texts: pl.Series, rows: pl.Series) -> tuple[pl.Series, pl.Series]:
        """Count different texts by what they can be read as; those that are values and no words for null."""
        found = sort_texts(texts, rows)
        for kind, count in pl.DataFrame({"kind": found.kind, "rows": rows}).group_by("kind").sum().iter_rows():
            self.kinds[kind] += count
        self.formats.update(found.formats)
        numbers, moments = found.number.is_not_null(), found.moment.is_not_null()
        self.numbers.update(_repeated(found.number.filter(numbers), rows.filter(numbers)))
        self.times.update(_repeated(found.moment.filter(moments), rows.filter(moments)))
        if "null_text" not in self.kinds:
            return texts, rows
        # Words for null are frequent values, too, and may be names; but they are no repeats of anything.
        self.frequent.update(texts.filter(found.kind == "null_text"), rows.filter(found.kind == "null_text"))
        value = found.kind != "null_text"
        return texts.filter(value), rows.filter(value)

    def merge(self, other: "ColumnSketch") -> None:
        self.rows += other.rows
        self.missing += other.missing
        self.kinds.update(other.kinds)
        self.odd.update(other.odd)
        self.formats.update(other.formats)
        for name in ("repeats", "frequent", "numbers", "shapes", "times"):
            getattr(self, name).merge(getattr(other, name))


@dataclass
class TableSketch:
    """A table: its columns, and how often whole rows come again.

    rows: those that have columns; malformed: those that could not be split into any. refused: rows that the contract
    refuses, and `reasons` why.
    """

    rows: int = 0
    malformed: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    columns: dict[str, ColumnSketch] = field(default_factory=dict)
    repeats: Repeats = field(default_factory=Repeats)

    def update(self, frame: pl.DataFrame, guess: bool = False) -> None:
        """Count the rows of a frame; see `ColumnSketch.update`."""
        step = max(1, min(MOST_ROWS, CELLS // max(1, frame.width)))
        for start in range(0, frame.height, step):
            part = frame[start : start + step]
            self.rows += part.height
            for column in part:
                self.columns.setdefault(column.name, ColumnSketch()).update(column, guess)
            hashes = _row_hashes(part)
            self.repeats.update(hashes, np.ones(len(hashes), np.int64))
        if frame.is_empty():
            for name in frame.columns:
                self.columns.setdefault(name, ColumnSketch())

    def merge(self, other: "TableSketch") -> None:
        self.rows += other.rows
        self.malformed += other.malformed
        self.refused += other.refused
        self.reasons.update(other.reasons)
        self.repeats.merge(other.repeats)
        for name, column in other.columns.items():
            if name in self.columns:
                self.columns[name].merge(column)
            else:
                self.columns[name] = column


def merged(parts: Mapping[Any, TableSketch]) -> TableSketch:
    """All of them as one; they stay as they are."""
    import copy

    whole = TableSketch()
    for part in parts.values():
        whole.merge(copy.deepcopy(part))
    return whole


def _row_hashes(frame: pl.DataFrame) -> NDArray[np.uint64]:
    plain = pl.DataFrame([_plain(frame[name]) for name in sorted(frame.columns)])
    return plain.hash_rows(0).to_numpy() if plain.width else np.empty(0, np.uint64)


def _plain(given: pl.Series) -> pl.Series:
    """The values as texts, booleans, numbers (Int64 or Float64) or moments (microseconds).

    Whole numbers of which one is beyond 64 bits with a sign are texts, as hashes and other ids are.
    """
    dtype = given.dtype
    if dtype in (pl.String, pl.Boolean, pl.Int64, pl.Float64):
        return given
    if isinstance(dtype, pl.Datetime):
        return given.cast(pl.Datetime("us", dtype.time_zone))
    if dtype == pl.Date:
        return given.cast(pl.Datetime("us"))
    if dtype.is_integer():
        whole = given.cast(pl.Int64, strict=False)
        return whole if whole.null_count() == given.null_count() else given.cast(pl.String)
    if dtype.is_numeric():
        return given.cast(pl.Float64)
    if dtype == pl.Null:
        return given.cast(pl.String)
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return given.cast(pl.String)
    return as_text(given, _PLAIN)


def _mostly_different(values: pl.Series) -> bool:
    """Whether of values taken at equal distances nearly none comes twice, so that none holds 5 % of them."""
    distance = len(values) // _LOOKED_AT
    return distance >= 2 and values.gather_every(distance).n_unique() >= 0.98 * (len(values) / distance)


def _repeated(values: pl.Series, counts: pl.Series) -> NDArray[Any]:
    return np.repeat(values.to_numpy(), counts.to_numpy())
