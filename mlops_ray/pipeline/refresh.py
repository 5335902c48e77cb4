"""Refresh: new data into the online store, for every version that serves, without touching a model or a version."""

import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Thread
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.cost.meter import Meter
from mlops_ray.errors import UseCaseError
from mlops_ray.features.definitions import Definitions, load_definitions, project_of
from mlops_ray.features.transform import FeatureRows
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.live import live
from mlops_ray.governance.versions import VersionRef
from mlops_ray.pipeline.pipeline import Pipeline
from mlops_ray.pipeline.steps.step import Notify
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.sealed_model import verified_files
from mlops_ray.use_case import UseCase

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionFeatures:
    """What became of the features of one version. project: in which it reads them; None if it reads none.

    why_not: the sentence that says why its values were left as they are; None if they are as of the refresh.
    """

    version: int
    project: str | None
    why_not: str | None = None


@dataclass(frozen=True)
class Refreshed:
    """as_of: up to when what is known is online. project: that of the current definitions and code, with the number of
    keys of each view. versions: the champion, the one before it, and the one that a rollout brings in."""

    use_case: str
    as_of: str
    project: str | None
    keys: dict[str, int]
    versions: tuple[VersionFeatures, ...]


def refresh(
    use_case: UseCase,
    settings: Settings,
    feature_repo: Path,
    as_of: datetime | None = None,
    notify: Notify = lambda event: None,
    start_ray: Callable[[], Any] = lambda: None,
    meter: Meter | None = None,
) -> Refreshed:
    """Ingest, compute feature rows, and bring them online for the current definitions and for each version that serves.

    A version keeps the definitions that it was trained with. Its rows are computed by the use case's code of today, so
    they are only written where that is the code it was trained with; where it is not, `why_not` says so. start_ray:
    called where there is more to do than fits one task; afterwards Ray must be initialised. meter: measures it, see
    `Pipeline`. Errors are those of the steps.
    """
    Thread(target=_import_feast).start()  # takes seconds; meanwhile data is read
    pipeline = Pipeline(use_case, settings, feature_repo, as_of, notify, start_ray=start_ray, meter=meter)
    done = pipeline.refresh()
    rows = [FeatureRows.from_json(view) for view in done["features"].result["views"]]
    moment, definitions = str(done["materialize"].result["as_of"]), pipeline.definitions()
    current = project_of(definitions, rows) if definitions else None
    state = live(open_store(settings), use_case.name)
    serving = [state.champion, state.previous, state.rollout and state.rollout.version]
    versions = tuple(
        _refresh_version(pipeline, ref, current, rows, datetime.fromisoformat(moment))
        for ref in dict.fromkeys(ref for ref in serving if ref)
    )
    for version in versions:
        if version.why_not:
            _logger.warning("%s@%d: %s", use_case.name, version.version, version.why_not)
    return Refreshed(use_case.name, moment, current, dict(done["materialize"].result["keys"]), versions)


def _import_feast() -> None:
    import mlops_ray.features.store  # noqa: F401


def _refresh_version(
    pipeline: Pipeline, ref: VersionRef, current: str | None, rows: Sequence[FeatureRows], as_of: datetime
) -> VersionFeatures:
    project = feature_project(pipeline.settings, pipeline.use_case.name, ref)
    if project is None or project == current:
        return VersionFeatures(ref.version, project)
    definitions = load_definitions(Artifacts(pipeline.settings.artifacts), project)
    why_not = _why_not(definitions, project, rows)
    if why_not is None:
        assert definitions is not None
        try:
            pipeline.bring_online(definitions, rows, as_of)
        except UseCaseError as error:
            why_not = str(error)
    return VersionFeatures(ref.version, project, why_not)


def _why_not(definitions: Definitions | None, project: str, rows: Sequence[FeatureRows]) -> str | None:
    """Why rows of today do not fit a version's project; None if they do."""
    if definitions is None:
        return f"the definitions of its feature project {project} are not below the artifact root; its values stay."
    known = {found.view for found in rows}
    if gone := [view.name for view in definitions.views if view.name not in known]:
        return f"it reads the feature view {gone[0]}, which the use case no longer computes; its values stay."
    if project_of(definitions, rows) != project:
        return (
            "the code of its feature views has changed since it was trained, so that today's rows are not what it "
            "knows; its values stay. Refresh from the commit in its lineage, or bring in a version of today."
        )
    return None


def feature_project(settings: Settings, use_case: str, ref: VersionRef) -> str | None:
    """The Feast project in which a version reads its features; None if it reads none."""
    with tempfile.TemporaryDirectory(prefix="mlops-ray-model-") as folder:
        sealed = download_sealed(settings, use_case, ref, Path(folder))
        files = verified_files(sealed, ref.digest, ["schema.json"])
    schema: dict[str, Any] = json.loads(files["schema.json"])
    return schema.get("feature_project")
