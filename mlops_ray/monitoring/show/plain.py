"""A view as plain values, to be sent and read again: numbers that are not known are null, sketches are base64."""

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache
from math import isnan, nan
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mlops_ray.errors import IntegrityError
from mlops_ray.monitoring.sketches import CategoricalSketch, NumericSketch, sketch_from_bytes

T = TypeVar("T")
_SKETCHES = (NumericSketch, CategoricalSketch)


def to_plain(value: Any) -> Any:
    """A dataclass of dataclasses, tuples, mappings, moments, sketches and plain values, as JSON has it."""
    if isinstance(value, _SKETCHES):
        return b64encode(value.to_bytes()).decode()
    if is_dataclass(value):
        return {one.name: to_plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): to_plain(part) for name, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_plain(part) for part in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and isnan(value) else value


def from_plain(kind: type[T], value: Any) -> T:
    """What `to_plain` made of a value of this kind. Raises IntegrityError if it is of another version."""
    try:
        found: T = _read(kind, value)
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"A view of monitoring cannot be read: {error!r}. Use the server's release.") from None


def _read(kind: Any, value: Any) -> Any:
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in inside:
            return None
        return _read(next(one for one in inside if one is not NoneType), value)
    if kind in _SKETCHES:
        return sketch_from_bytes(b64decode(value))
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"{value!r:.60} is no {kind.__name__}")  # type: ignore[union-attr]
        hints = _hints(kind)  # type: ignore[arg-type]
        return kind(**{name: _read(hints[name], part) for name, part in value.items() if name in hints})  # type: ignore[operator]
    if kind is float:
        return nan if value is None else float(value)
    if kind is datetime:
        return datetime.fromisoformat(value)
    if origin is tuple:
        return tuple(_read(inside[0], part) for part in value)
    if origin is not None and origin is not Literal and issubclass(origin, Mapping):
        return {name: _read(inside[1], part) for name, part in value.items()}
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return {one.name: get_type_hints(kind)[one.name] for one in fields(kind)}
