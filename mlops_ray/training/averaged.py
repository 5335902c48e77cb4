"""A model whose answer is the weighted mean of several models' answers, also as one ONNX file."""

from collections.abc import Sequence
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
        """Their answers added up in float64."""
        inside = behind_one_input(self.models, self.output)
        nodes, constants, parts = list[onnx.NodeProto](), list[onnx.TensorProto](), list[str]()
        for at, (answer, weight) in enumerate(zip(inside.answers, self.weights, strict=True)):
            parts.append(f"part_{at}")
            constants.append(numpy_helper.from_array(np.array(weight), f"weight_{at}"))
            nodes.append(helper.make_node("Cast", [answer], [f"exact_{at}"], to=TensorProto.DOUBLE))
            nodes.append(helper.make_node("Mul", [f"exact_{at}", f"weight_{at}"], [parts[at]]))
        nodes.append(helper.make_node("Sum", parts, ["mean"]))
        nodes.append(helper.make_node("Cast", ["mean"], [self.output], to=TensorProto.FLOAT))
        return inside.model("averaged", nodes, constants, _answer(inside.members[0].graph, self.output))


@dataclass(frozen=True)
class Members:
    """The graphs of some models behind one input. answers: the names under which each of them gives its answer."""

    members: tuple[onnx.ModelProto, ...]
    nodes: tuple[onnx.NodeProto, ...]
    constants: tuple[onnx.TensorProto, ...]
    answers: tuple[str, ...]

    def model(
        self,
        name: str,
        nodes: Sequence[onnx.NodeProto],
        constants: Sequence[onnx.TensorProto],
        *answers: onnx.ValueInfoProto,
    ) -> bytes:
        """With what comes after them: more nodes and constants, and the answers that they make."""
        inside, given = self.members, [self.members[0].graph.input[0]]
        graph = helper.make_graph([*self.nodes, *nodes], name, given, answers, [*self.constants, *constants])
        version = max(member.ir_version for member in inside)
        model = helper.make_model(graph, opset_imports=_shared_opsets(inside), ir_version=version)
        onnx.checker.check_model(model)
        serialized: bytes = model.SerializeToString()
        return serialized


def behind_one_input(models: Sequence[FittedModel], output: str) -> Members:
    """Raises as `exported` does."""
    members = tuple(exported(model, output) for model in models)
    nodes, constants = list[onnx.NodeProto](), list[onnx.TensorProto]()
    prefixes = [f"member_{at}/" for at in range(len(members))]
    for prefix, member in zip(prefixes, members, strict=True):
        graph = onnx.compose.add_prefix(member, prefix).graph
        nodes += [helper.make_node("Identity", [INPUT], [f"{prefix}{INPUT}"]), *graph.node]
        constants += graph.initializer
    return Members(members, tuple(nodes), tuple(constants), tuple(f"{prefix}{output}" for prefix in prefixes))


def _answer(graph: onnx.GraphProto, name: str) -> onnx.ValueInfoProto:
    """Without the size of its first dimension, which each model may call otherwise."""
    answer = next(one for one in graph.output if one.name == name)
    dimensions = answer.type.tensor_type.shape.dim
    shape = ["rows", *(one.dim_value for one in dimensions[1:])]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _shared_opsets(members: Sequence[onnx.ModelProto]) -> list[onnx.OperatorSetIdProto]:
    """The highest version of each domain, as where the encoding is put in front of a model; that no node means
    something else by it, the parity of sealing proves."""
    versions = {"": OPSET}
    for member in members:
        for one in member.opset_import:
            versions[one.domain] = max(one.version, versions.get(one.domain, 0))
    return [helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())]
