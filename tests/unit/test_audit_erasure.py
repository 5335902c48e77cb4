"""What tells of a person can be taken out of the audit log, and the chain still shows any other change."""

import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, ConflictError, ForbiddenError, MlopsRayError
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.approvals import Policy, approve, list_approvals, request
from mlops_ray.governance.audit import verify, verify_store
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.channels import Channels
from mlops_ray.governance.clearance import expect_admitted
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.delegations import delegate, end_delegation
from mlops_ray.governance.erasures import Erasures, _without, erase_person, erase_reasons, read_erasures
from mlops_ray.governance.events import DIGEST, TEXTS, Actor, Event, hash_of_fields, read_events, record
from mlops_ray.governance.keys import create_key, list_keys, revoke_key
from mlops_ray.governance.live import Plan, live
from mlops_ray.governance.notifications import deliver_once, subscribe, unsubscribe
from mlops_ray.governance.policy_changes import approve_change, set_policy
from mlops_ray.governance.principals import person_of_subject
from mlops_ray.governance.rollouts import start_rollout
from mlops_ray.governance.tables import delegations, event_head, events, metadata, outbox
from mlops_ray.governance.versions import Evidence, record_version
from tests.anchoring import anchored_in

ROOT = Actor("root", ("admin",), id="person-root")
SUB = person_of_subject("https://idp.example.org", "usr24828")
BEA = Actor("Bea Östberg", ("operate",), id=SUB, os_user="bostberg")
CARL = Actor("carl", ("approve",), id="person-carl")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return anchored_in(tmp_path / "anchors.jsonl").model_copy(update={"state": str(tmp_path)})


@pytest.fixture
def lived(store: ControlStore, settings: Settings) -> ControlStore:
    """Bea has a key and tokens, trains, is told of things, and is spoken of; Carl approves what she trained."""
    create_key(store, ROOT, BEA.name, ["operate"], person=SUB)
    channels = Channels()
    made = subscribe(store, BEA, channels, "mailtos://u:p@example.org?to=bea.ostberg@example.org", "flights")
    subscribe(store, CARL, channels, "https://example.org/hook")
    for number in (1, 2):
        record_version(store, BEA, "flights", number, Evidence(f"{number:064x}", "e"))
    request(store, BEA, "flights", 1, "please, says bea östberg")
    approve(store, CARL, "flights", 1, "Bea Östberg's numbers are right")
    set_champion(store, CARL, "flights", list_approvals(store)[0].ref, "ok")
    request(store, BEA, "flights", 2, "again")
    approve(store, CARL, "flights", 2, "fine")
    start_rollout(store, BEA, "flights", list_approvals(store)[0].ref, Plan())
    anchor(store, settings)
    unsubscribe(store, BEA, made.subscription.id)
    revoke_key(store, ROOT, BEA.name, "Bea Östberg left")
    return store


def dump(store: ControlStore) -> str:
    with store.reading() as connection:
        return "\n".join(str(connection.execute(select(table)).all()) for table in metadata.sorted_tables)


NAMES = re.compile("östberg|ostberg|usr24828", re.IGNORECASE)


def test_nothing_tells_of_the_person_afterwards_and_the_chain_holds(
    lived: ControlStore, settings: Settings, tmp_path: Path
) -> None:
    before = read_events(lived)
    assert verify_store(lived, settings).ok
    done = erase_person(lived, ROOT, "bea östberg", "request 17")
    erase_person(lived, ROOT, "bostberg", "request 17, the account")
    erase_person(lived, ROOT, "bea.ostberg@example.org", "request 17, the address")
    after = read_events(lived)
    assert [(event.seq, event.hash, event.type) for event in after[: len(before)]] == [
        (event.seq, event.hash, event.type) for event in before
    ]
    assert not NAMES.search(dump(lived))
    assert verify_store(lived, settings).problem is None
    assert done.texts > done.events > 8
    told = after[len(before)]
    assert (told.type, told.actor, told.reason) == ("audit.erased", "root", "request 17")
    assert told.payload["pseudonym"] == done.pseudonym
    of_bea = [event for event in after if event.actor == done.pseudonym]
    assert {event.actor_id for event in of_bea} == {done.pseudonym}
    assert [one.author for one in list_approvals(lived)] == [done.pseudonym] * 2
    lived.close()
    for file in tmp_path.glob("control_store*"):
        content = file.read_bytes()
        for name in ("östberg".encode(), b"\\u00f6stberg", b"\\u00d6stberg", b"usr24828", b"bostberg"):
            assert name.lower() not in content.lower(), file


