"""The ledger as it was written, repetitions and all: what is counted by tests that nothing is lost or double."""

import polars as pl

from mlops_ray.artifacts import Artifacts
from mlops_ray.config import Settings
from mlops_ray.predictions.segments import COLUMNS, read_segment, segments


def raw_rows(settings: Settings, use_case: str) -> pl.DataFrame:
    """The rows of all segments, one after another."""
    frames = [read_segment(segment.url) for segment in segments(Artifacts(settings.artifacts), use_case)]
    return pl.concat([pl.DataFrame(schema=COLUMNS), *frames], how="diagonal_relaxed")
