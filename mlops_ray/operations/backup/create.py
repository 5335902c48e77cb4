"""Create: one backup of everything that is not made again by itself, whole or not at all."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.code_version import framework_version
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError
from mlops_ray.governance.control_store import ControlStore, database_now
from mlops_ray.governance.copied_rows import StoreState
from mlops_ray.governance.events import Actor, read_events, record
from mlops_ray.governance.installation import installation_of
from mlops_ray.governance.leases import holding
from mlops_ray.operations.backup.content import Content
from mlops_ray.operations.backup.copying import ERASES, Copied, Copying
from mlops_ray.operations.backup.databases import SETTINGS, copied_databases
from mlops_ray.operations.backup.ledger_position import ledger_position
from mlops_ray.operations.backup.manifest import Item, Manifest, digest_of
from mlops_ray.operations.backup.moved_paths import Move
from mlops_ray.operations.backup.place import Place, shown
from mlops_ray.operations.own_databases import expect_own_databases

LEASE = "backup"
CREATED = "backup.created"
_TRIES = 3
_KEYS = (
    "Secrets: API keys (their hashes are in it), ledger_secret_file, signing keys, the settings file, channels and "
    "secrets of subscriptions that are no references. Keep them where secrets are kept."
)
_LABELS = "Labels that nodes have not moved yet: those of the last 10 s."

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Created:
    """copied, copied_bytes: what no backup in the place had yet. is_new: False for one that was there, and is what was
    due."""

    id: str
    manifest: Manifest
    copied: int
    copied_bytes: int
    is_new: bool = True


def create(
    settings: Settings,
    actor: Actor,
    place: Place,
    data: bool = True,
    take_over: bool = False,
    due: datetime | None = None,
) -> Created:
    """Copy the point that is now, and record it. Killed at any moment, there is no backup, and what runs is unharmed.

    data: False to keep of the artifacts only manifests, the ledger and what is pushed, and of the others digests: they
    must then be where they are now when the backup is restored. take_over: True to go on with the place of another
    installation, which is refused there from then on: of the one that this was restored from. due: by a schedule, of
    which each use case may have one: another backup is waited for, and is what was due if it began no earlier.
    Raises ConfigurationError if the place lies in what is backed up or is another installation's, two stores share a
    database, or a secret would enter, ConflictError if another backup is being made, UnavailableError if a store or the
    place does not answer.
    """
    expect_apart(settings, place)
    expect_own_databases(settings)
    store = ControlStore(settings.control_store)
    expect_store(store)
    try:
        installation = installation_of(store)
        with holding(store, LEASE, waits=due is not None):
            with store.reading() as connection:
                moment = database_now(connection)
            if take_over and installation:
                place.take_over(installation)
            place.expect_owner(installation)
            if due and (found := _made_since(due, moment, settings, place)):
                return found
            with place.making(moment) as finish:
                content = Content(place.files)
                manifest = _manifest(settings, store, moment, _copying(settings, place, content, data))
                if lost := next((one for one in manifest.items if one.here and not content.has(one)), None):
                    raise UnavailableError(f"{shown(place.root)}: the content of {lost.path} vanished. Run it again.")
                place.expect_owner(installation)  # who took it over meanwhile may have deleted what is in no manifest
                id = finish(manifest, settings)
        if store.schema().standing() == "current":
            _record(store, actor, place, id, manifest)
        _logger.info("Backup %s: %d files, %d new", id, len(manifest.items), content.copied)
        return Created(id, manifest, content.copied, content.copied_bytes)
    except OSError as error:
        raise UnavailableError(f"The backup to {shown(place.root)} failed, and is none: {error}") from error
    finally:
        store.close()


def _made_since(due: datetime, now: datetime, settings: Settings, place: Place) -> Created | None:
    """The newest backup, if it began within this time: one from before the clock was set back did not."""
    if not place.points():
        return None
    id = place.resolve("latest")
    try:
        manifest = place.manifest(id, settings)
    except (ConfigurationError, IntegrityError) as error:
        _logger.warning("A new one is made: %s", error)
        return None
    made = datetime.fromisoformat(manifest.made_at)
    return Created(id, manifest, 0, 0, is_new=False) if due <= made <= now else None


def expect_apart(settings: Settings, place: Place) -> None:
    """Raise ConfigurationError if a loss of what is backed up would take the backups along, or a secret would enter."""
    for name in ("state", "artifacts"):
        within = _whereabouts(getattr(settings, name))
        if _whereabouts(place.root)[: len(within)] == within:
            raise ConfigurationError(
                f"The backups would lie in {getattr(settings, name)} (setting {name!r}), and be lost with it. Give "
                f"another place, on another disk."
            )
    if shown(settings.artifacts) != settings.artifacts:
        raise ConfigurationError(
            f"Setting 'artifacts' ({shown(settings.artifacts)}) holds a password, which MLflow and Feast have in their "
            f"databases, and so would the backup. Give it as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead."
        )


def _whereabouts(place: str) -> tuple[str, ...]:
    """Where a place is, part by part, however it is written: links followed, without options and credentials."""
    parts = urlsplit(place)
    if parts.scheme in ("", "file"):
        return ("", *Path(os.path.realpath(locate(place)[1])).parts)
    scheme, bucket = {"gcs": "gs"}.get(parts.scheme, parts.scheme), parts.netloc.rpartition("@")[2]
    return (scheme, bucket, *filter(None, unquote(parts.path).split("/")))


def expect_store(store: ControlStore) -> None:
    """Raise ConfigurationError if there is no file of the control store yet, which who connects would make."""
    if store.is_file and not store.file.exists():
        raise ConfigurationError(f"There is no control store at {store.file}: nothing to back up. Is --state right?")


def _copying(settings: Settings, place: Place, content: Content, data: bool) -> Copying:
    known, since_ns = dict[str, Item](), 0
    if points := place.points():
        try:
            earlier = place.manifest(points[-1], settings)
            if Move(earlier.roots["artifacts"], settings.artifacts).is_none:
                known = {one.path: one for one in earlier.items}
                since_ns = int(datetime.fromisoformat(earlier.made_at).timestamp() * 1e9)
        except (ConfigurationError, IntegrityError) as error:
            _logger.warning("All files are read anew: %s", error)
    return Copying(settings, content, known, since_ns, data)


def _manifest(settings: Settings, store: ControlStore, moment: datetime, copying: Copying) -> Manifest:
    for _ in range(_TRIES):
        predictions, on_nodes = _ledger(settings, store)
        copied = copying.copy(store)
        if not _erased_since(store, copied.state):
            return _told(settings, moment, copied, predictions, on_nodes)
    raise UnavailableError(f"Data were erased or retired each of {_TRIES} times that they were copied. Run it again.")


def _ledger(settings: Settings, store: ControlStore) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Asked before the ledger is copied: what is moved meanwhile is in it, too."""
    use_cases = [entry.name for entry in Artifacts(settings.artifacts).entries("ledger")]
    if store.schema().standing() != "current":
        return {}, ("What nodes have not moved to the ledger: not known, as the control store's schema is older.",)
    found = {name: ledger_position(settings, store, name) for name in use_cases}
    left = [
        f"Predictions of {name} on node {node}: those acknowledged since {since.isoformat(timespec='seconds')}, which "
        f"it has not moved to the ledger yet (it does after {settings.ledger_rotate_s:g} s)."
        for name, position in found.items()
        for node, since in position.on_nodes.items()
    ]
    return {name: position.until.isoformat() for name, position in found.items()}, tuple(left)