def test_nobody_can_try_names_on_what_is_left(lived: ControlStore) -> None:
    """No salt is left from which that of an erased text follows."""
    erase_person(lived, ROOT, BEA.name, "request 17")
    checked = 0
    for event in read_events(lived):
        for path in read(lived).texts.get(event.seq, {}):
            salt = event.salt
            for name in path:
                assert not isinstance(salt, str)
                salt = salt[name]
            assert salt.startswith(DIGEST)
            checked += 1
    assert checked > 20


def read(store: ControlStore) -> Erasures:
    with store.reading() as connection:
        return read_erasures(connection)


def test_what_waits_to_be_sent_goes_out_without_the_person_and_in_order(lived: ControlStore) -> None:
    erase_person(lived, ROOT, BEA.name, "request 17")
    sent: list[Event] = []
    while deliver_once(lived, datetime.now(UTC), lambda channel, secret, event: sent.append(event)).delivered:
        pass
    assert len(sent) > 5
    assert not NAMES.search(str(sent[:-1]).replace("bostberg", "").replace("ostberg@", ""))
    of_one = [event.seq for event in sent if event.subject == "flights@2"]
    assert of_one == sorted(of_one)
    with lived.reading() as connection:
        subjects = dict(connection.execute(select(outbox.c.event_seq, outbox.c.subject)).all())
    assert all(subjects[event.seq] == event.subject for event in sent)


def test_a_reason_is_erased_by_its_event_wherever_it_stands(lived: ControlStore, settings: Settings) -> None:
    event = next(event for event in read_events(lived) if "numbers" in event.reason)
    erase_reasons(lived, ROOT, [event.seq], "it tells of somebody")
    assert "numbers" not in dump(lived)
    assert "please, says bea" in dump(lived)
    assert verify_store(lived, settings).problem is None
    with pytest.raises(ConfigurationError, match="No event tells"):
        erase_reasons(lived, ROOT, [999], "there is none")


def test_two_people_can_be_erased_from_one_text_and_event(store: ControlStore, settings: Settings) -> None:
    with store.transaction() as connection:
        record(
            connection, "champion.set", CARL, "flights@1", reason="as dora said", payload={"who": ["dora", "ede", 1]}
        )
    for name in ("dora", "ede", "carl"):
        erase_person(store, ROOT, name, "request 18")
    event = read_events(store)[0]
    assert not re.search("dora|ede|carl$", str((event.actor, event.reason, event.payload)))
    assert verify_store(store, settings).problem is None


def as_before_there_were_salts(store: ControlStore) -> None:
    """The same history, hashed as it was until now."""
    with store.transaction() as connection:
        previous = "0" * 64
        for row in connection.execute(select(events).order_by(events.c.seq)).mappings().all():
            fields = dict(row) | {"salt": None, "previous_hash": previous}
            previous = hash_of_fields(fields)
            connection.execute(update(events).where(events.c.seq == row["seq"]).values(fields | {"hash": previous}))
        connection.execute(update(event_head).values(hash=previous))


