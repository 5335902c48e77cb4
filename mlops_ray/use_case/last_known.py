"""LastKnown: a repair that takes a missing value from what was last known of the same thing."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class LastKnown:
    """A row without a value in `column` gets that of the row with the same `by` which became known last before it.

    Time is that of `Source.known_at`: a row that became known at the same moment, or later, gives nothing, so that no
    row knows what nobody knew then; nor does a value that was itself filled in. Where several rows of one moment have
    different values nobody knows which is right, and the value stays missing; so it does where a column of `by` is.
    within: how long before a value may have become known; None: any time. All rows of the source that count are looked
    at, whatever files they came in and whenever those were read.
    """

    column: str
    by: tuple[str, ...]
    within: timedelta | None = None
