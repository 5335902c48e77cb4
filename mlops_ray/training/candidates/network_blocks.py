"""The network fitted to blocks of rows, by one worker or several together, which goes on after it was killed.

Each batch is divided over the workers and their gradients averaged (Li et al., "PyTorch Distributed", 2020), so that
it is of the same size, and there are as many steps, however many workers there are.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mlops_ray.errors import ConfigurationError
from mlops_ray.training.candidates.network import (
    BATCH_ROWS,
    PATIENCE,
    SCORES,
    Moments,
    Network,
    Perceptron,
    Score,
    descent,
)
from mlops_ray.use_case import FitBlocks, Parameters

# Rows of different times are mixed before batches are made of them: as many as a part of memory holds, at most so many.
_MOST_MIXED, _SHARE_OF_MEMORY = 1_500_000, 8
# After so many steps all workers are asked whether the time is up.
_ASKED_EVERY = 50

State = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Of one worker among those that fit together. rank: from 0 on; world: how many they are.

    start: the state of the last checkpoint, None at the beginning. add: sums over all workers. wrap: the module as it
    runs here, with gradients averaged over all. save: keeps a state, told by all workers at the same epoch.
    is_out_of_time: whether this worker's clock says so.
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    start: State | None = None
    add: Callable[[torch.Tensor], torch.Tensor] = lambda values: values
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    save: Callable[[State], None] = lambda state: None
    is_out_of_time: Callable[[], bool] = lambda: False


class _Hiding(nn.Module):  # type: ignore[misc]
    """What is run in training: scores of rows of which some values are hidden."""

    def __init__(self, module: Perceptron) -> None:
        super().__init__()
        self.module = module

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        return self.module.scores(self.module.hide(matrix))


def moments_of(data: FitBlocks) -> Moments:
    """Of the rows that are learned from, in one pass."""
    early = _early_and_late(data)[0].matrix
    found = [Moments.of(early.read(number), data.features) for number in range(len(early.sizes))]
    return sum(found[1:], found[0])


def fit_at(place: Place, data: FitBlocks, parameters: Parameters, moments: Moments) -> State:
    """Fit from the last checkpoint on to the end; the last state, in which `module` is the network's.

    The same number of workers gives the same network, killed in between or not.
    """
    early, late = _early_and_late(data)
    torch.set_num_threads(data.threads)
    torch.manual_seed(data.seed)
    network = untrained(data, parameters, moments)
    module, score = network.module.to(place.device), network.module.score
    running = place.wrap(_Hiding(module))
    steps, epochs = -(-len(early.label) // BATCH_ROWS), int(parameters["epochs"])
    optimizer, schedule = descent(module, parameters, epochs * steps)
    state: State = {"epoch": 0, "losses": [], "best": {}, "ended": False}
    if place.start is not None:
        state = place.start
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    while state["epoch"] < epochs and not state["ended"]:
        torch.manual_seed(data.seed + 1_000_003 * (state["epoch"] + 1) + place.rank)
        module.train()
        batches, ended = _batches(place, early, score, state["epoch"]), False
        for step in range(steps):
            matrix, targets, weights = next(batches)
            optimizer.zero_grad()
            score.loss(running(matrix), targets, weights).backward()
            optimizer.step()
            schedule.step()
            if step % _ASKED_EVERY == 0 and (ended := _any(place, place.is_out_of_time())):
                break
        losses = [*state["losses"], _loss(place, network, late)] if late is not None else []
        best, worse = state["best"], len(losses) - 1 - int(np.argmin(losses)) if losses else 0
        if losses and not worse:
            best = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}
        state = {
            "epoch": state["epoch"] + 1,
            "losses": losses,
            "best": best,
            "ended": ended or worse >= PATIENCE,
            "module": {name: value.detach().cpu() for name, value in module.state_dict().items()},
            "optimizer": optimizer.state_dict(),
            "schedule": schedule.state_dict(),
        }
        place.save(state)
    return state


def untrained(data: FitBlocks, parameters: Parameters, moments: Moments) -> Network:
    """The network before the first step."""
    link = data.task.link(_early_and_late(data)[0].label)
    score = SCORES[link.name](link)
    return Network(Perceptron(moments, data.features, score, parameters), link, data.task.output)


def learned(network: Network, state: Mapping[str, Any]) -> Network:
    """The network of a fit's last state: after the epoch whose answers to the rows held out were best."""
    network.module.load_state_dict(state["best"] or state["module"])
    network.module.eval()
    return network


