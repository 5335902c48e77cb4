"""Tensors of the Open Inference Protocol: one feature of all rows, as JSON data or as binary data after the JSON."""

import re
import struct
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mlops_ray.serving.http import HttpError
from mlops_ray.serving.validation import MAX_FLOAT32, MAX_ROWS, text_pattern
from mlops_ray.use_case import Column, Feature

NUMERIC_TYPES = {
    "FP32": "<f4", "FP64": "<f8", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8",
    "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8",
}  # fmt: skip

Scalar = bool | int | float | str | None
Size = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of a tensor. `binary_data_size`: its bytes after the JSON; `binary_data`: answer it in binary."""

    binary_data_size: Size | None = None
    binary_data: bool | None = None


class InputTensor(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    shape: Annotated[list[Size], Meta(min_length=1, max_length=2)]
    datatype: str
    parameters: Parameters = Parameters()
    data: list[Scalar | list[Scalar]] | None = None


def values_of(tensor: InputTensor, feature: Feature, rule: Column, raw: bytes | None, at: str) -> NDArray[Any]:
    """The values of one tensor: float32 with NaN, or text with "", where they are missing."""
    rows = tensor.shape[0]
    if not 1 <= rows <= MAX_ROWS or tensor.shape[1:] not in ([], [1]):
        raise HttpError(
            400, f"{at}: shape {tensor.shape} must be [n] or [n, 1], n from 1 to {MAX_ROWS}.", f"{at}.shape"
        )
    allowed = ["BYTES"] if feature.kind == "category" else list(NUMERIC_TYPES)
    if tensor.datatype not in allowed:
        raise HttpError(
            400, f"{at}: datatype {tensor.datatype!r} of {feature.name} must be {', '.join(allowed)}.", f"{at}.datatype"
        )
    if (raw is None) == (tensor.data is None):
        raise HttpError(400, f"{at}: give either data or parameters.binary_data_size.", f"{at}.data")
    values = _scalars(tensor.data, rows, at) if tensor.data is not None else _from_binary(raw or b"", tensor, at)
    if feature.kind == "category":
        return _checked_texts(values, rule, at)
    return _checked_numbers(values, tensor.datatype, rule, at)


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
    dtype = np.dtype(NUMERIC_TYPES[tensor.datatype])
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
        raise HttpError(400, f"{at}: value {len(values)} is not UTF-8.", f"{at}.data") from None
    if len(values) != rows:
        raise wrong_size(at, f"it holds {len(values)} values or more, shape says {rows}")
    return values


def _checked_numbers(values: Any, datatype: str, rule: Column, at: str) -> NDArray[np.float32]:
    if isinstance(values, list):
        whole = not datatype.startswith("FP")
        for row, value in enumerate(values):
            if isinstance(value, bool | str) or (whole and isinstance(value, float)):
                raise HttpError(400, f"{at}: {value!r} is not {datatype}.", f"{at}.data[{row}]")
        values = [float("nan") if value is None else value for value in values]
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except OverflowError:
        raise HttpError(400, f"{at}: a value of {rule.name} is beyond what a number can hold.", f"{at}.data") from None
    low = -MAX_FLOAT32 if rule.minimum is None else rule.minimum
    high = MAX_FLOAT32 if rule.maximum is None else rule.maximum
    fits = (numbers >= low) & (numbers <= high) | (np.isnan(numbers) if rule.nullable else False)
    bad = np.flatnonzero(~fits)
    if bad.size:
        row, value = int(bad[0]), float(numbers[bad[0]])
        limits = f"{low:g} to {high:g}" + (", or missing" if rule.nullable else ", never missing")
        raise HttpError(400, f"{at}: value {value:g} of {rule.name} must be {limits}.", f"{at}.data[{row}]")
    return numbers.astype(np.float32)


def _checked_texts(values: Sequence[Scalar], rule: Column, at: str) -> NDArray[np.object_]:
    pattern = re.compile(text_pattern(rule) or "")
    texts = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        text = "" if value is None else value
        problem = None
        if not isinstance(text, str):
            problem = "is not text"
        elif text == "":
            problem = None if rule.nullable else "is missing"
        elif rule.choices and text not in rule.choices:
            problem = "is not one of the known values"
        elif not pattern.search(text):
            problem = f"does not fit the pattern {rule.pattern}"
        if problem:
            raise HttpError(400, f"{at}: value {text!r} of {rule.name} {problem}.", f"{at}.data[{row}]")
        texts[row] = text
    return texts


def wrong_size(at: str, what: str) -> HttpError:
    return HttpError(400, f"{at}: binary data: {what}.", f"{at}.parameters.binary_data_size")
