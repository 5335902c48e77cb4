"""Draft label: of which kind a label is, by its values, and what a use case says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Literal, get_args

import numpy as np
import polars as pl

from mlops_ray.errors import ConfigurationError, nearest
from mlops_ray.exploration.profile import ColumnProfile
from mlops_ray.exploration.propose import quoted
from mlops_ray.exploration.suspicion import shown
from mlops_ray.scaffold.class_values import FEWEST_ROWS, PARTS, Labelled, folded, labelled, values_of, without_rare
from mlops_ray.use_case import Column

Kind = Literal["binary", "multiclass", "regression"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST_CLASSES = 50
# Whole numbers with so few values could be names or amounts.
MOST_CODES = 10
_OF_CLASSES, _OF_NUMBERS = ("LogisticRegression", "GradientBoosting"), ("LinearRegression", "GradientBoosting")
_YES, _NO = {"yes", "y", "true", "t"}, {"no", "n", "false", "f"}
_AS_WHOLE = pl.col("label").cast(pl.Int64).cast(pl.String)
# The mean is moved by few rows where the ends lie so far beyond the middle 98 %.
_FAR_OUT = 10


@dataclass(frozen=True)
class DraftLabel:
    """What is said of a label, as code: `value` the expression, `task` its kind ("" for yes or no).

    column: as the contract is to have it. gate: of quality. notes: what was decided and somebody has to look at.
    """

    column: Column
    value: str
    task: str
    metric: str
    candidates: tuple[str, ...]
    gate: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """What is known of a label before its kind is."""

    column: Column
    profile: ColumnProfile
    labels: Labelled
    values: Mapping[str, str]

    @property
    def of(self) -> str:
        return f"pl.col({quoted(self.column.name)})"


def could_be_names_or_amounts(column: Column, profile: ColumnProfile) -> bool:
    """Whether the values alone do not tell of which kind the label is: a few whole numbers."""
    whole = column.type == "integer" or (column.type == "number" and profile.whole)
    return whole and 2 < profile.different <= MOST_CODES


def draft_label(
    column: Column, profile: ColumnProfile, sample: pl.DataFrame, time: str, split: Mapping[str, timedelta],
    rows: int, wanted: Kind | None, positive: str,
) -> DraftLabel:  # fmt: skip
    """sample: accepted rows, of `rows` in the files; time: their column of moments. wanted, positive: as a person said.

    Raises ConfigurationError where the values are no label, or not of the wanted kind, with the next step.
    """
    values = values_of(column, profile, sample[column.name])
    seen = _Seen(column, profile, labelled(sample, column.name, time, split, rows), values)
    if column.type == "timestamp" or len(values) < 2:
        what = "moments" if column.type == "timestamp" else "one value alone" if values else "no values"
        raise ConfigurationError(f"--label {column.name!r} has {what}: nothing to predict. Take another column.")
    if positive and wanted not in (None, "binary"):
        raise ConfigurationError(f"--positive is of a yes-or-no label, and --task is {wanted}. Leave one of them out.")
    kind = wanted or ("binary" if positive else _kind(seen))
    drafted = {"binary": _binary, "multiclass": _classes, "regression": _number}[kind](seen, positive)
    return replace(drafted, notes=tuple(note for note in (*_missing(seen), *drafted.notes) if note))


def _kind(seen: _Seen) -> Kind:
    column, names = seen.column, seen.values
    if column.type == "boolean" or len(names) == 2:
        return "binary"
    if column.type == "text":
        return "binary" if len(folded(names)) == 2 else "multiclass"
    return "multiclass" if could_be_names_or_amounts(column, seen.profile) else "regression"


def _missing(seen: _Seen) -> list[str]:
    """What is said of rows without a label, or with one that is none."""
    name, notes = seen.column.name, []
    if without := seen.profile.rows - seen.labels.rows["label"].count() * seen.labels.times:
        notes.append(f"{max(1, without):,.0f} rows have no {name}: they are not learned from.")
    if odd := {what: rows for what, rows in seen.profile.odd.items() if what != "nan"}:
        said = ", ".join(f"{rows:,} {what}" for what, rows in odd.items())
        notes.append(f"Some values of {name} cannot be used, so that their rows are quarantined: {said}.")
    return notes


@dataclass(frozen=True)
class _Names:
    """The names of classes: `code` gives them over the files' rows, `expression` over those of `Labelled`."""

    names: list[str]
    code: str
    expression: pl.Expr
    note: str = ""


