"""The commands `mlops-ray approvals` and `mlops-ray versions`: what people decide about versions."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from mlops_ray.cli.options import (
    DEFAULT_URL,
    ConfigOption,
    JsonOption,
    NameArgument,
    ReasonOption,
    StateOption,
    UrlOption,
    echo_json,
)
from mlops_ray.cli.rollout import RevisionOption, server
from mlops_ray.client import Decision
from mlops_ray.config import settings_of
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.development_keys import APPROVER_KEY_FILE, DEVELOPMENT_KEY_FILE, acting
from mlops_ray.governance.versions import list_versions
from mlops_ray.show.text import printable
from mlops_ray.use_case import load_use_case

VersionArgument = Annotated[int, typer.Argument(help="The registered version.")]
WhyOption = Annotated[str, typer.Option(help="Why; goes into the audit log.")]

approvals = typer.Typer(
    no_args_is_help=True,
    help="Approvals of versions. Who acts is whose key is in MLOPS_RAY_API_KEY; without one, in a set-up for a single "
    "user, the development principal asks and the development approver decides.",
)
versions = typer.Typer(no_args_is_help=True, help="Versions of a use case: what there is, and taking one out of use.")


@approvals.command("list")
def list_(
    as_json: JsonOption = False, url: UrlOption = DEFAULT_URL, state: StateOption = None, config: ConfigOption = None
) -> None:
    """List requests and what became of them, the newest first."""
    with server(url, state, config) as client:
        found = client.approvals()
    if as_json:
        echo_json(found)
        return
    if not found:
        typer.echo("Nobody has asked for an approval yet.")
    for approval in found:
        typer.echo(_line(approval))


@approvals.command()
def request(
    model: NameArgument,
    version: VersionArgument,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask for the approval of a version."""
    _decide("request", (url, state, config), as_json, model, version, reason)


