"""Doubts: what no gate measures, and somebody should look at before a version is trusted."""

from collections.abc import Mapping

from mlops_ray.evaluation.slices import MINIMUM_LABELS, MINIMUM_ROWS
from mlops_ray.features.columns import LABEL
from mlops_ray.features.training_set import Parts
from mlops_ray.tasks.task import Task


def doubts(task: Task, parts: Parts, metric: str, values: Mapping[str, float | None]) -> tuple[str, ...]:
    """A sentence for each: parts of the split with few rows or few of one label, and a metric that is too good.

    values: of `metric` by part, None where it was not measured.
    """
    found = []
    for name, part in vars(parts).items():
        rarer = task.rarest(task.encoded(part[LABEL]))
        if part.height < MINIMUM_ROWS or rarer < MINIMUM_LABELS:
            found.append(
                f"The {name} period has {part.height:,} rows, {rarer:,} of them with the rarest label (few: below "
                f"{MINIMUM_ROWS} rows or {MINIMUM_LABELS} labels): its metrics say more about chance than about the "
                f"model."
            )
    for name, value in values.items():
        if value is not None and task.metrics[metric].is_perfect(value):
            found.append(
                f"{metric} on the {name} period is {value:.4f}, which is too good to be true more often than not: look "
                f"for a feature that is known only after the fact (versions card shows their importance)."
            )
    return tuple(found)
