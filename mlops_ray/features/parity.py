"""Parity of one view: what was served, beside what its history says of the same keys and moments.

A served value that differs is put down to what would explain it. It is *stale* if the view had these values at an
earlier moment, *missing* if nothing was served where something was known, and *wrong* if the view never had them by
then. Over all rows of a view two causes show: values that are late (or early) by the same time, as a clock that is off
makes them, and values that stand still from one moment on, as a refresh that did not come does.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import polars as pl

from mlops_ray.features.point_in_time import History, join_point_in_time

Outcome = Literal["exact", "stale", "missing", "wrong"]
EXPLAINS = 0.9  # of the rows that have a value, for a cause to be named
MAX_EXAMPLES = 5  # of a view
_ROW, _MOMENT, _SERVED = "__row", "__moment", "__served."
_AT, _NEXT = "__at", "__next"  # when a row of the history became known, and the one after it of the same keys


@dataclass(frozen=True)
class FeatureParity:
    """How many served values of a feature were compared, and what they were. view: None for one of the request."""

    feature: str
    view: str | None
    exact: int = 0
    stale: int = 0
    missing: int = 0
    wrong: int = 0

    @property
    def compared(self) -> int:
        return self.exact + self.stale + self.missing + self.wrong


@dataclass(frozen=True)
class Example:
    """A value that differs. known_at: since when the offline value is known; served_from: since when the served one
    was, None where it never was."""

    feature: str
    outcome: Outcome
    keys: dict[str, Any]
    as_of: datetime
    served: Any
    offline: Any
    known_at: datetime | None = None
    served_from: datetime | None = None


@dataclass(frozen=True)
class ViewParity:
    """cause: the sentence that names what explains most of what differs; None where nothing differs, or no one thing
    explains it."""

    features: tuple[FeatureParity, ...]
    examples: tuple[Example, ...] = ()
    cause: str | None = None


@dataclass(frozen=True)
class _Interval:
    """During which [since, until) the served values of one row were the newest ones. moment: at which it was asked."""

    moment: float
    since: float
    until: float


@dataclass
class _Found:
    counts: dict[str, dict[Outcome, int]]
    examples: list[Example] = field(default_factory=list)
    intervals: list[_Interval] = field(default_factory=list)


def compare_view(view: str, history: History, asked: pl.DataFrame, moment: str, served: pl.DataFrame) -> ViewParity:
    """Compare what was served of a view with its history.

    asked: the columns that `history.keys` names, and the `moment` of each row (UTC). served: in the same order the
    features that were served, of the history's types; null is nothing.
    """
    features = list(served.columns)
    rows = _timed(history)
    wide = replace(history, rows=rows, features=(*features, _AT, _NEXT))
    given = asked.select(*history.keys, pl.col(moment).alias(_MOMENT)).with_row_index(_ROW)
    given = pl.concat([given, served.rename(lambda name: _SERVED + name)], how="horizontal")
    joined = join_point_in_time(given, _MOMENT, [wide])
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(_SERVED + name)) for name in features)
    differing = joined.filter(~same)
    matches = _matches(history, rows, features, differing)
    found = _Found({name: dict.fromkeys(("exact", "stale", "missing", "wrong"), 0) for name in features})
    for row in joined.filter(same).iter_rows(named=True):
        for name in features:
            found.counts[name]["exact"] += 1
        if row[_AT] is not None:
            found.intervals.append(_interval(row[_MOMENT], row[_AT], row[_NEXT]))
    for row in differing.iter_rows(named=True):
        _judge(found, features, list(history.keys), row, matches.get(row[_ROW]))
    return ViewParity(
        tuple(FeatureParity(name, view, **found.counts[name]) for name in features),
        tuple(found.examples[:MAX_EXAMPLES]),
        _cause(view, found),
    )


def _timed(history: History) -> pl.DataFrame:
    """The history's rows with the moment of each, and of the next one of the same keys."""
    keys, time = list(history.keys.values()), history.timestamp
    ordered = history.rows.drop_nulls([*keys, time]).sort(time, maintain_order=True)
    following = pl.col(time).shift(-1)
    return ordered.with_columns(pl.col(time).alias(_AT), (following.over(keys) if keys else following).alias(_NEXT))


