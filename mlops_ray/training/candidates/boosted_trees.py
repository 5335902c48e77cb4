"""Gradient-boosted trees: scikit-learn's HistGradientBoosting over the numbers and the codes of the categories."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_ray.tasks.link import Linear, Link
from mlops_ray.training.candidates.growing import PATIENCE, grow_in_steps
from mlops_ray.training.candidates.tree_ensemble import Tree, rounded_down, trees_to_onnx
from mlops_ray.use_case import FitData, FittedModel, Parameters

Estimator: TypeAlias = HistGradientBoostingClassifier | HistGradientBoostingRegressor

# Between two looks at the clock, if there is a limit; each fit sorts the values of all features into bins again.
_TREES_AT_ONCE = 20
# Of more rows than that, so many are drawn to find bins by; of a column 20 values are to be expected among them.
_BINNED_ROWS, _FEWEST_BINNED = 200_000, 20


def fit_trees(data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
    """See gradient_boosting.GradientBoosting. Each step adds trees to those before it."""

    def begin(rows: FitData, watched: FitData | None) -> "_Growth":
        return _Growth(rows, watched, parameters)

    return grow_in_steps(begin, data, int(parameters["iterations"]))


class _Growth:
    """See growing.Growth."""

    def __init__(self, data: FitData, watched: FitData | None, parameters: Parameters) -> None:
        link = data.task.link(data.label)
        bare = _bare(data)
        data, watched = _filled(data, bare), None if watched is None else _filled(watched, bare)
        made, self._link = _ESTIMATORS[link.name](link)
        self._data, self._watched, self.trees = data, watched, 0
        self._model = made.set_params(
            learning_rate=float(parameters["learning_rate"]),
            max_leaf_nodes=int(parameters["max_leaf_nodes"]),
            min_samples_leaf=int(parameters["min_samples_leaf"]),
            l2_regularization=float(parameters["l2_regularization"]),
            early_stopping=watched is not None,
            n_iter_no_change=PATIENCE,
            warm_start=True,
            random_state=data.seed,
        )

    def grow(self, trees: int) -> None:
        data, late, at_once = self._data, self._watched, trees if self._data.ends_at is None else _TREES_AT_ONCE
        held_out = (
            {} if late is None else {"X_val": late.matrix, "y_val": late.label, "sample_weight_val": late.weights}
        )
        while self.trees < trees and not (self.trees and data.is_out_of_time()):
            self._model.max_iter = min(trees, self.trees + at_once)
            with threadpool_limits(limits=data.threads):
                self._model.fit(data.matrix, data.label, sample_weight=data.weights, **held_out)
            self.trees = len(self._model._predictors)
            if self.trees < self._model.max_iter:
                break
        _round_thresholds(self._model)

    @property
    def best(self) -> int:
        return max(1, int(np.argmax(self._model.validation_score_)))

    def model(self) -> "BoostedTrees":
        return BoostedTrees(self._model, self._link, self._data.task.output)


def _bare(data: FitData) -> NDArray[np.intp]:
    """The columns without any value, or with so few that there may be none in the rows by which scikit-learn bins them,
    which are drawn by their weights: it fails on such a column."""
    share = [np.average(~np.isnan(column), weights=data.weights) for column in data.matrix.T]
    fewest = 0.0 if len(data.label) <= _BINNED_ROWS else _FEWEST_BINNED / _BINNED_ROWS
    return np.flatnonzero(np.array(share) <= fewest)


def _filled(data: FitData, columns: NDArray[np.intp]) -> FitData:
    """With zeros in these columns: a constant is never split on, so trees ask nothing of them."""
    if not columns.size:
        return data
    matrix = np.array(data.matrix)
    matrix[:, columns] = 0.0
    return replace(data, matrix=matrix)


def _classifier(link: Link) -> tuple[Estimator, Link]:
    return HistGradientBoostingClassifier(), link


def _regressor(link: Link) -> tuple[Estimator, Link]:
    """These trees add up answers, not deviations from a centre."""
    level = link.level if isinstance(link, Linear) else None
    plain = {None: "squared_error", 0.5: "absolute_error"}.get(level)
    model = HistGradientBoostingRegressor(loss=plain or "quantile", quantile=level if plain is None else None)
    return model, Linear(0.0, 1.0, level)


_ESTIMATORS: dict[str, Callable[[Link], tuple[Estimator, Link]]] = {
    "logistic": _classifier,
    "softmax": _classifier,
    "linear": _regressor,
}


@dataclass(frozen=True)
class BoostedTrees:
    """Fitted trees whose thresholds are float32 numbers."""

    model: Estimator
    link: Link
    output: str

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        if not len(matrix):
            return np.empty((0, self.link.width) if self.link.width > 1 else 0)
        if isinstance(self.model, HistGradientBoostingRegressor):
            answer: NDArray[np.float64] = self.model.predict(matrix)
            return answer
        probability: NDArray[np.float64] = self.model.predict_proba(matrix)
        return probability[:, 1] if self.link.width == 1 else probability

    def to_onnx(self) -> bytes:
        """Not by skl2onnx: its output for these trees raises as soon as NumPy's warnings are errors, and fails outright
        with protobuf 7."""
        trees = [_tree(tree.nodes) for iteration in self.model._predictors for tree in iteration]
        base, features = np.ravel(self.model._baseline_prediction).tolist(), int(self.model.n_features_in_)
        return trees_to_onnx(trees, base, self.link, self.output, features, "gradient_boosting")


def _tree(nodes: NDArray[np.void]) -> Tree:
    return Tree(
        nodes["is_leaf"].astype(bool),
        nodes["feature_idx"],
        nodes["num_threshold"],
        nodes["left"],
        nodes["right"],
        nodes["missing_go_to_left"].astype(bool),
        nodes["value"],
    )


def _round_thresholds(model: Estimator) -> None:
    for iteration in model._predictors:
        for tree in iteration:
            tree.nodes["num_threshold"] = rounded_down(tree.nodes["num_threshold"])