def _spelled(seen: _Seen) -> _Names:
    """The texts of a label as they are, or where some differ in upper case alone, without it."""
    names, label = list(seen.values), pl.col("label")
    if len(small := folded(names)) == len(names):
        return _Names(names, seen.of, label)
    note = f"{len(names)} spellings of {seen.column.name} are {len(small)} values without upper case."
    return _Names(small, f"{seen.of}.str.to_lowercase()", label.str.to_lowercase(), note)


def _numbered(seen: _Seen) -> _Names:
    """The numbers of a label as names."""
    names = sorted(seen.values, key=lambda name: float(seen.values[name]))
    note = f"{seen.column.name} has {len(names)} numbers, taken for names. Amounts are --task regression."
    if seen.column.type == "number" and seen.profile.whole:
        return _Names(names, f"{seen.of}.cast(pl.Int64).cast(pl.String)", _AS_WHOLE, note)
    return _Names(names, f"{seen.of}.cast(pl.String)", pl.col("label").cast(pl.String), note)


def _binary(seen: _Seen, positive: str) -> DraftLabel:
    label = pl.col("label")
    if seen.column.type == "boolean":
        if positive.lower() in {*_NO, "0"}:
            return _yes_or_no(seen, f"~{seen.of}", ~label)
        if positive and positive.lower() not in {*_YES, "1"}:
            raise ConfigurationError(f"--positive {positive!r} is no value of {seen.column.name}: it is true or false.")
        return _yes_or_no(seen, seen.of, label)
    if seen.column.type == "text":
        found = _spelled(seen)
        positive = positive if positive in found.names else positive.lower()
        chosen, note = _positive(seen, found.names, positive)
        return _yes_or_no(seen, f"{found.code} == {quoted(chosen)}", found.expression == chosen, found.note, note)
    chosen, note = _positive(seen, list(seen.values), positive)
    number = seen.values[chosen]
    return _yes_or_no(seen, f"{seen.of} == {number}", label.cast(pl.String) == number, note)


def _yes_or_no(seen: _Seen, value: str, truth: pl.Expr, *notes: str) -> DraftLabel:
    gate = 'BetterThanBaseline("roc_auc")'
    return DraftLabel(_with_choices(seen), value, "", "roc_auc", _OF_CLASSES, gate, (*notes, _few(seen, truth)))


def _positive(seen: _Seen, names: list[str], wanted: str) -> tuple[str, str]:
    """The value that counts as yes, and what to check about it. names: most frequent first."""
    label = seen.column.name
    if wanted:
        if wanted not in names:
            raise ConfigurationError(f"--positive {wanted!r} is no value of {label}. {nearest(wanted, names)}")
        return wanted, ""
    if len(names) != 2:
        raise ConfigurationError(
            f"--label {label!r} has {len(names)} different values (such as {_some(names)}), and a yes-or-no question "
            f"needs two. Say which value counts as yes (--positive VALUE), or take another --task: "
            f"{', '.join(KINDS[1:])}."
        )
    yes = [name for name in names if name.strip().lower() in _YES]
    chosen = yes[0] if len(yes) == 1 else names[-1]
    why = f"Of {' and '.join(map(shown, names))} the rarer one is predicted: is it {shown(chosen)}?"
    return chosen, "" if yes else why


def _few(seen: _Seen, truth: pl.Expr) -> str:
    """What is said of a label that too few rows of a part of the time have, or have not."""
    found = seen.labels.rows_by_part(truth)
    none = np.zeros(len(PARTS))
    for name, said in (("True", "yes"), ("False", "no")):
        rows = found.get(name, none)
        if rows.min() < FEWEST_ROWS:
            part = PARTS[int(rows.argmin())]
            return (
                f"Only {rows.min():,.0f} rows of the {part} period say {said} to {seen.column.name}: a metric of so "
                f"few says more about chance. Collect more, or make the period longer."
            )
    return ""


