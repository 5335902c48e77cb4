"""Training sets: one row per thing to predict, with its features as they were known then, and its label."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self

import polars as pl
from numpy.typing import NDArray

from mlops_ray.artifacts import Artifacts
from mlops_ray.errors import DataError
from mlops_ray.features.columns import LABEL, LABEL_KNOWN_AT, PREDICTION_TIME
from mlops_ray.features.definitions import Definitions, project_of
from mlops_ray.features.history import sources_of
from mlops_ray.features.parts import Part
from mlops_ray.features.slices import is_small
from mlops_ray.features.spans import MOMENT, batches_between, read_between, rows_in, spans
from mlops_ray.features.training_parts import Labelled, write_parts, write_whole
from mlops_ray.features.transform import FeatureRows, expect_names
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import Feature, Split, UseCase


@dataclass(frozen=True)
class TrainingSet:
    """An immutable table under the artifact root, named by the digest of its rows.

    Its columns: the entities, the event time, `event_timestamp` (the moment of prediction, UTC), the features (Float64
    numbers or text categories, null where unknown), `label` (`Task.label_type`) and `label_known_at` (UTC).
    feature_project: the Feast project in which a model that is trained on it finds the same features online;
    feature_rows: the URLs of the rows from which they were taken, by view. parts: its files in the order of time, in
    the folder `url`, where it is too much for one; else `url` is a file. Within a part, and in one file, rows have the
    order of the main source.
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
    parts: tuple[Part, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values; see `from_json`."""
        parts = [asdict(one) | {end: getattr(one, end).isoformat() for end in ("first", "last")} for one in self.parts]
        return asdict(self) | {"as_of": self.as_of.isoformat(), "parts": parts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        features = tuple(Feature(feature["name"], feature["kind"]) for feature in value["features"])
        parts = tuple(
            Part(**one | {end: datetime.fromisoformat(one[end]) for end in ("first", "last")})
            for one in value.get("parts", ())
        )
        known = {"as_of": datetime.fromisoformat(value["as_of"]), "features": features, "parts": parts}
        return cls(**{**value, **known})

    def in_its_order(self, rows: pl.DataFrame, moment: pl.Expr) -> pl.DataFrame:
        """Rows of the main source in the order in which the training set has them. moment: of prediction."""
        starts = pl.lit(pl.Series([part.first for part in self.parts[1:]], dtype=MOMENT))
        number = starts.search_sorted(moment, side="right")
        return rows.sort(number, maintain_order=True) if self.parts else rows


@dataclass(frozen=True)
class Parts:
    """The training set divided by prediction time; `train` and `validation` hold only labels known when they end."""

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame


def split_by_time(frame: pl.DataFrame, as_of: datetime, split: Split, task: Task) -> Parts:
    """Divide `frame` backwards from `as_of`: test, gap, validation, train.

    A label that became known only after its part ended is left out of that part: at that moment nobody had it.
    Raises DataError naming the part whose labels are too few to learn from or to judge on (`Task.shortfall`).
    """
    inside = parts_of_split(as_of, split)
    ordered = {name: frame.filter(flag).sort(PREDICTION_TIME, maintain_order=True) for name, flag in inside.items()}
    parts = Parts(**ordered)
    for name, part in vars(parts).items():
        expect_labels(task, name, task.encoded(part[LABEL]), as_of)
    return parts


def expect_labels(task: Task, name: str, labels: NDArray[Any], as_of: datetime) -> None:
    """Raise DataError if the labels of a period of the split are too few to learn from or to judge on."""
    if lacking := task.shortfall(labels):
        raise DataError(
            f"The {name} period of the split has {lacking} (as_of {as_of.isoformat()}). Give more data, another as_of "
            f"or a shorter split."
        )


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


def read_split(
    training_set: TrainingSet, split: Split, task: Task, names: Sequence[str], rows: int | None = None, seed: int = 0
) -> dict[str, pl.DataFrame]:
    """As `split_by_time`, of the periods that are named, of which only these are read whole.

    rows: about so many of these, see `read_sample`; None: all. Raises DataError also where a sample has too few labels
    of a period that has enough.
    """
    as_of, inside = training_set.as_of, parts_of_split(training_set.as_of, split)
    start = split.test_start(as_of) if set(names) == {"test"} else None
    end = as_of if "test" in names else split.trained_until(as_of)
    frame = read_sample(training_set, rows, seed, start, end)
    found = {name: frame.filter(inside[name]).sort(PREDICTION_TIME, maintain_order=True) for name in names}
    labels = [PREDICTION_TIME, LABEL, LABEL_KNOWN_AT]
    others = read_between([training_set.url], PREDICTION_TIME, None, as_of, labels)
    whole = {name: others.filter(flag) for name, flag in inside.items()}
    for name, there in whole.items():
        expect_labels(task, name, task.encoded(there[LABEL]), as_of)
    for name, sample in found.items():
        if lacking := task.shortfall(task.encoded(sample[LABEL])):
            raise DataError(
                f"The search looks at a sample of the {whole[name].height:,} rows of the {name} period: {lacking}. "
                f"Give Search(rows=...) more than {rows:,}, or a node more memory if that limits them."
            )
    return found


def read_sample(
    training_set: TrainingSet,
    rows: int | None,
    seed: int = 0,
    since: datetime | None = None,
    before: datetime | None = None,
) -> pl.DataFrame:
    """About so many of the rows with moments of prediction in [since, before), or all: in their order.

    They are chosen by a hash of their places with `seed`, so evenly in time, and the same however files are divided.
    """
    urls = [training_set.url]
    there = rows_in(spans(urls, PREDICTION_TIME), since, before)
    if rows is None or there <= rows:
        return read_between(urls, PREDICTION_TIME, since, before, None)
    limit, passed, chosen = int(rows / there * 2**64), 0, list[pl.DataFrame]()
    for batch in batches_between(urls, PREDICTION_TIME, since, before):
        place = pl.int_range(passed, passed + batch.height, dtype=pl.UInt64)
        chosen.append(batch.filter(place.hash(seed) < pl.lit(limit, pl.UInt64)))
        passed += batch.height
    return pl.concat(chosen)


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
    `as_of` are left out. What is too much for one process is made in slices of time, for which Ray must be initialised
    (`training_parts`). Raises DataError if no labelled row is left, and UseCaseError where views do not fit.
    """
    if definitions:
        expect_names(use_case, definitions)
    urls = {found.view: found.url for found in feature_rows} if definitions else {}
    labelled = Labelled(use_case, artifacts, snapshot, as_of)
    sources = sources_of(definitions.views, urls) if definitions else []
    if is_small(labelled.row_bytes(), sources):
        written = write_whole(labelled, sources)
    else:
        written = write_parts(labelled, sources)
    if not written.rows:
        raise DataError(
            f"Use case {use_case.name}: no row has a label known at {as_of.isoformat()}. "
            f"Give a later as_of, or check the label's expression."
        )
    return TrainingSet(
        url=written.url,
        digest=written.digest,
        rows=written.rows,
        as_of=as_of,
        snapshot=snapshot.digest,
        feature_service=use_case.feature_service,
        features=written.features,
        feature_project=project_of(definitions, feature_rows) if definitions else None,
        feature_rows=urls,
        parts=written.parts,
    )
