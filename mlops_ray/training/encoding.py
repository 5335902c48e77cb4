"""The encoder: from feature columns to the float32 matrix that every candidate learns from, in polars and as ONNX."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx.compose
import polars as pl
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.errors import DataError
from mlops_ray.features.blocks import Rows
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.tasks.task import Task
from mlops_ray.training.level_table import History, LevelTable, known_before, level_table
from mlops_ray.use_case import Feature

UNKNOWN_CODE = 0
MISSING_CODE = 1
FIRST_CODE = 2
MISSING = ""
# Of about so many rows it is looked at how often a number is missing, and what it is otherwise.
LOOKED_AT = 100_000
# From a smaller share of missing ones, if they are fewer than so many rows, no candidate learns what missing means.
_SELDOM, _FEW_ROWS = 0.001, 200

# ONNX Runtime 1.32 loads these and what lies below; a graph that needs more would fail only in the replica.
_MAX_IR_VERSION = 10
_ML_OPSET = 3
# In front of every name of the model's graph but its output, so that none meets a name of the encoding.
_PREFIX = "model/"

Read = Callable[[Sequence[str]], pl.DataFrame]
"""Columns of all rows, in their order."""
OfLevels = Mapping[str, NDArray[np.float32]]
"""Of categories with a table, by name, the numbers of each row, [rows, names]."""


@dataclass(frozen=True)
class Encoder:
    """The features with the categories seen in training; the matrix has their columns in this order.

    A number is itself, and where it is null or not finite NaN, or what `usual` has for it: the median, if hardly any
    row of training lacked it. On the day on which a feed fails trees would else take it for 0, or for what those few
    rows had in common.

    A category is a code: 0 for a value not seen in training, 1 for a missing one (null or ""), 2 and up for
    `Feature.categories` in their order. One that has a table in `levels` is the numbers that the table has for its
    value, and has no `categories`; missing is a value like others.
    """

    features: tuple[Feature, ...]
    levels: Mapping[str, LevelTable] = field(default_factory=dict)
    usual: Mapping[str, float] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[Feature, ...]:
        """The columns of the matrix, as a candidate is told of them."""
        return tuple(column for feature in self.features for column in self._columns(feature))

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers, in the order of the columns of the ONNX input `numbers`."""
        return tuple(feature.name for feature in self.features if feature.kind == "number")

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories, in the order of the columns of the ONNX input `categories`."""
        return tuple(feature.name for feature in self.features if feature.kind == "category")

    def with_level_tables(self, read: Read, task: Task, most_levels: int | None) -> "Encoder":
        """With a table for each category of more values than `most_levels` (see level_table), learned from the labels
        of the rows that this encoder was fitted to; None: for none."""
        wide = {one.name for one in self.features if most_levels is not None and len(one.categories) > most_levels}
        if not wide:
            return self
        history = _history(read, task)
        tables = {name: level_table(_texts(read([name]), name), history) for name in sorted(wide)}
        features = tuple(replace(one, categories=()) if one.name in wide else one for one in self.features)
        return replace(self, features=features, levels=tables)

    def encode(self, frame: pl.DataFrame, of_levels: OfLevels | None = None) -> NDArray[np.float32]:
        """The matrix [rows, columns] of `frame`, which may have other columns too.

        of_levels: of each category with a table the numbers of each row; default those of the table. Raises DataError
        naming the features that `frame` lacks.
        """
        _require(frame, self.features)
        if of_levels is None:
            of_levels = {name: table.encode(_texts(frame, name)) for name, table in self.levels.items()}
        return self._matrix(frame, of_levels)

    def of_fitted(self, read: Read, task: Task) -> OfLevels:
        """Of the rows that this encoder was fitted to, what is to be learned of their levels: without the row's own
        label, and all that were not known before its moment."""
        if not self.levels:
            return {}
        history = _history(read, task)
        return {name: known_before(_texts(read([name]), name), history) for name in self.levels}

    def encode_fitted(self, frame: pl.DataFrame, task: Task) -> NDArray[np.float32]:
        """The matrix of the rows that this encoder was fitted to, to learn from."""
        return self.encode(frame, self.of_fitted(frame.select, task))

    def _matrix(self, frame: pl.DataFrame, of_levels: OfLevels) -> NDArray[np.float32]:
        kept = [feature for feature in self.features if feature.name not in of_levels]
        columns = frame.select(_column(feature, self.usual.get(feature.name, np.nan)) for feature in kept)
        matrix = np.ascontiguousarray(columns.to_numpy(), dtype=np.float32)
        if not of_levels:
            return matrix
        parts = {name: matrix[:, [at]] for at, name in enumerate(columns.columns)} | dict(of_levels)
        return np.ascontiguousarray(np.concatenate([parts[feature.name] for feature in self.features], axis=1))

    def _columns(self, feature: Feature) -> Iterator[Feature]:
        if feature.name not in self.levels:
            yield feature
            return
        for name in self.levels[feature.name].names:
            yield Feature(f"{feature.name}: {name}" if name else feature.name, "number")

    def inputs(self, frame: pl.DataFrame) -> dict[str, NDArray[np.float32] | NDArray[np.object_]]:
        """What the complete ONNX model takes for the rows of `frame`: `numbers` and `categories`."""
        _require(frame, self.features)
        inputs: dict[str, NDArray[np.float32] | NDArray[np.object_]] = {}
        if self.numbers:
            numbers = frame.select(pl.col(self.numbers).cast(pl.Float64).fill_null(np.nan).cast(pl.Float32))
            inputs["numbers"] = np.ascontiguousarray(numbers.to_numpy(), dtype=np.float32)
        if self.categories:
            texts = frame.select(pl.col(self.categories).cast(pl.String).fill_null(MISSING))
            inputs["categories"] = np.array(texts.rows(), dtype=object).reshape(frame.height, len(self.categories))
        return inputs

    def wrap_onnx(self, model: bytes) -> bytes:
        """`model` (see use_case.FittedModel.to_onnx) with the encoding in front of it.

        Inputs: `numbers` float32 [rows, numbers] with NaN where missing and `categories` string [rows, categories]
        with "" where missing; a kind of which there are no features has no input. The outputs are the model's.
        """
        complete = onnx.compose.add_prefix(onnx.load_model_from_string(model), _PREFIX, rename_outputs=False)
        _one_opset_per_domain(complete)
        nodes, constants = self._graph()
        body = [*complete.graph.node]
        del complete.graph.node[:], complete.graph.input[:]
        complete.graph.node.extend([*nodes, *body])
        complete.graph.initializer.extend(constants)
        for name, kind, width in (
            ("numbers", TensorProto.FLOAT, len(self.numbers)),
            ("categories", TensorProto.STRING, len(self.categories)),
        ):
            if width:
                complete.graph.input.append(helper.make_tensor_value_info(name, kind, ["rows", width]))
        onnx.checker.check_model(complete)
        serialized: bytes = complete.SerializeToString()
        return serialized

    def _graph(self) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Nodes from the inputs to the model's `matrix`."""
        nodes: list[onnx.NodeProto] = []
        constants: list[onnx.TensorProto] = []
        columns: list[str] = []
        if self.numbers:
            usual = np.array([self.usual.get(name, np.nan) for name in self.numbers], dtype=np.float32)
            constants.append(numpy_helper.from_array(usual, "encode/usual"))
            nodes.append(helper.make_node("IsInf", ["numbers"], ["encode/infinite"]))
            nodes.append(helper.make_node("IsNaN", ["numbers"], ["encode/nan"]))
            nodes.append(helper.make_node("Or", ["encode/infinite", "encode/nan"], ["encode/missing"]))
            nodes.append(helper.make_node("Where", ["encode/missing", "encode/usual", "numbers"], ["encode/numbers"]))
            columns.append("encode/numbers")
        encoded = [feature for feature in self.features if feature.kind == "category"]
        for index, feature in enumerate(encoded):
            column, text, code = f"encode/column_{index}", f"encode/text_{index}", f"encode/code_{index}"
            table = self.levels.get(feature.name)
            # Without a dimension the texts are [rows], as a table is looked up by.
            at = np.array([index] if table is None else index, dtype=np.int64)
            constants.append(numpy_helper.from_array(at, column))
            nodes.append(helper.make_node("Gather", ["categories", column], [text], axis=1))
            if table is not None:
                constants.append(numpy_helper.from_array(table.numbers, f"encode/levels_{index}"))
                nodes.extend(_level_nodes(table, index, text, code))
            else:
                nodes.append(_label_encoder(feature, text, code))
            columns.append(code)
        constants.append(numpy_helper.from_array(self._order(), "encode/order"))
        nodes.append(helper.make_node("Concat", columns, ["encode/columns"], axis=1))
        nodes.append(helper.make_node("Gather", ["encode/columns", "encode/order"], [f"{_PREFIX}matrix"], axis=1))
        return nodes, constants

    def _order(self) -> NDArray[np.int64]:
        """Where the columns of the matrix stand behind each other: numbers first, then categories."""
        kinds = [feature.kind == "category" for feature in self.features for _ in self._columns(feature)]
        return np.argsort(np.argsort(kinds, kind="stable")).astype(np.int64)


