"""The command `mlops-ray run`: the pipeline, and if wanted the endpoint behind it."""

import json
import signal
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mlops_ray.cli.local_ray import ray_for
from mlops_ray.cli.options import (
    CaseArgument,
    ConfigOption,
    DataOption,
    PortOption,
    RepoOption,
    StateOption,
    definitions_folder,
    moment_of,
    settings_of,
)
from mlops_ray.cli.rollout import credential
from mlops_ray.cli.serve import key_line, quiet_serving
from mlops_ray.config import Settings
from mlops_ray.ingestion.sources import find_files
from mlops_ray.pipeline.steps import STEPS, StepName
from mlops_ray.use_case import UseCase, load_use_case

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
    serve: Annotated[bool, typer.Option(help="Then serve the model and ask it for a prediction.")] = False,
    stay: Annotated[bool, typer.Option(help="With --serve: keep serving until Ctrl-C.")] = False,
    port: PortOption = None,
) -> None:
    """Run the pipeline; steps whose inputs have not changed are reused."""
    settings = settings_of(state, config, data, port)
    moment = moment_of("--as-of", as_of) if as_of else None
    case = load_use_case(use_case)
    for name, source in case.sources.items():
        find_files(settings.data, name, source)
    with ray_for(settings, serve):
        from mlops_ray.cli.progress import TerminalProgress
        from mlops_ray.cli.summary import print_summary, summarize, write_summary
        from mlops_ray.pipeline.pipeline import Pipeline

        console = Console()
        repo = definitions_folder(use_case, feature_repo)
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


def _serve_and_ask(case: UseCase, settings: Settings, snapshot: str, as_of: str) -> dict[str, Any]:
    """Serve the champion, and ask it what a caller could ask at the moment of materialization: about the latest thing
    in the data, if it were due as soon as a prediction can be about."""
    from mlops_ray.artifacts import Artifacts
    from mlops_ray.client import Client
    from mlops_ray.ingestion.snapshot import load_snapshot

    quiet_serving()(settings, case.name)
    artifacts = Artifacts(settings.artifacts)
    rows = load_snapshot(artifacts, case.name, snapshot).tables(artifacts)[case.main_source]
    latest = rows.drop_nulls(case.request_columns()).sort(case.event_time).tail(1).select(case.request_columns())
    keys = {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in latest.to_dicts()[0].items()
    }
    keys[case.event_time] = (datetime.fromisoformat(as_of) + case.lead_time).isoformat()
    with Client(f"http://{settings.http_host}:{settings.http_port}", api_key=credential(settings)) as client:
        answer = client.predict(case.name, keys=keys, as_of=datetime.fromisoformat(as_of))
    return {"request": {"keys": keys, "as_of": as_of}, "answer": json.loads(json.dumps(asdict(answer), default=str))}


def _further(case: UseCase, settings: Settings, summary: Path, prediction: dict[str, Any] | None) -> str:
    lines = ["", f"Summary:  {summary}", f"MLflow:   mlflow ui --backend-store-uri {settings.mlflow_uri}"]
    if prediction:
        url = f"http://{settings.http_host}:{settings.http_port}/v2/models/{case.name}/predict"
        body, key = json.dumps(prediction["request"]), credential(settings)
        lines += [f"Endpoint: {url} (while served: mlops-ray serve {case.name})"]
        lines += [key_line(settings, key)] if key else []
        lines += [
            f"Ask it:   curl -s {url} -H 'authorization: Bearer {key or '…'}' "
            f"-H 'content-type: application/json' -d '{body}'"
        ]
    return "\n".join(lines)
