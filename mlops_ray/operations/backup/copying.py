"""Copying: one point of everything, taken while predictions, ingestion and rollouts go on.

What refers is written after what it refers to, everywhere: a sealed model, then MLflow's version of it, then the row of
the control store, then the record of the step. So it is copied the other way round: a copy that began with what refers
holds what a kill at that moment would have left, and each part of the platform can go on from that.

1. the steps' records, the watch of the endpoints, and all manifests (JSON) below the artifacts; the file of anchors;
2. the control store, at one moment (the point); then MLflow's database, Feast's registry, and the online store;
3. the rest of the artifacts, which never changes once it is there, and manifests written since.

Two things move instead, and are followed in the direction in which they move, so that they are met once at least:
predictions go from nodes to segments to the table, labels from small files to large ones. That is why step 3 lists all
files twice, and begins again unless what the first list has is in the second, and no table of the ledger was changed in
between: a file that was replaced in between could be in neither, a manifest in one and what it names in neither. A
prediction that is met twice counts once, as the table knows the segments of its rows.
Whoever deletes for good (`ERASES`) does so out of that order; if anybody did meanwhile, all of it is done anew.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.errors import UnavailableError
from mlops_ray.governance.control_store import ControlStore
from mlops_ray.governance.copied_rows import StoreState, copy_rows
from mlops_ray.operations.backup.content import Content, digest_file
from mlops_ray.operations.backup.databases import copied_databases, copy_database
from mlops_ray.operations.backup.listing import walk
from mlops_ray.operations.backup.manifest import Item
from mlops_ray.operations.backup.step_records import FOLDER as RECORDS
from mlops_ray.operations.backup.step_records import without_places

ERASES = ("data.retired", "data.erased", "ledger.erased", "audit.erased")
ARTIFACTS, ROWS, ANCHORS = "artifacts", "control_store", "audit_anchors.jsonl"
_WATCH = "monitoring"
_FIRST = (RECORDS, _WATCH)  # what refers to the databases, or to the ledger
_MOVES = ("ledger/", "pushes/", f"{_WATCH}/")  # a digest of what is soon merged into other files would name nothing
_LAST = "/last.json"
_LOOKS, _PAUSE_S, _AT_ONCE = 20, 0.5, 8
_RACY_NS = 60_000_000_000  # clocks of storage and database may differ by as much

_File = tuple[str, int, int]


@dataclass(frozen=True)
class Copied:
    """state: of the control store at the point. databases: those that were there."""

    state: StoreState
    databases: Mapping[str, str]
    items: tuple[Item, ...]


class Copying:
    """known: items of earlier backups by path, whose digest counts while size and time of a file are the same.
    since_ns: when the earlier one began; what changed about then is read again. data: False to keep only digests of
    what is no manifest."""

    def __init__(self, settings: Settings, content: Content, known: Mapping[str, Item], since_ns: int, data: bool):
        self._settings, self._content, self._data = settings, content, data
        self._known, self._since_ns = known, since_ns
        self._artifacts = Artifacts(settings.artifacts)

    def copy(self, store: ControlStore) -> Copied:
        """Raises UnavailableError if a database does not answer, or files change faster than they are copied."""
        first = self._referring()
        anchors = self._anchors()
        state, rows = self._control_store(store)
        databases = copied_databases(self._settings)
        copies = [one for name in databases if (one := self._database(name)) is not None]
        kinds = {one.path: databases[one.path] for one in copies}
        return Copied(state, kinds, (*anchors, *rows, *copies, *self._rest(first)))

    def _referring(self) -> dict[str, Item]:
        """What refers, as it stands: the watch, whose commits are soon replaced; then the records of the last steps,
        which name the others; then these, and all manifests."""
        kinds: tuple[Callable[[str], bool], ...] = (
            lambda path: path.endswith(_LAST),
            lambda path: path.endswith(".json") and not path.endswith(_LAST),
        )
        found = self._settled(_WATCH, lambda _: True)
        for kind in kinds:
            found |= self._settled("", kind)
        return found

    def _settled(self, folder: str, wanted: Callable[[str], bool]) -> dict[str, Item]:
        for _ in range(_LOOKS):
            try:
                return {item.path: item for item in self._all(f for f in self._walk(folder) if wanted(f[0]))}
            except FileNotFoundError:
                sleep(_PAUSE_S)
        raise self._too_fast()

    def _rest(self, first: Mapping[str, Item]) -> list[Item]:
        """What is not in `first`, and of `first` what nobody has deleted since."""
        for _ in range(_LOOKS):
            before = self._others()
            try:
                new = self._all(f for f in before if _names_others(f[0]) and f"{ARTIFACTS}/{f[0]}" not in first)
                after = self._others()
                if _is_settled(before, after):
                    there = {f"{ARTIFACTS}/{file[0]}" for file in after}
                    kept = [one for one in first.values() if _is_first(one.path) or one.path in there]
                    return [*kept, *new, *self._all(f for f in after if not _names_others(f[0]))]
            except FileNotFoundError:
                pass
            sleep(_PAUSE_S)
        raise self._too_fast()

    def _others(self) -> list[_File]:
        return [file for file in self._walk() if not _is_first(f"{ARTIFACTS}/{file[0]}")]

    def _walk(self, folder: str = "") -> list[_File]:
        found = walk(self._artifacts.url(folder) if folder else self._artifacts.root)
        return [(f"{folder}/{path}" if folder else path, size, modified_ns) for path, size, modified_ns in found]

    def _all(self, files: Iterable[_File]) -> list[Item]:
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return list(threads.map(self._one, list(files)))

    def _one(self, file: _File) -> Item:
        path, size, modified_ns = file
        named, url = f"{ARTIFACTS}/{path}", self._artifacts.url(*path.split("/"))
        here = self._data or _names_others(path) or path.startswith(_MOVES)
        if (known := self._unchanged(named, size, modified_ns)) and (not here or self._content.has(known)):
            return replace(known, here=here)
        if path.startswith(f"{RECORDS}/"):
            kept = without_places(self._artifacts.read_bytes(*path.split("/")))
            return self._content.add_bytes(named, kept)
        if here:
            return self._content.add_file(named, url, modified_ns)
        return replace(digest_file(named, url, modified_ns), here=False)

    def _unchanged(self, named: str, size: int, modified_ns: int) -> Item | None:
        known = self._known.get(named)
        same = known is not None and (known.bytes, known.modified_ns) == (size, modified_ns)
        return known if same and modified_ns < self._since_ns - _RACY_NS else None

    def _anchors(self) -> list[Item]:
        file = Path(self._settings.audit_anchors)
        return [self._content.add_file(ANCHORS, str(file))] if file.exists() else []

    def _control_store(self, store: ControlStore) -> tuple[StoreState, list[Item]]:
        with TemporaryDirectory() as folder:
            names = list[str]()

            def keep(table: str, number: int, lines: bytes) -> None:
                names.append(f"{len(names):06}-{table}-{number:06}.jsonl")
                (Path(folder) / names[-1]).write_bytes(lines)

            state = copy_rows(store, keep)
            return state, [self._content.add_file(f"{ROWS}/{name}", f"{folder}/{name}") for name in names]

    def _database(self, name: str) -> Item | None:
        with TemporaryDirectory() as folder:
            copy = Path(folder) / name
            if not copy_database(name, getattr(self._settings, name), copy):
                return None
            return self._content.add_file(name, str(copy))

    def _too_fast(self) -> UnavailableError:
        return UnavailableError(
            f"Files below {self._settings.artifacts} are replaced as fast as they are copied. Nothing was backed up. "
            f"Run it again."
        )


def _names_others(path: str) -> bool:
    """Manifests, records, and the log of a table."""
    return path.endswith(".json") or "/_delta_log/" in path


def _is_first(path: str) -> bool:
    return path.startswith(tuple(f"{ARTIFACTS}/{folder}/" for folder in _FIRST))


def _is_settled(before: list[_File], after: list[_File]) -> bool:
    """Whether the second list holds what was there at one moment (see above)."""
    paths = [{path for path, _, _ in files} for files in (before, after)]
    logs = [{path for path in found if "/_delta_log/" in path} for found in paths]
    return paths[0] <= paths[1] and logs[0] == logs[1]
