"""Tensors of the Open Inference Protocol: one feature of all rows, as JSON data or as binary data after the JSON."""

import base64
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
import polars as pl
from msgspec import Meta
from numpy.typing import NDArray

from mlops_ray.ingestion.reading import limits, null_values
from mlops_ray.serving.http import HttpError
from mlops_ray.serving.json_body import MAX_TEXT, too_long
from mlops_ray.serving.rows import AcceptedTexts, judge_series
from mlops_ray.serving.validation import MAX_ROWS
from mlops_ray.use_case import Column, Feature

NUMERIC_TYPES = {
    "FP16": "<f2", "FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
}  # fmt: skip
_BOOL = {"BOOL": "<u1"}  # so that a byte other than 0 and 1 is seen


def _range_of(dtype: str) -> tuple[float, float]:
    """The least and the greatest number; of integers exactly."""
    if np.dtype(dtype).kind == "f":
        return float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    return np.iinfo(dtype).min, np.iinfo(dtype).max


_RANGES = {name: _range_of(dtype) for name, dtype in NUMERIC_TYPES.items()}
_EXACT_FLOAT = 2**53
_DECODED = {"base64": "text in base64", "pd_json": "JSON of one value"}
Scalar = bool | int | float | str | None
_SCALAR = msgspec.json.Decoder(Scalar)
Size = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Parameters(msgspec.Struct, frozen=True, omit_defaults=True):
    """Parameters of a tensor that have a meaning here; others, of any form, are passed over as the protocol says.

    `binary_data_size`: its bytes after the JSON; `binary_data`: answer it in binary. `content_type`: how MLServer's
    codecs wrote the values; in `base64` and `pd_json` (each value a JSON text) they are not what they stand for. The
    other two ask for what Triton does with a tensor and this server does not.
    """

    binary_data_size: Size | None = None
    binary_data: bool | None = None
    content_type: str | None = None
    shared_memory_region: str | None = None
    classification: int | None = None

    def expect_offered(self, at: str) -> None:
        """Raise HttpError 400 for a parameter that would change what is meant, if it were passed over."""
        for name in ("shared_memory_region", "classification"):
            if getattr(self, name) is not None:
                raise HttpError(400, f"{at}: {name} is not offered. Leave it out.", f"{at}.parameters.{name}")


class InputTensor(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    shape: Annotated[list[Size], Meta(min_length=1, max_length=2)]
    datatype: str
    parameters: Parameters | None = None
    data: list[Scalar | list[Scalar]] | None = None


class TensorRules:
    """What the tensor of one feature may hold: its kind, and the rules of the column that it repeats. repaired: see
    `ColumnReader`."""

    def __init__(self, feature: Feature, column: Column, repaired: Counter[str] | None = None):
        self.feature, self.column, self.repaired = feature, column, repaired
        self.texts = AcceptedTexts(column)
        low, high = limits(column)
        self.low, self.high = (-np.inf if low is None else low), (np.inf if high is None else high)
        nulls = null_values(column)
        self.nulls = [] if nulls is None else nulls.to_list()


def values_of(tensor: InputTensor, rules: TensorRules, raw: bytes | None, at: str) -> NDArray[Any]:
    """The values of one tensor: float32 with NaN, or text with "", where they are missing."""
    feature = rules.feature
    rows = tensor.shape[0]
    if not 1 <= rows <= MAX_ROWS or tensor.shape[1:] not in ([], [1]):
        raise HttpError(
            400, f"{at}: shape {tensor.shape} must be [n] or [n, 1], n from 1 to {MAX_ROWS}.", f"{at}.shape"
        )
    coding = tensor.parameters.content_type if tensor.parameters else None
    allowed = _allowed_types(rules, coding)
    if tensor.datatype not in allowed:
        raise HttpError(
            400, f"{at}: datatype {tensor.datatype!r} of {feature.name} must be {', '.join(allowed)}.", f"{at}.datatype"
        )
    if (raw is None) == (tensor.data is None):
        raise HttpError(400, f"{at}: give either data or parameters.binary_data_size.", f"{at}.data")
    values = _scalars(tensor.data, rows, at) if tensor.data is not None else _from_binary(raw or b"", tensor, at)
    fields = _Fields(at)
    _expect_short(values, fields)
    if coding in _DECODED and tensor.datatype == "BYTES":
        values = [_decoded(value, coding, fields[row]) for row, value in enumerate(values)]
    if feature.kind == "category":
        return _texts(values, rules, fields)
    return _numbers(values, tensor.datatype, rules, fields)


def _expect_short(values: Sequence[Scalar] | NDArray[Any], fields: Sequence[str]) -> None:
    if isinstance(values, np.ndarray):
        return
    for row, value in enumerate(values):
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise too_long(value, fields[row])


def _allowed_types(rules: TensorRules, coding: str | None) -> list[str]:
    if rules.feature.kind == "category":
        return ["BYTES"]
    booleans = list(_BOOL) if rules.column.type == "boolean" else []
    return [*NUMERIC_TYPES, *booleans, *(["BYTES"] if coding == "pd_json" else [])]


def _decoded(value: Scalar, coding: str, field: str) -> Scalar:
    """What a value of BYTES stands for, which MLServer's codec wrote as `coding`."""
    if not isinstance(value, str):
        return value
    try:
        if coding == "base64":
            return base64.b64decode(value, validate=True).decode()
        scalar: Scalar = _SCALAR.decode(value)
        return scalar
    except (ValueError, RecursionError):
        raise HttpError(400, f"{field}: {value[:80]!r} is no {_DECODED[coding]}.", field) from None


class _Fields(Sequence[str]):
    """The names of a tensor's values, made when one is asked for."""

    def __init__(self, at: str):
        self._at = at

    def __len__(self) -> int:
        return MAX_ROWS

    def __getitem__(self, row: Any) -> Any:
        return f"{self._at}.data[{row}]"


def _scalars(data: list[Scalar | list[Scalar]], rows: int, at: str) -> list[Scalar]:
    flat = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in data]
    if len(flat) != rows or any(isinstance(value, list) for value in flat):
        raise HttpError(
            400, f"{at}: data has {len(flat)} rows of one value each, or not; shape says {rows}.", f"{at}.data"
        )
    return flat  # type: ignore[return-value]


