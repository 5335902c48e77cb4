"""The `mlops-ray` command. It calls the same functions as a notebook does."""

import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mlops_ray import (
    cli_approvals,
    cli_governance,
    cli_monitoring,
    cli_notify,
    cli_registry,
    cli_retraining,
    cli_rollout,
)
from mlops_ray.cli_rollout import DEFAULT_URL, UrlOption, credential, key_from
from mlops_ray.code_version import code_version
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, DataError, MlopsRayError
from mlops_ray.ingestion.sources import find_files
from mlops_ray.local_ray import ray_for
from mlops_ray.serving.environment import expect_free_port, serve_environment
from mlops_ray.steps import STEPS, StepName
from mlops_ray.use_case import UseCase, load_use_case

# What Ray says that is for its developers: progress of Ray Data, usage statistics, and the end of Serve's controller,
# which it reports as a failed task.
_QUIET = {
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "ServeController.graceful_shutdown failed",
}

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(cli_governance.keys, name="keys")
app.add_typer(cli_governance.audit, name="audit")
app.add_typer(cli_rollout.rollout, name="rollout")
app.add_typer(cli_approvals.approvals, name="approvals")
app.add_typer(cli_approvals.versions, name="versions")
app.add_typer(cli_notify.notify, name="notify")
app.add_typer(cli_monitoring.alarms, name="alarms")
app.command()(cli_monitoring.drift)
app.command()(cli_monitoring.labels)
app.command()(cli_registry.lineage)
app.command()(cli_registry.live)
app.command()(cli_registry.card)
app.command()(cli_retraining.backtest)
app.command()(cli_retraining.replay)
app.command()(cli_retraining.rehearse)
app.command()(cli_retraining.retrain)

CaseOption = Annotated[str, typer.Argument(metavar="USE_CASE", help="A use case's file, or a name in use_cases/.")]
StateOption = Annotated[str, typer.Option(help="Folder of all state.")]
DataOption = Annotated[str, typer.Option(help="Folder or URL of the raw files.")]
ConfigOption = Annotated[str | None, typer.Option(help="Settings file (YAML) of this environment.")]
RepoOption = Annotated[str | None, typer.Option(help="Folder of the Feast definitions. [default: beside use_cases/]")]
MomentOption = Annotated[
    str | None, typer.Option(help="Nothing known later enters: an RFC 3339 moment. [default: the data's latest]")
]
PortOption = Annotated[int | None, typer.Option(help="HTTP port. [default: 8000]")]


@app.command()
def run(
    use_case: CaseOption,
    state: StateOption = "state",
    data: DataOption = "data",
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
    as_of: MomentOption = None,
    until: Annotated[StepName, typer.Option(help="The last step to run.")] = "materialize",
    serve: Annotated[bool, typer.Option(help="Then serve the model and ask it for a prediction.")] = False,
    stay: Annotated[bool, typer.Option(help="With --serve: keep serving until Ctrl-C.")] = False,
    port: PortOption = None,
) -> None:
    """Run the pipeline; steps whose inputs have not changed are reused."""
    settings = _settings(state, data, config, port)
    moment = _moment(as_of)
    case = load_use_case(use_case)
    for name, source in case.sources.items():
        find_files(settings.data, name, source)
    if serve:
        expect_free_port(settings.http_host, settings.http_port)
    with ray_for(settings):
        from mlops_ray.pipeline import Pipeline
        from mlops_ray.progress import TerminalProgress
        from mlops_ray.summary import print_summary, summarize, write_summary

        console = Console()
        repo = Path(feature_repo).absolute() if feature_repo else _repo_beside(use_case)
        pipeline = Pipeline(case, settings, repo, moment, TerminalProgress(console))
        done = pipeline.run(until)
        if until != STEPS[-1]:
            return
        started, prediction = time.monotonic(), None
        if serve:
            console.print("serve …", highlight=False)
            prediction = _serve_and_ask(
                case, settings, str(done["ingest"].result["digest"]), done["materialize"].result["as_of"]
            )
        summary = summarize(done, prediction, time.monotonic() - started)
        print_summary(summary, console)
        path = write_summary(summary, settings)
        console.print(_further(case, settings, path, prediction), highlight=False, markup=False, soft_wrap=True)
        if serve and stay:
            console.print("Serving until Ctrl-C.")
            signal.pause()


