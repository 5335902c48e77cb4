"""Hosts: network namespaces with addresses and disks of their own behind one bridge, and a Ray node in each that is
started again when it ends, as `deploy/systemd` has it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mlops_ray.serving.environment import serve_environment
from tests.pipeline_run import ROOT

BRIDGE, OUTSIDE = "mlrbridge", "10.77.0.254"
GCS_PORT = 6_390
RESTART_S = 2.0  # RestartSec of the units in deploy/systemd
ENVIRONMENT = {
    **serve_environment(), "PYTHONPATH": str(ROOT), "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_AUTH_MODE": "disabled",
}  # fmt: skip


def ip(*arguments: str, check: bool = True) -> int:
    return subprocess.run(["ip", *arguments], check=check, capture_output=True).returncode


@contextmanager
def bridge() -> Iterator[None]:
    """What the hosts are behind; this process is on it at OUTSIDE. One at a time on a machine; what a run that was
    killed has left is taken away. Skips the test where nobody may make one."""
    with FileLock(f"{tempfile.gettempdir()}/{BRIDGE}.lock"):
        ip("link", "del", BRIDGE, check=False)
        if ip("link", "add", BRIDGE, "type", "bridge", check=False):
            pytest.skip("this machine lets nobody make network namespaces and bridges")
        try:
            ip("addr", "add", f"{OUTSIDE}/24", "dev", BRIDGE)
            ip("link", "set", BRIDGE, "up")
            yield
        finally:
            ip("link", "del", BRIDGE)


def wait_until(holds: Callable[[], bool], seconds: float, what: str = "") -> float:
    """How long it took. Fails if it did not come true."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - began


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


@dataclass
class Host:
    """A network namespace with one link to the bridge. What runs in it sees a folder of its own at `disk`, which stays
    until the host is lost."""

    name: str
    address: str
    disk: Path
    cpus: int = 1
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    restarts: int = 0
    held: threading.Event = field(default_factory=threading.Event)  # while set, nothing is started again
    lost: threading.Event = field(default_factory=threading.Event)

    @property
    def own_disk(self) -> Path:
        return self.disk.with_name(self.name)

    @property
    def sessions(self) -> Path:
        """What is /tmp/ray there."""
        return self.disk.with_name(f"{self.name}-ray")

    def __enter__(self) -> "Host":
        self.own_disk.mkdir(exist_ok=True)
        self.sessions.mkdir()
        Path("/tmp/ray").mkdir(exist_ok=True)
        self.signal(signal.SIGKILL)  # of a run that was killed
        ip("netns", "del", self.name, check=False)
        ip("netns", "add", self.name)
        ip("link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("link", "set", self.name, "master", BRIDGE, "up")
        for arguments in ("addr add {}/24 dev eth0", "link set eth0 up", "link set lo up", "route add default via {}"):
            ip("-n", self.name, *arguments.format(OUTSIDE if "via" in arguments else self.address).split())
        return self

    def __exit__(self, *error: object) -> None:
        self.lose()
        ip("link", "del", self.name, check=False)  # else its name is taken until the kernel has done with the namespace
        ip("netns", "del", self.name)

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        binds = f"mount --bind {self.own_disk} {self.disk} && mount --bind {self.sessions} /tmp/ray"
        mounted = f'{binds} && exec "$@"'
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.name, "unshare", "-m", "sh", "-c", mounted, "sh", *command],
            cwd=ROOT, env=os.environ | ENVIRONMENT | self.environment, text=True, start_new_session=True, **options,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def lose(self) -> None:
        """All that runs on this host ends at once, for good, and its disk with it."""
        self.lost.set()
        self.signal(signal.SIGKILL)
        for process in self.processes:
            process.wait(20)
        shutil.rmtree(self.own_disk, ignore_errors=True)

    def signal(self, number: signal.Signals, name: str = "") -> int:
        """To all that runs on this host and has `name` in its command line; how many those are."""
        sent = 0
        for pid in self.pids(name):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
                sent += 1
        return sent

    def ended(self) -> bool:
        """Whether nothing runs here any more of what was started."""
        return all(process.poll() is not None for process in self.processes)

    def ended_within(self, seconds: float) -> float | None:
        """When all had ended, if it did: a node that Ray gave up while it was away is told so after it is back."""
        deadline = time.monotonic() + seconds
        while not self.ended():
            if time.monotonic() > deadline:
                return None
            time.sleep(0.2)
        return time.time()

    def cut(self) -> None:
        ip("link", "set", self.name, "down")

    def restore(self) -> None:
        ip("link", "set", self.name, "up")

    def pids(self, name: str = "") -> list[int]:
        """Of what runs on this host and has `name` in its command line."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split()
        matching = []
        for pid in map(int, found):
            with suppress(OSError):
                if name in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "):
                    matching.append(pid)
        return matching

    def join(self, head: "Host | None") -> "subprocess.Popen[str]":
        """Start a Ray node here: the head, or one of the head's cluster."""
        ours, ray = (str(Path(sys.executable).with_name(name)) for name in ("mlops-ray", "ray"))
        where = ["--address", f"{head.address}:{GCS_PORT}"] if head else ["--head", "--port", str(GCS_PORT)]
        more = [] if head else ["--include-dashboard=false"]
        return self.start(
            ours, "cluster", "node", "--",
            ray, "start", *where, f"--node-ip-address={self.address}", f"--num-cpus={self.cpus}", *more,
            "--object-store-memory=300000000", "--disable-usage-stats", "--block",
            stdout=(self.disk.parent / f"{self.name}.log").open("a"), stderr=subprocess.STDOUT,
        )  # fmt: skip

    def supervise(self, head: "Host | None") -> None:
        """As the units in `deploy/systemd`: when `ray start --block` ends, the rest of the host's processes end, and it
        is started again."""

        def follow() -> None:
            while not self.lost.is_set():
                # With this file and a raylet of its cluster Ray takes a head for one that runs. On a machine of its own
                # none is left, but here all hosts' processes are seen from each.
                (self.sessions / "ray_current_cluster").unlink(missing_ok=True)
                self.join(head).wait()
                self.signal(signal.SIGKILL)
                while self.held.is_set() and not self.lost.is_set():
                    time.sleep(0.1)
                time.sleep(RESTART_S)
                self.restarts += 1

        threading.Thread(target=follow, name=f"supervisor of {self.name}", daemon=True).start()
