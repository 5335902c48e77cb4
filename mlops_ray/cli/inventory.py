"""The command `mlops-ray inventory`: all use cases, whose they are and how they stand."""

from datetime import UTC, datetime
from pathlib import Path

import typer

from mlops_ray.cli.options import ConfigOption, StateOption, printable, settings_of
from mlops_ray.errors import UseCaseError
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.inventory import Entry
from mlops_ray.governance.inventory import inventory as entries
from mlops_ray.use_case.loading import load_use_case


def inventory(state: StateOption = None, config: ConfigOption = None) -> None:
    """List all use cases: owner, purpose, what is live since when, its approval, the newest version, open alarms."""
    found = entries(open_store(settings_of(state, config)), datetime.now(UTC))
    if not found:
        typer.echo("No version of any use case is registered yet. `mlops-ray run` registers one.")
    for entry in found:
        typer.echo(printable("  ".join((entry.use_case, *_declared(entry.use_case), *_stands(entry)))))


def _declared(name: str) -> tuple[str, str]:
    """Owner and purpose, where the use case's file is at hand."""
    if not (Path("use_cases") / f"{name}.py").is_file():
        return "owner: not known here", "purpose: not known here"
    try:
        declared = load_use_case(name)
    except UseCaseError:
        return "owner: its file does not load", "purpose: its file does not load"
    return f"owner: {declared.owner or 'none named'}", f"purpose: {declared.purpose or 'none named'}"


def _stands(entry: Entry) -> tuple[str, ...]:
    if entry.live_version is None:
        champion = "nothing live"
    else:
        since = f"{entry.live_since:%Y-%m-%d %H:%M:%S}Z" if entry.live_since else "a time not recorded"
        champion = f"version {entry.live_version} live since {since}"
    approval = f"approval: {entry.approval or 'none asked'}"
    newest = "none registered"
    if entry.registered_at:
        newest = f"newest: {entry.newest_version}, registered {entry.registered_at:%Y-%m-%d %H:%M:%S}Z"
    return champion, approval, newest, f"{entry.open_alarms} open alarms"
