"""What Ray Train is told of a fit, and what becomes of its errors: without Ray."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.train import Checkpoint, ControllerError, WorkerGroupError
from ray.train.torch import TorchTrainer

from mlops_ray.errors import DataError, UnavailableError
from mlops_ray.training.candidates import network_workers
from mlops_ray.training.candidates.network_blocks import moments_of
from mlops_ray.training.candidates.network_workers import _ends_by_our_errors, _fit_on, _Workers, _workers
from tests.unit.test_fit_blocks import NETWORK, binary, in_blocks

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
GONE = DataError("The training set's file part-00001.parquet cannot be read. Put it back.")


def fit_with(monkeypatch: pytest.MonkeyPatch, folder: Path, outcome: Any, count: int = 2) -> Any:
    """Fit with a trainer that gives or raises the outcome; returns the state and what the trainer was made with."""
    made = list[TorchTrainer]()

    def fit(self: TorchTrainer) -> Any:
        made.append(self)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(TorchTrainer, "fit", fit)
    data = in_blocks(binary(500))
    data = type(data)(**{**vars(data), "checkpoints": str(folder / "fits")})
    return _fit_on(_Workers(count, 3, gpu=False), data, NETWORK, moments_of(data)), made[0]


def test_workers_are_spread_over_nodes_and_begun_again_as_often_as_there_are_epochs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.save({"epoch": 6}, tmp_path / "state.pt")
    ended = SimpleNamespace(checkpoint=Checkpoint.from_directory(str(tmp_path)))
    state, trainer = fit_with(monkeypatch, tmp_path, ended)
    assert state == {"epoch": 6}
    scaling, run = trainer.scaling_config, trainer.run_config
    assert (scaling.num_workers, scaling.resources_per_worker, scaling.placement_strategy) == (2, {"CPU": 3}, "SPREAD")
    assert run.failure_config.max_failures > NETWORK["epochs"]
    assert run.storage_path == str(tmp_path / "fits")
    _, again = fit_with(monkeypatch, tmp_path, ended)
    assert again.run_config.name == run.name
    _, on_more = fit_with(monkeypatch, tmp_path, ended, count=3)
    assert on_more.run_config.name != run.name


def test_our_errors_end_a_fit_as_they_were_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

    callback = _ends_by_our_errors()
    with pytest.raises(DataError, match=r"part-00001\.parquet"):
        callback.after_exception(None, {1: UserExceptionWithTraceback(GONE, "…")})
    callback.after_exception(None, {0: UserExceptionWithTraceback(ValueError("another try may do"), "…")})
    with pytest.raises(DataError, match=r"part-00001\.parquet cannot be read\. Put it back\."):
        fit_with(monkeypatch, tmp_path, ControllerError(GONE))


def test_workers_that_die_too_often_are_told_of_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UnavailableError, match=r"(?s)died, at most 10 of their deaths .* it goes on after the last"):
        fit_with(monkeypatch, tmp_path, WorkerGroupError("the actor died.", {}))


@pytest.mark.parametrize(
    ("nodes", "held", "wanted"),
    [
        ({"here": {}, "there": {"CPU": 4.0}}, 2.0, (2, 2, False)),  # what the fit holds itself is free while it waits
        ({"here": {"CPU": 2.0}, "there": {}}, 0.0, (1, 2, False)),
        ({"here": {}, "there": {}}, 0.0, (1, 2, False)),
        ({"here": {"CPU": 8.0, "GPU": 2.0}, "there": {"GPU": 1.0}}, 0.0, (3, 1, True)),
    ],
)
def test_a_worker_for_each_gpu_or_else_for_each_node_with_free_cpus(
    monkeypatch: pytest.MonkeyPatch, nodes: dict[str, dict[str, float]], held: float, wanted: tuple[int, int, bool]
) -> None:
    context = SimpleNamespace(
        worker=SimpleNamespace(mode=ray.WORKER_MODE),
        get_node_id=lambda: "here",
        get_assigned_resources=lambda: {"CPU": held},
    )
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray._private.state, "available_resources_per_node", lambda: nodes)
    assert _workers(2) == network_workers._Workers(*wanted)
