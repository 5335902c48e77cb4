"""Column: one column of a source, and what its values must satisfy."""

from dataclasses import dataclass
from typing import Literal

ColumnType = Literal["text", "integer", "number", "boolean", "timestamp"]


@dataclass(frozen=True)
class Column:
    """One column of a source and what its values must satisfy.

    A value that cannot be read as `type`, is null without `nullable`, or breaks `choices` or `pattern`, puts its row
    into quarantine. A number outside `minimum..maximum` does too, unless `out_of_range="null"` repairs it.
    `outcome` marks what is known only after the fact: such a column can make labels and histories, but is never
    offered to a model as a feature of its own row. `closed` says that the values seen in training are all there are:
    the endpoint refuses any other. `personal` marks what tells of a person: the ledger of predictions leaves the
    column out, or keeps a keyed hash of it, by which equal values still join.
    """

    name: str
    type: ColumnType
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    out_of_range: Literal["quarantine", "null"] = "quarantine"
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    outcome: bool = False
    closed: bool = False
    personal: Literal["omit", "hash"] | None = None
