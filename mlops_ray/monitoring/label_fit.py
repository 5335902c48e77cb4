"""How labels are held against the answers that came before them, for each kind of label."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from mlops_ray.monitoring.answers import answer_in, is_answered, is_ranked
from mlops_ray.monitoring.error_estimation import ErrorEstimator
from mlops_ray.monitoring.error_stream import excess_errors
from mlops_ray.monitoring.performance_estimation import Estimator
from mlops_ray.monitoring.reliability import Reliability, reliability_edges
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.evaluation import Floats
from mlops_ray.tasks.task import Task


@dataclass(frozen=True)
class LabelFit:
    """errors: what is expected of errors; None where answers are ranked (see `answers.is_ranked`), or nothing is known.

    Rows have the answer in the ledger's columns, `label`, and `EXPECTED` where there is `errors`.
    """

    task: Task = BINARY
    errors: ErrorEstimator | None = None

    def answered(self, rows: pl.DataFrame) -> pl.DataFrame:
        return rows.filter(is_answered(self.task))

    def labelled(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Those with an answer and a label."""
        return self.answered(rows).drop_nulls("label")

    def edges(self, scored: pl.DataFrame) -> Floats:
        return reliability_edges(self.task.guess(answer_in(scored, self.task)))

    def sums(self, labelled: pl.DataFrame) -> dict[str, Floats]:
        """What each row adds to the sums of a `Reliability`, by name, [rows]."""
        answer, labels = answer_in(labelled, self.task), self.task.encoded(labelled["label"])
        guess, observed = self.task.guess(answer), self.task.observed(labels, answer)
        found = {"predicted": guess, "positives": observed}
        if self.task.label_type.is_numeric():  # of yes and no the variance follows from the mean
            found["squares"] = (observed - guess) ** 2
        if self.errors is not None:
            excess, foretold = self.errors.excess(labelled, self.task), self.errors.expected_of(labelled)
            found |= {"excess": excess, "excess_squares": excess**2, "foretold_squares": foretold**2}
        return found

    def reliability(self, labelled: pl.DataFrame, edges: Floats) -> Reliability:
        return Reliability.of_sums(self.sums(labelled), edges)

    def without_labels(self, rows: pl.DataFrame, edges: Floats) -> Reliability:
        sums = {"predicted": self.task.guess(answer_in(rows, self.task)), "positives": np.zeros(len(rows))}
        if self.errors is not None:
            sums["foretold_squares"] = self.errors.expected_of(rows) ** 2
        return Reliability.of_sums(sums, edges)

    def stream(self, labelled: pl.DataFrame, whole: Reliability) -> Floats:
        """By how much each error is above what was expected, in -1..1, in the order of the rows. whole: of all rows of
        the reference."""
        if self.errors is not None:
            return self.errors.stream(labelled, self.task)
        return excess_errors(labelled, whole) if is_ranked(self.task) else np.zeros(len(labelled))


def label_fit(task: Task, estimator: Estimator | ErrorEstimator | None) -> LabelFit:
    return LabelFit(task, estimator if isinstance(estimator, ErrorEstimator) else None)
