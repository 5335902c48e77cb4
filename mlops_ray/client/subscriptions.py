"""Subscriptions: who is told of what."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps, all_pages, only

Shown = dict[str, Any]
Listed = list[Shown]


class Subscriptions:
    """`Client.subscriptions`. Who operates a use case subscribes to its events, who operates all of them to all."""

    def __init__(self, do: Callable[[Steps[Any]], Any]):
        self._do = do

    def list(self) -> Listed:
        """Those that this key may see, the oldest first, with what waits for each."""
        return list(self._do(all_pages("/v2/subscriptions", "subscriptions")))

    def create(
        self,
        channel: str,
        use_case: str | None = None,
        types: Iterable[str] = (),
        minimum_severity: str = "info",
        secret: str = "",
    ) -> Shown:
        """Send events to an https URL or one of Apprise: the `subscription`, and once the `secret` that signs them.

        secret: a reference, env:NAME or file:/path, on the server's machine, as the channel can be; that needs the role
        admin. Raises DataError for an unknown type, severity or channel, ForbiddenError for an address that nothing may
        be sent to.
        """
        return dict(self._do(subscribed(channel, use_case, types, minimum_severity, secret)))

    def pause(self, id: str, reason: str = "") -> Shown:
        """Let what it wants wait."""
        return dict(self._do(changed("pause", id, reason)))

    def resume(self, id: str, reason: str = "") -> Shown:
        """Send what waits, and what comes."""
        return dict(self._do(changed("resume", id, reason)))

    def end(self, id: str, reason: str = "") -> Shown:
        """Send nothing more; what waits is dropped."""
        return dict(self._do(changed("end", id, reason)))

    def test(self, id: str) -> Shown:
        """Send an event that never happened, now: whether it was `taken`, and the `error` if not."""
        return dict(self._do(changed("test", id, "")))


class AsyncSubscriptions:
    """`AsyncClient.subscriptions`: the methods of `Subscriptions` as coroutines."""

    def __init__(self, do: Callable[[Steps[Any]], Awaitable[Any]]):
        self._do = do

    async def list(self) -> Listed:
        """See `Subscriptions.list`."""
        return list(await self._do(all_pages("/v2/subscriptions", "subscriptions")))

    async def create(
        self,
        channel: str,
        use_case: str | None = None,
        types: Iterable[str] = (),
        minimum_severity: str = "info",
        secret: str = "",
    ) -> Shown:
        """See `Subscriptions.create`."""
        return dict(await self._do(subscribed(channel, use_case, types, minimum_severity, secret)))

    async def pause(self, id: str, reason: str = "") -> Shown:
        """See `Subscriptions.pause`."""
        return dict(await self._do(changed("pause", id, reason)))

    async def resume(self, id: str, reason: str = "") -> Shown:
        """See `Subscriptions.resume`."""
        return dict(await self._do(changed("resume", id, reason)))

    async def end(self, id: str, reason: str = "") -> Shown:
        """See `Subscriptions.end`."""
        return dict(await self._do(changed("end", id, reason)))

    async def test(self, id: str) -> Shown:
        """See `Subscriptions.test`."""
        return dict(await self._do(changed("test", id, "")))


def subscribed(
    channel: str, use_case: str | None, types: Iterable[str], minimum_severity: str, secret: str
) -> Steps[Shown]:
    body = {
        "channel": channel,
        "use_case": use_case,
        "types": list(types),
        "minimum_severity": minimum_severity,
        "secret": secret,
    }
    return only(Call("/v2/subscriptions/create", body))


def changed(what: str, id: str, reason: str) -> Steps[Shown]:
    return only(Call(f"/v2/subscriptions/{what}", {"id": id, "reason": reason}))
