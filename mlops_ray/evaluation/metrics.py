"""How good the answers are: metrics of a binary classifier, each with the interval that its days leave open."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_ray.errors import DataError
from mlops_ray.evaluation.days import blocks_of
from mlops_ray.evaluation.estimate import Estimate, freedom_of, jackknife

_BINS = 10
# So many values at a time: what is larger does not stay in the processor's cache, and a single row of weights of a
# small slice costs more in calls than in arithmetic.
_AT_ONCE = 50_000
_Float = NDArray[np.float64]


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


def evaluate(label: NDArray[np.bool_], probability: _Float, day: NDArray[np.intp]) -> Evaluation:
    """Score `probability` against `label`; day: of each row (see `days.days_of`). All have shape [rows].

    The intervals are those of `estimate.jackknife`, over blocks of whole days: rows of one day share its weather and
    its jams, so taking rows as independent would make the intervals too narrow. What one day does to the next is seen
    only as far as both are in one block. The calibration error is never below 0 and is biased upwards by chance; so is
    its interval.

    Raises DataError if a probability is not between 0 and 1 or if the rows have only one of the two labels.
    """
    _check(label, probability)
    truth, guess = label.astype(np.float64), probability.astype(np.float64)
    block = blocks_of(day)
    weights = weights_without(block)
    by_label, by_rows = freedom_by_label(truth, block), freedom_of(np.bincount(block).astype(np.float64))
    # With more threads BLAS adds up in another order, and two processes differ in the last digits (measured: 1e-12).
    with threadpool_limits(limits=1, user_api="blas"):
        roc_auc, average_precision = ranking(truth, guess, block, weights)
        loss, squared = _row_losses(truth, guess)
        calibration, reliability = _calibration(truth, guess, block, weights)
        mean_loss, mean_squared = (_weighted_mean(values, block, weights) for values in (loss, squared))
        found = {
            name: jackknife(float(values[0]), values[1:], freedom, 0.0, highest)
            for name, values, freedom, highest in (
                ("roc_auc", roc_auc, by_label, 1.0),
                ("average_precision", average_precision, by_label, 1.0),
                ("log_loss", mean_loss, by_rows, np.inf),
                ("brier", mean_squared, by_rows, 1.0),
                ("calibration_error", calibration, by_rows, 1.0),
            )
        }
    days, positive = len(np.unique(day)), float(truth.mean())
    return Evaluation(**found, reliability=reliability, rows=len(label), days=days, positive=positive)


def _check(label: NDArray[np.bool_], probability: _Float) -> None:
    wrong = int((~((probability >= 0) & (probability <= 1))).sum())
    if wrong:
        raise DataError(f"{wrong} of {len(probability)} probabilities are not between 0 and 1. Repair the candidate.")
    if label.all() or not label.any():
        raise DataError(f"The {len(label)} rows to score have only one of the two labels. Choose a longer test period.")


def weights_without(block: NDArray[np.intp]) -> _Float:
    """Weights by block, [1 + blocks, blocks]: first all of them, then, of several, all but each in turn."""
    blocks = int(block.max()) + 1
    return np.vstack([np.ones(blocks), 1 - np.eye(blocks)]) if blocks > 1 else np.ones((1, 1))


def freedom_by_label(truth: _Float, block: NDArray[np.intp]) -> float:
    """`estimate.freedom_of` the blocks' rows with and without the label."""
    rows, positives = np.bincount(block).astype(np.float64), np.bincount(block, truth).astype(np.float64)
    return freedom_of(positives, rows - positives)


