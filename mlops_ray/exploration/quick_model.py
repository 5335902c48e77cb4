"""A quick model: what rows are worth to a use case, as what boosted trees learn from them in seconds.

Only request features are used, which need no history: it says which rows are better, not how good the model will be.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mlops_ray.errors import DataError
from mlops_ray.exploration.raw_sample import accepted_rows
from mlops_ray.features.columns import LABEL
from mlops_ray.features.labelled import labelled_rows
from mlops_ray.ingestion.sources import SourceFile
from mlops_ray.use_case import UseCase

ROWS = 20_000  # of a data set are learned from or judged by
_ROUNDS = 40
_EVER = datetime(2199, 1, 1, tzinfo=UTC)


def labelled_sample(use_case: UseCase, files: Sequence[SourceFile]) -> pl.DataFrame:
    """At most `ROWS` labelled rows of raw files of the first source, evenly taken: request features and `label`."""
    rows = accepted_rows(files, use_case.sources[use_case.main_source], ROWS)
    labelled = labelled_rows(use_case, rows, _EVER)
    return labelled.select(*use_case.features_of_request(), LABEL)


def reached(training: Sequence[pl.DataFrame], judged: pl.DataFrame, what: str) -> float:
    """The ROC AUC on `judged` of a model that learned from `training`. Raises DataError if either has one label."""
    rows = pl.concat(training, how="vertical_relaxed")
    for frame, name in ((rows, what), (judged, "the reference")):
        if frame[LABEL].n_unique() < 2:
            raise DataError(f"{name} has {frame.height:,} labelled rows of one kind. A model needs both labels.")
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    codes = _codes(rows)
    model = HistGradientBoostingClassifier(max_iter=_ROUNDS, random_state=0)
    with threadpool_limits(1):  # where others compute as well, threads that wait for each other take ten times as long
        model.fit(_matrix(rows, codes), rows[LABEL].to_numpy())
        probability = model.predict_proba(_matrix(judged, codes))[:, 1]
    return float(roc_auc_score(judged[LABEL].to_numpy(), probability))


def worth(samples: Mapping[str, pl.DataFrame], judged: pl.DataFrame) -> tuple[float, dict[str, float]]:
    """What a model reaches with all samples; and for each, by how much less without it: below 0, it does harm.

    Leave-one-out, the simplest value of data (Ghorbani and Zou, "Data Shapley", 2019, section 2); equal samples hide
    each other.
    """
    whole = reached(list(samples.values()), judged, "all together")
    if len(samples) < 2:
        return whole, {}
    others = {name: [frame for other, frame in samples.items() if other != name] for name in samples}
    return whole, {name: whole - reached(rest, judged, f"all but {name}") for name, rest in others.items()}


def _codes(rows: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Of each text column its values, by how often they have the label, numbered."""
    found = {}
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
