"""Footprint: what a fitted model costs to serve, measured on the file that would be sealed."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mlops_ray.training.encoding import FIRST_CODE, MISSING, Encoder
from mlops_ray.training.exported import exported
from mlops_ray.training.trial import Footprint
from mlops_ray.use_case import Feature, FittedModel

BATCH_ROWS = 1_000
_ROUNDS, _BATCHES = 50, 5


def footprint(model: FittedModel, output: str, encoder: Encoder, matrix: NDArray[np.float32]) -> Footprint:
    """Of the model with its encoding in front, with one thread as a replica has it (registry.onnx_model).

    output: the name of its answer. matrix: encoded rows to ask about. Raises what `exported` does.
    """
    onnx = encoder.wrap_onnx(exported(model, output).SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    batch = _decoded(encoder, matrix[np.arange(BATCH_ROWS) % len(matrix)])
    rows = [{name: values[at : at + 1] for name, values in batch.items()} for at in range(_ROUNDS)]
    row_ms = _median_ms([partial(session.run, None, row) for row in rows])
    return Footprint(len(onnx), row_ms, _median_ms([partial(session.run, None, batch)] * _BATCHES))


def _median_ms(calls: Sequence[Callable[[], Any]]) -> float:
    calls[0]()  # the first one allocates
    taken = []
    for call in calls:
        started = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - started))
    return median(taken)


def _decoded(encoder: Encoder, matrix: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """The inputs of the complete model that are encoded as `matrix`, as far as codes say; of a table its values in
    turn, as what a look-up takes is the same for each."""
    columns: dict[str, list[NDArray[Any]]] = {"numbers": [], "categories": []}
    for feature, values in zip(encoder.features, _divided(encoder, matrix), strict=True):
        if feature.kind == "number":
            columns["numbers"].append(values[:, 0])
        elif table := encoder.levels.get(feature.name):
            columns["categories"].append(np.resize(np.array(table.values, dtype=object), len(matrix)))
        else:
            columns["categories"].append(_texts(feature, values[:, 0]))
    return {name: np.ascontiguousarray(np.stack(values, axis=1)) for name, values in columns.items() if values}


def _divided(encoder: Encoder, matrix: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The columns of each feature."""
    at = 0
    for feature in encoder.features:
        width = len(encoder.levels[feature.name].names) if feature.name in encoder.levels else 1
        yield matrix[:, at : at + width]
        at += width


def _texts(feature: Feature, codes: NDArray[np.float32]) -> NDArray[np.object_]:
    known = dict(enumerate(feature.categories, FIRST_CODE))
    return np.array([known.get(int(code), MISSING) for code in codes], dtype=object)
