"""Retention: which backups stay, and the content that none of them has any more goes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

import pyarrow.fs as pafs

from mlops_ray.artifacts import locate
from mlops_ray.config import Settings
from mlops_ray.errors import ConfigurationError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.events import Actor, record
from mlops_ray.governance.installation import installation_of
from mlops_ray.governance.leases import holding
from mlops_ray.operations.backup.content import Content
from mlops_ray.operations.backup.create import LEASE
from mlops_ray.operations.backup.place import CONTENT, Place, moment_of, shown

PRUNED = "backup.pruned"


@dataclass(frozen=True)
class Keep:
    """The newest backup of each of the last so many days, weeks (ISO) and months (UTC) that have one; the newest of all
    stays whatever the numbers are."""

    days: int = 14
    weeks: int = 8
    months: int = 12

    def __post_init__(self) -> None:
        if min(self.days, self.weeks, self.months) < 0:
            raise ConfigurationError(
                "How many backups are kept is a number of 0 or more, each for days, weeks, months."
            )


@dataclass(frozen=True)
class Pruned:
    """points: the backups that went. files, bytes: content that no backup has any more."""

    points: tuple[str, ...]
    files: int
    bytes: int


def kept(ids: Iterable[str], keep: Keep) -> list[str]:
    """Of backups those that stay, the oldest first."""
    newest_first = sorted(ids, reverse=True)
    stay = set(newest_first[:1])
    rules: tuple[tuple[int, Callable[[datetime], object]], ...] = (
        (keep.days, lambda moment: moment.date()),
        (keep.weeks, lambda moment: moment.isocalendar()[:2]),
        (keep.months, lambda moment: (moment.year, moment.month)),
    )
    for number, period in rules:
        newest = dict[object, str]()
        for id in newest_first:
            newest.setdefault(period(moment_of(id)), id)
        stay |= set(list(newest.values())[:number])
    return sorted(stay)


def prune(settings: Settings, actor: Actor, place: Place, keep: Keep, waits: bool = False) -> Pruned:
    """Delete the backups that the rule does not keep, then the content that no backup has; killed in it, repeat it.

    Raises ConfigurationError if the place is another installation's, ConflictError while a backup is being made, unless
    it `waits`,
    IntegrityError if the manifest of one that stays cannot be read: nobody knows then what it needs.
    """
    store = ControlStore(settings.control_store)
    try:
        with holding(store, LEASE, waits):
            place.expect_owner(installation_of(store))
            known = place.points()
            stay = kept(known, keep)
            needed = {one.sha256 for id in stay for one in place.manifest(id, settings).items if one.here}
            gone = tuple(id for id in known if id not in stay)
            for id in gone:
                place.delete(id)
            content = Content(place.files)
            unused = [sha256 for sha256 in content.names() if sha256 not in needed]
            freed = sum(content.delete(sha256) for sha256 in unused)
            _remove_partial(place)
        done = Pruned(gone, len(unused), freed)
        if gone and store.schema().standing() == "current":
            payload = {"place": shown(place.root), "backups": list(gone), "bytes": freed}
            with store.transaction() as connection:
                record(connection, PRUNED, actor, f"backups at {shown(place.root)}", payload=payload)
        return done
    finally:
        store.close()


def _remove_partial(place: Place) -> None:
    """What somebody was writing who was killed: only one works with a place at a time."""
    filesystem, root = locate(place.files.url(CONTENT))
    for info in filesystem.get_file_info(pafs.FileSelector(root, allow_not_found=True, recursive=True)):
        if info.type == pafs.FileType.File and info.base_name.startswith("."):
            filesystem.delete_file(info.path)
