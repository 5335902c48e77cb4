"""What fails several times in a row is not waited for, and is tried again without a caller."""

import threading
import time

import pytest

from mlops_ray.errors import UnavailableError
from mlops_ray.features.online.breaker import FAILURES, RETRY_S, Breaker


class Store:
    """Fails, with an address in its message, until it is up."""

    def __init__(self) -> None:
        self.up, self.calls, self.by = False, 0, set[str]()

    def read(self) -> str:
        self.calls += 1
        self.by.add(threading.current_thread().name)
        if not self.up:
            raise ConnectionError("no route to 10.0.0.7:6379")
        return "read"


def test_after_some_failures_callers_do_not_wait_and_a_thread_finds_out_when_it_is_back() -> None:
    store, breaker = Store(), Breaker("The store")
    for _ in range(FAILURES):
        with pytest.raises(UnavailableError, match=r"The store does not answer \(ConnectionError\)") as failed:
            breaker.call(store.read)
        assert "10.0.0.7" not in str(failed.value)
    calls = store.calls
    with pytest.raises(UnavailableError, match="do not wait for it"):
        breaker.call(store.read)
    assert store.calls == calls
    store.up = True
    time.sleep(RETRY_S + 0.2)
    assert breaker.call(store.read) == "read"
    assert store.by == {"MainThread", "breaker"}


def test_failures_between_answers_open_nothing() -> None:
    store, breaker = Store(), Breaker("The store")
    for _ in range(3 * FAILURES):
        store.up = False
        with pytest.raises(UnavailableError, match="ConnectionError"):
            breaker.call(store.read)
        store.up = True
        assert breaker.call(store.read) == "read"


def test_one_thread_tries_however_many_callers_failed() -> None:
    store, breaker = Store(), Breaker("The store")

    def fail() -> None:
        with pytest.raises(UnavailableError):
            breaker.call(store.read)

    callers = [threading.Thread(target=fail) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sum(thread.name == "breaker" for thread in threading.enumerate()) == 1
    breaker.close()
    time.sleep(RETRY_S + 0.2)
    assert not any(thread.name == "breaker" for thread in threading.enumerate())
