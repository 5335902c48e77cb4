"""Split: how time is divided into training, validation and test."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.declared_types import expect_types


@dataclass(frozen=True)
class Split:
    """How time is divided, counted back from `as_of`: test, then gap, then validation, and all before is training."""

    test: timedelta = timedelta(days=30)
    gap: timedelta = timedelta(0)
    validation: timedelta = timedelta(days=30)

    def __post_init__(self) -> None:
        expect_types(self, "Split")
        for name, part in (("test", self.test), ("validation", self.validation)):
            if part <= timedelta(0):
                raise UseCaseError(f"Split: {name} is {part}, so it has no rows. Give a time above 0.")
        if self.gap < timedelta(0):
            raise UseCaseError(f"Split: gap is {self.gap}, so validation would overlap the test. Give 0 or more.")

    def test_start(self, as_of: datetime) -> datetime:
        """Where the test period begins; it ends at `as_of`."""
        return as_of - self.test

    def trained_until(self, as_of: datetime) -> datetime:
        """The end of validation and of the last fit: of what was predicted from then on a model has seen nothing."""
        return self.test_start(as_of) - self.gap