def _erased_since(store: ControlStore, state: StoreState) -> bool:
    if store.head() == state.events or store.schema().standing() != "current":
        return False
    return bool(read_events(store, state.events, types=ERASES, limit=1))


def _told(
    settings: Settings, moment: datetime, copied: Copied, predictions: Mapping[str, str], on_nodes: tuple[str, ...]
) -> Manifest:
    elsewhere = tuple(
        f"The database of setting {name!r} at {shown(getattr(settings, name))}: "
        + ("materialize again." if name == "online_store" else "back it up where it is, after this one.")
        for name in SETTINGS
        if name not in copied_databases(settings)
    )
    return Manifest(
        made_at=moment.isoformat(),
        release=framework_version(),
        schema=copied.state.schema,
        events=copied.state.events,
        last_hash=copied.state.last_hash,
        roots={"state": settings.state, "artifacts": settings.artifacts},
        databases=copied.databases,
        predictions=predictions,
        not_in_it=(*on_nodes, _LABELS, *elsewhere, _KEYS),
        items=copied.items,
    )


def _record(store: ControlStore, actor: Actor, place: Place, id: str, manifest: Manifest) -> None:
    payload = {
        "place": shown(place.root),
        "manifest_sha256": digest_of(manifest.to_bytes()),
        "files": len(manifest.items),
        "bytes": sum(one.bytes for one in manifest.items),
        "events": manifest.events,
    }
    with store.transaction() as connection:
        record(connection, CREATED, actor, f"backup {id}", payload=payload)
