"""One of several processes that fit a network together as Ray Train's workers do, in its local mode, without Ray.

The arguments: its number, how many there are, and a free port. It prints the loss of what it has fitted, the sum of its
answers, and the losses of the rows held out.
"""

import json
import os
import sys
from typing import Any

import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from mlops_ray.training.candidates import network_workers
from mlops_ray.training.candidates.network_blocks import Place, State, fit_at, learned, moments_of, untrained
from tests.unit.test_fit_blocks import binary, in_blocks, log_loss

PARAMETERS = {"learning_rate": 0.02, "width": 32, "dropout": 0.1, "weight_decay": 1e-5, "epochs": 3}

if __name__ == "__main__":
    rank, world, port = sys.argv[1:]
    if world != "1":
        names = "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
        os.environ.update(zip(names, (rank, rank, world, world, "127.0.0.1", port), strict=True))
    data, kept = binary(12_000, held_out=0.2), list[State]()
    blocks = in_blocks(data)
    moments = moments_of(blocks)

    def fit_and_keep(place: Place, *given: Any) -> State:
        kept.append(fit_at(place, *given))
        return kept[-1]

    network_workers.fit_at = fit_and_keep
    ray.get = lambda value: value  # there is no object store
    work = network_workers._Work(blocks, PARAMETERS, moments, None)
    scaling = ScalingConfig(num_workers=0)  # Ray Train's local mode
    TorchTrainer(network_workers._loop, train_loop_config={"work": work}, scaling_config=scaling).fit()
    network = learned(untrained(blocks, PARAMETERS, moments), kept[0])
    found = {"loss": log_loss(network, data), "sum": float(network.predict(data.matrix).sum()), **kept[0]}
    print(json.dumps({name: found[name] for name in ("loss", "sum", "losses", "epoch")}))
