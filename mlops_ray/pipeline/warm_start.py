"""Where a search starts: the best parameters of each candidate in the last version that was registered."""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.control_store import open_store
from mlops_ray.governance.versions import list_versions
from mlops_ray.registry.lineage import Lineage, TrialRecord
from mlops_ray.registry.trace import read_lineage
from mlops_ray.use_case import UseCase

_logger = logging.getLogger(__name__)


def start_from(use_case: UseCase, settings: Settings, as_of: datetime) -> dict[str, Any]:
    """See SearchResult.started_from: `version` and, by candidate, its best `parameters`; empty where there is nothing.

    The version need not be live. One that was trained on what came after `as_of` does not count, nor one with another
    metric: what was best by that need not be by this.
    """
    store = open_store(settings)
    try:
        versions = [one.version for one in list_versions(store, use_case.name)]
    finally:
        store.close()
    for version in reversed(versions):
        try:
            lineage = read_lineage(settings, use_case.name, version)[1]
        except (ConfigurationError, IntegrityError) as error:
            _logger.warning("The search does not start from version %d: %s", version, error)
            continue
        if datetime.fromisoformat(lineage.as_of) <= as_of:
            best = _best(use_case, lineage)
            return {"version": version, "parameters": best} if best else {}
    return {}


def _best(use_case: UseCase, lineage: Lineage) -> dict[str, Mapping[str, Any]]:
    if lineage.metric != use_case.metric:
        return {}
    metric = use_case.label.task.metrics[use_case.metric]

    def worth(trial: TrialRecord) -> float:
        return metric.gain(trial.value or 0.0)

    found = dict[str, Mapping[str, Any]]()
    for candidate in use_case.candidates:
        ended = [one for one in lineage.trials if one.candidate == candidate.name and one.status == "finished"]
        if ended:
            found[candidate.name] = dict(max(ended, key=worth).parameters)
    return found
