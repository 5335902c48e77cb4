"""Rows: a data frame as the rows of requests, and their answers as columns beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mlops_ray.client import Answer, Prediction
from mlops_ray.errors import DataError

_PARTS = ("prediction", "probability", "probabilities", "low", "high", "quantiles")
_PARTED = ("probabilities.", "quantiles.")
_ADDED = ("missing_features", "version", "request_id", "row", "reasons")
_PLAIN = (pl.String, pl.Boolean, pl.Datetime, pl.Null, pl.Categorical, pl.Enum)


def rows_of(frame: pl.DataFrame, columns: Sequence[str], name: str) -> list[dict[str, Any]]:
    """The values of the columns that endpoint `name` asks for; others of the frame stay here.

    Raises DataError for a column that is missing, that an answer adds, or whose values cannot be sent.
    """
    if missing := [one for one in columns if one not in frame.columns]:
        raise DataError(
            f"The frame lacks {', '.join(missing)} (it has {', '.join(frame.columns[:40]) or 'no columns'}). Endpoint "
            f"{name} asks for {', '.join(columns)}; a value that is not known may be null where the use case says so."
        )
    if taken := [one for one in frame.columns if one in (*_PARTS, *_ADDED) or one.startswith(_PARTED)]:
        raise DataError(f"The frame has a column {taken[0]!r}, which an answer adds. Rename it, or leave it out.")
    return plain_rows(frame.select(columns))


def plain_rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    """Raises DataError naming a column whose values JSON has not, or that are moments without a zone."""
    for name, dtype in frame.schema.items():
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
            raise DataError(
                f"Column {name} has moments without a time zone. Give it one: frame[{name!r}].dt.tz_localize('UTC') in "
                f"pandas, pl.col({name!r}).dt.replace_time_zone('UTC') in polars."
            )
        if not (dtype.is_numeric() or isinstance(dtype, _PLAIN)):
            raise DataError(f"Column {name} has values of type {dtype}, which cannot be sent. Write texts or numbers.")
    decimals = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Decimal)]
    return frame.with_columns(pl.col(decimals).cast(pl.Float64)).to_dicts()


def with_answers(frame: pl.DataFrame, answers: Sequence[Answer]) -> pl.DataFrame:
    """The frame with `prediction`; `probability`, or one column for each class, or `low` and `high` and one column for
    each quantile, as the kind of label has it; `missing_features` that the model took as missing, and `version`,
    `request_id` and `row`, by which the ledger and labels know a prediction."""
    found = [one for answer in answers for one in answer.predictions]
    columns = [pl.Series("prediction", [one.prediction for one in found])]
    columns += [
        pl.Series(name, [getattr(one, name) for one in found], dtype=pl.Float64)
        for name in ("probability", "low", "high")
        if any(getattr(one, name) is not None for one in found)
    ]
    columns += _parted("probabilities", [one.probabilities for one in found])
    columns += _parted("quantiles", [one.quantiles for one in found])
    columns.append(pl.Series("missing_features", list(map(_absent, found)), dtype=pl.List(pl.String)))
    places = [(answer.version, answer.request_id, row) for answer in answers for row in range(len(answer.predictions))]
    versions, ids, rows = zip(*places, strict=True) if places else ((), (), ())
    columns.append(pl.Series("version", [int(one) if one.isdigit() else one for one in versions]))
    columns += [pl.Series("request_id", ids, dtype=pl.String), pl.Series("row", rows, dtype=pl.Int32)]
    return pl.concat([frame, pl.DataFrame(columns)], how="horizontal").with_columns(_reasons(found))


def _parted(name: str, found: Sequence[Mapping[str, float] | None]) -> list[pl.Series]:
    """A column for each part that any answer has: in a rollout the versions may answer with others."""
    parts = dict.fromkeys(part for one in found for part in one or ())
    return [
        pl.Series(f"{name}.{part}", [None if one is None else one.get(part) for one in found], dtype=pl.Float64)
        for part in parts
    ]


def _absent(one: Prediction) -> list[str]:
    return [*one.missing_features, *one.expired_features]


def _reasons(found: Sequence[Prediction]) -> list[pl.Series]:
    """Where they were asked for: the contribution of each feature; null where they were not ready in time."""
    if not any(one.reasons or one.reasons_missing for one in found):
        return []
    return [pl.Series("reasons", [one.reasons and dict(one.reasons["contributions"]) for one in found])]
