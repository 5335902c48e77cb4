"""Source: raw files of one kind, as the organisation has them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from mlops_ray.use_case.column import Column

Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Source:
    """Files of one kind, as the organisation has them.

    `path` is a glob below the data folder (CSV, Parquet or JSON lines, told by the ending). `key` names the columns
    that identify a row; of rows with the same key one is kept. `derived` adds columns computed from the accepted
    ones. `known_at` is the moment a row became known; rows known later than `as_of` stay out. Without it a row counts
    as known from the beginning.
    """

    path: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    derived: Mapping[str, pl.Expr] = field(default_factory=dict)
    known_at: pl.Expr | None = None

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)
