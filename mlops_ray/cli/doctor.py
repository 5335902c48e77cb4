"""The command `mlops-ray doctor`: what of this machine and its settings would stop work."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mlops_ray.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    PortOption,
    StateOption,
)
from mlops_ray.config import settings_of
from mlops_ray.show.text import printable

if TYPE_CHECKING:
    from mlops_ray.config import Settings

_UNWELL = 3


def doctor(
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    port: PortOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at Python, packages, folders, stores, keys and the port, and say what is missing. Exit code 3: something."""
    from mlops_ray.operations.doctor import examine
    from mlops_ray.operations.preconditions import expect_ray_can_write

    settings = settings_of(state, config, data, port)
    more = {"ray": expect_ray_can_write, "port": lambda: _expect_port(settings)}
    if "RAY_ADDRESS" in os.environ:
        more = {}  # on a cluster both are its own
    found = examine(settings, Path.cwd(), more)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=2, ensure_ascii=False))
    else:
        for one in found:
            typer.echo(printable(f"{one.state:7}  {one.name:15}  {one.sentence}"))
    if any(one.state == "error" for one in found):
        raise typer.Exit(_UNWELL)


def _expect_port(settings: "Settings") -> None:
    """Raise ConfigurationError unless the port is free, or our own server answers there."""
    import httpx

    from mlops_ray.operations.preconditions import expect_can_serve

    try:
        if httpx.get(f"{settings.url}/v2/health/live", timeout=3, trust_env=False).is_success:
            return
    except httpx.HTTPError:
        pass
    expect_can_serve(settings)
