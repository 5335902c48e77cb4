"""Interrupts wait for code that must not be left in its middle, and for nothing else."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from mlops_ray.cost.interrupts import METER_SIGNAL, held_back, interrupt


@pytest.fixture
def a_meter() -> Iterator[None]:
    before = signal.signal(METER_SIGNAL, interrupt)
    yield
    signal.signal(METER_SIGNAL, before)


@pytest.mark.parametrize("number", [signal.SIGINT, METER_SIGNAL])
def test_held_back_it_is_told_and_raises_again_afterwards(a_meter: None, number: signal.Signals) -> None:
    with held_back() as noted:
        assert not noted.asked
        os.kill(os.getpid(), number)
        assert noted.asked
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_who_presses_twice_does_not_wait(a_meter: None) -> None:
    with held_back() as noted:
        os.kill(os.getpid(), signal.SIGINT)
        assert noted.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_budget_and_a_stall_at_once_are_one_interrupt(a_meter: None) -> None:
    with held_back() as noted:
        os.kill(os.getpid(), METER_SIGNAL)
        os.kill(os.getpid(), METER_SIGNAL)
        assert noted.asked


def test_what_ignores_ctrl_c_goes_on_to(a_meter: None) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back() as noted:
            os.kill(os.getpid(), signal.SIGINT)
            assert not noted.asked
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_there_is_nothing_to_hold_back() -> None:
    found: list[bool] = []

    def work() -> None:
        with held_back() as noted:
            found.append(noted.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
