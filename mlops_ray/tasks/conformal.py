"""Conformal prediction: what is added to an answer so that a declared share of new labels is below, or between."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.evaluation import Floats

# Answers are put into so many bands, each of at least so many of the rows that it is found on.
_BANDS, _BAND_ROWS = 10, 200
_ROUNDING = 1e-9
# Of the widest band's interval: a narrower one is that of labels which are nearly all the same.
_NARROW = 1e-3
# Of an answer and of a label: by how much float32 may move one beside the other, some sixteen of its steps.
_SERVED = 1e-6


@dataclass(frozen=True)
class Margins:
    """Of each band of answers what is added for the low and the high end of an interval, and for each quantile, band
    after band, and from which answer on the next band holds: `edges`, one fewer than bands."""

    ends: tuple[float, ...]
    edges: tuple[float, ...] = ()

    def around(self, answer: NDArray[np.floating[Any]]) -> Floats:
        """Where the ends of each answer's interval and its quantiles are, [2 + quantiles, rows]."""
        ends: Floats = answer + self._by_band()[_bands(answer, self.edges)].T
        return ends

    def renewed(self, labels: Floats, answer: Floats, coverage: float, quantiles: Sequence[float] = ()) -> "Margins":
        """Moved by so many half widths of their band's interval, in all bands alike, that they hold on these rows; with
        few of them as they are, and found anew where one band is so much narrower than another, as nearly all of its
        labels were the same, that what widens it would make the others boundless.

        Quantiles that this makes cross are put in order, which brings them only nearer (Chernozhukov et al., "Quantile
        and probability curves without crossing", Econometrica 78, 2010)."""
        levels = _levels(coverage, quantiles)
        if len(labels) < max(fewest_rows(coverage, quantiles), _BAND_ROWS):
            return self
        ends = self._by_band()
        half = (ends[:, 1] - ends[:, 0]) / 2
        if half.min() <= _NARROW * half.max():
            return conformal(labels, answer, coverage, quantiles)
        band, errors = _bands(answer, self.edges), _errors(labels, answer)
        moved = [_end((errors - ends[band, at]) / half[band], level) for at, level in enumerate(levels)]
        outwards = _ROUNDING * np.sign(np.array(levels) - 0.5)
        ends = ends + np.outer(half, np.array(moved) + outwards)
        ends[:, 2:].sort(axis=1)
        return Margins(_flat(ends), self.edges)

    def _by_band(self) -> Floats:
        return np.array(self.ends).reshape(len(self.edges) + 1, -1)


def fewest_rows(coverage: float, quantiles: Sequence[float] = ()) -> int:
    """With fewer rows nothing can be left outside on each side, and beyond each quantile."""
    return max(math.ceil(1 / min(level, 1 - level) - 1 - _ROUNDING) for level in _levels(coverage, quantiles))


def conformal(labels: Floats, answer: Floats, coverage: float, quantiles: Sequence[float] = ()) -> Margins:
    """Split conformal prediction (Lei et al., "Distribution-free predictive inference for regression", Journal of the
    American Statistical Association 113, 2018), with signed errors, so that half of what may be outside is on each side
    (Linusson et al., "Signed-error conformal regression", PAKDD 2014), for rows with similar answers each by themselves
    (Vovk et al., "Mondrian confidence machine", 2003): where much is expected more is uncertain, and a calm week has
    fewer such rows than a stormy one. Where rows are exchangeable, at least `coverage` of new labels are inside, also
    where many of them are the same, such as 0, and an end lies on those (see `_errors`).

    A quantile is an end with the labels below it on one side: together, a conformal predictive distribution at some
    levels (Boström, Johansson, Löfström, "Mondrian conformal predictive distributions", COPA 2021).

    labels, answer: of `fewest_rows` rows at least that the model has not seen.
    """
    edges = _edges(answer, max(fewest_rows(coverage, quantiles), _BAND_ROWS))
    band = _bands(answer, edges)
    errors = _errors(labels, answer)
    ends = [
        [_end(errors[:, band == one], level) for level in _levels(coverage, quantiles)] for one in range(len(edges) + 1)
    ]
    return Margins(_flat(np.array(ends)), edges)


def _levels(coverage: float, quantiles: Sequence[float]) -> tuple[float, ...]:
    """Which share of the labels is to be below each of `Margins.around`."""
    return (1 - coverage) / 2, (1 + coverage) / 2, *quantiles


def _errors(labels: Floats, answer: NDArray[np.floating[Any]]) -> Floats:
    """From where to where the error of each row is once answer and interval were float32, [2, rows]. An end of an
    interval is a label of these rows: what rounds it would else put it, and all labels that equal it, outside."""
    reach = _SERVED * (np.abs(labels) + np.abs(answer))
    return np.stack([labels - answer - reach, labels - answer + reach])


def _end(errors: Floats, level: float) -> float:
    """What so many errors are below, of new rows too: of a low level at most so many, of a high one at least, and of
    one half the median. errors: from where to where, [2, rows]."""
    low, high = np.sort(errors, axis=1)
    if level == 0.5:
        return float(np.median(errors))
    outside = math.floor((len(low) + 1) * min(level, 1 - level) + _ROUNDING)
    return float(low[outside - 1] if level < 0.5 else high[len(high) - outside])


def _flat(ends: Floats) -> tuple[float, ...]:
    return tuple(float(end) for end in ends.ravel())


def _edges(answer: Floats, fewest: int) -> tuple[float, ...]:
    """Where bands of answers begin: quantiles, of which each has `fewest` rows on its left up to the one before, and on
    its right."""
    ordered, start = np.sort(answer.astype(np.float32)), 0
    edges = list[float]()
    for edge in np.unique(np.quantile(ordered, np.linspace(0, 1, _BANDS + 1)[1:-1], method="lower")):
        rows = int(np.searchsorted(ordered, edge, side="left"))
        if rows - start >= fewest and len(ordered) - rows >= fewest:
            edges.append(float(edge))
            start = rows
    return tuple(edges)


def _bands(answer: NDArray[np.floating[Any]], edges: tuple[float, ...]) -> NDArray[np.intp]:
    """The number of each answer's band. As float32, which is what a served model answers with."""
    return np.searchsorted(np.array(edges, dtype=np.float32), answer.astype(np.float32), side="right")
