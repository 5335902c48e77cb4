"""Days: which day a row belongs to, decided here and nowhere else, and the blocks of days that chance is counted by."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

# More of them make an interval no narrower (Student's t at 49 degrees of freedom is 2.01, in the limit 1.96), while
# blocks of several days leave less of what one day does to the next between them.
MOST_BLOCKS = 50


def days_of(moment: pl.Series, zone: str) -> NDArray[np.intp]:
    """The day of each row, as the number of days since 1970 in `zone`, an IANA name: where an evening is one day.

    moment: with a time zone. A day of 23 or 25 hours, where clocks change, is one day.
    """
    local = moment.dt.convert_time_zone(zone).dt.date()
    return local.to_physical().to_numpy().astype(np.intp)


def blocks_of(day: NDArray[np.intp]) -> NDArray[np.intp]:
    """The number, from 0, of each row's block: a day, or where there are more than MOST_BLOCKS some that follow."""
    days, position = np.unique(day, return_inverse=True)
    blocks = min(len(days), MOST_BLOCKS)
    return position * blocks // max(len(days), 1)
