"""A candidate's export stands alone, behind a scaling and in an average, whatever opset it was written in."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mlops_ray.errors import ModelError, UseCaseError
from mlops_ray.tasks.binary import BINARY
from mlops_ray.tasks.regression import Regression
from mlops_ray.tasks.scaling import Scaling
from mlops_ray.tasks.task import Task
from mlops_ray.training.averaged import AveragedModel
from mlops_ray.training.encoding import Encoder
from mlops_ray.training.exported import exported
from mlops_ray.training.scaled import last_model, scaled
from mlops_ray.training.weights import Weights
from mlops_ray.training.worker import TrialData, TrialWorker
from mlops_ray.use_case import Feature, Fit, FitData, FittedModel, Parameters, SearchSpace

FEATURES = (Feature("a", "number"), Feature("b", "number"))
MATRIX = np.random.default_rng(1).normal(size=(60, 2)).astype(np.float32)
WEIGHTS = np.array([1.0, -2.0])


def graph(opset: int, output: str = "probability", local: bool = False) -> bytes:
    """The logistic function of a weighted sum. Before 13 axes were attributes; local: it is a function of the model."""
    domain = "own" if local else ""
    nodes = [
        helper.make_node("MatMul", ["matrix", "weights"], ["score"]),
        helper.make_node("Sigmoid", ["score"], ["column"], domain=domain),
    ]
    constants = [numpy_helper.from_array(WEIGHTS.astype(np.float32)[:, None], "weights")]
    if opset < 13:
        nodes.append(helper.make_node("Squeeze", ["column"], [output], axes=[1]))
    else:
        constants.append(numpy_helper.from_array(np.array([1]), "axis"))
        nodes.append(helper.make_node("Squeeze", ["column", "axis"], [output]))
    takes = helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["rows", 2])
    gives = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows"])
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid("own", 1)] if local else [])]
    body = [helper.make_node("Sigmoid", ["x"], ["y"])]
    functions = [helper.make_function("own", "Sigmoid", ["x"], ["y"], body, opsets[:1])] if local else []
    whole = helper.make_graph(nodes, "own", [takes], [gives], constants)
    model = helper.make_model(whole, opset_imports=opsets, functions=functions, ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def raising() -> bytes:
    raise ImportError("No module named 'converter'")


@dataclass(frozen=True)
class Own:
    export: Callable[[], Any]

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(1 / (1 + np.exp(-(matrix.astype(np.float64) @ WEIGHTS))))

    def to_onnx(self) -> Any:
        return self.export()


@dataclass(frozen=True)
class Candidate:
    model: Any
    name: str = "own"
    space: SearchSpace = field(default_factory=dict)

    def fit(self, data: FitData, parameters: Parameters) -> Iterator[tuple[float, FittedModel]]:
        yield 1.0, self.model


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 17, 18, 21])
@pytest.mark.parametrize("local", [False, True], ids=["plain", "functions"])
def test_an_export_of_any_opset_answers_alone_scaled_and_averaged(opset: int, local: bool) -> None:
    if local and opset < 15:  # there were no functions
        return
    own, other = Own(lambda: graph(opset, local=local)), Own(lambda: graph(18))
    for model in (
        own,
        scaled(own, Scaling(1.3, (0.2,)), BINARY),
        AveragedModel((own, other), (0.5, 0.5), "probability"),
        AveragedModel((scaled(own, Scaling(0.7, (0.1,)), BINARY), own), (0.25, 0.75), "probability"),
    ):
        complete = Encoder(FEATURES).wrap_onnx(exported(model, "probability").SerializeToString())
        session = onnxruntime.InferenceSession(complete, providers=["CPUExecutionProvider"])
        (answered,) = session.run(["probability"], {"numbers": MATRIX})
        assert np.abs(answered - model.predict(MATRIX)).max() < 1e-6


@pytest.mark.parametrize(
    ("export", "said"),
    [
        (lambda: None, "to_onnx gave a NoneType instead of bytes"),
        (lambda: b"no graph", "to_onnx gave what cannot be brought to opset 18"),
        (lambda: graph(18, "answer"), "from matrix to answer; it must be one from matrix to probability"),
        (raising, "No module named 'converter'"),
    ],
    ids=["nothing", "no ONNX", "another name", "a package that is not there"],
)
def test_a_trial_whose_model_cannot_be_exported_has_failed_and_says_why(export: Callable[[], Any], said: str) -> None:
    done = last_step(BINARY, "roc_auc", Own(export), MATRIX[:, 0] > 0)
    assert said in done["message"]
    assert "value" not in done


def test_a_trial_is_asked_for_an_interval_only_where_its_metric_is_of_one() -> None:
    """40 rows are too few for one of 99 %, and enough for an error."""
    task = Regression("minutes", coverage=0.99)
    model = Own(lambda: graph(18, task.output))
    assert "value" in last_step(task, "mean_absolute_error", model, MATRIX[:, 0].astype(np.float64))


def test_a_fit_that_yields_nothing_is_named() -> None:
    with pytest.raises(UseCaseError, match="Candidate own: fit ended without a model"):
        last_model(iter(()), "own")


def test_an_average_of_what_cannot_be_exported_says_so() -> None:
    with pytest.raises(ModelError, match="to_onnx gave a NoneType"):
        AveragedModel((Own(lambda: None),), (1.0,), "probability").to_onnx()


def last_step(task: Task, metric: str, model: Any, label: NDArray[Any]) -> dict[str, Any]:
    data = TrialData(Encoder(FEATURES), MATRIX, label, MATRIX[:40], label[:40], Weights(None, None), Fit())
    worker = TrialWorker(data, {"own": Candidate(model)}, task, metric, 1, {"own": 1})
    worker.begin("own", {})
    return worker.step()
