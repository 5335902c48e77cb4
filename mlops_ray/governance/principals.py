"""Principals: who may call, in which roles and on which use cases. Each is known by a key or a token of a person."""

import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from mlops_ray.governance.events import SYSTEM, Actor

Role = Literal["predict", "label", "operate", "approve", "audit", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)

LOOKS: tuple[Role, ...] = ("operate", "approve", "audit")  # each of them sees how a use case stands

DEVELOPMENT, DEVELOPMENT_APPROVER = "development", "development_approver"
RESERVED_NAMES = frozenset({SYSTEM.name, DEVELOPMENT, DEVELOPMENT_APPROVER})
ALL_USE_CASES = "all"


@dataclass(frozen=True)
class Principal:
    """Who a key belongs to. use_cases: those it may touch; `ALL_USE_CASES` among them for every one, and the platform.
    expires_at: None for never.

    development: made by an embedded set-up for its own user. requests_per_s: a limit of its own, None for none.
    person: whose it is, the same for each of a person's keys and tokens; "" where that is only `id` itself.
    granted: of a token, each role with the use case that it counts on, in place of all roles on all use cases.
    """

    id: str
    name: str
    roles: tuple[Role, ...]
    use_cases: tuple[str, ...] = (ALL_USE_CASES,)
    expires_at: datetime | None = None
    development: bool = False
    requests_per_s: float | None = None
    person: str = ""
    granted: tuple[tuple[Role, str], ...] | None = None

    def may(self, role: Role, use_case: str | None, now: datetime) -> bool:
        """Whether it may act in `role` on `use_case`; None: on the platform, which no key of certain use cases may."""
        if self.expires_at is not None and now >= self.expires_at:
            return False
        return bool({role, "admin"} & set(self.roles_on(use_case)))

    def may_look(self, use_case: str | None, now: datetime) -> bool:
        """Whether it may see how a use case stands: what is live, its versions, approvals and alarms."""
        return any(self.may(role, use_case, now) for role in LOOKS)

    def roles_on(self, use_case: str | None) -> tuple[Role, ...]:
        """Its roles on a use case; None: on the platform."""
        if self.granted is not None:
            there = {role for role, where in self.granted if where in (ALL_USE_CASES, use_case)}
            return tuple(role for role in ROLES if role in there)
        return self.roles if ALL_USE_CASES in self.use_cases or use_case in self.use_cases else ()

    def actor(self, use_case: str | None) -> Actor:
        """As who it acts on a use case, with the roles that it has there; None: on the platform."""
        return Actor(self.name, self.roles_on(use_case), id=self.person or self.id)


@dataclass(frozen=True)
class Person:
    """Whose keys are one person's. names, keys: of all keys they ever had, ids the oldest first. roles: those that they
    may use somewhere now; none where no key of theirs counts."""

    person: str
    names: tuple[str, ...]
    keys: tuple[str, ...]
    roles: tuple[Role, ...]


def folded(name: str) -> str:
    """The same for every way to write a name: with large or small letters (ß is ss), of one character or of two."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def person_of_subject(issuer: str, subject: str) -> str:
    """Who a token is of: the id of the person with this `sub` at this issuer."""
    return f"{issuer}|{subject}"
