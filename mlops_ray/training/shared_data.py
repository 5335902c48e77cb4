"""What all trials of a search read, encoded once."""

from collections.abc import Sequence
from typing import TypeAlias

import polars as pl
import ray

from mlops_ray.errors import MlopsRayError
from mlops_ray.features.columns import LABEL, PREDICTION_TIME
from mlops_ray.features.slices import most_memory
from mlops_ray.features.training_set import TrainingSet, read_split
from mlops_ray.training.encoding import fit_encoder
from mlops_ray.training.weights import weigh
from mlops_ray.training.worker import TrialData
from mlops_ray.use_case import Feature, UseCase

# Of a value of the training set: as a column, as a copy that is filtered and sorted, and in the matrix.
_BYTES_WHILE_ENCODED = 24

SharedData: TypeAlias = "TrialData | ray.ObjectRef[TrialData]"


def rows_looked_at(use_case: UseCase, training_set: TrainingSet) -> int | None:
    """Of training and validation together, how many rows the trials are given: what is declared, and at most what a
    node has memory to encode at once; None: all."""
    declared = use_case.search.rows
    if not training_set.parts:
        return declared
    fitting = most_memory() // _row_bytes(training_set)
    return fitting if min(declared or training_set.rows, training_set.rows) > fitting else declared


def _row_bytes(training_set: TrainingSet) -> int:
    return (len(training_set.features) + 8) * _BYTES_WHILE_ENCODED


def encode_where_it_fits(
    use_case: UseCase, training_set: TrainingSet, rows: int | None
) -> "TrialData | ray.ObjectRef[TrialData]":
    """What all trials read, or a reference to it: a training set of many files does not come past the driver.

    rows: see `rows_looked_at`.
    """
    if not training_set.parts:
        return encode(use_case, training_set, rows)
    # A search that goes on keeps its rows, also where a node has less memory than the one that it began on.
    memory = min((rows or training_set.rows) * _row_bytes(training_set), most_memory())
    reference = ray.remote(encode).options(memory=memory).remote(use_case, training_set, rows)
    try:
        ray.wait([reference], fetch_local=False)
        ray.get(ray.remote(_is_there).remote(reference))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MlopsRayError):
            raise error.cause from None
        raise
    return reference


def encode(use_case: UseCase, training_set: TrainingSet, rows: int | None) -> TrialData:
    wanted, seed = ("train", "validation"), use_case.search.seed
    parts = read_split(training_set, use_case.split, use_case.label.task, wanted, rows, seed)
    return trial_data(use_case, parts["train"], parts["validation"], training_set.features)


def trial_data(
    use_case: UseCase, train: pl.DataFrame, validation: pl.DataFrame, features: Sequence[Feature]
) -> TrialData:
    """The encoder sees the train part only: a category first met in validation is unknown, as it would be later."""
    task = use_case.label.task
    encoder = fit_encoder(train, features, task, use_case.fit.most_levels)
    label = task.encoded(train[LABEL])
    return TrialData(
        encoder,
        encoder.encode_fitted(train, task),
        label,
        encoder.encode(validation),
        task.encoded(validation[LABEL]),
        weigh(use_case.fit, task, label, train[PREDICTION_TIME]),
        use_case.fit,
    )


def _is_there(data: TrialData) -> bool:
    """Asked by a task of its own, so that the driver learns what failed without the data."""
    return len(data.train) > 0
