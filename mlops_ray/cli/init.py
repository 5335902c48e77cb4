"""The command `mlops-ray init`: from files that nobody has described to a project that runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlops_ray.cli.features import duration_of
from mlops_ray.config import absolute, load_settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.operations.local_ray import ray_on_demand
from mlops_ray.show.text import printable
from mlops_ray.use_case.checks import expect_name

if TYPE_CHECKING:
    from mlops_ray.exploration.propose import Proposal
    from mlops_ray.scaffold.draft import Draft

_GLOB = "*?["


def init(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Of the use case, such as churn: a-z, 0-9 and _.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="The files: a path, or a pattern in quotes. [default: none; you fill it in]"),
    ] = None,
    label: Annotated[str | None, typer.Option(help="The column to predict. [default: you are asked]")] = None,
    time: Annotated[str | None, typer.Option(help="The column with the moment of each row. [default: asked]")] = None,
    task: Annotated[
        Literal["binary", "multiclass", "regression"] | None,
        typer.Option(help="Which kind the label is: yes or no, one of several names, a number. [default: found]"),
    ] = None,
    positive: Annotated[str, typer.Option(help="The value of the label that counts as yes. [default: found]")] = "",
    known_after: Annotated[
        str | None, typer.Option(help="How long after --time the label is known: 12h, 30d. [default: at once]")
    ] = None,
    owner: Annotated[str, typer.Option(help="Who answers for the use case, such as a team's address.")] = "",
    folder: Annotated[Path | None, typer.Option(help="A new folder for the project. [default: ./NAME]")] = None,
    update: Annotated[
        bool, typer.Option("--update", help="Bring the project in this folder to this release; your changes stay.")
    ] = False,
) -> None:
    """Look at files, and write a project around them that runs at once: contract, question, features, splits, tests."""
    if update:
        given = {"NAME": name, "--data": data, "--label": label, "--time": time, "--task": task}
        given |= {"--positive": positive, "--known-after": known_after, "--owner": owner}
        _update(folder or Path(), [option for option, value in given.items() if value])
        return
    if name is None:
        raise ConfigurationError("Name the use case: mlops-ray init churn --data customers.csv")
    expect_name(name)
    if data is None:
        _begin_empty(name, folder or Path(name), label, time, task, owner, positive or known_after)
        return
    from datetime import timedelta

    from mlops_ray.exploration.propose import propose
    from mlops_ray.scaffold.draft import Asked, draft, is_ambiguous, questions
    from mlops_ray.scaffold.project import expect_empty, write_project

    place, pattern = _where(data)
    project = folder or Path(name)
    expect_empty(project)
    typer.echo(f"Looking at {printable(pattern)} …")
    with ray_on_demand(load_settings(state=absolute("state"), data=place)) as start:
        proposal = propose(place, "rows", pattern, start)
    answers = {"time": time, "label": label}
    for question, columns in questions(proposal):
        answers[question] = answers[question] or _ask(question, columns, proposal)
    after = duration_of("--known-after", known_after) if known_after else timedelta()
    kind = task
    if kind is None and not positive and sys.stdin.isatty() and is_ambiguous(proposal, str(answers["label"])):
        are_names = typer.confirm(f"Are the numbers of {answers['label']} names (else they are amounts)?", default=True)
        kind = "multiclass" if are_names else "regression"
    asked = Asked(str(answers["label"]), str(answers["time"]), positive, after, owner, kind)
    drafted, written = write_project(project, draft(name, place, proposal, asked), place)
    _tell(drafted, project, written)


def _begin_empty(
    name: str,
    project: Path,
    label: str | None,
    time: str | None,
    task: Literal["binary", "multiclass", "regression"] | None,
    owner: str,
    more: str | None,
) -> None:
    from mlops_ray.scaffold.empty import EmptyUseCase
    from mlops_ray.scaffold.project import write_empty_project

    if more:
        raise ConfigurationError("--positive and --known-after are of files that can be looked at. Give --data, too.")
    place = str((project / "data").absolute())
    empty = EmptyUseCase(name, place, label or "outcome", time or "at", task or "binary", owner)
    written = write_empty_project(project, empty)
    (project / "data").mkdir()
    typer.echo(printable(f"Wrote {len(written)} files to {project}. Next:"))
    typer.echo(printable(f'  cd {project} && grep -n "FILL IN" use_cases/{name}.py'))


# Exit codes 1 and 2 are what every command ends with that could not do its work, or was called wrongly.
_CONFLICTS = 3


def _update(project: Path, given: list[str]) -> None:
    from mlops_ray.scaffold.update import update_project

    if given:
        raise ConfigurationError(f"--update goes by what the project was made of; leave {', '.join(given)} out.")
    before, now, found = update_project(project)
    for one in found:
        typer.echo(printable(f"{one.outcome:8}  {one.file}{f' ({one.why})' if one.why else ''}"))
    conflicts = [one.file for one in found if one.outcome == "conflict"]
    files = "no files" if not found else "1 file" if len(found) == 1 else f"{len(found)} files"
    typer.echo(printable(f"From mlops_ray {before} to {now}: {files} concerned."))
    if conflicts:
        typer.echo(printable(f"Both have changed the same lines of {', '.join(conflicts)}: look for <<<<<<< there."))
        raise typer.Exit(_CONFLICTS)


def _where(data: str) -> tuple[str, str]:
    """The folder or URL that files lie in, and which of them: all of a folder without a pattern is none of ours."""
    parent, _, pattern = data.rpartition("/")
    if "://" not in data and Path(data).is_dir():
        raise ConfigurationError(
            f"--data {data} is a folder. Say which of its files: --data '{data.rstrip('/')}/*.csv'."
        )
    while any(sign in parent for sign in _GLOB):
        parent, _, more = parent.rpartition("/")
        pattern = f"{more}/{pattern}"
    return absolute(parent or ("/" if data.startswith("/") else ".")), pattern


def _ask(question: str, columns: list[str], proposal: "Proposal") -> str:
    every = [column.name for column in proposal.source.columns]
    if not sys.stdin.isatty():
        some = f"Likely: {', '.join(columns[:8])}" if columns else f"Columns: {', '.join(every[:20])}"
        raise ConfigurationError(f"Say which column it is: --{question} COLUMN. {some}.")
    typer.echo(printable(f"Columns: {', '.join(every)}"))
    words = {"time": "Which column has the moment of each row", "label": "Which column is to be predicted"}
    return str(typer.prompt(words[question], default=columns[0] if columns else None))


def _tell(draft: "Draft", project: Path, written: list[str]) -> None:
    profile = draft.proposal.profile
    typer.echo(
        printable(
            f"{profile.rows:,} rows, {len(profile.columns)} columns, {draft.span[0]} to {draft.span[1]}; "
            f"{len(draft.features)} features"
        )
    )
    for name, why in draft.left_out.items():
        typer.echo(printable(f"  left out: {name} ({why})"))
    for note in (*draft.notes, *draft.proposal.notes):
        typer.echo(printable(f"  to check: {note}"))
    typer.echo(printable(f"Wrote {len(written)} files to {project}. Next:"))
    typer.echo(printable(f"  cd {project} && mlops-ray run {draft.name} --serve --stay"))
