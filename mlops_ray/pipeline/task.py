"""The task in which a step does its work: it asks for no more CPUs than are free, and says what it waits for.

Ray is imported where it is used, here and in `cpus`: a refresh and an unchanged pipeline have no use for it.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import isgeneratorfunction
from math import ceil
from typing import TYPE_CHECKING, Any

from mlops_ray.errors import MlopsRayError
from mlops_ray.pipeline.cpus import free_cpus, free_memory, holders, node_cpus
from mlops_ray.pipeline.steps.step import StepName, StepWaits, Where
from mlops_ray.state_folder import keep_closed

if TYPE_CHECKING:
    from mlops_ray.governance.declared_resources import Resources

# A worker that has its CPUs needs a few seconds to start; one that has not begun after this waits for them.
_BEGINS_WITHIN_S = 15.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limit:
    """How long it may take until a function gives its first value, and what is raised where it takes longer."""

    seconds: float
    error: MlopsRayError


def in_task(
    where: Where,
    step: StepName,
    function: Callable[..., dict[str, Any] | Iterator[dict[str, Any]]],
    *arguments: Any,
    cpus: int | None = 1,
    threads: int | None = None,
    limit: Limit | None = None,
) -> dict[str, Any]:
    """Run the function as one Ray task; our own errors come back as they were raised.

    Of a generator the last value counts. limit: from when it has its CPUs; beyond it its process is killed, which ends
    one that computes in C and hears no signal, too.

    cpus: None for what is free on one node, at least 1; others may hold the rest for ever, as replicas do. threads:
    with how many it computes, where that is to be another number than its CPUs. What is declared for the step
    (`Where.resources`) counts more than `cpus`, but nobody waits for more than `cpus` because of it.
    """
    where.start_ray()
    import ray

    free = free_cpus(cpus)
    wanted = _declared_cpus(where.resources, cpus, free) or cpus or max(1, min(free, threads or free))
    memory_bytes = _declared_memory(where.resources)
    if free < wanted:
        _tell(where, step, wanted)
    threads = threads or (ceil(wanted) if wanted != int(wanted) else None)
    where.asked(wanted, memory_bytes)
    task = _submit(wanted, threads, memory_bytes, function, arguments)
    begun, _ = ray.wait([task], timeout=_BEGINS_WITHIN_S)
    if not begun:
        now = free_cpus(ceil(wanted))
        if cpus is None and 1 <= now < wanted:  # somebody else was faster
            ray.cancel(task)
            task = _submit(now, threads, memory_bytes, function, arguments)
        elif now < wanted and free >= wanted:
            _tell(where, step, wanted)
    try:
        ray.get(next(task))
        if limit is not None and not ray.wait([task], timeout=limit.seconds)[0]:
            ray.cancel(task, force=True)
            raise limit.error
        result: dict[str, Any] = {}
        for value in task:
            result = ray.get(value)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MlopsRayError):
            raise error.cause from None
        raise
    return result


def say_if_it_waits(where: Where, step: StepName) -> None:
    """For a step that asks for its CPUs itself, one at a time: tell of it where not even one is free."""
    where.start_ray()
    if free_cpus(1) < 1:
        _tell(where, step, 1)


def _declared_cpus(resources: "Resources | None", cpus: int | None, free: int) -> float | None:
    """None where nothing is declared. What others hold they may hold for ever: beyond what the step asks for itself,
    only what is free is taken."""
    if resources is None or resources.cpus is None:
        return None
    return min(resources.cpus, max(cpus or 1, free))


def _declared_memory(resources: "Resources | None") -> int:
    """In bytes, 0 for no request; never more than is free, for the same reason."""
    declared_mb = None if resources is None else resources.memory_mb
    return min(declared_mb << 20, free_memory()) if declared_mb else 0


def _submit(
    cpus: float,
    threads: int | None,
    memory_bytes: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> Any:
    import ray

    # Ray sets the variable to the CPUs of a task unless it is set.
    variables = {"OMP_NUM_THREADS": str(threads)} if threads is not None and threads != cpus else {}
    options: dict[str, Any] = {"num_cpus": cpus, "num_returns": "streaming"}
    if memory_bytes:
        options["memory"] = memory_bytes
    if variables:
        options["runtime_env"] = {"env_vars": variables}
    return ray.remote(**options)(_begin_and_do).remote(function, *arguments)


def _begin_and_do(function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """First a sign that the task has its CPUs, then what it gives. What it writes is closed, whoever started Ray."""
    keep_closed()
    yield True
    if isgeneratorfunction(function):
        yield from function(*arguments)
    else:
        yield function(*arguments)


def _tell(where: Where, step: StepName, cpus: float) -> None:
    others = holders()
    text = (
        f"waits for {cpus:g} of the cluster's CPUs, of which one node has {node_cpus()} and none enough free"
        f"{f'; there live {others}' if others else ''}. Stop what is not needed, or give Ray more (setting num_cpus)."
    )
    logger.warning("%s %s", step, text)
    where.notify(StepWaits(step, text))
