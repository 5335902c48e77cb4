"""One retraining: the pipeline with later data, its version beside the champion, both asked about the recent window."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.cost.meter import Meter, metered
from mlops_ray.errors import BudgetError, DataError, MlopsRayError, StalledError
from mlops_ray.evaluation.comparison import Comparison
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.live import live
from mlops_ray.governance.versions import VersionRef
from mlops_ray.pipeline.champion import compare_with_champion
from mlops_ray.pipeline.pipeline import Pipeline
from mlops_ray.pipeline.steps.step import Notify
from mlops_ray.registry.lineage import Lineage
from mlops_ray.registry.sealed_model import load
from mlops_ray.retraining.challenger import judge_challenger
from mlops_ray.retraining.policy import Outcome
from mlops_ray.retraining.result import RESULTS, Result, champion_lineage, find_result
from mlops_ray.use_case import Candidate, Choice, FitData, FittedModel, Parameters, Retraining, SearchSpace, UseCase

_logger = logging.getLogger(__name__)


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

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        """See use_case.Candidate."""
        return self.candidate.fit(data, parameters)


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
    governor must know of it. What it uses is measured, for which it has this process to itself. Ray must be running,
    with workers that have the id in their variable TAG.
    """
    artifacts = Artifacts(settings.artifacts)
    known = find_result(artifacts, use_case.name, id)
    if known is not None:
        return known
    try:
        with metered(settings, use_case.name, tag=id, order=id, may_end_process=True) as meter:
            result = _retrain(use_case, settings, feature_repo, id, as_of, notify, meter)
    except (BudgetError, StalledError):
        raise  # it is not over: started again, once the budget is raised, it goes on
    except Exception as error:
        _logger.exception("Retraining %s failed", id)
        text = str(error) if isinstance(error, MlopsRayError) else f"{type(error).__name__}: {error}"
        result = Result(id, as_of, "failed", f"The pipeline failed: {text}")
    artifacts.write_json(result.to_json(), RESULTS, use_case.name, f"{id}.json")
    _logger.info("Retraining %s: %s. %s", id, result.outcome, result.reason)
    return result


def as_retrained(use_case: UseCase, policy: Retraining, lineage: Lineage | None) -> UseCase:
    """The use case with the split of its retraining, and without `search` with the champion's candidate alone."""
    case = replace(use_case, split=policy.split)
    candidate = next((one for one in case.candidates if lineage and one.name == lineage.candidate), None)
    if policy.search or lineage is None or candidate is None:
        return case
    chosen = Fixed(candidate, dict(lineage.parameters))
    return replace(case, candidates=(chosen,), search=replace(case.search, trials_per_candidate=1))


def _retrain(
    use_case: UseCase,
    settings: Settings,
    feature_repo: Path,
    id: str,
    as_of: datetime,
    notify: Notify,
    meter: Meter,
) -> Result:
    policy = use_case.retraining or Retraining()
    store, artifacts = open_store(settings), Artifacts(settings.artifacts)
    champion = live(store, use_case.name).champion
    case = as_retrained(use_case, policy, champion_lineage(store, artifacts, use_case.name))
    pipeline = Pipeline(case, settings, feature_repo, as_of, notify, challenger=True, meter=meter)
    registered = pipeline.run(until="register")["register"].result
    failed = [gate["name"] for gate in registered["gates"] if gate["blocks"] and not gate["passed"]]
    found = Result(id, as_of, "undecided", "", registered["version"], registered["digest"], admissible=not failed)
    if champion is None or champion.digest == found.digest:
        outcome: Outcome = "better" if champion is None else "not worse"
        return replace(found, outcome=outcome, reason="There is no other champion to compare it with.")
    made = VersionRef(registered["version"], registered["digest"])
    try:
        comparison, uncompared = _compare(case, settings, pipeline, made, champion), ""
    except DataError as error:
        comparison, uncompared = None, str(error)
    found = replace(found, champion=champion.version, comparison=comparison)
    if comparison is None:
        return replace(found, reason=f"The two cannot be compared on the recent window. {uncompared}")
    outcome, reason = judge_challenger(comparison, policy.margin)
    refused = f" But it did not pass {', '.join(failed)}." if failed else ""
    return replace(found, outcome=outcome, reason=f"{reason}{refused}")


def _compare(
    case: UseCase, settings: Settings, pipeline: Pipeline, challenger: VersionRef, champion: VersionRef
) -> Comparison:
    with tempfile.TemporaryDirectory() as folder:
        Artifacts(settings.artifacts).download(Path(folder), "sealed_models", case.name, challenger.digest)
        model = load(Path(folder), challenger.digest)
    metrics = {case.metric}
    return compare_with_champion(case, settings, model, champion, metrics, pipeline.training_set())[case.metric]
