"""The schema of the control store: which one a database has, which software may use it, how it is brought up to date.

Software and database are brought up to date one after the other, so for a while they differ. A release works with its
own schema, and with a newer one that says so (`usable_from`): the upgrade that leaves a schema behind lets the software
that used it go on. See docs/production.md for what a migration may do therefore.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Select, Table, inspect, null, select, text

from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.tables import SCHEMA_REVISION, events

SUBJECT = "control store"
UPGRADED = "schema.upgraded"
_MIGRATIONS = Path(__file__).parent / "migrations"
_OURS = re.compile(r"\d{4}")

_logger = logging.getLogger(__name__)

Standing = Literal["empty", "foreign", "older", "current", "newer", "too new"]


@dataclass(frozen=True)
class Schema:
    """What a database has. revision: of the last migration, None for an empty database. usable_from: the oldest
    software, by the schema that it was made for, that may use it; None where nothing is said of older software."""

    revision: str | None
    usable_from: str | None = None

    def standing(self, needed: str = SCHEMA_REVISION) -> Standing:
        """What it is to software that was made for `needed`. "newer" can be used, "too new" cannot."""
        if self.revision is None:
            return "empty"
        if not _OURS.fullmatch(self.revision):
            return "foreign"
        if self.revision <= needed:
            return "current" if self.revision == needed else "older"
        return "newer" if self.usable_from is not None and self.usable_from <= needed else "too new"


@dataclass(frozen=True)
class Migration:
    """One step from a schema to the next. usable_from: given where it takes away what older software needs."""

    revision: str
    what: str
    usable_from: str | None = None


def find_schema(connection: Connection) -> Schema:
    """What the database says of its schema, whichever it is."""
    if not inspect(connection).has_table("alembic_version"):
        return Schema(None)
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if revision is None or revision <= SCHEMA_REVISION or not _OURS.fullmatch(revision):
        return Schema(revision)
    told = select(events.c.after).where(events.c.subject == SUBJECT, events.c.type == UPGRADED)
    last: Any = connection.execute(told.order_by(events.c.seq.desc()).limit(1)).scalar()
    upgraded = isinstance(last, dict) and last.get("schema") == revision
    return Schema(revision, last["usable_from"] if upgraded else None)


def expect_usable(schema: Schema, place: str) -> None:
    """Raise ConfigurationError unless this software may use the database at `place`, saying who has to do what."""
    standing, needed = schema.standing(), SCHEMA_REVISION
    if standing == "older":
        raise ConfigurationError(
            f"The control store {place} has schema {schema.revision}, and this software needs {needed}. Nothing was "
            f"changed. `mlops-ray upgrade --check` says what an upgrade would do, and `mlops-ray upgrade` does it; "
            f"what runs with the release before goes on meanwhile."
        )
    if standing == "too new":
        since = f", which needs software of schema {schema.usable_from} or newer" if schema.usable_from else ""
        raise ConfigurationError(
            f"The control store {place} has schema {schema.revision}{since}, and this software is older: its schema is "
            f"{needed}. Nothing was changed. Install the release that made it, or a newer one."
        )
    if standing == "foreign":
        raise ConfigurationError(
            f"The database {place} belongs to another program: its alembic_version is {schema.revision!r}, which is no "
            f"schema of a control store. Give the control store a database of its own (setting 'control_store')."
        )
    if standing == "newer":
        _logger.warning(
            "The control store %s has schema %s, and this software is the release before (schema %s). It goes on; "
            "replace it soon.", place, schema.revision, needed,
        )  # fmt: skip


def bring_up_to_date(connection: Connection, to: str = "head") -> None:
    """Run the migrations that the database lacks, in the transaction that the connection is in; those up to `to`."""
    from alembic import command  # 0.6 s, which only the process that migrates has to spend
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, to)


@cache
def migrations() -> Sequence[Migration]:
    """All migrations, the oldest first."""
    from alembic.script import ScriptDirectory

    scripts = reversed(list(ScriptDirectory(str(_MIGRATIONS)).walk_revisions()))
    return tuple(
        Migration(one.revision, one.doc.rstrip("."), getattr(one.module, "usable_from", None)) for one in scripts
    )


def newest_of(folder: Path) -> str | None:
    """The revision to which the migrations in a folder lead, of whichever program they are."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(folder)).get_current_head()


def usable_from(before: str) -> str:
    """The oldest software that may use the database once it was brought up to date from the schema `before`: the one
    that used it until now, unless a migration takes away what that needs."""
    return max([before, *(one.usable_from for one in migrations() if one.usable_from is not None)])


def as_far_as_there(connection: Connection, table: Table) -> Select[Any]:
    """The rows of a table of an older schema: null in the columns that it does not have yet."""
    there = {column["name"] for column in inspect(connection).get_columns(table.name)}
    return select(*(column if column.name in there else null().label(column.name) for column in table.columns))
