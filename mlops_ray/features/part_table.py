"""A view's rows as a table of parts: a folder that is named by the digest of all of them, and what each was made from.

The next table has the parts that did not change, too: on a local disk as the same bytes under another name (a hard
link), in an object store as a copy, so that a folder can be read, and deleted, without a thought of the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import Any, Self

import polars as pl
import pyarrow.fs as pafs

from mlops_ray.artifacts import Artifacts, ContentDigest, locate
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.features.definitions import View
from mlops_ray.features.parts import Part
from mlops_ray.features.stretches import Stretch
from mlops_ray.features.view_rows import digests_of_days, in_order, table_digest

FEATURES, MANIFEST, _NEW, _LAST = "features", "_parts.json", "new", "last.json"
Place = tuple[str, ...]


@dataclass(frozen=True)
class ViewPart:
    """The rows of a view of some days: where they lie (None: there are none), and what they add to the table's digest.

    key: of all that they were made from. unknown, ambiguous: see `transform.FeatureRows`.
    """

    stretch: Stretch
    key: str
    place: Place | None
    content: ContentDigest
    first: datetime | None
    last: datetime | None
    unknown: int = 0
    ambiguous: int = 0

    def to_json(self) -> dict[str, Any]:
        days = [self.stretch.first.isoformat(), self.stretch.end.isoformat()]
        moments = {name: value and value.isoformat() for name, value in (("first", self.first), ("last", self.last))}
        # JSON's readers elsewhere have no integers of 256 bits.
        content = [hex(self.content.total), self.content.rows]
        return asdict(self) | moments | {"stretch": days, "content": content}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        first, end = map(date.fromisoformat, value["stretch"])
        moments = {name: value[name] and datetime.fromisoformat(value[name]) for name in ("first", "last")}
        content = ContentDigest(int(value["content"][0], 16), value["content"][1])
        place = tuple(value["place"]) if value["place"] else None
        return cls(**{**value, **moments, "stretch": Stretch(first, end), "content": content, "place": place})


@dataclass(frozen=True)
class PartTable:
    """A table of parts: its folder, the digest of its rows, and those of its parts that have rows."""

    url: str
    digest: str
    parts: tuple[Part, ...]


def what_rows_depend_on(view: View) -> list[Any]:
    """Of a definition what its rows depend on, as JSON."""
    return [list(view.keys), list(view.types.items()), sorted(view.columns.items()), view.created]


def keep_part(
    artifacts: Artifacts, use_case: str, view: View, stretch: Stretch, key: str, rows: pl.DataFrame, unknown: int
) -> ViewPart:
    """Write the rows of some days where a table will take them from. Made twice, it is the same file."""
    return keep_parts(artifacts, use_case, view, {stretch: key}, rows, unknown)[0]


def keep_parts(
    artifacts: Artifacts,
    use_case: str,
    view: View,
    keys: Mapping[Stretch, str],
    rows: pl.DataFrame,
    unknown: int,
) -> list[ViewPart]:
    """As `keep_part`, a part for each stretch with its key: rows are ordered, and digests made, for all at once. Rows
    of other days are left out. unknown: is told of the first."""
    rows, ambiguous = in_order(view, rows)
    digests, days = digests_of_days(rows), rows[PREDICTION_TIME].dt.date()
    parts = list[ViewPart]()
    for stretch, key in keys.items():
        mine = rows.filter((days >= stretch.first) & (days < stretch.end))
        content = sum((one for day, one in digests.items() if stretch.first <= day < stretch.end), ContentDigest())
        place = None
        if mine.height:
            # Named by its first day, so that names are in the order of time.
            name = f"{stretch.first}-{table_digest(content, mine.schema)[:24]}.parquet"
            place = (FEATURES, use_case, view.name, _NEW, name)
            artifacts.write_table(mine, *place)
        first: Any = mine[PREDICTION_TIME].min()
        last: Any = mine[PREDICTION_TIME].max()
        twice = in_order(view, mine)[1] if ambiguous and len(keys) > 1 else ambiguous
        parts.append(ViewPart(stretch, key, place, content, first, last, 0 if parts else unknown, twice))
    return parts


def merged_part(artifacts: Artifacts, use_case: str, view: View, parts: Sequence[ViewPart], key: str) -> ViewPart:
    """One part of some that follow one another in time."""
    rows = pl.concat([artifacts.read_table(*part.place) for part in parts if part.place])
    stretch = Stretch(parts[0].stretch.first, parts[-1].stretch.end)
    return keep_part(artifacts, use_case, view, stretch, key, rows, sum(part.unknown for part in parts))


def last_parts(artifacts: Artifacts, use_case: str, view: str) -> list[ViewPart]:
    """The parts of the view's last table, whatever they were made from; none if a file of them is gone."""
    pointer = artifacts.read_json(FEATURES, use_case, view, _LAST)
    folder = place_of(use_case, view, pointer["table"]) if pointer else ()
    found = artifacts.read_json(*folder, MANIFEST) if folder else None
    parts = [ViewPart.from_json(one) for one in found["parts"]] if found else []
    there = {entry.name for entry in artifacts.entries(*folder)} if parts else set()
    return parts if all(part.place is None or part.place[-1] in there for part in parts) else []


def write_table_of_parts(
    artifacts: Artifacts, use_case: str, view: str, parts: Sequence[ViewPart], schema: pl.Schema
) -> PartTable:
    """The table of these parts, of which at least one has rows. What it takes of others stays with them."""
    digest = table_digest(sum((part.content for part in parts), ContentDigest()), schema)
    folder = place_of(use_case, view, digest)
    filesystem, path = locate(artifacts.url(*folder))
    if filesystem.get_file_info(path).type == pafs.FileType.File:  # the same rows, when they were few
        artifacts.delete(*folder)
    there = {entry.name for entry in artifacts.entries(*folder)}
    known = artifacts.read_json(*folder, MANIFEST) if MANIFEST in there else None
    placed = [replace(part, place=part.place and (*folder, part.place[-1])) for part in parts]
    names = {part.place[-1] for part in placed if part.place}
    before = [ViewPart.from_json(one) for one in known["parts"]] if known else []
    had = {part.place[-1] for part in before if part.place}
    if had - names and had <= there:
        placed = before  # the same rows, divided otherwise: others may know these files
    else:
        for given, part in zip(parts, placed, strict=True):
            if given.place and part.place and part.place[-1] not in there:
                artifacts.share(given.place, part.place)
        for name in there - names - {MANIFEST}:
            artifacts.delete(*folder, name)
        artifacts.write_json({"parts": [part.to_json() for part in placed]}, *folder, MANIFEST)
    artifacts.write_json({"table": digest}, FEATURES, use_case, view, _LAST)
    for part in parts:
        if part.place and part.place[-2] == _NEW:
            artifacts.delete(*part.place)
    return PartTable(artifacts.url(*folder), digest, tuple(_parts(artifacts, placed)))


def _parts(artifacts: Artifacts, parts: Sequence[ViewPart]) -> list[Part]:
    ordered = sorted(parts, key=lambda part: part.stretch)
    return [
        Part(artifacts.url(*part.place), part.content.rows, part.first, part.last)
        for part in ordered
        if part.place and part.first and part.last
    ]


def place_of(use_case: str, view: str, digest: str) -> Place:
    """Named as the one file of a smaller table is, so that whoever reads it need not know which of both it is."""
    return (FEATURES, use_case, view, f"{digest}.parquet")
