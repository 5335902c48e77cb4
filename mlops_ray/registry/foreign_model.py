"""A model that was made elsewhere: its ONNX file brought to the inputs and the output that a sealed model has."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from mlops_ray.errors import ModelError
from mlops_ray.registry.onnx_model import CATEGORIES, NUMBERS
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature

_PREFIX = "foreign."
_KINDS = {TensorProto.FLOAT: NUMBERS, TensorProto.STRING: CATEGORIES}


def adapted(content: bytes, features: Sequence[Feature], missing: Sequence[float] = (), task: Task = BINARY) -> bytes:
    """The model with inputs `numbers` and `categories` and the output of the task; see `OnnxModel`.

    It may take one matrix of float32 for the numbers and one of texts for the categories, under any names, and gives
    the answer as float32 [rows] or [rows, 1]; of yes and no also [rows, 2] with the label's probability second, and of
    classes [rows, classes], as scikit-learn's exporters do (`zipmap` off). missing: for each number what a model that
    knows no missing ones is asked with.
    Raises ModelError if it takes or gives something else.
    """
    try:
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelError(f"The file is no ONNX model: {error}") from error
    taken = {_KINDS.get(part.type.tensor_type.elem_type, ""): part.name for part in model.graph.input}
    wanted = {NUMBERS if feature.kind == "number" else CATEGORIES for feature in features}
    given = [part for part in model.graph.output if part.type.tensor_type.elem_type == TensorProto.FLOAT]
    if taken.keys() != wanted or len(model.graph.input) != len(wanted) or len(given) != 1:
        raise ModelError(
            f"The model takes {[part.name for part in model.graph.input]} and gives "
            f"{[part.name for part in model.graph.output]}. It must take one float32 matrix of the numbers and one of "
            f"texts of the categories, as many as there are, and give one float32 output with the answers "
            f"(skl2onnx: options={{'zipmap': False}})."
        )
    if taken == {kind: kind for kind in wanted} and given[0].name == task.output and not missing:
        return content
    inner = compose.add_prefix(model, _PREFIX).graph
    widths = {kind: sum(1 for one in features if _of(one) == kind) for kind in wanted}
    types = {NUMBERS: TensorProto.FLOAT, CATEGORIES: TensorProto.STRING}
    inputs = [helper.make_tensor_value_info(kind, types[kind], [None, widths[kind]]) for kind in sorted(wanted)]
    renamed = [node for kind in sorted(wanted) for node in _given(kind, f"{_PREFIX}{taken[kind]}", bool(missing))]
    shape = [None] if task.width == 1 else [None, task.width]
    graph = helper.make_graph(
        [*renamed, *inner.node, *_answer(given[0], f"{_PREFIX}{given[0].name}", task)],
        "adapted",
        inputs,
        [helper.make_tensor_value_info(task.output, TensorProto.FLOAT, shape)],
        [*inner.initializer, numpy_helper.from_array(np.array([-1], np.int64), "mlops_ray.flat"),
         numpy_helper.from_array(np.array(1, np.int64), "mlops_ray.second"),
         numpy_helper.from_array(np.array([missing], np.float32), "mlops_ray.missing")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    done: bytes = made.SerializeToString()
    return done


def _given(kind: str, name: str, filled: bool) -> list[onnx.NodeProto]:
    """The input under the model's own name."""
    if kind != NUMBERS or not filled:
        return [helper.make_node("Identity", [kind], [name])]
    return [
        helper.make_node("IsNaN", [kind], ["mlops_ray.absent"]),
        helper.make_node("Where", ["mlops_ray.absent", "mlops_ray.missing", kind], [name]),
    ]


def _of(feature: Feature) -> str:
    return NUMBERS if feature.kind == "number" else CATEGORIES


def _answer(output: onnx.ValueInfoProto, name: str, task: Task) -> list[onnx.NodeProto]:
    shape = [part.dim_value for part in output.type.tensor_type.shape.dim]
    if task.width > 1 and len(shape) == 2 and shape[1] in (0, task.width):  # 0: it is not told
        return [helper.make_node("Identity", [name], [task.output])]
    if task.threshold is not None and len(shape) == 2 and shape[1] == 2:
        chosen = helper.make_node("Gather", [name, "mlops_ray.second"], ["mlops_ray.column"], axis=1)
    elif task.width == 1 and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        chosen = helper.make_node("Identity", [name], ["mlops_ray.column"])
    else:
        fitting = "[rows], [rows, 1] or [rows, 2]" if task.threshold is not None else "[rows] or [rows, 1]"
        wanted = fitting if task.width == 1 else f"[rows, {task.width}]"
        raise ModelError(f"Output {output.name} has the shape {shape}; it must be {wanted}.")
    return [chosen, helper.make_node("Reshape", ["mlops_ray.column", "mlops_ray.flat"], [task.output])]
