"""Records: the routes by which a notebook elsewhere reads what is kept of a use case: versions, drift, predictions."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.config import Settings
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


class DriftQuery(msgspec.Struct, forbid_unknown_fields=True):
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
        self._settings, self._store = settings, store
        # Of their own: what is read here takes seconds, and decisions do not wait for it.
        self._threads = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="records")

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/versions": {"GET": Route(self._versions, None)},
            "/drift": {"GET": Route(self._drift, None)},
            "/ledger/parts": {"GET": Route(self._parts, None)},
            "/ledger/part": {"GET": Route(self._part, None)},
        }

    async def _versions(self, request: Request) -> Response:
        query = read_query(request, UseCaseQuery)
        expect_role(request.principal, LOOKS, query.use_case)
        found = await self._in_thread(partial(newest_versions, self._settings, self._store, query.use_case))
        return Response({"versions": [one.to_json() for one in found]})

    async def _drift(self, request: Request) -> Response:
        query = read_query(request, DriftQuery)
        expect_role(request.principal, LOOKS, query.use_case)
        expect_name(query.use_case)  # it becomes part of a path
        return Response(await self._in_thread(partial(self._seen, query)))

    def _seen(self, query: DriftQuery) -> dict[str, Any]:
        # Imported where it is needed: it takes SciPy and a second, and few ever ask.
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
