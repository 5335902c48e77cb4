"""Pushes: fresh values that somebody sent, each kept before it is confirmed, and never changed.

One lies at `pushes/<project>/<view>/<day>/<id>.parquet`, by the day of its moment: the rows with the names of the
view's definition, and with each its push, who sent it and when. Those of a day that is over are brought together in one
file. What lies there is part of what a materialization brings online (`pushed_rows`), so that no refresh undoes what
was confirmed. Only an erasure takes rows away.
"""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_rows
from mlops_ray.errors import ConflictError, DataError, UseCaseError
from mlops_ray.features.columns import DTYPES, PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.view_rows import typed_rows

FOLDER = "pushes"
# Clocks differ, but a value of next week would hide each that comes until then.
CLOCKS_DIFFER = timedelta(minutes=5)
_PUSH, _PUSHED_AT, _PUSHED_BY = "push", "pushed_at", "pushed_by"
_TOGETHER, _LOOKS = "together.parquet", 5
_MOMENT = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class Push:
    """What was sent at once. id: a UUID, the same when it is sent again; digest: of the rows, whatever their order."""

    id: str
    view: str
    pushed_at: datetime
    pushed_by: str
    rows: int
    digest: str


def judged_rows(view: View, rows: pl.DataFrame, now: datetime) -> pl.DataFrame:
    """Rows of keys, `event_timestamp` and fields as the view has them, each key and moment once: the last one given.

    Raises DataError naming the column for what no row of a view may be: another type, a key or moment that is null, a
    moment without zone, or one that lies ahead.
    """
    given = rows.schema.get(PREDICTION_TIME)
    if not isinstance(given, pl.Datetime) or given.time_zone is None:
        raise DataError(
            f"Feature view {view.name!r}: {PREDICTION_TIME} is {given or 'not there'}. Give since when each value is "
            f"known, as a moment with a time zone."
        )
    if unknown := sorted(set(rows.columns) - {PREDICTION_TIME, *view.keys, *view.fields}):
        raise DataError(f"Feature view {view.name!r} has no column {unknown[0]!r}. Leave it out.")
    if nulls := rows[PREDICTION_TIME].null_count():
        raise DataError(f"Feature view {view.name!r}: {PREDICTION_TIME} is null in {nulls:,} of {rows.height:,} rows.")
    moments = rows[PREDICTION_TIME].dt.cast_time_unit("us").dt.convert_time_zone("UTC")
    latest = moments.max()
    if isinstance(latest, datetime) and latest > now + CLOCKS_DIFFER:
        raise DataError(
            f"Feature view {view.name!r}: {PREDICTION_TIME} {latest.isoformat()} lies ahead of now "
            f"({now.isoformat(timespec='seconds')}). Nobody knows a value before its moment."
        )
    known = rows.with_columns(moments.cast(_MOMENT), pl.col(pl.Float32, pl.Float64).fill_nan(None))
    try:
        typed = typed_rows(known.rename(dict(view.columns), strict=False), _without_created(view))
    except UseCaseError as error:
        raise DataError(str(error)) from error
    named = typed.rename({column: name for name, column in view.columns.items()})
    return named.unique([*view.keys, PREDICTION_TIME], keep="last", maintain_order=True)


def keep_push(artifacts: Artifacts, project: str, view: View, rows: pl.DataFrame, push: Push) -> None:
    """Keep rows as `judged_rows` gives them; kept again they stay as they were.

    Raises ConflictError if other rows were sent under this id.
    """
    place = _place(project, view, push)
    if artifacts.holds(artifacts.url(*place)):
        if digest_of(artifacts.read_table(*place).select(rows.columns)) != push.digest:
            raise ConflictError(f"Under the id {push.id} other rows were pushed before. Give this push one of its own.")
        return
    sent = {
        _PUSH: pl.lit(push.id),
        _PUSHED_AT: pl.lit(push.pushed_at).cast(_MOMENT),
        _PUSHED_BY: pl.lit(push.pushed_by),
    }
    artifacts.write_table(rows.with_columns(**sent), *place)


def bring_together(artifacts: Artifacts, project: str, view: View) -> None:
    """Make one file of those of each day but the last one. Nobody else does so at the same time. Who reads meanwhile
    may find a row twice, and so may who comes after one that was killed."""
    for day in _days(artifacts, project, view)[:-1]:
        place = (FOLDER, project, view.name, day.isoformat())
        names = [entry.name for entry in artifacts.entries(*place)]
        if len(names) > 1:
            rows = pl.concat([artifacts.read_table(*place, name) for name in names]).unique(maintain_order=True)
            artifacts.write_table(rows, *place, _TOGETHER)
            for name in set(names) - {_TOGETHER}:
                artifacts.delete(*place, name)


