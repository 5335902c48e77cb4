"""Relation: how well one column alone tells the label, from the profiles of rows that are grouped by it.

Of yes and no there are two groups, of classes as many as there are, and numbers are above their median or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from mlops_ray.exploration.profile import ColumnProfile, Profile

# A value says something by itself from so many rows on; rarer ones are one value together.
_ROWS_OF_A_VALUE = 50


@dataclass(frozen=True)
class Relation:
    """How a column goes with the label, as the ROC AUC of ranking by it alone: 0.5 says nothing, 1 all.

    group: of several classes that which it tells best from the others; "" where there are two groups.

    roc_auc: by its values, to 0.01, the better of both directions; missing is a value, too. missing_roc_auc: by whether
    there is a value. Both None where a label has no row.
    """

    column: str
    roc_auc: float | None
    missing_roc_auc: float | None
    group: str = ""


def middle_of(labels: pl.Series) -> float | None:
    """What parts labels that are numbers into two groups; None for others, of which each value is a group."""
    if not labels.dtype.is_numeric():
        return None
    middle = labels.cast(pl.Float64).fill_nan(None).median()
    return middle if isinstance(middle, float) else 0.0


def label_group(label: pl.Expr, middle: float | None) -> pl.Expr:
    """The name of each label's group; null where there is no label."""
    return (label if middle is None else label.cast(pl.Float64).fill_nan(None) > middle).cast(pl.String)


def relations_by_group(groups: Mapping[str, tuple[Profile, Profile]]) -> tuple[Relation, ...]:
    """The relation of every column: of several groups, to that which it tells best from the others.

    groups: by name, the profile of the group's rows, and of those of all others.
    """
    if len(groups) < 2:
        return ()
    if len(groups) == 2:
        return relations(*next(iter(groups.values())))
    found = [replace(one, group=name) for name, pair in groups.items() for one in relations(*pair)]
    best = {one.column: one for one in sorted(found, key=lambda one: max(one.roc_auc or 0, one.missing_roc_auc or 0))}
    return tuple(sorted(best.values(), key=lambda one: (-(one.roc_auc or 0), one.column)))


def relations(positive: Profile, negative: Profile) -> tuple[Relation, ...]:
    """The relation of every column that both have. positive, negative: of the rows with the label, and without."""
    pairs = [(column, negative.column(column.name)) for column in positive.columns]
    found = [_relation(one, other) for one, other in pairs if other is not None]
    return tuple(sorted(found, key=lambda one: (-(one.roc_auc or 0), one.column)))


def _relation(positive: ColumnProfile, negative: ColumnProfile) -> Relation:
    if not positive.rows or not negative.rows:
        return Relation(positive.name, None, None)
    gone, lost = positive.missing_share, negative.missing_share
    by_missing = 0.5 + abs(gone - lost) / 2
    if positive.percentiles and negative.percentiles and _is_number(positive) and _is_number(negative):
        between = _of_numbers(positive.percentiles, negative.percentiles)
    else:
        between = _of_values(positive, negative)
    kept, held = 1 - gone, 1 - lost
    # Missing ranks once above all values and once below; the further from chance counts.
    below = kept * held * between + kept * lost + 0.5 * gone * lost
    above = kept * held * between + gone * held + 0.5 * gone * lost
    return Relation(positive.name, max(below, 1 - below, above, 1 - above), by_missing)


def _is_number(column: ColumnProfile) -> bool:
    return column.type in ("integer", "number")


def _of_numbers(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The share of pairs in which the value with the label is above, ties half: each quantile stands for its part."""
    high, low = (np.array(part[:-1]) / 2 + np.array(part[1:]) / 2 for part in (positive, negative))
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.mean() / (2 * len(ordered)))


def _of_values(positive: ColumnProfile, negative: ColumnProfile) -> float:
    """The same where values are ranked by how often they have the label; the rare ones are one value together."""
    one, other = dict(positive.top), dict(negative.top)
    counted = {
        value: (one.get(value, 0), other.get(value, 0))
        for value in {*one, *other}
        if one.get(value, 0) + other.get(value, 0) >= _ROWS_OF_A_VALUE
    }
    totals = positive.values, negative.values
    if not all(totals):
        return 0.5
    rest = tuple(max(0, total - sum(pair[at] for pair in counted.values())) for at, total in enumerate(totals))
    cells = np.array([*counted.values(), rest], dtype=np.float64) / np.array(totals)
    cells = cells[cells.sum(axis=1) > 0]
    order = np.argsort(cells[:, 0] / cells.sum(axis=1))
    with_label, without = cells[order].T
    return float(with_label @ (np.cumsum(without) - without / 2))
