"""The command `mlops-ray run`: the pipeline, and if wanted the endpoint behind it."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mlops_ray.cli.cost import outlook
from mlops_ray.cli.early_start import EarlyStart
from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    DataOption,
    PortOption,
    RepoOption,
    StateOption,
    moment_of,
)
from mlops_ray.cli.serve import console_line, key_line, quiet_serving
from mlops_ray.client import API_KEY_VARIABLE
from mlops_ray.config import Settings, settings_of
from mlops_ray.cost.meter import metered
from mlops_ray.errors import ConfigurationError
from mlops_ray.extras import expect_extra
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.development_keys import credential
from mlops_ray.governance.live import live
from mlops_ray.governance.versions import VersionRef
from mlops_ray.ingestion.sources import find_all_files
from mlops_ray.operations.local_ray import stay_while_ray_lives
from mlops_ray.operations.preconditions import expect_can_train, expect_can_work
from mlops_ray.pipeline.plan import Again
from mlops_ray.pipeline.steps.step import STEPS, StepFinished, StepName
from mlops_ray.use_case import UseCase, load_use_case
from mlops_ray.use_case.loading import case_folder, definitions_folder

if TYPE_CHECKING:
    from mlops_ray.pipeline.plan import StepPlan

MomentOption = Annotated[
    str | None, typer.Option(help="Nothing known later enters: an RFC 3339 moment. [default: the data's latest]")
]


def run(
    use_case: CaseArgument,
    state: StateOption = None,
    data: DataOption = None,
    config: ConfigOption = None,
    feature_repo: RepoOption = None,
    as_of: MomentOption = None,
    until: Annotated[StepName, typer.Option(help="The last step to run.")] = "materialize",
    start: Annotated[
        StepName | None,
        typer.Option("--from", help="Run this step and all after it, reused or not; those before must be unchanged."),
    ] = None,
    force: Annotated[
        list[str] | None,
        typer.Option(metavar="STEP", help="Run this step although nothing has changed. Can be given more than once."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run trials that failed again.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Run nothing: say for each step whether it would run, and why.")
    ] = False,
    serve: Annotated[bool, typer.Option(help="Then serve the model and ask it for a prediction.")] = False,
    stay: Annotated[bool, typer.Option(help="With --serve: keep serving until Ctrl-C.")] = False,
    port: PortOption = None,
) -> None:
    """Run the pipeline; steps whose inputs and code have not changed are reused (docs/pipeline.md)."""
    expect_extra("train", "The pipeline")
    settings = settings_of(state, config, data, port)
    moment = moment_of("--as-of", as_of) if as_of else None
    case = load_use_case(use_case)
    if not explain:
        expect_can_train(case)
        expect_can_work(settings)
    files = find_all_files(settings, case.sources, remember=not explain)
    again = Again(start, _steps(force or ()), retry_failed)
    console = Console()
    given = case, settings, definitions_folder(use_case, feature_repo), moment
    if explain:
        from mlops_ray.pipeline.pipeline import Pipeline

        lines = explained(Pipeline(*given, folder=case_folder(use_case), files=files).explain(until, again))
        console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
        return
    from mlops_ray.pipeline.promises import declare_promises

    declare_promises(settings, case)
    with metered(settings, case.name, may_end_process=True) as meter, EarlyStart(settings, serve) as early:
        from mlops_ray.pipeline.pipeline import Pipeline
        from mlops_ray.pipeline.progress import TerminalProgress

        progress = TerminalProgress(console)
        places: dict[str, Any] = {"folder": case_folder(use_case), "files": files}
        pipeline = Pipeline(*given, progress, **places, start_ray=early.ray, meter=meter)
        console.print(outlook(settings, case.name, until), highlight=False, markup=False, soft_wrap=True)
        if serve and until == STEPS[-1] and pipeline.seems_unchanged(until, again) and _champion(settings, case):
            early.begin_serving(partial(_serve, settings, case))
        done = pipeline.run(until, again)
        meter.end()
        if until == STEPS[-1]:
            _conclude(case, settings, console, done, early if serve else None)
            if serve and stay:
                console.print("Serving until Ctrl-C.")
                stay_while_ray_lives()


def _champion(settings: Settings, case: UseCase) -> VersionRef | None:
    return live(open_store(settings), case.name).champion


def _serve(settings: Settings, case: UseCase) -> str:
    return quiet_serving()(settings, case.name)


def _conclude(
    case: UseCase,
    settings: Settings,
    console: Console,
    done: Mapping[StepName, StepFinished],
    early: EarlyStart | None,
) -> None:
    """Serve and ask if there is an early start, print the summary, and say where to look further.

    Raises ConfigurationError, after the summary, if there is no champion to serve: it says why.
    """
    from mlops_ray.pipeline.summary import print_summary, summarize, write_summary

    started, prediction = time.monotonic(), None
    champion = _champion(settings, case)
    if early and champion:
        console.print("serve …", highlight=False)
        early.serve(partial(_serve, settings, case))
        prediction = _ask(case, settings, str(done["ingest"].result["digest"]), done["materialize"].result["as_of"])
    summary = summarize(done, prediction, time.monotonic() - started)
    print_summary(summary, console)
    path = write_summary(summary, settings)
    console.print(_further(case, settings, path, prediction), highlight=False, markup=False, soft_wrap=True)
    if early and not champion:
        raise ConfigurationError(
            f"Nothing is served, as {case.name} has no champion yet; see above for what stands in its way."
        )


def _steps(names: Sequence[str]) -> tuple[StepName, ...]:
    if unknown := [name for name in names if name not in STEPS]:
        raise ConfigurationError(f"--force {ascii(unknown[0])[:60]} is no step. There are {', '.join(STEPS)}.")
    return tuple(step for step in STEPS if step in names)


def explained(plans: list["StepPlan"]) -> list[str]:
    """One line a step, and one below it for each thing that it depends on and that is another than it was."""
    lines = []
    for plan in plans:
        what = {"unchanged": "unchanged", "runs": "runs", "open": "may run"}[plan.outcome]
        listed = plan.outcome != "unchanged" and plan.changes and not plan.why.startswith("asked for")
        lines.append(f"{plan.step:13} {what}" + (f": {plan.why}" if plan.why and not listed else ""))
        lines += [f"{'':13}   {change}" for change in plan.changes] if listed else []
    return lines


def _ask(case: UseCase, settings: Settings, snapshot: str, as_of: str) -> dict[str, Any]:
    """Ask the champion what a caller could ask at the moment of materialization: about the latest thing in the data,
    if it were due as soon as a prediction can be about."""
    from mlops_ray.artifacts import Artifacts
    from mlops_ray.client import Client
    from mlops_ray.ingestion.snapshot import load_snapshot

    artifacts = Artifacts(settings.artifacts)
    rows = load_snapshot(artifacts, case.name, snapshot).tables(artifacts)[case.main_source]
    latest = rows.drop_nulls(case.request_columns()).sort(case.event_time).tail(1).select(case.request_columns())
    keys = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in latest.to_dicts()[0].items()
    }
    keys[case.event_time] = (datetime.fromisoformat(as_of) + case.lead_time).isoformat()
    with Client(settings.url, api_key=credential(settings)) as client:
        answer = client.predict(case.name, keys=keys, as_of=datetime.fromisoformat(as_of))
    return {"request": {"keys": keys, "as_of": as_of}, "answer": answer.to_json()}


def _further(case: UseCase, settings: Settings, summary: Path, prediction: dict[str, Any] | None) -> str:
    lines = ["", f"Summary:  {summary}", f"MLflow:   mlflow ui --backend-store-uri {settings.mlflow_uri}"]
    if prediction:
        url = f"{settings.url}/v2/models/{case.name}/predict"
        body, given = json.dumps(prediction["request"]), os.environ.get(API_KEY_VARIABLE)
        key = None if given else credential(settings)  # a real key stays out of terminals and of a job's log
        lines += [f"Endpoint: {url} (while served: mlops-ray serve {case.name})"]
        lines += [key_line(settings, key)] if key else []
        lines += [console_line(settings)]
        lines += [
            f'Ask it:   curl -s {url} -H "authorization: Bearer {key or f"${API_KEY_VARIABLE}"}" '
            f"-H 'content-type: application/json' -d '{body}'"
        ]
    return "\n".join(lines)
