"""Fits boosted trees on all CPUs that are free, until it is ended: python run.py ADDRESS plain|gives_way."""

import os
import sys
import time

import numpy as np
import ray

from mlops_ray.giving_way import HOOK, be_nice


def fit(rows: int = 100_000) -> tuple[int, int]:
    """Niceness and policy of the process, after a fit."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    random = np.random.default_rng(1)
    given = random.normal(size=(rows, 20))
    HistGradientBoostingClassifier(max_iter=20).fit(given, given[:, 0] > random.normal(size=rows))
    return os.nice(0), os.sched_getscheduler(0)


def main(address: str, how: str) -> None:
    if how == "gives_way":
        be_nice()
    environment = {"worker_process_setup_hook": HOOK} if how == "gives_way" else {}
    ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level="ERROR")
    cpus = int(ray.cluster_resources()["CPU"])
    task = ray.remote(fit)
    running = [task.remote() for _ in range(cpus)]
    first, running = ray.wait(running)
    print(*ray.get(first[0]), cpus, flush=True)
    fits, began = 1, time.monotonic()
    while True:
        running += [task.remote() for _ in range(cpus - len(running))]
        done, running = ray.wait(running)
        fits += len(done)
        print("fits", fits, round(time.monotonic() - began, 2), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
