"""Readings: how a use case stands. Nothing is changed by them, and no answer has a value of a personal column."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode

from mlops_ray.client.exchange import Call
from mlops_ray.client.steps import Steps, only

Found = dict[str, Any]


class Readings:
    """`Client.readings`. Needs the role operate, approve or audit on the use case."""

    def __init__(self, do: Callable[[Steps[Any]], Any]):
        self._do = do

    def versions(self, use_case: str) -> list[Found]:
        """Its versions, the newest first."""
        return list(self._do(_read("versions", use_case))["versions"])

    def alarms(self, use_case: str) -> list[Found]:
        """All alarms, with the state of each: open, silenced or resolved."""
        return list(self._do(_read("alarms", use_case))["alarms"])

    def drift(self, use_case: str) -> list[str]:
        """What monitoring has seen, in the lines of `mlops-ray drift`."""
        return list(self._do(_read("drift", use_case))["lines"])

    def profile(self, use_case: str) -> Found:
        """The newest profile of the data, by source and column. Raises DataError where there is none."""
        return dict(self._do(_read("data/profile", use_case)))


class AsyncReadings:
    """`AsyncClient.readings`: the methods of `Readings` as coroutines."""

    def __init__(self, do: Callable[[Steps[Any]], Awaitable[Any]]):
        self._do = do

    async def versions(self, use_case: str) -> list[Found]:
        """See `Readings.versions`."""
        return list((await self._do(_read("versions", use_case)))["versions"])

    async def alarms(self, use_case: str) -> list[Found]:
        """See `Readings.alarms`."""
        return list((await self._do(_read("alarms", use_case)))["alarms"])

    async def drift(self, use_case: str) -> list[str]:
        """See `Readings.drift`."""
        return list((await self._do(_read("drift", use_case)))["lines"])

    async def profile(self, use_case: str) -> Found:
        """See `Readings.profile`."""
        return dict(await self._do(_read("data/profile", use_case)))


def _read(what: str, use_case: str) -> Steps[Found]:
    return only(Call(f"/v2/{what}?{urlencode({'use_case': use_case})}", method="GET"))
