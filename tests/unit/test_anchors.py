"""Anchors: signed, stamped and at a second place they show what whoever owns the database has done to it."""

import base64
import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, text, update

from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, UnavailableError
from mlops_ray.governance import anchors as anchoring
from mlops_ray.governance.anchors import anchor, anchor_of, read_anchors
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import GENESIS, SYSTEM, hash_of_fields, read_events, record
from mlops_ray.governance.merkle import Tree, paths
from mlops_ray.governance.tables import anchors, event_head, events
from tests.anchoring import TimeStampServer, make_keys


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimeStampServer]:
    made = TimeStampServer(tmp_path_factory.mktemp("tsa") / "authority")
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def settings(tmp_path: Path, server: TimeStampServer) -> Settings:
    """All that can stand behind an anchor."""
    server.is_down = False
    private, public = make_keys(tmp_path / "keys")
    return load_settings(
        state=str(tmp_path / "state"),
        data=str(tmp_path),
        audit_anchors=str(tmp_path / "anchors.jsonl"),
        audit_second_place=str(tmp_path / "second"),
        audit_key=f"file:{private}",
        audit_public_key=str(public),
        audit_time_stamp_url=server.url,
        audit_time_stamp_roots=str(server.roots),
    )


def happen(store: ControlStore, count: int = 1) -> None:
    with store.transaction() as connection:
        for _ in range(count):
            record(connection, "champion.set", SYSTEM, "flights@1", "flights", reason="it is better")


def problem(store: ControlStore, settings: Settings) -> str:
    found = verify_store(store, settings)
    assert found.ok == (found.problem is None)
    return found.problem or ""


def types(store: ControlStore) -> list[str]:
    return [event.type for event in read_events(store)]


def test_openssl_verifies_signature_and_time_stamp_with_what_lies_at_the_second_place(
    store: ControlStore, settings: Settings, tmp_path: Path
) -> None:
    happen(store, 3)
    made = anchor(store, settings)
    assert made is not None
    (signed,), (stamp,) = tmp_path.glob("second/anchor-*.json"), tmp_path.glob("second/anchor-*.tsr")
    value = json.loads(signed.read_text())
    lines = [
        f"{name} {value[key]}"
        for name, key in (("events", "seq"), ("hash", "hash"), ("root", "root"), ("time", "time"))
    ]
    message, signature = tmp_path / "message", tmp_path / "signature"
    message.write_text("\n".join(["mlops-ray audit anchor", *lines, ""]))
    signature.write_bytes(base64.b64decode(value["signature"]))
    verify: list[str | Path] = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        settings.audit_public_key,
        "-rawin",
        "-in",
        message,
    ]
    subprocess.run([*verify, "-sigfile", signature], check=True)
    roots = settings.audit_time_stamp_roots
    subprocess.run(["openssl", "ts", "-verify", "-data", message, "-in", stamp, "-CAfile", roots], check=True)
    found = verify_store(store, settings)
    assert (found.ok, found.checked, found.not_anchored) == (True, 4, ())
    assert [limit for limit in found.limits if "audit_" in limit or "second" in limit] == [
        "an edit of when file and second place got an anchor"
    ]


def test_what_is_not_configured_is_said_by_verify(store: ControlStore, tmp_path: Path) -> None:
    happen(store)
    bare = Settings(state=str(tmp_path), data=str(tmp_path))
    anchor(store, bare)
    happen(store)
    said = " ".join(verify_store(store, bare).limits)
    for missing in ("audit_public_key", "not signed", "audit_second_place", "audit_time_stamp_url", "behind event 2"):
        assert missing in said


def rewrite(store: ControlStore, length: int) -> None:
    """Take the last events away, and all that the database says of them."""
    with store.transaction() as connection:
        connection.execute(text("DELETE FROM outbox"))
        connection.execute(delete(anchors))
        connection.execute(delete(events).where(events.c.seq > length))
        last = connection.execute(select(events.c.hash).order_by(events.c.seq.desc()).limit(1)).scalar() or GENESIS
        connection.execute(update(event_head).values(seq=length, hash=last))


