"""What was counted of each window that was judged, for those who look back: one small file each.

They lie at `monitoring/<use case>/history/<version>/<kind>/<number>` and are written before the commit that holds the
window's verdict. What is written follows from the window, so whoever counts it again writes the same file again, and
nothing needs to be named in a commit. Sketches are kept as counts in the bins of the reference, without their
quantiles and samples: about 200 bytes a feature.
"""

import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.monitoring.judging import Distance, distances_of
from mlops_ray.monitoring.recalibration import Lived
from mlops_ray.monitoring.row_sample import RowSample
from mlops_ray.monitoring.seasons import LENGTHS, cell_counts, with_cell_counts
from mlops_ray.monitoring.sketches import NumericSketch, Sketch
from mlops_ray.monitoring.verdicts import Answer, Question
from mlops_ray.monitoring.version_watch import Watched
from mlops_ray.monitoring.window_record import WindowRecord
from mlops_ray.monitoring.windows import Window

FOLDER = "history"
# A judged window covers an hour at least, so these are more than two weeks.
KEPT = 400
_FORMAT = 1
_FREQUENT = 5
_AT_A_TIME = 16
_NO_ROWS = pl.DataFrame()


@dataclass(frozen=True)
class JudgedWindow:
    """A window that was judged, and windows that waited for it. number: of its record, the last of them.

    window: its sketches have no quantiles, its sample no rows. distances: of each column the statistic that was
    furthest above, or nearest to, its threshold. new: of each category column the most frequent values that the
    reference lacks, with about how many rows.
    """

    number: int
    window: Window
    data: Answer
    prediction: Answer
    distances: Mapping[str, Distance]
    new: Mapping[str, tuple[tuple[str, int], ...]]


class _Column(msgspec.Struct, array_like=True):
    """counts: of the cells (see `seasons.cell_counts`). moments: minimum, maximum, mean and m2 of numbers."""

    counts: bytes
    moments: tuple[float, float, float, float] | None
    frequent: tuple[tuple[str, int], ...]


class _Kept(msgspec.Struct, array_like=True):
    format: int
    start: datetime
    end: datetime
    rows: int
    misdated: int
    whole: bool
    panes: tuple[int, int]
    seasons: dict[str, list[int]]
    columns: dict[str, _Column]
    data: Answer
    prediction: Answer
    distances: dict[str, Distance]


class WindowHistory:
    """The history of one use case."""

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._path = artifacts, ("monitoring", use_case, FOLDER)

    def keep(
        self,
        watched: Watched,
        judged: Iterable[tuple[WindowRecord, Window]],
        lived: Mapping[str, Mapping[Question, Lived]],
    ) -> None:
        """Write windows of a version as they were judged. lived: by kind of window, as it was then."""
        kinds = set()
        for record, window in judged:
            distances = distances_of(window, watched.reference, record.spec, lived.get(record.spec, {}))
            place = (*self._path, watched.version, record.spec)
            self._artifacts.write_bytes(_encoded(record, window, distances), *place, f"{record.number:012}")
            kinds.add(record.spec)
        for spec in kinds:
            for name in self._numbers(watched.version, spec)[:-KEPT]:
                self._artifacts.delete(*self._path, watched.version, spec, name)

    def read(self, version: str, spec: str, bins: Mapping[str, Sketch], last: int) -> list[JudgedWindow]:
        """The last windows of a kind, in order. bins: sketches with the bins they were counted in; a window that was
        counted in others, or written by other code, is left out."""

        def one(name: str) -> JudgedWindow | None:
            try:
                content = self._artifacts.read_bytes(*self._path, version, spec, name)
            except FileNotFoundError:
                return None  # it was the oldest, and a new one has taken its place
            return _decoded(int(name), content, bins)

        names = self._numbers(version, spec)[-last:]
        if self._artifacts.is_local:  # where a file is read sooner than a thread starts
            return [window for window in map(one, names) if window is not None]
        with ThreadPoolExecutor(_AT_A_TIME) as threads:
            return [window for window in threads.map(one, names) if window is not None]

    def forget(self, version: str) -> None:
        """Remove what is kept of a version."""
        self._artifacts.delete(*self._path, version)

    def _numbers(self, version: str, spec: str) -> list[str]:
        return [entry.name for entry in self._artifacts.entries(*self._path, version, spec)]


def _encoded(record: WindowRecord, window: Window, distances: Mapping[str, Distance]) -> bytes:
    seasons: dict[str, list[int]] = {season: counts.tolist() for season, counts in window.seasons.items()}
    columns = {name: _column(sketch) for name, sketch in window.columns.items()}
    kept = _Kept(
        _FORMAT, window.start, window.end, window.rows, window.misdated, window.whole, window.panes, seasons, columns,
        record.data.answer, record.prediction.answer, dict(distances),
    )  # fmt: skip
    return zlib.compress(msgspec.msgpack.encode(kept), 1)


def _column(sketch: Sketch) -> _Column:
    counts = cell_counts(sketch).astype("<i8").tobytes()
    if isinstance(sketch, NumericSketch):
        return _Column(counts, (sketch.minimum, sketch.maximum, sketch.mean, sketch.m2), ())
    return _Column(counts, None, sketch.frequent_unseen(_FREQUENT) if sketch.unseen else ())


def _decoded(number: int, content: bytes, bins: Mapping[str, Sketch]) -> JudgedWindow | None:
    try:
        kept = msgspec.msgpack.decode(zlib.decompress(content), type=_Kept)
    except (msgspec.MsgspecError, zlib.error):
        return None
    if kept.format != _FORMAT or kept.columns.keys() != bins.keys():
        return None
    columns = {name: _sketch(column, bins[name]) for name, column in kept.columns.items()}
    if any(sketch is None for sketch in columns.values()):
        return None
    seasons: dict[Any, NDArray[np.int64]] = {name: np.array(kept.seasons[name]) for name in LENGTHS}
    window = Window(
        kept.start, kept.end, kept.rows, kept.misdated, columns, seasons,  # type: ignore[arg-type]
        RowSample.of(_NO_ROWS, {}, 0), kept.whole, kept.panes,
    )  # fmt: skip
    new = {name: column.frequent for name, column in kept.columns.items() if column.frequent}
    return JudgedWindow(number, window, kept.data, kept.prediction, kept.distances, new)


def _sketch(column: _Column, bins: Sketch) -> Sketch | None:
    counts = np.frombuffer(column.counts, "<i8")
    if len(counts) != len(cell_counts(bins)) or (column.moments is None) == isinstance(bins, NumericSketch):
        return None
    found = with_cell_counts(bins, counts)
    if isinstance(found, NumericSketch):
        assert column.moments is not None
        found.minimum, found.maximum, found.mean, found.m2 = column.moments
    return found
