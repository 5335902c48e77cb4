"""A small tree of how wrong answers are, where the answers themselves do not tell. Sealed as plain numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.monitoring.answers import EXPECTED, answer_in, is_answered, is_ranked, watched_columns, watched_names
from mlops_ray.tasks.evaluation import Floats
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature

_LEAVES, _ROWS, _LEAST_ROWS = 32, 100_000, 50
# What is missing is below all values, as is what is not finite; a larger number would be lost in float32.
_MISSING, _LARGEST = -1e30, 9e29


@dataclass(frozen=True)
class ErrorTree:
    """A regression tree over columns of rows. columns: those that it asks for. categories: of a text column the mean
    error of each value, by which it is ordered (Breiman et al., "Classification and Regression Trees", 1984, theorem
    4.5). other: of values that are rare or new. column, threshold, left, right, value: of each node, the first being
    the root; column is -1 in a leaf.
    """

    columns: tuple[str, ...]
    categories: Mapping[str, Mapping[str, float]]
    other: float
    column: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    def expected(self, rows: pl.DataFrame) -> Floats:
        """The mean error to expect of each row, [rows]; a column that is not there is missing in all."""
        matrix = _matrix(rows, self.columns, self.categories, self.other)
        node = np.zeros(len(rows), dtype=np.intp)
        column, left, right = (np.array(part, dtype=np.intp) for part in (self.column, self.left, self.right))
        threshold, value = np.array(self.threshold), np.array(self.value)
        while (inner := np.flatnonzero(column[node] >= 0)).size:
            at = node[inner]
            below = matrix[inner, column[at]] <= threshold[at]
            node[inner] = np.where(below, left[at], right[at])
        return value[node]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ErrorTree":
        lists = {name: tuple(part) for name, part in value.items() if isinstance(part, list)}
        return cls(**{**value, **lists})


@dataclass(frozen=True)
class Foretold:
    """scored: with `EXPECTED`, where the task's quality is estimated by it. tree: what makes it of later rows; None
    where the answers themselves do."""

    scored: pl.DataFrame
    tree: ErrorTree | None = None


def foretell(scored: pl.DataFrame, task: Task, features: Sequence[Feature]) -> Foretold:
    """How wrong each answer is expected to be, before its label is looked at.

    scored: rows in order of time, with the features, the answer as the ledger has it, and `label`. What a tree says of
    the rows of one half is learned from the other, so that it is as far off as it will be of new rows.
    """
    if is_ranked(task):
        return Foretold(scored)
    answer = answer_in(scored, task)
    own = task.foretold(answer)
    if own is not None:
        return Foretold(scored.with_columns(pl.Series(EXPECTED, own)))
    names = [feature.name for feature in features if feature.name in scored.columns]
    texts = [feature.name for feature in features if feature.kind == "category"]
    rows = scored.select(names).with_columns(watched_columns(answer, task))
    labelled = (scored["label"].is_not_null() & scored.select(is_answered(task)).to_series()).to_numpy()
    errors = np.full(len(rows), np.nan)
    errors[labelled] = task.errors(task.encoded(scored["label"].filter(labelled)), answer[labelled])
    columns = [*names, *watched_names(task)]
    half = np.arange(len(rows)) < len(rows) // 2
    expected = np.empty(len(rows))
    for part in (half, ~half):
        expected[part] = _fit(rows, errors, labelled & ~part, columns, texts).expected(rows.filter(part))
    tree = _fit(rows, errors, labelled, columns, texts)
    return Foretold(scored.with_columns(pl.Series(EXPECTED, expected)), tree)


def foretold(rows: pl.DataFrame, answer: Floats, task: Task, tree: ErrorTree | None) -> Floats:
    """What `EXPECTED` is of later rows, which have the columns of the tree, [rows]."""
    own = task.foretold(answer)
    if own is not None or tree is None:
        return np.full(len(rows), np.nan) if own is None else own
    return tree.expected(rows.with_columns(watched_columns(answer, task)))


def _fit(
    rows: pl.DataFrame, errors: Floats, chosen: NDArray[np.bool_], columns: Sequence[str], texts: Sequence[str]
) -> ErrorTree:
    """From the `chosen` rows, or some of them evenly taken: one leaf where they are few."""
    at = np.flatnonzero(chosen)
    at = at[:: 1 + len(at) // _ROWS]
    mean = float(errors[at].mean()) if len(at) else 0.0
    if len(at) < 2 * _LEAST_ROWS:
        return ErrorTree((), {}, mean, (-1,), (0.0,), (-1,), (-1,), (mean,))
    from sklearn.tree import DecisionTreeRegressor

    known, found = rows[at], errors[at]
    orders = {name: _order(known[name], found) for name in columns if name in texts}
    least = max(_LEAST_ROWS, len(at) // 100)
    tree = DecisionTreeRegressor(max_leaf_nodes=_LEAVES, min_samples_leaf=least, random_state=0)
    nodes = tree.fit(_matrix(known, columns, orders, mean), found).tree_
    used = sorted({int(one) for one in nodes.feature if one >= 0})
    place = {one: number for number, one in enumerate(used)}
    names = tuple(columns[one] for one in used)
    return ErrorTree(
        columns=names,
        categories={name: orders[name] for name in names if name in orders},
        other=mean,
        column=tuple(place.get(int(one), -1) for one in nodes.feature),
        threshold=tuple(nodes.threshold.tolist()),
        left=tuple(nodes.children_left.tolist()),
        right=tuple(nodes.children_right.tolist()),
        value=tuple(nodes.value[:, 0, 0].tolist()),
    )


def _order(values: pl.Series, errors: Floats) -> dict[str, float]:
    """The mean error of each value that has enough rows; null and "" are one."""
    frame = pl.DataFrame({"value": values.cast(pl.String).fill_null(""), "error": errors})
    found = frame.group_by("value").agg(pl.col("error").mean(), rows=pl.len()).filter(pl.col("rows") >= _LEAST_ROWS)
    return dict(found.sort("value").select("value", "error").iter_rows())


def _matrix(
    rows: pl.DataFrame, columns: Sequence[str], categories: Mapping[str, Mapping[str, float]], other: float
) -> NDArray[np.float32]:
    found = np.full((len(rows), len(columns)), _MISSING, dtype=np.float32)
    for at, name in enumerate(columns):
        if name not in rows.columns:
            continue
        if name in categories:
            texts = rows[name].cast(pl.String).fill_null("")
            values = texts.replace_strict(categories[name], default=other, return_dtype=pl.Float64).to_numpy()
        else:
            values = rows[name].cast(pl.Float64, strict=False).to_numpy()
        found[:, at] = np.where(np.isfinite(values), np.clip(values, -_LARGEST, _LARGEST), _MISSING)
    return found
