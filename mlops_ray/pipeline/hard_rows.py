"""Hard rows: which rows of a training set are asked for again when its model is sealed, and why each."""

import json
from collections.abc import Iterator
from typing import Any
from zoneinfo import available_timezones

import polars as pl

from mlops_ray.registry.model_schema import ModelSchema

PLAIN_ROWS = 64
MAX_ROWS = 512
_PER_CASE = 8


def hard_rows(
    requests: pl.DataFrame, features: pl.DataFrame, moments: pl.Series, schema: ModelSchema
) -> dict[int, str]:
    """The positions of the rows to ask for, each with the case that chose it: at most `MAX_ROWS`, in order of time.

    requests: the request columns of each row of the training set; features: its features; moments: its moments of
    prediction. Rows without a moment, and those that a `closed` column refuses because training had not seen their
    value, cannot be asked for. The same rows are chosen from the same tables.
    """
    may_be_asked = moments.is_not_null() & _admitted(requests, schema)
    rows = pl.DataFrame({"row": pl.int_range(len(moments), eager=True), "moment": moments}).filter(may_be_asked)
    rows = rows.sort("moment", "row")
    requests, features = requests[rows["row"]], features[rows["row"]]
    chosen: dict[int, str] = {}
    cases = list(_cases(requests, features, schema))
    for take in range(_PER_CASE):  # a row of each case before a second of any
        for case, positions in cases:
            if take < len(positions) and len(chosen) < MAX_ROWS:
                chosen.setdefault(int(rows["row"][positions[take]]), case)
    step = max(1, rows.height // PLAIN_ROWS)
    for position in range(0, rows.height, step):
        if len(chosen) < MAX_ROWS:
            chosen.setdefault(int(rows["row"][position]), "plain")
    order = dict(zip(rows["row"].to_list(), range(rows.height), strict=True))
    return dict(sorted(chosen.items(), key=lambda item: order[item[0]]))


def _admitted(requests: pl.DataFrame, schema: ModelSchema) -> pl.Series:
    admitted = pl.repeat(True, requests.height, eager=True)
    for column in schema.request_columns:
        if column.closed and column.choices:
            values = requests[column.name].cast(pl.String)
            admitted &= values.is_null() | values.is_in(list(column.choices))
    return admitted


def _cases(requests: pl.DataFrame, features: pl.DataFrame, schema: ModelSchema) -> Iterator[tuple[str, list[int]]]:
    """(what is hard about them, positions of rows in order of time)."""
    height = requests.height
    yield "the first and the last", [0, height - 1, 1][:height]
    for column in schema.request_columns:
        values = requests[column.name]
        yield f"{column.name} is missing", _spread(values.is_null().arg_true())
        if column.type in ("integer", "number"):
            yield f"{column.name} is extreme", _extremes(values)
        if column.type == "text":
            yield f"{column.name} is long", _extremes(values.cast(pl.String).str.len_bytes())
            foreign = values.cast(pl.String).str.contains(r"[^\x00-\x7F]").fill_null(value=False)
            yield f"{column.name} is not ASCII", _spread(foreign.arg_true())
        if column.type == "timestamp":
            for zone in zones_of(schema):
                yield f"{column.name} around a change of {zone}", _changes(values, zone)
    for feature in schema.features:
        values = features[feature.name]
        yield f"feature {feature.name} is missing", _spread((values.is_null() | _is_empty(values)).arg_true())
        if feature.kind == "number":
            yield f"feature {feature.name} is extreme", _extremes(values)
            continue
        known = values.is_null() | values.is_in(["", *feature.categories])
        yield f"feature {feature.name} is unknown", _spread((~known).arg_true())
        counts = values.drop_nulls().value_counts().sort("count", feature.name)
        if counts.height:
            rarest = values == counts[feature.name][0]
            yield f"feature {feature.name} is rare", _spread(rarest.fill_null(value=False).arg_true())


def zones_of(schema: ModelSchema) -> list[str]:
    """Time zones that the expressions of the request features name."""
    texts = set().union(*(_texts(json.loads(text)) for text in schema.request_features.values()))
    return sorted((texts & available_timezones()) - {"UTC", "Etc/UTC"})


def _texts(node: Any) -> set[str]:
    if isinstance(node, dict):
        return set().union(*map(_texts, node.values()))
    if isinstance(node, list):
        return set().union(*map(_texts, node))
    return {node} if isinstance(node, str) else set()


def _spread(positions: pl.Series) -> list[int]:
    """The middle one, the first and the last: what is missing at the very beginning often is for another reason."""
    found = positions.to_list()
    return list(dict.fromkeys([found[len(found) // 2], found[-1], found[0]])) if found else []


def _extremes(values: pl.Series) -> list[int]:
    known = values.cast(pl.Float64)
    known = known.set(~known.is_finite().fill_null(value=False), None)
    found = [known.arg_max(), known.arg_min()]
    return list(dict.fromkeys(position for position in found if position is not None))


def _is_empty(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        return (values == "").fill_null(value=False)
    return values.cast(pl.Float64).is_nan().fill_null(value=False)


def _changes(values: pl.Series, zone: str) -> list[int]:
    """The last row before and the first after each change of the zone's offset, the latest changes first."""
    moments = pl.DataFrame({"at": values}).with_row_index("position").drop_nulls().sort("at")
    local = pl.col("at").dt.convert_time_zone(zone)
    offset = local.dt.base_utc_offset() + local.dt.dst_offset()
    changed = moments.select((offset != offset.shift(1)).fill_null(value=False).alias("changed"))["changed"].arg_true()
    found = [moments["position"][at + beside] for at in reversed(changed.to_list()) for beside in (0, -1)]
    return [int(position) for position in found]
