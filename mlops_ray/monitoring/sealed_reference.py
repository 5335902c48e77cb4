"""The reference as files of a sealed model: made when it is sealed, read when its predictions are watched.

`monitoring.json` says how the model is watched until somebody sets it otherwise, and `reference.rows` has what another
reference can be made of then.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from mlops_ray.errors import UseCaseError
from mlops_ray.monitoring.answers import EXPECTED, answer_columns
from mlops_ray.monitoring.build_reference import build_reference, chosen_detectors
from mlops_ray.monitoring.detector_contract import accepted_detector
from mlops_ray.monitoring.error_tree import ErrorTree, foretell
from mlops_ray.monitoring.reference import FILES, GIVEN, Reference, without_values
from mlops_ray.monitoring.reference_rows import ROWS_FILE, ReferenceRows
from mlops_ray.registry.model_schema import ModelSchema
from mlops_ray.registry.sealed_model import verified_files
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature, Monitoring, UseCase

DEFINITION_FILE = "monitoring.json"
# Of a column with more values each has too few rows to be judged.
MOST_SLICES = 200


@dataclass(frozen=True)
class SealedReference:
    """What a model was sealed with. importance: see `Watched`. monitoring, rows: None in models of an older release;
    rows also where they were too many to seal."""

    reference: Reference
    importance: dict[str, float] = field(default_factory=dict)
    monitoring: Monitoring | None = None
    rows: bytes | None = None


def reference_files(
    use_case: UseCase,
    schema: ModelSchema,
    time: str,
    seen: pl.DataFrame,
    held_out: pl.DataFrame,
    answer: ArrayLike,
    label: str,
) -> dict[str, bytes]:
    """Build the reference of a model as its use case wants it watched, as the files to seal.

    seen: rows before the test period, with a column for each feature and the moment of the prediction in `time`.
    held_out: rows of the test period with the `answer` to each, and the column `label`. Of a feature that tells of a
    person the ledger has hashes, and it is watched how often there is a value; or nothing, and it is not. Slices of the
    use case that tell of a person are left out. Raises UseCaseError if a slice or a seasonal feature is no column of
    these rows, or monitoring names a slice that tells of a person.
    """
    wanted = use_case.monitoring
    personal = {column.name for column in schema.request_columns if column.personal is not None}
    slices = tuple(name for name in use_case.slices if name not in personal)
    if wanted.slices is not None:
        slices = wanted.slices
        if told := sorted(personal.intersection(slices)):
            raise UseCaseError(
                f"Use case {use_case.name}: monitoring's slice {told[0]} tells of a person, and its values would stand "
                f"in alarms. Leave it out."
            )
    hashed = [one.name for one in schema.features if _personal(schema, one) == "hash"]
    features = [
        Feature(one.name, "category", (GIVEN,)) if one.name in hashed else one
        for one in schema.features
        if _personal(schema, one) != "omit"
    ]
    seen = without_values(seen, hashed)
    names = {feature.name for feature in features}
    unknown = [name for name in slices if name not in held_out.columns]
    unknown += [name for name in wanted.seasonal if name not in names]
    if unknown:
        raise UseCaseError(
            f"Use case {use_case.name}: monitoring names {', '.join(unknown)}, which is no feature that is watched. "
            f"It watches {', '.join(sorted(names))}."
        )
    known = dict.fromkeys((*slices, *_possible_slices(schema, held_out, names)))
    task = schema.task
    answered = held_out.with_columns(
        *answer_columns(np.asarray(answer, dtype=np.float64), task), label=pl.col(label).cast(task.label_type)
    ).sort(time, maintain_order=True)
    foretold = foretell(answered, task, [one for one in features if one.name not in hashed])
    made = [name for name in (*task.ledger_types, EXPECTED) if name in foretold.scored.columns]
    scored = foretold.scored.select(time, *known, "label", *made)
    definition = replace(wanted, slices=tuple(slices))
    _expect_segments(use_case, features, hashed)
    tree = foretold.tree
    reference = wanted_reference(definition, definition.slices or (), seen, time, features, scored, task, tree)
    rows = ReferenceRows.of(seen, time, features, scored, reference)
    content = json.dumps(definition.to_json(), indent=1, sort_keys=True).encode()
    files = reference.to_files() | {DEFINITION_FILE: content}
    return files if rows is None else files | {ROWS_FILE: rows.to_bytes()}


def _expect_segments(use_case: UseCase, features: Sequence[Feature], hashed: Sequence[str]) -> None:
    """Raise UseCaseError for segments by what is no category that is watched by its values, or of no such feature."""
    texts = [feature.name for feature in features if feature.kind == "category" and feature.name not in hashed]
    shown = [feature.name for feature in features if feature.name not in hashed]
    for category, names in use_case.monitoring.segments.items():
        wrong = [category] if category not in texts else [name for name in names if name not in shown]
        if wrong:
            raise UseCaseError(
                f"Use case {use_case.name}: monitoring's segments name {wrong[0]}, which is no "
                f"{'category' if wrong == [category] else 'feature'} that is watched by its values. There are "
                f"{', '.join(sorted(texts if wrong == [category] else shown)) or 'none'}."
            )


def _possible_slices(schema: ModelSchema, held_out: pl.DataFrame, watched: set[str]) -> list[str]:
    """Columns that somebody may want as slices later: categories that are watched, and texts of the request."""
    categories = [feature.name for feature in schema.features if feature.kind == "category" and feature.name in watched]
    categories = [name for name in categories if (column := schema.column_of(name)) is None or not column.personal]
    columns = [one.name for one in schema.request_columns if one.type in ("text", "boolean") and one.personal is None]
    there = [name for name in (*categories, *columns) if name in held_out.columns]
    return [name for name in there if held_out[name].n_unique() <= MOST_SLICES]


def wanted_reference(
    wanted: Monitoring,
    slices: Sequence[str],
    seen: pl.DataFrame,
    time: str,
    features: Sequence[Feature],
    scored: pl.DataFrame,
    task: Task,
    tree: ErrorTree | None,
) -> Reference:
    """Build a reference as monitoring is declared; see `build_reference`."""
    return build_reference(
        seen, time, features, wanted.windows, scored, slices,
        chosen_detectors(*map(accepted_detector, (wanted.number_detector, wanted.category_detector))),
        wanted.seasonal, wanted.false_alarm_days, wanted.domain_classifier, wanted.error_detectors, wanted.segments,
        task, tree,
    )  # fmt: skip


def read_reference(folder: Path, digest: str) -> SealedReference | None:
    """What the predictions of a sealed model are judged by; None if it was sealed without a reference.

    Raises IntegrityError if a file is not what was sealed.
    """
    files = verified_files(folder, digest, (*FILES, DEFINITION_FILE, ROWS_FILE, "evaluation.json"))
    if not set(FILES) <= files.keys():
        return None
    importance = json.loads(files["evaluation.json"]).get("importance", {}).get("features", {})
    definition: dict[str, Any] | None = json.loads(files[DEFINITION_FILE]) if DEFINITION_FILE in files else None
    monitoring = None if definition is None else Monitoring.from_json(definition)
    return SealedReference(Reference.from_files(files), importance, monitoring, files.get(ROWS_FILE))


def _personal(schema: ModelSchema, feature: Feature) -> str | None:
    """What the ledger does with a feature that tells of a person; None for others."""
    column = schema.column_of(feature.name)
    if column is None or column.personal is None:
        return None
    return "omit" if feature.kind == "number" else column.personal
