"""Members: which predictions are in which panes, as it was decided when they were counted.

Quality is measured when labels come, long after a window was counted, and on the same rows. So the watch writes with
each batch that it counts a file of request id, row, moment of the answer and pane by kind of window, at
`monitoring/<use case>/members/<name>.parquet`. A file counts if the commit names it: one that was written before a
kill is passed over, and removed. Files that follow one another are joined as they become many.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.windows import NO_PANE
from mlops_ray.predictions.ids import moment_of, uuid7_at
from mlops_ray.predictions.segments import COLUMNS, read_between, read_segment

FOLDER = "members"
IDENTITY = ("request_id", "row", "time")
# A row takes about 25 bytes. Beyond this rate one in 2, 4, 8 of them is written, by the digits of its request id:
# 250 MB a day, in which a window still has more rows than its metrics need.
MOST_PER_S = 115
# Joined files are not joined with others beyond this, which takes a tenth of a second to write.
_WHOLE_ROWS = 1_000_000
_GROUP_ROWS = 16_384  # as of a few panes no others are read
_LEFT_OVER = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_PANE = "pane."


@dataclass(frozen=True)
class MemberFile:
    """One file. first, last: when its rows were answered. one_in: which part of what was counted it has. panes: by kind
    of window, the least and the greatest. ids: the least and the greatest of its requests'; was not written before."""

    name: str
    rows: int
    first: datetime
    last: datetime
    one_in: int
    panes: Mapping[str, tuple[int, int]]
    ids: tuple[str, str] | None = None

    def may_have(self, spec: str, panes: tuple[int, int]) -> bool:
        low, high = self.panes.get(spec, (0, -1))
        return low <= panes[1] and panes[0] <= high


class Members:
    """The files of one use case. Nothing is kept here: which files there are stands in the commits."""

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._path = artifacts, ("monitoring", use_case, FOLDER)

    def add(
        self, files: Sequence[MemberFile], rows: pl.DataFrame, panes: Mapping[str, NDArray[np.int64]]
    ) -> tuple[MemberFile, ...]:
        """`files` with one more, for `rows` (`IDENTITY`, in order) and of each row its pane by kind of window.

        The last ones are joined where the new one is as large: each row is written again a few times, not with each
        batch.
        """
        named = rows.select(IDENTITY).with_columns(**{f"{_PANE}{spec}": pl.Series(of) for spec, of in panes.items()})
        placed = named.filter(pl.any_horizontal(pl.col(f"^{_PANE}.*$") != NO_PANE)) if panes else named.head(0)
        if placed.is_empty():
            return tuple(files)
        one_in = _one_in(placed, files)
        made = [*files, self._write(placed.filter(sampled(one_in)), one_in, placed)]
        while len(made) > 1 and _are_to_be_joined(*made[-2:]):
            made[-2:] = [self._joined(made[-2], made[-1])]
        return tuple(made)

    def of(self, files: Sequence[MemberFile], spec: str, panes: tuple[int, int], one_in: int = 1) -> "Membership":
        """The rows of the panes from the first to the last of `panes`; at least one in `one_in` is taken."""
        there = [file for file in files if file.may_have(spec, panes)]
        coarsest = max([one_in, *(file.one_in for file in there)])
        frames = []
        for file in there:
            with suppress(FileNotFoundError):  # named by a commit before the last one, which was damaged
                pane = f"{_PANE}{spec}"
                rows = read_between(self._url(file.name), pane, *panes, IDENTITY.__contains__)
                frames.append(rows.filter(sampled(coarsest)))
        empty = pl.DataFrame(schema={name: COLUMNS[name] for name in IDENTITY})
        return Membership(pl.concat([empty, *frames]), coarsest)

    def panes_about(self, files: Sequence[MemberFile], told: pl.DataFrame) -> dict[str, NDArray[np.int64]]:
        """By kind of window, the panes of the predictions that labels are about; told: request_id and row."""
        if told.is_empty():
            return {}
        ids = _ids(told)
        found: dict[str, list[NDArray[np.int64]]] = {}
        for file in files:
            if file.ids is not None and (file.ids[1] < ids[0] or file.ids[0] > ids[1]):
                continue
            with suppress(FileNotFoundError):
                rows = read_between(self._url(file.name), "request_id", *ids)
                rows = rows.join(told, on=["request_id", "row"], how="semi")
                for column in (column for column in rows.columns if column.startswith(_PANE)):
                    panes = rows.filter(pl.col(column) != NO_PANE)[column].unique().to_numpy()
                    found.setdefault(column.removeprefix(_PANE), []).append(panes)
        return {spec: np.unique(np.concatenate(panes)) for spec, panes in found.items()}

    def remove_left_over(self, named: Collection[str], now: datetime) -> None:
        """Remove what no commit names and was written a day ago: its writer was killed before it committed."""
        for entry in self._artifacts.entries(*self._path):
            name = entry.name.removesuffix(".parquet")
            written = moment_of(name)
            if name not in named and (written is None or written < now - _LEFT_OVER):
                self.remove(name)

    def remove(self, name: str) -> None:
        self._artifacts.delete(*self._path, f"{name}.parquet")

    def _write(self, rows: pl.DataFrame, one_in: int, placed: pl.DataFrame) -> MemberFile:
        name, ends = _new_name(), _ends(placed["time"])
        self._artifacts.write_table(rows, *self._path, f"{name}.parquet", group_rows=_GROUP_ROWS)
        panes = {}
        for column in (column for column in placed.columns if column.startswith(_PANE)):
            found = placed.filter(pl.col(column) != NO_PANE)[column]
            if len(found):
                panes[column.removeprefix(_PANE)] = (int(found.min()), int(found.max()))  # type: ignore[arg-type]
        return MemberFile(name, len(rows), *ends, one_in, panes, _ids(placed))

    def _joined(self, one: MemberFile, other: MemberFile) -> MemberFile:
        both = pl.concat([read_segment(self._url(file.name)) for file in (one, other)], how="diagonal")
        both = both.with_columns(pl.col(f"^{_PANE}.*$").fill_null(NO_PANE))
        name = _new_name()
        self._artifacts.write_table(both, *self._path, f"{name}.parquet", group_rows=_GROUP_ROWS)
        panes = {}
        for spec in {**one.panes, **other.panes}:
            ends = [file.panes[spec] for file in (one, other) if spec in file.panes]
            panes[spec] = (min(low for low, _ in ends), max(high for _, high in ends))
        first, last = min(one.first, other.first), max(one.last, other.last)
        return MemberFile(name, len(both), first, last, one.one_in, panes, _ids(both))

    def _url(self, name: str) -> str:
        return self._artifacts.url(*self._path, f"{name}.parquet")


