"""One retraining: the pipeline with later data, its version beside the champion, both asked about the recent window."""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mlops_ray.admission import compare_with_champion
from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError
from mlops_ray.evaluation.comparison import Comparison
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import read_events
from mlops_ray.governance.live import live
from mlops_ray.governance.versions import VersionRef
from mlops_ray.pipeline import Notify, Pipeline, node_cpus
from mlops_ray.registry.lineage import FOLDER, Lineage
from mlops_ray.registry.sealed_model import load
from mlops_ray.retraining.policy import Outcome
from mlops_ray.use_case import Candidate, Choice, Classifier, Feature, Parameters, Retraining, SearchSpace, UseCase

RESULTS = "retrainings"
_SECONDS_PER_HOUR = 3600

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What came of a retraining. outcome: of the challenger against the champion on the recent window; reason: why.

    version, digest: of the challenger; None where there is none. admissible: it passed its gates. champion: what it was
    compared with. comparison: None where it was not compared. cpu_hours: seconds times the CPUs of its machine.
    """

    id: str
    as_of: datetime
    outcome: Outcome
    reason: str
    version: int | None = None
    digest: str | None = None
    admissible: bool = False
    champion: int | None = None
    comparison: Comparison | None = None
    cpu_hours: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"as_of": self.as_of.isoformat()}


@dataclass(frozen=True)
class Fixed:
    """A candidate with its parameters decided: a search over it has one point."""

    candidate: Candidate
    parameters: Parameters

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def space(self) -> SearchSpace:
        return {name: Choice((value,)) for name, value in self.parameters.items()}

    def fit(
        self,
        matrix: NDArray[np.float32],
        label: NDArray[np.bool_],
        features: Sequence[Feature],
        parameters: Parameters,
        seed: int,
        threads: int,
    ) -> Iterator[tuple[float, Classifier]]:
        """See use_case.Candidate."""
        return self.candidate.fit(matrix, label, features, parameters, seed, threads)


def retrain(
    use_case: UseCase,
    settings: Settings,
    feature_repo: Path,
    id: str,
    as_of: datetime,
    notify: Notify = lambda event: None,
) -> Result:
    """Run the pipeline as of `as_of` and write what came of it below the artifact root, once.

    Killed and started again, with the same id, it goes on where the pipeline stood. A failure is a result too: the
    governor must know of it. Ray must be running.
    """
    artifacts = Artifacts(settings.artifacts)
    known = find_result(artifacts, use_case.name, id)
    if known is not None:
        return known
    started = time.monotonic()
    try:
        result = _retrain(use_case, settings, feature_repo, id, as_of, notify)
    except Exception as error:
        _logger.exception("Retraining %s failed", id)
        text = str(error) if isinstance(error, MlopsRayError) else f"{type(error).__name__}: {error}"
        result = Result(id, as_of, "failed", f"The pipeline failed: {text}")
    hours = (time.monotonic() - started) * node_cpus() / _SECONDS_PER_HOUR
    result = replace(result, cpu_hours=hours)
    artifacts.write_json(result.to_json(), RESULTS, use_case.name, f"{id}.json")
    _logger.info("Retraining %s: %s. %s", id, result.outcome, result.reason)
    return result


def find_result(artifacts: Artifacts, use_case: str, id: str) -> Result | None:
    """What a retraining left behind; None while it has not ended."""
    found = artifacts.read_json(RESULTS, use_case, f"{id}.json")
    return None if found is None else msgspec.convert(found, Result)


def champion_lineage(store: ControlStore, artifacts: Artifacts, use_case: str) -> Lineage | None:
    """What the champion was made from; None where there is no champion, or no record of it."""
    champion = live(store, use_case).champion
    if champion is None:
        return None
    found = read_events(
        store, use_case=use_case, types=["version.registered"], subject=f"{use_case}@{champion.version}"
    )
    digest = found[-1].payload.get("lineage") if found else None
    record = artifacts.read_json(FOLDER, use_case, f"{digest}.json") if digest else None
    return None if record is None else Lineage.from_json(record)


def as_retrained(use_case: UseCase, policy: Retraining, lineage: Lineage | None) -> UseCase:
    """The use case with the split of its retraining, and without `search` with the champion's candidate alone."""
    case = replace(use_case, split=policy.split)
    candidate = next((one for one in case.candidates if lineage and one.name == lineage.candidate), None)
    if policy.search or lineage is None or candidate is None:
        return case
    chosen = Fixed(candidate, dict(lineage.parameters))
    return replace(case, candidates=(chosen,), search=replace(case.search, trials_per_candidate=1))


def _retrain(
    use_case: UseCase, settings: Settings, feature_repo: Path, id: str, as_of: datetime, notify: Notify
) -> Result:
    policy = use_case.retraining or Retraining()
    store, artifacts = open_store(settings), Artifacts(settings.artifacts)
    champion = live(store, use_case.name).champion
    case = as_retrained(use_case, policy, champion_lineage(store, artifacts, use_case.name))
    pipeline = Pipeline(case, settings, feature_repo, as_of, notify, challenger=True)
    registered = pipeline.run(until="register")["register"].result
    found = Result(id, as_of, "not better", "", registered["version"], registered["digest"])
    if champion is None or champion.digest == found.digest:
        outcome: Outcome = "better" if champion is None else "not better"
        return replace(found, outcome=outcome, reason="There is no other champion to compare it with.")
    comparison = _compare(case, settings, pipeline, VersionRef(registered["version"], registered["digest"]), champion)
    failed = [gate["name"] for gate in registered["gates"] if gate["blocks"] and not gate["passed"]]
    found = replace(found, champion=champion.version, comparison=comparison, admissible=not failed)
    if comparison is None:
        return replace(found, reason="The champion cannot be asked about the recent window: its features are gone.")
    outcome, reason = judge_challenger(comparison, policy.margin)
    if failed:
        return replace(found, reason=f"{reason} But it did not pass {', '.join(failed)}.")
    return replace(found, outcome=outcome, reason=reason)


def judge_challenger(comparison: Comparison, margin: float) -> tuple[Outcome, str]:
    """Better, if its value is higher and the 95 % interval of the difference lies above `margin`; in words."""
    gain = comparison.difference
    words = (
        f"{comparison.metric} {comparison.challenger:.4f} against {comparison.champion:.4f} on "
        f"{comparison.rows:,} rows of {comparison.days} days"
    )
    if gain.low is None:
        return "not better", f"{words}: one day cannot tell which is better."
    interval = f"difference {gain.value:+.4f}, 95 % between {gain.low:+.4f} and {gain.high:+.4f}"
    if gain.value > 0 and gain.low > margin:
        return "better", f"{words}: {interval}, above the margin {margin:+g}."
    return "not better", f"{words}: {interval}, which does not show a gain (margin {margin:+g})."


def _compare(
    case: UseCase, settings: Settings, pipeline: Pipeline, challenger: VersionRef, champion: VersionRef
) -> Comparison | None:
    with tempfile.TemporaryDirectory() as folder:
        Artifacts(settings.artifacts).download(Path(folder), "sealed_models", case.name, challenger.digest)
        model = load(Path(folder), challenger.digest)
    metrics = {case.metric}
    return compare_with_champion(case, settings, model, champion, metrics, pipeline.training_set()).get(case.metric)
