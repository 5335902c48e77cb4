"""Labels on shared storage: what turned out to be true, as it was told, by the day of what it is about.

Segments lie at `labels/<use case>/<part>/<id>.parquet`. A part is the day that the digits of request ids spell
(`2026-03-01`; `undated` where they spell none), with the columns `request_id` and `row`; or the day of the event time
(`keys-2026-03-01`) of labels by entity keys, with `key.<column>` as in the ledger. An id's part is where its labels
lie, not when it was asked: callers' ids are of any time. All have `label` (of the type of the model's task, see
`Task.label_type`; null withdraws what was said), `known_at` and `received_at` (UTC). Nothing is ever changed: a later
label corrects. Only an erasure and retention take away what was said.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Protocol

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, settings_from_environment
from mlops_ray.errors import ConfigurationError
from mlops_ray.predictions.personal import PersonalHash, personal_hash
from mlops_ray.predictions.segments import KEY, MOMENT, read_segment, settled
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Column, ColumnType
from mlops_ray.use_case.column import DTYPES

FOLDER = "labels"
UNDATED, KEYS = "undated", "keys-"
# As they are where nobody has told any, and where the label is yes or no.
SAID: dict[str, pl.DataType] = {"label": pl.Boolean(), "known_at": MOMENT, "received_at": MOMENT}
BY_REQUEST = {"request_id": pl.String(), "row": pl.Int32(), **SAID}
KNOWN_AT = Column("known_at", "timestamp", nullable=True)
REQUEST_ID = Column("request_id", "text", pattern="[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
ROW = Column("row", "integer", nullable=True, minimum=0, maximum=2**31 - 1)
Told = bool | float | str | None  # by the type of the label
# Clocks differ, but a label that is known only next week would be taken for later than any correction.
CLOCKS_DIFFER = timedelta(days=1)
_SUFFIX = ".parquet"
_CACHED_ROWS = 2_000_000
_LAST_MS = 7_258_118_400_000  # the year 2200: what is later is no moment but a wrong id


def label_column(task: Task) -> Column:
    """How what is said is read, over HTTP as from files. Nothing but an empty label withdraws one: NaN is a mistake."""
    return Column("label", nullable=True, null_texts=(), **task.told_as)


class Keyed(Protocol):
    """What is asked of a model so that its predictions can be found by keys; `ModelSchema` has it."""

    @property
    def entities(self) -> tuple[str, ...]: ...

    @property
    def event_time(self) -> str: ...

    @property
    def request_columns(self) -> tuple[Column, ...]: ...


@dataclass(frozen=True)
class Label:
    """What is said of one prediction, by request id and row; or of all that have these keys, by column.

    label: None withdraws what was said before. known_at: None for the moment at which it is told.
    """

    label: Told
    known_at: datetime | None = None
    request_id: str | None = None
    row: int = 0
    keys: dict[str, Any] | None = None


class LabelKeys:
    """How labels by keys name what they are about: entities and event time, as the ledger keeps them."""

    def __init__(self, model: Keyed, personal: PersonalHash | None):
        """personal: what hashes. Raises ConfigurationError if a key column is hashed and it is None."""
        self.columns = key_columns(model)
        self.event_time = model.event_time
        if personal is None and any(column.personal == "hash" for column in self.columns):
            raise ConfigurationError(f"A key column of {model.entities} is hashed, but the ledger has no secret.")
        self._personal = personal

    @property
    def types(self) -> tuple[tuple[str, ColumnType], ...]:
        """Names and types as stored; a hash is text."""
        return tuple((column.name, "text" if column.personal == "hash" else column.type) for column in self.columns)

    def values(self, keys: dict[str, Any]) -> list[Any]:
        """The key columns' values in order, hashed where the ledger has hashes."""
        return [self._stored(column, keys[column.name]) for column in self.columns]

    def _stored(self, column: Column, value: Any) -> Any:
        if column.personal != "hash":
            return value
        assert self._personal is not None
        return self._personal.hash(value, column.type)


def label_keys(model: Keyed, settings: Settings) -> LabelKeys:
    """With the secret that hashes personal keys, if a key is hashed. Raises ConfigurationError if it cannot be read."""
    hashes = any(column.personal == "hash" for column in key_columns(model))
    return LabelKeys(model, personal_hash(settings) if hashes else None)


