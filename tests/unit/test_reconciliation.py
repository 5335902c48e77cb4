"""Reconciliation: whatever is edited in a table that events tell of is found, and nothing else is."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select, text, update

from mlops_ray.config import Settings
from mlops_ray.governance import audit
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.champion import retire, set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.keys import create_key, revoke_key
from mlops_ray.governance.reconciliation import DESCRIBED, NOT_COMPARED
from mlops_ray.governance.tables import approvals, endpoints, event_head, events, metadata, principals
from mlops_ray.governance.versions import Evidence, record_version
from tests.anchoring import anchored_in
from tests.audit_history import (
    NOT_FOUND,
    PEOPLE,
    difference_after,
    expect_every_edit_found,
    expect_every_row_found,
    make_history,
    replayed,
)


@pytest.fixture(scope="module", params=range(3))
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlStore]:
    folder = str(tmp_path_factory.mktemp("state"))
    store = open_store(Settings(state=folder, data=folder))
    make_history(store, request.param)
    yield store
    store.close()


def test_any_edit_of_any_column_is_found_or_listed_as_what_is_not(store: ControlStore) -> None:
    expect_every_edit_found(store, replayed(store))


def test_any_row_taken_away_or_added_is_found(store: ControlStore) -> None:
    expect_every_row_found(store, replayed(store))


def test_every_table_is_compared_or_named_as_one_that_is_not(store: ControlStore) -> None:
    chain = {"events", "event_head", "anchors"}  # which is verified itself
    of_cost = {"usage", "price_tables"}
    others = {"outbox", "leases", "replicas", "schedules", "schedule_runs"}
    assert set(metadata.tables) == {*DESCRIBED, *chain, *others, *of_cost}
    assert all(word in NOT_COMPARED[1] for word in ("what work used", "prices"))
    assert all(word in NOT_COMPARED[0] for word in ("the outbox", "leases", "replicas", "schedules and their runs"))


def test_a_previous_champion_that_was_retired_is_no_contradiction(fresh: ControlStore) -> None:
    versions = [Evidence(f"{number:064x}", "e") for number in (1, 2)]
    for number, evidence in enumerate(versions, 1):
        ref = record_version(fresh, PEOPLE[0], "boats", number, evidence).ref
        set_champion(fresh, PEOPLE[0], "boats", ref, "the best")
    retire(fresh, PEOPLE[0], "boats", 1, "it is old")
    with fresh.reading() as connection:
        assert replayed(fresh).difference(connection) is None


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    store = open_store(Settings(state=str(folder), data=str(folder)))
    make_history(store, 5)
    store.close()
    return folder / "control_store.db"


@pytest.fixture
def fresh(history: Path, tmp_path: Path) -> Iterator[ControlStore]:
    shutil.copy(history, tmp_path)
    store = open_store(Settings(state=str(tmp_path), data=str(tmp_path)))
    yield store
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        update(approvals).values(state="approved", decided_by="ben"),
        update(principals).values(roles=["admin"]),
        update(endpoints).values(champion_version=1, champion_digest="e" * 64),
    ],
    ids=lambda change: change.table.name,
)
def test_the_audit_finds_a_table_that_was_edited_beside_the_events(
    fresh: ControlStore, tmp_path: Path, change: Any
) -> None:
    place = str(tmp_path / "anchors.jsonl")
    anchor(fresh, anchored_in(place))
    assert audit.verify_store(fresh, anchored_in(place)).problem is None
    with fresh.transaction() as connection:
        connection.execute(change)
    found = audit.verify_store(fresh, anchored_in(place))
    assert not found.ok
    assert str(found.problem).startswith(f"Table {change.table.name}, row ")


def cut_end(connection: Connection, length: int) -> None:
    """Take the newest events away and mend the head, as somebody would who knows the schema."""
    seqs = connection.execute(select(events.c.seq).order_by(events.c.seq.desc())).scalars().all()
    connection.execute(text("DELETE FROM outbox"))
    connection.execute(delete(events).where(events.c.seq.in_(seqs[:length])))
    last = connection.execute(select(events).order_by(events.c.seq.desc()).limit(1)).one()
    connection.execute(update(event_head).values(seq=last.seq, hash=last.hash))


def test_a_cut_end_is_found_although_the_file_of_anchors_is_gone_too(fresh: ControlStore, tmp_path: Path) -> None:
    place = tmp_path / "anchors.jsonl"
    anchor(fresh, anchored_in(place))
    with fresh.transaction() as connection:
        cut_end(connection, 3)
    place.unlink()
    found = audit.verify_store(fresh, anchored_in(place))
    assert not found.ok
    assert "the end is cut off" in str(found.problem)


def test_what_governance_writes_is_closed_to_others(fresh: ControlStore, tmp_path: Path) -> None:
    anchor(fresh, anchored_in(tmp_path / "anchors.jsonl"))
    with fresh.reporting():
        pass
    files = [file for file in tmp_path.iterdir() if file.name.startswith(("control_store", "anchors"))]
    assert len(files) >= 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_file_of_anchors_that_lost_some_is_found(fresh: ControlStore, tmp_path: Path) -> None:
    place = tmp_path / "anchors.jsonl"
    anchor(fresh, anchored_in(place))
    place.write_text("")
    assert "lacks 1 anchors that were written there" in str(audit.verify_store(fresh, anchored_in(place)).problem)


STRANGE = ("'garbage'", "x'ff00'", "''", "2", "'{'", "'2030-01-01'")


def test_what_cannot_be_read_is_found_and_said_as_any_other_edit(fresh: ControlStore) -> None:
    """SQLite takes anything in any column."""
    expected = replayed(fresh)
    for table in DESCRIBED.values():
        for column in table.columns:
            place = f'{table.name} SET "{column.name}" = '
            first = f" WHERE rowid = (SELECT min(rowid) FROM {table.name})"
            with fresh.reading() as connection:
                stands = connection.execute(text(f'SELECT "{column.name}" FROM {table.name}{first}')).scalar()
            for value in STRANGE:
                with fresh.reading() as connection:
                    if connection.execute(text(f"SELECT {value}")).scalar() == stands:
                        continue
                found = difference_after(fresh, expected, text(f"UPDATE {place}{value}{first}"))
                assert found is not None or f"{table.name}.{column.name}" in NOT_FOUND, f"{place}{value}"


@pytest.mark.parametrize("notation", ["%Y-%m-%dT%H:%M:%S.%f", "%G-W%V-%uT%H:%M:%S.%f"])
def test_a_revoked_key_does_not_count_again_unseen(fresh: ControlStore, notation: str) -> None:
    """The same moment, written so that it is sorted behind all others."""
    create_key(fresh, PEOPLE[0], "eve", ["admin"])
    revoke_key(fresh, PEOPLE[0], "eve", "she left")
    expected, eve = replayed(fresh), principals.c.name == "eve"
    with fresh.reading() as connection:
        moment = connection.execute(select(principals.c.revoked_at).where(eve)).scalar_one()
    edit = text("UPDATE principals SET revoked_at = :moment WHERE name = 'eve'")
    found = difference_after(fresh, expected, edit.bindparams(moment=moment.strftime(notation)))
    assert "revoked_at is" in str(found)


def test_the_time_of_an_event_is_not_written_otherwise_unseen(fresh: ControlStore, tmp_path: Path) -> None:
    """The same moment at another offset has the same hash, and is sorted elsewhere."""
    settings = anchored_in(tmp_path / "anchors.jsonl")
    assert audit.verify_store(fresh, settings).ok
    with fresh.transaction() as connection:
        moment = connection.execute(select(events.c.time).where(events.c.seq == 3)).scalar_one()
        written = f"{moment - timedelta(hours=20):%Y-%m-%d %H:%M:%S.%f}-20:00"
        connection.execute(text("UPDATE events SET time = :time WHERE seq = 3").bindparams(time=written))
    assert f"row 3: time is '{written}'" in str(audit.verify_store(fresh, settings).problem)


def test_the_development_principals_do_not_come_back_unseen(fresh: ControlStore) -> None:
    """An empty text is read as false, and no query for false finds it."""
    edit = text("UPDATE principals SET development = ''")
    assert "development is ''" in str(difference_after(fresh, replayed(fresh), edit))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("UPDATE policies SET policy = '{'", "Table policies, row flights: policy is '{'"),
        ("UPDATE anchors SET time = 'never'", "time is 'never'"),
        ("UPDATE anchors SET seq = 'x'", "seq is 'x'"),
        ("INSERT INTO event_head VALUES (2, 1, 'x')", "event_head has 2 rows"),
        ("DELETE FROM event_head", "event_head has 0 rows"),
        ("UPDATE events SET type = x'00' WHERE seq = 2", "Table events, row 2: type is "),
        ("UPDATE subscriptions SET types = '{'", "types is '{'"),
    ],
)
def test_what_makes_the_audit_stumble_is_what_it_says(
    fresh: ControlStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, edit: str, said: str
) -> None:
    settings = anchored_in(tmp_path / "anchors.jsonl")
    anchor(fresh, settings)
    with fresh.transaction() as connection:
        connection.execute(text(edit))
    assert said in str(audit.check(fresh, settings).problem)
    assert said in caplog.text
    with fresh.reading() as connection:
        failed = connection.execute(select(events.c.reason).where(events.c.type == "audit.failed")).scalar()
    can_be_recorded = "event_head" not in edit and "subscriptions" not in edit
    assert (failed is not None) == can_be_recorded