def digest_of(rows: pl.DataFrame) -> str:
    return digest_rows(rows).hex()


def pushed_rows(artifacts: Artifacts, project: str, view: View, as_of: datetime) -> pl.DataFrame:
    """The rows pushed to a view that may count as of a moment: not later than it, and within the ttl.

    Columns: `event_timestamp`, `created` where the view has it, keys and fields, as those of `history_of`.
    """
    names = [*view.keys, *view.fields]
    frames = [pl.DataFrame(schema=_schema(view))]
    first = _first_day(view, as_of)
    for day in _days(artifacts, project, view):
        if day >= first:
            frames += [rows.select(*_schema(view)) for rows in _of_day(artifacts, project, view, day).values()]
    moment = pl.col(PREDICTION_TIME)
    rows = pl.concat(frames).filter((moment <= as_of) & (pl.lit(as_of) - moment <= view.ttl))
    # Online it is already, also for who works as of an earlier moment than that at which it came.
    created = [pl.min_horizontal(_PUSHED_AT, pl.lit(as_of)).cast(_MOMENT).alias(view.created)] if view.created else []
    return rows.select(PREDICTION_TIME, *created, *names)


def all_pushed(artifacts: Artifacts, project: str, view: View) -> pl.DataFrame:
    """All rows that were ever pushed to a view, with the columns of `pushed_rows`; created when they came."""
    names = [*view.keys, *view.fields]
    frames = [pl.DataFrame(schema=_schema(view))]
    for day in _days(artifacts, project, view):
        frames += [rows.select(*_schema(view)) for rows in _of_day(artifacts, project, view, day).values()]
    created = [pl.col(_PUSHED_AT).alias(view.created)] if view.created else []
    return pl.concat(frames).select(PREDICTION_TIME, *created, *names)


def pushes(artifacts: Artifacts, project: str, view: View) -> list[Push]:
    """All that was ever pushed to a view, by day and moment."""
    names, found = [PREDICTION_TIME, *view.keys, *view.fields], list[Push]()
    for day in _days(artifacts, project, view):
        files = _of_day(artifacts, project, view, day)
        if not files:  # all of it was erased
            continue
        rows = pl.concat(files.values()).unique(maintain_order=True)
        for part in rows.sort(_PUSHED_AT, maintain_order=True).partition_by(_PUSH, maintain_order=True):
            sent, digest = part.row(0, named=True), digest_of(part.select(names))
            found.append(Push(sent[_PUSH], view.name, sent[_PUSHED_AT], sent[_PUSHED_BY], part.height, digest))
    return found


def erase_pushed(artifacts: Artifacts, project: str, view: View, key: str, value: str, dry_run: bool) -> int:
    """Take out of what was pushed to a view the rows whose key is this value; how many they are."""
    erased = 0
    for day in _days(artifacts, project, view):
        for name, rows in _of_day(artifacts, project, view, day).items():
            rest = rows.filter(pl.col(key).cast(pl.String) != value)
            erased += rows.height - rest.height
            if rest.height < rows.height and not dry_run:
                place = (FOLDER, project, view.name, day.isoformat(), name)
                if rest.height:
                    artifacts.write_table(rest, *place)
                else:
                    artifacts.delete(*place)
    return erased


def _schema(view: View) -> dict[str, pl.DataType]:
    names = [*view.keys, *view.fields]
    return {PREDICTION_TIME: _MOMENT, _PUSHED_AT: _MOMENT, **{name: DTYPES[view.types[name]] for name in names}}


def _first_day(view: View, as_of: datetime) -> date:
    try:
        return (as_of - view.ttl - timedelta(days=1)).date()
    except OverflowError:
        return date.min


def _place(project: str, view: View, push: Push) -> tuple[str, ...]:
    return FOLDER, project, view.name, push.pushed_at.date().isoformat(), f"{push.id}.parquet"


def _days(artifacts: Artifacts, project: str, view: View) -> list[date]:
    return [date.fromisoformat(entry.name) for entry in artifacts.entries(FOLDER, project, view.name)]


def _of_day(artifacts: Artifacts, project: str, view: View, day: date) -> dict[str, pl.DataFrame]:
    """The files of a day by name, read again where one was brought together with others meanwhile."""
    place = (FOLDER, project, view.name, day.isoformat())
    for look in range(1, _LOOKS + 1):
        try:
            return {entry.name: artifacts.read_table(*place, entry.name) for entry in artifacts.entries(*place)}
        except FileNotFoundError:
            if look == _LOOKS:
                raise
    raise AssertionError


def _without_created(view: View) -> View:
    """What is pushed is created when it comes."""
    return View(**{**vars(view), "created": None})
