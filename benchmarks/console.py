"""The console: how long its pages take to their first byte on a control store with 10 thousand versions, 100 endpoints
and a million events.

The history of one version is written by the functions that write it, and copied under other names as rows, since the
audit log takes some hundred events a second. So the copies' hashes are no chain, which no page looks at.
"""

import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import uuid6
import uvicorn
from shown import filled

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.alarms import raise_alarm, resolve_alarm, worsen_alarm
from mlops_ray.governance.approvals import approve, request
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM, Actor, record
from mlops_ray.governance.inventory import Declared, declare
from mlops_ray.governance.keys import active_keys, create_key
from mlops_ray.governance.policies import Policy
from mlops_ray.governance.policy_changes import set_policy
from mlops_ray.governance.retrainings import DECIDED, FINISHED, Decide, Entry, record_next
from mlops_ray.registry.lineage import write_lineage
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.site import Site
from mlops_ray.testing.example_lineage import AUTHOR, example_lineage, register_example

ENDPOINTS, VERSIONS, EVENTS = 100, 100, 1_000_000
ROUNDS, DATA = 40, 10
# What stands for a use case, a version and a digest in the history that is copied.
CASE, NUMBER, DIGEST = "zzcasezz", 777_777, "e" * 64
BOB = Actor("bob", ("approve",), id="bob")
BEGAN = datetime(2025, 1, 1, tzinfo=UTC)


def figures() -> Iterator[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(state=folder, data=folder, prices=filled.PRICES)
        store = open_store(settings)
        key = create_key(store, SYSTEM, "root", ["admin"]).secret
        lineage = _one_history(settings, store)
        _copy(settings, store, lineage)
        _what_stands(store)
        names = [f"case_{number:03d}" for number in range(ENDPOINTS)]
        filled.used(store, names)
        filled.asked(store, names)
        filled.watched(settings, store)
        requests = filled.answered(settings, names, VERSIONS - 1)
        pages = _pages(filled.ingested(settings, names[:DATA]), requests)
        server = _Server(settings, store)
        try:
            yield from _measured(server.url, key, pages)
        finally:
            server.stop()
            store.close()


def _measured(url: str, key: str, pages: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, float, str]]:
    browser = httpx.Client(base_url=url, timeout=60)
    entered = browser.post("/console/sign-in", data={"key": key})
    assert entered.status_code == 303
    every: list[float] = []
    for name, paths in pages.items():
        took = [_first_byte_ms(browser, path) for path in paths]
        every += took
        yield f"{name}_first_byte_ms_p95", float(np.quantile(took, 0.95)), "ms"
    yield "first_byte_ms_p95", float(np.quantile(every, 0.95)), "ms"
    yield "page_kb", max(len(browser.get(paths[0]).content) / 1000 for paths in pages.values()), "kB"


