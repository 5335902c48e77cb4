"""Changed keys: of which keys a snapshot has other rows than the one that a view's last table was made from.

Snapshots share the tables that have not changed, so that only tables are read which one of both has alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow.parquet as pq

from mlops_ray.artifacts import Artifacts, locate
from mlops_ray.features.part_table import FEATURES
from mlops_ray.ingestion.snapshot import ACCEPTED, SNAPSHOTS, Snapshot

_MADE_OF = "made_of.json"
_FEW = 8  # tables, which are looked at however many there are


@dataclass(frozen=True)
class MadeOf:
    """What a view's last table was made from: the snapshot, with the SHA-256 of its tables by source and name in their
    order; and by what code and declaration. key: that of all its parts."""

    key: str
    made_by: str
    snapshot: str
    tables: Mapping[str, Mapping[str, str]]


def made_of(artifacts: Artifacts, use_case: str, view: str) -> MadeOf | None:
    found = artifacts.read_json(FEATURES, use_case, view, _MADE_OF)
    return None if found is None else MadeOf(**found)


def set_made_of(artifacts: Artifacts, view: str, key: str, made_by: str, snapshot: Snapshot) -> None:
    now = {"key": key, "made_by": made_by, "snapshot": snapshot.digest, "tables": snapshot.parts}
    artifacts.write_json(now, FEATURES, snapshot.use_case, view, _MADE_OF)


def changed_keys(
    artifacts: Artifacts, before: MadeOf, snapshot: Snapshot, by: Sequence[str], schema: pl.Schema
) -> pl.DataFrame | None:
    """The values of `by` of which rows came, went or changed, each once, in columns of these types; None where nobody
    can say, or need not, as most tables are new: a table that every key sees is another one, tables stand in another
    order, or one of before is gone."""
    if not set(before.tables) == set(snapshot.parts) == set(snapshot.counts):
        return None
    found = [pl.DataFrame(schema=pl.Schema({name: schema[name] for name in by}))]
    for source, tables in snapshot.parts.items():
        then, now = list(before.tables[source].values()), list(tables.values())
        if then == now:
            continue
        if [one for one in then if one in set(now)] != [one for one in now if one in set(then)]:
            return None
        gone = [(before.snapshot, name) for name, sha256 in before.tables[source].items() if sha256 not in now]
        new = [(snapshot.digest, name) for name, sha256 in tables.items() if sha256 not in then]
        if len(gone) + len(new) > max(_FEW, len(now) // 2):
            return None
        for digest, name in [*gone, *new]:
            place = (SNAPSHOTS, snapshot.use_case, digest, source, ACCEPTED, name)
            keys = _keys(artifacts, place, by)
            if keys is None or dict(keys.schema) != dict(found[0].schema):
                return None
            found.append(keys)
    return pl.concat(found).unique(maintain_order=True)


def _keys(artifacts: Artifacts, place: tuple[str, ...], by: Sequence[str]) -> pl.DataFrame | None:
    """The keys of a table; None if it is gone, or has not the columns."""
    filesystem, path = locate(artifacts.url(*place))
    try:
        names = pq.read_schema(path, filesystem=filesystem).names
    except FileNotFoundError:
        return None
    return artifacts.read_table(*place, columns=by).unique() if set(by) <= set(names) else None