@approvals.command()
def approve(
    model: NameArgument,
    version: VersionArgument,
    reason: ReasonOption = "",
    digest: Annotated[str | None, typer.Option(help="The sealed model you looked at, to refuse another.")] = None,
    condition: Annotated[str, typer.Option(help="What has to be kept to; recorded and shown, not enforced.")] = "",
    as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Approve what was asked for; somebody other than the author has to, or several where the use case says so."""
    _decide("approve", (url, state, config), as_json, model, version, reason, digest, condition)


@approvals.command()
def reject(
    model: NameArgument, version: VersionArgument, reason: WhyOption, as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL, state: StateOption = None, config: ConfigOption = None,
) -> None:  # fmt: skip
    """Refuse what was asked for."""
    _decide("reject", (url, state, config), as_json, model, version, reason)


@approvals.command()
def revoke(
    model: NameArgument, version: VersionArgument, reason: WhyOption, as_json: JsonOption = False,
    url: UrlOption = DEFAULT_URL, state: StateOption = None, config: ConfigOption = None,
) -> None:  # fmt: skip
    """Take an approval back: a rollout of the version ends, and replicas do not load it again."""
    _decide("revoke", (url, state, config), as_json, model, version, reason)


@approvals.command("break-glass")
def break_glass(
    model: NameArgument,
    version: VersionArgument,
    reason: WhyOption,
    revision: RevisionOption = None,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a version champion at once, without approval; everybody who watches is told, and approval asked after."""
    with server(url, state, config) as client:
        champion = client.decide("break-glass", model, version, reason, revision=revision)["champion"]
    typer.echo(f"Version {champion['version']} of {model} is champion. It still has to be approved.")


@versions.command("list")
def list_versions_(
    model: NameArgument, as_json: JsonOption = False, state: StateOption = None, config: ConfigOption = None
) -> None:
    """List all versions that were registered, with the gates that they did not pass."""
    found = list_versions(open_store(settings_of(state, config)), model)
    if not found:
        raise ConfigurationError(f"{model} has no version yet. Run its pipeline first.")
    if as_json:
        echo_json(found)
        return
    for one in found:
        parts = [
            f"{model}@{one.version}",
            f"{one.registered_at:%Y-%m-%d %H:%M}Z",
            f"author {one.author}",
            f"model {one.evidence.model[:12]}",
            f"failed {', '.join(one.failed_gates)}" if one.failed_gates else "",
            f"retired {one.retired_at:%Y-%m-%d %H:%M}Z" if one.retired_at else "",
        ]
        typer.echo(printable("  ".join(part for part in parts if part)))


@versions.command()
def retire(
    model: NameArgument, version: VersionArgument, reason: WhyOption, url: UrlOption = DEFAULT_URL,
    state: StateOption = None, config: ConfigOption = None,
) -> None:  # fmt: skip
    """Take a version out of use for good: it is not approved, rolled out or loaded again."""
    with server(url, state, config) as client:
        done = client.decide("retire", model, version, reason)
    typer.echo(f"Version {done['version']} of {model} is retired.")


@versions.command("preflight")
def preflight_(
    use_case: Annotated[str | None, typer.Argument(metavar="[USE_CASE]", help="Default: all.")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Before libraries are upgraded: load every live and previous version here, and replay its golden requests.

    Run it in the new environment. Exit code 1 if a version would not load or would answer otherwise.
    """
    from mlops_ray.serving.preflight import preflight

    settings = settings_of(state, config)
    checked = preflight(open_store(settings), settings, use_case)
    if not checked:
        raise ConfigurationError(f"{use_case or 'No use case'} has no version that is live. Run a pipeline first.")
    if as_json:
        echo_json(checked)
    for one in () if as_json else checked:
        found = one.problem or f"loads, and answers {one.golden_requests} golden requests as when it was sealed"
        typer.echo(printable(f"{one.use_case}@{one.version.version} ({one.part}): {found}"))
        for package in one.packages:
            typer.echo(printable(f"  {package}"))
    if failed := [one for one in checked if one.problem]:
        typer.echo(f"{len(failed)} of {len(checked)} versions would not serve in this environment.", err=True)
        raise typer.Exit(1)


@versions.command()
def measure(
    version: Annotated[str, typer.Argument(help="A version, such as flights@7.")],
    reason: WhyOption,
    use_case: Annotated[str | None, typer.Option(help="The use case's file. [default: use_cases/<name>.py]")] = None,
    as_json: JsonOption = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Judge a version's gates again, such as after one slow sample; both results stay, and the later counts.

    Who acts is whose key is in MLOPS_RAY_API_KEY (role operate or approve), or the only user.
    """
    from mlops_ray.pipeline.admission import measure_again
    from mlops_ray.registry.models import set_champion
    from mlops_ray.registry.trace import parse_version

    name, number = parse_version(version)
    settings, case = settings_of(state, config), load_use_case(use_case or name)
    if case.name != name:
        raise ConfigurationError(f"{use_case} is the use case {case.name}, not {name}.")
    store = open_store(settings)
    actor = acting(store, settings, os.environ.get("MLOPS_RAY_API_KEY"), name)
    found = measure_again(case, settings, actor, number, reason)
    if found.champion:
        set_champion(settings, name, number)
    if as_json:
        echo_json(found.to_json())
    for gate in () if as_json else found.gates:
        typer.echo(printable(f"{'passed' if gate.passed else 'FAILED'}  {gate.name}: {gate.sentence}"))
    if not as_json:
        typer.echo(printable(found.standing))
    if not all(gate.passed for gate in found.gates if gate.blocks):
        raise typer.Exit(1)


@versions.command()
def evidence(
    version: Annotated[str, typer.Argument(help="A version, such as flights@7.")],
    to: Annotated[Path | None, typer.Option(help="The new folder. [default: evidence-<version>]")] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="A private Ed25519 key (PEM) that signs it. [default: the settings' evidence_key]"),
    ] = None,
    model: Annotated[bool, typer.Option("--model", help="With the sealed model itself.")] = False,
    state: StateOption = None,
    config: ConfigOption = None,
) -> None:
    """Write what stands behind a version into one folder, for an auditor."""
    from mlops_ray.registry.bundle import write_bundle
    from mlops_ray.registry.trace import parse_version

    name, number = parse_version(version)
    reference = f"file:{key.absolute()}" if key else None
    settings, target = settings_of(state, config), to or Path(f"evidence-{name}-{number}")
    made = write_bundle(settings, version, target, reference, model)
    typer.echo(printable(f"Written: {made}. Its README.md says how to check it."))


def _decide(
    what: Decision,
    where: tuple[str, str | None, str | None],
    as_json: bool,
    model: str,
    version: int,
    reason: str,
    digest: str | None = None,
    condition: str = "",
) -> None:
    """Do it and show the approval afterwards. where: url, state and settings file."""
    file = DEVELOPMENT_KEY_FILE if what == "request" else APPROVER_KEY_FILE
    with server(*where, file) as client:
        found = client.decide(what, model, version, reason, digest, condition=condition)
    if as_json:
        echo_json(found)
    else:
        typer.echo(_line(found))


def _line(approval: dict[str, Any]) -> str:
    decided = f" by {approval['decided_by']}" if approval["decided_by"] else ""
    parts = [
        f"{approval['use_case']}@{approval['version']}",
        f"{approval['state']}{decided}",
        f"asked by {approval['requested_by']}",
        f"author {approval['author']}",
        f"until {approval['expires_at']}",
        f"model {approval['evidence']['model'][:12]}",
        "BREAK GLASS" if approval["break_glass"] else "",
        approval["reason"],
        *(_agreed(one) for one in approval["assents"]),
        *(f"report {one['name']} {one['digest']}" for one in approval["reports"]),
    ]
    return printable("  ".join(part for part in parts if part))


def _agreed(assent: dict[str, Any]) -> str:
    place = f" for {assent['for_name']}" if assent["for_name"] else ""
    condition = f" on condition: {assent['condition']}" if assent["condition"] else ""
    return f"yes of {assent['name']}{place}{condition}"
