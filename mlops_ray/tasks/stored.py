"""Tasks as JSON: with sealed models, ledgers and told labels."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mlops_ray.errors import IntegrityError, UseCaseError
from mlops_ray.tasks.binary import BINARY, Binary
from mlops_ray.tasks.decision import Capacity, Gains, GainTable
from mlops_ray.tasks.declared import unsaid
from mlops_ray.tasks.evaluation import Metric
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.task import Task

_KINDS: Mapping[str, type[Binary | MultiClass | Regression]] = {
    one.kind: one for one in (Binary, MultiClass, Regression)
}
# Where a ledger may have answers, whatever their kind (see `Task.ledger_types`).
ANSWER_COLUMNS = ("probability", "prediction", "probabilities", "quantiles")


def metric_named(name: str) -> Metric:
    """Which way a metric goes, whatever the task. Raises KeyError for none of any."""
    regression, classes = Regression(coverage=0.8, quantiles=(0.5,)), MultiClass(("a", "b", "c"))
    tasks: tuple[Task, ...] = (regression, classes, Binary(decision=Gains(1, -1)))
    return {known: metric for task in tasks for known, metric in task.metrics.items()}[name]


_DECISIONS: Mapping[str, type[Gains | Capacity | GainTable]] = {
    "gains": Gains,
    "capacity": Capacity,
    "gain_table": GainTable,
}


def task_to_json(task: Task) -> dict[str, Any]:
    declared: Any = task
    silent = unsaid(declared)
    parts = {name: part for name, part in asdict(declared).items() if name not in silent}
    decision = getattr(task, "decision", None)
    if decision is not None:
        parts["decision"] = {name: asdict(decision) for name, one in _DECISIONS.items() if isinstance(decision, one)}
    return {"kind": task.kind, **{name: part for name, part in parts.items() if part is not None}}


def task_from_json(value: Mapping[str, Any] | None) -> Task:
    """What `task_to_json` gave; None, as nothing was written when there was only one kind, is yes or no.

    Raises IntegrityError for a kind that this version does not know, or that lacks something.
    """
    if value is None:
        return BINARY
    parts: dict[str, Any] = {
        name: tuple(part) if isinstance(part, list) else part for name, part in value.items() if name != "kind"
    }
    try:
        if "decision" in parts:
            ((name, decision),) = parts["decision"].items()
            parts["decision"] = _DECISIONS[name](**decision)
        return _KINDS[value["kind"]](**parts)
    except (KeyError, TypeError, ValueError, AttributeError, UseCaseError) as error:
        raise IntegrityError(
            f"The kind of label {value!r} is not known to this version ({', '.join(_KINDS)}): {error!r}. Read it with "
            f"the version that wrote it, or a later one."
        ) from error
