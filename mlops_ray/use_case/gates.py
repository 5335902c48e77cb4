"""Gates: what a version must pass, and who must agree, before it goes live."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

AdvisorySeverity = Literal["low", "medium", "high", "critical"]


@dataclass(frozen=True)
class Threshold:
    """Gate: the metric on the test period is at least `limit`; where lower is better (see `Task.metrics`), at most.

    A gate that fails keeps the version from going live, or with `blocks=False` is only recorded.
    """

    metric: str
    limit: float
    blocks: bool = True


@dataclass(frozen=True)
class NoSliceWorse:
    """Gate: in no slice (see `UseCase.slices`) the metric is worse than `limit`, with 95 % certainty over all of them.

    However many slices there are, the gate fails by chance in at most 5 % of cases. Slices with fewer than 200 rows, or
    20 of the rarer label, are not judged; the calibration error cannot be, as in few rows most of it is chance.
    """

    metric: str
    limit: float
    blocks: bool = True


@dataclass(frozen=True)
class BetterThanChampion:
    """Gate: on the same test rows the metric is better than the champion's by more than `margin`, with 95 % certainty.

    The lower end of the 95 % interval is above `margin`, so of models that are better by just that much 2.5 % pass.
    The rows are those of the test period after the training of both. A negative margin is what the version may be worse
    by: it then has to be "not worse", and is "better" only where all of the interval is above 0; its sentence says
    which. Passed where there is no champion yet; fails where the rows are of fewer than five days.
    """

    margin: float = 0.0
    metric: str = "roc_auc"
    blocks: bool = True


@dataclass(frozen=True)
class BetterThanBaseline:
    """Gate: on the test period the metric is better than what one would answer without a model, with 95 % certainty.

    That is what is best by the metric for the labels before the test period, such as their rate, mean or median: of
    all rows, or of those with the same values of `by`, request columns or features such as hour and weekday
    (`evaluation.baseline`). It is better by more than `margin`.
    """

    metric: str = "log_loss"
    by: tuple[str, ...] = ()
    margin: float = 0.0
    blocks: bool = True


@dataclass(frozen=True)
class OnnxParity:
    """Gate: the answers of the exported model differ from the trained model's by at most `limit` (`Task.apart`)."""

    limit: float = 1e-5
    blocks: bool = True


@dataclass(frozen=True)
class Latency:
    """Gate: the model's median time for one row, in milliseconds, without features and HTTP, where it is registered."""

    limit_ms: float
    blocks: bool = True


@dataclass(frozen=True)
class Fairness:
    """Gate: between no two values of `column`, one of the slices, `measure` differs by more than `limit`.

    It fails where a difference is larger with 95 % certainty over all pairs, and where it cannot be measured: two
    values are needed that have 20 rows (with the label, for the true positive rate) on five days or more, and at the
    decision's threshold 20 of those rows must be chosen, and 20 not.

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


@dataclass(frozen=True)
class Plausible:
    """Gate: the version is not too good to be true, which more often than not means that a feature knows the outcome.

    limit: the metric, of which more is better, is at most this on the test period; say what is known of the problem.
    jump: it is at most so much above the champion's on the same rows. alone: no feature alone ranks the rows with a ROC
    AUC above this (`Task.events`). The sentence of a failure names the features that it comes from; if a person finds
    that they are right, raise the limit.
    """

    limit: float = 0.99
    jump: float = 0.1
    alone: float = 0.85
    metric: str = "roc_auc"
    blocks: bool = True


Gate = (
    Threshold
    | NoSliceWorse
    | BetterThanChampion
    | BetterThanBaseline
    | OnnxParity
    | Latency
    | Fairness
    | NoVulnerability
    | Plausible
)


@dataclass(frozen=True)
class Approval:
    """Who has to say yes before a version goes live: a principal with `role`, with `four_eyes` not its author.

    expires_after: how long a request waits for an answer, and how long an approval can be used.
    required: without it an approval can be asked for, but nothing depends on it.

    What follows demands nothing where it is None. min_rollout_steps, min_rollout, max_error_rate: no plan of a rollout
    has fewer steps, is shorter, or has a larger rule `max_error_rate`; nobody promotes earlier by hand.
    broken_glass_escalates_after: how long somebody who broke the glass may wait for an approval until that is a
    critical event again, and again. broken_glass_ends_after: until the version is left for the last champion that may
    serve. signed: a version's model is signed (settings model_signing_key, model_signing_public_key), or no replica
    loads it, and it does not go live. min_approvers: how many persons have to say yes, to a version and to other rules
    than these.
    """

    role: Literal["approve", "operate", "admin"] = "approve"
    four_eyes: bool = True
    expires_after: timedelta = timedelta(days=30)
    required: bool = True
    min_rollout_steps: int | None = None
    min_rollout: timedelta | None = None
    max_error_rate: float | None = None
    broken_glass_escalates_after: timedelta | None = None
    broken_glass_ends_after: timedelta | None = None
    signed: bool = False
    min_approvers: int = 1
