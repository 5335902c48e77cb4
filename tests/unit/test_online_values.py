"""Values of the online store are read as Feast wrote them."""

from hypothesis import given
from hypothesis import strategies as st

from mlops_ray.features.feast import ValueProto
from mlops_ray.features.online.format import value_of


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