def _classes(seen: _Seen, positive: str) -> DraftLabel:
    label = seen.column.name
    if seen.column.type == "boolean" or len(seen.values) < 3:
        raise ConfigurationError(
            f"--label {label!r} has {len(seen.values)} values, and several classes are three or more. Leave --task out."
        )
    found = _spelled(seen) if seen.column.type == "text" else _numbered(seen)
    if len(found.names) > MOST_CLASSES:
        raise ConfigurationError(
            f"--label {label!r} has {len(found.names):,} different values (such as {_some(found.names)}), and a model "
            f"tells at most {MOST_CLASSES} classes apart here. {_if_numbers(seen)}Group them in the files, ask about "
            f"one (--positive VALUE), or take another column."
        )
    rare = without_rare(found.names, seen.labels.rows_by_part(found.expression))
    value, notes = found.code + rare.code, (found.note, rare.note)
    if len(rare.kept) < 2:
        raise ConfigurationError(
            f"--label {label!r} has no two classes with enough rows. {rare.note} Ask about one of them "
            f"(--positive {quoted(found.names[0])}), or collect more."
        )
    if len(rare.kept) == 2:
        chosen, note = _positive(seen, list(rare.kept), "")
        return _yes_or_no(
            seen, f"{value} == {quoted(chosen)}", found.expression.replace(rare.replaced) == chosen, *notes, note
        )
    gate, task = 'BetterThanBaseline("log_loss")', f"MultiClass({quoted(rare.kept)})"
    return DraftLabel(_with_choices(seen), value, task, "log_loss", _OF_CLASSES, gate, notes)


def _some(names: list[str]) -> str:
    return ", ".join(map(shown, names[:5]))


def _if_numbers(seen: _Seen) -> str:
    """What keeps a column of texts from being one of numbers."""
    kinds = seen.profile.kinds
    numbers = sum(kinds.get(kind, 0) for kind in ("integer", "number", "decimal_comma"))
    if not numbers:
        return ""
    words = [name for name in seen.values if not any(map(str.isdigit, name[:1].lstrip("+-")))]
    return f"{kinds.get('text', 0):,} of its values are no numbers ({_some(words)}): are they meant to be? "


def _with_choices(seen: _Seen) -> Column:
    """The column with the values that were seen: a row with a new one is quarantined, and not an unknown class."""
    column = seen.column
    if len(seen.values) > 2 * MOST_CLASSES or column.type == "boolean":
        return column
    if column.type == "text":
        return replace(column, choices=tuple(sorted(seen.values)), pattern=None)
    numbers = [float(value) for value in seen.values.values()]
    return replace(column, minimum=min(numbers), maximum=max(numbers))


def _number(seen: _Seen, positive: str) -> DraftLabel:
    label, profile = seen.column.name, seen.profile
    if seen.column.type not in ("integer", "number"):
        raise ConfigurationError(
            f"--label {label!r} was read as {seen.column.type} (such as {_some(list(seen.values))}), which is no "
            f"number. {_if_numbers(seen)}Mend the files, or leave --task out."
        )
    note, estimand, metric = "", "mean", "root_mean_squared_error"
    if profile.percentiles and profile.maximum is not None and profile.minimum is not None:
        middle = profile.percentiles[99] - profile.percentiles[1]
        if profile.maximum - profile.minimum > _FAR_OUT * middle:
            estimand, metric = "median", "mean_absolute_error"
            note = (
                f"{label} goes from {profile.minimum:g} to {profile.maximum:g}, and 98 % of it from "
                f"{profile.percentiles[1]:g} to {profile.percentiles[99]:g}: the median is predicted, which the ends "
                f"do not move. Are they right?"
            )
    task = f"Regression({'estimand=' + quoted(estimand) if estimand == 'median' else ''})"
    gate = f'BetterThanBaseline("{metric}")'
    return DraftLabel(seen.column, seen.of, task, metric, _OF_NUMBERS, gate, (note,))
