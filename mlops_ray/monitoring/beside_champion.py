"""A version in a rollout is compared with what the champion sees at the same time, not with its own past alone.

Where the world has changed, both see it. Rolling the newer version back would keep the one that knows it less.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from datasketches import kll_floats_sketch
from numpy.typing import NDArray

from mlops_ray.monitoring.detectors import DETECTORS, Detector
from mlops_ray.monitoring.detectors.domain_classifier import DomainClassifier
from mlops_ray.monitoring.sketches import KLL_K, CategoricalSketch, NumericSketch, Sketch
from mlops_ray.monitoring.verdicts import Finding, Verdict
from mlops_ray.monitoring.windows import Window

_SHARED = " The champion's requests of that time are like these: nothing is done about this version."
_ALONE = " Of the champion there is nothing of that time to compare with: nothing is done about this version."


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
    own = tuple(one for one in verdict.findings if _is_own(one, window, champion, by_name.get(one.detector)))
    if not own:
        return replace(verdict, acts=False, reason=verdict.reason + _SHARED)
    return replace(verdict, findings=own)


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
    return detector.statistic(_like(champion.columns[finding.column], new), new) > finding.threshold


def _like(other: Sketch, sketch: Sketch) -> Sketch:
    """The champion's window in the cells of this version's, whose reference has other bins or other categories."""
    if isinstance(other, NumericSketch) and isinstance(sketch, NumericSketch):
        return _rebinned(other, sketch.edges)
    if not isinstance(other, CategoricalSketch) or not isinstance(sketch, CategoricalSketch):
        return other
    rows = dict(zip(other.categories, other.counts.tolist(), strict=True))
    counts = np.array([rows.pop(category, 0) for category in sketch.categories])
    return CategoricalSketch(sketch.categories, counts, other.missing, other.unseen + sum(rows.values()))


def _rebinned(other: NumericSketch, edges: NDArray[np.float32]) -> NumericSketch:
    """Its counts in bins with other edges, as if the values of each bin lay evenly between its ends.

    Rows and moments stay exact. The part of the values below an edge is off by at most the part that the bin has in
    which the edge lies: 1 % where it was cut into 100 that hold equally many, more where values repeat or have moved
    together into one bin. Without values, or with these edges, it stays as it is.
    """
    if not other.values or np.array_equal(other.edges, edges):
        return other
    # The first and the last bin end with the values; an edge beyond all of them has nothing or everything below.
    inner = np.clip(other.edges.astype(np.float64), other.minimum, other.maximum)
    at, below = np.concatenate([inner, [other.maximum]]), np.cumsum(other.counts, dtype=np.float64)
    if other.minimum < at[0]:
        at, below = np.concatenate([[other.minimum], at]), np.concatenate([[0.0], below])
    # Of bins that end at the same value the last has counted all up to it.
    last = np.append(np.diff(at) > 0, True)
    found = np.interp(edges.astype(np.float64), at[last], below[last], left=0.0, right=other.values)
    counts = np.diff(found, prepend=0.0, append=other.values)
    return replace(other, edges=edges, counts=counts, quantiles=kll_floats_sketch(KLL_K), counts_only=True)
