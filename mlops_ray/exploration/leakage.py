"""Leakage: what a model would learn from and nobody knows at the moment of a prediction, found before it is trained."""

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import polars as pl

from mlops_ray.errors import UseCaseError, nearest
from mlops_ray.exploration.early_views import early_views
from mlops_ray.exploration.profile import Profile, profile_of
from mlops_ray.exploration.raw_sample import accepted_rows
from mlops_ray.exploration.relation import label_group, middle_of, relations_by_group
from mlops_ray.exploration.suspicion import Suspicion, of_relations, recorded_with_outcome
from mlops_ray.exploration.table_sketch import TableSketch
from mlops_ray.features.columns import LABEL
from mlops_ray.features.labelled import labelled_rows, request_rows
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.use_case import Feature, Tables, UseCase

# Of more rows so many are looked at, evenly: a ROC AUC is off by 0.005 then.
_ROWS = 50_000
_EVER = datetime(2199, 1, 1, tzinfo=UTC)

_logger = logging.getLogger(__name__)


def suspected_leaks(
    use_case: UseCase, tables: Tables, training_set: pl.DataFrame, features: Sequence[Feature]
) -> list[Suspicion]:
    """Every feature and feature view that is suspected to know the outcome, with the reason; each named once.

    tables: of the snapshot that the training set was made from.
    """
    found = [
        *too_good_alone(training_set, [feature.name for feature in features]),
        *_recorded_with_outcome(use_case, tables[use_case.main_source]),
        *early_views(use_case, tables),
    ]
    return list({one.column: one for one in reversed(found)}.values())[::-1]


def suspected_in_files(use_case: UseCase, files: Sequence[SourceFile]) -> list[Suspicion]:
    """The request features that are suspected to know the outcome, before anything is ingested: by a sample of the raw
    files of the first source."""
    rows = accepted_rows(files, use_case.sources[use_case.main_source], _ROWS)
    labelled, names = labelled_rows(use_case, rows, _EVER), list(use_case.features_of_request())
    found = [*too_good_alone(labelled, names), *_recorded_with_outcome(use_case, rows)]
    return list({one.column: one for one in reversed(found)}.values())[::-1]


def expect_no_leak(found: Sequence[Suspicion], waivers: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise UseCaseError naming every suspicion that is not waived, or a waiver of what is neither feature nor view.

    waivers: by name, why somebody found that what is suspected is known in time. known: names of features and views.
    """
    if unknown := [name for name in waivers if name not in known]:
        raise UseCaseError(
            f"leakage_waivers names {unknown[0]!r}, which is neither a feature nor a feature view. "
            f"{nearest(unknown[0], known)}"
        )
    for one in found:
        if one.column in waivers:
            _logger.warning("%s: %s Waived: %s", one.column, one.reason, waivers[one.column])
    left = [one for one in found if one.column not in waivers]
    if left:
        said = " ".join(f"{one.column}: {one.reason}" for one in left)
        example = ", ".join(f"{one.column!r}: 'why'" for one in left)
        raise UseCaseError(
            f"Leakage suspected in {len(left)} of the model's inputs. {said} Take them out or mend their moments; if "
            f"they are known in time, say so: leakage_waivers={{{example}}}."
        )


def too_good_alone(training_set: pl.DataFrame, names: Sequence[str]) -> list[Suspicion]:
    """Columns of a training set that alone say too much of its label, of any kind."""
    label = training_set[LABEL]
    middle = middle_of(label)
    group = training_set.select(label_group(pl.col(LABEL), middle)).to_series()
    rows = training_set.select(names)
    pairs = {
        name: (_profile(rows.filter(group == name)), _profile(rows.filter(group != name)))
        for name in group.drop_nulls().unique().sort(descending=True)
    }
    return of_relations(relations_by_group(pairs), numbers=middle is not None)


def _recorded_with_outcome(use_case: UseCase, rows: pl.DataFrame) -> list[Suspicion]:
    """Request features that the rows without a label lack."""
    requests = request_rows(use_case, rows, pl.col(use_case.event_time))
    names = list(use_case.features_of_request())
    has = rows.select(use_case.label.value.is_not_null().alias(LABEL)).to_series()
    with_outcome, without = (_profile(requests.filter(flag).select(names)) for flag in (has, ~has))
    return recorded_with_outcome(with_outcome, without)


def _profile(frame: pl.DataFrame) -> Profile:
    table = TableSketch()
    table.update(frame.gather_every(1 + frame.height // _ROWS))
    return profile_of("", table)
