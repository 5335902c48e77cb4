"""Whether a function may be divided as it says, tried on a sample: a part must give the rows that the whole gives."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_json
from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.day_cells import reading_of
from mlops_ray.features.definitions import View
from mlops_ray.features.part_table import FEATURES
from mlops_ray.features.source_tables import given_tables
from mlops_ray.features.view_rows import in_order, rows_of
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.use_case import DividedView, Tables

# Of each table, from so many files at most, which stand evenly in the order of its rows.
SAMPLE_ROWS, _SAMPLE_FILES = 30_000, 8
_PARTS = 3
_PROVEN = "proven.json"


def division_fault(
    artifacts: Artifacts, snapshot: Snapshot, view: View, function: DividedView, known_at: Mapping[str, pl.Expr | None]
) -> str | None:
    """What is wrong with a view's declaration, in a sentence; None if a sample shows nothing."""
    return fault_in(view, function, _sample(artifacts, snapshot), known_at)


def is_proven(artifacts: Artifacts, use_case: str, view: View, function: DividedView, code: str) -> bool:
    """Whether this was tried before, with this code."""
    found = artifacts.read_json(FEATURES, use_case, view.name, _PROVEN)
    return found is not None and found["division"] == _division(function, code)


def set_proven(artifacts: Artifacts, use_case: str, view: View, function: DividedView, code: str) -> None:
    artifacts.write_json({"division": _division(function, code)}, FEATURES, use_case, view.name, _PROVEN)


def sample_of(tables: Tables) -> dict[str, pl.DataFrame]:
    """Rows of each table from its beginning to its end; all of them where they are few."""
    return {name: table.gather_every(max(1, -(-table.height // SAMPLE_ROWS))) for name, table in tables.items()}


def _sample(artifacts: Artifacts, snapshot: Snapshot) -> dict[str, pl.DataFrame]:
    found = {}
    for source in snapshot.counts:
        place = snapshot.place(source)
        names = [entry.name for entry in artifacts.entries(*place) if entry.name.endswith(".parquet")]
        step = max(1, -(-len(names) // _SAMPLE_FILES))
        chosen = [artifacts.read_table(*place, name) for name in names[::step]]
        found[source] = pl.concat(chosen, how="diagonal")
    return sample_of(found)


def fault_in(view: View, function: DividedView, tables: Tables, known_at: Mapping[str, pl.Expr | None]) -> str | None:
    """As `division_fault`, on these tables."""
    try:
        whole, _ = in_order(view, rows_of(view, function, given_tables(tables))[0])
        parts = []
        if function.looks_back is not None:
            parts.append((f"looks_back={function.looks_back!r}", _by_time(view, function, tables, known_at, whole)))
        if function.by:
            parts.append((f"by={function.by!r}", _by_key(view, function, tables)))
    except UseCaseError as error:
        return str(error)
    for declared, rows in parts:
        if difference := first_difference(view, whole, in_order(view, rows)[0]):
            return (
                f"Feature view {view.name!r} is declared with {declared}, but its rows depend on more: on a sample, "
                f"{difference}. Declare what is true of it, or give the function alone."
            )
    return None


def first_difference(view: View, whole: pl.DataFrame, divided: pl.DataFrame) -> str | None:
    """The first row that only one of two tables has, in words; None if both have the same rows."""
    if whole.equals(divided):
        return None
    keys = [PREDICTION_TIME, *(view.columns.get(key, key) for key in view.keys)]
    lost = whole.join(divided, on=whole.columns, how="anti", nulls_equal=True)
    more = divided.join(whole, on=whole.columns, how="anti", nulls_equal=True)
    first = pl.concat([lost, more]).sort(keys).head(1)
    if first.is_empty():
        return f"the whole has {whole.height:,} rows and its parts {divided.height:,}, some of them more often"
    at = " and ".join(f"{name} {_said(first[name].item())}" for name in keys)
    values = [rows.join(first.select(keys), on=keys, how="semi").head(1) for rows in (whole, divided)]
    if values[0].is_empty() or values[1].is_empty():
        return f"the row of {at} is only in the {'parts' if values[0].is_empty() else 'whole'}"
    differing = [name for name in whole.columns if not values[0][name].equals(values[1][name], null_equal=True)]
    name = differing[0] if differing else whole.columns[-1]
    return f"{name} at {at} is {values[0][name].item()!r} in the whole and {values[1][name].item()!r} in a part"


def _by_time(
    view: View,
    function: DividedView,
    tables: Tables,
    known_at: Mapping[str, pl.Expr | None],
    whole: pl.DataFrame,
) -> pl.DataFrame:
    """The rows, computed from what each of some parts of the time looks back to."""
    moments = whole[PREDICTION_TIME]
    if moments.is_empty():
        return whole
    first: Any = moments.min()
    cuts = [first, *(moments[at * len(moments) // _PARTS] for at in range(1, _PARTS))]
    ends = [*cuts[1:], datetime.max.replace(tzinfo=first.tzinfo)]
    found = []
    assert function.looks_back is not None
    for start, end in zip(cuts, ends, strict=True):
        given = {
            source: reading_of(source, known_at[source]).between(table, start - function.looks_back, end, closed=True)
            for source, table in tables.items()
        }
        rows, _ = rows_of(view, function, given_tables(given))
        found.append(rows.filter((pl.col(PREDICTION_TIME) >= start) & (pl.col(PREDICTION_TIME) < end)))
    return pl.concat(found)


def _by_key(view: View, function: DividedView, tables: Tables) -> pl.DataFrame:
    """The rows, computed from those of some keys at a time; not by a hash, in which two keys may be one part."""
    by = list(function.by)
    having = {source: table for source, table in tables.items() if set(by) <= set(table.columns)}
    keys = pl.concat(table.select(by) for table in having.values()).unique().sort(by)
    parts = []
    for number in range(_PARTS):
        mine = keys.gather_every(_PARTS, number)
        given = {
            source: table.join(mine, on=by, how="semi", nulls_equal=True, maintain_order="left")
            if source in having
            else table
            for source, table in tables.items()
        }
        parts.append(rows_of(view, function, given_tables(given))[0])
    return pl.concat(parts)


def _division(function: DividedView, code: str) -> str:
    return digest_json([code, list(function.by), str(function.looks_back)])


def _said(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else repr(value)
