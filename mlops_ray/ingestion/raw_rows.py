"""Raw rows: a stretch of a file, of which every line is accounted for."""

from dataclasses import dataclass, field

import polars as pl

from mlops_ray.ingestion.layout import Layout
from mlops_ray.ingestion.records import Records

PLACE = {"line": pl.Int64, "lines": pl.Int64, "raw": pl.Binary}


class UnreadableError(Exception):
    """Why nothing of a file can be read as rows: what follows "File x cannot be read: "."""


@dataclass(frozen=True)
class RawRows:
    """A stretch of a file: the rows that could be split into columns, and those that could not.

    frame: columns of the contract, a row each; text as it stands in CSV, in JSON lines a value's JSON text or null.
    places: of each of these rows `line` (its first, counted from 1; in a Parquet file the row), `lines` (how many; 0
    in a Parquet file) and `raw` (its bytes with the end of the line; of a Parquet row its JSON). malformed: the same of
    the rows that are none. The header's lines and blank ones belong to no row. more: columns of the file that the
    contract does not name. layout: how values stand in the bytes of its records.
    """

    frame: pl.DataFrame
    places: pl.DataFrame
    malformed: pl.DataFrame
    header_lines: int = 0
    blank_lines: int = 0
    more: frozenset[str] = frozenset()
    layout: Layout = field(default_factory=Layout)


def places(records: Records) -> pl.DataFrame:
    """Where records stand, and their bytes."""
    return pl.DataFrame({"line": records.line, "lines": records.lines, "raw": pl.from_arrow(records.raw)}, schema=PLACE)
