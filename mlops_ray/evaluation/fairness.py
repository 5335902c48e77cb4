"""Fairness: how often the model says yes to each group, at the decision's threshold, and how sure a difference is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.estimate import FEWEST_BLOCKS, LEAST_FREEDOM, Estimate, freedom_of, interval

Measure = Literal["selection_rate", "true_positive_rate"]
# With fewer of a group, or of yes or no over all, a rate says more about chance than about the model.
FEWEST = 20
_Float = NDArray[np.float64]


@dataclass(frozen=True)
class GroupCounts:
    """The rows of each group, value of `column`, in each block of days: [groups][blocks].

    chosen: those with a probability of at least the threshold. positives: those with the label; chosen_positives: both.
    """

    column: str
    threshold: float
    groups: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    chosen: tuple[tuple[int, ...], ...]
    positives: tuple[tuple[int, ...], ...]
    chosen_positives: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Spread:
    """Two of `groups` groups; difference: the rate of `high` minus that of `low`.

    p: how likely a difference as far above the limit is, in any pair, if no true one is above it. left_out: the groups
    with too few rows to be judged.
    """

    low: str
    high: str
    low_rate: float
    high_rate: float
    difference: Estimate
    p: float
    groups: int
    left_out: tuple[str, ...]


def widest_spread(counts: GroupCounts, measure: Measure, limit: float) -> Spread | str:
    """The pair of groups that says most against a true difference of at most `limit`; or why nothing can be said.

    selection_rate: the share of a group that is chosen; true_positive_rate: of those of it with the label. Days are the
    unit of chance, as in `estimate.jackknife`, and groups share them: the error of a difference is the
    delete-one-block jackknife's. It is never taken as below that of independent rows, with one yes and one no added to
    each group (Agresti, Caffo, American Statistician 54, 2000), since a group of which by chance nobody was chosen
    would count as certain otherwise. p has Bonferroni's correction for all pairs in both directions.
    """
    of, yes = _tables(counts, measure)
    enough = of.sum(axis=1) >= FEWEST
    groups = [group for group, kept in zip(counts.groups, enough, strict=True) if kept]
    left_out = tuple(group for group, kept in zip(counts.groups, enough, strict=True) if not kept)
    of, yes = of[enough], yes[enough]
    rows = "rows" if measure == "selection_rate" else "rows with the label"
    if len(groups) < 2:
        return f"{len(groups)} values of {counts.column} have {FEWEST} {rows} or more; two are needed to compare."
    chosen, total = int(yes.sum()), int(of.sum())
    if min(chosen, total - chosen) < FEWEST:
        return (
            f"at the decision's threshold {counts.threshold:g} {chosen:,} of {total:,} {rows} are chosen, so equal "
            f"rates say nothing ({FEWEST} chosen and {FEWEST} others are needed)."
        )
    return _widest(counts.column, groups, left_out, of, yes, limit)


def _tables(counts: GroupCounts, measure: Measure) -> tuple[_Float, _Float]:
    """Of how many rows, and how many of them are chosen, [groups, blocks]."""
    tables = (
        (counts.rows, counts.chosen) if measure == "selection_rate" else (counts.positives, counts.chosen_positives)
    )
    of, yes = (np.array(table, dtype=np.float64).reshape(len(counts.groups), -1) for table in tables)
    return of, yes


def _widest(
    column: str, groups: Sequence[str], left_out: tuple[str, ...], of: _Float, yes: _Float, limit: float
) -> Spread | str:
    from scipy.special import stdtr  # type: ignore[import-untyped]

    blocks, rows, chosen = of.shape[1], of.sum(axis=1), yes.sum(axis=1)
    rate = chosen / rows
    difference = rate[None, :] - rate[:, None]  # [low, high]
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = (chosen[:, None] - yes) / (rows[:, None] - of) - rate[:, None]
    together = moved @ moved.T * (blocks - 1) / blocks
    own = together.diagonal()
    smoothed = (chosen + 1) / (rows + 2)
    independent = smoothed * (1 - smoothed) / (rows + 2)
    error = np.sqrt(np.maximum(_of_pairs(own) - 2 * together, _of_pairs(independent)))
    free = np.array([freedom_of(one) for one in of])
    freedom = np.minimum(free[:, None], free[None, :])
    measured = np.isfinite(error) & (freedom >= LEAST_FREEDOM) & ~np.eye(len(groups), dtype=np.bool_)
    if blocks < FEWEST_BLOCKS or not measured.any():
        return (
            f"the days are too few for each value of {column} ({blocks} blocks of days; {FEWEST_BLOCKS} with rows of "
            f"each are needed)."
        )
    pairs = len(groups) * (len(groups) - 1)
    with np.errstate(invalid="ignore"):
        p = np.where(measured, stdtr(np.maximum(freedom, 1), (limit - difference) / error), 2.0)
    low, high = divmod(int(np.argmin(p)), len(groups))
    estimate = interval(float(difference[low, high]), float(error[low, high]), float(freedom[low, high]), -1.0, 1.0)
    return Spread(
        groups[low],
        groups[high],
        float(rate[low]),
        float(rate[high]),
        estimate,
        min(1.0, pairs * float(p[low, high])),
        len(groups),
        left_out,
    )


def _of_pairs(values: _Float) -> _Float:
    pairs: _Float = values[:, None] + values[None, :]
    return pairs
