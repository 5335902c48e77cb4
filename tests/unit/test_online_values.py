"""Values of the online store are read as Feast wrote them."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.features.definitions import View
from mlops_ray.features.feast import ValueProto
from mlops_ray.features.online.format import KeyFormat, Stored, value_of
from mlops_ray.features.online.reader import OnlineReader


@given(number=st.integers(-(2**63), 2**63 - 1), text=st.text(max_size=200), real=st.floats())
def test_values_are_read_as_protobuf_reads_them_also_when_they_come_again(number: int, text: str, real: float) -> None:
    for message in (
        ValueProto(int64_val=number),
        ValueProto(int32_val=number % 2**31),
        ValueProto(string_val=text),
        ValueProto(double_val=real),
        ValueProto(bool_val=number % 2 == 0),
        ValueProto(),
    ):
        field = message.WhichOneof("val")
        wanted = getattr(message, field) if field else None
        for _ in range(2):
            found = value_of(message.SerializeToString())
            assert type(found) is type(wanted)
            assert found == wanted or wanted != wanted


class Holding:
    """An online store that has a delay for each of the keys."""

    waits = False

    def __init__(self, keys: Sequence[bytes | None]):
        self._keys = keys

    def read(self, keys: Sequence[Sequence[bytes]]) -> list[dict[bytes, Stored]]:
        return [{key: Stored({"delay": 9.0}, 0, ()) for key in of_view if key in self._keys} for of_view in keys]

    def found(self, rows: list[dict[bytes, Stored]]) -> list[dict[bytes, Stored]]:
        return rows

    def is_away(self, error: Exception) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.mark.parametrize("beyond", [2**31, -(2**31) - 1, 2**40, 2**63 - 1])
def test_a_key_that_its_type_cannot_have_is_an_unknown_entity(beyond: int) -> None:
    keys, features = ("flight", "origin"), ("delay",)
    types = {"flight": "Int32", "origin": "String", "delay": "Float64"}
    view = View("delays", keys, keys, features, features, types, 10**9, {})
    reader = OnlineReader(Holding([KeyFormat(view).bytes_of((2**31 - 1, "JFK"))]), [view])
    rows = [{"flight": flight, "origin": "JFK"} for flight in (2**31 - 1, beyond)]
    held, unknown = reader.find(rows, [datetime(1970, 1, 2, tzinfo=UTC)] * 2)
    reader.close()
    assert (held.values, unknown.values, unknown.missing) == ({"delay": 9.0}, {"delay": None}, ["delay"])
