"""Two hosts: network namespaces with addresses and disks of their own, a Ray node in each, behind one bridge."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uuid6

from mlops_ray.config import Settings
from mlops_ray.serving.environment import serve_environment
from tests.integration.test_online_store import postgresql
from tests.pipeline_run import ROOT
from tests.raw_ledger import raw_rows

BRIDGE, OUTSIDE = "mlrbridge", "10.77.0.254"
PORT, GCS_PORT, ROTATE_S = 18_300, 6_390, 5
VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}
ENVIRONMENT = {
    **serve_environment(), "PYTHONPATH": str(ROOT), "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_AUTH_MODE": "disabled",
}  # fmt: skip


def ip(*arguments: str, check: bool = True) -> int:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True).returncode


@dataclass
class Host:
    """A network namespace with one link to the bridge. What runs in it has a temporary file system at `disk`."""

    name: str
    address: str
    disk: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __enter__(self) -> "Host":
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.name, "master", BRIDGE, "up")
        for arguments in ("addr add {}/24 dev eth0", "link set eth0 up", "link set lo up", "route add default via {}"):
            ip("-n", self.name, *arguments.format(OUTSIDE if "via" in arguments else self.address).split())
        return self

    def __exit__(self, *error: object) -> None:
        self.lose()
        ip("netns", "del", self.name)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        mounted = f'mount -t tmpfs tmpfs {self.disk} && exec "$@"'
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "unshare", "-m", "sh", "-c", mounted, "sh", *command],
            cwd=ROOT, env=os.environ | ENVIRONMENT, text=True, start_new_session=True, **options,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def lose(self) -> None:
        """All that runs on this host ends at once, and its disk with it."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split()
        for pid in found:
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        for process in self.processes:
            process.wait(20)

    def ended(self) -> bool:
        """Whether nothing runs here any more of what was started."""
        return all(process.poll() is not None for process in self.processes)

    def cut(self) -> None:
        ip("link", "set", self.name, "down")

    def restore(self) -> None:
        ip("link", "set", self.name, "up")

    def join(self, head: "Host | None") -> None:
        """Start a Ray node here: the head, or one of the head's cluster."""
        ray = str(Path(sys.executable).with_name("ray"))
        where = ["--address", f"{head.address}:{GCS_PORT}"] if head else ["--head", "--port", str(GCS_PORT)]
        more = [] if head else ["--include-dashboard=false"]
        self.start(
            ray, "start", *where, f"--node-ip-address={self.address}", "--num-cpus=2", *more,
            "--object-store-memory=300000000", "--disable-usage-stats", "--block",
            stdout=(self.disk.parent / f"{self.name}.log").open("a"), stderr=subprocess.STDOUT,
        )  # fmt: skip


@dataclass
class Cluster:
    head: Host
    other: Host
    settings: Settings
    key: str = ""

    def ask(self, host: Host, id: str | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}", "x-request-id": id or str(uuid6.uuid7())}
        url = f"http://{host.address}:{PORT}/v2/models/departures/predict"
        return httpx.post(url, json={"features": VECTOR}, headers=headers, timeout=12, trust_env=False)

    def answers(self, host: Host) -> bool:
        try:
            answer = self.ask(host)
        except httpx.TransportError as error:
            print(host.name, repr(error))
            return False
        print(host.name, answer.status_code, answer.text[:200])
        return answer.status_code == 200


