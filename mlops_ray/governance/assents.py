"""Assents: each person who agreed, where one alone may not be enough."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from mlops_ray.errors import ConflictError
from mlops_ray.governance.events import Actor, plain

ERASED = "erased-"
"""How a pseudonym begins; see `erasures`."""


@dataclass(frozen=True)
class Assent:
    """One person's yes. condition: what has to be kept to, in the person's words; "" for nothing.

    for_name, for_id: in whose place it was given, by a delegation; None where the right was the person's own.
    """

    name: str
    id: str | None
    at: datetime
    reason: str = ""
    condition: str = ""
    for_name: str | None = None
    for_id: str | None = None


def is_same(actor: Actor, name: str, id: str | None) -> bool:
    """Whether the actor is that person: by the ids, whatever key was used; by the names where an id is not known."""
    return actor.id == id if actor.id and id else actor.name == name


def may_be(actor: Actor, name: str, id: str | None) -> bool:
    """Whether the actor is that person, or could be. Who was erased from the audit log has a pseudonym there in place
    of the `sub` of their tokens, so whoever comes with tokens may be them; random ids of persons with keys stay."""
    if is_same(actor, name, id):
        return True
    return id.startswith(ERASED) and "|" in actor.id if id else name.startswith(ERASED)


def expect_another(assents: Iterable[Assent], persons: Iterable[Actor], what: str) -> None:
    """Raise ConflictError if one of `persons` has agreed, or may have, or somebody in their place: each counts once."""
    given = list(assents)
    for person in persons:
        for one in given:
            in_place = one.for_name is not None and may_be(person, one.for_name, one.for_id)
            if in_place or may_be(person, one.name, one.id):
                how = f" ({one.name} did so in their place)" if in_place else ""
                raise ConflictError(f"{person.name} has approved {what} already{how}. Somebody else has to as well.")


def to_json(assents: Iterable[Assent]) -> Any:
    return plain([asdict(one) for one in assents])


def from_json(values: Iterable[Mapping[str, Any]]) -> tuple[Assent, ...]:
    return tuple(Assent(**{**value, "at": datetime.fromisoformat(value["at"])}) for value in values)
