"""Which columns JSON lines have of which nobody has said what they hold."""

import msgspec
import pytest

from mlops_ray.exploration.json_keys import MAX_PARTS, JsonKeys


def names_of(*lines: str) -> list[str]:
    keys = JsonKeys()
    for line in lines:
        keys.see(line)
    return keys.names()


def test_values_in_objects_are_columns_in_the_order_of_their_first_appearance() -> None:
    assert names_of('{"t": 1, "user": {"age": 5, "home": {"city": "x"}}}', '{"user": {"name": "a"}, "z": []}') == [
        "t", "user.age", "user.home.city", "user.name", "z",
    ]  # fmt: skip


def test_an_object_that_is_null_or_empty_elsewhere_keeps_its_parts() -> None:
    assert names_of('{"a": null, "b": {}, "c": null}', '{"a": {"x": 1}, "b": {"y": 1}}') == ["a.x", "b.y", "c"]


def test_what_is_an_object_in_some_rows_and_a_value_in_others_is_one_column() -> None:
    assert names_of('{"a": {"x": 1}}', '{"a": 3}', '{"a": {"y": 1}}') == ["a"]


def test_an_object_by_ids_is_one_column_whatever_its_size() -> None:
    rows = [f'{{"by_user": {{"u{number}": {{"n": 1}}}}, "k": 1}}' for number in range(5 * MAX_PARTS)]
    assert names_of(*rows) == ["by_user", "k"]


@pytest.mark.parametrize("line", ["[1]", "1", "{", '{"a":' * 100_000 + "1" + "}" * 100_000])
def test_what_is_no_object_of_values_is_refused(line: str) -> None:
    with pytest.raises((msgspec.MsgspecError, RecursionError)):
        names_of(line)
