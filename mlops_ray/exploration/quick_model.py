"""A quick model: what rows are worth to a use case, as what boosted trees learn from them in seconds.

Only request features are used, which need no history: it says which rows are better, not how good the model will be.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.exploration.raw_sample import accepted_rows
from mlops_ray.features.columns import LABEL
from mlops_ray.features.labelled import labelled_rows
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.tasks.task import Task
from mlops_ray.use_case import UseCase

ROWS = 20_000  # of a data set are learned from or judged by
_ROUNDS = 40
_EVER = datetime(2199, 1, 1, tzinfo=UTC)


def labelled_sample(use_case: UseCase, files: Sequence[SourceFile]) -> pl.DataFrame:
    """At most `ROWS` labelled rows of raw files of the first source, evenly taken: request features and `label`."""
    rows = accepted_rows(files, use_case.sources[use_case.main_source], ROWS)
    labelled = labelled_rows(use_case, rows, _EVER)
    return labelled.select(*use_case.features_of_request(), LABEL)


def reached(task: Task, training: Sequence[pl.DataFrame], judged: pl.DataFrame, what: str) -> float:
    """The first metric of the task on `judged`, of a model that learned from `training`. Raises DataError if either has
    too few kinds of labels."""
    rows = pl.concat(training, how="vertical_relaxed")
    for frame, name in ((rows, what), (judged, "the reference")):
        if lacking := task.shortfall(task.encoded(frame[LABEL])):
            raise DataError(f"{name} has {lacking}. A model needs all kinds of labels.")
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    labels = task.encoded(rows[LABEL])
    codes = _codes(rows, labels)
    with threadpool_limits(1):  # where others compute as well, threads that wait for each other take ten times as long
        answer = _answers(task, _matrix(rows, codes), labels, _matrix(judged, codes))
    metric, block = next(iter(task.metrics)), np.zeros(len(judged), dtype=np.intp)
    return float(task.values({metric}, task.encoded(judged[LABEL]), answer, block, np.ones((1, 1)))[metric][0])


def _answers(
    task: Task, matrix: NDArray[np.float64], labels: NDArray[Any], asked: NDArray[np.float64]
) -> NDArray[np.float64]:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    if task.label_type.is_numeric():
        numbers = HistGradientBoostingRegressor(max_iter=_ROUNDS, random_state=0)
        return np.asarray(numbers.fit(matrix, labels).predict(asked))
    classes = HistGradientBoostingClassifier(max_iter=_ROUNDS, random_state=0).fit(matrix, labels)
    found: NDArray[np.float64] = classes.predict_proba(asked)
    return found[:, 1] if task.width == 1 else found


def worth(task: Task, samples: Mapping[str, pl.DataFrame], judged: pl.DataFrame) -> tuple[float, dict[str, float]]:
    """What a model reaches with all samples; and for each, by how much it is worse without it: below 0, it does harm.

    Leave-one-out, the simplest value of data (Ghorbani and Zou, "Data Shapley", 2019, section 2); equal samples hide
    each other.
    """
    whole, metric = reached(task, list(samples.values()), judged, "all together"), next(iter(task.metrics.values()))
    if len(samples) < 2:
        return whole, {}
    others = {name: [frame for other, frame in samples.items() if other != name] for name in samples}
    without = {name: reached(task, rest, judged, f"all but {name}") for name, rest in others.items()}
    return whole, {name: metric.gain(whole) - metric.gain(value) for name, value in without.items()}


def _codes(rows: pl.DataFrame, labels: NDArray[Any]) -> dict[str, dict[str, float]]:
    """Of each text column its values, by the mean of their encoded labels, numbered."""
    found, rows = {}, rows.with_columns(pl.Series(LABEL, labels).cast(pl.Float64))
    for name, dtype in rows.schema.items():
        if dtype == pl.String:
            rates = rows.group_by(name).agg(pl.col(LABEL).mean()).drop_nulls().sort(LABEL, name)
            found[name] = {value: float(code) for code, value in enumerate(rates[name])}
    return found


def _matrix(rows: pl.DataFrame, codes: Mapping[str, Mapping[str, float]]) -> NDArray[np.float64]:
    columns = [
        pl.col(name).replace_strict(codes[name], default=None, return_dtype=pl.Float64)
        if name in codes
        else pl.col(name).cast(pl.Float64)
        for name in rows.columns
        if name != LABEL
    ]
    return rows.select(columns).to_numpy()
