"""An estimate: a value, and how far chance may have moved it, counted by days and not by rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
# With fewer, Student's t is so wide that no difference of use is ever shown, and how skewed a metric is matters.
FEWEST_BLOCKS = 5
LEAST_FREEDOM = 2.0
_Float = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; error: its standard error, with `freedom` degrees of freedom.

    All but the value are None where the days are too few to tell (see `jackknife`).
    """

    value: float
    low: float | None = None
    high: float | None = None
    error: float | None = None
    freedom: float | None = None

    def p_above(self, limit: float) -> float:
        """How likely an estimate is as far above `limit` where the truth is not above it; 1 if not measured.

        One-sided, by Student's t.
        """
        if self.error is None or self.freedom is None or not self.value > limit:
            return 1.0
        if self.error == 0:
            return 0.0
        from scipy.special import stdtr  # type: ignore[import-untyped]

        return float(stdtr(self.freedom, (limit - self.value) / self.error))

    def p_below(self, limit: float) -> float:
        """The same for below `limit`."""
        return Estimate(-self.value, error=self.error, freedom=self.freedom).p_above(-limit)


def jackknife(
    value: float, without: _Float, freedom: float, lowest: float = -math.inf, highest: float = math.inf
) -> Estimate:
    """The estimate of a metric from `without`: what it is without each block of days in turn, [blocks].

    The variance is that of the delete-one-block jackknife around the value itself, (B - 1) / B sum (without - value)^2,
    and the interval has Student's t with `freedom` degrees of freedom (see `freedom_of`). For a mean, or a regression,
    this is the cluster-robust variance called CV3, which of the usual ones holds its level best with few clusters
    (Bell, McCaffrey, "Bias reduction in standard errors for linear regression with multi-stage samples", Survey
    Methodology 28, 2002; MacKinnon, Nielsen, Webb, "Leverage, influence, and the jackknife in clustered regression
    models", Stata Journal 23, 2023); for any metric the jackknife errs on the wide side (Efron, Stein, "The jackknife
    estimate of variance", Annals of Statistics 9, 1981, theorem 1). For ROC AUC on clustered rows it agrees to first
    order with Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997. Percentiles of a
    bootstrap over so few blocks are too narrow.

    lowest, highest: what the metric can be. There is no interval for fewer than FEWEST_BLOCKS blocks or LEAST_FREEDOM
    degrees of freedom, as where one day has nearly all rows, and where the metric does not exist without one of the
    blocks (NaN), as where one day has all rows with the label.
    """
    blocks = len(without)
    if blocks < FEWEST_BLOCKS or freedom < LEAST_FREEDOM or not np.isfinite(without).all():
        return Estimate(value)
    error = math.sqrt((blocks - 1) / blocks * float(((without - value) ** 2).sum()))
    return interval(value, error, freedom, lowest, highest)


def interval(value: float, error: float, freedom: float, lowest: float, highest: float) -> Estimate:
    """The estimate with its interval by Student's t, cut off at what the value can be."""
    from scipy.special import stdtrit

    reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return Estimate(value, max(value - reach, lowest), min(value + reach, highest), error, freedom)


def freedom_of(*rows: _Float) -> float:
    """Degrees of freedom for blocks with so many rows each: the blocks that count, less one.

    Of blocks of unequal size fewer count: (sum n)^2 / sum n^2 (Kish, "Survey Sampling", 1965, section 11.7), which is
    their number where all are equal, and near 1 where one holds nearly all. rows: counts by block, of all rows or of
    those of one label; the smallest decides.
    """
    return min(float(n.sum() ** 2 / (n**2).sum()) if n.any() else 0.0 for n in rows) - 1
