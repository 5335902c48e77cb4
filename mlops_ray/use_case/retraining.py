"""Retraining: when the governor trains again, and what becomes of the result."""

import math
from dataclasses import dataclass
from datetime import timedelta

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.declared_types import expect_types
from mlops_ray.use_case.monitoring import Question
from mlops_ray.use_case.split import Split


@dataclass(frozen=True)
class Retraining:
    """When the governor trains again, and what becomes of the result.

    alarms: open alarms on these questions of monitoring ask for it. every: so does this time since the last training;
    None for never. min_new_rows: labels that must have come since the last training. cool_down: from the end of one
    retraining to the next; each challenger that loses doubles it. max_per_week, max_cpu_hours_per_week: the budget of
    any seven days. time_limit: a retraining without a result after so long, waiting for resources included, is stopped
    and has failed. stop_after_losses: after so many challengers in a row that were not better, or runs that failed,
    none until the champion changes.

    split: how time is divided for it; on its test part, the recent window, the challenger is compared with the
    champion. margin: with 95 % certainty, "better" is above it and above 0, "not worse" above it where it is negative
    (see `evaluation.comparison.verdict`); one that is not worse is then offered, and never promoted by itself. search:
    try all candidates; without it the champion's is fitted again with its parameters. promote: a challenger that is
    better goes into a rollout by itself where nobody has to approve it; without it, and elsewhere, it is offered.
    """

    alarms: tuple[Question, ...] = ("data", "prediction", "concept")
    every: timedelta | None = None
    min_new_rows: int = 5_000
    cool_down: timedelta = timedelta(days=7)
    max_per_week: int = 2
    max_cpu_hours_per_week: float = 10.0
    time_limit: timedelta = timedelta(hours=12)
    stop_after_losses: int = 3
    split: Split = Split(test=timedelta(days=28), validation=timedelta(days=14))
    margin: float = -0.005
    search: bool = True
    promote: bool = False

    def __post_init__(self) -> None:
        expect_types(self, "Retraining")
        if self.min_new_rows < 0 or self.max_per_week < 1 or self.stop_after_losses < 1:
            raise UseCaseError(
                f"Retraining with min_new_rows {self.min_new_rows}, max_per_week {self.max_per_week} and "
                f"stop_after_losses {self.stop_after_losses}: the first must be 0 or more, the others 1 or more."
            )
        if self.cool_down < timedelta(0) or (self.every is not None and self.every <= timedelta(0)):
            raise UseCaseError(
                f"Retraining every {self.every} with a cool-down of {self.cool_down}: give longer times."
            )
        if self.time_limit <= timedelta(0):
            raise UseCaseError(f"Retraining with time_limit {self.time_limit}: give a longer time.")
        if not self.max_cpu_hours_per_week > 0 or not math.isfinite(self.margin):
            raise UseCaseError(
                f"Retraining with max_cpu_hours_per_week {self.max_cpu_hours_per_week} and margin {self.margin}: the "
                f"first must be above 0, the second a number."
            )
