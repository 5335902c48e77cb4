"""The workers that fit a network together, on the nodes of the cluster: the one place that knows Ray Train.

A worker that dies, or its node, is begun again with all others from the last epoch; so is a fit that was killed whole.
"""

import math
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlops_ray.artifacts import digest_json, locate
from mlops_ray.errors import MlopsRayError, UnavailableError
from mlops_ray.training.candidates.network import Moments, Network
from mlops_ray.training.candidates.network_blocks import Place, State, fit_at, learned, moments_of, untrained
from mlops_ray.use_case import FitBlocks, Parameters

# How often workers are begun again before a fit fails: as often as it has epochs, and some.
_MORE_FAILURES = 4
_STATE = "state.pt"


@dataclass(frozen=True)
class _Workers:
    """count: how many there are, each with so many cpus, and with a GPU or without."""

    count: int
    cpus: int
    gpu: bool


@dataclass(frozen=True)
class _Work:
    """What a worker is given. seconds: until the time is up, by which clock ever; None: never."""

    data: Any
    parameters: Parameters
    moments: Moments
    ends_at_s: float | None


def fit_network_blocks(data: FitBlocks, parameters: Parameters) -> Network:
    """See neural_network.NeuralNetwork. In this process where Ray is not initialised.

    Raises UnavailableError where workers died too often, and what a block that cannot be read raises.
    """
    moments = moments_of(data)
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        place = Place(is_out_of_time=data.is_out_of_time)
        return learned(untrained(data, parameters, moments), fit_at(place, data, parameters, moments))
    workers = _workers(data.threads)
    state = _fit_on(workers, data, parameters, moments)
    return replace(learned(untrained(data, parameters, moments), state), workers=workers.count)


def _workers(own_cpus: int) -> _Workers:
    """One for each GPU, or else one on each node with free CPUs; what this fit itself holds is free while it waits."""
    import ray

    nodes = ray._private.state.available_resources_per_node()
    gpus = int(sum(node.get("GPU", 0) for node in nodes.values()))
    if gpus:
        return _Workers(gpus, 1, gpu=True)
    context = ray.get_runtime_context()
    held = context.get_assigned_resources().get("CPU", 0) if context.worker.mode == ray.WORKER_MODE else 0
    free = [int(node.get("CPU", 0) + (held if name == context.get_node_id() else 0)) for name, node in nodes.items()]
    with_some = [cpus for cpus in free if cpus >= 1]
    return _Workers(max(1, len(with_some)), max(1, min([*with_some, own_cpus])), gpu=False)


def _fit_on(workers: _Workers, data: FitBlocks, parameters: Parameters, moments: Moments) -> State:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    epochs, filesystem, path = int(parameters["epochs"]), *locate(data.checkpoints)
    ends_at_s = None if data.ends_at is None else time.time() + data.ends_at - time.monotonic()
    told = replace(data, ends_at=None, threads=workers.cpus)
    # The same fit by as many workers goes on where it was; another begins.
    of_fit = [dict(parameters), data.seed, len(data.label), workers.count, workers.gpu, str(data.held_out)]
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"work": _Work(ray.put(told), parameters, moments, ends_at_s)},
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": 1} if workers.gpu else {}),
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name=f"network-{digest_json(of_fit)[:12]}",
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=epochs + _MORE_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[_ends_by_our_errors()],
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        cause = getattr(error, "controller_failure", None)
        if isinstance(cause, MlopsRayError):
            raise cause from None
        raise UnavailableError(
            f"The workers that fit the network died, at most {epochs + _MORE_FAILURES} of their deaths were made good: "
            f"{error} See the logs of their nodes; run the same again, and it goes on after the last epoch that ended."
        ) from error
    with result.checkpoint.as_directory() as folder:
        return _load(Path(folder))


def _ends_by_our_errors() -> Any:
    """A callback that ends a fit at once by an error that another try would only repeat, such as a file that is gone.

    Ray Train takes what a worker raises and its death alike, and what a callback raises for the end.
    """
    from ray.train import UserCallback

    class EndsByOurErrors(UserCallback):  # type: ignore[misc]
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for error in worker_exceptions.values():
                cause = getattr(error, "_base_exc", error)
                if isinstance(cause, MlopsRayError):
                    raise cause

    return EndsByOurErrors()


def _loop(config: dict[str, Any]) -> None:
    """What each worker does."""
    import ray
    from ray import train
    from ray.train.torch import get_device, prepare_model

    work: _Work = config["work"]
    context, latest, start = train.get_context(), train.get_checkpoint(), None
    if latest is not None:
        with latest.as_directory() as folder:
            start = _load(Path(folder))
    rank, world = context.get_world_rank(), context.get_world_size()

    def add(values: torch.Tensor) -> torch.Tensor:
        if world > 1:
            torch.distributed.all_reduce(values)
        return values

    def save(state: State) -> None:
        told = {"epoch": state["epoch"], "loss": state["losses"][-1] if state["losses"] else math.nan}
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                torch.save(state, Path(folder, _STATE))
                checkpoint = train.Checkpoint.from_directory(folder)
            train.report(told, checkpoint=checkpoint)

    def wrap(module: nn.Module) -> nn.Module:
        return prepare_model(module, parallel_strategy_kwargs={"broadcast_buffers": False})

    def is_out_of_time() -> bool:
        return work.ends_at_s is not None and time.time() >= work.ends_at_s

    place = Place(rank, world, str(get_device()), start, add, wrap, save, is_out_of_time)
    fit_at(place, ray.get(work.data), work.parameters, work.moments)


def _load(folder: Path) -> State:
    state: State = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    return state
