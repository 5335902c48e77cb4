"""What a user declares, one noun a file: `UseCase` and its parts."""

from mlops_ray.tasks.binary import Binary
from mlops_ray.tasks.decision import Capacity, Gains, GainTable
from mlops_ray.tasks.multiclass import MultiClass
from mlops_ray.tasks.regression import Regression
from mlops_ray.use_case.aggregation import Aggregation
from mlops_ray.use_case.column import Column, ColumnType
from mlops_ray.use_case.divided_view import DividedView
from mlops_ray.use_case.expectations import Expectations, NeverFalls, References, Unique
from mlops_ray.use_case.features import Feature, FeatureKind
from mlops_ray.use_case.fit import Blocks, Fit, FitBlocks, FitData
from mlops_ray.use_case.gates import (
    AdvisorySeverity,
    Approval,
    BetterThanBaseline,
    BetterThanChampion,
    Fairness,
    Gate,
    Latency,
    NoSliceWorse,
    NoVulnerability,
    OnnxParity,
    Plausible,
    Threshold,
    Waiver,
)
from mlops_ray.use_case.label import Label
from mlops_ray.use_case.last_known import LastKnown
from mlops_ray.use_case.loading import load_use_case
from mlops_ray.use_case.monitoring import CategoryDetector, ErrorDetector, Monitoring, NumberDetector, Question, Season
from mlops_ray.use_case.retraining import Retraining
from mlops_ray.use_case.schedule import OPERATIONS, Operation, Schedule
from mlops_ray.use_case.search import (
    Candidate,
    Choice,
    FittedModel,
    Integer,
    LargeCandidate,
    Parameters,
    Resources,
    Search,
    SearchSpace,
    Uniform,
)
from mlops_ray.use_case.serving import Serving
from mlops_ray.use_case.source import Source, Tables
from mlops_ray.use_case.split import Split
from mlops_ray.use_case.use_case import UseCase
from mlops_ray.use_case.window_spec import WindowSpec
from mlops_ray.use_case.windowed_view import WindowedView, windowed_views

__all__ = [
    "OPERATIONS",
    "AdvisorySeverity",
    "Aggregation",
    "Approval",
    "BetterThanBaseline",
    "BetterThanChampion",
    "Binary",
    "Blocks",
    "Candidate",
    "Capacity",
    "CategoryDetector",
    "Choice",
    "Column",
    "ColumnType",
    "DividedView",
    "ErrorDetector",
    "Expectations",
    "Fairness",
    "Feature",
    "FeatureKind",
    "Fit",
    "FitBlocks",
    "FitData",
    "FittedModel",
    "GainTable",
    "Gains",
    "Gate",
    "Integer",
    "Label",
    "LargeCandidate",
    "LastKnown",
    "Latency",
    "Monitoring",
    "MultiClass",
    "NeverFalls",
    "NoSliceWorse",
    "NoVulnerability",
    "NumberDetector",
    "OnnxParity",
    "Operation",
    "Parameters",
    "Plausible",
    "Question",
    "References",
    "Regression",
    "Resources",
    "Retraining",
    "Schedule",
    "Search",
    "SearchSpace",
    "Season",
    "Serving",
    "Source",
    "Split",
    "Tables",
    "Threshold",
    "Uniform",
    "Unique",
    "UseCase",
    "Waiver",
    "WindowSpec",
    "WindowedView",
    "load_use_case",
    "windowed_views",
]
