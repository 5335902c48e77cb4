"""Snapshots over HTTP: whoever has the role sees, reads and retires them, and an administrator erases a person."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
import uuid6

from mlops_ray.catalogue import retire as retiring
from mlops_ray.client import AsyncClient
from mlops_ray.config import Settings
from mlops_ray.errors import ConflictError, DataError, ForbiddenError
from mlops_ray.governance.events import read_events
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.serving import long_work
from tests.unit.test_catalogue import ingested, month
from tests.unit.test_version_routes import Server, serving

CASE, LAST = "visits", {"force": ["last"], "reason": "old"}


@pytest.fixture(autouse=True)
def _without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "URL"):
        monkeypatch.delenv(f"MLOPS_RAY_{name}", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "state") as server:
        yield server


@pytest.fixture
def snapshot(server: Server, tmp_path: Path) -> Snapshot:
    """Of rows n0 to n39."""
    (tmp_path / "raw").mkdir()
    settings = Settings(state=server.settings.state, data=str(tmp_path / "raw"))
    month(settings, 1)
    return ingested(settings)


def test_snapshots_are_listed_shown_read_and_retired(server: Server, snapshot: Snapshot, tmp_path: Path) -> None:
    client = server.client("admin")
    (listed,) = client.data.list()["snapshots"]
    assert (listed["digest"], listed["rows"], listed["is_last"]) == (snapshot.digest, 40, True)
    assert client.data.list(CASE)["bytes"] == listed["bytes"] > 0
    assert client.data.show(CASE, snapshot.digest[:9]) | {"byte_days": 0} == listed | {"byte_days": 0}
    assert client.data.export(CASE, snapshot.digest[:9], tmp_path / "copy") == snapshot.digest
    rows = pl.read_parquet(tmp_path / "copy" / "visits" / "*.parquet")
    assert sorted(rows["note"]) == sorted(f"n{number}" for number in range(40))
    taken = [event for event in read_events(server.store) if event.type == "data.read"]
    assert [(one.actor, one.subject, one.payload["source"]) for one in taken] == [
        ("root", f"{CASE}@{snapshot.digest[:12]}", "visits")
    ]
    with pytest.raises(ConflictError, match="--force last"):
        client.data.retire(CASE, snapshot.digest[:9], "old")
    done = client.data.retire(CASE, snapshot.digest[:9], **LAST)
    assert (done["snapshot"], done["freed_bytes"]) == (f"{CASE}@{snapshot.digest[:12]}", listed["bytes"])
    assert client.data.show(CASE, snapshot.digest)["retired"]["by"] == "root"
    with pytest.raises(DataError, match="was retired by root"):
        client.data.export(CASE, snapshot.digest, tmp_path / "again")
    with pytest.raises(DataError, match=r"0 snapshots .* begin with 'x'"):
        client.data.show(CASE, "x")


READ = [("/data/snapshots", ("admin", "ann", "bob", "auditor")), ("/data/tables", ("admin", "auditor"))]


@pytest.mark.parametrize(("path", "allowed"), READ)
def test_who_has_no_role_there_sees_nothing_of_the_data(
    server: Server, snapshot: Snapshot, path: str, allowed: tuple[str, ...]
) -> None:
    where = f"?use_case={CASE}" + (f"&digest={snapshot.digest}" if path == "/data/tables" else "")
    for who in ("admin", "ann", "bob", "auditor", "eve", "foreign"):
        assert server(who, path + where).status_code == (200 if who in allowed else 403), who
    assert server("", path + where).status_code == 401


def test_rows_go_by_who_operates_and_a_person_by_an_administrator_alone(server: Server, snapshot: Snapshot) -> None:
    order = {"use_case": CASE, "digest": snapshot.digest, **LAST}
    person = {"entity": "note", "value": "n7", "reason": "request 17"}
    before = len(read_events(server.store))
    for who in ("bob", "auditor", "eve", "foreign"):
        assert server(who, "/data/retire", order).status_code == 403
    for who in ("ann", "bob", "auditor", "eve", "foreign"):
        assert server(who, "/data/erase", person).status_code == 403
    assert len(read_events(server.store)) == before
    assert server("ann", "/data/retire", order).json()["state"] == "done"


@pytest.mark.parametrize("use_case", ["../visits", "..", "", "visits\0", "no such"])
def test_a_name_leads_nowhere_else(server: Server, snapshot: Snapshot, use_case: str) -> None:
    table = {"source": "../../../..", "name": "../manifest.json"}
    for path, more in (("snapshot", {}), ("tables", {}), ("table", table)):
        query = httpx.QueryParams({"use_case": use_case, "digest": snapshot.digest[:9], **more})
        assert server("admin", f"/data/{path}?{query}").status_code == 400
    order = {"use_case": use_case, "digest": snapshot.digest, **LAST}
    assert server("admin", "/data/retire", order).status_code == 400
    query = httpx.QueryParams({"use_case": CASE, "digest": snapshot.digest, **table})
    assert server("admin", f"/data/table?{query}").status_code == 400


def test_a_person_is_erased_over_http_and_stands_nowhere_afterwards(
    server: Server, snapshot: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = server.client("admin")
    asked = client.data.erase("note", "n17", dry_run=True)
    assert asked["rows"]["snapshots"] == 1
    assert asked["id"] == ""
    with pytest.raises(DataError, match="Say why"):
        client.data.erase("note", "n17")
    done = client.data.erase("note", "n17", "request 17")
    assert done["rows"] == asked["rows"]
    client.data.export(CASE, snapshot.digest, tmp_path / "copy")
    assert "n17" not in pl.read_parquet(tmp_path / "copy" / "visits" / "*.parquet")["note"].to_list()
    (event,) = read_events(server.store, types=["data.erased"])
    assert (event.actor, event.reason) == ("root", "request 17")
    assert "n17" not in json.dumps(event.to_json()) + caplog.text


def test_what_takes_long_is_waited_for_and_a_repetition_joins_it(
    server: Server, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on, calls, really = threading.Event(), list[Any](), retiring.retire

    def slow(*given: Any) -> Any:
        calls.append(given)
        going_on.wait(30)
        return really(*given)

    monkeypatch.setattr(retiring, "retire", slow)
    monkeypatch.setattr(long_work, "WAIT_S", 0.05)
    headers = {"authorization": f"Bearer {server.keys['ann']}", "x-request-id": str(uuid6.uuid7())}
    order = {"use_case": CASE, "digest": snapshot.digest, **LAST}

    def asked(body: Any) -> httpx.Response:
        return httpx.post(f"{server.url}/v2/data/retire", json=body, headers=headers)

    first = asked(order).json()
    assert (first["state"], first["id"]) == ("running", headers["x-request-id"])
    assert asked(order).json() == first
    assert asked(order | {"reason": "another"}).status_code == 409
    assert server("admin", f"/data/work?id={first['id']}").status_code == 404  # it is another's
    assert server("ann", f"/data/work?id={first['id']}").json() == first
    going_on.set()
    monkeypatch.setattr(long_work, "WAIT_S", 30)
    assert server("ann", f"/data/work?id={first['id']}").json()["result"]["files"] > 0
    assert asked(order).json()["state"] == "done"
    assert len(calls) == 1


def test_the_client_for_asyncio_does_the_same(server: Server, snapshot: Snapshot, tmp_path: Path) -> None:
    async def look() -> None:
        async with AsyncClient(server.url, api_key=server.keys["ann"], attempts=1) as client:
            assert (await client.data.show(CASE, snapshot.digest))["rows"] == 40
            assert len((await client.data.list(CASE))["snapshots"]) == 1
            with pytest.raises(ForbiddenError):
                await client.data.export(CASE, snapshot.digest, tmp_path)
            with pytest.raises(ForbiddenError):
                await client.data.erase("note", "n1", "why")
            assert (await client.data.retire(CASE, snapshot.digest, **LAST))["files"] > 0

    asyncio.run(look())


def test_commands_ask_the_server_where_a_url_is_given(
    server: Server, snapshot: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["admin"])
    digest = snapshot.digest[:9]
    for words in (["list"], ["list", CASE], ["show", CASE, digest]):
        here, there = (server.command("data", *words, local=local) for local in (True, False))
        lines = [[line for line in text.splitlines() if "byte_days" not in line] for text in (here, there)]
        assert lines[0] == lines[1]
    to = ["--delta", "--to", str(tmp_path / "lake")]
    assert "is visits@" in (first := server.command("data", "export", CASE, digest, *to))
    assert server.command("data", "export", CASE, digest, *to, local=True) == first  # the same version stands there
    asked = server.command("data", "erase", "--entity", "note=n7", "--dry-run")
    assert '"snapshots": 1' in asked
    done = server.command("data", "erase", "--entity", "note=n7", "--reason", "request 17", "--yes")
    assert '"snapshots": 1' in done
    retired = server.command("data", "retire", CASE, digest, "--reason", "old", "--force", "last")
    assert f"{CASE}@{snapshot.digest[:12]} is retired: " in retired
