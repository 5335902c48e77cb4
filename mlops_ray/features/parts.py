"""Parts: the files of a table that is divided by time."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Part:
    """One file of a table: where it lies, how many rows it has, and the first and last moment among them (UTC).

    A table is its parts in the order of time; no moment lies in two of them.
    """

    url: str
    rows: int
    first: datetime
    last: datetime
