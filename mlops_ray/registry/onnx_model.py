"""The model as ONNX Runtime runs it, after a look at what the file would have it do."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.utils
import onnxruntime
from numpy.typing import NDArray

from mlops_ray.errors import IntegrityError
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature

NUMBERS, CATEGORIES = "numbers", "categories"
_PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}


class OnnxModel:
    """An ONNX session with one thread: replicas are scaled by processes, and threads only fight over the cores.

    Inputs: `numbers` float32 [rows, numbers] (NaN is missing) and `categories` text [rows, categories] ("" is
    missing), in the order of the features of that kind; one is absent where there are none. Output: float32, of the
    name and width that the task asks for: `probability` [rows] for yes and no.

    explained_trees: how many trees `explained` asks.
    """

    def __init__(self, content: bytes, features: Sequence[Feature], task: Task = BINARY):
        """Raises IntegrityError if the file is no ONNX, runs foreign operators, reads files or has other inputs."""
        model = refuse_foreign_operators(content)
        self._session = _session(content)
        self.task = task
        self._inputs = self._expect_signature(features)
        self._explained, self._explained_output = self._session, task.output
        # A session computes all outputs, whichever is asked for.
        if task.explained_output != task.output and (alone := _with_output_alone(model, task.explained_output)):
            self._explained, self._explained_output = _session(alone.SerializeToString()), task.explained_output
            model = alone
        self.explained_trees = _trees(model)

    def answers(self, numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float32]:
        """The answer to each row, as `task` has it. Raises ModelError if one cannot be an answer."""
        return self._asked(self._session, self.task.output, numbers, categories)

    def explained(self, numbers: NDArray[np.float32], categories: NDArray[np.object_]) -> NDArray[np.float32]:
        """Of each answer what the task's `additive` needs, without what else the model computes, where it is known
        apart. Raises as `answers` does."""
        return self._asked(self._explained, self._explained_output, numbers, categories)

    def _asked(
        self,
        session: onnxruntime.InferenceSession,
        output: str,
        numbers: NDArray[np.float32],
        categories: NDArray[np.object_],
    ) -> NDArray[np.float32]:
        given = {NUMBERS: numbers, CATEGORIES: categories}
        answer = session.run([output], {name: given[name] for name in self._inputs})[0]
        return self.task.checked(np.asarray(answer, dtype=np.float32))

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
        output, width = self.task.output, self.task.width
        outputs = {part.name: (part.type, part.shape) for part in self._session.get_outputs()}
        dtype, shape = outputs.get(output, ("nothing", []))
        if not fits or dtype != "tensor(float)" or not _has_width(shape, width):
            raise IntegrityError(
                f"model.onnx takes {found} and gives {outputs}; its schema needs {wanted} and {output} tensor(float) "
                f"[rows{'' if width == 1 else f', {width}'}]. Export it again."
            )
        return tuple(wanted)


def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=_providers())
    except Exception as error:
        raise IntegrityError(f"model.onnx: ONNX Runtime cannot load it: {error}") from error


def _trees(model: onnx.ModelProto) -> int:
    attributes = (attribute for node in _nodes(model.graph) for attribute in node.attribute)
    return sum(len(set(one.ints)) for one in attributes if one.name == "nodes_treeids")


def _with_output_alone(model: onnx.ModelProto, output: str) -> onnx.ModelProto | None:
    """The model without what other outputs need; None where it has no such one, or has graphs within nodes, which
    `Extractor` does not look into."""
    inputs, outputs = ([one.name for one in given] for given in (model.graph.input, model.graph.output))
    if output not in outputs or any(True for node in model.graph.node for _ in _inner_graphs(node)):
        return None
    return onnx.utils.Extractor(model).extract_model(inputs, [output])


def _has_width(shape: Sequence[Any] | None, width: int) -> bool:
    """Whether an output may be [rows], or [rows, width] where that is not 1; sizes with a name may be any."""
    if not shape:  # not said
        return True
    if width == 1:
        return len(shape) == 1
    return len(shape) == 2 and (shape[1] == width or not isinstance(shape[1], int))


def _providers() -> list[str]:
    """A GPU where this process has one and the installed ONNX Runtime can use it, else the CPU."""
    return [name for name in _PROVIDERS if name in onnxruntime.get_available_providers()]


def refuse_foreign_operators(content: bytes) -> onnx.ModelProto:
    """What an ONNX file has. Raises IntegrityError if it uses operators outside ONNX's own domains or data outside the
    file."""
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
    return model


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
