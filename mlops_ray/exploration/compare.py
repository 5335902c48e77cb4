"""Compare: two tables side by side, from their profiles: schema, volume, and how far each column has moved."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import pi, sqrt
from typing import Any, Literal

import numpy as np

from mlops_ray.exploration.profile import ColumnProfile, Profile
from mlops_ray.show.shown import Shown
from mlops_ray.show.text import printable

Words = Literal["the same", "small", "moderate", "large"]
# Upper ends. PSI's customary 0.1 and 0.25 are about 0.12 and 0.2 of all values in tenths.
_SIZES: tuple[tuple[float, Words], ...] = ((0.03, "the same"), (0.12, "small"), (0.25, "moderate"))
_CELLS = 10


@dataclass(frozen=True)
class Distance:
    """How far a column has moved: the share of values that would have to be others for both to be alike.

    That is the total variation distance over tenths of the reference's numbers, or over its most frequent values with
    the rest as one; missing is a cell, too. words: its size. chance: what two samples of so many rows differ by, at
    most, in 95 of 100 cases if nothing has moved, with the error of the sketches.
    """

    share: float
    chance: float
    words: Words


@dataclass(frozen=True)
class ColumnChange:
    """A column in both. distance: None where their types cannot be compared, or one has no row."""

    column: str
    was: str
    now: str
    missing_was: float
    missing_now: float
    distance: Distance | None


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """Two tables. gone, added: columns that only one has. columns: those of both, those that moved most first."""

    reference: str
    current: str
    rows_was: int
    rows_now: int
    gone: tuple[str, ...]
    added: tuple[str, ...]
    columns: tuple[ColumnChange, ...]

    def sentences(self) -> list[str]:
        """What has changed, the most important first; none where nothing has."""
        return list(_sentences(self))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sentences": self.sentences()}

    @property
    def title(self) -> str:
        return f"{self.current} beside {self.reference}"

    def _html(self) -> str:
        from mlops_ray.exploration.page import comparison_html

        return comparison_html(self)

    def _text(self) -> str:
        said = self.sentences() or ["Nothing that matters has changed."]
        return "\n".join(map(printable, [f"{self.title}: {self.rows_was:,} rows were, {self.rows_now:,} are", *said]))


def compare(reference: Profile, current: Profile) -> Comparison:
    """Hold `current` beside `reference`."""
    was, now = ({column.name: column for column in one.columns} for one in (reference, current))
    changes = [_change(was[name], now[name]) for name in was if name in now]
    return Comparison(
        reference=reference.name,
        current=current.name,
        rows_was=reference.rows,
        rows_now=current.rows,
        gone=tuple(name for name in was if name not in now),
        added=tuple(name for name in now if name not in was),
        columns=tuple(sorted(changes, key=lambda one: (-_moved(one), one.column))),
    )


def distance(reference: ColumnProfile, current: ColumnProfile) -> Distance | None:
    """How far a column has moved; None where one has no row, or they are of different types."""
    if not reference.rows or not current.rows or _family(reference) != _family(current):
        return None
    cells = _cells(reference, current)
    if cells is None:
        return None
    p, q = cells
    share = float(np.abs(p - q).sum() / 2)
    # The mean distance of two samples is at most sqrt(cells / (2 pi) (1/n + 1/m)); it deviates by less than that.
    drawn = sqrt(len(p) / (2 * pi) * (1 / reference.rows + 1 / current.rows))
    chance = 1.5 * drawn + 2 * max(reference.rank_error, current.rank_error)
    words: Words = next((name for limit, name in _SIZES if share <= limit), "large")
    return Distance(share, chance, "the same" if share <= chance else words)


def _cells(reference: ColumnProfile, current: ColumnProfile) -> tuple[Any, Any] | None:
    """The shares of both over the same cells, the last one that of missing values."""
    family = _family(reference)
    if family == "number" and not (reference.top_exact and len(reference.top) == reference.different):
        parts = _tenths(reference.percentiles, current.percentiles)
    elif family == "time":
        return None
    else:
        parts = _values(reference, current)
    if parts is None:
        return None
    return tuple(
        np.append(part * (1 - column.missing_share), column.missing_share)
        for part, column in zip(parts, (reference, current), strict=True)
    )  # type: ignore[return-value]


def _tenths(reference: Sequence[float], current: Sequence[float]) -> tuple[Any, Any] | None:
    if not reference or not current:
        return None
    edges = np.unique(np.array(reference)[_CELLS:-1:_CELLS])
    p, q = (np.diff(_below(part, edges), prepend=0.0, append=1.0) for part in (reference, current))
    return p, q


def _below(percentiles: Sequence[float], edges: Any) -> Any:
    """The shares of values up to each edge: straight lines between percentiles, steps where they are equal."""
    values = np.array(percentiles)
    last = np.searchsorted(values, edges, "right") - 1
    inside = (last >= 0) & (last < len(values) - 1)
    at = np.clip(last, 0, len(values) - 2)
    width = values[at + 1] - values[at]
    part = np.where(inside & (width > 0), (edges - values[at]) / np.where(width > 0, width, 1), 0.0)
    return np.clip((last + part) / (len(values) - 1), 0.0, 1.0)


def _values(reference: ColumnProfile, current: ColumnProfile) -> tuple[Any, Any] | None:
    if not reference.values or not current.values:
        return None
    names = [value for value, _ in reference.top]
    if not names:
        return None  # all different on one side: nothing can be held side by side
    shares = []
    for column in (reference, current):
        top = dict(column.top)
        part = np.array([top.get(name, 0) / column.values for name in names])
        shares.append(np.append(part, max(0.0, 1 - part.sum())))
    return shares[0], shares[1]


def _family(column: ColumnProfile) -> str:
    if column.type in ("integer", "number"):
        return "number"
    return "time" if column.type in ("timestamp", "local_time") else column.type


def _change(was: ColumnProfile, now: ColumnProfile) -> ColumnChange:
    return ColumnChange(was.name, was.type, now.type, was.missing_share, now.missing_share, distance(was, now))


def _moved(change: ColumnChange) -> float:
    return change.distance.share if change.distance else 2.0 if change.was != change.now else 0.0


def _sentences(found: Comparison) -> Any:
    if found.gone:
        yield f"Gone: {', '.join(found.gone)}."
    if found.added:
        yield f"New: {', '.join(found.added)}."
    if found.rows_was != found.rows_now and found.rows_was:
        change = found.rows_now / found.rows_was - 1
        yield f"Rows: {found.rows_now:,} where there were {found.rows_was:,} ({change:+.1%})."
    for one in found.columns:
        if one.was != one.now:
            yield f"{one.column}: its values are {one.now} where they were {one.was}."
        if one.distance is not None and one.distance.words in ("moderate", "large"):
            yield (
                f"{one.column}: {one.distance.share:.0%} of its values have moved, which is {one.distance.words} "
                f"(chance alone: up to {one.distance.chance:.1%})."
            )
        if abs(one.missing_now - one.missing_was) > 0.02:
            yield f"{one.column}: {one.missing_now:.1%} missing where it was {one.missing_was:.1%}."
