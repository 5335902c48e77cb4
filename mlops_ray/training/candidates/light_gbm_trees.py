"""LightGBM's trees: fitted step by step, and brought to ONNX."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from mlops_ray.tasks.link import Linear, Link
from mlops_ray.training.candidates.growing import PATIENCE, grow_in_steps
from mlops_ray.training.candidates.tree_ensemble import Tree, rounded_down, trees_to_onnx
from mlops_ray.use_case import Blocks, FitBlocks, FitData, FittedModel, Parameters


def fit_trees(data: FitData | FitBlocks, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
    """See light_gbm.LightGBM. Each step adds trees to those before it."""

    def begin(rows: FitData | FitBlocks, watched: FitData | FitBlocks | None) -> "_Growth":
        return _Growth(rows, watched, parameters)

    return grow_in_steps(begin, data, int(parameters["iterations"]))


class _Growth:
    """See growing.Growth."""

    def __init__(self, data: FitData | FitBlocks, watched: FitData | FitBlocks | None, parameters: Parameters) -> None:
        objective, self._link = _objective(data.task.link(data.label))
        settings = {name: value for name, value in parameters.items() if name != "iterations"}
        settings |= {**objective, "seed": data.seed, "num_threads": data.threads, "verbose": -1}
        rows = _dataset(data)
        self._data, self.trees = data, 0
        self._booster = lightgbm.Booster({**settings, "deterministic": True, "force_row_wise": True}, rows)
        self._losses = list[float]()
        if watched is not None:
            self._booster.add_valid(_dataset(watched, rows), "held out")
        self._is_watched = watched is not None

    def grow(self, trees: int) -> None:
        while self.trees < trees and not (self.trees and self._data.is_out_of_time()):
            if self._is_watched and self.trees - self.best >= PATIENCE:
                return
            self._booster.update()
            self.trees += 1
            if self._is_watched:
                self._losses.append(self._booster.eval_valid()[0][2])

    @property
    def best(self) -> int:
        return 1 + int(np.argmin(self._losses)) if self._losses else 1

    def model(self) -> "LightGbmTrees":
        """A copy, without the rows that the booster holds as long as it grows."""
        trees = lightgbm.Booster(model_str=self._booster.model_to_string())
        return LightGbmTrees(trees, self._link, self._data.task.output)


def _dataset(data: FitData | FitBlocks, binned_as: lightgbm.Dataset | None = None) -> lightgbm.Dataset:
    label = data.label.astype(np.float64)
    matrix = data.matrix if isinstance(data, FitData) else _sequences(data.matrix)
    return lightgbm.Dataset(
        matrix,
        label,
        binned_as,
        weight=data.weights,
        params={"verbose": -1},
        free_raw_data=not isinstance(data, FitData),
    )


def _sequences(blocks: Blocks) -> list["_Sequence"]:
    read = _LastRead(blocks)
    return [_Sequence(read, number, rows) for number, rows in enumerate(blocks.sizes)]


class _LastRead:
    """Blocks, of which the last one that was read is kept: LightGBM asks for one row after the other."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self._number, self._matrix = blocks, -1, np.empty((0, 0), np.float32)

    def read(self, number: int) -> NDArray[np.float32]:
        if number != self._number:
            self._matrix = np.empty((0, 0), np.float32)  # so that two are never in memory
            self._number, self._matrix = number, self._blocks.read(number)
        return self._matrix


class _Sequence(lightgbm.Sequence):
    """A block as LightGBM reads it: twice, the rows by which bins are found, as float64, and then all, in batches."""

    batch_size = 65_536

    def __init__(self, read: _LastRead, number: int, rows: int) -> None:
        self._read, self._number, self._rows = read, number, rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        found: NDArray[np.float32] = self._read.read(self._number)[rows]
        return found if isinstance(rows, slice) else found.astype(np.float64)


def _objective(link: Link) -> tuple[dict[str, Any], Link]:
    """What LightGBM calls it, and the link of its trees: those of a number add up answers."""
    if isinstance(link, Linear):
        plain = {None: "regression", 0.5: "regression_l1"}.get(link.level)
        named = {"objective": "quantile", "alpha": link.level} if plain is None else {"objective": plain}
        return named, Linear(0.0, 1.0, link.level)
    names: dict[str, dict[str, Any]] = {
        "logistic": {"objective": "binary"},
        "softmax": {"objective": "multiclass", "num_class": link.width},
    }
    return names[link.name], link


@dataclass(frozen=True)
class LightGbmTrees:
    """Fitted trees."""

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
        np.array([node.get("leaf_value", 0.0) for node in nodes], dtype=np.float64),  # it may be the integer 0
    )


def _missing_goes_left(node: Mapping[str, Any], threshold: float) -> bool:
    """Where training had no missing value, LightGBM takes one for 0."""
    return bool(node.get("default_left")) if node.get("missing_type") == "NaN" else threshold >= 0
