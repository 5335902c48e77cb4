"""The audit log: what an auditor reads of it, and has checked."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlencode

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import PAGE, Steps

Shown = dict[str, Any]
_PATH = "/v2/audit/verification"


class Audit:
    """`Client.audit`. Needs the role audit: on the use case whose events are read, else on all."""

    def __init__(self, do: Callable[[Steps[Any]], Any]):
        self._do = do

    def events(
        self,
        after: int = 0,
        use_case: str | None = None,
        types: Iterable[str] = (),
        subject: str | None = None,
        limit: int = 1_000,
    ) -> list[Shown]:
        """At most `limit` events behind number `after`, in their order."""
        return list(self._do(events(after, use_case, types, subject, limit)))

    def verify(self) -> Shown:
        """Have all events, anchors and tables checked, however long that takes, and return what was found: `ok`,
        `checked`, `problem`, `not_anchored`, `compared` and
        `limits`, what could not have been found; or `error`, why nothing could be said."""
        return dict(self._do(verified()))


class AsyncAudit:
    """`AsyncClient.audit`: the methods of `Audit` as coroutines."""

    def __init__(self, do: Callable[[Steps[Any]], Awaitable[Any]]):
        self._do = do

    async def events(
        self,
        after: int = 0,
        use_case: str | None = None,
        types: Iterable[str] = (),
        subject: str | None = None,
        limit: int = 1_000,
    ) -> list[Shown]:
        """See `Audit.events`."""
        return list(await self._do(events(after, use_case, types, subject, limit)))

    async def verify(self) -> Shown:
        """See `Audit.verify`."""
        return dict(await self._do(verified()))


def events(
    after: int, use_case: str | None, types: Iterable[str], subject: str | None, limit: int
) -> Steps[list[Shown]]:
    """Page by page."""
    wanted = {"use_case": use_case, "types": ",".join(types) or None, "subject": subject}
    given = {name: value for name, value in wanted.items() if value is not None}
    found = list[Shown]()
    while len(found) < limit:
        query = urlencode({**given, "after": after, "limit": min(PAGE, limit - len(found))})
        page = yield Call(f"/v2/audit/events?{query}", method="GET")
        found += page["events"]
        if page["next"] is None:
            break
        after = page["next"]
    return found


def verified() -> Steps[Shown]:
    """The server answers each look when it is done, or after a few seconds."""
    answer = yield Call(_PATH)
    while answer["state"] == "running":
        answer = yield Call(_PATH, method="GET")
    return answer["result"] or {"ok": False, "error": answer["error"]}
