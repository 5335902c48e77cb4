"""Training sets: one row per thing to predict, with its features as they were known then, and its label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import polars as pl

from mlops_ray.artifacts import Artifacts, digest_rows
from mlops_ray.errors import DataError, UseCaseError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, project_of
from mlops_ray.features.history import join_features
from mlops_ray.features.on_demand import with_on_demand
from mlops_ray.features.transform import FeatureRows, expect_names
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.use_case import Feature, Split, UseCase
from mlops_ray.use_case.user_code import user_code

# Names that begin with __ are no user's.
_TOLD, _TOLD_AT = "__told", "__told_at"


@dataclass(frozen=True)
class TrainingSet:
    """An immutable table under the artifact root, named by the digest of its rows.

    Its columns: the entities, the event time, `event_timestamp` (the moment of prediction, UTC), the features (Float64
    numbers or text categories, null where unknown), `label` (bool) and `label_known_at` (UTC).
    feature_project: the Feast project in which a model that is trained on it finds the same features online;
    feature_rows: the URLs of the rows from which they were taken, by view.
    """

    url: str
    digest: str
    rows: int
    as_of: datetime
    snapshot: str
    feature_service: str | None
    features: tuple[Feature, ...]
    feature_project: str | None = None
    feature_rows: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Parts:
    """The training set divided by prediction time; `train` and `validation` hold only labels known when they end."""

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame


def split_by_time(frame: pl.DataFrame, as_of: datetime, split: Split) -> Parts:
    """Divide `frame` backwards from `as_of`: test, gap, validation, train.

    A label that became known only after its part ended is left out of that part: at that moment nobody had it.
    Raises DataError naming the part that is empty or has only one class.
    """
    inside = parts_of_split(as_of, split)
    ordered = {name: frame.filter(flag).sort(PREDICTION_TIME, maintain_order=True) for name, flag in inside.items()}
    parts = Parts(**ordered)
    for name, part in vars(parts).items():
        if part[LABEL].n_unique() < 2:
            raise DataError(
                f"The {name} period of the split has {part.height} rows with {part[LABEL].n_unique()} of 2 label "
                f"values (as_of {as_of.isoformat()}). Give more data, another as_of or a shorter split."
            )
    return parts


def parts_of_split(as_of: datetime, split: Split) -> dict[str, pl.Expr]:
    """Over the rows of a training set: whether a row belongs to train, to validation, to test; to one at most."""
    test_start, validation_end = split.test_start(as_of), split.trained_until(as_of)
    validation_start = validation_end - split.validation
    return {
        "train": _between(None, validation_start),
        "validation": _between(validation_start, validation_end),
        "test": _between(test_start, as_of),
    }


def _between(start: datetime | None, end: datetime) -> pl.Expr:
    inside = (pl.col(PREDICTION_TIME) < end) & (pl.col(LABEL_KNOWN_AT) <= end)
    return inside if start is None else inside & (pl.col(PREDICTION_TIME) >= start)


def build_training_set(
    use_case: UseCase,
    artifacts: Artifacts,
    definitions: Definitions | None,
    feature_rows: Sequence[FeatureRows],
    snapshot: Snapshot,
    as_of: datetime,
) -> TrainingSet:
    """Join every labelled row with its features as of the moment of its prediction, and write the result.

    definitions: of the use case's feature service, None if it has none. It reads the rows that it is given and neither
    registry nor online store, so that training changes nothing that others read. Rows whose label was not known at
    `as_of` are left out. Raises DataError if no labelled row is left, and UseCaseError where views do not fit.
    """
    if definitions:
        expect_names(use_case, definitions)
    rows = labelled_rows(use_case, rows_with_told(use_case, snapshot.tables(artifacts)), as_of)
    if rows.is_empty():
        raise DataError(
            f"Use case {use_case.name}: no row has a label known at {as_of.isoformat()}. "
            f"Give a later as_of, or check the label's expression."
        )
    urls = {found.view: found.url for found in feature_rows}
    frame = join_features(rows, definitions.views, urls) if definitions else rows
    given = set(rows.columns)
    names = [*use_case.features_of_request(), *(name for name in frame.columns if name not in given)]
    frame = frame.with_columns(pl.col(name).cast(pl.Float64) for name in names if frame.schema[name] != pl.String)
    frame = with_on_demand(frame, use_case.on_demand_features)
    names += use_case.on_demand_features
    digest = digest_rows(frame).hex()
    return TrainingSet(
        url=artifacts.write_table(frame, "training_sets", use_case.name, f"{digest}.parquet"),
        digest=digest,
        rows=frame.height,
        as_of=as_of,
        snapshot=snapshot.digest,
        feature_service=use_case.feature_service,
        features=tuple(Feature(name, "category" if frame.schema[name] == pl.String else "number") for name in names),
        feature_project=project_of(definitions, feature_rows) if definitions else None,
        feature_rows=urls if definitions else {},
    )


def labelled_rows(use_case: UseCase, rows: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    """Entities, request features, moment of prediction and label of the rows whose label was known at `as_of`.

    Raises UseCaseError if the label is no boolean (it is never cast), or an expression fails.
    """
    with user_code(f"Use case {use_case.name}: label {use_case.label.name!r}"):
        label = rows.with_columns(use_case.label.value.alias(LABEL)).select(LABEL)
        value, known_at = _label(use_case, rows.columns, as_of)
        told = rows.with_columns(value.alias(LABEL), known_at.alias(LABEL_KNOWN_AT)).select(LABEL, LABEL_KNOWN_AT)
    if label.schema[LABEL] != pl.Boolean:
        raise UseCaseError(
            f"Use case {use_case.name}: label {use_case.label.name!r} gives a {label.schema[LABEL]} over these rows. "
            f"Write a comparison, such as pl.col('delay') >= 15."
        )
    with user_code(f"Use case {use_case.name}: request features"):
        requests = request_rows(use_case, rows, pl.col(use_case.event_time) - use_case.lead_time)
    labelled = requests.with_columns(told[LABEL], told[LABEL_KNOWN_AT])
    return labelled.filter(pl.col(LABEL).is_not_null() & (pl.col(LABEL_KNOWN_AT) <= as_of))


def is_labelled(use_case: UseCase, columns: Sequence[str], as_of: datetime) -> pl.Expr:
    """Over rows of `rows_with_told`, which have these columns: whether `labelled_rows` keeps a row."""
    value, known_at = _label(use_case, columns, as_of)
    return value.is_not_null() & (known_at <= as_of)


def rows_with_told(use_case: UseCase, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The rows of the main source in their order, with what was told of each where the label is `told` somewhere.

    tables: the snapshot's, by source.
    """
    rows = tables[use_case.main_source]
    if use_case.label.told is None:
        return rows
    keys = [*use_case.entities, use_case.event_time]
    told = tables[use_case.label.told].select(
        *(pl.col(key).cast(rows.schema[key], strict=False) for key in keys),
        pl.col("label").alias(_TOLD),
        pl.col("known_at").alias(_TOLD_AT),
    )
    return rows.join(told.unique(keys, keep="none"), on=keys, how="left", maintain_order="left")


def _label(use_case: UseCase, columns: Sequence[str], as_of: datetime) -> tuple[pl.Expr, pl.Expr]:
    """The label of a row, and when it became known. Where one was told, the one known later counts of those known at
    `as_of`."""
    own, own_at = use_case.label.value, use_case.label.known_at.cast(pl.Datetime("us", "UTC"))
    if _TOLD not in columns:
        return own, own_at
    told_at = pl.col(_TOLD_AT)
    counts = own.is_null() | own_at.is_null() | (own_at > as_of) | (told_at >= own_at)
    is_told = told_at.is_not_null() & (told_at <= as_of) & counts
    return (
        pl.when(is_told).then(pl.col(_TOLD)).otherwise(own),
        pl.when(is_told).then(told_at).otherwise(own_at),
    )


def request_rows(use_case: UseCase, rows: pl.DataFrame, moment: pl.Expr) -> pl.DataFrame:
    """What a request made at `moment` about each row knows: entities, event time and request features."""
    features = {name: e for name, e in use_case.features_of_request().items() if name not in use_case.entities}
    return rows.select(*use_case.entities, use_case.event_time, moment.alias(PREDICTION_TIME), **features)
