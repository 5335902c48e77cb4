"""The champion, asked about the same rows as a version that wants its place."""

import logging
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np

from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, DataError, IntegrityError
from mlops_ray.evaluation.comparison import Comparison, compare, unseen
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.features.training_set import TrainingSet, read_split
from mlops_ray.governance.versions import VersionRef
from mlops_ray.registry.models import download_sealed
from mlops_ray.registry.sealed_model import SealedModel, load, model_inputs
from mlops_ray.registry.trace import read_lineage
from mlops_ray.tasks.days import days_of
from mlops_ray.use_case import UseCase

_logger = logging.getLogger(__name__)


def compare_with_champion(
    use_case: UseCase,
    settings: Settings,
    model: SealedModel,
    champion: VersionRef,
    metrics: set[str],
    training_set: TrainingSet,
) -> dict[str, Comparison]:
    """For each metric that both have, on the rows of the test period that were predicted after the training of both
    models.

    Raises DataError, with why, where they cannot be compared on these rows, or have none of the metrics.
    """
    with tempfile.TemporaryDirectory() as folder:
        other = load(download_sealed(settings, use_case.name, champion, Path(folder)), champion.digest)
    task = use_case.label.task
    ours_acts, theirs_acts = task.like(model.schema.task), task.like(other.schema.task)
    if ours_acts is None or theirs_acts is None:
        raise DataError("The champion predicts another kind of label, so its answers cannot be compared with these.")
    test = read_split(training_set, use_case.split, task, ("test",))["test"]
    lacking = [feature.name for feature in other.schema.features if feature.name not in test.columns]
    if lacking:
        raise DataError(
            f"The champion was not asked about these rows: the training set no longer has {', '.join(lacking)}."
        )
    trained_until = _trained_until(settings, use_case.name, champion, other)
    rows = unseen(test, trained_until, use_case.split.trained_until(training_set.as_of))
    labels = task.encoded(rows[LABEL])
    if too_few := task.shortfall(labels):
        raise DataError(
            f"The champion was trained on rows up to {trained_until:%Y-%m-%d %H:%M} UTC, and {too_few} of the test "
            f"period are later: too few. Take a later as_of."
        )
    if rows.height < test.height:
        _logger.info("%d of %d rows of the test period are later than the champion's", rows.height, test.height)
    ours, theirs = (
        one.model.answers(*model_inputs(rows, one.schema.features)).astype(np.float64) for one in (model, other)
    )
    day = days_of(rows[PREDICTION_TIME], use_case.zone())
    tasks = ours_acts, theirs_acts
    both = [metric for metric in sorted(metrics) if all(metric in one.metrics for one in tasks)]
    return {metric: compare(tasks, labels, ours, theirs, day, metric) for metric in both or sorted(metrics)}


def _trained_until(settings: Settings, name: str, version: VersionRef, model: SealedModel) -> datetime:
    """Of a model that was sealed before this was written down, the moment of its lineage: nothing later was known."""
    said = model.evaluation.get("trained_until")
    if said is None:
        try:
            said = read_lineage(settings, name, version.version)[1].as_of
        except (ConfigurationError, IntegrityError) as error:
            raise DataError(
                f"Until when the champion, version {version.version}, was trained is not on record, so no row is known "
                f"to be new to it. {error}"
            ) from error
    return datetime.fromisoformat(str(said))
