"""Two hosts: network namespaces with addresses and disks of their own, a Ray node in each, behind one bridge."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import pytest
import uuid6

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import read_events
from mlops_ray.monitoring.watch_state import read_state
from tests.chaos.hosts import GCS_PORT, OUTSIDE, Host, bridge, listens, wait_until
from tests.integration.test_online_store import postgresql
from tests.raw_ledger import raw_rows

NAME = "departures"
PORT, ROTATE_S = 18_300, 5
TOLD_S = 60.0  # after a link is restored Ray has told a node that it gave it up
REPORT_S = 3  # how often a replica says how old its answers on this disk are
REPLICA_PORTS = range(30_000, 30_020)  # where Serve opens the replicas' own
VECTOR = {"origin": "JFK", "distance": 500.0, "carrier": "AA", "hour": 8.0, "recent_delay": 30.0}


@dataclass
class Cluster:
    """Each host has a CPU for one replica, so that each has one."""

    head: Host
    other: Host
    settings: Settings
    client: httpx.Client

    def take_key(self, key: str) -> None:
        self.client.headers["authorization"] = f"Bearer {key}"

    def front_end(self, host: Host) -> str:
        """Where a caller asks; whose replica answers is not said."""
        return f"http://{host.address}:{PORT}/v2/models/{NAME}"

    def replica(self, host: Host) -> str:
        """The replica of this host itself, without a front end."""
        for port in REPLICA_PORTS:
            url = f"http://{host.address}:{port}/v2/models/{NAME}"
            try:
                if self.client.get(f"{url}/ready", timeout=2).status_code == 200:
                    return url
            except httpx.TransportError:
                continue
        raise AssertionError(f"{host.name} has no replica that is ready")

    def ask(self, url: str, id: str | None = None) -> httpx.Response:
        headers = {"x-request-id": id or str(uuid6.uuid7())}
        return self.client.post(f"{url}/predict", json={"features": VECTOR}, headers=headers)

    def answers(self, host: Host) -> bool:
        try:
            return self.ask(self.front_end(host)).status_code == 200
        except httpx.TransportError:
            return False

    def has_replica(self, host: Host) -> bool:
        try:
            return bool(self.replica(host))
        except AssertionError:
            return False

    def shown(self) -> dict[str, Any]:
        """What is live, as the head's own replica tells it: the other host's may stand still."""
        return dict(self.client.get(f"{self.replica(self.head)}/rollout").json())

    def move(self, path: str, **body: Any) -> None:
        given = {**body, "revision": self.shown()["revision"]}
        answer = self.client.post(f"{self.replica(self.head)}/rollout{path}", json=given)
        assert answer.status_code == 200, answer.text

    def version_of(self, host: Host) -> str:
        return str(self.ask(self.replica(host)).json()["version"])

    def missing(self) -> list[float]:
        """From when on answers of a host are said to be missing."""
        told = read_events(open_store(self.settings), types=["ledger.missing"])
        return [datetime.fromisoformat(event.payload["since"]).timestamp() for event in told]

    def counted(self) -> int:
        """Predictions that the drift actor has taken, of all versions."""
        return sum(read_state(Artifacts(self.settings.artifacts), NAME).rows.values())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "disk").mkdir()
    with bridge(), ExitStack() as stack:
        store = stack.enter_context(postgresql(OUTSIDE))
        head, other = (
            stack.enter_context(Host(f"mlrhost{number}", f"10.77.0.{number}", folder / "disk")) for number in (1, 2)
        )
        head.join(None)
        wait_until(lambda: listens(head.address, GCS_PORT), 60)
        time.sleep(3)  # until what listens has a node
        other.join(head)
        settings = Settings(state=str(folder), data=str(folder), control_store=store)
        client = stack.enter_context(httpx.Client(timeout=12, trust_env=False))
        cluster = Cluster(head, other, settings, client)
        driver = head.start(
            sys.executable, "-m", "tests.chaos.two_hosts_example", str(PORT),
            f"{head.address}:{GCS_PORT}", str(folder), store,
            str(folder / "disk"), stdout=subprocess.PIPE,
        )  # fmt: skip
        assert driver.stdout is not None
        assert driver.stdout.readline().strip() == "serving"
        cluster.take_key((folder / "key").read_text())
        for host in (head, other):
            wait_until(lambda host=host: cluster.answers(host) and cluster.has_replica(host), 60)
        yield cluster


@dataclass
class Traffic:
    """Some 40 requests a second to each URL. given: by id, who was asked and when the answer was a 200."""

    cluster: Cluster
    urls: dict[str, str]
    given: dict[str, tuple[str, float]] = field(default_factory=dict)
    failed: list[tuple[str, float, str]] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def ask(self, name: str, url: str) -> None:
        while not self.ending.wait(0.05):
            id = str(uuid6.uuid7())
            try:
                answer = self.cluster.ask(url, id)
                if answer.status_code == 200:
                    self.given[id] = name, time.time()
                else:
                    self.failed.append((name, time.time(), str(answer.status_code)))
            except httpx.TransportError as error:
                self.failed.append((name, time.time(), type(error).__name__))

    def given_by(self, name: str) -> dict[str, float]:
        return {id: at for id, (who, at) in self.given.items() if who == name}

    def failures_since(self, moment: float) -> dict[str, int]:
        """How many of each kind in each five seconds."""
        return dict(Counter(f"{who}: {what} after {(at - moment) // 5 * 5:.0f} s" for who, at, what in self.failed))


@contextmanager
def traffic(cluster: Cluster, **urls: str) -> Iterator[Traffic]:
    found = Traffic(cluster, urls)
    threads = [threading.Thread(target=found.ask, args=one) for one in urls.items() for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        found.ending.set()
        for thread in threads:
            thread.join()


def recorded(cluster: Cluster) -> Counter[str]:
    return Counter(raw_rows(cluster.settings, NAME)["request_id"])


def expect_once(cluster: Cluster, ids: Iterable[str]) -> None:
    wanted = set(ids)
    wait_until(lambda: wanted <= recorded(cluster).keys(), 90)
    found = recorded(cluster)
    assert {found[id] for id in wanted} == {1}


@pytest.mark.timeout(300)
def test_both_hosts_answer_into_one_ledger_and_the_drift_actor_counts_both(cluster: Cluster) -> None:
    urls = {"head": cluster.replica(cluster.head), "other": cluster.replica(cluster.other)}
    fronts = {"head_front": cluster.front_end(cluster.head), "other_front": cluster.front_end(cluster.other)}
    with traffic(cluster, **urls, **fronts) as asked:
        time.sleep(8)
    assert asked.failed == []
    expect_once(cluster, asked.given)
    took_s = wait_until(lambda: cluster.counted() == recorded(cluster).total(), 60)
    counts = Counter(name for name, _ in asked.given.values())
    print(f"{dict(counts)} answered; all {cluster.counted()} in the ledger are counted for drift {took_s:.1f} s later")
    assert min(counts.values()) > 50
    assert read_state(Artifacts(cluster.settings.artifacts), NAME).repeated == 0


@pytest.mark.timeout(300)
def test_a_rollout_waits_for_the_replica_of_the_other_host_and_a_rollback_reaches_both(cluster: Cluster) -> None:
    hosts = (cluster.head, cluster.other)
    assert [cluster.version_of(host) for host in hosts] == ["7", "7"]
    assert cluster.other.signal(signal.SIGSTOP, "ServeReplica:departures") == 1
    with traffic(cluster, head=cluster.replica(cluster.head)) as asked:
        cluster.move("", version=8, plan={"steps": []})
        time.sleep(6)
        waiting = cluster.shown()
        cluster.other.signal(signal.SIGCONT, "ServeReplica:departures")
        began_s = time.monotonic()
        wait_until(lambda: cluster.shown()["champion"]["version"] == 8, 30)
        promoted_s = time.monotonic() - began_s
        wait_until(lambda: [cluster.version_of(host) for host in hosts] == ["8", "8"], 10)
        began_s = time.monotonic()
        cluster.move("/rollback", to=7, reason="the test")
        wait_until(lambda: [cluster.version_of(host) for host in hosts] == ["7", "7"], 10)
        back_s = time.monotonic() - began_s
    print(f"promoted {promoted_s:.1f} s after the other host's replica went on; back at both in {back_s:.1f} s")
    assert (waiting["champion"]["version"], waiting["rollout"]["state"]) == (7, "loading")
    assert back_s < 5
    assert asked.failed == []
    expect_once(cluster, asked.given)


@pytest.mark.timeout(400)
def test_a_link_that_is_cut_and_restored_loses_nothing_that_was_answered(cluster: Cluster) -> None:
    """The cut host may be given up by Ray, which it is told after it is back; then it joins again, as what supervises
    it would have it. What it was answering in that second may fail."""
    urls = {"front": cluster.front_end(cluster.head), "other": cluster.replica(cluster.other)}
    with traffic(cluster, **urls) as asked:
        time.sleep(5)
        cut_at = time.time()
        cluster.other.cut()
        time.sleep(30)
        cluster.other.restore()
        restored_at = time.time()
        given_up_at = cluster.other.ended_within(TOLD_S)
        if given_up_at:
            cluster.other.join(cluster.head)
        wait_until(lambda: cluster.answers(cluster.other), 90)
        wait_until(lambda: cluster.has_replica(cluster.other), 90)
        time.sleep(5)
    late = [at for who, at, _ in asked.failed if who == "front" and at > restored_at + 15]
    if given_up_at:
        late = [at for at in late if abs(at - given_up_at) > 2]
    kept = f"given up by Ray {given_up_at - restored_at:.0f} s after it was back" if given_up_at else "kept"
    print(f"the other host was {kept}; {len(asked.given)} answered, failed: {asked.failures_since(cut_at)}")
    assert late == []
    assert asked.given_by("other")
    expect_once(cluster, asked.given)


@pytest.mark.timeout(400)
def test_a_host_that_is_lost_takes_one_interval_of_its_own_answers_with_it(cluster: Cluster) -> None:
    """Both replicas are asked directly, so that it is known whose answers are whose."""
    urls = {"head": cluster.replica(cluster.head), "other": cluster.replica(cluster.other)}
    with traffic(cluster, **urls, front=cluster.front_end(cluster.head)) as asked:
        time.sleep(3.5 * ROTATE_S)
        lost_at = time.time()
        cluster.other.lose()
        gone_at = time.time()  # until then either host may have answered at the front end
        time.sleep(40)
    ours = asked.given_by("head") | {id: at for id, at in asked.given_by("front").items() if at > gone_at}
    expect_once(cluster, ours)
    theirs, found = asked.given_by("other"), recorded(cluster)
    moved = {id: at for id, at in theirs.items() if id in found}
    lost = {id: at for id, at in theirs.items() if id not in found}
    assert lost, f"{len(theirs)} answers of the lost host, all moved: {asked.failures_since(lost_at)}"
    through_front = [at for id, at in asked.given_by("front").items() if id not in found]
    oldest_s = lost_at - min(lost.values())
    print(
        f"of {len(theirs)} answers of the lost host {len(moved)} had been moved and {len(lost)} are lost, the oldest "
        f"{oldest_s:.1f} s before; the head lost none of {len(ours)}; {asked.failures_since(lost_at)}"
    )
    assert {found[id] for id in moved} == {1}
    assert max(moved.values()) < min(lost.values()), "one stretch, at the end"
    assert 0 < oldest_s < ROTATE_S + 1
    assert all(min(lost.values()) - 0.1 <= at <= gone_at for at in through_front), "of the same host and stretch"
    assert not [at for who, at, _ in asked.failed if who != "other" and at > lost_at + 30]
    wait_until(lambda: cluster.counted() == recorded(cluster).total(), 60)
    wait_until(lambda: cluster.missing() != [], 90)
    (since,) = cluster.missing()
    print(f"reported as missing: what was answered from {lost_at - since:.1f} s before the loss on")
    assert since <= min(lost.values())
    assert lost_at - since < ROTATE_S + REPORT_S + 1, "and nothing else"
