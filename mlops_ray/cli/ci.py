"""The commands `mlops-ray ci`: what a change to a project does, for who reviews it; the same here and in CI."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlops_ray.cli.options import ConfigOption, DataOption
from mlops_ray.config import Settings, absolute, settings_of
from mlops_ray.errors import ConfigurationError
from mlops_ray.show.text import printable

if TYPE_CHECKING:
    from mlops_ray.review.report import Report, UseCaseReport

ci = typer.Typer(no_args_is_help=True, help="For continuous integration: a report on a change.")

_STANDS_IN_THE_WAY = 3  # as `check` ends with


@ci.command("report")
def report(
    use_cases: Annotated[
        list[str] | None, typer.Argument(metavar="[USE_CASE]...", help="Names in use_cases/. [default: all]")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="The revision to compare with, such as origin/main: it is run first, as live.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="File to write. [default: standard output]")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder to work in; what is live there is compared with. [default: a new one]")
    ] = None,
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Check, test and run the project on a sample of data, beside what is live, and write it down as Markdown.

    It works in a folder of its own: no store that the settings name is written to. Exit code 3 if something stands in
    the way: a standard, a test, the pipeline, or a gate that keeps a version from going live.
    """
    from mlops_ray.review.markdown import markdown

    place = settings_of(None, config, data).data
    with ExitStack() as stack:
        folder = Path(absolute(str(work))) if work else Path(stack.enter_context(tempfile.TemporaryDirectory()), "ci")
        found = _made(Path.cwd(), list(use_cases or ()), base, Settings(state=str(folder), data=place), stack)
    written = markdown(found)
    if output is None:
        typer.echo(written)
    else:
        try:
            output.write_text(written)
        except OSError as error:
            raise ConfigurationError(f"File {output} cannot be written: {error.strerror}.") from error
        typer.echo(printable(f"Written: {output}"))
    if not found.ok:
        raise typer.Exit(_STANDS_IN_THE_WAY)


def _made(project: Path, names: list[str], base: str | None, settings: Settings, stack: ExitStack) -> "Report":
    from mlops_ray.review.report import Report
    from mlops_ray.review.runs import checked_out, run_tests
    from mlops_ray.standards.check import LOADS, check
    from mlops_ray.standards.standards import read_standards

    files = [project / "use_cases" / f"{name}.py" for name in names]
    if missing := [name for name, file in zip(names, files, strict=True) if not file.is_file()]:
        raise ConfigurationError(f"There is no use_cases/{missing[0]}.py in {project}.")
    checked = check(project, read_standards(project / "standards.yaml"), files or _all(project))
    if files and checked.without:
        raise ConfigurationError(f"{checked.without[0]} declares no use case. Name one that does.")
    if not checked.levels and not any(one.rule == LOADS for one in checked.findings):
        raise ConfigurationError(f"There is no use case in {project / 'use_cases'}. Go to the project's folder.")
    before = stack.enter_context(checked_out(project, base)) if base else None
    tests = run_tests(project)
    if "://" not in settings.data and not Path(settings.data).exists():
        return Report(checked, tests, (), f"there is no data at {settings.data}. Set MLOPS_RAY_DATA, or give --data.")
    loads = [file for file in files or _all(project) if file not in checked.without]
    found = tuple(_use_case(project, file, before, settings) for file in loads)
    return Report(checked, tests, found, "")


def _all(project: Path) -> list[Path]:
    return sorted((project / "use_cases").glob("*.py"))


def _use_case(project: Path, file: Path, before: Path | None, settings: Settings) -> "UseCaseReport":
    from mlops_ray.review.report import UseCaseReport, beside_live
    from mlops_ray.review.runs import run_pipeline
    from mlops_ray.use_case import load_use_case

    name, state, base = file.stem, Path(settings.state), None
    if before is not None and (before / "use_cases" / file.name).is_file():
        typer.echo(printable(f"Running {name} as it was …"), err=True)
        base = run_pipeline(before, name, state, settings.data)[1]
    typer.echo(printable(f"Running {name} as it is …"), err=True)
    ran, summary = run_pipeline(project, name, state, settings.data)
    beside = beside_live(load_use_case(str(file)), settings, int(summary["version"])) if summary else None
    return UseCaseReport(name, ran, summary, beside, base)
