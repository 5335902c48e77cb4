"""Key: the fewest columns of raw files that tell all their rows apart."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl

from mlops_ray.exploration.profile import ColumnProfile, Profile
from mlops_ray.exploration.raw import read_raw
from mlops_ray.exploration.sketches import Repeats
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.use_case import Source

_SAMPLE_ROWS = 200_000
_MOST_COLUMNS = 5
_MOST_TRIED = 40
# Sketches are off by some 2 %. A name such as `id`, `customer_id`, `orderId`, `Order No`.
_ALMOST_ALL = 0.9
_NAMES_A_THING = re.compile(r"(?:^|[\W_])(?i:id|key|uuid|guid|no|nr|number)\.?$|(?<=[a-z])(?:Id|ID|Key|No|Nr)$")


def find_key(files: Sequence[SourceFile], source: Source, profile: Profile) -> tuple[str, ...]:
    """Columns that tell all rows apart, found on the first files and then looked for in all; none if there are none.

    Measured numbers and columns that can be missing identify nothing. Beyond 2,048 rows, that no two of all rows share
    a key is judged by a sample of 2,048 keys with all their rows.
    """
    fitting = [column for column in profile.columns if _may_identify(column, profile) and source.column(column.name)]
    fitting = sorted(fitting, key=lambda one: _rank(one, profile.rows))[:_MOST_TRIED]
    if not fitting or not profile.rows:
        return ()
    names = [column.name for column in fitting]
    frames, rows = [], 0
    for frame in _frames(files, source):
        frames.append(frame.select(names))
        rows += frame.height
        if rows >= _SAMPLE_ROWS:
            break
    sample = pl.concat(frames).unique(maintain_order=True) if frames else pl.DataFrame()
    found = _smallest(sample, names)
    ordered = tuple(column.name for column in profile.columns if column.name in found)
    return ordered if ordered and _holds(files, source, ordered) else ()


def _may_identify(column: ColumnProfile, profile: Profile) -> bool:
    always_there = column.values == column.rows == profile.rows - profile.malformed
    return always_there and column.type in ("integer", "text", "timestamp", "local_time") and column.different > 1


def _rank(column: ColumnProfile, rows: int) -> tuple[float, bool]:
    """Those with the most values first. Of those that may all have one a row, where counts are estimates, a column that
    is called an identifier before a note, and else the first of the file."""
    return -min(float(column.different), _ALMOST_ALL * rows), _NAMES_A_THING.search(column.name) is None


def _smallest(sample: pl.DataFrame, names: Sequence[str]) -> tuple[str, ...]:
    """Greedy: the column that tells most apart is added until all are, then what is not needed is taken out."""
    chosen: list[str] = []
    while sample.n_unique(chosen or None) < sample.height or not chosen:
        if len(chosen) == _MOST_COLUMNS:
            return ()
        rest = [name for name in names if name not in chosen]
        if not rest:
            return ()
        chosen.append(max(rest, key=lambda name: sample.n_unique([*chosen, name])))
    for name in list(chosen):
        others = [other for other in chosen if other != name]
        if others and sample.n_unique(others) == sample.height:
            chosen = others
    return tuple(chosen)


def _holds(files: Sequence[SourceFile], source: Source, key: Sequence[str]) -> bool:
    """Whether rows that share a key are equal in all columns, so that they are the same row."""
    keys, rows = Repeats(), Repeats()
    for frame in _frames(files, source):
        ones = np.ones(frame.height, np.int64)
        keys.update(frame.select(key).hash_rows(0).to_numpy(), ones)
        rows.update(frame.select(sorted(frame.columns)).hash_rows(0).to_numpy(), ones)
    return keys.repeated == 0 or (keys.exact and rows.exact and keys.different == rows.different)


def _frames(files: Sequence[SourceFile], source: Source) -> Iterator[pl.DataFrame]:
    from dataclasses import replace

    bare = replace(source, columns=(), key=())
    return (raw.frame for file in files for raw in read_raw(file, bare))
