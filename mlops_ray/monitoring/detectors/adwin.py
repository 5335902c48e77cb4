"""ADWIN: an adaptive window over a stream."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from river import drift


@dataclass
class Adwin:
    """Finds where the mean of a stream of numbers in 0..1 has changed.

    Bifet and Gavaldà, "Learning from time-changing data with adaptive windowing", 2007, algorithm 1 with the bound of
    theorem 3.2 (equation 3.1), in river's implementation. `delta` bounds the chance of a false alarm at each cut that
    is tried, if the values are independent. Deviation: cuts are tried every 32 values.
    """

    delta: float = 0.002
    name: str = "adwin"
    _adwin: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._adwin = drift.ADWIN(delta=self.delta)

    @property
    def estimate(self) -> float:
        """Mean of the values since the last change."""
        return float(self._adwin.estimation)

    def update(self, values: ArrayLike) -> Iterator[int]:
        """Take `values` [n] in order, NaN left out; yields the index of each value at which a change was found."""
        for index, value in enumerate(np.asarray(values, dtype=np.float64).tolist()):
            if value == value:
                self._adwin.update(value)
                if self._adwin.drift_detected:
                    yield index
