"""A fleet: a head that runs no replica and two workers, each a host of its own and supervised, with PostgreSQL and its
replica, a Redis for the head's tables, and an object store."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import httpx
import uuid6
import yaml
from sqlalchemy import select

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.governance.alarms import raise_alarm, resolve_alarm
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.notifications import subscribe
from mlops_ray.governance.tables import event_head
from mlops_ray.monitoring.watch_state import read_state
from tests.chaos import check_history
from tests.chaos.history import VECTOR, History, calling, receiver
from tests.chaos.hosts import GCS_PORT, OUTSIDE, Host, bridge, listens, wait_until
from tests.chaos.store_pair import Line, PostgresqlPair
from tests.integration.test_online_store import free_port
from tests.raw_ledger import raw_rows

NAME, PORT, ROTATE_S, BUCKET = "departures", 18_300, 5, "ledger"
TYPES = ["alarm.raised", "alarm.resolved", "retraining.decided", "retraining.finished"]
BACK_S = 90.0
S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@dataclass
class Fleet:
    folder: Path
    head: Host
    workers: tuple[Host, Host]
    settings: Settings
    history: History
    pair: PostgresqlPair
    line: Line
    key: str
    alarms: int = 0

    def front_end(self, host: Host) -> str:
        return f"http://{host.address}:{PORT}/v2/models/{NAME}"

    def answers(self, host: Host) -> bool:
        """Whether the live version answers there."""
        headers = {"authorization": f"Bearer {self.key}", "x-request-id": (id := str(uuid6.uuid7()))}
        self.history.write("asked", id=id, url=self.front_end(host))
        try:
            url = f"{self.front_end(host)}/predict"
            answer = httpx.post(url, json={"features": VECTOR}, headers=headers, timeout=12, trust_env=False)
        except httpx.TransportError:
            return False
        said = {"version": answer.json()["version"]} if answer.status_code == 200 else {}
        self.history.write("answered", id=id, status=answer.status_code, **said)
        return said.get("version") == "7"

    def shows_what_is_live(self, host: Host) -> bool:
        """Two applications: what is live stands in the control store, and the server's own answers beside it."""
        headers, base = {"authorization": f"Bearer {self.key}"}, f"http://{host.address}:{PORT}/v2"
        try:
            shown = httpx.get(f"{self.front_end(host)}/rollout", headers=headers, timeout=12, trust_env=False)
            alive = httpx.get(f"{base}/health/live", timeout=12, trust_env=False)
        except httpx.TransportError:
            return False
        if (shown.status_code, alive.status_code) != (200, 200):
            return False
        return bool(shown.json()["champion"]["version"] == 7)

    def is_whole(self) -> bool:
        """The head is there, and at both workers the live version and what asks the control store answer."""
        return listens(self.head.address, GCS_PORT) and all(
            self.answers(host) and self.shows_what_is_live(host) for host in self.workers
        )

    def expect_back(self, within_s: float = BACK_S) -> float:
        took_s = wait_until(self.is_whole, within_s, "both workers answer")
        self.history.write("whole", took_s=took_s)
        return took_s

    def counted(self) -> int:
        return sum(read_state(Artifacts(self.settings.artifacts), NAME).rows.values())

    def given(self) -> set[str]:
        lines = check_history.read_lines(self.history.file)
        return {line["id"] for line in lines if line.get("status") == 200}

    def alarm(self) -> None:
        """Ask for a retraining: one alarm is over, and another one stands."""
        store = open_store(self.settings)
        if self.alarms:
            resolve_alarm(store, NAME, f"alarm-{self.alarms}", "over", {"version": 7})
        self.alarms += 1
        told = {"question": "concept"}
        raise_alarm(store, NAME, 7, f"alarm-{self.alarms}", "drift", "warning", datetime.now(UTC), told)

    @contextmanager
    def called(self, per_s: float = 30.0) -> Iterator[None]:
        with calling(self.history, [self.front_end(host) for host in self.workers], self.key, per_s):
            yield

    def settle(self, within_s: float = BACK_S) -> float:
        """Until every answer lies in the ledger, is counted, and no retraining runs; how long that took."""
        given = self.given()
        store, began_s = open_store(self.settings), time.monotonic()
        resolve_alarm(store, NAME, f"alarm-{self.alarms}", "over", {"version": 7})
        wait_until(lambda: self.counted() >= len(given), within_s, f"{len(given)} answers are counted")
        counted_s = time.monotonic() - began_s

        def finished() -> bool:
            types = [event.type for event in read_events(store, types=TYPES, limit=100_000) if "order" in event.payload]
            return len(types) <= len(read_events(store, types=["retraining.finished"], limit=100_000))

        wait_until(finished, within_s, "the last retraining is over")
        time.sleep(2 * ROTATE_S + 1)  # what was answered and nobody waited for
        wait_until(lambda: self.counted() == len(raw_rows(self.settings, NAME)), within_s, "all is counted")
        return counted_s

    def problems(self) -> list[str]:
        """What the checker finds; what it reads is left in the folder."""
        events = [event.to_record() for event in read_events(open_store(self.settings), limit=1_000_000)]
        (self.folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
        with open_store(self.settings).reading() as connection:
            head = connection.execute(select(event_head.c.seq, event_head.c.hash)).one()
        (self.folder / "event_head.json").write_text(json.dumps(head._asdict()))
        state = read_state(Artifacts(self.settings.artifacts), NAME)
        counts = {"rows": sum(state.rows.values()), "repeated": state.repeated}
        (self.folder / "drift.json").write_text(json.dumps(counts))
        raw_rows(self.settings, NAME).select("request_id", "time").write_parquet(self.folder / "ledger.parquet")
        return check_history.main(self.folder, ROTATE_S + 1)


@contextmanager
def fleet(folder: Path) -> Iterator[Fleet]:
    """Skips where nobody may make namespaces. folder: where all that is left is."""
    with bridge(), ExitStack() as stack:
        (folder / "disk").mkdir()
        history = History(folder / "history.jsonl")
        stack.callback(history.close)
        pair = stack.enter_context(PostgresqlPair())
        redis = stack.enter_context(redis_of_the_head(folder))
        line = stack.enter_context(object_store(folder))
        hook = stack.enter_context(receiver(history))
        settings = written_settings(folder, pair, line)
        hosts = [stack.enter_context(host) for host in hosts_of(folder, redis, stack)]
        head, workers = hosts[0], (hosts[1], hosts[2])
        head.supervise(None)
        wait_until(lambda: listens(head.address, GCS_PORT), 60, "the head")
        time.sleep(3)  # until what listens has a node
        for worker in workers:
            worker.supervise(head)
        command = [sys.executable, "-m", "tests.chaos.fleet_example", f"{head.address}:{GCS_PORT}"]
        driver = head.start(*command, str(folder / "settings.yaml"), stdout=subprocess.PIPE)
        assert driver.stdout is not None
        said = list(iter(driver.stdout.readline, ""))  # to its end
        assert said[-1:] == ["serving\n"], said
        made = Fleet(folder, head, workers, settings, history, pair, line, (folder / "key").read_text())
        store = open_store(settings)
        subscribe(store, SYSTEM, Channels((OUTSIDE,)), hook, NAME, TYPES, secret="")
        history.write("subscribed", after=store.head(), types=TYPES)
        made.expect_back()
        yield made


def hosts_of(folder: Path, redis: str, stack: ExitStack) -> Iterator[Host]:
    """The disk of each worker is a small one, and the clock of the second may be set."""
    begun = {"FLEET_BEGUN": str(folder / "begun")}
    common = {**S3_KEYS, **begun, "AWS_EC2_METADATA_DISABLED": "true"}
    of_head = {"RAY_REDIS_ADDRESS": redis, "RAY_external_storage_namespace": folder.name}
    for number, own in enumerate((of_head, {}, clock_of_its_own(folder)), 1):
        host = Host(f"mlrhost{number}", f"10.77.0.{number}", folder / "disk", int(number > 1), common | own)
        host.own_disk.mkdir()
        mounted = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(host.own_disk)]
        if number > 1 and subprocess.run(mounted, capture_output=True).returncode == 0:
            stack.callback(subprocess.run, ["umount", "-l", str(host.own_disk)])
        yield host