def ranking(truth: _Float, guess: _Float, block: NDArray[np.intp], weights: _Float) -> tuple[_Float, _Float]:
    """ROC AUC and average precision for each row of `weights` (by block); equal probabilities are one threshold.

    With h and c the rows with the label, and all rows, above each threshold, the trapezoids of the ROC curve sum up to
    1/2 + (c[1:] h[:-1] - c[:-1] h[1:]) / (2 positives negatives), and the steps of average precision to
    (h p - h[:-1] p[1:]) / positives with the precision p = h / c: sums of products, which need no other arrays.
    """
    order = np.argsort(-guess, kind="stable")
    block, truth, guess = block[order], truth[order], guess[order]
    ends = np.append(np.flatnonzero(np.diff(guess)), len(guess) - 1)
    scores = np.full((2, len(weights)), np.nan)
    at_once = max(1, min(len(weights), _AT_ONCE // len(guess)))
    # Written over and over: fresh arrays of this size come from the operating system each time, which takes longer
    # than all of the arithmetic.
    places = [np.empty((at_once, len(guess))) for _ in range(3)]
    places += [np.empty((at_once, len(ends))) for _ in range(3)]
    for first in range(0, len(weights), at_once):
        some = weights[first : first + at_once]
        weight, hits, chosen, h, c, precision = (place[: len(some)] for place in places)
        np.take(some, block, axis=1, out=weight, mode="clip")
        np.cumsum(weight, axis=1, out=chosen)
        np.cumsum(np.multiply(weight, truth, out=weight), axis=1, out=hits)
        np.take(hits, ends, axis=1, out=h, mode="clip")
        np.take(chosen, ends, axis=1, out=c, mode="clip")
        positives, negatives = h[:, -1], c[:, -1] - h[:, -1]
        both = (positives > 0) & (negatives > 0)
        crossed = _row_products(c[:, 1:], h[:, :-1]) - _row_products(c[:, :-1], h[:, 1:])
        np.divide(h, np.maximum(c, 1.0, out=precision), out=precision)
        stepped = _row_products(h, precision) - _row_products(h[:, :-1], precision[:, 1:])
        with np.errstate(invalid="ignore", divide="ignore"):
            found = 0.5 + crossed / (2 * positives * negatives), stepped / positives
        scores[:, first : first + at_once] = np.where(both, found, np.nan)
    return scores[0], scores[1]


def _row_products(left: _Float, right: _Float) -> _Float:
    """The sum of products of each row."""
    products: _Float = np.einsum("ij,ij->i", left, right)
    return products


def _row_losses(truth: _Float, guess: _Float) -> tuple[_Float, _Float]:
    """Log loss and squared error of each row; probabilities 0 and 1 count as the floats next to them."""
    smallest = np.finfo(np.float64).eps
    inside = np.clip(guess, smallest, 1 - smallest)
    return -(truth * np.log(inside) + (1 - truth) * np.log1p(-inside)), (guess - truth) ** 2


def _weighted_mean(values: _Float, block: NDArray[np.intp], weights: _Float) -> _Float:
    totals = np.bincount(block, values, minlength=weights.shape[1])
    means: _Float = weights @ totals / (weights @ np.bincount(block, minlength=weights.shape[1]))
    return means


def _calibration(
    truth: _Float, guess: _Float, block: NDArray[np.intp], weights: _Float
) -> tuple[_Float, tuple[ReliabilityBin, ...]]:
    """Expected calibration error (Naeini et al., 2015) for each row of `weights`, and its bins on all rows."""
    edges = np.unique(np.quantile(guess, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = len(edges) + 1
    cell = block * bins + np.searchsorted(edges, guess, side="left")
    size = weights.shape[1] * bins
    rows, guessed, observed = (
        np.bincount(cell, values, minlength=size).reshape(-1, bins) for values in (np.ones_like(guess), guess, truth)
    )
    errors = np.abs(weights @ guessed - weights @ observed).sum(axis=1) / (weights @ rows).sum(axis=1)
    totals = zip(rows.sum(axis=0), guessed.sum(axis=0), observed.sum(axis=0), strict=True)
    return errors, tuple(ReliabilityBin(int(n), float(p / n), float(o / n)) for n, p, o in totals if n)
