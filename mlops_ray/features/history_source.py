"""Histories where they lie: the feature rows of a view in Parquet files, read between two moments, and joined."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from mlops_ray.errors import UseCaseError
from mlops_ray.features.point_in_time import History, join_point_in_time
from mlops_ray.features.spans import as_moment, read_between, schema_of

_INSTANT = timedelta(microseconds=1)
_NEVER = datetime(1700, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class HistorySource:
    """The feature rows of one view in Parquet files, or in folders of them, in the order of time.

    view: what it is called in messages. columns: for each key and feature of the history its column in the files, and
    `types` those that they must have, where this is known. The others as `point_in_time.History` has them, but
    `created_counts`: False where `created` only decides between rows that share keys and timestamp.
    """

    view: str
    urls: tuple[str, ...]
    timestamp: str
    columns: Mapping[str, str]
    keys: Mapping[str, str]
    features: tuple[str, ...]
    ttl: timedelta | None
    created: str | None = None
    created_counts: bool = True
    types: Mapping[str, pl.DataType] | None = None

    def read(self, since: datetime | None = None, before: datetime | None = None) -> History:
        """The rows with timestamps in [since, before). Raises UseCaseError where a column is not of its type."""
        moments = [self.timestamp, *([self.created] if self.created else [])]
        wanted = list(dict.fromkeys([*moments, *self.columns.values()]))
        self._expect_types()
        found = read_between(self.urls, self.timestamp, since, before, wanted)
        rows = found.select(
            *(as_moment(found.schema, moment) for moment in moments),
            **{name: pl.col(column) for name, column in self.columns.items()},
        )
        if self.created and not self.created_counts:
            rows = rows.sort(moments, maintain_order=True)
        return self.of(rows)

    def of(self, rows: pl.DataFrame) -> History:
        """Rows of this source as a history."""
        created = self.created if self.created_counts else None
        return History(rows, self.timestamp, self.keys, self.features, self.ttl, created)

    def to_join(self, since: datetime | None, before: datetime | None) -> History:
        """As `read`, with whole numbers among the keys of the type to which `with_keys_of` brings those of rows."""
        history = self.read(since, before)
        whole = [key for key in self.keys.values() if history.rows.schema[key].is_integer()]
        return replace(history, rows=history.rows.with_columns(pl.col(whole).cast(pl.Int64)))

    def looks_back_to(self, moment: datetime) -> datetime | None:
        """Rows before this cannot count at `moment`; None: any can."""
        try:
            return None if self.ttl is None else moment - self.ttl
        except OverflowError:
            return None

    def key_types(self) -> dict[str, pl.DataType]:
        """The type of each key in the files, by the column of the rows that it is compared with."""
        schema = schema_of(self.urls)
        return {column: schema[self.columns[key]] for column, key in self.keys.items()}

    def _expect_types(self) -> None:
        schema = schema_of(self.urls) if self.types else pl.Schema()
        for name, wanted in (self.types or {}).items():
            column = self.columns[name]
            if schema.get(column) != wanted:
                raise UseCaseError(
                    f"Feature view {self.view!r}: column {column!r} is {schema.get(column)} in the rows of "
                    f"{', '.join(self.urls)}, and {wanted} in the definition. Compute the rows again."
                )


def with_keys_of(entities: pl.DataFrame, sources: Sequence[HistorySource]) -> pl.DataFrame:
    """The rows with whole numbers among their keys as Int64, in which those of all widths are compared.

    Raises UseCaseError where an entity's type is not that of the view's key.
    """
    for source in sources:
        for column, wanted in source.key_types().items():
            given = entities.schema[column]
            if given != wanted and not (given.is_integer() and wanted.is_integer()):
                raise UseCaseError(
                    f"Feature view {source.view!r}: entity {column!r} is {given} in the use case and {wanted} in the "
                    f"view's rows. Give both the same type."
                )
            if given.is_integer() and given != pl.Int64:
                entities = entities.with_columns(pl.col(column).cast(pl.Int64))
    return entities


def join_sources(entities: pl.DataFrame, moment: str, sources: Sequence[HistorySource]) -> pl.DataFrame:
    """As `join_point_in_time`, with what can count at the moments of the rows of each source, one after the other."""
    return join_point_in_time(entities, moment, _histories(entities[moment], sources))


def _histories(moments: pl.Series, sources: Sequence[HistorySource]) -> Iterator[History]:
    first, last = bounds(moments)
    for source in sources:
        yield source.to_join(source.looks_back_to(first), after(last))


def bounds(moments: pl.Series) -> tuple[datetime, datetime]:
    """The first and the last; where there is none, some moment, at which nothing is known."""
    first: Any = moments.min()
    last: Any = moments.max()
    return (first, last) if isinstance(first, datetime) else (_NEVER, _NEVER)


def after(moment: datetime) -> datetime:
    """The next moment, as times are kept to microseconds."""
    return moment + _INSTANT