def _pages(snapshots: Mapping[str, str], requests: Sequence[str]) -> dict[str, list[str]]:
    """Of each kind as many as are asked for, as far as there are so many each another. Reasons of a prediction are
    computed when somebody asks, and are none of these."""
    cases = [f"/console/use-cases/case_{number:03d}" for number in range(ROUNDS)]
    data = [f"/console/use-cases/{name}/data/{digest}" for name, digest in snapshots.items()] * (ROUNDS // DATA)
    drift = f"/console/use-cases/{filled.WATCHED}/drift"
    return {
        "overview": ["/console"] * ROUNDS,
        "use_case": cases,
        "version": [f"{case}/versions/{VERSIONS}" for case in cases],
        "audit": [f"/console/audit?use_case=case_{number:03d}" for number in range(ROUNDS)],
        "data": [path.rpartition("/")[0] for path in data],
        "snapshot": data,
        "profile": [f"{path}/profile/trips" for path in data],
        "drift": [drift] * ROUNDS,
        "feature": [f"{drift}?feature=distance"] * ROUNDS,
        "prediction": [f"/console/predictions?request={request}" for request in requests[:ROUNDS]],
        "rules": ["/console/rules"] * ROUNDS,
        "keys": ["/console/keys"] * ROUNDS,
        "subscriptions": ["/console/subscriptions"] * ROUNDS,
    }


def _first_byte_ms(browser: httpx.Client, path: str) -> float:
    started = time.perf_counter()
    with browser.stream("GET", path) as answer:
        next(answer.iter_raw(1))
        took = 1000 * (time.perf_counter() - started)
        assert answer.status_code == 200, path
    return took


def _one_history(settings: Settings, store: ControlStore) -> str:
    """All that happens to a version, by the functions that do it; returns the digest of its lineage record."""
    made_from = example_lineage(CASE, DIGEST, files=25)
    set_policy(store, AUTHOR, CASE, Policy(required=True))
    register_example(settings, store, made_from, NUMBER)
    with store.transaction() as connection:
        for gate in ("better than nothing", "better than the champion", "slices", "latency", "parity"):
            record(connection, "gate.passed", AUTHOR, f"{CASE}@{NUMBER}", CASE, reason=f"{gate}: 0.75 of at least 0.7")
    request(store, AUTHOR, CASE, NUMBER, "as planned")
    approved = approve(store, BOB, CASE, NUMBER, "good").ref
    set_champion(store, AUTHOR, CASE, approved, "first")
    now = datetime.now(UTC)
    for number in range(4):
        window = {"kind": "rows", "start": now.isoformat(), "end": (now + timedelta(hours=number)).isoformat()}
        found = {"question": "data", "window": window, "findings": [], "examples": [], "columns": ["hour"]}
        name = f"{CASE}-{NUMBER}-{number}"
        raise_alarm(store, CASE, NUMBER, name, "The inputs have changed", "warning", now, found)
        worsen_alarm(store, CASE, NUMBER, name, "The inputs have changed more", "critical", found)
        resolve_alarm(store, CASE, name, "calm", {"resolved": now.isoformat()})
        for type in (DECIDED, FINISHED):
            said = {"outcome": "better", "at": now.isoformat()}
            entry = Entry(type, f"retraining {CASE}", "An alarm about the inputs stands.", said)
            record_next(store, SYSTEM, CASE, _always(entry))
    with store.transaction() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM events WHERE use_case = ?", (CASE,)).scalar_one()
        for _ in range(EVENTS // (ENDPOINTS * VERSIONS) - count):
            record(
                connection, "feature.stale", SYSTEM, "view weather", CASE, reason="2 hours old", payload={"age_s": 7}
            )
    return write_lineage(Artifacts(settings.artifacts), made_from)


def _what_stands(store: ControlStore) -> None:
    """Each use case says whose it is, and an alarm stands."""
    now = datetime.now(UTC)
    for number in range(ENDPOINTS):
        name = f"case_{number:03d}"
        declare(store, AUTHOR, name, Declared("operations@example.org", "Will it be late?", "high", 30 * 86_400.0))
        found = {"question": "data", "window": {}, "findings": [], "examples": [], "columns": ["hour"]}
        raise_alarm(store, name, VERSIONS - 1, f"{name}-now", "The inputs have changed", "warning", now, found)


def _always(entry: Entry) -> Decide:
    return lambda events: entry


class _Server:
    def __init__(self, settings: Settings, store: ControlStore):
        site = Site(settings, store, Guard(None, active_keys(store)), _nothing_runs)
        self._server = uvicorn.Server(uvicorn.Config(site, port=0, log_level="error", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()


async def _nothing_runs() -> dict[str, bool]:
    return {}


def _copy(settings: Settings, store: ControlStore, lineage: str) -> None:
    """The history under each use case and number, and each last version as one that waits for approval."""
    artifacts, database = Artifacts(settings.artifacts), sqlite3.connect(store.file)
    rows = {table: _rows(database, table) for table in ("events", "versions", "approvals", "endpoints", "policies")}
    seq = database.execute("SELECT max(seq) FROM events").fetchone()[0]
    for case in range(ENDPOINTS):
        name, made = f"case_{case:03d}", dict[str, list[dict[str, Any]]]()
        for number in range(1, VERSIONS + 1):
            digest = f"{case * 1000 + number:064x}"
            record_digest = write_lineage(artifacts, example_lineage(name, digest, files=25))
            marks = {CASE: name, str(NUMBER): str(number), DIGEST: digest, lineage: record_digest}
            when = f"{BEGAN + timedelta(days=number, seconds=case):%Y-%m-%d %H:%M:%S.%f}"
            for table in ("events", "versions", "approvals"):
                made.setdefault(table, []).extend(_copied(row, marks) for row in rows[table])
            for event in made["events"][-len(rows["events"]) :]:
                seq += 1
                event |= {"seq": seq, "id": str(uuid6.uuid7()), "time": when}
            for asked in made["approvals"][-len(rows["approvals"]) :]:
                waits = number == VERSIONS
                asked["id"] = str(uuid6.uuid7())
                asked |= {"state": "requested", "decided_by": None, "decided_at": None} if waits else {}
            for registered in made["versions"][-1:]:
                registered["registered_at"] = when
        marks = {CASE: name, str(NUMBER): str(VERSIONS - 1), DIGEST: f"{case * 1000 + VERSIONS - 1:064x}"}
        made |= {table: [_copied(row, marks) for row in rows[table]] for table in ("endpoints", "policies")}
        for table, copies in made.items():
            names = ", ".join(f'"{column}"' for column in copies[0])
            places = ", ".join("?" * len(copies[0]))
            database.executemany(
                f"INSERT INTO {table} ({names}) VALUES ({places})", [tuple(c.values()) for c in copies]
            )
        database.commit()
    for table in rows:
        database.execute(f"DELETE FROM {table} WHERE use_case = ?", (CASE,))
    database.execute("UPDATE event_head SET seq = ?", (seq,))
    database.commit()
    database.close()


def _rows(database: sqlite3.Connection, table: str) -> list[dict[str, Any]]:
    cursor = database.execute(f"SELECT * FROM {table} WHERE use_case = ?", (CASE,))
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _copied(row: dict[str, Any], marks: dict[str, str]) -> dict[str, Any]:
    copied = dict(row)
    for name, value in row.items():
        if value == NUMBER:
            copied[name] = int(marks[str(NUMBER)])
        elif isinstance(value, str) and name not in ("hash", "previous_hash", "salt"):
            for mark, text in marks.items():
                value = value.replace(mark, text)
            copied[name] = value
    return copied
