"""What a declaration is given has the types that it asks for."""

import re
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from mlops_ray.errors import UseCaseError, nearest

_SHOWN = 60


def expect_types(declared: object, owner: str) -> None:
    """Check every field of a dataclass, items of tuples and mappings too.

    owner: how errors begin. Raises UseCaseError naming the first field whose value is of another type.
    """
    for name, hint in get_type_hints(type(declared)).items():
        value = getattr(declared, name)
        try:
            check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
        except TypeCheckError as error:
            raise UseCaseError(f"{owner}: {_sentence(name, value, hint, error)}") from None


def _sentence(name: str, value: Any, hint: Any, error: TypeCheckError) -> str:
    wanted = _words(hint)
    if isinstance(value, str) and (choices := _choices(hint)):
        return f"{name} is {value!r}. {nearest(value, choices)}"
    shown = repr(value) if len(repr(value)) <= _SHOWN else f"{repr(value)[:_SHOWN]}…"
    if get_origin(hint) is tuple and not isinstance(value, tuple):
        items = (value,) if isinstance(value, str) or not hasattr(value, "__iter__") else tuple(value)
        step = f"Write {items!r}." if len(repr(items)) <= _SHOWN else "Put it in round brackets, with a comma."
        return f"{name} is {shown}, which is no tuple. {step}"
    why = str(error).splitlines()[0] if "did not match any element" not in str(error) else ""
    inside = f" ({re.sub(r'[a-z_.]+[.](?=[A-Z])', '', why)})" if "item" in why or "key" in why else ""
    return f"{name} is {shown}{inside}. It must be of type {wanted}."


def _choices(hint: Any) -> tuple[str, ...]:
    """The values of a Literal, or of one in a union."""
    if get_origin(hint) is Literal:
        return tuple(map(str, get_args(hint)))
    return tuple(choice for part in get_args(hint) if get_origin(part) is Literal for choice in _choices(part))


def _words(hint: Any) -> str:
    """The type as it is written in the declaration, without the modules."""
    return re.sub(r"\b\w+\.(?=\w)", "", hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint))
