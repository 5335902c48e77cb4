"""Two endpoints on the stores of two settings files, until Ctrl-C: python dependencies_example.py REFUSE MISSING.

The model `refuse` refuses while its online store is down, `missing` answers without it. Version 1 of each is champion,
version 2 is registered; both lie with MLflow alone.
"""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import MlopsRayError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.transform import FeatureRows
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.events import SYSTEM
from mlops_ray.governance.live import VersionRef
from mlops_ray.operations.local_ray import ray_for, stay_while_ray_lives
from mlops_ray.registry.sealed_model import seal
from mlops_ray.testing.example_lineage import example_lineage
from mlops_ray.testing.example_model import example_answer, example_onnx, example_requests, example_rows, example_schema
from mlops_ray.use_case.serving import Serving

Mode = Literal["refuse", "missing"]
MODELS: tuple[Mode, ...] = ("refuse", "missing")
DELAYS = {
    (origin, carrier): 7.0 * number - 10
    for number, (origin, carrier) in enumerate((o, c) for o in ("EWR", "JFK", "LGA") for c in ("AA", "UA"))
}


def materialized(settings: Settings, folder: Path) -> str:
    """Delays of an hour ago are in the online store; returns the Feast project."""
    from mlops_ray.features.definitions import project_of, read_definitions
    from mlops_ray.features.online.materialize import materialize
    from tests.integration.test_endpoint_without_store import DEFINITIONS

    now = datetime.now(UTC).replace(microsecond=0)
    (folder / "views.py").write_text(DEFINITIONS)
    definitions = read_definitions(folder, "departures")
    assert definitions is not None
    frame = pl.DataFrame(
        {
            "origin": [origin for origin, _ in DELAYS],
            "carrier": [carrier for _, carrier in DELAYS],
            PREDICTION_TIME: [now - timedelta(hours=1)] * len(DELAYS),
            "recent_delay": list(DELAYS.values()),
        },
        schema_overrides={PREDICTION_TIME: pl.Datetime("us", "UTC")},
    )
    url = Artifacts(settings.artifacts).write_table(frame, f"{folder.name}.parquet")
    rows = [FeatureRows("delays", url, "0", frame.height, "")]
    materialize(settings, definitions, rows, now)
    return project_of(definitions, rows)


def sealed(folder: Path, mode: Mode, project: str, salt: int) -> str:
    schema = replace(example_schema(), use_case=mode, feature_project=project, serving=Serving(store_down=mode))
    rows = example_rows()
    answers = [example_answer(row) for row in rows.to_dicts()]
    evaluation = {"roc_auc": 0.75, "salt": salt}
    return seal(folder, example_onnx(), schema, rows, answers, evaluation, golden_requests=example_requests())


def prepare(settings: Settings, mode: Mode) -> None:
    """Features online, two versions with MLflow, and the first of them live."""
    from mlops_ray.registry.models import register
    from mlops_ray.training.tracking import connect, experiment_id

    folder = Path(settings.state) / f"model_{mode}"
    folder.mkdir()
    project = materialized(settings, folder)
    client = connect(settings)
    run_id = client.create_run(experiment_id(client, settings, mode)).info.run_id
    for number in (1, 2):
        digest = sealed(folder / str(number), mode, project, number)
        lineage = example_lineage(mode, digest)
        made = register(settings, mode, folder / str(number), lineage, run_id, {}, f"key {number}")
        assert made.version == number
        if number == 1:
            set_champion(open_store(settings), SYSTEM, mode, VersionRef(1, digest), "the example")


def main(*files: str) -> None:
    settings = {mode: load_settings(file) for mode, file in zip(MODELS, files, strict=True)}
    for mode in MODELS:
        if not (Path(settings[mode].state) / f"model_{mode}").exists():
            prepare(settings[mode], mode)
    with ray_for(settings["refuse"], serving=True):
        from mlops_ray.serving import local
        from mlops_ray.serving.app import EndpointArgs, build_endpoint

        apps = {
            mode: build_endpoint(EndpointArgs(model=mode, settings=file, max_replicas=1))
            for mode, file in zip(MODELS, files, strict=True)
        }
        print(local.start(settings["refuse"], apps), flush=True)
        stay_while_ray_lives()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except MlopsRayError as error:
        sys.exit(f"error: {error}")
