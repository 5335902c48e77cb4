"""Day cells: the rows of a source by day, as hashes, so that it is known unread what a part depends on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl

from mlops_ray.artifacts import Artifacts, Entry, digest_json
from mlops_ray.features.spread import spread
from mlops_ray.features.view_rows import MOMENT
from mlops_ray.ingestion.snapshot import Snapshot, expect_kept

FOLDER, _FILE = "features", "days.json"
_ROW, _DAY = "__row", "__day"
_ALWAYS = ""
_MODULUS, _BASE = 1 << 64, 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Reading:
    """What is read of a source: which columns (None: all), and the moments that say on which days a row lies.

    A row lies on the day (UTC) of each moment. timeless: rows without any, and all where there are no moments, belong
    to every part; else to none.
    """

    source: str
    moments: tuple[pl.Expr, ...]
    columns: tuple[str, ...] | None = None
    timeless: bool = True

    @property
    def name(self) -> str:
        texts = [moment.meta.serialize(format="json") for moment in self.moments]
        return digest_json([self.source, texts, self.columns, self.timeless, pl.__version__])

    def between(self, rows: pl.DataFrame, after: Any, until: Any, closed: bool) -> pl.DataFrame:
        """The rows with a moment from `after` (itself only if `closed`) up to before `until`, and timeless ones."""
        if not self.moments:
            return rows
        moments = [moment.cast(MOMENT) for moment in self.moments]
        inside = [((m >= after) if closed else (m > after)) & (m < until) for m in moments]
        kept = pl.any_horizontal(one.fill_null(False) for one in inside)
        if self.timeless:
            kept |= pl.all_horizontal(m.is_null() for m in moments)
        return rows.filter(kept)


def reading_of(source: str, known_at: pl.Expr | None) -> Reading:
    """What a function reads of a source whose rows became known at these moments: all columns."""
    return Reading(source, () if known_at is None else (known_at,))


@dataclass(frozen=True)
class Cell:
    """Rows in an order: how many, and two hashes of them. Of rows in two files they are `+`, wherever the border is.

    The hashes are polynomials, modulo 2^64, of those that polars makes of each row (the same in all processes with one
    version of it): they tell whether something was computed already, and guard nothing.
    """

    rows: int
    hashes: tuple[int, int]

    def __add__(self, other: "Cell") -> "Cell":
        shift = pow(_BASE, other.rows, _MODULUS)
        first, second = ((a * shift + b) % _MODULUS for a, b in zip(self.hashes, other.hashes, strict=True))
        return Cell(self.rows + other.rows, (first, second))


def cell_of(rows: pl.DataFrame) -> Cell:
    return _cell(_hashes(rows))


def _hashes(rows: pl.DataFrame) -> np.ndarray:
    """Two hashes of each row, a row of the array for each seed."""
    return np.stack([rows.hash_rows(seed).to_numpy() for seed in (1, 2)])


def _cell(hashes: np.ndarray) -> Cell:
    """Of the rows, in their order, that have these hashes."""
    powers = np.full(hashes.shape[1], _BASE, np.uint64)
    powers[-1:] = 1
    powers = np.multiply.accumulate(powers[::-1])[::-1]
    first, second = (int(value) for value in (hashes * powers).sum(axis=1, dtype=np.uint64))
    return Cell(hashes.shape[1], (first, second))


@dataclass(frozen=True)
class DatedFile:
    """A table of a source: its name, its bytes on the disk, and its rows by day; timeless ones under ""."""

    place: tuple[str, ...]
    size: int
    cells: Mapping[str, Cell]

    def has(self, first: date, end: date) -> bool:
        """Whether rows of these days, or timeless ones, are in it."""
        return any(day == _ALWAYS or first.isoformat() <= day < end.isoformat() for day in self.cells)


@dataclass(frozen=True)
class Days:
    """A reading's files in the order of their rows."""

    reading: Reading
    files: tuple[DatedFile, ...]

    def rows(self) -> dict[date, int]:
        """How many rows lie on each day."""
        found: dict[date, int] = {}
        for file in self.files:
            for day, cell in file.cells.items():
                if day != _ALWAYS:
                    found[date.fromisoformat(day)] = found.get(date.fromisoformat(day), 0) + cell.rows
        return found

    def content(self) -> dict[date | None, list[int]]:
        """What the rows of each day are known by; timeless ones under None."""
        found: dict[date | None, Cell] = {}
        for file in self.files:
            for text, cell in file.cells.items():
                day = date.fromisoformat(text) if text != _ALWAYS else None
                found[day] = found[day] + cell if day in found else cell
        return {day: [cell.rows, *cell.hashes] for day, cell in found.items()}

    def files_with(self, first: date, end: date) -> list[DatedFile]:
        return [file for file in self.files if file.has(first, end)]