def _from_binary(raw: bytes, tensor: InputTensor, at: str) -> Any:
    rows = tensor.shape[0]
    if tensor.datatype == "BYTES":
        return _texts_from_binary(raw, rows, at)
    dtype = np.dtype((NUMERIC_TYPES | _BOOL)[tensor.datatype])
    if len(raw) != rows * dtype.itemsize:
        raise wrong_size(at, f"{rows} values of {tensor.datatype} take {rows * dtype.itemsize} bytes, not {len(raw)}")
    return np.frombuffer(raw, dtype)


def _texts_from_binary(raw: bytes, rows: int, at: str) -> list[Scalar]:
    """BYTES in binary: for each value its length as 4 bytes (little endian) and the bytes themselves."""
    values: list[Scalar] = []
    offset = 0
    try:
        while offset < len(raw) and len(values) <= rows:
            (length,) = struct.unpack_from("<I", raw, offset)
            content = raw[offset + 4 : offset + 4 + length]
            if len(content) != length:
                raise struct.error
            values.append(content.decode())
            offset += 4 + length
    except struct.error:
        raise wrong_size(at, "a value is cut off") from None
    except UnicodeDecodeError:
        row = len(values)
        raise HttpError(400, f"{at}: value {row} is not UTF-8.", f"{at}.data[{row}]") from None
    if len(values) != rows:
        raise wrong_size(at, f"it holds {len(values)} values or more, shape says {rows}")
    return values


def _numbers(values: Any, datatype: str, rules: TensorRules, fields: Sequence[str]) -> NDArray[np.float32]:
    """Numbers as the column's rules have them; NaN and null are missing. A column of integers takes whole ones."""
    column = rules.column
    if isinstance(values, list):
        whole = not datatype.startswith(("FP", "BYTES"))
        for row, value in enumerate(values):
            boolean = isinstance(value, bool)
            if isinstance(value, str) or (boolean and datatype != "BOOL") or (whole and isinstance(value, float)):
                raise HttpError(400, f"{fields[row]}: {value!r} is not {datatype}.", fields[row])
            if datatype in _RANGES and value is not None and not _RANGES[datatype][0] <= value <= _RANGES[datatype][1]:
                raise HttpError(400, f"{fields[row]}: {value!r:.80} is outside of {datatype}.", fields[row])
        if datatype == "BOOL":
            values = [int(value) if isinstance(value, bool) else value for value in values]
    if not rules.nulls and (found := _canonical_numbers(values, rules)) is not None:
        return found
    if isinstance(values, list):
        given = pl.Series([None if v is None else column.written(repr(v)) for v in values], dtype=pl.String)
    else:
        given = pl.Series(values)
        given = given.fill_nan(None) if given.dtype.is_float() else given
    return judge_series(column, given, fields, rules.repaired).cast(pl.Float64).to_numpy().astype(np.float32)


def _canonical_numbers(values: Any, rules: TensorRules) -> NDArray[np.float32] | None:
    """Numbers that the contract takes as they are; None where it must be asked."""
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except OverflowError:
        return None
    if rules.column.type == "boolean":
        fits = (numbers == 0) | (numbers == 1)
    else:
        fits = (numbers >= rules.low) & (numbers <= rules.high)
    if rules.column.type == "integer":
        fits &= (numbers == np.floor(numbers)) & (np.abs(numbers) <= _EXACT_FLOAT)
    if rules.column.nullable:
        fits |= np.isnan(numbers)
    return numbers.astype(np.float32) if fits.all() else None


def _texts(values: Sequence[Scalar], rules: TensorRules, fields: Sequence[str]) -> NDArray[np.object_]:
    for row, value in enumerate(values):
        if not isinstance(value, str | None):
            raise HttpError(400, f"{fields[row]}: {value!r} is not text.", fields[row])
    read: Sequence[Any] | None = None
    if rules.column.type == "text" and (rules.column.nullable or None not in values):
        read = rules.texts.all(values)  # type: ignore[arg-type]
    if read is None:
        given = pl.Series(values, dtype=pl.String)
        read = judge_series(rules.column, given, fields, rules.repaired).cast(pl.String).to_list()
    texts = np.empty(len(values), dtype=object)
    texts[:] = ["" if text is None else text for text in read]
    return texts


def wrong_size(at: str, what: str) -> HttpError:
    return HttpError(400, f"{at}: binary data: {what}.", f"{at}.parameters.binary_data_size")