@dataclass(frozen=True)
class Membership:
    """rows: `IDENTITY` of predictions, one in `one_in` of those that were counted."""

    rows: pl.DataFrame
    one_in: int


def sampled(one_in: int) -> pl.Expr:
    """One in so many rows, by the last digits of their request ids; they are random in a UUID. Of a power of two, what
    is taken of a larger one is a part of it."""
    digits = pl.col("request_id").str.tail(8).str.to_integer(base=16, strict=False, dtype=pl.Int64)
    return pl.lit(True) if one_in == 1 else (digits + pl.col("row")).fill_null(0) % one_in == 0


def power_of_two(least: float) -> int:
    """The smallest that is not below `least`."""
    found = 1
    while found < least:
        found *= 2
    return found


def _are_to_be_joined(one: MemberFile, other: MemberFile) -> bool:
    return one.rows <= other.rows < _WHOLE_ROWS and one.one_in == other.one_in


def _new_name() -> str:
    return uuid7_at(int(datetime.now(UTC).timestamp() * 1000))


def _ends(moments: pl.Series) -> tuple[datetime, datetime]:
    first, last = moments.min(), moments.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    return first, last


def _ids(rows: pl.DataFrame) -> tuple[str, str]:
    return str(rows["request_id"].min()), str(rows["request_id"].max())


def _one_in(rows: pl.DataFrame, files: Sequence[MemberFile]) -> int:
    """By the rate of the endpoint in the minute before these rows and while they came: a batch may be of one replica of
    many, so what the last files have of this time counts as well. A rate that goes up and down does not make files of
    two kinds by turns, which could not be joined: the coarser one stays until a quarter of it is enough."""
    first, last = _ends(rows["time"])
    first = min(first, last - _MINUTE) - _MINUTE
    counted = sum(file.one_in * file.rows * _part_between(file, first, last) for file in files)
    wanted = power_of_two((len(rows) + counted) / ((last - first) / timedelta(seconds=1)) / MOST_PER_S)
    return files[-1].one_in if files and files[-1].one_in == 2 * wanted else wanted


def _part_between(file: MemberFile, first: datetime, last: datetime) -> float:
    """Of a file's rows, taken to lie evenly."""
    inside, whole = min(last, file.last) - max(first, file.first), file.last - file.first
    return 0.0 if inside < timedelta(0) else inside / whole if whole else 1.0
