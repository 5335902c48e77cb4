"""Gradient-boosted trees: scikit-learn's HistGradientBoosting over the numbers and the codes of the categories."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from mlops_ray.tasks.link import Linear, Link
from mlops_ray.tasks.task import Task
from mlops_ray.training.candidates.link_nodes import link_nodes
from mlops_ray.use_case import Parameters

Estimator = HistGradientBoostingClassifier | HistGradientBoostingRegressor

_FRACTIONS = (0.25, 0.5, 1.0)


def fit_trees(
    matrix: NDArray[np.float32], label: NDArray[Any], task: Task, parameters: Parameters, seed: int, threads: int
) -> Iterator[tuple[float, "BoostedTrees"]]:
    """See gradient_boosting.GradientBoosting. Each step adds trees to those before it."""
    iterations = int(parameters["iterations"])
    link = task.link(label)
    made, link = _ESTIMATORS[link.name](link)
    model = made.set_params(
        learning_rate=float(parameters["learning_rate"]),
        max_leaf_nodes=int(parameters["max_leaf_nodes"]),
        min_samples_leaf=int(parameters["min_samples_leaf"]),
        l2_regularization=float(parameters["l2_regularization"]),
        early_stopping=False,
        warm_start=True,
        random_state=seed,
    )
    for fraction in _FRACTIONS:
        model.max_iter = max(1, round(iterations * fraction))
        with threadpool_limits(limits=threads):
            model.fit(matrix, label)
        _round_thresholds(model)
        yield fraction, BoostedTrees(model, link, task.output)


def _classifier(link: Link) -> tuple[Estimator, Link]:
    return HistGradientBoostingClassifier(), link


def _regressor(link: Link) -> tuple[Estimator, Link]:
    """These trees add up answers, not deviations from a centre."""
    median = isinstance(link, Linear) and link.median
    return HistGradientBoostingRegressor(loss="absolute_error" if median else "squared_error"), Linear(0.0, 1.0, median)


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
        """One TreeEnsembleRegressor for the scores, then the link.

        Not by skl2onnx: its output for these trees raises as soon as NumPy's warnings are errors, and fails outright
        with protobuf 7.
        """
        trees = [tree.nodes for iteration in self.model._predictors for tree in iteration]
        ensemble = helper.make_node(
            "TreeEnsembleRegressor",
            ["matrix"],
            ["scores"],
            domain="ai.onnx.ml",
            n_targets=self.link.width,
            aggregate_function="SUM",
            post_transform="NONE",
            base_values=np.ravel(self.model._baseline_prediction).tolist(),
            **_splits(trees),
            **_leaves(trees, self.link.width),
        )
        nodes, constants, output = link_nodes(self.link, self.output, "scores", np.float32)
        matrix = helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", self.model.n_features_in_])
        graph = helper.make_graph([ensemble, *nodes], "gradient_boosting", [matrix], [output], constants)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString()
        return serialized


def _splits(trees: Sequence[NDArray[np.void]]) -> dict[str, list[int] | list[float] | list[str]]:
    nodes = np.concatenate(trees)
    leaf = nodes["is_leaf"].astype(bool)
    return {
        "nodes_treeids": _tree_ids(trees),
        "nodes_nodeids": [index for tree in trees for index in range(len(tree))],
        "nodes_featureids": np.where(leaf, 0, nodes["feature_idx"]).tolist(),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_values": np.where(leaf, 0.0, nodes["num_threshold"]).tolist(),
        "nodes_truenodeids": np.where(leaf, 0, nodes["left"]).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, nodes["right"]).tolist(),
        "nodes_missing_value_tracks_true": np.where(leaf, 0, nodes["missing_go_to_left"]).astype(int).tolist(),
    }


def _leaves(trees: Sequence[NDArray[np.void]], width: int) -> dict[str, list[int] | list[float]]:
    leaf = np.concatenate(trees)["is_leaf"].astype(bool)
    tree_ids = np.array(_tree_ids(trees))[leaf]
    return {
        "target_treeids": tree_ids.tolist(),
        "target_nodeids": np.concatenate([np.arange(len(tree)) for tree in trees])[leaf].tolist(),
        "target_ids": (tree_ids % width).tolist(),
        "target_weights": np.concatenate([tree["value"] for tree in trees])[leaf].tolist(),
    }


def _tree_ids(trees: Sequence[NDArray[np.void]]) -> list[int]:
    return np.repeat(np.arange(len(trees)), [len(tree) for tree in trees]).tolist()


def _round_thresholds(model: Estimator) -> None:
    """Round each threshold down to a float32, which changes no answer for float32 inputs.

    A split asks `x <= threshold` in float64. For a float32 x that is the same as asking it of the largest float32
    not above the threshold, and that one survives the trip to ONNX, which knows only float32: without this a row
    next to a threshold would take the other branch there.
    """
    for trees in model._predictors:
        for tree in trees:
            exact = tree.nodes["num_threshold"]
            rounded = exact.astype(np.float32)
            above = rounded.astype(np.float64) > exact
            rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
            tree.nodes["num_threshold"] = rounded
