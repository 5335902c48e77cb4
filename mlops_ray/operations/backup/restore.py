"""Restore: a backup put into an empty place, after all of it was looked at; nothing is written before."""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.copied_rows import expect_empty, fill
from mlops_ray.governance.events import SYSTEM, record
from mlops_ray.governance.installation import RESTORED
from mlops_ray.governance.notifications import end_without_channel
from mlops_ray.governance.schema import migrations
from mlops_ray.governance.tables import SCHEMA_REVISION, event_head, events, metadata
from mlops_ray.operations.backup.content import Content, digest_file, expect_whole
from mlops_ray.operations.backup.copying import ANCHORS, ARTIFACTS, ROWS
from mlops_ray.operations.backup.databases import SETTINGS, expect_no_database, kind_of, put_database
from mlops_ray.operations.backup.listing import walk
from mlops_ray.operations.backup.manifest import Item, Manifest
from mlops_ray.operations.backup.moved_paths import Move, move_database
from mlops_ray.operations.backup.place import Place, shown
from mlops_ray.operations.backup.step_records import FOLDER as RECORDS
from mlops_ray.operations.backup.step_records import put_records
from mlops_ray.operations.backup.verify import problems
from mlops_ray.operations.own_databases import expect_own_databases
from mlops_ray.state_folder import FILE, HALF_RESTORED, is_claimed

_AT_ONCE = 8
_ROWS_OF = re.compile(rf"{ROWS}/(?P<number>\d{{6}})-(?P<table>\w+)-\d{{6}}\.jsonl")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """subscriptions: ids of those that were ended, as their channels were not in the backup. upgrade: whether the
    control store has an older schema than this software needs."""

    id: str
    manifest: Manifest
    subscriptions: tuple[str, ...]
    upgrade: bool


def restore(settings: Settings, place: Place, id: str, data_from: str = "") -> Restored:
    """Put the backup into the empty place that `settings` describe, and record it there.

    data_from: the artifact root from which files are taken of which the backup has only digests; default: where they
    were. Raises IntegrityError if anything of the backup was changed or is missing, ConfigurationError if the place is
    not empty, or of another kind, or the backup is of a newer release; then nothing was written. Whoever is killed in
    it leaves a state folder that no command takes: empty it, and begin again.
    """
    id = place.resolve(id)
    manifest = place.manifest(id, settings)
    source = Artifacts(data_from or manifest.roots["artifacts"])
    _expect_known(manifest, id)
    try:
        _expect_place(settings, manifest)
        _expect_all(place, manifest, id, source)
    except OSError as error:
        raise UnavailableError(
            f"What the restore of {id} needs cannot be read: {error}. Nothing was written. Have it made readable for "
            f"you, or give another place."
        ) from error
    content = Content(place.files)
    try:
        _half_done(settings)
        _put_artifacts(settings, manifest, content, source)
        _put_step_records(settings, manifest, content)
        _put_databases(settings, manifest, content)
        ended = _put_control_store(settings, manifest, content, id)
        (Path(settings.state) / FILE).write_text(json.dumps({"state": settings.state}))
    except OSError as error:
        raise UnavailableError(
            f"The restore of {id} did not finish: {error}. Empty the place and repeat it."
        ) from error
    return Restored(id, manifest, ended, manifest.schema < SCHEMA_REVISION)


def _expect_known(manifest: Manifest, id: str) -> None:
    if manifest.schema not in {one.revision for one in migrations()}:
        raise ConfigurationError(
            f"Backup {id} was made by release {manifest.release} with schema {manifest.schema}, and this software "
            f"knows {SCHEMA_REVISION}. Restore it with that release or a newer one. Nothing was written."
        )
    if flaw := next(_flaws(manifest), None):
        raise IntegrityError(
            f"Backup {id} is none that was written here: {flaw}. Nothing was written. Use another backup, and find out "
            f"who can write there."
        )


def _flaws(manifest: Manifest) -> Iterator[str]:
    """What of a manifest no backup has: whoever can write to the place can make one."""
    paths = [one.path for one in manifest.items]
    yield from (f"it names {path} twice" for path, number in Counter(paths).items() if number > 1)
    folders = {str(folder) for path in paths for folder in PurePosixPath(path).parents}
    yield from (f"{path} is a file and a folder in it" for path in folders.intersection(paths))
    for name, kind in manifest.databases.items():
        if name not in SETTINGS or kind not in ("sqlite", "postgresql"):
            yield f"it has a database {name!r} of {kind!r}"
        elif name not in paths:
            yield f"the copy of {name!r} is missing"
    for item in manifest.items:
        if item.path.startswith(f"{ARTIFACTS}/"):
            continue
        if not item.here:
            yield f"of {item.path} it has only the digest"
        if item.path not in (ANCHORS, *manifest.databases) and not item.path.startswith(f"{ROWS}/"):
            yield f"there is nothing that belongs in {item.path}"
    yield from _flaws_of_rows(manifest)


def _flaws_of_rows(manifest: Manifest) -> Iterator[str]:
    numbers, tables = [], set()
    for item in manifest.below(ROWS):
        if (named := _ROWS_OF.fullmatch(item.path)) is None or named["table"] not in metadata.tables:
            yield f"{item.path} is no file of rows"
            return
        numbers.append(int(named["number"]))
        tables.add(named["table"])
    needed = {event_head.name, *([events.name] if manifest.events else [])}
    if numbers != list(range(len(numbers))) or not needed <= tables:
        yield "rows of the control store are missing"


