"""A fitted model whose answers pass through a scaling, also as ONNX."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.compose
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.errors import ModelError, UseCaseError
from mlops_ray.tasks.link import Link
from mlops_ray.tasks.scaling import HIGHEST, LOWEST, Scaling
from mlops_ray.tasks.task import Task
from mlops_ray.training.averaged import AveragedModel
from mlops_ray.training.candidates.link_nodes import link_nodes
from mlops_ray.training.exported import OPSET, exported
from mlops_ray.use_case import FittedModel

# In front of every name of the model's graph but its input, so that none meets a name of the scaling.
_PREFIX = "unscaled/"
# Kinds of NumPy's types: float, integer, unsigned, boolean.
_NUMBERS = "fiub"
_REPAIR = "Repair the candidate's predict."
_Nodes = tuple[list[onnx.NodeProto], list[onnx.TensorProto]]


@dataclass(frozen=True)
class ScaledModel:
    model: FittedModel
    scaling: Scaling
    task: Task

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        answer = self.model.predict(matrix)
        expect_answers(self.task, answer, len(matrix))  # what is wrong with it would be hidden by the scaling
        return self.scaling.apply(answer)

    def to_onnx(self) -> bytes:
        """The model's nodes and those of the scaling, in float64, from the model's own scores where its last step is
        `link_nodes`: of float32 answers beside 1 only steps of one in ten million are left."""
        output = self.task.output
        complete = onnx.compose.add_prefix(exported(self.model, output), _PREFIX, rename_inputs=False)
        own = _scores_in(complete.graph, output, self.scaling.link)
        scores, constants = self._scores_of_answer(f"{_PREFIX}{output}") if own is None else self._scores_of(own)
        last, more, answer = link_nodes(self.scaling.link, output, "scaling/scores", np.float64)
        if not any(one.domain == "" for one in complete.opset_import):
            complete.opset_import.append(helper.make_opsetid("", OPSET))
        complete.graph.node.extend([*scores, *last])
        complete.graph.initializer.extend([*constants, *more])
        del complete.graph.output[:]
        complete.graph.output.append(answer)
        onnx.checker.check_model(complete)
        serialized: bytes = complete.SerializeToString()
        return serialized

    def _scores_of(self, own: str) -> _Nodes:
        """As `scaling.scores_of` what the model's link makes of its scores, [rows, width], times the slope, plus the
        shifts."""
        low, high = np.log([LOWEST, HIGHEST])
        operator = "LogSoftmax"
        if self.task.width == 1:
            low, high, operator = low - np.log1p(-LOWEST), high - np.log1p(-HIGHEST), "Identity"
        steps = [(operator, "exact", "logs"), ("Clip", "logs", "low", "high", "unscaled")]
        return self._nodes(own, steps, {"low": np.array(low), "high": np.array(high)})

    def _scores_of_answer(self, answer: str) -> _Nodes:
        """The same from the answer."""
        values = {"low": np.array(LOWEST), "high": np.array(HIGHEST)}
        steps: list[tuple[str, ...]] = [("Clip", "exact", "low", "high", "inside"), ("Log", "inside", "logs")]
        if self.task.width == 1:
            values |= {"one": np.array(1.0), "axis": np.array([1], dtype=np.int64)}
            steps += [("Sub", "one", "inside", "other"), ("Log", "other", "logs_of_other")]
            steps += [("Sub", "logs", "logs_of_other", "odds"), ("Unsqueeze", "odds", "axis", "unscaled")]
        else:
            steps += [("Identity", "logs", "unscaled")]
        return self._nodes(answer, steps, values)

    def _nodes(self, given: str, steps: Sequence[tuple[str, ...]], values: Mapping[str, NDArray[Any]]) -> _Nodes:
        """steps: operators, each with the names of its inputs and its result, from `exact`, which is what is given as
        float64, to `unscaled`."""
        values = {
            **values,
            "slope": np.array(self.scaling.slope, float),
            "shifts": np.array(self.scaling.shifts, float),
        }
        nodes = [helper.make_node("Cast", [given], ["scaling/exact"], to=TensorProto.DOUBLE)]
        for operator, *names in (*steps, ("Mul", "unscaled", "slope", "sloped"), ("Add", "sloped", "shifts", "scores")):
            *inputs, result = (f"scaling/{name}" for name in names)
            nodes.append(helper.make_node(operator, inputs, [result]))
        return nodes, [numpy_helper.from_array(value, f"scaling/{name}") for name, value in values.items()]


def _scores_in(graph: onnx.GraphProto, output: str, link: Link) -> str | None:
    """The scores from which `link_nodes` made the answer; None where something else did. Its nodes are taken out."""
    made = {node.output[0]: node for node in graph.node}
    answer, first = made[f"{_PREFIX}{output}"], made.get(f"{_PREFIX}link/0")
    ours = answer.input[0] in (f"{_PREFIX}link/0", f"{_PREFIX}link/answer")
    if first is None or not ours or first.op_type != link.onnx[0][0]:
        return None
    for node in [one for one in graph.node if one is answer or one.output[0].startswith(f"{_PREFIX}link/")]:
        graph.node.remove(node)
    for constant in [one for one in graph.initializer if one.name.startswith(f"{_PREFIX}link/")]:
        graph.initializer.remove(constant)
    return str(first.input[0])


def scaled(model: FittedModel, scaling: Scaling, task: Task) -> ScaledModel:
    """The model behind the scaling; of one that has passed another, one that does both at once."""
    if isinstance(model, ScaledModel):
        return ScaledModel(model.model, scaling.after(model.scaling), task)
    return ScaledModel(model, scaling, task)


def expect_answers(task: Task, answer: Any, rows: int) -> None:
    """Raise ModelError with a sentence if these are no answers to so many rows: an array of numbers, one of them or one
    for each class a row."""
    wanted = (rows,) if task.width == 1 else (rows, task.width)
    if not isinstance(answer, np.ndarray):
        raise ModelError(f"The model answered with a {type(answer).__name__}, which is no NumPy array. {_REPAIR}")
    if answer.dtype.kind not in _NUMBERS:
        raise ModelError(f"The model answered with {answer.dtype}, which are no numbers. {_REPAIR}")
    if answer.shape != wanted:
        raise ModelError(f"The model answered with the shape {answer.shape} instead of {wanted}. {_REPAIR}")
    if sentence := task.wrong(answer):
        raise ModelError(f"{sentence} {_REPAIR}")


def last_model(steps: Iterator[tuple[float, FittedModel]], candidate: str) -> FittedModel:
    """What a fit ends with. Raises UseCaseError if it yields nothing."""
    last = deque(steps, maxlen=1)
    if not last:
        raise UseCaseError(f"Candidate {candidate}: fit ended without a model. Yield one with the fraction 1.0.")
    return last[0][1]


def scaled_steps(
    steps: Iterator[tuple[float, FittedModel]], task: Task, scaling: Scaling | None
) -> Iterator[tuple[float, FittedModel]]:
    """Steps of a candidate, each model behind the scaling, if there is one; of an average each of its models, as in
    the trials that it was made of."""
    for fraction, model in steps:
        if scaling is None:
            yield fraction, model
        elif isinstance(model, AveragedModel):
            yield fraction, model.with_models(*(scaled(one, scaling, task) for one in model.models))
        else:
            yield fraction, scaled(model, scaling, task)
