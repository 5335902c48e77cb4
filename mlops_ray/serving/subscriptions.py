"""Subscriptions: the routes by which people say who is told of what.

Who operates a use case says it of that use case's events, who operates the platform of all.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.channels import Channels, is_reference
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.notifications import (
    Subscription,
    find_subscription,
    list_subscriptions,
    pause,
    resume,
    send_test,
    subscribe,
    unsubscribe,
    waiting,
)
from mlops_ray.serving.approvals import expect_role, may_one
from mlops_ray.serving.http import Request, Response, Route
from mlops_ray.serving.keys import KEPT_NOWHERE, PageQuery, page_of
from mlops_ray.serving.operations import Reason, actor_of, read_body, read_query

TESTS_AT_A_TIME, CHECKS_AT_A_TIME = 2, 2


class SubscribeBody(msgspec.Struct, forbid_unknown_fields=True):
    """As `notifications.subscribe`."""

    channel: Annotated[str, Meta(max_length=2_000)]
    use_case: Annotated[str, Meta(max_length=200)] | None = None
    types: Annotated[list[str], Meta(max_length=200)] = []
    minimum_severity: str = "info"
    secret: Annotated[str, Meta(max_length=2_000)] = ""


class SubscriptionBody(msgspec.Struct, forbid_unknown_fields=True):
    """id: of the subscription."""

    id: Annotated[str, Meta(max_length=100)]
    reason: Reason = ""


class Subscriptions:
    """Of all use cases; a caller needs a role on the one that the subscription is of, or on the platform."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._store, self._channels = store, Channels(settings.webhook_allowed_hosts)
        # Of their own: a receiver, or a name server, that does not answer keeps no decision waiting.
        self._testing = ThreadPoolExecutor(TESTS_AT_A_TIME, thread_name_prefix="test of a channel")
        self._checking = ThreadPoolExecutor(CHECKS_AT_A_TIME, thread_name_prefix="check of a channel")

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/subscriptions": {"GET": Route(self._list, None)},
            "/subscriptions/create": {"POST": Route(self._create, None)},
            "/subscriptions/pause": {"POST": Route(self._pause, None)},
            "/subscriptions/resume": {"POST": Route(self._resume, None)},
            "/subscriptions/end": {"POST": Route(self._end, None)},
            "/subscriptions/test": {"POST": Route(self._test, None)},
        }

    async def _list(self, request: Request) -> Response:
        """Those that the caller may see; a page can hold fewer than it could, and be followed by others."""
        page = read_query(request, PageQuery)
        found, backlog = await asyncio.to_thread(
            lambda: (list_subscriptions(self._store, page.after, page.limit + 1), waiting_by_id(self._store))
        )
        shown = page_of("subscriptions", [described(one, backlog) for one in found], page.limit, "id")
        seen = [
            one for one in shown["subscriptions"] if may_one(request.principal, ("operate", "audit"), one["use_case"])
        ]
        return Response(shown | {"subscriptions": seen})

    async def _create(self, request: Request) -> Response:
        """References name what stands on the server's machine, so who operates alone does not choose them."""
        body = await read_body(request, SubscribeBody)
        expect_role(request.principal, ("operate",), body.use_case)
        if is_reference(body.channel) or body.secret:
            expect_role(request.principal, ("admin",), None)
        actor = actor_of(request, body.use_case)
        made = await asyncio.get_running_loop().run_in_executor(
            self._checking, subscribe, self._store, actor, self._channels, body.channel, body.use_case, body.types,
            body.minimum_severity, body.secret,
        )  # fmt: skip
        secret = "" if body.secret else made.secret
        return Response({"subscription": described(made.subscription, {}), "secret": secret}, headers=KEPT_NOWHERE)

    async def _pause(self, request: Request) -> Response:
        return await self._change(request, lambda actor, body: pause(self._store, actor, body.id, body.reason))

    async def _resume(self, request: Request) -> Response:
        return await self._change(request, lambda actor, body: resume(self._store, actor, body.id, body.reason))

    async def _end(self, request: Request) -> Response:
        return await self._change(request, lambda actor, body: unsubscribe(self._store, actor, body.id, body.reason))

    async def _change(self, request: Request, change: Callable[[Any, SubscriptionBody], Subscription]) -> Response:
        body = await read_body(request, SubscriptionBody)
        found = await self._found(request, body)
        actor = actor_of(request, found.use_case)
        return Response(described(await asyncio.to_thread(change, actor, body), {}))

    async def _test(self, request: Request) -> Response:
        body = await read_body(request, SubscriptionBody)
        actor = actor_of(request, (await self._found(request, body)).use_case)
        sent = asyncio.get_running_loop().run_in_executor(
            self._testing, send_test, self._store, actor, self._channels, body.id
        )
        try:
            return Response({"taken": True, "event": (await sent).id, "error": ""})
        except UnavailableError as error:  # the receiver's trouble, not the server's: nobody need ask again
            return Response({"taken": False, "event": None, "error": str(error)})

    async def _found(self, request: Request, body: SubscriptionBody) -> Subscription:
        found = await asyncio.to_thread(find_subscription, self._store, body.id)
        expect_role(request.principal, ("operate",), found.use_case)
        return found


def waiting_by_id(store: ControlStore) -> dict[str, dict[str, Any]]:
    """Of each subscription for which something waits: how many events, since when, and what went wrong."""
    return {
        one.subscription: {"events": one.events, "oldest": one.oldest.isoformat(), "error": one.error}
        for one in waiting(store)
    }


def described(found: Subscription, backlog: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A subscription as JSON, without the secrets in its channel; `waiting` is None where nothing waits."""
    return found.shown() | {"waiting": backlog.get(found.id)}