def _expect_place(settings: Settings, manifest: Manifest) -> None:
    expect_own_databases(settings)
    for name, kind in manifest.databases.items():
        if kind_of(getattr(settings, name)) != kind:
            raise ConfigurationError(
                f"Setting {name!r} is {shown(getattr(settings, name))}, and the backup has a database of {kind}. Give "
                f"one of that kind. Nothing was written."
            )
    for folder in (settings.state, settings.artifacts):
        there = [path for path, _, _ in walk(folder)]
        if folder == settings.state and is_claimed(settings):
            there.remove(FILE)
        if there:
            raise ConfigurationError(
                f"{folder} is not empty (it has {there[0]}). Restore into an empty place. Nothing was written."
            )
    for name in SETTINGS:
        if kind_of(getattr(settings, name)) == "sqlite" or name in manifest.databases:
            expect_no_database(name, getattr(settings, name))
    if Path(settings.audit_anchors).exists():
        raise ConfigurationError(f"{settings.audit_anchors} exists. Restore into an empty place. Nothing was written.")
    store = ControlStore(settings.control_store)
    if not store.is_file:
        with store.reading() as connection:
            expect_empty(connection, str(store))
        store.close()
    elif store.file.exists():
        raise ConfigurationError(f"{store.file} exists. Restore into an empty place. Nothing was written.")


def _expect_all(place: Place, manifest: Manifest, id: str, source: Artifacts) -> None:
    found = [one.said for one in problems(Content(place.files), manifest)]
    found += [said for one in manifest.items if not one.here and (said := _problem_of_reference(one, source))]
    if found:
        raise IntegrityError(
            f"Backup {id} is not what was written: {found[0]}"
            + (f" So are {len(found) - 1} other files." if len(found) > 1 else "")
            + " Nothing was written. Use another backup, and find out who can write there."
        )


def _problem_of_reference(item: Item, source: Artifacts) -> str | None:
    try:
        found = digest_file(item.path, _url(source, item))
    except (FileNotFoundError, NotADirectoryError):
        return f"{item.path}: the backup has its digest only, and it is not below {shown(source.root)}."
    return None if found.sha256 == item.sha256 else f"{item.path}: below {shown(source.root)} is another file."


def _half_done(settings: Settings) -> None:
    """No command uses the folder while this stands in it."""
    folder = Path(settings.state)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps({"state": HALF_RESTORED}))


def _put_artifacts(settings: Settings, manifest: Manifest, content: Content, source: Artifacts) -> None:
    artifacts = Artifacts(settings.artifacts)

    def put(item: Item) -> None:
        chunks = content.chunks(item) if item.here else elsewhere(item)
        whole = expect_whole(item, chunks)
        parts = item.path.split("/")[1:]
        filesystem, path = locate(artifacts.url(*parts))
        filesystem.create_dir(path.rpartition("/")[0])
        with filesystem.open_output_stream(path, compression=None) as stream:
            for chunk in whole:
                stream.write(chunk)
        if (written := filesystem.get_file_info(path).size) != item.bytes:
            raise OSError(f"{path} has {written or 0:,} bytes after {item.bytes:,} were written")

    def elsewhere(item: Item) -> Iterable[bytes]:
        filesystem, path = locate(_url(source, item))
        with filesystem.open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(8 << 20):
                yield chunk

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        records = f"{ARTIFACTS}/{RECORDS}/"
        list(threads.map(put, (one for one in manifest.below(ARTIFACTS) if not one.path.startswith(records))))


def _put_step_records(settings: Settings, manifest: Manifest, content: Content) -> None:
    move, artifacts = Move(manifest.roots["artifacts"], settings.artifacts), Artifacts(settings.artifacts)
    of_step: dict[str, dict[str, bytes]] = {}
    for item in manifest.below(f"{ARTIFACTS}/{RECORDS}"):
        folder, _, name = item.path.rpartition("/")
        of_step.setdefault(folder, {})[name] = b"".join(expect_whole(item, content.chunks(item)))
    for folder, kept in of_step.items():
        for name, record_ in put_records(kept, settings, move).items():
            artifacts.write_bytes(record_, *folder.split("/")[1:], name)


def _put_databases(settings: Settings, manifest: Manifest, content: Content) -> None:
    move = Move(manifest.roots["artifacts"], settings.artifacts)
    for name in manifest.databases:
        (item,) = (one for one in manifest.items if one.path == name)
        with TemporaryDirectory() as folder:
            copy = Path(folder) / name
            _write(copy, item, content)
            put_database(name, getattr(settings, name), copy)
        move_database(name, getattr(settings, name), move)


def _put_control_store(settings: Settings, manifest: Manifest, content: Content, id: str) -> tuple[str, ...]:
    """The last thing, so that what is half restored has no control store."""
    if anchors := manifest.find(ANCHORS):
        file = Path(settings.audit_anchors)
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, anchors, content)
    store = ControlStore(settings.control_store)
    try:
        files = ((_table(one), b"".join(expect_whole(one, content.chunks(one)))) for one in manifest.below(ROWS))
        fill(store, manifest.schema, files)
        if store.schema().standing() != "current":
            return ()
        with store.transaction() as connection:
            record(connection, RESTORED, SYSTEM, f"backup {id}", payload={"events": manifest.events})
        return end_without_channel(store, SYSTEM)
    finally:
        store.close()


def _table(item: Item) -> str:
    """The table whose rows an item has."""
    named = _ROWS_OF.fullmatch(item.path)
    assert named is not None
    return named["table"]


def _url(source: Artifacts, item: Item) -> str:
    return source.url(*item.path.split("/")[1:])


def _write(file: Path, item: Item, content: Content) -> None:
    with file.open("xb") as stream:
        for chunk in expect_whole(item, content.chunks(item)):
            stream.write(chunk)
