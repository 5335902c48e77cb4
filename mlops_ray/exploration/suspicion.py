"""Suspicion: what of a column should be looked at before it is trusted, each with its reason and its number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlops_ray.exploration.compare import distance
from mlops_ray.exploration.profile import ColumnProfile, Profile
from mlops_ray.exploration.relation import Relation

ALONE = 0.85
# One honest column often tells most of a number, as distance does of a journey's time; one that knows the outcome tells
# nearly all of it.
ALONE_OF_NUMBERS = 0.97
MISSING_ALONE = 0.7
# A column is recorded together with the outcome if most rows without an outcome lack it, and hardly any with one does.
_LACKING_WITHOUT, _LACKING_WITH = 0.5, 0.01
_ROWS_WITHOUT = 50
_ROWS = 20
_DRIFT = 0.25

Kind = Literal["constant", "all_distinct", "empty", "mixed", "odd", "leakage", "drift"]


@dataclass(frozen=True)
class Suspicion:
    """A column (or feature view), what is suspected, and the sentence that says why."""

    column: str
    kind: Kind
    reason: str


def of_columns(profile: Profile) -> list[Suspicion]:
    """What each column shows by itself."""
    return [one for column in profile.columns for one in _of_column(column)]


def _of_column(column: ColumnProfile) -> list[Suspicion]:
    found: list[Suspicion] = []
    values = {kind: rows for kind, rows in column.kinds.items() if kind != "null_text"}
    if column.rows >= _ROWS and not column.values:
        found.append(Suspicion(column.name, "empty", f"None of its {column.rows:,} rows has a value."))
    elif column.values >= _ROWS and column.different == 1:
        found.append(Suspicion(column.name, "constant", f"All {column.values:,} values are {shown(_only(column))}."))
    elif column.values >= _ROWS and column.repeated == 0 and column.type in ("integer", "text"):
        what = "are different" if column.different_exact else "are different as far as a sample of 2,048 tells"
        found.append(
            Suspicion(column.name, "all_distinct", f"All {column.values:,} values {what}: an identifier says nothing.")
        )
    plain = {"number" if kind == "integer" else kind for kind in values}
    if len(plain) > 1:
        said = ", ".join(f"{rows:,} {kind}" for kind, rows in sorted(values.items(), key=lambda one: -one[1]))
        found.append(Suspicion(column.name, "mixed", f"Its values are of several kinds: {said}."))
    if column.odd:
        said = ", ".join(f"{rows:,} {what}" for what, rows in column.odd.items())
        found.append(Suspicion(column.name, "odd", f"Some values cannot be used: {said}."))
    return found


def _only(column: ColumnProfile) -> str:
    return column.top[0][0] if column.top else str(column.minimum)


def of_relations(found: Sequence[Relation], numbers: bool = False) -> list[Suspicion]:
    """Columns that alone, or by whether there is a value, say too much of the label. numbers: what labels are."""
    alone = ALONE_OF_NUMBERS if numbers else ALONE
    suspicions = []
    for one in found:
        if one.roc_auc is not None and one.roc_auc > alone:
            what = f"It alone ranks the rows{_of(one)} with a ROC AUC of {one.roc_auc:.3f} (suspicious above {alone:g})"
        elif one.missing_roc_auc is not None and one.missing_roc_auc > MISSING_ALONE:
            what = (
                f"Whether it has a value ranks the rows{_of(one)} with a ROC AUC of {one.missing_roc_auc:.3f} "
                f"(suspicious above {MISSING_ALONE:g})"
            )
        else:
            continue
        suspicions.append(Suspicion(one.column, "leakage", f"{what}: it most likely is known only after the fact."))
    return suspicions


def _of(one: Relation) -> str:
    return f" of {shown(one.group)}, beside all others," if one.group else ""


def recorded_with_outcome(with_outcome: Profile, without: Profile) -> list[Suspicion]:
    """Columns that are missing where the outcome is, and there alone: they are recorded when it is.

    with_outcome, without: of the rows that have a label, and of those that have none.
    """
    suspicions = []
    for column in with_outcome.columns:
        other = without.column(column.name)
        if other is None or other.rows < _ROWS_WITHOUT:
            continue
        if other.missing_share >= _LACKING_WITHOUT and column.missing_share <= _LACKING_WITH:
            reason = (
                f"It is missing in {other.missing_share:.1%} of the {other.rows:,} rows without an outcome and in "
                f"{column.missing_share:.1%} of those with one: it is recorded when the outcome is, after the "
                f"prediction."
            )
            suspicions.append(Suspicion(column.name, "leakage", reason))
    return suspicions


def of_splits(parts: Mapping[str, Profile]) -> list[Suspicion]:
    """Columns whose values are others in a later part than in the first. parts: in order of time."""
    (first, reference), *later = parts.items()
    suspicions = []
    for name, part in later:
        for column in reference.columns:
            other = part.column(column.name)
            found = distance(column, other) if other is not None else None
            if found is not None and found.share > max(_DRIFT, found.chance):
                reason = f"From {first} to {name}, {found.share:.0%} of its values have moved ({found.words})."
                suspicions.append(Suspicion(column.name, "drift", reason))
    return suspicions


def shown(text: str) -> str:
    """A value as it is shown in a sentence."""
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
