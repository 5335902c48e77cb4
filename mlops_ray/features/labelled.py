"""Labelled rows: of the main source, what a request would know, the moment of prediction, and how it turned out."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import polars as pl

from mlops_ray.errors import UseCaseError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.use_case import UseCase
from mlops_ray.use_case.user_code import user_code

# Names that begin with __ are no user's.
_TOLD, _TOLD_AT = "__told", "__told_at"


def labelled_rows(use_case: UseCase, rows: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Entities, request features, moment of prediction and label of the rows whose label was known at `as_of`.

    Raises UseCaseError if the label is not of its task's kind (it is never cast to another), or an expression fails,
    and DataError if one of the labels cannot be any.
    """
    with user_code(f"Use case {use_case.name}: label {use_case.label.name!r}"):
        label = rows.with_columns(use_case.label.value.alias(LABEL)).select(LABEL)
        value, known_at = _label(use_case, rows.columns, as_of)
        told = rows.with_columns(value.alias(LABEL), known_at.alias(LABEL_KNOWN_AT)).select(LABEL, LABEL_KNOWN_AT)
    if not use_case.label.task.reads(label.schema[LABEL]):
        raise UseCaseError(
            f"Use case {use_case.name}: label {use_case.label.name!r} gives a {label.schema[LABEL]} over these rows. "
            f"{use_case.label.task.advice}"
        )
    with user_code(f"Use case {use_case.name}: request features"):
        requests = request_rows(use_case, rows, pl.col(use_case.event_time) - use_case.lead_time)
    task = use_case.label.task
    labelled = requests.with_columns(told[LABEL].cast(task.label_type), told[LABEL_KNOWN_AT])
    labelled = labelled.filter(pl.col(LABEL).is_not_null() & (pl.col(LABEL_KNOWN_AT) <= as_of))
    task.encoded(labelled[LABEL])
    return labelled


def is_labelled(use_case: UseCase, columns: Sequence[str], as_of: datetime) -> pl.Expr:
    """Over rows of `rows_with_told`, which have these columns: whether `labelled_rows` keeps a row."""
    value, known_at = _label(use_case, columns, as_of)
    return value.is_not_null() & (known_at <= as_of)


def rows_with_told(use_case: UseCase, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The rows of the main source in their order, with what was told of each where the label is `told` somewhere.

    tables: the snapshot's, by source.
    """
    rows = tables[use_case.main_source]
    if use_case.label.told is None:
        return rows
    keys = [*use_case.entities, use_case.event_time]
    told = tables[use_case.label.told].select(
        *(pl.col(key).cast(rows.schema[key], strict=False) for key in keys),
        pl.col("label").alias(_TOLD),
        pl.col("known_at").alias(_TOLD_AT),
    )
    return rows.join(told.unique(keys, keep="none"), on=keys, how="left", maintain_order="left")


def _label(use_case: UseCase, columns: Sequence[str], as_of: datetime) -> tuple[pl.Expr, pl.Expr]:
    """The label of a row, and when it became known. Where one was told, the one known later counts of those known at
    `as_of`."""
    own, own_at = use_case.label.value, use_case.label.known_at.cast(pl.Datetime("us", "UTC"))
    if _TOLD not in columns:
        return own, own_at
    told_at = pl.col(_TOLD_AT)
    counts = own.is_null() | own_at.is_null() | (own_at > as_of) | (told_at >= own_at)
    is_told = told_at.is_not_null() & (told_at <= as_of) & counts
    return (
        pl.when(is_told).then(pl.col(_TOLD)).otherwise(own),
        pl.when(is_told).then(told_at).otherwise(own_at),
    )


def request_rows(use_case: UseCase, rows: pl.DataFrame, moment: pl.Expr) -> pl.DataFrame:
    """What a request made at `moment` about each row knows: entities, event time and request features."""
    features = {name: e for name, e in use_case.features_of_request().items() if name not in use_case.entities}
    return rows.select(*use_case.entities, use_case.event_time, moment.alias(PREDICTION_TIME), **features)
