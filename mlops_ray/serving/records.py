"""Records: the routes by which a notebook or an assistant reads what is kept of a use case; none changes anything.

Versions, alarms, drift in sentences and the profile of the data hold no value of a personal column, whoever asks. What
was predicted, and the values in the windows of monitoring, may: who reads them is asked for a role that answers for it.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.alarms import AlarmRecord, alarms_of
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.principals import LOOKS, Role
from mlops_ray.governance.versions import expect_name
from mlops_ray.predictions.reader import Ledger
from mlops_ray.registry.version_list import newest_versions
from mlops_ray.serving.approvals import expect_role
from mlops_ray.serving.data import PARQUET, Name
from mlops_ray.serving.http import Request, Response, Route
from mlops_ray.serving.operations import read_query

MOST_WINDOWS = 500
_AT_A_TIME = 2
_READS: tuple[Role, ...] = ("operate", "audit")
Moment = Annotated[datetime, Meta(tz=True)]


class UseCaseQuery(msgspec.Struct, forbid_unknown_fields=True):
    use_case: Name


class WindowsQuery(msgspec.Struct, forbid_unknown_fields=True):
    """windows: so many of the last of each kind."""

    use_case: Name
    windows: Annotated[int, Meta(ge=1, le=MOST_WINDOWS)] = 60


class LedgerQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Predictions that were answered in `start <= time < end`; by default all."""

    use_case: Name
    start: Moment | None = None
    end: Moment | None = None


class PartQuery(msgspec.Struct, forbid_unknown_fields=True):
    """columns: their names with commas between; by default all."""

    use_case: Name
    start: Moment
    end: Moment
    columns: Annotated[str, Meta(max_length=20_000)] | None = None


class Records:
    """A caller needs a role on the use case that lets them look, and for predictions `operate` or `audit`."""

    def __init__(self, settings: Settings, store: ControlStore):
        self._settings, self._store, self._artifacts = settings, store, Artifacts(settings.artifacts)
        # Of their own: what is read here takes seconds, and decisions do not wait for it.
        self._threads = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="records")

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/versions": self._looked_at(self._versions),
            "/alarms": self._looked_at(self._alarms),
            "/drift": self._looked_at(self._drift),
            "/data/profile": self._looked_at(self._profile),
            "/drift/windows": {"GET": Route(self._windows, None)},
            "/ledger/parts": {"GET": Route(self._parts, None)},
            "/ledger/part": {"GET": Route(self._part, None)},
        }

    def _looked_at(self, answer: Callable[[str], dict[str, Any]]) -> Mapping[str, Route]:
        async def read(request: Request) -> Response:
            use_case = read_query(request, UseCaseQuery).use_case
            expect_role(request.principal, LOOKS, use_case)
            expect_name(use_case)  # it becomes part of a path
            return Response(await self._in_thread(partial(answer, use_case)))

        return {"GET": Route(read, None)}

    def _versions(self, use_case: str) -> dict[str, Any]:
        return {"versions": [one.to_json() for one in newest_versions(self._settings, self._store, use_case)]}

    def _alarms(self, use_case: str) -> dict[str, Any]:
        now = datetime.now(UTC)
        return {"alarms": [_alarm(one, now) for one in alarms_of(self._store, use_case)]}

    def _drift(self, use_case: str) -> dict[str, Any]:
        # Imported where it is needed: it takes SciPy, and few ever ask.
        from mlops_ray.monitoring.describe import describe
        from mlops_ray.monitoring.watch_state import read_state

        state, known = read_state(self._artifacts, use_case), alarms_of(self._store, use_case)
        return {"lines": list(describe(state, known, datetime.now(UTC)))}

    def _profile(self, use_case: str) -> dict[str, Any]:
        from mlops_ray.catalogue.profiles import newest_profile

        return newest_profile(self._artifacts, use_case)

    async def _windows(self, request: Request) -> Response:
        query = read_query(request, WindowsQuery)
        expect_role(request.principal, LOOKS, query.use_case)
        expect_name(query.use_case)  # it becomes part of a path
        return Response(await self._in_thread(partial(self._seen, query)))

    def _seen(self, query: WindowsQuery) -> dict[str, Any]:
        from mlops_ray.monitoring.show.drift_view import drift

        return drift(query.use_case, self._settings, query.windows).to_json()

    async def _parts(self, request: Request) -> Response:
        """From when to when each part is that can be asked for: about 64 MB of files each."""
        query = read_query(request, LedgerQuery)
        expect_role(request.principal, _READS, query.use_case)
        expect_name(query.use_case)
        ledger = Ledger(self._settings, query.use_case)
        found = await self._in_thread(partial(ledger.stretches, query.start, query.end))
        return Response({"parts": [[one.astimezone(UTC).isoformat() for one in ends] for ends in found]})

    async def _part(self, request: Request) -> Response:
        query = read_query(request, PartQuery)
        expect_role(request.principal, _READS, query.use_case)
        expect_name(query.use_case)
        content = await self._in_thread(partial(self._read, query))
        return Response(content, headers={"content-type": PARQUET, "cache-control": "no-store"})

    def _read(self, query: PartQuery) -> bytes:
        columns = None if query.columns is None else query.columns.split(",")
        buffer = BytesIO()
        Ledger(self._settings, query.use_case).frame(query.start, query.end, columns).write_parquet(buffer)
        return buffer.getvalue()

    async def _in_thread(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _alarm(one: AlarmRecord, now: datetime) -> dict[str, Any]:
    state = "resolved" if one.resolved_at else "open" if one.is_open(now) else "silenced"
    return {
        "id": one.id,
        "version": one.version,
        "severity": one.severity,
        "state": state,
        "title": one.title,
        "since": one.since.isoformat(),
        "silenced_because": one.silenced_because,
    }
