"""Records: what is kept of a use case, as a notebook or an assistant reads it: versions, alarms, drift, predictions.

Nothing is changed by reading them.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps, only
from mlops_ray.client.values import plain


class Records:
    """`Client.records`. Needs a role on the use case that lets it look: operate, approve or audit."""

    def __init__(self, do: Callable[[Steps[Any]], Any]):
        self._do = do

    def versions(self, use_case: str) -> list[dict[str, Any]]:
        """The last registered versions, newest first: standing, candidate, metric with its interval."""
        return list(self._do(_kept("versions", use_case))["versions"])

    def alarms(self, use_case: str) -> list[dict[str, Any]]:
        """All alarms, with the state of each: open, silenced or resolved."""
        return list(self._do(_kept("alarms", use_case))["alarms"])

    def drift(self, use_case: str) -> list[str]:
        """What monitoring has seen, in the lines of `mlops-ray drift`."""
        return list(self._do(_kept("drift", use_case))["lines"])

    def windows(self, use_case: str, last: int = 60) -> dict[str, Any]:
        """What monitoring measured, feature by feature, in so many of the last windows of each kind."""
        return dict(self._do(windows_of(use_case, last)))

    def profile(self, use_case: str) -> dict[str, Any]:
        """The newest profile of the data, by source and column. Raises DataError where there is none."""
        return dict(self._do(_kept("data/profile", use_case)))

    def ledger(
        self,
        use_case: str,
        start: datetime | None = None,
        end: datetime | None = None,
        columns: Sequence[str] | None = None,
    ) -> list[bytes]:
        """The predictions answered in `start <= time < end`, as Parquet files in the order of time, however many.

        Needs operate or audit. Datetimes need a zone.
        """
        return list(self._do(ledger_of(use_case, start, end, columns)))


class AsyncRecords:
    """`AsyncClient.records`: the methods of `Records` as coroutines."""

    def __init__(self, do: Callable[[Steps[Any]], Awaitable[Any]]):
        self._do = do

    async def versions(self, use_case: str) -> list[dict[str, Any]]:
        """See `Records.versions`."""
        return list((await self._do(_kept("versions", use_case)))["versions"])

    async def alarms(self, use_case: str) -> list[dict[str, Any]]:
        """See `Records.alarms`."""
        return list((await self._do(_kept("alarms", use_case)))["alarms"])

    async def drift(self, use_case: str) -> list[str]:
        """See `Records.drift`."""
        return list((await self._do(_kept("drift", use_case)))["lines"])

    async def windows(self, use_case: str, last: int = 60) -> dict[str, Any]:
        """See `Records.windows`."""
        return dict(await self._do(windows_of(use_case, last)))

    async def profile(self, use_case: str) -> dict[str, Any]:
        """See `Records.profile`."""
        return dict(await self._do(_kept("data/profile", use_case)))

    async def ledger(
        self,
        use_case: str,
        start: datetime | None = None,
        end: datetime | None = None,
        columns: Sequence[str] | None = None,
    ) -> list[bytes]:
        """See `Records.ledger`."""
        return list(await self._do(ledger_of(use_case, start, end, columns)))


def windows_of(use_case: str, last: int) -> Steps[dict[str, Any]]:
    return only(_asked("drift/windows", use_case=use_case, windows=last))


def ledger_of(
    use_case: str, start: datetime | None, end: datetime | None, columns: Sequence[str] | None
) -> Steps[list[bytes]]:
    """Part by part: how large an answer gets does not depend on how much there is."""
    ends = {"start": plain(start), "end": plain(end)}
    parts = yield _asked("ledger/parts", use_case=use_case, **ends)
    named = None if columns is None else ",".join(columns)
    found = []
    for low, high in parts["parts"]:
        found.append((yield _asked("ledger/part", use_case=use_case, start=low, end=high, columns=named)))
    return found


def _kept(what: str, use_case: str) -> Steps[dict[str, Any]]:
    return only(_asked(what, use_case=use_case))


def _asked(what: str, **query: Any) -> Call:
    given = {name: value for name, value in query.items() if value is not None}
    return Call(f"/v2/{what}?{urlencode(given)}", method="GET")
