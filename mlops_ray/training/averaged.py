"""A model whose answer is the weighted mean of several models' answers, also as one ONNX file."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx
import onnx.compose
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.training.exported import INPUT, OPSET, exported
from mlops_ray.use_case import FittedModel


@dataclass(frozen=True)
class AveragedModel:
    """weights: of the models, in their order; together 1. output: the name of the answer (`Task.output`). is_cut_short:
    the share of time of one of them was up before it ended."""

    models: tuple[FittedModel, ...]
    weights: tuple[float, ...]
    output: str
    is_cut_short: bool = False

    def with_models(self, *models: FittedModel) -> Self:
        return replace(self, models=models)

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        answers = [weight * model.predict(matrix) for model, weight in zip(self.models, self.weights, strict=True)]
        mean: NDArray[np.float64] = np.sum(answers, axis=0)
        return mean

    def to_onnx(self) -> bytes:
        """The graphs side by side behind one input, their answers added up in float64."""
        nodes: list[onnx.NodeProto] = []
        constants: list[onnx.TensorProto] = []
        members = [exported(model, self.output) for model in self.models]
        opsets = _shared_opsets(members)
        for at, (member, weight) in enumerate(zip(members, self.weights, strict=True)):
            prefix = f"member_{at}/"
            graph = onnx.compose.add_prefix(member, prefix).graph
            nodes.append(helper.make_node("Identity", [INPUT], [f"{prefix}{INPUT}"]))
            nodes += graph.node
            constants += [*graph.initializer, numpy_helper.from_array(np.array(weight), f"{prefix}weight")]
            nodes.append(
                helper.make_node("Cast", [f"{prefix}{self.output}"], [f"{prefix}exact"], to=TensorProto.DOUBLE)
            )
            nodes.append(helper.make_node("Mul", [f"{prefix}exact", f"{prefix}weight"], [f"{prefix}part"]))
        parts = [f"member_{at}/part" for at in range(len(members))]
        nodes.append(helper.make_node("Sum", parts, ["mean"]))
        nodes.append(helper.make_node("Cast", ["mean"], [self.output], to=TensorProto.FLOAT))
        first = members[0].graph
        graph = helper.make_graph(nodes, "averaged", [first.input[0]], [_answer(first, self.output)], constants)
        version = max(member.ir_version for member in members)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=version)
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString()
        return serialized


def _answer(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto:
    """Without the size of its first dimension, which each model may call otherwise."""
    answer = next(one for one in graph.output if one.name == name)
    dimensions = answer.type.tensor_type.shape.dim
    shape = ["rows", *(one.dim_value for one in dimensions[1:])]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _shared_opsets(members: list[onnx.ModelProto]) -> list[onnx.OperatorSetIdProto]:
    """The highest version of each domain, as where the encoding is put in front of a model; that no node means
    something else by it, the parity of sealing proves."""
    versions = {"": OPSET}
    for member in members:
        for one in member.opset_import:
            versions[one.domain] = max(one.version, versions.get(one.domain, 0))
    return [helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())]
