"""What records know of versions: `lineage`, `live`, `versions card`, `versions reproduce`, `audit rescan`."""

import json
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mlops_ray.cli.approvals import versions
from mlops_ray.cli.governance import audit
from mlops_ray.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    RepoOption,
    StateOption,
    echo_json,
    moment_of,
)
from mlops_ray.config import load_settings, settings_of
from mlops_ray.errors import ConfigurationError, DataError, IntegrityError
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.history import Deployment, changes, deployments
from mlops_ray.operations.local_ray import ray_for
from mlops_ray.show.text import printable
from mlops_ray.use_case import load_use_case
from mlops_ray.use_case.loading import definitions_folder

if TYPE_CHECKING:
    from mlops_ray.pipeline.reproduction import Difference, Reproduction
    from mlops_ray.registry.lineage import Lineage

VersionArgument = Annotated[str, typer.Argument(help="A version, such as flights@7.")]


def lineage(
    thing: Annotated[str, typer.Argument(help="An endpoint (flights), a version (flights@7) or a request's id.")],
    as_json: JsonOption = False,
    openlineage: Annotated[bool, typer.Option("--openlineage", help="As OpenLineage run events, one a line.")] = False,
    near: Annotated[str | None, typer.Option(help="About when the request was, if its id does not say so.")] = None,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show everything behind an endpoint, a version or a prediction, back to the raw files."""
    from mlops_ray.registry.trace import trace

    found = trace(settings_of(state, config), thing, moment_of("--near", near) if near else None)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    elif openlineage:
        from mlops_ray.registry.open_lineage import run_events

        time = found.registered.get("time") or found.lineage.as_of
        for event in run_events(found, time):
            typer.echo(json.dumps(event))
    else:
        typer.echo(found)


def live(
    use_case: Annotated[str, typer.Argument(help="The endpoint.")],
    at: Annotated[str | None, typer.Option(help="An RFC 3339 moment. [default: now]")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Show what served at a moment, with each step of the rollout that was under way; of now with the revision, on
    which changes of what is live are decided."""
    from mlops_ray.governance.live import live as live_now
    from mlops_ray.registry.trace import shown
    from mlops_ray.registry.trace_tree import deployment_line

    now = datetime.now(UTC)
    moment = moment_of("--at", at) if at else now
    if moment > now:
        raise ConfigurationError(f"--at {moment.isoformat()} has not come yet.")
    store = open_store(settings_of(state, config))
    known = deployments(changes(store, use_case))
    if not known:
        raise ConfigurationError(f"Nothing was ever live under the name {shown(use_case)}.")
    then = [one for one in known if one.held(moment)]
    revision = None if at else live_now(store, use_case).revision
    rollouts = {one.rollout for one in then} - {None}
    steps = [one for one in known if one.rollout in rollouts]
    if as_json:
        found: dict[str, Any] = {"use_case": use_case, "at": moment.isoformat(), "revision": revision}
        found |= {"live": _plain(then), "rollout": _plain(steps), "history": _plain(known)}
        typer.echo(json.dumps(found, indent=2))
        return
    if not then:
        raise DataError(f"Nothing was live yet: the first version of {use_case} came at {known[0].since.isoformat()}.")
    decided_on = "" if revision is None else f", revision {revision}"
    typer.echo(f"{use_case} at {moment:%Y-%m-%d %H:%M:%S} UTC{decided_on}")
    for one in then:
        typer.echo(f"  {deployment_line(one)}")
    if steps:
        typer.echo("Steps of this rollout:")
        for one in steps:
            typer.echo(f"{'→' if one in then else ' '} {deployment_line(one)}")


@versions.command()
def card(
    version: VersionArgument,
    html: Annotated[bool, typer.Option("--html", help="As one HTML page instead of Markdown.")] = False,
    output: Annotated[Path | None, typer.Option(help="File to write. [default: standard output]")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Print the model card of a version, or write it to a file."""
    from mlops_ray.registry.model_card import html_card, markdown_card, plain_card
    from mlops_ray.registry.trace import parse_version, trace

    parse_version(version)
    found = trace(settings_of(state, config), version)
    if as_json and html:
        raise ConfigurationError("--json and --html are two forms of the card. Leave one out.")
    written = html_card if html else markdown_card
    text = json.dumps(plain_card(found), indent=2) if as_json else written(found)
    if output is None:
        typer.echo(text)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise ConfigurationError(f"File {output} cannot be written: {error.strerror}.") from error


@versions.command()
def reproduce(
    version: VersionArgument,
    use_case: Annotated[str | None, typer.Option(help="The use case's file. [default: use_cases/<name>.py]")] = None,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
    work: Annotated[Path | None, typer.Option(help="Empty folder to work in. [default: a temporary one]")] = None,
    any_code: Annotated[bool, typer.Option(help="Go on although the code is another.")] = False,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="For metrics, where digits cannot be equal: of one, or of a larger metric itself."),
    ] = 0.005,
    as_json: JsonOption = False,
) -> None:
    """Run a version's recorded pipeline again from the raw files, and compare: exit code 1 if anything differs."""
    record = recorded(version, state, config)
    from mlops_ray.registry.trace import erased_since

    since = erased_since(settings_of(state, config), record)
    case = load_use_case(use_case or record.use_case)
    repo = definitions_folder(use_case or record.use_case, feature_repo)
    if work is not None and work.exists() and any(work.iterdir()):
        raise ConfigurationError(f"{work} is not empty: what lies there would be used again. Give an empty folder.")
    with tempfile.TemporaryDirectory() as temporary:
        settings = settings_of(state, config, data)
        settings = load_settings(state=str((work or Path(temporary)).absolute()), data=settings.data)
        from mlops_ray.pipeline.reproduction import compare_inputs
        from mlops_ray.pipeline.reproduction import reproduce as run_again

        difference = compare_inputs(case, settings, repo, record, any_code)
        if difference is not None:
            refuse(version, difference, since)
        with ray_for(settings):
            from mlops_ray.pipeline.progress import TerminalProgress

            progress = TerminalProgress(Console(stderr=True))
            found = run_again(case, settings, repo, record, any_code, tolerance, progress)
        report(version, found, since, as_json)


@audit.command("rescan")
def rescan(as_json: JsonOption = False, state: StateOption = None, config: ConfigOption = None) -> None:
    """Look for vulnerabilities in every live version again; what is new becomes an event."""
    from mlops_ray.registry import vulnerabilities

    settings = settings_of(state, config)
    found = vulnerabilities.rescan(settings, open_store(settings))
    if as_json:
        echo_json(found)
        return
    for one in found:
        typer.echo(printable(f"{one.use_case}@{one.version}: {one.scan.sentence} New: {len(one.new)}."))
        for name in one.new:
            typer.echo(printable(f"  {name}"))


def recorded(version: str, state: str | None, config: str | None) -> "Lineage":
    """The lineage record that a version is to be reproduced from."""
    from mlops_ray.registry.trace import parse_version, read_lineage

    return read_lineage(settings_of(state, config), *parse_version(version))[1]


def refuse(version: str, difference: "Difference", since: Iterable[str] = ()) -> None:
    """Raise IntegrityError saying what is not as recorded, and how to go on where that is possible.

    since: what was erased from its data after it was trained, which is why raw files and rows are others.
    """
    hint = "".join(f" It cannot be the same: {sentence}." for sentence in since)
    if difference.name in ("code version", "code"):
        hint += " Check out the recorded code, or go on with --any-code."
    raise IntegrityError(f"{version} is not reproduced. The first difference is {printable(str(difference))}.{hint}")


def report(version: str, found: "Reproduction", since: Iterable[str] = (), as_json: bool = False) -> None:
    """Print what was compared. Raises IntegrityError naming the first difference."""
    if as_json:
        echo_json(found)
    for note in found.notes:
        typer.echo(printable(f"Another environment: {note}"), err=True)
    if found.difference is not None:
        refuse(version, found.difference, since)
    if as_json:
        return
    how = "to the last digit" if found.exact else "metrics within the tolerance"
    typer.echo(f"{version} is reproduced ({how}): {len(found.equal)} comparisons, {found.seconds:.0f} s.")


def _plain(found: Iterable[Deployment]) -> list[dict[str, Any]]:
    return [vars(one) | {"since": one.since.isoformat(), "until": one.until and one.until.isoformat()} for one in found]
