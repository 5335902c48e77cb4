"""A graph in ONNX from the matrix to scores and, by their link, to the answer."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.tasks.link import Link
from mlops_ray.training.candidates.link_nodes import link_nodes


class Graph:
    """Nodes with one output each, named in the order in which they are added. Its input is `matrix`, float32."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"step_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def model(self, link: Link, output: str, scores: str, dtype: type[np.floating[Any]]) -> bytes:
        """scores: [rows, width of the link], of `dtype`."""
        matrix = helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", "features"])
        nodes, constants, answer = link_nodes(link, output, scores, dtype)
        nodes, constants = [*self._nodes, *nodes], [*self._constants, *constants]
        graph = helper.make_graph(nodes, "scores", [matrix], [answer], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString()
        return serialized
