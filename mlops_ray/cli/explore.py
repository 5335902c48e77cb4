"""The commands `mlops-ray explore`: data understood before it is used."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    DataOption,
    StateOption,
    moment_of,
)
from mlops_ray.config import Settings, settings_of
from mlops_ray.errors import ConfigurationError
from mlops_ray.operations.local_ray import ray_on_demand
from mlops_ray.show.text import printable
from mlops_ray.use_case import load_use_case

if TYPE_CHECKING:
    from mlops_ray.exploration.compare import Comparison
    from mlops_ray.exploration.explore import Exploration, StartRay
    from mlops_ray.exploration.profile import Profile
    from mlops_ray.exploration.rank import Ranking

explore = typer.Typer(no_args_is_help=True, help="Exploration: data understood before it is used.")

PageOption = Annotated[Path | None, typer.Option(help="Write one HTML page with charts, which needs no network.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write all that was found as JSON.")]


@explore.command()
def profile(
    what: Annotated[
        str, typer.Argument(metavar="USE_CASE|PATTERN", help="A use case; or files below --data, such as 'x_*.csv'.")
    ],
    source: Annotated[str | None, typer.Option(help="Which source of the use case. [default: the first]")] = None,
    snapshot: Annotated[
        str | None, typer.Option(help="Accepted rows, not the raw files: a snapshot's digest, or 'latest'.")
    ] = None,
    training_set: Annotated[
        str | None, typer.Option(help="A training set's digest, or 'latest' if there is one.")
    ] = None,
    part: Annotated[str | None, typer.Option(help="Of the training set: train, validation or test.")] = None,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    page: PageOption = None,
    json_: JsonOption = None,
) -> None:
    """Profile data: types, nulls, ranges, values, time with its gaps; and what to look at first."""
    from mlops_ray.sdk.explore import explored

    if part not in (None, "train", "validation", "test"):
        raise ConfigurationError(f"--part is {part!r}. Give train, validation or test.")
    settings = settings_of(state, config, data)
    with ray_on_demand(settings) as start:
        found = explored(what, settings, source, snapshot, training_set, part, start)  # type: ignore[arg-type]
    _write(found, page, json_)
    _tell(found)


@explore.command()
def compare(
    reference: Annotated[str, typer.Argument(help="Files below --data, or JSON that `explore profile` has written.")],
    current: Annotated[str, typer.Argument(help="The same of what is held beside it.")],
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    page: PageOption = None,
    json_: JsonOption = None,
) -> None:
    """Hold two data sets side by side: schema, volume, and how far each column has moved."""
    from mlops_ray.exploration.compare import compare as beside

    settings = settings_of(state, config, data)
    with ray_on_demand(settings) as start:
        found = beside(_profile(reference, settings, start), _profile(current, settings, start))
    _write(found, page, json_)
    for sentence in found.sentences() or ["Nothing that matters has changed."]:
        typer.echo(printable(sentence))


@explore.command()
def rank(
    use_case: CaseArgument,
    candidate: Annotated[
        list[str], typer.Option(metavar="NAME=PATTERN", help="A data set, by its files below --data.")
    ],
    reference: Annotated[str | None, typer.Option(help="Files that they should be like, which judge a model.")] = None,
    as_of: Annotated[str | None, typer.Option(help="The moment that ages count to. [default: the newest]")] = None,
    model: Annotated[
        bool, typer.Option("--model", help="Let a quick model decide, and tell each one's worth.")
    ] = False,
    choose: Annotated[list[str] | None, typer.Option(help="Record that this one was chosen; with --reason.")] = None,
    reason: Annotated[str, typer.Option(help="Why; goes into the lineage of what is trained on it.")] = "",
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    page: PageOption = None,
    json_: JsonOption = None,
) -> None:
    """Rank data sets by how they fit a use case, and say why; with --model also which to leave out."""
    from mlops_ray.artifacts import Artifacts
    from mlops_ray.exploration.rank import choose as record
    from mlops_ray.exploration.rank import rank as ranked

    settings, case = settings_of(state, config, data), load_use_case(use_case)
    moment = moment_of("--as-of", as_of) if as_of else None
    with ray_on_demand(settings) as start:
        found = ranked(case, settings, _named(candidate), reference, moment, model, start)
    _write(found, page, json_)
    for sentence in found.sentences():
        typer.echo(printable(sentence))
    if choose:
        digest = record(Artifacts(settings.artifacts), found, choose, reason)
        typer.echo(f"Recorded as {digest[:12]}: a version trained on exactly these files names it in its lineage.")


@explore.command()
def propose(
    pattern: Annotated[list[str], typer.Argument(metavar="NAME=PATTERN", help="Name of a source, and its files.")],
    output: Annotated[Path | None, typer.Option(help="Write a Python file. [default: print it]")] = None,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Write a first declaration of sources from their files, ready to run, with what was seen of each column."""
    from mlops_ray.exploration.propose import code_of
    from mlops_ray.exploration.propose import propose as proposed

    settings = settings_of(state, config, data)
    with ray_on_demand(settings) as start:
        code = code_of([proposed(settings.data, name, path, start) for name, path in _named(pattern).items()])
    if output is None:
        typer.echo(code, nl=False)
    else:
        output.write_text(code)


def _profile(what: str, settings: Settings, start: "StartRay") -> "Profile":
    from mlops_ray.exploration.explore import explore_files
    from mlops_ray.exploration.profile import Profile

    if not what.endswith(".json"):
        return explore_files(settings.data, what, start).profile
    try:
        found = json.loads(Path(what).read_text())
        return Profile.from_json(found.get("profile", found))
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{what} is no profile: {error}. Write one with explore profile --json.") from None


def _named(given: list[str]) -> dict[str, str]:
    """Patterns by name, of `NAME=PATTERN`."""
    if wrong := [one for one in given if not all(one.partition("=")[::2])]:
        raise ConfigurationError(f"{wrong[0]!r} is not NAME=PATTERN, such as january=flights_2013-01.csv.")
    return {name: pattern for name, _, pattern in (one.partition("=") for one in given)}


def _write(found: "Exploration | Comparison | Ranking", page: Path | None, json_: Path | None) -> None:
    if page is not None:
        page.write_text(found.page())
    if json_ is not None:
        json_.write_text(json.dumps(found.to_json(), indent=2, default=str) + "\n")


def _tell(found: "Exploration") -> None:
    from mlops_ray.exploration.lines import exploration_lines

    for sentence in found.profile.unreadable.values():
        typer.secho(printable(sentence), fg="yellow", err=True)
    for line in exploration_lines(found):
        typer.echo(line)
