"""Keys let in whom they should, leave a trace of every change, and never show their secret again."""

import os
import pwd
import stat
import time
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from mlops_ray.cli.main import app
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, ForbiddenError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.development_keys import acting, development_approver_key, development_key, is_single_user
from mlops_ray.governance.events import SYSTEM, Actor, read_events
from mlops_ray.governance.keys import active_keys, create_key, hash_of, list_keys, revoke_key, rotate_key
from mlops_ray.governance.migrations.versions.v0007_persons import down_revision
from mlops_ray.governance.principals import ALL_USE_CASES, ROLES, Principal
from mlops_ray.governance.tables import principals
from tests.older_store import store_of_schema

ADA = Actor("ada", ("admin",))
NOW = datetime(2030, 1, 1, tzinfo=UTC)
SOON = timedelta(hours=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(state=str(tmp_path), data=str(tmp_path))


def test_a_key_may_what_its_role_says_and_nothing_else() -> None:
    caller = Principal("1", "caller", ("predict",))
    assert [role for role in ROLES if caller.may(role, "flights", NOW)] == ["predict"]
    admin = Principal("1", "admin", ("admin",))
    assert all(admin.may(role, "flights", NOW) and admin.may(role, None, NOW) for role in ROLES)


def test_a_key_of_one_use_case_may_nothing_on_another_nor_on_the_platform() -> None:
    admin = Principal("1", "admin", ("admin",), ("flights",))
    assert admin.may("operate", "flights", NOW)
    assert not admin.may("operate", "trains", NOW)
    assert not admin.may("admin", None, NOW)


def test_an_expired_key_may_nothing() -> None:
    admin = Principal("1", "admin", ("admin",), expires_at=NOW)
    assert admin.may("predict", "flights", NOW - SOON)
    assert not any(admin.may(role, "flights", NOW) for role in ROLES)


def test_a_secret_finds_its_principal_until_it_is_revoked(store: ControlStore) -> None:
    made = create_key(store, ADA, "ci", ["operate", "predict"], ["flights"], datetime.now(UTC) + SOON, 5.0)
    assert made.secret.startswith("mlr_")
    assert len(made.secret) == 47
    assert active_keys(store) == {hash_of(made.secret): made.principal}
    assert made.principal.roles == ("predict", "operate")
    revoke_key(store, ADA, "ci", "left the team")
    assert active_keys(store) == {}
    (listed,) = list_keys(store)
    assert listed.principal == made.principal
    assert listed.revoked_at is not None


def test_the_secret_is_nowhere_but_in_the_answer(store: ControlStore) -> None:
    made = create_key(store, ADA, "ci", ["predict"])
    assert made.secret not in repr(made)
    events = read_events(store)
    store.close()
    database = Path(store.url.removeprefix("sqlite:///"))
    stored = b"".join(file.read_bytes() for file in database.parent.glob("control_store.db*"))
    assert made.secret.encode() not in stored
    assert made.secret not in str(events)


def test_every_change_is_an_event_that_says_who_and_why(store: ControlStore) -> None:
    made = create_key(store, ADA, "ci", ["predict"])
    revoke_key(store, Actor("ben", ("admin",), "root"), made.principal.id, "leaked")
    created, revoked = read_events(store)
    assert (created.type, created.actor, created.subject, created.before) == ("key.created", "ada", "key ci", None)
    assert (revoked.type, revoked.actor, revoked.reason, revoked.payload) == (
        "key.revoked",
        "ben",
        "leaked",
        {"os_user": "root"},
    )
    assert revoked.before["revoked_at"] is None
    assert revoked.after["revoked_at"] is not None


def test_a_name_can_be_given_again_after_its_key_was_revoked(store: ControlStore) -> None:
    create_key(store, ADA, "ci", ["predict"])
    with pytest.raises(ConfigurationError, match="'ci' exists already"):
        create_key(store, ADA, "ci", ["predict"])
    revoke_key(store, ADA, "ci", "")
    second = create_key(store, ADA, "ci", ["predict"])
    assert revoke_key(store, ADA, "ci", "").id == second.principal.id


def test_revoking_twice_or_what_does_not_exist_is_refused(store: ControlStore) -> None:
    create_key(store, ADA, "nightly", ["predict"])
    with pytest.raises(ConfigurationError, match=r"no key 'nihgtly'\. Did you mean 'nightly'"):
        revoke_key(store, ADA, "nihgtly", "")
    revoke_key(store, ADA, "nightly", "")
    with pytest.raises(ConfigurationError, match=r"'nightly' was revoked at .* already"):
        revoke_key(store, ADA, "nightly", "")
    assert [event.type for event in read_events(store)] == ["key.created", "key.revoked"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": ""}, "1 to 200 characters"),
        ({"name": " ci"}, "space at either end"),
        ({"name": "x" * 10_000}, "1 to 200 characters"),
        ({"name": "a\x1b[31m"}, "cannot be printed"),
        ({"name": "a\0"}, "cannot be printed"),
        ({"name": "a\ud800"}, "cannot be printed"),
        ({"name": "../etc"}, "'..'"),
        ({"name": "file:///etc"}, "'/'"),
        ({"name": "system"}, "platform's own"),
        ({"name": "development"}, "platform's own"),
        ({"roles": ["root"]}, "Role 'root' is unknown. Roles: predict, label"),
        ({"roles": []}, "needs a role"),
        ({"use_cases": ["a/../b"]}, "no name for a use case"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "in the past"),
        ({"expires_at": datetime(2040, 1, 1)}, "no time zone"),
        ({"requests_per_s": 0.0}, "one a day"),
        ({"requests_per_s": 5e-324}, "one a day"),
        ({"requests_per_s": float("nan")}, "one a day"),
        ({"requests_per_s": float("inf")}, "one a day"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    store: ControlStore, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        create_key(store, ADA, **{"name": "ci", "roles": ["predict"]} | wrong)
    assert list_keys(store) == []
    assert read_events(store) == []


def test_the_development_key_is_made_once_and_only_its_user_can_read_it(
    store: ControlStore, settings: Settings
) -> None:
    secret = development_key(store, settings)
    assert development_key(store, settings) == secret
    file = Path(settings.state) / "development_key"
    assert file.read_text() == f"{secret}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (principal,) = active_keys(store).values()
    assert principal.development
    assert principal.roles == ("admin",)


@pytest.mark.parametrize("loss", ["file gone", "file damaged", "key revoked"])
def test_a_lost_development_key_is_replaced_and_the_old_one_ends(
    store: ControlStore, settings: Settings, loss: str
) -> None:
    first, file = development_key(store, settings), Path(settings.state) / "development_key"
    if loss == "file gone":
        file.unlink()
    elif loss == "file damaged":
        file.write_bytes(b"\xff\xfe")
    else:
        revoke_key(store, ADA, "development", "test")
    second = development_key(store, settings)
    assert second != first
    assert set(active_keys(store)) == {hash_of(second)}


def test_there_is_no_development_key_where_others_can_reach_the_server(store: ControlStore, tmp_path: Path) -> None:
    public = load_settings(state=str(tmp_path), data=str(tmp_path), http_host="0.0.0.0")
    with pytest.raises(ConfigurationError, match=r"no development key on http_host '0\.0\.0\.0'"):
        development_key(store, public)
    assert list_keys(store) == []


def test_the_command_line_makes_lists_and_revokes_keys(store: ControlStore, tmp_path: Path) -> None:
    def command(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["keys", *arguments, "--state", str(tmp_path)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    secret = command("create", "ci", "--role", "predict", "--role", "label", "--use-case", "flights").strip()
    assert active_keys(store)[hash_of(secret)].use_cases == ("flights",)
    assert "ci  predict,label  flights  active" in command("list")
    command("revoke", "ci", "--reason", "done")
    assert "revoked" in command("list")
    created, revoked = read_events(store)
    assert created.actor == "development"
    assert created.payload["os_user"]
    assert revoked.reason == "done"


def test_a_key_for_every_use_case_says_so_and_one_for_none_is_not_made(store: ControlStore) -> None:
    assert create_key(store, ADA, "ci", ["predict"]).principal.use_cases == (ALL_USE_CASES,)
    with pytest.raises(ConfigurationError, match="needs a use case, or 'all'"):
        create_key(store, ADA, "none", ["predict"], [])
    assert not Principal("1", "token", ROLES, ()).may("predict", "flights", NOW)
    assert not Principal("1", "token", ROLES, ()).may("admin", None, NOW)


def test_a_development_key_is_nobody_where_others_reach_the_server(store: ControlStore, settings: Settings) -> None:
    secret = development_key(store, settings)
    assert acting(store, settings, secret).name == "development"
    with pytest.raises(ForbiddenError, match="not known"):
        acting(store, settings.model_copy(update={"http_host": "0.0.0.0"}), secret)


def test_development_principals_end_for_good_with_the_first_real_key(store: ControlStore, settings: Settings) -> None:
    secrets = development_key(store, settings), development_approver_key(store, settings)
    assert is_single_user(store, settings)
    assert not is_single_user(store, settings.model_copy(update={"http_host": "0.0.0.0"}))
    made = create_key(store, ADA, "ci", ["predict"])
    (ended,) = read_events(store, types=["development.ended"])
    assert (ended.before, ended.after) == (["development", "development_approver"], [])
    revoke_key(store, ADA, made.principal.name, "left")
    assert not is_single_user(store, settings)
    assert active_keys(store) == {}
    assert acting(store, settings, None) == SYSTEM
    for secret in secrets:
        with pytest.raises(ForbiddenError, match="not known"):
            acting(store, settings, secret)
    for make in (development_key, development_approver_key):
        with pytest.raises(ConfigurationError, match="ended with the first key"):
            make(store, settings)
    create_key(store, ADA, "ci", ["predict"])
    assert len(read_events(store, types=["development.ended"])) == 1


def test_development_keys_of_an_older_store_do_not_count_beside_a_real_one(
    store: ControlStore, settings: Settings
) -> None:
    create_key(store, ADA, "ci", ["predict"])
    create_key(store, ADA, "development_approver", ["approve"], development=True)  # as could be made once
    assert [principal.name for principal in active_keys(store).values()] == ["ci"]


def test_the_keys_of_a_person_are_one_person_also_after_they_were_revoked_or_renamed(
    store: ControlStore, settings: Settings
) -> None:
    first = create_key(store, ADA, "ann", ["operate"]).principal
    assert first.person == first.id
    revoke_key(store, ADA, "ann", "lost")
    again = create_key(store, ADA, "ann", ["operate"])
    renamed = create_key(store, ADA, "ann-at-night", ["approve"], person="ann")
    other = create_key(store, ADA, "bob", ["approve"])
    ids = [acting(store, settings, made.secret).id for made in (again, renamed, other)]
    assert ids == [first.id, first.id, other.principal.id]
    assert read_events(store, types=["key.created"])[2].after["person"] == first.id
    with pytest.raises(ConfigurationError, match="no person 'nobody'"):
        create_key(store, ADA, "x", ["approve"], person="nobody")


@pytest.mark.parametrize("written", ["Zoe\u0308", "zo\u00eb", "ZO\u00cb"])
def test_a_name_is_one_persons_however_its_letters_are_written(store: ControlStore, written: str) -> None:
    first = create_key(store, ADA, "Zo\u00eb", ["operate"]).principal
    with pytest.raises(ConfigurationError, match="exists already"):
        create_key(store, ADA, written, ["approve"])
    assert create_key(store, ADA, "night", ["approve"], person=written).principal.person == first.person
    revoke_key(store, ADA, "Zoe\u0308", "lost")
    again = create_key(store, ADA, written, ["approve"]).principal
    assert (again.person, unicodedata.is_normalized("NFC", again.name)) == (first.person, True)


@pytest.mark.parametrize("name", ["system", "System", "DEVELOPMENT", "\uff53ystem"])
def test_no_key_is_called_as_the_platform_however_it_is_written(store: ControlStore, name: str) -> None:
    with pytest.raises(ConfigurationError, match="the platform's own"):
        create_key(store, ADA, name, ["approve"])


def test_a_key_that_has_expired_is_not_replaced(store: ControlStore) -> None:
    create_key(store, ADA, "ci", ["predict"], expires_at=datetime.now(UTC) + timedelta(seconds=0.2))
    time.sleep(0.3)
    with pytest.raises(ConfigurationError, match=r"expired at .* Revoke it"):
        rotate_key(store, ADA, "ci", datetime.now(UTC) + SOON, "yearly")


def test_a_key_is_replaced_with_overlap(store: ControlStore, settings: Settings) -> None:
    old = create_key(store, ADA, "ci", ["operate", "label"], ["flights"], None, 5.0)
    until = datetime.now(UTC) + SOON
    new = rotate_key(store, ADA, "ci", until, "yearly")
    active = active_keys(store)
    assert active[hash_of(old.secret)].expires_at == until
    assert replace(new.principal, id=old.principal.id) == old.principal
    assert acting(store, settings, old.secret) == acting(store, settings, new.secret)
    ended, made = read_events(store)[1:]
    assert (ended.type, ended.after["revoked_at"], made.type) == ("key.revoked", until.isoformat(), "key.created")
    revoke_key(store, ADA, "ci", "")
    with pytest.raises(ConfigurationError, match="of another person counts still"):
        create_key(store, ADA, "ci", ["operate"], person="https://login.example.org|ann")
    revoke_key(store, ADA, old.principal.id, "leaked")  # before its end
    assert active_keys(store) == {}
    for wrong, why in ((datetime.now(UTC) - SOON, "in the past"), (datetime(2040, 1, 1), "no time zone")):
        with pytest.raises(ConfigurationError, match=why):
            rotate_key(store, ADA, "ci", wrong, "")


def test_a_role_counts_on_its_use_case_alone_also_where_no_server_asks(store: ControlStore, settings: Settings) -> None:
    secret = create_key(store, ADA, "ci", ["operate"], ["flights"]).secret
    roles = [acting(store, settings, secret, use_case).roles for use_case in ("flights", "trains", None)]
    assert roles == [("operate",), (), ()]


def test_the_keys_of_an_older_store_belong_to_persons_by_their_names(tmp_path: Path) -> None:
    store = ControlStore(f"sqlite:///{tmp_path}/new.db")
    store.migrate()
    for _ in range(2):
        create_key(store, ADA, "ann", ["predict"])
        revoke_key(store, ADA, "ann", "")
    create_key(store, ADA, "bob", ["predict"])
    create_key(store, ADA, "development", ["admin"], development=True)
    expected = [key.principal.person for key in list_keys(store)]
    with store.reading() as connection:
        rows = [dict(row) for row in connection.execute(select(principals)).mappings()]
    old = store_of_schema(f"sqlite:///{tmp_path}/old.db", down_revision)
    with old.transaction() as connection:
        columns = [column for column in principals.columns.keys() if column != "person"]  # noqa: SIM118
        connection.execute(principals.insert(), [{name: row[name] for name in columns} for row in rows])
    old.migrate()
    assert [key.principal.person for key in list_keys(old)] == expected
    old.close()
    store.close()


def test_every_command_acts_as_whose_key_it_has_and_an_account_is_not_believed(
    store: ControlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(secret: str | None, *arguments: str) -> str:
        monkeypatch.delenv("MLOPS_RAY_API_KEY", raising=False)
        if secret:
            monkeypatch.setenv("MLOPS_RAY_API_KEY", secret)
        run = CliRunner().invoke(app, [*arguments, "--state", str(tmp_path)], catch_exceptions=False)
        return run.stdout.strip()

    monkeypatch.setenv("LOGNAME", "ceo")
    monkeypatch.setenv("USER", "ceo")
    root = command(None, "keys", "create", "root", "--role", "admin")
    first = read_events(store)[-1]
    assert (first.actor, first.payload) == ("development", {"os_user": pwd.getpwuid(os.getuid()).pw_name})
    eve = command(root, "keys", "create", "eve", "--role", "predict")
    auditor = command(root, "keys", "create", "auditor", "--role", "audit")
    assert read_events(store)[-1].actor_id == active_keys(store)[hash_of(root)].person
    command(root, "notify", "subscribe", "https://example.org")
    assert read_events(store)[-1].actor == "root"
    before = len(read_events(store))
    for secret in (None, eve, auditor):
        for arguments in (
            ["keys", "create", "mallory", "--role", "admin"],
            ["keys", "revoke", "root", "--reason", "x"],
            ["keys", "rotate", "root", "--until", "2040-01-01T00:00:00Z", "--reason", "x"],
            ["notify", "subscribe", "https://example.org"],
            ["notify", "unsubscribe", "x"],
        ):
            with pytest.raises(ForbiddenError, match="needs a key with the role"):
                command(secret, *arguments)
    for arguments in (["audit", "show"], ["audit", "verify"], ["keys", "list"]):
        assert command(auditor, *arguments) == command(None, *arguments) != ""
        with pytest.raises(ForbiddenError, match="role audit or admin"):
            command(eve, *arguments)
    assert len(read_events(store)) == before
    replaced = command(root, "keys", "rotate", "root", "--until", "2040-01-01T00:00:00Z", "--reason", "yearly")
    assert "replaced, until 2040-01-01" in command(replaced, "keys", "list")
    command(replaced, "keys", "revoke", "root", "--reason", "left")
    command(root, "keys", "revoke", active_keys(store)[hash_of(root)].id, "--reason", "left")
    command(None, "keys", "create", "root", "--role", "admin")  # where nobody is an administrator any more
    last = read_events(store)[-1]
    assert (last.actor, last.payload["os_user"]) == ("system", pwd.getpwuid(os.getuid()).pw_name)
