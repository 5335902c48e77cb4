"""Growing: trees added one after the other, until there are enough, more of them do harm, or the time is up."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

from mlops_ray.use_case import FitBlocks, FitData, FittedModel

Data = TypeVar("Data", bound=FitData | FitBlocks)

_FRACTIONS = (0.25, 0.5, 1.0)
# So many trees without a better answer to the rows that are held out, and no more are added.
PATIENCE = 20


class Growth(Protocol):
    """Trees of one fit."""

    def grow(self, trees: int) -> None:
        """Add trees until there are so many; fewer if the time is up, or if they do harm (see `best`)."""
        ...

    @property
    def trees(self) -> int: ...

    @property
    def best(self) -> int:
        """With how many the answers to the rows that are held out were best; at least 1."""
        ...

    def model(self) -> FittedModel: ...


def grow_in_steps(
    begin: Callable[[Data, Data | None], Growth], data: Data, trees: int
) -> Iterator[tuple[float, FittedModel]]:
    """The steps of a candidate. begin: a growth on some rows that watches others, or none.

    Where rows are held out, how many trees are best is found on them, and the last step is fitted to all rows with so
    many. Out of time, it ends with the trees that there are.
    """
    divided = data.divided()
    growth = begin(*divided) if divided else begin(data, None)
    for fraction in _FRACTIONS:
        wanted = max(1, round(trees * fraction))
        growth.grow(wanted)
        if growth.trees < wanted:
            break
        if fraction < 1:
            yield fraction, growth.model()
    if divided and not data.is_out_of_time():
        again = begin(data, None)
        again.grow(growth.best)
        if again.trees == growth.best:
            growth = again
    yield 1.0, growth.model()