def _step_command(step: StepName) -> None:
    """A command for one step: the pipeline up to it."""

    def command(
        use_case: CaseOption,
        state: StateOption = "state",
        data: DataOption = "data",
        config: ConfigOption = None,
        feature_repo: RepoOption = None,
        as_of: MomentOption = None,
    ) -> None:
        run(use_case, state, data, config, feature_repo, as_of, until=step)

    app.command(step.replace("_", "-"), help=f"Run the pipeline up to the step {step}.")(command)


for _step in STEPS:
    _step_command(_step)


@app.command()
def serve(
    use_case: CaseOption,
    state: StateOption = "state",
    data: DataOption = "data",
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
    port: PortOption = None,
) -> None:
    """Serve the champion, and govern its retraining where the use case declares one, until Ctrl-C.

    On an existing cluster, deploy it there and return.
    """
    settings, case = _settings(state, data, config, port), load_use_case(use_case)
    with ray_for(settings) as own:
        serve_use_case = _serving()
        typer.echo(f"{serve_use_case(settings, case.name)}/predict answers.")
        if case.retraining is not None:
            from mlops_ray.retraining.governor_actor import start_governor

            repo = Path(feature_repo).absolute() if feature_repo else _repo_beside(use_case)
            start_governor(case, settings, repo, use_case, config=config and _absolute(config))
            typer.echo("The governor decides on retraining: `mlops-ray audit show` tells what, and why.")
        if key := credential(settings):
            typer.echo(_key_line(settings, key))
        if own:
            typer.echo("Serving until Ctrl-C.")
            signal.pause()


@app.command()
def score(
    use_case: CaseOption,
    input: Annotated[str, typer.Option(help="Rows to score: Parquet or CSV, a file, folder or URL.")],
    output: Annotated[str, typer.Option(help="Folder or URL for predictions and quarantine.")],
    state: StateOption = "state",
    data: DataOption = "data",
    config: ConfigOption = None,
    version: Annotated[int | None, typer.Option(help="The model's version. [default: the champion]")] = None,
) -> None:
    """Score many rows, with features as they were known at the time of each."""
    settings = _settings(state, data, config, None)
    name = load_use_case(use_case).name
    with ray_for(settings):
        from mlops_ray.scoring import read_rows
        from mlops_ray.scoring import score as score_rows

        scores = score_rows(read_rows(_absolute(input)), name, _absolute(output), settings, version)
    typer.echo(json.dumps(asdict(scores), indent=2))


@app.command()
def reproduce(
    version: cli_registry.VersionArgument,
    use_case: Annotated[str | None, typer.Option(help="The use case's file. [default: use_cases/<name>.py]")] = None,
    state: StateOption = "state",
    data: DataOption = "data",
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
    work: Annotated[Path | None, typer.Option(help="Empty folder to work in. [default: a temporary one]")] = None,
    any_code: Annotated[bool, typer.Option(help="Go on although the code is another.")] = False,
    tolerance: Annotated[float, typer.Option(min=0, help="For metrics, where digits cannot be equal.")] = 0.005,
) -> None:
    """Run a version's recorded pipeline again from the raw files, and compare: exit code 1 if anything differs."""
    record = cli_registry.recorded(version, state if config is None else None, config)
    case = load_use_case(use_case or record.use_case)
    repo = Path(feature_repo).absolute() if feature_repo else _repo_beside(use_case or record.use_case)
    if work is not None and work.exists() and any(work.iterdir()):
        raise ConfigurationError(f"{work} is not empty: what lies there would be used again. Give an empty folder.")
    with tempfile.TemporaryDirectory() as temporary:
        settings = load_settings(state=str((work or Path(temporary)).absolute()), data=_absolute(data))
        from mlops_ray.reproduction import compare_inputs
        from mlops_ray.reproduction import reproduce as run_again

        difference = compare_inputs(case, settings, repo, record, any_code)
        if difference is not None:
            cli_registry.refuse(version, difference)
        with ray_for(settings):
            from mlops_ray.progress import TerminalProgress

            progress = TerminalProgress(Console(stderr=True))
            found = run_again(case, settings, repo, record, any_code, tolerance, progress)
        cli_registry.report(version, found)


@app.command()
def predict(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    keys: Annotated[str, typer.Argument(help="Entity keys and event time as JSON: an object, or a list of them.")],
    as_of: Annotated[str | None, typer.Option(help="The request's moment. [default: now]")] = None,
    url: UrlOption = DEFAULT_URL,
    state: StateOption = "state",
) -> None:
    """Ask a served model for a prediction, with the key in MLOPS_RAY_API_KEY or the development key in `state`."""
    from mlops_ray.client import Client

    try:
        rows = json.loads(keys)
    except ValueError as error:
        raise DataError(f"The keys are not JSON: {error}.") from None
    with Client(url, api_key=key_from(state)) as client:
        answer = client.predict(name, keys=rows, as_of=_moment(as_of))
    typer.echo(json.dumps(asdict(answer), default=str, indent=2))


