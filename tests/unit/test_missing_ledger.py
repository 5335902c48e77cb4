"""What a node that is lost takes with it is said, once, and of no node that is there."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import read_events
from mlops_ray.governance.missing_ledger import report_missing
from mlops_ray.governance.replicas import Replica, Unmoved, forget_silent, heard, leave, report
from mlops_ray.governance.tables import replicas
from mlops_ray.predictions.disk import disk_of

MINUTE = timedelta(minutes=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ControlStore]:
    store = ControlStore(f"sqlite:///{tmp_path}/control_store.db")
    store.migrate()
    yield store
    store.close()


def said(
    store: ControlStore, id: str, disk: str, ago: timedelta = timedelta(), use_case: str = "flights", last: bool = False
) -> None:
    """A replica spoke, so long ago, of answers that were 20 s old."""
    say = leave if last else report
    say(store, use_case, Replica(id, f"node of {disk}", 1, unmoved=Unmoved(disk, 20.0)))
    with store.reporting() as connection:
        (seen,) = connection.execute(select(replicas.c.seen_at).where(replicas.c.id == id)).scalars()
        connection.execute(update(replicas).where(replicas.c.id == id).values(seen_at=seen - ago))


def test_a_disk_that_fell_silent_is_reported_once_with_what_it_held(store: ControlStore) -> None:
    said(store, "a", "d1", 2 * MINUTE)
    said(store, "b", "d2")
    (found,) = report_missing(store, "flights")
    assert (found.disk, found.node) == ("d1", "node of d1")
    assert timedelta(seconds=20) <= found.last_heard - found.since < timedelta(seconds=21)
    assert report_missing(store, "flights") == []
    (event,) = read_events(store, types=["ledger.missing"])
    assert (event.severity, event.use_case, event.payload["disk"]) == ("critical", "flights", "d1")
    assert event.payload["since"] in event.reason


def test_a_silence_of_less_than_a_minute_is_none(store: ControlStore) -> None:
    said(store, "a", "d1", MINUTE / 2)
    assert report_missing(store, "flights") == []


def test_a_process_that_died_took_nothing_where_another_works_on_its_disk(store: ControlStore) -> None:
    said(store, "a", "d1", 2 * MINUTE)
    said(store, "b", "d1")
    assert report_missing(store, "flights") == []


def test_a_replica_of_another_use_case_moves_what_lies_there_too(store: ControlStore) -> None:
    said(store, "a", "d1", 2 * MINUTE)
    said(store, "b", "d1", use_case="trains")
    assert report_missing(store, "flights") == []


def test_who_left_in_good_order_left_nothing(store: ControlStore) -> None:
    said(store, "a", "d1", 2 * MINUTE, last=True)
    assert report_missing(store, "flights") == []


def test_a_disk_that_came_back_and_fell_silent_again_is_news(store: ControlStore) -> None:
    said(store, "a", "d1", 3 * MINUTE)
    assert len(report_missing(store, "flights")) == 1
    said(store, "b", "d1", 2 * MINUTE)
    assert len(report_missing(store, "flights")) == 1
    assert len(read_events(store, types=["ledger.missing"])) == 2


def test_the_last_of_a_disk_is_remembered_for_a_day_and_others_for_ten_minutes(store: ControlStore) -> None:
    said(store, "older", "d1", 13 * MINUTE)
    said(store, "last", "d1", 12 * MINUTE)
    said(store, "left", "d2", 12 * MINUTE, last=True)
    said(store, "yesterday", "d3", 25 * 60 * MINUTE)
    said(store, "without", "", 12 * MINUTE)
    forget_silent(store, "flights", "")
    assert [replica.id for replica in heard(store, "flights").replicas] == ["last"]


def test_a_disk_has_one_name_for_good(tmp_path: Path) -> None:
    name = disk_of(tmp_path / "wal")
    assert name == disk_of(tmp_path / "wal")
    assert name != disk_of(tmp_path / "other")
    assert [path.name for path in (tmp_path / "wal").iterdir()] == ["disk"]
