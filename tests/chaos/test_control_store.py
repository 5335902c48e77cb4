"""A control store that another process holds: for 10 s everybody waits, for 60 s they are told so, or it is put out.
And one that fails over to its replica."""

import threading
import time

import pytest

from mlops_ray.errors import UnavailableError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import SYSTEM, read_events
from mlops_ray.governance.keys import create_key
from tests.chaos.hosts import bridge
from tests.chaos.store_pair import PostgresqlPair
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


@pytest.mark.timeout(120)
def test_failed_over_twice_it_takes_writes_again_and_has_all_that_it_took() -> None:
    """Both servers stand in its URL. Who writes meanwhile is told so at once, and comes again."""
    with bridge(), PostgresqlPair() as pair:
        store, ending = ControlStore(pair.url), threading.Event()
        store.prepare()
        made: dict[str, float] = {}
        refused: list[float] = []

        def write() -> None:
            number = 0
            while not ending.wait(0.05):
                number, began_s = number + 1, time.monotonic()
                try:
                    create_key(store, SYSTEM, f"key-{number}", ["predict"])
                    made[f"key-{number}"] = time.monotonic()
                except UnavailableError:
                    refused.append(time.monotonic() - began_s)

        writer = threading.Thread(target=write)
        writer.start()
        back_s = []
        for _ in range(2):
            time.sleep(2)
            pair.kill_primary()
            time.sleep(2)
            pair.promote()
            promoted_s = time.monotonic()
            while max(made.values()) < promoted_s:
                assert time.monotonic() - promoted_s < 10
                time.sleep(0.05)
            back_s.append(max(made.values()) - promoted_s)
            pair.attach()
        ending.set()
        writer.join()
        known = {event.subject.partition(" ")[2] for event in read_events(store, types=["key.created"], limit=100_000)}
        print(f"written again {max(back_s):.1f} s after the promotion, {len(refused)} refused in {max(refused):.1f} s")
        assert made.keys() <= known
        assert refused
        assert max(refused) < 5
        store.close()
