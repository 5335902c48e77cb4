"""A link as the last nodes of an ONNX graph."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.tasks.link import Link

LinkNodes = tuple[list[onnx.NodeProto], list[onnx.TensorProto], onnx.ValueInfoProto]


def link_nodes(link: Link, output: str, scores: str, dtype: type[np.floating[Any]]) -> LinkNodes:
    """Nodes, constants and the output, float32: [rows], or [rows, width], from `scores` [rows, width] of `dtype`."""
    nodes, constants, at = list[onnx.NodeProto](), list[onnx.TensorProto](), scores
    for number, (operator, beside) in enumerate(link.onnx):
        constants += [numpy_helper.from_array(np.array(value, dtype), f"link/{name}") for name, value in beside.items()]
        given = [at, *(f"link/{name}" for name in beside)]
        at = f"link/{number}"
        nodes.append(helper.make_node(operator, given, [at]))
    flat = link.width == 1
    nodes.append(helper.make_node("Cast", [at], ["link/answer" if flat else output], to=TensorProto.FLOAT))
    if flat:
        constants.append(numpy_helper.from_array(np.array([1], np.int64), "link/axis"))
        nodes.append(helper.make_node("Squeeze", ["link/answer", "link/axis"], [output]))
    shape = ["rows"] if flat else ["rows", link.width]
    return nodes, constants, helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
