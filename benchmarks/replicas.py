"""A thousand replicas on one PostgreSQL: how long until a rollback has reached all of them, and what the database does.

Each replica is the follower that a real one runs, with a control store of its own; only its models are made up. They
poll, report and decide in a few processes whose clocks differ by up to ten minutes.
"""

import heapq
import multiprocessing
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import psycopg

from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import Plan, VersionRef, live
from mlops_ray.governance.rollback import roll_back
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.serving.auth import Guard
from mlops_ray.serving.counters import Judged
from mlops_ray.serving.follower import POLL_S, Follower

NAME = "flights"
REPLICAS, PROCESSES, THREADS = 1_000, 4, 8
CLOCKS_OFF = (timedelta(minutes=-10), timedelta(minutes=-3), timedelta(minutes=3), timedelta(minutes=10))
OLD, NEW = VersionRef(1, "a" * 64), VersionRef(2, "b" * 64)
SETTLED_S, WATCHED_S, TIMEOUT_S = 5.0, 10.0, 120.0


@dataclass(frozen=True)
class Simulated:
    """rollout_s: from the request until every replica held the version and it was champion. reached_s: of each replica,
    from the request for a rollback until it acted on it. Of the database, over `WATCHED_S` with nothing to do:
    transactions a second, and cores."""

    rollout_s: float
    reached_s: tuple[float, ...]
    transactions_per_s: float
    cores: float


def figures() -> Iterator[tuple[str, float, str]]:
    with postgresql(REPLICAS + 50) as url:
        done = simulate(url, REPLICAS, WATCHED_S)
    yield "rollback_p99_s", float(np.quantile(done.reached_s, 0.99)), "s"
    yield "rollback_median_s", float(np.median(done.reached_s)), "s"
    yield "rollout_to_all_s", done.rollout_s, "s"
    yield "database_transactions_per_s", done.transactions_per_s, "1/s"
    yield "database_cores", done.cores, "cores"


def simulate(url: str, replicas: int, watched_s: float, processes: int = PROCESSES) -> Simulated:
    """Start the replicas, watch them idle, let a version in and go back. Raises TimeoutError if that takes too long."""
    store = ControlStore(url)
    store.migrate()
    set_champion(store, SYSTEM, NAME, OLD, "first")
    context = multiprocessing.get_context("spawn")
    pipes = []
    shares = [len(range(number, replicas, processes)) for number in range(processes)]
    for number, share in enumerate(shares):
        ours, theirs = context.Pipe()
        arguments = (url, number, share, CLOCKS_OFF[number % len(CLOCKS_OFF)], theirs)
        context.Process(target=run_replicas, args=arguments, daemon=True).start()
        pipes.append(ours)
    for pipe in pipes:
        expect(pipe)  # all have their first version
    time.sleep(SETTLED_S)
    with watched(url, watched_s) as load:
        time.sleep(watched_s)
    began_s = time.monotonic()
    start_rollout(store, SYSTEM, NAME, NEW, Plan(()))
    while live(store, NAME).champion != NEW:
        if time.monotonic() - began_s > TIMEOUT_S:
            raise TimeoutError(f"The rollout was not over within {TIMEOUT_S:g} s: {live(store, NAME).rollout}")
        time.sleep(0.1)
    rollout_s = time.monotonic() - began_s
    time.sleep(SETTLED_S)
    began_s = time.monotonic()
    state = roll_back(store, SYSTEM, NAME, live(store, NAME).revision, OLD.version, "measured")
    for pipe in pipes:
        pipe.send(state.revision)
    reached_s = [at_s - began_s for pipe in pipes for at_s in expect(pipe)]
    store.close()
    return Simulated(rollout_s, tuple(reached_s), load[0], load[1])


def expect(pipe: Connection) -> Any:
    if not pipe.poll(TIMEOUT_S):
        raise TimeoutError(f"The replicas of a process did not get there within {TIMEOUT_S:g} s.")
    return pipe.recv()


class MadeUp:
    """A version that loads at once."""

    def __init__(self, ref: VersionRef):
        self.version, self.digest, self.judged = str(ref.version), ref.digest, Judged()
        self.predictor = SimpleNamespace(reader=None)

    def close(self) -> None:
        pass


