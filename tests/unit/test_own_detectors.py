"""A user's own detector is accepted by its name if it keeps the contract, and watches like the platform's."""

from typing import Any

import numpy as np
import pytest

from mlops_ray.errors import UseCaseError
from mlops_ray.monitoring.detectors import (
    ChiSquared,
    JensenShannon,
    KolmogorovSmirnov,
    PopulationStabilityIndex,
    Wasserstein,
)
from mlops_ray.monitoring.reference import Reference
from mlops_ray.testing.detectors import check_detector
from mlops_ray.testing.example_stream import BY_COUNT
from mlops_ray.use_case import Monitoring
from tests.unit.test_sealed_reference import files, use_case


class TotalVariation:
    """Half the sum of the differences of shares: good."""

    name, kinds, family = "total_variation", frozenset({"number"}), "values"

    def statistic(self, reference: Any, window: Any) -> float:
        if not reference.values or not window.values:
            return float("nan")
        return float(np.abs(reference.counts / reference.values - window.counts / window.values).sum() / 2)


class Mean(TotalVariation):
    """Sees the mean, which no threshold can be learned of."""

    name = "mean"

    def statistic(self, reference: Any, window: Any) -> float:
        return abs(reference.mean - window.mean) if reference.values and window.values else float("nan")


class Tired(TotalVariation):
    """Remembers what it was asked."""

    name, asked = "tired", 0

    def statistic(self, reference: Any, window: Any) -> float:
        Tired.asked += 1
        return super().statistic(reference, window) * Tired.asked


class Ratio(TotalVariation):
    """Divides by what may be nothing."""

    name = "ratio"

    def statistic(self, reference: Any, window: Any) -> float:
        with np.errstate(all="ignore"):
            return float(
                np.nanmax(np.abs(np.log(window.counts / window.values / (reference.counts / reference.values))))
            )


@pytest.mark.parametrize(
    "detector",
    [TotalVariation(), KolmogorovSmirnov(), Wasserstein(), JensenShannon(), ChiSquared(), PopulationStabilityIndex()],
    ids=lambda one: one.name,
)
def test_good_detectors_keep_the_contract(detector: Any) -> None:
    check_detector(detector)


@pytest.mark.parametrize(
    ("detector", "said"),
    [
        (Mean(), "mean on .* depends on more than the counts"),
        (Tired(), "tired on .* depends on what it was asked before"),
        (Ratio(), "ratio on .* inf"),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_a_detector_that_breaks_the_contract_is_refused_with_what_it_breaks(detector: Any, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_detector(detector)


def test_a_detector_that_is_named_is_learned_sealed_and_found_again() -> None:
    own = f"{__name__}:TotalVariation"
    sealed = Reference.from_files(files(use_case(number_detector=own)))
    named = {normal.detector for normal in sealed.windows[BY_COUNT.name].features[-1].normals}
    assert named == {own, "jensen_shannon", "missing_rate", "new_categories"}
    for wrong, said in (
        (f"{__name__}:Tired", "does not keep the contract"),
        (f"{__name__}:Nothing", "has no attribute"),
        ("nowhere.at_all:Detector", "No module named"),
        ("collections:OrderedDict", "it has no name, kinds"),
    ):
        with pytest.raises(UseCaseError, match=said):
            files(use_case(number_detector=wrong))
    with pytest.raises(UseCaseError, match="number_detector is 'total'"):
        Monitoring(number_detector="total")
