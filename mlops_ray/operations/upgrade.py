"""Upgrade: bring the control store to the schema of this software, after a look at what stands in the way."""

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlops_ray.artifacts import partial_name
from mlops_ray.code_version import framework_version
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError
from mlops_ray.governance.control_store import ControlStore, StoreInTransaction
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.notifications import end_without_channel
from mlops_ray.governance.schema import SUBJECT, UPGRADED, bring_up_to_date, expect_usable, find_schema, usable_from
from mlops_ray.governance.tables import SCHEMA_REVISION
from mlops_ray.operations.outlook import AUDIT, BACKUPS, look
from mlops_ray.state_folder import claim


@dataclass(frozen=True)
class Upgraded:
    """before: the schema that the control store had, None for an empty database; `SCHEMA_REVISION` if nothing was to be
    done. usable_from: the oldest software that may use it, by its schema. backup: the SQLite file as it was."""

    before: str | None
    usable_from: str = SCHEMA_REVISION
    backup: Path | None = None


def upgrade(settings: Settings, actor_of: Callable[[ControlStore], Actor], despite_audit: str = "") -> Upgraded:
    """Bring the control store of `settings` to this software's schema, and record it: all of it or nothing.

    Any number of processes may do so at once: one does it, the others find it done. One that is killed has done
    nothing. An SQLite file is copied before it is changed. actor_of: who does it, by the keys in the store as it is
    after its migrations; what it raises takes them back. despite_audit: why it is upgraded although the audit log is
    not what it was, which goes into the event.
    Raises ConfigurationError if something stands in the way (see `outlook.look`) or the schema is newer than this
    software can use, UnavailableError if the store is down, or in use for so long that there is no gap.
    """
    claim(settings)
    store = ControlStore(settings.control_store)
    try:
        store.prepare_folder()
        seen = look(settings, store)
        if seen.standing == "empty":
            store.prepare()
            return Upgraded(None)
        if seen.standing != "older":
            schema = store.schema()
            expect_usable(schema, str(store))
            return Upgraded(schema.revision)
        if hindrances := [one for one in seen.hindrances if not (despite_audit.strip() and one.what == AUDIT)]:
            raise ConfigurationError("Nothing was upgraded. " + " ".join(one.said for one in hindrances))
        with store.migrating() as connection:
            schema = find_schema(connection)
            if schema.standing() != "older" or schema.revision is None:
                expect_usable(schema, str(store))
                return Upgraded(schema.revision)
            bring_up_to_date(connection)
            inside = StoreInTransaction(store, connection)
            actor = actor_of(inside)
            end_without_channel(inside, actor)  # of a backup of the older schema, which could not record it
            backup = _back_up(store.file, schema.revision) if store.is_file else None
            oldest = usable_from(schema.revision)
            record(
                connection,
                UPGRADED,
                actor,
                SUBJECT,
                before={"schema": schema.revision},
                after={"schema": SCHEMA_REVISION, "usable_from": oldest},
                payload={"release": framework_version(), "backup": str(backup or "")},
                reason=despite_audit,
            )
        return Upgraded(schema.revision, oldest, backup)
    finally:
        store.close()


def _back_up(file: Path, revision: str) -> Path:
    """Copy the database, as it is for those who read while its schema changes, and make sure that the copy is whole.

    Only one process does so at a time: whose copy is partial was killed.
    """
    folder = file.parent / BACKUPS
    folder.mkdir(mode=0o700, exist_ok=True)
    for left in folder.glob(f".{file.stem}-*"):
        left.unlink()
    name = f"{file.stem}-{revision}-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.db"
    partial = folder / partial_name(name)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(partial)) as copy:
        source.backup(copy)
        (found,) = copy.execute("PRAGMA integrity_check").fetchone()
        (copied,) = copy.execute("SELECT version_num FROM alembic_version").fetchone()
    if (found, copied) != ("ok", revision):
        raise IntegrityError(f"The copy of {file} is damaged: {found}. Nothing was upgraded; see to the disk first.")
    partial.replace(folder / name)
    return folder / name
