"""What a kind of label is declared with: values of another type are refused where they are written."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from mlops_ray.errors import UseCaseError

# Of a field that versions are on record without: where it says nothing it is left out of the record, as it was then.
LATER: Mapping[str, bool] = {"later": True}


def unsaid(declared: Any) -> set[str]:
    """The names of such fields of a dataclass's instance that say nothing."""
    later = [one for one in fields(declared) if LATER.items() <= one.metadata.items()]
    return {one.name for one in later if getattr(declared, one.name) == one.default}


def expect_numbers(declared: Any, *names: str) -> None:
    """Raise UseCaseError naming the first of these fields that is no int or float; True and False are none."""
    for name in names:
        value = getattr(declared, name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UseCaseError(f"{_owner(declared)}: {name} is {value!r}. It must be a number, without quotes.")


def expect_text(declared: Any, name: str) -> None:
    """Raise UseCaseError if the field is no text."""
    if not isinstance(value := getattr(declared, name), str):
        raise UseCaseError(f"{_owner(declared)}: {name} is {value!r}. It must be a text, in quotes.")


def object_schema(names: tuple[str, ...], value: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with exactly these members, each with this schema."""
    members = {"properties": dict.fromkeys(names, value), "required": list(names)}
    return {"type": "object", **members, "additionalProperties": False}


def is_writable(text: str) -> bool:
    """Whether it can be stored and sent: half of a surrogate pair is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _owner(declared: Any) -> str:
    return type(declared).__name__
