"""Whatever is done to the audit log behind its back is noticed, and what could be missed is stated."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.dialects import sqlite
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError
from mlops_ray.governance.anchors import Anchor, anchor, read_anchors
from mlops_ray.governance.audit import export, verify, verify_store
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import (
    EVENT_TYPES,
    GENESIS,
    SYSTEM,
    Actor,
    Event,
    hash_of_fields,
    read_events,
    record,
)
from mlops_ray.governance.tables import Json
from tests.anchoring import anchored_in

ADA = Actor("ada", ("operate", "approve"))
START = datetime(2030, 1, 1, tzinfo=UTC)


def make_event(seq: int, previous_hash: str, **changes: Any) -> Event:
    values: dict[str, Any] = {
        "seq": seq,
        "id": f"id-{seq}",
        "time": START + timedelta(seconds=seq),
        "type": "champion.set",
        "severity": "info",
        "actor": "ada",
        "actor_id": "person-1",
        "roles": ("operate",),
        "use_case": "flights",
        "subject": f"flights@{seq}",
        "reason": "",
        "before": {"version": seq - 1},
        "after": {"version": seq},
        "payload": {"share": 0.5, "numbers": [1, 2]},
        "previous_hash": previous_hash,
        "salt": f"{seq:032x}" if seq % 3 else None,  # some as they were written before there were salts
    } | changes
    return Event(**values, hash=hash_of_fields(values | {"roles": list(values["roles"])}))


def make_chain(length: int, start: tuple[Event, ...] = ()) -> list[Event]:
    chain = list(start)
    while len(chain) < length:
        chain.append(make_event(len(chain) + 1, chain[-1].hash if chain else GENESIS))
    return chain


CHAIN = make_chain(12)
EDITS: dict[str, Any] = {
    "seq": 99,
    "id": "other",
    "time": START,
    "type": "break_glass",
    "severity": "critical",
    "actor": "eve",
    "actor_id": None,
    "roles": ("admin",),
    "use_case": None,
    "subject": "flights@99",
    "reason": "none",
    "before": None,
    "after": {"version": 99},
    "payload": {"share": 0.5, "numbers": [2, 1]},
    "previous_hash": GENESIS[1:] + "1",
    "hash": GENESIS,
    "salt": "5" * 32,
}

positions = st.integers(0, len(CHAIN) - 1)
anchored = st.lists(positions).map(lambda chosen: [Anchor(CHAIN[i].seq, CHAIN[i].hash) for i in chosen])


@given(anchored)
def test_an_untouched_chain_passes_and_what_is_not_anchored_is_named(anchors: list[Anchor]) -> None:
    found = verify(CHAIN, anchors)
    last = max((known.seq for known in anchors), default=0)
    assert (found.ok, found.checked, found.problem) == (True, len(CHAIN), None)
    assert found.not_anchored == tuple(event.id for event in CHAIN[last:])


@given(anchored, positions, st.sampled_from(sorted(EDITS)))
def test_any_single_edit_is_detected(anchors: list[Anchor], position: int, field: str) -> None:
    chain = list(CHAIN)
    chain[position] = replace(chain[position], **{field: EDITS[field]})
    found = verify(chain, anchors)
    assert not found.ok
    assert found.problem
    assert found.checked == position


def test_the_edits_cover_every_field() -> None:
    assert set(EDITS) == {field.name for field in fields(Event)}


@given(anchored, st.integers(0, len(CHAIN) - 2), st.booleans())
def test_any_removal_is_detected(anchors: list[Anchor], position: int, renumbered: bool) -> None:
    chain = CHAIN[:position] + CHAIN[position + 1 :]
    if renumbered:
        chain = [replace(event, seq=number) for number, event in enumerate(chain, 1)]
    found = verify(chain, anchors)
    assert not found.ok
    assert found.checked == position


@given(anchored, st.lists(positions, min_size=2, max_size=2, unique=True), st.booleans())
def test_any_swap_is_detected(anchors: list[Anchor], pair: list[int], renumbered: bool) -> None:
    chain, (one, other) = list(CHAIN), pair
    chain[one], chain[other] = chain[other], chain[one]
    if renumbered:
        chain = [replace(event, seq=number) for number, event in enumerate(chain, 1)]
    assert not verify(chain, anchors).ok


@given(anchored, st.integers(0, len(CHAIN) - 1))
def test_a_cut_is_detected_exactly_where_it_takes_an_anchored_record(anchors: list[Anchor], length: int) -> None:
    last = max((known.seq for known in anchors), default=0)
    assert verify(CHAIN[:length], anchors).ok == (length >= last)


@given(anchored, positions)
def test_a_chain_computed_anew_is_detected_by_any_anchor_behind_the_change(
    anchors: list[Anchor], position: int
) -> None:
    before = CHAIN[:position]
    forged = make_event(position + 1, before[-1].hash if before else GENESIS, actor="eve")
    chain = make_chain(len(CHAIN), (*before, forged))
    assert verify(chain, anchors).ok == all(known.seq <= position for known in anchors)


def champion_set(store: ControlStore, version: int, **options: Any) -> Event:
    with store.transaction() as connection:
        return record(connection, "champion.set", ADA, f"flights@{version}", "flights", **options)


def test_an_event_is_read_as_it_was_recorded(store: ControlStore) -> None:
    written = champion_set(store, 7, before={"version": 6}, after={"version": 7}, reason="better", now=START)
    (read,) = read_events(store)
    assert read == written
    assert (read.seq, read.previous_hash, read.time) == (1, GENESIS, START)


def test_every_type_can_be_recorded_with_its_severity(store: ControlStore) -> None:
    with store.transaction() as connection:
        for type in EVENT_TYPES:
            record(connection, type, SYSTEM, "test")
    found = read_events(store)
    assert [event.type for event in found] == list(EVENT_TYPES)
    assert all(event.severity == EVENT_TYPES[event.type].severity for event in found)


def test_an_unknown_type_is_refused_and_with_it_the_whole_transaction(store: ControlStore) -> None:
    def half_wrong() -> None:
        with store.transaction() as connection:
            record(connection, "champion.set", ADA, "flights@1")
            record(connection, "champion.sat", ADA, "flights@1")

    with pytest.raises(ValueError, match=r"'champion\.sat' is unknown"):
        half_wrong()
    assert read_events(store) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(timezones=st.just(UTC)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ANY_TEXT = st.text(st.characters(), max_size=20)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlStore]:
    store = ControlStore(f"sqlite:///{tmp_path_factory.mktemp('shared')}/control_store.db")
    store.migrate()
    yield store
    store.close()


@example({}, 1.0, "")
@example({}, 10**30, "")
@example({"a": "\0\ud800", "b": float("nan")}, "\0", "\ud800")
@given(st.dictionaries(ANY_TEXT, json_values, max_size=3), json_values, ANY_TEXT)
def test_whatever_is_recorded_can_be_verified(
    shared: ControlStore, payload: dict[str, Any], after: object, said: str
) -> None:
    with shared.transaction() as connection:
        written = record(connection, "gate.passed", ADA, said, said, after=after, payload=payload, reason=said)
    (read,) = read_events(shared, after_seq=written.seq - 1)
    assert read == written
    assert read.hash == hash_of_fields(read.to_record() | {"time": read.time})


@example('"\\ud800"')
@example("[NaN, -Infinity, 1e400, -0.0, 1E5, 18446744073709551616]")
@example('{"a": 1, "a": 2}')
@example("[1,]")
@given(json_values.map(lambda value: json.dumps(value, default=str)) | st.text(max_size=20))
def test_a_json_column_is_read_as_the_standard_library_reads_it(text: str) -> None:
    def read(of: Callable[[str], Any]) -> str:
        try:
            return repr(of(text))
        except ValueError:
            return "none"

    assert read(lambda text: Json().process_result_value(text, sqlite.dialect())) == read(json.loads)


def test_events_are_found_by_what_they_are_about(store: ControlStore) -> None:
    champion_set(store, 1)
    champion_set(store, 2)
    with store.transaction() as connection:
        record(connection, "key.created", ADA, "key ci")
    assert [event.seq for event in read_events(store, use_case="flights")] == [1, 2]
    assert [event.seq for event in read_events(store, types=["key.created"])] == [3]
    assert [event.seq for event in read_events(store, subject="flights@2")] == [2]
    assert [event.seq for event in read_events(store, after_seq=1, limit=1)] == [2]


def test_anchoring_covers_its_own_event_and_does_nothing_twice(store: ControlStore, tmp_path: Path) -> None:
    place = str(tmp_path / "elsewhere" / "anchors.jsonl")
    assert anchor(store, anchored_in(place)) is None
    champion_set(store, 1)
    assert verify_store(store, anchored_in(place)).not_anchored == tuple(event.id for event in read_events(store))
    done = anchor(store, anchored_in(place))
    assert done is not None
    assert done.seq == 2
    assert read_anchors(place) == [done]
    assert anchor(store, anchored_in(place)) is None
    found = verify_store(store, anchored_in(place))
    assert replace(found, limits=()) == verify(read_events(store), [done])
    assert verify_store(store, anchored_in(place)).not_anchored == ()


def test_an_anchor_cut_off_by_a_crash_does_not_spoil_the_next(store: ControlStore, tmp_path: Path) -> None:
    place = tmp_path / "anchors.jsonl"
    champion_set(store, 1)
    first = anchor(store, anchored_in(place))
    with place.open("a") as stream:
        stream.write('{"seq": 9, "ha')
    champion_set(store, 2)
    second = anchor(store, anchored_in(place))
    assert read_anchors(str(place)) == [first, second]


def test_a_place_that_cannot_be_written_is_said_and_no_event_claims_otherwise(
    store: ControlStore, tmp_path: Path
) -> None:
    champion_set(store, 1)
    with pytest.raises(UnavailableError, match="cannot be read or written"):
        anchor(store, anchored_in(tmp_path))
    assert len(read_events(store)) == 1


TAMPERING: dict[str, tuple[str, str]] = {
    "a reason changed": ("UPDATE events SET reason = 'because' WHERE seq = 2", "Event 2 .* was changed"),
    "no JSON any more": ("UPDATE events SET payload = '{' WHERE seq = 2", "behind event 1 .* cannot be read"),
    "roles are a number": ("UPDATE events SET roles = '5' WHERE seq = 2", "behind event 1 .* cannot be read"),
    "a moment that is none": ("UPDATE events SET time = 'noon' WHERE seq = 2", "behind event 1 .* cannot be read"),
    "bytes": ("UPDATE events SET actor = X'00ff' WHERE seq = 2", "row 2: actor is b'"),
    "not a number": ("UPDATE events SET payload = '[NaN]' WHERE seq = 2", "Event 2 .* was changed"),
    "removed": ("DELETE FROM events WHERE seq = 2", "Event 2 is missing"),
    "cut off behind the last anchor": ("DELETE FROM events WHERE seq = 5", "its head is event 5"),
    "cut off": ("DELETE FROM events WHERE seq >= 4", "event 4 was anchored: the end is cut off"),
}


@pytest.mark.parametrize("change", TAMPERING)
def test_tampering_in_the_database_is_named(store: ControlStore, tmp_path: Path, change: str) -> None:
    place = str(tmp_path / "anchors.jsonl")
    for version in (1, 2, 3):
        champion_set(store, version)
    anchor(store, anchored_in(place))
    champion_set(store, 4)
    assert verify_store(store, anchored_in(place)).ok
    statement, problem = TAMPERING[change]
    with store.transaction() as connection:
        connection.execute(text(statement))
    found = verify_store(store, anchored_in(place))
    assert not found.ok
    assert re.search(problem, found.problem or ""), found.problem


def test_the_export_holds_every_event_or_does_not_come_to_be(store: ControlStore, tmp_path: Path) -> None:
    for version in (1, 2):
        champion_set(store, version)
    file = tmp_path / "audit.jsonl"
    assert export(store, file) == 2
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        event.to_record() for event in read_events(store)
    ]
    file.unlink()
    with store.transaction() as connection:
        connection.execute(text("UPDATE events SET payload = '{' WHERE seq = 2"))
    with pytest.raises(IntegrityError, match="behind event 1"):
        export(store, file)
    assert not list(tmp_path.glob("audit.jsonl*"))


@pytest.fixture
def command(store: ControlStore, tmp_path: Path) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["audit", *arguments, "--state", str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_the_command_line_shows_verifies_anchors_and_exports(
    store: ControlStore, tmp_path: Path, command: Callable[..., str]
) -> None:
    champion_set(store, 1, reason="better\x1b[31m")
    assert "champion.set  flights@1  by ada  better\\x1b[31m" in command("show")
    assert json.loads(command("show", "--full"))["subject"] == "flights@1"
    assert "1 events are intact.\nNot anchored yet: 1 (" in command("verify")
    assert "Event 2 is anchored in" in command("anchor")
    assert "Nothing new" in command("anchor")
    assert command("verify").startswith("2 events are intact.\nThe tables hold what they say: principals, versions")
    assert "Not found would be:\n- a cut, or events that were computed anew, behind event 2" in command("verify")
    assert "2 events are in" in command("export", str(tmp_path / "audit.jsonl"))
    with store.transaction() as connection:
        connection.execute(text("UPDATE events SET actor = 'eve'"))
    with pytest.raises(IntegrityError, match=r"not what it was \(0 events are intact\). Event 1"):
        command("verify")


def test_a_moment_that_is_none_is_refused_at_the_command_line(tmp_path: Path) -> None:
    arguments = ["keys", "create", "ci", "--role", "predict", "--expires", "soon", "--state", str(tmp_path)]
    with pytest.raises(ConfigurationError, match="'soon' is not a moment"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
