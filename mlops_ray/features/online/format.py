"""Feast's bytes: how its online stores write the keys of entities and the values of features.

Read and written here for the types that nearly all keys and values have; protobuf takes four to twelve times as long,
and was most of a read's time. Whatever else there is goes through Feast's own code.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mlops_ray.features.definitions import View
from mlops_ray.features.feast import (
    VALUE_TYPES,
    DecodeError,
    EntityKey,
    ValueProto,
    ValueType,
    python_values_to_proto_values,
    serialize_entity_key,
    serialize_entity_key_prefix,
)

Value = float | int | str | bool | None
KEY_VERSION = 3
_TEXT, _INTEGER = struct.Struct("<II"), struct.Struct("<IIq")
_DOUBLE, _FLOAT = struct.Struct("<xd"), struct.Struct("<d")
_TAG_DOUBLE, _TAG_TEXT, _ONE_BYTE = 0x29, 0x12, 0x80
NO_VALUE = (UnicodeDecodeError, DecodeError)
_SHORT_BYTES = 11  # the longest integer; those of a feature are few, and come again and again


@dataclass(frozen=True)
class Stored:
    """What the online store has of one entity in one view, whatever its age. known_us: since when it is known, in
    microseconds since 1970; absent: the view's features that have no value in it; unreadable: those of which something
    is stored that is no value."""

    values: Mapping[str, Value]
    known_us: int
    absent: tuple[str, ...]
    unreadable: tuple[str, ...] = ()


class KeyFormat:
    """The bytes of a view's entity keys (Feast's serialization 3): names and values in the order of the names."""

    def __init__(self, view: View):
        types = {key: VALUE_TYPES[view.types[key]] for key in view.keys}
        self._names, self._types = list(view.keys), types
        order = sorted(range(len(view.keys)), key=lambda position: view.keys[position])
        self._prefix = serialize_entity_key_prefix([view.keys[position] for position in order])
        self._parts = [(position, types[view.keys[position]]) for position in order]
        self._plain = all(type_ in (ValueType.STRING, ValueType.INT64) for _, type_ in self._parts)

    def bytes_of(self, key: Sequence[Any]) -> bytes | None:
        """key: a value for each of the view's keys, none of them None. None where one is beyond its type: nothing that
        is stored can have it."""
        if not self._plain:
            return self._by_feast(key)
        found = [self._prefix]
        for position, type_ in self._parts:
            if type_ is ValueType.STRING:
                text = key[position].encode()
                found += _TEXT.pack(type_.value, len(text)), text
            else:
                found.append(_INTEGER.pack(type_.value, 8, key[position]))
        return b"".join(found)

    def _by_feast(self, key: Sequence[Any]) -> bytes | None:
        try:
            values = [
                python_values_to_proto_values([value], self._types[name])[0]
                for name, value in zip(self._names, key, strict=True)
            ]
        except ValueError:  # an integer of more than 32 bits
            return None
        message = EntityKey(join_keys=self._names, entity_values=values)
        return bytes(serialize_entity_key(message, entity_key_serialization_version=KEY_VERSION))


def value_of(content: bytes) -> Value:
    """The value in a serialized `Value` message of Feast; None where it has none. Raises one of `NO_VALUE` if it is no
    such message."""
    length = len(content)
    if length == 9 and content[0] == _TAG_DOUBLE:
        number: float = _DOUBLE.unpack(content)[0]
        return number
    if length > 1 and content[0] == _TAG_TEXT and content[1] < _ONE_BYTE and length == content[1] + 2:
        return content[2:].decode()
    return _short(content) if length <= _SHORT_BYTES else _by_protobuf(content)


def _by_protobuf(content: bytes) -> Value:
    message = ValueProto.FromString(content)
    field = message.WhichOneof("val")
    return getattr(message, field) if field else None


_short = lru_cache(maxsize=16_384)(_by_protobuf)


def contents_of(values: Sequence[Value], type_: str) -> list[bytes]:
    """Serialized `Value` messages of a column of a view, by Feast's name of its type; nothing where there is none."""
    if type_ == "Float64":
        return [b"" if value is None else b"\x29" + _FLOAT.pack(value) for value in values]
    return [message.SerializeToString() for message in python_values_to_proto_values(list(values), VALUE_TYPES[type_])]


def stored(features: Sequence[str], contents: Mapping[str, bytes | None], known_us: int) -> Stored:
    """What is stored of a key, from the serialized values by name."""
    values: dict[str, Value] = {}
    unreadable = []
    for name, content in contents.items():
        try:
            values[name] = None if content is None else value_of(content)
        except NO_VALUE:
            unreadable.append(name)
    absent = [name for name in features if (value := values.get(name)) is None or value != value]  # NaN is none
    return Stored(values, known_us, tuple(absent), tuple(unreadable))
