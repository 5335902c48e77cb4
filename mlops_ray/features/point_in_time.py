"""The point-in-time join: for each row, the newest feature values that were known at its moment and not yet expired."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import polars as pl

from mlops_ray.errors import DataError

_POSITION, _RANK, _KNOWN = "__position", "__rank", "__known"
_MOMENT = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class History:
    """The feature rows of one view.

    rows: join keys, `timestamp` (UTC, the moment the values became known) and `features`.
    keys: join key of the view by the column of the entity rows it is compared with; none where the values hold for all.
    ttl: values older than this at the entity row's moment are treated as unknown. None: they never expire.
    created: the column with the moment a row was written, before which it did not exist. Of rows that share keys and
    timestamp the one that was created last counts, and of these the last one.
    """

    rows: pl.DataFrame
    timestamp: str
    keys: Mapping[str, str]
    features: Sequence[str]
    ttl: timedelta | None
    created: str | None = None


def join_point_in_time(entities: pl.DataFrame, moment: str, histories: Iterable[History]) -> pl.DataFrame:
    """Add to each entity row the features as of its `moment`, one as-of join for each view.

    Of the rows with `timestamp <= moment` and, where the view has it, `created <= moment`, the one with the newest
    timestamp is taken; its values are null if it is older than `moment - ttl`, or if there is none, or a key or the
    moment is null. Rows stay in their order, none is lost or doubled. Time and memory are linear in both inputs after
    sorting. Raises DataError where a feature has the name of a column that is there already.
    """
    result = entities.with_row_index(_POSITION).sort(moment)
    for history in histories:
        expect_new_columns(result.columns, history.features)
        result = result.join_asof(
            _timeline(history, moment),
            on=moment,
            by=list(history.keys) or None,
            strategy="backward",
            check_sortedness=False,
        )
        if history.ttl is not None:
            fresh = pl.col(moment) - pl.col(_KNOWN) <= history.ttl
            result = result.with_columns(pl.when(fresh).then(pl.col(name)).alias(name) for name in history.features)
        result = result.drop(_KNOWN)
    return result.sort(_POSITION).drop(_POSITION)


def expect_new_columns(columns: Sequence[str], features: Sequence[str]) -> None:
    """Raise DataError naming a feature that has the name of a column of the rows, or of an earlier view's feature."""
    if taken := [name for name in features if name in columns]:
        raise DataError(
            f"Feature {taken[0]!r} has the name of a column that the rows have already: their own, or an earlier "
            f"view's. Rename that column, or ask for full feature names (full_feature_names=True)."
        )


def carry(history: History, until: datetime) -> pl.DataFrame:
    """Of rows with timestamps before `until` those that can count from then on; in the order in which they count.

    Of each key the newest that exists by then, and of those that are created later whatever counts before all that are
    there until then. What is carried of two tables, one after the other in time, together and carried again is what is
    carried of both: so a table is gone through in slices, each of which knows what the earlier ones left.
    """
    rows = _ordered(history)
    if history.created is None:
        keys = list(history.keys.values())
        return rows.unique(keys, keep="last", maintain_order=True) if keys else rows.tail(1)
    exists = pl.max_horizontal(history.timestamp, history.created, pl.lit(until, _MOMENT))
    soonest = exists.cum_min(reverse=True).shift(-1)  # of the rows that count before this one
    of_key = soonest.over(list(history.keys.values())) if history.keys else soonest
    return rows.filter(of_key.is_null() | (exists < of_key))


def newest(history: History, as_of: datetime) -> pl.DataFrame:
    """One row for each key: what a request made at `as_of` finds, with all columns of the rows; none where expired."""
    counts = pl.col(history.timestamp) <= as_of
    if history.created:
        counts &= pl.col(history.created) <= as_of
    if history.ttl is not None:  # first, so that what a year left behind is not sorted to find what an hour did
        counts &= pl.col(history.timestamp) >= as_of - history.ttl
    last = _ordered(replace(history, rows=history.rows.filter(counts)))
    return last.unique(list(history.keys.values()), keep="last", maintain_order=True)


def _ordered(history: History) -> pl.DataFrame:
    """The rows from the oldest to the one that counts before all others."""
    order = [history.timestamp, *([history.created] if history.created else [])]
    rows = history.rows.drop_nulls([*order, *history.keys.values()])
    return rows.with_columns(pl.col(order).cast(_MOMENT)).sort(order, maintain_order=True)


def _timeline(history: History, moment: str) -> pl.DataFrame:
    """For each key the moments at which what is known of it changed, in order, and what was known from then on.

    A row that was created after its timestamp appears late, and then may be older than what is known already: from
    each appearance on, the highest rank so far counts.
    """
    ordered = _ordered(history)
    known = pl.col(history.timestamp)
    named = [pl.col(key).alias(column) for column, key in history.keys.items()]
    if history.created is None:
        return ordered.select(known.alias(moment), *named, known.alias(_KNOWN), *history.features)
    appearing = (
        ordered.with_row_index(_RANK)
        .select(_RANK, pl.max_horizontal(known, history.created).alias(moment), *named)
        .sort(moment, maintain_order=True)
    )
    rank = pl.col(_RANK).cum_max()
    appearing = appearing.with_columns(rank.over(list(history.keys)) if history.keys else rank)
    counting = ordered.select(known.alias(_KNOWN), *history.features)[appearing[_RANK]]
    return pl.concat([appearing.drop(_RANK), counting], how="horizontal")
