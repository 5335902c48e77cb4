"""What the plain JSON route accepts, compiled once from the schema of a model."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.serving.http import HttpError
from mlops_ray.use_case import Column, Feature

MAX_ROWS = 1_000
MAX_FLOAT32 = 3.4028234663852886e38
MAX_EXACT_INTEGER = 2**53
YEARS = range(1900, 2200)

_AT = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_NAMED = re.compile(r"(?:missing required|contains unknown) field `(?P<name>.*)`$")


class NotANumber:
    """Stands for the literals NaN and Infinity, which are no JSON, so that the message can name their field."""


@dataclass(frozen=True)
class Asked:
    """A validated body. Either `keys`, a mapping for each row, or `features`, a tuple for each row in schema order."""

    keys: list[dict[str, Any]] | None
    features: list[tuple[Any, ...]] | None
    as_of: datetime | None


class PredictBody:
    """Reads bodies of `predict` for one model."""

    def __init__(self, schema: ModelSchema):
        self._columns = tuple(column.name for column in schema.request_columns)
        keys = struct_of("keys", {column.name: column_type(column) for column in schema.request_columns})
        features = struct_of("features", {f.name: feature_type(schema, f) for f in schema.features})
        self._type = msgspec.defstruct(
            "Body",
            [
                ("keys", _one_or_many(keys), UNSET),
                ("features", _one_or_many(features), UNSET),
                ("as_of", Annotated[datetime, Meta(tz=True)] | UnsetType, UNSET),
            ],
            forbid_unknown_fields=True,
        )
        self._decoder = msgspec.json.Decoder(self._type)
        self._moments = [i for i, column in enumerate(schema.request_columns) if column.type == "timestamp"]

    def decode(self, content: bytes) -> Asked:
        """Raises HttpError 400 naming the first field that is wrong."""
        body: Any = decode_json(content, self._decoder, self._type)
        if (body.keys is UNSET) == (body.features is UNSET):
            given = "neither" if body.keys is UNSET else "both"
            raise HttpError(400, f"Send either 'keys' or 'features', not {given}.", "keys")
        as_of = None if body.as_of is UNSET else body.as_of
        if as_of is not None:
            expect_plausible_year(as_of, "as_of")
        if body.keys is UNSET:
            return Asked(None, [msgspec.structs.astuple(row) for row in _rows(body.features)], as_of)
        rows = [msgspec.structs.astuple(row) for row in _rows(body.keys)]
        for number, row in enumerate(rows):
            for position in self._moments:
                if row[position] is not None:
                    at = f"[{number}]" if isinstance(body.keys, list) else ""
                    expect_plausible_year(row[position], f"keys{at}.{self._columns[position]}")
        return Asked([dict(zip(self._columns, row, strict=True)) for row in rows], None, as_of)


def feature_type(schema: ModelSchema, feature: Feature) -> Any:
    """The type of a feature in a vector; one that repeats a request column is held to that column's rules."""
    column = schema.column_of(feature.name)
    if column is not None and column.type != "timestamp":
        return column_type(column)
    return str | None if feature.kind == "category" else _number(None, None) | None


def decode_json(content: bytes, decoder: msgspec.json.Decoder[Any], target: Any) -> Any:
    """Decode with compiled validation. Raises HttpError 400 that names the field, for every kind of bad content."""
    try:
        try:
            return decoder.decode(content)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError as error:
            return _with_the_field_of_nan(content, target, error)
    except msgspec.ValidationError as error:
        raise _named(str(error)) from None
    except RecursionError:
        raise HttpError(400, "The JSON is nested too deeply.", "body") from None
    except UnicodeError:
        raise HttpError(400, "The body is not UTF-8, or has half of a surrogate pair.", "body") from None


def _with_the_field_of_nan(content: bytes, target: Any, error: msgspec.DecodeError) -> Any:
    """NaN and Infinity are no JSON: read on as if they were, so that validation says where they are."""
    try:
        value = json.loads(content, parse_constant=lambda literal: NotANumber())
        msgspec.convert(value, target)
    except json.JSONDecodeError:
        pass
    raise HttpError(400, f"The body is not JSON: {error}.", "body")


def _named(message: str) -> HttpError:
    """The error of msgspec's message "<what> - at `$.keys[0].origin`", with the field's path in ours."""
    at = _AT.search(message)
    path = at["path"].replace("[...]", "") if at else ""
    text = message[: at.start()] if at else message
    if name := _NAMED.search(text):
        path = f"{path}.{name['name']}" if path else name["name"]
    text = text.replace("got `NotANumber`", "got NaN or Infinity, which is no JSON (send null for a missing number)")
    text = text.replace("Invalid enum value", "not one of the known values:")
    return HttpError(400, f"{path or 'body'}: {text}.", path or "body")


def struct_of(name: str, types: Mapping[str, Any]) -> type[msgspec.Struct]:
    """A struct whose fields may have any name, identifier or not."""
    fields = [(f"field_{number}", type_) for number, type_ in enumerate(types.values())]
    rename = {f"field_{number}": given for number, given in enumerate(types)}
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True, rename=rename)


def _one_or_many(row: Any) -> Any:
    return row | Annotated[list[row], Meta(min_length=1, max_length=MAX_ROWS)] | UnsetType


def _rows(given: Any) -> Sequence[Any]:
    return given if isinstance(given, list) else [given]


def column_type(column: Column) -> Any:
    """The type of a request column, held to the column's rules."""
    type_ = _present_type(column)
    return type_ | None if column.nullable else type_


def _present_type(column: Column) -> Any:
    match column.type:
        case "text" if column.choices:
            return Literal[column.choices]
        case "text":
            return Annotated[str, Meta(min_length=1, pattern=text_pattern(column))]
        case "integer":
            low, high = integer_limits(column)
            return Annotated[int, Meta(ge=low, le=high)]
        case "number":
            return _number(column.minimum, column.maximum)
        case "boolean":
            return bool
        case "timestamp":
            return Annotated[datetime, Meta(tz=True)]


def _number(minimum: float | None, maximum: float | None) -> Any:
    low = -MAX_FLOAT32 if minimum is None else float(minimum)
    high = MAX_FLOAT32 if maximum is None else float(maximum)
    return Annotated[float, Meta(ge=low, le=high)]


def integer_limits(column: Column) -> tuple[int, int]:
    """The least and the greatest integer of a column; without limits those that JSON readers hold exactly."""
    low = -MAX_EXACT_INTEGER if column.minimum is None else math.ceil(column.minimum)
    return low, MAX_EXACT_INTEGER if column.maximum is None else math.floor(column.maximum)


def text_pattern(column: Column) -> str | None:
    """The column's pattern for the whole text. `(?!\\n)`: Python's `$` would let a last line feed pass."""
    return f"^(?:{column.pattern})$(?!\\n)" if column.pattern else None


def expect_plausible_year(moment: datetime, where: str) -> None:
    """Raise HttpError 400 for a moment that is surely a mistake; `where` is its field."""
    if moment.year not in YEARS:
        raise HttpError(400, f"{where}: year {moment.year} is outside {YEARS[0]} to {YEARS[-1]}.", where)
