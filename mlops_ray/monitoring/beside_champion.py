"""A version in a rollout is compared with what the champion sees at the same time, not with its own past alone.

Where the world has changed, both see it. Rolling the newer version back would keep the one that knows it less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlops_ray.monitoring.detectors import DETECTORS, Detector
from mlops_ray.monitoring.detectors.domain_classifier import DomainClassifier
from mlops_ray.monitoring.own_detectors import detector_named
from mlops_ray.monitoring.verdicts import Finding, Verdict
from mlops_ray.monitoring.version_watch import VersionWatch
from mlops_ray.monitoring.window_record import WindowRecord
from mlops_ray.monitoring.windows import Window

_SHARED = " The champion's requests of that time are like these: nothing is done about this version."
_ALONE = " Of the champion there is nothing of that time to compare with: nothing is done about this version."


@dataclass(frozen=True)
class Rollout:
    """A version is rolled out beside a champion. champion: its watch, for that of the version; None for its own."""

    champion: VersionWatch | None = None


def record_beside(record: WindowRecord, window: Window, champion: VersionWatch | None) -> WindowRecord:
    """The record of a version in a rollout, beside what the champion saw."""
    if champion is None:
        return record
    stream = champion.streams.get(record.spec)
    seen = None if stream is None else stream.last
    data, prediction = (beside_champion(one, window, seen) for one in (record.data, record.prediction))
    return replace(record, data=data, prediction=prediction)


def concept_beside(verdict: Verdict, rollout: Rollout | None) -> Verdict:
    """The verdict on the concept of a version in a rollout, beside the champion's."""
    if rollout is None or rollout.champion is None:
        return verdict
    return shared_concept(verdict, "concept" in rollout.champion.raised)


def beside_champion(
    verdict: Verdict, window: Window, champion: Window | None, detectors: Sequence[Detector] = DETECTORS
) -> Verdict:
    """The verdict on a window of a version in a rollout, beside the last one of the champion; None: it has none.

    A finding counts if the version is as far from the champion's window as it may be from its own reference, by the
    same statistic and threshold. With none left, the verdict says what was found, and nobody acts on it.
    """
    if verdict.answer != "drift":
        return verdict
    if champion is None or champion.end <= window.start:
        return replace(verdict, acts=False, reason=verdict.reason + _ALONE)
    by_name = {detector.name: detector for detector in detectors}
    own = tuple(one for one in verdict.findings if _is_own(one, window, champion, _named(by_name, one.detector)))
    if not own:
        return replace(verdict, acts=False, reason=verdict.reason + _SHARED)
    return replace(verdict, findings=own)


def _named(known: Mapping[str, Detector], name: str) -> Detector | None:
    return known.get(name) or (detector_named(name) if ":" in name else None)


def shared_concept(verdict: Verdict, champion_has_it: bool) -> Verdict:
    """The verdict on labels of a version in a rollout; champion_has_it: concept drift of the champion is open."""
    if verdict.answer != "drift" or not champion_has_it:
        return verdict
    return replace(verdict, acts=False, reason=f"{verdict.reason} Labels do not follow the champion's answers either.")


def _is_own(finding: Finding, window: Window, champion: Window, detector: Detector | None) -> bool:
    """Whether the champion's window differs as much. How features go together is not in sketches, so it is shared."""
    if detector is None or finding.detector == DomainClassifier().name or finding.column not in champion.columns:
        return False
    new = window.columns[finding.column]
    return detector.statistic(champion.columns[finding.column].like(new), new) > finding.threshold
