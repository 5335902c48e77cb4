"""Feature rows: each view's function over the snapshot's tables, one task a view, written by content digest."""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import ray

from mlops_ray.artifacts import Artifacts, digest_rows
from mlops_ray.config import Settings
from mlops_ray.errors import MlopsRayError, UseCaseError
from mlops_ray.features.columns import PREDICTION_TIME
from mlops_ray.ingestion.snapshot import Snapshot
from mlops_ray.use_case import Tables, UseCase


@dataclass(frozen=True)
class FeatureRows:
    """The rows of one feature view: where they lie, the digest of their content, how many they are."""

    view: str
    url: str
    digest: str
    rows: int


def transform(use_case: UseCase, settings: Settings, snapshot: Snapshot) -> list[FeatureRows]:
    """Compute every feature view of the use case.

    Rows without `event_timestamp` are left out. Raises UseCaseError naming the view whose function fails or whose
    rows lack `event_timestamp`.
    """
    task = ray.remote(_transform_view)
    refs = [
        task.remote(use_case.name, view, function, settings, snapshot)
        for view, function in use_case.feature_views.items()
    ]
    results: list[FeatureRows | str] = ray.get(refs)
    if failed := [result for result in results if isinstance(result, str)]:
        raise UseCaseError("\n".join(failed))
    return [result for result in results if isinstance(result, FeatureRows)]


def _transform_view(
    use_case: str, view: str, function: Callable[[Tables], pl.DataFrame], settings: Settings, snapshot: Snapshot
) -> FeatureRows | str:
    """The view's rows, or the sentence that says why there are none."""
    artifacts = Artifacts(settings.artifacts)
    try:
        frame = function(snapshot.tables(artifacts))
        if not isinstance(frame, pl.DataFrame):
            frame = pl.DataFrame(frame)
        if not isinstance(frame.schema.get(PREDICTION_TIME), pl.Datetime):
            raise TypeError(f"its rows have no {PREDICTION_TIME} column with the moment they became known")
    except MlopsRayError:
        raise
    except Exception as error:
        return f"Feature view {view!r}: {type(error).__name__}: {error}"
    rows = frame.drop_nulls(PREDICTION_TIME).with_columns(pl.col(PREDICTION_TIME).cast(pl.Datetime("us", "UTC")))
    digest = digest_rows(rows).hex()
    url = artifacts.write_table(rows, "features", use_case, view, f"{digest}.parquet")
    return FeatureRows(view, url, digest, rows.height)
