"""Binary: the label is yes or no, and the answer the probability of yes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import ModelError, UseCaseError
from mlops_ray.tasks.confusion import counted
from mlops_ray.tasks.decision import GAIN, Capacity, Gains, counted_rows, gains_described, rows_described
from mlops_ray.tasks.declared import expect_numbers
from mlops_ray.tasks.estimate import freedom_of
from mlops_ray.tasks.evaluation import Blocks, Floats, Measured, Metric, ReliabilityBin, weighted_mean
from mlops_ray.tasks.link import Logistic
from mlops_ray.tasks.measured import measured_yes_no
from mlops_ray.tasks.probability import (
    EVERYBODY,
    NOBODY,
    as_served,
    log_losses,
    log_odds,
    log_odds_error,
    wrong_probability,
)
from mlops_ray.tasks.ranking import calibration, freedom_by_label, ranking

if TYPE_CHECKING:
    from mlops_ray.tasks.task import Task


@dataclass(frozen=True)
class Binary:
    """See `task.Task`. labels: boolean. answer: the probability of true, [rows].

    Metrics: roc_auc, average_precision (higher is better), log_loss (nats), brier, and calibration_error (expected
    calibration error over ten bins of equally many rows).

    threshold: from this probability on an answer is yes: at the endpoint, in batch, in monitoring and where fairness is
    judged; compared as float32, in which answers are served. Sealed with the model. decision: how it is found, on the
    validation period, in the place of a declared one: from 0, for every row, to the float32 above 1, for none. `Gains`
    add the metric gain, the mean of a row (higher is better).
    """

    threshold: float = 0.5
    decision: Gains | Capacity | None = None

    kind: ClassVar[str] = "binary"
    advice: ClassVar[str] = 'Write a comparison, such as pl.col("delay") >= 15.'
    loss: ClassVar[str] = "log loss"
    additive_scale: ClassVar[str] = "log odds"
    output: ClassVar[str] = "probability"
    explained_output: ClassVar[str] = output
    width: ClassVar[int] = 1
    class_names: ClassVar[tuple[str | bool, ...]] = (False, True)
    told_as: ClassVar[Mapping[str, Any]] = {"type": "boolean"}
    label_type: ClassVar[pl.DataType] = pl.Boolean()
    parts: ClassVar[tuple[str, ...]] = ()
    output_parts: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    reliability_axes: ClassVar[tuple[str, str]] = ("probability that was answered", "share with the label")
    row_schema: ClassVar[Mapping[str, Any]] = {
        "probability": {"type": "number", "minimum": 0, "maximum": 1},
        "prediction": {"type": "boolean"},
    }
    output_types: ClassVar[Mapping[str, str]] = {"probability": "FP32", "prediction": "BOOL"}
    ledger_types: ClassVar[Mapping[str, pl.DataType]] = {"probability": pl.Float32()}
    _metrics: ClassVar[Mapping[str, Metric]] = {
        "roc_auc": Metric(lower_is_better=False),
        "average_precision": Metric(lower_is_better=False),
        "log_loss": Metric(lower_is_better=True, highest=np.inf),
        "brier": Metric(lower_is_better=True),
        "calibration_error": Metric(lower_is_better=True, biased=True),
    }

    def __post_init__(self) -> None:
        expect_numbers(self, "threshold")
        if not EVERYBODY <= self.threshold <= NOBODY:
            raise UseCaseError(f"Binary: threshold is {self.threshold}. Give a probability, from 0 to 1.")
        if not isinstance(self.decision, Gains | Capacity | None):
            raise UseCaseError(
                f"Binary: decision is {self.decision!r}. Give Gains(...) or Capacity(...), or leave it out."
            )

    @property
    def _least(self) -> float:
        """The threshold as answers are served, in float32: what every comparison with it asks for."""
        return float(np.float32(self.threshold))

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return {**self._metrics, "gain": GAIN} if isinstance(self.decision, Gains) else self._metrics

    def reads(self, dtype: pl.DataType) -> bool:
        return dtype == pl.Boolean

    def can_be(self, labels: pl.Series) -> pl.Series:
        return labels | ~labels

    def encoded(self, labels: pl.Series) -> NDArray[np.bool_]:
        return labels.to_numpy()

    def shortfall(self, labels: NDArray[np.bool_]) -> str | None:
        kinds = int(labels.any()) + int(not labels.all())
        return f"{len(labels)} rows with {kinds if len(labels) else 0} of 2 label values" if kinds < 2 else None

    def rarest(self, labels: NDArray[np.bool_]) -> int:
        positive = int(labels.sum())
        return min(positive, len(labels) - positive)

    def events(self, labels: NDArray[np.bool_]) -> Mapping[str, NDArray[np.bool_]]:
        return {"": labels}

    def averaged(self, labels: NDArray[np.bool_]) -> Mapping[str, Floats]:
        return {"": labels.astype(np.float64)}

    def class_numbers(self, labels: NDArray[np.bool_]) -> NDArray[np.intp]:
        return labels.astype(np.intp)

    def about(self, labels: NDArray[np.bool_]) -> Mapping[str, Any]:
        return {"positive": float(labels.mean())}

    def described(self, about: Mapping[str, Any]) -> str:
        return f"{about['positive']:.1%} have the label".replace("%", " %")

    def values(
        self, wanted: Collection[str], labels: NDArray[np.bool_], answer: Floats, block: Blocks, weights: Floats
    ) -> dict[str, Floats]:
        truth, guess = labels.astype(np.float64), answer.astype(np.float64)
        found = dict[str, Floats]()
        if "roc_auc" in wanted or "average_precision" in wanted:
            found["roc_auc"], found["average_precision"] = ranking(truth, guess, block, weights)
        if "log_loss" in wanted:
            found["log_loss"] = weighted_mean(self.losses(labels, guess), block, weights)
        if "brier" in wanted:
            found["brier"] = weighted_mean((guess - truth) ** 2, block, weights)
        if "calibration_error" in wanted:
            found["calibration_error"] = calibration(truth, guess, block, weights)[0]
        if "gain" in wanted and isinstance(self.decision, Gains):
            found["gain"] = weighted_mean(self.decision.of(labels, self.chosen(answer)), block, weights)
        return {name: found[name] for name in wanted}

    def freedom(self, metric: str, labels: NDArray[np.bool_], block: Blocks) -> float:
        if metric in ("roc_auc", "average_precision"):
            return freedom_by_label(labels.astype(np.float64), block)
        return freedom_of(np.bincount(block).astype(np.float64))

    def losses(self, labels: NDArray[np.bool_], answer: Floats) -> Floats:
        return log_losses(labels, answer)

    @property
    def fitted_as(self) -> "tuple[Task, ...]":
        return (self,)

    def searched_by(self, metric: str) -> "Binary":
        return self

    def link(self, labels: NDArray[np.bool_]) -> Logistic:
        return Logistic()

    def without_model(self, labels: NDArray[np.bool_], metric: str) -> float:
        if metric == "gain" and isinstance(self.decision, Gains):
            always, never = (self.decision.of(labels, np.full(len(labels), one)).mean() for one in (True, False))
            return float(always > never)
        return float((labels.sum() + 0.5) / (len(labels) + 1))

    def reliability(self, labels: NDArray[np.bool_], answer: Floats) -> tuple[ReliabilityBin, ...]:
        one_block = np.zeros(len(labels), dtype=np.intp)
        return calibration(labels.astype(np.float64), answer.astype(np.float64), one_block, np.ones((1, 1)))[1]

    def confusion(self, labels: NDArray[np.bool_], answer: Floats) -> Mapping[str, Any]:
        return counted(("no", "yes"), labels.astype(np.intp), self.chosen(answer).astype(np.intp))

    def measured(self, labels: NDArray[np.bool_], answer: Floats, day: NDArray[np.int64]) -> Mapping[str, Measured]:
        return measured_yes_no(labels, answer, self.losses(labels, answer), day)

    def watched(self, answer: Floats) -> Mapping[str, Floats]:
        return {"": answer}

    def guess(self, answer: Floats) -> Floats:
        return answer

    def observed(self, labels: NDArray[np.bool_], answer: Floats) -> Floats:
        return labels.astype(np.float64)

    def errors(self, labels: NDArray[np.bool_], answer: Floats) -> Floats:
        errors: Floats = np.abs(labels - np.asarray(answer, dtype=np.float64))
        return errors

    def foretold(self, answer: Floats) -> Floats:
        return np.asarray(2 * answer * (1 - answer), dtype=np.float64)

    def wrong(self, answer: NDArray[np.floating[Any]]) -> str | None:
        return wrong_probability(answer)

    def checked(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        if answer.size == 1 and 0 <= answer.item() <= 1:  # as most are; two reductions cost a tenth of a model's time
            return answer
        if sentence := self.wrong(answer):
            raise ModelError(f"{sentence} Repair the candidate or its ONNX export.")
        return np.clip(answer, 0, 1)

    def chosen(self, answer: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        return as_served(answer) >= self._least

    def additive(self, answer: NDArray[np.floating[Any]], about: NDArray[np.floating[Any]]) -> Floats:
        return log_odds(answer)

    def additive_error(self, additive: Floats) -> Floats:
        return log_odds_error(additive)

    def with_scale(self, labels: NDArray[Any]) -> "Binary":
        return self

    def apart(self, ours: NDArray[np.floating[Any]], theirs: NDArray[np.floating[Any]]) -> Floats:
        differences: Floats = np.abs(np.subtract(ours, theirs, dtype=np.float64))
        return differences

    @property
    def is_open(self) -> bool:
        return self.decision is not None

    def decided(self, labels: NDArray[np.bool_], answer: Floats, days: int) -> "Binary":
        if self.decision is None:
            return self
        return replace(self, threshold=self.decision.threshold(labels, answer, days))

    def renewed(self, labels: NDArray[np.bool_], answer: Floats) -> "Binary":
        return self

    def like(self, other: "Task") -> "Binary | None":
        return replace(self, threshold=other.threshold) if isinstance(other, Binary) else None

    def decisions(self, labels: NDArray[np.bool_], answer: Floats, day: NDArray[np.intp]) -> Mapping[str, Any]:
        ways = {
            "at the threshold": self.chosen(answer),
            "at 0.5": BINARY.chosen(answer),
            "always": np.ones(len(labels), np.bool_),
            "never": np.zeros(len(labels), np.bool_),
        }
        if self.threshold == BINARY.threshold:
            del ways["at 0.5"]
        days = len(np.unique(day))
        by_day = {way: float(chosen.sum() / days) for way, chosen in ways.items()}
        said: dict[str, Any] = {"threshold": self.threshold, "rows_a_day": by_day}
        match self.decision:
            case Gains(unit=unit) as gains:
                brought = {way: float(gains.of(labels, chosen).mean()) for way, chosen in ways.items()}
                return said | {"unit": unit, "gain": brought}
            case Capacity(per_day):
                return said | {"hands": per_day}
            case None:
                return said

    def decisions_described(self, decisions: Mapping[str, Any]) -> str:
        threshold = decisions["threshold"]
        acting = f"Acting from a probability of {threshold:.3f} on" if threshold > EVERYBODY else "Acting on every row"
        said = [acting if threshold <= 1 else "Acting on no row"]
        if by_day := decisions.get("rows_a_day"):  # not in what was sealed before
            said.append(rows_described(by_day))
        if hands := decisions.get("hands"):
            said.append(f"there are hands for {counted_rows(hands)}")
        if gains := decisions.get("gain"):
            said.append(gains_described(gains, decisions["unit"]))
        return f"{'; '.join(said)}."

    def columns(self, answer: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {"probability": answer, "prediction": answer >= self._least}

    def rows(self, answer: NDArray[np.float32]) -> list[dict[str, Any]]:
        least = self._least
        return [{"probability": value, "prediction": value >= least} for value in answer.tolist()]


BINARY = Binary()
