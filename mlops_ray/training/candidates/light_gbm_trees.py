"""LightGBM's trees: fitted step by step, and brought to ONNX."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.link import Linear, Link
from mlops_ray.tasks.task import Task
from mlops_ray.training.candidates.tree_ensemble import Tree, rounded_down, trees_to_onnx
from mlops_ray.use_case import Parameters

_FRACTIONS = (0.25, 0.5, 1.0)


def fit_trees(
    matrix: NDArray[np.float32], label: NDArray[Any], task: Task, parameters: Parameters, seed: int, threads: int
) -> Iterator[tuple[float, "LightGbmTrees"]]:
    """See light_gbm.LightGBM. Each step adds trees to those before it."""
    objective, link = _objective(task.link(label))
    settings = {name: value for name, value in parameters.items() if name != "iterations"}
    settings |= {**objective, "seed": seed, "num_threads": threads, "deterministic": True, "force_row_wise": True}
    data = lightgbm.Dataset(matrix, label.astype(np.float64), params={"verbose": -1}, free_raw_data=False)
    booster = lightgbm.Booster({**settings, "verbose": -1}, data)
    iterations, done = int(parameters["iterations"]), 0
    for fraction in _FRACTIONS:
        target = max(1, round(iterations * fraction))
        for _ in range(done, target):
            booster.update()
        done = target
        yield fraction, LightGbmTrees(booster, link, task.output)


def _objective(link: Link) -> tuple[dict[str, Any], Link]:
    """What LightGBM calls it, and the link of its trees: those of a number add up answers."""
    if isinstance(link, Linear):
        return {"objective": "regression_l1" if link.median else "regression"}, Linear(0.0, 1.0, link.median)
    names: dict[str, dict[str, Any]] = {
        "logistic": {"objective": "binary"},
        "softmax": {"objective": "multiclass", "num_class": link.width},
    }
    return names[link.name], link


@dataclass(frozen=True)
class LightGbmTrees:
    """Fitted trees; training goes on with the same ones until the last fraction."""

    booster: lightgbm.Booster
    link: Link
    output: str

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        if not len(matrix):
            return np.empty((0, self.link.width) if self.link.width > 1 else 0)
        return np.asarray(self.booster.predict(matrix), dtype=np.float64)

    def to_onnx(self) -> bytes:
        trees = [_tree(one["tree_structure"]) for one in self.booster.dump_model()["tree_info"]]
        base, features = [0.0] * self.link.width, self.booster.num_feature()
        return trees_to_onnx(trees, base, self.link, self.output, features, "lightgbm")


def _tree(root: Mapping[str, Any]) -> Tree:
    """From LightGBM's nested nodes: those above before those below, left before right."""
    nodes, left, right = [root], list[int](), list[int]()
    for node in nodes:  # which grows while it is walked
        inner = "left_child" in node
        left.append(len(nodes) if inner else 0)
        right.append(len(nodes) + 1 if inner else 0)
        nodes += [node["left_child"], node["right_child"]] if inner else []
    threshold = rounded_down(np.array([node.get("threshold", 0.0) for node in nodes], dtype=np.float64))
    return Tree(
        np.array(["left_child" not in node for node in nodes]),
        np.array([node.get("split_feature", 0) for node in nodes]),
        threshold,
        np.array(left),
        np.array(right),
        np.array([_missing_goes_left(node, limit) for node, limit in zip(nodes, threshold, strict=True)]),
        np.array([node.get("leaf_value", 0.0) for node in nodes]),
    )


def _missing_goes_left(node: Mapping[str, Any], threshold: float) -> bool:
    """Where training had no missing value, LightGBM takes one for 0."""
    return bool(node.get("default_left")) if node.get("missing_type") == "NaN" else threshold >= 0
