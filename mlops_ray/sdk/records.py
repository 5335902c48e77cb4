"""Records of use cases: read where they lie, or from a server that has them."""

from collections.abc import Sequence
from datetime import datetime
from io import BytesIO
from typing import Protocol

import polars as pl

from mlops_ray.client import Client
from mlops_ray.config import Settings
from mlops_ray.governance.control_store import open_store
from mlops_ray.monitoring.show.drift_view import DriftView, drift
from mlops_ray.predictions.reader import Ledger
from mlops_ray.registry.trace import Trace, trace
from mlops_ray.registry.version_list import ListedVersion, newest_versions


class Records(Protocol):
    def versions(self, use_case: str) -> list[ListedVersion]:
        """Newest first."""
        ...

    def lineage(self, of: str) -> Trace: ...
    def drift(self, use_case: str, windows: int) -> DriftView: ...
    def ledger(
        self, use_case: str, start: datetime | None, end: datetime | None, columns: Sequence[str] | None
    ) -> pl.DataFrame: ...


class RecordsHere:
    """Those of settings: files below the artifact root and the control store."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def versions(self, use_case: str) -> list[ListedVersion]:
        store = open_store(self._settings)
        try:
            return newest_versions(self._settings, store, use_case)
        finally:
            store.close()

    def lineage(self, of: str) -> Trace:
        return trace(self._settings, of)

    def drift(self, use_case: str, windows: int) -> DriftView:
        return drift(use_case, self._settings, windows)

    def ledger(
        self, use_case: str, start: datetime | None, end: datetime | None, columns: Sequence[str] | None
    ) -> pl.DataFrame:
        return Ledger(self._settings, use_case).frame(start, end, columns)


class RecordsThere:
    """Those that a server gives to the owner of a key."""

    def __init__(self, client: Client):
        self._client = client

    def versions(self, use_case: str) -> list[ListedVersion]:
        return [ListedVersion.from_json(one) for one in self._client.records.versions(use_case)]

    def lineage(self, of: str) -> Trace:
        return Trace.from_json(self._client.lineage(of))

    def drift(self, use_case: str, windows: int) -> DriftView:
        return DriftView.from_json(self._client.records.windows(use_case, windows))

    def ledger(
        self, use_case: str, start: datetime | None, end: datetime | None, columns: Sequence[str] | None
    ) -> pl.DataFrame:
        parts = self._client.records.ledger(use_case, start, end, columns)
        return pl.concat([pl.read_parquet(BytesIO(part)) for part in parts], how="diagonal_relaxed")
