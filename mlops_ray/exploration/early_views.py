"""Early views: feature views whose rows hold what was not known yet at the moment that they are stamped with.

A view is a function of tables, so it can be asked: the rows that it stamps before a moment must be the same if nothing
that became known after that moment is in its tables.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from mlops_ray.exploration.suspicion import Suspicion
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.use_case import Source, Tables, UseCase

# Around a moment so many rows of a table are taken, in the order in which they became known.
_ROWS_BEFORE, _ROWS_AFTER = 3_000, 1_000
# Moments of each source that are tried: those just before what stands at these shares of its rows.
_TRIED = (1 / 3, 2 / 3)
# Of the last rows before a moment, so many must be others, or all that have the newest stamp, around each moment that
# is tried. In an honest view none is, but for rows of one moment, whose order polars does not promise.
_LAST, _OTHERS = 10, 4
_AT = "__at"


@dataclass(frozen=True)
class _Probe:
    """The tables around a moment, and the same without what became known after it."""

    moment: datetime
    full: Mapping[str, pl.DataFrame]
    known: Mapping[str, pl.DataFrame]


def early_views(use_case: UseCase, tables: Tables) -> list[Suspicion]:
    """The views that know too early, with one sentence each. A view whose function fails on a part is passed over.

    A row of a source is known at its `known_at`. Of the first source, columns that a caller sends are known before, and
    a value from which a moment is derived is known at that moment. Sources without `known_at` are always known.
    """
    tried = [_probes(use_case, tables, name) for name in use_case.sources]
    found = []
    for name, function in use_case.feature_views.items():
        for probes in tried:
            sentences = [_judged(function, probe) for probe in probes]
            if sentences and all(sentences):
                found.append(Suspicion(name, "leakage", str(sentences[0])))
                break
    return found


def _judged(function: Callable[[Tables], pl.DataFrame], probe: _Probe) -> str | None:
    """What a view knows too early around a moment; None if nothing, or if its function fails on these tables."""
    try:
        full, known = (_rows(function, tables, probe.moment) for tables in (probe.full, probe.known))
    except Exception:
        return None
    last = full.sort(PREDICTION_TIME).tail(_LAST)
    others = last.join(known, on=last.columns, how="anti", nulls_equal=True)
    newest = pl.col(PREDICTION_TIME) == last[PREDICTION_TIME].max()
    if last.is_empty() or (others.height < _OTHERS and others.filter(newest).height < last.filter(newest).height):
        return None
    changed = full.join(known, on=full.columns, how="anti", nulls_equal=True)
    first: Any = changed[PREDICTION_TIME].min()
    return (
        f"Of the last {last.height} rows that it stamps before {probe.moment:%Y-%m-%d %H:%M} UTC, {others.height} hold "
        f"values that became known later; the first of such rows is stamped {_words(probe.moment - first)} before."
    )


def _words(length: timedelta) -> str:
    minutes = length.total_seconds() / 60
    return f"{minutes:.0f} minutes" if minutes < 600 else f"{minutes / 60:.0f} hours"


def _rows(function: Callable[[Tables], pl.DataFrame], tables: Tables, moment: datetime) -> pl.DataFrame:
    frame = function({name: table.clone() for name, table in tables.items()})
    frame = frame if isinstance(frame, pl.DataFrame) else pl.DataFrame(frame)
    stamped = frame.with_columns(pl.col(PREDICTION_TIME).cast(pl.Datetime("us", "UTC")))
    return stamped.filter(pl.col(PREDICTION_TIME) <= moment).with_columns(
        pl.col(pl.Float32, pl.Float64).fill_nan(None).round_sig_figs(6)
    )


def _probes(use_case: UseCase, tables: Tables, name: str) -> list[_Probe]:
    moments = _known(use_case, name)
    if not moments or tables[name].is_empty():
        return []
    known = tables[name].select(pl.min_horizontal(list(moments.values())).alias(_AT)).to_series().drop_nulls().sort()
    tried = {known[int(share * (len(known) - 1))] - timedelta(microseconds=1) for share in _TRIED} if len(known) else ()
    found = []
    for moment in sorted(tried):
        full = {source: _around(use_case, table, source, moment) for source, table in tables.items()}
        masked = {source: _masked(use_case, table, source, moment) for source, table in full.items()}
        found.append(_Probe(moment, full, masked))
    return found


def _around(use_case: UseCase, table: pl.DataFrame, name: str, moment: datetime) -> pl.DataFrame:
    """The rows of a table that stand near a moment; all of a table that is known from the beginning."""
    order = _order(use_case, name)
    if order is None:
        return table
    rows = table.with_columns(order.alias(_AT)).sort(_AT, maintain_order=True)
    place = rows.select((pl.col(_AT) <= moment).sum()).item()
    start = max(0, place - _ROWS_BEFORE)
    return rows[start : place + _ROWS_AFTER].drop(_AT)


def _order(use_case: UseCase, name: str) -> pl.Expr | None:
    if name == use_case.main_source:
        return pl.col(use_case.event_time)
    return use_case.sources[name].known_at


def _masked(use_case: UseCase, table: pl.DataFrame, name: str, moment: datetime) -> pl.DataFrame:
    """The table as it was known at a moment: without the rows, or in the first source the values, that came later."""
    source, known = use_case.sources[name], _known(use_case, name)
    if not known:
        return table
    if name != use_case.main_source:
        assert source.known_at is not None
        return table.filter(source.known_at <= moment)
    later = {column: (at > moment) for column, at in known.items()}
    absent = [flag for column, flag in later.items() if not _nullable(source, column)]
    hidden = {column: pl.when(~flag).then(pl.col(column)) for column, flag in later.items()}
    for derived in source.derived:
        if flags := [later[root] for root in roots(source, derived) if root in later]:
            hidden[derived] = pl.when(~pl.any_horizontal(flags)).then(pl.col(derived))
    rows = (
        table.with_columns(pl.any_horizontal(absent).alias(_AT))
        if absent
        else table.with_columns(pl.lit(False).alias(_AT))
    )
    return (
        rows.with_columns(expression.alias(column) for column, expression in hidden.items())
        .filter(~pl.col(_AT).fill_null(False))
        .drop(_AT)
    )


def _nullable(source: Source, name: str) -> bool:
    column = source.column(name)
    return column is None or column.nullable


def _known(use_case: UseCase, name: str) -> dict[str, pl.Expr]:
    """When each column of a source became known that was not so from the beginning."""
    source = use_case.sources[name]
    if name != use_case.main_source:
        return {} if source.known_at is None else {column.name: source.known_at for column in source.columns}
    asked = {root for column in use_case.request_columns() for root in roots(source, column)}
    settled = {root for column in (*use_case.entities, use_case.event_time) for root in roots(source, column)}
    labels = {root for column in use_case.label.value.meta.root_names() for root in roots(source, column)}
    found: dict[str, pl.Expr] = {}
    for column in source.columns:
        if column.name in settled:
            continue
        moments = [] if source.known_at is None else [source.known_at]
        if column.name in asked:
            moments.append(pl.col(use_case.event_time) - use_case.lead_time)
        elif column.type == "timestamp":
            moments.append(pl.col(column.name))
        moments += [
            pl.col(one) for one in source.derived if column.name in roots(source, one) and _is_moment(source, one)
        ]
        moments += [use_case.label.known_at] if column.name in labels else []
        if moments:
            utc = [moment.cast(pl.Datetime("us", "UTC")) for moment in moments]
            found[column.name] = pl.min_horizontal(utc)
    return found


def roots(source: Source, name: str) -> set[str]:
    """The columns of the contract from which a column is derived; itself if it is one of them."""
    if name not in source.derived:
        return {name}
    return {root for one in source.derived[name].meta.root_names() if one != name for root in roots(source, one)}


def _is_moment(source: Source, name: str) -> bool:
    schema = {column.name: column.dtype for column in source.columns}
    frame = pl.DataFrame(schema=schema)
    for derived, expression in source.derived.items():
        frame = frame.with_columns(expression.alias(derived))
    dtype = frame.schema[name]
    return isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