def key_columns(model: Keyed) -> tuple[Column, ...]:
    """Entities and event time. Empty where the ledger leaves one of them out: then nothing can be found by keys."""
    columns = {column.name: column for column in model.request_columns}
    found = [columns[name] for name in dict.fromkeys((*model.entities, model.event_time)) if name in columns]
    return () if any(column.personal == "omit" for column in found) else tuple(found)


@dataclass(frozen=True)
class LabelSegment:
    """One file of labels. `part` names what they are about (see the module)."""

    part: str
    id: str
    url: str
    bytes: int = 0


def write_by_request(artifacts: Artifacts, use_case: str, segment_id: str, labels: pl.DataFrame) -> None:
    """Write labels with the columns of `BY_REQUEST`, each to its part. Written again, they replace themselves."""
    parts = labels.with_columns(part_of(labels["request_id"]).alias("__part"))
    for (part,), rows in parts.partition_by("__part", as_dict=True).items():
        _write(artifacts, use_case, str(part), segment_id, rows.drop("__part"))


def write_by_keys(artifacts: Artifacts, use_case: str, segment_id: str, event_time: str, labels: pl.DataFrame) -> None:
    """The same for labels with `key.<column>` for each key column. Labels without event time are about nothing."""
    parts = labels.with_columns(_part_of_event(labels, event_time).alias("__part"))
    for (part,), rows in parts.partition_by("__part", as_dict=True).items():
        if part is not None:
            _write(artifacts, use_case, str(part), segment_id, rows.drop("__part"))


def delete_by_keys(artifacts: Artifacts, use_case: str, segment_id: str, event_time: str, labels: pl.DataFrame) -> None:
    """Delete what `write_by_keys` has written."""
    for part in _part_of_event(labels, event_time).drop_nulls().unique():
        delete_labels(artifacts, use_case, LabelSegment(part, segment_id, ""))


def frame_by_keys(
    types: Iterable[tuple[str, ColumnType]], values: Sequence[Sequence[Any]], said: pl.DataFrame
) -> pl.DataFrame:
    """Labels by keys as a table; said: their `label`, `known_at` and `received_at`, row by row."""
    columns = zip(*values, strict=True)
    keys = [
        pl.Series(f"{KEY}{name}", list(column), dtype=DTYPES[type_], strict=False)
        for (name, type_), column in zip(types, columns, strict=True)
    ]
    return pl.DataFrame(keys).hstack(said)


def rewrite_labels(artifacts: Artifacts, use_case: str, segment: LabelSegment, labels: pl.DataFrame) -> None:
    """Replace what a segment says; without a label it is deleted."""
    if labels.is_empty():
        delete_labels(artifacts, use_case, segment)
    else:
        _write(artifacts, use_case, segment.part, segment.id, labels)


def delete_labels(artifacts: Artifacts, use_case: str, segment: LabelSegment) -> None:
    """Delete a segment, if it is still there."""
    artifacts.delete(FOLDER, use_case, segment.part, f"{segment.id}{_SUFFIX}")


class Labels:
    """The labels of one use case that lie on shared storage. Segments that were read are kept, up to two million rows.

    Not safe for threads.
    """

    def __init__(self, artifacts: Artifacts, use_case: str):
        self._artifacts, self._use_case = artifacts, use_case
        self._held = 0
        self._cache: OrderedDict[str, pl.DataFrame] = OrderedDict()

    def segments(self) -> list[LabelSegment]:
        """All there are, by part and id. New ones can appear in any part at any time."""
        return [segment for part in self.parts() for segment in self.of_part(part)]

    def parts(self) -> list[str]:
        """The names of all parts."""
        return [entry.name for entry in self._artifacts.entries(FOLDER, self._use_case)]

    def of(self, predictions: pl.DataFrame) -> pl.DataFrame:
        """All that was said of these predictions, as it came: request_id, row, label, known_at, received_at.

        predictions: request_id and row, and for labels by keys the ledger's columns `key.<name>`.
        """
        return settled(lambda: self._said_of(predictions), self._use_case)

    def _said_of(self, predictions: pl.DataFrame) -> pl.DataFrame:
        parts = sorted(part_of(predictions["request_id"]).unique())
        said = [self._read(segment) for part in parts for segment in self.of_part(part)]
        known = predictions.select("request_id", "row").unique()
        frames = [rows.join(known, on=["request_id", "row"], how="semi") for rows in said]
        for part in _key_parts(predictions):
            frames += [_by_keys(predictions, self._read(segment)) for segment in self.of_part(part)]
        return pl.concat(of_one_type(frames) or [pl.DataFrame(schema=BY_REQUEST)], how="vertical")

    def read(self, segments: Iterable[LabelSegment]) -> pl.DataFrame:
        """The labels by request id in some segments; those by keys, and segments that are there no more, are passed
        over: what they said lies in a new one."""
        found = list[pl.DataFrame]()
        for segment in segments:
            with suppress(FileNotFoundError):
                found += [] if segment.part.startswith(KEYS) else [self._read(segment)]
        return pl.concat(of_one_type(found) or [pl.DataFrame(schema=BY_REQUEST)], how="vertical")

    def of_part(self, part: str) -> list[LabelSegment]:
        return [
            LabelSegment(
                part, entry.name.removesuffix(_SUFFIX), self._artifacts.url(*self._path(part), entry.name), entry.size
            )
            for entry in self._artifacts.entries(*self._path(part))
            if entry.name.endswith(_SUFFIX)
        ]

    def _path(self, part: str) -> tuple[str, ...]:
        return FOLDER, self._use_case, part

    def _read(self, segment: LabelSegment) -> pl.DataFrame:
        found = self._cache.pop(segment.url, None)
        if found is None:
            found = read_segment(segment.url)
            self._held += found.height
        self._cache[segment.url] = found
        while self._held > _CACHED_ROWS and len(self._cache) > 1:
            self._held -= self._cache.popitem(last=False)[1].height
        return found


