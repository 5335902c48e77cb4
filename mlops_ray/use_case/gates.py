"""Gates: what a version must pass, and who must agree, before it goes live."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

Metric = Literal["roc_auc", "average_precision", "log_loss", "brier", "calibration_error"]
LOWER_IS_BETTER: frozenset[str] = frozenset({"log_loss", "brier", "calibration_error"})
AdvisorySeverity = Literal["low", "medium", "high", "critical"]


@dataclass(frozen=True)
class Threshold:
    """Gate: the metric on the test period is at least `limit`; where lower is better (LOWER_IS_BETTER), at most.

    A gate that fails keeps the version from going live, or with `blocks=False` is only recorded.
    """

    metric: Metric
    limit: float
    blocks: bool = True


@dataclass(frozen=True)
class NoSliceWorse:
    """Gate: in no slice (see `UseCase.slices`) the metric is worse than `limit` with 95 % certainty.

    Slices with few rows are not judged.
    """

    metric: Metric
    limit: float
    blocks: bool = True


@dataclass(frozen=True)
class BetterThanChampion:
    """Gate: on the same test rows the metric is better than the champion's by more than `margin`, with 95 % certainty.

    A negative margin is what the version may be worse by. Passed where there is no champion yet.
    """

    margin: float = 0.0
    metric: Literal["roc_auc", "average_precision"] = "roc_auc"
    blocks: bool = True


@dataclass(frozen=True)
class OnnxParity:
    """Gate: the probabilities of the exported model differ from the trained model's by at most `limit`."""

    limit: float = 1e-5
    blocks: bool = True


@dataclass(frozen=True)
class Latency:
    """Gate: the model's median time for one row, in milliseconds, without features and HTTP, where it is registered."""

    limit_ms: float
    blocks: bool = True


@dataclass(frozen=True)
class Fairness:
    """Gate: between the values of `column`, one of the slices, `measure` differs by at most `limit`.

    selection_rate: the share of rows with a positive answer (demographic parity). true_positive_rate: that share among
    rows with the label (equal opportunity; Hardt, Price, Srebro, NeurIPS 2016).
    """

    column: str
    limit: float
    measure: Literal["selection_rate", "true_positive_rate"] = "true_positive_rate"
    blocks: bool = True


@dataclass(frozen=True)
class Waiver:
    """An advisory that does not count until a moment, because somebody looked at it."""

    advisory: str
    until: datetime
    reason: str


@dataclass(frozen=True)
class NoVulnerability:
    """Gate: a scan was made and found nothing in the artifact, nor, if given, in the environment from a severity on.

    An advisory in the environment whose severity is unknown counts as one of `environment_from`.
    """

    environment_from: AdvisorySeverity | None = None
    waivers: tuple[Waiver, ...] = ()
    blocks: bool = True


Gate = Threshold | NoSliceWorse | BetterThanChampion | OnnxParity | Latency | Fairness | NoVulnerability


@dataclass(frozen=True)
class Approval:
    """Who has to say yes before a version goes live: a principal with `role`, with `four_eyes` not its author.

    expires_after: how long a request waits for an answer, and how long an approval can be used.
    required: without it an approval can be asked for, but nothing depends on it.
    """

    role: Literal["approve", "operate", "admin"] = "approve"
    four_eyes: bool = True
    expires_after: timedelta = timedelta(days=30)
    required: bool = True
