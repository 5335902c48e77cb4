"""Parts: what a step may see of a use case or of settings. Anything else of them is refused when it is used."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class UndeclaredUse(RuntimeError):
    """A step used something that its inputs do not declare: a fault of ours, named so that it can be mended."""


class Part:
    """Stands for an object of type `whole` of which only some attributes are there.

    Its methods and properties are those of the whole, run on the part: they, too, can use only what is declared. So
    what a step's function can use and what the step's key covers are the same.
    """

    def __init__(self, whole: type, parts: dict[str, Any]):
        self._whole, self._parts = whole, parts

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._parts:
            return self._parts[name]
        of_whole = getattr(self._whole, name, None)
        if isinstance(of_whole, property) and of_whole.fget is not None:
            return of_whole.fget(self)
        if callable(of_whole) and hasattr(of_whole, "__get__"):
            return of_whole.__get__(self, self._whole)
        raise UndeclaredUse(
            f"{self._whole.__name__}.{name} is used by a step whose inputs do not declare it (they declare "
            f"{', '.join(self._parts) or 'nothing'}). Add it to them, so that the step runs again when it changes."
        )

    def __getstate__(self) -> tuple[type, dict[str, Any]]:
        return self._whole, self._parts

    def __setstate__(self, state: tuple[type, dict[str, Any]]) -> None:
        self._whole, self._parts = state

    def __repr__(self) -> str:
        return f"{self._whole.__name__}({', '.join(f'{name}={value!r}' for name, value in self._parts.items())})"

    def __canonical__(self, of: Callable[[Any, str], Any]) -> Any:
        """See pipeline.fingerprint: its parts by name."""
        return ["mapping", *([name, of(value, name)] for name, value in self._parts.items())]


def part(whole: T, *names: str, **others: Any) -> T:
    """What is named of `whole`; others: parts that are themselves parts of what the whole has."""
    kept = {name: getattr(whole, name) for name in names} | others
    return cast(T, Part(type(whole), kept))


def joined(first: T, second: T) -> T:
    """One part with what two parts of the same whole have."""
    one, other = cast(Part, first), cast(Part, second)
    return cast(T, Part(one._whole, {**one._parts, **other._parts}))
