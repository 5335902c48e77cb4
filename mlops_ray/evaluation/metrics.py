"""How good the answers are: metrics of a binary classifier, each with the interval that its days leave open."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_ray.errors import DataError

RESAMPLES = 300
_CONFIDENCE = 0.95
_BINS = 10
_Float = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval; `low` and `high` are None where fewer than two days leave no way to tell."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows with similar probabilities: how many, the mean probability, and the fraction that has the label."""

    rows: int
    probability: float
    observed: float


@dataclass(frozen=True)
class Evaluation:
    """Metrics on `rows` rows of `days` days, of which the fraction `positive` has the label.

    roc_auc and average_precision: higher is better. log_loss (nats), brier and calibration_error (expected
    calibration error over ten bins of equally many rows): lower is better.
    """

    roc_auc: Estimate
    average_precision: Estimate
    log_loss: Estimate
    brier: Estimate
    calibration_error: Estimate
    reliability: tuple[ReliabilityBin, ...]
    rows: int
    days: int
    positive: float


def evaluate(
    label: NDArray[np.bool_],
    probability: _Float,
    moment: NDArray[np.datetime64],
    seed: int,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Score `probability` against `label`; `moment` is when each row was predicted (UTC). All have shape [rows].

    The intervals are percentile intervals of the bootstrap (Efron, "Bootstrap methods", 1979) over whole days: rows
    of one day share its weather and its jams, so drawing single rows would make the intervals too narrow (Künsch,
    "The jackknife and the bootstrap for general stationary observations", 1989). Deviations from Künsch: blocks do
    not overlap and are as long as a day, so what one day does to the next is not seen. Drawing a day k times is the
    same as giving its rows the weight k, so rows are sorted once. The calibration error is never below 0 and is
    biased upwards by chance; so is its interval.

    Raises DataError if a probability is not between 0 and 1 or if the rows have only one of the two labels.
    """
    _check(label, probability)
    truth, guess = label.astype(np.float64), probability.astype(np.float64)
    day = days_of(moment)
    days = int(day.max()) + 1
    draws = draw_days(days, seed, resamples)
    weights = np.vstack([np.ones(days), draws])
    # With more threads BLAS adds up in another order, and two processes differ in the last digits (measured: 1e-12).
    with threadpool_limits(limits=1, user_api="blas"):
        roc_auc, average_precision = ranking(truth, guess, day, weights)
        loss, squared = _row_losses(truth, guess)
        calibration, reliability = _calibration(truth, guess, day, weights)
        return Evaluation(
            roc_auc=estimate(roc_auc),
            average_precision=estimate(average_precision),
            log_loss=estimate(_weighted_mean(loss, day, weights)),
            brier=estimate(_weighted_mean(squared, day, weights)),
            calibration_error=estimate(calibration),
            reliability=reliability,
            rows=len(label),
            days=days,
            positive=float(truth.mean()),
        )


def _check(label: NDArray[np.bool_], probability: _Float) -> None:
    wrong = int((~((probability >= 0) & (probability <= 1))).sum())
    if wrong:
        raise DataError(f"{wrong} of {len(probability)} probabilities are not between 0 and 1. Repair the candidate.")
    if label.all() or not label.any():
        raise DataError(f"The {len(label)} rows to score have only one of the two labels. Choose a longer test period.")


def days_of(moment: NDArray[np.datetime64]) -> NDArray[np.intp]:
    """The number, from 0, of each row's day among the days that there are."""
    return np.unique(moment.astype("datetime64[D]"), return_inverse=True)[1]


def draw_days(days: int, seed: int, resamples: int = RESAMPLES) -> _Float:
    """How often each day is drawn in each resample, [resamples, days]; no resamples from a single day."""
    if days < 2:
        return np.empty((0, days))
    return np.random.default_rng(seed).multinomial(days, np.full(days, 1 / days), size=resamples).astype(np.float64)


def estimate(values: _Float) -> Estimate:
    """The first value is the metric itself, the others come from resamples (NaN where one had a single label)."""
    resampled = values[1:][~np.isnan(values[1:])]
    if not len(resampled):
        return Estimate(float(values[0]), None, None)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(float(values[0]), float(low), float(high))


def ranking(truth: _Float, guess: _Float, day: NDArray[np.intp], weights: _Float) -> tuple[_Float, _Float]:
    """ROC AUC and average precision for each row of `weights` (counts); equal probabilities are one threshold.

    With h and c the rows with the label, and all rows, above each threshold, the trapezoids of the ROC curve sum up to
    1/2 + (c[1:] h[:-1] - c[:-1] h[1:]) / (2 positives negatives), and the steps of average precision to
    (h p - h[:-1] p[1:]) / positives with the precision p = h / c: sums of products, which need no other arrays.
    """
    order = np.argsort(-guess, kind="stable")
    day, truth, guess = day[order], truth[order], guess[order]
    ends = np.append(np.flatnonzero(np.diff(guess)), len(guess) - 1)
    scores = np.full((2, len(weights)), np.nan)
    # Written over and over: fresh arrays of this size come from the operating system each time, which takes longer
    # than all of the arithmetic.
    weight, hits, chosen = (np.empty(len(guess)) for _ in range(3))
    h, c, precision = (np.empty(len(ends)) for _ in range(3))
    for index, of_days in enumerate(weights):
        np.take(of_days, day, out=weight, mode="clip")
        np.cumsum(weight, out=chosen)
        np.cumsum(np.multiply(weight, truth, out=weight), out=hits)
        np.take(hits, ends, out=h, mode="clip")
        np.take(chosen, ends, out=c, mode="clip")
        positives, negatives = h[-1], c[-1] - h[-1]
        if positives > 0 and negatives > 0:
            crossed = c[1:] @ h[:-1] - c[:-1] @ h[1:]
            np.divide(h, np.maximum(c, 1.0, out=precision), out=precision)
            stepped = h @ precision - h[:-1] @ precision[1:]
            scores[:, index] = 0.5 + crossed / (2 * positives * negatives), stepped / positives
    return scores[0], scores[1]


def _row_losses(truth: _Float, guess: _Float) -> tuple[_Float, _Float]:
    """Log loss and squared error of each row; probabilities 0 and 1 count as the floats next to them."""
    smallest = np.finfo(np.float64).eps
    inside = np.clip(guess, smallest, 1 - smallest)
    return -(truth * np.log(inside) + (1 - truth) * np.log1p(-inside)), (guess - truth) ** 2


def _weighted_mean(values: _Float, day: NDArray[np.intp], weights: _Float) -> _Float:
    totals = np.bincount(day, values, minlength=weights.shape[1])
    means: _Float = weights @ totals / (weights @ np.bincount(day, minlength=weights.shape[1]))
    return means


def _calibration(
    truth: _Float, guess: _Float, day: NDArray[np.intp], weights: _Float
) -> tuple[_Float, tuple[ReliabilityBin, ...]]:
    """Expected calibration error (Naeini et al., 2015) for each row of `weights`, and its bins on all rows."""
    edges = np.unique(np.quantile(guess, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = len(edges) + 1
    cell = day * bins + np.searchsorted(edges, guess, side="left")
    size = weights.shape[1] * bins
    rows, guessed, observed = (
        np.bincount(cell, values, minlength=size).reshape(-1, bins) for values in (np.ones_like(guess), guess, truth)
    )
    errors = np.abs(weights @ guessed - weights @ observed).sum(axis=1) / (weights @ rows).sum(axis=1)
    totals = zip(rows.sum(axis=0), guessed.sum(axis=0), observed.sum(axis=0), strict=True)
    return errors, tuple(ReliabilityBin(int(n), float(p / n), float(o / n)) for n, p, o in totals if n)
