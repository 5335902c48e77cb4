"""Place: where backups lie, a local folder or an object store.

- `content/<two digits>/<SHA-256>`: each file that any backup has, once;
- `points/<id>/manifest.json`: a backup, written when all its content lies there: without it, there is none. The id is
  the moment and the first digits of the manifest's SHA-256. `manifest.sig` beside it is its signature;
- `damaged/<SHA-256>`: content that was not what its name says any more; no backup has it, and nobody deletes it;
- `owner.json`: the installation whose backups they are: two would delete each other's content;
- `unfinished/<moment>.json`: a backup that is being made, or was killed.
"""

import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.fs as pafs

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError, IntegrityError, UnavailableError
from mlops_ray.operations.backup.manifest import Manifest, digest_of
from mlops_ray.registry.model_signature import SIGNATURE, expect_signature, sign

CONTENT, DAMAGED, _POINTS, _UNFINISHED = "content", "damaged", "points", "unfinished"
_MANIFEST, _SIGNED, _OWNER = "manifest.json", "manifest.sig", "owner.json"
_ID = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{12}")
_TICK = timedelta(microseconds=1)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unfinished:
    """A backup that is no backup: it is being made, or whoever made it was killed."""

    name: str
    begun_at: str
    host: str


class Place:
    """root: an absolute path or URL, as `Artifacts` takes it."""

    def __init__(self, root: str):
        self.root = root
        self.files = Artifacts(root)

    def points(self) -> list[str]:
        """The ids of all backups, the oldest first. Raises UnavailableError if the place cannot be read."""
        try:
            found = [entry.name for entry in self.files.entries(_POINTS) if _ID.fullmatch(entry.name)]
        except OSError as error:
            raise UnavailableError(f"The backups at {shown(self.root)} cannot be read: {error}") from error
        return [id for id in found if _MANIFEST in {entry.name for entry in self.files.entries(_POINTS, id)}]

    def unfinished(self) -> list[Unfinished]:
        found = []
        for entry in self.files.entries(_UNFINISHED):
            told = self._told(_UNFINISHED, entry.name) or {}
            found.append(Unfinished(entry.name, told.get("begun_at", ""), told.get("host", "")))
        return found

    def expect_owner(self, installation: str) -> None:
        """Make the place this installation's, the first time; after that, make sure that it still is.

        installation: its name; empty if it has none yet, and the place is nobody's then.
        Raises ConfigurationError if it is another's.
        """
        told = self._told(_OWNER)
        if told is None and (not installation or self.files.create_bytes(_owner(installation), _OWNER)):
            return
        told = told or self._told(_OWNER) or {}
        if told.get("installation") != installation:
            raise ConfigurationError(
                f"The backups at {shown(self.root)} belong to another installation ({told.get('installation')}, on "
                f"{told.get('host')}), and each would delete what the other needs. Nothing was changed. Give another "
                f"place. If that one is no more, as after a restore from here: `mlops-ray backup create --take-over`."
            )

    def take_over(self, installation: str) -> None:
        """Make the place this installation's, whosever it was."""
        self.files.write_bytes(_owner(installation), _OWNER)
        _logger.info("The backups at %s belong to installation %s from now on", shown(self.root), installation)

    def _told(self, *parts: str) -> dict[str, Any] | None:
        """The JSON object in a file; None for any other content, such as what a full disk left of it."""
        try:
            told = self.files.read_json(*parts)
        except ValueError:
            return None
        except OSError as error:
            raise UnavailableError(f"The backups at {shown(self.root)} cannot be read: {error}") from error
        return told if isinstance(told, dict) else None

    def manifest(self, id: str, settings: Settings) -> Manifest:
        """Of one backup, `latest` for the newest, as it was written, and signed if the settings name a public key.

        Raises ConfigurationError if there is no such backup or its format is another release's, IntegrityError if it
        was changed or its signature does not hold.
        """
        id = self.resolve(id)
        content = self.files.read_bytes(_POINTS, id, _MANIFEST)
        if not digest_of(content).startswith(id.rpartition("-")[2]):
            raise IntegrityError(
                f"The manifest of backup {id} was changed or cut off since it was written: its SHA-256 is "
                f"{digest_of(content)[:12]}…. Use another backup, and find out who can write to {shown(self.root)}."
            )
        self._expect_signed(id, content, settings)
        return Manifest.from_bytes(content, id)

    def resolve(self, id: str) -> str:
        """The id of a backup, by its beginning or `latest`. Raises ConfigurationError unless it is exactly one."""
        known = self.points()
        fitting = known[-1:] if id == "latest" else [one for one in known if id and one.startswith(id)]
        if len(fitting) != 1:
            killed = self.unfinished()
            more = f" {len(killed)} did not finish, and are no backups." if killed else ""
            raise ConfigurationError(
                f"{shown(self.root)} has {'no backup' if not fitting else 'several backups'} {ascii(id)[:60]}; there "
                f"are: {', '.join(known[-5:]) or 'none'}.{more}"
            )
        return fitting[0]

    @contextmanager
    def making(self, moment: datetime) -> Iterator[Callable[[Manifest, Settings], str]]:
        """While a backup is made: what is given writes its manifest, last of all, and returns its id. Ids are in the
        order in which backups are made, also when the clock was set back: then the last one's moment counts on."""
        last = max(map(moment_of, self.points()), default=moment - _TICK)
        if last >= moment:
            _logger.warning("The clock is %s behind the newest backup at %s", last - moment, shown(self.root))
        stamp = f"{max(moment, last + _TICK):%Y%m%dT%H%M%S%fZ}"
        name = f"{stamp}-{os.getpid()}.json"
        for left in self.unfinished():  # only one is made at a time
            self.files.delete(_UNFINISHED, left.name)
        told = {"begun_at": moment.isoformat(), "host": socket.gethostname()}
        self.files.write_bytes(json.dumps(told).encode(), _UNFINISHED, name)

        def finish(manifest: Manifest, settings: Settings) -> str:
            content = manifest.to_bytes()
            id = f"{stamp}-{digest_of(content)[:12]}"
            if signature := _signature(settings, content):
                self.files.write_bytes(signature, _POINTS, id, _SIGNED)
            if isinstance(locate(self.root)[0], pafs.LocalFileSystem):
                os.sync()  # what the manifest names is on the disk before it is
            self.files.write_bytes(content, _POINTS, id, _MANIFEST)
            return id

        try:
            yield finish
        finally:
            self.files.delete(_UNFINISHED, name)

    def delete(self, id: str) -> None:
        """Take a backup away; its content stays. The manifest goes first: without it, it is none."""
        self.files.delete(_POINTS, id, _MANIFEST)
        self.files.delete(_POINTS, id)

    def _expect_signed(self, id: str, content: bytes, settings: Settings) -> None:
        if not settings.model_signing_public_key:
            return
        with TemporaryDirectory() as folder:
            (Path(folder) / _MANIFEST).write_bytes(content)
            try:
                (Path(folder) / SIGNATURE).write_bytes(self.files.read_bytes(_POINTS, id, _SIGNED))
                expect_signature(settings, Path(folder))
            except (FileNotFoundError, IntegrityError):
                raise IntegrityError(
                    f"Backup {id} has no signature that holds for {settings.model_signing_public_key} "
                    f"(model_signing_public_key). It is by another key or was changed; nothing of it is used."
                ) from None


def moment_of(id: str) -> datetime:
    """When a backup was made, by its id."""
    return datetime.strptime(id.partition("-")[0], "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)


def shown(place: str) -> str:
    """A place without the password that a URL may have."""
    scheme, mark, rest = place.partition("://")
    if not mark:
        return place
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _owner(installation: str) -> bytes:
    return json.dumps({"installation": installation, "host": socket.gethostname()}).encode()


def _signature(settings: Settings, content: bytes) -> bytes | None:
    if not settings.model_signing_key:
        return None
    with TemporaryDirectory() as folder:
        (Path(folder) / _MANIFEST).write_bytes(content)
        sign(settings, Path(folder))
        return (Path(folder) / SIGNATURE).read_bytes()