def fit_encoder(
    frame: pl.DataFrame, features: Sequence[Feature], task: Task | None = None, most_levels: int | None = None
) -> Encoder:
    """As `fit_encoder_to` one frame, and where the task of its labels is given, `with_level_tables`.

    Raises DataError naming the features that it lacks.
    """
    _require(frame, features)
    encoder = fit_encoder_to(Rows.of(frame), features)
    return encoder if task is None else encoder.with_level_tables(frame.select, task, most_levels)


def fit_encoder_to(rows: Rows, features: Sequence[Feature]) -> Encoder:
    """Learn the categories of all rows, sorted, so that the same rows give the same codes in any order, and of numbers
    that are hardly ever missing what they usually are."""
    seen: dict[str, set[str]] = {feature.name: set() for feature in features if feature.kind == "category"}
    for frame in rows.frames([*seen]) if seen else ():
        for name, values in seen.items():
            values.update(frame[name].cast(pl.String).drop_nulls().unique())
    learned = {name: tuple(sorted(values - {MISSING})) for name, values in seen.items()}
    coded = tuple(replace(one, categories=learned.get(one.name, one.categories)) for one in features)
    return Encoder(coded, usual=_usual(rows, [one for one in features if one.kind == "number"]))


def _usual(rows: Rows, numbers: Sequence[Feature]) -> Mapping[str, float]:
    """The median of each number that is seldom missing, in few of all rows, going by a sample."""
    if not numbers:
        return {}
    values = rows.some(LOOKED_AT, 0, [one.name for one in numbers]).select(_column(one, np.nan) for one in numbers)
    missing = values.select(pl.all().is_nan().sum()).row(0, named=True)
    few = min(_SELDOM * len(rows), _FEW_ROWS) * values.height / max(len(rows), 1)
    seldom = [name for name, count in missing.items() if count < few]
    return values.select(pl.col(seldom).fill_nan(None).quantile(0.5, "lower")).row(0, named=True) if seldom else {}


