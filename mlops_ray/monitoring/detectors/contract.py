"""What a detector is: a distance between a reference and a window, and where it may be taken."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mlops_ray.monitoring.sketches import Sketch
from mlops_ray.use_case import FeatureKind

Family = Literal["values", "gaps"]
Values = Sequence[Any] | NDArray[Any]


class Detector(Protocol):
    """A distance between two summaries of one column: 0 where they are alike, never below, NaN if one has no values.

    kinds: the kinds of columns it can compare. family: whether it compares the values that are there ("values") or
    what is missing or was never seen ("gaps"); false alarms are shared out between the families.
    It has no threshold of its own: what is normal for a column and a window is learned from the reference period.
    """

    @property
    def name(self) -> str: ...

    @property
    def kinds(self) -> frozenset[FeatureKind]: ...

    @property
    def family(self) -> Family: ...

    def statistic(self, reference: Sketch, window: Sketch) -> float:
        """The distance between two sketches of the same kind, with the same bins or categories."""
        ...

    def exact(self, reference: Values, window: Values) -> float:
        """The distance between all values: numbers with NaN, or texts with None, where missing."""
        ...


@runtime_checkable
class ManyWindows(Protocol):
    """What a detector may have besides: the same distance for many windows at once, where it is learned what is normal.

    A reference is learned from some thousand windows of each column; one at a time they take most of the time.
    """

    def statistics(self, reference: NDArray[Any], windows: NDArray[Any]) -> NDArray[np.float64]:
        """Of counts [windows, cells] of each side, the cells being those of `seasons.cell_counts`; [windows]."""
        ...


class StreamDetector(Protocol):
    """Watches one number after another, such as the errors of predictions in the order of their labels."""

    @property
    def name(self) -> str: ...

    def update(self, values: ArrayLike) -> Iterator[int]:
        """Take `values` [n] in order; yields the index of each value at which a change was found."""
        ...
