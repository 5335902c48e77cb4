"""Formats: state beside the control store that has versions of its own, and what another version means for it.

Not among it is what carries no version because another one never reads it: what the pipeline keeps is named by a digest
of the code that made it, and the ledger's segments name their columns.
"""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import DataError, MlopsRayError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.schema import newest_of
from mlops_ray.monitoring.watch_state import read_state
from mlops_ray.state_folder import sqlite_path


def of_mlflow(settings: Settings) -> Iterator[tuple[str, str]]:
    """MLflow's database, where it is used without a server: each release of MLflow knows one schema."""
    uri = settings.mlflow_uri
    if uri.startswith(("http://", "https://")):
        yield "MLflow", "It is a server, whose operator upgrades it."
        return
    if not uri.startswith(("sqlite:", "postgresql:")) or (uri.startswith("sqlite:") and not sqlite_path(uri).exists()):
        return
    store = ControlStore(uri)
    try:
        found, needed = store.schema().revision, newest_of(_mlflow_migrations())
    except MlopsRayError as error:
        yield "MLflow", str(error)
        return
    finally:
        store.close()
    if found == needed:
        yield "MLflow", f"Its database has the schema that the MLflow installed here needs ({needed})."
    else:
        yield (
            "MLflow",
            f"Its database has schema {found}, and the MLflow installed here needs {needed}. Unless {found} is the "
            f"newer one, back it up and run `mlflow db upgrade {store}`; nothing trains or registers until then.",
        )


def of_drift_watches(settings: Settings, use_cases: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What the drift actors know."""
    artifacts = Artifacts(settings.artifacts)
    for use_case in use_cases:
        try:
            read_state(artifacts, use_case)
        except DataError as error:
            yield (
                "monitoring",
                f"{error} Until its state is deleted (monitoring/{use_case}/state below the artifacts), {use_case} is "
                f"not watched; then its windows begin anew.",
            )
        except OSError as error:
            yield "monitoring", f"What is known of {use_case} cannot be read: {error}"


def _mlflow_migrations() -> Path:
    spec = find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "store" / "db_migrations"
