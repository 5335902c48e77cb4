"""How predictions are watched once they are made."""

from collections.abc import Iterator

from mlops_ray.use_case import UseCase


def monitoring_labels(case: UseCase) -> Iterator[str]:
    """It says when all labels have come, so that quality is judged then."""
    if case.monitoring.labels_complete_after is None:
        yield (
            f"it does not say when all labels have come, so that quality is judged for certain only after "
            f"{case.monitoring.labels_count_for.days} days. Say so: "
            f"monitoring=Monitoring(labels_complete_after=timedelta(…))."
        )
