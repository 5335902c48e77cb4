"""Keys: the routes by which administrators make, replace and revoke API keys, so that none needs the database's own."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.keys import (
    KeyRecord,
    NewKey,
    create_key,
    find_key,
    list_keys,
    list_persons,
    revoke_key,
    rotate_key,
)
from mlops_ray.governance.principals import ALL_USE_CASES, person_of_subject
from mlops_ray.serving.http import Request, Response, Route
from mlops_ray.serving.operations import Reason, actor_of, read_body, read_query

KEPT_NOWHERE = {"content-type": "application/json", "cache-control": "no-store"}  # what says a secret, once
MAX_PAGE, PAGE = 1_000, 100

PageSize = Annotated[int, Meta(ge=1, le=MAX_PAGE)]
Text = Annotated[str, Meta(max_length=600)]
Moment = Annotated[datetime, Meta(tz=True)]


class PageQuery(msgspec.Struct, forbid_unknown_fields=True):
    """after: `next` of the page before."""

    after: Annotated[str, Meta(max_length=600)] = ""
    limit: PageSize = PAGE


class CreateBody(msgspec.Struct, forbid_unknown_fields=True):
    """As `governance.keys.create_key`. oidc_sub: whose it is, by the `sub` of their tokens, in place of `person`."""

    name: Text
    roles: Annotated[list[Text], Meta(max_length=20)]
    use_cases: Annotated[list[Text], Meta(max_length=1_000)] = msgspec.field(default_factory=lambda: [ALL_USE_CASES])
    expires_at: Moment | None = None
    requests_per_s: float | None = None
    person: Text | None = None
    oidc_sub: Text | None = None


class RotateBody(msgspec.Struct, forbid_unknown_fields=True):
    """key: a name or an id. until: how long it counts beside the new one."""

    key: Text
    until: Moment
    reason: Reason


class RevokeBody(msgspec.Struct, forbid_unknown_fields=True):
    """key: a name or an id."""

    key: Text
    reason: Reason


class Keys:
    """Of the whole platform: a key of certain use cases administers none."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._settings, self._store = settings, store

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/keys": {"GET": Route(self._list, "audit")},
            "/keys/create": {"POST": Route(self._create, "admin")},
            "/keys/rotate": {"POST": Route(self._rotate, "admin")},
            "/keys/revoke": {"POST": Route(self._revoke, "admin")},
            "/persons": {"GET": Route(self._persons, "audit")},
        }

    async def _list(self, request: Request) -> Response:
        page = read_query(request, PageQuery)
        found = await asyncio.to_thread(list_keys, self._store, page.after, page.limit + 1)
        return Response(page_of("keys", [key.shown() for key in found], page.limit, "id"))

    async def _persons(self, request: Request) -> Response:
        page = read_query(request, PageQuery)
        found = await asyncio.to_thread(list_persons, self._store, datetime.now(UTC))
        behind = [asdict(one) for one in found if one.person > page.after]
        return Response(page_of("persons", behind, page.limit, "person"))

    async def _create(self, request: Request) -> Response:
        body = await read_body(request, CreateBody)
        person = person_named(self._settings, body.person, body.oidc_sub)
        return _told_once(
            await asyncio.to_thread(
                create_key,
                self._store,
                actor_of(request, None),
                body.name,
                body.roles,
                body.use_cases,
                body.expires_at,
                body.requests_per_s,
                person=person,
            )
        )

    async def _rotate(self, request: Request) -> Response:
        body, actor = await read_body(request, RotateBody), actor_of(request, None)
        return _told_once(await asyncio.to_thread(rotate_key, self._store, actor, body.key, body.until, body.reason))

    async def _revoke(self, request: Request) -> Response:
        body, actor = await read_body(request, RevokeBody), actor_of(request, None)
        return Response((await asyncio.to_thread(self._revoked, actor, body)).shown())

    def _revoked(self, actor: Any, body: RevokeBody) -> KeyRecord:
        principal = revoke_key(self._store, actor, body.key, body.reason)
        return find_key(self._store, principal.id)


def person_named(settings: Settings, person: str | None, oidc_sub: str | None) -> str | None:
    """Whose a new key shall be, as `create_key` takes it. Raises ConfigurationError for both, or where no issuer is
    configured."""
    if oidc_sub is None:
        return person
    if person is not None or not settings.oidc_issuer:
        raise ConfigurationError("A person by oidc_sub needs the setting oidc_issuer, and goes without person.")
    return person_of_subject(settings.oidc_issuer, oidc_sub)


def page_of(name: str, found: list[dict[str, Any]], limit: int, id: str) -> dict[str, Any]:
    """The first `limit` of what was found, and the id behind which the next page begins; None behind the last."""
    page = found[:limit]
    return {name: page, "next": page[-1][id] if len(found) > limit else None}


def _told_once(made: NewKey) -> Response:
    record = KeyRecord(made.principal, made.created_at, None)
    return Response({"key": record.shown(), "secret": made.secret}, headers=KEPT_NOWHERE)
