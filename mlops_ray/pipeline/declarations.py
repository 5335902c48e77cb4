"""Declarations: what a use case says, for the record of where a version comes from."""

from typing import Any

from mlops_ray.artifacts import digest_json
from mlops_ray.pipeline.fingerprint import canonical
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.declared import unsaid
from mlops_ray.use_case import Fit, Label, UseCase


def declarations(use_case: UseCase) -> dict[str, str]:
    """What a model's content depends on beside the data, by name: short texts as they are, all else as digests.

    Equal where the use case says the same, whatever is installed: that stands in the record by itself.
    """
    case = use_case
    return {
        **{f"source {name}": _digest(source) for name, source in case.sources.items()},
        **{f"feature view {name}": _digest(view) for name, view in case.feature_views.items()},
        **{f"candidate {one.name}": _digest(one) for one in case.candidates},
        "request features": _digest(case.features_of_request()),
        **{f"on-demand feature {name}": _digest(one) for name, one in case.on_demand_features.items()},
        "label": digest_json(_label(case.label)),
        "entities": ", ".join(case.entities),
        "event time": case.event_time,
        "lead time": str(case.lead_time),
        "feature service": str(case.feature_service),
        "split": str(case.split),
        "search seed": str(case.search.seed),
        **({"search rows": str(case.search.rows)} if case.search.rows is not None else {}),
        **({"fit": str(case.fit)} if case.fit != Fit() else {}),
        "metric": case.metric,
        **{f"leakage waived {name}": reason for name, reason in case.leakage_waivers.items()},
    }


def _label(label: Label) -> Any:
    """As canonical, without the task of yes and no, and without what came to tasks later: a label that says nothing of
    it is the same label."""
    kind, name, (mapping, *parts) = canonical(label, versions=False)
    said = [[one, _task(label.task, part) if one == "task" else part] for one, part in parts]
    return [kind, name, [mapping, *(part for part in said if part[0] != "task" or label.task != BINARY)]]


def _task(task: Any, content: Any) -> Any:
    silent = unsaid(task)
    kind, name, (mapping, *parts) = content
    return [kind, name, [mapping, *(part for part in parts if part[0] not in silent)]]


def _digest(value: Any) -> str:
    return digest_json(canonical(value, versions=False))
