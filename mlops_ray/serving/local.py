"""Serve as part of a driver: started on the Ray of this process, and gone, with all it opened, when stopped."""

import logging
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.governance.champion import begin
from mlops_ray.governance.control_store import open_store
from mlops_ray.serving.app import (
    SERVER_ROUTE,
    EndpointArgs,
    endpoint_application,
    server_application,
)
from mlops_ray.serving.credentials import expect_credentials, with_persons
from mlops_ray.serving.environment import expect_free_port, haproxy_folder, serve_host
from mlops_ray.serving.server_replica import SERVER_APPLICATION
from mlops_ray.serving.site import ROUTES

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
CONTROLLER_TIMEOUT_S = 30.0  # as Serve has it

_logger = logging.getLogger(__name__)


def serve_use_case(settings: Settings, name: str) -> str:
    """Serve the champion of `name` and return the endpoint's URL, once it answers.

    Ray must be initialised, with `serve_environment()` set before. Raises ConfigurationError if there is no champion,
    the port is taken, or others could reach it without credentials; UnavailableError if no replica comes up.
    """
    if begin(open_store(settings), name).champion is None:
        raise ConfigurationError(
            f"Use case {name!r} has no champion. Run its pipeline first, or approve the version it made."
        )
    url = start(settings, {name: endpoint_application(EndpointArgs(model=name), settings)})
    return f"{url}{ROUTES}/models/{name}"


def start(settings: Settings, endpoints: Mapping[str, serve.Application]) -> str:
    """Run the applications of some models and the one that owns the rest; returns the base URL when all answer.

    On a cluster where Serve runs already they are added to it, on the port that it has.
    """
    if not ray.is_initialized():
        raise ConfigurationError("Ray is not running in this process. Call ray.init() before serving.")
    store = open_store(settings)
    expect_credentials(settings, store, settings.http_host)
    with_persons(settings, store)  # a replica would only say so in its log
    if not serve.status().proxies:
        _claim_port(settings.http_host, settings.http_port)
        serve.start(http_options={"host": serve_host(settings.http_host), "port": settings.http_port})
    targets = [serve.RunTarget(server_application(settings), SERVER_APPLICATION, SERVER_ROUTE)]
    targets += [serve.RunTarget(app, name, f"{ROUTES}/models/{name}") for name, app in endpoints.items()]
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        raise UnavailableError(f"Serving failed to start: {error}") from error
    for path in [f"{ROUTES}/health/live", *(f"{ROUTES}/models/{name}/ready" for name in endpoints)]:
        _wait_until_answered(f"{settings.url}{path}")
    return settings.url


def is_serving() -> bool:
    """Whether Serve runs on the Ray of this process."""
    return ray.is_initialized() and bool(serve.status().proxies)


def stop() -> None:
    """Stop Serve and make sure that none of its processes is left. Does nothing where Serve does not run."""
    if not ray.is_initialized():
        return
    node = ray.get_runtime_context().get_node_id()
    _end_controller()
    serve.shutdown()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _proxies(node) and time.monotonic() < deadline:
        time.sleep(0.1)
    end_proxies(node)


def _end_controller() -> None:
    """What `serve.shutdown` begins with. It would wait for a call that the controller's end ends, and Ray prints of
    such a call, in red, that it failed and is retried for ever."""
    with suppress(ValueError, ray.exceptions.RayError):  # there is none, or no more
        ray.get(ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE).graceful_shutdown.remote(wait=False))
        deadline = time.monotonic() + CONTROLLER_TIMEOUT_S
        while time.monotonic() < deadline:
            time.sleep(0.05)
            ray.get_actor(SERVE_CONTROLLER_NAME, SERVE_NAMESPACE)


def end_proxies(node: str | None = None) -> None:
    """End the HAProxy processes of one Ray node, by default this driver's."""
    for pid in _proxies(ray.get_runtime_context().get_node_id() if node is None else node):
        os.kill(pid, signal.SIGKILL)


def _wait_until_answered(url: str) -> None:
    """HAProxy learns of routes a moment after Serve reports them. 401 is an answer too: it comes from a replica."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    status = "no connection"
    while time.monotonic() < deadline:
        try:
            response = httpx.get(url, timeout=5, trust_env=False)
            if response.status_code in (200, 401):
                return
            status = f"{response.status_code}: {response.text[:200]}"
        except httpx.TransportError as error:
            status = repr(error)
        time.sleep(0.1)
    raise UnavailableError(f"{url} did not become ready within {READY_TIMEOUT_S:g} s ({status}). See Ray's Serve logs.")


def _claim_port(host: str, port: int) -> None:
    """Raise ConfigurationError unless the port is free, or was held by an HAProxy whose Ray is gone: that is ended.

    HAProxy outlives a driver that was killed; then its parent is no Ray process any more.
    """
    orphans = [pid for pid in _proxies() if "ray::" not in _command(_parent(pid))]
    for pid in orphans:
        _logger.warning("Ending HAProxy %d, which a driver that was killed left behind", pid)
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + (STOP_TIMEOUT_S if orphans else 0)
    while True:
        try:
            return expect_free_port(host, port)
        except ConfigurationError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _proxies(node: str = "") -> list[int]:
    """HAProxy processes whose configuration lies in our folder (of one Ray node, if named)."""
    folder = f"{haproxy_folder()}/{node}"
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if f"-f\0{folder}" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
