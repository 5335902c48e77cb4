"""What the plain JSON route accepts, compiled once from the schema of a model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.json_body import TypedJson
from mlops_ray.serving.rows import MOMENT, ColumnReader, RowReader
from mlops_ray.use_case import Column, Feature

MAX_ROWS = 1_000
# Each takes as long as some thousand rows that are only answered.
MAX_EXPLAINED = 10


@dataclass(frozen=True)
class Asked:
    """A validated body. Either `keys`, a mapping for each row, or `features`, a tuple for each row in schema order.

    explain: the reasons of each answer are asked for, too.
    """

    keys: list[dict[str, Any]] | None
    features: list[tuple[Any, ...]] | None
    as_of: datetime | None
    explain: bool = False


class PredictBody:
    """Reads bodies of `predict` for one model. repaired: see `ColumnReader`."""

    def __init__(self, schema: ModelSchema, repaired: Counter[str] | None = None):
        self._readers = {
            "keys": RowReader(schema.request_columns, repaired),
            "features": RowReader([feature_column(schema, feature) for feature in schema.features], repaired),
        }
        self._as_of = ColumnReader(Column("as_of", "timestamp"))
        self._names = [column.name for column in schema.request_columns]
        self._json = TypedJson(
            _body({part: reader.canonical_type for part, reader in self._readers.items()}, MOMENT | UnsetType),
            _body({part: reader.any_type for part, reader in self._readers.items()}, msgspec.Raw),
        )

    def decode(self, content: bytes) -> Asked:
        """Raises HttpError 400 naming the first field that is wrong."""
        body = self._json.decode_if_canonical(content)
        return (None if body is None else self._canonical(body)) or self._judged(self._json.any_values(content))

    def _canonical(self, body: Any) -> Asked | None:
        """What is asked, if all values are written as this system writes them."""
        part = _part_of(body)
        values = self._readers[part].canonical(_rows(getattr(body, part)))
        moments = self._as_of.canonical([] if body.as_of is UNSET else [body.as_of])
        if values is None or moments is None:
            return None
        return self._asked(part, values, moments, body.explain is True)

    def _judged(self, body: Any) -> Asked:
        part = _part_of(body)
        given = getattr(body, part)
        fields = [f"{part}[{number}]" for number in range(len(given))] if isinstance(given, list) else [part]
        values = self._readers[part].judged(_rows(given), fields)
        moments = self._as_of.judged([] if body.as_of is UNSET else [body.as_of], ["as_of"])
        return self._asked(part, values, moments, body.explain is True)

    def _asked(self, part: str, values: list[tuple[Any, ...]], moments: Sequence[datetime], explain: bool) -> Asked:
        if explain and len(values) > MAX_EXPLAINED:
            raise HttpError(
                400,
                f"explain: reasons were asked for {len(values)} answers, and {MAX_EXPLAINED} are the most of one "
                f"request. Send fewer rows.",
                "explain",
            )
        as_of = moments[0] if moments else None
        if part == "features":
            return Asked(None, values, as_of, explain)
        return Asked([dict(zip(self._names, row, strict=True)) for row in values], None, as_of, explain)


def _body(rows: dict[str, Any], moment: Any) -> type[msgspec.Struct]:
    fields = [(part, _one_or_many(row), UNSET) for part, row in rows.items()]
    return msgspec.defstruct(
        "Body", [*fields, ("as_of", moment, UNSET), ("explain", bool | UnsetType, UNSET)], forbid_unknown_fields=True
    )


def feature_column(schema: ModelSchema, feature: Feature) -> Column:
    """The rules for a feature in a vector: of the request column that it repeats, or of its kind alone."""
    column = schema.column_of(feature.name)
    if column is not None and column.type != "timestamp":
        return column
    return Column(feature.name, "text" if feature.kind == "category" else "number", nullable=True)


def _part_of(body: Any) -> str:
    if (body.keys is UNSET) == (body.features is UNSET):
        given = "neither" if body.keys is UNSET else "both"
        raise HttpError(400, f"Send either 'keys' or 'features', not {given}.", "keys")
    return "keys" if body.features is UNSET else "features"


def _one_or_many(row: Any) -> Any:
    return row | Annotated[list[row], Meta(min_length=1, max_length=MAX_ROWS)] | UnsetType


def _rows(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list) else [given]
