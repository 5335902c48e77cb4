"""The commands `mlops-ray inventory` and `review`: all use cases, whose they are, how they stand, and who looked."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import typer

from mlops_ray.cli.governance import cli_actor
from mlops_ray.cli.options import (
    ConfigOption,
    JsonOption,
    NameArgument,
    ReasonOption,
    ServerOption,
    StateOption,
    echo_json,
)
from mlops_ray.cli.rollout import server
from mlops_ray.config import settings_of
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.inventory import inventory as entries
from mlops_ray.governance.inventory import review as record_review
from mlops_ray.show.text import printable


def inventory(
    as_json: JsonOption = False, url: ServerOption = None, state: StateOption = None, config: ConfigOption = None
) -> None:
    """List all use cases: owner, tier, purpose, what is live, its approval, the newest version, alarms and reviews."""
    if url:
        with server(url, state, config) as client:
            found = client.inventory()
    else:
        now = datetime.now(UTC)
        found = [entry.shown(now) for entry in entries(open_store(settings_of(state, config)), now)]
    if as_json:
        echo_json(found)
        return
    if not found:
        typer.echo("No version of any use case is registered yet. `mlops-ray run` registers one.")
    for entry in found:
        typer.echo(printable("  ".join((entry["use_case"], *_declared(entry), *_stands(entry), _review(entry)))))


def review(
    use_case: NameArgument,
    reason: ReasonOption,
    url: ServerOption = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Record that you looked at a use case, and what you found; needs the role approve there."""
    if url:
        with server(url, state, config) as client:
            by = client.review(use_case, reason)["reviewed_by"]
    else:
        settings = settings_of(state, config)
        store = open_store(settings)
        by = record_review(store, cli_actor(store, settings, "approve", use_case=use_case), use_case, reason).actor
    typer.echo(printable(f"{use_case} is reviewed by {by}."))


def _declared(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{name}: {entry[name] or 'none named'}" for name in ("owner", "tier", "purpose"))


def _stands(entry: Mapping[str, Any]) -> tuple[str, ...]:
    if entry["live_version"] is None:
        champion = "nothing live"
    else:
        since = _moment(entry["live_since"]) if entry["live_since"] else "a time not recorded"
        champion = f"version {entry['live_version']} live since {since}"
    approval = f"approval: {entry['approval'] or 'none asked'}"
    newest = "none registered"
    if entry["registered_at"]:
        newest = f"newest: {entry['newest_version']}, registered {_moment(entry['registered_at'])}"
    return champion, approval, newest, f"{entry['open_alarms']} open alarms"


def _review(entry: Mapping[str, Any]) -> str:
    last = "never reviewed"
    if entry["reviewed_at"]:
        last = f"reviewed {_moment(entry['reviewed_at'])} by {entry['reviewed_by']}"
    if entry["next_review_at"] is None:
        return f"{last}, no review declared"
    return f"{last}, {'OVERDUE since' if entry['overdue'] else 'next'} {_moment(entry['next_review_at'])}"


def _moment(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}Z"
