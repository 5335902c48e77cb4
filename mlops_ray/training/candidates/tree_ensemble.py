"""Trees of splits and leaves, from whichever library, as one ONNX operator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mlops_ray.tasks.link import Link
from mlops_ray.training.candidates.link_nodes import link_nodes


@dataclass(frozen=True)
class Tree:
    """One tree; every array [nodes], the root first. A row goes left where `feature` is at most `threshold`.

    threshold: float32 numbers (see `rounded_down`). missing_left: where NaN goes. value: what a leaf adds.
    """

    is_leaf: NDArray[np.bool_]
    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]


def rounded_down(threshold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each threshold as the largest float32 not above it, which changes no answer for float32 inputs.

    A split asks `x <= threshold` in float64. For a float32 x that is the same as asking it of the float32 below, and
    that one survives the trip to ONNX, which knows only float32: without this a row next to a threshold would take the
    other branch there.
    """
    rounded = threshold.astype(np.float32)
    above = rounded.astype(np.float64) > threshold
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return rounded.astype(np.float64)


def trees_to_onnx(
    trees: Sequence[Tree], base: Sequence[float], link: Link, output: str, features: int, name: str
) -> bytes:
    """One TreeEnsembleRegressor for the scores, then the link. The trees' scores take turns; base: of each score."""
    ensemble = _ensemble(trees, base, link.width, "scores")
    nodes, constants, answer = link_nodes(link, output, "scores", np.float32)
    return _model([ensemble, *nodes], constants, answer, features, name)


def forest_to_onnx(estimators: Sequence[Any], output: str, width: int, features: int) -> bytes:
    """The mean of what fitted trees of scikit-learn answer, as its forests do. width: see `Task.width`; of classifiers
    for yes and no it is 1, and the answer the share of yes.

    Their thresholds are rounded down, also in the estimators themselves (see `rounded_down`).
    """
    trees = [tree for estimator in estimators for tree in _trees(estimator.tree_, width, len(estimators))]
    name = output if width > 1 else "mean"
    nodes, constants = [_ensemble(trees, [0.0] * width, width, name)], list[onnx.TensorProto]()
    if width == 1:
        constants.append(helper.make_tensor("axis", TensorProto.INT64, [1], [1]))
        nodes.append(helper.make_node("Squeeze", [name, "axis"], [output]))
    shape = ["rows"] if width == 1 else ["rows", width]
    answer = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    return _model(nodes, constants, answer, features, "forest")


def _trees(tree: Any, width: int, of: int) -> list[Tree]:
    """One for each number of the answer."""
    tree.threshold[:] = rounded_down(tree.threshold)
    values = tree.value[:, 0, :] / of
    leaf, missing = tree.children_left < 0, tree.missing_go_to_left.astype(bool)
    return [
        Tree(leaf, tree.feature, tree.threshold, tree.children_left, tree.children_right, missing, values[:, column])
        for column in range(values.shape[1] - width, values.shape[1])
    ]


def _ensemble(trees: Sequence[Tree], base: Sequence[float], width: int, scores: str) -> onnx.NodeProto:
    return helper.make_node(
        "TreeEnsembleRegressor",
        ["matrix"],
        [scores],
        domain="ai.onnx.ml",
        n_targets=width,
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=list(base),
        **_splits(trees),
        **_leaves(trees, width),
    )


def _model(
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    answer: onnx.ValueInfoProto,
    features: int,
    name: str,
) -> bytes:
    matrix = helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", features])
    graph = helper.make_graph(nodes, name, [matrix], [answer], constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


def _splits(trees: Sequence[Tree]) -> dict[str, list[int] | list[float] | list[str]]:
    leaf = np.concatenate([tree.is_leaf for tree in trees])

    def of_splits(name: str) -> NDArray[np.float64]:
        return np.where(leaf, 0, np.concatenate([getattr(tree, name) for tree in trees]))

    return {
        "nodes_treeids": _tree_ids(trees).tolist(),
        "nodes_nodeids": _node_ids(trees).tolist(),
        "nodes_featureids": of_splits("feature").astype(int).tolist(),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_values": of_splits("threshold").astype(float).tolist(),
        "nodes_truenodeids": of_splits("left").astype(int).tolist(),
        "nodes_falsenodeids": of_splits("right").astype(int).tolist(),
        "nodes_missing_value_tracks_true": of_splits("missing_left").astype(int).tolist(),
    }


def _leaves(trees: Sequence[Tree], width: int) -> dict[str, list[int] | list[float]]:
    leaf = np.concatenate([tree.is_leaf for tree in trees])
    tree_ids = _tree_ids(trees)[leaf]
    return {
        "target_treeids": tree_ids.tolist(),
        "target_nodeids": _node_ids(trees)[leaf].tolist(),
        "target_ids": (tree_ids % width).tolist(),
        "target_weights": np.concatenate([tree.value for tree in trees])[leaf].tolist(),
    }


def _tree_ids(trees: Sequence[Tree]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(trees)), [len(tree.is_leaf) for tree in trees])


def _node_ids(trees: Sequence[Tree]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(len(tree.is_leaf)) for tree in trees])
