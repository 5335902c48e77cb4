"""Keys, subscriptions and the audit log over HTTP: whoever has the role administers without the database's password."""

import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from mlops_ray.client import AsyncClient
from mlops_ray.errors import (
    ConfigurationError,
    ConflictError,
    DataError,
    ForbiddenError,
    IntegrityError,
    UnavailableError,
)
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.keys import active_keys, create_key, hash_of, list_keys
from mlops_ray.serving import audit_log
from tests.unit.test_notifications import Server as Receiver
from tests.unit.test_version_routes import Server, serving

UNTIL = datetime(2040, 1, 1, tzinfo=UTC)
REASON = {"reason": "why"}


@pytest.fixture(autouse=True)
def _without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "URL"):
        monkeypatch.delenv(f"MLOPS_RAY_{name}", raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path, webhook_allowed_hosts=["127.0.0.1"]) as server:
        yield server


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests that must not change anything."""
    with serving(tmp_path_factory.mktemp("state")) as server:
        before = len(read_events(server.store))
        yield server
        assert len(read_events(server.store)) == before


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.shutdown()
    receiver.server_close()


def secret_of(server: Server, **body: Any) -> str:
    made = server("admin", "/keys/create", {"name": "carl", "roles": ["predict"]} | body)
    assert (made.status_code, made.headers["cache-control"]) == (200, "no-store"), made.text
    secret: str = made.json()["secret"]
    return secret


def test_an_administrator_makes_replaces_and_revokes_keys_over_http(server: Server) -> None:
    secret = secret_of(server, use_cases=["flights"], expires_at="2050-01-01T00:00:00Z", requests_per_s=5)
    made = active_keys(server.store)[hash_of(secret)]
    assert (made.roles, made.use_cases, made.requests_per_s) == (("predict",), ("flights",), 5)
    rotated = server("admin", "/keys/rotate", {"key": "carl", "until": UNTIL.isoformat(), **REASON}).json()
    after = active_keys(server.store)
    assert after[hash_of(rotated["secret"])].person == after[hash_of(secret)].person == rotated["key"]["person"]
    assert after[hash_of(secret)].expires_at == UNTIL
    revoked = server("admin", "/keys/revoke", {"key": rotated["key"]["id"], **REASON}).json()
    assert revoked["revoked_at"]
    assert hash_of(rotated["secret"]) not in active_keys(server.store)
    told = [(event.type, event.actor, event.reason) for event in read_events(server.store)[-3:]]
    assert told == [("key.revoked", "root", "why"), ("key.created", "root", ""), ("key.revoked", "root", "why")]


def test_a_secret_is_in_the_answer_that_makes_it_and_nowhere_else(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = secret_of(server)
    hook = server("ann", "/subscriptions/create", {"channel": "https://example.org/x?token=canary"}).json()
    for path in ("/keys", "/persons", "/subscriptions", "/audit/events?limit=1000"):
        text = server("admin", path).text
        for hidden in (secret, hash_of(secret) if path != "/audit/events?limit=1000" else secret, hook["secret"]):
            assert hidden not in text, path
        assert "canary" not in text, path
    assert secret not in caplog.text
    stored = b"".join(file.read_bytes() for file in Path(server.settings.state).rglob("*") if file.is_file())
    assert secret.encode() not in stored


ADMIN_ALONE = [
    ("/keys/create", {"name": "mallory", "roles": ["admin"]}),
    ("/keys/rotate", {"key": "root", "until": UNTIL.isoformat(), **REASON}),
    ("/keys/revoke", {"key": "root", **REASON}),
]
OPERATORS = [
    ("/subscriptions/create", {"channel": "https://example.org/"}),
    *((f"/subscriptions/{what}", {"id": "x"}) for what in ("pause", "resume", "end", "test")),
]
READ = ["/keys", "/persons", "/audit/events"]


@pytest.mark.parametrize(("path", "body"), ADMIN_ALONE)
def test_keys_are_made_and_ended_by_administrators_alone(untouched: Server, path: str, body: Any) -> None:
    assert untouched("", path, body).status_code == 401
    for who in ("ann", "bob", "foreign", "auditor", "eve"):
        assert untouched(who, path, body).status_code == 403, who


def test_who_audits_reads_all_of_it_and_changes_nothing(untouched: Server) -> None:
    for path in READ:
        assert untouched("auditor", path).status_code == 200, path
        for who, status in (("", 401), ("ann", 403), ("bob", 403), ("foreign", 403), ("eve", 403)):
            assert untouched(who, path).status_code == status, (who, path)
    assert untouched("auditor", "/audit/verification", {}).json()["result"]["ok"] is True
    assert untouched("eve", "/audit/verification", {}).status_code == 403
    for path, body in (*ADMIN_ALONE, OPERATORS[0]):
        assert untouched("auditor", path, body).status_code == 403, path


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/keys/create", {"name": "root", "roles": ["admin"]}),
        ("/keys/create", {"name": "a/b", "roles": ["admin"]}),
        ("/keys/create", {"name": "development", "roles": ["admin"]}),
        ("/keys/create", {"name": "x", "roles": ["root"]}),
        ("/keys/create", {"name": "x", "roles": []}),
        ("/keys/create", {"name": "x", "roles": ["admin"], "use_cases": []}),
        ("/keys/create", {"name": "x", "roles": ["admin"], "expires_at": "2001-01-01T00:00:00Z"}),
        ("/keys/create", {"name": "x", "roles": ["admin"], "expires_at": "2041-01-01T00:00:00"}),
        ("/keys/create", {"name": "x", "roles": ["admin"], "expires_at": "9999-12-31T23:59:59-14:00"}),
        ("/keys/create", {"name": "x", "roles": ["admin"], "requests_per_s": 0}),
        ("/keys/create", {"name": "x", "roles": ["admin"], "requests_per_s": 5e-324}),
        ("/keys/create", {"name": "x", "roles": ["admin"], "person": "nobody"}),
        ("/keys/create", {"name": "x", "roles": ["admin"], "oidc_sub": "24"}),
        ("/keys/create", {"name": "x", "roles": ["admin"], "development": True}),
        ("/keys/create", {"name": "x" * 10_000, "roles": ["admin"]}),
        ("/keys/create", {"name": "x\0\x1b[2J", "roles": ["admin"]}),
        ("/keys/rotate", {"key": "nobody", "until": UNTIL.isoformat(), **REASON}),
        ("/keys/rotate", {"key": "eve", "until": "2001-01-01T00:00:00Z", **REASON}),
        ("/keys/rotate", {"key": "eve", "until": "soon", **REASON}),
        ("/keys/rotate", {"key": "eve", "until": "9999-12-31T23:59:59-14:00", **REASON}),
        ("/keys/revoke", {"key": "nobody", **REASON}),
        ("/keys/revoke", {"key": "eve"}),
        ("/subscriptions/create", {"channel": "https://example.org/", "types": ["no.such"]}),
        ("/subscriptions/create", {"channel": "https://example.org/", "minimum_severity": "loud"}),
        ("/subscriptions/create", {"channel": "https://example.org/", "secret": "plain"}),
        ("/subscriptions/create", {"channel": "https://example.org/", "use_case": "../x"}),
        ("/subscriptions/create", {"channel": "http://example.org/"}),
        ("/subscriptions/end", {"id": "x"}),
        ("/subscriptions/test", {"id": "018d0000-0000-7000-8000-000000000000"}),
        *(
            (f"{path}?{query}", None)
            for path in READ
            for query in ("limit=0", "limit=1001", "limit=x", "x=1", "limit=1&limit=2", "limit", "limit=%ff", "&" * 30)
        ),
        ("/audit/events?after=-1", None),
        ("/audit/events?after=99999999999999999999", None),
    ],
)
def test_what_is_wrong_is_a_short_400(untouched: Server, path: str, body: Any) -> None:
    answer = untouched("admin", path, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"].isprintable()
    assert len(answer.json()["error"]) < 1_500  # as long as the list of event types


def test_lists_come_in_pages_and_the_client_brings_all_of_them(server: Server) -> None:
    for number in range(25):
        create_key(server.store, SYSTEM, f"service {number}", ["predict"])
    everyone = json.loads(json.dumps([key.shown() for key in list_keys(server.store)]))
    first = server("auditor", "/keys?limit=10").json()
    assert (len(first["keys"]), first["next"]) == (10, first["keys"][-1]["id"])
    second = server("auditor", f"/keys?limit=100&after={first['next']}").json()
    assert (first["keys"] + second["keys"], second["next"]) == (everyone, None)
    with server.client("auditor") as client:
        assert client.keys.list() == everyone
        events = client.audit.events(limit=10_000)
        assert [event["seq"] for event in events] == list(range(1, len(read_events(server.store)) + 1))
        assert client.audit.events(after=3, limit=2) == events[3:5]
        created = client.audit.events(types=["key.created"], subject="key root")
        assert [(event["type"], event["subject"]) for event in created] == [("key.created", "key root")]
        persons = {one["names"][0]: one for one in client.keys.persons()}
        assert persons["ann"]["roles"] == ["operate"]
    assert server("auditor", "/audit/events?limit=5").json()["next"] == 5


def test_a_person_is_shown_with_all_keys_and_what_they_may_now(server: Server) -> None:
    server("admin", "/keys/create", {"name": "ann laptop", "roles": ["approve"], "person": "ann"})
    with server.client("admin") as client:
        found = {one["names"][0]: one for one in client.keys.persons()}
        assert (found["ann"]["names"], found["ann"]["roles"]) == (["ann", "ann laptop"], ["operate", "approve"])
        for key in found["ann"]["keys"]:
            client.keys.revoke(key, "left")
        assert {one["names"][0]: one for one in client.keys.persons()}["ann"]["roles"] == []


def test_who_operates_a_use_case_subscribes_to_it_and_to_no_other(server: Server, receiver: Receiver) -> None:
    hook = f"http://127.0.0.1:{receiver.server_port}/x"
    theirs = server("foreign", "/subscriptions/create", {"channel": hook, "use_case": "trains"})
    assert theirs.status_code == 200
    id = theirs.json()["subscription"]["id"]
    all_ = server("ann", "/subscriptions/create", {"channel": hook}).json()["subscription"]["id"]
    for use_case in ("flights", None):
        body = {"channel": hook, "use_case": use_case}
        assert server("foreign", "/subscriptions/create", body).status_code == 403
    seen = {who: [one["id"] for one in server(who, "/subscriptions").json()["subscriptions"]] for who in server.keys}
    assert seen["admin"] == seen["ann"] == seen["auditor"] == [id, all_]
    assert (seen["foreign"], seen["eve"], seen["bob"]) == ([id], [], [])
    for what in ("pause", "resume", "test", "end"):
        assert server("foreign", f"/subscriptions/{what}", {"id": all_}).status_code == 403
        assert server("bob", f"/subscriptions/{what}", {"id": id}).status_code == 403
        assert server("foreign", f"/subscriptions/{what}", {"id": id}).status_code == 200
    assert [one["id"] for one in server("ann", "/subscriptions").json()["subscriptions"]] == [all_]


def test_references_to_the_servers_own_secrets_are_chosen_by_administrators(server: Server) -> None:
    for body in ({"channel": "env:HOME"}, {"channel": "https://example.org/", "secret": "file:/etc/passwd"}):
        assert server("ann", "/subscriptions/create", body).status_code == 403
        made = server("admin", "/subscriptions/create", body)
        assert (made.status_code, made.json()["secret"]) == (200, "" if "secret" in body else made.json()["secret"])


def test_a_channel_that_takes_nothing_is_said_and_is_no_error_of_the_server(server: Server, receiver: Receiver) -> None:
    hook = f"http://127.0.0.1:{receiver.server_port}/secret-path"
    with server.client("ann") as client:
        made = client.subscriptions.create(hook, "flights")
        id = made["subscription"]["id"]
        assert made["secret"].startswith("whsec_")
        assert client.subscriptions.test(id)["taken"] is True
        receiver.status = 503
        refused = client.subscriptions.test(id)
        assert (refused["taken"], refused["error"]) == (False, "http://127.0.0.1/… answered 503, not 2xx.")
        with pytest.raises(ForbiddenError, match="where nothing is sent"):
            client.subscriptions.create("https://169.254.169.254/")


def test_the_client_for_asyncio_does_the_same(server: Server) -> None:
    async def administer() -> None:
        async with AsyncClient(server.url, api_key=server.keys["admin"], attempts=1) as client:
            made = await client.keys.create("carl", ["predict"], ["flights"])
            rotated = await client.keys.rotate("carl", UNTIL, "yearly")
            assert (await client.keys.revoke(rotated["key"]["id"], "left"))["revoked_at"]
            assert made["key"]["id"] in [key["id"] for key in await client.keys.list()]
            assert "carl" in [one["names"][0] for one in await client.keys.persons()]
            id = (await client.subscriptions.create("https://example.org/"))["subscription"]["id"]
            assert (await client.subscriptions.pause(id))["paused_at"]
            assert (await client.subscriptions.resume(id))["paused_at"] is None
            assert [one["id"] for one in await client.subscriptions.list()] == [id]
            await client.subscriptions.end(id)
            assert (await client.audit.verify())["ok"]
            assert len(await client.audit.events(limit=2)) == 2
            with pytest.raises(DataError, match="There is no subscription"):
                await client.subscriptions.test(id)

    asyncio.run(administer())


def test_a_long_verification_is_waited_for_by_who_asked_and_by_nobody_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, begun = threading.Event(), list[int]()

    def slow(*given: Any) -> Any:
        begun.append(1)
        going.wait(10)
        return verify_store(*given)

    monkeypatch.setattr(audit_log, "verify_store", slow)
    monkeypatch.setattr(audit_log, "WAIT_S", 0.05)
    assert server("auditor", "/audit/verification").status_code == 404
    for _ in range(20):
        assert server("auditor", "/audit/verification", {}).json()["state"] == "running"
    started = time.monotonic()
    assert server("ann", "/approvals/request", {"model": "flights", "version": 2, "reason": "why"}).status_code == 200
    assert time.monotonic() - started < 1
    assert len(begun) == 1
    threading.Timer(0.2, going.set).start()
    with server.client("auditor") as client:
        assert client.audit.verify()["ok"] is True
    assert server("auditor", "/audit/verification").json()["state"] == "done"


def test_what_was_changed_in_the_database_is_told_to_who_verifies(server: Server) -> None:
    with server.store.transaction() as connection:
        connection.execute(text("""UPDATE principals SET roles = '["admin"]' WHERE name = 'eve'"""))
    with server.client("auditor") as client:
        found = client.audit.verify()
        assert (found["ok"], "Table principals" in found["problem"]) == (False, True)
    Path(server.settings.audit_anchors).mkdir()
    with server.client("auditor") as client:
        assert client.audit.verify()["ok"] is False
        assert "error" in client.audit.verify()


def test_commands_ask_the_server_where_a_url_is_given(
    server: Server, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["admin"])
    monkeypatch.setattr("mlops_ray.cli.governance.open_store", None)  # whoever would open it fails
    monkeypatch.setattr("mlops_ray.cli.notify.open_store", None)
    secret = server.command("keys", "create", "carl", "--role", "predict", "--use-case", "flights").splitlines()[0]
    assert active_keys(server.store)[hash_of(secret)].use_cases == ("flights",)
    server.command("keys", "rotate", "carl", "--until", "2040-01-01T00:00:00Z", "--reason", "yearly")
    assert "Key 'carl' is revoked" in server.command("keys", "revoke", "carl", "--reason", "left")
    listed = [line for line in server.command("keys", "list").splitlines() if "carl" in line]
    assert ["replaced, until 2040-01-01" in listed[0], "revoked" in listed[1]] == [True, True]
    hook = f"http://127.0.0.1:{receiver.server_port}/x"
    id = server.command("notify", "subscribe", hook, "--use-case", "flights").splitlines()[0]
    assert '"taken": true' in server.command("notify", "test", id)
    assert "is paused" in server.command("notify", "pause", id, "--reason", "holidays")
    assert "paused since" in server.command("notify", "list")
    server.command("notify", "resume", id)
    receiver.status = 500
    with pytest.raises(UnavailableError, match="answered 500"):
        server.command("notify", "test", id)
    assert "is ended" in server.command("notify", "unsubscribe", id)
    assert "Nobody is told of anything yet" in server.command("notify", "list")
    assert "key.created  warning" not in server.command("audit", "show", "--type", "key.created")
    assert "key carl" in server.command("audit", "show", "--type", "key.created")
    count = len(read_events(server.store))
    assert f"{count} events are intact." in server.command("audit", "verify")
    assert f"{count} events are in" in server.command("audit", "export", str(tmp_path / "events.jsonl"))
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == count
    with server.store.transaction() as connection:
        connection.execute(text("UPDATE events SET actor = 'x' WHERE seq = 2"))
    with pytest.raises(IntegrityError, match=r"not what it was \(1 events are intact\)"):
        server.command("audit", "verify")
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["eve"])
    for arguments in (["keys", "list"], ["audit", "show"], ["keys", "revoke", "root", "--reason", "x"]):
        with pytest.raises(ForbiddenError):
            server.command(*arguments)


def test_a_subscription_whose_key_belongs_to_nobody_is_refused_by_oidc_sub(server: Server) -> None:
    with server.client("admin") as client, pytest.raises((ConfigurationError, DataError), match="oidc_issuer"):
        client.keys.create("x", ["predict"], oidc_sub="24828")


def test_who_acts_is_the_person_of_the_key_with_the_roles_it_has(server: Server) -> None:
    secret_of(server)
    event = read_events(server.store)[-1]
    root = next(key for key in active_keys(server.store).values() if key.name == "root")
    assert (event.actor, event.actor_id, event.roles) == ("root", root.person, ("admin",))
    assert Actor("root", ("admin",), id=root.person) == root.actor(None)


def test_a_key_made_over_http_ends_when_it_said(server: Server) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=1)
    secret = secret_of(server, expires_at=soon.isoformat())
    assert active_keys(server.store)[hash_of(secret)].expires_at == soon


def test_a_key_of_one_use_case_measures_the_gates_of_no_other(
    untouched: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["versions", "measure", "flights@2", "--reason", "why"]
    for who, error, sentence in (
        ("foreign", ForbiddenError, "foreign carries none of the roles"),
        ("auditor", ForbiddenError, "auditor carries none of the roles"),
        ("ann", ConflictError, "By which rules"),  # she may, and the version's rules are not on record
    ):
        monkeypatch.setenv("MLOPS_RAY_API_KEY", untouched.keys[who])
        with pytest.raises(error, match=sentence):
            untouched.command(*arguments, local=True)


def test_commands_without_a_server_change_the_subscriptions_of_their_keys_use_case(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = "https://example.org/x"
    ids = {
        name: server(name, "/subscriptions/create", {"channel": hook, "use_case": case}).json()["subscription"]["id"]
        for name, case in (("foreign", "trains"), ("ann", "flights"))
    }
    monkeypatch.setenv("MLOPS_RAY_API_KEY", server.keys["foreign"])
    for what in ("pause", "resume", "unsubscribe"):
        with pytest.raises(ForbiddenError, match="role operate or admin on flights"):
            server.command("notify", what, ids["ann"], local=True)
        assert ids["foreign"] in server.command("notify", what, ids["foreign"], local=True)
