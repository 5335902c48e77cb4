"""Split: how time is divided into training, validation and test."""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Split:
    """How time is divided, counted back from `as_of`: test, then gap, then validation, and all before is training."""

    test: timedelta = timedelta(days=30)
    gap: timedelta = timedelta(0)
    validation: timedelta = timedelta(days=30)
