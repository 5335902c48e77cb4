"""The predictions of the ledger with their labels, as a Ray Dataset."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings, settings_from_environment
from mlops_ray.monitoring.quality import join_labels
from mlops_ray.predictions.labels import Labels
from mlops_ray.predictions.reader import Ledger

if TYPE_CHECKING:
    import pyarrow as pa
    import ray


def labelled_predictions(
    use_case: str,
    settings: Settings | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    columns: Sequence[str] | None = None,
) -> "ray.data.Dataset":
    """The predictions answered in `start <= time < end` with `label` and `known_at`, null where none came.

    Each stretch of the ledger reads the labels of its own requests, so nothing is shuffled. columns: of the ledger;
    default all. Labels by keys are found only if the key columns are among them. settings: default from the
    environment.
    """
    settings = settings or settings_from_environment()
    artifacts = settings.artifacts
    wanted = None if columns is None else list(dict.fromkeys(("request_id", "row", *columns)))
    predictions = Ledger(settings, use_case).between(start, end, wanted)

    def join(block: "pa.Table") -> "pa.Table":
        rows = pl.DataFrame(pl.from_arrow(block))
        return join_labels(rows, Labels(Artifacts(artifacts), use_case).of(rows), None).to_arrow()

    return predictions.map_batches(join, batch_format="pyarrow", batch_size=None)