def test_what_was_recorded_before_there_were_salts_is_erased_too_and_said(
    store: ControlStore, settings: Settings
) -> None:
    for number in (1, 2, 3):
        record_version(store, BEA, "flights", number, Evidence(f"{number:064x}", "e"))
    as_before_there_were_salts(store)
    record_version(store, BEA, "flights", 4, Evidence(f"{4:064x}", "e"))
    assert verify_store(store, settings).problem is None
    erase_person(store, ROOT, SUB, "request 17")
    erase_person(store, ROOT, "bostberg", "request 17")
    assert not NAMES.search(dump(store))
    found = verify_store(store, settings)
    assert found.problem is None
    assert "what 3 erased events said that were recorded before texts had salts" in found.limits
    with store.transaction() as connection:
        connection.execute(update(events).where(events.c.seq == 2).values(subject="flights@9"))
    assert "Event 2 " in str(verify_store(store, settings).problem)


TAMPERING: dict[str, tuple[Callable[[Event], dict[str, Any]], str]] = {
    "a text taken out in silence": (
        lambda event: _without(event, [("reason",)], "erased-000000000000"),
        "lacks the text reason, and no event tells that it was erased",
    ),
    "another pseudonym": (lambda event: {"actor": "erased-000000000000"}, "actor was erased, and is not erased-"),
    "a name in its place": (lambda event: {"actor": "carl"}, "actor was erased, and is not erased-"),
    "a salt for it": (
        lambda event: {"salt": event.salt | {"actor": "5" * 32}},
        "was changed: its fields do not have the hash",
    ),
}


@pytest.mark.parametrize("change", TAMPERING)
def test_what_is_done_to_texts_beside_erasing_them_is_found(
    lived: ControlStore, settings: Settings, change: str
) -> None:
    erase_person(lived, ROOT, BEA.name, "request 17")
    event = next(event for event in read_events(lived) if event.actor.startswith("erased-") and event.reason == "again")
    make, sentence = TAMPERING[change]
    with lived.transaction() as connection:
        connection.execute(update(events).where(events.c.seq == event.seq).values(make(event)))
    assert sentence in str(verify_store(lived, settings).problem)


def test_a_text_that_is_put_back_from_a_backup_is_found(lived: ControlStore, settings: Settings) -> None:
    old = read_events(lived)[0]
    erase_person(lived, ROOT, BEA.name, "request 17")
    with lived.transaction() as connection:
        values = {name: getattr(old, name) for name in TEXTS} | {"salt": old.salt}
        connection.execute(update(events).where(events.c.seq == old.seq).values(values))
    assert "again, which was erased" in str(verify_store(lived, settings).problem)


@pytest.mark.parametrize(
    ("who", "actor", "reason", "error", "sentence"),
    [
        ("carl", ROOT, "carl asked for it", ConfigurationError, "tells of the person itself"),
        ("carl", ROOT, " ", ConfigurationError, "Say why"),
        ("carl", CARL, "mine", ForbiddenError, "somebody else"),
        ("somebody unknown", ROOT, "request 3", ConfigurationError, "No event tells"),
        ("flights", ROOT, "request 3", ConfigurationError, "a use case's"),
        ("system", ROOT, "request 3", ConfigurationError, "the platform's"),
        ("policy", ROOT, "request 3", ConfigurationError, "the platform's"),
        ("x", ROOT, "request 3", ConfigurationError, "too short"),
        ("eva", ROOT, "request 3", ConflictError, "Revoke it first"),
        ("hook", ROOT, "request 3", ConflictError, "End it first"),
    ],
)
def test_what_must_not_be_erased_is_refused_and_nothing_is_changed(
    lived: ControlStore, who: str, actor: Actor, reason: str, error: type[MlopsRayError], sentence: str
) -> None:
    set_policy(lived, ROOT, "flights", Policy())
    create_key(lived, ROOT, "eva", ["predict"])
    before = dump(lived)
    with pytest.raises(error, match=sentence):
        erase_person(lived, actor, who, reason)
    assert dump(lived) == before


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Anna Weiß", "anna weiß and ANNA WEISS"),
        ("José", unicodedata.normalize("NFD", "José")),
        (unicodedata.normalize("NFD", "Zoë"), "ZOË"),
        ("İpek", "İpek"),
    ],
)
def test_a_name_is_found_however_its_letters_are_written(store: ControlStore, name: str, written: str) -> None:
    create_key(store, ROOT, "root", ["admin"])
    create_key(store, ROOT, name, ["operate"])
    revoke_key(store, ROOT, name, f"{written} left")
    erase_person(store, ROOT, name, "request 17")
    said = dump(store)
    for text in (name, *written.split(" and ")):
        assert text not in said
        assert ascii(text).strip("'") not in said


