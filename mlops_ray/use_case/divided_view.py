"""DividedView: a function for a feature view, with what its rows depend on, so that it can be run part by part."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import polars as pl

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.source import Tables


@dataclass(frozen=True)
class DividedView:
    """A function from the snapshot's tables to a view's rows, for `UseCase.feature_views`, and how it may be divided.

    Give what is true of it; `looks_back` serves better, as a new day then costs a day.

    looks_back: rows of a moment depend only on rows of sources that became known (`Source.known_at`) in this time
    before it, or at it; sources without `known_at` it always sees whole.
    by: columns of its sources and of its rows: rows that share their values depend on no others. Sources that lack one
    of them it sees whole.

    A function of which neither is true stands in `feature_views` as it is, and is run whole. What is declared is tried
    on a sample: where a part gives another row than the whole does, the run ends and says which.
    """

    function: Callable[[Tables], pl.DataFrame]
    by: tuple[str, ...] = ()
    looks_back: timedelta | None = None

    def __post_init__(self) -> None:
        if not self.by and self.looks_back is None:
            raise UseCaseError(
                "A DividedView says neither by which columns nor how far it looks back. Give by=(…,) or "
                "looks_back=timedelta(…), or the function alone."
            )
        if self.looks_back is not None and self.looks_back < timedelta(0):
            raise UseCaseError(f"A DividedView looks back {self.looks_back}. Give 0 or more.")
        if isinstance(self.by, str):
            raise UseCaseError(f"A DividedView is divided by {self.by!r}, which is no tuple. Write by=({self.by!r},).")

    def __call__(self, tables: Tables) -> pl.DataFrame:
        return self.function(tables)