def run_replicas(url: str, process: int, count: int, off: timedelta, pipe: Connection) -> None:
    """As many followers, whose rounds a few threads work off as they become due, on a machine whose clock is off."""
    put_clock_off(off)
    followers = [
        Follower(ControlStore(url), NAME, f"{process}-{number}", "node", MadeUp, Guard(NAME, {}))  # type: ignore[arg-type]
        for number in range(count)
    ]
    due: list[tuple[float, int, Callable[[], object]]] = []
    reached: dict[int, float] = {}
    wanted = [2**31]

    def follow(number: int) -> None:
        followers[number].follow()
        if followers[number].traffic.revision >= wanted[0]:
            reached.setdefault(number, time.monotonic())

    for number, follower in enumerate(followers):
        follower.prepare()
        first_s = time.monotonic() + POLL_S * number / count
        for rank, work in enumerate(
            (lambda number=number: follow(number), follower._reporter.round, follower._controller.round)
        ):
            due.append((first_s, 3 * number + rank, work))
    heapq.heapify(due)
    pipe.send("ready")
    lock = threading.Lock()
    for _ in range(THREADS):
        threading.Thread(target=work_off, args=(due, lock), daemon=True).start()
    wanted[0] = pipe.recv()
    while len(reached) < count:
        time.sleep(0.05)
    pipe.send(list(reached.values()))


def work_off(due: list[tuple[float, int, Callable[[], object]]], lock: threading.Lock) -> None:
    while True:
        with lock:
            at_s, rank, work = heapq.heappop(due) if due else (time.monotonic() + 0.01, -1, None)
        time.sleep(max(0.0, at_s - time.monotonic()))
        if work is None:
            continue
        try:
            work()
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        with lock:
            heapq.heappush(due, (max(at_s + POLL_S, time.monotonic()), rank, work))


def put_clock_off(by: timedelta) -> None:
    """Of this machine, as far as governance looks at it."""
    from mlops_ray.governance import control_store, events

    class Off(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + by

    events.datetime = control_store.datetime = Off  # type: ignore[misc,attr-defined]


@contextmanager
def watched(url: str, seconds: float) -> Iterator[list[float]]:
    """Transactions a second and cores of the database in the meantime, once it is over."""
    load: list[float] = []
    before, before_s = transactions(url), cpu_s(url)
    yield load
    load += [(transactions(url) - before) / seconds, (cpu_s(url) - before_s) / seconds]


def transactions(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database").fetchone()
    return int(row[0]) if row else 0


def cpu_s(url: str) -> float:
    """Of the server so far: of its processes that ended, and of those that are there."""
    with psycopg.connect(url, autocommit=True) as connection:
        server = psutil.Process(connection.info.backend_pid).parent()
    assert server is not None
    times = server.cpu_times()
    found = times.user + times.system + times.children_user + times.children_system
    for child in server.children(recursive=True):
        try:
            own = child.cpu_times()
        except psutil.Error:
            continue
        found += own.user + own.system
    return found


@contextmanager
def postgresql(connections: int) -> Iterator[str]:
    """A server of its own. It does not run as root, so it runs as its own user where this is root."""
    (binaries,) = Path("/usr/lib/postgresql").glob("*/bin")
    folder = Path(tempfile.mkdtemp(prefix="mlops-ray-replicas-"))
    as_user: list[str] = []
    if psutil.Process().uids().real == 0:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        shutil.chown(folder, "postgres", "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    initdb = [*as_user, str(binaries / "initdb"), "-A", "trust", "-U", "postgres", str(folder / "data")]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL)
    options = [
        "-D",
        str(folder / "data"),
        "-p",
        str(port),
        "-h",
        "127.0.0.1",
        "-k",
        str(folder),
        "-N",
        str(connections),
    ]
    server = subprocess.Popen([*as_user, str(binaries / "postgres"), *options], stderr=subprocess.DEVNULL)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        for _ in range(300):
            try:
                psycopg.connect(url).close()
                break
            except psycopg.OperationalError:
                time.sleep(0.1)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
        shutil.rmtree(folder)
