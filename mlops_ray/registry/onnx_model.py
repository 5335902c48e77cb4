"""The model as ONNX Runtime runs it, after a look at what the file would have it do."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from mlops_ray.errors import IntegrityError
from mlops_ray.tasks.binary import BINARY
from mlops_ray.use_case import Feature

NUMBERS, CATEGORIES, PROBABILITY = "numbers", "categories", "probability"
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}


class OnnxModel:
    """An ONNX session with one thread: replicas are scaled by processes, and threads only fight over the cores.

    Inputs: `numbers` float32 [rows, numbers] (NaN is missing) and `categories` text [rows, categories] ("" is
    missing), in the order of the features of that kind; one is absent where there are none. Output: `probability`
    float32 [rows].
    """

    def __init__(self, content: bytes, features: Sequence[Feature]):
        """Raises IntegrityError if the file is no ONNX, runs foreign operators, reads files or has other inputs."""
        refuse_foreign_operators(content)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=_providers())
        except Exception as error:
            raise IntegrityError(f"model.onnx: ONNX Runtime cannot load it: {error}") from error
        self._inputs = self._expect_signature(features)

    def probability(self, numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float32]:
        """Probability of the label for each row. Raises ModelError if an answer is NaN or outside 0 to 1."""
        given = {NUMBERS: numbers, CATEGORIES: categories}
        answer = self._session.run([PROBABILITY], {name: given[name] for name in self._inputs})[0]
        answer = np.asarray(answer, dtype=np.float32)
        if answer.size == 1:  # as most are; two reductions take a tenth of the time that the model takes
            fits = 0 <= answer.item() <= 1  # NaN is neither
        else:
            fits = not answer.size or bool(answer.min() >= 0 and answer.max() <= 1)
        if not fits:
            return BINARY.checked(answer)
        return answer

    def _expect_signature(self, features: Sequence[Feature]) -> tuple[str, ...]:
        kinds = [feature.kind for feature in features]
        wanted = {
            name: (dtype, kinds.count(kind))
            for name, dtype, kind in ((NUMBERS, "tensor(float)", "number"), (CATEGORIES, "tensor(string)", "category"))
            if kind in kinds
        }
        found = {part.name: (part.type, part.shape[-1]) for part in self._session.get_inputs()}
        fits = found.keys() == wanted.keys() and all(
            found[name][0] == dtype and (found[name][1] == width or not isinstance(found[name][1], int))
            for name, (dtype, width) in wanted.items()
        )
        outputs = {part.name: part.type for part in self._session.get_outputs()}
        if not fits or outputs.get(PROBABILITY) != "tensor(float)":
            raise IntegrityError(
                f"model.onnx takes {found} and gives {outputs}; its schema needs {wanted} and "
                f"{PROBABILITY} tensor(float). Export it again."
            )
        return tuple(wanted)


def _providers() -> list[str]:
    """A GPU where this process has one and the installed ONNX Runtime can use it, else the CPU."""
    return [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]


def refuse_foreign_operators(content: bytes) -> None:
    """Raise IntegrityError if an ONNX file uses operators outside ONNX's own domains or data outside the file."""
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:
        raise IntegrityError(f"model.onnx is not an ONNX file: {error}") from error
    bodies = [model.graph, *model.functions]
    for node in (node for body in bodies for node in _nodes(body)):
        if node.domain not in _DOMAINS:
            raise IntegrityError(
                f"model.onnx: operator {node.domain}.{node.op_type} is not allowed; only ONNX's own are "
                f"('' and 'ai.onnx.ml'). Export the model without custom operators."
            )
    for tensor in (tensor for body in bodies for tensor in _tensors(body)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise IntegrityError(
                f"model.onnx: tensor {tensor.name!r} points to data outside the file, which no digest covers. "
                f"Export the model as one file."
            )


def _nodes(body: Any) -> Iterator[Any]:
    """All nodes of a graph or function, those of inner graphs (If, Loop, Scan) included."""
    for node in body.node:
        yield node
        for graph in _inner_graphs(node):
            yield from _nodes(graph)


def _tensors(body: Any) -> Iterator[Any]:
    yield from getattr(body, "initializer", ())
    for sparse in getattr(body, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in body.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
        for graph in _inner_graphs(node):
            yield from _tensors(graph)


def _inner_graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
