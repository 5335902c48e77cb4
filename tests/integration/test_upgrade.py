"""An upgrade of the control store, on SQLite and PostgreSQL: all or nothing, once, and the release before goes on."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from mlops_ray.config import Settings, load_settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.champion import set_champion
from mlops_ray.governance.control_store import ControlStore, open_store
from mlops_ray.governance.events import SYSTEM, read_events, record
from mlops_ray.governance.keys import create_key
from mlops_ray.governance.leases import hold
from mlops_ray.governance.live import live
from mlops_ray.governance.replicas import Replica, heard, report, schemas_alive
from mlops_ray.governance.schema import UPGRADED, bring_up_to_date, migrations
from mlops_ray.governance.tables import SCHEMA_REVISION
from mlops_ray.governance.versions import Evidence, VersionRef, list_versions, record_version
from mlops_ray.operations.upgrade import upgrade
from tests.integration import upgrade_processes as processes
from tests.integration.test_control_store import CONTEXT, run_together, running
from tests.integration.upgrade_processes import ROOT
from tests.older_store import store_of_schema

PREVIOUS = Path(__file__).parents[1] / "previous_release"
PACKAGE = Path(open_store.__code__.co_filename).parents[1]


@pytest.fixture
def settings(url: str, tmp_path: Path) -> Settings:
    return load_settings(state=str(tmp_path / "state"), data=str(tmp_path), control_store=url)


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(PREVIOUS / "governance.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "mlops_ray" / "__init__.py").touch()
    return folder


class PreviousRelease:
    """A process that runs its code."""

    def __init__(self, package: Path, settings: Settings):
        given = settings.model_dump_json(exclude_defaults=True)  # without settings that it does not know
        command = [sys.executable, str(PREVIOUS / "work.py"), given]
        environment = os.environ | {"PYTHONPATH": str(package)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, bufsize=1
        )

    def __call__(self, what: str, use_case: str = "all") -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{what} {use_case}\n")
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def old(previous: Path, settings: Settings) -> Iterator[PreviousRelease]:
    process = PreviousRelease(previous, settings)
    yield process
    process.close()


def test_the_previous_release_reads_and_writes_on_while_and_after_the_store_is_upgraded(
    old: PreviousRelease, settings: Settings
) -> None:
    before = old("work", "before")
    for _ in range(6):  # as often as makes psycopg prepare its statements
        assert old("look", "before").items() <= before.items()
    with pytest.raises(ConfigurationError, match=f"has schema {before['schema']}, and this software needs"):
        open_store(settings)
    with ThreadPoolExecutor(1) as thread:
        speaking = thread.submit(lambda: [old("say", "before") for _ in range(200)])
        done = upgrade(settings, lambda _: ROOT)
        speaking.result()
    assert (done.before, done.usable_from) == (before["schema"], before["schema"])
    store = open_store(settings)

    # What this release writes is read and verified by that one.
    ref = VersionRef(7, "7" * 64)
    record_version(store, ROOT, "new", 7, Evidence(ref.digest, "e" * 64))
    set_champion(store, ROOT, "new", ref, "first")
    create_key(store, ROOT, "new key", ["predict"])
    report(store, "new", Replica("replica of new", "node", 1, (ref,)))
    seen = old("look", "new")
    assert (seen["champion"], seen["versions"], seen["replicas"]) == (7, [7], ["replica of new"])
    assert seen["events"] == [event.hash for event in read_events(store, use_case="new")]

    # And the other way round.
    after = old("work", "after")
    assert {name: after[name] for name in ("champion", "previous", "versions")} == {
        name: before[name] for name in ("champion", "previous", "versions")
    }
    state = live(store, "after")
    assert (state.champion and state.champion.version) == after["champion"]
    assert [one.version for one in list_versions(store, "after") if one.retired_at is None] == after["versions"]
    assert [replica.id for replica in heard(store, "after").alive] == ["replica of after"]
    assert schemas_alive(store)["new", SCHEMA_REVISION] == schemas_alive(store)["after", ""] == 1
    assert after["lease"]
    assert hold(store, "after", "another", timedelta(hours=1)) > timedelta(minutes=50)
    found = verify_store(store, settings)
    assert (found.ok, found.problem) == (True, None)
    store.close()


def test_a_kill_at_any_statement_has_changed_nothing(url: str, settings: Settings) -> None:
    first = store_of_schema(url, "0005")
    with first.transaction() as connection:  # as that release wrote it
        connection.exec_driver_sql(
            "INSERT INTO principals (id, name, roles, use_cases, key_hash, created_at, development) "
            "VALUES ('1', 'ann', '[\"admin\"]', '[\"all\"]', 'h', '2030-01-01 00:00:00+00:00', false)"
        )
    first.close()
    ours, theirs = CONTEXT.Pipe()
    at = 0
    while not ours.poll():
        at += 1
        with running(processes.upgrade_and_die, settings, at, theirs) as process:
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -9
        assert first.schema().revision == "0005"
        if first.is_file:
            with first.reading() as connection:
                columns = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(principals)")]
            assert "person" not in columns
    assert at == ours.recv() + 1 > 15
    store = open_store(settings)
    (made,) = read_events(store)
    assert (made.type, made.before, made.after) == (
        UPGRADED,
        {"schema": "0005"},
        {"schema": SCHEMA_REVISION, "usable_from": "0005"},
    )
    if store.is_file:
        kept = sorted(str(path) for path in (store.file.parent / "backups").iterdir())
        assert kept[-1] == made.payload["backup"]
        assert not [path for path in kept if Path(path).name.startswith(".")], "no part of a copy"
    store.close()


def test_eight_processes_can_upgrade_at_once_and_one_does_it(url: str, settings: Settings) -> None:
    store_of_schema(url, "0006").close()
    run_together(8, processes.upgrade_at_once, lambda _: (ControlStore(url), settings))
    store = open_store(settings)
    assert [event.type for event in read_events(store)] == [UPGRADED]
    store.close()


def test_an_upgrade_that_waits_for_a_reader_holds_up_nobody_else(url: str, settings: Settings) -> None:
    reader = store_of_schema(url, "0010")  # what comes next adds to the table that is read
    with ThreadPoolExecutor(1) as thread:
        with reader.reading() as connection:
            connection.exec_driver_sql("SELECT * FROM replicas").all()
            upgrading = thread.submit(upgrade, settings, lambda _: ROOT)
            if reader.is_file:
                upgrading.result()  # nobody waits for who reads a file
            for _ in range(3):
                time.sleep(0.4)
                began = time.monotonic()
                with ControlStore(url).transaction() as writing:
                    record(writing, "gate.passed", SYSTEM, "meanwhile")
                assert time.monotonic() - began < 2
            assert reader.is_file or not upgrading.done()
        upgrading.result()
    reader.close()
    store = open_store(settings)
    assert {event.type for event in read_events(store)} == {UPGRADED, "gate.passed"}
    store.close()


def a_release_after(folder: Path, module: str) -> Path:
    """This package with one more migration."""
    shutil.copytree(PACKAGE, folder / "mlops_ray", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mlops_ray/governance/migrations/versions/v0999_next.py").write_text(
        f'"""The next one."""\n\nimport sqlalchemy as sa\nfrom alembic import op\n\nrevision = "0999"\n'
        f'down_revision = "{SCHEMA_REVISION}"\n{module}'
    )
    tables = folder / "mlops_ray/governance/tables.py"
    tables.write_text(tables.read_text().replace(f'SCHEMA_REVISION = "{SCHEMA_REVISION}"', 'SCHEMA_REVISION = "0999"'))
    return folder


def upgraded_by(package: Path, settings: Settings) -> str:
    program = (
        "import sys; from mlops_ray.config import Settings; from mlops_ray.operations.upgrade import upgrade\n"
        "from mlops_ray.governance.events import Actor\n"
        "print(upgrade(Settings.model_validate_json(sys.argv[1]), lambda _: Actor('root', ('admin',), id='r')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, settings.model_dump_json()],
        capture_output=True, text=True, cwd=package,
        env=os.environ | {"PYTHONPATH": str(package)},
    )  # fmt: skip
    return done.stdout + done.stderr


def test_this_release_starts_reads_and_writes_on_the_schema_of_the_next(settings: Settings, tmp_path: Path) -> None:
    open_store(settings).close()
    more = "def upgrade():\n    op.add_column('versions', sa.Column('mood', sa.Text, nullable=True))\n"
    said = upgraded_by(a_release_after(tmp_path / "next", more), settings)
    assert f"Upgraded(before='{SCHEMA_REVISION}', usable_from='{SCHEMA_REVISION}'" in said, said
    store = open_store(settings)
    assert store.schema().standing() == "newer"
    record_version(store, ROOT, "flights", 1, Evidence("1" * 64, "e" * 64))
    assert [one.version for one in list_versions(store, "flights")] == [1]
    assert verify_store(store, settings).ok
    store.close()


def test_a_schema_that_lacks_what_this_release_needs_is_refused_by_it(settings: Settings, tmp_path: Path) -> None:
    open_store(settings).close()
    less = "usable_from = '0999'\ndef upgrade():\n    op.drop_column('versions', 'author')\n"
    said = upgraded_by(a_release_after(tmp_path / "next", less), settings)
    assert "usable_from='0999'" in said, said
    with pytest.raises(ConfigurationError, match=r"has schema 0999, which needs software of schema 0999 or newer, and"):
        open_store(settings)


def test_replicas_of_a_release_that_the_new_schema_does_not_serve_hinder_it(settings: Settings, tmp_path: Path) -> None:
    store = open_store(settings)
    report(store, "flights", Replica("r", "node", 1))
    less = "usable_from = '0999'\ndef upgrade():\n    op.drop_column('versions', 'author')\n"
    package = a_release_after(tmp_path / "next", less)
    said = upgraded_by(package, settings)
    assert (
        f"Nothing was upgraded. 1 of flights run the software of schema {SCHEMA_REVISION}, and the upgraded schema "
        f"serves none before 0999." in said
    )
    open_store(settings).close()


# What older software still needs is there after a migration: tables and columns are added, never taken away, renamed or
# given other rules; what is added may be left out by who does not know it.
_HARMLESS = re.compile(
    r"CREATE TABLE (?P<made>\w+) |CREATE (?P<unique>UNIQUE )?INDEX \w+ ON (?P<on>\w+) |DROP INDEX \w+$"
    r"|ALTER TABLE (?P<table>\w+) ADD COLUMN (?P<column>.+)|INSERT INTO (?P<into>\w+) |UPDATE \w+ SET |SELECT |PRAGMA "
)


def problem_of(statement: str, made: set[str]) -> str | None:
    """What a statement of a migration does to older software, or None. made: tables that it made itself."""
    text = " ".join(statement.replace('"', "").split())
    found = _HARMLESS.match(text)
    if found is None:
        return "it takes away or changes something"
    if found["made"]:
        made.add(found["made"])
    if found["unique"] and found["on"] not in made:
        return "older software does not know that values are unique there"
    if found["column"] and found["table"] not in made:
        column = found["column"].upper()
        if "NOT NULL" in column and "DEFAULT" not in column:
            return "older software gives no value for that column"
        if "UNIQUE" in column or "REFERENCES" in column or "CHECK" in column:
            return "older software does not know that rule"
    return None


def test_a_migration_only_adds_unless_it_says_which_software_it_serves(url: str) -> None:
    store = ControlStore(url)
    store.prepare_folder()
    said: list[str] = []
    with store.migrating() as connection:
        bring_up_to_date(connection, "0001")
    for one in migrations()[1:]:
        made, statements = set[str](), list[str]()
        with store.migrating() as connection:
            note = statements.append

            def before(_connection: Any, _cursor: Any, statement: str, *_: Any, note: Any = note) -> None:
                note(statement)

            event.listen(connection, "before_cursor_execute", before)
            bring_up_to_date(connection, one.revision)
        found = [problem_of(statement, made) for statement in statements if "alembic_version" not in statement]
        assert len(statements) > len(found), "the migration is seen"
        if one.usable_from is None:
            said += [f"{one.revision}: {why}: {s}" for why, s in zip(found, statements, strict=False) if why]
        else:
            assert one.usable_from < one.revision, "the release before may not need what is taken away"
    store.close()
    assert said == []


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("ALTER TABLE versions ADD COLUMN x TEXT NOT NULL", "no value"),
        ("ALTER TABLE versions DROP COLUMN author", "takes away"),
        ("ALTER TABLE versions ALTER COLUMN author SET NOT NULL", "takes away"),
        ("ALTER TABLE versions RENAME author TO by", "takes away"),
        ("DROP TABLE versions", "takes away"),
        ("DELETE FROM versions", "takes away"),
        ("CREATE UNIQUE INDEX x ON versions (author)", "unique"),
        ("ALTER TABLE versions ADD COLUMN x TEXT REFERENCES y (z)", "rule"),
        ("ALTER TABLE versions ADD COLUMN x TEXT DEFAULT '' NOT NULL", None),
        ("\nCREATE TABLE y (\n\tx TEXT NOT NULL\n)\n\n", None),
    ],
)
def test_what_would_stop_older_software_is_seen(statement: str, why: str | None) -> None:
    found = problem_of(statement, set())
    assert (found is None) == (why is None)
    assert why is None or why in str(found)


def test_the_release_before_is_the_one_whose_code_is_kept(previous: Path) -> None:
    found = re.search(r'SCHEMA_REVISION = "(\d{4})"', (previous / "mlops_ray/governance/tables.py").read_text())
    assert found is not None
    assert found[1] < SCHEMA_REVISION
