"""Regression: the label is a number, and the answer what is expected of it."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError, ModelError, UseCaseError
from mlops_ray.tasks.conformal import Margins, around_quantiles, conformal, fewest_rows, telling_rows
from mlops_ray.tasks.declared import LATER, expect_numbers, expect_text, object_schema
from mlops_ray.tasks.estimate import freedom_of
from mlops_ray.tasks.evaluation import Blocks, Floats, Measured, Metric, ReliabilityBin, weighted_mean
from mlops_ray.tasks.link import Linear
from mlops_ray.tasks.measured import measured_by_blocks

if TYPE_CHECKING:
    from mlops_ray.tasks.task import Task

_BINS = 10
# Answers are float32, which moves numbers by up to 6e-8 of their size: nearly 1 % of the deviation of such labels.
_LARGEST, _TOLD_APART = float(np.finfo(np.float32).max), 1e-5
# The output of the ONNX model that is the number without its quantiles.
ESTIMATE = "estimate"
# Of a week with fewer rows than that the coverage says nothing. Within so much it is called near.
_WEEK_ROWS, _NEAR = 100, 0.03


@dataclass(frozen=True)
class Regression:
    """See `task.Task`. labels: numbers. answer: a number, [rows]; with quantiles it and each of them, [rows, 1 + k].

    unit: of label and answer, for people. estimand: what the answer estimates: the mean, which the squared error asks
    for, or the median, which the absolute error does and a few extreme labels do not move (Gneiting, "Making and
    evaluating point forecasts", Journal of the American Statistical Association 106, 2011).

    coverage: with it each answer comes with an interval from low to high, which so many labels are in, such as 0.8.
    margins: what is added to an answer for its low and its high end; found on the validation period, and sealed with
    the model. edges: where there are several such pairs, from which answer on the next one holds. around: the two of
    the quantiles that they are added to instead. deviation: the standard one of the labels that the model was fitted
    to, sealed with it.

    quantiles: with them each answer comes with the numbers that these shares of the labels are expected to be below,
    such as (0.1, 0.5, 0.9): of each a model of its own, which is fitted as the candidate is, to the pinball loss
    (Koenker, Bassett, "Regression quantiles", Econometrica 46, 1978). Where they cross they are put in order
    (Chernozhukov et al., "Quantile and probability curves without crossing", Econometrica 78, 2010).

    Metrics: mean_absolute_error, root_mean_squared_error, in the unit, r2, the share of the variance that is explained
    (higher is better), where quantiles are declared pinball_loss, the mean over them, in the unit, and where intervals
    are declared coverage, the share of the labels that are in theirs.
    """

    unit: str = ""
    estimand: Literal["mean", "median"] = "mean"
    coverage: float | None = None
    margins: tuple[float, ...] | None = None
    edges: tuple[float, ...] = ()
    deviation: float | None = None
    quantiles: tuple[float, ...] = field(default=(), metadata=LATER)
    around: tuple[float, ...] = field(default=(), metadata=LATER)

    kind: ClassVar[str] = "regression"
    advice: ClassVar[str] = 'Write a number, such as pl.col("arr_delay").'
    threshold: ClassVar[None] = None
    reliability_axes: ClassVar[tuple[str, str]] = ("answer", "mean of the labels")
    output: ClassVar[str] = "prediction"
    class_names: ClassVar[tuple[str | bool, ...]] = ()
    told_as: ClassVar[Mapping[str, Any]] = {"type": "number"}
    label_type: ClassVar[pl.DataType] = pl.Float64()
    _metrics: ClassVar[Mapping[str, Metric]] = {
        "mean_absolute_error": Metric(lower_is_better=True, highest=np.inf),
        "root_mean_squared_error": Metric(lower_is_better=True, highest=np.inf),
        "r2": Metric(lower_is_better=False, lowest=-np.inf),
    }

    @property
    def metrics(self) -> Mapping[str, Metric]:
        pinball = {"pinball_loss": Metric(lower_is_better=True, highest=np.inf)}
        coverage = {"coverage": Metric(lower_is_better=False, of_decision=True, chooses=False)}
        found = {**self._metrics, **(pinball if self.quantiles else {})}
        return found if self.coverage is None else {**found, **coverage}

    @property
    def width(self) -> int:
        return 1 + len(self.quantiles)

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.output, *(f"quantile {level}" for level in self._levels)) if self.quantiles else ()

    @property
    def output_parts(self) -> Mapping[str, tuple[str, ...]]:
        return {"quantiles": self._levels} if self.quantiles else {}

    @property
    def _levels(self) -> tuple[str, ...]:
        return tuple(map(str, self.quantiles))

    @property
    def ledger_types(self) -> Mapping[str, pl.DataType]:
        one: dict[str, pl.DataType] = {"prediction": pl.Float32()}
        return {**one, "quantiles": pl.Array(pl.Float32, len(self.quantiles))} if self.quantiles else one

    @property
    def level(self) -> float | None:
        """Which quantile of the labels a model of it answers with, 0.5 the median; None: the mean."""
        return None if self.estimand == "mean" else 0.5

    @property
    def fitted_as(self) -> "tuple[Regression, ...]":
        return (self._of_the_number(), *(OfLevel(self.unit, of_level=level) for level in self.quantiles))

    def searched_by(self, metric: str) -> "Regression":
        return self if metric == "pinball_loss" else self._of_the_number()

    def _of_the_number(self) -> "Regression":
        """The same without quantiles, and without an interval around them."""
        margins = None if self.around else self.margins
        return replace(self, quantiles=(), around=(), margins=margins)

    def __post_init__(self) -> None:
        expect_text(self, "unit")
        if self.coverage is not None:
            expect_numbers(self, "coverage")
        if self.estimand not in ("mean", "median"):
            raise UseCaseError(f"Regression: estimand is {self.estimand!r}. It is 'mean' or 'median'.")
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise UseCaseError(f"Regression: coverage is {self.coverage}. Give a share between 0 and 1, such as 0.8.")
        if self.margins is not None and len(self.margins) != 2 * (len(self.edges) + 1):
            raise UseCaseError(
                f"Regression: there are {len(self.margins)} margins for {len(self.edges)} edges, and a pair is needed "
                f"below, between and above them. Leave both out: they are found when a model is sealed."
            )
        self._check_quantiles()
        is_found = len(self.around) == len(self.margins or ()) == 2 and {*self.around} <= {*self.quantiles}
        if self.around and not is_found:
            raise UseCaseError("Regression: around is found when a model is sealed, with margins. Leave it out.")

    def _check_quantiles(self) -> None:
        levels = self.quantiles
        if not isinstance(levels, tuple):
            raise UseCaseError(f"Regression: quantiles is {levels!r}. Give a tuple of shares, such as (0.1, 0.5, 0.9).")
        for level in levels:
            if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
                raise UseCaseError(f"Regression: one of quantiles is {level!r}. Give shares between 0 and 1.")
        if sorted(set(levels)) != list(levels):
            raise UseCaseError(f"Regression: quantiles are {levels}. Give each once, the lowest first.")

    def reads(self, dtype: pl.DataType) -> bool:
        return dtype.is_numeric()

    def can_be(self, labels: pl.Series) -> pl.Series:
        return labels.cast(pl.Float64).abs() <= _LARGEST

    def encoded(self, labels: pl.Series) -> NDArray[np.float64]:
        values = labels.cast(pl.Float64).to_numpy()
        if (wrong := np.flatnonzero(~self.can_be(labels).to_numpy())).size:
            raise DataError(
                f"{wrong.size} of {len(values)} labels are no finite number, from -{_LARGEST:.2g} to {_LARGEST:.2g} as "
                f"answers can be (the first is {values[wrong[0]]}). Make them null, so that their rows are not "
                f"trained on, or repair the expression of the label."
            )
        return values

    def shortfall(self, labels: NDArray[np.float64]) -> str | None:
        kinds = min(2, len(np.unique(labels)))
        if kinds < 2:
            return f"{len(labels)} rows with {kinds} label value{'' if kinds == 1 else 's'}"
        mean, deviation = float(labels.mean()), float(labels.std())
        if deviation >= _TOLD_APART * abs(mean):
            return None
        return (
            f"{len(labels)} rows whose labels deviate by {deviation:.3g} around {mean:.3g}, which answers in float32 "
            f"cannot follow (subtract a constant in the label's expression)"
        )

    def rarest(self, labels: NDArray[np.float64]) -> int:
        return len(labels)

    def events(self, labels: NDArray[np.float64]) -> Mapping[str, NDArray[np.bool_]]:
        return {"above its median": labels > np.median(labels)}

    def averaged(self, labels: NDArray[np.float64]) -> Mapping[str, Floats]:
        return {"": labels}

    def class_numbers(self, labels: NDArray[np.float64]) -> NDArray[np.intp]:
        return np.zeros(len(labels), dtype=np.intp)

    def about(self, labels: NDArray[np.float64]) -> Mapping[str, Any]:
        return {"mean": float(labels.mean()), "median": float(np.median(labels)), "deviation": float(labels.std())}

    def described(self, about: Mapping[str, Any]) -> str:
        unit = f" {self.unit}" if self.unit else ""
        shown = (f"{name} {about[name]:.4g}{unit}" for name in ("mean", "median", "deviation"))
        return f"the labels' {', '.join(shown).replace('deviation', 'standard deviation')}"

    def values(
        self, wanted: Collection[str], labels: NDArray[np.float64], answer: Floats, block: Blocks, weights: Floats
    ) -> dict[str, Floats]:
        error = _estimate(answer) - labels
        found = dict[str, Floats]()
        if "mean_absolute_error" in wanted:
            found["mean_absolute_error"] = weighted_mean(np.abs(error), block, weights)
        if "root_mean_squared_error" in wanted or "r2" in wanted:
            squared = weighted_mean(error**2, block, weights)
            found["root_mean_squared_error"] = np.sqrt(squared)
            # Around a fixed point near the mean, as the variance of large numbers is lost in their squares.
            centred = labels - labels.mean()
            mean = weighted_mean(centred, block, weights)
            variance = weighted_mean(centred**2, block, weights) - mean**2
            with np.errstate(divide="ignore", invalid="ignore"):
                found["r2"] = np.where(variance > 0, 1 - squared / variance, np.nan)
        if "pinball_loss" in wanted:
            losses = [pinball(labels, answer[:, at], level) for at, level in enumerate(self.quantiles, start=1)]
            found["pinball_loss"] = weighted_mean(np.mean(losses, axis=0), block, weights)
        if "coverage" in wanted:
            found["coverage"] = weighted_mean(self._is_inside(labels, answer), block, weights)
        return {name: found[name] for name in wanted}

    def _is_inside(self, labels: NDArray[np.float64], answer: Floats) -> Floats:
        """1 where a label is in its answer's interval, else 0; NaN as long as none was found, [rows]."""
        low, high = self._ends(answer)
        return np.where(np.isnan(low + high), np.nan, (labels >= low) & (labels <= high))

    def _ends(self, answer: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
        """From where to where the interval of each answer is, [rows]; NaN as long as none was found."""
        margins = self.margins or (np.nan, np.nan)
        if not self.around:
            return Margins(margins, self.edges).around(_estimate(answer))
        low, high = (start + margin for start, margin in zip(self._starts(answer, self.around), margins, strict=True))
        return np.minimum(low, high), np.maximum(low, high)

    @property
    def _at_ends(self) -> tuple[float, ...]:
        """The two quantiles that a share of `coverage` is between, or none if they are not declared."""
        outside = (1 - (self.coverage or 1)) / 2
        found = tuple(level for level in self.quantiles if math.isclose(min(level, 1 - level), outside))
        return found if len(found) == 2 else ()

    def _starts(self, answer: NDArray[np.floating[Any]], ends: tuple[float, ...]) -> tuple[Floats, Floats]:
        """Of each row the two quantiles of these levels, each [rows]."""
        lower, upper = (answer[:, 1 + self.quantiles.index(level)].astype(np.float64) for level in ends)
        return lower, upper

    def freedom(self, metric: str, labels: NDArray[np.float64], block: Blocks) -> float:
        return freedom_of(np.bincount(block).astype(np.float64))

    @property
    def row_schema(self) -> Mapping[str, Any]:
        unit = {"description": f"In {self.unit}."} if self.unit else {}
        number = {"type": "number", **unit}
        by_level = object_schema(self._levels, number)
        return {name: by_level if name == "quantiles" else number for name in self.output_types}

    @property
    def loss(self) -> str:
        return "squared error" if self.estimand == "mean" else "absolute error"

    def losses(self, labels: NDArray[np.float64], answer: Floats) -> Floats:
        error: Floats = _estimate(answer) - labels
        return error**2 if self.estimand == "mean" else np.abs(error)

    def link(self, labels: NDArray[np.float64]) -> Linear:
        middle = np.mean(labels) if self.level is None else np.quantile(labels, self.level)
        return Linear(float(middle), float(labels.std()) or 1.0, self.level)

    def without_model(self, labels: NDArray[np.float64], metric: str) -> float | Floats:
        middle = float(np.median(labels) if metric == "mean_absolute_error" else np.mean(labels))
        return np.array([middle, *np.quantile(labels, self.quantiles)]) if self.quantiles else middle

    def reliability(self, labels: NDArray[np.float64], answer: Floats) -> tuple[ReliabilityBin, ...]:
        answer = _estimate(answer)
        bins = np.searchsorted(np.unique(np.quantile(answer, np.linspace(0, 1, _BINS + 1)[1:-1])), answer)
        rows, guessed, observed = (np.bincount(bins, values) for values in (np.ones(len(labels)), answer, labels))
        totals = zip(rows, guessed, observed, strict=True)
        return tuple(ReliabilityBin(int(n), float(p / n), float(o / n)) for n, p, o in totals if n)

    def confusion(self, labels: NDArray[np.float64], answer: Floats) -> Mapping[str, Any]:
        return {}

    def measured(self, labels: NDArray[np.float64], answer: Floats, day: NDArray[np.int64]) -> Mapping[str, Measured]:
        return measured_by_blocks(self, labels, answer, day)

    def watched(self, answer: Floats) -> Mapping[str, Floats]:
        return {"": _estimate(answer)}

    def guess(self, answer: Floats) -> Floats:
        return _estimate(answer)

    def observed(self, labels: NDArray[np.float64], answer: Floats) -> Floats:
        return labels

    def errors(self, labels: NDArray[np.float64], answer: Floats) -> Floats:
        """Absolute ones, whatever is estimated: of squared ones a few rows would be all that is seen."""
        return np.abs(_estimate(answer) - labels)

    def foretold(self, answer: Floats) -> None:
        return None

    def wrong(self, answer: NDArray[np.floating[Any]]) -> str | None:
        finite = np.isfinite(answer).all(axis=tuple(range(1, answer.ndim)))
        if finite.all():
            return None
        row = int(np.argmin(finite))
        return (
            f"The model answered {answer[row]} for row {row}, and no finite number for {int((~finite).sum())} of "
            f"{len(answer)} rows."
        )

    def checked(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        if sentence := self.wrong(answer):
            raise ModelError(f"{sentence} Repair the candidate or its ONNX export.")
        return answer

    def chosen(self, answer: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        return np.zeros(len(answer), dtype=np.bool_)

    @property
    def is_open(self) -> bool:
        return self.coverage is not None

    def decided(self, labels: NDArray[Any], answer: Floats, days: int) -> "Regression":
        """See `conformal`."""
        if self.coverage is None:
            return self
        if len(labels) < (fewest := fewest_rows(self.coverage)):
            raise DataError(
                f"{len(labels)} rows of the validation period are too few for an interval with {self.coverage:.0%} of "
                f"the labels (at least {fewest} are needed). Give a longer one, or a lower coverage."
            )
        if ends := self._at_ends:
            margins = around_quantiles(labels, *self._starts(answer, ends), self.coverage)
            return replace(self, margins=margins, edges=(), around=ends)
        return self._with(conformal(labels, _estimate(answer), self.coverage))

    def renewed(self, labels: NDArray[Any], answer: Floats) -> "Regression":
        """What the validation period said was of an earlier model, and of an earlier time."""
        if self.margins is None or self.coverage is None or len(labels) < telling_rows(self.coverage):
            return self
        if self.around:
            return self.decided(labels, answer, 1)
        return self._with(Margins(self.margins, self.edges).renewed(labels, _estimate(answer), self.coverage))

    def _with(self, found: Margins) -> "Regression":
        return replace(self, margins=found.ends, edges=found.edges)

    def like(self, other: "Task") -> "Regression | None":
        if not isinstance(other, Regression) or self.unit != other.unit:
            return None
        if self.quantiles == other.quantiles:
            return replace(self, margins=other.margins, edges=other.edges, around=other.around)
        if other.around:
            return replace(self._of_the_number(), coverage=None)
        return replace(self._of_the_number(), margins=other.margins, edges=other.edges)

    def decisions(self, labels: NDArray[Any], answer: Floats, day: NDArray[np.intp]) -> Mapping[str, Any]:
        below = [float((labels <= answer[:, at]).mean()) for at in range(1, self.width)]
        said: dict[str, Any] = {"below": dict(zip(self._levels, below, strict=True))} if below else {}
        if self.margins is None:
            return said
        inside, (low, high) = self._is_inside(labels, answer), self._ends(answer)
        week = (day - day.min()) // 7
        rows, within = np.bincount(week), np.bincount(week, inside)
        by_week = [float(share) for share in within[rows >= _WEEK_ROWS] / rows[rows >= _WEEK_ROWS]]
        width = float(np.median(high - low))
        said |= {"coverage": float(inside.mean()), "by_week": by_week, "median_width": width}
        return {**said, "asked_for": self.coverage, "margins": list(self.margins), "unit": self.unit}

    @property
    def explained_output(self) -> str:
        return ESTIMATE if self.quantiles else self.output

    @property
    def additive_scale(self) -> str:
        return self.unit or "the label's unit"

    def additive(self, answer: NDArray[np.floating[Any]], about: NDArray[np.floating[Any]]) -> Floats:
        return _estimate(answer)

    def additive_error(self, additive: Floats) -> Floats:
        error: Floats = np.abs(additive) * float(np.finfo(np.float32).eps)
        return error

    def with_scale(self, labels: NDArray[Any]) -> "Regression":
        return replace(self, deviation=float(labels.std()))

    def apart(self, ours: NDArray[np.floating[Any]], theirs: NDArray[np.floating[Any]]) -> Floats:
        """Models add up float32 scores of the size of the deviation, also where the answer is near 0. Tasks that were
        sealed without one are measured as if it were 1."""
        scale = (1.0 if self.deviation is None else self.deviation) + np.abs(theirs, dtype=np.float64)
        differences: Floats = np.abs(np.subtract(ours, theirs, dtype=np.float64)) / scale
        return differences if differences.ndim == 1 else differences.max(axis=1)

    @property
    def output_types(self) -> Mapping[str, str]:
        found = ["prediction", *(("low", "high") if self.margins else ()), *self.output_parts]
        return dict.fromkeys(found, "FP32")

    def decisions_described(self, decisions: Mapping[str, Any]) -> str:
        said = [self._interval_described(decisions)] if "coverage" in decisions else []
        if below := decisions.get("below"):
            shares = ", ".join(f"{share:.1%} below that of {level}" for level, share in below.items())
            said.append(f"Of the labels are, by quantile: {shares}.".replace("%", " %"))
        return " ".join(said)

    def _interval_described(self, decisions: Mapping[str, Any]) -> str:
        unit = f" {decisions['unit']}" if decisions["unit"] else ""
        said = f"{decisions['coverage']:.1%} of the labels are in the interval of their answer"
        if by_week := decisions.get("by_week"):
            near = sum(abs(share - decisions["asked_for"]) <= _NEAR for share in by_week)
            said = f"{said}, by week from {min(by_week):.1%} to {max(by_week):.1%} ({near} of {len(by_week)} weeks are"
            said = f"{said} within {100 * _NEAR:.0f} points of what was asked for)"
        if "median_width" in decisions:
            said = f"{said}; half of the intervals are at most {decisions['median_width']:.4g}{unit} wide"
        return f"{said}; {decisions['asked_for']:.0%} were asked for.".replace("%", " %")

    def columns(self, answer: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        found = {"prediction": answer[:, 0] if self.quantiles else answer}
        if self.margins is not None:
            low, high = (np.clip(end, -_LARGEST, _LARGEST).astype(np.float32) for end in self._ends(answer))
            found |= {"low": low, "high": high}
        return {**found, "quantiles": answer[:, 1:]} if self.quantiles else found

    def rows(self, answer: NDArray[np.float32]) -> list[dict[str, Any]]:
        columns = {name: values.tolist() for name, values in self.columns(answer).items()}
        if self.quantiles:
            columns["quantiles"] = [dict(zip(self._levels, row, strict=True)) for row in columns["quantiles"]]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class OfLevel(Regression):
    """One of the `quantiles`, as a model of its own is fitted to it."""

    of_level: float = 0.5

    @property
    def level(self) -> float:
        return self.of_level

    @property
    def loss(self) -> str:
        return "pinball loss"

    def losses(self, labels: NDArray[np.float64], answer: Floats) -> Floats:
        return pinball(labels, answer, self.of_level)


def pinball(labels: NDArray[np.float64], quantile: Floats, level: float) -> Floats:
    """The loss of each row, [rows], which the quantile of this level has the least of."""
    above = labels - quantile
    losses: Floats = np.maximum(level * above, (level - 1) * above)
    return losses


def _estimate(answer: NDArray[np.floating[Any]]) -> Floats:
    """The mean or median of each row, without its quantiles."""
    return np.asarray(answer if answer.ndim == 1 else answer[:, 0], dtype=np.float64)
