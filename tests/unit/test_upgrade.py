"""Who finds another schema than it needs says so and changes nothing; the upgrade looks first, and asks who does it."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mlops_ray.artifacts import Artifacts
from mlops_ray.cli.main import app
from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError, ForbiddenError
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.dispatcher import Dispatcher
from mlops_ray.governance.events import Actor, read_events, record
from mlops_ray.governance.keys import hash_of
from mlops_ray.governance.schema import SUBJECT, UPGRADED, Schema, Standing, migrations
from mlops_ray.governance.tables import SCHEMA_REVISION
from mlops_ray.monitoring.watch_state import Commits, WatchState
from mlops_ray.operations.outlook import look
from mlops_ray.operations.upgrade import upgrade
from tests.older_store import store_of_schema

OLD = "0007"
ROOT = Actor("root", ("admin",))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("MLOPS_RAY_API_KEY", raising=False)
    return load_settings(state=str(tmp_path / "state"), data=str(tmp_path))


@pytest.fixture
def old(settings: Settings) -> ControlStore:
    """A store as an older release left it, with an administrator's key, "secret"."""
    store = store_of_schema(settings.control_store, OLD)
    with store.transaction() as connection:
        connection.exec_driver_sql(
            "INSERT INTO principals (id, name, roles, use_cases, key_hash, created_at, development, person) "
            f"VALUES ('1', 'ann', '[\"admin\"]', '[\"all\"]', '{hash_of('secret')}', '2030-01-01 00:00:00', 0, '1')"
        )
    store.close()
    return store


def command(settings: Settings, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--state", settings.state], catch_exceptions=False)
    return done.stdout


@pytest.mark.parametrize(
    ("found", "usable_from", "standing"),
    [
        (None, None, "empty"),
        ("0013", None, "older"),
        ("0014", None, "current"),
        ("0015", "0014", "newer"),
        ("0016", "0013", "newer"),
        ("0016", "0015", "too new"),
        ("0015", None, "too new"),
        ("1bd49d398cd23", None, "foreign"),
    ],
)
def test_what_a_schema_is_to_software_of_schema_14(
    found: str | None, usable_from: str | None, standing: Standing
) -> None:
    assert Schema(found, usable_from).standing("0014") == standing


def test_an_empty_database_is_set_up_by_whoever_comes_first(settings: Settings) -> None:
    store = open_store(settings)
    assert store.schema() == Schema(SCHEMA_REVISION)
    assert read_events(store) == []
    store.close()


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "list"],
        ["keys", "create", "eve", "--role", "predict"],
        ["audit", "verify"],
        ["audit", "anchor"],
        ["versions", "list", "flights"],
        ["inventory"],
        ["notify", "run"],
        ["alarms", "list", "flights"],
        ["ledger", "erase", "flights", "--hash", "x"],
        ["lineage", "flights@1"],
    ],
    ids=" ".join,
)
def test_every_other_command_refuses_an_older_schema_and_changes_nothing(
    old: ControlStore, settings: Settings, arguments: list[str]
) -> None:
    before = old.file.read_bytes()
    with pytest.raises(ConfigurationError, match=rf"has schema {OLD}, and this software needs .*`mlops-ray upgrade`"):
        command(settings, *arguments)
    assert old.file.read_bytes() == before


def test_a_newer_schema_that_says_nothing_of_this_software_is_refused_by_upgrade_too(settings: Settings) -> None:
    store = open_store(settings)
    with store.transaction() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9998'")
    for attempt in (lambda: open_store(settings), lambda: upgrade(settings, lambda _: ROOT)):
        with pytest.raises(ConfigurationError, match="has schema 9998, and this software is older: its schema is"):
            attempt()
    assert "too old for it" in command(settings, "upgrade", "--check")
    store.close()


@pytest.fixture
def newer(settings: Settings) -> ControlStore:
    """A store that the next release upgraded, and whose events this one cannot check."""
    store = open_store(settings)
    with store.transaction() as connection:
        after = {"schema": "9998", "usable_from": SCHEMA_REVISION}
        record(connection, UPGRADED, ROOT, SUBJECT, before={"schema": SCHEMA_REVISION}, after=after)
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9998'")
        connection.exec_driver_sql("UPDATE events SET hash = 'of more than this release knows'")
    return store