@pytest.mark.parametrize("name", ["admin", "shadow", "latency", "home", "11"])
def test_a_name_that_is_also_a_word_of_the_platform_takes_nothing_from_it(
    store: ControlStore, tmp_path: Path, name: str
) -> None:
    """Whoever was called admin: the others still are administrators, and what was decided is what it was."""
    (tmp_path / "home").mkdir()
    settings = anchored_in(tmp_path / "home" / "anchors.jsonl")
    create_key(store, ROOT, "root", ["admin", "approve"])
    create_key(store, ROOT, name, ["operate"])
    set_policy(store, ROOT, "flights", Policy(required=True), ("Latency(limit_ms=10)",))
    for number in (1, 2):
        evidence, rules = Evidence(f"{number:064x}", "e"), {"gates": ["Latency(limit_ms=10)"]}
        ref = record_version(store, BEA, "flights", number, evidence, payload=rules).ref
        request(store, BEA, "flights", number)
        approve(store, CARL, "flights", number)
        if number == 1:
            set_champion(store, CARL, "flights", ref, "ok")
    start_rollout(store, BEA, "flights", ref)
    revoke_key(store, ROOT, name, f"{name} left")
    anchor(store, settings)
    roles, approved, state = (
        [key.principal.roles for key in list_keys(store)],
        [(one.state, one.decided_at) for one in list_approvals(store)],
        live(store, "flights"),
    )
    done = erase_person(store, ROOT, name, "request seventeen")
    assert [key.principal.name for key in list_keys(store)] == ["root", done.pseudonym]
    assert [key.principal.roles for key in list_keys(store)] == roles
    assert [(one.state, one.decided_at) for one in list_approvals(store)] == approved
    assert live(store, "flights") == state
    with store.reading() as connection:
        expect_admitted(connection, "flights", ref)
    assert verify_store(store, settings).problem is None


def test_four_eyes_hold_after_the_author_was_erased(store: ControlStore) -> None:
    """Random ids tell of nobody and stay."""
    dora = Actor("dora", ("operate", "approve"), id="0193-random")
    record_version(store, dora, "flights", 1, Evidence("1" * 64, "e"))
    set_policy(store, ROOT, "flights", Policy(required=True))
    request(store, dora, "flights", 1)
    erase_person(store, ROOT, "dora", "request 17")
    with pytest.raises(ForbiddenError, match="is the author"):
        approve(store, replace(dora, name="dora again"), "flights", 1)


def test_four_eyes_hold_after_an_author_with_tokens_was_erased(store: ControlStore) -> None:
    """Their id goes, as it says who they are: whoever else comes with tokens may be them, and who has a key is not."""
    again, other = (replace(BEA, id=person_of_subject("https://idp.example.org", sub)) for sub in ("usr24828", "7"))
    record_version(store, BEA, "flights", 1, Evidence("1" * 64, "e"))
    set_policy(store, ROOT, "flights", Policy(required=True))
    request(store, BEA, "flights", 1)
    erase_person(store, ROOT, BEA.name, "request 17")
    for actor in (again, other):
        with pytest.raises(ForbiddenError, match="may be the one who was erased"):
            approve(store, replace(actor, name="dora", roles=("approve",)), "flights", 1)
    assert approve(store, CARL, "flights", 1).state == "approved"


