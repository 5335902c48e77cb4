"""PostgreSQL as a primary and a replica that has all that is committed, and a line to an object store that can refuse
and be slow: both where hosts reach them."""

import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

from tests.chaos.hosts import OUTSIDE, wait_until
from tests.integration.test_online_store import free_port

_AS_USER = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


class PostgresqlPair:
    """One of two takes writes, and commits nothing that the other has not (`synchronous_standby_names`). Fail-over is
    what Patroni does: the other stops waiting for anybody and takes writes; then the first is made anew as its replica.
    """

    def __init__(self) -> None:
        (self._binaries,) = Path("/usr/lib/postgresql").glob("*/bin")
        self._folder = Path(tempfile.mkdtemp(prefix="mlops-ray-pair-"))
        shutil.chown(self._folder, "postgres", "postgres")
        self.ports = free_port(), free_port()
        self._servers: dict[int, subprocess.Popen[bytes]] = {}
        self.primary, self.replica = self.ports
        hosts = ",".join(f"{OUTSIDE}:{port}" for port in self.ports)
        self.url = (
            f"postgresql://postgres:none@{hosts}/postgres?target_session_attrs=read-write"  # pragma: allowlist secret
        )

    def __enter__(self) -> "PostgresqlPair":
        self._run("initdb", "-A", "trust", str(self._data(self.primary)))
        with (self._data(self.primary) / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\nhost replication all samenet trust\n")
        self._start(self.primary)
        self.attach()
        return self

    def __exit__(self, *error: object) -> None:
        for server in self._servers.values():
            server.send_signal(signal.SIGQUIT)
            server.wait(20)
        shutil.rmtree(self._folder)

    def kill_primary(self) -> None:
        """At once, as when its machine is gone."""
        server = self._servers.pop(self.primary)
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        subprocess.run(["kill", "-9", str(server.pid), *children], check=False)
        server.wait(20)

    def promote(self) -> None:
        self.primary, self.replica = self.replica, self.primary
        self._run("pg_ctl", "promote", "-w", "-D", str(self._data(self.primary)))

    def attach(self) -> None:
        """Make the replica anew from the primary, and have the primary wait for it from then on."""
        shutil.rmtree(self._data(self.replica), ignore_errors=True)
        copied = ["-h", OUTSIDE, "-p", str(self.primary), "-U", "postgres", "-R", "-X", "stream", "-c", "fast"]
        self._run("pg_basebackup", *copied, "-D", str(self._data(self.replica)))
        self._start(self.replica)
        wait_until(lambda: self.ask("SELECT count(*) FROM pg_stat_replication") == "1", 30, "the replica is attached")
        self.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.ask("SELECT pg_reload_conf()")
        wait_until(lambda: self.ask("SELECT sync_state FROM pg_stat_replication") == "sync", 30, "it is waited for")

    def ask(self, statement: str) -> str:
        command = ["psql", "-h", OUTSIDE, "-p", str(self.primary), "-U", "postgres", "-Atc", statement]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def _data(self, port: int) -> Path:
        return self._folder / str(port)

    def _start(self, port: int) -> None:
        options = ["-D", str(self._data(port)), "-p", str(port), "-h", OUTSIDE, "-k", str(self._folder)]
        command = [*_AS_USER, str(self._binaries / "postgres"), *options]
        self._servers[port] = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        ready = [str(self._binaries / "pg_isready"), "-q", "-h", OUTSIDE, "-p", str(port)]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, 30, f"PostgreSQL at {port}")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*_AS_USER, str(self._binaries / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/")


class Line:
    """A port at OUTSIDE through which a server is reached: open, refusing (no connection is taken, those that stand
    are reset), or slow (each message is late by `delay_s`)."""

    def __init__(self, host: str, port: int):
        self._to, self._open = (host, port), set[socket.socket]()
        self.delay_s, self.refused = 0.0, 0
        self.mode: Literal["open", "refusing"] = "open"
        self._listening = socket.create_server((OUTSIDE, 0))
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def refuse(self) -> None:
        self.mode = "refusing"
        for one in list(self._open):
            _end(one)

    def restore(self, delay_s: float = 0.0) -> None:
        self.mode, self.delay_s = "open", delay_s

    def close(self) -> None:
        self.refuse()
        _end(self._listening)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.mode == "refusing":
                self.refused += 1
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # the end is a reset
                near.close()
                continue
            far = socket.create_connection(self._to)
            self._open |= {near, far}
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while content := source.recv(1 << 20):
                if self.delay_s:
                    time.sleep(self.delay_s)
                target.sendall(content)
        except OSError:
            pass
        finally:
            for one in (source, target):
                self._open.discard(one)
                _end(one)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
