"""Trials and the result of a search, as plain values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from mlops_ray.tasks.evaluation import Metric
from mlops_ray.use_case import Parameters

TrialStatus = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Step:
    """What a trial had reached: fraction of its budget, the metric on the validation part, and what that took since
    its start: seconds of time, and of CPU over all threads."""

    fraction: float
    value: float
    seconds: float
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Footprint:
    """What a fitted model costs to serve, as the ONNX file that would be sealed: its size, and the median time for one
    row and for `BATCH_ROWS` rows, on one thread of the node that fitted it."""

    size_bytes: int
    row_ms: float
    batch_ms: float


@dataclass(frozen=True)
class Trial:
    """One setting of one candidate's parameters.

    `number` counts the trials of the candidate from 0. `run_id` is its MLflow run, "" before it has one. Status:
    finished at the full budget, stopped early because others of the same candidate were better or, with that in
    `message`, because the search's own budget was spent; or failed, with the error in `message`. footprint: of a
    finished trial whose model could be exported. used: as its worker measured it (`cost.usage.Usage`), {} where it did
    not.
    """

    candidate: str
    number: int
    parameters: Parameters
    run_id: str = ""
    status: TrialStatus = "running"
    message: str = ""
    steps: tuple[Step, ...] = ()
    footprint: Footprint | None = None
    used: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trial_id(self) -> str:
        """The same in every attempt of a search, so that a trial interrupted and begun again is one trial."""
        return f"{self.candidate}-{self.number:03d}"

    @property
    def value(self) -> float | None:
        """The metric at the last step, None if there was none."""
        return self.steps[-1].value if self.steps else None

    @property
    def fraction(self) -> float:
        return self.steps[-1].fraction if self.steps else 0.0

    @property
    def seconds(self) -> float:
        return self.steps[-1].seconds if self.steps else 0.0

    @property
    def cpu_seconds(self) -> float:
        return self.steps[-1].cpu_seconds if self.steps else 0.0

    def with_step(self, step: Step) -> Self:
        """The trial with one more step; a step that it has reached already, before a restart, is not repeated."""
        return self if step.fraction <= self.fraction else replace(self, steps=(*self.steps, step))

    def to_json(self) -> dict[str, Any]:
        reached = {"value": self.value, "fraction": self.fraction, "seconds": self.seconds}
        return {**asdict(self), **reached, "trial_id": self.trial_id}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            candidate=value["candidate"],
            number=value["number"],
            parameters=value["parameters"],
            run_id=value["run_id"],
            status=value["status"],
            message=value["message"],
            steps=tuple(Step(**step) for step in value["steps"]),
            footprint=Footprint(**value["footprint"]) if value.get("footprint") else None,
            used=value.get("used", {}),
        )


def best_trial(trials: tuple[Trial, ...], metric: Metric) -> Trial | None:
    """The finished trial with the best value; of equal ones the first. None if none has finished."""
    finished = [(trial.value, trial) for trial in trials if trial.status == "finished" and trial.value is not None]
    return max(finished, key=lambda pair: metric.gain(pair[0]))[1] if finished else None


def best_so_far(trials: tuple[Trial, ...], metric: Metric) -> Trial | None:
    """The best finished trial or, where none has finished, the best of those that came farthest and did not fail."""
    reached = [trial for trial in trials if trial.status != "failed" and trial.value is not None]
    farthest = max((trial.fraction for trial in reached), default=0.0)
    partly = tuple(replace(trial, status="finished") for trial in reached if trial.fraction == farthest)
    best = best_trial(trials, metric) or best_trial(partly, metric)
    return next((trial for trial in trials if best is not None and trial.trial_id == best.trial_id), None)


@dataclass(frozen=True)
class SearchProgress:
    """Where a search is: trials done of all, the trial that has just changed, and the best finished so far."""

    done: int
    total: int
    trial: Trial
    best: Trial | None


@dataclass(frozen=True)
class Spent:
    """What a search has taken in all attempts: `seconds` of time, `cpu_seconds` of its trials, and their `cost`, None
    where no budget asks for it."""

    trials: int
    seconds: float
    cpu_seconds: float
    cost: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search in the order of candidates and numbers, and the best one.

    environment: see code_version.environment_digest, of where it ended. ended_by: the budget that was spent, such as
    `trials` or `seconds`, in a sentence; spent: see there. started_from: `version`, an earlier
    one, and `parameters`, by candidate those that were best in its search: where they lie in the space, the candidate's
    first trial has taken them. Empty without such a version. average: of an average of trials that was looked for, its
    `weights` by trial, its `value`, by how much it is `better_by` than the best single one (training.ensemble), and
    whether it was `chosen`. looked_at: about how many rows of training and validation the trials were given; None: all.
    """

    parent_run_id: str
    metric: str
    best: Trial
    trials: tuple[Trial, ...] = field(default=())
    environment: str = ""
    ended_by: str = ""
    spent: Spent = Spent(0, 0.0, 0.0)
    started_from: Mapping[str, Any] = field(default_factory=dict)
    average: Mapping[str, Any] = field(default_factory=dict)
    looked_at: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "parent_run_id": self.parent_run_id,
            "metric": self.metric,
            "best": self.best.to_json(),
            "trials": [trial.to_json() for trial in self.trials],
            "environment": self.environment,
            "ended_by": self.ended_by,
            "spent": asdict(self.spent),
            "started_from": dict(self.started_from),
            "average": dict(self.average),
            "looked_at": self.looked_at,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(
            parent_run_id=value["parent_run_id"],
            metric=value["metric"],
            best=Trial.from_json(value["best"]),
            trials=tuple(Trial.from_json(trial) for trial in value["trials"]),
            environment=value["environment"],
            ended_by=value.get("ended_by", ""),
            spent=Spent(**value["spent"]) if "spent" in value else Spent(0, 0.0, 0.0),
            started_from=value.get("started_from", {}),
            average=value.get("average", {}),
            looked_at=value.get("looked_at"),
        )
