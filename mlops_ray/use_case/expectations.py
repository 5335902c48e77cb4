"""Expectations: what the rows of a source must be like together, beyond what each must be alone."""

from dataclasses import dataclass
from datetime import timedelta

from mlops_ray.errors import UseCaseError


@dataclass(frozen=True)
class Unique:
    """No two rows have the same values in `columns`; rows with a null in one of them are passed over.

    A source's `key` puts rows that share it into quarantine; this fails, and is of any columns.
    """

    columns: tuple[str, ...]


@dataclass(frozen=True)
class NeverFalls:
    """Among rows with the same values in `by` (none: among all), `column` is never less than in a row before it.

    along: by which column rows come one after another; rows that tie there are taken in the order that suits.
    """

    column: str
    along: str
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class References:
    """The values of `columns` occur together in the source `source`, there in the columns `of` (default: of the same
    names). Rows with a null in one of them are passed over."""

    columns: tuple[str, ...]
    source: str
    of: tuple[str, ...] = ()


Check = Unique | NeverFalls | References


@dataclass(frozen=True)
class Expectations:
    """Limits within which a source's rows may go into a snapshot. What is None is not asked.

    Where one is not met the ingest fails, and nothing after it runs; rows, counts and quarantine are there to look at.

    max_age: how long before the snapshot's moment the newest row may have become known (`Source.known_at`).
    min_rows: how many rows must be accepted.
    max_change: by which share of it the number of accepted rows may differ from the snapshot before, which is the last
        of an earlier moment; without one this is not asked.
    max_quarantined: which share of the rows may be refused, 0 to 1.
    max_unreadable_files: how many files may be unreadable, or without a column of the contract. They are set aside and
        named, and the others count; above this number nothing does.
    checks: of columns across rows, whatever files they came in.
    """

    max_age: timedelta | None = None
    min_rows: int | None = None
    max_change: float | None = None
    max_quarantined: float | None = None
    max_unreadable_files: int = 0
    checks: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        if self.max_age is not None and self.max_age < timedelta(0):
            raise UseCaseError(f"Expectations: max_age is {self.max_age}. Give a time of 0 or above.")
        for name, low in (("min_rows", 1), ("max_unreadable_files", 0)):
            if (given := getattr(self, name)) is not None and given < low:
                raise UseCaseError(f"Expectations: {name} is {given}. Give {low} or more.")
        if self.max_change is not None and not self.max_change >= 0:
            raise UseCaseError(
                f"Expectations: max_change is {self.max_change}. Give a share of 0 or above, such as 0.5."
            )
        if self.max_quarantined is not None and not 0 <= self.max_quarantined <= 1:
            raise UseCaseError(f"Expectations: max_quarantined is {self.max_quarantined}. Give a share from 0 to 1.")
