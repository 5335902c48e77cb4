"""Lookups: all views of a question in one round trip to an online store that Feast keeps."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mlops_ray.features.definitions import View
from mlops_ray.features.online.format import Stored, stored

CONNECT_TIMEOUT_S = 2  # the least that PostgreSQL's client knows
READ_TIMEOUT_S = 1.0

Keys = Sequence[Sequence[bytes]]
Found = list[dict[bytes, Stored]]


class Lookup(Protocol):
    """Reads the views that it was made for. Any thread may ask, and threads do not wait for one another.

    waits: whether an answer may take long, as another machine gives it.
    """

    waits: bool

    def read(self, keys: Keys) -> list[Any]:
        """What the store's client gives for the keys of each view, for `found` to read.

        keys: for each view, in order, the distinct keys to read of it, none for a view that is not asked. Raises what
        the client raises, within `CONNECT_TIMEOUT_S` and `READ_TIMEOUT_S`.
        """
        ...

    def found(self, rows: list[Any]) -> Found:
        """What the store has of each view's keys, whatever its age; a key that it does not have is left out."""
        ...

    def is_away(self, error: Exception) -> bool:
        """Whether what `read` raised says that the store does not answer, and not that it refused this question."""
        ...

    def close(self) -> None:
        """Let go of connections. What is read later connects again."""
        ...


class Tables:
    """Feast's tables of some views, one row a feature, as SQLite and PostgreSQL have them alike."""

    def __init__(self, project: str, views: Sequence[View]):
        self._names = [f'"{project}_{view.name}"' for view in views]
        self.features = [view.features for view in views]
        self._wanted = [frozenset(view.features) for view in views]

    def select(self, view: int, moment: str, condition: str) -> str:
        """The statement that reads one view; its rows are those that `found` takes."""
        columns = f"{view}, entity_key, feature_name, value, {moment}"
        return f"SELECT {columns} FROM {self._names[view]} WHERE {condition}"

    def found(self, rows: Sequence[tuple[int, bytes, str, bytes, int]], microseconds: Callable[[int], int]) -> Found:
        """rows: a view's number, key, feature's name, value and moment, of which `microseconds` makes the event
        timestamp."""
        contents: list[dict[bytes, dict[str, bytes]]] = [{} for _ in self._names]
        moments: dict[tuple[int, bytes], int] = {}
        of_key: dict[str, bytes] = {}
        last_view, last_key = -1, b""
        for view, key, name, value, moment in rows:
            if name not in self._wanted[view]:
                continue
            if view != last_view or key != last_key:  # rows of a key mostly come together
                last_view, last_key = view, key
                moments.setdefault((view, key), moment)
                of_key = contents[view].setdefault(key, {})
            of_key[name] = value
        return [
            {key: stored(features, found, microseconds(moments[view, key])) for key, found in of_view.items()}
            for view, (features, of_view) in enumerate(zip(self.features, contents, strict=True))
        ]
