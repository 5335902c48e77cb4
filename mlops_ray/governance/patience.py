"""Patience: how long somebody waits for what may never answer, and whose library cannot be told to give up."""

import threading
from collections.abc import Callable
from typing import Any

from mlops_ray.errors import UnavailableError


def within(limit_s: float, what: str, work: Callable[[], Any]) -> Any:
    """What the work returns, if it is done in time: who waits for what does not answer may wait for ever.

    Raises UnavailableError otherwise; the work is left to its own thread, which keeps nobody from ending.
    """
    done: list[Any] = []

    def run() -> None:
        try:
            done.append((work(), None))
        except Exception as error:
            done.append((None, error))

    thread = threading.Thread(target=run, name=f"waits for {what}", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not done:
        raise UnavailableError(f"{what} did not answer within {limit_s:g} s.")
    result, error = done[0]
    if error is not None:
        raise error
    return result
