"""How late labels of a use case may come, as it last declared: whoever watches its endpoint needs no line of its code.

It lies at `monitoring/<use case>/labels.json`. What somebody set beside the model goes before what is declared.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mlops_ray.artifacts import Artifacts
from mlops_ray.governance.monitoring_definitions import MonitoringRevision
from mlops_ray.use_case import Monitoring, UseCase

_PLACE = "monitoring"
_FILE = "labels.json"


@dataclass(frozen=True)
class LabelTimes:
    """count_for: a label counts that comes within this time of its prediction. complete_after: of a window that ended
    so long ago, labels that are missing are taken to be missing at random; before that, nothing is presumed of them."""

    count_for: timedelta = timedelta(days=90)
    complete_after: timedelta = timedelta(days=90)


def declare_label_times(artifacts: Artifacts, use_case: UseCase) -> None:
    """Let what the use case declares now count from now on, unless another was set for it."""
    found = artifacts.read_json(_PLACE, use_case.name, _FILE) or {}
    _write(artifacts, use_case.name, found | {"declared": _times(use_case.monitoring)})


def set_label_times(artifacts: Artifacts, use_case: str, revision: MonitoringRevision | None) -> None:
    """Let what was set count, or where nothing was, what is declared."""
    found = artifacts.read_json(_PLACE, use_case, _FILE) or {}
    definition = revision and revision.definition
    _write(artifacts, use_case, found | {"set": definition and _times(Monitoring.from_json(definition))})


def _times(wanted: Monitoring) -> dict[str, float]:
    complete_after = wanted.labels_complete_after or wanted.labels_count_for
    return {
        "count_for_s": wanted.labels_count_for.total_seconds(),
        "complete_after_s": complete_after.total_seconds(),
    }


def _write(artifacts: Artifacts, use_case: str, known: dict[str, Any]) -> None:
    """The times that count stand on top, where releases before look for them."""
    counts = known.get("set") or known.get("declared") or {}
    wanted = {name: part for name, part in known.items() if name in ("set", "declared")} | counts
    if counts and artifacts.read_json(_PLACE, use_case, _FILE) != wanted:
        artifacts.write_json(wanted, _PLACE, use_case, _FILE)


def label_times(artifacts: Artifacts, use_case: str) -> LabelTimes:
    """What was set or declared last; 90 days where nobody has."""
    found = artifacts.read_json(_PLACE, use_case, _FILE)
    if found is None:
        return LabelTimes()
    return LabelTimes(timedelta(seconds=found["count_for_s"]), timedelta(seconds=found["complete_after_s"]))