def written_settings(folder: Path, pair: PostgresqlPair, line: Line) -> Settings:
    s3 = f"s3://{BUCKET}/state?region=us-east-1&endpoint_override={OUTSIDE}:{line.port}&scheme=http"
    values: dict[str, Any] = {
        "state": str(folder), "data": str(folder), "artifacts": s3, "control_store": pair.url, "http_host": "0.0.0.0",
        "http_port": PORT, "ledger_wal": str(folder / "disk"), "ledger_rotate_s": ROTATE_S, "ledger_upkeep_every_s": 0,
        "webhook_allowed_hosts": [OUTSIDE],
    }  # fmt: skip
    (folder / "settings.yaml").write_text(yaml.safe_dump(values))
    return load_settings(str(folder / "settings.yaml"))


@contextmanager
def redis_of_the_head(folder: Path) -> Iterator[str]:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", OUTSIDE, "--protected-mode", "no", "--dir", str(folder)]
    server = subprocess.Popen([*command, "--appendonly", "yes"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(OUTSIDE, port), 20, "Redis")
        yield f"{OUTSIDE}:{port}"
    finally:
        server.terminate()
        server.wait(20)


@contextmanager
def object_store(folder: Path) -> Iterator[Line]:
    """A bucket behind a line."""
    os.environ.update(S3_KEYS)
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder / "moto.log").open("w"))
    try:
        wait_until(lambda: listens("127.0.0.1", port), 60, "the object store")
        bucket_client("127.0.0.1", port).create_bucket(Bucket=BUCKET)
        line = Line("127.0.0.1", port)
        yield line
        line.close()
    finally:
        server.terminate()
        server.wait(20)


def bucket_client(host: str, port: int) -> Any:
    keys = {name.lower(): value for name, value in S3_KEYS.items()}
    return boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **keys)


def clock_of_its_own(folder: Path) -> dict[str, str]:
    """Variables of processes whose clock is ahead as the file `clock` says; none where there is no compiler."""
    set_clock(folder, 0)
    library, source = folder / "clock_ahead.so", Path(__file__).with_name("clock_ahead.c")
    if shutil.which("gcc") is None:
        return {}
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "CLOCK_AHEAD": str(folder / "clock")}


def set_clock(folder: Path, ahead_s: int) -> None:
    with (folder / "clock").open("r+b" if (folder / "clock").exists() else "wb") as file:  # it is mapped into memory
        file.write(struct.pack("q", ahead_s))
