"""WindowedView: a feature view of statistics over a window of time, which can be divided in any way."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import polars as pl

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.aggregation import Aggregation
from mlops_ray.use_case.source import Tables
from mlops_ray.use_case.window_values import MOMENT, Value, window_values

_UTC = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class WindowedView:
    """A feature view: for each moment at which something became known of a key, statistics of the window up to it.

    The window is (moment - window, moment], and `window` is also the view's ttl: after it nothing is left of what the
    values are of. aggregations: by feature; here each says when its values become known. The rows of a part of time
    depend on what became known in that part and `window` before it, and on nothing else.
    """

    source: str
    keys: tuple[str, ...]
    window: timedelta
    aggregations: Mapping[str, Aggregation]

    def __call__(self, tables: Tables) -> pl.DataFrame:
        """keys, `event_timestamp` (UTC) and a column for each aggregation; rows with a null key are left out."""
        return window_values(self._events(tables[self.source]), self.keys, self.window, self._values())

    def moments(self) -> tuple[pl.Expr, ...]:
        """When what the view reads of a row becomes known: each such expression once."""
        return tuple(_by_text([_known_at(one) for one in self.aggregations.values()]).values())

    def columns(self) -> tuple[str, ...]:
        """The columns of the source that it reads."""
        read = [*self.moments(), *(one.of for one in self.aggregations.values())]
        return tuple(dict.fromkeys([*self.keys, *(root for one in read for root in one.meta.root_names())]))

    def _values(self) -> dict[str, Value]:
        return {name: Value(one.statistic, _column(one)) for name, one in self.aggregations.items()}

    def _events(self, rows: pl.DataFrame) -> pl.DataFrame:
        """A row for each row of the source and each moment at which something of it becomes known."""
        streams = []
        for text, moment in _by_text([_known_at(one) for one in self.aggregations.values()]).items():
            mine = [one for one in self.aggregations.values() if _text(_known_at(one)) == text]
            values = {_column(one): one.of for one in mine}
            streams.append(rows.select(*self.keys, moment.cast(_UTC).alias(MOMENT), **values))
        return pl.concat(streams, how="diagonal").drop_nulls([MOMENT, *self.keys])


def windowed_views(
    name: str,
    source: str,
    keys: Sequence[str],
    windows: Sequence[timedelta],
    aggregations: Mapping[str, Aggregation],
    known_at: pl.Expr | None = None,
) -> dict[str, WindowedView]:
    """A view for each window, for `UseCase.feature_views`: `origin_3h` of the name `origin` and a window of 3 hours.

    source: whose rows they are of. keys: its columns that say what a row is about. aggregations: by name, which with
    the view's before it is that of the feature: `origin_3h_delay`. known_at: when a row becomes known, for those
    aggregations that do not say so themselves. Raises UseCaseError where a window is not above 0 or two are alike, or
    an aggregation is left without a moment.
    """
    found: dict[str, WindowedView] = {}
    for window in windows:
        view = f"{name}_{length_in_words(window)}"
        if window <= timedelta(0) or view in found:
            raise UseCaseError(
                f"Windowed views {name!r}: the window {window} is not above 0, or stands there twice. Give each length "
                f"once."
            )
        described = {f"{view}_{one}": _with_moment(name, one, how, known_at) for one, how in aggregations.items()}
        found[view] = WindowedView(source, tuple(keys), window, described)
    return found


def length_in_words(length: timedelta) -> str:
    """A length of time as names have it: hours below two days, days from there, minutes or seconds where it must."""
    for unit, sign in ((timedelta(days=1), "d"), (timedelta(hours=1), "h"), (timedelta(minutes=1), "m")):
        if length % unit == timedelta(0) and (sign != "d" or length >= timedelta(days=2)):
            return f"{length // unit}{sign}"
    return f"{length.total_seconds():g}s".replace(".", "_")


def _with_moment(view: str, name: str, aggregation: Aggregation, known_at: pl.Expr | None) -> Aggregation:
    moment = known_at if aggregation.known_at is None else aggregation.known_at
    if moment is None:
        raise UseCaseError(
            f"Windowed views {view!r}: nothing says when {name!r} becomes known. Give known_at, such as "
            f'pl.col("landed").'
        )
    return replace(aggregation, known_at=moment)


def _known_at(aggregation: Aggregation) -> pl.Expr:
    assert aggregation.known_at is not None  # `windowed_views` has seen to it
    return aggregation.known_at


def _text(expression: pl.Expr) -> str:
    return expression.meta.serialize(format="json")


def _by_text(expressions: Sequence[pl.Expr]) -> dict[str, pl.Expr]:
    return {_text(one): one for one in expressions}


def _column(aggregation: Aggregation) -> str:
    """The name of a stream's column: aggregations of the same values share it."""
    return f"__{json.dumps([_text(_known_at(aggregation)), _text(aggregation.of)])}"
