"""A control store that another process holds: for 10 s everybody waits, for 60 s they are told so, or it is put out."""

import threading
import time

import pytest

from mlops_ray.errors import UnavailableError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read_events
from tests.integration.conftest import server, store, url  # noqa: F401
from tests.integration.test_control_store import held_by_another, set_champion


def test_ten_seconds_are_waited_for(store: ControlStore) -> None:  # noqa: F811
    with held_by_another(store) as (_, release):
        threading.Timer(10, release.set).start()
        started = time.monotonic()
        set_champion(store)
        assert 9 < time.monotonic() - started < 15
    assert [event.subject for event in read_events(store)] == ["flights@1", "trains@1"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_sixty_seconds_are_a_clear_error_and_nothing_half_done(store: ControlStore) -> None:  # noqa: F811
    with held_by_another(store) as (process, release):
        threading.Timer(60, release.set).start()
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="was locked by another process for 30 s; nothing was changed"):
            set_champion(store)
        assert 25 < time.monotonic() - started < 45
        assert read_events(store) == []  # who only reads does not wait
        process.join(60)
    set_champion(store)
    assert [event.subject for event in read_events(store)] == ["flights@1", "trains@1"]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_on_postgresql_who_stands_still_in_a_transaction_is_put_out(store: ControlStore) -> None:  # noqa: F811
    with held_by_another(store) as (process, _):
        started = time.monotonic()
        set_champion(store)
        took_s = time.monotonic() - started
        print(f"the other writer was put out after {took_s:.1f} s")
        assert 10 < took_s < 20
        assert process.is_alive()
    assert [event.subject for event in read_events(store)] == ["trains@1"], "nothing half done"
