"""Redis and PostgreSQL that can be stopped, frozen and started again on the same port; and a slow line to them."""

import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.integration.test_online_store import free_port, wait_for


class Server(Protocol):
    port: int
    url: str

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def signal(self, number: signal.Signals) -> None: ...


class RedisServer:
    """Keeps its data on disk over a restart, as one in production would."""

    def __init__(self, folder: Path):
        self.port, self._folder = free_port(), folder
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["--port", str(self.port), "--dir", str(self._folder), "--appendonly", "yes"]
        self._process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        wait_for(self.port)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)


class PostgresqlServer:
    """Runs as its own user, in a folder that this user may enter. Its zone is not UTC, as on many a server."""

    def __init__(self, folder: Path):
        (self._binaries,) = Path("/usr/lib/postgresql").glob("*/bin")
        self._as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._folder, self.port = folder, free_port()
        shutil.chown(folder, "postgres", "postgres")
        made = [*self._as_user, self._binaries / "initdb", "-A", "trust", folder / "data"]
        subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
        self.url = f"postgresql://postgres:none@127.0.0.1:{self.port}/postgres"  # pragma: allowlist secret

    def start(self) -> None:
        options = ["-D", self._folder / "data", "-p", str(self.port), "-h", "127.0.0.1", "-k", self._folder]
        options += ["-c", "timezone=Europe/Berlin"]
        command = [*self._as_user, self._binaries / "postgres", *options]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for(self.port)
        ready = [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + 30  # a port that answers may still say that it is starting up
        while subprocess.run(ready, check=False).returncode and time.monotonic() < deadline:
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # SIGTERM would wait for our own connections to close
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """To the server and all its processes, so that nobody answers on any connection."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in [self._process.pid, *map(int, children)]:
            subprocess.run(["kill", f"-{number.value}", str(pid)], check=False)


@contextmanager
def started(kind: str) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix=f"mlops-ray-{kind}-"))
    server: Server = RedisServer(folder) if kind == "redis" else PostgresqlServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.signal(signal.SIGCONT)
        server.stop()
        shutil.rmtree(folder)


@contextmanager
def slow_line(port: int, delay_s: float) -> Iterator[int]:
    """A port whose connections reach `port` with every message `delay_s` late, there and back."""
    listening = socket.create_server(("127.0.0.1", 0))

    def forward(source: socket.socket, target: socket.socket) -> None:
        while content := source.recv(1 << 20):
            time.sleep(delay_s)
            target.sendall(content)
        target.close()

    def accept() -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=_quietly, args=(forward, *pair), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def _quietly(forward: object, source: socket.socket, target: socket.socket) -> None:
    try:
        forward(source, target)  # type: ignore[operator]
    except OSError:
        target.close()
