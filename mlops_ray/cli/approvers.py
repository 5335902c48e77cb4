"""Commands of `mlops-ray approvals` on those who approve: changes of rules, delegations and reports."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mlops_ray.cli.approvals import VersionArgument, WhyOption
from mlops_ray.cli.approvals import approvals as approvals  # with the commands below, as `main` takes it
from mlops_ray.cli.options import (
    DEFAULT_URL,
    ConfigOption,
    JsonOption,
    NameArgument,
    ReasonOption,
    StateOption,
    UrlOption,
    echo_json,
    moment_of,
)
from mlops_ray.cli.rollout import server
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.development_keys import APPROVER_KEY_FILE
from mlops_ray.show.text import printable

IdArgument = Annotated[str, typer.Argument(help="As the list shows it.")]


@approvals.command()
def rules(
    as_json: JsonOption = False, url: UrlOption = DEFAULT_URL, state: StateOption = None, config: ConfigOption = None
) -> None:
    """List changes of policies, gates and monitoring that were asked for, and what became of them, the newest first."""
    with server(url, state, config) as client:
        found = client.approvers.rules()
    if as_json:
        echo_json(found)
        return
    if not found:
        typer.echo("Nobody has asked for other rules where that needs an approval.")
    for change in found:
        for line in _described(change):
            typer.echo(printable(line))


@approvals.command("approve-rules")
def approve_rules(
    id: IdArgument,
    reason: ReasonOption = "",
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Approve a change of a policy, gates or monitoring; somebody other than who asked for it has to."""
    with server(url, state, config, APPROVER_KEY_FILE) as client:
        done = client.approvers.approve_rules(id, reason)
    more = "in force now" if done["state"] == "in_force" else "approved by you, and waits for others"
    typer.echo(printable(f"The change of the {_about(done)} of {done['use_case']} is {more}."))


@approvals.command("reject-rules")
def reject_rules(
    id: IdArgument,
    reason: WhyOption,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Refuse a change of a policy, gates or monitoring, or take back what you asked for."""
    with server(url, state, config, APPROVER_KEY_FILE) as client:
        done = client.approvers.reject_rules(id, reason)
    about = f"{_about(done)} of {done['use_case']}"
    typer.echo(printable(f"The change of the {about} is rejected; what held stays in force."))


@approvals.command()
def delegations(
    as_json: JsonOption = False, url: UrlOption = DEFAULT_URL, state: StateOption = None, config: ConfigOption = None
) -> None:
    """List who may approve in whose place, the newest first; those that ended as well."""
    with server(url, state, config) as client:
        found = client.approvers.delegations()
    if as_json:
        echo_json(found)
        return
    if not found:
        typer.echo("Nobody has given the right to approve to somebody else.")
    for one in found:
        ended = f"  ended {one['ended_at']}" if one["ended_at"] else ""
        line = f"{one['id']}  {one['use_case']}  {one['taker']} for {one['giver']}  until {one['until']}{ended}"
        typer.echo(printable(f"{line}  {one['reason']}"))


@approvals.command()
def delegate(
    model: NameArgument,
    to: Annotated[str, typer.Argument(help="A key of the person, or issuer|sub of their tokens.")],
    until: Annotated[str, typer.Option(help="The end, such as 2027-01-31T18:00Z.")],
    reason: WhyOption,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Let somebody decide on versions of a use case in your place, until a moment."""
    end = moment_of("--until", until)
    with server(url, state, config, APPROVER_KEY_FILE) as client:
        made = client.approvers.delegate(model, to, end, reason)
    typer.echo(
        printable(f"{to} decides on versions of {model} for {made['giver']} until {made['until']}. Id: {made['id']}")
    )


@approvals.command("end-delegation")
def end_delegation(
    id: IdArgument,
    reason: WhyOption,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Take the right to approve back; what was approved with it stays."""
    with server(url, state, config, APPROVER_KEY_FILE) as client:
        done = client.approvers.end_delegation(id, reason)
    typer.echo(printable(f"{done['taker']} does not decide for {done['giver']} on {done['use_case']} any more."))


@approvals.command()
def attach(
    model: NameArgument,
    version: VersionArgument,
    file: Annotated[Path, typer.Argument(help="A report, such as a validator's; at most 7 MB.")],
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Attach a report to the newest request for a version's approval."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"Report {file} cannot be read: {error.strerror}.") from error
    with server(url, state, config) as client:
        attached = client.approvers.attach_report(model, version, file.name, content)["reports"]
    digest = next(one["digest"] for one in attached if one["name"] == file.name)
    typer.echo(printable(f"{file.name} is attached to {model}@{version}. SHA-256: {digest}"))


@approvals.command()
def report(
    model: NameArgument,
    version: VersionArgument,
    digest: Annotated[str, typer.Argument(help="SHA-256 of the report, as `approvals list` shows it.")],
    to: Annotated[Path, typer.Option(help="The new file.")],
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a report that was attached into a file, if it is still what was attached."""
    with server(url, state, config) as client:
        content = client.approvers.report(model, version, digest)
    try:
        with to.open("xb") as stream:
            stream.write(content)
    except OSError as error:
        raise ConfigurationError(f"{to} cannot be written: {error.strerror}. Name a file that is new.") from error
    typer.echo(printable(f"Written: {to}"))


def _described(change: dict[str, Any]) -> list[str]:
    """The change in lines: who wants what, and who has agreed."""
    who = f"asked by {change['requested_by']}  until {change['expires_at']}"
    decided = f" by {change['decided_by']}" if change["decided_by"] else ""
    agreed = ", ".join(one["name"] for one in change["assents"])
    lines = [f"{change['id']}  {change['use_case']}  {change['state']}{decided}  {who}  {change['reason']}".rstrip()]
    if (monitoring := change.get("monitoring")) is not None:  # a server of the release before knows of none
        wanted = monitoring["definition"]
        lines.append(f"  monitoring, in place of revision {monitoring['revision']}:")
        lines += ["    as each model was sealed"] if wanted is None else [f"    {n}: {v}" for n, v in wanted.items()]
    else:
        policy = change["policy"]
        wants = "demands nothing" if policy is None else ", ".join(f"{name} {value}" for name, value in policy.items())
        lines.append(f"  policy: {wants}")
        lines += [f"  gate: {gate}" for gate in change["gates"] or ()]
    return lines + ([f"  approved by {agreed}"] if agreed else [])


def _about(change: dict[str, Any]) -> str:
    return "rules" if change.get("monitoring") is None else "monitoring"
