"""Binary: the label is yes or no, and the answer the probability of yes."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import ModelError

RankingMetric = Literal["roc_auc", "average_precision"]
LossMetric = Literal["log_loss", "brier"]
Metric = Literal[RankingMetric, LossMetric, "calibration_error"]
LOWER_IS_BETTER: frozenset[str] = frozenset({"log_loss", "brier", "calibration_error"})
# From this probability on an answer is yes: at the endpoint, in batch, in monitoring and where fairness is judged.
DECISION_THRESHOLD = 0.5
# The probabilities of an ensemble are sums of float32, which may pass 1 by some rounding.
_ROUNDING = 1e-6


class Binary:
    """See `task.Task`. labels: boolean. answer: float32, the probability of true."""

    advice = 'Write a comparison, such as pl.col("delay") >= 15.'
    output_types: Mapping[str, str] = {"probability": "FP32", "prediction": "BOOL"}

    def reads(self, dtype: pl.DataType) -> bool:
        return dtype == pl.Boolean

    def shortfall(self, labels: pl.Series) -> str | None:
        kinds = labels.n_unique()
        return f"{len(labels)} rows with {kinds} of 2 label values" if kinds < 2 else None

    def rarest(self, labels: NDArray[np.bool_]) -> int:
        positive = int(labels.sum())
        return min(positive, len(labels) - positive)

    def score(self, metric: str, labels: NDArray[np.bool_], answer: NDArray[np.float64]) -> float:
        # Here, as most who ask about a label compute no metric, and scikit-learn takes longer to import than we do.
        from sklearn.metrics import average_precision_score, roc_auc_score

        metrics = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}
        return float(metrics[metric](labels, answer))

    def checked(self, answer: NDArray[np.float32]) -> NDArray[np.float32]:
        wrong = np.flatnonzero(~((answer >= -_ROUNDING) & (answer <= 1 + _ROUNDING)))
        if wrong.size:
            raise ModelError(
                f"The model answered {answer[wrong[0]]} for row {wrong[0]}, and what is no probability for "
                f"{wrong.size} of {len(answer)} rows. A probability is a number from 0 to 1: repair the candidate or "
                f"its ONNX export."
            )
        return np.clip(answer, 0, 1)

    def columns(self, answer: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        return {"probability": answer, "prediction": answer >= DECISION_THRESHOLD}

    def rows(self, answer: NDArray[np.float32]) -> list[dict[str, Any]]:
        return [{"probability": value, "prediction": value >= DECISION_THRESHOLD} for value in answer.tolist()]


BINARY = Binary()
