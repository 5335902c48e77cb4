"""A model of a number and one of each of its quantiles, as one: their answers side by side, also as one ONNX file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.errors import UseCaseError
from mlops_ray.tasks.regression import ESTIMATE
from mlops_ray.training.averaged import AveragedModel, behind_one_input
from mlops_ray.training.scaled import last_model
from mlops_ray.use_case import FitBlocks, FitData, FittedModel

Steps = Iterator[tuple[float, FittedModel]]
_Data = TypeVar("_Data", FitData, FitBlocks)
# So many rows tell whether the models of two quantiles are one and the same.
_LOOKED_AT = 1_000


@dataclass(frozen=True)
class SideBySide:
    """models: of the number, and of each quantile from the lowest on; where these cross they are put in order.
    is_cut_short: the share of time of one of them was up before it ended."""

    models: tuple[FittedModel, ...]
    output: str
    is_cut_short: bool = False

    @property
    def workers(self) -> int:
        """How many fitted each of them together; 0 for one process alone."""
        return max(getattr(one, "workers", 0) for one in self.models)

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        answers: NDArray[np.float64] = np.column_stack([one.predict(matrix) for one in self.models])
        answers[:, 1:].sort(axis=1)
        return answers

    def to_onnx(self) -> bytes:
        inside, quantiles = behind_one_input(self.models, self.output), len(self.models) - 1
        columns = [f"column_{at}" for at in range(len(self.models))]
        pairs = zip(inside.answers, columns, strict=True)
        nodes = [helper.make_node("Unsqueeze", [answer, "axis"], [column]) for answer, column in pairs]
        nodes += [
            helper.make_node("Identity", [inside.answers[0]], [ESTIMATE]),
            helper.make_node("Concat", columns[1:], ["as_fitted"], axis=1),
            helper.make_node("TopK", ["as_fitted", "quantiles"], ["in_order", "places"], axis=1, largest=0),
            helper.make_node("Concat", [columns[0], "in_order"], [self.output], axis=1),
        ]
        constants = {"axis": 1, "quantiles": quantiles}
        values = [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in constants.items()]
        answer = helper.make_tensor_value_info(self.output, TensorProto.FLOAT, ["rows", 1 + quantiles])
        alone = helper.make_tensor_value_info(ESTIMATE, TensorProto.FLOAT, ["rows"])
        return inside.model("side_by_side", nodes, values, answer, alone)


def steps_of(data: _Data, candidate: str, fit: Callable[[_Data], Steps]) -> Steps:
    """The steps of a fit; where the task is fitted as several (`Task.fitted_as`) one, with the models of all, each
    fitted to the end after the one before, with an even share of the time that is left.

    Raises UseCaseError if the models of two quantiles are the same although the labels' quantiles differ.
    """
    tasks, models, is_cut_short = data.task.fitted_as, list[FittedModel](), False
    if len(tasks) == 1:
        yield from fit(data)
        return
    for at, task in enumerate(tasks):
        share = replace(data.share_of_time(len(tasks) - at), task=task)
        if isinstance(share, FitBlocks):
            share = replace(share, checkpoints=f"{share.checkpoints}/{at}")
        models.append(last_model(fit(share), candidate))
        is_cut_short |= share.is_out_of_time() or (isinstance(models[-1], AveragedModel) and models[-1].is_cut_short)
    _expect_apart(data, candidate, models[1:])
    yield 1.0, SideBySide(tuple(models), data.task.output, is_cut_short)


def _expect_apart(data: FitData | FitBlocks, candidate: str, models: list[FittedModel]) -> None:
    matrix = data.matrix[:_LOOKED_AT] if isinstance(data, FitData) else data.matrix.read(0)[:_LOOKED_AT]
    (levels,) = data.task.output_parts.values()
    answers, usual = [one.predict(matrix) for one in models], np.quantile(data.label, [*map(float, levels)])
    for at, (lower, upper) in enumerate(pairwise(answers)):
        if usual[at] < usual[at + 1] and np.array_equal(lower, upper):
            raise UseCaseError(
                f"Candidate {candidate} answers the same for the quantiles {levels[at]} and {levels[at + 1]}: it is "
                f"not fitted to them. Let its fit use data.task.level, or data.task.link, or leave quantiles out."
            )