def _early_and_late(data: FitBlocks) -> tuple[FitBlocks, FitBlocks | None]:
    return data.divided() or (data, None)


def _any(place: Place, here: bool) -> bool:
    return bool(place.add(torch.tensor([float(here)], device=place.device))[0] > 0)


def _loss(place: Place, network: Network, late: FitBlocks) -> float:
    """Of the rows that are held out, each worker's share of which is answered there."""
    network.module.eval()
    total = torch.zeros(2, dtype=torch.float64, device=place.device)
    for number, (first, rows) in _places(late):
        if number % place.world == place.rank:
            there = slice(first, first + rows)
            losses = late.task.losses(late.label[there], network.predict(late.matrix.read(number)))
            weights = np.ones(rows) if late.weights is None else late.weights[there]
            total += torch.tensor([losses @ weights, weights.sum()], dtype=torch.float64, device=place.device)
    summed = place.add(total)
    return float(summed[0] / summed[1])


def _places(data: FitBlocks) -> Iterator[tuple[int, tuple[int, int]]]:
    """Of each block its number, where it begins and how many rows it has."""
    first = 0
    for number, rows in enumerate(data.matrix.sizes):
        yield number, (first, rows)
        first += rows


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


def _batches(place: Place, data: FitBlocks, score: Score, epoch: int) -> Iterator[Batch]:
    """This worker's part of each batch of an epoch, and on without an end."""
    own = _own_rows(place.rank, place.world)
    random = np.random.default_rng([data.seed, epoch, place.rank])
    for matrix, rows in _mixed(data, place, epoch, _mixed_rows(data, own)):
        order = random.permutation(len(rows))
        targets = score.targets(data.label[rows])
        weights = None if data.weights is None else torch.from_numpy(data.weights[rows].astype(np.float32))
        inputs = torch.from_numpy(matrix)
        size = min(own, len(rows))
        for start in range(0, len(rows) - size + 1, size):
            chosen = torch.from_numpy(order[start : start + size])
            weighed = None if weights is None else weights[chosen].to(place.device)
            yield inputs[chosen].to(place.device), targets[chosen].to(place.device), weighed


def _own_rows(rank: int, world: int) -> int:
    return max(1, BATCH_ROWS // world)


def _mixed_rows(data: FitBlocks, batch: int) -> int:
    row_bytes = 4 * max(1, len(data.features))
    if data.memory_bytes and data.memory_bytes // _SHARE_OF_MEMORY < batch * row_bytes:
        raise ConfigurationError(
            f"{data.memory_bytes / 1e6:.0f} MB of memory are not enough for a batch of {batch:,} rows with "
            f"{len(data.features)} features. Give the step evaluate more."
        )
    return min(_MOST_MIXED, data.memory_bytes // _SHARE_OF_MEMORY // row_bytes if data.memory_bytes else _MOST_MIXED)


def _mixed(
    data: FitBlocks, place: Place, epoch: int, wanted: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.intp]]]:
    """Rows of this worker's blocks, some blocks of different times at once, and their places among all rows."""
    places = dict(_places(data))
    random = np.random.default_rng([data.seed, epoch])  # the same for all workers, so that each block has one
    is_shared = len(places) < 4 * place.world  # then each reads all blocks, and takes every so many rows
    while True:
        matrices, rows = list[NDArray[np.float32]](), list[NDArray[np.intp]]()
        order = random.permutation(len(places))
        own = order if is_shared else order[place.rank :: place.world]
        for number in own.tolist():
            first, count = places[number]
            every = np.arange(place.rank if is_shared else 0, count, place.world if is_shared else 1)
            matrix = data.matrix.read(number)
            matrices.append(matrix[every] if is_shared else matrix)
            rows.append(first + every)
            if sum(map(len, rows)) >= wanted or number == own[-1]:
                yield np.concatenate(matrices), np.concatenate(rows)
                matrices, rows = [], []