def wait_until(holds: Any, seconds: float) -> float:
    """How long it took. Fails if it did not come true."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds
        time.sleep(0.2)
    return time.monotonic() - began


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if ip("link", "add", BRIDGE, "type", "bridge", check=False):
        pytest.skip("this machine lets nobody make network namespaces and bridges")
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "disk").mkdir()
    try:
        ip("addr", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        with ExitStack() as stack:
            store = stack.enter_context(postgresql(OUTSIDE))
            head, other = (
                stack.enter_context(Host(f"mlrhost{number}", f"10.77.0.{number}", folder / "disk")) for number in (1, 2)
            )
            head.join(None)
            wait_until(lambda: listens(head.address, GCS_PORT), 60)
            time.sleep(3)  # until what listens has a node
            other.join(head)
            settings = Settings(state=str(folder), data=str(folder), control_store=store)
            cluster = Cluster(head, other, settings)
            driver = head.start(
                sys.executable, "-m", "tests.chaos.two_hosts_example", str(PORT),
                f"{head.address}:{GCS_PORT}", str(folder), store,
                str(folder / "disk"), stdout=subprocess.PIPE,
            )  # fmt: skip
            assert driver.stdout is not None
            assert driver.stdout.readline().strip() == "serving"
            cluster.key = (folder / "key").read_text()
            for host in (head, other):
                wait_until(lambda host=host: cluster.answers(host), 60)
            yield cluster
    finally:
        ip("link", "del", BRIDGE)


@dataclass
class Traffic:
    """20 requests a second to each of some hosts. given: by id, the host that was asked and when it answered 200."""

    cluster: Cluster
    hosts: list[Host]
    given: dict[str, tuple[str, float]] = field(default_factory=dict)
    failed: list[tuple[str, float, str]] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def ask(self, host: Host) -> None:
        while not self.ending.wait(0.05):
            id = str(uuid6.uuid7())
            try:
                answer = self.cluster.ask(host, id)
                if answer.status_code == 200:
                    self.given[id] = host.name, time.time()
                else:
                    self.failed.append((host.name, time.time(), str(answer.status_code)))
            except httpx.TransportError as error:
                self.failed.append((host.name, time.time(), type(error).__name__))


@contextmanager
def traffic(cluster: Cluster, *hosts: Host) -> Iterator[Traffic]:
    found = Traffic(cluster, list(hosts))
    threads = [threading.Thread(target=found.ask, args=(host,)) for host in hosts for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.ending.set()
        for thread in threads:
            thread.join()


def recorded(cluster: Cluster) -> set[str]:
    return set(raw_rows(cluster.settings, "departures")["request_id"])


@pytest.mark.timeout(300)
def test_both_hosts_answer_and_what_they_answer_is_in_one_ledger(cluster: Cluster) -> None:
    with traffic(cluster, cluster.head, cluster.other) as asked:
        time.sleep(5)
    assert asked.failed == []
    assert {host for host, _ in asked.given.values()} == {cluster.head.name, cluster.other.name}
    wait_until(lambda: set(asked.given) <= recorded(cluster), 60)


@pytest.mark.timeout(400)
def test_a_link_that_is_cut_and_restored_loses_nothing_that_was_answered(cluster: Cluster) -> None:
    """The cut host may be given up by Ray meanwhile; then it joins again, as what supervises it would have it."""
    with traffic(cluster, cluster.head) as asked:
        time.sleep(5)
        cut_at = time.time()
        cluster.other.cut()
        time.sleep(30)
        cluster.other.restore()
        restored_at = time.time()
        if cluster.other.ended():
            cluster.other.join(cluster.head)
        took_s = wait_until(lambda: cluster.answers(cluster.other), 90)
        time.sleep(5)
    late = [at - restored_at for _, at, _ in asked.failed if at > restored_at + 15]
    failed = Counter(f"{what} {(at - cut_at) // 5 * 5:.0f} s" for _, at, what in asked.failed)
    print(f"answers again after {took_s:.1f} s; {len(asked.given)} answered, failed after the cut: {dict(failed)}")
    assert late == []
    wait_until(lambda: set(asked.given) <= recorded(cluster), 90)


@pytest.mark.timeout(400)
def test_a_host_that_is_lost_takes_one_interval_of_its_answers_with_it(cluster: Cluster) -> None:
    with traffic(cluster, cluster.head) as asked:
        time.sleep(3 * ROTATE_S)
        lost_at = time.time()
        cluster.other.lose()
        time.sleep(40)
    failed = Counter(f"{what} {(at - lost_at) // 5 * 5:.0f} s" for _, at, what in asked.failed)
    wait_until(lambda: {id for id, (_, at) in asked.given.items() if at > lost_at} <= recorded(cluster), 90)
    lost = [lost_at - at for id, (_, at) in asked.given.items() if id not in recorded(cluster)]
    print(f"{len(asked.given)} answered, {len(lost)} lost, the oldest {max(lost, default=0):.1f} s; {dict(failed)}")
    assert all(0 <= before_s < 2 * ROTATE_S for before_s in lost)  # closed after one interval, moved within another
    assert not [at for _, at, _ in asked.failed if at > lost_at + 30]
