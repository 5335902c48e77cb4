"""What Feast's SDK gets for a question: rows that are computed when they are asked for, in the form that is wanted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from mlops_ray.artifacts import locate
from mlops_ray.features.feast import (
    FileSource,
    OnDemandFeatureView,
    RetrievalJob,
    RetrievalMetadata,
    SavedDatasetLocationAlreadyExists,
)

if TYPE_CHECKING:
    import ray.data


@dataclass(frozen=True)
class Answer:
    """Rows of an offline store.

    read: gives them. blocks: gives references to tables of them in Ray's object store, each what the function makes of
    some of the rows; None where there are too few for that.
    """

    read: Callable[[], pl.DataFrame]
    blocks: Callable[[Callable[[pl.DataFrame], pa.Table]], list[Any]] | None = None


class Rows(RetrievalJob):  # type: ignore[misc]
    """An answer as Arrow, pandas, polars or Ray Dataset, or persisted.

    Where Ray is initialised and they are many, a Ray Dataset has the rows in the order of their moments and they do not
    come past the caller; else they have the order of the entity rows.
    """

    def __init__(
        self,
        answer: Answer,
        full_feature_names: bool = False,
        on_demand: Sequence[OnDemandFeatureView] = (),
        metadata: RetrievalMetadata | None = None,
        repo_path: str | None = None,
    ):
        super().__init__()
        self._answer, self._full_feature_names = answer, full_feature_names
        self._on_demand, self._metadata, self._repo_path = list(on_demand), metadata, repo_path

    def to_polars(self) -> pl.DataFrame:
        """As `to_arrow`, for polars."""
        return pl.DataFrame(pl.from_arrow(self.to_arrow()))

    def to_ray_dataset(self) -> "ray.data.Dataset":
        import ray.data

        if self._answer.blocks is None:
            return ray.data.from_arrow(self.to_arrow())
        finish = partial(_finished, self._full_feature_names, self._on_demand, self._metadata)
        return ray.data.from_arrow_refs(self._answer.blocks(finish))

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the rows as Parquet where the storage says: one file, or a folder if its name does not end so.

        Raises SavedDatasetLocationAlreadyExists if something lies there, unless it may be overwritten.
        """
        source = storage.to_data_source()
        url = url_of(source, self._repo_path)
        filesystem, path = locate(url)
        there = filesystem.get_file_info(path).type
        if there != pafs.FileType.NotFound and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=source.path)
        if there == pafs.FileType.Directory:
            filesystem.delete_dir_contents(path)
        if path.endswith(".parquet"):
            filesystem.create_dir(path.rpartition("/")[0], recursive=True)
            pq.write_table(self.to_arrow(), path, filesystem=filesystem, coerce_timestamps="us")
        elif self._answer.blocks is None:
            filesystem.create_dir(path, recursive=True)
            pq.write_table(self.to_arrow(), f"{path}/part-00000.parquet", filesystem=filesystem, coerce_timestamps="us")
        else:
            self.to_ray_dataset().write_parquet(path, filesystem=filesystem)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._answer.read().to_pandas()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._answer.read().to_arrow(compat_level=pl.CompatLevel.oldest())

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata


def url_of(source: FileSource, repo_path: Any) -> str:
    """Where a file source lies: relative paths are below the repository, and an endpoint of S3 is part of the URL."""
    url = str(FileSource.get_uri_for_file_path(repo_path, source.path))
    endpoint = str(getattr(source, "s3_endpoint_override", "") or "")
    if not url.startswith("s3://") or not endpoint or "endpoint_override" in url:
        return url
    scheme, _, host = endpoint.rpartition("://")
    return f"{url}?endpoint_override={host}" + (f"&scheme={scheme}" if scheme else "")


def _finished(
    full_feature_names: bool,
    on_demand: Sequence[OnDemandFeatureView],
    metadata: RetrievalMetadata | None,
    rows: pl.DataFrame,
) -> pa.Table:
    """Some of the rows with what is computed on demand, as Feast computes it."""
    return Rows(Answer(lambda: rows), full_feature_names, on_demand, metadata).to_arrow()