@app.command("runtime-env")
def runtime_env() -> None:
    """Print the runtime environment for `ray job submit`: it carries the commit, which the upload lacks."""
    typer.echo(
        json.dumps({"env_vars": code_version().to_environment(), "excludes": [".git", ".venv*", "state", "data"]})
    )


@app.command("serve-env")
def serve_env() -> None:
    """Print the variables that a node of a cluster needs before `ray start`, as shell exports."""
    for name, value in serve_environment().items():
        typer.echo(f"export {name}={value}")


def main() -> None:
    """Run the command. Errors that a user can act on are one sentence on standard error and exit code 1."""
    os.environ |= _QUIET | os.environ  # before anything imports Ray, which reads them once
    try:
        app(standalone_mode=True)
    except MlopsRayError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="mlops-ray-", suffix=".traceback", delete=False) as report:
            traceback.print_exc(file=report)
        text = f"{type(error).__name__}: {str(error).splitlines()[-1] if str(error) else ''}"
        typer.secho(
            f"internal error: {text}\nThis is our fault; please report it with {report.name}.", fg="red", err=True
        )
        sys.exit(70)


def _settings(state: str, data: str, config: str | None, port: int | None) -> Settings:
    return load_settings(config, state=_absolute(state), data=_absolute(data), http_port=port)


def _absolute(path: str) -> str:
    """The path made absolute, except in a submitted job, whose folder is Ray's and vanishes; a URL as it is."""
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return path if "://" in path or in_job else str(Path(path).absolute())


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"--as-of {text!r} is not a moment. Example: 2014-01-01T05:00:00Z.") from None
    if moment.tzinfo is None:
        raise ConfigurationError(f"--as-of {text!r} has no time zone. Add Z for UTC.")
    return moment.astimezone(UTC)


def _repo_beside(use_case: str) -> Path:
    if use_case.endswith(".py"):
        return Path(use_case).absolute().parent.parent / "feature_repo"
    return Path("feature_repo").absolute()


def _serve_and_ask(case: UseCase, settings: Settings, snapshot: str, as_of: str) -> dict[str, Any]:
    """Serve the champion, and ask it about the latest thing in the data as of the moment of materialization."""
    from mlops_ray.artifacts import Artifacts
    from mlops_ray.client import Client
    from mlops_ray.ingestion.snapshot import load_snapshot

    _serving()(settings, case.name)
    artifacts = Artifacts(settings.artifacts)
    rows = load_snapshot(artifacts, case.name, snapshot).tables(artifacts)[case.main_source]
    latest = rows.drop_nulls(case.request_columns()).sort(case.event_time).tail(1).select(case.request_columns())
    keys = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in latest.to_dicts()[0].items()
    }
    with Client(f"http://{settings.http_host}:{settings.http_port}", api_key=credential(settings)) as client:
        answer = client.predict(case.name, keys=keys, as_of=datetime.fromisoformat(as_of))
    return {"request": {"keys": keys, "as_of": as_of}, "answer": json.loads(json.dumps(asdict(answer), default=str))}


def _serving() -> Callable[[Settings, str], str]:
    """The function that serves; Serve's own messages about starting are left out."""
    from mlops_ray.serving.local import serve_use_case

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return serve_use_case


def _key_line(settings: Settings, key: str) -> str:
    return f"Key:      {key} (this machine's development key, kept in {settings.state}/development_key)"


def _further(case: UseCase, settings: Settings, summary: Path, prediction: dict[str, Any] | None) -> str:
    lines = ["", f"Summary:  {summary}", f"MLflow:   mlflow ui --backend-store-uri {settings.mlflow_uri}"]
    if prediction:
        url = f"http://{settings.http_host}:{settings.http_port}/v2/models/{case.name}/predict"
        body, key = json.dumps(prediction["request"]), credential(settings)
        lines += [f"Endpoint: {url} (while served: mlops-ray serve {case.name})"]
        lines += [_key_line(settings, key)] if key else []
        lines += [
            f"Ask it:   curl -s {url} -H 'authorization: Bearer {key or '…'}' "
            f"-H 'content-type: application/json' -d '{body}'"
        ]
    return "\n".join(lines)
