"""Class values: the names that a label takes, and which of them are too rare for a part of the time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches

import numpy as np
import polars as pl

from mlops_ray.exploration.profile import ColumnProfile
from mlops_ray.exploration.propose import quoted
from mlops_ray.use_case import Column
from mlops_ray.use_case.column import normal_form

# With fewer rows in a part of the time a class can hardly be learned or judged.
FEWEST_ROWS = 10
_ALIKE = 0.75
_MOST_SAID = 5
OTHER = "other"
PARTS = ("training", "validation", "test")


@dataclass(frozen=True)
class Labelled:
    """The label of a sample of rows. rows: `label` and `part` (of the time, by number in PARTS). times: how many rows
    of the files each row of the sample stands for."""

    rows: pl.DataFrame
    times: float

    def rows_by_part(self, names: pl.Expr) -> dict[str, np.ndarray]:
        """How many rows each value of the expression over `label` has in each part, in the files; [3]."""
        found = self.rows.select(names.alias("name"), "part").drop_nulls().group_by("name", "part").len()
        counts: dict[str, np.ndarray] = {}
        for name, part, rows in found.sort("name", "part").iter_rows():
            counts.setdefault(str(name), np.zeros(len(PARTS)))[part] = rows * self.times
        return counts


def labelled(sample: pl.DataFrame, label: str, time: str, split: Mapping[str, timedelta], rows: int) -> Labelled:
    """sample: accepted rows, of `rows` in the files. split: test, gap and validation, counted back from the last."""
    last = sample[time].max()
    test = pl.lit(last) - split["test"]
    moment, chosen_from = pl.col(time), test - split["gap"] - split["validation"]
    before = pl.when(moment >= chosen_from).then(1).otherwise(0)
    part = pl.when(moment >= test).then(2).when(moment < test - split["gap"]).then(before).alias("part")
    return Labelled(sample.select(pl.col(label).alias("label"), part), rows / sample.height)


def values_of(column: Column, seen: ColumnProfile, sample: pl.Series) -> dict[str, str]:
    """Every value of the column that was seen, by the name that it has as a class, most frequent first.

    Of values that no row of the sample has, those among the most frequent of the files.
    """
    counted = sample.drop_nulls().alias("value").value_counts(name="rows")
    values = counted.sort("rows", "value", descending=[True, False])["value"].to_list()
    for text, _ in seen.top:
        if text not in column.nulls and (value := _value(column, text)) is not None:
            values.append(value)
    return {_name(value): str(value) for value in dict.fromkeys(values)}


def _value(column: Column, text: str) -> str | float | None:
    if column.type == "text":
        return normal_form(text, column.text_form) or None
    try:
        return float(text.replace(",", ".")) if column.type == "number" else int(text)
    except ValueError:
        return None


def _name(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def folded(names: Iterable[str]) -> list[str]:
    """The names without upper case, each once."""
    return list(dict.fromkeys(name.lower() for name in names))


@dataclass(frozen=True)
class Rare:
    """Classes with too few rows, and what is proposed: `code` goes behind the expression of the label.

    kept: the classes that are left. replaced: what rare ones become; None for no label. note: what was done, and what
    else could be.
    """

    kept: tuple[str, ...]
    replaced: Mapping[str, str | None]
    code: str
    note: str


def without_rare(names: Sequence[str], by_part: Mapping[str, np.ndarray]) -> Rare:
    """Classes with fewer than FEWEST_ROWS rows in a part of the time become one class where there are several and they
    have enough together, else null. names: in their order."""
    none = np.zeros(len(PARTS))
    rare = [name for name in names if by_part.get(name, none).min() < FEWEST_ROWS]
    if not rare:
        return Rare(tuple(names), {}, "", "")
    together = np.sum([by_part.get(name, none) for name in {*rare, OTHER} if name in rare or name in names], axis=0)
    kept = [name for name in names if name not in rare]
    said = ", ".join(f"{name!r} ({_rows(by_part.get(name, none))}{_like(name, kept)})" for name in rare[:_MOST_SAID])
    said += f" and {len(rare) - _MOST_SAID} more" if len(rare) > _MOST_SAID else ""
    few = f"Too few rows to learn from and to judge by ({FEWEST_ROWS} in each part of the time): {said}."
    merge, drop = (f".replace({{{', '.join(f'{quoted(n)}: {to}' for n in rare)}}})" for to in (quoted(OTHER), "None"))
    if len(rare) > 1 and together.min() >= FEWEST_ROWS:
        note = f"{few} They are one class, {OTHER!r}; to leave them out: {drop}."
        return Rare((*(name for name in kept if name != OTHER), OTHER), dict.fromkeys(rare, OTHER), merge, note)
    note = f"{few} They have no label, so that their rows are left out; to merge: {merge}."
    return Rare(tuple(kept), dict.fromkeys(rare), drop, note)


def _like(name: str, kept: Sequence[str]) -> str:
    """Whether a name may be another one, written wrong."""
    near = get_close_matches(name, kept, n=1, cutoff=_ALIKE)
    return f"; is it {near[0]!r}?" if near else ""


def _rows(by_part: np.ndarray) -> str:
    return ", ".join(f"{rows:,.0f} in {part}" for part, rows in zip(PARTS, by_part, strict=True))
