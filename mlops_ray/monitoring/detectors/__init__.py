"""The detectors that the platform brings; a user's own has the contract of `contract.Detector`.

Those for streams, `adwin` and `page_hinkley`, are imported from their files: river takes more than a second to import.
"""

from mlops_ray.monitoring.detectors.chi_squared import ChiSquared
from mlops_ray.monitoring.detectors.contract import Detector, StreamDetector
from mlops_ray.monitoring.detectors.jensen_shannon import JensenShannon
from mlops_ray.monitoring.detectors.kolmogorov_smirnov import KolmogorovSmirnov
from mlops_ray.monitoring.detectors.missing_rate import MissingRate
from mlops_ray.monitoring.detectors.new_categories import NewCategories
from mlops_ray.monitoring.detectors.psi import PopulationStabilityIndex
from mlops_ray.monitoring.detectors.wasserstein import Wasserstein

DETECTORS: tuple[Detector, ...] = (
    PopulationStabilityIndex(),
    KolmogorovSmirnov(),
    Wasserstein(),
    JensenShannon(),
    ChiSquared(),
    MissingRate(),
    NewCategories(),
)

__all__ = [
    "DETECTORS",
    "ChiSquared",
    "Detector",
    "JensenShannon",
    "KolmogorovSmirnov",
    "MissingRate",
    "NewCategories",
    "PopulationStabilityIndex",
    "StreamDetector",
    "Wasserstein",
]
