"""The budget of a search: trials, time and CPU, and which of them is spent."""

from collections.abc import Iterable
from dataclasses import dataclass

from mlops_ray.training.trial import Spent, Trial
from mlops_ray.use_case import Search


@dataclass(frozen=True)
class Budget:
    """trials: of all candidates together. seconds, cpu_seconds: None for as much as the trials take."""

    trials: int
    seconds: float | None = None
    cpu_seconds: float | None = None

    @classmethod
    def of(cls, search: Search, candidates: int) -> "Budget":
        return cls(search.trials_per_candidate * candidates, search.seconds, search.cpu_seconds)

    def ended_by(self, spent: Spent) -> str:
        """Which budget is spent, as it is told to people; "" while all of them last."""
        if self.seconds is not None and spent.seconds >= self.seconds:
            return f"seconds: its {self.seconds:g} seconds were over"
        if self.cpu_seconds is not None and spent.cpu_seconds >= self.cpu_seconds:
            return f"cpu_seconds: its {self.cpu_seconds:g} CPU seconds were spent"
        return f"trials: all {self.trials} trials were run" if spent.trials >= self.trials else ""

    def cuts(self, spent: Spent) -> bool:
        """Whether trials that still run are stopped; those that are the last of so many are not."""
        return self.ended_by(spent).partition(":")[0] in ("seconds", "cpu_seconds")

    def share(self, trials: Iterable[Trial], at_once: int) -> float:
        """Which part of the budget these trials have taken, of the one that they have taken most of."""
        taken = spent_by(trials)
        shares = [taken.trials / self.trials]
        if self.seconds is not None:
            shares.append(taken.seconds / (self.seconds * at_once))
        if self.cpu_seconds is not None:
            shares.append(taken.cpu_seconds / self.cpu_seconds)
        return max(shares)


def spent_by(trials: Iterable[Trial]) -> Spent:
    """seconds: added up, as if the trials had run one after another."""
    trials = list(trials)
    return Spent(len(trials), sum(trial.seconds for trial in trials), sum(trial.cpu_seconds for trial in trials))
