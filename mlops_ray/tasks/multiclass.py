"""MultiClass: the label is one of several names, and the answer the probability of each."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError, ModelError, UseCaseError
from mlops_ray.tasks.confusion import counted
from mlops_ray.tasks.decision import GAIN, GainTable, best_predictions, gains_described, rows_described
from mlops_ray.tasks.declared import LATER, is_writable, object_schema
from mlops_ray.tasks.estimate import freedom_of
from mlops_ray.tasks.evaluation import Blocks, Floats, Measured, Metric, ReliabilityBin, weighted_mean
from mlops_ray.tasks.link import Softmax
from mlops_ray.tasks.measured import measured_by_blocks
from mlops_ray.tasks.probability import log_losses, log_odds, log_odds_error, wrong_probability
from mlops_ray.tasks.ranking import calibration, freedom_by_label, ranking

if TYPE_CHECKING:
    from mlops_ray.tasks.task import Task


@dataclass(frozen=True)
class MultiClass:
    """See `task.Task`. labels: the number of the class among `classes`, [rows]. answer: probabilities, [rows, classes].

    The prediction is the class with the highest probability; of equal ones the first. decision: with it, the class that
    brings most where the probabilities are right (`decision.best_predictions`), at the endpoint, in batch and in
    monitoring. Nothing is found for it: it is as good as the probabilities are calibrated (`Fit.calibration`).

    Metrics: log_loss (nats), roc_auc (the mean over the classes of each against the rest; higher is better), accuracy
    (of the prediction; higher is better), brier (the sum over the classes of the squared errors, from 0 to 2), and
    calibration_error (of the highest probability against how often its class is right, whatever the prediction; so are
    `reliability`, `guess` and `observed`). A decision adds the metric gain, the mean of a row (higher is better).
    """

    classes: tuple[str, ...]
    decision: GainTable | None = field(default=None, metadata=LATER)

    kind: ClassVar[str] = "multiclass"
    advice: ClassVar[str] = 'Write text, such as pl.when(pl.col("delay") >= 15).then(pl.lit("late")).otherwise(…).'
    threshold: ClassVar[None] = None
    reliability_axes: ClassVar[tuple[str, str]] = ("probability of the most probable class", "share where it was right")
    is_open: ClassVar[bool] = False
    loss: ClassVar[str] = "log loss"
    additive_scale: ClassVar[str] = "log odds of the predicted class"
    output: ClassVar[str] = "probability"
    explained_output: ClassVar[str] = output
    label_type: ClassVar[pl.DataType] = pl.String()
    output_types: ClassVar[Mapping[str, str]] = {"probabilities": "FP32", "prediction": "BYTES"}
    _metrics: ClassVar[Mapping[str, Metric]] = {
        "log_loss": Metric(lower_is_better=True, highest=np.inf),
        "roc_auc": Metric(lower_is_better=False),
        "accuracy": Metric(lower_is_better=False),
        "brier": Metric(lower_is_better=True, highest=2.0),
        "calibration_error": Metric(lower_is_better=True, biased=True),
    }

    def __post_init__(self) -> None:
        names = self.classes
        if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
            raise UseCaseError(f"MultiClass: classes is {names!r}. Give a tuple of names, each with a character.")
        if not all(map(is_writable, names)):
            raise UseCaseError(f"MultiClass: classes are {names!r}; one has half of a character. Write it whole.")
        if len(names) < 3 or len(set(names)) < len(names):
            raise UseCaseError(f"MultiClass: classes are {names!r}. Give three or more, each once; two are Binary().")
        if not isinstance(self.decision, GainTable | None):
            raise UseCaseError(f"MultiClass: decision is {self.decision!r}. Give GainTable(...), or leave it out.")
        if self.decision is not None:
            self.decision.expect_classes(names)

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return self._metrics if self.decision is None else {**self._metrics, "gain": GAIN}

    @cached_property
    def _gains(self) -> Floats | None:
        return None if self.decision is None else self.decision.of(self.classes)

    @property
    def width(self) -> int:
        return len(self.classes)

    @property
    def parts(self) -> tuple[str, ...]:
        return self.classes

    @property
    def output_parts(self) -> Mapping[str, tuple[str, ...]]:
        return {"probabilities": self.classes}

    @property
    def told_as(self) -> Mapping[str, Any]:
        return {"type": "text", "choices": self.classes}

    @property
    def row_schema(self) -> Mapping[str, Any]:
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        return {"probabilities": object_schema(self.classes, probability), "prediction": {"enum": list(self.classes)}}

    @property
    def ledger_types(self) -> Mapping[str, pl.DataType]:
        return {"probabilities": pl.Array(pl.Float32, self.width)}

    def reads(self, dtype: pl.DataType) -> bool:
        return dtype in (pl.String, pl.Categorical, pl.Enum)

    def can_be(self, labels: pl.Series) -> pl.Series:
        return labels.cast(pl.String).is_in(self.classes)

    def encoded(self, labels: pl.Series) -> NDArray[np.intp]:
        text = labels.cast(pl.String)
        other = text.filter(~self.can_be(text)).value_counts(sort=True)
        if other.height:
            name, rows = other.row(0)
            raise DataError(
                f"{int(other['count'].sum())} of {len(labels)} labels are none of the classes "
                f"({', '.join(self.classes)}); most often {name!r}, in {rows} rows. Name it in MultiClass, or make it "
                f"null in the label's expression."
            )
        number = {name: at for at, name in enumerate(self.classes)}
        return text.replace_strict(number, return_dtype=pl.Int64).to_numpy().astype(np.intp)

    def shortfall(self, labels: NDArray[np.intp]) -> str | None:
        absent = [name for name, rows in zip(self.classes, self._rows(labels), strict=True) if not rows]
        return f"{len(labels)} rows, none of them with the label {' or '.join(absent)}," if absent else None

    def rarest(self, labels: NDArray[np.intp]) -> int:
        return int(self._rows(labels).min())

    def events(self, labels: NDArray[np.intp]) -> Mapping[str, NDArray[np.bool_]]:
        return {name: labels == at for at, name in enumerate(self.classes)}

    def averaged(self, labels: NDArray[np.intp]) -> Mapping[str, Floats]:
        """The shares of all classes but the first, which is what is left."""
        return {name: (labels == at).astype(np.float64) for at, name in enumerate(self.classes) if at}

    @property
    def class_names(self) -> tuple[str | bool, ...]:
        return self.classes

    def class_numbers(self, labels: NDArray[np.intp]) -> NDArray[np.intp]:
        return labels

    def about(self, labels: NDArray[np.intp]) -> Mapping[str, Any]:
        shares = self._rows(labels) / max(1, len(labels))
        return {"classes": dict(zip(self.classes, shares.tolist(), strict=True))}

    def described(self, about: Mapping[str, Any]) -> str:
        return ", ".join(f"{share:.1%} {name}".replace("%", " %", 1) for name, share in about["classes"].items())

    def values(
        self, wanted: Collection[str], labels: NDArray[np.intp], answer: Floats, block: Blocks, weights: Floats
    ) -> dict[str, Floats]:
        guess = answer.astype(np.float64)
        found = dict[str, Floats]()
        if "log_loss" in wanted:
            found["log_loss"] = weighted_mean(self.losses(labels, guess), block, weights)
        if "roc_auc" in wanted:
            by_class = [
                ranking(truth.astype(np.float64), guess[:, at], block, weights)[0]
                for at, truth in enumerate(self.events(labels).values())
            ]
            found["roc_auc"] = np.stack(by_class).mean(axis=0)
        predicted = self._predicted(answer)
        if "accuracy" in wanted:
            found["accuracy"] = weighted_mean((predicted == labels).astype(np.float64), block, weights)
        if "brier" in wanted:
            truths = np.eye(self.width)[labels]
            found["brier"] = weighted_mean(((guess - truths) ** 2).sum(axis=1), block, weights)
        if "calibration_error" in wanted:
            found["calibration_error"] = calibration(*self._most_probable(labels, guess), block, weights)[0]
        if "gain" in wanted and self._gains is not None:
            found["gain"] = weighted_mean(self._gains[labels, predicted], block, weights)
        return {name: found[name] for name in wanted}

    def freedom(self, metric: str, labels: NDArray[np.intp], block: Blocks) -> float:
        if metric == "roc_auc":
            return min(freedom_by_label(one.astype(np.float64), block) for one in self.events(labels).values())
        return freedom_of(np.bincount(block).astype(np.float64))

    def losses(self, labels: NDArray[np.intp], answer: Floats) -> Floats:
        of_label = np.asarray(answer, dtype=np.float64)[np.arange(len(labels)), labels]
        return log_losses(np.ones(len(labels), dtype=np.bool_), of_label)

    @property
    def fitted_as(self) -> "tuple[Task, ...]":
        return (self,)

    def searched_by(self, metric: str) -> "MultiClass":
        return self

    def link(self, labels: NDArray[np.intp]) -> Softmax:
        return Softmax(self.width)

    def without_model(self, labels: NDArray[np.intp], metric: str) -> Floats:
        rows = self._rows(labels).astype(np.float64)
        if self._gains is not None and metric in ("gain", "accuracy"):
            worth = self._gains if metric == "gain" else np.eye(self.width)
            sure: Floats = np.eye(self.width)[(rows[:, np.newaxis] * worth).sum(axis=0).argmax()]
            return sure
        # Half a row more of each: what has not been seen yet is not impossible.
        shares: Floats = (rows + 0.5) / (len(labels) + 0.5 * self.width)
        return shares

    def reliability(self, labels: NDArray[np.intp], answer: Floats) -> tuple[ReliabilityBin, ...]:
        one_block = np.zeros(len(labels), dtype=np.intp)
        return calibration(*self._most_probable(labels, answer.astype(np.float64)), one_block, np.ones((1, 1)))[1]

    def confusion(self, labels: NDArray[np.intp], answer: Floats) -> Mapping[str, Any]:
        return counted(self.classes, labels, self._predicted(answer))

    def measured(self, labels: NDArray[np.intp], answer: Floats, day: NDArray[np.int64]) -> Mapping[str, Measured]:
        return measured_by_blocks(self, labels, answer, day)

    def watched(self, answer: Floats) -> Mapping[str, Floats]:
        return {name: answer[:, at] for at, name in enumerate(self.classes)}

    def guess(self, answer: Floats) -> Floats:
        return np.asarray(answer.max(axis=1), dtype=np.float64)

    def observed(self, labels: NDArray[np.intp], answer: Floats) -> Floats:
        return self._most_probable(labels, answer)[0]

    def errors(self, labels: NDArray[np.intp], answer: Floats) -> Floats:
        return self.losses(labels, answer)

    def foretold(self, answer: Floats) -> Floats:
        """The entropy: the log loss to expect where the probabilities are right."""
        logs = np.log(np.maximum(answer, np.finfo(np.float64).tiny))
        return np.asarray(-(answer * logs).sum(axis=1), dtype=np.float64)

    def wrong(self, answer: NDArray[np.floating[Any]]) -> str | None:
        if sentence := wrong_probability(answer):
            return sentence
        sums = answer.sum(axis=1)
        if (off := np.flatnonzero(np.abs(sums - 1) > 1e-4)).size:
            return f"The probabilities of row {off[0]}, and of {off.size} of {len(answer)}, add up to {sums[off[0]]}."
        return None

    def checked(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        if sentence := self.wrong(answer):
            raise ModelError(f"{sentence} Repair the candidate or its ONNX export.")
        return np.clip(answer, 0, 1)

    def chosen(self, answer: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        return np.zeros(len(answer), dtype=np.bool_)

    def decided(self, labels: NDArray[Any], answer: Floats, days: int) -> Self:
        return self

    def renewed(self, labels: NDArray[Any], answer: Floats) -> "MultiClass":
        return self

    def like(self, other: "Task") -> Self | None:
        return self if isinstance(other, MultiClass) and self.classes == other.classes else None

    def decisions(self, labels: NDArray[Any], answer: Floats, day: NDArray[np.intp]) -> Mapping[str, Any]:
        if self.decision is None:
            return {}
        gains, predicted = self.decision.of(self.classes), self._predicted(answer)
        ways: dict[str, Any] = {"by the table": predicted, "the most probable class": answer.argmax(axis=1)}
        ways |= {f"always {name}": at for at, name in enumerate(self.classes)}
        by_day = self._rows(predicted) / len(np.unique(day))
        return {
            "rows_a_day": dict(zip(self.classes, by_day.tolist(), strict=True)),
            "unit": self.decision.unit,
            "gain": {way: float(gains[labels, chosen].mean()) for way, chosen in ways.items()},
        }

    def additive(self, answer: NDArray[np.floating[Any]], about: NDArray[np.floating[Any]]) -> Floats:
        return log_odds(answer[:, self._predicted(about[np.newaxis]).item()])

    def additive_error(self, additive: Floats) -> Floats:
        return log_odds_error(additive)

    def with_scale(self, labels: NDArray[Any]) -> "MultiClass":
        return self

    def apart(self, ours: NDArray[np.floating[Any]], theirs: NDArray[np.floating[Any]]) -> Floats:
        differences: Floats = np.abs(np.subtract(ours, theirs, dtype=np.float64)).max(axis=1)
        return differences

    def decisions_described(self, decisions: Mapping[str, Any]) -> str:
        by_day, gains = decisions["rows_a_day"], decisions["gain"]
        return f"Acting by the gain table; {rows_described(by_day)}; {gains_described(gains, decisions['unit'])}."

    def columns(self, answer: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {"probabilities": answer, "prediction": np.array(self.classes, dtype=object)[self._predicted(answer)]}

    def rows(self, answer: NDArray[np.float32]) -> list[dict[str, Any]]:
        return [
            {"probabilities": dict(zip(self.classes, row, strict=True)), "prediction": self.classes[at]}
            for row, at in zip(answer.tolist(), self._predicted(answer).tolist(), strict=True)
        ]

    def _rows(self, labels: NDArray[np.intp]) -> NDArray[np.intp]:
        return np.bincount(labels, minlength=self.width)

    def _predicted(self, answer: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
        """The number of the predicted class, [rows]."""
        return answer.argmax(axis=1) if self._gains is None else best_predictions(self._gains, answer)

    def _most_probable(self, labels: NDArray[np.intp], guess: Floats) -> tuple[Floats, Floats]:
        """Whether the most probable class is right, and its probability."""
        first = guess.argmax(axis=1)
        return (first == labels).astype(np.float64), guess[np.arange(len(labels)), first]
