"""How late labels of a use case may come, as it last declared: whoever watches its endpoint needs no line of its code.

It lies at `monitoring/<use case>/labels.json`.
"""

from dataclasses import dataclass
from datetime import timedelta

from mlops_ray.artifacts import Artifacts
from mlops_ray.use_case import UseCase

_PLACE = "monitoring"
_FILE = "labels.json"


@dataclass(frozen=True)
class LabelTimes:
    """count_for: a label counts that comes within this time of its prediction. complete_after: of a window that ended
    so long ago, labels that are missing are taken to be missing at random; before that, nothing is presumed of them."""

    count_for: timedelta = timedelta(days=90)
    complete_after: timedelta = timedelta(days=90)


def declare_label_times(artifacts: Artifacts, use_case: UseCase) -> None:
    """Let what the use case declares now count from now on."""
    wanted = use_case.monitoring
    complete_after = wanted.labels_complete_after or wanted.labels_count_for
    declared = {
        "count_for_s": wanted.labels_count_for.total_seconds(),
        "complete_after_s": complete_after.total_seconds(),
    }
    if artifacts.read_json(_PLACE, use_case.name, _FILE) != declared:
        artifacts.write_json(declared, _PLACE, use_case.name, _FILE)


def label_times(artifacts: Artifacts, use_case: str) -> LabelTimes:
    """What was declared last; 90 days where nobody has."""
    found = artifacts.read_json(_PLACE, use_case, _FILE)
    if found is None:
        return LabelTimes()
    return LabelTimes(timedelta(seconds=found["count_for_s"]), timedelta(seconds=found["complete_after_s"]))
