"""Promises: what a use case says of predictions and labels, told to those who keep them before any is answered."""

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.monitoring.label_times import declare_label_times
from mlops_ray.predictions.retention import declare_retention
from mlops_ray.use_case import UseCase


def declare_promises(settings: Settings, use_case: UseCase) -> None:
    """How long predictions are kept, and when their labels may be expected."""
    artifacts = Artifacts(settings.artifacts)
    declare_retention(artifacts, use_case)
    declare_label_times(artifacts, use_case)
