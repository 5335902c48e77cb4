"""Page-Hinkley test over a stream."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from river import drift


@dataclass
class PageHinkley:
    """Finds a rise of the mean: an error that grows. Memory and time are constant.

    Page, "Continuous inspection schemes", 1954, section 2; Hinkley, "Inference about the change-point from cumulative
    sum tests", 1971; in river's implementation, with m_t = sum of (x_i - mean_i - delta) and an alarm where m_t less
    its minimum so far is above `threshold`. Deviations: sums do not fade (alpha = 1), and falls are no alarm: with
    river's defaults, fading and two-sided, it fires many times for one shift.
    """

    delta: float = 0.005
    threshold: float = 50.0
    minimum_values: int = 30
    name: str = "page_hinkley"
    _test: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._test = drift.PageHinkley(self.minimum_values, self.delta, self.threshold, alpha=1.0, mode="up")

    def update(self, values: ArrayLike) -> Iterator[int]:
        """Take `values` [n] in order, NaN left out; yields the index of each value at which a change was found."""
        for index, value in enumerate(np.asarray(values, dtype=np.float64).tolist()):
            if value == value:
                self._test.update(value)
                if self._test.drift_detected:
                    yield index
