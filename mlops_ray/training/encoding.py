"""The encoder: from feature columns to the float32 matrix that every candidate learns from, in polars and as ONNX."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx.compose
import polars as pl
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.errors import DataError
from mlops_ray.use_case import Feature

UNKNOWN_CODE = 0
MISSING_CODE = 1
FIRST_CODE = 2
MISSING = ""

# ONNX Runtime 1.32 loads these and what lies below; a graph that needs more would fail only in the replica.
_MAX_IR_VERSION = 10
_ML_OPSET = 3
# In front of every name of the model's graph but its output, so that none meets a name of the encoding.
_PREFIX = "model/"


@dataclass(frozen=True)
class Encoder:
    """The features with the categories seen in training; the matrix has one column for each, in this order.

    A number is itself, NaN where it is null or not finite. A category is a code: 0 for a value not seen in training,
    1 for a missing one (null or ""), 2 and up for `Feature.categories` in their order.
    """

    features: tuple[Feature, ...]

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the numbers, in the order of the columns of the ONNX input `numbers`."""
        return tuple(feature.name for feature in self.features if feature.kind == "number")

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the categories, in the order of the columns of the ONNX input `categories`."""
        return tuple(feature.name for feature in self.features if feature.kind == "category")

    def encode(self, frame: pl.DataFrame) -> NDArray[np.float32]:
        """The matrix [rows, features] of `frame`, which may have other columns too.

        Raises DataError naming the features that `frame` lacks.
        """
        _require(frame, self.features)
        columns = frame.select(_column(feature) for feature in self.features)
        return np.ascontiguousarray(columns.to_numpy(), dtype=np.float32)

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
        with "" where missing; a kind of which there are no features has no input. The output is the
        model's.
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
            constants.append(numpy_helper.from_array(np.array(np.nan, dtype=np.float32), "encode/nan"))
            nodes.append(helper.make_node("IsInf", ["numbers"], ["encode/infinite"]))
            nodes.append(helper.make_node("Where", ["encode/infinite", "encode/nan", "numbers"], ["encode/numbers"]))
            columns.append("encode/numbers")
        encoded = [feature for feature in self.features if feature.kind == "category"]
        for index, feature in enumerate(encoded):
            column, text, code = f"encode/column_{index}", f"encode/text_{index}", f"encode/code_{index}"
            constants.append(numpy_helper.from_array(np.array([index], dtype=np.int64), column))
            nodes.append(helper.make_node("Gather", ["categories", column], [text], axis=1))
            nodes.append(_label_encoder(feature, text, code))
            columns.append(code)
        order = [[*self.numbers, *self.categories].index(feature.name) for feature in self.features]
        constants.append(numpy_helper.from_array(np.array(order, dtype=np.int64), "encode/order"))
        nodes.append(helper.make_node("Concat", columns, ["encode/columns"], axis=1))
        nodes.append(helper.make_node("Gather", ["encode/columns", "encode/order"], [f"{_PREFIX}matrix"], axis=1))
        return nodes, constants


def fit_encoder(frame: pl.DataFrame, features: Sequence[Feature]) -> Encoder:
    """As `fit_encoder_to` one frame. Raises DataError naming the features that it lacks."""
    _require(frame, features)
    return fit_encoder_to([frame], features)


def fit_encoder_to(frames: Iterable[pl.DataFrame], features: Sequence[Feature]) -> Encoder:
    """Learn the categories of all frames, sorted, so that the same rows give the same codes in any order.

    frames: they need the categories' columns only.
    """
    seen: dict[str, set[str]] = {feature.name: set() for feature in features if feature.kind == "category"}
    for frame in frames:
        for name, values in seen.items():
            values.update(frame[name].cast(pl.String).drop_nulls().unique())
    learned = {name: tuple(sorted(values - {MISSING})) for name, values in seen.items()}
    return Encoder(tuple(replace(one, categories=learned.get(one.name, one.categories)) for one in features))


def _require(frame: pl.DataFrame, features: Sequence[Feature]) -> None:
    missing = [feature.name for feature in features if feature.name not in frame.columns]
    if missing:
        raise DataError(
            f"The rows to encode lack the features {', '.join(missing)}. Build them with the same features."
        )


def _column(feature: Feature) -> pl.Expr:
    if feature.kind == "number":
        # The cast to Float32 can overflow to infinity, so what is not finite is judged after it, as ONNX does.
        number = pl.col(feature.name).cast(pl.Float64).cast(pl.Float32)
        return pl.when(number.is_finite()).then(number).otherwise(np.nan).cast(pl.Float32).alias(feature.name)
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


def _one_opset_per_domain(model: onnx.ModelProto) -> None:
    """Converters list a domain twice, or leave out the one that the encoding needs; ONNX Runtime refuses both."""
    versions = {"ai.onnx.ml": _ML_OPSET}
    for opset in model.opset_import:
        versions[opset.domain] = max(opset.version, versions.get(opset.domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(versions.items()))
    model.ir_version = min(model.ir_version, _MAX_IR_VERSION)
