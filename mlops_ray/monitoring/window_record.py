"""Records of finished windows: what was found of each, and files of those that are not at hand."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from mlops_ray.monitoring.alarm_change import FINDINGS
from mlops_ray.monitoring.alarms import diagnose
from mlops_ray.monitoring.performance_estimation import EstimatedQuality
from mlops_ray.monitoring.verdicts import Verdict
from mlops_ray.tasks.evaluation import Measured


@dataclass(frozen=True)
class SliceQuality:
    """What labels say of the rows of a slice; see `quality.Quality`."""

    slice: str
    rows: int
    predictions: int
    about: Mapping[str, Any]
    metrics: Mapping[str, Measured]

    @property
    def watched(self) -> Measured:
        """The metric that answers are watched by, which is the first."""
        return next(iter(self.metrics.values()))


@dataclass(frozen=True)
class WindowRecord:
    """A finished window. answered_from, answered_to: its predictions were answered in between (never outside).

    panes: numbers of its first and last; who is in them is stored (see `members`).
    estimated: before labels come. concept, quality: from the labels that came so far, all rows first. labelled: how
    many. settled: whether its labels have had their say on the alarm, followed: whether its errors are in the stream of
    errors. grown_up, unreadable: see `Labelled`. whole: see `windows.Window`. revision, concept_revision: of the
    monitoring by which its predictions, and last its labels, were judged.
    """

    spec: str
    number: int
    start: datetime
    end: datetime
    rows: int
    misdated: int
    answered_from: datetime
    answered_to: datetime
    data: Verdict
    prediction: Verdict
    estimated: EstimatedQuality | None = None
    labelled: int = 0
    concept: Verdict | None = None
    quality: tuple[SliceQuality, ...] = ()
    settled: bool = False
    whole: bool = True
    panes: tuple[int, int] = (0, 0)
    followed: bool = False
    grown_up: bool = False
    revision: int = 0
    concept_revision: int = 0
    unreadable: int = 0

    @property
    def diagnosis(self) -> str:
        return diagnose(self.data, self.concept)


@dataclass(frozen=True)
class WindowBlock:
    """Windows that lie in a file (see `window_archive`): their numbers and panes, when the first begins, and until when
    their predictions were answered. young: when the first of those ended that have labels and have not grown up; None
    without.
    """

    name: str
    first: int
    last: int
    start: datetime
    answered_to: datetime
    panes: tuple[int, int]
    young: datetime | None


def shortened(verdict: Verdict) -> Verdict:
    """With as many findings as are kept."""
    return replace(verdict, findings=verdict.findings[:FINDINGS])
