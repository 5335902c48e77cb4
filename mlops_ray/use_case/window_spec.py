"""How long a window is, and how windows follow one another."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from mlops_ray.errors import UseCaseError
from mlops_ray.use_case.declared_types import expect_types


@dataclass(frozen=True)
class WindowSpec:
    """Windows of `rows` predictions, or of the time `length`; exactly one of them is given.

    panes: 1 for tumbling windows, which follow one another. With more, windows slide: each begins one pane, a part of
    its length, after the one before. minimum_rows, 1 or more: with fewer rows a window is not judged.
    """

    rows: int | None = None
    length: timedelta | None = None
    panes: int = 1
    minimum_rows: int = 500

    def __post_init__(self) -> None:
        expect_types(self, "WindowSpec")
        if (self.rows is None) == (self.length is None):
            raise UseCaseError("A window has either rows or length. Give exactly one of them.")
        for name, rows in (("rows", self.rows), ("minimum_rows", self.minimum_rows)):
            if rows is not None and rows < 1:
                raise UseCaseError(f"A window cannot have {name}={rows}. Give 1 or more.")
        if self.panes < 1 or (self.rows or self.panes) % self.panes:
            raise UseCaseError(f"Windows of {self.rows} rows cannot be cut into {self.panes} panes of equal size.")
        if self.rows is not None and self.rows < self.minimum_rows:
            raise UseCaseError(f"Windows of {self.rows} rows never reach minimum_rows, {self.minimum_rows}.")
        if self.length is not None and self.length < timedelta(seconds=self.panes):
            raise UseCaseError(f"A pane of {self.length / self.panes} is too short: it must be a second or more.")

    @property
    def name(self) -> str:
        """Such as "5,000 rows" or "7 days, sliding by 1/4"."""
        size = f"{self.rows:,} rows" if self.length is None else _words(self.length)
        return size if self.panes == 1 else f"{size}, sliding by 1/{self.panes}"

    def to_json(self) -> dict[str, Any]:
        length_s = None if self.length is None else self.length.total_seconds()
        return {"rows": self.rows, "length_s": length_s, "panes": self.panes, "minimum_rows": self.minimum_rows}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "WindowSpec":
        length = None if value["length_s"] is None else timedelta(seconds=value["length_s"])
        return cls(value["rows"], length, value["panes"], value["minimum_rows"])


def _words(length: timedelta) -> str:
    for unit, size in (("days", timedelta(days=1)), ("hours", timedelta(hours=1)), ("minutes", timedelta(minutes=1))):
        if length % size == timedelta(0):
            return f"{length // size} {unit}"
    return f"{length.total_seconds():g} seconds"
