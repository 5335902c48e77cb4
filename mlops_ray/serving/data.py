"""Data: the routes by which people see what is kept of the data, read it, retire it, and erase a person."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor
from mlops_ray.governance.principals import LOOKS
from mlops_ray.serving.approvals import expect_role
from mlops_ray.serving.http import Request, Response, Route
from mlops_ray.serving.long_work import LongWork
from mlops_ray.serving.operations import Reason, actor_of, read_body, read_query

READS_AT_A_TIME = 2
PARQUET = "application/vnd.apache.parquet"
Name = Annotated[str, Meta(max_length=200)]
Digest = Annotated[str, Meta(max_length=64)]


class CatalogueQuery(msgspec.Struct, forbid_unknown_fields=True):
    use_case: Name | None = None


class SnapshotQuery(msgspec.Struct, forbid_unknown_fields=True):
    """digest: of the snapshot, or its beginning."""

    use_case: Name
    digest: Digest


class TableQuery(msgspec.Struct, forbid_unknown_fields=True):
    """name: of the table, as `/data/tables` has it."""

    use_case: Name
    digest: Digest
    source: Name
    name: Name


class RetireBody(msgspec.Struct, forbid_unknown_fields=True):
    """As `catalogue.retire`. force: what may lose the rows although it is in use, each by its name."""

    use_case: Name
    digest: Digest
    reason: Reason
    force: Annotated[list[Name], Meta(max_length=100)] = []


class EraseBody(msgspec.Struct, forbid_unknown_fields=True):
    """entity: the column; value: of it. dry_run: say what would go, and do nothing."""

    entity: Name
    value: Annotated[str, Meta(max_length=2_000)]
    reason: Reason = ""
    dry_run: bool = False


class Data:
    """A caller needs the role on the use case, and to erase a person `admin` on the platform.

    The catalogue is imported where it is needed: it takes a second, and few ever ask.
    """

    def __init__(self, settings: Settings, store: ControlStore):
        self._settings, self._store, self._artifacts = settings, store, Artifacts(settings.artifacts)
        self._work = LongWork("data")
        # Of their own: where the data lies may hang, and no decision or key waits for that.
        self._threads = ThreadPoolExecutor(READS_AT_A_TIME, thread_name_prefix="data")

    def routes(self) -> Mapping[str, Mapping[str, Route]]:
        return {
            "/data/snapshots": {"GET": Route(self._list, None)},
            "/data/snapshot": {"GET": Route(self._show, None)},
            "/data/tables": {"GET": Route(self._tables, None)},
            "/data/table": {"GET": Route(self._table, None)},
            "/data/retire": {"POST": Route(self._retire, None)},
            "/data/erase": {"POST": Route(self._erase, "admin")},
            "/data/work": {"GET": Route(self._work.look, None)},
        }

    async def _list(self, request: Request) -> Response:
        query = read_query(request, CatalogueQuery)
        expect_role(request.principal, LOOKS, query.use_case)
        return Response(await self._in_thread(self._listed, query.use_case))

    def _listed(self, use_case: str | None) -> dict[str, Any]:
        from mlops_ray.catalogue.catalogue import catalogue

        return catalogue(self._artifacts, self._store, datetime.now(UTC), use_case).shown()

    async def _show(self, request: Request) -> Response:
        query = read_query(request, SnapshotQuery)
        expect_role(request.principal, LOOKS, query.use_case)
        return Response(await self._in_thread(self._shown, query))

    def _shown(self, query: SnapshotQuery) -> dict[str, Any]:
        from mlops_ray.catalogue.catalogue import catalogue, find_entry

        found = catalogue(self._artifacts, self._store, datetime.now(UTC), query.use_case)
        return find_entry(found, query.use_case, query.digest).shown()

    async def _tables(self, request: Request) -> Response:
        """The names of a snapshot's tables, by source. Whoever reads rows audits: they may be of persons."""
        query = read_query(request, SnapshotQuery)
        expect_role(request.principal, ("audit",), query.use_case)
        return Response(await self._in_thread(self._named, query))

    def _named(self, query: SnapshotQuery) -> dict[str, Any]:
        from mlops_ray.catalogue.tables import find_snapshot, tables_of

        snapshot = find_snapshot(self._artifacts, query.use_case, query.digest)
        return {"digest": snapshot.digest, "tables": tables_of(self._artifacts, snapshot)}

    async def _table(self, request: Request) -> Response:
        query = read_query(request, TableQuery)
        expect_role(request.principal, ("audit",), query.use_case)
        content = await self._in_thread(self._read, actor_of(request, query.use_case), query)
        return Response(content, headers={"content-type": PARQUET, "cache-control": "no-store"})

    def _read(self, actor: Actor, query: TableQuery) -> bytes:
        from mlops_ray.catalogue.tables import hand_out

        return hand_out(self._artifacts, self._store, actor, query.use_case, query.digest, query.source, query.name)

    async def _in_thread(self, read: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, read, *given)

    async def _retire(self, request: Request) -> Response:
        body = await read_body(request, RetireBody)
        expect_role(request.principal, ("operate",), body.use_case)
        return await self._work.begin(request, partial(self._retired, actor_of(request, body.use_case), body))

    def _retired(self, actor: Actor, body: RetireBody) -> dict[str, Any]:
        from mlops_ray.catalogue.retire import retire

        return retire(self._settings, self._store, actor, body.use_case, body.digest, body.reason, body.force).shown()

    async def _erase(self, request: Request) -> Response:
        body = await read_body(request, EraseBody)
        return await self._work.begin(request, partial(self._erased, actor_of(request, None), body))

    def _erased(self, actor: Actor, body: EraseBody) -> dict[str, Any]:
        from mlops_ray.catalogue.erase import erase_person_from_data, find_person
        from mlops_ray.catalogue.person import Person

        person = Person.of(body.entity, body.value)
        if body.dry_run:
            return find_person(self._settings, self._store, person).shown()
        return erase_person_from_data(self._settings, self._store, actor, person, body.reason).shown()
