"""A user's own detector, named as `package.module:Class`: found, and accepted if it keeps the contract.

It must be installed where models are sealed and where the endpoint is watched; its code travels with neither.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib import import_module

from mlops_ray.errors import UseCaseError
from mlops_ray.monitoring.detectors import DETECTORS, Detector
from mlops_ray.monitoring.detectors.contract import Family
from mlops_ray.monitoring.sketches import Sketch
from mlops_ray.use_case import FeatureKind

_BY_NAME: dict[str, Detector] = {detector.name: detector for detector in DETECTORS}
_NEEDS = ("name", "kinds", "family", "statistic")


@dataclass(frozen=True)
class OwnDetector:
    """A detector under the name by which it is found again, so that it can be judged with what was learned of it."""

    name: str
    own: Detector = field(compare=False)
    kinds: frozenset[FeatureKind] = frozenset()
    family: Family = "values"

    def statistic(self, reference: Sketch, window: Sketch) -> float:
        return float(self.own.statistic(reference, window))

    def exact(self, reference: object, window: object) -> float:
        raise NotImplementedError


@cache
def detector_named(name: str) -> Detector:
    """One of the platform's, or the class that `module:Class` names. Raises UseCaseError if it cannot be had."""
    if ":" not in name:
        return _BY_NAME[name]
    module, _, wanted = name.partition(":")
    try:
        found = getattr(import_module(module), wanted)
        lacking = [part for part in _NEEDS if not hasattr(found, part)]
        if not isinstance(found, type) or lacking:
            raise TypeError(f"it has no {', '.join(lacking)}" if lacking else "it is no class")
        own: Detector = found()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UseCaseError(
            f"Detector {name}: {error}. It must be a class with {', '.join(_NEEDS)}, made without arguments, in a "
            f"package that is installed here."
        ) from error
    return OwnDetector(name, own, frozenset(own.kinds), "values")