@pytest.mark.parametrize("anchored_again", [False, True])
def test_who_rewrites_database_and_file_is_found_by_the_second_place(
    store: ControlStore, settings: Settings, anchored_again: bool
) -> None:
    happen(store, 3)
    anchor(store, settings)
    happen(store, 2)
    anchor(store, settings)
    rewrite(store, 2)
    Path(settings.audit_anchors).unlink()
    if anchored_again:
        happen(store, 9)
        mine = {"audit_second_place": "", "audit_key": "", "audit_time_stamp_url": ""}
        anchor(store, settings.model_copy(update=mine))
    assert ("computed anew" if anchored_again else "the end is cut off") in problem(store, settings)


def test_who_rewrites_database_and_file_cannot_sign_it(store: ControlStore, settings: Settings) -> None:
    alone = settings.model_copy(update={"audit_second_place": "", "audit_time_stamp_url": ""})
    happen(store, 3)
    anchor(store, alone)
    rewrite(store, 2)
    Path(settings.audit_anchors).unlink()
    happen(store, 2)
    anchor(store, alone.model_copy(update={"audit_key": ""}))
    assert "is not signed, although anchors are" in problem(store, alone)
    other, _ = make_keys(Path(settings.data) / "others")
    anchor(store, alone.model_copy(update={"audit_key": f"file:{other}"}))
    assert "which is not in audit_public_key" in problem(store, alone)


def test_any_edit_of_what_the_database_says_of_its_anchors_is_found(store: ControlStore, settings: Settings) -> None:
    happen(store, 3)
    anchor(store, settings)
    happen(store)
    anchor(store, settings)
    with store.reading() as connection:
        rows = [dict(row) for row in connection.execute(select(anchors)).mappings()]
    not_found = {"written_at", "second_at"}
    assert any(
        "an edit of when file and second place got an anchor" in one for one in verify_store(store, settings).limits
    )
    for row in rows:
        this = anchors.c.seq == row["seq"]
        for column in anchors.columns:
            for value in {None, another(row[column.name])} - ({None} if not column.nullable else set()):
                with store.transaction() as connection:
                    connection.execute(update(anchors).where(this).values({column.name: value}))
                assert (problem(store, settings) == "") == (column.name in not_found), (column.name, value)
                with store.transaction() as connection:
                    connection.execute(delete(anchors).where(anchors.c.seq.in_([row["seq"], another(row["seq"])])))
                    connection.execute(insert(anchors).values(row))
        with store.transaction() as connection:
            connection.execute(delete(anchors).where(this))
        assert "the events tell of it" in problem(store, settings)
        with store.transaction() as connection:
            connection.execute(insert(anchors).values(row))
        assert problem(store, settings) == ""


def another(value: Any) -> Any:
    match value:
        case int():
            return value + 1
        case str():
            return f"{'b' if value[0] == 'a' else 'a'}{value[1:]}"
        case list():
            return json.dumps(value[:-1])
    return value + timedelta(seconds=1)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "the newest is gone": (lambda place: max(place.glob("*.json")).unlink(), "The second place .* lacks 1 anchors"),
    "a stamp is gone": (lambda place: max(place.glob("*.tsr")).unlink(), "lacks the time stamp"),
    "no JSON": (lambda place: max(place.glob("*.json")).write_text("{"), "has another root"),
    "signed by somebody else": (
        lambda place: exchange(max(place.glob("*.json")), "signature", base64.b64encode(b"x" * 64).decode()),
        "has another signature",
    ),
    "one more": (
        lambda place: (place / f"anchor-000000000001-{'e' * 64}.json").write_text('{"root": "e"}'),
        "Event 1 .* has another hash than was anchored",
    ),
    "another stamp": (
        lambda place: max(place.glob("*.tsr")).write_bytes(min(place.glob("*.tsr")).read_bytes()),
        "has another time_stamp",
    ),
}