def _texts(frame: pl.DataFrame, name: str) -> pl.Series:
    return frame[name].cast(pl.String).fill_null(MISSING)


def _history(read: Read, task: Task) -> History:
    """Of the rows of a training set."""
    frame = read([PREDICTION_TIME, LABEL_KNOWN_AT, LABEL])
    moments = (frame[name].dt.timestamp("us").to_numpy() for name in (PREDICTION_TIME, LABEL_KNOWN_AT))
    return History(task.averaged(task.encoded(frame[LABEL])), *moments)


def _require(frame: pl.DataFrame, features: Sequence[Feature]) -> None:
    missing = [feature.name for feature in features if feature.name not in frame.columns]
    if missing:
        raise DataError(
            f"The rows to encode lack the features {', '.join(missing)}. Build them with the same features."
        )


def _column(feature: Feature, missing: float) -> pl.Expr:
    """As float32. missing: what a number is that is missing."""
    if feature.kind == "number":
        # The cast to Float32 can overflow to infinity, so what is not finite is judged after it, as ONNX does.
        number = pl.col(feature.name).cast(pl.Float64).cast(pl.Float32)
        return pl.when(number.is_finite()).then(number).otherwise(missing).cast(pl.Float32).alias(feature.name)
    keys = [MISSING, *feature.categories]
    codes = [float(code) for code in range(MISSING_CODE, MISSING_CODE + len(keys))]
    text = pl.col(feature.name).cast(pl.String).fill_null(MISSING)
    return text.replace_strict(keys, codes, default=float(UNKNOWN_CODE), return_dtype=pl.Float32)


def _label_encoder(feature: Feature, text: str, code: str) -> onnx.NodeProto:
    keys = [MISSING, *feature.categories]
    return helper.make_node(
        "LabelEncoder",
        [text],
        [code],
        domain="ai.onnx.ml",
        keys_strings=keys,
        values_floats=[float(value) for value in range(MISSING_CODE, MISSING_CODE + len(keys))],
        default_float=float(UNKNOWN_CODE),
    )


def _level_nodes(table: LevelTable, index: int, text: str, numbers: str) -> Iterator[onnx.NodeProto]:
    """From texts [rows] to the rows of the table, [rows, names]."""
    place = f"encode/level_{index}"
    places = list(range(1, 1 + len(table.values)))
    known = {"keys_strings": list(table.values), "values_int64s": places, "default_int64": 0}
    yield helper.make_node("LabelEncoder", [text], [place], domain="ai.onnx.ml", **known)
    yield helper.make_node("Gather", [f"encode/levels_{index}", place], [numbers], axis=0)


def _one_opset_per_domain(model: onnx.ModelProto) -> None:
    """Converters list a domain twice, or leave out the one that the encoding needs; ONNX Runtime refuses both."""
    versions = {"ai.onnx.ml": _ML_OPSET}
    for opset in model.opset_import:
        versions[opset.domain] = max(opset.version, versions.get(opset.domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(versions.items()))
    model.ir_version = min(model.ir_version, _MAX_IR_VERSION)
