"""The roles that the docs make on PostgreSQL: who serves can add events, and neither change nor remove one."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from mlops_ray.config import Settings
from mlops_ray.governance.anchors import anchor
from mlops_ray.governance.audit import verify_store
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.erasures import erase_person
from mlops_ray.governance.events import Actor, read_events
from mlops_ray.governance.tables import metadata
from tests.anchoring import anchored_in
from tests.audit_history import end_delegations, make_history

DOCS = Path(__file__).parents[2] / "docs/audit.md"
ROOT = Actor("root", ("admin",), id="person-root")


@pytest.fixture
def owner(server: str) -> Iterator[str]:
    """A database with the newest tables, whose owner has run what the docs say."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE mlops_ray")
    url = server.rpartition("/")[0] + "/mlops_ray"
    store = ControlStore(url)
    store.migrate()
    store.close()
    (statements,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statements)
    yield url
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP DATABASE mlops_ray WITH (FORCE)")
        for role in ("mlops_ray_app", "mlops_ray_erasure", "mlops_ray_auditor"):
            connection.execute(f"DROP ROLE {role}")


def as_role(owner: str, role: str) -> ControlStore:
    return ControlStore(re.sub(r"//[^@]+@", f"//{role}:none@", owner), wait_s=5)


@pytest.fixture
def app(owner: str) -> Iterator[ControlStore]:
    store = as_role(owner, "mlops_ray_app")
    yield store
    store.close()


def refused(store: ControlStore, statement: str) -> bool:
    try:
        with store.transaction() as connection:
            connection.execute(text(statement))
    except ProgrammingError as error:
        return isinstance(error.orig, InsufficientPrivilege)
    return False


def test_who_serves_can_do_all_of_its_work_and_change_no_event(app: ControlStore, owner: str, tmp_path: Path) -> None:
    settings = anchored_in(tmp_path / "anchors.jsonl").model_copy(
        update={"audit_second_place": str(tmp_path / "second")}
    )
    app.migrate()  # finds nothing to do
    make_history(app, 3, steps=60)
    anchor(app, settings)
    assert len(read_events(app)) > 20
    assert verify_store(app, settings).problem is None
    for table in ("events", "anchors"):
        for statement in (f"UPDATE {table} SET hash = 'x'", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE"):
            assert refused(app, statement), statement
    for column in ("reason", "payload", "salt", "previous_hash"):
        assert refused(app, f"UPDATE events SET {column} = '{{}}'"), column
    for statement in (
        "ALTER TABLE events DISABLE TRIGGER ALL", "DROP TABLE events CASCADE", "CREATE TABLE beside (a int)",
        "ALTER TABLE events ADD COLUMN a int", "SET ROLE mlops_ray_erasure", "DELETE FROM principals",
        "UPDATE alembic_version SET version_num = '0001'",
    ):  # fmt: skip
        assert refused(app, statement), statement
    assert verify_store(app, settings).problem is None


def test_every_table_has_its_rights() -> None:
    """A new table needs a line in the docs, or who serves cannot use it."""
    (statements,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert set(re.findall(r"\w+", statements)) >= set(metadata.tables)


def test_erasing_takes_a_role_that_can_change_texts_and_no_hash(app: ControlStore, owner: str, tmp_path: Path) -> None:
    settings = anchored_in(tmp_path / "anchors.jsonl")
    make_history(app, 3, steps=60)
    end_delegations(app, ROOT)
    with pytest.raises(ProgrammingError, match="permission denied for table events"):
        erase_person(app, ROOT, "carl", "request 17")
    eraser = as_role(owner, "mlops_ray_erasure")
    done = erase_person(eraser, ROOT, "carl", "request 17")
    assert done.texts > 0
    assert verify_store(app, settings).problem is None
    for column in ("hash", "previous_hash", "seq", "id", "time", "type", "severity", "roles", "use_case"):
        assert refused(eraser, f"UPDATE events SET {column} = {column}"), column
    assert refused(eraser, "DELETE FROM events")
    assert refused(eraser, "TRUNCATE events CASCADE")
    eraser.close()


def test_an_auditor_reads_and_verifies_and_changes_nothing(app: ControlStore, owner: str, tmp_path: Path) -> None:
    make_history(app, 3, steps=60)
    auditor = as_role(owner, "mlops_ray_auditor")
    settings = Settings(state=str(tmp_path), data=str(tmp_path))
    found = verify_store(auditor, settings)
    assert (found.problem, found.checked) == (None, len(read_events(app)))
    for statement in (
        "DELETE FROM outbox",
        "INSERT INTO leases VALUES ('a', 'b', now())",
        "UPDATE event_head SET seq = 1",
    ):
        assert refused(auditor, statement), statement
    auditor.close()
