"""Conformal intervals: what is added to an answer so that a declared share of new labels is between the two ends."""

import math
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
    """Of each band of answers what is added for the low and for the high end, in pairs, and from which answer on the
    next pair holds: `edges`, one fewer than pairs."""

    ends: tuple[float, ...]
    edges: tuple[float, ...] = ()

    def around(self, answer: NDArray[np.floating[Any]]) -> tuple[Floats, Floats]:
        """From where to where the interval of each answer is, [rows]."""
        low, high = np.array(self.ends).reshape(-1, 2)[_bands(answer, self.edges)].T
        return answer + low, answer + high

    def renewed(self, labels: Floats, answer: Floats, coverage: float) -> "Margins":
        """Wider or narrower, on each side alike in all bands, so that they hold on these rows, `telling_rows` at least;
        found anew where one band is so much narrower than another, as nearly all of its labels were the same, that what
        widens it would make the others boundless."""
        pairs = np.array(self.ends).reshape(-1, 2)
        middle, half = pairs.mean(axis=1), (pairs[:, 1] - pairs[:, 0]) / 2
        if half.min() <= _NARROW * half.max():
            return conformal(labels, answer, coverage)
        band = _bands(answer, self.edges)
        low, high = _pair((_errors(labels, answer) - middle[band]) / half[band], coverage)
        ends = [middle + (low - _ROUNDING) * half, middle + (high + _ROUNDING) * half]
        return Margins(_flat(np.stack(ends, axis=1)), self.edges)


def fewest_rows(coverage: float) -> int:
    """With fewer rows nothing can be left outside on each side."""
    return math.ceil(2 / (1 - coverage) - 1 - _ROUNDING)


def telling_rows(coverage: float) -> int:
    """With fewer rows what was found on others is better."""
    return max(fewest_rows(coverage), _BAND_ROWS)


def conformal(labels: Floats, answer: Floats, coverage: float) -> Margins:
    """Split conformal prediction (Lei et al., "Distribution-free predictive inference for regression", Journal of the
    American Statistical Association 113, 2018), with signed errors, so that half of what may be outside is on each side
    (Linusson et al., "Signed-error conformal regression", PAKDD 2014), for rows with similar answers each by themselves
    (Vovk et al., "Mondrian confidence machine", 2003): where much is expected more is uncertain, and a calm week has
    fewer such rows than a stormy one. Where rows are exchangeable, at least `coverage` of new labels are inside, also
    where many of them are the same, such as 0, and an end lies on those (see `_errors`).

    labels, answer: of `fewest_rows` rows at least that the model has not seen.
    """
    edges = _edges(answer, telling_rows(coverage))
    band = _bands(answer, edges)
    errors = _errors(labels, answer)
    pairs = [_pair(errors[:, band == one], coverage) for one in range(len(edges) + 1)]
    return Margins(_flat(np.array(pairs)), edges)


def around_quantiles(labels: Floats, lower: Floats, upper: Floats, coverage: float) -> tuple[float, float]:
    """What is added to two quantiles of each row for the two ends of its interval: conformalized quantile regression
    (Romano, Patterson, Candès, "Conformalized quantile regression", NeurIPS 2019), each side by itself (their theorem
    2), as `conformal` does. How wide an interval is the row's features say, so no bands are needed. Where the two ends
    cross they change places.

    labels, lower, upper: of `fewest_rows` rows at least that the model has not seen.
    """
    return _pair(np.stack([_errors(labels, lower)[0], _errors(labels, upper)[1]]), coverage)


def _errors(labels: Floats, answer: NDArray[np.floating[Any]]) -> Floats:
    """From where to where the error of each row is once answer and interval were float32, [2, rows]. An end of an
    interval is a label of these rows: what rounds it would else put it, and all labels that equal it, outside."""
    reach = _SERVED * (np.abs(labels) + np.abs(answer))
    return np.stack([labels - answer - reach, labels - answer + reach])


def _pair(errors: Floats, coverage: float) -> tuple[float, float]:
    """errors: from where to where, [2, rows]."""
    low, high = np.sort(errors, axis=1)
    outside = math.floor((len(low) + 1) * (1 - coverage) / 2 + _ROUNDING)
    return float(low[outside - 1]), float(high[len(high) - outside])


def _flat(pairs: Floats) -> tuple[float, ...]:
    return tuple(float(end) for end in pairs.ravel())


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
