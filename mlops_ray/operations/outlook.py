"""Outlook: what an upgrade of the control store would do, and what stands in its way. Nothing is changed by looking."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from mlops_ray.config import Settings
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.older_schema import use_cases_served, verify_chain
from mlops_ray.governance.replicas import schemas_alive
from mlops_ray.governance.schema import Migration, Standing, migrations, usable_from
from mlops_ray.governance.tables import SCHEMA_REVISION
from mlops_ray.operations.formats import of_drift_watches, of_mlflow
from mlops_ray.state_folder import LEAST_FREE_MB

BACKUPS = "backups"
AUDIT = "audit log"
_SAID_NOTHING_UP_TO = "0013"  # replicas, of the schema that their software was made for


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what was found. hinders: while it is so, nothing is upgraded."""

    what: str
    said: str
    hinders: bool = False


@dataclass(frozen=True)
class Outlook:
    """found: the schema that the control store has, None for an empty database. migrations: what would be done to it.
    usable_from: the oldest software that may use it afterwards, by its schema."""

    found: str | None
    standing: Standing
    migrations: tuple[Migration, ...] = ()
    usable_from: str = SCHEMA_REVISION
    findings: tuple[Finding, ...] = ()

    @property
    def hindrances(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.hinders]


def look(settings: Settings, store: ControlStore) -> Outlook:
    """What an upgrade of `store`, the control store of `settings`, would do."""
    schema = store.schema()
    standing = schema.standing()
    if standing in ("empty", "foreign", "too new") or schema.revision is None:
        return Outlook(schema.revision, standing)
    found = schema.revision
    names = use_cases_served(store)
    beside = (*of_mlflow(settings), *of_drift_watches(settings, names), _MODELS)
    others = tuple(Finding(what, said) for what, said in beside)
    if standing != "older":
        return Outlook(found, standing, findings=others)
    todo = tuple(one for one in migrations() if one.revision > found)
    oldest = usable_from(found)
    looked = (_audit(store, settings), *_room(store), *_replicas(store, found, oldest))
    return Outlook(found, standing, todo, oldest, (*looked, *others))


_MODELS = (
    "models",
    "`mlops-ray versions preflight`, run with this software after the upgrade and before replicas get it, loads what "
    "is live and replays its golden requests.",
)


def _audit(store: ControlStore, settings: Settings) -> Finding:
    found = verify_chain(store, settings.audit_anchors)
    if found.ok:
        return Finding(AUDIT, f"{found.checked:,} events are intact.")
    said = (
        f"{found.problem} ({found.checked:,} events before it are intact.) Find out why, and restore a backup, or give"
    )
    return Finding(AUDIT, f"{said} --despite-audit with the reason why the store is upgraded as it is.", hinders=True)


def _room(store: ControlStore) -> Iterator[Finding]:
    if not store.is_file:
        said = "PostgreSQL is not copied here: make a backup before (pg_dump, or a snapshot)."
        yield Finding("backup", said)
        return
    needed_mb = LEAST_FREE_MB + (3 * store.file.stat().st_size >> 20)  # the copy, and what SQLite writes twice
    free_mb = shutil.disk_usage(store.file.parent).free >> 20
    said = f"The disk of {store.file} has {free_mb:,} MB left (needed: {needed_mb:,})."
    yield Finding("room", said + (" Make room." if free_mb < needed_mb else ""), hinders=free_mb < needed_mb)
    yield Finding("backup", f"The file is copied to {store.file.parent / BACKUPS} first.")


def _replicas(store: ControlStore, found: str, oldest: str) -> Iterator[Finding]:
    alive = schemas_alive(store)
    if not alive:
        yield Finding("replicas", "None answers.")
    for (use_case, said), number in sorted(alive.items()):
        schema = said or min(found, _SAID_NOTHING_UP_TO)
        told = f"{number} of {use_case} run the software of schema {schema}"
        if schema < oldest:
            why = f"{told}, and the upgraded schema serves none before {oldest}. Give them a release of that first."
            yield Finding("replicas", why, hinders=True)
        else:
            yield Finding("replicas", f"{told}. They go on, and can be replaced afterwards.")