def _matches(
    history: History, rows: pl.DataFrame, features: Sequence[str], differing: pl.DataFrame
) -> dict[int, tuple[datetime, datetime | None]]:
    """Of each row that differs, when the view had what was served, as the last time before it was asked, or else the
    first time after: since when, and until when."""
    if differing.is_empty():
        return {}
    served = [_SERVED + name for name in features]
    something = differing.filter(~pl.all_horizontal(pl.col(served).is_null()))
    named = rows.select(*(pl.col(key).alias(column) for column, key in history.keys.items()), *features, _AT, _NEXT)
    asked = something.select(_ROW, _MOMENT, *history.keys, *served)
    both = asked.join(named, on=list(history.keys), how="inner") if history.keys else asked.join(named, how="cross")
    both = both.filter(pl.all_horizontal(pl.col(name).eq_missing(pl.col(_SERVED + name)) for name in features))
    behind = pl.col(_MOMENT) - pl.col(_AT)
    both = both.with_columns((pl.col(_AT) > pl.col(_MOMENT)).alias("ahead"), behind.abs().alias("far"))
    nearest = both.sort("ahead", "far").unique(_ROW, keep="first", maintain_order=True)
    return {row: (since, until) for row, since, until in nearest.select(_ROW, _AT, _NEXT).iter_rows()}


def _judge(
    found: _Found,
    features: Sequence[str],
    keys: Sequence[str],
    row: dict[str, Any],
    match: tuple[datetime, datetime | None] | None,
) -> None:
    since = match[0] if match else None
    if match is not None:
        found.intervals.append(_interval(row[_MOMENT], *match))
    nothing = all(row[_SERVED + name] is None for name in features)
    for name in features:
        served, offline = row[_SERVED + name], row[name]
        outcome: Outcome = "wrong"
        if served == offline:
            outcome = "exact"
        elif nothing:
            outcome = "missing"
        elif since is not None and since <= row[_MOMENT]:
            outcome = "stale"
        elif served is None:
            outcome = "missing"
        found.counts[name][outcome] += 1
        if outcome != "exact":
            asked_for = {key: row[key] for key in keys}
            found.examples.append(Example(name, outcome, asked_for, row[_MOMENT], served, offline, row[_AT], since))


def _cause(view: str, found: _Found) -> str | None:
    total = {outcome: sum(one[outcome] for one in found.counts.values()) for outcome in ("stale", "missing", "wrong")}
    if not any(total.values()):
        return None
    rows = len(found.intervals)
    least = max(2, math.ceil(EXPLAINS * rows))
    late = _most_covered((one.moment - one.until, one.moment - one.since) for one in found.intervals)
    still = _most_covered((one.since, one.until) for one in found.intervals)
    if late and late[0] >= least and late[0] > (still[0] if still else 0) and not late[1] <= 0 <= late[2]:
        word = "late" if late[1] > 0 else "early"
        between = sorted(abs(bound) for bound in late[1:])
        return (
            f"View {view}: {late[0]:,} of {rows:,} rows were served what was known {_span(*between)} "
            f"{'before' if word == 'late' else 'after'} their moment, as if a clock were {word} by that."
        )
    if still and still[0] >= least:
        moment = datetime.fromtimestamp(still[1], UTC)
        return (
            f"View {view}: {still[0]:,} of {rows:,} rows were served what was known at "
            f"{moment.isoformat(timespec='seconds')}, as if it had not been refreshed since."
        )
    worst = max(total, key=lambda outcome: total[outcome])
    what = {
        "wrong": "values that the view never had by then: they are computed otherwise online than offline",
        "missing": "nothing where something was known: it did not come online",
        "stale": "values from before: it was refreshed late",
    }
    return f"View {view}: {total[worst]:,} values differ because what was served is {what[worst]}."


def _most_covered(bounds: Iterable[tuple[float, float]]) -> tuple[int, float, float] | None:
    """The stretch that lies in the most of these intervals: in how many, its beginning and its end."""
    ends = sorted(
        end for low, high in bounds if low <= high for end in ((low, 0, 1), (high, 1, -1))
    )  # at one point, what begins counts before what ends
    covered, best = 0, None
    for position, (point, _, change) in enumerate(ends):
        covered += change
        if change == 1 and (best is None or covered > best[0]):
            best = (covered, point, ends[position + 1][0])
    return best


def _interval(moment: datetime, since: datetime, until: datetime | None) -> _Interval:
    ending = (until or datetime.max.replace(tzinfo=UTC)).timestamp()
    return _Interval(moment.timestamp(), since.timestamp(), ending)


def _span(low_s: float, high_s: float) -> str:
    low, high = (timedelta(seconds=round(seconds)) for seconds in (low_s, high_s))
    return str(low) if low == high else f"{low} to {high}"
