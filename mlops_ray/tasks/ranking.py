"""Ranking and calibration of probabilities, for all rows at once and without each block of days."""

import numpy as np

from mlops_ray.tasks.estimate import freedom_of
from mlops_ray.tasks.evaluation import Blocks, Floats, ReliabilityBin

_BINS = 10
# So many values at a time: what is larger does not stay in the processor's cache, and a single row of weights of a
# small slice costs more in calls than in arithmetic.
_AT_ONCE = 50_000


def freedom_by_label(truth: Floats, block: Blocks) -> float:
    """`estimate.freedom_of` the blocks' rows with and without the label."""
    rows, positives = np.bincount(block).astype(np.float64), np.bincount(block, truth).astype(np.float64)
    return freedom_of(positives, rows - positives)


def ranking(truth: Floats, guess: Floats, block: Blocks, weights: Floats) -> tuple[Floats, Floats]:
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


def _row_products(left: Floats, right: Floats) -> Floats:
    """The sum of products of each row."""
    products: Floats = np.einsum("ij,ij->i", left, right)
    return products


def calibration(
    truth: Floats, guess: Floats, block: Blocks, weights: Floats
) -> tuple[Floats, tuple[ReliabilityBin, ...]]:
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