def test_a_delegation_of_who_is_erased_is_ended_first_and_counts_no_more(store: ControlStore) -> None:
    set_policy(store, ROOT, "flights", Policy(required=True))
    record_version(store, CARL, "flights", 1, Evidence("1" * 64, "e"))
    request(store, CARL, "flights", 1)
    to = create_key(store, ROOT, "tess", ["label"]).principal.actor("flights")
    until = datetime.now(UTC) + timedelta(days=1)
    given = delegate(store, replace(BEA, roles=("approve",)), "flights", "tess", until, "away")
    with pytest.raises(ConflictError, match=f"Delegation {given.id} is theirs. End it first"):
        erase_person(store, ROOT, BEA.name, "request 17")
    with store.transaction() as connection:  # as it was left before
        connection.execute(update(delegations).values(giver_id="erased-0123456789ab"))
    with pytest.raises(ForbiddenError, match="does not carry the role"):
        approve(store, to, "flights", 1)
    end_delegation(store, to, given.id, "they left")
    assert erase_person(store, ROOT, BEA.name, "request 17").events


def test_who_was_erased_does_not_approve_twice_nor_their_own_rules(store: ControlStore) -> None:
    again = replace(BEA, roles=("operate", "approve"))
    set_policy(store, CARL, "flights", Policy(required=True, min_approvers=2))
    record_version(store, CARL, "flights", 1, Evidence("1" * 64, "e"))
    request(store, CARL, "flights", 1)
    approve(store, again, "flights", 1)
    change = set_policy(store, again, "flights", None)
    assert change
    erase_person(store, ROOT, BEA.name, "request 17")
    with pytest.raises(ConflictError, match="has approved"):
        approve(store, again, "flights", 1)
    with pytest.raises(ForbiddenError, match="Somebody else approves"):
        approve_change(store, again, change.id)


def test_the_command_asks_for_the_name_and_says_what_it_did_not_reach(lived: ControlStore, tmp_path: Path) -> None:
    command = ["audit", "erase", "--reason", "request 17", "--state", str(tmp_path)]
    done = CliRunner().invoke(app, command, input="Bea Östberg\n", catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert re.search(r"\d+ texts of \d+ events, and \d+ rows, say erased-\w{12} now", done.output)
    assert "backups" in done.output
    assert "Östberg" not in done.output
    assert "östberg" not in dump(lived)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=3), values, max_size=3), values, st.data())
def test_whatever_texts_of_an_event_are_erased_its_hash_holds(payload: Any, after: Any, data: st.DataObject) -> None:
    fields: dict[str, Any] = {
        "seq": 1, "id": "id", "time": datetime(2030, 1, 1, tzinfo=UTC), "type": "champion.set", "severity": "info",
        "actor": "ada", "actor_id": "i", "roles": ("a",), "use_case": None, "subject": "s", "reason": "r",
        "before": None, "after": after, "payload": payload, "previous_hash": "0" * 64, "salt": "5" * 32,
    }  # fmt: skip
    event = Event(**fields, hash=hash_of_fields(fields | {"roles": ["a"]}))
    leaves = [path for name in TEXTS for path, _ in _leaves(fields[name], (name,))]
    erased: set[tuple[str, ...]] = set()
    for chosen in data.draw(st.lists(st.lists(st.sampled_from(leaves), unique=True), max_size=2)):
        new = [path for path in chosen if path not in erased]
        event = replace(event, **_without(event, new, "erased-1"))
        erased.update(new)
        told = Erasures({1: dict.fromkeys(erased, "erased-1")}) if erased else Erasures()
        assert verify([event], [], told).problem is None
        json.dumps(event.to_record())


def _leaves(value: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        return [(path, value)]
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for name, part in parts for leaf in _leaves(part, (*path, str(name)))]