def exchange(file: Path, name: str, value: str) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_at_the_second_place_is_found(store: ControlStore, settings: Settings, change: str) -> None:
    for _ in range(2):
        happen(store)
        anchor(store, settings)
    (Path(settings.audit_second_place) / "notes.txt").write_text("which are no anchor")
    assert problem(store, settings) == ""
    do, sentence = CHANGES[change]
    do(Path(settings.audit_second_place))
    found = problem(store, settings)
    assert re.search(sentence, found), found


def test_a_stamp_by_a_server_that_is_not_trusted_is_found(
    store: ControlStore, settings: Settings, server: TimeStampServer, tmp_path: Path
) -> None:
    happen(store)
    anchor(store, settings)
    assert problem(store, settings) == ""
    other = TimeStampServer(tmp_path / "other")
    other.shutdown()
    others = settings.model_copy(update={"audit_time_stamp_roots": str(other.roots)})
    assert "not by a server that is trusted" in problem(store, others)


def test_a_second_place_that_is_down_delays_and_is_said_once_and_loses_nothing(
    store: ControlStore, settings: Settings
) -> None:
    place = Path(settings.audit_second_place)
    place.write_text("in the way")
    for _ in range(2):
        happen(store)
        with pytest.raises(UnavailableError, match=r"is anchored in .* The second place .* cannot be used"):
            anchor(store, settings)
    assert types(store).count("audit.delayed") == 1
    assert len(read_anchors(settings.audit_anchors)) == 2
    found = verify_store(store, settings)
    assert found.ok
    assert any("which was not read" in limit for limit in found.limits)
    assert any("2 anchors are not there yet" in limit for limit in found.limits)
    place.unlink()
    anchor(store, settings)
    assert len(list(place.glob("*.json"))) == 2
    assert problem(store, settings) == ""
    with store.reading() as connection:
        known = [anchor_of(row) for row in connection.execute(select(anchors))]
    assert read_anchors(settings.audit_anchors) == known


@pytest.mark.parametrize(
    "away",
    [
        {"audit_second_place": "s3://AKIA:top/hunter2@bucket/x"},  # pragma: allowlist secret
        {"audit_second_place": "gs://top:hunter2@[bad/x"},  # pragma: allowlist secret
        {"audit_time_stamp_url": "http://us:hunter2@127.0.0.1:9/tsa?token=hunter2"},  # pragma: allowlist secret
    ],
)
def test_what_a_url_has_secret_in_it_is_in_no_message_and_no_event(
    store: ControlStore, settings: Settings, away: dict[str, str]
) -> None:
    happen(store)
    with pytest.raises(UnavailableError) as error:
        anchor(store, settings.model_copy(update={"audit_time_stamp_url": ""} | away))
    for said in (str(error.value), *(event.reason for event in read_events(store, types=("audit.delayed",)))):
        assert next(iter(away.values())).partition("://")[0] in said
        assert "hunter2" not in said


def test_nothing_waits_for_a_second_place_that_does_not_answer(
    store: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchoring, "PATIENCE_S", 0.5)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    happen(store)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = f"127.0.0.1:{silent.getsockname()[1]}"
        asked = f"region=x&scheme=http&endpoint_override={server}"
        url = f"s3://user:canary@bucket/anchors?{asked}"  # pragma: allowlist secret
        away = settings.model_copy(update={"audit_second_place": url})
        with pytest.raises(UnavailableError, match=r"did not answer within 0\.5 s") as raised:
            anchor(store, away)
    assert "canary" not in f"{raised.value} {[event.to_json() for event in read_events(store)]}"
    assert len(read_anchors(settings.audit_anchors)) == 1
    anchor(store, settings)
    assert problem(store, settings) == ""


def test_a_server_of_time_stamps_that_is_down_is_asked_again(
    store: ControlStore, settings: Settings, server: TimeStampServer
) -> None:
    server.is_down = True
    happen(store)
    with pytest.raises(UnavailableError, match="answered 503"):
        anchor(store, settings)
    assert not list(Path(settings.audit_second_place).glob("*.tsr"))
    assert verify_store(store, settings).ok
    server.is_down = False
    anchor(store, settings)
    anchor(store, settings)
    assert types(store) == ["champion.set", "audit.anchored", "audit.delayed", "audit.anchored"]
    assert len(list(Path(settings.audit_second_place).glob("*.tsr"))) == 1
    assert problem(store, settings) == ""