def labels_of(use_case: str, predictions: pl.DataFrame, settings: Settings | None = None) -> pl.DataFrame:
    """All that was said of predictions of the ledger; see `Labels.of`. settings: default from the environment."""
    settings = settings or settings_from_environment()
    return Labels(Artifacts(settings.artifacts), use_case).of(predictions)


def of_one_type(said: Iterable[pl.DataFrame]) -> list[pl.DataFrame]:
    """Of tables of labels those with any, of one type: where the label of a use case has become one of another kind,
    of that which was told last. The others say nothing that could be compared with an answer of today."""
    told = [rows for rows in said if rows.height]
    if len({rows.schema["label"] for rows in told}) < 2:
        return told
    last = max(told, key=_told_last).schema["label"]
    return [rows for rows in told if rows.schema["label"] == last]


def _told_last(rows: pl.DataFrame) -> Any:
    return rows["received_at"].max()


def _write(artifacts: Artifacts, use_case: str, part: str, segment_id: str, rows: pl.DataFrame) -> None:
    artifacts.write_table(rows, FOLDER, use_case, part, f"{segment_id}{_SUFFIX}")


def part_of(ids: pl.Series) -> pl.Series:
    """The part in which labels of each request id lie."""
    frame = pl.DataFrame({"id": ids})
    text = pl.col("id")
    milliseconds = (text.str.slice(0, 8) + text.str.slice(9, 4)).str.to_integer(base=16, strict=False, dtype=pl.Int64)
    dated = (text.str.len_bytes() == 36) & (text.str.slice(14, 1) == "7") & (milliseconds < _LAST_MS)
    day = pl.from_epoch(milliseconds, time_unit="ms").dt.strftime("%Y-%m-%d")
    return frame.select(pl.when(dated).then(day).otherwise(pl.lit(UNDATED)).alias("part"))["part"]


def _part_of_event(labels: pl.DataFrame, event_time: str) -> pl.Series:
    return labels[f"{KEY}{event_time}"].dt.strftime(f"{KEYS}%Y-%m-%d")


def _key_parts(predictions: pl.DataFrame) -> list[str]:
    """Parts of the days of every moment among the keys: one of them is the event time."""
    moments = [name for name in predictions.columns if name.startswith(KEY) and predictions.schema[name].is_temporal()]
    days: set[date] = {day for name in moments for day in predictions[name].drop_nulls().dt.date().unique()}
    return [f"{KEYS}{day.isoformat()}" for day in sorted(days)]


def _by_keys(predictions: pl.DataFrame, said: pl.DataFrame) -> pl.DataFrame:
    keys = [name for name in said.columns if name.startswith(KEY)]
    if not set(keys) <= set(predictions.columns):
        return pl.DataFrame(schema=BY_REQUEST)
    typed = predictions.select("request_id", "row", *(pl.col(key).cast(said.schema[key], strict=False) for key in keys))
    return typed.unique().join(said, on=keys, nulls_equal=True).select(list(BY_REQUEST))