def test_the_release_before_works_with_a_newer_schema_and_leaves_its_audit_log_to_the_newer_release(
    newer: ControlStore, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(settings)
    assert "has schema 9998, and this software is the release before" in caplog.text
    Dispatcher(store, settings, lambda *_: None).round(datetime.now(UTC))
    assert "audit.failed" not in {event.type for event in read_events(store)}
    with pytest.raises(ConfigurationError, match="upgraded to the next release"):
        command(settings, "audit", "verify")
    assert "Nothing to do: the control store has schema 9998" in command(settings, "upgrade")
    assert "this software is the release before" in command(settings, "upgrade", "--check")
    for one in (store, newer):
        one.close()


def test_schemas_are_numbered_in_their_order_by_which_they_are_compared() -> None:
    numbers = [one.revision for one in migrations()]
    assert numbers == sorted(numbers)
    assert numbers[-1] == SCHEMA_REVISION


def test_the_only_user_of_an_embedded_set_up_can_upgrade(old: ControlStore, settings: Settings) -> None:
    change(old, "DELETE FROM principals")
    assert f"to {SCHEMA_REVISION}" in command(settings, "upgrade")
    store = open_store(settings)
    (made,) = read_events(store)
    assert (made.actor, made.payload["os_user"] != "") == ("development", True)
    store.close()


def test_the_database_of_another_program_is_left_alone(settings: Settings) -> None:
    Path(settings.state).mkdir()
    file = f"{settings.state}/control_store.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('1bd49d398cd23')")
        connection.commit()
    for attempt in (lambda: open_store(settings), lambda: upgrade(settings, lambda _: ROOT)):
        with pytest.raises(ConfigurationError, match=r"belongs to another program.*'1bd49d398cd23'"):
            attempt()


def test_a_check_says_what_would_be_done_and_does_nothing(old: ControlStore, settings: Settings) -> None:
    before = old.file.read_bytes()
    said = command(settings, "upgrade", "--check")
    for part in (
        f"has schema {OLD}, and this software needs {SCHEMA_REVISION}",
        "0012  How predictions of a use case are watched",
        "audit log: 0 events are intact",
        "MB left (needed: 200)",
        "replicas: None answers",
        "backups first. \nmodels: `mlops-ray versions preflight`".partition(" \n")[0],
        f"Afterwards software of schema {OLD} or newer can use it.",
    ):
        assert part in said
    assert old.file.read_bytes() == before
    assert not (old.file.parent / "backups").exists()


def test_before_the_first_use_there_is_nothing_to_upgrade(settings: Settings) -> None:
    assert "no control store" in command(settings, "upgrade", "--check")
    assert not Path(settings.state).exists()
    assert "was empty" in command(settings, "upgrade")
    assert "Nothing to do" in command(settings, "upgrade")
    assert "which this software needs" in command(settings, "upgrade", "--check")


def test_an_upgrade_is_an_event_by_whose_key_it_was_done_with(
    old: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in (None, "wrong"):
        if key:
            monkeypatch.setenv("MLOPS_RAY_API_KEY", key)
        with pytest.raises(ForbiddenError, match="MLOPS_RAY_API_KEY"):
            command(settings, "upgrade")
        assert old.schema().revision == OLD
    monkeypatch.setenv("MLOPS_RAY_API_KEY", "secret")
    said = command(settings, "upgrade")
    assert f"brought from schema {OLD} to {SCHEMA_REVISION}" in said
    store = open_store(settings)
    (made,) = read_events(store)
    assert (made.type, made.actor, made.actor_id, made.before) == (UPGRADED, "ann", "1", {"schema": OLD})
    assert made.after == {"schema": SCHEMA_REVISION, "usable_from": OLD}
    assert made.payload["backup"] in said
    store.close()


def test_the_copy_of_an_sqlite_file_is_what_it_was_and_for_its_owner_alone(
    old: ControlStore, settings: Settings
) -> None:
    done = upgrade(settings, lambda _: ROOT)
    assert done.backup is not None
    assert done.backup.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(done.backup)) as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchone() == (OLD,)
        assert copy.execute("SELECT name FROM principals").fetchall() == [("ann",)]
    restored = ControlStore(f"sqlite:///{done.backup}")
    assert restored.schema().standing() == "older"
    restored.close()


