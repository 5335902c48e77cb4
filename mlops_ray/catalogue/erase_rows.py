"""Where rows of a person lie below the artifact root: in tables by a column, in raw records by their bytes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.catalogue.files import files_below
from mlops_ray.catalogue.person import Person
from mlops_ray.catalogue.records import FEATURES, TRAINING_SETS
from mlops_ray.features.definitions import Definitions
from mlops_ray.ingestion.judged import FOLDER as JUDGED
from mlops_ray.ingestion.judged import layout_of
from mlops_ray.ingestion.layout import Layout, read_layouts
from mlops_ray.ingestion.quarantine import FOLDER as QUARANTINE
from mlops_ray.ingestion.quarantine import RAW
from mlops_ray.ingestion.snapshot import REPAIRED, SNAPSHOTS

DEFINITIONS = "definitions"
KINDS = (SNAPSHOTS, REPAIRED, QUARANTINE, JUDGED, FEATURES, TRAINING_SETS)
_RAW, _FILE = {RAW, "raw"}, "file"


@dataclass(frozen=True)
class Hit:
    """A file with rows of theirs. kind: the folder below the artifact root."""

    place: tuple[str, ...]
    rows: int

    @property
    def kind(self) -> str:
        return self.place[0]

    @property
    def table(self) -> str:
        """`use_case/digest`, of feature rows `use_case/view/digest`."""
        named = self.place[1:3] if self.kind in (SNAPSHOTS, TRAINING_SETS) else self.place[1:]
        return "/".join(named).removesuffix(".parquet")


@dataclass(frozen=True)
class Hits:
    """without: of which tables no column names the entity, so that rows of theirs are only found through a join."""

    found: tuple[Hit, ...]
    without: tuple[str, ...]

    def rows_of(self, kind: str) -> dict[str, int]:
        """The number of rows by table."""
        total: dict[str, int] = {}
        for hit in self.found:
            if hit.kind == kind:
                total[hit.table] = total.get(hit.table, 0) + hit.rows
        return total


def projects(artifacts: Artifacts) -> dict[str, Definitions]:
    """The definitions of each Feast project that was ever materialized."""
    found = {}
    for entry in artifacts.entries(DEFINITIONS):
        kept = artifacts.read_json(DEFINITIONS, entry.name)
        if kept and "views" in kept:  # else what was read of a repository
            found[entry.name.removesuffix(".json")] = Definitions.from_json(kept)
    return found


def find_rows(artifacts: Artifacts, person: Person) -> Hits:
    """All files with rows of theirs."""
    names, hits, without = _columns_of_views(artifacts, person), list[Hit](), set[str]()
    for kind in KINDS:
        for file in files_below(artifacts, kind):
            if not file.place[-1].endswith(".parquet"):
                continue
            try:
                theirs = _theirs(artifacts, file.place, person, names)
            except FileNotFoundError:  # an ingest ended, or a snapshot was retired, meanwhile
                continue
            if theirs is None and kind != JUDGED:  # whose rows are those of snapshots
                without.add(_called(file.place))
            elif theirs:
                hits.append(Hit(file.place, theirs))
    return Hits(tuple(hits), tuple(sorted(without)))


def erase_hit(artifacts: Artifacts, hit: Hit, person: Person) -> None:
    """Write a file without their rows, under the same name; of what was judged of a raw file delete all."""
    if hit.kind == JUDGED:
        artifacts.delete(*hit.place[:2])
        return
    names = _columns_of_views(artifacts, person)
    frame = artifacts.read_table(*hit.place)
    artifacts.write_table(frame.filter(~_flags(artifacts, frame, hit.place, person, names)), *hit.place)


def raw_file_of(artifacts: Artifacts, hit: Hit) -> str | None:
    """The SHA-256 of the raw file that a judged one was made of."""
    manifest = artifacts.read_json(*hit.place[:2], "manifest.json") or {}
    return manifest.get("file")


def _theirs(artifacts: Artifacts, place: tuple[str, ...], person: Person, names: Mapping[str, set[str]]) -> int | None:
    """How many rows of a file are theirs; None if it has no column that says so."""
    filesystem, path = locate(artifacts.url(*place))
    schema = pq.read_schema(path, filesystem=filesystem)
    columns = [name for name in schema.names if name in _wanted(place, person, names)]
    if not columns:
        return None
    frame = artifacts.read_table(*place, columns=columns)
    return int(_flags(artifacts, frame, place, person, names).sum())


def _flags(
    artifacts: Artifacts,
    frame: pl.DataFrame,
    place: tuple[str, ...],
    person: Person,
    names: Mapping[str, set[str]],
) -> pl.Series:
    wanted = [name for name in frame.columns if name in _wanted(place, person, names)]
    if records := [name for name in wanted if name in _RAW and frame.schema[name] == pl.Binary]:
        layouts = _layouts(artifacts, place)
        files = frame[_FILE] if _FILE in frame.columns else [""] * frame.height
        pairs = zip(frame[records[0]], files, strict=True)
        found = [raw is not None and person.has_record(raw, layouts.get(file)) for raw, file in pairs]
        return pl.Series(found, dtype=pl.Boolean)
    return person.rows(frame, wanted)


def _layouts(artifacts: Artifacts, place: tuple[str, ...]) -> dict[str, Layout]:
    """How records stand in what was refused, by the file that they came from; "" where all came from one."""
    if place[0] == QUARANTINE:
        return read_layouts(artifacts, *place[:-1])
    layout = layout_of(artifacts, place[1])
    return {} if layout is None else {"": layout}


def _wanted(place: tuple[str, ...], person: Person, names: Mapping[str, set[str]]) -> set[str]:
    """The columns of a file by which its rows are somebody's."""
    if place[0] == QUARANTINE:
        return {"raw", _FILE}
    if place[0] == JUDGED:
        return {RAW} if place[-1].startswith("refused") else {person.entity}
    return {person.entity, *(names.get(place[2], ()) if place[0] == FEATURES else ())}


def _columns_of_views(artifacts: Artifacts, person: Person) -> dict[str, set[str]]:
    """For each view the columns of its rows that name the entity."""
    names: dict[str, set[str]] = {}
    for definitions in projects(artifacts).values():
        for view in definitions.views:
            named = {k for k, asked in zip(view.keys, view.asked, strict=True) if person.entity in (k, asked)}
            names.setdefault(view.name, set()).update(view.columns.get(key, key) for key in named)
    return names


def _called(place: tuple[str, ...]) -> str:
    match place:
        case ("snapshots", case, _, source, *_):
            return f"source {source} of {case}"
        case ("repairs", case, source, *_):
            return f"repairs of source {source} of {case}"
        case ("features", case, view, *_):
            return f"feature view {view} of {case}"
        case ("training_sets", case, *_):
            return f"training sets of {case}"
    return f"{place[0]}/{place[1]}"


def texts_naming(artifacts: Artifacts, person: Person) -> Iterator[str]:
    """Other files below the artifact root in which the value stands, which nothing here can change."""
    for file in files_below(artifacts):
        if file.place[-1].endswith(".parquet") or file.place[0] == "ledger":
            continue
        content: Any = artifacts.read_bytes(*file.place)
        if person.is_named_in(content):
            yield "/".join(file.place)
