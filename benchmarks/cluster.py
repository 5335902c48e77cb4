"""The cluster and its bill: what is measured of work against what the kernel accounts for, and what measuring costs;
what one to eight hosts get done; how much longer an endpoint's answers take beside a run on all CPUs that are free.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster_serving.beside import Node, beside

ROOT = Path(__file__).parents[1]
_WORK = Path(__file__).parent / "cluster_cost" / "work.py"
_GROUPS = (Path("/sys/fs/cgroup/cpuacct"), Path("/sys/fs/cgroup"))
_ROUNDS, _SECONDS = 3, 6.0
_HOSTS = (1, 4, 8)


@contextmanager
def control_group() -> Iterator[Path]:
    """A group of the kernel's whose CPU time is accounted for. Raises OSError where none may be made."""
    parent = next(one for one in _GROUPS if one.is_dir())
    group = parent / f"mlops_ray_{os.getpid()}_{time.monotonic_ns()}"
    group.mkdir()
    try:
        yield group
    finally:
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:  # a process of Ray's has not ended yet
                time.sleep(0.1)


def work(seconds: float, how: str) -> dict[str, Any]:
    with control_group() as group, tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(_WORK), folder, str(group), str(seconds), how]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def cost() -> Iterator[tuple[str, float, str]]:
    """off: of what is measured, from the kernel's account, the worst of all rounds. ratio: CPU seconds of the same work
    with the meter and without, in turns."""
    metered, plain = [], []
    for _ in range(_ROUNDS):
        metered.append(work(_SECONDS, "metered"))
        plain.append(work(_SECONDS, "plain"))
    worst = max(abs(one["measured_s"] / one["kernel_s"] - 1) for one in metered)
    yield "cost.measured_off", 100 * worst, "%"
    with_it, without = (statistics.median(one["kernel_s"] for one in ones) for ones in (metered, plain))
    yield "cost.kernel", with_it, "s"
    yield "cost.ratio", with_it / without, "with/without the meter"


def hosts() -> Iterator[tuple[str, float, str]]:
    """efficiency: what a host of so many gets done in a second beside what one alone does, start and end included.
    memory: of the same work on 100 times the data."""
    done = {number: _of_hosts("work.py", str(number)) for number in _HOSTS}
    for what in ("search", "transform"):
        each = {number: one[what]["slept_s"] / one[what]["took_s"] / number for number, one in done.items()}
        for number in _HOSTS:
            yield f"hosts.{what}_{number}", done[number][what]["took_s"], f"s, at work {100 * each[number]:.0f} %"
        yield f"hosts.{what}_efficiency", 100 * each[_HOSTS[-1]] / each[_HOSTS[0]], f"% at {_HOSTS[-1]} hosts"
    less, more = (_of_hosts("memory.py", str(files)) for files in (1, 100))
    for who in ("driver", "head"):
        yield f"hosts.{who}_memory_1", less[who], f"MiB, {less['rows']:,} feature rows"
        yield f"hosts.{who}_memory_100", more[who], f"MiB, {more['rows']:,} feature rows"


def autoscaling() -> Iterator[tuple[str, float, str]]:
    """The search as it is, on Ray's AutoscalingCluster with at most three hosts beside the head."""
    found = _of_hosts("autoscaling.py")
    yield "autoscaling.hosts_before", found["before"], "hosts"
    yield "autoscaling.hosts_most", found["most"], "hosts"
    yield "autoscaling.hosts_after", found["after"], f"hosts, {found['down_s']:.0f} s after its end"


def _of_hosts(program: str, *arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(Path(__file__).parent / "cluster_hosts" / program), folder, *arguments]
        quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **quiet}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def serving_first() -> Iterator[tuple[str, float, str]]:
    """p99 of an endpoint at half its capacity beside a run on all free CPUs, against the same alone in the same round:
    medians over rounds, with the least and the most. one: a machine of two processors. two: two hosts, which are two
    Ray nodes confined to a processor each, the endpoint on the first. plain: the run as Ray starts it; gives_way: as we
    do.
    """
    machine, hosts = [Node("0,1", 2, 1)], [Node("0", 0, 1), Node("1", 1, 0)]
    for name, nodes, hows in (("one", machine, ("plain", "gives_way")), ("two", hosts, ("gives_way",))):
        found = beside(nodes, hows, _ROUNDS)
        yield f"serving_first.{name}_rate", found.rate, "requests/s"
        for how in hows:
            ratios = found.p99_ratio(how)
            yield f"serving_first.{name}_{how}", statistics.median(ratios), "p99 beside/alone"
            yield f"serving_first.{name}_{how}_least", min(ratios), "p99 beside/alone"
            yield f"serving_first.{name}_{how}_most", max(ratios), "p99 beside/alone"
            yield f"serving_first.{name}_{how}_failed", found.failed(how), "requests"


PARTS = {"cost": cost, "hosts": hosts, "autoscaling": autoscaling, "serving_first": serving_first}