def test_who_dies_before_the_file_is_written_writes_it_later(
    store: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    happen(store)
    with monkeypatch.context() as patch:
        patch.setattr(anchoring, "_write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            anchor(store, settings)
    assert verify_store(store, settings).ok
    assert anchor(store, settings) is None
    assert len(read_anchors(settings.audit_anchors)) == 1
    assert problem(store, settings) == ""


def test_a_key_can_be_exchanged(store: ControlStore, settings: Settings, tmp_path: Path) -> None:
    happen(store)
    anchor(store, settings)
    private, public = make_keys(tmp_path / "next")
    both = tmp_path / "both.pem"
    both.write_text(public.read_text() + Path(settings.audit_public_key).read_text())
    after = settings.model_copy(update={"audit_key": f"file:{private}", "audit_public_key": str(both)})
    assert anchor(store, after) is not None
    assert problem(store, after) == ""


def test_what_was_anchored_before_anchors_were_signed_goes_on(store: ControlStore, settings: Settings) -> None:
    """As the version before wrote it: no salt, no root, the row after the file."""
    happen(store)
    nothing = ("audit_key", "audit_public_key", "audit_second_place", "audit_time_stamp_url")
    bare = settings.model_copy(update=dict.fromkeys(nothing, ""))
    old = anchor(store, bare)
    assert old is not None
    with store.transaction() as connection:
        row = connection.execute(select(events).where(events.c.seq == old.seq)).mappings().one()
        fields = dict(row) | {"salt": None, "payload": {"place": bare.audit_anchors}}
        hash = hash_of_fields(fields)
        connection.execute(update(events).where(events.c.seq == old.seq).values(fields | {"hash": hash}))
        connection.execute(update(event_head).values(hash=hash))
        legacy = {"hash": hash, "root": None, "subtrees": None}
        connection.execute(update(anchors).values(legacy))
    line = {"seq": old.seq, "hash": hash, "time": fields["time"].isoformat()}
    Path(bare.audit_anchors).write_text(f"{json.dumps(line)}\n")
    assert problem(store, bare) == ""
    with store.transaction() as connection:
        connection.execute(delete(anchors))  # a crash between file and row
    assert problem(store, bare) == ""
    assert anchor(store, settings) is not None
    assert problem(store, settings) == ""


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"audit_key": "-----BEGIN PRIVATE KEY-----"}, "Say where the key stands"),  # pragma: allowlist secret
        ({"audit_key": "file:/state/keys/private.pem"}, "lies in the state folder"),
        ({"evidence_key": "file:/state/private.pem"}, "lies in the state folder"),
        ({"audit_second_place": "elsewhere"}, "relative path"),
        ({"audit_time_stamp_url": "ftp://example.org"}, "http or https"),
    ],
)
def test_settings_that_would_prove_nothing_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        load_settings(state="/state", data="/data", **given)


hashes = st.lists(st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}"), max_size=70)


@given(hashes)
def test_a_tree_that_grows_has_the_root_to_which_every_path_leads(found: list[str]) -> None:
    root = Tree().with_hashes(found).root
    for place, path in paths(found, range(len(found))).items():
        node = sha256(b"\0" + bytes.fromhex(found[place])).digest()
        for side, beside in path:
            node = sha256(
                b"\1" + (bytes.fromhex(beside) + node if side == "left" else node + bytes.fromhex(beside))
            ).digest()
        assert node.hex() == root


def test_the_tree_is_that_of_rfc_6962() -> None:
    assert Tree().root == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    one, two, three = ("0" * 64, "1" * 64, "2" * 64)
    assert Tree().with_hashes([one, two, three]).subtrees[0] == Tree().with_hashes([one, two]).root
