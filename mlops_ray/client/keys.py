"""Keys and persons: what an administrator does with them, and an auditor sees of them."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps, all_pages, only
from mlops_ray.client.values import plain

Shown = dict[str, Any]
Listed = list[Shown]


class Keys:
    """`Client.keys`. A secret is in the answer that makes it and nowhere else: if that answer is lost, revoke the key
    and make it again."""

    def __init__(self, do: Callable[[Steps[Any]], Any]):
        self._do = do

    def list(self) -> Listed:
        """Every key ever made, the oldest first, without secrets. Needs the role audit."""
        return list(self._do(all_pages("/v2/keys", "keys")))

    def persons(self) -> Listed:
        """Everybody who ever had a key, with their names, keys and roles. Needs the role audit."""
        return list(self._do(all_pages("/v2/persons", "persons")))

    def create(
        self,
        name: str,
        roles: Iterable[str],
        use_cases: Iterable[str] = ("all",),
        expires_at: datetime | None = None,
        requests_per_s: float | None = None,
        person: str | None = None,
        oidc_sub: str | None = None,
    ) -> Shown:
        """Make a key: `key` and its `secret`. Needs the role admin.

        person: whose it is, by another key of theirs; oidc_sub: by the `sub` of their tokens; default: whoever had a
        key of this name, else somebody new. Raises DataError for what makes no sense, such as a name that is taken.
        """
        return dict(self._do(created(name, roles, use_cases, expires_at, requests_per_s, person, oidc_sub)))

    def rotate(self, key: str, until: datetime, reason: str) -> Shown:
        """Make another key of the same name, person, roles and rate; the one before counts until `until`."""
        return dict(self._do(rotated(key, until, reason)))

    def revoke(self, key: str, reason: str) -> Shown:
        """End a key, by its name or id, for good. Raises DataError if there is none, or it was revoked before."""
        return dict(self._do(revoked(key, reason)))


class AsyncKeys:
    """`AsyncClient.keys`: the methods of `Keys` as coroutines."""

    def __init__(self, do: Callable[[Steps[Any]], Awaitable[Any]]):
        self._do = do

    async def list(self) -> Listed:
        """See `Keys.list`."""
        return list(await self._do(all_pages("/v2/keys", "keys")))

    async def persons(self) -> Listed:
        """See `Keys.persons`."""
        return list(await self._do(all_pages("/v2/persons", "persons")))

    async def create(
        self,
        name: str,
        roles: Iterable[str],
        use_cases: Iterable[str] = ("all",),
        expires_at: datetime | None = None,
        requests_per_s: float | None = None,
        person: str | None = None,
        oidc_sub: str | None = None,
    ) -> Shown:
        """See `Keys.create`."""
        return dict(await self._do(created(name, roles, use_cases, expires_at, requests_per_s, person, oidc_sub)))

    async def rotate(self, key: str, until: datetime, reason: str) -> Shown:
        """See `Keys.rotate`."""
        return dict(await self._do(rotated(key, until, reason)))

    async def revoke(self, key: str, reason: str) -> Shown:
        """See `Keys.revoke`."""
        return dict(await self._do(revoked(key, reason)))


def created(
    name: str,
    roles: Iterable[str],
    use_cases: Iterable[str],
    expires_at: datetime | None,
    requests_per_s: float | None,
    person: str | None,
    oidc_sub: str | None,
) -> Steps[Shown]:
    body = {
        "name": name,
        "roles": list(roles),
        "use_cases": list(use_cases),
        "expires_at": expires_at,
        "requests_per_s": requests_per_s,
        "person": person,
        "oidc_sub": oidc_sub,
    }
    return only(Call("/v2/keys/create", plain(body)))


def rotated(key: str, until: datetime, reason: str) -> Steps[Shown]:
    return only(Call("/v2/keys/rotate", plain({"key": key, "until": until, "reason": reason})))


def revoked(key: str, reason: str) -> Steps[Shown]:
    return only(Call("/v2/keys/revoke", {"key": key, "reason": reason}))
