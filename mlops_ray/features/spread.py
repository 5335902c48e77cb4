"""Calls of one function, in this process where that is quicker than to start Ray, else as Ray tasks."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

# Of files that are read, up to which work is done in this process: Ray's first task costs 3 s before it begins.
HERE_BYTES = 16 << 20
TASK_MEMORY = 2 << 30


def spread(
    function: Callable[..., T],
    calls: Sequence[tuple[Any, ...]],
    read_bytes: int,
    start_ray: Callable[[], Any],
    memory: int = TASK_MEMORY,
) -> list[T]:
    """What each call gives, in their order. read_bytes: of the files that all of them read; memory: what one takes.

    start_ray: called before the first task; afterwards Ray must be initialised. A call whose worker or node dies is
    made again, so that it must do the same when it is made twice.
    """
    if not calls:
        return []
    if read_bytes <= HERE_BYTES:
        return [function(*call) for call in calls]
    start_ray()
    import ray

    task = ray.remote(function).options(memory=memory)
    return list(ray.get([task.remote(*call) for call in calls]))