def change(old: ControlStore, statement: str) -> None:
    with old.transaction() as connection:
        connection.exec_driver_sql(statement)


def edit_an_event(old: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = "seq, id, time, type, severity, actor, roles, subject, reason, payload, previous_hash, hash"
    values = f"1, 'i', '2030-01-01 00:00:00', 't', 'info', 'a', '[]', 's', '', '{{}}', '{'0' * 64}', 'edited'"
    change(old, f"INSERT INTO events ({columns}) VALUES ({values})")


def fill_the_disk(old: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops_ray.operations.outlook.LEAST_FREE_MB", 1 << 40)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (edit_an_event, "Event 1 (i) was changed"),
        (lambda old, *_: change(old, "UPDATE event_head SET seq = 3"), "The chain ends at event 0"),
        (fill_the_disk, "MB left (needed: 1,099,511,627,776)"),
    ],
    ids=["an event was edited", "the chain was cut", "no room"],
)
def test_what_stands_in_the_way_is_said_and_nothing_is_upgraded(
    old: ControlStore,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[ControlStore, Settings, pytest.MonkeyPatch], None],
    why: str,
) -> None:
    damage(old, settings, monkeypatch)
    (hindrance,) = look(settings, old).hindrances
    assert why in hindrance.said
    for arguments in (["upgrade"], ["upgrade", "--check"]):
        with pytest.raises(ConfigurationError, match=r"Nothing (was|would be) upgraded\. "):
            command(settings, *arguments)
    assert old.schema().revision == OLD


def test_a_store_whose_audit_log_was_damaged_is_upgraded_only_with_a_reason_which_stays(
    old: ControlStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(old, "UPDATE event_head SET seq = 3")
    monkeypatch.setenv("MLOPS_RAY_API_KEY", "secret")
    with pytest.raises(ConfigurationError, match="--despite-audit with the reason"):
        command(settings, "upgrade", "--despite-audit", " ")
    command(settings, "upgrade", "--despite-audit", "cut by a restore on Monday, known to the auditor")
    store = open_store(settings)
    (made,) = read_events(store)
    assert (made.type, made.reason) == (UPGRADED, "cut by a restore on Monday, known to the auditor")
    store.close()


def test_state_of_other_formats_is_named(old: ControlStore, settings: Settings) -> None:
    change(old, "INSERT INTO endpoints (use_case, revision, stands_since) VALUES ('flights', 1, 0)")
    Path(settings.mlflow_uri.removeprefix("sqlite:///")).parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(settings.mlflow_uri.removeprefix("sqlite:///"))) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
        connection.commit()
    Commits(Artifacts(settings.artifacts), "flights").write(WatchState(newest=datetime.now(UTC)))
    said = {one.what: one.said for one in look(settings, old).findings}
    assert "schema 0123456789ab, and the MLflow installed here needs" in said["MLflow"]
    assert "monitoring" not in said
    import mlops_ray.monitoring.watch_state as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FORMAT", 99)
        said = {one.what: one.said for one in look(settings, old).findings}
    assert "format 3; this code reads 2 and 99." in said["monitoring"]
    assert "Until its state is deleted (monitoring/flights/state" in said["monitoring"]


def test_replicas_of_two_releases_report_to_one_place(settings: Settings) -> None:
    """On SQLite it is a file of its own, to which columns are added by who misses them."""
    store = open_store(settings)
    file = Path(settings.state) / "control_store-reports-0007.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE replicas (id TEXT PRIMARY KEY, use_case TEXT NOT NULL)")
        connection.commit()
    with store.reporting(write=False) as connection:
        found = {row[1] for row in connection.exec_driver_sql("PRAGMA table_info(replicas)")}
    assert {"id", "use_case", "schema_revision", "left_at"} <= found
    store.close()


def test_the_audit_log_of_an_upgraded_store_is_intact(old: ControlStore, settings: Settings) -> None:
    change(old, "DELETE FROM principals")
    upgrade(settings, lambda _: ROOT)
    store = open_store(settings)
    assert verify_store(store, settings).problem is None
    store.close()
    assert os.stat(store.file).st_mode & 0o777 == 0o600
