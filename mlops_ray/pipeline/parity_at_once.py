"""Parity of what is computed when it is asked for, of the request and on demand, which has no history of its own."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import and_
from typing import Any

import polars as pl

from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.on_demand import with_on_demand
from mlops_ray.features.parity import Example, FeatureParity, ViewParity
from mlops_ray.features.point_in_time import History, join_point_in_time
from mlops_ray.registry.model_schema import ModelSchema


def at_once(
    what: str,
    asked: pl.DataFrame,
    offline: Mapping[str, pl.Series],
    served: Mapping[str, pl.Series],
    among: Mapping[str, pl.Series],
) -> ViewParity:
    """What is computed when it is asked for has no history: it is right or not. among: of a feature, which rows count;
    all by default."""
    features, examples = list[FeatureParity](), list[Example]()
    for name, computed in offline.items():
        if name not in served:
            continue
        values = as_served(computed, served[name].dtype)
        differs = ~values.eq_missing(served[name])
        if name in among:
            differs &= among[name]
        rows, wrong = int(among[name].sum()) if name in among else asked.height, int(differs.sum())
        missing = int((served[name].is_null() & differs).sum())
        features.append(FeatureParity(name, None, rows - wrong, 0, missing, wrong - missing))
        for row in differs.arg_true()[:2]:
            given, value = asked.row(row, named=True), served[name][row]
            outcome: Any = "missing" if value is None else "wrong"
            moment = given.pop(PREDICTION_TIME)
            examples.append(Example(name, outcome, given, moment, value, values[row]))
    wrong_ones = [one.feature for one in features if one.exact < one.compared]
    cause = f"{what} {', '.join(wrong_ones)} are computed otherwise online than offline." if wrong_ones else None
    return ViewParity(tuple(features), tuple(examples), cause)


def on_demand_parity(
    schema: ModelSchema,
    asked: pl.DataFrame,
    of_request: Mapping[str, pl.Series],
    histories: Sequence[History],
    served: Mapping[str, pl.Series],
) -> ViewParity | None:
    """The on-demand features of what can be computed again, in the rows in which that was served as it should be: what
    is wrong elsewhere is told of the view. None if there is none."""
    kinds = {feature.name: feature.kind for feature in schema.features}
    columns = {name: column for name, column in of_request.items() if name in kinds}
    for history in histories:  # of its keys alone: another column of a request may have the name of a feature
        keys = typed_keys(asked.select(*history.keys, PREDICTION_TIME), history)
        columns |= join_point_in_time(keys, PREDICTION_TIME, [history]).select(history.features).to_dict()
    features = {name: one.cast(pl.Float64 if kinds[name] == "number" else pl.String) for name, one in columns.items()}
    given = [name for name in (*schema.entities, schema.event_time) if name in asked.columns]
    known = asked.select(given).with_columns(**features)
    expressions = {
        name: expression
        for name, expression in schema.on_demand_expressions().items()
        if set(expression.meta.root_names()) <= set(known.columns)
    }
    if not expressions:
        return None
    same = {
        name: as_served(known[name], served[name].dtype).eq_missing(served[name]) for name in features if name in served
    }
    every = pl.repeat(True, asked.height, eager=True)
    among = {
        name: reduce(and_, (same[root] for root in expression.meta.root_names() if root in same), every)
        for name, expression in expressions.items()
    }
    computed = with_on_demand(known, expressions)
    return at_once("On-demand features", asked, {name: computed[name] for name in expressions}, served, among)


def as_served(values: pl.Series, dtype: pl.DataType) -> pl.Series:
    """As a vector in the ledger has it: numbers of 32 bits, texts, nothing for NaN and for an empty text."""
    if dtype == pl.String:
        return values.cast(pl.String).replace("", None)
    return values.cast(pl.Float32).fill_nan(None)


def typed_keys(asked: pl.DataFrame, history: History) -> pl.DataFrame:
    """Keys as the view has them: integers of two widths are the same key."""
    return asked.with_columns(pl.col(column).cast(history.rows.schema[key]) for column, key in history.keys.items())