def days_of(
    artifacts: Artifacts, snapshot: Snapshot, readings: Sequence[Reading], start_ray: Callable[[], Any]
) -> dict[str, Days]:
    """The days of each reading by its name. A table of rows that was looked at before is not read again."""
    expect_kept(artifacts, snapshot.use_case, snapshot.digest)
    place = (FOLDER, snapshot.use_case, _FILE)
    known: dict[str, dict[str, Any]] = artifacts.read_json(*place) or {}
    files = {reading.name: list(_tables(artifacts, snapshot, reading.source)) for reading in readings}
    new = [
        (reading, entry, sha256)
        for reading in readings
        for entry, sha256 in files[reading.name]
        if sha256 not in known.get(reading.name, {})
    ]
    calls = [(artifacts, (*snapshot.place(reading.source), entry.name), reading) for reading, entry, _ in new]
    found = spread(cells_of_file, calls, sum(entry.size for _, entry, _ in new), start_ray)
    for (reading, _, sha256), cells in zip(new, found, strict=True):
        known.setdefault(reading.name, {})[sha256] = {day: [one.rows, *one.hashes] for day, one in cells.items()}
    kept = {name: {sha256: known[name][sha256] for _, sha256 in tables} for name, tables in files.items()}
    if new:
        artifacts.write_json(kept, *place)
    return {
        reading.name: Days(reading, tuple(_files(snapshot, reading, files[reading.name], kept[reading.name])))
        for reading in readings
    }


def cells_of_file(artifacts: Artifacts, place: tuple[str, ...], reading: Reading) -> dict[str, Cell]:
    """The rows of a table by day; timeless ones under ""."""
    rows = artifacts.read_table(*place, columns=reading.columns)
    hashes = _hashes(rows)  # of all at once: to take each day's rows apart first takes three times as long
    if not reading.moments:
        return {_ALWAYS: _cell(hashes)}
    days = [moment.cast(MOMENT).dt.date().alias(f"{_DAY}{at}") for at, moment in enumerate(reading.moments)]
    placed = rows.select(days).with_row_index(_ROW).unpivot(index=_ROW, value_name=_DAY).drop("variable").drop_nulls()
    placed = placed.unique() if len(days) > 1 else placed
    dated = placed.sort(_DAY, _ROW).partition_by(_DAY, as_dict=True, maintain_order=True)
    found = {str(day): _cell(hashes[:, part[_ROW].to_numpy()]) for (day,), part in dated.items()}
    if reading.timeless:
        always = rows.select(pl.all_horizontal(moment.is_null() for moment in reading.moments)).to_series()
        found |= {_ALWAYS: _cell(hashes[:, always.to_numpy()])} if always.any() else {}
    return found


def day_before(day: date, length: timedelta) -> date:
    """The day on which a moment lies that is so long before a day's beginning."""
    return day - timedelta(days=-(-length // timedelta(days=1)))


def _tables(artifacts: Artifacts, snapshot: Snapshot, source: str) -> Iterator[tuple[Entry, str]]:
    """The tables of a source in the order of its rows, with the SHA-256 of their bytes."""
    place, known = snapshot.place(source), snapshot.parts.get(source, {})
    for entry in artifacts.entries(*place):
        if entry.name.endswith(".parquet"):
            yield entry, known.get(entry.name) or artifacts.sha256(*place, entry.name)


def _files(
    snapshot: Snapshot, reading: Reading, tables: Sequence[tuple[Entry, str]], cells: Mapping[str, Any]
) -> Iterator[DatedFile]:
    for entry, sha256 in tables:
        given = {day: Cell(rows, (first, second)) for day, (rows, first, second) in cells[sha256].items()}
        yield DatedFile((*snapshot.place(reading.source), entry.name), entry.size, given)
